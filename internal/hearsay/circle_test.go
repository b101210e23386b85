package hearsay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pintle-lb/pintle/leader"
)

// An ether carries the datagrams of Circles in the fake time of a test, in 1 ms.
type ether struct {
	mu    sync.Mutex
	ports map[netip.Addr]*port
	cut   map[netip.Addr]bool
	count map[netip.Addr]int // sent, by sender
}

type port struct {
	e      *ether
	addr   netip.Addr
	in     chan []byte
	closed chan struct{}
	broken chan struct{}
}

func (e *ether) open(addr netip.Addr) (wire, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := &port{e, addr, make(chan []byte, 100), make(chan struct{}), make(chan struct{})}
	e.ports[addr] = p
	return p, nil
}

func (p *port) Send(b []byte, to netip.Addr) error {
	p.e.mu.Lock()
	defer p.e.mu.Unlock()
	p.e.count[p.addr]++
	if other := p.e.ports[to]; other != nil && !p.e.cut[p.addr] && !p.e.cut[to] {
		b = bytes.Clone(b)
		time.AfterFunc(ms, func() {
			select {
			case other.in <- b:
			default: // nobody takes what came before
			}
		})
	}
	return nil
}

func (p *port) Receive(b []byte) (int, netip.AddrPort, error) {
	select {
	case got := <-p.in:
		return copy(b, got), netip.AddrPort{}, nil
	case <-p.closed:
		return 0, netip.AddrPort{}, net.ErrClosed
	case <-p.broken:
		return 0, netip.AddrPort{}, errors.New("the network is down")
	}
}

func (p *port) Close() error {
	close(p.closed)
	return nil
}

// A town is a number of Circles that run in an ether.
type town struct {
	*ether
	t     *testing.T
	nodes []*Circle
	keys  [][]byte
	stops []context.CancelFunc
	logs  []*bytes.Buffer
}

// inTown builds a town in a bubble of fake time and runs f.
func inTown(t *testing.T, n int, f func(t *testing.T, w *town)) {
	synctest.Test(t, func(t *testing.T) {
		w := &town{ether: &ether{ports: map[netip.Addr]*port{}, cut: map[netip.Addr]bool{}, count: map[netip.Addr]int{}}, t: t}
		start := time.Now()
		for range n {
			w.keys = append(w.keys, testKey)
		}
		for i, p := range peersUpTo(n) {
			w.logs = append(w.logs, &bytes.Buffer{})
			c := New(Config{
				Node: p.Name, Key: func() []byte { return w.key(i) },
				Clock: func() leader.Instant { return at(time.Since(start)) },
				Log:   slog.New(slog.NewTextHandler(w.logs[i], nil)),
			})
			c.open = func() (wire, error) { return w.ether.open(p.Addr) }
			c.SetPeers(peersUpTo(n))
			w.nodes = append(w.nodes, c)
			w.stops = append(w.stops, nil)
			w.run(i)
		}
		f(t, w)
		for _, stop := range w.stops {
			stop()
		}
	})
}

func (w *town) key(i int) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.keys[i]
}

func (w *town) setKey(i int, key []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keys[i] = key
}

// sent is how many datagrams node i has sent.
func (w *town) sent(i int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count[peersUpTo(i + 1)[i].Addr]
}

func (w *town) run(i int) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	c := w.nodes[i]
	go func() {
		defer close(done)
		if err := c.Run(ctx); err != nil {
			w.t.Errorf("run: %v", err)
		}
	}()
	w.stops[i] = func() { cancel(); <-done }
}

func (w *town) away(away bool) {
	for _, c := range w.nodes {
		c.SetAway(away)
	}
}

func (w *town) block(i int, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[peersUpTo(i + 1)[i].Addr] = cut
}

func (w *town) lost() string {
	var b strings.Builder
	for _, c := range w.nodes {
		if c.Lost() {
			b.WriteByte('L')
		} else {
			b.WriteByte('.')
		}
	}
	return b.String()
}

func (w *town) want(lost, when string) {
	w.t.Helper()
	synctest.Wait()
	if got := w.lost(); got != lost {
		w.t.Errorf("%s: lost %s, want %s", when, got, lost)
		for i, c := range w.nodes {
			w.t.Logf("n%d: %+v", i+1, c.Status())
		}
	}
}

