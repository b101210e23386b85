package hearsay

import (
	"sync/atomic"
	"time"

	"github.com/pintle-lb/pintle/leader"
)

// quiet is how long before the end of its lease a gate must not have heard of a rival (DEFEND_INTERVAL of RFC 5227).
const quiet = 10 * time.Second

// A Gate is an arp.Gate for one address of a pool with onAPILoss: keep. It is open while the lease is valid. When the lease runs
// out, it stays open if the circle counted as lost at that instant and has done so without a break since. Once shut, it is shut
// for good; it is made anew with the next lease.
//
// A lease that was revoked shuts it, before its end and after. But an elector forgets a lease that ran out: whoever resigns, stops
// or learns of a fence while the gate is open must call Drop.
//
// All methods may be called from any goroutine and with locks held. Valid takes no lock, and no system call beyond the clock's.
type Gate struct {
	circle *Circle
	lease  *leader.Lease // nil: there was nothing to keep
	rival  atomic.Int64  // when Drop was last called
}

// Gate returns a gate on lease. Who does not hold a valid lease has nothing to keep: then the gate is shut.
func (c *Circle) Gate(lease *leader.Lease) *Gate {
	if !lease.Valid() {
		lease = nil
	}
	return &Gate{circle: c, lease: lease}
}

// Valid reports whether this node may claim the address now.
func (g *Gate) Valid() bool {
	open, _ := g.ask()
	return open
}

// Kept reports whether the gate is open although its lease has run out.
func (g *Gate) Kept() bool {
	_, kept := g.ask()
	return kept
}

// Drop says that another station was heard to claim the address, or that the node gives it up. It never shuts a gate whose
// lease is valid, for then others are contested; but if that was within 10 s of the end of the lease, nothing is kept after it.
func (g *Gate) Drop() { g.rival.Store(int64(g.circle.cfg.Clock())) }

func (g *Gate) ask() (open, kept bool) {
	if g.lease == nil {
		return false, false
	}
	now := g.circle.cfg.Clock() // before the deadline is read: nobody extends a lease that has run out by then
	end := g.lease.Until()
	switch {
	case end == 0: // revoked, or found out by its elector to have run out: then the API answered
		return false, false
	case now < end:
		return true, false
	}
	kept = !g.rivalled(end) && g.circle.lostSince(end, now)
	return kept, kept
}

func (g *Gate) rivalled(end leader.Instant) bool {
	at := leader.Instant(g.rival.Load())
	return at != 0 && at > end.Add(-quiet)
}
