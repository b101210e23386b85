package service

import (
	"maps"
	"net/netip"
	"time"

	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/leader"
)

// What follows runs in the loop.

// learnTerm takes what the elector says of this node's own Lease.
func (c *Controller) learnTerm(t leader.Term) {
	f := &c.facts
	f.Lease = t.Lease
	c.lookAt = 0 // what is claimed, and served, follows at once
	switch {
	case t.Lease != nil && t.Epoch != f.Epoch:
		c.log.Info("this node has its Lease", "epoch", t.Epoch)
		f.Epoch = t.Epoch
		c.placesChanged()
	case t.Lease == nil && t.Epoch > f.Epoch && f.Epoch != 0:
		c.log.Warn("this node was fenced: what it held is given to others", "epoch", f.Epoch)
		f.Epoch = 0
	case t.Lease == nil && f.Epoch != 0:
		c.log.Warn("this node's Lease ran out", "epoch", f.Epoch)
	}
}

// learnMember takes what is known of a node.
func (c *Controller) learnMember(m leader.RollMember) {
	was, known := c.facts.Roll[m.Node]
	c.facts.Roll[m.Node] = Fellow{m, wordOf(m.Note)}
	if m.Epoch == 0 && !m.Alive { // its Lease is gone, and nothing names it
		delete(c.facts.Roll, m.Node)
	}
	switch {
	case m.Fenced && !was.Fenced:
		c.log.Warn("a node was fenced", "peer", m.Node, "epoch", m.Epoch)
	case !known || m.Alive != was.Alive:
		c.log.Info("node", "peer", m.Node, "alive", m.Alive, "epoch", m.Epoch)
	}
	if m.Node == c.facts.Seat.Node && m.Alive != was.Alive {
		c.rollAt = 0 // who fences at once is another one now
	}
	c.placesChanged()
}

// placesChanged says that nodes suit otherwise.
func (c *Controller) placesChanged() {
	if c.coord != nil {
		c.coord.placesChanged()
	}
}

func (c *Controller) poolsChanged() {
	if c.coord != nil {
		c.coord.poolsChanged()
	}
}

func (c *Controller) serviceChanged(k ipam.Key) {
	if c.coord != nil {
		c.coord.serviceChanged(k)
	}
}

func (c *Controller) recordChanged(a netip.Addr) {
	if c.coord != nil {
		c.coord.recordChanged(a)
	}
}

// tellRoll says which nodes are to be fenced if they are gone, and how soon by this node.
func (c *Controller) tellRoll() {
	need := c.facts.named()
	if e := need[c.cfg.Node]; c.facts.Epoch != 0 && e > c.facts.Epoch {
		c.cfg.Above(e) // its Lease was made anew, or put back from a backup
	}
	if !maps.Equal(need, c.need) {
		c.need = need
		c.cfg.Need(maps.Clone(need))
	}
	lag := fenceLag
	switch {
	case c.facts.coordinates():
		lag = 0
	case !c.facts.Roll[c.facts.Seat.Node].Alive:
		lag = min(c.facts.turnOf(), fenceLag)
	}
	c.cfg.Lag(lag)
}

// settled is how long a node that leaves goes on accepting packets for what was bound on it.
const settled = time.Second

// leave says once that a node that leaves has nothing any more. Where no other node could take anything over, it does not wait for one.
func (c *Controller) leave() {
	f := &c.facts
	if !f.Leaving || c.quits || f.Now < c.leftAt.Add(c.cfg.DrainWait) {
		return
	}
	alone := len(f.alive()) == 0 || len(f.alive()) == 1 && f.Roll[f.Node].Alive
	if !alone && (len(c.hold.holding()) > 0 || f.coordinates() || c.seating || c.ownFlying > 0) {
		return
	}
	if len(c.routes.have) > 0 || c.routes.busy {
		return
	}
	for a, l := range c.hold.left {
		if r := c.facts.Records[a]; r != nil && r.Object.Spec.Bind && f.Now < l.at.Add(settled) {
			return
		}
	}
	c.quits = true
	close(c.end)
}

// poolsEach is how often the status of pools is looked after.
const poolsEach = 2 * time.Second

// soon is when the loop must turn without news.
func (c *Controller) soon() (at leader.Instant) {
	f := &c.facts
	next := func(i leader.Instant) {
		if at == 0 || i < at {
			at = i
		}
	}
	wall := func(t time.Time) {
		if f.Wall.Before(t) { // what was due before was looked at in this turn
			next(f.Now.Add(t.Sub(f.Wall)))
		}
	}
	if c.coord != nil {
		wall(c.coord.next())
		if c.coord.more {
			next(f.Now)
		}
	}
	for _, r := range c.hold.again {
		wall(r.at)
	}
	if d := c.flush.next(); d > 0 {
		next(f.Now.Add(d))
	}
	for _, l := range c.hold.left {
		next(l.at.Add(lingering))
	}
	if f.Lease.Valid() {
		next(f.Lease.Until())
	}
	return at
}
