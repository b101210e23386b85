package vip

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	nlmsg "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestMuteOfPresentAndLaterLinks(t *testing.T) {
	lab(t)
	veth(t, "eth0", "peer0")
	setConf(t, "eth0", arpConf{ignore: 2})
	b := open(t, Config{})
	run(t, b)
	set(t, b, vip6)
	if m := b.Mute(); m.Wall || m.Links != nil || conf(t, "peer0") != (arpConf{}) {
		t.Errorf("muted for IPv6 alone: %+v", m)
	}
	set(t, b, vip4)
	if m := b.Mute(); !m.Wall || len(m.Links) != 2 || !m.Links[0].Muted || !m.Links[1].Muted {
		t.Errorf("mute %+v", m)
	}
	if c := conf(t, "eth0"); c != (arpConf{ignore: 2, announce: 2}) {
		t.Errorf("eth0 has %+v", c)
	}
	veth(t, "eth1", "peer1")
	until(t, "eth1 muted", func() bool { return conf(t, "eth1") == arpConf{ignore: 1, announce: 2} })
	until(t, "eth1 told", func() bool { return len(b.Mute().Links) == 4 })
	if conf(t, "lo") != (arpConf{}) {
		t.Error("lo muted too")
	}
}

func TestNewLinkIsMutedByItsEvent(t *testing.T) {
	lab(t)
	b := open(t, Config{})
	b.readBack = time.Hour
	run(t, b)
	set(t, b, vip4)
	veth(t, "eth0", "peer0")
	until(t, "eth0 muted", func() bool { return conf(t, "eth0") == arpConf{ignore: 1, announce: 2} })
}

// TestWallIsForWhatIsBound: the node has to hear who claims an address that it does not have.
func TestWallIsForWhatIsBound(t *testing.T) {
	lab(t)
	b := open(t, Config{})
	set(t, b, vip4)
	_, err := b.Set(ended{t.Context()}, prefixes("10.9.0.8/32", vip4))
	if !errors.Is(err, context.Canceled) || !slices.Equal(inSet(t, "a", "bound"), only4(prefixes(vip4))) {
		t.Errorf("wall is not for the bound address alone (%v)", err)
	}
	set(t, b)
	if got := append(inSet(t, "a", "bound"), inSet(t, "a", "quiet")...); len(got) > 0 {
		t.Errorf("wall has %v", got)
	}
}

// ended is a context that ends after the turn was taken.
type ended struct{ context.Context }

func (ended) Done() <-chan struct{} { return nil }
func (ended) Err() error            { return context.Canceled }

func TestMuteIsSetAgain(t *testing.T) {
	lab(t)
	veth(t, "eth0", "peer0")
	var changes atomic.Int32
	var l logs
	b := open(t, Config{OnChange: func() { changes.Add(1) }, Log: l.logger()})
	run(t, b)
	set(t, b, vip4)
	must(t, os.WriteFile("/proc/sys/net/ipv4/conf/eth0/arp_ignore", []byte("0"), 0))
	until(t, "arp_ignore back", func() bool { return conf(t, "eth0") == arpConf{ignore: 1, announce: 2} })
	until(t, "change reported", func() bool { return changes.Load() == 1 })
	raze(t, b.mute.wall.table)
	until(t, "wall back", func() bool { return fmt.Sprint(tables(t)) == "[pintle_a]" })
	until(t, "change reported", func() bool { return changes.Load() == 2 })
	if n := l.count("level=WARN"); n != 2 {
		t.Errorf("%d warnings, want one for each change", n)
	}
}

func TestRestoreLeavesWhatOthersSetSince(t *testing.T) {
	lab(t)
	veth(t, "eth0", "peer0")
	b := open(t, Config{})
	set(t, b, vip4)
	setConf(t, "eth0", arpConf{ignore: 8, announce: 2})
	must(t, b.Close())
	if c := conf(t, "eth0"); c != (arpConf{ignore: 8}) {
		t.Errorf("eth0 has %+v", c)
	}
}

func TestRestoreFindsRenamedLink(t *testing.T) {
	lab(t)
	veth(t, "eth0", "peer0")
	dir := t.TempDir()
	kill(t, startChild(t, dir, "a", vip4))
	must(t, netlink.LinkSetName(byName(t, "eth0"), "lan0"))
	b := open(t, Config{RunDir: dir})
	set(t, b, vip4)
	must(t, b.Close())
	if c := conf(t, "lan0"); c != (arpConf{}) {
		t.Errorf("lan0 has %+v", c)
	}
}

