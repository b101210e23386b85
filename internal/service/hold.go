package service

import (
	"net/netip"
	"slices"
	"time"

	"github.com/pintle-lb/pintle/arp"
	"github.com/pintle-lb/pintle/bgp"
	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
	"github.com/pintle-lb/pintle/leader"
	"github.com/pintle-lb/pintle/vip"
)

// lingering is how long a node goes on serving an address that it has let go: what neighbours sent before they knew.
const lingering = 5 * time.Second

// A State is what this host should have, or has.
type State struct {
	Targets []arp.Target   // what it answers for
	Bound   []netip.Prefix // on lo
	Guards  []vip.Guarded  // what its packet filter knows
	Hushed  []netip.Addr   // what its kernel is silent about
	Routes  []bgp.Route
}

// A holder is the part of a node that claims addresses. Its rule: a node claims an address only while
//
//   - its object names this node, in this node's present epoch, and wants it here,
//   - in a turn later than the last one that this node gave up, and
//   - this node's Lease is valid, which package arp asks before each frame.
//
// An object ceases to name a node only by that node's own write, which it sends when its last claim has been sent, or after the
// node was fenced: its epoch raised in its Lease when that had run out. So two nodes never claim one address.
//
// A write whose outcome is not known may still be carried out later: so the turn that it gives up is not claimed again, but by a
// further write, which the API server takes only if the first one was not.
type holder struct {
	*Facts
	gone  map[netip.Addr]int64
	left  map[netip.Addr]leave // addresses that this node had until lately
	mine  map[netip.Addr]bool  // claimed at the last look
	gates map[netip.Addr]map[*leader.Lease]Gate
	keep  func(*leader.Lease) Gate // a gate that outlives the lease while the API is away; nil: there is none
	again map[netip.Addr]retry

	unfit     string
	leftAt    leader.Instant // when this node began to leave
	drainWait time.Duration  // how long it asks routers to prefer others then

	drainPrepend uint8
}

// A leave is an address that was let go.
type leave struct {
	at   leader.Instant
	last *pintlev1.Address
}

// A Gate is an arp.Gate that outlives a lease. Drop tells it that another station claims the address, or that it is given up.
type Gate interface {
	arp.Gate
	Drop()
}

func newHolder(f *Facts, keep func(*leader.Lease) Gate) *holder {
	return &holder{Facts: f, gone: map[netip.Addr]int64{}, left: map[netip.Addr]leave{}, mine: map[netip.Addr]bool{}, gates: map[netip.Addr]map[*leader.Lease]Gate{},
		keep: keep, again: map[netip.Addr]retry{}}
}

// claims reports whether this node may claim an address, but for the validity of its Lease.
func (h *holder) claims(r *Record) bool {
	node, epoch := r.holder()
	if node != h.Node || epoch != h.Epoch || h.Epoch == 0 || r.Version == 0 || r.Object.Status.Turn <= h.gone[r.Addr] || !r.wire() {
		return false // Version 0: it is only being made
	}
	to := r.Object.Spec.Wanted
	return to == h.Node || to != "" && !h.Roll[to].Alive // whom it is to go to cannot take it
}

// gate is what the claims for an address are bound to; nil if there may be none.
func (h *holder) gate(r *Record) arp.Gate {
	if r.Object.Spec.OnAPILoss != pintlev1.Keep || h.keep == nil {
		if h.Lease == nil {
			return nil
		}
		return h.Lease
	}
	for lease, g := range h.gates[r.Addr] {
		if g.Valid() && (h.Lease == nil || lease == h.Lease) {
			return g
		}
	}
	if h.Lease == nil {
		return nil
	}
	if h.gates[r.Addr] == nil {
		h.gates[r.Addr] = map[*leader.Lease]Gate{}
	}
	if h.gates[r.Addr][h.Lease] == nil {
		h.gates[r.Addr][h.Lease] = h.keep(h.Lease)
	}
	return h.gates[r.Addr][h.Lease]
}

// forget drops gates of leases that are over.
func (h *holder) forget() {
	for a, gates := range h.gates {
		r := h.Records[a]
		given := r == nil || !h.claims(r)
		for lease, g := range gates {
			if given {
				g.Drop() // an elector forgets a lease that ran out: it does not say that this is over
			}
			if given || lease != h.Lease && !g.Valid() {
				delete(gates, lease)
			}
		}
		if len(gates) == 0 {
			delete(h.gates, a)
		}
	}
}

// plan is what this host should have now. word is this node's own.
func (h *holder) plan(word Word) State {
	st := State{Targets: []arp.Target{}, Bound: []netip.Prefix{}, Guards: []vip.Guarded{}, Hushed: []netip.Addr{}, Routes: []bgp.Route{}}
	h.forget()
	h.unfit = word.Unfit // the others hear of it by the API only
	now := map[netip.Addr]bool{}
	for a, r := range h.Records {
		if a.Is4() {
			st.Hushed = append(st.Hushed, a) // kube-proxy, in IPVS mode, has every address on every node
		}
		if h.claims(r) {
			if gate := h.gate(r); gate != nil {
				now[a] = true
				for _, l := range word.links(a, linksOf(r.Object)) {
					st.Targets = append(st.Targets, arp.Target{Link: l, Addr: a, Claim: gate})
				}
				h.serve(&st, r.Object, a)
			}
		}
		if r.routed() && h.advertises(r) {
			st.Routes = append(st.Routes, h.route(r))
			if !now[a] {
				h.serve(&st, r.Object, a)
			}
			now[a] = true
		}
	}
	for a := range h.mine {
		if r := h.Records[a]; !now[a] && r != nil {
			h.left[a] = leave{h.Now, r.Object}
		}
	}
	h.mine = now
	for a, l := range h.left {
		if now[a] || h.Now >= l.at.Add(lingering) {
			delete(h.left, a)
			continue
		}
		h.serve(&st, l.last, a)
	}
	sortState(&st)
	return st
}

