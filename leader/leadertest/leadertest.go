// Package leadertest is the conformance suite that every elector must pass.
package leadertest

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pintle-lb/pintle/leader"
)

// A Cluster is some electors, three at least, that campaign for one seat with
// faults that a test asks for. Its methods are called by one goroutine. Its time
// may be that of a synctest bubble.
type Cluster interface {
	Seat() string
	Nodes() []string

	// Start runs the elector of a node, with the state it was stopped with, and
	// passes its reports on. The node wants the seat.
	Start(node string, report func(leader.Term))
	// Stop ends Run without a hand-over and returns when Run has.
	Stop(node string)
	// Elector is that of a running node.
	Elector(node string) leader.Elector
	// Ready returns when the loss of any one node can be survived.
	Ready()
	// Partition cuts a node off from everything it needs; Heal ends that.
	Partition(node string)
	Heal(node string)
}

// limit is for what is sure to come.
const limit = 60 * time.Second

// Run runs the suite, each test on a cluster of its own, which make returns with
// its clean-up registered. Each test runs in a synctest bubble when fake is true.
func Run(t *testing.T, fake bool, make func(t *testing.T) Cluster) {
	for _, tt := range []struct {
		name string
		test func(*suite)
	}{
		{"a winner appears and all know it", (*suite).winner},
		{"a resignation moves the seat without overlap", (*suite).resign},
		{"Set(nil) revokes before it returns", (*suite).revoke},
		{"a regained seat comes with a new lease", (*suite).regain},
		{"the lease is over when Run returns", (*suite).stop},
		{"a holder that is cut off loses its lease first", (*suite).partition},
		{"the seat stays when others come and go", (*suite).stays},
		{"nobody holds what nobody wants", (*suite).unwanted},
		{"epochs grow with every new holder", (*suite).epochs},
	} {
		t.Run(tt.name, func(t *testing.T) {
			test := func(t *testing.T) {
				s := start(t, make(t))
				defer s.finish()
				tt.test(s)
			}
			if fake {
				synctest.Test(t, test)
			} else {
				test(t)
			}
		})
	}
}

// A suite is one test on one cluster.
type suite struct {
	*testing.T
	Cluster
	done chan struct{}
	over chan struct{}

	mu     sync.Mutex // guards what follows
	last   map[string]leader.Term
	leases map[string][]*leader.Lease // that were reported
	ended  map[*leader.Lease]bool
	grants []grant
}

// A grant is a lease that was given out.
type grant struct {
	node  string
	epoch uint64
	lease *leader.Lease
}

func start(t *testing.T, c Cluster) *suite {
	s := &suite{T: t, Cluster: c, done: make(chan struct{}), over: make(chan struct{}),
		last: map[string]leader.Term{}, leases: map[string][]*leader.Lease{}, ended: map[*leader.Lease]bool{}}
	for _, n := range c.Nodes() {
		s.up(n)
	}
	go s.watch()
	return s
}

func (s *suite) finish() {
	close(s.done)
	<-s.over
}

func (s *suite) up(node string) {
	s.Start(node, func(t leader.Term) { s.report(node, t) })
}

func (s *suite) report(node string, t leader.Term) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last[node] = t
	if t.Lease == nil || slices.Contains(s.leases[node], t.Lease) {
		return
	}
	if t.Holder != node {
		s.Errorf("%s has a lease and reports %q as the holder", node, t.Holder)
	}
	if !t.Joined {
		s.Errorf("%s has a lease and has not joined", node)
	}
	s.leases[node] = append(s.leases[node], t.Lease)
	s.grants = append(s.grants, grant{node, t.Epoch, t.Lease})
}

