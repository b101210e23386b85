package netlab

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// Pods on two nodes reach each other, and the client reaches them, by the routes that it is told of.
func TestPods(t *testing.T) {
	l := newLab(t, Options{Nodes: 2, IPv6: true})
	addrs := [][]netip.Addr{
		{netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd00:244:0:1::2")},
		{netip.MustParseAddr("10.244.1.3"), netip.MustParseAddr("fd00:244:0:1::3")},
		{netip.MustParseAddr("10.244.2.2"), netip.MustParseAddr("fd00:244:0:2::2")},
	}
	for _, h := range l.hosts() {
		for i, n := range l.Nodes() {
			if n.Host == h {
				continue
			}
			for j, bits := range []int{24, 64} {
				subnet, err := addrs[2*i][j].Prefix(bits)
				must(t, err)
				must(t, h.Route(subnet, n.addrs[j].Addr()))
			}
		}
	}
	var pods []*Pod
	for i, name := range []string{"a", "b", "c"} {
		p, err := l.Pod(l.Node(1+i/2).Host, name, addrs[i]...)
		must(t, err)
		_, err = p.Greet(80)
		must(t, err)
		pods = append(pods, p)
	}
	for _, from := range []*Host{l.Client(), l.Node(1).Host, pods[0].Host, pods[2].Host} {
		for i, to := range pods {
			for j := range addrs[i] {
				at := netip.AddrPortFrom(addrs[i][j], 80)
				var a Answer
				answered := func(network string) func() bool {
					return func() (ok bool) {
						var err error
						a, err = from.Ask(t.Context(), network, at)
						return err == nil
					}
				}
				eventually(t, fmt.Sprintf("%s asks %s by tcp", from.Name(), at), answered("tcp"))
				if a.By != to.Name() || a.Seen.Addr() != from.addrs[j].Addr() && from != l.Node(1).Host {
					t.Errorf("%s asks %s by tcp: %+v", from.Name(), at, a)
				}
				eventually(t, fmt.Sprintf("%s asks %s by udp", from.Name(), at), answered("udp"))
				if a.By != nodeName(to.Number()) {
					t.Errorf("%s asks %s by udp: %+v", from.Name(), at, a)
				}
			}
		}
	}

	must(t, pods[1].Close())
	must(t, pods[1].Close())
	if _, err := l.Client().Ask(t.Context(), "tcp", netip.AddrPortFrom(addrs[1][0], 80)); err == nil {
		t.Error("a pod that is gone answers")
	}
	must(t, l.Node(1).withNetlink(func(nl *netlink.Handle) error {
		links, err := nl.LinkList()
		for _, link := range links {
			if link.Attrs().Name == pods[1].link {
				t.Error("its cable is still there")
			}
		}
		return err
	}))
	if _, err := l.Pod(l.Node(1).Host, "d", addrs[0][1]); err == nil {
		t.Error("made a pod without IPv4")
	}
}

// What is sent on a connection comes back, until the service ends.
func TestGreeter(t *testing.T) {
	l := newLab(t, Options{Nodes: 1})
	g, err := l.Node(1).Greet(EchoPort)
	must(t, err)
	p, err := l.StartProbe(l.Node(1).Addr(), 5*time.Millisecond)
	must(t, err)
	eventually(t, "it answers the probe", func() bool { return p.Serving() == "n1" })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := l.Client().Dial(ctx, "tcp", netip.AddrPortFrom(l.Node(1).Addr(), EchoPort))
	must(t, err)
	defer c.Close()
	greeting := make([]byte, len("n1 "+c.LocalAddr().String()+"\n"))
	_, err = io.ReadFull(c, greeting)
	must(t, err)
	if want := "n1 " + c.LocalAddr().String() + "\n"; string(greeting) != want {
		t.Errorf("greeting %q; want %q", greeting, want)
	}
	_, err = c.Write([]byte("again"))
	must(t, err)
	echo := make([]byte, 5)
	if _, err := io.ReadFull(c, echo); err != nil || string(echo) != "again" {
		t.Errorf("echo %q, %v", echo, err)
	}
	g.Close()
	g.Close()
	if n, err := c.Read(echo); err == nil {
		t.Errorf("%d bytes after the end of the service", n)
	}
	if _, err := l.Client().Ask(ctx, "udp", netip.AddrPortFrom(l.Node(1).Addr(), EchoPort)); err == nil {
		t.Error("a service that has ended answers")
	}
}
