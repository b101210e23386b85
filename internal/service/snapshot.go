package service

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

// A Snapshot is what is true on this node, and what it knows of the cluster, at one moment.
type Snapshot struct {
	Node        string          `json:"node"`
	At          time.Time       `json:"at"`
	Epoch       uint64          `json:"epoch"`   // 0: this node has no Lease
	LeaseMs     float64         `json:"leaseMs"` // left
	Leaving     bool            `json:"leaving"`
	Unfit       string          `json:"unfit,omitempty"` // why addresses are not placed here
	Synced      bool            `json:"synced"`          // everything was read once
	Faults      []string        `json:"faults,omitempty"`
	Coordinator string          `json:"coordinator"` // "" for nobody
	Coordinates bool            `json:"coordinates"` // this node does
	Writes      uint64          `json:"writes"`      // of objects, to the API, since the start; the Lease's renewals are not counted
	Nodes       []NodeStatus    `json:"nodes"`
	Pools       []PoolStatus    `json:"pools"`
	Here        []AddressStatus `json:"here"`    // addresses that this node holds, is to hold, or advertises
	Total       int             `json:"total"`   // addresses in the cluster
	Nowhere     []AddressStatus `json:"nowhere"` // addresses that no node holds and some node should
	Elsewhere   []AddressStatus `json:"elsewhere"`
	Services    int             `json:"services"`
	Waiting     []WaitingStatus `json:"waiting"` // Services that have not all they ask for
}

// A NodeStatus is a node that runs Pintle.
type NodeStatus struct {
	Name    string `json:"name"`
	Epoch   uint64 `json:"epoch"`
	Alive   bool   `json:"alive"`
	Suits   bool   `json:"suits"`         // for addresses in general
	Why     string `json:"why,omitempty"` // not
	Holds   int    `json:"holds"`
	Version string `json:"version,omitempty"`
}

// A PoolStatus is a pool.
type PoolStatus struct {
	Name   string `json:"name"`
	Used   int    `json:"used"`
	Free   string `json:"free,omitempty"` // as the coordinator wrote it last
	Errors string `json:"errors,omitempty"`
}

// An AddressStatus is one address.
type AddressStatus struct {
	Address    netip.Addr `json:"address"`
	Pool       string     `json:"pool"`
	Services   string     `json:"services"`
	Holder     string     `json:"holder"`
	Epoch      uint64     `json:"epoch"`
	Wanted     string     `json:"wanted"`
	Since      time.Time  `json:"since,omitzero"`
	Reason     string     `json:"reason"`
	Links      []string   `json:"links,omitempty"` // here
	Claimed    bool       `json:"claimed"`         // answered for here
	Advertised bool       `json:"advertised,omitempty"`
	Bound      bool       `json:"bound,omitempty"`
}

// A WaitingStatus is a Service that has not all it asks for.
type WaitingStatus struct {
	Service string `json:"service"`
	Why     string `json:"why"`
}

