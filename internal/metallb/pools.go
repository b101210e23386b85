package metallb

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/pintle-lb/pintle/internal/poolfile"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

// A pool is an IPAddressPool, and what becomes of it.
type pool struct {
	*fields
	name   string // there; out may have another
	labels map[string]string
	rank   int64 // serviceAllocation.priority: the lowest first, and 0 last
	out    pintlev1.AddressPool
}

func (d *draft) readPool(o object) { d.takePool(d.spec(o), o.name, o.labels) }

// takePool reads the settings of a pool, of today and of former releases.
func (d *draft) takePool(f *fields, name string, labels map[string]string) {
	p := &pool{fields: f, name: name, labels: labels, out: poolfile.New(poolfile.Name(name))}
	spans := f.spans()
	if f.on("avoidBuggyIPs") {
		spans = p.avoid(spans)
	}
	var problems []error
	p.out.Spec.Addresses, problems = poolfile.Spell(spans, p.out.Spec.SkipFirstLast)
	for _, err := range problems {
		f.note("addresses", "", "%v", err)
	}
	if f.has("autoAssign") && !f.on("autoAssign") {
		off := false
		p.out.Spec.AutoAssign = &off
	}
	if a := f.sub("serviceAllocation"); a != nil {
		p.allocation(a)
	}
	d.takeProtocol(p)
	f.done()
	switch {
	case p.out.Name == "":
		d.add(Note{f.file, f.place, "name", name, "is no name that a pool could have: give it another and import it again"})
	case len(p.out.Spec.Addresses) == 0:
		f.note("addresses", "", "nothing is left of it: there is no such pool now")
	case slices.ContainsFunc(d.pools, func(o *pool) bool { return o.out.Name == p.out.Name }):
		d.add(Note{f.file, f.place, "name", name, "there is a pool " + p.out.Name + " already: rename this one and import it again"})
	default:
		if p.out.Name != name {
			d.add(Note{f.file, f.place, "name", name, "the pool is called " + p.out.Name + " now: change the Services that name it"})
		}
		d.pools = append(d.pools, p)
	}
}

// spans are the addresses of a pool.
func (f *fields) spans() []poolfile.Span {
	var out []poolfile.Span
	for i, text := range f.texts("addresses") {
		s, err := poolfile.ParseSpan(text)
		if err != nil {
			f.note(fmt.Sprintf("addresses[%d]", i), "", "%v", err)
			continue
		}
		out = append(out, s)
	}
	return out
}

// allocation reads whose addresses they are.
func (p *pool) allocation(f *fields) {
	s := &p.out.Spec
	p.rank, _ = f.number("priority")
	for _, n := range unique(f.texts("namespaces")) {
		if len(validation.IsDNS1123Label(n)) > 0 {
			f.note("namespaces", n, "is no name of a namespace: it is left out")
			continue
		}
		s.Namespaces = append(s.Namespaces, n)
	}
	s.NamespaceSelector = f.pick("namespaceSelectors", f.selectors("namespaceSelectors"), "namespaces", p.out.Name)
	s.ServiceSelector = f.pick("serviceSelectors", f.selectors("serviceSelectors"), "services -A", p.out.Name)
	f.done()
}

// mostPieces bounds how long a list of addresses may become.
const mostPieces = 64

// avoid leaves out addresses of IPv4 that end in .0 and .255. Pintle leaves out the first and last address of each prefix,
// which is the same for a /24 only; other prefixes become ranges.
func (p *pool) avoid(spans []poolfile.Span) []poolfile.Span {
	if slices.ContainsFunc(spans, buggy) && !slices.ContainsFunc(spans, func(s poolfile.Span) bool { return !whole(s) }) {
		p.out.Spec.SkipFirstLast = true
		return spans
	}
	var out []poolfile.Span
	for _, s := range spans {
		if !buggy(s) {
			out = append(out, s)
			continue
		}
		if out = append(out, pieces(s)...); len(out) > mostPieces {
			p.out.Spec.SkipFirstLast = true
			p.note("avoidBuggyIPs", "true", "skipFirstLast leaves out the first and the last address of each prefix, and not each .0 and .255: "+
				"write ranges if it must be these")
			return spans
		}
	}
	return out
}

