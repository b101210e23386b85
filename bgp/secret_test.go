package bgp

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadPassword(t *testing.T) {
	tests := []struct{ name, file, want, err string }{
		{"a line", "secret\n", "secret", ""},
		{"no newline", "secret", "secret", ""},
		{"more lines", "secret\nother\n", "secret", ""},
		{"of another system", "secret\r\n", "secret", ""},
		{"spaces count", " a b \n", " a b ", ""},
		{"80 bytes", strings.Repeat("x", 80) + "\n", strings.Repeat("x", 80), ""},
		{"81 bytes", strings.Repeat("x", 81) + "\n", "", "longer than 80 bytes"},
		{"no secret at all", strings.Repeat("x", 1<<20), "", "longer than 80 bytes"},
		{"empty", "", "", "is empty"},
		{"empty line", "\nsecret\n", "", "the first line of"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "password")
			if err := os.WriteFile(file, []byte(tt.file), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := readPassword(file)
			if string(got) != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q, %v, want %q, %s", got, err, tt.want, tt.err)
			}
			if err == nil {
				return
			}
			if text := strings.ReplaceAll(err.Error(), file, ""); strings.Contains(text, "secret") || strings.Contains(text, "xxx") {
				t.Errorf("the error shows what is in the file: %v", err)
			}
		})
	}
	if _, err := readPassword(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestExposed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	for mode, want := range map[os.FileMode]bool{0o600: false, 0o640: false, 0o644: true} {
		if err := os.WriteFile(file, nil, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		if got := exposed(file); got != want {
			t.Errorf("exposed with mode %o: %v, want %v", mode, got, want)
		}
	}
}
