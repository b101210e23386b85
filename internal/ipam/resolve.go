package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Resolve says which addresses the Service is to have. What it has and still fits is kept, what does not fit is dropped, what is
// missing is chosen:
//
//   - what it asks for by address, if a pool that is for this Service has it and it is free or can be shared;
//   - else, with a share key, the lowest address that others with this key have and that it can share;
//   - else the lowest free address of the pool it asks for, or of the first pool that is for this Service and has autoAssign. A
//     Service that needs two addresses gets them from one pool if there is one that has both.
//
// A Service that cannot have all it asks for keeps what it has and takes nothing, apart from PreferDualStack, where each family is
// looked at alone.
//
// Resolve changes nothing. To whom an address is given does not depend on the order in which the Book was told of others, but on
// what is in use. Once a decision is brought about, Resolve finds nothing more to do.
func (b *Book) Resolve(r Request) Decision {
	s := &resolution{book: b, Request: r}
	for _, f := range r.wanted() {
		s.slots = append(s.slots, &slot{family: f})
	}
	s.ask()
	s.settle()
	s.choose()
	s.finish()
	return s.Decision
}

// A resolution is the work on one request.
type resolution struct {
	Request
	Decision
	book  *Book
	slots []*slot // of the families wanted, in order
}

// A slot is the address of one family.
type slot struct {
	family  Family
	asked   netip.Addr // the zero value: any
	has     []Grant    // what the Service has and may keep, best first
	grant   *Grant     // what it is to have; nil until it is found
	refused []Refusal
}

func (s *resolution) slot(f Family) *slot {
	if i := slices.IndexFunc(s.slots, func(t *slot) bool { return t.family == f }); i >= 0 {
		return s.slots[i]
	}
	return nil
}

// ask notes which addresses are asked for.
func (s *resolution) ask() {
	if len(s.slots) == 0 {
		s.refuse(Refusal{Why: "the Service has no IP family yet (spec.ipFamilies)"})
	}
	for _, a := range s.Addresses {
		a = a.Unmap()
		t := s.slot(FamilyOf(a))
		switch {
		case !a.IsValid() || len(s.slots) == 0:
		case t == nil:
			s.refuse(Refusal{Addr: a, Why: s.otherFamily(FamilyOf(a))})
		case t.asked.IsValid() && t.asked != a:
			s.refuse(Refusal{Addr: a, Why: fmt.Sprintf("is asked for besides %s: a Service has one %s address", t.asked, t.family)})
		default:
			t.asked = a
		}
	}
}

func (s *resolution) otherFamily(f Family) string {
	if slices.Contains(s.Families, f) {
		return fmt.Sprintf("is %s, and a SingleStack Service has %s alone: choose another address or another ipFamilyPolicy", f, s.slots[0].family)
	}
	return fmt.Sprintf("is %s, which is not in spec.ipFamilies", f)
}

func (s *resolution) refuse(r Refusal) { s.Refused = append(s.Refused, r) }

func (s *resolution) note(format string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
}

// settle looks at what the Service has: the best of each slot stays for now, and is its grant if it is what was asked for.
func (s *resolution) settle() {
	for _, h := range s.book.Of(s.Service, s.UID) {
		t := s.slot(FamilyOf(h.Addr))
		switch why := s.loses(h); {
		case why != "":
			s.drop(h.Addr, why)
		case len(s.slots) == 0:
			s.Keep = append(s.Keep, s.kept(h))
		case t == nil:
			s.drop(h.Addr, s.otherFamily(FamilyOf(h.Addr)))
		default:
			t.has = append(t.has, s.kept(h))
		}
	}
	for _, t := range s.slots {
		slices.SortStableFunc(t.has, func(a, b Grant) int { return s.rank(t, a) - s.rank(t, b) })
		if len(t.has) > 0 && s.meets(t, t.has[0]) {
			t.grant = &t.has[0]
		}
	}
}

// loses says why the Service cannot go on having what it has, in words that follow the address; "" if it can. A user that loses
// itself is in nobody's way.
func (s *resolution) loses(h Holding) string {
	if why, ok := s.book.blocked[h.Addr]; ok {
		return why
	}
	if len(h.Users) == 1 {
		return ""
	}
	var stay company
	for _, u := range h.Users {
		self := u.is(s.Service, s.UID)
		if self {
			u = s.User
		}
		if why := stay.join(u); self {
			return why
		}
	}
	return ""
}

// A company is users that share an address.
type company struct {
	users []User
	ports map[Port]int // whose: index of users
}

// join adds a user, or says why it cannot share with those that are there.
func (c *company) join(u User) string {
	if len(c.users) > 0 {
		if why := u.clash(&c.users[0]); why != "" { // all have the same key and backends
			return why
		}
	}
	for _, p := range u.Ports {
		if i, ok := c.ports[p]; ok {
			return u.clash(&c.users[i])
		}
	}
	if c.ports == nil {
		c.ports = map[Port]int{}
	}
	for _, p := range u.Ports {
		c.ports[p] = len(c.users)
	}
	c.users = append(c.users, u)
	return ""
}