// whole reports whether the first and last address of a span are what MetalLB avoids in it.
func whole(s poolfile.Span) bool {
	return s.Is4() && s.Prefix.IsValid() && s.Prefix.Bits() == 24 || !s.Prefix.IsValid() && !buggy(s)
}

// buggy reports whether a span has an address of IPv4 that ends in .0 or .255.
func buggy(s poolfile.Span) bool {
	if !s.Is4() {
		return false
	}
	a, b := s.First.As4(), s.Last.As4()
	return a[3] == 0 || b[3] == 255 || [3]byte(a[:3]) != [3]byte(b[:3])
}

// pieces are the ranges of a span between addresses that end in .0 and .255; at most some more than mostPieces.
func pieces(s poolfile.Span) []poolfile.Span {
	var out []poolfile.Span
	for at := s.First; len(out) <= mostPieces; {
		n := at.As4()
		first, last := n, n
		first[3], last[3] = max(n[3], 1), 254
		from, to := netip.AddrFrom4(first), netip.AddrFrom4(last)
		if s.Last.Less(to) {
			to = s.Last
		}
		if !to.Less(from) {
			out = append(out, poolfile.Span{First: from, Last: to})
		}
		last[3] = 255
		if at = netip.AddrFrom4(last).Next(); !at.IsValid() || s.Last.Less(at) {
			break
		}
	}
	return out
}

// settle completes the pools with what several objects say together.
func (d *draft) settle() {
	d.rank()
	for _, a := range d.adverts {
		a.checkNames(d.pools)
	}
	for _, p := range d.pools {
		d.announce(p)
	}
}

