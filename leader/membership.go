package leader

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// A question is what one node asks another outside of Raft.
type question struct {
	Op      string        `json:"op"` // join, remove, transfer, profile
	Name    string        `json:"name,omitempty"`
	ID      string        `json:"id,omitempty"`
	Address string        `json:"address,omitempty"`
	T       time.Duration `json:"t,omitempty"`
}

// A reply answers a question.
type reply struct {
	Error   string        `json:"error,omitempty"`
	Fresh   bool          `json:"fresh,omitempty"`  // this node belongs to no cluster either
	Leader  string        `json:"leader,omitempty"` // ask there
	Cluster string        `json:"cluster,omitempty"`
	T       time.Duration `json:"t,omitempty"`
	Agreed  uint64        `json:"agreed,omitempty"` // the log index at which T was agreed on
}

const (
	askLimit  = 5 * time.Second
	joinEvery = 500 * time.Millisecond
)

// answer serves one connection of another node.
func (r *Raft) answer(ctx context.Context, from string, conn net.Conn) {
	conn.SetDeadline(time.Now().Add(askLimit))
	var q question
	if err := readFrame(conn, &q); err != nil {
		return
	}
	a := r.consider(from, q)
	if err := writeFrame(conn, a); err != nil {
		r.log.Debug("cannot answer", "peer", from, "err", err)
	}
}

func (r *Raft) consider(from string, q question) reply {
	r.mu.Lock()
	s, id := r.session, r.id
	r.mu.Unlock()
	if id.Cluster == "" || s == nil {
		return reply{Cluster: id.Cluster, Fresh: id.Cluster == "", Error: "not ready yet"}
	}
	if s.leads() == 0 {
		addr, _ := s.raft.LeaderWithID()
		if addr == "" {
			return reply{Cluster: id.Cluster, Error: "the cluster has no leader now"}
		}
		return reply{Cluster: id.Cluster, Leader: string(addr), Error: "not the leader"}
	}
	var err error
	switch q.Op {
	case "join":
		if q.Name != from {
			err = fmt.Errorf("%s may not join as %s", from, q.Name)
			break
		}
		err = s.admit(q)
	case "remove":
		err = s.remove(q.Name)
	case "transfer":
		if r.cfg.Move == nil {
			err = errors.New("this node cannot move the seat")
			break
		}
		err = r.cfg.Move(q.Name)
	case "profile":
		err = s.propose(agreement{T: q.T}, askLimit/2)
	default:
		err = fmt.Errorf("unknown request %q", q.Op)
	}
	if err != nil {
		return reply{Cluster: id.Cluster, Error: err.Error()}
	}
	return reply{Cluster: id.Cluster, T: id.T, Agreed: id.Agreed}
}

// askAt asks the member at addr, and the leader it names.
func (r *Raft) askAt(ctx context.Context, addr, name string, q question) (reply, error) {
	for range 3 {
		a, err := r.askOnce(ctx, addr, name, q)
		if err != nil || a.Leader == "" {
			return a, err
		}
		addr, name = a.Leader, r.nameOf(raft.ServerAddress(a.Leader))
	}
	return reply{}, errors.New("the leader keeps changing")
}

func (r *Raft) askOnce(ctx context.Context, addr, name string, q question) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	var a reply
	conn, _, err := r.stream.connect(ctx, "ask", addr, name)
	if err != nil {
		return a, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err = writeFrame(conn, q); err == nil {
		err = readFrame(conn, &a)
	}
	if err != nil {
		return a, fmt.Errorf("ask %s: %w", addr, err)
	}
	return a, nil
}

// askLeader has the leader, here or elsewhere, do something.
func (r *Raft) askLeader(ctx context.Context, q question) error {
	r.mu.Lock()
	s := r.session
	r.mu.Unlock()
	if s == nil {
		return errors.New("this node has not joined a cluster yet")
	}
	var a reply
	if s.leads() != 0 {
		a = r.consider(r.cfg.Node, q)
	} else {
		addr, _ := s.raft.LeaderWithID()
		if addr == "" {
			return errors.New("the cluster has no leader now: a majority of the voters must be up")
		}
		var err error
		if a, err = r.askAt(ctx, string(addr), r.nameOf(addr), q); err != nil {
			return err
		}
	}
	if a.Error != "" {
		return errors.New(a.Error)
	}
	return nil
}

// nameOf is the name of the node at a Raft address, "" when unknown.
func (r *Raft) nameOf(addr raft.ServerAddress) string {
	for _, m := range r.store.servers() {
		if m.Address == addr {
			return nodeName(m.ID)
		}
	}
	for _, p := range r.cfg.Peers {
		if p.Address == string(addr) {
			return p.Name
		}
	}
	return ""
}

