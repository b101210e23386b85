// Package ipam says which addresses Services of type LoadBalancer have: pools of addresses and who uses which, as pure data. It
// knows no Kubernetes and no clock.
//
// A [Book] is told the pools and what is in use. [Book.Resolve] then says what one Service is to have: what it keeps, takes and
// gives up, or why it cannot have what it needs. It changes nothing. Whoever asks brings it about where it counts, and tells the
// Book what became true:
//
//	d := book.Resolve(request)   // d.Take: create or extend the object of that address
//	book.Set(holding)            // it was created
//
// A Service that works is not disturbed: an address is taken away for one that can be had, for a collision with a Service that
// was there before, or since it is blocked; not for a change of pools, which is told in [Decision.Notes].
package ipam

import (
	"cmp"
	"maps"
	"math/big"
	"net/netip"
	"slices"
)

// A Book knows the pools and the addresses in use. It is not safe for concurrent use, not even its methods that change nothing.
// What goes in or comes out is not to be modified.
type Book struct {
	pools   []*shelves // in the order in which they are tried
	byName  map[string]*shelves
	held    map[netip.Addr]Holding
	blocked map[netip.Addr]string // why
	users   map[user][]netip.Addr // what each has, sorted
	groups  map[shareGroup]*group
	usage   map[string]*Usage // nil: to be counted anew
}

// A shelves is a pool with what is free in it.
type shelves struct {
	Pool
	v4, v6 *shelf
}

type user struct {
	Key
	uid string
}

// NewBook returns a Book without pools in which nothing is in use.
func NewBook() *Book {
	return &Book{byName: map[string]*shelves{}, held: map[netip.Addr]Holding{}, blocked: map[netip.Addr]string{},
		users: map[user][]netip.Addr{}, groups: map[shareGroup]*group{}}
}

// SetPools replaces all pools. Holdings stay as they are. Of two pools of the same name the first counts.
func (b *Book) SetPools(pools []Pool) {
	old := b.byName
	b.pools, b.byName, b.usage = nil, map[string]*shelves{}, nil
	for _, p := range pools {
		if b.byName[p.Name] != nil {
			continue
		}
		n := &shelves{Pool: p}
		if o := old[p.Name]; o != nil && slices.Equal(o.Ranges, p.Ranges) {
			n.v4, n.v6 = o.v4, o.v6
		} else {
			n.v4, n.v6 = newShelf(IPv4, p.Ranges), newShelf(IPv6, p.Ranges)
		}
		b.pools = append(b.pools, n)
		b.byName[p.Name] = n
	}
	slices.SortFunc(b.pools, func(x, y *shelves) int { return comparePools(&x.Pool, &y.Pool) })
}

// Set says that an address is in use, and replaces what was said of it before. The order of its users matters: see [Holding]. Of one
// that is there twice the first counts.
func (b *Book) Set(h Holding) {
	h.Users = unique(h.Users)
	old := b.held[h.Addr].Users
	b.held[h.Addr] = h
	b.usage = nil
	b.relist(h.Addr, old, h.Users)
}

// Remove says that an address is not in use any more.
func (b *Book) Remove(addr netip.Addr) {
	h, ok := b.held[addr]
	if !ok {
		return
	}
	b.relist(addr, h.Users, nil)
	delete(b.held, addr)
	b.putBack(addr)
}

func unique(users []User) []User {
	if len(users) < 2 {
		return slices.Clone(users)
	}
	all := make([]User, 0, len(users))
	seen := make(map[user]bool, len(users))
	for _, u := range users {
		if id := (user{u.Service, u.UID}); !seen[id] {
			seen[id] = true
			all = append(all, u)
		}
	}
	return all
}

// Block says that an address is not to be given to anybody, and why, in words that follow the address: "is being deleted". A
// Service that has it gives it up. It may be blocked before it is in use, or while it is.
func (b *Book) Block(addr netip.Addr, why string) {
	b.blocked[addr] = cmp.Or(why, "is blocked")
	b.usage = nil
}

// Unblock undoes Block.
func (b *Book) Unblock(addr netip.Addr) {
	if _, ok := b.blocked[addr]; ok {
		delete(b.blocked, addr)
		b.putBack(addr)
	}
}

// Get returns who has an address.
func (b *Book) Get(addr netip.Addr) (Holding, bool) {
	h, ok := b.held[addr]
	return h, ok
}

