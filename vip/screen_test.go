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
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// Service addresses of the tests. The client's route to them leads over the node, and the node's back to the client.
const (
	service4 = "192.0.2.10"
	service6 = "2001:db8::10"
)

var services = []string{service4, service6}

// patience is how long an answer may take that comes at once when all is right.
const patience = 20 * time.Second

// node puts the test into a namespace that forwards: between a client, whose router it is and which is its own default route, and
// a pod.
func node(t *testing.T) (client, pod other) {
	t.Helper()
	lab(t)
	client, pod = newOther(t), newOther(t)
	for _, ns := range []other{thisNamespace(t), client, pod} { // without a link-local address of its own for a second, the kernel asks nobody
		ns.do(t, func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0) })
	}
	wireAs(t, client, "eth0", "9")
	wireAs(t, pod, "pod0", "8")
	for _, f := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		must(t, os.WriteFile("/proc/sys/net/"+f, []byte("1"), 0))
	}
	for _, l := range []string{"all", "eth0"} { // a redirect counts against the limit of ICMP errors
		must(t, os.WriteFile("/proc/sys/net/ipv4/conf/"+l+"/send_redirects", []byte("0"), 0))
	}
	must(t, via("10.9.0.2"))
	must(t, via("fd09::2"))
	client.do(t, func() error { return errors.Join(via("10.9.0.1"), via("fd09::1")) })
	pod.do(t, func() error { return errors.Join(via("10.8.0.1"), via("fd08::1")) })
	return client, pod
}

// via adds a default route.
func via(gateway string) error {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	gw := net.ParseIP(gateway)
	dst := &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	if gw.To4() != nil {
		dst = &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gw, Dst: dst})
}

func openScreen(t *testing.T, b *Binder) *Screen {
	t.Helper()
	s, err := b.OpenScreen()
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// guard sets the screen for addresses that are not bound.
func guard(t *testing.T, s *Screen, addrs ...string) {
	t.Helper()
	var want []Guarded
	for _, a := range addrs {
		want = append(want, Guarded{Addr: netip.MustParseAddr(a)})
	}
	must(t, s.Set(t.Context(), want))
}

// listen echoes on a TCP port of every address of the namespace, of both families, until the test ends.
func listen(t *testing.T, port string) {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort("::", port))
	must(t, err)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
}

// listenUDP echoes datagrams, as listen does for TCP.
func listenUDP(t *testing.T, addr string) {
	t.Helper()
	c, err := net.ListenPacket("udp", addr)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(b[:n], from)
		}
	}()
}

// echo dials and has what it sends echoed. It returns the error of the first step that fails.
func echo(network, addr, port string) error {
	c, err := net.DialTimeout(network, net.JoinHostPort(addr, port), patience)
	if err != nil {
		return err
	}
	defer c.Close()
	return echoOver(c)
}

func echoOver(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
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
}

// refused is that the kernel over there sent a reset, or said that the port is unreachable.
func refused(err error) error {
	if errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	return fmt.Errorf("not refused: %w", cmpError(err))
}

func cmpError(err error) error {
	if err == nil {
		return errors.New("it was served")
	}
	return err
}

// ping sends an echo request and reports what ICMP says to it: the type.
func ping(addr string) (icmp.Type, error) {
	a := netip.MustParseAddr(addr)
	network, any, proto, kind := "ip4:icmp", "0.0.0.0", 1, icmp.Type(ipv4.ICMPTypeEcho)
	if a.Is6() {
		network, any, proto, kind = "ip6:ipv6-icmp", "::", 58, ipv6.ICMPTypeEchoRequest
	}
	c, err := icmp.ListenPacket(network, any)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	const text = "is anybody there?"
	m := icmp.Message{Type: kind, Body: &icmp.Echo{ID: 1, Seq: 1, Data: []byte(text)}}
	b, err := m.Marshal(nil)
	if err != nil {
		return nil, err
	}
	if _, err := c.WriteTo(b, &net.IPAddr{IP: a.AsSlice()}); err != nil {
		return nil, err
	}
	b = make([]byte, 1500)
	for {
		n, _, err := c.ReadFrom(b)
		if err != nil {
			return nil, err
		}
		m, err := icmp.ParseMessage(proto, b[:n])
		if err != nil {
			return nil, err
		}
		if m.Type != kind && strings.Contains(string(b[:n]), text) { // echoed, or quoted
			return m.Type, nil
		}
	}
}

