package vip

import (
	"net/netip"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkSet binds and removes one IPv4 address.
func BenchmarkSet(b *testing.B) {
	v := openBench(b)
	for b.Loop() {
		setBench(b, v, prefixes(vip4))
		setBench(b, v, nil)
	}
}

// BenchmarkSetOfAThousand binds one address beside 1,000 others, and removes it.
func BenchmarkSetOfAThousand(b *testing.B) {
	v := openBench(b)
	var want []netip.Prefix
	for i := range 1000 {
		want = append(want, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)}), 32))
	}
	setBench(b, v, want)
	for b.Loop() {
		setBench(b, v, append(want, netip.MustParsePrefix(vip4)))
		setBench(b, v, want)
	}
}

// BenchmarkScreen guards one address more than 10,000, and one less.
func BenchmarkScreen(b *testing.B) {
	s, err := openBench(b).OpenScreen()
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	want := many(10_001)
	for b.Loop() {
		for _, w := range [][]Guarded{want, want[1:]} {
			if err := s.Set(b.Context(), w); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func openBench(b *testing.B) *Binder {
	b.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		b.Skipf("make network namespace: %v", err)
	}
	v, err := Open(Config{Instance: "a", RunDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = v.Close() })
	return v
}

func setBench(b *testing.B, v *Binder, want []netip.Prefix) {
	b.Helper()
	if _, err := v.Set(b.Context(), want); err != nil {
		b.Fatal(err)
	}
}