func TestCircle(t *testing.T) {
	inTown(t, 3, func(t *testing.T, w *town) {
		time.Sleep(2 * Interval)
		w.want("...", "at first")
		w.nodes[0].SetAway(true)
		time.Sleep(2 * Interval)
		w.want("...", "away for one")
		w.nodes[1].SetAway(true)
		time.Sleep(hurry + 2*ms)
		w.want("LL.", "away for two: the third has an answer and so no loss")
		w.nodes[2].SetAway(true)
		time.Sleep(2 * ms)
		w.want("LLL", "away for all: what a node says anew is sent at once")
		time.Sleep(time.Hour)
		w.want("LLL", "an hour later")
		w.away(false)
		w.want("...", "the API is back: for the node itself that counts at once")
		w.away(true)
		time.Sleep(2 * Interval)
		w.want("LLL", "and away again")
		if got := strings.Count(w.logs[0].String(), "a majority of the nodes says that"); got != 2 {
			t.Errorf("the log tells %d times of a loss, want 2:\n%s", got, w.logs[0])
		}
		if got := strings.Count(w.logs[0].String(), "no majority"); got != 1 {
			t.Errorf("the log tells %d times of the end of a loss, want 1:\n%s", got, w.logs[0])
		}
	})
}

// Of each three datagrams two in a row are lost.
func TestCircleStandsLoss(t *testing.T) {
	inTown(t, 2, func(t *testing.T, w *town) {
		w.away(true)
		time.Sleep(2*Interval + Interval/2) // half a round after the last one
		for range 20 {
			w.block(1, true)
			time.Sleep(2 * Interval)
			w.block(1, false)
			for range int(Interval / (10 * ms)) {
				w.want("LL", "two datagrams were lost")
				time.Sleep(10 * ms)
			}
		}
	})
}

func TestCutOffNode(t *testing.T) {
	inTown(t, 3, func(t *testing.T, w *town) {
		w.away(true)
		time.Sleep(3 * Interval)
		w.want("LLL", "away for all")
		w.block(2, true)
		time.Sleep(Fresh + ms)
		w.want("LL.", "n3 is cut off and hears nobody")
		if s := w.nodes[0].Status()[2]; s.Node != "n3" || s.Says != Nothing || s.Err == nil || s.Heard.IsZero() {
			t.Errorf("n1 of n3: %+v", s)
		}
		w.block(0, true)
		time.Sleep(Fresh + ms)
		w.want("...", "nobody hears another")
		w.block(0, false)
		w.block(2, false)
		time.Sleep(3 * Interval)
		w.want("LLL", "all hear each other again")
	})
}

func TestWrongKey(t *testing.T) {
	inTown(t, 3, func(t *testing.T, w *town) {
		w.setKey(0, []byte("another secret of a node"))
		w.away(true)
		time.Sleep(5 * Interval)
		w.want(".LL", "n1 has another secret")
		if got := strings.Count(w.logs[1].String(), "does not believe a node"); got != 1 {
			t.Errorf("n2 tells %d times of a wrong seal, want 1:\n%s", got, w.logs[1])
		}
		if s := w.nodes[1].Status()[1]; s.Node != "n1" || s.Err == nil || !strings.Contains(s.Err.Error(), "another secret") {
			t.Errorf("n2 of n1: %+v", s)
		}
		for i := range w.nodes {
			w.setKey(i, []byte("another secret of a node"))
		}
		time.Sleep(5 * Interval)
		w.want("LLL", "all have the new secret")
		if s := w.nodes[1].Status()[1]; s.Err != nil {
			t.Errorf("n2 of n1: %+v", s)
		}
		w.block(0, true)
		time.Sleep(10 * time.Second)
		if s := w.nodes[1].Status()[1]; s.Err == nil || !strings.Contains(s.Err.Error(), "not heard for") {
			t.Errorf("n2 of n1, which it does not hear: %+v", s)
		}
	})
}

func TestNoKey(t *testing.T) {
	for _, key := range []string{"", "15 bytes of it."} {
		inTown(t, 2, func(t *testing.T, w *town) {
			w.away(true)
			time.Sleep(3 * Interval)
			w.want("LL", "with the secret")
			w.setKey(0, []byte(key))
			time.Sleep(Fresh + 2*Interval)
			w.want("..", "without")
			before := w.sent(0)
			time.Sleep(3 * Interval)
			if got := w.sent(0) - before; got != 0 {
				t.Errorf("%d datagrams without a secret", got)
			}
			if s := w.nodes[0].Status()[0]; !s.Self || s.Err == nil || !strings.Contains(s.Err.Error(), "secret") {
				t.Errorf("n1 of itself: %+v", s)
			}
			w.setKey(0, testKey)
			time.Sleep(3 * Interval)
			w.want("LL", "with it again")
		})
	}
}

