package bgp

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	far1 = netip.MustParseAddr("10.91.0.1") // of node 1, one router away from far3
	far3 = netip.MustParseAddr("10.91.0.3")
)

// socketLab has nodes 1 and 3 that are neighbours by their own addresses, and two hops apart, over node 2, by far1 and far3.
func socketLab(t *testing.T) *netlab.Lab {
	t.Helper()
	lab, err := netlab.New(netlab.Options{Nodes: 3, IPv6: true})
	if errors.Is(err, unix.EPERM) && os.Getenv("LAB") != "require" {
		t.Skipf("this test makes network namespaces: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lab.Close() })
	over := func(i int, f func() error) {
		t.Helper()
		if err := lab.Node(i).Do(f); err != nil {
			t.Fatalf("node %d: %v", i, err)
		}
	}
	over(1, func() error { return errors.Join(addAddr(far1), addRoute(far3, lab.Node(2).Addr(), far1)) })
	over(3, func() error { return errors.Join(addAddr(far3), addRoute(far1, lab.Node(2).Addr(), far3)) })
	over(2, func() error {
		return errors.Join(
			os.WriteFile("/proc/sys/net/ipv4/conf/all/send_redirects", []byte("0"), 0),
			os.WriteFile("/proc/sys/net/ipv4/conf/eth0/send_redirects", []byte("0"), 0),
			os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
			addRoute(far1, lab.Node(1).Addr(), netip.Addr{}), addRoute(far3, lab.Node(3).Addr(), netip.Addr{}))
	})
	return lab
}

func addAddr(a netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.AddrAdd(lo, &netlink.Addr{IPNet: host(a)})
}

func addRoute(to, via, src netip.Addr) error {
	r := &netlink.Route{Dst: host(to), Gw: via.AsSlice()}
	if src.IsValid() {
		r.Src = src.AsSlice()
	}
	return netlink.RouteAdd(r)
}

func host(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// linkLocalOf is the fe80 address of eth0 on the host.
func linkLocalOf(t *testing.T, n *netlab.Node) (a netip.Addr) {
	t.Helper()
	err := n.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
		for _, x := range addrs {
			if ip, ok := netip.AddrFromSlice(x.IP); ok && ip.IsLinkLocalUnicast() {
				a = ip.WithZone("eth0")
			}
		}
		return err
	})
	if err != nil || !a.IsValid() {
		t.Fatalf("link-local address of %s: %v, %v", n.Name(), a, err)
	}
	return a
}

// Node 1 dials, node 3 listens: what each of them is told decides whether they can speak.
func TestSockets(t *testing.T) {
	lab := socketLab(t)
	l := listenOn(t, lab.Node(3), netip.MustParseAddrPort("[::]:179"))
	n1, n3 := lab.Node(1), lab.Node(3)
	key, wrong := []byte("a key"), []byte("b key")
	v4 := [2]netip.Addr{n1.Addr(), n3.Addr()}
	v6 := [2]netip.Addr{n1.Addr6(), n3.Addr6()}
	far := [2]netip.Addr{far1, far3}
	ll := [2]netip.Addr{linkLocalOf(t, n1), linkLocalOf(t, n3)}
	tests := []struct {
		name           string
		at             [2]netip.Addr // of the one that dials, and the other
		dials, expects endpoint
		want           string // of the dial error, or "" for a connection that carries both ways, "closed", or "deaf": it hears nothing
	}{
		{"plain", v4, endpoint{ttl: 1}, endpoint{ttl: 1}, ""},
		{"plain, IPv6", v6, endpoint{ttl: 1}, endpoint{ttl: 1}, ""},
		{"the system's TTL", v4, endpoint{}, endpoint{}, ""},
		{"unnumbered", ll, endpoint{ttl: 1, device: "eth0"}, endpoint{ttl: 1}, ""},
		{"unnumbered, GTSM, password", ll, endpoint{gtsm: true, device: "eth0", password: key}, endpoint{gtsm: true, password: key}, ""},
		{"password", v4, endpoint{ttl: 1, password: key}, endpoint{ttl: 1, password: key}, ""},
		{"password, IPv6", v6, endpoint{ttl: 1, password: key}, endpoint{ttl: 1, password: key}, ""},
		{"wrong password", v4, endpoint{ttl: 1, password: wrong}, endpoint{ttl: 1, password: key}, "a wrong password looks the same"},
		{"wrong password, IPv6", v6, endpoint{ttl: 1, password: wrong}, endpoint{ttl: 1, password: key}, "a wrong password looks the same"},
		{"no password", v4, endpoint{ttl: 1}, endpoint{ttl: 1, password: key}, "a router that wants a password looks the same"},
		{"a password too many", v4, endpoint{ttl: 1, password: key}, endpoint{ttl: 1}, "a wrong password looks the same"},
		{"GTSM", v4, endpoint{gtsm: true}, endpoint{gtsm: true}, ""},
		{"GTSM, IPv6", v6, endpoint{gtsm: true}, endpoint{gtsm: true}, ""},
		{"GTSM there only", v4, endpoint{ttl: 1}, endpoint{gtsm: true}, "closed"},
		{"GTSM there only, IPv6", v6, endpoint{ttl: 1}, endpoint{gtsm: true}, "closed"},
		{"GTSM here only", v4, endpoint{gtsm: true}, endpoint{ttl: 1}, "deaf"},
		{"GTSM here only, IPv6", v6, endpoint{gtsm: true}, endpoint{ttl: 1}, "deaf"},
		{"two hops, one allowed", far, endpoint{ttl: 1}, endpoint{ttl: 2}, "TTL 1"},
		{"two hops", far, endpoint{ttl: 2}, endpoint{ttl: 2}, ""},
		{"two hops, password", far, endpoint{ttl: 2, password: key}, endpoint{ttl: 2, password: key}, ""},
		{"two hops, GTSM", far, endpoint{gtsm: true}, endpoint{gtsm: true}, "does not use GTSM"},
		{"two hops, GTSM there only", far, endpoint{ttl: 255}, endpoint{gtsm: true}, "closed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.expects.remote = netip.AddrPortFrom(tt.at[0], 0)
			tt.dials.remote, tt.dials.local = netip.AddrPortFrom(tt.at[1].WithZone(tt.at[0].Zone()), 179), tt.at[0].WithZone("")
			accepted := make(chan *net.TCPConn, 1)
			cancel, err := l.expect(tt.expects, func(c *net.TCPConn) { accepted <- c })
			if err != nil {
				t.Fatal(err)
			}
			defer cancel()
			c, err := dialOn(t, n1, tt.dials, tt.want != "" && tt.want != "closed" && tt.want != "deaf")
			if tt.want == "closed" && errors.Is(err, unix.ECONNRESET) {
				return // as early as that
			}
			if err != nil {
				if tt.want == "" || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v, want %q", err, tt.want)
				}
				return
			}
			defer c.Close()
			if got := carries(t, c, accepted); got != tt.want {
				t.Errorf("the connection: %q, want %q", got, tt.want)
			}
		})
	}
	// Nobody waits for node 2.
	before := l.refused.Load()
	refused(t, lab.Node(2), n3)
	if n := l.refused.Load() - before; n != 1 {
		t.Errorf("%d refused, want 1", n)
	}
}

