package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pintle-lb/pintle/leader"
)

// fakeSetter does as it is told, in its time.
type fakeSetter[T any] struct {
	mu    sync.Mutex
	have  []T
	fail  bool
	block chan struct{} // if set, Set waits for it
	calls int
}

func (s *fakeSetter[T]) Set(ctx context.Context, want []T) ([]T, error) {
	s.mu.Lock()
	block := s.block
	s.mu.Unlock()
	if block != nil {
		<-block
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.fail {
		return s.have, errors.New("injected")
	}
	s.have = slices.Clone(want)
	return s.have, nil
}

func (s *fakeSetter[T]) now() []T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.have
}

// fakeElector remembers what it was told.
type fakeElector struct {
	mu      sync.Mutex
	want    []string
	healthy bool
	next    string
	block   chan struct{} // if set, Prefer waits for it
}

func (e *fakeElector) Set(want []string) { e.mu.Lock(); e.want = want; e.mu.Unlock() }
func (e *fakeElector) SetHealthy(h bool) { e.mu.Lock(); e.healthy = h; e.mu.Unlock() }
func (e *fakeElector) Prefer(n string) error {
	if e.block != nil {
		<-e.block
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.next = n
	return nil
}

func (e *fakeElector) wants() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.want) == 1
}

type rig struct {
	*Agent
	elector *fakeElector
	bound   *fakeSetter[netip.Prefix]
	targets *fakeSetter[Target]
}

func bubbleClock() leader.Instant { return leader.Instant(time.Now().UnixNano()) }

// inBubble runs an agent under a fake clock.
func inBubble(t *testing.T, do func(r *rig), change ...func(*Config)) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{elector: &fakeElector{healthy: true}, bound: &fakeSetter[netip.Prefix]{}, targets: &fakeSetter[Target]{}}
		cfg := Config{Node: "n1", Linger: time.Minute, HoldDown: 10 * time.Second, Checks: []string{"api"}, Links: []string{"eth0"},
			Claims:  []Claim{{Name: "cp", Seat: "cp", Addrs: []Placed{{testAddr, []string{"eth0"}}}}},
			Elector: r.elector, Addresses: r.bound, Targets: r.targets, Clock: bubbleClock}
		for _, c := range change {
			c(&cfg)
		}
		r.Agent = New(cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		r.Check("api", true, "")
		r.Links(map[string]bool{"eth0": true})
		synctest.Wait()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()
		do(r)
	})
}

func (r *rig) elect(epoch uint64) *leader.Lease {
	l := leader.NewLease(bubbleClock, bubbleClock().Add(time.Hour))
	r.Seat("cp", leader.Term{Holder: "n1", Epoch: epoch, Lease: l, Joined: true})
	synctest.Wait()
	return l
}

func (r *rig) claims() bool {
	return slices.ContainsFunc(r.targets.now(), func(t Target) bool { return t.Lease != nil })
}

func TestAgentTakesAndHandsOver(t *testing.T) {
	inBubble(t, func(r *rig) {
		if !r.elector.wants() || r.claims() || len(r.bound.now()) != 0 {
			t.Fatalf("before: %+v", r.Snapshot())
		}
		l := r.elect(2)
		if !r.claims() || len(r.bound.now()) != 1 || !r.Snapshot().Seats[0].Holding {
			t.Fatalf("elected: %+v", r.Snapshot())
		}
		if err := r.Move("n2"); err != nil || r.elector.next != "n2" {
			t.Fatalf("move: %v, %q", err, r.elector.next)
		}
		synctest.Wait()
		if r.claims() || r.elector.wants() || len(r.bound.now()) != 1 {
			t.Fatalf("moving: %+v", r.Snapshot())
		}
		l.Revoke()
		r.Seat("cp", leader.Term{Holder: "n2", Epoch: 3, Joined: true})
		synctest.Wait()
		if !r.elector.wants() || len(r.bound.now()) != 1 {
			t.Fatalf("moved: %+v", r.Snapshot())
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if len(r.bound.now()) != 0 {
			t.Fatalf("lets go: %+v", r.Snapshot())
		}
	})
}

func TestAgentDrains(t *testing.T) {
	inBubble(t, func(r *rig) {
		l := r.elect(2)
		r.Drain()
		synctest.Wait()
		select {
		case <-r.Drained():
			t.Fatal("drained while it accepts")
		default:
		}
		l.Revoke()
		r.Seat("cp", leader.Term{Holder: "n2", Epoch: 3, Joined: true})
		select {
		case <-r.Drained():
		case <-time.After(5 * time.Second):
			t.Fatalf("not drained: %+v", r.Snapshot())
		}
		if len(r.bound.now()) != 0 || r.elector.wants() {
			t.Errorf("drained: %+v", r.Snapshot())
		}
	})
}

func TestAgentIsNotHeldUpByAStuckSetter(t *testing.T) {
	inBubble(t, func(r *rig) {
		block := make(chan struct{})
		r.bound.mu.Lock()
		r.bound.block = block
		r.bound.mu.Unlock()
		r.elect(2)
		time.Sleep(30 * time.Second)
		if age := r.LoopAge(); age > 2*time.Second {
			t.Errorf("the loop stands for %v", age)
		}
		if r.claims() {
			t.Error("claims what is not bound")
		}
		close(block)
		synctest.Wait()
		if !r.claims() {
			t.Errorf("does not claim: %+v", r.Snapshot())
		}
	})
}

func TestAgentThatCannotBindIsUnhealthy(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.bound.mu.Lock()
		r.bound.fail = true
		r.bound.mu.Unlock()
		r.elect(2)
		if r.Snapshot().Healthy || r.claims() {
			t.Fatalf("%+v", r.Snapshot())
		}
		r.bound.mu.Lock()
		r.bound.fail = false
		r.bound.mu.Unlock()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if !r.Snapshot().Healthy || !r.claims() {
			t.Errorf("%+v", r.Snapshot())
		}
	})
}

