package router_test

import (
	"context"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/test/router"
	"github.com/pintle-lb/pintle/test/router/routertest"
)

var (
	vip4 = netip.MustParsePrefix("10.99.0.1/32")
	vip6 = netip.MustParsePrefix("fd99::1/128")
)

const hub, spoke = 65000, 65001

// linkLocal is an address that netlab gives every host.
func linkLocal(h *netlab.Host) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 14: 0x77, 15: h.Number()})
}

// Both programs speak to each other with every option that a Config has, each of them as the one that learns.
func TestSessions(t *testing.T) {
	both := []router.Family{router.IPv4, router.IPv6}
	const v4, v6 = "v4", "v6"
	tests := []struct {
		name   string
		option router.Neighbor
		over   string // which addresses the session has
	}{
		{name: "plain", over: v4},
		{name: "two families", option: router.Neighbor{Families: both}, over: v4},
		{name: "password", option: router.Neighbor{Password: "secret"}, over: v4},
		{name: "gtsm", option: router.Neighbor{GTSM: true}, over: v4},
		{name: "multihop", option: router.Neighbor{Multihop: 3}, over: v4},
		{name: "bfd", option: router.Neighbor{BFD: &router.BFD{Interval: 100 * time.Millisecond, Multiplier: 3}}, over: v4},
		{name: "hold", option: router.Neighbor{Hold: 3 * time.Second, ConnectRetry: 2 * time.Second}, over: v4},
		{name: "port and source", option: router.Neighbor{Port: 179}, over: v4},
		{name: "IPv4 over IPv6", option: router.Neighbor{Families: both, ExtendedNextHop: true}, over: v6},
		{name: "interface", option: router.Neighbor{Families: both, ExtendedNextHop: true, Interface: "eth0"}, over: "link"},
	}
	for _, tt := range tests {
		for _, frrLearns := range []bool{true, false} {
			name := tt.name + ", BIRD learns"
			if frrLearns {
				name = tt.name + ", FRR learns"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				lab := routertest.Lab(t, netlab.Options{Nodes: 1, IPv6: true})
				h, s := lab.Client(), lab.Node(1).Host
				at := func(h *netlab.Host, which string) netip.Addr {
					return map[string]netip.Addr{v4: h.Addr(), v6: h.Addr6(), "link": linkLocal(h)}[which]
				}
				side := func(me, other *netlab.Host, as, otherAS uint32) router.Config {
					n := tt.option
					n.Addr, n.AS = at(other, tt.over), otherAS
					if n.Port != 0 {
						n.LocalAddr = at(me, tt.over)
					}
					return router.Config{AS: as, RouterID: me.Addr(), Neighbors: []router.Neighbor{n}}
				}
				learner, teacher := side(h, s, hub, spoke), side(s, h, spoke, hub)
				teacher.Originate = []netip.Prefix{vip4, vip6}
				w := routertest.Watch(t, h)
				if frrLearns {
					routertest.FRR(t, h, learner)
					routertest.BIRD(t, s, teacher)
				} else {
					routertest.BIRD(t, h, learner)
					routertest.FRR(t, s, teacher)
				}
				via6 := s.Addr6()
				if frrLearns { // it prefers the link-local one of two IPv6 next hops, BIRD the other, and both send both
					via6 = linkLocal(s)
				}
				via4 := via6
				if tt.over == v4 {
					via4 = s.Addr()
				}
				await(t, w, vip4, via4)
				if len(tt.option.Families) == 2 {
					await(t, w, vip6, via6)
				}
			})
		}
	}
}

// await waits until the prefix has these next hops.
func await(t *testing.T, w *router.Watch, prefix netip.Prefix, hops ...netip.Addr) time.Time {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	at, err := w.Await(ctx, prefix, hops...)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// Two BIRDs announce to a FRR and to a BIRD, and the Watch says when what one of them withdraws has left their kernels.
func TestWatch(t *testing.T) {
	start := map[string]func(testing.TB, *netlab.Host, router.Config) *router.Router{"FRR": routertest.FRR, "BIRD": routertest.BIRD}
	for name, run := range start {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := routertest.Lab(t, netlab.Options{Nodes: 2, IPv6: true})
			c := router.Config{AS: hub, RouterID: lab.Client().Addr()}
			var hops4, hops6 []netip.Addr
			var spokes []*router.Router
			for i, n := range lab.Nodes() {
				both := []router.Family{router.IPv4, router.IPv6}
				bfd := &router.BFD{Interval: 100 * time.Millisecond, Multiplier: 3}
				c.Neighbors = append(c.Neighbors, router.Neighbor{Addr: n.Addr(), AS: spoke + uint32(i), Families: both, BFD: bfd})
				spokes = append(spokes, routertest.BIRD(t, n.Host, router.Config{
					AS: spoke + uint32(i), RouterID: n.Addr(), Originate: []netip.Prefix{vip4, vip6},
					Neighbors: []router.Neighbor{{Addr: lab.Client().Addr(), AS: hub, Families: both, BFD: bfd}},
				}))
				hops4, hops6 = append(hops4, n.Addr()), append(hops6, n.Addr6())
				if name == "FRR" { // as in TestSessions
					hops6[i] = linkLocal(n.Host)
				}
			}
			w := routertest.Watch(t, lab.Client())
			before := time.Now()
			hubRouter := run(t, lab.Client(), c)
			for _, at := range []time.Time{await(t, w, vip4, hops4...), await(t, w, vip6, hops6...)} {
				if at.Before(before) || at.After(time.Now()) {
					t.Errorf("it became so at %v, not after %v", at, before)
				}
			}

			from := time.Now()
			ask(t, spokes[1], "disable", "static1")
			gone(t, w, vip4, hops4[1], from, "withdraw")
			ask(t, spokes[1], "disable", "static2")
			gone(t, w, vip6, hops6[1], from, "withdraw of IPv6")
			await(t, w, vip4, hops4[0])
			await(t, w, vip6, hops6[0])
			ask(t, spokes[1], "enable", "static1")
			await(t, w, vip4, hops4...)

			from = time.Now()
			if err := spokes[0].Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			gone(t, w, vip4, hops4[0], from, "kill")
			await(t, w, vip4, hops4[1])
			await(t, w, vip6)

			late := routertest.Watch(t, lab.Client()) // knows what there was before
			await(t, late, vip4, hops4[1])
			if err := hubRouter.Stop(); err != nil {
				t.Fatal(err)
			}
			await(t, w, vip4)
			w.Close()
			if got := w.NextHops(vip4); got != nil {
				t.Errorf("without the router there is a route via %v", got)
			}
		})
	}
}

