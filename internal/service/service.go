// Package service gives addresses to Services of type LoadBalancer and answers for them, on every node of a Kubernetes cluster.
//
// Each node has one Lease with an epoch (package leader), and each address that is in use has one object, named for it
// (package pintlev1). The creation of that object is the allocation: two that try at once meet the same name, and one is refused.
// The object names its holder by node and epoch, and only that node, in that epoch, with a valid Lease, claims the address. What a dead
// node held is given to others only after it was fenced: its epoch raised in its Lease, when that had run out. So the API is written to
// by nodes and changes, never by Services.
//
// One node, the coordinator, gives addresses to Services (package ipam) and nodes to addresses; it too is named by node and epoch,
// in the object of its seat. Every node holds: it claims what names it, and hands over what is wanted elsewhere when its last claim was
// sent.
//
// A [Controller] is all of that on one node. Its loop's goroutine owns the facts; coordinator and holder decide on them alone, as pure
// as they can be, and are tested in a simulation with an API that loses, delays and doubles.
package service

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"golang.org/x/sync/errgroup"

	"github.com/pintle-lb/pintle/arp"
	"github.com/pintle-lb/pintle/bgp"
	"github.com/pintle-lb/pintle/internal/agent"
	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
	"github.com/pintle-lb/pintle/leader"
	"github.com/pintle-lb/pintle/vip"
)

// Config is what a Controller needs.
type Config struct {
	Node, Namespace string // the namespace is that of the Leases
	Rules           Rules
	Rest            *rest.Config // asks whichever API server answers

	Targets agent.Setter[arp.Target]
	Bound   agent.Setter[netip.Prefix]
	Guards  agent.Setter[vip.Guarded]
	Hushed  agent.Setter[netip.Addr]
	Routes  agent.Setter[bgp.Route]       // nil without BGP
	Flush   func([]netip.Addr)            // forget what the kernel has noted of connections to these; may block
	Keep    func(*leader.Lease) Gate      // a gate that outlives the lease while the API is away; nil: there is none
	Note    func(text string)             // is told what this node says of itself; must not block
	Stand   func()                        // is told once, after the first Note: this node may take its Lease; must not block
	Above   func(epoch uint64)            // is told of an epoch that an object names this node in and that is beyond its own
	Need    func(nodes map[string]uint64) // is told which nodes objects name, and in which epoch at most
	Lag     func(time.Duration)           // how much later than due this node fences
	Kin     func(Kin)                     // is told who runs Pintle; must not block; nil: nobody wants to know

	DrainWait    time.Duration // how long a node that leaves asks routers to prefer others,
	DrainPrepend uint8         // and how many more times our AS stands in the path then
	Version      string
	Clock        leader.Clock
	Log          *slog.Logger
}

// Limits of writes that are under way at a time: of the coordinator, between the first two, and of this node's own. About so many
// connections stay open (groupClient): half of the coordinator's writes are of addresses, and half of Services.
const (
	leastWrites = 12 // the addresses of a node that is gone must not wait long
	mostWrites  = 32
	lostWrites  = 16 // at most, of those: on a busy machine the last of them comes earlier than with more at a time
	mostOwn     = 16
)

// slowWrite is how long a write takes at an API server that has too much to do: the renewals of Leases wait behind it too.
const slowWrite = time.Second

// fenceLag is how much later than the coordinator other nodes fence one that is gone. If it is the coordinator's own, who is to be the next
// does it at once.
const fenceLag = 100 * time.Millisecond