// refused checks that a connection from one node to the other ends at once.
func refused(t *testing.T, from, to *netlab.Node) {
	t.Helper()
	c, err := dialOn(t, from, endpoint{remote: netip.AddrPortFrom(to.Addr(), 179)}, false)
	if errors.Is(err, unix.ECONNRESET) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := carries(t, c, nil); got != "closed" {
		t.Errorf("an unexpected connection: %q", got)
	}
}

func listenOn(t *testing.T, n *netlab.Node, at netip.AddrPort) (l *listener) {
	t.Helper()
	if err := n.Do(func() (err error) { l, err = listen(t.Context(), at); return err }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the listener: %v", err)
		}
	})
	return l
}

// dialOn dials from the node; briefly where no answer is what is expected.
func dialOn(t *testing.T, n *netlab.Node, e endpoint, briefly bool) (c *net.TCPConn, err error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if briefly {
		ctx, cancel = context.WithTimeout(ctx, time.Second)
		defer cancel()
	}
	failed := n.Do(func() error { c, err = dial(ctx, e); return nil })
	return c, errors.Join(failed, err)
}

// carries says whether a byte gets through both ways: "" for yes, "closed", or "deaf" when none comes from there.
func carries(t *testing.T, c *net.TCPConn, accepted <-chan *net.TCPConn) string {
	t.Helper()
	// The one that accepts speaks first: a connection that it refused ends here.
	there := make(chan *net.TCPConn, 1)
	go func() {
		select {
		case d := <-accepted:
			d.Write([]byte("y"))
			there <- d
		case <-t.Context().Done():
		}
	}()
	const unheard = time.Second
	c.SetReadDeadline(time.Now().Add(unheard))
	_, err := io.ReadFull(c, make([]byte, 1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		(<-there).Close()
		return "deaf"
	case err != nil:
		return "closed"
	}
	d := <-there
	defer d.Close()
	d.SetReadDeadline(time.Now().Add(inTime))
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatalf("here: %v", err)
	}
	if _, err := io.ReadFull(d, make([]byte, 1)); err != nil {
		t.Fatalf("there: %v", err)
	}
	return ""
}

