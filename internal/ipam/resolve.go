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
// looked at alone. Of users of one address that may not share it any more, the later ones lose it, whether there is another or not.
//
// Resolve changes nothing, and depends on the request, the pools and what is in use or blocked, not on how the Book came to know of it.
// Once a decision is brought about, Resolve finds nothing more to do.
func (b *Book) Resolve(r Request) Decision {
	s := &resolution{book: b, Request: r}
	for _, f := range r.wanted() {
		s.slots = append(s.slots, &slot{family: f})
	}
	s.ask()
	s.settle()
	s.choose()
	s.finish()
	slices.SortFunc(s.Drop, netip.Addr.Compare)
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
			s.refuse(Refusal{Addr: a, Why: s.unwanted(FamilyOf(a))})
		case t.asked.IsValid() && t.asked != a:
			s.refuse(Refusal{Addr: a, Why: fmt.Sprintf("is asked for besides %s: a Service has one %s address", t.asked, t.family)})
		default:
			t.asked = a
		}
	}
}

func (s *resolution) unwanted(f Family) string {
	families := make([]string, len(s.slots))
	for i, t := range s.slots {
		families[i] = t.family.String()
	}
	return fmt.Sprintf("is %s, and the Service is %s (spec.ipFamilyPolicy, spec.ipFamilies)", f, strings.Join(families, " and "))
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
			s.drop(h.Addr, s.unwanted(FamilyOf(h.Addr)))
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

// kept is the grant of what the Service has. The pool stays, unless it has the address no more and another has, or the Service, as the
// first that has the address, asks for another that has it too.
func (s *resolution) kept(h Holding) Grant {
	g := Grant{Addr: h.Addr, Pool: h.Pool, Share: len(h.Users) > 1}
	stays := s.book.from(h)
	if (!stays || h.Users[0].is(s.Service, s.UID)) && s.asksForPoolOf(h.Addr) {
		g.Pool = s.Pool
		return g
	}
	if !stays {
		if i := slices.IndexFunc(s.book.pools, func(p *shelves) bool { return p.contains(h.Addr) && p.admits(&s.Request) }); i >= 0 {
			g.Pool = s.book.pools[i].Name
		}
	}
	return g
}

// asksForPoolOf reports whether the pool that is asked for has an address, for this Service.
func (s *resolution) asksForPoolOf(addr netip.Addr) bool {
	p := s.book.byName[s.Pool]
	return p != nil && p.contains(addr) && p.admits(&s.Request)
}

// meets reports whether an address that the Service has is what it asks for.
func (s *resolution) meets(t *slot, g Grant) bool {
	if t.asked.IsValid() && t.asked != g.Addr {
		return false
	}
	return s.Pool == "" || s.Pool == g.Pool || s.asksForPoolOf(g.Addr)
}

// rank is lower for what is better to keep.
func (s *resolution) rank(t *slot, g Grant) (rank int) {
	if !s.meets(t, g) {
		rank += 4
	}
	if !slices.Contains(s.Shown, g.Addr) {
		rank += 2
	}
	if s.strange(g) != "" {
		rank++
	}
	return rank
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
	if !p.admits(&s.Request) {
		return fmt.Sprintf("is in pool %s, which %s by now", g.Pool, p.refusal(&s.Request))
	}
	return ""
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
		s.note("%s", Explain(t.refused))
	default:
		s.Refused = append(s.Refused, t.refused...)
	}
}