func (s *resolution) drop(addr netip.Addr, why string) {
	s.Drop = append(s.Drop, addr)
	s.note("%s is given up: it %s", addr, why)
}

// kept is the grant of what the Service has. A pool that is gone is replaced by one that has the address now.
func (s *resolution) kept(h Holding) Grant {
	g := Grant{Addr: h.Addr, Pool: h.Pool, Share: len(h.Users) > 1}
	if p := s.book.byName[s.Pool]; p != nil && p.contains(h.Addr) && p.refuses(&s.Request) == "" {
		g.Pool = p.Name
		return g
	}
	if p := s.book.byName[h.Pool]; p != nil && p.contains(h.Addr) {
		return g
	}
	for _, p := range s.book.poolsOf(h.Addr) {
		if p.refuses(&s.Request) == "" {
			g.Pool = p.Name
			return g
		}
	}
	return g
}

// meets reports whether an address that the Service has is what it asks for.
func (s *resolution) meets(t *slot, g Grant) bool {
	if t.asked.IsValid() && t.asked != g.Addr {
		return false
	}
	return s.Pool == "" || s.Pool == g.Pool
}

// rank is lower for what is better to keep.
func (s *resolution) rank(t *slot, g Grant) int {
	switch {
	case !s.meets(t, g):
		return 2
	case s.strange(g) != "":
		return 1
	}
	return 0
}

// strange says why an address would not be given today, in words that follow it; "" if it would.
func (s *resolution) strange(g Grant) string {
	p := s.book.byName[g.Pool]
	switch {
	case p == nil:
		return "is in no pool any more"
	case !p.contains(g.Addr):
		return fmt.Sprintf("is not in pool %s any more", g.Pool)
	}
	if why := p.refuses(&s.Request); why != "" {
		return fmt.Sprintf("is in pool %s, which %s any more", g.Pool, why)
	}
	return ""
}

// choose finds an address for each slot that has none as asked for.
func (s *resolution) choose() {
	var open []*slot
	for _, t := range s.slots {
		switch {
		case t.grant != nil:
		case t.asked.IsValid():
			s.takeAsked(t)
		case s.ShareKey != "" && s.takeShared(t):
		default:
			open = append(open, t)
		}
	}
	if len(open) == 0 {
		return
	}
	pools := s.candidates(open)
	if len(open) > 1 && s.takeBoth(open, pools) {
		return
	}
	for _, t := range open {
		s.takeFree(t, pools)
	}
}

// takeAsked tries the address that is asked for.
func (s *resolution) takeAsked(t *slot) {
	p, refusal := s.poolFor(t.asked)
	if p == nil {
		t.refused = append(t.refused, refusal)
		return
	}
	no := func(why string) { t.refused = append(t.refused, Refusal{Pool: p.Name, Addr: t.asked, Why: why}) }
	if why, ok := s.book.blocked[t.asked]; ok {
		no(why)
		return
	}
	h, held := s.book.held[t.asked]
	if why := s.stranger(h); held && why != "" {
		no(why)
		return
	}
	t.grant = &Grant{Addr: t.asked, Pool: p.Name, Share: held}
}

// poolFor finds the pool from which the Service may have an address it asks for, or says why there is none.
func (s *resolution) poolFor(addr netip.Addr) (*shelves, Refusal) {
	found := s.book.poolsOf(addr)
	if s.Pool != "" {
		p := s.book.byName[s.Pool]
		if p == nil {
			return nil, Refusal{Pool: s.Pool, Why: "does not exist"}
		}
		if !p.contains(addr) {
			return nil, Refusal{Addr: addr, Why: s.outside(addr, []*shelves{p}, "is not in pool "+p.Name+", which is asked for too")}
		}
		found = []*shelves{p}
	}
	if len(found) == 0 {
		return nil, Refusal{Addr: addr, Why: s.outside(addr, s.book.pools, "is in no pool")}
	}
	for _, p := range found {
		if p.refuses(&s.Request) == "" {
			return p, Refusal{}
		}
	}
	return nil, Refusal{Addr: addr, Why: fmt.Sprintf("is in pool %s, which %s", found[0].Name, found[0].refuses(&s.Request))}
}

// outside adds to why an address is in none of the pools that one leaves it out on purpose.
func (s *resolution) outside(addr netip.Addr, pools []*shelves, why string) string {
	for _, p := range pools {
		for _, r := range p.Ranges {
			if r.Skips(addr) {
				return fmt.Sprintf("%s: pool %s leaves out the first and the last address of %s (skipFirstLast)", why, p.Name, r)
			}
		}
	}
	return why
}

// stranger says why the Service cannot share an address with those who have it; "" if it can.
func (s *resolution) stranger(h Holding) string {
	if len(h.Users) == 0 {
		return "is being given back"
	}
	for _, u := range h.Users {
		if why := s.User.clash(&u); why != "" {
			return why
		}
	}
	return ""
}

