package leader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"
)

// A session is one run of hashicorp/raft with one T. The word, the log and the
// connections outlive it, so that T can change without a restart.
type session struct {
	r         *Raft
	t         time.Duration
	raft      *raft.Raft
	transport *transport
	campaign  *campaign
	ready     chan struct{} // closed when all of the above is there
	asking    atomic.Uint64 // the term this node asks for votes in

	handing   sync.WaitGroup
	handOvers atomic.Int32  // under way: 0 or 1
	failed    atomic.Uint64 // the last hand-over failed in this term
	failedAt  atomic.Int64  // an Instant
}

// runSession runs Raft until ctx ends or the cluster agrees on another T.
func (r *Raft) runSession(ctx context.Context) error {
	s, err := r.newSession()
	if err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { s.campaign.run(ctx); return nil })
	g.Go(func() error { s.transport.pump(); return nil })
	g.Go(func() error { s.observe(ctx); return nil })
	g.Go(func() error { s.tick(ctx); return nil })
	g.Go(func() error { s.greetAll(ctx); return nil })
	g.Go(func() error { s.tend(ctx); return nil })
	g.Go(func() error {
		defer cancel()
		s.supervise(ctx)
		return nil
	})
	<-ctx.Done()
	r.mu.Lock()
	r.session = nil
	r.permit()
	r.mu.Unlock()
	r.publish()
	err = s.close()
	if werr := g.Wait(); err == nil {
		err = werr
	}
	s.handing.Wait()
	return err
}

func (r *Raft) newSession() (*session, error) {
	r.mu.Lock()
	id, t := r.id.serverID(), r.id.T
	r.mu.Unlock()
	addr, err := net.ResolveTCPAddr("tcp", r.self.Address)
	if err != nil {
		return nil, err
	}
	s := &session{r: r, t: t, ready: make(chan struct{})}
	s.transport = &transport{keeper: r.keeper, id: id, t: t, ready: s.ready,
		NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: r.stream.layer(addr, s.ready), MaxPool: connPool, MaxRPCsInFlight: 1, Timeout: t, Logger: hush(r.log)}),
		voters: s.voters, current: s.term, hello: r.met, elected: s.ask, release: s.release,
		matched: map[raft.ServerID]position{}, rpcs: make(chan raft.RPC), done: make(chan struct{})}
	s.campaign = &campaign{keeper: r.keeper, t: t, began: time.Now(), lastEntry: s.lastEntry,
		voters: r.store.latest, better: r.better, wait: r.wait, standBack: r.standsBack}
	s.transport.campaign = s.campaign
	conf := raftConfig(id, t)
	conf.Logger = hush(r.log)
	s.raft, err = raft.NewRaft(conf, r.fsm, r.store, r.store, r.snaps, s.transport)
	if err != nil {
		s.transport.NetworkTransport.Close()
		return nil, err
	}
	s.campaign.raft, s.campaign.usual = s.raft, s.raft.ReloadableConfig()
	close(s.ready)
	r.mu.Lock()
	r.session = s
	r.permit()
	r.mu.Unlock()
	return s, nil
}

func raftConfig(id raft.ServerID, t time.Duration) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = id
	c.HeartbeatTimeout, c.ElectionTimeout = t, t
	c.LeaderLeaseTimeout = t // Raft steps down only after our own lease ended
	c.CommitTimeout = min(max(t/3, 50*time.Millisecond), 250*time.Millisecond)
	c.SnapshotThreshold, c.TrailingLogs = 256, 64
	c.SnapshotInterval = time.Minute
	return c
}

func (s *session) close() error {
	err := s.raft.Shutdown().Error()
	s.transport.Close()
	return err
}

// term is the newest term that Raft knows.
func (s *session) term() uint64 { return s.raft.CurrentTerm() }

func (s *session) voters() [][]string { return s.r.store.Voters(s.raft.CommitIndex()) }

func (s *session) lastEntry() (term, index uint64) {
	index = s.raft.LastIndex()
	var l raft.Log
	if index > 0 && s.r.store.GetLog(index, &l) == nil {
		term = l.Term
	}
	return term, index
}

func (s *session) leader() raft.ServerID {
	_, id := s.raft.LeaderWithID()
	return id
}

// leads returns the term that this node leads, 0 when it does not.
func (s *session) leads() uint64 {
	before := s.raft.CurrentTerm()
	if s.raft.State() != raft.Leader || s.raft.CurrentTerm() != before {
		return 0
	}
	return before
}

// ask notes that this node asks for votes.
func (s *session) ask() {
	if t := s.term(); s.asking.Swap(t) != t {
		s.r.publish()
	}
}

// standing reports whether this node's election in term is under way.
func (s *session) standing(term uint64) bool {
	return s.asking.Load() == term && s.raft.State() == raft.Candidate || s.leads() == term && s.asking.Load() == term && !s.r.keeper.ended(term)
}

// observe turns Raft's changes of state into reports.
func (s *session) observe(ctx context.Context) {
	ch := make(chan raft.Observation, 64)
	o := raft.NewObserver(ch, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.RaftState, raft.LeaderObservation:
			return true
		}
		return false
	})
	s.raft.RegisterObserver(o)
	defer s.raft.DeregisterObserver(o)
	for {
		s.r.publish()
		select {
		case <-ch:
		case <-ctx.Done():
			return
		}
	}
}

// tick renews the lease of a node that is the only voter, which no other's
// acknowledgement does.
func (s *session) tick(ctx context.Context) {
	for ctx.Err() == nil {
		if term := s.leads(); term != 0 && !s.r.keeper.silenced(term) {
			sets := s.voters()
			if len(sets) == 1 && len(sets[0]) == 1 && sets[0][0] == string(s.transport.id) {
				s.r.keeper.acked("", term, 0, s.t, sets)
			}
		}
		sleep(ctx, s.t/4)
	}
}

