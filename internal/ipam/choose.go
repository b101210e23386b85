package ipam

import (
	"fmt"
	"net/netip"
	"slices"
)

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
	pools := slices.DeleteFunc(slices.Clone(s.pools()), func(p *shelves) bool { return !s.serves(p) })
	if len(open) > 1 && s.takeBoth(open, pools) {
		return
	}
	for _, t := range open {
		if !s.takeFree(t, pools) {
			t.refused = s.refusals(t.family)
		}
	}
}

// takeAsked tries the address that is asked for.
func (s *resolution) takeAsked(t *slot) {
	p, refusal := s.poolFor(t.asked)
	if p == nil {
		t.refused = append(t.refused, refusal)
		return
	}
	h, held := s.book.held[t.asked]
	why, blocked := s.book.blocked[t.asked]
	if held && !blocked {
		why = s.stranger(h)
	}
	if why != "" {
		t.refused = append(t.refused, Refusal{Pool: p.Name, Addr: t.asked, Why: why})
		return
	}
	t.grant = &Grant{Addr: t.asked, Pool: p.Name, Share: held}
	if held && s.book.from(h) {
		t.grant.Pool = h.Pool
	}
}

// poolFor finds the pool from which the Service may have an address it asks for, or says why there is none.
func (s *resolution) poolFor(addr netip.Addr) (*shelves, Refusal) {
	found := s.book.poolsOf(addr)
	if s.Pool != "" {
		p := s.book.byName[s.Pool]
		switch {
		case p == nil:
			return nil, Refusal{Pool: s.Pool, Why: "does not exist"}
		case !p.contains(addr):
			return nil, Refusal{Addr: addr, Why: s.outside(addr, "is not in pool "+p.Name+", which is asked for too")}
		}
		found = []*shelves{p}
	}
	if len(found) == 0 {
		return nil, Refusal{Addr: addr, Why: s.outside(addr, "is in no pool")}
	}
	for _, p := range found {
		if p.admits(&s.Request) {
			return p, Refusal{}
		}
	}
	return nil, Refusal{Addr: addr, Why: fmt.Sprintf("is in pool %s, which %s", found[0].Name, found[0].refusal(&s.Request))}
}

// outside adds to why an address cannot be had that a pool leaves it out on purpose.
func (s *resolution) outside(addr netip.Addr, why string) string {
	for _, p := range s.pools() {
		for _, r := range p.Ranges {
			if r.Skips(addr) {
				return fmt.Sprintf("%s: pool %s leaves out the first and the last address of %s (skipFirstLast)", why, p.Name, r)
			}
		}
	}
	return why
}

// stranger says why the Service cannot share an address with those who have it, in words that follow the address; "" if it can.
func (s *resolution) stranger(h Holding) string {
	if len(h.Users) == 0 {
		return "is being given back"
	}
	if len(h.Users) >= MostUsers {
		return fmt.Sprintf("is shared by %d Services, and by no more", len(h.Users))
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
	for a := range s.book.groups[shareGroup{t.family, s.ShareKey, s.Backends}].without(s.Ports) {
		h := s.book.held[a]
		p := s.book.byName[h.Pool]
		if !s.book.from(h) || s.Pool != "" && s.Pool != p.Name || !p.admits(&s.Request) {
			continue
		}
		if _, blocked := s.book.blocked[a]; !blocked && s.stranger(h) == "" {
			t.grant = &Grant{Addr: a, Pool: p.Name, Share: true}
			return true
		}
	}
	return false
}

// pools returns those that the Service may ask: the one it names, or all in order.
func (s *resolution) pools() []*shelves {
	if s.Pool == "" {
		return s.book.pools
	}
	if p := s.book.byName[s.Pool]; p != nil {
		return []*shelves{p}
	}
	return nil
}

// serves reports whether the Service may have addresses of the pool without asking for one.
func (s *resolution) serves(p *shelves) bool {
	return (p.AutoAssign || s.Pool != "") && p.admits(&s.Request)
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
func (s *resolution) takeFree(t *slot, pools []*shelves) bool {
	for _, other := range s.slots {
		if other.grant != nil && slices.Contains(pools, s.book.byName[other.grant.Pool]) {
			pools = slices.Concat([]*shelves{s.book.byName[other.grant.Pool]}, pools)
		}
	}
	for _, p := range pools {
		if a, ok := p.of(t.family).lowest(s.book.free); ok {
			t.grant = &Grant{Addr: a, Pool: p.Name}
			return true
		}
	}
	return false
}

// refusals says of each pool why it cannot serve, if none can.
func (s *resolution) refusals(f Family) (all []Refusal) {
	pools := s.pools()
	switch {
	case len(pools) == 0 && s.Pool != "":
		return []Refusal{{Family: f, Pool: s.Pool, Why: "does not exist"}}
	case len(pools) == 0:
		return []Refusal{{Family: f, Why: "there is no pool"}}
	}
	for _, p := range pools {
		r := Refusal{Family: f, Pool: p.Name}
		switch {
		case len(p.of(f).spans) == 0:
			r.Why = fmt.Sprintf("has no %s addresses", f)
		case !p.admits(&s.Request):
			r.Why = p.refusal(&s.Request)
		case !s.serves(p):
			r.Why = "is only for Services that ask for it (autoAssign: false)"
		default:
			r.Why = fmt.Sprintf("is exhausted (%s %s addresses)", p.of(f).count(), f)
		}
		all = append(all, r)
	}
	return all
}