// Of returns what a Service has, in the order of addresses. When the Service changes, first Set what it has with the user as it is now;
// then resolve it and the other users of these addresses, since one that came later may have to go.
func (b *Book) Of(svc Key, uid string) []Holding {
	var all []Holding
	for _, a := range b.users[user{svc, uid}] {
		all = append(all, b.held[a])
	}
	return all
}

// relist changes the indexes for an address that has other users now. It passes over those at both ends that are the same.
func (b *Book) relist(addr netip.Addr, old, users []User) {
	for len(old) > 0 && len(users) > 0 && old[0].equal(&users[0]) {
		old, users = old[1:], users[1:]
	}
	for len(old) > 0 && len(users) > 0 && old[len(old)-1].equal(&users[len(users)-1]) {
		old, users = old[:len(old)-1], users[:len(users)-1]
	}
	for i := range old {
		b.unlist(addr, &old[i])
	}
	for i := range users {
		b.list(addr, &users[i])
	}
}

func (b *Book) list(addr netip.Addr, u *User) {
	svc := user{u.Service, u.UID}
	b.users[svc] = insert(b.users[svc], addr)
	if u.ShareKey == "" {
		return
	}
	g := groupOf(addr, u)
	if b.groups[g] == nil {
		b.groups[g] = newGroup()
	}
	b.groups[g].add(addr, u.Ports)
}

func (b *Book) unlist(addr netip.Addr, u *User) {
	svc := user{u.Service, u.UID}
	if b.users[svc] = remove(b.users[svc], addr); len(b.users[svc]) == 0 {
		delete(b.users, svc)
	}
	if u.ShareKey == "" {
		return
	}
	g := groupOf(addr, u)
	if b.groups[g].remove(addr, u.Ports); len(b.groups[g].addrs) == 0 {
		delete(b.groups, g)
	}
}

func (b *Book) putBack(addr netip.Addr) {
	for _, p := range b.pools {
		p.of(FamilyOf(addr)).putBack(addr)
	}
	b.usage = nil
}

func (b *Book) free(addr netip.Addr) bool {
	if _, ok := b.held[addr]; ok {
		return false
	}
	_, ok := b.blocked[addr]
	return !ok
}

// from reports whether the pool that an address came from still has it.
func (b *Book) from(h Holding) bool {
	p := b.byName[h.Pool]
	return p != nil && p.contains(h.Addr)
}

// poolsOf returns the pools that have an address, in order.
func (b *Book) poolsOf(addr netip.Addr) (found []*shelves) {
	for _, p := range b.pools {
		if p.contains(addr) {
			found = append(found, p)
		}
	}
	return found
}

func (s *shelves) of(f Family) *shelf {
	if f == IPv4 {
		return s.v4
	}
	return s.v6
}

func (s *shelves) contains(addr netip.Addr) bool { return s.of(FamilyOf(addr)).contains(addr) }

// A Usage is what has become of the addresses of a pool.
type Usage struct {
	Total     *big.Int // different addresses
	Used      int      // of these, in use or blocked
	Free      *big.Int // the others
	Conflicts int      // in use, and in another pool too or from another; or from this pool and not in it any more
}

// Usage counts the addresses of a pool; all zero if there is none of this name. After a change, the first call takes time for
// each address in use, others do not.
func (b *Book) Usage(pool string) Usage {
	if b.usage == nil {
		b.usage = b.count()
	}
	u := b.usage[pool]
	if u == nil {
		return Usage{Total: new(big.Int), Free: new(big.Int)}
	}
	return Usage{Total: new(big.Int).Set(u.Total), Used: u.Used, Free: new(big.Int).Set(u.Free), Conflicts: u.Conflicts}
}

func (b *Book) count() map[string]*Usage {
	usage := map[string]*Usage{}
	for _, p := range b.pools {
		usage[p.Name] = &Usage{Total: new(big.Int).Add(p.v4.count(), p.v6.count())}
	}
	for addr, h := range b.held {
		found := b.poolsOf(addr)
		for _, p := range found {
			usage[p.Name].Used++
			if len(found) > 1 || h.Pool != p.Name {
				usage[p.Name].Conflicts++
			}
		}
		if u := usage[h.Pool]; u != nil && !b.from(h) {
			u.Conflicts++
		}
	}
	for addr := range maps.Keys(b.blocked) {
		if _, ok := b.held[addr]; ok {
			continue
		}
		for _, p := range b.poolsOf(addr) {
			usage[p.Name].Used++
		}
	}
	for _, u := range usage {
		u.Free = new(big.Int).Sub(u.Total, big.NewInt(int64(u.Used)))
	}
	return usage
}
