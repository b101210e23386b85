// Package routertest is package router for tests: what cannot be made skips the test, or fails it if LAB is "require", and
// ends with it. A test that fails shows what the routers said.
package routertest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/test/router"
)

// Lab makes a lab.
func Lab(t testing.TB, opts netlab.Options) *netlab.Lab {
	t.Helper()
	l, err := netlab.New(opts)
	check(t, err)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close lab: %v", err)
		}
	})
	return l
}

// FRR runs FRR on a host.
func FRR(t testing.TB, host *netlab.Host, c router.Config) *router.Router {
	t.Helper()
	text := c.FRR()
	r, err := router.StartFRR(t.Context(), host, dir(t), text)
	return started(t, r, err, text)
}

// BIRD runs BIRD on a host.
func BIRD(t testing.TB, host *netlab.Host, c router.Config) *router.Router {
	t.Helper()
	return BIRDText(t, host, c.BIRD())
}

// BIRDText runs BIRD on a host, with a bird.conf.
func BIRDText(t testing.TB, host *netlab.Host, text string) *router.Router {
	t.Helper()
	r, err := router.StartBIRD(t.Context(), host, dir(t), text)
	return started(t, r, err, text)
}

// Watch watches a host's routes.
func Watch(t testing.TB, host *netlab.Host) *router.Watch {
	t.Helper()
	w, err := router.NewWatch(host)
	check(t, err)
	t.Cleanup(w.Close)
	return w
}

func started(t testing.TB, r *router.Router, err error, text string) *router.Router {
	t.Helper()
	if err != nil {
		t.Logf("the configuration was:\n%s", text)
	}
	check(t, err)
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Errorf("stop router: %v", err)
		}
		if t.Failed() {
			t.Logf("%s\n%s", text, r.Log())
		}
	})
	return r
}

// dir is a directory with a name that is short enough for a socket, which that of t.TempDir may not be.
func dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "router-")
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "run")
}

func check(t testing.TB, err error) {
	t.Helper()
	if (errors.Is(err, unix.EPERM) || errors.Is(err, router.ErrMissing)) && os.Getenv("LAB") != "require" {
		t.Skipf("this test runs routers in network namespaces: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}
