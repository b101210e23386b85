package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pintle-lb/pintle/leader"
)

// An Elector is the part of leader.Elector that the loop drives.
type Elector interface {
	Set(want []string)
}

// Config is what a node consists of.
type Config struct {
	Node     string
	Claims   []Claim
	Ready    bool // bind: ready
	Linger   time.Duration
	HoldDown time.Duration
	Routing  Routing
	Checks   []string // names of health checks; a node is unhealthy until each has spoken
	Links    []string // announcing links; likewise

	Backer    string        // who acknowledges a holder, for people; default: a majority
	MoveLimit time.Duration // how long a hand-over may take before the node wants the seat back; default 1 s

	Elector   Elector                         // may be a leader.Ranker and leader.Mover; nil without an election
	Addresses Setter[netip.Prefix]            // nil on a witness
	Targets   Setter[Target]                  // nil where no address is announced on a wire
	Routes    Setter[Route]                   // nil without BGP
	Table     Setter[netip.Prefix]            // nil without a table
	Sockets   func([]netip.Addr) (int, error) // established connections to the addresses
	Clock     leader.Clock
	Log       *slog.Logger
}

// An Agent drives one node.
type Agent struct {
	cfg      Config
	log      *slog.Logger
	in       *inbox
	facts    Facts
	want     State
	bound    *part[netip.Prefix]
	targets  *part[Target]
	routes   *part[Route]
	table    *part[netip.Prefix]
	healthy  bool
	unableAt leader.Instant // when binding failed last
	history  history
	drained  chan struct{}
	turned   atomic.Int64
	snap     atomic.Pointer[Snapshot]
}

// New returns an agent. It starts nothing.
func New(cfg Config) *Agent {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Backer, cfg.MoveLimit = cmp.Or(cfg.Backer, "a majority"), cmp.Or(cfg.MoveLimit, moveLimit)
	a := &Agent{cfg: cfg, log: cfg.Log, in: newInbox(), healthy: true, drained: make(chan struct{}),
		facts: Facts{Node: cfg.Node, Ready: cfg.Ready, Routing: cfg.Routing, Routed: map[string]leader.Instant{}, out: map[string]bool{}, Linger: cfg.Linger, HoldDown: cfg.HoldDown, Claims: cfg.Claims,
			Seats: map[string]Seat{}, Checks: map[string]bool{}, Links: map[string]bool{}, Heard: map[netip.Addr]leader.Instant{},
			Rest: Rest{Step: cfg.HoldDown}, MoveLimit: cfg.MoveLimit}}
	for _, c := range cfg.Checks {
		a.facts.Checks[c] = false
	}
	for _, l := range cfg.Links {
		a.facts.Links[l] = false
	}
	if cfg.Sockets != nil {
		a.facts.Socks = -1
	}
	a.bound = newPart(a.in, addrNews, cfg.Addresses)
	a.targets = newPart(a.in, targNews, cfg.Targets)
	a.routes = newPart(a.in, routeNews, cfg.Routes)
	a.table = newPart(a.in, tableNews, cfg.Table)
	a.snap.Store(&Snapshot{Node: cfg.Node})
	a.turned.Store(int64(cfg.Clock()))
	return a
}

// Run drives the node until ctx ends. End it by Drain first, else what the host
// has stays until the setters are closed.
func (a *Agent) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.bound.run(ctx) })
	g.Go(func() error { return a.targets.run(ctx) })
	g.Go(func() error { return a.routes.run(ctx) })
	g.Go(func() error { return a.table.run(ctx) })
	g.Go(func() error { return a.countSockets(ctx) })
	g.Go(func() error { a.loop(ctx); return nil })
	return g.Wait()
}

// LoopAge is how long ago the loop last turned. It turns at least each second.
func (a *Agent) LoopAge() time.Duration {
	return a.cfg.Clock().Sub(leader.Instant(a.turned.Load()))
}

func (a *Agent) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.in.wake:
		case <-timer.C:
		}
		a.turn()
		timer.Reset(a.nextLook())
	}
}

