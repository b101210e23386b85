package leader

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// A campaign makes elections quick without touching Raft itself. Left alone,
// Raft needs about 2.1 T from a fault to a new leader; with these it is T and a
// few milliseconds:
//
//   - poke: look at the heartbeat timer exactly T after the last contact;
//   - yield: one candidate at a time, the better one first, never to one whose
//     log is behind;
//   - stand back: a node that should not hold the seat (unhealthy, excluded,
//     a witness) stands only when no other has for another 2 T.
type campaign struct {
	raft      *raft.Raft
	lastEntry func() (term, index uint64)
	keeper    *keeper
	t         time.Duration
	began     time.Time
	voters    func() []string                   // in the latest configuration
	better    func(id string) bool              // the peer goes before this node
	wait      func(leader string) time.Duration // for reachable nodes, but leader, that go before this one
	standBack func() bool

	reload sync.Mutex            // orders pokes
	usual  raft.ReloadableConfig // as the session set it

	mu      sync.Mutex // guards what follows
	leader  string     // the last one known
	active  bool
	start   Instant
	refused int
	yields  Instant // no candidate before
}

// window is how long a campaign takes at most while it goes well.
func (c *campaign) window() time.Duration { return c.t * 3 / 10 }

// patience is how long a voter lets a candidate wait for the end of a promise:
// as long as the contacts of two voters to one leader differ.
func (c *campaign) patience() time.Duration { return c.t / 5 }

// poke makes Raft look at its heartbeat or election timer now. Whether it is due
// is for Raft to decide.
func (c *campaign) poke() {
	c.reload.Lock()
	defer c.reload.Unlock()
	up := c.usual
	up.HeartbeatTimeout += time.Microsecond
	up.ElectionTimeout += time.Microsecond
	_ = c.raft.ReloadConfig(up) // both are valid: they were at the start
	_ = c.raft.ReloadConfig(c.usual)
}

var (
	errYields = errors.New("another candidate goes first")
	errBack   = errors.New("stands back for a better candidate")

	errStranger = errors.New("not a voter")
)

// begin is asked before each pre-vote request that goes out.
func (c *campaign) begin() error {
	silence := time.Since(c.lastContact())
	if c.standBack() && silence < 3*c.t {
		return errBack
	}
	c.mu.Lock()
	leader := c.leader
	c.mu.Unlock()
	if silence < c.t+c.wait(leader)-2*time.Millisecond {
		return errYields // Raft's own timer came first
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.keeper.clock()
	if now < c.yields {
		return errYields
	}
	if !c.active || now.Sub(c.start) > c.window() {
		c.active, c.start, c.refused = true, now, 0
	}
	return nil
}

// answered takes the outcome of a pre-vote request and passes it on.
func (c *campaign) answered(err error, granted bool) error {
	voters := len(c.voters())
	c.mu.Lock()
	defer c.mu.Unlock()
	if !granted {
		c.refused++
		if voters-1-c.refused < voters/2+1 { // the old holder's vote is not to be had either
			c.active = false
		}
	}
	if c.keeper.clock() < c.yields {
		c.active = false
		return errYields
	}
	return err
}

// asked decides about a peer's pre-vote that no promise forbids. A nil answer
// leaves the decision to Raft, which by then has forgotten its old leader.
func (c *campaign) asked(from string, logTerm, logIndex uint64) error {
	if v := c.voters(); len(v) > 0 && !slices.Contains(v, from) {
		return errStranger
	}
	if t, i := c.lastEntry(); logTerm < t || logTerm == t && logIndex < i {
		if c.raft.State() == raft.Follower {
			c.poke() // it cannot win: run instead of it
		}
		return nil
	}
	if c.outranks(from) {
		return errYields
	}
	for range 40 {
		if addr, _ := c.raft.LeaderWithID(); addr == "" || c.raft.State() != raft.Follower {
			break
		}
		c.poke()
		time.Sleep(50 * time.Microsecond) // Raft's loop has to turn
	}
	return nil
}

// outranks reports whether this node is campaigning itself and goes first;
// otherwise it stops campaigning for a while.
func (c *campaign) outranks(from string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.keeper.clock()
	if c.active && now.Sub(c.start) < c.window() && !c.better(from) {
		return true
	}
	c.yields = now.Add(c.t * 3 / 10)
	return false
}

func (c *campaign) lastContact() time.Time {
	if lc := c.raft.LastContact(); lc.After(c.began) {
		return lc
	}
	return c.began
}

// run pokes when the time has come, until ctx ends.
func (c *campaign) run(ctx context.Context) {
	for ctx.Err() == nil {
		lc := c.raft.LastContact()
		_, id := c.raft.LeaderWithID()
		if c.raft.State() != raft.Follower || lc.IsZero() || id == "" {
			sleep(ctx, c.t/4)
			continue
		}
		c.mu.Lock()
		c.leader = string(id)
		c.mu.Unlock()
		due := lc.Add(c.t + c.wait(string(id)))
		if c.standBack() {
			due = due.Add(2 * c.t)
		}
		sleep(ctx, time.Until(due))
		if c.raft.State() == raft.Follower && c.raft.LastContact().Equal(lc) {
			c.poke()
			sleep(ctx, c.t/2)
		}
	}
}
