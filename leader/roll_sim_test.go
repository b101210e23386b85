package leader

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// A rollSim is nodes with a Lease each that share out addresses, as services do: a
// record of each address names a node and an epoch, and a node claims an address
// while the record that it saw last names it in its present epoch and its lease
// is valid. Electors and Rolls are the real ones, the rest is the least that uses
// them. Faults are drawn from a seed, as in leaseSim.
type rollSim struct {
	*rollWorld
	rng     *rand.Rand
	rates   map[string]float64
	mixed   bool // nodes have different T; then nobody edits a Lease by hand too
	backups []backup
	trace   []string
	done    chan struct{}
	over    chan struct{}

	users map[string]*rollUser // guarded by the world's mu
}

const rollAddresses = 4

// A claimRecord is the record of an address. It is stored as if it were a Lease.
type claimRecord struct {
	node    string
	epoch   uint64
	version int64
	object  *coordinationv1.Lease
}

func claimOf(o *coordinationv1.Lease) (c claimRecord) {
	if o == nil {
		return c
	}
	c.object = o
	c.version, _ = strconv.ParseInt(o.ResourceVersion, 10, 64)
	node, epoch, _ := strings.Cut(o.Annotations["claim"], "/")
	c.node = node
	c.epoch, _ = strconv.ParseUint(epoch, 10, 64)
	return c
}

// A rollUser is what a node does with its lease and its Roll.
type rollUser struct {
	sim    *rollSim
	name   string
	api    leaseAPI
	kube   *Kube
	roll   *Roll
	cancel func()
	ended  sync.WaitGroup

	mu    sync.Mutex // guards what follows
	lease *Lease
	epoch uint64
	seen  map[string]claimRecord
	quit  map[string]int64 // versions of records that this node gives away
	over  map[string]uint64
	had   map[*Lease]uint64 // the epochs of the leases that may be valid
}

// claims reports whether the node claims an address now.
func (u *rollUser) claims(addr string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	c := u.seen[addr]
	return c.node == u.name && c.epoch == u.epoch && u.quit[addr] != c.version && u.lease.Valid()
}

func (u *rollUser) saw(o *coordinationv1.Lease) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if c := claimOf(o); c.version > u.seen[o.Name].version {
		u.seen[o.Name] = c
	}
}

// follow is what an informer does.
func (u *rollUser) follow(ctx context.Context) {
	for ; ctx.Err() == nil; sleep(ctx, 100*time.Millisecond) {
		func() {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			l, err := u.api.List(ctx, "addresses")
			if err != nil {
				return
			}
			for i := range l.Items {
				u.saw(&l.Items[i])
			}
			w, err := u.api.WatchGroup(ctx, "addresses", l.ResourceVersion)
			if err != nil {
				return
			}
			defer w.Stop()
			for e := range w.ResultChan() {
				if o, ok := e.Object.(*coordinationv1.Lease); ok && e.Type != watch.Deleted {
					u.saw(o)
				}
			}
		}()
	}
}

// write puts a record in the place of the one that was seen.
func (u *rollUser) write(ctx context.Context, addr string, was claimRecord, node string, epoch uint64) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	o := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: addr, Labels: map[string]string{groupLabel: "addresses"}}}
	if was.object != nil {
		o.UID, o.ResourceVersion = was.object.UID, was.object.ResourceVersion
	}
	o.Annotations = map[string]string{"claim": fmt.Sprintf("%s/%d", node, epoch)}
	if o, err := u.api.Put(ctx, o); err == nil {
		u.sim.note("%s: %s is for %s/%d, was %s/%d", u.name, addr, node, epoch, was.node, was.epoch)
		u.saw(o)
	}
}