// returned counts the packets for the address that come to the client from the node until the returned function is called, which
// waits for a packet of its own that comes after them.
func returned(t *testing.T, client other, addr string) (count func() int) {
	t.Helper()
	var c *packet.Conn
	var own net.HardwareAddr
	client.do(t, func() (err error) {
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		own = ifi.HardwareAddr
		c, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil)
		return err
	})
	dst := netip.MustParseAddr(addr).AsSlice()
	const end = "this is the end of it"
	return func() int {
		t.Helper()
		defer c.Close()
		u, err := net.Dial("udp", "10.9.0.2:9") // from the node, over the same queue
		must(t, err)
		_, err = io.WriteString(u, end)
		must(t, err)
		u.Close()
		must(t, c.SetReadDeadline(time.Now().Add(patience)))
		n, b := 0, make([]byte, 1<<16)
		for {
			size, _, err := c.ReadFrom(b)
			must(t, err)
			f := b[:size]
			switch {
			case strings.Contains(string(f), end):
				return n
			case slices.Equal(f[6:12], own): // it sends this
			case f[12] == 0x08 && f[13] == 0 && slices.Equal(f[30:34], dst), f[12] == 0x86 && f[13] == 0xdd && slices.Equal(f[38:54], dst):
				n++
			}
		}
	}
}

// TestScreenStopsLoops: what nobody translates goes back to where it came from without the screen, and is refused with it.
func TestScreenStopsLoops(t *testing.T) {
	client, _ := node(t)
	s := openScreen(t, open(t, Config{}))
	for _, addr := range services {
		until(t, addr+" comes back without a screen", func() bool {
			count := returned(t, client, addr)
			client.do(t, func() error {
				c, err := net.Dial("udp", net.JoinHostPort(addr, "53"))
				if err == nil {
					defer c.Close()
					_, err = io.WriteString(c, "hello")
				}
				return err
			})
			return count() > 0
		})
	}
	guard(t, s, services...)
	for _, addr := range services {
		count := returned(t, client, addr)
		client.do(t, func() error { return errors.Join(refused(echo("udp", addr, "53")), refused(echo("tcp", addr, "80"))) })
		if n := count(); n != 0 {
			t.Errorf("%s: %d packets came back", addr, n)
		}
	}
}

func TestScreenRefuses(t *testing.T) {
	client, _ := node(t)
	s := openScreen(t, open(t, Config{}))
	guard(t, s, services...)
	for _, addr := range services {
		client.do(t, func() error {
			if err := refused(echo("tcp", addr, "80")); err != nil {
				return fmt.Errorf("tcp to %s: %w", addr, err)
			}
			if err := refused(echo("udp", addr, "53")); err != nil {
				return fmt.Errorf("udp to %s: %w", addr, err)
			}
			kind, err := ping(addr)
			if kind != ipv4.ICMPTypeDestinationUnreachable && kind != ipv6.ICMPTypeDestinationUnreachable {
				return fmt.Errorf("ping of %s: %v, %w", addr, kind, err)
			}
			return nil
		})
	}
}

// TestScreenPassesWhatIsTranslated has a rule as kube-proxy makes it.
func TestScreenPassesWhatIsTranslated(t *testing.T) {
	client, pod := node(t)
	s := openScreen(t, open(t, Config{}))
	guard(t, s, services...)
	pod.do(t, func() error { listen(t, "8080"); listenUDP(t, ":5353"); return nil })
	translate(t, unix.IPPROTO_TCP, service4, 80, "10.8.0.2", 8080)
	translate(t, unix.IPPROTO_UDP, service4, 53, "10.8.0.2", 5353)
	translate(t, unix.IPPROTO_TCP, service6, 80, "fd08::2", 8080)
	translate(t, unix.IPPROTO_UDP, service6, 53, "fd08::2", 5353)
	for _, addr := range services {
		client.do(t, func() error {
			return errors.Join(echo("tcp", addr, "80"), echo("udp", addr, "53"), refused(echo("tcp", addr, "81")))
		})
	}
}