// supervise looks after a seat that this node leads without wanting it, until
// ctx ends or the cluster agreed on another T.
func (s *session) supervise(ctx context.Context) {
	t := time.NewTicker(s.t / 2)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			s.r.publish() // a successor may have gone
		case <-s.r.kick:
		}
		term := s.leads()
		if s.outdated() && (term == 0 || !s.part(ctx, term)) || s.stuck(term) {
			return
		}
		if term != 0 {
			s.lead(ctx, term)
		}
	}
}

// part hands the seat over before the session ends. It returns false when there
// is nobody to take it.
func (s *session) part(ctx context.Context, term uint64) bool {
	if s.handOvers.Load() > 0 {
		return true
	}
	s.r.mu.Lock()
	next := s.r.successor(false)
	s.r.mu.Unlock()
	if next != "" && s.failed.Load() != term {
		s.handOver(ctx, term, next)
	}
	return s.handOvers.Load() > 0
}

// stuck reports whether this node lets a term end that Raft will not end: it is
// the only voter left.
func (s *session) stuck(term uint64) bool {
	voters := s.r.store.latest()
	return term != 0 && len(voters) == 1 && voters[0] == string(s.transport.id) && s.r.keeper.silenced(term)
}

// lead gives the seat away when this node should not have it.
func (s *session) lead(ctx context.Context, term uint64) {
	r := s.r
	r.mu.Lock()
	wanted := r.wanted && r.canHold()
	next := r.successor(false)
	r.mu.Unlock()
	ended := r.keeper.ended(term)
	switch {
	case s.handOvers.Load() > 0:
	case wanted && !ended:
	case ended && (wanted || next != "" && s.failed.Load() == term):
		r.keeper.fallSilent(term) // nobody may claim in it: let another begin
	case next != "" && s.mayHandOver(term):
		s.handOver(ctx, term, next)
	}
}

// mayHandOver leaves a while between attempts.
func (s *session) mayHandOver(term uint64) bool {
	return s.failed.Load() != term || s.r.cfg.Clock().Sub(Instant(s.failedAt.Load())) > 2*s.t
}

// handOver starts a transfer; the claim ends right before it is offered. A node
// that is still behind waits: Raft would replicate to it first, and when it
// loses its leadership meanwhile, it leaves goroutines behind for ever.
func (s *session) handOver(ctx context.Context, term uint64, to string) {
	id, addr, ok := s.r.store.server(to)
	if !ok || !s.transport.has(id, position{term, s.raft.LastIndex()}) || !s.handOvers.CompareAndSwap(0, 1) {
		return
	}
	s.handing.Go(func() {
		outcome := make(chan error, 1) // Raft leaves a transfer without one when it shuts down at once
		go func() { outcome <- s.raft.LeadershipTransferToServer(id, addr).Error() }()
		select {
		case err := <-outcome:
			s.handedOver(term, to, err)
		case <-ctx.Done():
		}
	})
}

func (s *session) handedOver(term uint64, to string, err error) {
	if err != nil {
		s.failedAt.Store(int64(s.r.cfg.Clock()))
		s.failed.Store(term)
		s.r.log.Warn("hand-over failed", "seat", s.r.cfg.Seat, "peer", to, "err", err)
	}
	s.r.mu.Lock()
	if s.r.prefer == to {
		s.r.prefer = "" // it was for this hand-over
	}
	s.r.mu.Unlock()
	s.handOvers.Store(0)
	s.r.publish()
}

func (s *session) release(to raft.ServerID) *Release {
	rel := s.r.keeper.release(s.term(), string(to))
	s.r.publish()
	return rel
}

// outdated reports whether the cluster's T is no longer this session's, and the
// others know it too.
func (s *session) outdated() bool {
	r := s.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.id.T == s.t {
		return false
	}
	if s.leads() == 0 {
		return true
	}
	for _, v := range r.store.latest() {
		p, ok := r.peers[raft.ServerID(v)]
		if ok && p.fresh(s.t) && p.hello.T != r.id.T && v != string(r.id.serverID()) {
			return false
		}
	}
	return true
}

// agreed is called by Raft when the cluster has agreed, and again for old
// entries after each start.
func (r *Raft) agreed(a agreement) {
	id := r.identity()
	if a.At <= id.Agreed {
		return
	}
	changed := id.T != a.T
	id.T, id.Agreed = a.T, a.At
	if err := r.adopt(id); err != nil {
		r.log.Error("cannot keep the cluster's profile", "err", err)
	}
	if changed {
		r.log.Info("the cluster agreed on a profile", "profile", profileOf(a.T))
		r.wake()
	}
}

// adopt makes an identity this node's. What it may promise from now on is on
// disk first.
func (r *Raft) adopt(id identity) error {
	if err := r.store.Promise(id.T); err != nil {
		return err // what cannot be kept is not promised
	}
	err := errors.Join(r.store.SetStrict(id.T > Fast.T()), r.dir.saveIdentity(id))
	r.mu.Lock()
	r.id = id
	r.mu.Unlock()
	return err
}

// propose makes the cluster agree. Only the leader can; it blocks up to timeout.
func (s *session) propose(a agreement, timeout time.Duration) error {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return s.raft.Apply(b, timeout).Error()
}

// nodeName is the configured name in a server ID.
func nodeName(id raft.ServerID) string {
	if i := strings.LastIndexByte(string(id), '.'); i >= 0 {
		return string(id)[:i]
	}
	return string(id)
}