// The words for what goes wrong before there is a connection.
func TestDialErrors(t *testing.T) {
	lab := socketLab(t)
	n1, n3 := lab.Node(1), lab.Node(3)
	to := func(a string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(a), 179) }
	tests := []struct {
		e    endpoint
		want string
	}{
		{endpoint{remote: netip.AddrPortFrom(n3.Addr(), 179)}, "connection refused: the router does not listen on port 179, or does not know this node as a neighbor"},
		{endpoint{remote: to("10.92.0.1")}, "network is unreachable: there is no route to it"},
		{endpoint{remote: to("10.92.0.1"), local: n1.Addr()}, "network is unreachable: there is no route to it (10.77.0.1)"},
		{endpoint{remote: to("10.77.0.99")}, "no route to host: it does not answer on the link"},
		{endpoint{remote: netip.AddrPortFrom(n3.Addr(), 179), local: far3}, "cannot assign requested address: this machine does not have the local address (10.91.0.3)"},
		{endpoint{remote: to("fe80::1%eth0"), device: "eth7"}, "no such device: there is no such link"},
	}
	for _, tt := range tests {
		if _, err := dialOn(t, n1, tt.e, false); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %s", tt.e, err, tt.want)
		}
	}
}

// The same address again replaces the rules, and the end of the first expectation does not end the second.
func TestExpectAgain(t *testing.T) {
	lab := socketLab(t)
	n1, n3 := lab.Node(1), lab.Node(3)
	l := listenOn(t, n3, netip.AddrPortFrom(n3.Addr(), 179))
	from := netip.AddrPortFrom(n1.Addr(), 0)
	accepted := make(chan *net.TCPConn, 1)
	first, err := l.expect(endpoint{remote: from}, func(*net.TCPConn) { t.Error("the first expectation is over") })
	if err != nil {
		t.Fatal(err)
	}
	second, err := l.expect(endpoint{remote: from, password: []byte("key")}, func(c *net.TCPConn) { accepted <- c })
	if err != nil {
		t.Fatal(err)
	}
	first()
	c, err := dialOn(t, n1, endpoint{remote: netip.AddrPortFrom(n3.Addr(), 179), password: []byte("key")}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := carries(t, c, accepted); got != "" {
		t.Errorf("the connection: %q", got)
	}
	second()
	refused(t, n1, n3) // by us: if the key were there still, there would be no answer
}
