package bgp

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/pintle-lb/pintle/bgp/bfd"
	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/test/router"
	"github.com/pintle-lb/pintle/test/router/routertest"
)

func newLab(t testing.TB) *netlab.Host {
	t.Helper()
	host := routertest.Lab(t, netlab.Options{Nodes: 1, IPv6: true}).Client()
	wire(t, host)
	return host
}

// TestDualStack: IPv4 and IPv6 over one session, and the next hop of each.
func TestDualStack(t *testing.T) {
	host := newLab(t)
	routertest.FRR(t, host, frrConfig(numbered(router.IPv4, router.IPv6)))
	w := routertest.Watch(t, host)
	s := speak(t, numberedPeer())
	s.set(Route{Prefix: vip}, Route{Prefix: vip6})
	hop(t, w, vip, nodeAddr)
	hop(t, w, vip6, nodeAddr6)
	s.awaitAdvertised("r", vip, vip6)
	if p := s.peer("r"); p.Why != "" || p.AS != routerAS || p.RouterID != routerAddr || p.Hold != 9*time.Second || p.Detection != p.Hold {
		t.Errorf("status %+v", p)
	}
	if have := s.set(Route{Prefix: vip}); !slices.Equal(have, []netip.Prefix{vip}) {
		t.Errorf("have %v", have)
	}
	if p := s.peer("r"); !slices.Equal(p.Advertised, []netip.Prefix{vip}) {
		t.Errorf("Set returned, and %v is advertised", p.Advertised)
	}
	hop(t, w, vip6)
	start := time.Now()
	s.end()
	t.Logf("the end took %s", time.Since(start))
	hop(t, w, vip)
}

// TestTwoRouters: FRR and BIRD, one of which goes, and comes again; the other does not notice.
func TestTwoRouters(t *testing.T) {
	lab := routertest.Lab(t, netlab.Options{Nodes: 1, IPv6: true})
	wire(t, lab.Client())
	wireTo(t, lab.Node(1).Host, "up1", 8)
	routertest.FRR(t, lab.Client(), frrConfig(numbered()))
	there, birdAddr := netip.MustParseAddr("10.8.0.1"), netip.MustParseAddr("10.8.0.2")
	config := router.Config{AS: 65010, RouterID: birdAddr, Neighbors: []router.Neighbor{{Addr: there, AS: nodeAS, Passive: true}}}
	bird := routertest.BIRD(t, lab.Node(1).Host, config)
	w, wb := routertest.Watch(t, lab.Client()), routertest.Watch(t, lab.Node(1).Host)
	s := speak(t, numberedPeer(), Peer{Name: "b", Address: birdAddr, AS: 65010, ConnectRetry: time.Second})
	s.set(Route{Prefix: vip})
	hop(t, w, vip, nodeAddr)
	hop(t, wb, vip, there)
	before := s.peer("r")
	must(t, bird.Stop())
	await(t, "words for a router that is gone", func() bool { return strings.Contains(s.peer("b").LastError, "does not listen") })
	if p := s.peer("b"); p.Flaps != 1 || p.State == Established {
		t.Errorf("status %+v", p)
	}
	routertest.BIRD(t, lab.Node(1).Host, config)
	hop(t, wb, vip, there)
	if after := s.peer("r"); after.Flaps != 0 || after.Since != before.Since {
		t.Errorf("the other router noticed: %+v", after)
	}
}

// TestPassword: TCP-MD5 with the right and the wrong password, which is read for each connection.
func TestPassword(t *testing.T) {
	host := newLab(t)
	n := numbered()
	n.Password = "right"
	routertest.FRR(t, host, frrConfig(n))
	w := routertest.Watch(t, host)
	file := filepath.Join(t.TempDir(), "password")
	p := numberedPeer()
	p.PasswordFile = file
	s := speak(t, p)
	s.set(Route{Prefix: vip})
	await(t, "a word on the missing file", func() bool {
		p := s.peer("r")
		return p.State == Idle && strings.Contains(p.Why, "read password")
	})
	must(t, os.WriteFile(file, []byte("right\n"), 0o600))
	hop(t, w, vip, nodeAddr)
}

