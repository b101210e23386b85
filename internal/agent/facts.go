package agent

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/pintle-lb/pintle/leader"
)

// A Claim is a set of addresses that are served together: by the holder of a
// seat, or without one, by every healthy node.
type Claim struct {
	Name     string
	Seat     string // "": there is no election, and so no claim on the wire (Wire)
	Addrs    []Placed
	Announce Announce
}

// Announce is by what means the network learns where an address is.
type Announce struct {
	Wire  bool // ARP and NDP
	BGP   bool
	Table bool // a route in a table of this host, for another daemon to redistribute
}

// Placed is an address and the links it is announced on.
type Placed struct {
	Prefix netip.Prefix // a host prefix
	Links  []string
}

// A Target is an address on a link: claimed while Lease is valid, listened for
// when Lease is nil.
type Target struct {
	Link  string
	Addr  netip.Addr
	Lease *leader.Lease
}

// A Route is an address as routers are to hear of it. While Lease is set, it is
// withdrawn by the end of the lease, whatever the loop does.
type Route struct {
	Prefix netip.Prefix
	Lease  *leader.Lease // nil without an election
	Grade  Grade
}

// Grade is how much a node wants to be chosen.
type Grade uint8

// A node that leaves, or is unhealthy and told to stay as the last resort, asks
// routers to prefer any other one.
const (
	Normal Grade = iota
	Leaving
	LastResort
)

// String is the grade in words.
func (g Grade) String() string { return [...]string{"normal", "leaving", "last resort"}[g] }

// State is a state of the host, wanted or true.
type State struct {
	Seats     []string // campaigned for
	Addresses []netip.Prefix
	Targets   []Target
	Routes    []Route
	Table     []netip.Prefix
}

// A Seat is what is known of one election.
type Seat struct {
	Term  leader.Term
	Valid bool           // Term.Lease is valid
	Since leader.Instant // when this node began to hold; 0 when it does not
	Lost  leader.Instant // when this node last stopped holding; 0 when it never did or holds now
	Next  leader.Instant // when another holder was first known after that; 0 when not yet
}

// A Move is a planned hand-over, for a person or for health. The node wants the
// seat no more until the term has ended, or the move has failed.
type Move struct {
	Seat  string
	Epoch uint64         // the term to be ended
	Until leader.Instant // given up on after
}

// A Rest is the time between two hand-overs for health.
type Rest struct {
	Until leader.Instant
	Step  time.Duration // the next rest; doubles with each hand-over, up to 32 times the first
}

// Routing is how addresses are advertised.
type Routing struct {
	LastResort bool          // an unhealthy node without an election goes on, as the last resort
	DrainWait  time.Duration // how long a node that stops asks routers to prefer others before it withdraws
	Detection  time.Duration // how long routers may believe in a node that froze: a new holder waits for that; 0: it does not wait
}

// wait is how long a new holder waits until it advertises. Clocks may be five per
// cent apart, and a holder that lives may need a moment for its withdrawal.
func (r Routing) wait() time.Duration {
	if r.Detection == 0 {
		return 0
	}
	return r.Detection/10*11 + withdrawing
}

// withdrawing is how long a withdrawal may take when a lease is over: a router that
// has not taken it by then gets its connection reset.
const withdrawing = 500 * time.Millisecond

// Facts is all that a node knows. The loop owns it.
type Facts struct {
	Now       leader.Instant
	Node      string
	Draining  bool
	DrainedAt leader.Instant // when Draining began
	Ready     bool           // bind: ready; every healthy member holds the addresses, muted
	Routing   Routing
	Linger    time.Duration // how long a former holder goes on accepting
	HoldDown  time.Duration // the first Rest
	Claims    []Claim
	MoveLimit time.Duration // how long a hand-over may take

	Seats  map[string]Seat
	Checks map[string]bool               // health checks: the verdict
	Links  map[string]bool               // announcing links: up and with carrier
	Unable string                        // why addresses could not be bound the last time; "" when they could
	Heard  map[netip.Addr]leader.Instant // when another station last claimed the address
	Socks  int                           // established connections to our addresses; negative while nobody has counted
	Move   *Move
	Rest   Rest
	Routed map[string]leader.Instant // when routers or the table last had a claim's addresses from this node, as noted
	out    map[string]bool           // they had them when last noted

	Have  State // what the host has, as the setters reported it
	Doing State // what setters are still at; a nil part means that they rest
}

