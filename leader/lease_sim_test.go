package leader

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A leaseSim is the real elector in a bubble of fake time, before a fake store
// with the rules of the real one: faults of servers, network and people, and
// clocks that run up to five per cent apart, all drawn from a seed.
type leaseSim struct {
	*kubeWorld
	rng     *rand.Rand
	rates   map[string]float64
	mixed   bool // nodes have different T; then nobody edits the object by hand too (see bid)
	heirs   bool // processes have heirs; then there are no backups (see KubeConfig.Heir)
	twin    bool // and one host has another's node name
	backups []backup
	trace   []string
	probing int
	luck    *rand.Rand // of the probes; guarded by the world's mu
	done    chan struct{}
	over    chan struct{}
}

func TestLeaseSimulation(t *testing.T) {
	runs, first := 40, uint64(time.Now().UnixNano()%1e6)
	if s := os.Getenv("SIM_RUNS"); s != "" {
		runs, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("SIM_SEED"); s != "" {
		first, _ = strconv.ParseUint(s, 10, 64)
	}
	for i := range runs {
		seed := first + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			// An elector that tries again at once, and again, lets no simulated time pass.
			spins := time.AfterFunc(30*time.Second, func() { panic(fmt.Sprintf("SIM_SEED=%d spins", seed)) })
			defer spins.Stop()
			synctest.Test(t, func(t *testing.T) { simulateLease(t, seed) })
		})
	}
}

func simulateLease(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 2))
	s := &leaseSim{rng: rng, luck: rand.New(rand.NewPCG(seed, 5)), rates: map[string]float64{}, done: make(chan struct{}), over: make(chan struct{})}
	lease := time.Duration(2+rng.IntN(4)) * time.Second
	s.mixed = rng.IntN(4) == 0
	s.heirs = rng.IntN(4) == 0
	s.twin = s.heirs && rng.IntN(4) > 0
	s.kubeWorld = newKubeWorld(t, 3+2*rng.IntN(2), func(c *KubeConfig) {
		rate := s.rates[c.Node]
		c.Duration = lease
		c.Free = s.probe
		if s.heirs {
			c.Heir = "host of " + c.Node
		}
		if s.mixed && rate > 0 { // half-way through a change of the configuration
			c.Duration = MinLease
		}
		c.Node = s.called(c.Node)
		c.Clock = func() Instant {
			d := time.Since(s.since)
			return Instant(time.Hour) + Instant(d) + Instant(float64(d)*rate)
		}
	})
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("SIM_SEED=%d SIM_RUNS=1: %d nodes, %v, clocks %v", seed, len(s.names), lease, s.rates)
			for _, l := range s.trace {
				t.Log(l)
			}
		}
	})
	for _, n := range s.names {
		s.rates[n] = (rng.Float64() - 0.5) * 0.05
		s.startNode(n)
	}
	go s.watch()
	if rng.IntN(2) == 0 {
		s.settle()
	}
	for range 40 {
		s.fault(lease)
		time.Sleep(time.Duration(rng.Int64N(int64(2 * lease))))
	}
	s.heal()
	s.settle()
	close(s.done)
	<-s.over
}

// probe is that of the addresses: it takes a while, and sometimes someone has them.
// Two at a time would take each other for strangers.
func (s *leaseSim) probe(ctx context.Context) error {
	s.mu.Lock()
	others, taken := s.probing, s.luck.IntN(4) == 0
	s.probing++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.probing--
	}()
	sleep(ctx, 5*time.Second)
	if taken || others > 0 {
		return errors.New("someone has the address")
	}
	return ctx.Err()
}

// called is the name that the configuration of a host gives its node.
func (s *leaseSim) called(host string) string {
	if s.twin && host == "n3" {
		return "n1"
	}
	return host
}

func (s *leaseSim) startNode(n string) {
	s.start(n, func(t Term) {
		s.note("%s: %s holds in %d, valid %v standing %v", n, t.Holder, t.Epoch, t.Lease.Valid(), t.Standing)
	})
}

