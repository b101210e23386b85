package bgp

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/test/router"
)

// The cable between this process's namespace, which is the node, and a router's.
var (
	nodeAddr, routerAddr   = netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2")
	nodeAddr6, routerAddr6 = netip.MustParseAddr("fd09::1"), netip.MustParseAddr("fd09::2")
	nodeLink6, routerLink6 = netip.MustParseAddr("fe80::9:1"), netip.MustParseAddr("fe80::9:2")
	vip, vip6              = netip.MustParsePrefix("192.0.2.10/32"), netip.MustParsePrefix("2001:db8::10/128")
	id                     = netip.MustParseAddr("192.0.2.254")
)

const (
	nodeEnd, routerEnd = "up0", "eth9"
	nodeAS, routerAS   = 65001, 65000
	patience           = 20 * time.Second
)

// wire lays the cable to the host, over the link names of both ends.
func wire(t testing.TB, host *netlab.Host) { wireTo(t, host, nodeEnd, 9) }

// wireTo lays one with addresses of network 10.net.0.0/24 and fd<net>::/64.
func wireTo(t testing.TB, host *netlab.Host, name string, network int) {
	t.Helper()
	if os.Getenv(ownEnv) == "" {
		if os.Getenv("LAB") == "require" {
			t.Fatal("no network namespace of its own: run as root")
		}
		t.Skip("this test needs a network namespace of its own: run as root")
	}
	var there int
	must(t, host.Do(func() (err error) {
		there, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	}))
	defer unix.Close(there)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: routerEnd, PeerNamespace: netlink.NsFd(there)}))
	link, err := netlink.LinkByName(name)
	must(t, err)
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
	must(t, address(name, network, 1))
	must(t, host.Do(func() error { return address(routerEnd, network, 2) }))
	await(t, "the cable carries", func() bool {
		l, err := net.InterfaceByName(name)
		return err == nil && l.Flags&net.FlagRunning != 0
	})
}

func address(name string, network, host int) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE); err != nil {
		return err
	}
	for _, s := range []string{
		fmt.Sprintf("10.%d.0.%d/24", network, host), fmt.Sprintf("fd%02d::%d/64", network, host), fmt.Sprintf("fe80::%d:%d/64", network, host),
	} {
		if err := addAddress(link, netip.MustParsePrefix(s)); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

func addAddress(link netlink.Link, p netip.Prefix) error {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return netlink.AddrReplace(link, a)
}

const (
	sigSTOP = syscall.SIGSTOP
	sigCONT = syscall.SIGCONT
	sigKILL = syscall.SIGKILL
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// await waits for what comes sooner or later.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// A running Speaker.
type running struct {
	*Speaker
	t    testing.TB
	stop context.CancelFunc
	done chan error
}

// speak runs a Speaker with the peers until the test ends.
func speak(t testing.TB, peers ...Peer) *running {
	return speakAs(t, Config{AS: nodeAS, RouterID: id}, peers...)
}

func speakAs(t testing.TB, cfg Config, peers ...Peer) *running {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	s, err := New(cfg)
	must(t, err)
	must(t, s.SetPeers(t.Context(), peers))
	return runs(t, s)
}

func runs(t testing.TB, s *Speaker) *running {
	ctx, stop := context.WithCancel(context.Background())
	r := &running{Speaker: s, t: t, stop: stop, done: make(chan error, 1)}
	go func() { r.done <- s.Run(ctx) }()
	t.Cleanup(r.end)
	return r
}

// end stops it, and sees that it does stop.
func (r *running) end() {
	r.t.Helper()
	r.stop()
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Errorf("run: %v", err)
		}
		r.done <- nil // for the next time
	case <-time.After(patience):
		r.t.Fatal("Run does not end")
	}
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

func (r *running) peer(name string) PeerStatus {
	for _, p := range r.Status().Peers {
		if p.Name == name {
			return p
		}
	}
	r.t.Fatalf("no peer %s", name)
	return PeerStatus{}
}

func (r *running) awaitState(name string, want State) PeerStatus {
	r.t.Helper()
	var p PeerStatus
	end := time.Now().Add(patience)
	for p = r.peer(name); p.State != want; p = r.peer(name) {
		if time.Now().After(end) {
			r.t.Fatalf("%s is %s, not %s: %s", name, p.State, want, p.Why)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return p
}

func (r *running) set(routes ...Route) []netip.Prefix {
	r.t.Helper()
	have, err := r.Set(r.t.Context(), routes)
	must(r.t, err)
	return have
}

func (r *running) awaitAdvertised(name string, want ...netip.Prefix) {
	r.t.Helper()
	slices.SortFunc(want, netip.Prefix.Compare)
	var got []netip.Prefix
	end := time.Now().Add(patience)
	for !slices.Equal(got, want) || got == nil {
		if got = r.peer(name).Advertised; time.Now().After(end) {
			r.t.Fatalf("%s was told %v, want %v: %+v", name, got, want, r.peer(name))
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// hop waits until the router's kernel sends to the prefix by way of hops, or not at all.
func hop(t testing.TB, w *router.Watch, prefix netip.Prefix, hops ...netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := w.Await(ctx, prefix, hops...); err != nil {
		t.Fatalf("route to %s by %v: it is by %v: %v", prefix, hops, w.NextHops(prefix), err)
	}
}

// frrPath is what FRR says of a route.
type frrPath struct {
	Paths []struct {
		Aspath    struct{ String string }
		Metric    *uint32
		LocPrf    *uint32
		Community struct{ List []string }
		Large     struct{ String string } `json:"largeCommunity"`
		Nexthops  []struct{ IP, Scope string }
	}
}

func askFRR(t testing.TB, r *router.Router, prefix netip.Prefix) frrPath {
	t.Helper()
	out, err := r.Ask(t.Context(), fmt.Sprintf("show bgp %s unicast %s json", familyOf(prefix).frr(), prefix))
	must(t, err)
	var p frrPath
	if err := json.Unmarshal([]byte(out), &p); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return p
}

// frrConfig is the router at the other end of the cable.
func frrConfig(n ...router.Neighbor) router.Config {
	return router.Config{AS: routerAS, RouterID: routerAddr, Neighbors: n}
}

func numbered(families ...router.Family) router.Neighbor {
	return router.Neighbor{Addr: nodeAddr, AS: nodeAS, Families: families}
}

func numberedPeer() Peer {
	return Peer{Name: "r", Address: routerAddr, AS: routerAS, ConnectRetry: time.Second}
}