// act does what is to be done about each address.
func (u *rollUser) act(ctx context.Context, rng *rand.Rand) {
	members := map[string]RollMember{}
	var alive []string
	for _, m := range u.roll.Members() {
		if members[m.Node] = m; m.Alive {
			alive = append(alive, m.Node)
		}
	}
	need := map[string]uint64{}
	for i := range rollAddresses {
		addr := fmt.Sprintf("addr-%d", i)
		u.mu.Lock()
		c, epoch, holds := u.seen[addr], u.epoch, u.lease.Valid()
		given := c.version != 0 && u.quit[addr] == c.version
		u.mu.Unlock()
		if c.node != "" {
			need[c.node] = max(need[c.node], c.epoch)
		}
		to, toEpoch := u.name, epoch
		if len(alive) > 0 && (!holds || rng.IntN(2) == 0) {
			to = alive[rng.IntN(len(alive))]
			if to != u.name {
				toEpoch = members[to].Epoch
			}
		}
		switch {
		case c.node == "" && holds, c.node != "" && c.node != u.name && members[c.node].Epoch > c.epoch && len(alive) > 0, c.node == u.name && epoch > c.epoch && holds:
			u.write(ctx, addr, c, to, toEpoch)
		case c.node == u.name && c.epoch > epoch && epoch != 0:
			u.kube.Above(c.epoch)
		case given && c.node == u.name && c.epoch == epoch && holds: // it may have been given away, or may yet be
			u.write(ctx, addr, c, to, toEpoch)
		case c.node == u.name && c.epoch == epoch && holds && to != u.name && rng.IntN(100) == 0:
			u.mu.Lock()
			u.quit[addr] = c.version
			u.mu.Unlock()
			u.write(ctx, addr, c, to, toEpoch)
		}
	}
	u.roll.Need(need)
}

func (u *rollUser) run(ctx context.Context, seed uint64) {
	u.ended.Go(func() { u.follow(ctx) })
	u.ended.Go(func() {
		rng := rand.New(rand.NewPCG(seed, 4))
		for ; ctx.Err() == nil; sleep(ctx, time.Duration(50+rng.IntN(200))*time.Millisecond) {
			u.act(ctx, rng)
		}
	})
}

func (s *rollSim) startNode(n string) {
	u := &rollUser{sim: s, name: n, seen: map[string]claimRecord{}, quit: map[string]int64{}, over: map[string]uint64{}, had: map[*Lease]uint64{}}
	s.start(n, func(t Term) {
		s.note("%s: %q holds in %d, valid %v", n, t.Holder, t.Epoch, t.Lease.Valid())
		u.mu.Lock()
		if u.lease = t.Lease; t.Lease != nil {
			u.epoch = t.Epoch
			u.had[t.Lease] = t.Epoch
		}
		u.mu.Unlock()
	})
	u.kube = s.node(n).kube
	u.roll = s.startRoll(n, func(m RollMember) {
		s.note("%s: %s epoch %d alive %v fenced %v", n, m.Node, m.Epoch, m.Alive, m.Fenced)
		u.mu.Lock()
		u.over[m.Node] = max(u.over[m.Node], m.Epoch)
		u.mu.Unlock()
	}).roll
	u.roll.Lag(time.Duration(s.rng.IntN(3)) * 100 * time.Millisecond)
	u.api = fakeAPI{s.servers[n], s.links[n]}
	if s.rng.IntN(2) == 0 {
		u.api = fakeAPI{s.servers[s.any()], s.links[n]}
	}
	ctx, cancel := context.WithCancel(context.Background())
	u.cancel = cancel
	s.mu.Lock()
	s.users[n] = u
	s.mu.Unlock()
	u.run(ctx, s.rng.Uint64())
}

func (s *rollSim) stopNode(n string) {
	s.mu.Lock()
	u := s.users[n]
	delete(s.users, n)
	s.mu.Unlock()
	if u == nil {
		return
	}
	s.note("%s stops", n)
	u.cancel()
	u.ended.Wait()
	s.down(n)
}

func (s *rollSim) user(n string) *rollUser {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.users[n]
}

func (s *rollSim) note(format string, a ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trace = append(s.trace, fmt.Sprintf("%8v ", time.Since(s.since).Round(time.Millisecond))+fmt.Sprintf(format, a...))
}

func (s *rollSim) any() string { return s.names[s.rng.IntN(len(s.names))] }