// turn learns what is new, plans and applies.
func (a *Agent) turn() {
	now := a.cfg.Clock()
	a.facts.Tick(now)
	for _, learn := range a.in.take() {
		learn(a)
	}
	a.turned.Store(int64(now))
	a.uncount()
	a.look()
	a.tellHealth()
	sick := a.sickSeat()
	a.apply(Plan(&a.facts))
	if sick != "" && !slices.Contains(a.want.Seats, sick) {
		a.facts.Yielded(sick)
		a.log.Info("gives the seat up for its health", "seat", sick, "peer", a.facts.Seats[sick].Term.Successor)
	}
	a.note()
	a.snap.Store(a.snapshot())
	a.finish()
}

// nextLook is when the loop must turn without news.
func (a *Agent) nextLook() time.Duration {
	next := time.Second
	soon := func(at leader.Instant) {
		if d := at.Sub(a.facts.Now); d > 0 {
			next = min(next, d)
		}
	}
	for _, s := range a.facts.Seats {
		if s.Valid {
			soon(s.Term.Lease.Until())
			soon(s.Since.Add(a.facts.Routing.wait()))
		}
		if s.Next != 0 {
			soon(s.Next.Add(grace))
		}
		if s.Lost != 0 {
			soon(s.Lost.Add(a.facts.Linger))
		}
	}
	for _, at := range a.facts.Routed {
		soon(at.Add(settle))
	}
	if a.facts.Draining {
		soon(a.facts.DrainedAt.Add(a.facts.Routing.DrainWait))
	}
	soon(a.facts.Rest.Until)
	return max(next, time.Millisecond)
}

// apply hands the wanted state to those who bring it about.
func (a *Agent) apply(want State) {
	if a.cfg.Elector != nil && (!slices.Equal(want.Seats, a.want.Seats) || a.want.Seats == nil) {
		a.cfg.Elector.Set(want.Seats)
	}
	a.bound.set(want.Addresses)
	a.targets.set(want.Targets)
	a.routes.set(want.Routes)
	a.table.set(want.Table)
	a.want = want
	a.look()
}

// look takes over what the setters say is true.
func (a *Agent) look() {
	a.facts.Doing = State{Addresses: a.bound.certain(), Targets: a.targets.possible(), Routes: a.routes.possible(), Table: a.table.possible()}
	a.facts.Have = State{Seats: a.want.Seats, Addresses: a.bound.have, Targets: a.targets.have, Routes: a.routes.have, Table: a.table.have}
	a.facts.Note()
}

// uncount forgets the connections of a former tenure: a holder's are to be counted
// when it has stopped holding.
func (a *Agent) uncount() {
	if a.cfg.Sockets == nil {
		return
	}
	for _, s := range a.facts.Seats {
		if s.Valid {
			a.facts.Socks = -1
		}
	}
}

func (a *Agent) sickSeat() string {
	for name := range a.facts.Seats {
		if a.facts.Sick(name) {
			return name
		}
	}
	return ""
}

func (a *Agent) learnTerm(seat string, t leader.Term) {
	a.facts.Learn(seat, t)
}

func (a *Agent) learnCheck(name string, healthy bool, why string) {
	if a.facts.Checks[name] != healthy {
		a.log.Info("health check", "check", name, "healthy", healthy, "err", why)
	}
	a.facts.Checks[name] = healthy
}

func (a *Agent) learnLinks(up map[string]bool) {
	for name, ok := range up {
		if was, known := a.facts.Links[name]; known && was != ok {
			a.log.Info("link", "link", name, "carrier", ok)
		}
	}
	maps.Copy(a.facts.Links, up)
}

// tellHealth tells the elector how this node ranks.
func (a *Agent) tellHealth() {
	a.tellAble()
	if h := a.facts.Healthy(); h != a.healthy {
		a.healthy = h
		a.log.Info("health", "healthy", h, "err", a.unhealthyBecause())
		if r, ok := a.cfg.Elector.(leader.Ranker); ok {
			r.SetHealthy(h)
		}
	}
}

// unableFor is how long a node that could not bind ranks as unhealthy before it
// may try again, if it has no reason to try sooner.
const unableFor = time.Minute

// tellAble takes over whether binding works: that it was not tried says nothing.
func (a *Agent) tellAble() {
	switch {
	case a.bound.err != nil:
		a.facts.Unable, a.unableAt = a.bound.err.Error(), a.facts.Now
	case !a.bound.resting():
	case len(a.bound.mailed) > 0, a.facts.Now.Sub(a.unableAt) > unableFor:
		a.facts.Unable = ""
	}
}

