package ipam

import (
	"iter"
	"net/netip"
	"slices"
)

// A shareGroup names Services that may share addresses if their ports allow it.
type shareGroup struct {
	family        Family
	key, backends string
}

func groupOf(addr netip.Addr, u *User) shareGroup {
	return shareGroup{FamilyOf(addr), u.ShareKey, u.Backends}
}

// A group is what the Services of a shareGroup have.
type group struct {
	addrs []netip.Addr                 // sorted
	ports map[Port]map[netip.Addr]bool // where a port is in use
}

func (g *group) add(addr netip.Addr, ports []Port) {
	g.addrs = insert(g.addrs, addr)
	for _, p := range ports {
		if g.ports[p] == nil {
			g.ports[p] = map[netip.Addr]bool{}
		}
		g.ports[p][addr] = true
	}
}

func (g *group) remove(addr netip.Addr, ports []Port) {
	g.addrs = remove(g.addrs, addr)
	for _, p := range ports {
		if delete(g.ports[p], addr); len(g.ports[p]) == 0 {
			delete(g.ports, p)
		}
	}
}

// without returns the addresses, in order, where nobody of the group has one of the ports. It does not look at each address if one
// of the ports is in use everywhere.
func (g *group) without(ports []Port) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		if g == nil || slices.ContainsFunc(ports, func(p Port) bool { return len(g.ports[p]) == len(g.addrs) }) {
			return
		}
		for _, a := range g.addrs {
			if !slices.ContainsFunc(ports, func(p Port) bool { return g.ports[p][a] }) && !yield(a) {
				return
			}
		}
	}
}

// insert adds an address to a sorted list that may have it.
func insert(list []netip.Addr, a netip.Addr) []netip.Addr {
	i, found := slices.BinarySearchFunc(list, a, netip.Addr.Compare)
	if found {
		return list
	}
	return slices.Insert(list, i, a)
}

// remove takes an address from a sorted list that may lack it.
func remove(list []netip.Addr, a netip.Addr) []netip.Addr {
	if i, found := slices.BinarySearchFunc(list, a, netip.Addr.Compare); found {
		return slices.Delete(list, i, i+1)
	}
	return list
}
