package services_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
	"github.com/pintle-lb/pintle/test/services"
)

// A site is a cluster of two nodes with the addresses of two Services: those of plain are nobody's on any link, those of bound are
// on lo of their holder.
type site struct {
	*services.Bed
	t            *testing.T
	plain, bound []netip.Addr // one of each family
	before       []string     // what a Pintle may change of each node, before there was one
}

// TestHost: what Pintle does to packets and to the hosts, for IPv4 and IPv6.
func TestHost(t *testing.T) {
	s := &site{t: t, Bed: newPintle(t, services.Options{Nodes: 1, Workers: 1, IPv6: true, Lease: 4 * time.Second, Bare: true})}
	s.build()
	for _, c := range []struct {
		name string
		do   func()
	}{
		{"questions reach a backend", s.reach},
		{"a port of no Service is refused and its packets go nowhere", s.wrongPorts},
		{"the nodes' own ports are not reached", s.ownPorts},
		{"ping", s.pings},
		{"connections are forgotten", s.connections},
		{"an address leaves nothing behind", s.moves},
		{"a Pintle leaves nothing behind", s.ends},
	} {
		if !t.Run(c.name, func(t *testing.T) { s.t = t; c.do() }) {
			return
		}
	}
}

// build makes the Services, notes what the hosts are like, and starts the Pintles.
func (s *site) build() {
	ctx := s.t.Context()
	for i := 1; i <= s.Len(); i++ {
		// Nothing is to end by itself here.
		_, err := s.Node(i).Exec(ctx, "sh", "-c", "for f in udp_timeout udp_timeout_stream; do echo 3600 > /proc/sys/net/netfilter/nf_conntrack_$f; done")
		check(s.t, err)
		// Packets that go back where they came from are not to be commented on.
		_, err = s.Node(i).Exec(ctx, "sh", "-c", "for l in all eth0; do echo 0 > /proc/sys/net/ipv4/conf/$l/send_redirects; done")
		check(s.t, err)
		check(s.t, s.Node(i).Route(netip.MustParsePrefix("::/0"), s.Lab().Client().Addr6()))
	}
	_, err := s.Backend(ctx, 2, services.Echo)
	check(s.t, err)
	for i := 1; i <= s.Len(); i++ {
		s.before = append(s.before, s.footprint(i))
	}
	for name, addrs := range map[string][]string{"plain": {"10.99.1.0/24", "fd99::1:0/112"}, "bound": {"10.99.2.0/24", "fd99::2:0/112"}} {
		pool := services.NewPool(name, addrs...)
		pool.Spec.Bind = name == "bound"
		_, err := s.API(1).Pools.Create(ctx, pool, metav1.CreateOptions{})
		check(s.t, err)
		_, err = s.Service(ctx, name, func(o *corev1.Service) {
			o.Spec.IPFamilyPolicy, o.Annotations = new(corev1.IPFamilyPolicyRequireDualStack), map[string]string{"pintle.dev/pool": name}
		})
		check(s.t, err)
	}
	for i := 1; i <= s.Len(); i++ {
		check(s.t, s.Start(i))
	}
	within, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	s.plain, err = s.Addresses(within, "plain")
	check(s.t, err)
	s.bound, err = s.Addresses(within, "bound")
	check(s.t, err)
	if len(s.plain) != 2 || len(s.bound) != 2 {
		s.t.Fatalf("addresses: %v and %v", s.plain, s.bound)
	}
}

func (s *site) all() []netip.Addr { return append(append([]netip.Addr{}, s.plain...), s.bound...) }

// footprint is what a Pintle may change of node i: addresses on lo, tables of nftables, settings of the kernel.
func (s *site) footprint(i int) string {
	s.t.Helper()
	out, err := s.Node(i).Exec(s.t.Context(), "sh", "-c", "ip -o address show dev lo; nft list tables; ip rule; ip -6 rule; "+
		"grep -r . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf 2>/dev/null | grep -v -e stable_secret -e mtu | sort")
	check(s.t, err)
	return string(out)
}

