package netlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
)

// behindNumber is the number of the first host behind another; they are not on the switch, so it may be an asker's.
const behindNumber = 201

// Behind adds a host whose only cable goes to router, which becomes its default gateway and forwards. The cable is eth1 of
// router and has the network 10.78.R.0/24, and fd78:0:0:R::/64 in a lab with Options.IPv6, where R is router's number: .1 is
// router and .2 the new host. All hosts on the switch get a route there. router may have one host behind it.
func (l *Lab) Behind(router *Host) (*Host, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("add a host behind %s: %w", router.name, errClosed)
	}
	h, err := newHost(l, "behind-"+router.name, behindNumber+len(l.behind), cableAddrs(router.number, 2, l.ipv6)...)
	if err != nil {
		return nil, fmt.Errorf("add a host behind %s: %w", router.name, err)
	}
	if err := l.lead(router, h); err != nil {
		return nil, errors.Join(fmt.Errorf("add a host behind %s: %w", router.name, err), h.close())
	}
	l.behind = append(l.behind, h)
	return h, nil
}

// lead connects h to router and makes packets go both ways.
func (l *Lab) lead(router, h *Host) error {
	if err := router.withNetlink(func(nl *netlink.Handle) error { return layCable(nl, h) }); err != nil {
		return err
	}
	ends := cableAddrs(router.number, 1, l.ipv6)
	if err := h.configure(); err != nil {
		return err
	}
	if err := router.withNetlink(func(nl *netlink.Handle) error { return setUp(nl, "eth1", ends) }); err != nil {
		return err
	}
	if err := router.Do(func() error { return forward(l.ipv6) }); err != nil {
		return err
	}
	for i, via := range ends {
		all := netip.PrefixFrom(zero(via.Addr()), 0)
		if err := h.addRoute(all, via.Addr()); err != nil {
			return err
		}
		for _, other := range l.hosts() {
			if other == router {
				continue
			}
			if err := other.addRoute(via.Masked(), router.addrs[i].Addr()); err != nil {
				return err
			}
		}
	}
	return nil
}

// layCable makes the link between eth1 here and eth0 of h.
func layCable(nl *netlink.Handle, h *Host) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = "eth1", portMAC(h.number)
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(h.fd), PeerHardwareAddr: h.mac}
	if err := nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("add cable: %w", err)
	}
	return nil
}

// forward turns the routing of packets on in this thread's namespace.
func forward(ipv6 bool) error {
	err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
	if ipv6 {
		err = errors.Join(err, os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
	}
	return err
}

// addRoute adds a route. The gateway is on a link of the host.
func (h *Host) addRoute(to netip.Prefix, via netip.Addr) error {
	dst := &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), to.Addr().BitLen())}
	err := h.withNetlink(func(nl *netlink.Handle) error {
		return nl.RouteAdd(&netlink.Route{Dst: dst, Gw: via.AsSlice()})
	})
	if err != nil {
		return fmt.Errorf("add route to %s via %s on %s: %w", to, via, h.name, err)
	}
	return nil
}

// cableAddrs are the addresses of one end of the cable between router number r and the host behind it.
func cableAddrs(r int, end byte, ipv6 bool) []netip.Prefix {
	addrs := []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 78, byte(r), end}), 24)}
	if ipv6 {
		addrs = append(addrs, netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x78, 7: byte(r), 15: end}), 64))
	}
	return addrs
}

func zero(of netip.Addr) netip.Addr {
	if of.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
