package bgp

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/internal/status"
	"github.com/pintle-lb/pintle/test/router"
	"github.com/pintle-lb/pintle/test/router/routertest"
)

// echo runs what stands for the service on a machine, until it is killed.
func (s *site) echo(m *machine) *netlab.Process {
	s.t.Helper()
	p, err := m.Host.Start(s.t.Context(), exec.Command(os.Args[0], "echo", strconv.Itoa(int(m.Number()))))
	check(s.t, err)
	return p
}

// health is a health check that is good while the file of its machine is there.
func (m *machine) health() string {
	check(m.t, os.WriteFile(m.ok(), nil, 0o644))
	return fmt.Sprintf("health:\n  - {name: api, command: [/usr/bin/test, -e, %s], interval: 100ms, timeout: 100ms, rise: 1, fall: 1}\n", m.ok())
}

func (m *machine) ok() string { return filepath.Join(m.dir, "ok") }

// TestUnhealthyNodeWithdraws: only that node, and only while it is unhealthy; it no
// longer has the address either, so that its own programs reach the others.
func TestUnhealthyNodeWithdraws(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3)
	routertest.FRR(t, s.lab.Client(), router.Config{AS: routerAS, RouterID: s.lab.Client().Addr(), Neighbors: s.neighbors(nil)})
	w := routertest.Watch(t, s.lab.Client())
	for _, m := range s.machines {
		s.start(m, setup{extra: m.health()})
	}
	s.routed(w, vip4, s.addrs(false)...)
	m := s.node(3)
	check(t, os.Remove(m.ok()))
	s.routed(w, vip4, without(s.addrs(false), m.Addr())...)
	s.routed(w, vip6, without(s.addrs(true), m.Addr6())...)
	await(t, func() error {
		r, err := m.report()
		if err != nil {
			return err
		}
		if r.State != status.Unhealthy || r.Ready || r.Seats[0].Addresses[0].Bound {
			return fmt.Errorf("the node is %s, ready: %v, its addresses: %+v", r.State, r.Ready, r.Seats[0].Addresses)
		}
		return nil
	})
	p, err := m.peer()
	check(t, err)
	if p.Flaps != 0 {
		t.Errorf("the session ended %d times: only the routes were to go", p.Flaps)
	}
	check(t, os.WriteFile(m.ok(), nil, 0o644))
	s.routed(w, vip4, s.addrs(false)...)
}

// TestDeadServerIsWithdrawn: what stands for the API server listens on each node, and
// one of them dies.
func TestDeadServerIsWithdrawn(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3)
	routertest.BIRD(t, s.lab.Client(), router.Config{AS: routerAS, RouterID: s.lab.Client().Addr(), Neighbors: s.neighbors(nil)})
	w := routertest.Watch(t, s.lab.Client())
	serve := func(m *machine) *netlab.Process {
		p, err := m.Host.Start(t.Context(), exec.Command(os.Args[0], "listen", "127.0.0.1:6443"))
		check(t, err)
		return p
	}
	var servers []*netlab.Process
	for _, m := range s.machines {
		servers = append(servers, serve(m))
		s.start(m, setup{extra: "health:\n  - {name: api, tcp: \"127.0.0.1:6443\", interval: 200ms, timeout: 200ms}\n"})
	}
	s.routed(w, vip4, s.addrs(false)...)
	check(t, servers[0].Signal(syscall.SIGKILL))
	s.routed(w, vip4, s.addrs(false)[1:]...)
	serve(s.node(1))
	s.routed(w, vip4, s.addrs(false)...)
}

// TestLastResort: an unhealthy node is not used while there is a healthy one, and is
// when there is none.
func TestLastResort(t *testing.T) {
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, 2)
			p.start(t, s.lab.Client(), router.Config{AS: routerAS, RouterID: s.lab.Client().Addr(), Neighbors: s.neighbors(nil)})
			w := routertest.Watch(t, s.lab.Client())
			for _, m := range s.machines {
				s.start(m, setup{bgp: "  unhealthy: last-resort\n", extra: m.health()})
			}
			one, two := s.node(1), s.node(2)
			s.routed(w, vip4, one.Addr(), two.Addr())
			check(t, os.Remove(one.ok()))
			s.routed(w, vip4, two.Addr())
			check(t, os.Remove(two.ok()))
			s.routed(w, vip4, one.Addr(), two.Addr())
			check(t, os.WriteFile(one.ok(), nil, 0o644))
			s.routed(w, vip4, one.Addr())
		})
	}
}