func TestRollSimulation(t *testing.T) {
	runs, first := 20, uint64(time.Now().UnixNano()%1e6)
	if s := os.Getenv("SIM_RUNS"); s != "" {
		runs, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("SIM_SEED"); s != "" {
		first, _ = strconv.ParseUint(s, 10, 64)
	}
	for i := range runs {
		seed := first + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			spins := time.AfterFunc(30*time.Second, func() { panic(fmt.Sprintf("SIM_SEED=%d spins", seed)) })
			defer spins.Stop()
			synctest.Test(t, func(t *testing.T) { simulateRoll(t, seed) })
		})
	}
}

func simulateRoll(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 3))
	s := &rollSim{rng: rng, rates: map[string]float64{}, done: make(chan struct{}), over: make(chan struct{}), users: map[string]*rollUser{}}
	lease := time.Duration(2+rng.IntN(4)) * time.Second
	s.mixed = rng.IntN(4) == 0
	s.rollWorld = newRollWorld(t, 3+rng.IntN(3), func(c *KubeConfig) {
		rate := s.rates[c.Node]
		c.Duration = lease
		if s.mixed && rate > 0 {
			c.Duration = MinLease
		}
		c.Clock = func() Instant {
			d := time.Since(s.since)
			return Instant(time.Hour) + Instant(d) + Instant(float64(d)*rate)
		}
	})
	t.Cleanup(func() {
		s.reach()
		for _, n := range s.names {
			s.stopNode(n)
		}
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
		s.settle("")
	}
	for range 40 {
		s.fault(lease)
		time.Sleep(time.Duration(rng.Int64N(int64(2 * lease))))
	}
	s.heal()
	close(s.done)
	<-s.over
}

// fault does one thing to the cluster.
func (s *rollSim) fault(t time.Duration) {
	name := s.any()
	server := s.servers[name]
	switch s.rng.IntN(20) {
	case 0, 1, 2: // also what a process that is paused does: nothing, and then what it was about to
		s.note("cut %s", name)
		s.links[name].set(true)
	case 3, 4, 5:
		s.note("all links are well")
		for _, n := range s.names {
			s.links[n].set(false)
		}
	case 6:
		s.note("server %s dies", name)
		server.kill()
	case 7, 8:
		s.note("all servers run")
		for _, x := range s.servers {
			x.start()
			x.thaw()
		}
	case 9:
		s.note("server %s freezes", name)
		server.freeze()
	case 10:
		s.slow(t)
	case 11:
		s.note("server %s loses answers", name)
		server.set(func() { server.lose = func() error { return errors.New("EOF") } })
	case 12, 13:
		s.stopNode(name)
		if s.rng.IntN(4) > 0 {
			s.startNode(name)
		}
	case 14:
		for _, n := range s.names {
			if s.user(n) == nil {
				s.startNode(n)
			}
		}
	case 15, 16:
		if !s.mixed {
			s.edit(name, s.rng.IntN(9))
		}
	case 17:
		if u := s.user(name); u != nil {
			s.note("%s: its epoch is used up", name)
			u.mu.Lock()
			epoch := u.epoch
			u.mu.Unlock()
			u.kube.Above(epoch)
		}
	case 18:
		s.note("backup")
		s.backups = append(s.backups, s.store.backup())
	case 19:
		if len(s.backups) > 0 {
			s.restore()
		}
	}
}

// slow makes all servers answer late, and lets some nodes learn late.
func (s *rollSim) slow(t time.Duration) {
	late := []time.Duration{0, t / 50, t / 4, t * 85 / 100}[s.rng.IntN(4)]
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
	for _, n := range s.names {
		s.links[n].setLate(time.Duration(s.rng.IntN(2)) * late / 2)
	}
}

// restore goes back to a backup as people are told to: with Pintle started anew.
func (s *rollSim) restore() {
	b := s.backups[s.rng.IntN(len(s.backups))]
	s.note("restore what was at %v", b.taken.Sub(s.since))
	for _, n := range s.names {
		s.stopNode(n)
	}
	s.store.under.Wait() // API servers are stopped too
	s.store.restore(b)
	for _, n := range s.names {
		s.startNode(n)
	}
}