// Healthy reports whether this node is fit to hold an address and able to.
func (f *Facts) Healthy() bool { return f.fit() && f.Unable == "" }

// fit reports whether the service and the links are well. Whether the host can
// bind shows only if it is tried, so what is to be bound depends on this alone.
func (f *Facts) fit() bool {
	for _, ok := range f.Checks {
		if !ok {
			return false
		}
	}
	for _, up := range f.Links {
		if !up {
			return false
		}
	}
	return true
}

// Tick moves time on: leases run out, requests lapse.
func (f *Facts) Tick(now leader.Instant) {
	f.Now = now
	for name, s := range f.Seats {
		f.Seats[name] = s.at(now, f.Node)
	}
	if f.Move != nil && !f.moving(f.Move.Seat) {
		f.Move = nil
	}
	if f.Rest.Step > f.HoldDown && now > f.Rest.Until.Add(2*f.Rest.Step) {
		f.Rest.Step = f.HoldDown
	}
}

// Note notes what is still out, after a change of Have or Doing.
func (f *Facts) Note() {
	for _, c := range f.Claims {
		out := f.routed(c)
		if out || f.out[c.Name] {
			f.Routed[c.Name] = f.Now
		}
		f.out[c.Name] = out
	}
}

// moving reports whether a hand-over of the seat is under way.
func (f *Facts) moving(seat string) bool {
	m := f.Move
	return m != nil && m.Seat == seat && f.Now < m.Until && m.Epoch == f.Seats[seat].Term.Epoch
}

// Learn takes an elector's report.
func (f *Facts) Learn(seat string, t leader.Term) {
	s := f.Seats[seat]
	if s.Valid && s.Term.Lease != t.Lease {
		s.Valid, s.Since, s.Lost, s.Next = false, 0, f.Now, 0 // at may find the new lease valid
	}
	s.Term = t
	f.Seats[seat] = s.at(f.Now, f.Node)
}

// at is what the seat is at an instant.
func (s Seat) at(now leader.Instant, node string) Seat {
	valid := s.Term.Lease != nil && now < s.Term.Lease.Until()
	switch {
	case valid && !s.Valid:
		s.Since, s.Lost, s.Next = now, 0, 0
	case valid:
		s.Lost, s.Next = 0, 0
	case s.Valid:
		s.Since, s.Lost, s.Next = 0, now, 0
	}
	s.Valid = valid
	if other := s.Term.Holder != "" && s.Term.Holder != node; other && s.Lost != 0 && s.Next == 0 {
		s.Next = now
	}
	return s
}

// moveLimit is how long a hand-over may take if nobody says otherwise.
const moveLimit = time.Second

// Yielded notes that the seat was given up for health: it stays given up until
// the term ends, and the rest begins.
func (f *Facts) Yielded(seat string) {
	f.Move = &Move{Seat: seat, Epoch: f.Seats[seat].Term.Epoch, Until: f.Now.Add(cmp.Or(f.MoveLimit, moveLimit))}
	step := max(f.Rest.Step, f.HoldDown)
	f.Rest = Rest{Until: f.Now.Add(step), Step: min(2*step, 32*f.HoldDown)}
}

// holds reports whether the host surely has p now.
func (f *Facts) holds(p netip.Prefix) bool {
	return slices.Contains(f.Have.Addresses, p) && (f.Doing.Addresses == nil || slices.Contains(f.Doing.Addresses, p))
}

// claims reports whether the host may still attract packets for one of the
// addresses in the name of a seat.
func (f *Facts) claims(c Claim) bool {
	claimed := func(t Target) bool { return t.Lease != nil && c.has(t.Addr) }
	return slices.ContainsFunc(f.Have.Targets, claimed) || slices.ContainsFunc(f.Doing.Targets, claimed) || f.routed(c)
}

// routed reports whether routers, or the table, may still have one of the
// addresses from this node.
func (f *Facts) routed(c Claim) bool {
	route := func(r Route) bool { return c.has(r.Prefix.Addr()) }
	entry := func(p netip.Prefix) bool { return c.has(p.Addr()) }
	return slices.ContainsFunc(f.Have.Routes, route) || slices.ContainsFunc(f.Doing.Routes, route) ||
		slices.ContainsFunc(f.Have.Table, entry) || slices.ContainsFunc(f.Doing.Table, entry)
}

func (c Claim) has(a netip.Addr) bool {
	return slices.ContainsFunc(c.Addrs, func(p Placed) bool { return p.Prefix.Addr() == a })
}