// join makes this node a member: at once when it was one before, else by asking
// the others, or, on the bootstrap node, by starting the cluster.
func (r *Raft) join(ctx context.Context) error {
	if r.cluster() != "" {
		return nil
	}
	quiet := 0 // rounds in which nobody knew of a cluster
	said := ""
	for ctx.Err() == nil {
		out := r.askAround(ctx)
		if out.cluster != "" {
			if err := r.store.Clear(); err != nil { // of a start that did not get further
				return err
			}
			return r.joined(out.cluster, out.t, out.agreed)
		}
		if out.known {
			quiet = 0
		} else {
			quiet++
		}
		started, why, err := r.tryStart(ctx, out, quiet)
		if err != nil || started {
			return err
		}
		if why = strings.Join(append([]string{why}, out.errs...), "; "); why != said {
			r.log.Info("not a member yet", "peer", r.cfg.Node, "err", why)
			said = why
		}
		r.setPhase(why)
		sleep(ctx, joinEvery)
	}
	return nil
}

func (r *Raft) setPhase(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.phase = why
}

// an outcome is what a round of asking brought.
type outcome struct {
	cluster string // joined it
	t       time.Duration
	agreed  uint64
	known   bool // somebody belongs to a cluster
	fresh   int  // configured peers that belong to none
	errs    []string
}

// A place is where a member may be asked, "" for one that may be any.
type place struct{ addr, name string }

func (r *Raft) places() []place {
	var ps []place
	for _, p := range r.cfg.Peers {
		if p.Name != r.cfg.Node {
			ps = append(ps, place{p.Address, p.Name})
		}
	}
	for _, a := range r.cfg.Join {
		ps = append(ps, place{a, ""})
	}
	return ps
}

// askAround asks every known node to let this one in, all at once.
func (r *Raft) askAround(ctx context.Context) outcome {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	q := question{Op: "join", Name: r.cfg.Node, ID: string(r.id.serverID()), Address: r.self.Address}
	places := r.places()
	replies, errs := make([]reply, len(places)), make([]error, len(places))
	var wg sync.WaitGroup
	for i, p := range places {
		wg.Go(func() {
			replies[i], errs[i] = r.askAt(ctx, p.addr, p.name, q)
			if errs[i] == nil && replies[i].letIn() {
				cancel() // one is enough
			}
		})
	}
	wg.Wait()
	return sum(places, replies, errs)
}

// letIn reports whether the cluster took the asking node in.
func (a reply) letIn() bool { return a.Error == "" && a.Cluster != "" }

// sum puts together what a round of asking brought.
func sum(places []place, replies []reply, errs []error) outcome {
	var out outcome
	for i, a := range replies {
		switch {
		case errs[i] != nil:
			out.errs = append(out.errs, errs[i].Error())
		case a.letIn():
			out.cluster, out.t, out.agreed = a.Cluster, a.T, a.Agreed
		case a.Fresh && places[i].name != "":
			out.fresh++
		case a.Cluster != "":
			out.known = true
			out.errs = append(out.errs, places[i].addr+": "+a.Error)
		}
	}
	return out
}

// tryStart starts a new cluster when this node is the one to do it and nothing
// speaks against it: no cluster is known, a majority of the configured peers
// says so (or it may start alone, after three quiet rounds), and nobody answers
// for the addresses.
func (r *Raft) tryStart(ctx context.Context, out outcome, quiet int) (started bool, why string, err error) {
	have, need := out.fresh+1, len(r.cfg.Peers)/2+1
	switch {
	case r.cfg.Bootstrap != r.cfg.Node:
		return false, "waiting for " + r.cfg.Bootstrap + " or any member", nil
	case out.known:
		return false, "waiting to be let in", nil
	case !r.cfg.Alone && have < need:
		return false, fmt.Sprintf("%d of %d peers are up, %d are needed to start the cluster", have, len(r.cfg.Peers), need), nil
	case r.cfg.Alone && quiet < 3:
		return false, "listening for a cluster", nil
	}
	if r.cfg.Free != nil {
		if err := r.cfg.Free(ctx); err != nil {
			sleep(ctx, 10*time.Second)
			return false, err.Error(), nil
		}
	}
	return true, "", r.start()
}

// start makes a new cluster of which this node is the only member yet.
func (r *Raft) start() error {
	id := r.identity()
	conf := raft.Configuration{Servers: []raft.Server{{ID: id.serverID(), Address: raft.ServerAddress(r.self.Address)}}}
	last, err := r.store.LastIndex()
	if err == nil && last == 0 { // else an earlier start got this far
		err = r.bootstrapLog(conf, 1, 1)
	}
	if err != nil {
		return err
	}
	return r.joined(randomID(8), r.cfg.Profile.T(), 0)
}

func (r *Raft) identity() identity {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.id
}

// bootstrapLog appends a configuration as the given log entry.
func (r *Raft) bootstrapLog(conf raft.Configuration, index, term uint64) error {
	if err := r.store.SetUint64([]byte("CurrentTerm"), term); err != nil {
		return err
	}
	return r.store.StoreLog(&raft.Log{Index: index, Term: term, Type: raft.LogConfiguration,
		Data: raft.EncodeConfiguration(conf), AppendedAt: time.Now()})
}