// TestExtendedNextHop: IPv4 routes over an IPv6 session, when the router agrees to it, and when not (RFC 8950).
func TestExtendedNextHop(t *testing.T) {
	for name, agreed := range map[string]bool{"agreed": true, "not agreed": false} {
		t.Run(name, func(t *testing.T) {
			host := newLab(t)
			routertest.FRR(t, host, frrConfig(router.Neighbor{
				Addr: nodeAddr6, AS: nodeAS, Families: []router.Family{router.IPv4, router.IPv6}, ExtendedNextHop: agreed,
			}))
			w := routertest.Watch(t, host)
			s := speak(t, Peer{Name: "r", Address: routerAddr6, AS: routerAS, ConnectRetry: time.Second})
			s.set(Route{Prefix: vip}, Route{Prefix: vip6})
			hop(t, w, vip6, nodeAddr6)
			if agreed {
				hop(t, w, vip, nodeAddr6)
				s.set(Route{Prefix: vip6})
				hop(t, w, vip)
				return
			}
			p := s.peer("r")
			if len(p.Withheld) != 1 || p.Withheld[0].Prefix != vip || p.Why == "" {
				t.Errorf("status %+v", p)
			}
			t.Log(p.Why)
		})
	}
}

// TestUnnumbered: both sides find each other by router advertisements on the link.
func TestUnnumbered(t *testing.T) {
	host := newLab(t)
	routertest.FRR(t, host, frrConfig(router.Neighbor{Interface: routerEnd, AS: nodeAS, Families: []router.Family{router.IPv4, router.IPv6}}))
	w := routertest.Watch(t, host)
	s := speak(t, Peer{Name: "r", Interface: nodeEnd, ConnectRetry: time.Second})
	s.set(Route{Prefix: vip}, Route{Prefix: vip6})
	hop(t, w, vip, nodeLink6)
	hop(t, w, vip6, nodeLink6)
	if p := s.peer("r"); p.AS != routerAS || p.Address.Addr() != routerLink6.WithZone(nodeEnd) {
		t.Errorf("status %+v", p)
	}
	s.set(Route{Prefix: vip6})
	hop(t, w, vip)
}

// TestAttributes are as the router sees them, to another AS and to our own, and change without a withdrawal.
func TestAttributes(t *testing.T) {
	one := func(n uint32) *uint32 { return &n }
	for name, as := range map[string]uint32{"external": nodeAS, "internal": routerAS} {
		t.Run(name, func(t *testing.T) {
			host := newLab(t)
			n := numbered()
			n.AS = as
			r := routertest.FRR(t, host, frrConfig(n))
			w := routertest.Watch(t, host)
			p := numberedPeer()
			p.LocalAS = as
			p.Attributes = Attributes{Communities: []uint32{65001<<16 | 7}, MED: one(9)}
			s := speak(t, p)
			route := Route{Prefix: vip, Attributes: Attributes{
				Communities: []uint32{65001<<16 | 5}, Large: [][3]uint32{{65001, 1, 2}}, MED: one(50), LocalPref: one(250), Prepend: 2,
			}}
			s.set(route)
			hop(t, w, vip, nodeAddr)
			got := askFRR(t, r, vip).Paths[0]
			path, pref := "65001 65001 65001", uint32(0)
			if as == routerAS {
				path, pref = "", 250
			}
			if got.Aspath.String != path && !(path == "" && got.Aspath.String == "Local") {
				t.Errorf("path %q, want %q", got.Aspath.String, path)
			}
			if got.LocPrf != nil && *got.LocPrf != pref && pref != 0 || got.LocPrf == nil && pref != 0 {
				t.Errorf("local preference %v, want %d", got.LocPrf, pref)
			}
			if got.Metric == nil || *got.Metric != 50 {
				t.Errorf("metric %v", got.Metric)
			}
			if !slices.Equal(got.Community.List, []string{"65001:5", "65001:7"}) || got.Large.String != "65001:1:2" {
				t.Errorf("communities %v, large %q", got.Community, got.Large)
			}
			since, err := w.Await(t.Context(), vip, nodeAddr)
			must(t, err)
			route.Communities = append(route.Communities, GracefulShutdown)
			s.set(route)
			await(t, "the community of a shutdown", func() bool {
				return slices.Contains(askFRR(t, r, vip).Paths[0].Community.List, "gracefulShutdown")
			})
			if again, err := w.Await(t.Context(), vip, nodeAddr); err != nil || again != since {
				t.Errorf("the route was not replaced but withdrawn: %v, %v", again.Sub(since), err)
			}
		})
	}
}