// translate sends what comes for a port of an address to another; for an invalid address, of every one of this host, as for a
// NodePort.
func translate(t *testing.T, proto byte, addr string, port uint16, to string, toPort uint16) {
	t.Helper()
	nft, err := nftables.New()
	must(t, err)
	target := netip.MustParseAddr(to)
	family, nfproto, offset := nftables.TableFamilyIPv4, uint32(unix.NFPROTO_IPV4), uint32(16)
	if target.Is6() {
		family, nfproto, offset = nftables.TableFamilyIPv6, unix.NFPROTO_IPV6, 24
	}
	table := nft.AddTable(&nftables.Table{Name: "proxy", Family: family})
	chain := nft.AddChain(&nftables.Chain{Table: table, Name: "prerouting", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
	var exprs []expr.Any
	if addr == "" {
		exprs = append(exprs, &expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)})
	} else {
		a := netip.MustParseAddr(addr).AsSlice()
		exprs = append(exprs, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(len(a))},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: a})
	}
	exprs = append(exprs,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Immediate{Register: 1, Data: target.AsSlice()}, &expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(toPort)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: nfproto, RegAddrMin: 1, RegProtoMin: 2, Specified: true})
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
	must(t, nft.Flush())
}

// bound guards the Service addresses as bound ones with the ports, and binds them.
func bound(t *testing.T, b *Binder, s *Screen, ports ...Port) {
	t.Helper()
	var want []Guarded
	for _, a := range services {
		want = append(want, Guarded{Addr: netip.MustParseAddr(a), Bound: true, Ports: ports})
	}
	must(t, s.Set(t.Context(), want))
	set(t, b, service4+"/32", service6+"/128")
}

// TestBoundAddressHasServicePortsAndPing: nothing else of the node is reachable at the address. Nobody tracks connections here.
func TestBoundAddressHasServicePortsAndPing(t *testing.T) {
	client, _ := node(t)
	b := open(t, Config{})
	s := openScreen(t, b)
	bound(t, b, s, Port{"TCP", 80}, Port{"UDP", 53})
	for _, port := range []string{"22", "80", "81", "53"} {
		listen(t, port)
	}
	for _, addr := range services {
		for _, port := range []string{"53", "80", "123"} {
			listenUDP(t, net.JoinHostPort(addr, port))
		}
	}
	own := map[string]string{service4: "10.9.0.1", service6: "fd09::1"}
	for _, addr := range services {
		client.do(t, func() error {
			for _, port := range []string{"22", "81", "53"} {
				if err := refused(echo("tcp", addr, port)); err != nil {
					return fmt.Errorf("tcp port %s of %s: %w", port, addr, err)
				}
				if err := echo("tcp", own[addr], port); err != nil {
					return fmt.Errorf("tcp port %s of the node: %w", port, err)
				}
			}
			for _, port := range []string{"80", "123"} {
				if err := refused(echo("udp", addr, port)); err != nil {
					return fmt.Errorf("udp port %s of %s: %w", port, addr, err)
				}
			}
			if kind, err := ping(addr); kind != ipv4.ICMPTypeEchoReply && kind != ipv6.ICMPTypeEchoReply {
				return fmt.Errorf("ping of %s: %v, %w", addr, kind, err)
			}
			return errors.Join(echo("tcp", addr, "80"), echo("udp", addr, "53"))
		})
		must(t, echo("tcp", addr, "22")) // from the node itself
	}
	if tracked(t) {
		t.Error("connections are tracked here")
	}
}

// tracked reports whether connection tracking is at work in the namespace, and has seen something.
func tracked(t *testing.T) bool {
	t.Helper()
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
		must(t, err)
		if len(flows) > 0 {
			return true
		}
	}
	return false
}

