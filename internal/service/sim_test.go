package service

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// The simulation runs whole clusters in fake time: Controllers as they are, each with a Lease, before a store with the rules of the
// API server. Calls are lost, late, or carried out when nobody waits for them any more; watches lag; nodes are cut off, stand still,
// die and come back; people change everything. What has to hold always is checked at each step, what has to come true when the
// faults end is waited for, and then nothing is to be written any more. All is drawn from a seed, which a failing run prints; as
// goroutines are scheduled freely, a seed mostly, not always, brings the same run.
type simWorld struct {
	t     *testing.T
	seed  uint64
	since time.Time
	lease time.Duration // T of all nodes
	rng   *rand.Rand    // of who disturbs
	hosts []*host
	late  sync.WaitGroup // requests that arrive when their callers have given up

	mu sync.Mutex // guards what follows, and what is said to be guarded by it
	honestAPI
	more   map[string]chan struct{} // of each kind of objects: closed when there is news
	calm   bool                     // nothing fails any more
	prompt bool                     // and nothing takes time
	away   *host                    // it stays away at the end; nil: none does
	starts int
	ended  []*process
	writer string // who is writing
	trap   *host  // it is cut off as soon as it hands an address over
	trace  []string
	wrong  string
	failed chan struct{} // closed when wrong is set
	truth
}

const simNamespace = "pintle-system"

var (
	simRules = Rules{Class: "pintle.dev/lb", Unclassed: true}
	simLinks = []Link{{Name: "eth0", Subnets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/64")}, Default: true}}
)

// Bounds of fake time.
const (
	healTime  = 3 * time.Minute  // all is well so long after the last fault at the latest
	calmTime  = time.Minute      // and so long after people change something, while nothing fails
	quietTime = 60 * time.Second // and then nothing is written for so long
	liesTime  = time.Minute      // a status is wrong for no longer while a coordinator can mend it
	knownTime = 3 * time.Minute  // nobody acts on what a Service was longer ago: one that stood still and was cut off then may know no more
)

func (w *simWorld) lock(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// note adds a line to the trace. The caller holds mu.
func (w *simWorld) note(format string, a ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%9v ", time.Since(w.since).Round(100*time.Microsecond))+fmt.Sprintf(format, a...))
}

// wrongf notes that an invariant does not hold. The caller holds mu.
func (w *simWorld) wrongf(format string, a ...any) {
	if w.wrong != "" {
		return
	}
	w.wrong = fmt.Sprintf(format, a...)
	w.note("WRONG: %s", w.wrong)
	close(w.failed)
}

func (w *simWorld) fail(format string, a ...any) { w.lock(func() { w.wrongf(format, a...) }) }

// later has something done when time has passed, whoever has gone meanwhile. The caller need not hold mu.
func (w *simWorld) later(d time.Duration, f func()) {
	w.late.Go(func() {
		time.Sleep(d)
		f()
	})
}

// wakeWatches tells the watches of a kind that there is news. The caller holds mu.
func (w *simWorld) wakeWatches(kind string) {
	close(w.more[kind])
	w.more[kind] = make(chan struct{})
}

func newSimWorld(t *testing.T, seed uint64) *simWorld {
	w := newWorld(t, seed)
	w.lease = []time.Duration{2, 3, 5}[w.rng.IntN(3)] * time.Second
	for i := range 3 + w.rng.IntN(3) {
		h := &host{w: w, name: fmt.Sprintf("n%d", i+1), rate: (w.rng.Float64() - 0.5) * 0.05, hasty: w.rng.IntN(2) == 0}
		w.hosts = append(w.hosts, h)
	}
	return w
}

// newWorld is one without nodes.
func newWorld(t *testing.T, seed uint64) *simWorld {
	w := &simWorld{t: t, seed: seed, since: time.Now(), rng: rand.New(rand.NewPCG(seed, 7)), failed: make(chan struct{}), more: map[string]chan struct{}{}}
	w.store = newStore()
	w.store.saw = w.check
	w.truth = newTruth()
	for kind := range kinds {
		w.more[kind] = make(chan struct{})
	}
	w.more["leases"] = make(chan struct{})
	return w
}

func TestSimulation(t *testing.T) {
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
			spins := time.AfterFunc(2*time.Minute, func() { panic(fmt.Sprintf("SIM_SEED=%d spins", seed)) })
			defer spins.Stop()
			synctest.Test(t, func(t *testing.T) { simulate(t, seed) })
		})
	}
}