// watch samples the invariant: at most one node has a valid lease, and none that
// was over is valid again.
func (s *suite) watch() {
	defer close(s.over)
	for {
		s.sample()
		select {
		case <-s.done:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

func (s *suite) sample() {
	s.mu.Lock()
	defer s.mu.Unlock()
	holder := ""
	for _, g := range s.grants {
		switch {
		case !g.lease.Valid():
			s.ended[g.lease] = true
		case s.ended[g.lease]:
			s.Errorf("a lease of %s was revived", g.node)
		case holder != "" && holder != g.node:
			s.Errorf("%s and %s both hold", holder, g.node)
		default:
			holder = g.node
		}
	}
}

func (s *suite) term(node string) leader.Term {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last[node]
}

func (s *suite) holds(node string) bool { return s.term(node).Lease.Valid() }

func (s *suite) holder() string {
	for _, n := range s.Nodes() {
		if s.holds(n) {
			return n
		}
	}
	return ""
}

func (s *suite) wait(what string, ok func() bool) {
	s.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			s.Fatalf("waited in vain for %s", what)
		}
	}
}

// elect waits for a holder other than the given one, "" for any.
func (s *suite) elect(but string) string {
	s.Helper()
	var h string
	s.wait("a holder", func() bool { h = s.holder(); return h != "" && h != but })
	return h
}

// settle waits until all know one holder.
func (s *suite) settle() string {
	s.Helper()
	s.Ready()
	h := ""
	s.wait("all to know one holder", func() bool {
		h = s.holder()
		return h != "" && !slices.ContainsFunc(s.Nodes(), func(n string) bool { return s.term(n).Holder != h })
	})
	return h
}

func (s *suite) winner() {
	h := s.settle()
	if t := s.term(h); t.Lease == nil || t.Epoch == 0 {
		s.Errorf("the holder's term is %+v", t)
	}
	for _, n := range s.Nodes() {
		if n != h && s.term(n).Lease != nil {
			s.Errorf("%s has a lease too", n)
		}
	}
}

func (s *suite) resign() {
	for range 3 {
		h := s.settle()
		s.Elector(h).Set(nil)
		if next := s.elect(h); next == h {
			s.Errorf("%s holds after it resigned", h)
		}
		s.Elector(h).Set([]string{s.Seat()})
	}
}

func (s *suite) revoke() {
	for range 3 {
		h := s.elect("")
		lease := s.term(h).Lease
		s.Elector(h).Set(nil)
		if lease.Valid() || s.holds(h) {
			s.Errorf("the lease of %s is valid after Set(nil)", h)
		}
		s.Elector(h).Set([]string{s.Seat()})
	}
	h := s.settle()
	s.Elector(h).Set([]string{"another seat"})
	if s.holds(h) {
		s.Errorf("%s holds a seat that it does not want", h)
	}
}

func (s *suite) regain() {
	h := s.settle()
	old := s.term(h)
	s.Elector(h).Set(nil)
	next := s.elect(h)
	s.Elector(h).Set([]string{s.Seat()})
	for _, n := range s.Nodes() {
		if n != h {
			s.Elector(n).Set(nil)
		}
	}
	s.wait(h+" to hold again", func() bool { return s.holds(h) })
	if now := s.term(h); now.Lease == old.Lease || now.Epoch <= old.Epoch || old.Lease.Valid() {
		s.Errorf("after %s held: %+v, before: %+v", next, now, old)
	}
}

func (s *suite) stop() {
	h := s.settle()
	s.Stop(h)
	s.mu.Lock()
	for _, l := range s.leases[h] {
		if l.Valid() {
			s.Errorf("a lease of %s is valid after Run returned", h)
		}
	}
	s.mu.Unlock()
	next := s.elect(h)
	s.up(h)
	s.wait("the old holder to follow", func() bool { return s.term(h).Holder == s.holder() && s.holder() != "" })
	if s.holds(h) {
		s.Errorf("%s took the seat back from %s", h, next)
	}
}

func (s *suite) partition() {
	h := s.settle()
	s.Partition(h)
	s.elect(h)
	if s.holds(h) {
		s.Errorf("%s holds while it is cut off", h)
	}
	s.wait(h+" to say so", func() bool { return s.term(h).Lease == nil })
	s.Heal(h)
	s.settle()
}

func (s *suite) stays() {
	h := s.settle()
	epoch, lease := s.term(h).Epoch, s.term(h).Lease
	for _, n := range s.Nodes() {
		if n == h {
			continue
		}
		s.Stop(n)
		s.up(n)
		s.settle()
	}
	if t := s.term(h); !s.holds(h) || t.Epoch != epoch || t.Lease != lease {
		s.Errorf("%s held in epoch %d, now it is %+v", h, epoch, t)
	}
}

func (s *suite) unwanted() {
	s.settle()
	for _, n := range s.Nodes() {
		s.Elector(n).Set(nil)
	}
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if h := s.holder(); h != "" {
			s.Fatalf("%s holds what it does not want", h)
		}
	}
	n := s.Nodes()[1]
	s.Elector(n).Set([]string{s.Seat()})
	s.wait(n+" to hold", func() bool { return s.holds(n) })
}

func (s *suite) epochs() {
	for range 4 {
		h := s.settle()
		s.Stop(h)
		s.elect(h)
		s.up(h)
	}
	s.settle()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, g := range s.grants[1:] {
		before := s.grants[i]
		if g.epoch < before.epoch || g.epoch == before.epoch && g.node != before.node {
			s.Errorf("%s in epoch %d after %s in epoch %d", g.node, g.epoch, before.node, before.epoch)
		}
	}
}