// TestBoundAddressKeepsConnections: what is open to a Service's port goes on while the screen changes.
func TestBoundAddressKeepsConnections(t *testing.T) {
	client, _ := node(t)
	b := open(t, Config{})
	s := openScreen(t, b)
	bound(t, b, s, Port{"TCP", 80})
	listen(t, "80")
	for _, addr := range services {
		var c net.Conn
		client.do(t, func() (err error) {
			c, err = net.DialTimeout("tcp", net.JoinHostPort(addr, "80"), patience)
			return err
		})
		defer c.Close()
		must(t, echoOver(c))
		bound(t, b, s, Port{"TCP", 80}, Port{"TCP", 443})
		must(t, echoOver(c))
		raze(t, s.rules.table)
		if !s.rulesPutBack(t) {
			t.Error("the table was not put back")
		}
		must(t, echoOver(c))
		bound(t, b, s, Port{"TCP", 443})
		if err := echoOver(c); err == nil {
			t.Errorf("%s: the port is no longer a Service's, and answers", addr)
		}
		bound(t, b, s, Port{"TCP", 80})
	}
}

// rulesPutBack looks, and reports whether the table is there.
func (s *Screen) rulesPutBack(t *testing.T) bool {
	t.Helper()
	s.look(t.Context())
	return slices.Contains(tables(t), s.rules.table.Name)
}

// TestBoundAddressHasNoNodePorts: kube-proxy serves NodePorts at every address of the node.
func TestBoundAddressHasNoNodePorts(t *testing.T) {
	client, pod := node(t)
	b := open(t, Config{})
	s := openScreen(t, b)
	bound(t, b, s, Port{"TCP", 80})
	pod.do(t, func() error { listen(t, "8080"); return nil })
	translate(t, unix.IPPROTO_TCP, "", 30080, "10.8.0.2", 8080)
	translate(t, unix.IPPROTO_TCP, "", 30080, "fd08::2", 8080)
	translate(t, unix.IPPROTO_TCP, service4, 80, "10.8.0.2", 8080)
	translate(t, unix.IPPROTO_TCP, service6, 80, "fd08::2", 8080)
	own := map[string]string{service4: "10.9.0.1", service6: "fd09::1"}
	for _, addr := range services {
		client.do(t, func() error {
			return errors.Join(refused(echo("tcp", addr, "30080")), echo("tcp", own[addr], "30080"), echo("tcp", addr, "80"))
		})
	}
}

// TestBoundAddressTakesFragments: where nobody tracks connections, IPv6 packets come in in pieces, of which all but the first have
// no port. What is for another port is refused by its first piece, and never put together.
func TestBoundAddressTakesFragments(t *testing.T) {
	client, _ := node(t)
	b := open(t, Config{})
	s := openScreen(t, b)
	bound(t, b, s, Port{"UDP", 53})
	for _, addr := range services {
		other, err := net.ListenPacket("udp", net.JoinHostPort(addr, "123"))
		must(t, err)
		defer other.Close()
		listenUDP(t, net.JoinHostPort(addr, "53"))
		client.do(t, func() error {
			for _, port := range []string{"123", "53"} {
				c, err := net.Dial("udp", net.JoinHostPort(addr, port))
				if err != nil {
					return err
				}
				defer c.Close()
				if _, err := c.Write(make([]byte, 8000)); err != nil {
					return err
				}
				if port == "123" {
					continue
				}
				if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
					return err
				}
				if n, err := c.Read(make([]byte, 9000)); n != 8000 {
					return fmt.Errorf("%s: echo of %d bytes: %w", addr, n, cmpError(err))
				}
			}
			return nil
		})
		must(t, other.SetDeadline(time.Now().Add(time.Millisecond))) // it came before what was answered
		if n, _, err := other.ReadFrom(make([]byte, 9000)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %d bytes came to another port (%v)", addr, n, err)
		}
	}
	if tracked(t) {
		t.Error("connections are tracked here")
	}
}

