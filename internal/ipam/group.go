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
	addrs []netip.Addr       // sorted
	users map[netip.Addr]int // how many
	ports map[Port]*portUse
}

// A portUse is where a port is in use.
type portUse struct {
	users map[netip.Addr]int // how many: more than one if two were let in that may not share
	full  netip.Addr         // each lower address of the group has the port; the zero value is lower than any
}

func newGroup() *group { return &group{users: map[netip.Addr]int{}, ports: map[Port]*portUse{}} }

// add adds one user of an address.
func (g *group) add(addr netip.Addr, ports []Port) {
	if g.users[addr]++; g.users[addr] == 1 {
		g.addrs = insert(g.addrs, addr)
		if addr != g.addrs[len(g.addrs)-1] {
			for _, use := range g.ports {
				use.lower(addr)
			}
		}
	}
	for _, p := range ports {
		if g.ports[p] == nil {
			g.ports[p] = &portUse{users: map[netip.Addr]int{}}
		}
		g.ports[p].users[addr]++
	}
}

// remove undoes add.
func (g *group) remove(addr netip.Addr, ports []Port) {
	if g.users[addr]--; g.users[addr] == 0 {
		delete(g.users, addr)
		g.addrs = remove(g.addrs, addr)
	}
	for _, p := range ports {
		use := g.ports[p]
		if use.users[addr]--; use.users[addr] > 0 {
			continue
		}
		delete(use.users, addr)
		use.lower(addr)
		if len(use.users) == 0 {
			delete(g.ports, p)
		}
	}
}

func (u *portUse) lower(addr netip.Addr) {
	if addr.Less(u.full) {
		u.full = addr
	}
}

// without returns the addresses, in order, where nobody of the group has one of the ports. It does not look again at addresses where
// each port is in use from the lowest up.
func (g *group) without(ports []Port) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		if g == nil {
			return
		}
		var uses []*portUse
		start := 0
		for _, p := range ports {
			if use := g.ports[p]; use != nil {
				uses = append(uses, use)
				start = max(start, use.skip(g.addrs))
			}
		}
		for _, a := range g.addrs[start:] {
			if !slices.ContainsFunc(uses, func(u *portUse) bool { return u.users[a] > 0 }) && !yield(a) {
				return
			}
		}
	}
}

// skip returns how many of the group's addresses, from the lowest up, all have the port.
func (u *portUse) skip(addrs []netip.Addr) int {
	i, _ := slices.BinarySearchFunc(addrs, u.full, netip.Addr.Compare)
	for i < len(addrs) && u.users[addrs[i]] > 0 {
		u.full = addrs[i].Next()
		i++
	}
	return i
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
