package manifests

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

var units = map[string]Unit{
	"pintle.service":      {},
	"low-port.service":    {LowPort: true, User: "pintle"},
	"pintle-blue.service": {Instance: "blue", User: "pintle", Binary: "/opt/pintle/bin/pintle"},
}

func TestSystemdUnit(t *testing.T) {
	for name, u := range units {
		t.Run(name, func(t *testing.T) {
			got, err := SystemdUnit(u)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("differs from %s (go test ./manifests -update, and say why):\n%s", file, got)
			}
		})
	}
}

func TestSystemdUnitRefuses(t *testing.T) {
	for name, u := range map[string]Unit{
		"relative binary":     {Binary: "pintle"},
		"space in a path":     {Binary: "/opt/my pintle"},
		"specifier":           {Config: "/etc/%i.yaml"},
		"variable":            {Config: "/etc/$HOME.yaml"},
		"line in a path":      {Config: "/etc/a\nUser=b"},
		"a path up":           {Config: "/etc/../a.yaml"},
		"line in a user":      {User: "root\nAmbientCapabilities=CAP_SYS_ADMIN"},
		"instance with slash": {Instance: "../a"},
		"instance with line":  {Instance: "a\nb"},
	} {
		if out, err := SystemdUnit(u); err == nil {
			t.Errorf("%s: rendered\n%s", name, out)
		}
	}
}

// systemd itself reads the units, with programs and users that exist here.
func TestSystemdAnalyze(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed, so units are only compared with their golden files")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"root", "daemon"} {
		t.Run(user, func(t *testing.T) {
			unit, err := SystemdUnit(Unit{Binary: self, User: user})
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "pintle.service")
			if err := os.WriteFile(file, unit, 0o644); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(analyze, "verify", "--man=no", file).CombinedOutput()
			if err != nil || strings.Contains(string(out), "pintle.service") {
				t.Errorf("systemd-analyze verify: %v\n%s", err, out)
			}
		})
	}
}
