package leader

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// A keeper holds a node's Word and the Lease that follows from it. It outlives
// Raft instances. All of its methods may be called from any goroutine.
type keeper struct {
	clock   Clock
	store   *store
	changed func() // called, without mu, when a lease was given out or ended

	mu      sync.Mutex // guards what follows; never held across I/O but the store's
	word    *Word
	lease   *Lease
	term    uint64 // of lease
	allowed bool   // the node wants the seat and is one that may hold it
	silent  uint64 // leads this term without claiming, and lets it end
}

// admit asks the word. A longer promise than ever before is on disk before it
// is given.
func (k *keeper) admit(current uint64, a Ask) error {
	dropped, err := k.judge(current, a)
	if dropped {
		k.changed()
	}
	return err
}

func (k *keeper) judge(current uint64, a Ask) (dropped bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if longest, _ := k.store.Promised(); a.Kind == Append && a.T > longest {
		if err := k.store.Promise(a.T); err != nil {
			return false, err
		}
	}
	if err := k.word.Admit(k.clock(), current, a); err != nil {
		return false, err
	}
	if a.Kind == Append && k.lease != nil && k.word.Ended(k.term) {
		k.drop()
		return true, nil
	}
	return false, nil
}

// settle lets the node promise t again, and no more, once no longer promise
// stands: after a restart, and after the cluster agreed on a shorter one.
func (k *keeper) settle(t time.Duration) error {
	k.mu.Lock()
	if k.word.Settle(k.clock(), t) {
		k.store.Settled(t) // with mu, so that a longer promise is noted, and written, after this
	}
	k.mu.Unlock()
	return k.store.Flush() // without: the node answers while the disk is slow
}

// drop ends the lease. The caller holds mu.
func (k *keeper) drop() {
	k.lease.Revoke()
	k.lease = nil
}

// acked counts an acknowledgement and moves the lease, or gives out a new one.
func (k *keeper) acked(voter string, term uint64, sent Instant, t time.Duration, voters [][]string) {
	if k.extend(voter, term, sent, t, voters) {
		k.changed()
	}
}

func (k *keeper) extend(voter string, term uint64, sent Instant, t time.Duration, voters [][]string) (changed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if voter != "" {
		k.word.Acked(voter, term, sent, t)
	}
	now := k.clock()
	until := k.word.Until(now, term, t, voters...)
	if !k.allowed || until <= now {
		return false
	}
	if k.lease != nil && k.term == term && k.lease.Extend(until) {
		return false
	}
	k.lease.Revoke()
	k.lease, k.term = NewLease(k.clock, until), term
	return true
}

// current is the lease that was given out last and its term, nil when it is over.
func (k *keeper) current() (*Lease, uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.lease != nil && !k.lease.Valid() {
		k.drop() // what was reported as over stays over
	}
	return k.lease, k.term
}

// allow says whether a lease may be given out at all; what was given out is
// taken back when not.
func (k *keeper) allow(yes bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.allowed = yes
	if !yes && k.lease != nil {
		k.drop()
	}
}

// release gives up the seat in term in favour of to. From here on no lease is
// given out in that term.
func (k *keeper) release(term uint64, to string) *Release {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lease.Revoke()
	k.lease = nil
	return k.word.Release(term, to)
}

// stop ends everything that this node holds.
func (k *keeper) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lease.Revoke()
	k.lease, k.allowed = nil, false
}

var errSilenced = errors.New("this node gave up the seat in this term and lets the term end")

// fallSilent makes the node send nothing more as leader of term, so that Raft
// gives the term up: a holder that released never claims again in that term.
func (k *keeper) fallSilent(term uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.silent = term
}

func (k *keeper) silenced(term uint64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.silent == term
}

func (k *keeper) ended(term uint64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.word.Ended(term)
}

func (k *keeper) mayStand(term uint64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.word.MayStand(k.clock(), term); err != nil {
		return fmt.Errorf("stand: %w", err)
	}
	return nil
}

func (k *keeper) receive(r *Release) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.word.Receive(k.clock(), r)
}

func (k *keeper) releaseFor(term uint64) *Release {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.word.ReleaseFor(term)
}

func (k *keeper) promised() (holder string, left time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	h, until := k.word.Promised()
	return h, until.Sub(k.clock())
}