// TestSetPeers: what does not need a new session does not get one.
func TestSetPeers(t *testing.T) {
	host := newLab(t)
	r := routertest.FRR(t, host, frrConfig(numbered()))
	w := routertest.Watch(t, host)
	p := numberedPeer()
	s := speak(t, p)
	s.set(Route{Prefix: vip})
	hop(t, w, vip, nodeAddr)
	up := s.peer("r").Since

	wrong := p
	wrong.Name, wrong.AS, wrong.Multihop, wrong.GTSM = "wrong", 23456, 3, true
	if err := s.SetPeers(t.Context(), []Peer{wrong}); err == nil || !strings.Contains(err.Error(), "peer wrong") {
		t.Errorf("error %v", err)
	}
	must(t, s.SetPeers(t.Context(), []Peer{p}))
	p.Communities = []uint32{65001<<16 | 9}
	must(t, s.SetPeers(t.Context(), []Peer{p}))
	await(t, "the peer's community", func() bool {
		return slices.Contains(askFRR(t, r, vip).Paths[0].Community.List, "65001:9")
	})
	if now := s.peer("r"); now.State != Established || now.Since != up {
		t.Errorf("a new session: %+v", now)
	}
	p.Hold = 6 * time.Second
	must(t, s.SetPeers(t.Context(), []Peer{p}))
	await(t, "a new session", func() bool { return s.peer("r").Hold == 6*time.Second })
	hop(t, w, vip, nodeAddr)
	must(t, s.SetPeers(t.Context(), nil))
	hop(t, w, vip)
	if n := len(s.Status().Peers); n != 0 {
		t.Errorf("%d peers are left", n)
	}
}

// TestWrongAS is said in words, by either side.
func TestWrongAS(t *testing.T) {
	host := newLab(t)
	routertest.FRR(t, host, frrConfig(numbered()))
	p := numberedPeer()
	p.AS = 65010
	q := p
	q.Name, q.AS, q.LocalAS = "r", routerAS, 65002
	s := speak(t, p)
	await(t, "words on the router's AS", func() bool {
		return strings.Contains(s.peer("r").Why, "router says 65000, configured 65010")
	})
	must(t, s.SetPeers(t.Context(), []Peer{q}))
	await(t, "words on our AS", func() bool {
		return strings.Contains(s.peer("r").Why, "peer closed: bad peer AS")
	})
}

// left is a gate that can be moved.
type left struct{ until atomic.Int64 }

func (g *left) Left() time.Duration { return time.Until(time.Unix(0, g.until.Load())) }

func (g *left) set(d time.Duration) { g.until.Store(time.Now().Add(d).UnixNano()) }

// TestGate: a route goes when its gate is over, but not before, and others stay.
func TestGate(t *testing.T) {
	host := newLab(t)
	routertest.FRR(t, host, frrConfig(numbered()))
	w := routertest.Watch(t, host)
	s := speak(t, numberedPeer())
	s.awaitState("r", Established)
	other := netip.MustParsePrefix("192.0.2.11/32")
	g := &left{}
	g.set(4 * time.Second)
	s.set(Route{Prefix: vip, Gate: g}, Route{Prefix: other})
	hop(t, w, vip, nodeAddr)
	extended := time.Now()
	g.set(5 * time.Second)
	ctx := t.Context()
	gone, err := w.Gone(ctx, vip, nodeAddr)
	must(t, err)
	if gone.Before(extended.Add(5 * time.Second)) {
		t.Errorf("gone %s after the extension", gone.Sub(extended))
	}
	t.Logf("withdrawn in the kernel %s after the end of the gate", gone.Sub(extended)-5*time.Second)
	if have := s.set(Route{Prefix: vip, Gate: g}, Route{Prefix: other}); !slices.Equal(have, []netip.Prefix{other}) {
		t.Errorf("have %v", have)
	}
	s.awaitAdvertised("r", other)
	hop(t, w, other, nodeAddr)
}

// TestPassive: the router connects to us, and hears at the end that it is on purpose (RFC 9003).
func TestPassive(t *testing.T) {
	host := newLab(t)
	bird := routertest.BIRD(t, host, frrConfig(numbered()))
	w := routertest.Watch(t, host)
	p := numberedPeer()
	p.Passive = true
	s := speakAs(t, Config{AS: nodeAS, RouterID: id, Listen: netip.AddrPortFrom(nodeAddr, Port)}, p)
	s.set(Route{Prefix: vip})
	hop(t, w, vip, nodeAddr)
	s.end()
	hop(t, w, vip)
	await(t, "the router was told why", func() bool { return strings.Contains(bird.Log(), "Pintle on this node was stopped") })
}