// joined keeps that this node is a member. The identity comes last on disk: a
// member without a state file is refused at the next start.
func (r *Raft) joined(cluster string, t time.Duration, agreed uint64) error {
	id := r.identity()
	id.Cluster, id.T, id.Agreed = cluster, t, agreed
	if err := r.adopt(id); err != nil {
		return err
	}
	r.setPhase("")
	r.log.Info("member of a cluster", "peer", r.cfg.Node, "cluster", cluster)
	r.publish()
	return nil
}

// admit adds a node to the cluster that this node leads, without a vote at
// first. A node of the same name that came back with nothing replaces the old.
func (s *session) admit(q question) error {
	id := raft.ServerID(q.ID)
	if nodeName(id) != q.Name {
		return fmt.Errorf("%s is not an ID of %s", q.ID, q.Name)
	}
	if _, err := net.ResolveTCPAddr("tcp", q.Address); err != nil {
		return err
	}
	for _, m := range s.r.store.servers() {
		switch {
		case m.ID == id && string(m.Address) == q.Address:
			return nil
		case nodeName(m.ID) == q.Name && m.ID != id && s.alive(m.ID):
			return fmt.Errorf("%s is up as %s: two nodes cannot have one name", q.Name, m.ID)
		case nodeName(m.ID) == q.Name && m.ID != id:
			if err := s.removeServer(m); err != nil {
				return fmt.Errorf("replace %s: %w", m.ID, err)
			}
		case string(m.Address) == q.Address && m.ID != id:
			return fmt.Errorf("%s has the address %s already", nodeName(m.ID), q.Address)
		}
	}
	s.r.log.Info("a node joins", "peer", q.Name, "addr", q.Address)
	return s.raft.AddNonvoter(id, raft.ServerAddress(q.Address), 0, askLimit/2).Error()
}

// alive reports whether a member, this node included, was heard lately.
func (s *session) alive(id raft.ServerID) bool {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	return id == s.transport.id || s.r.peers[id].fresh(s.t)
}

// remove takes a node out of the cluster that this node leads.
func (s *session) remove(name string) error {
	id, addr, ok := s.r.store.server(name)
	switch {
	case !ok:
		return fmt.Errorf("%s is not a member", name)
	case id == s.transport.id:
		return fmt.Errorf("%s leads the cluster: move the seat first (pintle raft transfer), then remove it", name)
	}
	return s.removeServer(raft.Server{ID: id, Address: addr})
}

// removeServer removes a member while the rest can go on without it.
func (s *session) removeServer(m raft.Server) error {
	var rest, alive int
	for _, v := range s.r.store.latest() {
		if v == string(m.ID) {
			continue
		}
		rest++
		if s.alive(raft.ServerID(v)) {
			alive++
		}
	}
	if alive < rest/2+1 {
		return fmt.Errorf("only %d of the %d voters that would be left answer: bring one back first", alive, rest)
	}
	s.r.log.Info("a node leaves", "peer", nodeName(m.ID), "addr", string(m.Address))
	return s.raft.RemoveServer(m.ID, 0, askLimit/2).Error()
}

// tend writes down what could wait and, while this node leads, gives votes to
// members and proposes what the cluster must agree on.
func (s *session) tend(ctx context.Context) {
	for ctx.Err() == nil {
		if err := s.r.keeper.settle(s.t); err != nil {
			s.r.log.Error("cannot keep this node's state", "err", err)
		}
		if s.leads() != 0 {
			s.agree()
			s.promote()
		}
		sleep(ctx, 250*time.Millisecond)
	}
}

// agree proposes this node's T when the cluster has none yet.
func (s *session) agree() {
	if s.r.fsm.get().T != 0 {
		return
	}
	err := s.raft.Barrier(time.Second).Error() // all that was agreed on before is known after it
	if err != nil || s.r.fsm.get().T != 0 {
		return
	}
	if err := s.propose(agreement{T: s.t}, time.Second); err != nil {
		s.r.log.Debug("cannot propose the profile", "err", err)
	}
}

// promote gives votes in pairs: two voters survive less than one. Nodes that
// are behind or away wait.
func (s *session) promote() {
	ready := s.caughtUp()
	voters := len(s.r.store.latest())
	n := len(ready) / 2 * 2
	if voters%2 == 0 {
		n = min(1, len(ready))
	}
	for _, m := range ready[:n] {
		if err := s.raft.AddVoter(m.ID, m.Address, 0, time.Second).Error(); err != nil {
			s.r.log.Warn("cannot give a node its vote", "peer", nodeName(m.ID), "err", err)
			return
		}
		s.r.log.Info("a node may vote", "peer", nodeName(m.ID))
	}
}

// caughtUp are the members without a vote that have caught up, best first.
func (s *session) caughtUp() []raft.Server {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	var ready []raft.Server
	for _, m := range s.r.store.servers() {
		p, ok := s.r.peers[m.ID]
		if m.Suffrage == raft.Nonvoter && ok && p.fresh(s.t) && p.hello.LastIndex >= s.raft.CommitIndex() {
			ready = append(ready, m)
		}
	}
	slices.SortFunc(ready, func(a, b raft.Server) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return ready
}
