package leader

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// A simulation is the real elector with the real hashicorp/raft under it, in a
// bubble of fake time: a network in memory, clocks that run up to five per cent
// apart, faults drawn from a seed. Raft's own timers are random beyond the seed,
// so a seed that failed may have to be run a few times.
type simulation struct {
	*world
	rng   *rand.Rand
	seed  uint64
	rates map[string]float64
	trace []string
	since time.Time
	done  chan struct{}
	over  chan struct{}
}

func TestSimulation(t *testing.T) {
	runs, first := 24, uint64(time.Now().UnixNano()%1e6)
	if s := os.Getenv("SIM_RUNS"); s != "" {
		runs, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("SIM_SEED"); s != "" {
		first, _ = strconv.ParseUint(s, 10, 64)
	}
	began := time.Now()
	for i := range runs {
		if i > 0 && os.Getenv("SIM_RUNS") == "" && time.Since(began) > 15*time.Second {
			t.Logf("%d seeds in %v", i, time.Since(began).Round(time.Second))
			return
		}
		seed := first + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { simulate(t, seed) })
		})
	}
}

func simulate(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	n, profile := 3, Fast
	if rng.IntN(4) == 0 {
		n = 5
	}
	if rng.IntN(4) == 0 {
		profile = Default
	}
	s := &simulation{rng: rng, seed: seed, rates: map[string]float64{}, since: time.Now(), done: make(chan struct{}), over: make(chan struct{})}
	s.world = newMemWorld(t, n, func(c *RaftConfig) {
		rate := s.rates[c.Node]
		c.Profile = profile
		c.Clock = func() Instant {
			d := time.Since(s.since)
			return Instant(time.Hour) + Instant(d) + Instant(float64(d)*rate)
		}
	})
	s.net = newMemNet(seed)
	for _, p := range s.peers {
		s.rates[p.Name] = (rng.Float64() - 0.5) * 0.05
		s.start(p.Name)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("SIM_SEED=%d SIM_RUNS=1: %d nodes, %s, clocks %v", seed, n, profile, s.rates)
			for _, l := range s.trace {
				t.Log(l)
			}
		}
	})
	go s.watch()
	s.voters(n)
	for range 25 {
		s.fault(profile.T())
		time.Sleep(time.Duration(rng.Int64N(int64(8 * profile.T()))))
	}
	s.heal()
	s.settle()
	close(s.done)
	<-s.over
}

func (s *simulation) note(format string, a ...any) {
	s.trace = append(s.trace, fmt.Sprintf("%8v ", time.Since(s.since).Round(time.Millisecond))+fmt.Sprintf(format, a...))
}

func (s *simulation) any() string { return s.peers[s.rng.IntN(len(s.peers))].Name }

// fault does one thing to the cluster.
func (s *simulation) fault(t time.Duration) {
	name, other := s.any(), s.any()
	n := s.nodes[name]
	switch s.rng.IntN(14) {
	case 0, 1:
		s.note("isolate %s", name)
		s.net.isolate(name, s.peers, true)
	case 2:
		s.note("cut %s -> %s", name, other)
		s.net.setCut(name, other, true)
	case 3, 4:
		s.note("heal the network")
		s.healLinks()
	case 5:
		s.note("break connections of %s", name)
		s.net.reset(func(from, to string) bool { return from == name || to == name })
	case 6:
		s.note("delay up to %v", t/4)
		s.net.mu.Lock()
		s.net.delay = time.Duration(s.rng.Int64N(int64(t / 4)))
		s.net.mu.Unlock()
	case 7:
		if n.cancel != nil {
			s.note("stop %s", name)
			s.stop(name)
		}
	case 8:
		if n.cancel == nil {
			s.note("start %s", name)
			s.start(name)
		}
	case 9:
		s.note("%s resigns", name)
		n.raft.Set(nil)
		if n.holds() {
			s.t.Errorf("%s holds after Set(nil)", name)
		}
	case 10:
		s.note("%s stands again", name)
		n.raft.Set([]string{"cp"})
	case 12:
		s.slowAnswersThenNone(t)
	case 13:
		s.crashAll()
	case 11:
		healthy := s.rng.IntN(2) == 0
		s.note("%s healthy: %v", name, healthy)
		n.raft.SetHealthy(healthy)
	}
}

// slowAnswersThenNone lets the answers to the holder take most of T, and then its
// requests get lost: the send time is what counts.
func (s *simulation) slowAnswersThenNone(t time.Duration) {
	for _, h := range s.up() {
		if !h.holds() {
			continue
		}
		s.note("answers to %s take long, then it is not heard", h.name)
		for _, p := range s.peers {
			s.net.setLag(p.Name, h.name, t*8/10)
		}
		time.Sleep(3 * t)
		for _, p := range s.peers {
			s.net.setCut(h.name, p.Name, p.Name != h.name)
		}
		time.Sleep(2 * t)
		return
	}
}

// crashAll restarts all nodes but the holder, which is cut off: they have
// forgotten what they promised.
func (s *simulation) crashAll() {
	s.note("all but the holder restart, and it is cut off")
	for _, p := range s.peers {
		n := s.nodes[p.Name]
		if n.cancel == nil {
			s.start(p.Name)
		} else if n.holds() {
			s.net.isolate(p.Name, s.peers, true)
		} else {
			s.stop(p.Name)
			s.start(p.Name)
		}
	}
}

func (s *simulation) healLinks() {
	for _, a := range s.peers {
		for _, b := range s.peers {
			s.net.setCut(a.Name, b.Name, false)
			s.net.setLag(a.Name, b.Name, 0)
		}
	}
}

func (s *simulation) heal() {
	s.note("all faults end")
	s.healLinks()
	s.net.mu.Lock()
	s.net.delay = 2 * time.Millisecond
	s.net.mu.Unlock()
	for _, p := range s.peers {
		if s.nodes[p.Name].cancel == nil {
			s.start(p.Name)
		}
		s.nodes[p.Name].raft.Set([]string{"cp"})
		s.nodes[p.Name].raft.SetHealthy(true)
	}
}

// settle waits until exactly one node holds and all know it.
func (s *simulation) settle() {
	s.wait("one holder that all know, after all faults", func() bool {
		holder := ""
		for _, n := range s.nodes {
			if n.holds() {
				holder = n.name
			}
		}
		for _, n := range s.nodes {
			if holder == "" || n.last().Holder != holder {
				return false
			}
		}
		return true
	})
	s.note("settled")
}

// watch checks each millisecond that at most one node has a valid lease, and that
// none that was over is valid again.
func (s *simulation) watch() {
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

func (s *simulation) sample() {
	holder := ""
	var first *node
	for _, p := range s.peers {
		n := s.world.node(p.Name)
		if n == nil || !n.sample(s.t) {
			continue
		}
		if holder != "" && holder != p.Name && first.sample(s.t) { // still: it may have been handed over between two looks of one instant
			s.t.Errorf("%v: %s and %s both hold", time.Since(s.since), holder, p.Name)
		}
		holder, first = p.Name, n
	}
}

// sample reports whether any lease of the node is valid.
func (n *node) sample(t *testing.T) (valid bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.over {
		if l.Valid() {
			t.Errorf("a lease of %s was revived", n.name)
		}
	}
	kept := n.leases[:0]
	for _, l := range n.leases {
		if l.Valid() {
			valid = true
			kept = append(kept, l)
		} else if n.over = append(n.over, l); len(n.over) > 16 {
			n.over = n.over[1:]
		}
	}
	n.leases = kept
	return valid
}