// TestHoldTime: without BFD a frozen node, and one that is cut off, are gone when
// the hold time has passed.
func TestHoldTime(t *testing.T) {
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, 2)
			p.start(t, s.lab.Client(), router.Config{AS: routerAS, RouterID: s.lab.Client().Addr(), Neighbors: s.neighbors(nil)})
			w := routertest.Watch(t, s.lab.Client())
			s.startAll(setup{peer: "hold: 3s"})
			m := s.node(1)
			for _, fault := range []struct {
				name     string
				do, undo func()
			}{
				{"frozen", func() { m.signal(syscall.SIGSTOP) }, func() { m.signal(syscall.SIGCONT) }},
				{"cut", func() { check(t, m.Cut()) }, func() { check(t, m.Heal()) }},
			} {
				s.routed(w, vip4, s.addrs(false)...)
				st, err := m.peer()
				check(t, err)
				if st.Hold != 3*time.Second || st.Detection != 3*time.Second {
					t.Errorf("hold time %v, detection %v, want 3 s", st.Hold, st.Detection)
				}
				began := time.Now()
				fault.do()
				at, err := w.Gone(within(t), vip4, m.Addr())
				check(t, err)
				t.Logf("%s: %v", fault.name, at.Sub(began))
				if d := at.Sub(began); d < time.Second || d > 20*time.Second {
					t.Errorf("%s: gone after %v, want 2 to 3 s", fault.name, d)
				}
				fault.undo()
			}
			s.routed(w, vip4, s.addrs(false)...)
		})
	}
}

// TestDrain: a node that stops while 64 flows of questions each 2 ms come through the
// router loses none, and none that it has when it starts again.
func TestDrain(t *testing.T) {
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			s := newSite(t, 3)
			asker, err := s.lab.Behind(s.lab.Client())
			check(t, err)
			p.start(t, s.lab.Client(), router.Config{AS: routerAS, RouterID: s.lab.Client().Addr(), Neighbors: s.neighbors(nil), GracefulShutdown: true})
			w := routertest.Watch(t, s.lab.Client())
			for _, m := range s.machines {
				s.echo(m)
			}
			s.startAll(setup{addrs: []netip.Prefix{vip4}})
			s.routed(w, vip4, s.addrs(false)...)
			flows, err := asker.StartFlows(vip4.Addr(), 64, 2*time.Millisecond)
			check(t, err)
			await(t, func() error { // neighbours are to be learnt, which the first packets wait for
				from := flows.Mark()
				flows.Report(from, from) // a second later
				for _, f := range flows.Report(from, flows.Mark()) {
					if f.Sent == 0 || f.Lost > 0 {
						return fmt.Errorf("flow from port %d: %d of %d lost before anything was done", f.Port, f.Lost, f.Sent)
					}
				}
				return nil
			})
			from := flows.Mark()
			s.node(2).stop()
			s.routed(w, vip4, without(s.addrs(false), s.node(2).Addr())...)
			s.start(s.node(2), setup{addrs: []netip.Prefix{vip4}})
			s.routed(w, vip4, s.addrs(false)...)
			time.Sleep(time.Second / 2) // of questions with the node back
			sent, lost, answered := 0, 0, map[string]int{}
			for _, f := range flows.Report(from, flows.Mark()) {
				sent, lost = sent+f.Sent, lost+f.Lost
				for name, n := range f.Answers {
					answered[name] += n
				}
			}
			flows.Close()
			t.Logf("%d questions, %d lost, answered: %v", sent, lost, answered)
			if lost > 0 || len(answered) != 3 {
				t.Errorf("%d of %d questions were lost; answers came from %v, want all three nodes", lost, sent, answered)
			}
		})
	}
}

// TestTransit: what one router tells a node never reaches the other.
func TestTransit(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3) // the other router is n3
	other := s.node(3)
	routertest.FRR(t, s.lab.Client(), router.Config{AS: routerAS, RouterID: s.lab.Client().Addr(), Neighbors: s.neighbors(nil)[:2],
		Originate: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}})
	routertest.BIRD(t, other.Host, router.Config{AS: 65010, RouterID: other.Addr(), Neighbors: s.neighbors(nil)[:2],
		Originate: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}})
	a, b := routertest.Watch(t, s.lab.Client()), routertest.Watch(t, other.Host)
	for _, m := range s.machines[:2] {
		s.start(m, setup{peer: fmt.Sprintf("address: %s, as: %d}\n    - {name: other, address: %s, as: 65010", s.lab.Client().Addr(), routerAS, other.Addr())})
	}
	hops := s.addrs(false)[:2]
	s.routed(a, vip4, hops...)
	s.routed(b, vip4, hops...)
	await(t, func() error { // both routers have said what they have
		for _, m := range s.machines[:2] {
			r, err := m.report()
			if err != nil {
				return err
			}
			for _, p := range r.BGP.Peers {
				if p.Dropped == 0 {
					return fmt.Errorf("%s has had nothing from %s", m.Name(), p.Name)
				}
			}
		}
		return nil
	})
	// What would have been passed on would have come before this.
	s.node(1).stop()
	s.routed(a, vip4, hops[1])
	s.routed(b, vip4, hops[1])
	for _, c := range []struct {
		w      *router.Watch
		prefix string
	}{{a, "198.51.100.0/24"}, {b, "203.0.113.0/24"}} {
		if got := c.w.NextHops(netip.MustParsePrefix(c.prefix)); len(got) > 0 {
			t.Errorf("%s goes through %v: the nodes are no transit", c.prefix, got)
		}
	}
	if routes := s.routesOf(other); strings.Contains(routes, "203.0.113") {
		t.Errorf("a node has the router's route: %s", routes)
	}
}