// serve adds what the host needs to take packets for an address.
func (h *holder) serve(st *State, o *pintlev1.Address, a netip.Addr) {
	g := vip.Guarded{Addr: a, Bound: o.Spec.Bind}
	if o.Spec.Bind {
		st.Bound = append(st.Bound, netip.PrefixFrom(a, a.BitLen()))
		for _, ref := range o.Spec.Services {
			if s := h.Services[ipam.Key{Namespace: ref.Namespace, Name: ref.Name}]; s != nil {
				for _, p := range s.Ports {
					g.Ports = append(g.Ports, vip.Port{Protocol: p.Protocol, Number: p.Number})
				}
			}
		}
	}
	st.Guards = append(st.Guards, g)
}

// advertises reports whether this node tells routers of an address: every node does that suits it.
func (h *holder) advertises(r *Record) bool {
	if len(r.Object.Spec.Services) == 0 || r.Object.DeletionTimestamp != nil || h.Leaving && h.Now >= h.leftAt.Add(h.drainWait) {
		return false
	}
	info := h.Nodes[h.Node]
	if info == nil || info.Excluded || info.Cordoned || info.Weight == 0 || h.unfit != "" {
		return false
	}
	if p := h.Pools[r.Object.Spec.Pool]; p != nil && !p.Nodes.Matches(info.Labels) {
		return false
	}
	return h.lacksEndpoints(r, h.Node) == ""
}

// route is what routers are told of an address. A node that leaves asks them to prefer any other (RFC 8326).
func (h *holder) route(r *Record) bgp.Route {
	attrs, _ := routeOf(r.Object.Spec.BGP) // what is wrong with it was told before
	if h.Leaving {
		attrs.Communities = append(attrs.Communities, bgp.GracefulShutdown)
		attrs.LocalPref, attrs.Prepend = new(uint32), h.drainPrepend
	}
	return bgp.Route{Prefix: netip.PrefixFrom(r.Addr, r.Addr.BitLen()), Attributes: attrs}
}

func sortState(st *State) {
	slices.SortFunc(st.Targets, func(a, b arp.Target) int { return a.Addr.Compare(b.Addr) })
	slices.SortFunc(st.Bound, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	slices.SortFunc(st.Guards, func(a, b vip.Guarded) int { return a.Addr.Compare(b.Addr) })
	slices.SortFunc(st.Hushed, netip.Addr.Compare)
	slices.SortFunc(st.Routes, func(a, b bgp.Route) int { return a.Prefix.Addr().Compare(b.Prefix.Addr()) })
}

// writes are this node's own: it takes what is wanted here and held by nobody, and hands over what is wanted elsewhere. claimed
// says of which addresses a claim may still be sent.
func (h *holder) writes(claimed func(netip.Addr) bool, most int) (out []Write) {
	if h.Epoch == 0 || !h.Synced {
		return nil
	}
	for _, a := range h.concerned() {
		if len(out) >= most {
			break
		}
		r := h.Records[a]
		if next := h.next(r, claimed(a)); next != nil {
			out = append(out, Write{Verb: Update, Object: next, Record: r, Key: a, Mine: true})
		}
	}
	return out
}

// holding are the addresses whose objects name this node in its epoch.
func (h *holder) holding() (out []netip.Addr) {
	for a, r := range h.Records {
		if node, epoch := r.holder(); node == h.Node && epoch == h.Epoch && h.Epoch != 0 {
			out = append(out, a)
		}
	}
	return out
}

// concerned are the addresses about which this node may have something to write, sorted: not those that it has and keeps.
func (h *holder) concerned() (out []netip.Addr) {
	for a, r := range h.Records {
		node, epoch := r.holder()
		to := r.Object.Spec.Wanted
		if node != h.Node && to != h.Node || r.Writing || r.Version == 0 || h.Wall.Before(h.again[a].at) ||
			node == h.Node && to == h.Node && epoch == h.Epoch && r.Object.Status.Turn > h.gone[a] {
			continue
		}
		out = append(out, a)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// next is the object that this node is to write, nil for none.
func (h *holder) next(r *Record, claimed bool) *pintlev1.Address {
	node, epoch := r.holder()
	to := r.Object.Spec.Wanted
	held := node == h.Node && epoch == h.Epoch
	elsewhere := to == "" || to != h.Node && h.Roll[to].Alive
	switch {
	case held && elsewhere:
		if claimed {
			return nil // when the last claim has been sent
		}
		h.gone[r.Addr] = r.Object.Status.Turn
		return h.pass(r, to)
	case !h.Lease.Valid(), held && r.Object.Status.Turn > h.gone[r.Addr]:
		return nil
	case held, to == h.Node && (node == "" || h.void(node, epoch)):
		next := r.Object.DeepCopy()
		hold(&next.Status, h.Node, h.Epoch, h.Wall)
		return next
	}
	return nil
}

// pass gives an address to the node where it is wanted, or to nobody.
func (h *holder) pass(r *Record, to string) *pintlev1.Address {
	next := r.Object.DeepCopy()
	if to == "" {
		next.Status.Holder, next.Status.Epoch, next.Status.Since = "", 0, nil
		next.Status.Turn++
		return next
	}
	hold(&next.Status, to, h.Roll[to].Epoch, h.Wall)
	return next
}
