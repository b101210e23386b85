package leader

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// A stamp travels with each request of Raft, in a header field that Raft itself
// no longer reads: the promise that the sender counts on, and why a promise to
// another need not be kept.
type stamp struct {
	T       time.Duration `json:"t"`
	Release *Release      `json:"release,omitempty"`
}

func (s stamp) bytes() []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic("stamp: " + err.Error())
	}
	return b
}

func readStamp(b []byte) (stamp, error) {
	var s stamp
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("request without a stamp: %w", err)
	}
	if s.T <= 0 || s.T > time.Minute {
		return s, fmt.Errorf("request counts on a promise of %v", s.T)
	}
	return s, nil
}

// A transport carries Raft's requests and keeps the word of the node: it counts
// acknowledgements by the time their request was *sent*, answers nothing that
// its promise forbids, and orders candidates. It embeds *raft.NetworkTransport
// itself: wrapped as an interface, Raft would silently lose pre-votes.
type transport struct {
	*raft.NetworkTransport
	keeper   *keeper
	campaign *campaign
	id       raft.ServerID
	t        time.Duration
	ready    <-chan struct{} // closed when what follows may be called
	voters   func() [][]string
	current  func() uint64                   // newest term known to Raft
	hello    func(h Hello) Hello             // takes a peer's hello, returns ours
	elected  func()                          // called when this node asks for votes: a majority would vote for it
	release  func(to raft.ServerID) *Release // gives up the seat, called right before the hand-over is sent

	beats   sync.WaitGroup             // heartbeats that Raft is looking at
	mu      sync.Mutex                 // guards what follows
	closed  bool                       // no more heartbeats
	matched map[raft.ServerID]position // the newest entry that a peer has stored, as leader

	rpcs    chan raft.RPC
	done    chan struct{}
	closing sync.Once
}

// pump filters the requests that come in until the transport is closed.
func (t *transport) pump() {
	var waiting sync.WaitGroup
	defer waiting.Wait()
	for {
		select {
		case r := <-t.NetworkTransport.Consumer():
			if _, ok := r.Command.(*raft.RequestPreVoteRequest); ok {
				waiting.Go(func() { t.pass(r) }) // its answer may take a while
			} else {
				t.pass(r)
			}
		case <-t.done:
			return
		}
	}
}

// pass lets Raft see a request if it may.
func (t *transport) pass(r raft.RPC) {
	if !t.admit(r) {
		return
	}
	select {
	case t.rpcs <- r:
	case <-t.done:
		r.Respond(nil, raft.ErrTransportShutdown)
	}
}

// Close ends what the transport does. Raft closes it too when it shuts down. It
// waits for heartbeats, which Raft does not: they write to the store.
func (t *transport) Close() error {
	t.closing.Do(func() { close(t.done) })
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.beats.Wait()
	return t.NetworkTransport.Close()
}

// Consumer implements raft.Transport.
func (t *transport) Consumer() <-chan raft.RPC { return t.rpcs }

// SetHeartbeatHandler implements raft.Transport. Heartbeats do not pass through
// Consumer.
func (t *transport) SetHeartbeatHandler(cb func(raft.RPC)) {
	t.NetworkTransport.SetHeartbeatHandler(func(r raft.RPC) {
		t.mu.Lock()
		closed := t.closed
		if !closed {
			t.beats.Add(1)
		}
		t.mu.Unlock()
		if closed {
			r.Respond(nil, raft.ErrTransportShutdown)
			return
		}
		defer t.beats.Done()
		if t.admit(r) {
			cb(r)
		}
	})
}

// admit reports whether Raft may see a request; it has answered those that Raft
// may not.
func (t *transport) admit(r raft.RPC) bool {
	err := t.judge(r)
	switch {
	case err == errAnswered:
		return false
	case err != nil:
		r.Respond(nil, errors.New(refusal+err.Error()))
		return false
	}
	return true
}

// refusal begins the error of a peer that may not answer, as against one that
// could not be reached.
const refusal = "refused: "

func isRefusal(err error) bool { return strings.HasPrefix(err.Error(), refusal) }

var errAnswered = errors.New("answered")

func (t *transport) judge(r raft.RPC) error {
	switch c := r.Command.(type) {
	case *raft.AppendEntriesRequest:
		return t.judgeStamped(Append, c.RPCHeader, c.Term, c.Leader)
	case *raft.InstallSnapshotRequest:
		err := t.judgeStamped(Append, c.RPCHeader, c.Term, c.Leader)
		if err != nil && r.Reader != nil {
			_, _ = io.Copy(io.Discard, r.Reader) // the connection is reused; if it broke, its next user finds out
		}
		return err
	case *raft.RequestVoteRequest:
		if c.Term == 0 {
			return t.answerHello(r, c)
		}
		return t.judgeStamped(Vote, c.RPCHeader, c.Term, c.Candidate)
	case *raft.RequestPreVoteRequest:
		if err := t.admitPreVote(Ask{Kind: PreVote, From: string(c.ID), Term: c.Term}); err != nil {
			return err
		}
		return t.campaign.asked(string(c.ID), c.LastLogTerm, c.LastLogIndex)
	case *raft.TimeoutNowRequest:
		s, err := readStamp(c.Addr)
		if err != nil {
			return err
		}
		return t.keeper.receive(s.Release)
	}
	return fmt.Errorf("unknown request %T", r.Command)
}

