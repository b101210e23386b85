package agent

import (
	"net/netip"
	"slices"
	"time"

	"github.com/pintle-lb/pintle/leader"
)

// maxTakeovers is how many take-overs a node remembers.
const maxTakeovers = 16

// A Takeover is how this node came to hold a seat, in milliseconds from when it
// began to stand. A phase that did not happen is negative.
type Takeover struct {
	Seat      string    `json:"seat"`
	At        time.Time `json:"at"`
	Epoch     uint64    `json:"epoch"`
	Leased    float64   `json:"leasedMs"`    // a majority acknowledged this node
	Bound     float64   `json:"boundMs"`     // the addresses are on this host
	Announced float64   `json:"announcedMs"` // the first claim was sent
}

// A moment is the beginning of a take-over under way.
type moment struct {
	stood, leased, bound leader.Instant
	claimed              bool
	holding              bool
	since                time.Time
	holder               string
}

// history notes what changed and logs each change of what is true once.
type history struct {
	seats     map[string]*moment
	takeovers []Takeover
	changes   uint64 // of holder, as this node saw it
	losses    uint64 // times this node stopped holding
}

// note compares what is true with what was, and keeps the difference.
func (a *Agent) note() {
	h := &a.history
	if h.seats == nil {
		h.seats = map[string]*moment{}
	}
	for _, c := range a.facts.Claims {
		m := h.seats[c.Name]
		if m == nil {
			m = &moment{since: time.Now()}
			h.seats[c.Name] = m
		}
		if c.Seat == "" {
			a.noteShared(c, m)
		} else {
			a.noteSeat(c, a.facts.Seats[c.Seat], m)
		}
	}
}

// noteShared notes whether this node advertises.
func (a *Agent) noteShared(c Claim, m *moment) {
	out := a.facts.routed(c)
	if out == m.holding {
		return
	}
	m.holding, m.since = out, time.Now()
	if out {
		a.log.Info("advertises", "claim", c.Name)
		return
	}
	a.history.losses++
	a.log.Info("no longer advertises", "claim", c.Name, "err", a.whyShared())
}

func (a *Agent) noteSeat(c Claim, s Seat, m *moment) {
	now := a.facts.Now
	if s.Term.Standing && m.stood == 0 {
		m.stood = now
	}
	if s.Valid && m.leased == 0 {
		m.leased = now
	}
	bound := !slices.ContainsFunc(c.Addrs, func(p Placed) bool { return !a.facts.holds(p.Prefix) })
	if bound && m.bound == 0 && (s.Valid || s.Term.Standing) {
		m.bound = now
	}
	if s.Valid && a.announces(c, s) && !m.claimed {
		m.claimed = true
		a.tookOver(c, s, m)
	}
	if m.holding && !s.Valid {
		m.holding = false
		a.history.losses++
		m.since = time.Now()
		a.log.Info("no longer holds", "seat", c.Seat, "holder", s.Term.Holder, "epoch", s.Term.Epoch)
	}
	if !s.Valid && !s.Term.Standing {
		m.stood, m.leased, m.bound, m.claimed = 0, 0, 0, false
	}
	if s.Term.Holder != m.holder && s.Term.Holder != "" {
		m.holder = s.Term.Holder
		a.history.changes++
		if m.holder != a.cfg.Node {
			m.since = time.Now()
			a.log.Info("the holder is", "seat", c.Seat, "holder", m.holder, "epoch", s.Term.Epoch)
		}
	}
}

// announces reports whether the network hears of the claim in this term.
func (a *Agent) announces(c Claim, s Seat) bool {
	have := &a.facts.Have
	return slices.ContainsFunc(have.Targets, func(t Target) bool { return t.Lease != nil && t.Lease == s.Term.Lease }) ||
		slices.ContainsFunc(have.Routes, func(r Route) bool { return r.Lease != nil && r.Lease == s.Term.Lease }) ||
		slices.ContainsFunc(have.Table, func(p netip.Prefix) bool { return c.has(p.Addr()) })
}

func (a *Agent) tookOver(c Claim, s Seat, m *moment) {
	from := m.stood
	if from == 0 {
		from = m.leased
	}
	ms := func(at leader.Instant) float64 {
		if at == 0 {
			return -1
		}
		return float64(at.Sub(from).Microseconds()) / 1000
	}
	t := Takeover{Seat: c.Seat, At: time.Now(), Epoch: s.Term.Epoch, Leased: ms(m.leased), Bound: ms(m.bound), Announced: ms(a.facts.Now)}
	m.holding, m.since = true, t.At
	a.history.takeovers = append(a.history.takeovers, t)
	if n := len(a.history.takeovers); n > maxTakeovers {
		a.history.takeovers = slices.Delete(a.history.takeovers, 0, n-maxTakeovers)
	}
	a.log.Info("holds", "seat", c.Seat, "holder", a.cfg.Node, "epoch", s.Term.Epoch, "ms", t.Announced)
}
