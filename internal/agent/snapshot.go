package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A Snapshot is what is true on this node at one moment. Logs, metrics and
// status all render one.
type Snapshot struct {
	Node      string          `json:"node"`
	At        time.Time       `json:"at"`
	Draining  bool            `json:"draining"`
	Healthy   bool            `json:"healthy"`
	Unhealthy string          `json:"unhealthy,omitempty"` // why
	Seats     []SeatStatus    `json:"claims"`
	Links     map[string]bool `json:"links"` // announcing links: up and with carrier
	Changes   uint64          `json:"changes"`
	Losses    uint64          `json:"losses"`
	RestMs    float64         `json:"restMs"` // until the next move for health is allowed
	Takeovers []Takeover      `json:"takeovers"`
}

// A SeatStatus is one seat and its addresses. Without an election it is a claim
// that every healthy node makes, and this node holds it while it advertises.
type SeatStatus struct {
	Name      string          `json:"name"`
	Shared    bool            `json:"shared,omitempty"` // there is no election
	Holder    string          `json:"holder"`
	Epoch     uint64          `json:"epoch"`
	Holding   bool            `json:"holding"` // this node holds it: its lease is valid
	Standing  bool            `json:"standing"`
	Joined    bool            `json:"joined"`
	LeaseMs   float64         `json:"leaseMs"` // left
	Since     time.Time       `json:"since"`
	Why       string          `json:"why"`
	Addresses []AddressStatus `json:"addresses"`
}

// An AddressStatus is one address on this node.
type AddressStatus struct {
	Address   netip.Addr `json:"address"`
	Links     []string   `json:"links"`
	Bound     bool       `json:"bound"`
	Claimed   bool       `json:"claimed"`   // announced and defended here
	Lingering bool       `json:"lingering"` // no longer claimed, still accepting

	Routed bool   `json:"routed,omitempty"` // given to routers as far as they are up: BGP
	Grade  string `json:"grade,omitempty"`  // of the route, if it is not the normal one
	Tabled bool   `json:"tabled,omitempty"` // in the table that other daemons read
}

// Snapshot is the newest one. It is not to be changed.
func (a *Agent) Snapshot() *Snapshot { return a.snap.Load() }

func (s *Snapshot) lingering() []netip.Addr {
	var addrs []netip.Addr
	for _, seat := range s.Seats {
		for _, a := range seat.Addresses {
			if a.Lingering {
				addrs = append(addrs, a.Address)
			}
		}
	}
	return addrs
}

func (a *Agent) snapshot() *Snapshot {
	f := &a.facts
	s := &Snapshot{Node: a.cfg.Node, At: time.Now(), Draining: f.Draining, Healthy: f.Healthy(), Unhealthy: a.unhealthyBecause(),
		Links: make(map[string]bool, len(f.Links)), Changes: a.history.changes, Losses: a.history.losses,
		Takeovers: slices.Clone(a.history.takeovers), RestMs: max(0, ms(f.Rest.Until.Sub(f.Now)))}
	for k, v := range f.Links {
		s.Links[k] = v
	}
	for _, c := range f.Claims {
		s.Seats = append(s.Seats, a.seatStatus(c))
	}
	return s
}

func (a *Agent) seatStatus(c Claim) SeatStatus {
	f := &a.facts
	seat := f.Seats[c.Seat]
	if c.Seat == "" {
		return a.sharedStatus(c)
	}
	out := SeatStatus{Name: c.Seat, Holder: seat.Term.Holder, Epoch: seat.Term.Epoch, Holding: seat.Valid,
		Standing: seat.Term.Standing, Joined: seat.Term.Joined, Why: a.why(c, seat)}
	if seat.Valid {
		out.LeaseMs = ms(seat.Term.Lease.Until().Sub(f.Now))
	}
	if m := a.history.seats[c.Name]; m != nil {
		out.Since = m.since
	}
	for _, p := range c.Addrs {
		addr := a.addressStatus(p)
		addr.Claimed = seat.Valid && slices.ContainsFunc(f.Have.Targets, func(t Target) bool { return t.Addr == addr.Address && t.Lease != nil })
		addr.Routed, addr.Tabled = addr.Routed && seat.Valid, addr.Tabled && seat.Valid
		addr.Lingering = addr.Bound && !seat.Valid && seat.Lost != 0 && !f.Ready
		out.Addresses = append(out.Addresses, addr)
	}
	return out
}

// sharedStatus is seatStatus without an election.
func (a *Agent) sharedStatus(c Claim) SeatStatus {
	out := SeatStatus{Name: c.Name, Shared: true, Holding: a.facts.routed(c), Why: a.whyShared()}
	if m := a.history.seats[c.Name]; m != nil {
		out.Since = m.since
	}
	for _, p := range c.Addrs {
		addr := a.addressStatus(p)
		addr.Lingering = addr.Bound && !addr.Routed && !addr.Tabled
		out.Addresses = append(out.Addresses, addr)
	}
	return out
}

// addressStatus is what the host and the routers have of an address.
func (a *Agent) addressStatus(p Placed) AddressStatus {
	f := &a.facts
	out := AddressStatus{Address: p.Prefix.Addr(), Links: p.Links, Bound: slices.Contains(f.Have.Addresses, p.Prefix),
		Tabled: slices.Contains(f.Have.Table, p.Prefix)}
	for _, r := range f.Have.Routes {
		if r.Prefix != p.Prefix {
			continue
		}
		out.Routed = true
		if r.Grade != Normal {
			out.Grade = r.Grade.String()
		}
	}
	return out
}

// whyShared says in words why this node advertises or does not.
func (a *Agent) whyShared() string {
	f := &a.facts
	switch {
	case f.Draining:
		return "this node is stopping"
	case f.Unable != "":
		return "this node cannot bind: " + f.Unable
	case !f.fit() && f.Routing.LastResort:
		return "this node is unhealthy: it asks routers to prefer any other"
	case !f.fit():
		return "this node is unhealthy"
	}
	return "every healthy node advertises it"
}

// why says in words why the seat is where it is.
func (a *Agent) why(c Claim, s Seat) string {
	f := &a.facts
	switch {
	case f.Draining:
		return "this node is stopping"
	case s.Valid && f.Unable != "":
		return "this node holds the seat but cannot bind: " + f.Unable
	case s.Valid && !f.Healthy() && s.Term.Successor == "":
		return "this node holds it although it is unhealthy: no healthy node could take it"
	case s.Valid && !f.Healthy():
		return fmt.Sprintf("this node is unhealthy and hands over to %s when the last move is %v ago", s.Term.Successor, f.HoldDown)
	case s.Valid:
		return a.cfg.Backer + " acknowledges this node"
	case !s.Term.Joined:
		return "this node has not joined the cluster yet"
	case s.Term.Standing:
		return "this node is being elected"
	case s.Term.Holder == "":
		return "nobody holds it, or this node cannot hear who: an election needs " + a.cfg.Backer
	}
	return s.Term.Holder + " holds it"
}

// unhealthyBecause says in words what makes the node unhealthy, "" when nothing
// does.
func (a *Agent) unhealthyBecause() string {
	var why []string
	for name, ok := range a.facts.Checks {
		if !ok {
			why = append(why, "check "+name)
		}
	}
	for name, up := range a.facts.Links {
		if !up {
			why = append(why, "link "+name+" has no carrier")
		}
	}
	slices.Sort(why)
	if a.facts.Unable != "" {
		why = append(why, a.facts.Unable)
	}
	return strings.Join(why, "; ")
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