func (s *leaseSim) note(format string, a ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trace = append(s.trace, fmt.Sprintf("%8v ", time.Since(s.since).Round(time.Millisecond))+fmt.Sprintf(format, a...))
}

func (s *leaseSim) any() string { return s.names[s.rng.IntN(len(s.names))] }

// holder is a node with a valid lease, or else any.
func (s *leaseSim) holder() string {
	for _, n := range s.names {
		if x := s.node(n); x != nil && x.last().Lease.Valid() {
			return n
		}
	}
	return s.any()
}

// fault does one thing to the cluster.
func (s *leaseSim) fault(t time.Duration) {
	name := s.any()
	if s.rng.IntN(2) == 0 {
		name = s.holder()
	}
	server := s.servers[name]
	switch s.rng.IntN(21) {
	case 0, 1:
		s.note("cut %s", name)
		s.links[name].set(true)
	case 2, 3, 4:
		s.note("all links are well")
		for _, n := range s.names {
			s.links[n].set(false)
		}
	case 5:
		s.note("server %s dies", name)
		server.kill()
	case 6, 7:
		s.note("all servers run")
		for _, x := range s.servers {
			x.start()
			x.thaw()
		}
	case 8:
		s.note("server %s freezes", name)
		server.freeze()
	case 9:
		s.slow(t)
	case 10:
		s.note("server %s loses answers", name)
		server.set(func() { server.lose = func() error { return errors.New("EOF") } })
	case 11:
		if s.twin { // one that starts must leave its namesake alone, which may hear of nothing
			names := []string{"n1", "n3"}
			i := s.rng.IntN(2)
			name = names[i]
			s.links[names[1-i]].set(s.rng.IntN(2) == 0)
		}
		s.restart(name)
	case 12:
		s.resign(name)
		if s.rng.IntN(2) == 0 { // and finds its old tenure again, that of its successor being lost
			time.Sleep(time.Duration(s.rng.Int64N(int64(t))))
			s.restoreAny(t)
		}
	case 13:
		s.note("all want the seat and are healthy")
		for _, n := range s.names {
			if x := s.node(n); x != nil {
				x.kube.Set([]string{kubeSeat})
				x.kube.SetHealthy(true)
			}
		}
	case 14:
		if x := s.node(name); x != nil {
			s.note("%s is unhealthy", name)
			x.kube.SetHealthy(false)
		}
	case 15, 16, 17:
		if !s.mixed {
			s.edit(name)
		}
	case 20:
		s.slowThenNone(t)
	case 18:
		s.note("backup")
		s.backups = append(s.backups, s.store.backup())
		if s.rng.IntN(2) == 0 { // while a node is away that saw what is in it
			s.links[s.any()].set(true)
			time.Sleep(3 * t)
			if !s.heirs && s.rng.IntN(2) == 0 { // and meets nothing but that when it is back
				s.restore(s.backups[len(s.backups)-1], t)
			}
		}
	case 19:
		s.restoreAny(t)
	}
}

func (s *leaseSim) restoreAny(t time.Duration) {
	if len(s.backups) > 0 && !s.heirs {
		s.restore(s.backups[s.rng.IntN(len(s.backups))], t)
	}
}

// restore goes back to a backup, unless it is younger than what bid covers.
func (s *leaseSim) restore(b backup, t time.Duration) {
	if time.Since(b.taken) < 5*t/2 {
		return
	}
	s.note("restore what was at %v", b.taken.Sub(s.since))
	s.store.restore(b)
	if s.rng.IntN(2) == 0 {
		for _, n := range s.names {
			s.links[n].set(false)
		}
	}
}

// slow makes all servers answer late: what they do is done before, or after, they
// are waited for.
func (s *leaseSim) slow(t time.Duration) {
	late := []time.Duration{t / 50, t / 4, t * 85 / 100}[s.rng.IntN(3)]
	seen := s.rng.IntN(2) == 0
	s.note("servers take %v, commits come first: %v", late, seen)
	for _, x := range s.servers {
		x.set(func() {
			x.before, x.after = nil, nil
			if f := func() time.Duration { return late }; seen {
				x.after = f
			} else {
				x.before = f
			}
		})
	}
}

