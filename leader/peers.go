package leader

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// A Hello is what nodes tell each other several times a second.
type Hello struct {
	Name      string        `json:"name"`
	ID        string        `json:"id"`
	Version   string        `json:"version"`
	Min       int           `json:"min"` // protocol versions
	Max       int           `json:"max"`
	T         time.Duration `json:"t"`
	Healthy   bool          `json:"healthy"`
	Wants     bool          `json:"wants"` // campaigns for the seat
	Candidate bool          `json:"candidate"`
	Witness   bool          `json:"witness"`
	Priority  int           `json:"priority"`
	LastIndex uint64        `json:"lastIndex"`
	MACs      []string      `json:"macs,omitempty"`
}

// excluded reports whether the node never holds the seat.
func (h Hello) excluded() bool { return h.Name != "" && (h.Witness || !h.Candidate) }

// peerState is the last that was heard from a peer.
type peerState struct {
	hello Hello
	heard time.Time
	err   string // why it cannot be reached; "" when it can
}

// fresh reports whether a peer was heard within the last few exchanges.
func (p peerState) fresh(t time.Duration) bool {
	return !p.heard.IsZero() && time.Since(p.heard) < max(2*t, 300*time.Millisecond)
}

// ours is what this node tells.
func (r *Raft) ours() Hello {
	var macs []string
	if r.cfg.MACs != nil {
		macs = r.cfg.MACs()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	h := Hello{Name: r.cfg.Node, ID: string(r.id.serverID()), Version: r.cfg.Version, Min: protocolMin, Max: protocolMax,
		T: r.id.T, Healthy: r.healthy, Wants: r.wanted, Candidate: r.self.Candidate, Witness: r.self.Witness, Priority: r.self.Priority, MACs: macs}
	if r.session != nil {
		h.LastIndex = r.session.raft.LastIndex()
	}
	return h
}

// met takes a peer's hello and returns this node's.
func (r *Raft) met(h Hello) Hello {
	r.hear(raft.ServerID(h.ID), h)
	return r.ours()
}

// hear keeps what a member says.
func (r *Raft) hear(id raft.ServerID, h Hello) {
	if nodeName(id) != h.Name || !slices.ContainsFunc(r.store.servers(), func(m raft.Server) bool { return m.ID == id }) {
		return
	}
	r.mu.Lock()
	old := r.peers[id]
	r.peers[id] = peerState{hello: h, heard: time.Now()}
	news := old.hello.Healthy != h.Healthy || old.hello.Wants != h.Wants || old.hello.T != h.T || old.heard.IsZero()
	r.mu.Unlock()
	if news {
		r.publish()
	}
}

// forget drops what was heard from nodes that are no members any more.
func (r *Raft) forget() {
	members := r.store.servers()
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.peers {
		if !slices.ContainsFunc(members, func(m raft.Server) bool { return m.ID == id }) {
			delete(r.peers, id)
		}
	}
}

func (r *Raft) unheard(id raft.ServerID, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.peers[id]
	p.err = err.Error()
	r.peers[id] = p
}

// greetAll exchanges hellos with all members each T/2, at most ten times a
// second.
func (s *session) greetAll(ctx context.Context) {
	every := max(s.t/2, 100*time.Millisecond)
	var wg sync.WaitGroup
	defer wg.Wait()
	busy := make(map[raft.ServerID]chan struct{})
	for ctx.Err() == nil {
		h := s.r.ours()
		s.r.forget()
		for _, m := range s.r.store.servers() {
			if m.ID == s.transport.id {
				continue
			}
			if busy[m.ID] == nil {
				busy[m.ID] = make(chan struct{}, 1)
			}
			turn := busy[m.ID]
			select {
			case turn <- struct{}{}:
			default:
				continue // the last one is still under way
			}
			wg.Go(func() {
				defer func() { <-turn }()
				s.greet(m, h)
			})
		}
		sleep(ctx, every)
	}
}

func (s *session) greet(m raft.Server, h Hello) {
	theirs, err := s.transport.greet(m.ID, m.Address, h)
	if err != nil {
		s.r.unheard(m.ID, err)
		return
	}
	s.r.hear(m.ID, theirs)
}

// order says which of two nodes should rather hold the seat: negative for a.
func order(a, b Hello) int {
	bad := func(h Hello) int {
		if h.excluded() || !h.Wants {
			return 2
		}
		if !h.Healthy {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(bad(a), bad(b)), cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Name, b.Name))
}

// better reports whether a peer goes before this node.
func (r *Raft) better(id string) bool {
	us := r.ours()
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.peers[raft.ServerID(id)]
	return ok && order(p.hello, us) < 0
}

// wait is how long this node lets reachable nodes other than leader go first: a
// millisecond each, and longer than the contacts to a leader differ (heartbeats go
// out each T/10 to T/5, and take their time) if one of them has a higher priority.
func (r *Raft) wait(leader string) time.Duration {
	us := r.ours()
	r.mu.Lock()
	defer r.mu.Unlock()
	var d, skew time.Duration
	for id, p := range r.peers {
		if string(id) == leader || string(id) == us.ID || !p.fresh(r.id.T) || order(p.hello, us) >= 0 {
			continue
		}
		d += time.Millisecond
		if p.hello.Priority > us.Priority {
			skew = r.id.T * 3 / 10
		}
	}
	return d + skew
}

// standsBack reports whether this node lets others go first.
func (r *Raft) standsBack() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.healthy || !r.wanted || !r.canHold()
}

// successor is the best node to hand the seat to, "" when there is none. With
// onlyHealthier it must be healthy while this node is not. The caller holds mu.
func (r *Raft) successor(onlyHealthier bool) string {
	if onlyHealthier && r.healthy {
		return ""
	}
	var best *Hello
	for _, v := range r.store.latest() {
		p, ok := r.peers[raft.ServerID(v)]
		if !ok || v == string(r.id.serverID()) || !p.fresh(r.id.T) || p.hello.excluded() || !p.hello.Wants || onlyHealthier && !p.hello.Healthy {
			continue
		}
		if p.hello.Name == r.prefer {
			return r.prefer
		}
		if best == nil || order(p.hello, *best) < 0 {
			best = &p.hello
		}
	}
	if best == nil {
		return ""
	}
	return best.Name
}

// couldTake returns why the named node could not take the seat now.
func (r *Raft) couldTake(name string) error {
	id, _, ok := r.store.server(name)
	if !ok || !slices.Contains(r.store.latest(), string(id)) {
		return fmt.Errorf("%s is not a voting member", name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch p, ok := r.peers[id]; {
	case !ok || !p.fresh(r.id.T):
		return fmt.Errorf("%s does not answer", name)
	case p.hello.excluded():
		return fmt.Errorf("%s is not a candidate", name)
	case !p.hello.Wants:
		return fmt.Errorf("%s does not want the seat: it is stopping", name)
	}
	return nil
}