// many returns n addresses, half of them IPv6, of which every tenth is bound and has two ports.
func many(n int) []Guarded {
	out := make([]Guarded, 0, n)
	for i := range n {
		g := Guarded{Addr: netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)})}
		if i%2 == 1 {
			g.Addr = netip.AddrFrom16([16]byte{0xfd, 1, 14: byte(i >> 8), 15: byte(i)})
		}
		if i%10 == 0 {
			g.Bound, g.Ports = true, []Port{{"TCP", 443}, {"UDP", 443}}
		}
		out = append(out, g)
	}
	return out
}

func generation(t *testing.T) uint32 {
	t.Helper()
	r, err := dialRuleset("test", nftables.TableFamilyINet)
	must(t, err)
	defer r.close()
	n, err := r.generation()
	must(t, err)
	return n
}

// TestScreenChangesByWhatDiffers: each change is one transaction with the elements that differ, and looking is none.
func TestScreenChangesByWhatDiffers(t *testing.T) {
	lab(t)
	s := openScreen(t, open(t, Config{}))
	want := many(2000)
	must(t, s.Set(t.Context(), want))
	m := watch(t)
	for _, tc := range []struct {
		name   string
		change func()
		events []string
	}{
		{"nothing", func() { slices.Reverse(want) }, nil},
		{"one less", func() { slices.Reverse(want); want = want[:1999] }, []string{"-1"}},
		{"one more", func() { want = append(want, Guarded{Addr: netip.MustParseAddr("192.0.2.1")}) }, []string{"+1"}},
		{"one for another", func() { want[1].Addr = netip.MustParseAddr("2001:db8::1") }, []string{"-1", "+1"}},
		{"a port", func() { want[0].Ports = []Port{{"TCP", 443}, {"SCTP", 443}} }, []string{"-1", "+1"}},
		{"not bound", func() { want[10].Bound = false }, []string{"-1", "-1", "-1"}}, // it, and two ports
	} {
		tc.change()
		before := generation(t)
		must(t, s.Set(t.Context(), want))
		must(t, s.Set(t.Context(), want))
		s.look(t.Context())
		transactions := generation(t) - before
		if wantT := uint32(min(len(tc.events), 1)); transactions != wantT {
			t.Errorf("%s: %d transactions, want %d", tc.name, transactions, wantT)
		}
		if got := m.next(t, transactions); !slices.Equal(sorted(got), sorted(tc.events)) {
			t.Errorf("%s: elements %v, want %v", tc.name, got, tc.events)
		}
	}
}

func sorted(ss []string) []string { return slices.Sorted(slices.Values(ss)) }

// monitor hears of transactions.
type monitor chan *nftables.MonitorEvents

func watch(t *testing.T) monitor {
	t.Helper()
	nft, err := nftables.New(nftables.AsLasting())
	must(t, err)
	m := nftables.NewMonitor(nftables.WithMonitorEventBuffer(100))
	events, err := nft.AddGenerationalMonitor(m)
	must(t, err)
	t.Cleanup(func() { _ = m.Close() })
	return events
}

// next returns what the next transactions did: which elements they added (+1) or removed (-1). The kernel tells of each by itself.
func (m monitor) next(t *testing.T, n uint32) (out []string) {
	t.Helper()
	for range n {
		for _, key := range m.keys(t) {
			out = append(out, key[:1]+"1")
		}
	}
	return out
}

// keys returns the lengths of the keys that the next transaction added (+) or removed (-).
func (m monitor) keys(t *testing.T) (out []string) {
	t.Helper()
	select {
	case es := <-m:
		for _, e := range es.Changes {
			must(t, e.Error)
			elements, ok := e.Data.([]nftables.SetElement)
			if !ok {
				t.Errorf("more than elements changed: %+v", e)
			}
			for _, el := range elements {
				out = append(out, map[bool]string{true: "+", false: "-"}[e.Type == nftables.MonitorEventTypeNewSetElem]+strconv.Itoa(len(el.Key)))
			}
		}
	case <-time.After(patience):
		t.Fatal("no event")
	}
	return out
}

