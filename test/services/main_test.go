package services_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pintle-lb/pintle/test/cluster"
	"github.com/pintle-lb/pintle/test/services"
)

// wait is for what takes seconds, on a machine that is as busy as can be.
const wait = 2 * time.Minute

// scratch is a folder of the tests.
var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "pintle-services-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(scratch)
	os.Exit(code)
}

// program is the Pintle that the tests run, and next one of another version.
var (
	program = sync.OnceValues(func() (string, error) { return build("test") })
	next    = sync.OnceValues(func() (string, error) { return build("next") })
)

func build(version string) (string, error) {
	file := filepath.Join(scratch, "pintle-"+version)
	cmd := exec.Command("go", "build", "-ldflags", "-X main.version="+version, "-o", file, "../../cmd/pintle")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build pintle: %w\n%s", err, out)
	}
	return file, nil
}

// newBed makes a test bed that ends with the test.
func newBed(t *testing.T, o services.Options) *services.Bed {
	t.Helper()
	b, err := services.New(t.Context(), o)
	cannot := errors.Is(err, unix.EPERM) || errors.Is(err, cluster.ErrNoPrograms) || errors.Is(err, cluster.ErrNoRuntime)
	if cannot && os.Getenv("LAB") != "require" {
		t.Skipf("this test makes a Kubernetes cluster: %v", err)
	}
	check(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(b.Logs(15))
		}
		check(t, b.Close())
	})
	return b
}

// newPintle is newBed with the program of this tree.
func newPintle(t *testing.T, o services.Options) *services.Bed {
	t.Helper()
	var err error
	if o.Pintle, err = program(); err != nil {
		t.Fatal(err)
	}
	return newBed(t, o)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for f to succeed.
func eventually(t *testing.T, what string, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	if err := services.Await(ctx, f); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