// TestOneWallSuffices: net.ipv4.conf.all overrules the links, so the first wall cannot be set.
func TestOneWallSuffices(t *testing.T) {
	lab(t)
	o := newOther(t)
	wire(t, o)
	must(t, os.WriteFile("/proc/sys/net/ipv4/conf/all/arp_ignore", []byte("3"), 0))
	var l logs
	b := open(t, Config{Log: l.logger()})
	run(t, b)
	set(t, b, vip4)
	set(t, b, vip4, vip6)
	if m := b.Mute(); !m.Wall || m.linksMuted() {
		t.Errorf("mute %+v", m)
	}
	if n := l.count("links are not mute"); n != 1 {
		t.Errorf("warned %d times", n)
	}
	if answers(t, o, vip4) {
		t.Error("the kernel answers through the wall")
	}
}

func TestNoWallNoAddress(t *testing.T) {
	lab(t)
	veth(t, "eth0", "peer0")
	b := open(t, Config{})
	set(t, b, vip4, vip6)
	must(t, os.WriteFile("/proc/sys/net/ipv4/conf/all/arp_ignore", []byte("3"), 0))
	raze(t, b.mute.wall.table)
	b.mute.wall.nft = brokenNFT()
	b.mute.keep(t.Context())
	have, err := b.Set(t.Context(), prefixes("10.9.0.7/32", vip4, vip6))
	if !errors.Is(err, errNotMute) || fmt.Sprint(have) != fmt.Sprint(prefixes(vip6)) {
		t.Errorf("have %v, err %v", have, err)
	}
	if got := onLo(t); fmt.Sprint(got) != fmt.Sprint(prefixes(vip6)) {
		t.Errorf("lo has %v", got)
	}
}

// raze removes a table as another program would.
func raze(t *testing.T, table *nftables.Table) {
	t.Helper()
	nft, err := nftables.New()
	must(t, err)
	nft.DelTable(table)
	must(t, nft.Flush())
}

// brokenNFT answers as a kernel without nftables.
func brokenNFT() *nftables.Conn {
	refuse := func([]nlmsg.Message) ([]nlmsg.Message, error) { return nil, unix.EOPNOTSUPP }
	nft, _ := nftables.New(nftables.WithTestDial(refuse))
	return nft
}

// TestWallAlone has the address where the kernel would answer for it.
func TestWallAlone(t *testing.T) {
	lab(t)
	o := newOther(t)
	wire(t, o)
	giveAddress(t, "eth0", "10.9.0.9/24")
	if !answers(t, o, vip4) {
		t.Fatal("the probe hears no answer without a wall")
	}
	w, err := dialWall("a")
	must(t, err)
	defer w.close()
	w.hold([]netip.Addr{netip.MustParseAddr("10.9.0.9")}, nil)
	_, err = w.keep()
	must(t, err)
	if answers(t, o, vip4) {
		t.Error("the kernel answers through the wall")
	}
	w.nft.FlushChain(&nftables.Chain{Table: w.table, Name: "output"})
	must(t, w.flush())
	if answers(t, o, vip4) {
		t.Error("the kernel hears the question through the wall")
	}
	w.hold(nil, nil)
	_, err = w.keep()
	must(t, err)
	if !answers(t, o, vip4) {
		t.Error("an empty wall drops")
	}
}

// TestWallStopsRequestsInOurName: with arp_announce 0 the kernel asks with the source address of the packet.
func TestWallStopsRequestsInOurName(t *testing.T) {
	lab(t)
	o := newOther(t)
	wire(t, o)
	b := open(t, Config{})
	set(t, b, vip4)
	setConf(t, "eth0", arpConf{})
	if asks(t, o, "10.9.0.60", "10.9.0.61") {
		t.Error("the kernel asked in the name of the address")
	}
	b.mute.wall.hold(nil, nil)
	_, err := b.mute.wall.keep()
	must(t, err)
	if !asks(t, o, "10.9.0.70", "10.9.0.71") {
		t.Error("the probe hears no such request without the wall")
	}
}