// Move hands the seat of this node to another one, "" for the best. It fails
// when this node does not hold it or the other could not take it. It blocks for as
// long as the elector's Prefer does, which may ask the other one, and does not wait
// for the outcome; the loop goes on meanwhile.
func (a *Agent) Move(to string) error {
	snap := a.Snapshot()
	var held *SeatStatus
	for i, s := range snap.Seats {
		if s.Holding {
			held = &snap.Seats[i]
		}
	}
	if held == nil {
		return errors.New("this node does not hold the seat")
	}
	if m, ok := a.cfg.Elector.(leader.Mover); !ok {
		return errors.New("this kind of election cannot be told who is next")
	} else if err := m.Prefer(to); err != nil {
		return fmt.Errorf("move to %s: %w", to, err)
	}
	move := &Move{Seat: held.Name, Epoch: held.Epoch, Until: a.cfg.Clock().Add(a.cfg.MoveLimit)}
	a.in.put(moveNews, func(a *Agent) { a.facts.Move = move })
	return nil
}

// finish says once that a draining node holds nothing any more.
func (a *Agent) finish() {
	f := &a.facts
	if !f.Draining || len(a.want.Addresses) > 0 || len(a.want.Seats) > 0 || len(f.Have.Addresses) > 0 {
		return
	}
	for _, c := range f.Claims {
		if f.claims(c) {
			return
		}
	}
	select {
	case <-a.drained:
	default:
		close(a.drained)
	}
}

// countSockets counts, while this node is a former holder that still has the
// addresses, who is still connected through them.
func (a *Agent) countSockets(ctx context.Context) error {
	if a.cfg.Sockets == nil {
		return nil
	}
	t := time.NewTicker(500 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		addrs := a.Snapshot().lingering()
		if len(addrs) == 0 {
			continue // what was counted last is why they were let go
		}
		n, err := a.cfg.Sockets(addrs)
		if err != nil {
			a.log.Debug("cannot count connections", "err", err)
			continue
		}
		a.in.put(sockNews, func(a *Agent) { a.facts.Socks = n })
	}
}

// A part is one setter as the loop sees it.
type part[T comparable] struct {
	*Worker[T]
	mailed []T // what was asked for last; nil at first
	doing  []T // what the setter is at
	busy   bool
	have   []T
	err    error
}

func newPart[T comparable](in *inbox, kind partNews, s Setter[T]) *part[T] {
	p := &part[T]{}
	if s == nil {
		return p
	}
	p.Worker = NewWorker(s, func(doing, have []T, err error) {
		in.put(kind, func(*Agent) { p.doing, p.busy, p.have, p.err = doing, doing != nil, have, err })
	})
	return p
}

func (p *part[T]) run(ctx context.Context) error {
	if p.Worker == nil {
		return nil
	}
	return p.Worker.Run(ctx)
}

// set asks for a state, if it is another than before.
func (p *part[T]) set(want []T) {
	if p.Worker == nil || p.mailed != nil && same(want, p.mailed) {
		return
	}
	p.mailed = want
	p.Worker.Set(want)
}

// again has the setter look once more.
func (p *part[T]) again() {
	if p.Worker != nil && p.mailed != nil {
		p.Worker.Set(p.mailed)
	}
}

// resting reports whether the setter has done what it was last asked for.
func (p *part[T]) resting() bool { return !p.busy && same(p.have, p.mailed) }

// same reports whether two sets are equal.
func same[T comparable](a, b []T) bool {
	in := func(set []T) func(T) bool { return func(x T) bool { return !slices.Contains(set, x) } }
	return len(a) == len(b) && !slices.ContainsFunc(a, in(b)) && !slices.ContainsFunc(b, in(a))
}

// possible is what the setter may be bringing about: what it is at and what it
// was asked for last. It is nil when the setter rests.
func (p *part[T]) possible() []T {
	if p.resting() {
		return nil
	}
	return append(slices.Clone(p.doing), p.mailed...)
}

// certain is what the setter is surely not taking away: what is in both. It is
// nil when the setter rests.
func (p *part[T]) certain() []T {
	if p.resting() {
		return nil
	}
	both := []T{}
	for _, x := range p.mailed {
		if !p.busy || slices.Contains(p.doing, x) {
			both = append(both, x)
		}
	}
	return both
}
