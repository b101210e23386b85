package vip

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestWatchLinks(t *testing.T) {
	lab(t)
	veth(t, "eth0", "peer0")
	up(t, "eth0")
	up(t, "peer0")
	var mu sync.Mutex
	last := map[string]Link{}
	ctx, cancel := context.WithCancel(t.Context())
	watch := watchHere(t, ctx, func(links []Link) {
		mu.Lock()
		defer mu.Unlock()
		last = map[string]Link{}
		for _, l := range links {
			last[l.Name] = l
		}
	})
	see := func(name string, ok func(Link) bool) {
		t.Helper()
		until(t, name+" reported", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return ok(last[name])
		})
	}
	see("lo", func(l Link) bool {
		return l.Up && !l.ARP && slices.Contains(l.Addrs, netip.MustParsePrefix("127.0.0.1/8"))
	})
	see("eth0", func(l Link) bool { return l.Up && l.Carrier && l.ARP && len(l.MAC) == 6 && l.Index > 1 })
	giveAddress(t, "eth0", "10.9.0.1/24")
	see("eth0", func(l Link) bool { return slices.Contains(l.Addrs, netip.MustParsePrefix("10.9.0.1/24")) })
	must(t, netlink.LinkSetDown(byName(t, "peer0")))
	see("eth0", func(l Link) bool { return l.Up && !l.Carrier })
	veth(t, "eth1", "peer1")
	see("eth1", func(l Link) bool { return l.Index > 1 })
	must(t, netlink.LinkSetARPOff(byName(t, "eth1")))
	see("eth1", func(l Link) bool { return l.Index > 1 && !l.ARP })
	must(t, netlink.LinkDel(byName(t, "eth1")))
	see("eth1", func(l Link) bool { return l.Index == 0 })
	links, err := Links()
	must(t, err)
	if len(links) != 3 || !reflect.DeepEqual(links[2].Name, "eth0") && links[1].Name != "eth0" {
		t.Errorf("links %+v", links)
	}
	cancel()
	must(t, <-watch)
}

// watchHere runs WatchLinks on a thread in the namespace of the test's.
func watchHere(t *testing.T, ctx context.Context, report func([]Link)) <-chan error {
	t.Helper()
	here := thisNamespace(t)
	done := make(chan error, 1)
	go here.do(t, func() error {
		done <- WatchLinks(ctx, report)
		return nil
	})
	return done
}

func TestWatchLinksReportsOnlyChanges(t *testing.T) {
	lab(t)
	r, err := dialRoute()
	must(t, err)
	defer r.close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changed, reports := newPoke(), make(chan []Link, 8)
	done := make(chan error, 1)
	go func() { done <- r.reportLinks(ctx, changed, func(ls []Link) { reports <- ls }) }()
	changed.poke()
	<-reports
	for range 3 { // each poke is taken only when the one before has been looked at
		changed <- struct{}{}
	}
	giveAddress(t, "lo", "10.9.0.1/32")
	changed <- struct{}{}
	ls := <-reports
	if fmt.Sprint(ls[0].Addrs) != "[10.9.0.1/32 127.0.0.1/8 ::1/128]" {
		t.Errorf("second report %v", ls[0].Addrs)
	}
	cancel()
	must(t, <-done)
}

func TestEstablished(t *testing.T) {
	lab(t)
	giveAddress(t, "lo", "fd09::50/128")
	b := open(t, Config{})
	set(t, b, vip4, vip6)
	addrs := []netip.Addr{netip.MustParseAddr("10.9.0.9"), netip.MustParseAddr("fd09::9")}
	count := func(want int) {
		t.Helper()
		var n int
		until(t, fmt.Sprintf("%d established", want), func() bool {
			var err error
			n, err = Established(addrs)
			must(t, err)
			return n == want
		})
	}
	listeners := map[string]net.Listener{}
	for _, l := range []struct{ network, host string }{{"tcp", "10.9.0.9"}, {"tcp", "fd09::9"}, {"tcp", "::"}} {
		ln, err := net.Listen(l.network, net.JoinHostPort(l.host, "0"))
		must(t, err)
		defer ln.Close()
		listeners[l.host] = ln
	}
	count(0)
	_, port, _ := net.SplitHostPort(listeners["::"].Addr().String())
	var served []net.Conn
	for i, d := range []struct{ at, from, to string }{
		{"10.9.0.9", "127.0.0.1", listeners["10.9.0.9"].Addr().String()},
		{"fd09::9", "fd09::50", listeners["fd09::9"].Addr().String()},
		{"::", "127.0.0.1", net.JoinHostPort("10.9.0.9", port)}, // mapped: ::ffff:10.9.0.9
	} {
		var c net.Conn
		until(t, "connected to "+d.to, func() (ok bool) { // a new namespace may say once that an IPv6 network is unreachable
			var err error
			c, err = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(d.from)}}).Dial("tcp", d.to)
			return err == nil
		})
		defer c.Close()
		s, err := listeners[d.at].Accept()
		must(t, err)
		served = append(served, s)
		count(i + 1)
	}
	n, err := Established([]netip.Addr{netip.MustParseAddr("10.9.0.77")})
	must(t, err)
	if n != 0 {
		t.Errorf("%d at an address that nobody uses", n)
	}
	for i, s := range served { // FIN_WAIT2: nothing left to send
		must(t, s.Close())
		count(len(served) - 1 - i)
	}
}

func TestCapabilities(t *testing.T) {
	if got := missing(0); fmt.Sprint(got) != "[CAP_NET_ADMIN CAP_NET_RAW]" {
		t.Errorf("%v", got)
	}
	if got := missing(1 << unix.CAP_NET_ADMIN); fmt.Sprint(got) != "[CAP_NET_RAW]" {
		t.Errorf("%v", got)
	}
	lab(t)
	if got := CheckCapabilities(); got != nil {
		t.Errorf("as root: %v missing", got)
	}
}