// takeShared tries the addresses that others with the same share key have.
func (s *resolution) takeShared(t *slot) bool {
	for _, a := range s.book.groups[shareGroup{t.family, s.ShareKey, s.Backends}] {
		h := s.book.held[a]
		p := s.book.byName[h.Pool]
		if p == nil || !p.contains(a) || s.Pool != "" && s.Pool != h.Pool || p.refuses(&s.Request) != "" {
			continue
		}
		if _, blocked := s.book.blocked[a]; !blocked && s.stranger(h) == "" {
			t.grant = &Grant{Addr: a, Pool: h.Pool, Share: true}
			return true
		}
	}
	return false
}

// candidates returns the pools that may serve without being asked for an address, in order, and tells the slots why others do not.
func (s *resolution) candidates(open []*slot) (pools []*shelves) {
	refuse := func(pool, why string) {
		for _, t := range open {
			t.refused = append(t.refused, Refusal{Family: t.family, Pool: pool, Why: why})
		}
	}
	all := s.book.pools
	if s.Pool != "" {
		p := s.book.byName[s.Pool]
		if p == nil {
			refuse(s.Pool, "does not exist")
			return nil
		}
		all = []*shelves{p}
	}
	if len(all) == 0 {
		refuse("", "there is no pool of addresses")
	}
	for _, p := range all {
		if why := p.refuses(&s.Request); why != "" {
			refuse(p.Name, why)
		} else if s.Pool == "" && !p.AutoAssign {
			refuse(p.Name, "is only for Services that ask for it (autoAssign: false)")
		} else {
			pools = append(pools, p)
		}
	}
	return pools
}

// takeBoth tries to fill two slots from one pool.
func (s *resolution) takeBoth(open []*slot, pools []*shelves) bool {
	for _, p := range pools {
		x, okX := p.of(open[0].family).lowest(s.book.free)
		y, okY := p.of(open[1].family).lowest(s.book.free)
		if okX && okY {
			open[0].grant, open[1].grant = &Grant{Addr: x, Pool: p.Name}, &Grant{Addr: y, Pool: p.Name}
			return true
		}
	}
	return false
}

// takeFree tries the pool that another slot is served from, and then all.
func (s *resolution) takeFree(t *slot, pools []*shelves) {
	for _, other := range s.slots {
		if g := other.grant; g != nil {
			if i := slices.IndexFunc(pools, func(p *shelves) bool { return p.Name == g.Pool }); i > 0 {
				pools = slices.Concat(pools[i:i+1], pools[:i], pools[i+1:])
			}
		}
	}
	for _, p := range pools {
		shelf := p.of(t.family)
		if a, ok := shelf.lowest(s.book.free); ok {
			t.grant = &Grant{Addr: a, Pool: p.Name}
			return
		}
		t.refused = append(t.refused, Refusal{Family: t.family, Pool: p.Name, Why: shelf.exhausted(t.family)})
	}
}

func (s *shelf) exhausted(f Family) string {
	if len(s.spans) == 0 {
		return fmt.Sprintf("has no %s addresses", f)
	}
	return fmt.Sprintf("is exhausted (all its %s addresses are in use)", f)
}

// finish makes the decision of the slots.
func (s *resolution) finish() {
	unmet := slices.ContainsFunc(s.slots, func(t *slot) bool { return t.grant == nil })
	if s.Policy != PreferDualStack && (unmet || len(s.Refused) > 0) {
		s.undo()
	}
	served := slices.ContainsFunc(s.slots, func(t *slot) bool { return t.grant != nil })
	for _, t := range s.slots {
		s.close(t, s.Policy == PreferDualStack && served)
	}
	if s.Policy == RequireDualStack && unmet && len(s.slots) > 1 {
		s.refuse(Refusal{Why: "ipFamilyPolicy RequireDualStack needs both families"})
	}
}

// undo takes nothing.
func (s *resolution) undo() {
	for _, t := range s.slots {
		if t.grant != nil && !slices.ContainsFunc(t.has, func(g Grant) bool { return g.Addr == t.grant.Addr }) {
			t.grant, t.refused = nil, nil
		}
	}
}

// close adds what becomes of a slot. An optional one may stay empty, unless something was asked for.
func (s *resolution) close(t *slot, optional bool) {
	g, kept := t.grant, false
	if g == nil && len(t.has) > 0 {
		g = &t.has[0] // not what was asked for, but it works
		if len(t.refused) > 0 {
			t.refused = append(t.refused, Refusal{Pool: g.Pool, Addr: g.Addr, Why: "stays until then"})
		}
	}
	for _, has := range t.has {
		if g.Addr == has.Addr {
			kept = true
			continue
		}
		s.drop(has.Addr, "makes way for "+g.Addr.String())
	}
	switch {
	case g == nil:
		s.Missing = append(s.Missing, t.family)
	case kept:
		s.Keep = append(s.Keep, *g)
		if why := s.strange(*g); why != "" {
			s.note("%s %s; it stays until the Service is deleted", g.Addr, why)
		}
	default:
		s.Take = append(s.Take, *g)
	}
	switch {
	case t.grant != nil: // refusals of pools that were tried before
	case optional && !t.asked.IsValid() && len(t.has) == 0:
		s.note("%s", strings.TrimSpace(Explain(t.refused)))
	default:
		s.Refused = append(s.Refused, t.refused...)
	}
}
