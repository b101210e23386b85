package leader

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// A Member is a node of the cluster as this node sees it.
type Member struct {
	Name    string    `json:"name"`
	ID      string    `json:"id"`
	Address string    `json:"address"`
	Voter   bool      `json:"voter"`
	Leader  bool      `json:"leader"`
	Self    bool      `json:"self"`
	Alive   bool      `json:"alive"`           // heard within the last few exchanges
	Heard   time.Time `json:"heard,omitzero"`  // zero when never
	Error   string    `json:"error,omitempty"` // why it cannot be reached
	Hello   Hello     `json:"hello"`
}

// A RaftStatus is what an elector knows of itself and its cluster.
type RaftStatus struct {
	Cluster   string        `json:"cluster"` // "" before it has joined
	Phase     string        `json:"phase,omitempty"`
	State     string        `json:"state"` // follower, candidate, leader
	Term      uint64        `json:"term"`
	Leader    string        `json:"leader"`
	Profile   Profile       `json:"profile"`
	T         time.Duration `json:"t"`
	Removed   bool          `json:"removed"` // this node is no member any more
	LastIndex uint64        `json:"lastIndex"`
	Commit    uint64        `json:"commit"`
	Promise   string        `json:"promise,omitempty"` // who this node acknowledged last
	Members   []Member      `json:"members"`
}

// Status is what is known now. It does not block on the network.
func (r *Raft) Status() RaftStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := RaftStatus{Cluster: r.id.Cluster, Phase: r.phase, T: r.id.T, Profile: profileOf(r.id.T), State: "joining"}
	var lead raft.ServerID
	if s := r.session; s != nil {
		lead = s.leader()
		st.State, st.Term = strings.ToLower(s.raft.State().String()), s.raft.CurrentTerm()
		st.LastIndex, st.Commit = s.raft.LastIndex(), s.raft.CommitIndex()
		st.Leader = nodeName(lead)
		if h, left := r.keeper.promised(); left > 0 {
			st.Promise = nodeName(raft.ServerID(h))
		}
	}
	servers := r.store.servers()
	for _, m := range servers {
		st.Members = append(st.Members, r.member(m, lead))
	}
	slices.SortFunc(st.Members, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	st.Removed = len(servers) > 0 && !slices.ContainsFunc(st.Members, func(m Member) bool { return m.Self })
	return st
}

// member describes one member. The caller holds mu.
func (r *Raft) member(m raft.Server, lead raft.ServerID) Member {
	p := r.peers[m.ID]
	out := Member{Name: nodeName(m.ID), ID: string(m.ID), Address: string(m.Address), Voter: m.Suffrage == raft.Voter,
		Leader: m.ID == lead, Heard: p.heard, Alive: p.fresh(r.id.T), Hello: p.hello, Error: p.err}
	if m.ID == r.id.serverID() {
		out.Self, out.Alive, out.Error = true, true, ""
	}
	if out.Alive {
		out.Error = ""
	}
	return out
}

// PeerOf is the name of the peer that claims with this hardware address, "" for
// a stranger's.
func (r *Raft) PeerOf(mac string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.peers {
		if slices.Contains(p.hello.MACs, mac) {
			return p.hello.Name
		}
	}
	return ""
}

// Remove takes a node out of the cluster, for good: it must not come back with
// its old state. It blocks until the rest has agreed.
func (r *Raft) Remove(ctx context.Context, name string) error {
	return r.askLeader(ctx, question{Op: "remove", Name: name})
}

// Transfer asks the holder to hand the seat to a node, "" for the best one. It
// returns when the holder has begun.
func (r *Raft) Transfer(ctx context.Context, to string) error {
	return r.askLeader(ctx, question{Op: "transfer", Name: to})
}

// SetProfile changes how fast the whole cluster is. Each request says which
// promise it counts on, so nodes may change one after the other.
func (r *Raft) SetProfile(ctx context.Context, p Profile) error {
	if p.T() == 0 {
		return fmt.Errorf("profile %q: want fast, default or wan", p)
	}
	return r.askLeader(ctx, question{Op: "profile", T: p.T()})
}