// TestBFD: the session ends when the router no longer answers BFD, and routes wait for it when that is wanted.
func TestBFD(t *testing.T) {
	host := newLab(t)
	n := numbered()
	r := routertest.FRR(t, host, frrConfig(n))
	w := routertest.Watch(t, host)
	p := numberedPeer()
	p.BFD = &BFD{Interval: 100 * time.Millisecond, Strict: true}
	s := speak(t, p)
	s.set(Route{Prefix: vip})
	await(t, "a route that is withheld", func() bool {
		p := s.peer("r")
		return p.State == Established && len(p.Withheld) == 1 && strings.Contains(p.Why, "BFD")
	})
	if hops := w.NextHops(vip); len(hops) != 0 {
		t.Errorf("there is a route by %v", hops)
	}
	n.BFD = &router.BFD{Interval: 100 * time.Millisecond, Multiplier: 3}
	must(t, r.Load(t.Context(), frrConfig(n).FRR()))
	hop(t, w, vip, nodeAddr)
	if p := s.peer("r"); p.BFD == nil || p.BFD.State != bfd.Up || p.Detection != 300*time.Millisecond {
		t.Errorf("status %+v, BFD %+v", p, p.BFD)
	}
	must(t, r.Signal(sigSTOP))
	frozen := time.Now()
	await(t, "the end of the session", func() bool { return s.peer("r").State != Established })
	t.Logf("noticed after %s: %s", time.Since(frozen), s.peer("r").LastError)
	if last := s.peer("r").LastError; !strings.Contains(last, "BFD") {
		t.Errorf("last error %q", last)
	}
	must(t, r.Signal(sigCONT))
	hop(t, w, vip, nodeAddr)
}

// TestGTSM: both sides take nothing from farther than the link.
func TestGTSM(t *testing.T) {
	host := newLab(t)
	n := numbered()
	n.GTSM = true
	routertest.FRR(t, host, frrConfig(n))
	w := routertest.Watch(t, host)
	p := numberedPeer()
	p.GTSM = true
	s := speak(t, p)
	s.set(Route{Prefix: vip})
	hop(t, w, vip, nodeAddr)
}

// TestMultihop: a session between addresses of lo, and a next hop on the link.
func TestMultihop(t *testing.T) {
	host := newLab(t)
	here, there := netip.MustParsePrefix("10.5.0.1/32"), netip.MustParsePrefix("10.6.0.1/32")
	must(t, onLo(here, there, routerAddr))
	t.Cleanup(func() { _ = offLo(here) })
	must(t, host.Do(func() error { return onLo(there, here, nodeAddr) }))
	routertest.FRR(t, host, frrConfig(router.Neighbor{Addr: here.Addr(), LocalAddr: there.Addr(), AS: nodeAS, Multihop: 2}))
	w := routertest.Watch(t, host)
	s := speak(t, Peer{Name: "r", Address: there.Addr(), LocalAddress: here.Addr(), AS: routerAS, Multihop: 2, NextHop4: nodeAddr, ConnectRetry: time.Second})
	s.set(Route{Prefix: vip})
	hop(t, w, vip, nodeAddr)
}

// onLo puts an address on lo, and a route to the other side's.
func onLo(own, other netip.Prefix, via netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := addAddress(lo, own); err != nil {
		return err
	}
	return netlink.RouteReplace(&netlink.Route{
		Dst: &net.IPNet{IP: other.Addr().AsSlice(), Mask: net.CIDRMask(32, 32)}, Gw: via.AsSlice(),
	})
}

func offLo(own netip.Prefix) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.AddrDel(lo, &netlink.Addr{IPNet: &net.IPNet{IP: own.Addr().AsSlice(), Mask: net.CIDRMask(own.Bits(), 32)}})
}