// reach: through every address, by TCP and UDP.
func (s *site) reach() {
	for _, a := range s.all() {
		for _, network := range []string{"tcp", "udp"} {
			eventually(s.t, fmt.Sprintf("%s answers by %s", a, network), func(ctx context.Context) error {
				_, err := s.Ask(ctx, network, a)
				return err
			})
		}
	}
}

// shut expects that an address says at once that nobody listens on a port. An ICMP error may be held back for a second.
func (s *site) shut(network string, to netip.AddrPort) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("%s refuses %s", to, network), func(ctx context.Context) error {
		c, err := s.Lab().Client().Dial(ctx, network, to)
		if err == nil && network == "udp" {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(time.Second))
			if _, err = c.Write([]byte("?")); err == nil {
				_, err = c.Read(make([]byte, 100))
			}
		} else if err == nil {
			_ = c.Close()
		}
		switch {
		case errors.Is(err, unix.ECONNREFUSED):
			return nil
		case err == nil:
			s.t.Fatalf("%s answers by %s", to, network)
		}
		return err
	})
}

func (s *site) wrongPorts() {
	stray := netip.MustParseAddr("10.99.9.9") // no Pintle knows it
	back := s.returned(stray)
	tell(s.t, s.Bed, stray, 1)
	c, err := s.Lab().Client().Dial(s.t.Context(), "udp", netip.AddrPortFrom(stray, 81))
	check(s.t, err)
	defer c.Close()
	if _, err := c.Write([]byte("?")); err != nil {
		s.t.Fatal(err)
	}
	if n := back(); n == 0 {
		s.t.Error("a packet for an address that no Pintle knows does not come back: this test could not see one")
	}
	for _, a := range s.all() {
		back := s.returned(a)
		for _, network := range []string{"tcp", "udp"} {
			s.shut(network, netip.AddrPortFrom(a, 81))
		}
		if n := back(); n > 0 {
			s.t.Errorf("%d packets for %s came back to the client", n, a)
		}
	}
}

// returned counts the packets for an address that come to the client, as to the router that it is for the nodes, until the function that
// it returns is called; that waits for what each node sends last.
func (s *site) returned(a netip.Addr) func() int {
	s.t.Helper()
	var c *packet.Conn
	client := s.Lab().Client()
	check(s.t, client.Do(func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err == nil {
			c, err = packet.Listen(eth0, packet.Raw, unix.ETH_P_ALL, nil)
		}
		return err
	}))
	const end = "this is the end"
	return func() (n int) {
		s.t.Helper()
		defer c.Close()
		for j := 1; j <= s.Len(); j++ {
			u, err := s.Node(j).Dial(s.t.Context(), "udp", netip.AddrPortFrom(client.Addr(), 9))
			check(s.t, err)
			defer u.Close()
			_, err = u.Write([]byte(end))
			check(s.t, err)
		}
		check(s.t, c.SetReadDeadline(time.Now().Add(wait)))
		b := make([]byte, 2048)
		for ends := 0; ends < s.Len(); {
			size, _, err := c.ReadFrom(b)
			check(s.t, err)
			switch f := b[:size]; {
			case size < 34:
			case strings.Contains(string(f), end):
				ends++
			case string(f[:6]) == string(client.MAC()) && destination(f) == a:
				n++
			}
		}
		return n
	}
}

// destination is that of an IP packet in an Ethernet frame.
func destination(f []byte) netip.Addr {
	switch kind := binary.BigEndian.Uint16(f[12:]); {
	case kind == unix.ETH_P_IP:
		return netip.AddrFrom4([4]byte(f[30:34]))
	case kind == unix.ETH_P_IPV6 && len(f) >= 54:
		return netip.AddrFrom16([16]byte(f[38:54]))
	}
	return netip.Addr{}
}