// TestScreenNeverBindsWithoutPorts: in what order a change comes in, should it take several transactions. Elements of 4 bytes are
// addresses, others have a port.
func TestScreenNeverBindsWithoutPorts(t *testing.T) {
	lab(t)
	s := openScreen(t, open(t, Config{}))
	guard(t, s, "192.0.2.99")
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	m := watch(t)
	for _, tc := range []struct {
		want []Guarded
		keys string
	}{
		{[]Guarded{{a, true, []Port{{"TCP", 80}, {"UDP", 53}}}}, "[+12 +12 +4 +4 -4]"}, // two ports, bound, guarded; and not the one before
		{[]Guarded{{a, true, []Port{{"TCP", 81}, {"UDP", 53}}}}, "[+12 -12]"},
		{[]Guarded{{b, true, []Port{{"TCP", 80}}}}, "[+12 +4 +4 -4 -4 -12 -12]"},
	} {
		must(t, s.Set(t.Context(), tc.want))
		if got := fmt.Sprint(m.keys(t)); got != tc.keys {
			t.Errorf("%v: %s, want %s", tc.want, got, tc.keys)
		}
	}
}

func TestScreenOfTenThousandAddresses(t *testing.T) {
	lab(t)
	s := openScreen(t, open(t, Config{}))
	want := many(10_000)
	start := time.Now()
	must(t, s.Set(t.Context(), want))
	t.Log("set in", time.Since(start))
	if time.Since(start) > 10*time.Second {
		t.Error("too slow by far")
	}
	start = time.Now()
	if whole, err := s.rules.whole(); !whole {
		t.Errorf("the table does not have what it was given: %v", err)
	}
	t.Log("read in", time.Since(start))
	start = time.Now()
	must(t, s.Set(t.Context(), want[1:]))
	t.Log("changed in", time.Since(start))
	start = time.Now()
	s.look(t.Context())
	t.Log("looked at in", time.Since(start))
	for i := range want { // the largest elements
		want[i].Addr, want[i].Bound, want[i].Ports = netip.AddrFrom16([16]byte{0xfd, 2, 14: byte(i >> 8), 15: byte(i)}), true, []Port{{"TCP", 80}, {"UDP", 53}}
	}
	must(t, s.Set(t.Context(), want))
	if len(s.rules.have) != 40_000 || !s.stands(t) {
		t.Errorf("the table has not the %d elements that it was given", len(s.rules.have))
	}
	must(t, s.Set(t.Context(), nil))
	if got := tables(t); len(got) > 0 {
		t.Errorf("tables %v", got)
	}
}

// TestScreenIsPutBack: whatever others change of it.
func TestScreenIsPutBack(t *testing.T) {
	lab(t)
	var l logs
	b := open(t, Config{Log: l.logger()})
	b.readBack = 10 * time.Millisecond
	s := openScreen(t, b)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	must(t, s.Set(t.Context(), many(20)))
	table := s.rules.table
	for i, change := range []func(*nftables.Conn){
		func(c *nftables.Conn) { c.DelTable(table) },
		func(c *nftables.Conn) { c.FlushTable(table) },
		func(c *nftables.Conn) { c.FlushChain(&nftables.Chain{Table: table, Name: "wanted"}) },
		func(c *nftables.Conn) { c.FlushSet(&nftables.Set{Table: table, Name: "addrs4"}) },
		func(c *nftables.Conn) {
			must(t, c.SetDeleteElements(&nftables.Set{Table: table, Name: "addrs6"}, []nftables.SetElement{{Key: many(2)[1].Addr.AsSlice()}}))
		},
		func(c *nftables.Conn) {
			must(t, c.SetAddElements(&nftables.Set{Table: table, Name: "bound4"}, []nftables.SetElement{{Key: []byte{192, 0, 2, 9}}}))
		},
		func(c *nftables.Conn) { c.FlushRuleset() },
	} {
		nft, err := nftables.New()
		must(t, err)
		change(nft)
		must(t, nft.Flush())
		until(t, fmt.Sprintf("change %d is told", i), func() bool { return l.count("level=WARN") == i+1 })
		until(t, fmt.Sprintf("change %d is undone", i), func() bool { return s.stands(t) })
	}
	before := generation(t)
	nft, err := nftables.New()
	must(t, err)
	nft.AddTable(&nftables.Table{Name: "proxy", Family: nftables.TableFamilyIPv4})
	must(t, nft.Flush())
	until(t, "the screen has looked", func() bool { s.look(t.Context()); return s.rules.seen == before+1 })
	if now, warned := generation(t), l.count("level=WARN"); now != before+1 || warned != 7 {
		t.Errorf("%d transactions and %d warnings because of another table", now-before-1, warned-7)
	}
	cancel()
	must(t, <-done)
	must(t, s.Err())
}