func ask(t *testing.T, r *router.Router, commands ...string) string {
	t.Helper()
	out, err := r.Ask(t.Context(), commands...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func gone(t *testing.T, w *router.Watch, prefix netip.Prefix, hop netip.Addr, from time.Time, what string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	at, err := w.Gone(ctx, prefix, hop)
	if err != nil {
		t.Fatal(err)
	}
	if at.Before(from) {
		t.Errorf("%s: gone %v before", what, from.Sub(at))
	}
	t.Logf("%s: %v", what, at.Sub(from))
}

// A router that is told so prefers any other path to one with the community of a graceful shutdown.
func TestGracefulShutdown(t *testing.T) {
	start := map[string]func(testing.TB, *netlab.Host, router.Config) *router.Router{"FRR": routertest.FRR, "BIRD": routertest.BIRD}
	for name, run := range start {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := routertest.Lab(t, netlab.Options{Nodes: 2})
			c := router.Config{AS: hub, RouterID: lab.Client().Addr(), GracefulShutdown: true}
			var hops []netip.Addr
			for _, n := range lab.Nodes() {
				c.Neighbors = append(c.Neighbors, router.Neighbor{Addr: n.Addr(), AS: spoke})
				hops = append(hops, n.Addr())
			}
			spokes := make([]*router.Router, 2)
			text := make([]string, 2)
			for i, n := range lab.Nodes() {
				mine := router.Config{
					AS: spoke, RouterID: n.Addr(), Originate: []netip.Prefix{vip4},
					Neighbors: []router.Neighbor{{Addr: lab.Client().Addr(), AS: hub}},
				}
				spokes[i], text[i] = routertest.BIRD(t, n.Host, mine), mine.BIRD()
			}
			w := routertest.Watch(t, lab.Client())
			run(t, lab.Client(), c)
			await(t, w, vip4, hops...)
			const plain, leaving = "export where source = RTS_STATIC;",
				"export filter { if source != RTS_STATIC then reject; bgp_community.add((65535, 0)); accept; };"
			if err := spokes[1].Load(t.Context(), strings.ReplaceAll(text[1], plain, leaving)); err != nil {
				t.Fatal(err)
			}
			await(t, w, vip4, hops[0])
			if err := spokes[0].Stop(); err != nil {
				t.Fatal(err)
			}
			await(t, w, vip4, hops[1]) // the last choice, but one
		})
	}
}

// A configuration can change while the router runs, and what cannot be understood is an error.
func TestLoad(t *testing.T) {
	texts := map[string]func(router.Config) string{"FRR": router.Config.FRR, "BIRD": router.Config.BIRD}
	start := map[string]func(testing.TB, *netlab.Host, router.Config) *router.Router{"FRR": routertest.FRR, "BIRD": routertest.BIRD}
	for name, run := range start {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := routertest.Lab(t, netlab.Options{Nodes: 1})
			h, s := lab.Client(), lab.Node(1).Host
			w := routertest.Watch(t, h)
			routertest.BIRD(t, h, router.Config{AS: hub, RouterID: h.Addr(), Neighbors: []router.Neighbor{{Addr: s.Addr(), AS: spoke}}})
			c := router.Config{AS: spoke, RouterID: s.Addr(), Neighbors: []router.Neighbor{{Addr: h.Addr(), AS: hub}}}
			r := run(t, s, c)
			if err := r.Load(t.Context(), "nonsense\n"+texts[name](c)); err == nil {
				t.Error("it took nonsense")
			}
			c.Originate = []netip.Prefix{vip4}
			if err := r.Load(t.Context(), texts[name](c)); err != nil {
				t.Fatal(err)
			}
			await(t, w, vip4, s.Addr())
		})
	}
}
