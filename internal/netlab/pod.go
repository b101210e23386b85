package netlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The ends of the cable between a pod and the host that it is on, as link-local addresses; IPv4 has no such thing.
var (
	podSide  = netip.MustParsePrefix("fe80::2/64")
	hostSide = netip.MustParsePrefix("fe80::1/64")
)

// podLink is what the names of the hosts' ends of cables begin with.
const podLink = "pod"

// IsPodLink says that a link of this name is the end of a pod's cable, on the host that it is on.
func IsPodLink(name string) bool { return strings.HasPrefix(name, podLink) }

// A Pod is a host that lives on another one, as the network plugin of Kubernetes makes it: a namespace of its own, whose only
// cable goes to that host, which forwards for it. Others reach it when they have a route to it by way of that host.
type Pod struct {
	*Host
	on   *Host
	link string // the end of its cable on that host
}

// Pod adds a pod on a host, with an IPv4 address and, if the lab has IPv6, perhaps an IPv6 address, in this order. The first
// address of the /24 of the former (10.244.3.1 for 10.244.3.7) is its gateway. It has the host's number, which is what its
// echo answers. The kernel may need another moment for IPv6. The pod goes with the lab, or by Close.
func (l *Lab) Pod(on *Host, name string, addrs ...netip.Addr) (*Pod, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("add pod %s on %s: %w", name, on.name, errClosed)
	}
	if len(addrs) == 0 || !addrs[0].Is4() || len(addrs) > 2 || len(addrs) == 2 && (!l.ipv6 || !addrs[1].Is6()) {
		return nil, fmt.Errorf("add pod %s on %s: addresses %v: want one of IPv4 and, if the lab has IPv6, at most one of IPv6", name, on.name, addrs)
	}
	l.podsMade++
	p := &Pod{on: on, link: fmt.Sprint(podLink, l.podsMade)}
	var err error
	if p.Host, err = newPodHost(l, name, on.number, addrs); err != nil {
		return nil, fmt.Errorf("add pod %s on %s: %w", name, on.name, err)
	}
	if err := p.join(); err != nil {
		return nil, errors.Join(fmt.Errorf("add pod %s on %s: %w", name, on.name, err), p.close())
	}
	l.behind = append(l.behind, p.Host)
	return p, nil
}

func newPodHost(l *Lab, name string, number int, addrs []netip.Addr) (*Host, error) {
	var prefixes []netip.Prefix
	for _, a := range addrs {
		prefixes = append(prefixes, netip.PrefixFrom(a, a.BitLen()))
	}
	if len(addrs) == 2 {
		prefixes = append(prefixes, podSide)
	}
	h, err := newHost(l, name, number, prefixes...)
	if err != nil {
		return nil, err
	}
	h.mac = net.HardwareAddr{2, 0x77, 1, 0, byte(l.podsMade >> 8), byte(l.podsMade)}
	return h, nil
}

// join lays the cable and makes packets go both ways.
func (p *Pod) join() error {
	gateway := p.Addr().As4()
	gateway[3] = 1
	ends := []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4(gateway), 32)}
	if p.Addr6().IsValid() {
		ends = append(ends, hostSide)
	}
	if err := p.on.withNetlink(func(nl *netlink.Handle) error { return layPodCable(nl, p) }); err != nil {
		return err
	}
	if err := p.configure(); err != nil {
		return err
	}
	if err := p.on.withNetlink(func(nl *netlink.Handle) error { return p.lead(nl, ends) }); err != nil {
		return err
	}
	if err := p.withNetlink(func(nl *netlink.Handle) error { return leadOut(nl, ends) }); err != nil {
		return err
	}
	return p.on.Forward()
}

// layPodCable makes the link between the host and eth0 of the pod.
func layPodCable(nl *netlink.Handle, p *Pod) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = p.link
	attrs.HardwareAddr = slices.Clone(p.mac)
	attrs.HardwareAddr[3] = 1
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(p.fd), PeerHardwareAddr: p.mac}
	if err := nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("add cable: %w", err)
	}
	return nil
}

// lead brings the host's end up, with routes to the pod's addresses alone.
func (p *Pod) lead(nl *netlink.Handle, ends []netip.Prefix) error {
	if err := setUp(nl, p.link, ends); err != nil {
		return err
	}
	link, err := nl.LinkByName(p.link)
	if err != nil {
		return fmt.Errorf("find %s: %w", p.link, err)
	}
	for _, a := range p.addrs[:len(ends)] {
		if err := nl.RouteAdd(onLink(link, a.Addr())); err != nil {
			return fmt.Errorf("add route to %s: %w", a.Addr(), err)
		}
	}
	return nil
}

// leadOut gives a pod its gateways, which for IPv4 is in no network of its own.
func leadOut(nl *netlink.Handle, gateways []netip.Prefix) error {
	eth0, err := nl.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find eth0: %w", err)
	}
	for _, g := range gateways {
		if g.Addr().Is4() {
			if err := nl.RouteAdd(onLink(eth0, g.Addr())); err != nil {
				return fmt.Errorf("add route to %s: %w", g.Addr(), err)
			}
		}
		all := netip.PrefixFrom(zero(g.Addr()), 0)
		if err := nl.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: ipNet(all), Gw: g.Addr().AsSlice()}); err != nil {
			return fmt.Errorf("add route via %s: %w", g.Addr(), err)
		}
	}
	return nil
}

func onLink(link netlink.Link, a netip.Addr) *netlink.Route {
	return &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(netip.PrefixFrom(a, a.BitLen())), Scope: unix.RT_SCOPE_LINK}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Close removes the pod and what the host knows of it. It may be called again.
func (p *Pod) Close() error {
	p.lab.mu.Lock()
	there := slices.Contains(p.lab.behind, p.Host)
	p.lab.behind = slices.DeleteFunc(p.lab.behind, func(h *Host) bool { return h == p.Host })
	p.lab.mu.Unlock()
	if !there {
		return nil
	}
	err := p.on.withNetlink(func(nl *netlink.Handle) error {
		link, err := nl.LinkByName(p.link)
		if err != nil {
			return fmt.Errorf("find %s: %w", p.link, err)
		}
		return nl.LinkDel(link)
	})
	if err != nil {
		err = fmt.Errorf("remove pod %s: %w", p.name, err)
	}
	return errors.Join(err, p.close())
}

// Forward makes the host route packets for others.
func (h *Host) Forward() error { return h.Do(func() error { return forward(h.lab.ipv6) }) }

// Route leads packets to a network by way of a gateway that is on a link of the host, or, without one, out of eth0. What led
// there before is replaced.
func (h *Host) Route(to netip.Prefix, via netip.Addr) error {
	err := h.withNetlink(func(nl *netlink.Handle) error {
		if via.IsValid() {
			return nl.RouteReplace(&netlink.Route{Dst: ipNet(to), Gw: via.AsSlice()})
		}
		eth0, err := nl.LinkByName("eth0")
		if err != nil {
			return err
		}
		return nl.RouteReplace(&netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: ipNet(to), Scope: unix.RT_SCOPE_LINK})
	})
	if err != nil {
		return fmt.Errorf("add route to %s on %s: %w", to, h.name, err)
	}
	return nil
}
