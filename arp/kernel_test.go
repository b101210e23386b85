package arp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	rfc826 "github.com/mdlayher/arp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var both = []netip.Addr{vip4, vip6}

// targets are both addresses on eth0.
func targets(claim Gate) []Target { return []Target{{"eth0", vip4, claim}, {"eth0", vip6, claim}} }

// bind puts both addresses on lo, where package vip has them.
func (n *space) bind() {
	n.address("lo", vip4.String()+"/32")
	n.address("lo", vip6.String()+"/128")
}

func TestClientsFollowTheLastClaimant(t *testing.T) {
	seg := newSegment(t)
	a, b, client := seg.station(1).speak(nil), seg.station(2).speak(nil), seg.station(10)
	for _, n := range []*node{a, b} {
		n.bind()
		n.set(targets(nil)...)
	}
	for _, state := range []int{unix.NUD_REACHABLE, unix.NUD_STALE} {
		for _, addr := range both {
			client.believe("eth0", addr, a.mac("eth0"), state)
		}
		holder, other := a, b
		for range 12 { // each change comes while the bursts before it are still going on
			holder, other = other, holder
			other.set(targets(nil)...)
			start := time.Now()
			holder.set(targets(openGate())...)
			for _, addr := range both {
				eventually(t, fmt.Sprintf("client has %s at the new holder", addr), func() bool {
					return client.believes("eth0", addr) == holder.mac("eth0")
				})
			}
			eventually(t, "next change is due", func() bool { return time.Since(start) > 30*time.Millisecond })
		}
		for _, addr := range both {
			if client.believes("eth0", addr) != holder.mac("eth0") {
				t.Errorf("client has left the last claimant of %s", addr)
			}
		}
		holder.set(targets(nil)...)
	}
	if st := b.stat("eth0", vip4); st.Defended != 0 || st.Heard == 0 || st.WriteErrors != 0 {
		t.Errorf("stats %+v", st)
	}
}

func TestKernelClientsAreAnswered(t *testing.T) {
	seg := newSegment(t)
	a, client := seg.station(1).speak(nil), seg.station(10)
	var unicast atomic.Int64
	own := a.mac("eth0")
	a.host.read = func(b []byte) {
		if m, err := parse(b); err == nil && m.asks == vip6 && m.to == own {
			unicast.Add(1)
		}
	}
	a.bind()
	for _, f := range []string{"ipv4", "ipv6"} { // a client that gives up soon
		client.sysctl("net/"+f+"/neigh/eth0/retrans_time_ms", "60")
	}
	g := openGate()
	a.set(targets(g)...)
	for _, addr := range both {
		eventually(t, addr.String()+" is resolved", func() bool {
			switch client.neighbour("eth0", addr).State {
			case 0, unix.NUD_FAILED: // at first, or because this process stood still
				client.knock(addr)
			}
			return client.believes("eth0", addr) == own
		})
		before := a.stat("eth0", addr).Answered
		client.believe("eth0", addr, own, unix.NUD_PROBE) // asks our MAC alone whether it is still there
		eventually(t, addr.String()+" is confirmed", func() bool {
			return client.neighbour("eth0", addr).State == netlink.NUD_REACHABLE && a.stat("eth0", addr).Answered > before
		})
	}
	if unicast.Load() == 0 {
		t.Error("no unicast NS was seen")
	}

	g.open.Store(0) // without Set
	for _, addr := range both {
		before := a.stat("eth0", addr)
		client.forget("eth0", addr)
		client.knock(addr)
		eventually(t, addr.String()+" is given up", func() bool {
			client.knock(addr)
			return client.neighbour("eth0", addr).State == netlink.NUD_FAILED
		})
		if after := a.stat("eth0", addr); after.Answered != before.Answered || after.Announced != before.Announced {
			t.Errorf("%s: claimed with a closed gate: %+v", addr, after)
		}
	}
}