// A Controller serves Services on one node. Its methods may be called from any goroutine.
type Controller struct {
	cfg    Config
	log    *slog.Logger
	client api
	watch  func(ctx context.Context) error // brings the objects of the cluster
	wake   chan struct{}
	turned atomic.Int64
	end    chan struct{} // closed when this node, leaving, has nothing any more

	mu   sync.Mutex // guards news
	news []func()

	// What follows belongs to the loop.
	facts     Facts
	coord     *coordinator // nil on a node that is not
	hold      *holder
	synced    map[string]bool
	lost      map[netip.Addr]uint64 // addresses whose objects are gone, and the version up to which
	faults    map[string]string     // of watches
	word      Word
	said      string
	busy      map[ipam.Key]bool // Services whose status is being written
	flying    int               // writes of the coordinator that are under way
	window    int               // how many of them there may be: fewer when the API is slow
	slowed    leader.Instant    // when it became less
	ownFlying int               // of this node
	seating   bool              // the seat is being written
	leftAt    leader.Instant    // when this node began to leave
	lookAt    leader.Instant    // when what this node holds may be looked at again,
	rollAt    leader.Instant    // and which nodes are named
	need      map[string]uint64
	poolsAt   leader.Instant      // when the status of the pools was looked at
	writeErrs map[string]fault    // of the last writes, by what they write
	kin       Kin                 // as told
	quits     bool                // end is closed
	unfit     string              // why this node can serve nobody
	judged    bool                // Unfit was called
	links     bool                // Links was called
	told      map[string]toldPool // the status of pools as it was written last
	targets   *part[arp.Target]
	bound     *part[netip.Prefix]
	guards    *part[vip.Guarded]
	hushed    *part[netip.Addr]
	routes    *part[bgp.Route]
	flush     *flush
	herald    *herald
	group     *errgroup.Group
}

// New makes a Controller. It starts nothing and asks nobody.
func New(cfg Config) (*Controller, error) {
	cl, err := openClient(cfg.Rest)
	if err != nil {
		return nil, err
	}
	c := newController(cfg, cl)
	c.watch = func(ctx context.Context) error { return c.follow(ctx, cl) }
	return c, nil
}

func newController(cfg Config, cl api) *Controller {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Controller{cfg: cfg, log: cfg.Log, client: cl, wake: make(chan struct{}, 1), end: make(chan struct{}), synced: map[string]bool{}, lost: map[netip.Addr]uint64{},
		window: mostWrites, faults: map[string]string{}, writeErrs: map[string]fault{}, busy: map[ipam.Key]bool{},
		flush: newFlush(cfg.Flush, cfg.Clock, cfg.Log), herald: newHerald(), told: map[string]toldPool{}}
	c.facts = Facts{Node: cfg.Node, Rules: cfg.Rules, Services: map[ipam.Key]*Service{}, Slices: map[ipam.Key]map[string]*Endpoints{},
		Nodes: map[string]*NodeInfo{}, Namespaces: map[string]map[string]string{}, Pools: map[string]*Pool{}, Records: map[netip.Addr]*Record{},
		Roll: map[string]Fellow{}}
	c.hold = newHolder(&c.facts, cfg.Keep)
	c.hold.drainWait, c.hold.drainPrepend = cfg.DrainWait, cfg.DrainPrepend
	c.word = Word{Unfit: "its links are not known yet"}
	c.targets, c.bound = newPart(c, cfg.Targets, sameValue), newPart(c, cfg.Bound, sameValue)
	c.guards, c.hushed = newPart(c, cfg.Guards, sameGuard), newPart(c, cfg.Hushed, sameValue)
	c.routes = newPart(c, cfg.Routes, sameRoute)
	c.turned.Store(int64(cfg.Clock()))
	return c
}

// Run serves until ctx ends. End it by Leave first, and wait for Left: else what this node holds is its for as long as its Lease lasts.
func (c *Controller) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	c.group = g
	for _, run := range []func(context.Context) error{c.targets.run, c.bound.run, c.guards.run, c.hushed.run, c.routes.run, c.watch} {
		g.Go(func() error { return run(ctx) })
	}
	g.Go(func() error {
		return c.flush.run(ctx, func() { c.post(func() { c.lookAt = 0 }) })
	})
	g.Go(func() error { return c.herald.run(ctx, c.sendEvent) })
	g.Go(func() error { c.loop(ctx); return nil })
	return g.Wait()
}

