package leader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"
)

// A Profile is how fast a cluster notices that its holder is gone.
type Profile string

// The profiles. Every node of a cluster uses the same one: it is agreed on when
// the cluster starts and changed with [Raft.SetProfile].
const (
	Fast    Profile = "fast"    // 100 ms, for one LAN; wants real-time scheduling
	Default Profile = "default" // 300 ms
	WAN     Profile = "wan"     // 1.5 s, for round trips of up to 150 ms
)

// T is the promise of a profile: how long a voter stays silent towards others
// after it acknowledged a holder. It returns 0 for an unknown profile.
func (p Profile) T() time.Duration {
	switch p {
	case Fast:
		return 100 * time.Millisecond
	case Default:
		return 300 * time.Millisecond
	case WAN:
		return 1500 * time.Millisecond
	}
	return 0
}

func profileOf(t time.Duration) Profile {
	for _, p := range []Profile{Fast, Default, WAN} {
		if p.T() == t {
			return p
		}
	}
	return Profile(t.String())
}

// A Peer is a configured node of the cluster.
type Peer struct {
	Name      string
	Address   string // host:port, reachable from the other nodes
	Witness   bool   // votes and never holds
	Candidate bool   // may hold the seat
	Priority  int    // higher goes first
}

// RaftConfig configures a [Raft] elector.
type RaftConfig struct {
	Seat      string
	Node      string   // one of Peers
	Peers     []Peer   // all configured nodes, this one included
	Join      []string // further host:port at which a member can be asked to let this node join
	Listen    string   // host:port; default: this node's own address
	Bootstrap string   // the node that starts the cluster
	Alone     bool     // it may start before a majority of Peers says that there is no cluster yet
	StateDir  string
	Profile   Profile // proposed when the cluster starts
	Version   string  // of this build, for people
	Creds     Credentials
	Clock     Clock // default Boot
	Log       *slog.Logger

	// Free reports an error while someone else answers for the addresses; asked
	// before a cluster is started from nothing. nil skips it.
	Free func(context.Context) error
	// MACs are the hardware addresses this node claims with, told to its peers.
	MACs func() []string

	// Move is called when a member asks this node, the holder, to hand the seat
	// to a node ("": the best one). nil refuses.
	Move func(to string) error

	// listener and dial replace TCP in tests; Creds may be nil then.
	listener net.Listener
	dial     func(ctx context.Context, addr string) (net.Conn, error)
}

// Raft is an [Elector] that needs nothing but its peers: hashicorp/raft, with
// the safety rule of [Word] around it. It implements [Ranker] and [Mover] too.
type Raft struct {
	cfg    RaftConfig
	self   Peer
	log    *slog.Logger
	dir    *stateDir
	store  *store
	snaps  *snapshots
	keeper *keeper
	stream *stream
	fsm    *settings
	kick   chan struct{} // something to look at

	mu      sync.Mutex // guards what follows
	id      identity
	phase   string // what a node that has not joined is doing
	session *session
	wanted  bool
	healthy bool
	prefer  string
	peers   map[raft.ServerID]peerState
	report  func(string, Term)
	last    Term
}

// OpenRaft opens the state directory and listens. It starts nothing yet. Errors
// that wrap [ErrState] are for a person to mend.
func OpenRaft(cfg RaftConfig) (*Raft, error) {
	r := &Raft{cfg: cfg, log: cfg.Log, kick: make(chan struct{}, 1), healthy: true, peers: map[raft.ServerID]peerState{}}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.cfg.Clock == nil {
		r.cfg.Clock = Boot
	}
	if r.cfg.Profile.T() == 0 {
		return nil, fmt.Errorf("profile %q: want fast, default or wan", cfg.Profile)
	}
	if err := r.findSelf(); err != nil {
		return nil, err
	}
	if err := r.openState(); err != nil {
		return nil, err
	}
	if err := r.listen(); err != nil {
		r.dir.Close()
		return nil, err
	}
	return r, nil
}

func (r *Raft) findSelf() error {
	for _, p := range r.cfg.Peers {
		if p.Name == r.cfg.Node {
			r.self = p
			return nil
		}
	}
	return fmt.Errorf("node %q is not among the peers", r.cfg.Node)
}

