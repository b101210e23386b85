package leader

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"
)

// A node is one elector under test and the last term it reported.
type node struct {
	name   string
	dir    string
	raft   *Raft
	cancel context.CancelFunc
	done   chan error

	mu     sync.Mutex // guards what follows
	term   Term
	leases []*Lease // all that were reported and may be valid
	over   []*Lease // some that were seen to be over
}

func (n *node) reported(t Term) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.term = t
	if t.Lease != nil && !slices.Contains(n.leases, t.Lease) {
		n.leases = append(n.leases, t.Lease)
	}
}

func (n *node) last() Term {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.term
}

func (n *node) holds() bool { return n.last().Lease.Valid() }

// A world is a cluster under test.
type world struct {
	t     *testing.T
	peers []Peer
	nodes map[string]*node
	tune  func(*RaftConfig)
	net   *memNet // nil: TCP on loopback

	listen func(Term) // to the reports of nodes that start from now on

	mu sync.Mutex // guards changes of nodes, for who watches
}

// node is for goroutines other than the test's.
func (w *world) node(name string) *node {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.nodes[name]
}

// newMemWorld is a cluster in a network of its own, for a synctest bubble.
func newMemWorld(t *testing.T, n int, tune func(*RaftConfig)) *world {
	w := &world{t: t, nodes: map[string]*node{}, tune: tune, net: newMemNet(1)}
	for range n {
		w.addPeer()
	}
	t.Cleanup(func() {
		w.stopAll()
		time.Sleep(time.Minute) // Raft does not wait for all it has begun; a leak is found out by the bubble
	})
	return w
}

// addPeer makes the configuration of one more node known to those that start
// from now on.
func (w *world) addPeer() string {
	n := len(w.peers) + 1
	p := Peer{Name: fmt.Sprintf("n%d", n), Address: fmt.Sprintf("10.0.0.%d:7400", n), Candidate: true}
	w.peers = append(w.peers, p)
	return p.Name
}

func (w *world) stopAll() {
	for name := range w.nodes {
		w.stop(name)
	}
}

func newWorld(t *testing.T, n int, tune func(*RaftConfig)) *world {
	w := &world{t: t, nodes: map[string]*node{}, tune: tune}
	for i := range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		w.peers = append(w.peers, Peer{Name: fmt.Sprintf("n%d", i+1), Address: ln.Addr().String(), Candidate: true})
		ln.Close()
	}
	t.Cleanup(w.stopAll)
	return w
}

func testLog(node string) *slog.Logger {
	if os.Getenv("TESTLOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("on", node)
}

func (w *world) start(names ...string) {
	w.t.Helper()
	for _, name := range names {
		dir := w.t.TempDir()
		if old := w.nodes[name]; old != nil {
			dir = old.dir
		}
		w.startIn(name, dir)
	}
}

func (w *world) startIn(name, dir string) *node {
	w.t.Helper()
	cfg := RaftConfig{Seat: "cp", Node: name, Peers: w.peers, Bootstrap: "n1", StateDir: dir, Profile: Fast, Log: testLog(name)}
	cfg.listener, cfg.dial = w.link(name)
	if w.net != nil {
		cfg.Clock = func() Instant { return Instant(time.Now().UnixNano()) } // of the bubble
	}
	if w.tune != nil {
		w.tune(&cfg)
	}
	r, err := OpenRaft(cfg)
	if err != nil {
		cfg.listener.Close()
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &node{name: name, dir: dir, raft: r, cancel: cancel, done: make(chan error, 1)}
	w.mu.Lock()
	w.nodes[name] = n
	w.mu.Unlock()
	r.Set([]string{"cp"})
	listen := w.listen
	go func() {
		n.done <- r.Run(ctx, func(_ string, t Term) {
			n.reported(t)
			if listen != nil {
				listen(t)
			}
		})
	}()
	return n
}

// link is how the named node listens and dials.
func (w *world) link(name string) (net.Listener, func(context.Context, string) (net.Conn, error)) {
	addr := w.peer(name).Address
	if w.net != nil {
		return w.net.listen(addr, name), w.net.dialer(name)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		w.t.Fatal(err)
	}
	return ln, func(ctx context.Context, addr string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
}

func (w *world) peer(name string) *Peer {
	for i := range w.peers {
		if w.peers[i].Name == name {
			return &w.peers[i]
		}
	}
	w.t.Fatalf("no peer %s", name)
	return nil
}

// stop ends a node without a hand-over.
func (w *world) stop(name string) {
	n := w.nodes[name]
	if n.cancel == nil {
		return
	}
	n.cancel()
	n.cancel = nil
	if err := <-n.done; err != nil {
		w.t.Errorf("%s: %v", name, err)
	}
	if err := n.raft.Close(); err != nil {
		w.t.Errorf("%s: %v", name, err)
	}
}

func (w *world) up() []*node {
	var up []*node
	for _, n := range w.nodes {
		if n.cancel != nil {
			up = append(up, n)
		}
	}
	return up
}

// holder waits for a node that holds the seat.
func (w *world) holder() *node {
	w.t.Helper()
	var h *node
	w.wait("a holder", func() bool {
		h = nil
		for _, n := range w.up() {
			if n.holds() {
				h = n
			}
		}
		return h != nil
	})
	return h
}

// follows waits until a node knows that another one holds: any, for they may have taken turns where this process stood still.
func (w *world) follows(name string) {
	w.t.Helper()
	w.wait(name+" to follow", func() bool {
		h := w.holder()
		return h.name != name && w.nodes[name].last().Holder == h.name
	})
}

func (w *world) wait(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			for _, n := range w.nodes {
				w.t.Logf("%s: %+v", n.name, n.raft.Status())
			}
			w.t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (w *world) voters(n int) {
	w.t.Helper()
	w.wait(fmt.Sprintf("%d voters", n), func() bool {
		for _, x := range w.up() {
			v := 0
			for _, m := range x.raft.Status().Members {
				if m.Voter {
					v++
				}
			}
			if v != n {
				return false
			}
		}
		return true
	})
}

func TestThreeNodesElectOne(t *testing.T) {
	w := newWorld(t, 3, nil)
	w.start("n1", "n2", "n3")
	w.voters(3)
	w.wait("all to know the holder", func() bool {
		h := w.holder()
		for _, n := range w.up() {
			if n.last().Holder != h.name {
				return false
			}
		}
		return true
	})
}

func TestHolderStops(t *testing.T) {
	w := newWorld(t, 3, nil)
	w.start("n1", "n2", "n3")
	w.voters(3)
	for range 3 {
		h := w.holder()
		start := time.Now()
		w.stop(h.name)
		next := w.holder()
		t.Logf("%s -> %s after %v", h.name, next.name, time.Since(start))
		w.start(h.name)
		w.follows(h.name)
	}
}

func TestPlannedMove(t *testing.T) {
	w := newWorld(t, 3, nil)
	w.start("n1", "n2", "n3")
	w.voters(3)
	for range 5 {
		h := w.holder()
		start := time.Now()
		h.raft.Set(nil)
		if h.holds() {
			t.Fatal("still holds after Set(nil)")
		}
		next := w.holder()
		t.Logf("%s -> %s after %v", h.name, next.name, time.Since(start))
		h.raft.Set([]string{"cp"})
		w.follows(h.name)
	}
}