// LoopAge is how long ago the loop last turned. It turns at least each second.
func (c *Controller) LoopAge() time.Duration {
	return c.cfg.Clock().Sub(leader.Instant(c.turned.Load()))
}

// Term takes a report of the elector of this node's own Lease.
func (c *Controller) Term(t leader.Term) { c.post(func() { c.learnTerm(t) }) }

// Member takes what is known of a node that runs Pintle.
func (c *Controller) Member(m leader.RollMember) { c.post(func() { c.learnMember(m) }) }

// Links takes the links that this node can announce on.
func (c *Controller) Links(links []Link) {
	told := fitting(links)
	c.post(func() {
		if n := len(links) - len(told); n > 0 && len(c.word.Links) != len(told) {
			c.log.Warn("other nodes are not told of all links of this one: no address is placed here for the sake of the others", "links", len(links), "left_out", n)
		}
		c.word.Links, c.links = told, true
	})
}

// Unfit takes why this node can serve nobody now; "" when it can.
func (c *Controller) Unfit(why string) { c.post(func() { c.unfit, c.judged = why, true }) }

// Disturbed takes that others changed what this node has on lo, or in its packet filter.
func (c *Controller) Disturbed() { c.post(func() { c.bound.again(); c.guards.again() }) }

// Leave makes this node give up everything. Left is closed when it has.
func (c *Controller) Leave() {
	c.post(func() {
		if !c.facts.Leaving {
			c.facts.Leaving, c.leftAt, c.hold.leftAt = true, c.cfg.Clock(), c.cfg.Clock()
		}
	})
}

// Left is closed when this node, leaving, has nothing any more.
func (c *Controller) Left() <-chan struct{} { return c.end }

// post hands news to the loop. It does not block.
func (c *Controller) post(f func()) {
	c.mu.Lock()
	c.news = append(c.news, f)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// How long the loop, and who sets a part of the host, rests after work: many objects make it dear, and news of them come together.
const (
	restTimes = 3                      // as long as the work took,
	restLeast = 500 * time.Microsecond // and at least so long,
	restMore  = 20 * time.Millisecond  // which grows to this when news do not cease
	restMost  = 30 * time.Millisecond

	lookTimes = 9                      // the same where all that this node holds is gone through,
	lookEach  = 100 * time.Microsecond // for each address, if so many news came at once: more of them are to come
	manyNews  = 10
	lookMost  = 500 * time.Millisecond
	workEach  = 20 * time.Microsecond // what takes longer than this for each address has waited for the processor, and need not rest for that
	rollTimes = 99                    // the same where it is told which nodes are named
)

func (c *Controller) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	pace := agent.Pace{Times: restTimes, Least: restLeast, More: restMore, Most: restMost}
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-timer.C:
		}
		began := time.Now()
		next, looked := c.turn(ctx)
		if pace.Rest(ctx, time.Since(began)-looked, len(c.wake) > 0) != nil {
			return
		}
		timer.Reset(next)
	}
}

// pause waits for d; it returns false if ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// learn takes in what was posted so far, and returns how much that was.
func (c *Controller) learn() int {
	c.mu.Lock()
	news := c.news
	c.news = nil
	c.mu.Unlock()
	for _, learn := range news {
		learn()
	}
	return len(news)
}