func TestAgentNeverLosesTheNewestReport(t *testing.T) {
	inBubble(t, func(r *rig) {
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() { r.Check("api", i%2 == 0, "") })
		}
		wg.Wait()
		r.Check("api", false, "at last")
		synctest.Wait()
		if r.Snapshot().Healthy || r.elector.healthy {
			t.Errorf("%+v", r.Snapshot())
		}
	})
}

func TestAgentThatCannotBindStaysUnhealthy(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.bound.mu.Lock()
		r.bound.fail = true
		r.bound.mu.Unlock()
		r.Seat("cp", leader.Term{Holder: "n2", Epoch: 3, Joined: true})
		synctest.Wait()
		for range 30 {
			time.Sleep(time.Second)
			synctest.Wait()
			if r.Snapshot().Healthy || r.elector.healthy {
				t.Fatalf("healthy again without having bound: %+v", r.Snapshot())
			}
		}
		r.bound.mu.Lock()
		tries := r.bound.calls
		r.bound.mu.Unlock()
		if tries > 40 {
			t.Errorf("tried %d times in half a minute", tries)
		}
	}, func(c *Config) { c.Ready = true })
}

// An elector may take its time to say whether another node would take the seat: the
// loop goes on, and the seat is given up only then.
func TestMoveDoesNotStopTheLoop(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.elect(3)
		r.elector.block = make(chan struct{})
		moved := make(chan error, 1)
		go func() { moved <- r.Move("n2") }()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if r.LoopAge() > time.Second || !r.elector.wants() {
			t.Errorf("the loop last turned %v ago, wants the seat: %v", r.LoopAge(), r.elector.wants())
		}
		close(r.elector.block)
		if err := <-moved; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if r.elector.wants() || r.elector.next != "n2" {
			t.Errorf("wants the seat: %v, next %q", r.elector.wants(), r.elector.next)
		}
	})
}

// A hand-over that comes to nothing is given up after a limit, which an election that
// takes longer sets.
func TestMoveLimit(t *testing.T) {
	for limit, want := range map[time.Duration]time.Duration{0: time.Second, 4 * time.Second: 4 * time.Second} {
		inBubble(t, func(r *rig) {
			r.elect(3)
			if err := r.Move(""); err != nil {
				t.Fatal(err)
			}
			time.Sleep(want - 100*time.Millisecond)
			synctest.Wait()
			if r.elector.wants() {
				t.Errorf("limit %v: wants the seat back too early", limit)
			}
			time.Sleep(1200 * time.Millisecond) // the loop turns each second
			synctest.Wait()
			if !r.elector.wants() {
				t.Errorf("limit %v: does not want the seat back", limit)
			}
		}, func(c *Config) { c.MoveLimit = limit })
	}
}

func TestBacker(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.elect(3)
		if got := r.Snapshot().Seats[0].Why; got != "the API acknowledges this node" {
			t.Error(got)
		}
	}, func(c *Config) { c.Backer = "the API" })
}

// A former holder lets go once: that nothing is counted where nothing is bound does
// not bring the addresses back.
func TestLetsGoOnce(t *testing.T) {
	var open atomic.Int32
	inBubble(t, func(r *rig) {
		for epoch := uint64(3); epoch < 7; epoch += 2 { // the second time it must count anew
			open.Store(1)
			l := r.elect(epoch)
			time.Sleep(5 * time.Second)
			synctest.Wait()
			l.Revoke()
			r.Seat("cp", leader.Term{Holder: "n2", Epoch: epoch + 1, Joined: true})
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if len(r.bound.now()) == 0 {
				t.Fatalf("epoch %d: let go of an open connection", epoch)
			}
			open.Store(0)
			time.Sleep(5 * time.Second)
			synctest.Wait()
			before := r.bound.calls
			if len(r.bound.now()) > 0 {
				t.Fatalf("epoch %d: did not let go", epoch)
			}
			for range 70 {
				time.Sleep(time.Second)
				synctest.Wait()
				if len(r.bound.now()) > 0 {
					t.Fatalf("epoch %d: bound again", epoch)
				}
			}
			if r.bound.calls != before {
				t.Errorf("epoch %d: the setter was called %d times more", epoch, r.bound.calls-before)
			}
		}
	}, func(c *Config) {
		c.Sockets = func([]netip.Addr) (int, error) { return int(open.Load()), nil }
	})
}
