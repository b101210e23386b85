package bgp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/pintle-lb/pintle/bgp"
	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/test/router"
	"github.com/pintle-lb/pintle/test/router/routertest"
)

// A variant is a way to have a session: what either side is told of the other, and
// the next hops that the router's kernel must get.
type variant struct {
	name       string
	peer       string
	bgp        string
	behind     bool // the router is two hops away
	neighbor   func(*netlab.Node, *router.Neighbor)
	hop4, hop6 func(*site) netip.Addr
	only       string // the program that can, if only one
}

func own4(s *site) netip.Addr    { return s.node(1).Addr() }
func own6(s *site) netip.Addr    { return s.node(1).Addr6() }
func gateway(s *site) netip.Addr { return netip.MustParseAddr("10.78.200.1") }

var variants = []variant{
	{name: "GTSM", peer: "gtsm: true", hop4: own4, hop6: own6,
		neighbor: func(_ *netlab.Node, n *router.Neighbor) { n.GTSM = true }},
	{name: "IPv4 routes over IPv6 (RFC 8950)", peer: "address: \"fd77::c8\", localAddress: \"fd77::1\"", hop4: own6, hop6: own6,
		neighbor: func(m *netlab.Node, n *router.Neighbor) { n.Addr, n.ExtendedNextHop = m.Addr6(), true }},
	{name: "IPv6 routes only", peer: "address: \"fd77::c8\", families: [ipv6]", hop6: own6,
		neighbor: func(m *netlab.Node, n *router.Neighbor) { n.Addr, n.Families = m.Addr6(), []router.Family{router.IPv6} }},
	{name: "the router connects", peer: "passive: true", bgp: "  listen: 0.0.0.0:179\n", hop4: own4, hop6: own6,
		neighbor: func(*netlab.Node, *router.Neighbor) {}},
	{name: "the router connects with a password", peer: "passive: true, passwordFile: {secret}", bgp: "  listen: 0.0.0.0:179\n", hop4: own4, hop6: own6,
		neighbor: func(_ *netlab.Node, n *router.Neighbor) { n.Password = "correct-horse" }},
	{name: "any AS but ours", peer: "as: external", hop4: own4, hop6: own6,
		neighbor: func(*netlab.Node, *router.Neighbor) {}},
	{name: "another AS of ours", peer: "localAS: 65009", hop4: own4, hop6: own6,
		neighbor: func(_ *netlab.Node, n *router.Neighbor) { n.AS = 65009 }},
	{name: "one AS (iBGP)", peer: "localAS: 65000", hop4: own4, hop6: own6,
		neighbor: func(_ *netlab.Node, n *router.Neighbor) { n.AS = routerAS }},
	{name: "next hops that are told", peer: "nextHop: [10.77.0.1, \"fd77::1\"]", hop4: own4, hop6: own6,
		neighbor: func(*netlab.Node, *router.Neighbor) {}},
	{name: "several hops away", peer: "address: 10.78.200.2, multihop: 3, families: [ipv4], bfd: {interval: 100ms, multiplier: 20}", behind: true, hop4: gateway,
		neighbor: func(_ *netlab.Node, n *router.Neighbor) {
			n.Multihop, n.LocalAddr, n.Families, n.BFD = 3, netip.MustParseAddr("10.78.200.2"), []router.Family{router.IPv4}, &router.BFD{Interval: 100 * time.Millisecond, Multiplier: 20}
		}},
}

// TestSessions: each way to have a session brings the routes into the router's
// kernel, and withdraws them again.
func TestSessions(t *testing.T) {
	for _, v := range variants {
		for _, p := range programs {
			if v.only != "" && v.only != p.name {
				continue
			}
			t.Run(v.name+"/"+p.name, func(t *testing.T) {
				t.Parallel()
				v.test(t, p.start)
			})
		}
	}
}

func (v variant) test(t *testing.T, start func(testing.TB, *netlab.Host, router.Config) *router.Router) {
	s := newSite(t, 1)
	at := s.lab.Client()
	if v.behind {
		var err error
		at, err = s.lab.Behind(s.lab.Client())
		check(t, err)
		check(t, at.Do(func() error { // a router does not find the next hop of a neighbor by its default route
			_, lan, err := net.ParseCIDR("10.77.0.0/24")
			return errors.Join(err, netlink.RouteAdd(&netlink.Route{Dst: lan, Gw: net.ParseIP("10.78.200.1")}))
		}))
	}
	r := start(t, at, router.Config{AS: routerAS, RouterID: at.Addr(), Neighbors: s.neighbors(func(n *router.Neighbor) { v.neighbor(s.node(1).Node, n) })})
	w := routertest.Watch(t, at)
	s.start(s.node(1), setup{peer: strings.ReplaceAll(v.peer, "{secret}", s.secret("correct-horse")), bgp: v.bgp + "  drain: {wait: 0s}\n"})
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := r.Ask(context.WithoutCancel(t.Context()), map[bool]string{true: "show bgp summary", false: "show protocols all"}[strings.HasSuffix(t.Name(), "FRR")])
			t.Log(text)
		}
	})
	for _, f := range []struct {
		prefix netip.Prefix
		hop    func(*site) netip.Addr
	}{{vip4, v.hop4}, {vip6, v.hop6}} {
		if f.hop != nil {
			s.routed(w, f.prefix, f.hop(s))
		}
	}
	p, err := s.node(1).peer()
	check(t, err)
	if want := count(v.hop4 != nil, v.hop6 != nil); p.State != bgp.Established || len(p.Advertised) != want || p.Flaps != 0 {
		t.Errorf("the node says %+v, want %d routes advertised and no flaps", p, want)
	}
	s.node(1).stop()
	s.routed(w, vip4)
	s.routed(w, vip6)
}

