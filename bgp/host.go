package bgp

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// way is how the kernel reaches a router.
type way struct {
	local netip.Addr // the source that it would choose
	link  int
	next  netip.Addr // the gateway, or the router itself
}

// wayTo asks the kernel.
func wayTo(router netip.Addr) (way, error) {
	routes, err := netlink.RouteGet(router.WithZone("").AsSlice())
	if err != nil || len(routes) == 0 {
		return way{}, fmt.Errorf("no route to the router %s: %w", router, err)
	}
	w := way{link: routes[0].LinkIndex, next: router}
	w.local, _ = netip.AddrFromSlice(routes[0].Src)
	w.local = w.local.Unmap()
	if gw, ok := netip.AddrFromSlice(routes[0].Gw); ok {
		w.next = gw.Unmap()
	}
	return w, nil
}

// localFor chooses our side of a session: what the kernel would, unless that is an address which the routes are for. These
// sit on lo, and connections from them would go wherever the address is.
func localFor(router netip.Addr, taken func(netip.Addr) bool) (netip.Addr, error) {
	w, err := wayTo(router)
	if err != nil {
		return netip.Addr{}, err
	}
	if w.local.IsValid() && !taken(w.local) {
		return w.local, nil
	}
	var other netip.Addr
	for _, p := range addresses(w.link, router.Is4()) {
		if a := p.Addr(); !taken(a) && !a.IsLinkLocalUnicast() {
			if p.Contains(w.next) {
				return a, nil
			}
			if !other.IsValid() {
				other = a
			}
		}
	}
	if other.IsValid() {
		return other, nil
	}
	return netip.Addr{}, fmt.Errorf("no address of this node to reach the router %s from: %s is advertised itself; set a local address", router, w.local)
}

// global6 is an IPv6 address of this node on the link that leads to the router, for routers to send to; zero if there is none.
func global6(router netip.Addr, taken func(netip.Addr) bool) netip.Addr {
	w, err := wayTo(router)
	if err != nil {
		return netip.Addr{}
	}
	for _, p := range addresses(w.link, false) {
		if a := p.Addr(); a.IsGlobalUnicast() && !taken(a) {
			return a
		}
	}
	return netip.Addr{}
}

// hostAddress is an address by which others reach this node, for a session that is on loopback; zero if there is none.
func hostAddress(is4 bool, taken func(netip.Addr) bool) netip.Addr {
	links, err := net.Interfaces()
	if err != nil {
		return netip.Addr{}
	}
	for _, l := range links {
		if l.Flags&net.FlagLoopback != 0 {
			continue
		}
		for _, p := range addresses(l.Index, is4) {
			if a := p.Addr(); a.IsGlobalUnicast() && !taken(a) {
				return a
			}
		}
	}
	return netip.Addr{}
}

// linkLocal is this node's link-local address on the link.
func linkLocal(link *net.Interface) netip.Addr {
	for _, p := range addresses(link.Index, false) {
		if p.Addr().IsLinkLocalUnicast() {
			return p.Addr().WithZone(link.Name)
		}
	}
	return netip.Addr{}
}

// linkTo is the name of the link that leads to the router; "" if nobody knows.
func linkTo(cfg Peer, router netip.Addr) string {
	if cfg.Interface != "" {
		return cfg.Interface
	}
	if router.Zone() != "" {
		return router.Zone()
	}
	w, err := wayTo(router)
	if err != nil {
		return ""
	}
	link, err := net.InterfaceByIndex(w.link)
	if err != nil {
		return ""
	}
	return link.Name
}

// addresses are those of a link that can be used now, the ones for good use first.
func addresses(link int, is4 bool) []netip.Prefix {
	family := netlink.FAMILY_V6
	if is4 {
		family = netlink.FAMILY_V4
	}
	list, err := netlink.AddrList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: link}}, family)
	if err != nil {
		return nil
	}
	var good, deprecated []netip.Prefix
	for _, a := range list {
		ip, ok := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		switch p := netip.PrefixFrom(ip.Unmap(), ones); {
		case !ok || a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0:
		case a.Flags&(unix.IFA_F_DEPRECATED|unix.IFA_F_TEMPORARY) != 0 && !is4:
			deprecated = append(deprecated, p)
		default:
			good = append(good, p)
		}
	}
	return append(good, deprecated...)
}