// turn learns what is new, decides, and has it done. It returns when it has to be called again without news, and what it spent on
// looks that have a pace of their own.
func (c *Controller) turn(ctx context.Context) (next, looked time.Duration) {
	f := &c.facts
	f.Now, f.Wall = c.cfg.Clock(), time.Now()
	news := c.learn()
	c.turned.Store(int64(f.Now))
	f.Synced = len(c.synced) == len(kinds)
	next = time.Second
	soon := func(at leader.Instant) {
		if at != 0 {
			next = min(next, max(at.Sub(f.Now), time.Millisecond))
		}
	}
	c.speak()
	soon(c.seat(ctx))
	c.coordinate(ctx)
	if f.Now >= c.lookAt {
		began := time.Now()
		c.keepHeld(ctx)
		c.apply()
		c.tellKin()
		c.leave()
		took := time.Since(began)
		rest := lookTimes * min(took, time.Duration(len(f.Records))*workEach)
		if news > manyNews {
			rest = max(rest, time.Duration(len(f.Records))*lookEach)
		}
		c.lookAt = f.Now.Add(took + min(rest, lookMost))
		looked += took
	} else {
		soon(c.lookAt)
	}
	if f.Now >= c.rollAt {
		began := time.Now()
		c.tellRoll()
		took := time.Since(began)
		c.rollAt = f.Now.Add(min(rollTimes*took, time.Second))
		looked += took
	} else {
		soon(c.rollAt)
	}
	soon(c.soon())
	return next, looked
}

// speak tells other nodes of this one, if that is news.
func (c *Controller) speak() {
	if !c.links || !c.judged {
		return // what it says first is believed: others would take its addresses from it for nothing
	}
	first := c.said == ""
	w := &c.word
	w.Leaving, w.Version, w.Unfit = c.facts.Leaving, c.cfg.Version, c.unfit
	if c.guards.err != nil {
		w.Unfit = "its packet filter: " + c.guards.err.Error()
	}
	w.Unfit = shortened(w.Unfit, mostUnfit)
	if text := w.text(); text != c.said {
		c.said = text
		c.log.Info("this node", "unfit", w.Unfit, "leaving", w.Leaving, "links", len(w.Links))
		c.cfg.Note(text)
	}
	if first {
		c.cfg.Stand()
	}
}

// seat takes the coordinator's seat when nobody has it, and gives it up when this node leaves. It returns when to look again.
func (c *Controller) seat(ctx context.Context) leader.Instant {
	f := &c.facts
	if c.seating {
		return 0
	}
	take, at := f.takesSeat()
	switch {
	case take:
		c.writeSeat(ctx, f.Node, f.Epoch)
		return 0
	case f.Leaving && f.coordinates() && len(c.hold.holding()) == 0 && len(f.alive()) > 1:
		c.writeSeat(ctx, "", 0)
	case f.Seat.Node == f.Node && f.Seat.Epoch < f.Epoch && f.Lease.Valid() && !f.Leaving:
		c.writeSeat(ctx, f.Node, f.Epoch) // it was this node's in an epoch that is over
	}
	return at
}

func (c *Controller) writeSeat(ctx context.Context, node string, epoch uint64) {
	c.seating = true
	o := c.facts.Seat.write(c.cfg.Namespace, node, epoch, c.facts.Wall)
	c.group.Go(func() error {
		ctx, cancel := context.WithTimeout(ctx, callLimit)
		defer cancel()
		out, err := c.client.putSeat(ctx, o)
		if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
			out, err = c.client.seat(ctx, c.cfg.Namespace)
		} else if err != nil {
			pause(ctx, time.Second)
		}
		c.post(func() {
			c.seating = false
			if ctx.Err() == nil {
				c.wrote("seat", "take the coordinator's seat", err)
			}
			if err == nil {
				c.sit(out)
			}
		})
		return nil
	})
}