// Snapshot asks the loop for what is true. It fails when the loop does not answer before ctx ends.
func (c *Controller) Snapshot(ctx context.Context) (*Snapshot, error) {
	out := make(chan *Snapshot, 1)
	c.post(func() { out <- c.snapshot() })
	select {
	case s := <-out:
		return s, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *Controller) snapshot() *Snapshot {
	f := &c.facts
	s := &Snapshot{Node: f.Node, At: f.Wall, Leaving: f.Leaving, Unfit: c.word.Unfit, Synced: f.Synced, Coordinates: f.coordinates(), Total: len(f.Records),
		Writes: c.client.written(), Nodes: []NodeStatus{}, Pools: []PoolStatus{}, Here: []AddressStatus{}, Nowhere: []AddressStatus{},
		Elsewhere: []AddressStatus{}, Waiting: []WaitingStatus{}}
	if f.Lease.Valid() {
		s.Epoch, s.LeaseMs = f.Epoch, float64(f.Lease.Until().Sub(f.Now).Microseconds())/1000
	}
	if !f.vacancy() {
		s.Coordinator = f.Seat.Node
	}
	for name, why := range c.faults {
		if why != "" {
			s.Faults = append(s.Faults, name+": "+why)
		}
	}
	for _, why := range c.writeErrs {
		if why.counts(f.Now) {
			s.Faults = append(s.Faults, why.text)
		}
	}
	slices.Sort(s.Faults)
	c.snapAddresses(s)
	c.snapServices(s)
	for _, p := range f.Pools {
		ps := PoolStatus{Name: p.Name, Used: int(p.Object.Status.Used), Free: p.Object.Status.Free}
		for _, e := range p.Errors {
			ps.Errors = strings.TrimPrefix(ps.Errors+"; "+e.Error(), "; ")
		}
		s.Pools = append(s.Pools, ps)
	}
	slices.SortFunc(s.Pools, func(a, b PoolStatus) int { return strings.Compare(a.Name, b.Name) })
	return s
}

func (c *Controller) snapAddresses(s *Snapshot) {
	f := &c.facts
	held := map[string]int{}
	claimed := perhaps(c.targets)
	routed, bound := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	for _, r := range c.routes.have {
		routed[r.Prefix.Addr()] = true
	}
	for _, p := range c.bound.have {
		bound[p.Addr()] = true
	}
	for a, r := range f.Records {
		h, e := r.holder()
		if f.void(h, e) {
			h = ""
		}
		if h != "" {
			held[h]++
		}
		o := r.Object
		st := AddressStatus{Address: a, Pool: o.Spec.Pool, Services: o.Status.Services, Holder: h, Epoch: e, Wanted: o.Spec.Wanted, Reason: o.Status.Reason,
			Claimed: claimed(a) && f.Lease.Valid(), Advertised: routed[a], Bound: bound[a]}
		if o.Status.Since != nil {
			st.Since = o.Status.Since.Time
		}
		switch {
		case h == f.Node || o.Spec.Wanted == f.Node || st.Claimed || st.Advertised || st.Bound:
			st.Links = c.word.links(a, linksOf(o))
			s.Here = append(s.Here, st)
		case h == "" && r.wire():
			s.Nowhere = append(s.Nowhere, st)
		default:
			s.Elsewhere = append(s.Elsewhere, st)
		}
	}
	byAddr := func(a, b AddressStatus) int { return a.Address.Compare(b.Address) }
	slices.SortFunc(s.Here, byAddr)
	slices.SortFunc(s.Nowhere, byAddr)
	slices.SortFunc(s.Elsewhere, byAddr)
	for name, m := range f.Roll {
		if f.gone(name) && held[name] == 0 {
			continue
		}
		ns := NodeStatus{Name: name, Epoch: m.Epoch, Alive: m.Alive, Holds: held[name], Version: m.Word.Version}
		g, why := f.suitsAny(name)
		if g == fit {
			g, why = f.serves(name)
		}
		if ns.Suits = g == fit; !ns.Suits {
			ns.Why = why
		}
		s.Nodes = append(s.Nodes, ns)
	}
	slices.SortFunc(s.Nodes, func(a, b NodeStatus) int { return strings.Compare(a.Name, b.Name) })
}

func (c *Controller) snapServices(s *Snapshot) {
	for k, svc := range c.facts.Services {
		if !c.facts.ours(svc) {
			continue
		}
		s.Services++
		why := ""
		if c.coord != nil {
			why = c.coord.refused[k]
		}
		if cond := svc.Condition; why == "" && cond != nil && cond.Status != "True" {
			why = cond.Message
		}
		if why == "" && svc.Condition == nil {
			why = "no coordinator has looked at it yet"
		}
		if why != "" {
			s.Waiting = append(s.Waiting, WaitingStatus{k.Namespace + "/" + k.Name, why})
		}
	}
	slices.SortFunc(s.Waiting, func(a, b WaitingStatus) int { return strings.Compare(a.Service, b.Service) })
}

// Kin are the nodes that run Pintle, with an address each, and whether some pool keeps its addresses while the API is away.
type Kin struct {
	Keep  bool
	Nodes map[string]netip.Addr
}

// tellKin tells of them, when it is news.
func (c *Controller) tellKin() {
	if c.cfg.Kin == nil {
		return
	}
	k := Kin{Nodes: map[string]netip.Addr{}}
	for _, p := range c.facts.Pools {
		k.Keep = k.Keep || p.Object.Spec.OnAPILoss == pintlev1.Keep
	}
	for n := range c.facts.Roll {
		if info := c.facts.Nodes[n]; info != nil && len(info.Addresses) > 0 {
			k.Nodes[n] = info.Addresses[0]
		}
	}
	if !k.same(c.kin) {
		c.kin = k
		c.cfg.Kin(k)
	}
}

func (k Kin) same(o Kin) bool {
	if k.Keep != o.Keep || len(k.Nodes) != len(o.Nodes) {
		return false
	}
	for n, a := range k.Nodes {
		if o.Nodes[n] != a {
			return false
		}
	}
	return true
}