// edit does what people do to the Lease of a node.
func (s *rollSim) edit(name string, what int) {
	s.note("edit %d %s", what, name)
	if what == 0 || what == 8 { // while its holder does not hear of it
		s.links[name].set(true)
	}
	s.store.edit(rollPrefix+name, func(o *coordinationv1.Lease) *coordinationv1.Lease {
		switch what {
		case 0, 1, 8:
			return nil
		case 2:
			o.Spec, o.Annotations = coordinationv1.LeaseSpec{}, nil
		case 3:
			other := s.any()
			o.Spec.HolderIdentity = &other
		case 4:
			o.Labels = nil
		case 5:
			o.Annotations = map[string]string{recordKey: "{"}
		case 6:
			o.Annotations = map[string]string{recordKey: `{"holder":"` + name + `","epoch":9,"released":"` + name + `/9","heir":"host of ` + name + `"}`}
		case 7:
			off := metav1.NewMicroTime(time.Now().Add(time.Duration(s.rng.IntN(20)-10) * time.Minute))
			o.Spec.RenewTime, o.Spec.AcquireTime = &off, &off
		}
		return o
	})
}

func (s *rollSim) reach() {
	for _, n := range s.names {
		s.links[n].set(false)
		s.links[n].setLate(0)
		x := s.servers[n]
		x.start()
		x.thaw()
		x.set(func() { x.before, x.after, x.lose = nil, nil, nil })
	}
}

// heal ends all faults, but for one node that may stay away.
func (s *rollSim) heal() {
	s.note("all faults end")
	gone := ""
	if s.rng.IntN(2) == 0 {
		gone = s.any()
		s.stopNode(gone)
	}
	s.reach()
	for _, n := range s.names {
		if n != gone && s.user(n) == nil {
			s.startNode(n)
		}
	}
	s.settle(gone)
}

// settle waits until all but one node hold, and each address is claimed.
func (s *rollSim) settle(gone string) {
	var wrong string
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		wrong = ""
		for i := range rollAddresses {
			addr := fmt.Sprintf("addr-%d", i)
			if !slices.ContainsFunc(s.names, func(n string) bool { u := s.user(n); return u != nil && u.claims(addr) }) {
				wrong = addr + " is not held"
			}
		}
		for _, at := range s.names {
			for _, of := range s.names {
				if at != gone && s.member(at, of).Alive != (of != gone) {
					wrong = fmt.Sprintf("%s is not held right: %s says alive %v", of, at, !(of != gone))
				}
			}
		}
		if wrong == "" {
			s.note("settled")
			return
		}
	}
	s.t.Errorf("after two minutes: %s", wrong)
}

// watch checks each 2 ms that no address is claimed twice, and that no lease is
// valid in an epoch that is over as any node sees it.
func (s *rollSim) watch() {
	defer close(s.over)
	for {
		s.sample()
		select {
		case <-s.done:
			return
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (s *rollSim) sample() {
	s.mu.Lock()
	users := maps.Clone(s.users)
	s.mu.Unlock()
	for i := range rollAddresses {
		addr, holder := fmt.Sprintf("addr-%d", i), ""
		for _, n := range s.names {
			if u := users[n]; u != nil && u.claims(addr) {
				if holder != "" && users[holder].claims(addr) { // still: it may have been handed over between two looks of one instant
					s.note("BOTH %s and %s", holder, n)
					s.t.Errorf("%v: %s and %s both hold %s", time.Since(s.since), holder, n, addr)
				}
				holder = n
			}
		}
	}
	over := map[string]uint64{}
	for _, u := range users {
		u.mu.Lock()
		for n, e := range u.over {
			over[n] = max(over[n], e)
		}
		u.mu.Unlock()
	}
	for n, u := range users {
		u.mu.Lock()
		for l, epoch := range u.had {
			if !l.Valid() {
				delete(u.had, l)
			} else if epoch < over[n] {
				s.note("%s in %d", n, epoch)
				s.t.Errorf("%v: %s holds in %d after %d was seen", time.Since(s.since), n, epoch, over[n])
			}
		}
		u.mu.Unlock()
	}
}