// coordinate does what the coordinator decides, while this node is.
func (c *Controller) coordinate(ctx context.Context) {
	if !c.facts.coordinates() || !c.facts.Synced {
		if c.coord != nil {
			c.log.Info("coordinates no more")
		}
		c.coord = nil
		c.herald.busy.Store(false)
		return
	}
	if c.coord == nil {
		c.log.Info("coordinates", "services", len(c.facts.Services), "addresses", len(c.facts.Records), "pools", len(c.facts.Pools))
		c.coord = newCoordinator(&c.facts)
		c.coord.busy = c.busy
		for a := range c.facts.Records {
			c.coord.recordChanged(a)
		}
		c.coord.poolsChanged()
		c.coord.urgent()
		c.told = map[string]toldPool{}
	}
	if k := c.coord; !k.catching && (len(k.meant) == 0 || !k.began.IsZero() && c.facts.Wall.Sub(k.began) >= time.Second) {
		k.catching = true
		c.catchUp(ctx, k)
	}
	most := c.window
	if len(c.coord.meant) > 0 {
		most = min(most, lostWrites)
	}
	for c.flying < most {
		todo := c.coord.decide(most - c.flying)
		for _, w := range todo {
			c.start(ctx, w)
		}
		if len(todo) == 0 || c.coord.more {
			break
		}
	}
	c.herald.busy.Store(c.coord.services.len() > manyWait)
	if c.coord.caughtUp {
		c.tellPools(ctx)
	}
}

// catchUp has a new coordinator see all addresses that were given before it took its seat: its watch may be late.
func (c *Controller) catchUp(ctx context.Context, of *coordinator) {
	c.group.Go(func() error {
		for ctx.Err() == nil {
			err := c.client.addresses(ctx, func(o *pintlev1.Address) { c.post(func() { c.seeAddress(o) }) })
			c.post(func() {
				if ctx.Err() == nil {
					c.wrote("all addresses", "read all addresses", err)
				}
				of.caughtUp = err == nil
			})
			if err == nil {
				break
			}
			pause(ctx, time.Second)
		}
		return nil
	})
}

// keepHeld does this node's own writes.
func (c *Controller) keepHeld(ctx context.Context) {
	for _, w := range c.hold.writes(perhaps(c.targets), mostOwn-c.ownFlying) {
		c.start(ctx, w)
	}
}

// apply has the host brought to what it should have. What is guarded comes before what is bound, and that before what is claimed; and
// the other way round on the way out.
func (c *Controller) apply() {
	st := c.hold.plan(c.word)
	st.Guards = c.guardBound(st.Guards)
	// Before claims are made: what is served from now on is not forgotten any more.
	claimed, routed := perhaps(c.targets), possibly(c.routes, func(r bgp.Route) netip.Addr { return r.Prefix.Addr() })
	c.flush.serves(st.Guards, func(a netip.Addr) bool { return claimed(a) || routed(a) })
	c.guards.set(st.Guards)
	c.hushed.set(st.Hushed)
	guarded := surely(c.guards, func(g vip.Guarded) netip.Addr { return g.Addr })
	here := make(map[netip.Addr]bool, len(st.Bound))
	for _, p := range st.Bound {
		here[p.Addr()] = true
	}
	c.bound.set(slices.DeleteFunc(st.Bound, func(p netip.Prefix) bool { return !guarded[p.Addr()] }))
	bound := surely(c.bound, netip.Prefix.Addr)
	c.targets.set(slices.DeleteFunc(st.Targets, func(t arp.Target) bool {
		return !guarded[t.Addr] || here[t.Addr] && !bound[t.Addr] || c.flush.waits(t.Addr, c.facts.Now)
	}))
	c.routes.set(slices.DeleteFunc(st.Routes, func(r bgp.Route) bool {
		a := r.Prefix.Addr()
		return !guarded[a] || here[a] && !bound[a] || c.flush.waits(a, c.facts.Now)
	}))
}

// guardBound adds what is still on lo though it is to go: else the host's own ports would be open there for a moment.
func (c *Controller) guardBound(want []vip.Guarded) []vip.Guarded {
	in := make(map[netip.Addr]bool, len(want))
	for _, g := range want {
		in[g.Addr] = true
	}
	for _, list := range [][]netip.Prefix{c.bound.have, c.bound.doing} {
		for _, p := range list {
			if !in[p.Addr()] {
				in[p.Addr()] = true
				want = append(want, vip.Guarded{Addr: p.Addr(), Bound: true})
			}
		}
	}
	slices.SortFunc(want, func(a, b vip.Guarded) int { return a.Addr.Compare(b.Addr) })
	return want
}