// TestOwnAddress: the kernel would choose the address that is advertised, which is no place to connect from.
func TestOwnAddress(t *testing.T) {
	host := newLab(t)
	routertest.FRR(t, host, frrConfig(numbered()))
	link, err := netlink.LinkByName(nodeEnd)
	must(t, err)
	must(t, onLo(vip, netip.MustParsePrefix("10.6.0.2/32"), routerAddr))
	t.Cleanup(func() { _ = offLo(vip) })
	must(t, netlink.RouteReplace(&netlink.Route{ // the way to the router, with the worst source
		LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, Src: vip.Addr().AsSlice(),
		Dst: &net.IPNet{IP: routerAddr.AsSlice(), Mask: net.CIDRMask(32, 32)},
	}))
	w, err := wayTo(routerAddr)
	if err != nil || w.local != vip.Addr() {
		t.Fatalf("the kernel would choose %s: %v", w.local, err)
	}
	t.Run("advertised", func(t *testing.T) {
		s := speak(t)
		s.set(Route{Prefix: vip})
		must(t, s.SetPeers(t.Context(), []Peer{numberedPeer()}))
		if p := s.awaitState("r", Established); p.Local != nodeAddr {
			t.Errorf("local address %s", p.Local)
		}
	})
	t.Run("shared", func(t *testing.T) {
		s := speakAs(t, Config{AS: nodeAS, RouterID: id, Shared: []netip.Addr{vip6.Addr(), vip.Addr()}}, numberedPeer())
		if p := s.awaitState("r", Established); p.Local != nodeAddr {
			t.Errorf("local address %s", p.Local)
		}
	})
}

// TestNextHopComes: an address that the routes of a running session need may come late, and go.
func TestNextHopComes(t *testing.T) {
	host := newLab(t)
	routertest.FRR(t, host, frrConfig(numbered(router.IPv4, router.IPv6)))
	link, err := netlink.LinkByName(nodeEnd)
	must(t, err)
	own := &netlink.Addr{IPNet: &net.IPNet{IP: nodeAddr6.AsSlice(), Mask: net.CIDRMask(64, 128)}}
	must(t, netlink.AddrDel(link, own))
	s := speak(t, numberedPeer())
	s.set(Route{Prefix: vip}, Route{Prefix: vip6})
	withheld := func() bool {
		p := s.peer("r")
		return slices.Equal(p.Advertised, []netip.Prefix{vip}) && len(p.Withheld) == 1 && strings.Contains(p.Why, "no global IPv6 address")
	}
	await(t, "a route that is withheld", withheld)
	must(t, addAddress(link, netip.PrefixFrom(nodeAddr6, 64)))
	s.awaitAdvertised("r", vip, vip6)
	must(t, netlink.AddrDel(link, own))
	await(t, "a route that is withdrawn", withheld)
	if p := s.peer("r"); p.Flaps != 0 {
		t.Errorf("status %+v", p)
	}
}

// TestRestart: a router that restarts has the routes again soon, and what a start takes.
func TestRestart(t *testing.T) {
	host := newLab(t)
	config := frrConfig(router.Neighbor{Addr: nodeAddr, AS: nodeAS, Passive: true})
	bird := routertest.BIRD(t, host, config)
	w := routertest.Watch(t, host)
	start := time.Now()
	s := speak(t, Peer{Name: "r", Address: routerAddr, AS: routerAS})
	s.set(Route{Prefix: vip})
	hop(t, w, vip, nodeAddr)
	t.Logf("start -> route in the router's kernel: %s", time.Since(start))
	reset := time.Now()
	_, err := bird.Ask(t.Context(), "restart", "n1")
	must(t, err)
	await(t, "the session was reset", func() bool { return s.peer("r").Flaps == 1 })
	hop(t, w, vip, nodeAddr)
	t.Logf("reset -> route: %s", time.Since(reset))
	if p := s.peer("r"); !strings.Contains(p.LastError, "peer closed") {
		t.Errorf("last error %q", p.LastError)
	}
	must(t, bird.Signal(sigKILL))
	await(t, "the router is gone", func() bool { return s.peer("r").Flaps == 2 })
}

// TestNoLeak: sessions leave nothing behind, neither here nor in gobgp.
func TestNoLeak(t *testing.T) {
	s := newServer(t)
	session := func() {
		n := neighbour{localAS: nodeAS, remoteAS: routerAS, hold: 9 * time.Second, keepalive: 3 * time.Second, families: []Family{IPv4}}
		conn, err := s.connect(t.Context(), n)
		must(t, err)
		must(t, s.add(testVIP))
		conn.Close()
		s.disconnect()
	}
	session()
	before := 0
	await(t, "a quiet moment", func() bool {
		n := runtime.NumGoroutine()
		time.Sleep(50 * time.Millisecond)
		before = n
		return n == runtime.NumGoroutine()
	})
	const times = 200 // more than the kernel has room for keys on one socket
	for range times {
		session()
	}
	await(t, "goroutines end", func() bool { return runtime.NumGoroutine() < before+times/2 })
}