// stands reports whether the table is whole in the kernel, through a socket of its own.
func (s *Screen) stands(t *testing.T) bool {
	t.Helper()
	must(t, s.turn.take(t.Context()))
	defer s.turn.give()
	whole, err := s.rules.whole()
	return err == nil && whole
}

// TestScreenAmongBusyOthers: what is read while others commit is not taken for a change of the table.
func TestScreenAmongBusyOthers(t *testing.T) {
	lab(t)
	var l logs
	s := openScreen(t, open(t, Config{Log: l.logger()}))
	must(t, s.Set(t.Context(), many(2000)))
	nft, err := nftables.New(nftables.AsLasting())
	must(t, err)
	defer nft.CloseLasting()
	nft.AddChain(&nftables.Chain{Table: s.rules.table, Name: "mark"}) // gone when the table is made anew
	must(t, nft.Flush())
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			nft.DelTable(nft.AddTable(&nftables.Table{Name: "proxy", Family: nftables.TableFamilyIPv4}))
			if err := nft.Flush(); err != nil {
				done <- err
				return
			}
		}
	}()
	want := many(2001)
	for i := range 16 {
		s.look(t.Context())
		must(t, s.Set(t.Context(), want[i%2:2000+i%2]))
	}
	close(stop)
	must(t, <-done)
	if n := l.count("level=WARN"); n > 0 || !s.stands(t) {
		t.Errorf("%d warnings", n)
	}
	if _, err := nft.ListChain(s.rules.table, "mark"); err != nil {
		t.Errorf("the table was made anew: %v", err)
	}
}

func TestScreenOfTheDeadIsSwept(t *testing.T) {
	lab(t)
	dir := t.TempDir()
	alive := open(t, Config{RunDir: dir, Instance: "alive"})
	guard(t, openScreen(t, alive), service4)
	b := open(t, Config{RunDir: dir, Instance: "b"})
	a, b2 := startChild(t, dir, "a", "screen:"+service4), startChild(t, dir, "b2", "screen:"+service4)
	kill(t, a)
	kill(t, b2)
	if got := sorted(tables(t)); fmt.Sprint(got) != "[pintle_a pintle_alive pintle_b2]" {
		t.Fatalf("tables %v", got)
	}
	openScreen(t, b)
	if got := tables(t); fmt.Sprint(got) != "[pintle_alive]" {
		t.Errorf("tables %v", got)
	}
	kill(t, startChild(t, dir, "a", "screen:"+service4))
	open(t, Config{RunDir: dir, Instance: "c"}) // without a screen of its own
	if got := tables(t); fmt.Sprint(got) != "[pintle_alive]" {
		t.Errorf("tables %v", got)
	}
}

func TestScreensDoNotDisturbEachOther(t *testing.T) {
	client, _ := node(t)
	dir := t.TempDir()
	one := open(t, Config{RunDir: dir, Instance: "one"})
	two := open(t, Config{RunDir: dir, Instance: "two"})
	s1, s2 := openScreen(t, one), openScreen(t, two)
	guard(t, s1, service4)
	guard(t, s2, service6, "192.0.2.11")
	client.do(t, func() error {
		return errors.Join(refused(echo("tcp", service4, "80")), refused(echo("tcp", service6, "80")))
	})
	must(t, s1.Close())
	must(t, s1.Close())
	must(t, one.Close())
	if got := tables(t); fmt.Sprint(got) != "[pintle_two]" || !s2.stands(t) {
		t.Errorf("tables %v", got)
	}
	client.do(t, func() error { return refused(echo("tcp", "192.0.2.11", "80")) })
	must(t, two.Close()) // with its screen still open
	must(t, s2.Close())
	empty(t, dir)
	if err := s2.Set(t.Context(), many(1)); err == nil {
		t.Error("a closed screen guards")
	}
}

