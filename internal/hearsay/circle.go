package hearsay

import (
	"cmp"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pintle-lb/pintle/leader"
)

// A Circle is this node among all that tell each other whether the API answers. Its methods may be called from any goroutine, also
// while it does not run; but nothing counts as lost then. None of them waits for the network.
type Circle struct {
	cfg  Config
	open func() (wire, error)
	poke chan struct{} // the speaker has something to do
	loss atomic.Pointer[stretch]

	mu     sync.Mutex // guards what follows; held for moments
	tally  tally
	runs   bool
	urgent bool           // this node says something else than in its last round
	spoken leader.Instant // when that was; 0 before the first of this Run
	fault  error          // what keeps this node from talking
	notes  []func()       // lines for the log, to be written by the speaker without mu
}

// New returns a Circle that knows no other node and says that the API answers. It starts nothing.
func New(cfg Config) *Circle {
	if cfg.Key == nil {
		cfg.Key = func() []byte { return nil }
	}
	if cfg.Clock == nil {
		cfg.Clock = leader.Boot
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Circle{cfg: cfg, poke: make(chan struct{}, 1)}
	c.open = func() (wire, error) { return listen(cfg.Port) }
	c.tally = tally{node: cfg.Node, self: newProcess()}
	c.loss.Store(&stretch{})
	return c
}

// SetPeers says which nodes the cluster has: every one that runs Pintle, as the API last told, with or without this node. A
// majority is one of these. A list that may not be complete must not be given: fewer nodes are a smaller majority. An empty one
// means that they are not known, and nothing counts as lost.
func (c *Circle) SetPeers(all []Peer) {
	c.change(func(leader.Instant) { c.tally.setPeers(all) })
}

// SetAway says whether the API is away for this node: no server of it has answered a read from the quorum or a write, for
// whatever time the caller thinks long enough. An answer of any kind, also a refusal, means that it is not.
//
// What a gate keeps depends on when this is said: the majority must have said it before the lease of the gate runs out.
func (c *Circle) SetAway(away bool) {
	c.change(func(leader.Instant) {
		c.urgent = c.urgent || away != c.tally.away
		c.tally.away = away
	})
	c.kick()
}

// Lost reports whether a majority of all nodes, this one among them, says that the API is away. It is cheap, to be asked before
// each frame.
func (c *Circle) Lost() bool {
	now := c.cfg.Clock()
	return now < c.loss.Load().until
}

// lostSince reports whether Lost was true from then until now without a break.
func (c *Circle) lostSince(then, now leader.Instant) bool {
	s := c.loss.Load()
	return s.since <= then && now < s.until
}

// Status returns what is known of each node, this one first and the others by name.
func (c *Circle) Status() []Said {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, wall := c.cfg.Clock(), time.Now()
	self := Said{Node: c.cfg.Node, Self: true, Says: Answers, Err: c.fault}
	if c.tally.away {
		self.Says = Away
	}
	said := []Said{self}
	for name, p := range c.tally.peers {
		s := Said{Node: name, Addr: p.Addr, Says: p.says(now), Err: p.fault(now)}
		if p.heard != 0 {
			s.Heard = wall.Add(-now.Sub(p.heard))
		}
		said = append(said, s)
	}
	slices.SortFunc(said[1:], func(a, b Said) int { return cmp.Compare(a.Node, b.Node) })
	return said
}

// change changes what is known, and draws the consequence.
func (c *Circle) change(f func(now leader.Instant)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.cfg.Clock()
	f(now)
	c.settle(now)
}

// settle publishes until when a majority says that the API is away. mu is held.
func (c *Circle) settle(now leader.Instant) {
	var until leader.Instant
	if c.runs {
		until = c.tally.until()
	}
	old := *c.loss.Load()
	s := old.next(now, until)
	if s == old {
		return
	}
	c.loss.Store(&s)
	if s.since == old.since {
		return
	}
	nodes := c.tally.nodes()
	if old.until != 0 {
		c.note(func() { c.cfg.Log.Info("no majority of the nodes says any more that the API is away", "nodes", nodes) })
	}
	if s.until != 0 {
		c.note(func() { c.cfg.Log.Info("a majority of the nodes says that the API is away", "nodes", nodes) })
	}
}
