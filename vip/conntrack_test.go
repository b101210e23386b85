package vip

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// connection makes the kernel track a connection from a client to a Service that was translated to a pod.
func connection(t testing.TB, proto uint8, client, service, pod string, port uint16) {
	t.Helper()
	family := uint8(unix.AF_INET6)
	if net.ParseIP(service).To4() != nil {
		family = unix.AF_INET
	}
	ip := func(s string) net.IP {
		a := netip.MustParseAddr(s)
		return a.AsSlice()
	}
	flow := &netlink.ConntrackFlow{FamilyType: family, TimeOut: 600,
		Forward: netlink.IPTuple{SrcIP: ip(client), DstIP: ip(service), SrcPort: port, DstPort: 443, Protocol: proto},
		Reverse: netlink.IPTuple{SrcIP: ip(pod), DstIP: ip(client), SrcPort: 8443, DstPort: port, Protocol: proto}}
	if proto == unix.IPPROTO_TCP {
		flow.ProtoInfo = &netlink.ProtoInfoTCP{State: 3}
	}
	if err := netlink.ConntrackCreate(netlink.ConntrackTable, netlink.InetFamily(family), flow); err != nil {
		t.Fatalf("track connection: %v", err)
	}
}

// connections returns what is tracked, sorted.
func connections(t *testing.T) (out []string) {
	t.Helper()
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
		must(t, err)
		for _, f := range flows {
			out = append(out, fmt.Sprintf("%d %s>%s", f.Forward.Protocol, f.Forward.SrcIP, f.Forward.DstIP))
		}
	}
	slices.Sort(out)
	return out
}

func addrs(ss ...string) (out []netip.Addr) {
	for _, s := range ss {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestFlushConntrack(t *testing.T) {
	lab(t)
	if n, err := FlushConntrack(addrs(service4, service6)); n != 0 || err != nil {
		t.Errorf("flushed %d where nothing is tracked: %v", n, err)
	}
	for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		for i, c := range []struct{ client, service, pod string }{
			{"10.9.0.2", service4, "10.8.0.2"}, {"fd09::2", service6, "fd08::2"}, // to be flushed
			{"10.9.0.2", "192.0.2.11", "10.8.0.2"}, {"fd09::2", "2001:db8::11", "fd08::2"},
			{service4, "10.9.0.3", "10.9.0.3"}, {service6, "fd09::3", "fd09::3"}, // sent from it
			{"10.9.0.2", "10.9.0.1", service4}, {"fd09::2", "fd09::1", service6}, // translated to it
		} {
			connection(t, proto, c.client, c.service, c.pod, uint16(1000+i))
		}
	}
	if got := connections(t); len(got) != 16 {
		t.Fatalf("tracked %v", got)
	}
	n, err := FlushConntrack(addrs(service4, service6, "192.0.2.99"))
	must(t, err)
	var want []string
	for _, proto := range []string{"17", "6"} {
		want = append(want, proto+" 10.9.0.2>10.9.0.1", proto+" 10.9.0.2>192.0.2.11", proto+" 192.0.2.10>10.9.0.3",
			proto+" 2001:db8::10>fd09::3", proto+" fd09::2>2001:db8::11", proto+" fd09::2>fd09::1")
	}
	if got := connections(t); n != 4 || !slices.Equal(got, want) {
		t.Errorf("flushed %d, left %v, want %v", n, got, want)
	}
	if n, err := FlushConntrack(addrs("192.0.2.11")); n != 2 || err != nil {
		t.Errorf("flushed %d of one address: %v", n, err)
	}
	if n, err := FlushConntrack(nil); n != 0 || err != nil {
		t.Errorf("flushed %d of no address: %v", n, err)
	}
}

// TestFlushConntrackOfSCTP sends the first packet of an association; pings to the address stay tracked.
func TestFlushConntrackOfSCTP(t *testing.T) {
	lab(t)
	o := newOther(t)
	wire(t, o)
	track(t)
	init := binary.BigEndian.AppendUint16(nil, 1000)
	init = binary.BigEndian.AppendUint16(init, 443)
	init = append(init, make([]byte, 8)...) // verification tag and checksum
	init = append(init, 1, 0, 0, 20)        // INIT
	init = append(init, 0, 0, 0, 1, 0, 0, 16, 0, 0, 1, 0, 1, 0, 0, 0, 1)
	c, err := net.Dial("ip4:132", "10.9.0.2")
	must(t, err)
	defer c.Close()
	_, err = c.Write(init)
	must(t, err)
	_, err = ping("10.9.0.2")
	must(t, err)
	if got := connections(t); fmt.Sprint(got) != "[1 10.9.0.1>10.9.0.2 132 10.9.0.1>10.9.0.2]" {
		t.Fatalf("tracked %v", got)
	}
	n, err := FlushConntrack(addrs("10.9.0.2"))
	must(t, err)
	if got := connections(t); n != 1 || fmt.Sprint(got) != "[1 10.9.0.1>10.9.0.2]" {
		t.Errorf("flushed %d, left %v", n, got)
	}
}

// track has connections tracked in the namespace: the kernel does so as long as a rule asks for it.
func track(t *testing.T) {
	t.Helper()
	nft, err := nftables.New()
	must(t, err)
	table := nft.AddTable(&nftables.Table{Name: "track", Family: nftables.TableFamilyINet})
	chain := nft.AddChain(&nftables.Chain{Table: table, Name: "output", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter})
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: 1}}})
	must(t, nft.Flush())
}