// stamped waits until the kernel notes when frames come, which it does some time after the first socket wants that; till then they come
// when they are read.
func stamped(t *testing.T, seg *segment) {
	t.Helper()
	to, from := seg.station(201).wire("eth0", etherARP), seg.station(202).wire("eth0", etherARP)
	eventually(t, "the kernel notes when frames come", func() bool {
		if err := from.send(probe(vip4, us)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
		reads := time.Now()
		_, came, err := to.read(make([]byte, maxFrame), 30*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return came.Before(reads)
	})
}

// TestFramesThatWaited: what came before the claim, and was not read because this node was not scheduled, is not answered late, and is
// no claim against this one.
func TestFramesThatWaited(t *testing.T) {
	seg := newSegment(t)
	stamped(t, seg)
	a, asker := seg.station(1).speak(nil), seg.station(10)
	scheduled, stopped := make(chan struct{}), make(chan struct{}, 2)
	a.host.read = func([]byte) {
		select {
		case stopped <- struct{}{}:
		default:
		}
		<-scheduled
	}
	a.set(targets(nil)...)
	group, groupMAC := solicitedNode(vip6)
	ask := map[uint16][]byte{
		etherARP:  arpFrame(broadcast, rfc826.OperationRequest, them, peer4, nobody, vip4),
		etherIPv6: nsFrame(peer6, group, vip6, groupMAC),
	}
	claim := map[uint16][]byte{etherARP: announcements(vip4, them)[0], etherIPv6: announcements(vip6, them)[0]}
	const waiting = 5
	for kind, question := range ask {
		from, seen := asker.wire("eth0", kind), a.wire("eth0", kind)
		for range waiting {
			a.must(from.send(question))
			a.must(from.send(claim[kind]))
		}
		for range 2 * waiting { // they are on the node
			if _, _, err := seen.read(make([]byte, maxFrame), 30*time.Second); err != nil {
				t.Fatal(err)
			}
		}
		<-stopped
	}
	a.set(targets(openGate())...)
	close(scheduled)
	for kind, question := range ask {
		a.must(asker.wire("eth0", kind).send(question))
	}
	for _, addr := range both {
		eventually(t, addr.String()+" is asked for when it is claimed", func() bool { return a.stat("eth0", addr).Answered > 0 })
		if n := a.stat("eth0", addr).Answered; n != 1 {
			t.Errorf("%s: %d answers to one question since the claim and %d before it", addr, n, waiting)
		}
		if st := a.stat("eth0", addr); st.Heard != waiting || st.Defended != 0 {
			t.Errorf("%s: %d claims before this one: %+v", addr, waiting, st)
		}
	}
}

func TestListenersAreSilent(t *testing.T) {
	seg := newSegment(t)
	var sent atomic.Int64
	a, b, asker := seg.station(1).speak(nil), seg.station(2).speak(func([]byte) { sent.Add(1) }), seg.station(10)
	b.set(targets(nil)...)
	a.set(targets(openGate())...)
	for _, addr := range both {
		eventually(t, "the claim is heard", func() bool {
			return b.hears(func(h Heard) bool {
				return h.Addr == addr && h.Link == "eth0" && h.MAC == a.mac("eth0").String() && !h.Defended && !h.At.IsZero()
			})
		})
		asker.knock(addr)
		eventually(t, "the holder has answered", func() bool { return asker.believes("eth0", addr) == a.mac("eth0") })
	}
	if n := sent.Load(); n != 0 {
		t.Errorf("a listener sent %d frames", n)
	}
	// The group is joined beforehand, for switches that look at MLD.
	group, _ := solicitedNode(vip6)
	if !joined(t, b, group) {
		t.Errorf("listener has not joined %s on eth0", group)
	}
	b.set()
	if joined(t, b, group) {
		t.Errorf("still in %s on eth0 without a target", group)
	}
}

// joined says whether n's kernel is in an IPv6 group on eth0.
func joined(t *testing.T, n *node, group netip.Addr) (yes bool) {
	n.do(func() {
		b, err := os.ReadFile("/proc/thread-self/net/igmp6")
		if err != nil {
			t.Error(err)
		}
		yes = strings.Contains(string(b), fmt.Sprintf("eth0            %x", group.AsSlice()))
	})
	return yes
}

func TestForgedClaimsAreHealed(t *testing.T) {
	seg := newSegment(t)
	a, client, rogue := seg.station(1).speak(nil), seg.station(10), seg.station(66)
	a.bind()
	start := time.Now()
	a.set(targets(openGate())...)
	forger := rogue.mac("eth0")
	wires := map[netip.Addr]wire{vip4: rogue.wire("eth0", etherARP), vip6: rogue.wire("eth0", etherIPv6)}
	eventually(t, "the take-over is over, which would heal the client too", func() bool {
		return time.Since(start) > takeOver[len(takeOver)-1]+200*time.Millisecond
	})
	for _, addr := range both {
		client.believe("eth0", addr, a.mac("eth0"), unix.NUD_REACHABLE)
		before, forged := a.stat("eth0", addr), uint64(0)
		for range 3 {
			for _, f := range announcements(addr, forger) {
				if err := wires[addr].send(f); err != nil {
					t.Fatal(err)
				}
				forged++
			}
		}
		eventually(t, "all of it is heard", func() bool { return a.stat("eth0", addr).Heard >= before.Heard+forged })
		eventually(t, "the client is healed", func() bool { return client.believes("eth0", addr) == a.mac("eth0") })
		// The defence did it, and not the next steady repeat, which comes 9 s after the take-over at the earliest.
		if took := time.Since(start); took > takeOver[len(takeOver)-1]+steady*9/10 {
			t.Errorf("%s: healed only %v after the take-over", addr, took)
		}
		if !a.hears(func(h Heard) bool { return h.Addr == addr && h.MAC == forger.String() && h.Defended }) {
			t.Errorf("%s: reported as not contested", addr)
		}
		if st := a.stat("eth0", addr); st.LastMAC != forger.String() || st.Defended == 0 || st.Announced == before.Announced {
			t.Errorf("stats %+v, before %+v", st, before)
		}
	}
}

func TestTwoStubbornHoldersDoNotFillTheNetwork(t *testing.T) {
	seg := newSegment(t)
	a, b := seg.station(1).speak(nil), seg.station(2).speak(nil)
	a.set(targets(openGate())...)
	b.set(targets(openGate())...)
	start := time.Now()
	for _, n := range []*node{a, b} {
		for _, addr := range both {
			eventually(t, "the fight is on", func() bool { return n.stat("eth0", addr).Defended > 0 })
		}
	}
	eventually(t, "four seconds have passed", func() bool { return time.Since(start) > 4*time.Second })
	for _, n := range []*node{a, b} {
		for _, addr := range both {
			most := fightMax + 2 + uint64(time.Since(start)/fightPause)
			if st := n.stat("eth0", addr); st.Defended > most {
				t.Errorf("%d bursts against each other in %v: %+v", st.Defended, time.Since(start), st)
			}
		}
	}
}

func TestLinkDownAndUp(t *testing.T) {
	seg := newSegment(t)
	a, client := seg.station(1).speak(nil), seg.station(10)
	a.bind()
	g := openGate()
	a.set(targets(g)...)
	for range 3 {
		a.down("eth0")
		a.Refresh("eth0")
		if have, err := a.Set(context.Background(), targets(g)); err == nil || len(have) != 0 {
			t.Errorf("Set with the link down: %v, %v", have, err)
		}
		for _, addr := range both {
			client.believe("eth0", addr, them, unix.NUD_REACHABLE)
		}
		a.up("eth0")
		eventually(t, "carrier", func() bool { return a.link("eth0").Attrs().OperState == netlink.OperUp })
		a.Refresh("eth0")
		for _, addr := range both {
			eventually(t, "client is told of "+addr.String(), func() bool { return client.believes("eth0", addr) == a.mac("eth0") })
			client.forget("eth0", addr)
			client.knock(addr)
			eventually(t, addr.String()+" is answered again", func() bool { return client.believes("eth0", addr) == a.mac("eth0") })
		}
	}
	a.set(targets(g)...)
}

// A bond may take the address of another slave (fail_over_mac=active).
func TestLinkChangesItsAddress(t *testing.T) {
	seg := newSegment(t)
	a, client := seg.station(1).speak(nil), seg.station(10)
	a.bind()
	a.set(targets(openGate())...)
	for _, addr := range both {
		client.believe("eth0", addr, a.mac("eth0"), unix.NUD_REACHABLE)
	}
	a.must(a.nl.LinkSetHardwareAddr(a.link("eth0"), us[:]))
	a.Refresh("eth0")
	for _, addr := range both {
		eventually(t, "client is told of the new MAC", func() bool { return client.believes("eth0", addr) == us })
		client.forget("eth0", addr)
		client.knock(addr)
		eventually(t, "the answer has the new MAC", func() bool { return client.believes("eth0", addr) == us })
	}
}

func TestLinkDeletedAndMadeAgain(t *testing.T) {
	for _, told := range []bool{true, false} {
		t.Run(fmt.Sprintf("told=%v", told), func(t *testing.T) {
			seg := newSegment(t)
			a, client := seg.station(1).speak(nil), seg.station(10)
			a.bind()
			g := openGate()
			a.set(targets(g)...)
			former := a.mac("eth0")
			a.must(a.nl.LinkDel(a.link("eth0")))
			if have, err := a.Set(context.Background(), targets(g)); err == nil || len(have) != 0 {
				t.Errorf("Set without the link: %v, %v", have, err)
			}
			seg.attach(a.space, "eth0")
			a.address("eth0", "192.0.2.1/24")
			a.address("eth0", "2001:db8::1/64")
			if told {
				a.Refresh("eth0")
				a.set(targets(g)...)
			}
			for _, addr := range both {
				eventually(t, addr.String()+" is answered on the new link", func() bool {
					client.forget("eth0", addr)
					client.knock(addr)
					m := client.believes("eth0", addr)
					return m == a.mac("eth0") && m != former
				})
			}
			group, _ := solicitedNode(vip6)
			eventually(t, "the group is joined on the new link", func() bool { return joined(t, a, group) })
			eventually(t, "all is well", func() bool {
				have, err := a.Set(context.Background(), targets(g))
				return err == nil && len(have) == 2
			})
		})
	}
}

func TestManyAddressesOnTwoLinks(t *testing.T) {
	first, second := newSegment(t), newSegment(t)
	an, client := first.station(1), first.station(10)
	second.attach(an, "eth1")
	second.attach(client, "eth1")
	client.address("eth1", "198.51.100.10/24")
	client.address("eth1", "2001:db8:1::10/64")
	a := an.speak(nil)
	g := openGate()
	var want []Target
	for i := range 20 {
		for link, form := range map[string][]string{"eth0": {"192.0.2.%d", "2001:db8::a:%d"}, "eth1": {"198.51.100.%d", "2001:db8:1::a:%d"}} {
			for _, f := range form {
				want = append(want, Target{link, netip.MustParseAddr(fmt.Sprintf(f, 100+i)), g})
			}
		}
	}
	for _, w := range want {
		client.believe(w.Link, w.Addr, them, unix.NUD_REACHABLE)
	}
	a.set(want...)
	for _, w := range want {
		eventually(t, w.Addr.String()+" moves", func() bool { return client.believes(w.Link, w.Addr) == a.mac(w.Link) })
	}
}

func TestTwoLinksOnOneSegment(t *testing.T) {
	seg := newSegment(t)
	n, other := seg.station(1), seg.station(2)
	seg.attach(n, "eth1")
	a := n.speak(nil)
	want := append(targets(openGate()), Target{"eth1", vip4, nil}, Target{"eth1", vip6, nil})
	a.set(want...)
	// What another station claims afterwards comes after our own frames, on each link.
	eventually(t, "both are announced", func() bool { return a.stat("eth0", vip4).Announced > 0 && a.stat("eth0", vip6).Announced > 0 })
	for addr, w := range map[netip.Addr]wire{vip4: other.wire("eth0", etherARP), vip6: other.wire("eth0", etherIPv6)} {
		other.must(w.send(announcements(addr, other.mac("eth0"))[0]))
		for _, link := range []string{"eth0", "eth1"} {
			eventually(t, "the other station is heard on "+link, func() bool {
				return a.hears(func(h Heard) bool { return h.Addr == addr && h.Link == link })
			})
		}
	}
	if a.hears(func(h Heard) bool { return h.MAC != other.mac("eth0").String() }) {
		t.Errorf("a node heard itself: %+v", a.heard)
	}
}

func TestAnotherVLANIsAnotherNetwork(t *testing.T) {
	seg := newSegment(t)
	a, other := seg.station(1).speak(nil), seg.station(2)
	a.set(targets(nil)...)
	tagged := func(vlan byte, frame []byte) []byte {
		return append(append(append([]byte(nil), frame[:12]...), 0x81, 0, 0, vlan), frame[12:]...)
	}
	last := mac{2, 0, 0, 0, 0, 0x77}
	for addr, w := range map[netip.Addr]wire{vip4: other.wire("eth0", etherARP), vip6: other.wire("eth0", etherIPv6)} {
		eventually(t, "the claim without a VLAN is heard", func() bool {
			other.must(w.send(tagged(7, announcements(addr, them)[0])))
			other.must(w.send(tagged(0, announcements(addr, last)[0]))) // a priority tag only: this network
			return a.hears(func(h Heard) bool { return h.Addr == addr && h.MAC == last.String() })
		})
		if a.hears(func(h Heard) bool { return h.MAC == them.String() }) {
			t.Errorf("%s: heard a claim of another VLAN", addr)
		}
	}
}

func TestIPv6NeedsNoLinkLocalAddress(t *testing.T) {
	seg := newSegment(t)
	n, client := newSpace(t), seg.station(10)
	n.sysctl("net/ipv6/conf/default/addr_gen_mode", "1") // none
	seg.attach(n, "eth0")
	addrs, err := n.nl.AddrList(n.link("eth0"), netlink.FAMILY_V6)
	if err != nil || len(addrs) != 0 {
		t.Fatalf("eth0 has IPv6 addresses: %v, %v", addrs, err)
	}
	a := n.speak(nil)
	n.bind()
	a.set(targets(openGate())...)
	for _, addr := range both {
		client.knock(addr)
		eventually(t, addr.String()+" is resolved", func() bool { return client.believes("eth0", addr) == a.mac("eth0") })
	}
}

func TestLinkWithoutIPv6StillSpeaksIPv4(t *testing.T) {
	seg := newSegment(t)
	a, client := seg.station(1).speak(nil), seg.station(10)
	a.must(a.nl.LinkSetMTU(a.link("eth0"), 1000)) // below 1280, IPv6 is off (RFC 8200 5)
	g := openGate()
	have, err := a.Set(context.Background(), targets(g))
	if err == nil || len(have) != 1 || have[0].Addr != vip4 {
		t.Errorf("Set: %v, %v", have, err)
	}
	client.knock(vip4)
	eventually(t, "IPv4 is resolved", func() bool { return client.believes("eth0", vip4) == a.mac("eth0") })
	a.must(a.nl.LinkSetMTU(a.link("eth0"), 1500))
	eventually(t, "IPv6 works once it can", func() bool {
		have, err := a.Set(context.Background(), targets(g))
		return err == nil && len(have) == 2
	})
}

func TestProbeFindsOwners(t *testing.T) {
	fast := probing{wait: 5 * time.Millisecond, least: 30 * time.Millisecond, most: 40 * time.Millisecond, settle: 60 * time.Millisecond}
	seg := newSegment(t)
	a, owner := seg.station(1), seg.station(2)
	h := &spaceHost{n: a}
	slow := rfc5227
	slow.wait = 0
	for _, addr := range []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")} {
		m, found, err := slow.probe(t.Context(), h, "eth0", addr) // the first answer ends it
		if m != owner.mac("eth0") || !found || err != nil {
			t.Errorf("probe %s: %v, %v, %v; want %v", addr, m, found, err, owner.mac("eth0"))
		}
	}
	speaker := owner.speak(nil)
	for _, addr := range both {
		if m, found, err := fast.probe(t.Context(), h, "eth0", addr); found || err != nil {
			t.Errorf("probe %s, which nobody has: %v, %v, %v", addr, m, found, err)
		}
	}
	speaker.set(targets(openGate())...)
	for _, addr := range both {
		if m, found, err := slow.probe(t.Context(), h, "eth0", addr); m != owner.mac("eth0") || !found || err != nil {
			t.Errorf("probe %s of a speaker: %v, %v, %v", addr, m, found, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, found, err := fast.probe(ctx, h, "eth0", peer4); found || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v, %v", found, err)
	}
	if _, _, err := fast.probe(t.Context(), h, "nolink", vip4); err == nil {
		t.Error("probe on a link that does not exist succeeded")
	}
	if _, _, err := fast.probe(t.Context(), h, "lo", vip4); err == nil {
		t.Error("probe on lo, which is no Ethernet, succeeded")
	}
}

// flood asks for addr some 10,000 times a second, and returns how to stop.
func flood(t *testing.T, n *space, addr netip.Addr) (stop func()) {
	w := n.wire("eth0", etherARP)
	ask := arpFrame(broadcast, rfc826.OperationRequest, n.mac("eth0"), netip.MustParseAddr("192.0.2.10"), nobody, addr)
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			for range 10 {
				_ = w.send(ask) // full buffers do not matter
			}
		}
	}()
	return func() { close(end); <-ended }
}

func TestEachClaimAsksTheGate(t *testing.T) {
	seg := newSegment(t)
	var sent, read atomic.Int64
	a, client := seg.station(1).speak(func([]byte) { sent.Add(1) }), seg.station(10)
	a.host.read = func([]byte) { read.Add(1) }
	g := openGate()
	a.set(Target{"eth0", vip4, g})
	stop := flood(t, client, vip4)
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		g.open.Store(1 - g.open.Load())
	}
	g.open.Store(1)
	eventually(t, "requests are answered", func() bool { return a.stat("eth0", vip4).Answered > 100 })
	g.open.Store(0)
	a.Stats() // takes the link's lock: what was between check and send has been sent
	closed := sent.Load()
	if asked := g.asked.Load(); closed > asked {
		t.Errorf("%d frames claimed, and the gate said yes %d times", closed, asked)
	}
	before := read.Load()
	eventually(t, "more requests come", func() bool { return read.Load() > before+200 })
	stop()
	if n := sent.Load(); n != closed {
		t.Errorf("%d frames claimed after the gate closed", n-closed)
	}
}

func TestNoClaimAfterSetReturned(t *testing.T) {
	seg := newSegment(t)
	var sealed atomic.Bool
	var late, sent atomic.Int64
	a, client := seg.station(1).speak(func([]byte) {
		sent.Add(1)
		if sealed.Load() {
			late.Add(1)
		}
	}), seg.station(10)
	other := netip.MustParseAddr("192.0.2.11")
	a.set(Target{"eth0", vip4, nil})
	defer flood(t, client, vip4)()
	defer flood(t, client, other)()
	for i := range 300 {
		g := openGate()
		before := sent.Load()
		sealed.Store(false)
		a.set(Target{"eth0", vip4, g}, Target{"eth0", other, g})
		eventually(t, "claims go out", func() bool { return sent.Load() > before+4 })
		if i%2 == 0 {
			a.set(Target{"eth0", vip4, nil})
		} else {
			a.set(Target{"eth0", vip4, nil}, Target{"eth0", other, nil})
		}
		sealed.Store(true)
	}
	if n := late.Load(); n != 0 {
		t.Errorf("%d claims after Set had returned", n)
	}
}
