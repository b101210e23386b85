// Package agent runs one node: facts come in, host state goes out.
//
// Elections, health, links and what the host really has are [Facts]. The pure
// function [Plan] says what this node should have now. Setters bring the host
// there and report what is true. Order is a precondition on what is true, never
// a sequence of calls:
//
//	held -> announced; last claim sent and last route withdrawn -> seat resigned;
//	new holder heard, or linger ended -> let go.
//
// A crash, a stalled call, a partition or a restart then needs no code of its
// own.
package agent

import (
	"net/netip"
	"slices"
	"time"

	"github.com/pintle-lb/pintle/leader"
)

// grace is how long a former holder at least goes on accepting packets after it
// knows of a new one: the neighbours' tables need to be told.
const grace = 250 * time.Millisecond

// drainLinger is how long a node that stops goes on accepting when nobody is
// known to have taken over: long enough for the hand-over itself.
const drainLinger = 2 * time.Second

// settle is how long a node goes on accepting packets after its last route is
// withdrawn: routers take some 0.1 s to send them elsewhere.
const settle = time.Second

// Plan says what the host should have next. It reads no clock and touches
// nothing. The parts of the result are never nil.
func Plan(f *Facts) State {
	want := State{Seats: []string{}, Addresses: []netip.Prefix{}, Targets: []Target{}, Routes: []Route{}, Table: []netip.Prefix{}}
	for _, c := range f.Claims {
		if c.Seat == "" {
			f.planFree(c, &want)
		} else {
			f.planSeat(c, &want)
		}
	}
	return want
}

// planSeat is Plan for a claim that only the holder of a seat may make.
func (f *Facts) planSeat(c Claim, want *State) {
	seat := f.Seats[c.Seat]
	leave := f.Draining || f.Leaves(c.Seat)
	if !leave || f.claims(c) {
		want.Seats = append(want.Seats, c.Seat)
	}
	bind := f.binds(c, seat) || f.attracts(c)
	waited := f.Now >= seat.Since.Add(f.Routing.wait())
	for _, a := range c.Addrs {
		if bind {
			want.Addresses = append(want.Addresses, a.Prefix)
		}
		var lease *leader.Lease
		if seat.Valid && !leave && f.holds(a.Prefix) {
			lease = seat.Term.Lease
		}
		for _, l := range a.Links {
			want.Targets = append(want.Targets, Target{Link: l, Addr: a.Prefix.Addr(), Lease: lease})
		}
		route := Route{Prefix: a.Prefix, Lease: lease}
		if lease != nil && (waited || slices.Contains(f.Have.Routes, route)) {
			want.advertise(c, route)
		}
	}
}

// planFree is Plan for a claim that every healthy node makes. A node goes on
// having the addresses until packets for them go elsewhere.
func (f *Facts) planFree(c Claim, want *State) {
	grade, out := f.advertises()
	bind := out || f.attracts(c)
	for _, a := range c.Addrs {
		if bind {
			want.Addresses = append(want.Addresses, a.Prefix)
		}
		if out && f.holds(a.Prefix) {
			want.advertise(c, Route{Prefix: a.Prefix, Grade: grade})
		}
	}
}

// attracts reports whether routers may send packets for the claim to this node,
// for what it told them.
func (f *Facts) attracts(c Claim) bool {
	return f.routed(c) || f.Routed[c.Name] != 0 && f.Now < f.Routed[c.Name].Add(settle)
}

// advertises reports whether, and how, a node without an election advertises.
func (f *Facts) advertises() (Grade, bool) {
	stays := f.fit() || f.Routing.LastResort
	switch {
	case f.Draining:
		return Leaving, stays && f.Now < f.DrainedAt.Add(f.Routing.DrainWait)
	case !f.fit():
		return LastResort, stays
	}
	return Normal, true
}

// advertise adds a route by every means of the claim. A table has no grades: a
// node that leaves is not in it.
func (s *State) advertise(c Claim, r Route) {
	if c.Announce.BGP {
		s.Routes = append(s.Routes, r)
	}
	if c.Announce.Table && r.Grade != Leaving {
		s.Table = append(s.Table, r.Prefix)
	}
}

// Leaves reports whether this node, holding the seat, is to hand it over: because
// a person asked for it, or because a healthier node can have it and the last
// such move is long enough ago. An unhealthy node keeps the seat when there is
// none: nobody would be better off.
func (f *Facts) Leaves(seat string) bool {
	return f.moving(seat) || f.Sick(seat)
}

// Sick reports whether this node is to hand the seat over for its health.
func (f *Facts) Sick(seat string) bool {
	s := f.Seats[seat]
	return s.Valid && !f.Healthy() && s.Term.Successor != "" && f.Now >= f.Rest.Until
}

// binds reports whether the addresses of a claim belong on this host.
func (f *Facts) binds(c Claim, s Seat) bool {
	switch {
	case s.Valid: // also while the seat is being handed over
		return true
	case f.Draining:
		return f.accepts(s, drainLinger) && !f.relieved(c, s)
	case f.Ready && s.Term.Joined && f.fit():
		return true
	case s.Term.Standing && f.fit():
		return true // the vote is under way: binding early costs the take-over nothing
	}
	return f.fit() && f.accepts(s, f.Linger) && (f.Socks != 0 || !f.relieved(c, s))
}

// accepts reports whether a former holder is still within its linger.
func (f *Facts) accepts(s Seat, linger time.Duration) bool {
	return s.Lost != 0 && f.Now < s.Lost.Add(linger)
}

// relieved reports whether another node is known to hold the seat, or was heard
// claiming one of the addresses, long enough ago for the neighbours to know.
func (f *Facts) relieved(c Claim, s Seat) bool {
	next := s.Next
	for _, a := range c.Addrs {
		if h := f.Heard[a.Prefix.Addr()]; h > s.Lost && (next == 0 || h < next) {
			next = h
		}
	}
	return next != 0 && f.Now >= next.Add(grace)
}