// asks reports whether the other side hears the kernel ask in the name of the address when it has something to send from
// there to one, before it hears it ask in its own name for two.
func asks(t *testing.T, o other, one, two string) bool {
	t.Helper()
	heard := make(chan bool, 1)
	ready := make(chan struct{})
	go o.do(t, func() error {
		c, err := dialARP()
		if err != nil {
			return err
		}
		defer c.Close()
		close(ready)
		for {
			p, _, err := c.Read()
			if err != nil {
				return err
			}
			if p.SenderIP == netip.MustParseAddr("10.9.0.9") {
				heard <- true
				return nil
			}
			if p.TargetIP == netip.MustParseAddr(two) {
				heard <- false
				return nil
			}
		}
	})
	<-ready
	for _, d := range []struct{ from, to string }{{"10.9.0.9:0", one + ":9"}, {"10.9.0.1:0", two + ":9"}} {
		c, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(d.from)),
			net.UDPAddrFromAddrPort(netip.MustParseAddrPort(d.to)))
		must(t, err)
		_, err = c.Write([]byte("x"))
		must(t, err)
		c.Close()
	}
	return <-heard
}

func dialARP() (*arp.Client, error) {
	ifi, err := net.InterfaceByName("eth0")
	if err != nil {
		return nil, err
	}
	c, err := arp.Dial(ifi)
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Now().Add(20 * time.Second))
}

// answers reports whether an ARP request from the other side for the address is answered. A request for 10.9.0.1, which
// is, is sent after it: its answer comes later than one for the address would.
func answers(t *testing.T, o other, vip string) (heard bool) {
	t.Helper()
	o.do(t, func() error {
		c, err := dialARP()
		if err != nil {
			return err
		}
		defer c.Close()
		a := netip.MustParsePrefix(vip).Addr()
		for _, ask := range []netip.Addr{a, a, netip.MustParseAddr("10.9.0.1")} {
			if err := c.Request(ask); err != nil {
				return err
			}
		}
		for {
			p, _, err := c.Read()
			if err != nil {
				return fmt.Errorf("no answer for 10.9.0.1: %w", err)
			}
			if p.Operation != arp.OperationReply {
				continue
			}
			heard = heard || p.SenderIP == a
			if p.SenderIP == netip.MustParseAddr("10.9.0.1") {
				return nil
			}
		}
	})
	return heard
}

func TestKernelIsSilentAndServes(t *testing.T) {
	lab(t)
	o := newOther(t)
	wire(t, o)
	b := open(t, Config{})
	run(t, b)
	must(t, b.route.bind(netip.MustParsePrefix(vip4), MinLifetime))
	if !answers(t, o, vip4) {
		t.Fatal("the probe hears no answer from a kernel that is not mute")
	}
	must(t, b.route.unbind(netip.MustParsePrefix(vip4)))
	set(t, b, vip4, vip6)
	if answers(t, o, vip4) {
		t.Error("the kernel answers ARP")
	}
	if answersNDP(t, o) {
		t.Error("the kernel answers neighbor solicitations")
	}
	for _, target := range []string{"10.9.0.9", "fd09::9"} {
		serves(t, o, target)
	}
}

// answersNDP is answers for IPv6; fd09::1 is asked after it.
func answersNDP(t *testing.T, o other) (heard bool) {
	t.Helper()
	o.do(t, func() error {
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		c, _, err := ndp.Listen(ifi, ndp.Addr("fd09::2"))
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			return err
		}
		for _, a := range []string{"fd09::9", "fd09::1"} {
			ns := &ndp.NeighborSolicitation{TargetAddress: netip.MustParseAddr(a), Options: []ndp.Option{
				&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: ifi.HardwareAddr}}}
			if err := c.WriteTo(ns, nil, netip.MustParseAddr("ff02::1")); err != nil {
				return err
			}
		}
		for {
			m, _, _, err := c.ReadFrom()
			if err != nil {
				return fmt.Errorf("no advertisement of fd09::1: %w", err)
			}
			na, ok := m.(*ndp.NeighborAdvertisement)
			if !ok {
				continue
			}
			heard = heard || na.TargetAddress == netip.MustParseAddr("fd09::9")
			if na.TargetAddress == netip.MustParseAddr("fd09::1") {
				return nil
			}
		}
	})
	return heard
}

