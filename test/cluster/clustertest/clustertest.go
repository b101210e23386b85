// Package clustertest makes clusters for tests.
package clustertest

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pintle-lb/pintle/test/cluster"
)

// wait is for what takes seconds to a minute, on a machine that is as busy as can be.
const wait = 5 * time.Minute

// New makes a cluster that ends with the test, which is skipped where there can be none, unless the environment has LAB=require.
// After a failure it shows the end of every log.
func New(t testing.TB, opts cluster.Options) *cluster.Cluster {
	t.Helper()
	c, err := cluster.New(t.Context(), opts)
	check(t, err)
	t.Cleanup(func() { end(t, c) })
	return c
}

// Install makes a cluster as New does, by kubeadm init and kubeadm join.
func Install(t testing.TB, opts cluster.InstallOptions) *cluster.Installed {
	t.Helper()
	c, err := cluster.Install(t.Context(), opts)
	check(t, err)
	t.Cleanup(func() { end(t, c) })
	return c
}

// Programs is the folder with the programs of Kubernetes, without which the test is skipped, as by New.
func Programs(t testing.TB) string {
	t.Helper()
	dir, err := cluster.Programs()
	check(t, err)
	return dir
}

func check(t testing.TB, err error) {
	t.Helper()
	if err == nil {
		return
	}
	cannot := errors.Is(err, unix.EPERM) || errors.Is(err, cluster.ErrNoPrograms) || errors.Is(err, cluster.ErrNoRuntime)
	if cannot && os.Getenv("LAB") != "require" {
		t.Skipf("this test makes a Kubernetes cluster: %v", err)
	}
	t.Fatal(err)
}

func end(t testing.TB, c interface {
	Logs(lines int) string
	Close() error
}) {
	if t.Failed() {
		t.Log(c.Logs(8))
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// Context ends before the test's own deadline would make it panic, so that a test that hangs says what it waited for.
func Context(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	t.Cleanup(cancel)
	return ctx
}

// Await waits for f to succeed, and tries again whenever it fails or takes five seconds. It fails the test when ctx ends.
func Await(t testing.TB, ctx context.Context, f func(context.Context) error) {
	t.Helper()
	for {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := f(try)
		cancel()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(errors.Join(context.Cause(ctx), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