// admitPreVote waits for the end of a promise that is about to end, instead of
// refusing: a candidate that is refused waits for T or more before it asks again.
func (t *transport) admitPreVote(a Ask) error {
	err := t.keeper.admit(t.current(), a)
	_, left := t.keeper.promised()
	if err == nil || left <= 0 || left > t.campaign.patience() {
		return err
	}
	select {
	case <-time.After(left):
	case <-t.done:
	}
	return t.keeper.admit(t.current(), a)
}

func (t *transport) judgeStamped(kind Kind, h raft.RPCHeader, term uint64, raw []byte) error {
	s, err := readStamp(raw)
	if err != nil {
		return err
	}
	return t.keeper.admit(t.current(), Ask{Kind: kind, From: string(h.ID), Term: term, T: s.T, Release: s.Release})
}

func (t *transport) stamp(term uint64) []byte {
	return stamp{T: t.t, Release: t.keeper.releaseFor(term)}.bytes()
}

// AppendEntries implements raft.Transport.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	<-t.ready
	if t.keeper.silenced(args.Term) {
		return errSilenced
	}
	a := *args
	a.Leader = t.stamp(args.Term)
	sent := t.keeper.clock()
	if err := t.NetworkTransport.AppendEntries(id, target, &a, resp); err != nil {
		return err
	}
	if resp.Success {
		t.stored(id, args)
	}
	if resp.Success && resp.Term == args.Term && t.current() == args.Term {
		t.keeper.acked(string(id), args.Term, sent, t.t, t.voters())
	}
	return nil
}

// A position is an entry of the log as known in one term of a leader.
type position struct{ term, index uint64 }

// stored notes what a peer has acknowledged. Heartbeats say nothing of it.
func (t *transport) stored(id raft.ServerID, args *raft.AppendEntriesRequest) {
	at := position{args.Term, args.PrevLogEntry}
	if n := len(args.Entries); n > 0 {
		at.index = args.Entries[n-1].Index
	}
	if at.index == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.matched[id] = at
}

// has reports whether a peer has stored the entry at the given position.
func (t *transport) has(id raft.ServerID, at position) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.matched[id]
	return m.term == at.term && m.index >= at.index
}

// AppendEntriesPipeline implements raft.Transport. Pipelined answers could not
// be told from their send times, so there are none.
func (t *transport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// InstallSnapshot implements raft.Transport.
func (t *transport) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	a := *args
	a.Leader = t.stamp(args.Term)
	return t.NetworkTransport.InstallSnapshot(id, target, &a, resp, data)
}

// RequestVote implements raft.Transport.
func (t *transport) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	<-t.ready
	if err := t.keeper.mayStand(args.Term); err != nil {
		return err
	}
	t.elected()
	a := *args
	a.Candidate = t.stamp(args.Term)
	return t.again(func() error { return t.NetworkTransport.RequestVote(id, target, &a, resp) })
}

// RequestPreVote implements raft.WithPreVote.
func (t *transport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	<-t.ready
	if err := t.keeper.mayStand(args.Term); err != nil {
		return err
	}
	if err := t.campaign.begin(); err != nil {
		return err
	}
	err := t.again(func() error { return t.NetworkTransport.RequestPreVote(id, target, args, resp) })
	return t.campaign.answered(err, err == nil && resp.Granted)
}

// TimeoutNow implements raft.Transport: the hand-over. The claim ends first.
func (t *transport) TimeoutNow(id raft.ServerID, target raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	a := *args
	a.Addr = stamp{T: t.t, Release: t.release(id)}.bytes()
	return t.again(func() error { return t.NetworkTransport.TimeoutNow(id, target, &a, resp) })
}

// greet exchanges hellos with a peer. It also keeps a connection warm, so that
// an election does not begin with handshakes.
func (t *transport) greet(id raft.ServerID, target raft.ServerAddress, h Hello) (Hello, error) {
	body, err := json.Marshal(h)
	if err != nil {
		return Hello{}, err
	}
	req := raft.RequestVoteRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(t.id)}, Candidate: body}
	var resp raft.RequestVoteResponse
	if err := t.NetworkTransport.RequestVote(id, target, &req, &resp); err != nil {
		return Hello{}, err
	}
	var theirs Hello
	err = json.Unmarshal(resp.Peers, &theirs)
	return theirs, err
}

func (t *transport) answerHello(r raft.RPC, c *raft.RequestVoteRequest) error {
	var theirs Hello
	if err := json.Unmarshal(c.Candidate, &theirs); err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	ours, err := json.Marshal(t.hello(theirs))
	if err != nil {
		return err
	}
	r.Respond(&raft.RequestVoteResponse{Peers: ours}, nil)
	return errAnswered
}

// again repeats a request that failed at once: connections from before a peer's
// restart, up to the size of the pool, are dead but not known to be.
func (t *transport) again(f func() error) error {
	var err error
	for range connPool + 1 {
		start := t.keeper.clock()
		if err = f(); err == nil || isRefusal(err) || t.keeper.clock().Sub(start) > t.t/4 {
			return err
		}
	}
	return err
}

// connPool is how many connections Raft keeps to each peer.
const connPool = 3