// TestFlushedConnectionIsTranslatedAnew: a client that goes on sending from the same port stays with a pod that is gone until then.
func TestFlushedConnectionIsTranslatedAnew(t *testing.T) {
	client, pod := node(t)
	for _, tc := range []struct{ service, old, new string }{{service4, "10.8.0.66", "10.8.0.2"}, {service6, "fd08::66", "fd08::2"}} {
		translate(t, unix.IPPROTO_UDP, tc.service, 53, tc.old, 5353)
		var c net.Conn
		client.do(t, func() (err error) {
			c, err = net.Dial("udp", net.JoinHostPort(tc.service, "53"))
			if err == nil {
				_, err = c.Write([]byte("lost"))
			}
			return err
		})
		defer c.Close()
		until(t, "the connection is tracked", func() bool { return slices.ContainsFunc(connections(t), toService(tc.service)) })
		nft, err := nftables.New()
		must(t, err)
		nft.FlushRuleset()
		must(t, nft.Flush())
		translate(t, unix.IPPROTO_UDP, tc.service, 53, tc.new, 5353)
		pod.do(t, func() error { listenUDP(t, net.JoinHostPort(tc.new, "5353")); return nil })
		n, err := FlushConntrack(addrs(tc.service))
		if n != 1 || err != nil {
			t.Errorf("flushed %d: %v", n, err)
		}
		must(t, echoOver(c))
	}
}

func toService(service string) func(string) bool {
	return func(c string) bool {
		return len(c) > len(service) && c[len(c)-len(service):] == service
	}
}

func TestFlushConntrackOfManyConnections(t *testing.T) {
	lab(t)
	const conns, mine = 5_000, 5
	for i := range conns {
		service := "192.0.2.11"
		if i%(conns/mine) == 0 {
			service = service4
		}
		connection(t, unix.IPPROTO_TCP, fmt.Sprintf("10.9.0.%d", 2+i/1000), service, "10.8.0.2", uint16(1+i%1000))
	}
	start := time.Now()
	n, err := FlushConntrack(addrs(service4, "192.0.2.77", "192.0.2.78"))
	must(t, err)
	t.Log("flushed in", time.Since(start))
	if left := len(connections(t)); n != mine || left != conns-mine {
		t.Errorf("flushed %d, left %d", n, left)
	}
}