func count(bs ...bool) (n int) {
	for _, b := range bs {
		if b {
			n++
		}
	}
	return n
}

// TestUnnumbered: nobody was told an address; FRR waits for router advertisements.
func TestUnnumbered(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	routertest.FRR(t, s.lab.Client(), router.Config{AS: routerAS, RouterID: s.lab.Client().Addr(), Neighbors: []router.Neighbor{
		{Interface: "eth0", AS: nodeAS, Families: []router.Family{router.IPv4, router.IPv6}}}})
	w := routertest.Watch(t, s.lab.Client())
	s.start(s.node(1), setup{peer: "interface: eth0, as: external"})
	await(t, func() error {
		for _, p := range []netip.Prefix{vip4, vip6} {
			hops := w.NextHops(p)
			if len(hops) != 1 || !hops[0].IsLinkLocalUnicast() && hops[0] != own6(s) {
				return fmt.Errorf("%s via %v", p, hops)
			}
		}
		return nil
	})
	p, err := s.node(1).peer()
	check(t, err)
	if p.State != bgp.Established || p.AS != routerAS || !p.Address.Addr().IsLinkLocalUnicast() {
		t.Errorf("the node says %+v", p)
	}
}

// TestLocalDaemon: the node has a BIRD, to which Pintle speaks over loopback, and
// which tells the router. It has the node's address as its router ID, so Pintle needs
// another.
func TestLocalDaemon(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	n, r := s.node(1), s.lab.Client()
	routertest.FRR(t, r, router.Config{AS: routerAS, RouterID: r.Addr(), Neighbors: []router.Neighbor{{Addr: n.Addr(), AS: nodeAS}}})
	w := routertest.Watch(t, r)
	bird := routertest.BIRDText(t, n.Host, fmt.Sprintf(`router id %[1]s;
protocol device { scan time 1; }
protocol direct { ipv4; interface "-lo", "*"; }
protocol bgp pintle {
  local 127.0.0.1 as %[2]d;
  neighbor 127.0.0.1 as %[2]d;
  passive; multihop 2;
  ipv4 { import where net = %[3]s; import keep filtered; export none; };
}
protocol bgp tor {
  local %[1]s as %[2]d;
  neighbor %[4]s as %[5]d;
  connect delay time 1; connect retry time 1;
  ipv4 { import none; export where source = RTS_BGP; next hop self; };
}
`, n.Addr(), nodeAS, vip4, r.Addr(), routerAS))
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := bird.Ask(context.WithoutCancel(t.Context()), "show", "route", "all")
			t.Log(text)
		}
	})
	s.start(n, setup{addrs: []netip.Prefix{vip4}, bgp: "  routerID: 10.77.1.1\n", peer: fmt.Sprintf("address: 127.0.0.1, localAddress: 127.0.0.1, port: 179, as: %d, families: [ipv4]", nodeAS)})
	s.routed(w, vip4, n.Addr())
	n.stop()
	s.routed(w, vip4)
}

// TestWhyNot: a session that does not come up says why, in words that tell what to
// do.
func TestWhyNot(t *testing.T) {
	for _, c := range []struct {
		name, peer string
		neighbor   func(*router.Neighbor)
		want       []string
	}{
		{"another AS than configured", "as: 65010", nil, []string{"bad peer AS", "65000", "65010"}},
		{"the router expects another AS", "localAS: 65009", nil, []string{"router", "bad peer AS"}},
		{"another password", "passwordFile: {secret}", func(n *router.Neighbor) { n.Password = "wrong" }, []string{"no answer", "password"}},
		{"nobody listens", "port: 1790", nil, []string{"refuse"}},
		{"nobody is there", "address: 10.77.0.77", nil, []string{"10.77.0.77"}},
		{"GTSM on one side", "gtsm: true", func(n *router.Neighbor) { n.Multihop = 2 }, []string{"TTL"}},
		{"the router is not configured", "", func(n *router.Neighbor) { n.Addr = netip.MustParseAddr("10.77.0.9") }, []string{"this node as a neighbor by the address 10.77.0.1"}},
	} {
		for _, p := range programs {
			t.Run(c.name+"/"+p.name, func(t *testing.T) {
				t.Parallel()
				s := newSite(t, 1)
				p.start(t, s.lab.Client(), router.Config{AS: routerAS, RouterID: s.lab.Client().Addr(), Neighbors: s.neighbors(c.neighbor)})
				s.start(s.node(1), setup{peer: strings.ReplaceAll(c.peer, "{secret}", s.secret("correct-horse"))})
				var last string
				await(t, func() error {
					st, err := s.node(1).peer()
					if err != nil {
						return err
					}
					if st.State == bgp.Established {
						return fmt.Errorf("the session is up")
					}
					last = st.Why + " | " + st.LastError
					for _, want := range c.want {
						if !strings.Contains(last, want) {
							return fmt.Errorf("%q, want %q in it", last, want)
						}
					}
					return nil
				})
				t.Log(last)
			})
		}
	}
}
