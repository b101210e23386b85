package node_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pintle-lb/pintle/internal/demo"
)

// TestFaults does every fault of the demo to the real thing.
func TestFaults(t *testing.T) {
	t.Setenv("PINTLE_NETLAB_ENTERED", "1") // the demo must not start this test again in other namespaces
	var out bytes.Buffer
	dir := t.TempDir()
	err := demo.Run(t.Context(), demo.Options{Faults: demo.Faults(), JSON: true, Out: &out, Exe: pintle, Dir: dir})
	if errors.Is(err, unix.EPERM) && os.Getenv("LAB") != "require" {
		t.Skipf("this test makes network namespaces: %v", err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != len(demo.Faults())+1 {
		t.Fatalf("%d lines for %d faults\n%s", len(lines), len(demo.Faults()), out.String())
	}
	for i, line := range lines[:len(lines)-1] {
		var r demo.Result
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		t.Log(line)
		if r.Fault != demo.Faults()[i] || r.Dual != 0 || r.To == "" {
			t.Errorf("%+v", r)
		}
	}
}