// rank turns the order round: the lowest number is the first with MetalLB, and the highest here.
func (d *draft) rank() {
	var all []int64
	for _, p := range d.pools {
		if p.rank != 0 {
			all = append(all, p.rank)
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	for _, p := range d.pools {
		if p.rank == 0 {
			continue
		}
		i, _ := slices.BinarySearch(all, p.rank)
		p.out.Spec.Priority = int32(10 * (len(all) - i))
		p.note("serviceAllocation.priority", fmt.Sprint(p.rank), "is priority %d now: Pintle tries the highest first", p.out.Spec.Priority)
	}
}

// announce says how a pool is announced.
func (d *draft) announce(p *pool) {
	var wire, routed []*advert
	for _, a := range d.adverts {
		if !a.selects(p) {
			continue
		}
		if a.bgp {
			routed = append(routed, a)
		} else {
			wire = append(wire, a)
		}
	}
	s := &p.out.Spec
	if len(wire) > 0 {
		s.Announce = append(s.Announce, pintlev1.AnnounceARP)
		s.Links = p.links(wire)
	}
	if len(routed) > 0 {
		s.Announce = append(s.Announce, pintlev1.AnnounceBGP)
		s.BGP = p.route(routed)
		if len(d.peers) == 0 {
			p.d.add(Note{p.file, p.place, "", "", "is announced by BGP, and there is no BGPPeer in the input: import them too, or name " +
				"routers in the configuration (bgp.peers)"})
		}
	}
	if len(s.Announce) == 0 {
		p.d.add(Note{p.file, p.place, "", "", "no advertisement in the input selects it: MetalLB gives out its addresses and announces them nowhere, " +
			"and Pintle announces them by ARP and neighbour discovery. Import the advertisements too, or leave the pool out"})
		s.Announce = []string{pintlev1.AnnounceARP}
	}
	s.NodeSelector = p.nodes(slices.Concat(wire, routed))
	if len(wire) > 0 && len(routed) > 0 && !sameNodes(wire, routed) {
		p.d.add(Note{p.file, p.place, "nodeSelectors", "", "are not the same for both ways: with Pintle a node of the pool may answer for " +
			"its addresses, and advertises them too. Make two pools if that matters"})
	}
}

// sameNodes reports whether two lists of advertisements are for the same nodes, as far as their words say so.
func sameNodes(a, b []*advert) bool {
	of := func(all []*advert) []string {
		var out []string
		for _, a := range all {
			if len(a.nodes) == 0 {
				return nil // every node
			}
			out = append(out, apply(a.nodes, selectorText)...)
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	return slices.Equal(of(a), of(b))
}

func selectorText(s metav1.LabelSelector) string { return metav1.FormatLabelSelector(&s) }

// nodes is the one selector of nodes.
func (p *pool) nodes(all []*advert) *metav1.LabelSelector {
	var selectors []metav1.LabelSelector
	var names []string
	everywhere := false
	for _, a := range all {
		if len(a.nodes) == 0 {
			everywhere = true
			continue
		}
		names = append(names, a.place)
		selectors = append(selectors, a.nodes...)
	}
	if len(names) == 0 {
		return nil
	}
	if everywhere {
		p.d.add(Note{p.file, p.place, "nodeSelectors of " + strings.Join(names, ", "), "",
			"have no effect: another advertisement announces the pool from every node. " +
				"With Pintle a pool has one nodeSelector, for all of its addresses and ways: set it if these nodes alone are meant"})
		return nil
	}
	at := p.fields.within("", nil)
	return at.pick("nodeSelectors of "+strings.Join(names, ", "), selectors, "nodes", p.out.Name)
}

// links are those of all advertisements together: with MetalLB none means all of the node's.
func (p *pool) links(all []*advert) []string {
	var out, names []string
	for _, a := range all {
		if len(a.links) == 0 {
			names = append(names, a.place)
		}
		for _, l := range a.links {
			if !slices.Contains(out, l) {
				out = append(out, l)
			}
		}
	}
	if len(names) > 0 && len(out) > 0 {
		p.d.add(Note{p.file, p.place, "interfaces", show(anyOf(out)),
			fmt.Sprintf("have no effect: %s announces the pool on every interface", strings.Join(names, ", "))})
		return nil
	}
	if slices.ContainsFunc(all[1:], func(a *advert) bool { return !slices.Equal(a.links, all[0].links) }) {
		p.d.add(Note{p.file, p.place, "interfaces", show(anyOf(out)), "links are for all nodes of the pool alike: each node announces on " +
			"those of them that it has"})
	}
	return out
}

func anyOf(texts []string) []any {
	var out []any
	for _, t := range texts {
		out = append(out, t)
	}
	return out
}

// route is what the routes of a pool carry: what all advertisements say together.
func (p *pool) route(all []*advert) *pintlev1.RouteBGP {
	// A wider prefix is told of by itself (readBGP); what it carries is not for the address's own route, if there is one.
	if slices.ContainsFunc(all, func(a *advert) bool { return !a.wide }) {
		all = slices.DeleteFunc(slices.Clone(all), func(a *advert) bool { return a.wide })
	}
	var out pintlev1.RouteBGP
	for _, a := range all {
		out.Communities = append(out.Communities, a.communities...)
		out.LargeCommunities = append(out.LargeCommunities, a.large...)
	}
	out.Communities = unique(out.Communities)
	out.LargeCommunities = unique(out.LargeCommunities)
	prefs := slices.Compact(slices.Sorted(slices.Values(apply(all, func(a *advert) int64 { return a.pref }))))
	switch {
	case len(prefs) > 1:
		p.d.add(Note{p.file, p.place, "localPref", fmt.Sprint(prefs), "a pool has one for all of its nodes: it is left out. Where nodes " +
			"differ, set localPref of peers, and choose the nodes by their nodeLabels"})
	case prefs[0] != 0:
		out.LocalPref = &prefs[0]
	}
	if len(all) > 1 && slices.ContainsFunc(all[1:], func(a *advert) bool { return !a.alike(all[0]) }) {
		p.d.add(Note{p.file, p.place, "", "", strings.Join(apply(all, func(a *advert) string { return a.place }), " and ") +
			" announce it: Pintle advertises an address once, from all nodes of the pool to all routers, with the communities of all of them"})
	}
	if len(out.Communities)+len(out.LargeCommunities) == 0 && out.LocalPref == nil {
		return nil
	}
	return &out
}

// unique leaves out what was there before.
func unique(all []string) []string {
	var out []string
	for _, s := range all {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func apply[A, B any](all []A, f func(A) B) []B {
	var out []B
	for _, a := range all {
		out = append(out, f(a))
	}
	return out
}
