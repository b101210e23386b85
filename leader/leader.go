// Package leader elects one node for a seat and says, frame by frame, whether
// that node may still act as its holder.
//
// The safety rule of the whole system lives here: at most one node holds a
// valid [Lease] of a seat at any moment, whatever messages are lost, late or
// doubled, whatever process is paused or killed, as long as clocks run at most
// five per cent apart. The rule itself is the pure type [Word]; the Raft
// elector ([Raft]) carries it over the network. docs/safety.md states why it
// holds.
//
// Where each node has a Lease of its own and many things are shared out by it, a
// [Roll] follows all of them and fences the nodes that are gone.
package leader

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// An Instant is a point in time in nanoseconds of CLOCK_BOOTTIME: it never
// jumps, and it goes on while the machine sleeps.
type Instant int64

// Add returns the instant d later.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Sub returns the time from j to i.
func (i Instant) Sub(j Instant) time.Duration { return time.Duration(i - j) }

// A Clock tells the time. Every deadline of one node is read from one Clock.
type Clock func() Instant

// Boot is the Clock of this machine.
func Boot() Instant {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("clock_gettime(CLOCK_BOOTTIME): " + err.Error()) // cannot fail on Linux >= 2.6.39
	}
	return Instant(ts.Nano())
}

// A Lease is permission to act as the holder in one term, until a deadline that
// its elector moves forward. Once it has run out or was revoked it is never
// valid again: a regained seat comes with a new Lease. It is safe for
// concurrent use; Valid takes neither a lock nor a system call beyond the
// clock's.
type Lease struct {
	clock Clock
	until atomic.Int64 // 0 once over
}

// NewLease returns a lease that is valid before until.
func NewLease(clock Clock, until Instant) *Lease {
	l := &Lease{clock: clock}
	l.until.Store(int64(until))
	return l
}

// Valid reports whether the holder may still act. It is to be asked
// immediately before each act.
func (l *Lease) Valid() bool {
	return l != nil && int64(l.clock()) < l.until.Load()
}

// Until is the present deadline, 0 when the lease is over.
func (l *Lease) Until() Instant { return Instant(l.until.Load()) }

// Extend moves the deadline forward; it never moves it back. It returns false,
// and ends the lease, when the lease had already run out.
func (l *Lease) Extend(until Instant) bool {
	for {
		have := l.until.Load()
		switch {
		case have == 0:
			return false
		case int64(l.clock()) >= have:
			if l.until.CompareAndSwap(have, 0) {
				return false
			}
		case int64(until) <= have:
			return true
		case l.until.CompareAndSwap(have, int64(until)):
			return true
		}
	}
}

// Revoke ends the lease for good. When it returns, Valid is false.
func (l *Lease) Revoke() {
	if l != nil {
		l.until.Store(0)
	}
}

// A Term is what this node knows of one seat.
type Term struct {
	Holder    string // name of the node that holds the seat; "" when unknown
	Epoch     uint64 // grows with every new holder
	Lease     *Lease // nil unless this node holds the seat
	Standing  bool   // a majority has said it would vote for this node: the seat is likely next
	Successor string // a healthier node that would take the seat from this one; "" when there is none
	Joined    bool   // this node is a member of the cluster that elects
}

// An Elector campaigns for seats. Every implementation passes package
// leadertest.
type Elector interface {
	// Run takes part in elections until ctx ends and reports every change of a
	// term; renewals only move the deadline of a Lease that was reported. report
	// must not block. When Run returns, every Lease it gave out is over. It
	// returns an error only for what a person or a restart must mend.
	Run(ctx context.Context, report func(seat string, t Term)) error

	// Set campaigns for the wanted seats and resigns from all others: the lease
	// is revoked first, then the seat is handed to a successor if there is one.
	// It does not block; the outcome comes as a report.
	Set(want []string)
}

// A Ranker is an Elector in which a healthy candidate goes before an unhealthy
// one. An unhealthy node still stands when no healthy one does.
type Ranker interface {
	SetHealthy(healthy bool)
}

// A Mover is an Elector that can be told who shall be next.
type Mover interface {
	// Prefer names the successor for the next resignation; "" lets the elector
	// choose. It fails when no such candidate could take the seat now.
	Prefer(successor string) error
}
