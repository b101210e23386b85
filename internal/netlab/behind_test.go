package netlab

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// A host behind the client reaches every node, and an address of theirs by the routes that the router is told.
func TestBehind(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		l := newLab(t, Options{Nodes: 2, IPv6: ipv6})
		far, err := l.Behind(l.Client())
		must(t, err)
		if far.Name() != "behind-client" || far.Addr() != netip.MustParseAddr("10.78.200.2") {
			t.Errorf("it is %s, %s", far.Name(), far.Addr())
		}
		for _, n := range l.Nodes() {
			if !passes(t, far, n.Host, n.Addr(), true) {
				t.Errorf("no way to %s", n.Addr())
			}
			if ipv6 && !passes(t, far, n.Host, n.Addr6(), true) {
				t.Errorf("no way to %s", n.Addr6())
			}
		}
		if _, err := l.Behind(l.Client()); err == nil {
			t.Error("made a second host behind the same one")
		}
	}
}

// Flows through a router with two next hops reach both, and what one of them does not answer is lost on its flows alone.
func TestFlows(t *testing.T) {
	const vip = "10.99.0.1"
	l := newLab(t, Options{Nodes: 2})
	far, err := l.Behind(l.Client())
	must(t, err)
	var hops []*netlink.NexthopInfo
	for _, n := range l.Nodes() {
		give(t, n.Host, "lo", vip+"/32")
		startEcho(t, n)
		hops = append(hops, &netlink.NexthopInfo{Gw: n.Addr().AsSlice()})
	}
	dst := netlink.NewIPNet(netip.MustParseAddr(vip).AsSlice())
	must(t, l.Client().Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/fib_multipath_hash_policy", []byte("1"), 0)
	}))
	must(t, l.Client().withNetlink(func(nl *netlink.Handle) error {
		return nl.RouteAdd(&netlink.Route{Dst: dst, MultiPath: hops})
	}))
	const flows, every = 16, 10 * time.Millisecond
	f, err := far.StartFlows(netip.MustParseAddr(vip), flows, every)
	must(t, err)
	eventually(t, "answers on every flow", func() bool {
		for _, r := range f.flows {
			if r.between(0, now()).Sent == r.between(0, now()).Lost {
				return false
			}
		}
		return true
	})
	from := f.Mark()
	time.Sleep(200 * time.Millisecond) // what is measured
	to := f.Mark()
	ports, nodes := map[uint16]bool{}, map[string]bool{}
	for _, flow := range f.Report(from, to) {
		ports[flow.Port] = true
		if flow.Sent == 0 || flow.Lost != 0 || len(flow.Answers) != 1 {
			t.Errorf("a well flow: %+v", flow)
		}
		for n := range flow.Answers {
			nodes[n] = true
		}
	}
	if len(ports) != flows || !nodes["n1"] || !nodes["n2"] {
		t.Errorf("ports %v, nodes %v", ports, nodes)
	}

	must(t, l.Node(2).Cut())
	from = f.Mark()
	time.Sleep(200 * time.Millisecond)
	lost := 0
	for _, flow := range f.Report(from, f.Mark()) {
		if flow.Lost != 0 && flow.Lost != flow.Sent || flow.Answers["n2"] != 0 {
			t.Errorf("with n2 cut: %+v", flow)
		}
		lost += flow.Lost
	}
	if lost == 0 {
		t.Error("nothing was lost with n2 cut")
	}
	f.Close()
}
