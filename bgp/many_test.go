package bgp

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pintle-lb/pintle/test/router"
	"github.com/pintle-lb/pintle/test/router/routertest"
)

// TestTenThousand routes come and go, in a time that grows with their number and not with its square.
func TestTenThousand(t *testing.T) {
	const n = 10000
	within := netip.MustParsePrefix("100.64.0.0/10")
	host := newLab(t)
	routertest.BIRD(t, host, router.Config{AS: routerAS, RouterID: routerAddr, Neighbors: []router.Neighbor{{Addr: nodeAddr, AS: nodeAS, Passive: true}}})
	w := routertest.Watch(t, host)
	s := speak(t, numberedPeer())
	s.awaitState("r", Established)
	routes := many(n)
	count := func(want int) {
		t.Helper()
		if _, err := w.AwaitCount(t.Context(), within, want); err != nil {
			t.Fatal(err)
		}
	}
	measure := func(what string, f func()) {
		t.Helper()
		cpu, began := cpuTime(t), time.Now()
		f()
		took, used := time.Since(began), cpuTime(t)-cpu
		var mem runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&mem)
		t.Logf("%s: %s, CPU of this process %s, heap %d MB", what, took.Round(time.Millisecond), used.Round(time.Millisecond), mem.HeapAlloc>>20)
	}
	measure("advertise, to the router's kernel", func() { s.set(routes...); count(n) })
	measure("the same again", func() { s.set(routes...) })
	measure("one more", func() { s.set(many(n + 1)...); count(n + 1) })
	measure("withdraw, Set", func() { s.set() })
	if p := s.peer("r"); len(p.Advertised) != 0 || p.State != Established {
		t.Errorf("%d are left, %s", len(p.Advertised), p.State)
	}
	count(0)
	s.set(routes...)
	count(n)
	must(t, s.SetPeers(t.Context(), nil))
	count(0)
	measure("a new session, to the router's kernel", func() { must(t, s.SetPeers(t.Context(), []Peer{numberedPeer()})); count(n) })
}

// cpuTime is what this process has used.
func cpuTime(t testing.TB) time.Duration {
	var u unix.Rusage
	must(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