// routesOf are the routes of a machine's kernel, of all tables.
func (s *site) routesOf(m *machine) (out string) {
	s.t.Helper()
	check(s.t, m.Host.Do(func() error {
		list, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: 0}, netlink.RT_FILTER_TABLE)
		for _, r := range list {
			out += fmt.Sprintln(r)
		}
		return err
	}))
	return out
}

// TestTable: BIRD on the node takes the address from the table and tells the router;
// a killed Pintle's entry is swept when it starts again.
func TestTable(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	n, r := s.node(1), s.lab.Client()
	routertest.FRR(t, r, router.Config{AS: routerAS, RouterID: r.Addr(), Neighbors: []router.Neighbor{
		{Addr: n.Addr(), AS: nodeAS, Families: []router.Family{router.IPv4, router.IPv6}}}})
	w := routertest.Watch(t, r)
	routertest.BIRDText(t, n.Host, fmt.Sprintf(`router id %[1]s;
protocol device { scan time 1; }
protocol direct { ipv4; ipv6; interface "-lo", "*"; }
ipv4 table pintle4;
ipv6 table pintle6;
protocol kernel { kernel table 155; scan time 1; learn; ipv4 { table pintle4; import all; export none; }; }
protocol kernel { kernel table 155; scan time 1; learn; ipv6 { table pintle6; import all; export none; }; }
protocol bgp tor {
  local %[1]s as %[2]d;
  neighbor %[3]s as %[4]d;
  connect delay time 1; connect retry time 1;
  ipv4 { table pintle4; import none; export where krt_source = 155; next hop self; };
  ipv6 { table pintle6; import none; export where krt_source = 155; next hop address %[5]s; };
}
`, n.Addr(), nodeAS, r.Addr(), routerAS, n.Addr6()))
	conf := setup{announce: "[table]", extra: n.health()}
	s.start(n, conf)
	s.routed(w, vip4, n.Addr())
	await(t, func() error { // by whichever of the two next hops that BIRD tells
		if hops := w.NextHops(vip6); len(hops) != 1 {
			return fmt.Errorf("%s via %v", vip6, hops)
		}
		return nil
	})
	check(t, os.Remove(n.ok()))
	s.routed(w, vip4)
	check(t, os.WriteFile(n.ok(), nil, 0o644))
	s.routed(w, vip4, n.Addr())
	n.signal(syscall.SIGKILL)
	n.proc.End()
	check(t, os.Remove(n.ok())) // it starts unhealthy, and has nothing to add
	s.start(n, setup{announce: "[table]", extra: strings.Replace(conf.extra, "rise: 1", "rise: 2", 1)})
	s.routed(w, vip4)
	s.routed(w, vip6)
}

// TestNodesOfPeers: a peer is only for the nodes that it names.
func TestNodesOfPeers(t *testing.T) {
	t.Parallel()
	s := newSite(t, 2)
	routertest.BIRD(t, s.lab.Client(), router.Config{AS: routerAS, RouterID: s.lab.Client().Addr(), Neighbors: s.neighbors(nil)})
	w := routertest.Watch(t, s.lab.Client())
	s.startAll(setup{peer: "nodes: [\"*2\"]"})
	s.routed(w, vip4, s.node(2).Addr())
	r, err := s.node(1).report()
	check(t, err)
	if len(r.BGP.Peers) != 0 || r.Ready || !strings.Contains(r.NotReady, "no BGP peer") {
		t.Errorf("n1 has peers %+v, and says %q", r.BGP.Peers, r.NotReady)
	}
	if hops := w.NextHops(vip4); !slices.Equal(hops, []netip.Addr{s.node(2).Addr()}) {
		t.Errorf("the router has %v", hops)
	}
}
