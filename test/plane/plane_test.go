package plane_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/test/cluster"
	"github.com/pintle-lb/pintle/test/plane"
)

// program is the Pintle that the tests run.
var program string

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "echo" {
		n, err := strconv.Atoi(os.Args[2])
		if err == nil {
			err = netlab.RunEcho(context.Background(), byte(n), netlab.EchoPort)
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "pintle-plane-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "pintle")
	build := exec.Command("go", "build", "-o", program, "../../cmd/pintle")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build pintle: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// newPlane makes a control plane that ends with the test.
func newPlane(t *testing.T, o plane.Options) *plane.Plane {
	t.Helper()
	o.Pintle, o.Echo = program, []string{os.Args[0], "echo"}
	p, err := plane.New(t.Context(), o)
	if cannot := errors.Is(err, unix.EPERM) || errors.Is(err, cluster.ErrNoPrograms); cannot && os.Getenv("LAB") != "require" {
		t.Skipf("this test makes a Kubernetes cluster: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for i := 1; i <= p.Len(); i++ {
				t.Logf("n%d:\n%s", i, p.Log(i))
			}
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestFaults(t *testing.T) {
	for _, o := range []plane.Options{{Election: "raft"}, {Election: "lease", Lease: 2 * time.Second}} {
		t.Run(o.Election, func(t *testing.T) {
			p := newPlane(t, o)
			for _, f := range plane.Faults {
				out, err := p.Measure(t.Context(), f)
				if err != nil {
					t.Fatalf("%s: %v", f, err)
				}
				t.Logf("%-17s n%d -> n%d: outage %v, %d lost, %d dual", f, out.From, out.To, out.Outage, out.Lost, out.Dual)
				if out.Dual != 0 {
					t.Errorf("%s: two nodes answered %d times", f, out.Dual)
				}
			}
		})
	}
}
