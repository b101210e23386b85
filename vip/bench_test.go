package vip

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkSet binds and removes one IPv4 address.
func BenchmarkSet(b *testing.B) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		b.Skipf("make network namespace: %v", err)
	}
	v, err := Open(Config{Instance: "a", RunDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer v.Close()
	for b.Loop() {
		if _, err := v.Set(b.Context(), prefixes(vip4)); err != nil {
			b.Fatal(err)
		}
		if _, err := v.Set(b.Context(), nil); err != nil {
			b.Fatal(err)
		}
	}
}
