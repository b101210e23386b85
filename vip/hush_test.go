package vip

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/vishvananda/netlink"
)

// ipvs puts addresses on a link of their own, as kube-proxy in IPVS mode does.
func ipvs(t *testing.T, cidrs ...string) {
	t.Helper()
	veth(t, "kube-ipvs0", "ipvs-peer")
	for _, c := range cidrs {
		giveAddress(t, "kube-ipvs0", c)
	}
}

func TestHushedAddressIsNotAnsweredByTheKernel(t *testing.T) {
	lab(t)
	o := newOther(t)
	wire(t, o)
	ipvs(t, vip4)
	if !answers(t, o, vip4) {
		t.Fatal("the probe hears no answer from a kernel that is not mute")
	}
	b := open(t, Config{})
	run(t, b)
	must(t, b.Hush(t.Context(), addrs("10.9.0.9", "fd09::9")))
	if m := b.Mute(); !m.Wall || !m.linksMuted() || len(m.Links) == 0 {
		t.Errorf("mute %+v", m)
	}
	if answers(t, o, vip4) {
		t.Error("the kernel answers")
	}
	// The wall alone does.
	must(t, os.WriteFile("/proc/sys/net/ipv4/conf/all/arp_ignore", []byte("3"), 0))
	until(t, "the links are not mute", func() bool { return !b.Mute().linksMuted() })
	if answers(t, o, vip4) {
		t.Error("the kernel answers through the wall")
	}
	must(t, b.Hush(t.Context(), nil))
	if !answers(t, o, vip4) {
		t.Error("the kernel does not answer for what is hushed no more")
	}
}

// TestHushedAddressIsStillHeardOf: a node that is but a client of the address follows whoever claims it.
func TestHushedAddressIsStillHeardOf(t *testing.T) {
	lab(t)
	o := newOther(t)
	wire(t, o)
	b := open(t, Config{})
	must(t, b.Hush(t.Context(), addrs("10.9.0.9")))
	eth0 := byName(t, "eth0").Attrs().Index
	before := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	must(t, netlink.NeighSet(&netlink.Neigh{LinkIndex: eth0, IP: net.ParseIP("10.9.0.9"), HardwareAddr: before, State: netlink.NUD_STALE}))
	var now net.HardwareAddr
	claim := func() error {
		c, err := dialARP()
		if err != nil {
			return err
		}
		defer c.Close()
		a := netip.MustParseAddr("10.9.0.9")
		now = c.HardwareAddr()
		p, err := arp.NewPacket(arp.OperationRequest, now, a, make(net.HardwareAddr, 6), a)
		if err != nil {
			return err
		}
		return c.WriteTo(p, ethernet.Broadcast)
	}
	until(t, "the claim is heard", func() bool {
		o.do(t, claim)
		ns, err := netlink.NeighList(eth0, netlink.FAMILY_V4)
		must(t, err)
		return slices.ContainsFunc(ns, func(n netlink.Neigh) bool {
			return n.IP.String() == "10.9.0.9" && n.HardwareAddr.String() == now.String()
		})
	})
}

func TestHushAndSetDoNotDisturbEachOther(t *testing.T) {
	lab(t)
	veth(t, "eth0", "peer0")
	b := open(t, Config{})
	wall := func(boundTo, quiet string) {
		t.Helper()
		if got := fmt.Sprint(inSet(t, "a", "bound"), inSet(t, "a", "quiet")); got != boundTo+" "+quiet {
			t.Errorf("wall has %s, want %s %s", got, boundTo, quiet)
		}
	}
	set(t, b, vip4)
	must(t, b.Hush(t.Context(), addrs("192.0.2.2", "10.9.0.9", "192.0.2.1", "192.0.2.1", "2001:db8::1")))
	wall("[10.9.0.9]", "[10.9.0.9 192.0.2.1 192.0.2.2]")
	set(t, b)
	wall("[]", "[10.9.0.9 192.0.2.1 192.0.2.2]")
	set(t, b, "10.9.0.7/32")
	wall("[10.9.0.7]", "[10.9.0.7 10.9.0.9 192.0.2.1 192.0.2.2]")
	must(t, b.Hush(t.Context(), addrs("192.0.2.1")))
	wall("[10.9.0.7]", "[10.9.0.7 192.0.2.1]")
	must(t, b.Hush(t.Context(), nil))
	wall("[10.9.0.7]", "[10.9.0.7]")
	if !b.Mute().InForce() {
		t.Errorf("mute %+v", b.Mute())
	}
	must(t, b.Close())
	if err := b.Hush(t.Context(), addrs("192.0.2.1")); err == nil {
		t.Error("a closed binder hushes")
	}
}

