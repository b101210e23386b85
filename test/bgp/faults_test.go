package bgp

import (
	"syscall"
	"testing"
	"time"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/test/router"
	"github.com/pintle-lb/pintle/test/router/routertest"
)

// programs are the routers that most tests run beside.
var programs = []struct {
	name  string
	start func(testing.TB, *netlab.Host, router.Config) *router.Router
}{{"FRR", routertest.FRR}, {"BIRD", routertest.BIRD}}

// TestFaults: three nodes advertise an address of either family over IPv4 sessions
// with MD5. Whatever happens to one of them, the router's kernel soon has the other
// two, and nothing else happens to those.
func TestFaults(t *testing.T) {
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			s := newSite(t, 3)
			password := s.secret("correct-horse")
			bfd := &router.BFD{Interval: 100 * time.Millisecond, Multiplier: 3}
			p.start(t, s.lab.Client(), router.Config{AS: routerAS, RouterID: s.lab.Client().Addr(),
				Neighbors: s.neighbors(func(n *router.Neighbor) { n.Password, n.BFD, n.Hold = "correct-horse", bfd, 3*time.Second })})
			w := routertest.Watch(t, s.lab.Client())
			conf := setup{peer: "hold: 3s, bfd: {interval: 100ms, multiplier: 3}, passwordFile: " + password}
			s.startAll(conf)
			all := func() {
				t.Helper()
				s.routed(w, vip4, s.addrs(false)...)
				s.routed(w, vip6, s.addrs(true)...)
			}
			all()
			m := s.node(2)
			gone := func(what string, limit time.Duration, fault func()) {
				t.Helper()
				s.bfdUp(m)
				began := time.Now()
				fault()
				four, err := w.Gone(within(t), vip4, m.Addr())
				check(t, err)
				six, err := w.Gone(within(t), vip6, m.Addr6())
				check(t, err)
				t.Logf("%s: %v, IPv6 %v", what, four.Sub(began), six.Sub(began))
				if d := max(four.Sub(began), six.Sub(began)); d > 20*limit {
					t.Errorf("%s: gone after %v, which should be about %v", what, d, limit)
				}
				s.routed(w, vip4, without(s.addrs(false), m.Addr())...)
			}
			gone("killed", 500*time.Millisecond, func() { m.signal(syscall.SIGKILL) })
			m.proc.End()
			s.start(m, conf)
			all()
			gone("frozen", 800*time.Millisecond, func() { m.signal(syscall.SIGSTOP) })
			m.signal(syscall.SIGCONT)
			all()
			gone("cut", 800*time.Millisecond, func() { check(t, m.Cut()) })
			check(t, m.Heal())
			all()
			gone("stopped", 500*time.Millisecond, m.stop)
		})
	}
}
