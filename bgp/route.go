package bgp

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// export is a route as one router is told it.
type export struct {
	prefix         netip.Prefix
	nextHop        netip.Addr
	as             uint32 // ours, prepend times more than once
	prepend        uint8
	communities    []uint32
	large          [][3]uint32
	localPref, med *uint32
}

func (e export) equal(o export) bool {
	return e.prefix == o.prefix && e.nextHop == o.nextHop && e.as == o.as && e.prepend == o.prepend &&
		slices.Equal(e.communities, o.communities) && slices.Equal(e.large, o.large) &&
		same(e.localPref, o.localPref) && same(e.med, o.med)
}

func (a Attributes) equal(b Attributes) bool {
	return slices.Equal(a.Communities, b.Communities) && slices.Equal(a.Large, b.Large) &&
		same(a.LocalPref, b.LocalPref) && same(a.MED, b.MED) && a.Prepend == b.Prepend
}

func same(a, b *uint32) bool { return a == b || a != nil && b != nil && *a == *b }

// terms are what decides how, and whether, a router gets our routes.
type terms struct {
	localAS    uint32
	external   bool                  // the router is of another AS
	next       map[Family]netip.Addr // next hops; none: routes of that family are withheld
	why        map[Family]string     // why there is none
	attributes Attributes            // the peer's own
	withheldBy string                // why every route is withheld; "": not
}

// export says how the router is told r; or why it is not.
func (t terms) export(r Route) (e export, why string) {
	f := familyOf(r.Prefix)
	next, ok := t.next[f]
	switch {
	case t.withheldBy != "":
		return export{}, t.withheldBy
	case !ok:
		return export{}, t.why[f]
	}
	e = export{
		prefix: r.Prefix, nextHop: next, as: t.localAS,
		communities: merge(r.Communities, t.attributes.Communities),
		large:       merge(r.Large, t.attributes.Large),
		med:         cmp.Or(r.MED, t.attributes.MED),
	}
	if t.external {
		// In an AS the path is not longer for it, and routers of the same AS would take it for a loop (RFC 4271 9.1.2).
		e.prepend = uint8(min(int(r.Prepend)+int(t.attributes.Prepend), maxPrepend))
	} else {
		// LOCAL_PREF is for the own AS only (RFC 4271 5.1.5).
		e.localPref = cmp.Or(r.LocalPref, t.attributes.LocalPref)
	}
	return e, ""
}

// maxPrepend keeps an AS_PATH in one segment, which has at most 255 numbers (RFC 4271 4.3), with the one that is always there.
const maxPrepend = 254

// merge appends what of b is not in a. It does not change either.
func merge[T comparable](a, b []T) []T {
	if len(b) == 0 {
		return a
	}
	out := slices.Clone(a)
	for _, x := range b {
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

// nextHops finds the next hops for the routes of a session. A daemon on this node takes them from others: 127.0.0.1 leads
// nobody here.
func nextHops(p Peer, e endpoint, a agreement, others map[Family]netip.Addr) (next map[Family]netip.Addr, why map[Family]string) {
	next, why = make(map[Family]netip.Addr, 2), make(map[Family]string, 2)
	local := e.local.WithZone("")
	put := func(f Family, hop netip.Addr, reason string) {
		switch {
		case !slices.Contains(p.families(), f):
			why[f] = fmt.Sprintf("%s routes are not among the peer's families", f)
		case !slices.Contains(a.families, f):
			why[f] = fmt.Sprintf("the router does not take %s routes: on FRR, address-family %s unicast, neighbor %s activate", f, f.frr(), local)
		case !hop.IsValid():
			why[f] = reason
		default:
			next[f] = hop
		}
	}
	hop4 := p.NextHop4
	switch {
	case hop4.IsValid():
	case local.IsLoopback():
		hop4 = others[IPv4]
	case local.Is4() || a.extendedNextHop:
		hop4 = local
	}
	put(IPv4, hop4, fmt.Sprintf("the session is over IPv6, and the router did not agree to IPv4 routes with IPv6 next hops (RFC 8950): "+
		"on FRR, neighbor %s capability extended-nexthop; or set a next hop", local))
	hop6 := p.NextHop6
	if !hop6.IsValid() && local.Is6() && !local.IsLoopback() {
		hop6 = local
	}
	if !hop6.IsValid() {
		hop6 = others[IPv6]
	}
	put(IPv6, hop6, "the session is over IPv4, and the link to the router has no global IPv6 address of this node: add one, or set a next hop")
	return next, why
}

func familyOf(p netip.Prefix) Family {
	if p.Addr().Is4() {
		return IPv4
	}
	return IPv6
}

func (f Family) frr() string {
	if f == IPv6 {
		return "ipv6"
	}
	return "ipv4"
}

// checkRoutes returns the good ones by prefix, and what is wrong with the others.
func checkRoutes(routes []Route) (map[netip.Prefix]Route, error) {
	good := make(map[netip.Prefix]Route, len(routes))
	var errs []error
	for _, r := range routes {
		if err := checkRoute(r); err != nil {
			errs = append(errs, err)
			continue
		}
		if _, twice := good[r.Prefix]; twice {
			errs = append(errs, fmt.Errorf("route %s: twice, the first counts", r.Prefix))
			continue
		}
		good[r.Prefix] = r
	}
	return good, errors.Join(errs...)
}

func checkRoute(r Route) error {
	a := r.Prefix.Addr()
	switch {
	case !r.Prefix.IsValid():
		return fmt.Errorf("route %s: not a prefix", r.Prefix)
	case r.Prefix != r.Prefix.Masked():
		return fmt.Errorf("route %s: has bits set after its length, the prefix is %s", r.Prefix, r.Prefix.Masked())
	case a.Is4In6() || a.IsMulticast() || a.IsLoopback() || a.IsLinkLocalUnicast():
		return fmt.Errorf("route %s: not for unicast through routers", r.Prefix)
	}
	return checkAttributes("route "+r.Prefix.String(), r.Attributes)
}

// maxCommunities keeps an UPDATE within 4096 bytes (RFC 4271 4.1), for a route and a peer together, with room for the rest.
const maxCommunities = 100

func checkAttributes(of string, a Attributes) error {
	if n := len(a.Communities) + len(a.Large); n > maxCommunities {
		return fmt.Errorf("%s: %d communities, at most %d fit", of, n, maxCommunities)
	}
	return nil
}