// ownPorts: what listens on every address of a node, and a node port, are reached by the node's own address alone.
func (s *site) ownPorts() {
	const own = 22022
	o, err := s.API(1).CoreV1().Services("default").Get(s.t.Context(), "plain", metav1.GetOptions{})
	check(s.t, err)
	node := uint16(o.Spec.Ports[1].NodePort) // of TCP
	for i := 1; i <= s.Len(); i++ {
		for network, host := range map[string]string{"tcp4": "0.0.0.0", "tcp6": "[::]"} {
			check(s.t, s.Node(i).Do(func() error {
				l, err := net.Listen(network, fmt.Sprintf("%s:%d", host, own))
				if err == nil {
					s.t.Cleanup(func() { _ = l.Close() })
				}
				return err
			}))
		}
		for _, a := range []netip.Addr{s.Node(i).Addr(), s.Node(i).Addr6()} {
			for _, port := range []uint16{own, node} {
				eventually(s.t, fmt.Sprintf("%s has port %d", a, port), func(ctx context.Context) error {
					c, err := s.Lab().Client().Dial(ctx, "tcp", netip.AddrPortFrom(a, port))
					if err == nil {
						_ = c.Close()
					}
					return err
				})
			}
		}
	}
	for _, a := range s.all() {
		s.shut("tcp", netip.AddrPortFrom(a, own))
		s.shut("tcp", netip.AddrPortFrom(a, node))
	}
}

// pings: a bound address answers, one that is not bound is said to be unreachable.
func (s *site) pings() {
	for _, a := range s.all() {
		want := map[icmp.Type]bool{ipv4.ICMPTypeEchoReply: true, ipv6.ICMPTypeEchoReply: true}
		if a == s.plain[0] || a == s.plain[1] {
			want = map[icmp.Type]bool{ipv4.ICMPTypeDestinationUnreachable: true, ipv6.ICMPTypeDestinationUnreachable: true}
		}
		eventually(s.t, "ping "+a.String(), func(context.Context) error {
			got, err := ping(s.Lab().Client(), a)
			if err == nil && !want[got] {
				s.t.Fatalf("ping %s: %v", a, got)
			}
			return err
		})
	}
}

// ping is what comes back within a second.
func ping(from *netlab.Host, a netip.Addr) (got icmp.Type, err error) {
	network, local, proto, kind := "ip4:icmp", "0.0.0.0", 1, icmp.Type(ipv4.ICMPTypeEcho)
	if a.Is6() {
		network, local, proto, kind = "ip6:ipv6-icmp", "::", 58, ipv6.ICMPTypeEchoRequest
	}
	var c *icmp.PacketConn
	if err := from.Do(func() error { c, err = icmp.ListenPacket(network, local); return err }); err != nil {
		return nil, err
	}
	defer c.Close()
	text := fmt.Sprintf("is anybody there at %s?", a)
	b, err := (&icmp.Message{Type: kind, Body: &icmp.Echo{ID: os.Getpid() & 0xffff, Data: []byte(text)}}).Marshal(nil)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(time.Second))
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
		redirect := err == nil && (m.Type == ipv4.ICMPTypeRedirect || m.Type == ipv6.ICMPTypeRedirect)
		if err == nil && m.Type != kind && !redirect && strings.Contains(string(b[:n]), text) { // echoed, or quoted
			return m.Type, nil
		}
	}
}

// object is the object of an address.
func object(ctx context.Context, b *services.Bed, a netip.Addr) (*pintlev1.Address, error) {
	list, err := b.API(b.Via).Addresses.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		if o := &list.Items[i]; o.Spec.Address == a.String() {
			return o, nil
		}
	}
	return nil, fmt.Errorf("there is no object for %s", a)
}

// holder waits until an address is held by a node, and returns its number.
func holder(t *testing.T, b *services.Bed, a netip.Addr) (i int) {
	t.Helper()
	eventually(t, a.String()+" is held", func(ctx context.Context) error {
		o, err := object(ctx, b, a)
		if err != nil {
			return err
		}
		for i = 1; i <= b.Len(); i++ {
			if b.Node(i).Name() == o.Status.Holder {
				return nil
			}
		}
		return fmt.Errorf("by nobody: %s", o.Status.Reason)
	})
	return i
}