func simulate(t *testing.T, seed uint64) {
	w := newSimWorld(t, seed)
	defer w.stop()
	w.lock(w.found)
	for _, h := range w.hosts {
		h.start()
		time.Sleep(time.Duration(w.rng.Int64N(int64(time.Second))))
	}
	for range 80 {
		if w.over() {
			return
		}
		w.disturb()
		w.wait(time.Duration(w.rng.Int64N(int64([]time.Duration{20 * time.Millisecond, w.lease / 4, w.lease}[w.rng.IntN(3)]))))
	}
	w.heal()
	for limit := healTime; w.settle(limit); limit = calmTime {
		if w.rng.IntN(10) == 0 {
			w.quiet()
			return
		}
		w.lock(w.people)
	}
}

func (w *simWorld) over() bool {
	select {
	case <-w.failed:
		return true
	default:
		return w.t.Failed()
	}
}

// wait lets time pass, and looks now and then whether what is wrong for a while is put right.
func (w *simWorld) wait(d time.Duration) {
	const step = 500 * time.Millisecond
	for ; d > 0 && !w.over(); d -= step {
		time.Sleep(min(d, step))
		w.lock(func() { w.countLies(step) })
	}
}

// stop ends all processes, and says what went wrong.
func (w *simWorld) stop() {
	w.lock(func() {
		w.calm = true
		for _, h := range w.hosts {
			if h.proc != nil {
				h.proc.kill()
			}
		}
	})
	for _, p := range w.ended {
		p.over.Wait()
	}
	w.late.Wait()
	if w.wrong != "" {
		w.t.Errorf("SIM_SEED=%d SIM_RUNS=1: %d nodes, leases of %v: %s", w.seed, len(w.hosts), w.lease, w.wrong)
	}
	switch {
	case os.Getenv("SIM_TRACE") != "":
		w.t.Log(strings.Join(w.trace, "\n"))
	case w.wrong != "":
		w.t.Log("the end of the trace (SIM_TRACE=1: all of it)\n" + strings.Join(w.trace[max(0, len(w.trace)-150):], "\n"))
	}
}

// heal ends all faults. One node may stay away, and one be kept from addresses.
func (w *simWorld) heal() {
	w.lock(func() {
		w.note("all faults end")
		w.calm = true
		for _, h := range w.hosts {
			h.open()
			h.bad, h.slow, h.lag = 0, 0, 0
		}
		if w.away = w.hosts[w.rng.IntN(len(w.hosts))]; w.rng.IntN(2) == 0 {
			w.away = nil
		} else if w.away.proc != nil {
			w.away.proc.kill()
		}
		h := w.hosts[w.rng.IntN(len(w.hosts))] // it can have addresses, if it is not the one that is away
		h.judge("")
		edit(w.store, "nodes", h.name, func(o *corev1.Node) { o.Labels, o.Spec.Unschedulable, o.Annotations = nil, false, nil })
	})
}

// revive starts what does not run, but for the node that stays away.
func (w *simWorld) revive() {
	var down []*host
	w.lock(func() {
		for _, h := range w.hosts {
			if h.proc == nil && h != w.away {
				h.thaw()
				down = append(down, h)
			}
		}
	})
	for _, h := range down {
		h.start()
	}
}

// settle waits until all is as it should be.
func (w *simWorld) settle(limit time.Duration) bool {
	why := "?"
	for end := time.Now().Add(limit); time.Now().Before(end) && !w.over(); time.Sleep(200 * time.Millisecond) {
		w.revive()
		if w.lock(func() { why = w.unsettled() }); why == "" {
			w.lock(func() { w.note("settled") })
			return true
		}
	}
	w.fail("not well after %v: %s", limit, why)
	return false
}

// quiet checks that nobody has anything to do any more.
func (w *simWorld) quiet() {
	time.Sleep(time.Minute) // of requests that are late, and what is done about them
	var before uint64
	w.lock(func() {
		before = w.writes
		for _, h := range w.hosts {
			if h.proc != nil {
				h.proc.turns = 0
			}
		}
	})
	w.wait(quietTime)
	w.lock(func() {
		if n := w.writes - before; n > 0 {
			w.wrongf("%d writes although all is well", n)
		}
		for _, h := range w.hosts {
			if h.proc != nil && h.proc.turns > 6*int(quietTime/time.Second) {
				w.wrongf("%s turns its loop %d times in %v although all is well", h.name, h.proc.turns, quietTime)
			}
		}
		if why := w.unsettled(); why != "" {
			w.wrongf("not so any more: %s", why)
		}
	})
}