// serves wants a TCP echo at the address to work from the other side, which is told the MAC by hand.
func serves(t *testing.T, o other, target string) {
	t.Helper()
	mac := byName(t, "eth0").Attrs().HardwareAddr
	ln, err := net.Listen("tcp", net.JoinHostPort(target, "0"))
	must(t, err)
	defer ln.Close()
	go func() {
		if c, err := ln.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			c.Close()
		}
	}()
	o.do(t, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, IP: net.ParseIP(target), HardwareAddr: mac,
			State: netlink.NUD_PERMANENT}); err != nil {
			return err
		}
		c, err := net.DialTimeout("tcp", ln.Addr().String(), 20*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			return err
		}
		if _, err := io.WriteString(c, "hello"); err != nil {
			return err
		}
		b := make([]byte, 5)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
			return fmt.Errorf("echo %q: %w", b, err)
		}
		return nil
	})
}

// TestAddressIsNoSource: whatever the order, where the only other address is on lo or on the link.
func TestAddressIsNoSource(t *testing.T) {
	for _, where := range []string{"lo", "eth0"} {
		for _, first := range []bool{true, false} {
			t.Run(fmt.Sprintf("own on %s, address first %t", where, first), func(t *testing.T) {
				lab(t)
				veth(t, "eth0", "peer0")
				up(t, "eth0")
				up(t, "peer0")
				b := open(t, Config{})
				if first {
					set(t, b, vip4, vip6)
				}
				giveAddress(t, where, "10.9.0.50/32")
				giveAddress(t, where, "fd09::50/128")
				if !first {
					set(t, b, vip4, vip6)
				}
				for to, want := range map[string]string{"198.51.100.1": "10.9.0.50", "2001:db8::1": "fd09::50"} {
					addRoute(t, to)
					if got := source(t, to); got != want {
						t.Errorf("source to %s is %s, want %s", to, got, want)
					}
				}
			})
		}
	}
}

// TestNoOtherIPv4Source: an IPv4 address of scope link is not even chosen when there is no other.
func TestNoOtherIPv4Source(t *testing.T) {
	lab(t)
	veth(t, "eth0", "peer0")
	up(t, "eth0")
	up(t, "peer0")
	b := open(t, Config{})
	set(t, b, vip4)
	addRoute(t, "198.51.100.1")
	c, err := net.Dial("udp", "198.51.100.1:9")
	if err != nil {
		return // no source: just as well
	}
	defer c.Close()
	if strings.HasPrefix(c.LocalAddr().String(), "10.9.0.9:") {
		t.Error("the address is the source")
	}
}

func addRoute(t *testing.T, to string) {
	t.Helper()
	ip := net.ParseIP(to)
	bits := 128
	if ip.To4() != nil {
		bits = 32
	}
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: byName(t, "eth0").Attrs().Index,
		Dst: &net.IPNet{IP: ip, Mask: net.CIDRMask(bits, bits)}}))
}

// source returns the address that the kernel chooses.
func source(t *testing.T, to string) string {
	t.Helper()
	c, err := net.Dial("udp", net.JoinHostPort(to, "9"))
	must(t, err)
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).IP.String()
}

func TestMutedConf(t *testing.T) {
	for _, tc := range []struct {
		link, all, want arpConf
		mute            bool
	}{
		{arpConf{0, 0}, arpConf{0, 0}, arpConf{1, 2}, true},
		{arpConf{1, 2}, arpConf{0, 0}, arpConf{1, 2}, true},
		{arpConf{2, 1}, arpConf{1, 2}, arpConf{2, 2}, true},
		{arpConf{8, 0}, arpConf{0, 0}, arpConf{8, 2}, true},
		{arpConf{3, 0}, arpConf{0, 0}, arpConf{1, 2}, true},
		{arpConf{0, 0}, arpConf{3, 0}, arpConf{1, 2}, false},
		{arpConf{0, 0}, arpConf{0, 3}, arpConf{1, 2}, false},
	} {
		got := tc.link.muted()
		if got != tc.want || got.mute(tc.all) != tc.mute {
			t.Errorf("%+v: %+v, mute %t", tc, got, got.mute(tc.all))
		}
	}
}

func TestTableName(t *testing.T) {
	for in, want := range map[string]string{"a": "pintle_a", "a-b": "pintle_a_2db", "a_b": "pintle_a_5fb", "x.1": "pintle_x_2e1"} {
		if got := tableName(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