func TestScreenRefusesWhatIsNoAddressOrPort(t *testing.T) {
	lab(t)
	s := openScreen(t, open(t, Config{}))
	guard(t, s, service4)
	before := generation(t)
	ok := netip.MustParseAddr(service4)
	for _, bad := range []Guarded{
		{}, {Addr: netip.MustParseAddr("::ffff:192.0.2.1")}, {Addr: netip.MustParseAddr("fe80::1%eth0")}, {Addr: netip.MustParseAddr("224.0.0.1")},
		{Addr: netip.MustParseAddr("127.0.0.1")}, {Addr: ok, Bound: true, Ports: []Port{{"tcp", 80}}}, {Addr: ok, Bound: true, Ports: []Port{{"TCP", 0}}},
	} {
		if err := s.Set(t.Context(), []Guarded{bad}); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
	if generation(t) != before || !s.stands(t) {
		t.Error("the screen was changed")
	}
}

// TestScreenOfSharedAddress: several Services have the address.
func TestScreenOfSharedAddress(t *testing.T) {
	a := netip.MustParseAddr(service6)
	one, err := screenElements([]Guarded{{a, true, []Port{{"TCP", 80}}}, {a, true, []Port{{"TCP", 443}, {"UDP", 443}}}, {Addr: a}})
	must(t, err)
	two, err := screenElements([]Guarded{{a, true, []Port{{"UDP", 443}, {"TCP", 80}, {"TCP", 443}}}})
	must(t, err)
	if fmt.Sprint(one) != fmt.Sprint(two) || len(one) != 5 {
		t.Errorf("%v\n%v", one, two)
	}
}

// TestScreenThatCannotStand: Err tells, and Run goes on trying.
func TestScreenThatCannotStand(t *testing.T) {
	lab(t)
	var l logs
	s := openScreen(t, open(t, Config{Log: l.logger()}))
	works := s.rules.nft
	s.rules.nft = brokenNFT()
	for range 2 {
		if err := s.Set(t.Context(), many(3)); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("error %v", err)
		}
	}
	if s.Err() == nil || l.count("level=WARN") != 1 {
		t.Errorf("error %v, warned %d times", s.Err(), l.count("level=WARN"))
	}
	s.rules.nft = works
	if !s.look(t.Context()) || s.Err() != nil || !s.stands(t) {
		t.Errorf("not set up: %v", s.Err())
	}
}

// TestTablesOfOneProcess: a change of one table of ours does not have the other one read again, and a change of somebody else between two of
// ours does.
func TestTablesOfOneProcess(t *testing.T) {
	lab(t)
	b := open(t, Config{})
	s := openScreen(t, b)
	must(t, s.Set(t.Context(), many(10)))
	must(t, b.Hush(t.Context(), addrs("192.0.2.1")))
	at := s.rules.seen
	for i := range 5 {
		must(t, b.Hush(t.Context(), addrs("192.0.2.1", fmt.Sprintf("192.0.2.%d", i+2))))
	}
	if got := b.ledger.since(at); got != generation(t) {
		t.Errorf("ours reach from %d to %d, and the last was %d", at, got, generation(t))
	}
	nft, err := nftables.New()
	must(t, err)
	nft.DelTable(s.rules.table)
	must(t, nft.Flush())
	must(t, b.Hush(t.Context(), addrs("192.0.2.1")))
	if got := b.ledger.since(at); got == generation(t) {
		t.Errorf("what somebody else did in %d passes for ours", got)
	}
	must(t, s.Set(t.Context(), many(10)))
	if !s.stands(t) {
		t.Error("the table that somebody removed is not there again")
	}
}