// cordon has all addresses of node i go to the other one, and undoes that of the other first.
func (s *site) cordon(i int) {
	s.t.Helper()
	for _, c := range [][2]string{{"uncordon", s.Node(3 - i).Name()}, {"cordon", s.Node(i).Name()}} {
		_, err := s.Kubectl(s.t.Context(), 1, c[0], c[1])
		check(s.t, err)
	}
	for _, a := range s.all() {
		eventually(s.t, a.String()+" moves", func(ctx context.Context) error {
			o, err := object(ctx, s.Bed, a)
			if err == nil && o.Status.Holder != s.Node(3-i).Name() {
				err = fmt.Errorf("it is held by %q, wanted on %q: %s", o.Status.Holder, o.Spec.Wanted, o.Status.Reason)
			}
			return err
		})
	}
	eventually(s.t, s.Node(3-i).Name()+" answers for all", func(ctx context.Context) error {
		has, err := answersFor(ctx, s.Bed, 3-i)
		if err == nil && len(has) != len(s.all()) {
			err = fmt.Errorf("it does for %v", has)
		}
		return err
	})
}

// A talk is one connection by TCP and one by UDP to an address, through node i.
type talk struct {
	tcp, udp net.Conn
}

// talk opens it, be the node the holder or not.
func (s *site) talk(a netip.Addr, i int) talk {
	s.t.Helper()
	tell(s.t, s.Bed, a, i)
	defer untell(s.t, s.Bed, a)
	var k talk
	for network, c := range map[string]*net.Conn{"tcp": &k.tcp, "udp": &k.udp} {
		eventually(s.t, fmt.Sprintf("talk to %s by %s through n%d", a, network, i), func(ctx context.Context) (err error) {
			if *c, err = s.Lab().Client().Dial(ctx, network, netip.AddrPortFrom(a, netlab.EchoPort)); err != nil {
				return err
			}
			_ = (*c).SetDeadline(time.Now().Add(time.Second))
			if network == "udp" {
				if _, err = (*c).Write(make([]byte, 9)); err == nil {
					_, err = (*c).Read(make([]byte, 9))
				}
			} else {
				_, err = bufio.NewReader(*c).ReadString('\n')
			}
			if err != nil {
				_ = (*c).Close()
			}
			return err
		})
		s.t.Cleanup(func() { _ = (*c).Close() })
	}
	return k
}

// untell undoes tell.
func untell(t *testing.T, b *services.Bed, a netip.Addr) {
	t.Helper()
	check(t, b.Lab().Client().Do(func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		return netlink.NeighDel(&netlink.Neigh{LinkIndex: eth0.Index, IP: a.AsSlice()})
	}))
}

// noted are the protocols by which the kernel of node i knows connections of the talk.
func (s *site) noted(i int, k talk) (protocols string, err error) {
	ports := map[string]uint16{}
	for _, c := range []net.Conn{k.tcp, k.udp} {
		ports[c.LocalAddr().Network()] = netip.MustParseAddrPort(c.LocalAddr().String()).Port()
	}
	family := netlink.InetFamily(unix.AF_INET)
	if netip.MustParseAddrPort(k.udp.LocalAddr().String()).Addr().Is6() {
		family = unix.AF_INET6
	}
	err = s.Node(i).Do(func() error {
		list, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
		for _, e := range list {
			for name, number := range map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP} {
				if e.Forward.Protocol == number && e.Forward.SrcPort == ports[name] && e.Forward.DstPort == netlab.EchoPort {
					protocols += name + " "
				}
			}
		}
		return err
	})
	return protocols, err
}

// connections: a node forgets those of an address when that has left, and when it comes.
func (s *site) connections() {
	s.cordon(2)
	talks := map[netip.Addr]talk{}
	open := func() {
		for _, a := range s.all() {
			talks[a] = s.talk(a, 1)
			if got, err := s.noted(1, talks[a]); err != nil || strings.Count(got, "p ") != 2 {
				s.t.Fatalf("n1 knows of connections to %s by %q, %v", a, got, err)
			}
		}
	}
	forgotten := func(what string) {
		for _, a := range s.all() {
			s.forgotten(what, a, 1, talks[a])
		}
	}
	open()
	s.cordon(1)
	forgotten("leaves")
	open() // n2 has the address, but kube-proxy of n1 translates what comes to it
	s.cordon(2)
	forgotten("comes")
}

