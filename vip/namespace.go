package vip

import (
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NamespaceID names the network namespace of the calling thread as no other one is ever named, also after it has gone. It is "" where
// the kernel has no names for namespaces (before 5.14).
func NamespaceID() (string, error) {
	life, err := namespaceLife()
	if err != nil || strings.HasSuffix(life, "/0") {
		return "", err
	}
	return life, nil
}

// DefaultLinks returns the indices of the links that default routes of the main table lead over, in the calling thread's network
// namespace. It does not wait for RTNL.
func DefaultLinks() (map[int]bool, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("list default routes: %w", err)
	}
	defer h.Close()
	routes, err := h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list default routes: %w", err)
	}
	out := map[int]bool{}
	for _, r := range routes {
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones > 0 {
				continue
			}
		}
		out[r.LinkIndex] = true
		for _, hop := range r.MultiPath {
			out[hop.LinkIndex] = true
		}
	}
	delete(out, 0)
	return out, nil
}