func (r *Raft) openState() (err error) {
	if r.dir, err = openStateDir(r.cfg.StateDir); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			r.dir.Close()
		}
	}()
	if r.id, err = r.dir.loadIdentity(r.cfg.Node); err != nil {
		return err
	}
	if r.id.T == 0 {
		r.id.T = r.cfg.Profile.T()
	}
	strict := r.id.T > Fast.T()
	var fresh bool
	if r.store, fresh, err = openStore(r.dir.file("state.json"), strict); err != nil {
		return err
	}
	files, err := raft.NewFileSnapshotStoreWithLogger(r.dir.path, 1, hush(r.log))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	if r.snaps, err = openSnapshots(files, r.store); err != nil {
		return err
	}
	r.fsm = &settings{changed: r.agreed}
	r.keeper = &keeper{clock: r.cfg.Clock, store: r.store, changed: r.publish, word: NewWord(string(r.id.serverID()), r.id.T)}
	if longest, votesLost := r.store.Promised(); !fresh {
		r.keeper.word.Restarted(r.cfg.Clock(), max(r.id.T, longest), votesLost)
	}
	return nil
}

func (r *Raft) listen() error {
	addr := r.cfg.Listen
	if addr == "" {
		addr = r.self.Address
	}
	ln, dial := r.cfg.listener, r.cfg.dial
	if ln == nil {
		var err error
		if ln, err = net.Listen("tcp", addr); err != nil {
			return fmt.Errorf("listen for peers: %w", err)
		}
		d := net.Dialer{KeepAlive: 15 * time.Second}
		dial = func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
	}
	r.stream = &stream{listener: ln, dial: dial, creds: r.cfg.Creds, name: r.cfg.Node, log: r.log,
		cluster: r.cluster, nameOf: r.nameOf, ask: r.answer,
		raftConns: make(chan net.Conn), slots: make(chan struct{}, handshakesAtOnce)}
	return nil
}

// Close gives the state directory and the port back. It is for a Raft whose Run
// has returned or was never called.
func (r *Raft) Close() error {
	return errors.Join(ignoreClosed(r.stream.listener.Close()), r.dir.Close())
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Run implements [Elector].
func (r *Raft) Run(ctx context.Context, report func(seat string, t Term)) error {
	r.mu.Lock()
	r.report = report
	r.mu.Unlock()
	defer r.keeper.stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.stream.serve(ctx) })
	g.Go(func() error {
		if err := r.join(ctx); err != nil || ctx.Err() != nil {
			return err
		}
		for ctx.Err() == nil {
			if err := r.runSession(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	return g.Wait()
}

// Set implements [Elector]. Raft has one seat.
func (r *Raft) Set(want []string) {
	wanted := len(want) > 0 && want[0] == r.cfg.Seat
	r.mu.Lock()
	r.wanted = wanted
	r.permit()
	r.mu.Unlock()
	r.publish()
}

// permit lets the keeper give out leases, or not. The caller holds mu, and
// publishes.
func (r *Raft) permit() { r.keeper.allow(r.wanted && r.session != nil && r.canHold()) }

// SetHealthy implements [Ranker].
func (r *Raft) SetHealthy(healthy bool) {
	r.mu.Lock()
	r.healthy = healthy
	r.mu.Unlock()
	r.wake()
}

// Prefer implements [Mover].
func (r *Raft) Prefer(successor string) error {
	if successor == r.cfg.Node {
		return fmt.Errorf("%s is this node", successor)
	}
	if successor != "" {
		if err := r.couldTake(successor); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.prefer = successor
	return nil
}

// canHold reports whether the configuration lets this node hold the seat.
func (r *Raft) canHold() bool { return r.self.Candidate && !r.self.Witness }

func (r *Raft) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

func (r *Raft) cluster() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.id.Cluster
}

// publish reports what is true now, if it is news. Reports are in order.
func (r *Raft) publish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.report == nil {
		return
	}
	t := r.term()
	if t != r.last {
		r.last = t
		r.report(r.cfg.Seat, t)
	}
	r.wake()
}

// listed reports whether this node is in the newest configuration that it has.
func (r *Raft) listed() bool {
	members := r.store.servers()
	return len(members) == 0 || slices.ContainsFunc(members, func(m raft.Server) bool { return m.ID == r.id.serverID() })
}

// term puts together what this node knows. The caller holds mu.
func (r *Raft) term() Term {
	t := Term{Joined: r.id.Cluster != "" && r.listed()}
	if r.session == nil {
		return t
	}
	s := r.session
	t.Epoch = s.raft.CurrentTerm()
	lease, term := r.keeper.current()
	switch id := s.leader(); {
	case lease != nil:
		t.Holder, t.Lease, t.Epoch = r.cfg.Node, lease, term
		t.Successor = r.successor(true)
	case id == "" || id == r.id.serverID():
	case !r.peers[id].hello.excluded():
		t.Holder = nodeName(id)
	}
	t.Standing = t.Lease == nil && s.standing(t.Epoch)
	return t
}
