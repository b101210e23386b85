package hearsay

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/pintle-lb/pintle/leader"
)

// A rumour is a cluster of tallies in time that the test makes: clocks that run up to 5 % apart, a network that loses, delays and
// doubles, nodes that are cut off, stand still or start anew, an API that comes and goes for each, and somebody who has recorded
// every datagram and sends them again. The rule that must hold at every step: a node for which the API counts as lost is away
// itself, and so many others that it is a majority have written within Fresh, by its own clock, that they are.
type rumour struct {
	rng    *rand.Rand
	now    time.Duration
	nodes  []*soul
	events events
	tape   [][]byte // all that was ever sent

	lost, kept, replayed int
}

// A soul is a node.
type soul struct {
	tally
	rate   float64
	offset time.Duration
	cut    bool
	still  time.Duration // it does nothing until then, and then does what it missed
	wrote  time.Duration // when it last wrote that the API is away; -1 for never
}

func (s *soul) clock(now time.Duration) leader.Instant {
	return at(s.offset + now + time.Duration(float64(now)*s.rate))
}

type event struct {
	at time.Duration
	do func()
}

type events []event

func (e events) Len() int           { return len(e) }
func (e events) Less(i, j int) bool { return e[i].at < e[j].at }
func (e events) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)        { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	x := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return x
}

func (r *rumour) after(d time.Duration, do func()) { heap.Push(&r.events, event{r.now + d, do}) }

// some is a time of up to most.
func (r *rumour) some(most time.Duration) time.Duration {
	return time.Duration(r.rng.Int64N(int64(most)))
}

func TestSimulation(t *testing.T) {
	runs, first := 100, uint64(time.Now().UnixNano()%1e6)
	if s := os.Getenv("SIM_RUNS"); s != "" {
		runs, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("SIM_SEED"); s != "" {
		first, _ = strconv.ParseUint(s, 10, 64)
	}
	var lost, kept, replayed int
	for seed := first; seed < first+uint64(runs); seed++ {
		r := newRumour(seed)
		if err := r.run(2 * time.Minute); err != nil {
			t.Fatalf("SIM_SEED=%d SIM_RUNS=1: %v", seed, err)
		}
		lost, kept, replayed = lost+r.lost, kept+r.kept, replayed+r.replayed
	}
	t.Logf("%d times lost, %d times not, %d replays", lost, kept, replayed)
	if runs > 20 && (lost < 100*runs || kept < 100*runs || replayed < 100*runs) {
		t.Error("the simulation shows too little")
	}
}

func newRumour(seed uint64) *rumour {
	r := &rumour{rng: rand.New(rand.NewPCG(seed, 2))}
	n := 2 + r.rng.IntN(5)
	for i := range n {
		s := &soul{tally: tally{node: fmt.Sprintf("n%d", i+1), self: r.process()}, wrote: -1}
		s.rate, s.offset = (r.rng.Float64()-0.5)*0.05, r.some(time.Hour)
		s.setPeers(peersUpTo(n))
		r.nodes = append(r.nodes, s)
		r.after(r.some(Interval), func() { r.speak(s) })
	}
	r.after(0, r.trouble)
	r.after(0, r.replay)
	return r
}

func (r *rumour) process() (p process) {
	for i := range p {
		p[i] = byte(r.rng.Uint32())
	}
	return p
}

func (r *rumour) run(span time.Duration) error {
	for r.now < span {
		e := heap.Pop(&r.events).(event)
		for r.now < e.at {
			r.now = min(e.at, r.now+50*ms) // also when nothing happens
			if err := r.check(); err != nil {
				return err
			}
		}
		e.do()
		if err := r.check(); err != nil {
			return err
		}
	}
	return nil
}

// check holds what each node thinks against what was written.
func (r *rumour) check() error {
	for _, s := range r.nodes {
		now := s.clock(r.now)
		if now >= s.until() {
			r.kept++
			continue
		}
		r.lost++
		say := 1
		for _, o := range r.nodes {
			if o != s && o.wrote >= 0 && now.Sub(s.clock(o.wrote)) <= Fresh {
				say++
			}
		}
		if !s.away || say <= len(r.nodes)/2 {
			return fmt.Errorf("after %v %s thinks that the API is lost: %d of %d have written so, itself %v", r.now, s.node, say, len(r.nodes), s.away)
		}
	}
	return nil
}

// whenAwake does f now, or when s stands still no more.
func (r *rumour) whenAwake(s *soul, f func()) {
	if r.now < s.still {
		r.after(s.still-r.now, func() { r.whenAwake(s, f) })
		return
	}
	f()
}

func (r *rumour) speak(s *soul) {
	r.whenAwake(s, func() {
		for _, l := range s.say(s.clock(r.now)) {
			b := l.seal(testKey)
			r.tape = append(r.tape, b)
			if s.cut || r.rng.IntN(5) == 0 {
				continue
			}
			for range 1 + r.rng.IntN(8)/7 {
				delay := r.some(5 * ms)
				switch r.rng.IntN(10) {
				case 0:
					delay = r.some(3 * time.Second)
				case 1, 2:
					delay = r.some(300 * ms)
				}
				r.after(delay, func() { r.arrive(b) })
			}
		}
		if s.away {
			s.wrote = r.now
		}
		r.after(Interval, func() { r.speak(s) })
	})
}

// arrive brings b to whom it is for.
func (r *rumour) arrive(b []byte) {
	d, err := parse(b)
	if err != nil {
		panic(err)
	}
	for _, s := range r.nodes {
		if s.find(d) != nil && !s.cut {
			r.whenAwake(s, func() { _ = s.hear(s.clock(r.now), s.find(d), d) })
		}
	}
}

// replay sends what is on the tape, mostly of late.
func (r *rumour) replay() {
	if n := len(r.tape); n > 0 {
		i := r.rng.IntN(n)
		if r.rng.IntN(2) == 0 {
			i = n - 1 - r.rng.IntN(min(n, 50))
		}
		r.arrive(r.tape[i])
		r.replayed++
	}
	r.after(r.some(100*ms), r.replay)
}

// trouble changes something.
func (r *rumour) trouble() {
	s := r.nodes[r.rng.IntN(len(r.nodes))]
	switch r.rng.IntN(12) {
	case 0:
		s.cut = !s.cut
	case 1:
		for _, o := range r.nodes {
			o.cut = false
		}
	case 2:
		s.still = r.now + r.some(3*time.Second)
	case 3: // its datagrams that are under way are those of its former process
		s.tally = tally{node: s.node, self: r.process(), away: s.away}
		s.setPeers(peersUpTo(len(r.nodes)))
	case 4, 5: // the API is there for all, or for nobody
		away := r.rng.IntN(4) != 0
		for _, o := range r.nodes {
			o.away = away
		}
	default:
		s.away = !s.away
	}
	r.after(r.some(3*time.Second), r.trouble)
}