// A Circle says nothing more than one datagram for each peer in each Interval, whatever it hears.
func TestNobodyIsAnswered(t *testing.T) {
	inTown(t, 4, func(t *testing.T, w *town) {
		time.Sleep(2*Interval + ms)
		before := w.sent(0)
		var heard datagram
		w.nodes[1].change(func(now leader.Instant) { heard = letterTo(t, &w.nodes[1].tally, "n1", now) })
		for range 1000 {
			w.nodes[0].receive(heard.seal(testKey), netip.AddrPort{})
			w.nodes[0].receive([]byte("hello?"), netip.AddrPort{})
			w.nodes[0].receive(heard.seal([]byte("another secret of a node")), netip.AddrPort{})
			time.Sleep(10 * ms)
		}
		if got, want := w.sent(0)-before, 3*int(10*time.Second/Interval); got != want {
			t.Errorf("%d datagrams in 10 s, want %d", got, want)
		}
		synctest.Wait()
		if log := w.logs[0].String(); log != "" {
			t.Errorf("who spoils for a quarrel between two nodes that hear each other fills the log:\n%s", log)
		}
	})
}

// A node that changes its mind all the time does not flood the others.
func TestHurryIsBounded(t *testing.T) {
	inTown(t, 2, func(t *testing.T, w *town) {
		time.Sleep(Interval + ms)
		before := w.sent(0)
		for i := range 10000 {
			w.nodes[0].SetAway(i%2 == 0)
			time.Sleep(ms)
		}
		if got, most := w.sent(0)-before, int(10*time.Second/hurry)+1; got > most {
			t.Errorf("%d datagrams in 10 s, want at most %d", got, most)
		}
	})
}

func TestRunEnds(t *testing.T) {
	inTown(t, 3, func(t *testing.T, w *town) {
		w.away(true)
		time.Sleep(3 * Interval)
		w.want("LLL", "away for all")
		w.stops[0]()
		w.want(".LL", "n1 does not run")
		time.Sleep(time.Minute)
		w.run(0)
		w.want(".LL", "n1 has just started")
		time.Sleep(3 * Interval)
		w.want("LLL", "n1 runs again")
	})
}

// The only node of a cluster is a majority, but only while the Circle runs.
func TestAlone(t *testing.T) {
	inTown(t, 1, func(t *testing.T, w *town) {
		w.want(".", "at first")
		w.away(true)
		w.want("L", "away")
		w.stops[0]()
		w.want(".", "it does not run")
	})
}

func TestSocketThatCannotBeOpened(t *testing.T) {
	inTown(t, 2, func(t *testing.T, w *town) {
		w.stops[0]()
		open := w.nodes[0].open
		var whole atomic.Bool
		w.nodes[0].open = func() (wire, error) {
			if !whole.Load() {
				return nil, errors.New("listen on UDP port 7402: it is taken")
			}
			return open()
		}
		w.run(0)
		w.away(true)
		time.Sleep(10 * time.Second)
		w.want("..", "n1 has no socket")
		if s := w.nodes[0].Status()[0]; s.Err == nil || !strings.Contains(s.Err.Error(), "it is taken") || s.Says != Away {
			t.Errorf("n1 of itself: %+v", s)
		}
		if got := strings.Count(w.logs[0].String(), "it is taken"); got != 1 {
			t.Errorf("the log tells %d times, want 1:\n%s", got, w.logs[0])
		}
		whole.Store(true)
		time.Sleep(reopen + 3*Interval)
		w.want("LL", "the socket is there")
		if s := w.nodes[0].Status()[0]; s.Err != nil {
			t.Errorf("n1 of itself: %+v", s)
		}

		w.mu.Lock()
		close(w.ports[peersUpTo(1)[0].Addr].broken)
		w.mu.Unlock()
		time.Sleep(reopen + 3*Interval)
		w.want("LL", "it broke, and there is another one")
		if !strings.Contains(w.logs[0].String(), "the network is down") {
			t.Errorf("the log does not tell that the socket broke:\n%s", w.logs[0])
		}
	})
}

// The gate of a node in a circle: what the table of lives leaves out is the end by silence, of which nobody tells the gate.
func TestGateInCircle(t *testing.T) {
	inTown(t, 3, func(t *testing.T, w *town) {
		c := w.nodes[0]
		lease := leader.NewLease(c.cfg.Clock, c.cfg.Clock().Add(5*time.Second))
		gate := c.Gate(lease)
		time.Sleep(2 * time.Second)
		w.away(true)
		time.Sleep(30 * time.Second)
		if !gate.Valid() || !gate.Kept() {
			t.Error("shut while a majority says away")
		}
		w.block(0, true)
		time.Sleep(Fresh + ms)
		w.block(0, false)
		time.Sleep(3 * Interval)
		w.want("LLL", "after a cut that the gate was not asked in")
		if gate.Valid() {
			t.Error("open after a break")
		}
	})
}

func TestSaysString(t *testing.T) {
	if got := fmt.Sprint(Nothing, Answers, Away, Says(7)); got != "nothing answers away Says(7)" {
		t.Error(got)
	}
}