func TestHushOfNothingMutesNothing(t *testing.T) {
	lab(t)
	veth(t, "eth0", "peer0")
	b := open(t, Config{})
	must(t, b.Hush(t.Context(), nil))
	must(t, b.Hush(t.Context(), addrs("2001:db8::1")))
	if m := b.Mute(); m.Wall || m.Links != nil || conf(t, "eth0") != (arpConf{}) || len(tables(t)) > 0 {
		t.Errorf("mute %+v, eth0 has %+v, tables %v", m, conf(t, "eth0"), tables(t))
	}
}

// TestMuteStaysForHushed: the exit of one instance does not undo what another needs.
func TestMuteStaysForHushed(t *testing.T) {
	lab(t)
	veth(t, "eth0", "peer0")
	was := arpConf{ignore: 3, announce: 1}
	setConf(t, "eth0", was)
	dir := t.TempDir()
	one := open(t, Config{RunDir: dir, Instance: "one"})
	two := open(t, Config{RunDir: dir, Instance: "two"})
	must(t, two.Hush(t.Context(), addrs("192.0.2.1", "192.0.2.2")))
	set(t, one, vip4)
	rec, err := os.ReadFile(filepath.Join(two.reg.dir, "two.json"))
	must(t, err)
	if !strings.Contains(string(rec), `"hush":true`) || strings.Contains(string(rec), "192.0.2.1") {
		t.Errorf("record %s", rec)
	}
	must(t, one.Close())
	if c := conf(t, "eth0"); c != was.muted() {
		t.Errorf("mute undone under a living instance: %+v", c)
	}
	must(t, two.Close())
	if c := conf(t, "eth0"); c != was {
		t.Errorf("eth0 has %+v, want %+v", c, was)
	}
	empty(t, dir)
	kill(t, startChild(t, dir, "three", "hush:192.0.2.1"))
	if c := conf(t, "eth0"); c != was.muted() {
		t.Errorf("the killed instance had not muted: %+v", c)
	}
	must(t, open(t, Config{RunDir: dir, Instance: "four"}).Close())
	if c := conf(t, "eth0"); c != was {
		t.Errorf("after the dead one, eth0 has %+v, want %+v", c, was)
	}
	empty(t, dir)
}

// TestHushChangesByWhatDiffers: each change of 2,000 addresses is one transaction with the elements that differ, and looking none.
func TestHushChangesByWhatDiffers(t *testing.T) {
	lab(t)
	veth(t, "eth0", "peer0")
	b := open(t, Config{})
	var want []netip.Addr
	for i := range 2000 {
		want = append(want, netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)}))
	}
	must(t, b.Hush(t.Context(), want))
	m := watch(t)
	for _, tc := range []struct {
		name   string
		change func()
		events []string
	}{
		{"nothing", func() { slices.Reverse(want) }, nil},
		{"one for another", func() { want[7] = netip.MustParseAddr("192.0.2.7") }, []string{"+1", "-1"}},
		{"bound", func() { set(t, b, vip4) }, []string{"+1", "+1"}},
		{"bound no more", func() { set(t, b) }, []string{"-1", "-1"}},
	} {
		before := generation(t)
		tc.change()
		must(t, b.Hush(t.Context(), want))
		b.mute.keep(t.Context())
		transactions := generation(t) - before
		if wantT := uint32(min(len(tc.events), 1)); transactions != wantT {
			t.Errorf("%s: %d transactions, want %d", tc.name, transactions, wantT)
		}
		if got := m.next(t, transactions); !slices.Equal(sorted(got), tc.events) {
			t.Errorf("%s: elements %v, want %v", tc.name, got, tc.events)
		}
	}
}

func TestHushedWithoutWallOrMuteIsAnError(t *testing.T) {
	lab(t)
	veth(t, "eth0", "peer0")
	b := open(t, Config{})
	set(t, b, vip6)
	must(t, os.WriteFile("/proc/sys/net/ipv4/conf/all/arp_ignore", []byte("3"), 0))
	works := b.mute.wall.nft
	b.mute.wall.nft = brokenNFT()
	if err := b.Hush(t.Context(), addrs("192.0.2.1")); err == nil || b.Mute().InForce() {
		t.Errorf("error %v, mute %+v", err, b.Mute())
	}
	set(t, b, vip6) // which needs no mute
	b.mute.wall.nft = works
	b.mute.keep(t.Context())
	if !b.Mute().Wall || fmt.Sprint(inSet(t, "a", "quiet")) != "[192.0.2.1]" {
		t.Errorf("not made up for: %+v", b.Mute())
	}
}