// slowThenNone lets the holder learn late of what it wrote, and then nothing any
// more: the send time is what counts.
func (s *leaseSim) slowThenNone(t time.Duration) {
	h := s.holder()
	s.note("%s learns of its writes late, then nothing", h)
	s.links[h].setLate(t / 2)
	time.Sleep(time.Duration(s.rng.Int64N(int64(2 * t))))
	s.links[h].set(true)
	time.Sleep(2 * t)
	s.links[h].setLate(0)
}

func (s *leaseSim) restart(name string) {
	if s.node(name) != nil {
		s.note("%s stops", name)
		s.stop(name)
	}
	s.note("%s starts", name)
	s.startNode(name)
}

func (s *leaseSim) resign(name string) {
	x := s.node(name)
	if x == nil {
		return
	}
	s.note("%s resigns", name)
	x.kube.Set(nil)
	if x.last().Lease.Valid() {
		s.t.Errorf("%s holds after Set(nil)", name)
	}
	if s.rng.IntN(2) == 0 {
		time.Sleep(time.Duration(s.rng.IntN(200)) * time.Millisecond)
		s.note("%s stands again", name)
		x.kube.Set([]string{kubeSeat})
	}
}

// edit does what people do to an object.
func (s *leaseSim) edit(name string) {
	what := s.rng.IntN(7)
	s.note("edit %d %s", what, name)
	s.store.edit("pintle", func(o *coordinationv1.Lease) *coordinationv1.Lease {
		switch what {
		case 0:
			return nil
		case 1:
			o.Spec, o.Annotations = coordinationv1.LeaseSpec{}, nil
		case 2:
			o.Spec.HolderIdentity = &name
		case 3:
			empty := ""
			o.Spec.HolderIdentity, o.Spec.RenewTime = &empty, nil
		case 4:
			o.Annotations = map[string]string{recordKey: `{"holder":"` + name + `","epoch":9,"released":"` + name + `/9"}`}
		case 6: // as by a node whose wall clock is wrong
			off := metav1.NewMicroTime(time.Now().Add(time.Duration(s.rng.IntN(20)-10) * time.Minute))
			o.Spec.RenewTime, o.Spec.AcquireTime = &off, &off
		case 5:
			o.Annotations = map[string]string{recordKey: "{"}
		}
		return o
	})
}

func (s *leaseSim) heal() {
	s.note("all faults end")
	for _, n := range s.names {
		s.links[n].set(false)
		x := s.servers[n]
		x.start()
		x.thaw()
		x.set(func() { x.before, x.after, x.lose = nil, nil, nil })
		if s.node(n) == nil {
			s.startNode(n)
		}
		s.node(n).kube.Set([]string{kubeSeat})
		s.node(n).kube.SetHealthy(true)
	}
}

func (s *leaseSim) settle() {
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		holder := ""
		for _, n := range s.names {
			if s.node(n).last().Lease.Valid() {
				holder = s.called(n)
			}
		}
		agree := holder != ""
		for _, n := range s.names {
			agree = agree && s.node(n).last().Holder == holder
		}
		if agree {
			s.note("settled")
			return
		}
		if time.Now().After(end) {
			s.t.Errorf("no holder that all know")
			return
		}
	}
}

// watch checks each 2 ms that at most one node has a valid lease.
func (s *leaseSim) watch() {
	defer close(s.over)
	for {
		holder := ""
		var first *kubeNode
		for _, name := range s.names {
			n := s.node(name)
			if n == nil || !n.sample(s.t, name) {
				continue
			}
			if holder != "" && first.sample(s.t, holder) { // still: it may have been handed over between two looks of one instant
				s.note("BOTH %s and %s", holder, name)
				s.t.Errorf("%v: %s and %s both hold", time.Since(s.since), holder, name)
				<-s.done
				return
			}
			holder, first = name, n
		}
		select {
		case <-s.done:
			return
		case <-time.After(2 * time.Millisecond):
		}
	}
}