func (s *site) forgotten(what string, a netip.Addr, i int, k talk) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("connections to %s are forgotten when it %s", a, what), func(context.Context) error {
		if got, err := s.noted(i, k); err != nil || got != "" {
			return fmt.Errorf("n%d knows still of %s%v", i, got, err)
		}
		return nil
	})
}

// moves: a node that had an address has nothing of it any more, as soon as its neighbours know.
func (s *site) moves() {
	for _, i := range []int{2, 1} {
		s.cordon(i)
		eventually(s.t, fmt.Sprintf("n%d has nothing of addresses that are on n%d", i, 3-i), func(ctx context.Context) error {
			if traces := s.traces(ctx, i); traces != "" {
				return errors.New(traces)
			}
			return nil
		})
		for _, a := range s.bound {
			if traces := s.traces(s.t.Context(), 3-i); strings.Count(traces, a.String()) < 2 {
				s.t.Errorf("n%d, which has %s, has it not on lo and in nftables: %s", 3-i, a, traces)
			}
		}
	}
}

// traces are the lines about addresses of Services in what node i has on lo, and in the table that keeps packets for them from leaving.
func (s *site) traces(ctx context.Context, i int) string {
	out, err := s.Node(i).Exec(ctx, "sh", "-c", "ip -o address show dev lo; nft list table inet pintle_services 2>/dev/null")
	if err != nil && len(out) == 0 {
		return err.Error()
	}
	var found []string
	for line := range strings.Lines(string(out)) {
		for _, a := range s.all() {
			if strings.Contains(line, a.String()) {
				found = append(found, strings.TrimSpace(line))
				break
			}
		}
	}
	return strings.Join(found, "; ")
}

// ends: one that is asked to end puts everything back; what one leaves that is killed is gone when the next one has ended.
func (s *site) ends() {
	ctx := s.t.Context()
	as := func(i int, when string) {
		s.t.Helper()
		if now := s.footprint(i); now != s.before[i-1] {
			s.t.Errorf("%s n%d is not as it was:\n%s", when, i, changed(s.before[i-1], now))
		}
	}
	s.cordon(2)
	check(s.t, s.Stop(ctx, 2))
	as(2, "when its Pintle has ended")
	check(s.t, s.Stop(ctx, 1)) // there is no other that it could hand anything over to
	as(1, "when the last Pintle has ended")
	check(s.t, s.Start(1))
	has := func(ctx context.Context) error {
		for _, a := range s.bound {
			if traces := s.traces(ctx, 1); strings.Count(traces, a.String()) < 2 {
				return fmt.Errorf("of %s there is but: %s", a, traces)
			}
		}
		return nil
	}
	eventually(s.t, "n1 has the addresses again", has)
	check(s.t, s.Kill(1))
	check(s.t, has(ctx)) // else this test could not see that it goes
	for _, name := range []string{"plain", "bound"} {
		check(s.t, s.API(1).CoreV1().Services("default").Delete(ctx, name, metav1.DeleteOptions{}))
	}
	check(s.t, s.Start(1))
	eventually(s.t, "what a killed one left is gone", func(ctx context.Context) error {
		list, err := s.API(1).Addresses.List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if traces := s.traces(ctx, 1); traces != "" || len(list.Items) > 0 {
			return fmt.Errorf("%d objects of addresses, and %s", len(list.Items), traces)
		}
		return nil
	})
	check(s.t, s.Stop(ctx, 1))
	as(1, "when a Pintle has ended that came after one that was killed,")
}

// changed are the lines that differ.
func changed(before, after string) string {
	var out []string
	for _, side := range []struct{ sign, mine, other string }{{"- ", before, after}, {"+ ", after, before}} {
		for line := range strings.Lines(side.mine) {
			if !strings.Contains(side.other, line) {
				out = append(out, side.sign+strings.TrimSpace(line))
			}
		}
	}
	return strings.Join(out, "\n")
}
