package agent

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/pintle-lb/pintle/leader"
)

// The simulation runs whole clusters in one goroutine: the real Plan and Facts,
// the real leader.Word and leader.Lease on clocks that drift up to five per cent
// apart, under a small model of Raft (terms, votes, a log of configurations) and
// a hostile network, with setters that fail and get stuck. The invariants are
// checked at every step; the seed of a failing run is printed.

const (
	simStep  = time.Millisecond
	simFault = 6 * time.Second // faults until then
	simSick  = 8 * time.Second // then the holder becomes unhealthy
	simEnd   = 11 * time.Second
)

var simAddr = netip.MustParsePrefix("192.0.2.1/32")

// A simConf is the cluster's configuration as of one log index.
type simConf struct {
	index  uint64
	term   uint64
	voters []string
	t      time.Duration
}

type simMsg struct {
	at       time.Duration
	from, to string
	kind     string // append, appended, vote, voted, timeout
	term     uint64
	t        time.Duration
	sent     leader.Instant // sender's clock, echoed
	release  *leader.Release
	transfer bool
	conf     simConf // sender's latest
	commit   uint64
	ok       bool
}

// A simNode is one machine.
type simNode struct {
	w    *simWorld
	name string
	rate float64 // of its clock
	skew time.Duration

	dead, paused bool
	wakeAt       time.Duration
	backAt       time.Duration // wants the seat again

	// kept on disk
	conf     simConf // latest
	kept     uint64  // term as of the last write
	promised time.Duration

	// Raft
	term, votedIn uint64
	votedFor      string
	role          string // follower, candidate, leader
	holder        string // as known
	contact       leader.Instant
	votes         map[string]bool
	commit        uint64
	beatAt        leader.Instant
	tryAt         leader.Instant
	matched       map[string]uint64
	handing       bool

	// safety
	word    *leader.Word
	lease   *leader.Lease
	allowed bool
	silent  uint64

	// agent
	facts   Facts
	bound   simSetter[netip.Prefix]
	targets simSetter[Target]
	routes  simSetter[Route]
	seats   []string
	witness bool

	// as routers see it
	lastSeen time.Duration // when routers last knew that the node lives
	believed bool          // routers send packets for the address to it
}

// A simSetter is a setter that takes its time and sometimes fails.
type simSetter[T comparable] struct {
	part   part[T]
	truth  []T
	doneAt time.Duration
}

type simWorld struct {
	t       *testing.T
	seed    uint64
	r       *rand.Rand
	now     time.Duration
	nodes   []*simNode
	wire    []simMsg
	cut     map[[2]string]bool
	detect  time.Duration // routers drop the route of a silent node after this; 0: no BGP
	history []string
}

func (w *simWorld) failf(format string, args ...any) {
	w.t.Helper()
	from := max(0, len(w.history)-25)
	for _, h := range w.history[from:] {
		w.t.Log(h)
	}
	w.t.Fatalf("SIM_SEED=%d SIM_RUNS=1, at %v: %s", w.seed, w.now, fmt.Sprintf(format, args...))
}

func (w *simWorld) log(format string, args ...any) {
	w.history = append(w.history, fmt.Sprintf("%v: ", w.now)+fmt.Sprintf(format, args...))
	if len(w.history) > 400 {
		w.history = slices.Delete(w.history, 0, 200)
	}
}

func (n *simNode) clock() leader.Instant {
	return leader.Instant(float64(n.w.now)*n.rate) + leader.Instant(n.skew)
}

func newSimWorld(t *testing.T, seed uint64) *simWorld {
	w := &simWorld{t: t, seed: seed, r: rand.New(rand.NewPCG(7, seed)), cut: map[[2]string]bool{}}
	size := 3
	if w.r.IntN(4) == 0 {
		size = 5
	}
	if w.r.IntN(2) == 0 {
		w.detect = time.Duration(100+w.r.IntN(400)) * time.Millisecond
	}
	conf := simConf{index: 1, term: 1, t: 100 * time.Millisecond}
	for i := range size {
		conf.voters = append(conf.voters, fmt.Sprint("n", i))
	}
	if w.r.IntN(3) == 0 {
		conf.voters = conf.voters[:size-2] // the others join later
	}
	for i := range size {
		n := &simNode{w: w, name: fmt.Sprint("n", i), rate: 0.975 + 0.025*float64(w.r.IntN(3)), skew: time.Duration(w.r.IntN(1e9)), conf: conf}
		n.witness = i == 2 && w.r.IntN(4) == 0
		n.kept, n.promised = 1, conf.t
		w.nodes = append(w.nodes, n)
		n.boot(false)
	}
	return w
}

// boot starts the process of a node. The kernel keeps its addresses until then.
func (n *simNode) boot(again bool) {
	n.dead, n.paused = false, false
	n.role, n.holder, n.term, n.votedIn, n.votedFor = "follower", "", n.kept, 0, ""
	n.votes, n.matched, n.lease, n.silent, n.handing, n.commit = nil, nil, nil, 0, false, 0
	n.word = leader.NewWord(n.name, n.conf.t)
	if again {
		n.word.Restarted(n.clock(), max(n.promised, n.conf.t), true)
	}
	n.contact = n.clock()
	n.tryAt = 0
	n.bound = simSetter[netip.Prefix]{} // swept at start
	n.targets = simSetter[Target]{}
	n.routes = simSetter[Route]{}
	n.facts = Facts{Node: n.name, Linger: time.Second, HoldDown: 300 * time.Millisecond, Seats: map[string]Seat{}, Checks: map[string]bool{"c": true},
		Heard: map[netip.Addr]leader.Instant{}, Ready: n.w.seed%3 == 0, Rest: Rest{Step: 300 * time.Millisecond},
		Routing: Routing{Detection: n.w.detect}, Routed: map[string]leader.Instant{}, out: map[string]bool{}}
	if !n.witness {
		n.facts.Claims = []Claim{{Name: "cp", Seat: "cp", Addrs: []Placed{{simAddr, []string{"eth0"}}}, Announce: Announce{Wire: true, BGP: n.w.detect > 0}}}
	}
	n.seats = nil
}

func (n *simNode) voter() bool { return slices.Contains(n.conf.voters, n.name) }

// sets are the configurations in which a claim needs a majority.
func (n *simNode) sets() [][]string {
	sets := [][]string{n.conf.voters}
	if n.commit < n.conf.index {
		sets = append(sets, n.w.before(n.conf).voters)
	}
	return sets
}

// confs is every configuration ever proposed, by (index, term): the log.
var confs map[[2]uint64]simConf

func (w *simWorld) before(c simConf) simConf {
	if p, ok := confs[[2]uint64{c.index, c.term}]; ok {
		return p
	}
	return c
}

func (n *simNode) send(m simMsg) {
	m.from = n.name
	copies := 1
	if n.w.now < simFault && n.w.r.IntN(25) == 0 {
		copies = n.w.r.IntN(3)
	}
	for range copies {
		d := time.Duration(n.w.r.IntN(1500)) * time.Microsecond
		if n.w.now < simFault && n.w.r.IntN(30) == 0 {
			d = time.Duration(n.w.r.IntN(250)) * time.Millisecond
		}
		m.at = n.w.now + d
		n.w.wire = append(n.w.wire, m)
	}
}

func (n *simNode) others() []string {
	var o []string
	for _, v := range n.conf.voters {
		if v != n.name {
			o = append(o, v)
		}
	}
	return o
}

func (n *simNode) newer(c simConf) bool {
	return cmp.Or(cmp.Compare(c.term, n.conf.term), cmp.Compare(c.index, n.conf.index)) >= 0
}

func (n *simNode) stepDown(term uint64) {
	if term > n.term {
		n.term = term
	}
	n.role, n.votes = "follower", nil
}

func (n *simNode) receive(m simMsg) {
	now := n.clock()
	switch m.kind {
	case "append":
		ask := leader.Ask{Kind: leader.Append, From: m.from, Term: m.term, T: m.t, Release: m.release}
		n.promised = max(n.promised, m.t)
		if err := n.word.Admit(now, n.term, ask); err != nil {
			if os.Getenv("SIM_DEBUG") != "" {
				n.w.log("%s refuses %s term %d: %v", n.name, m.from, m.term, err)
			}
			return
		}
		n.dropIfEnded()
		if m.term < n.term {
			n.send(simMsg{to: m.from, kind: "appended", term: n.term})
			return
		}
		if m.term > n.term || n.role != "follower" {
			n.stepDown(m.term)
		}
		n.holder, n.contact = m.from, now
		ok := n.newer(m.conf)
		if ok && (n.conf.index != m.conf.index || n.conf.term != m.conf.term) {
			n.conf, n.kept = m.conf, n.term // on disk
		}
		n.commit = min(m.commit, n.conf.index)
		if n.commit == n.conf.index && n.word.Settle(now, n.conf.t) {
			n.promised = n.conf.t
		}
		n.send(simMsg{to: m.from, kind: "appended", term: n.term, ok: true, sent: m.sent, t: m.t, conf: n.conf})
	case "appended":
		if m.term > n.term {
			n.stepDown(m.term)
			return
		}
		if n.role == "leader" && m.ok && m.term == n.term {
			n.contact = now
			n.matched[m.from] = max(n.matched[m.from], m.conf.index)
			n.word.Acked(m.from, m.term, m.sent, m.t)
			n.advance()
			n.renew()
		}
	case "vote":
		ask := leader.Ask{Kind: leader.Vote, From: m.from, Term: m.term, Release: m.release}
		if n.word.Admit(now, n.term, ask) != nil || m.term < n.term {
			return
		}
		if m.term > n.term {
			n.stepDown(m.term)
		}
		ok := n.role == "follower" && (n.votedIn < m.term || n.votedIn == m.term && n.votedFor == m.from)
		ok = ok && cmp.Or(cmp.Compare(m.conf.term, n.conf.term), cmp.Compare(m.conf.index, n.conf.index)) >= 0
		if ok {
			n.votedIn, n.votedFor, n.contact = m.term, m.from, now
		}
		n.send(simMsg{to: m.from, kind: "voted", term: n.term, ok: ok})
	case "voted":
		if m.term > n.term {
			n.stepDown(m.term)
		}
		if n.role == "candidate" && m.ok && m.term == n.term {
			n.votes[m.from] = true
			n.count()
		}
	case "timeout":
		if n.word.Receive(now, m.release) == nil {
			n.stand(true)
		}
	}
}

func (n *simNode) count() {
	yes := 0
	for _, v := range n.conf.voters {
		if n.votes[v] {
			yes++
		}
	}
	if yes > len(n.conf.voters)/2 {
		n.role, n.holder, n.matched, n.beatAt, n.handing = "leader", n.name, map[string]uint64{}, 0, false
		n.contact = n.clock()
		n.w.log("%s leads term %d", n.name, n.term)
	}
}

// advance commits what a majority of the latest configuration has.
func (n *simNode) advance() {
	have := 0
	for _, v := range n.conf.voters {
		if v == n.name || n.matched[v] >= n.conf.index {
			have++
		}
	}
	if have > len(n.conf.voters)/2 {
		n.commit = n.conf.index
	}
}

// renew moves the lease as leader.Raft does.
func (n *simNode) renew() {
	now := n.clock()
	until := n.word.Until(now, n.term, n.conf.t, n.sets()...)
	if until <= now || !n.allowed || n.witness {
		return
	}
	if n.lease != nil && n.lease.Extend(until) && n.facts.Seats["cp"].Term.Epoch == n.term {
		return
	}
	n.lease = leader.NewLease(n.clock, until)
	n.w.log("%s holds in term %d until %v", n.name, n.term, until.Sub(now))
}

func (n *simNode) dropIfEnded() {
	if n.lease != nil && n.word.Ended(n.facts.Seats["cp"].Term.Epoch) {
		n.lease.Revoke()
		n.lease = nil
	}
}

func (n *simNode) stand(transfer bool) {
	now := n.clock()
	if !n.voter() || n.word.MayStand(now, n.term+1) != nil {
		return
	}
	n.term++
	n.role, n.votes, n.votedIn, n.votedFor, n.holder = "candidate", map[string]bool{n.name: true}, n.term, n.name, ""
	n.tryAt = now.Add(n.conf.t + time.Duration(n.w.r.Int64N(int64(n.conf.t))))
	for _, o := range n.others() {
		n.send(simMsg{to: o, kind: "vote", term: n.term, release: n.word.ReleaseFor(n.term), transfer: transfer, conf: n.conf})
	}
	n.count()
}

// elect does what time calls for.
func (n *simNode) elect() {
	now := n.clock()
	wait := n.conf.t
	if !slices.Contains(n.seats, "cp") || !n.facts.Healthy() {
		wait = 3 * n.conf.t
	}
	switch {
	case n.role == "leader" && now >= n.beatAt:
		n.beatAt = now.Add(n.conf.t / 10)
		if now.Sub(n.contact) > n.conf.t && len(n.conf.voters) > 1 || n.silent == n.term && now.Sub(n.contact) > n.conf.t {
			n.stepDown(n.term)
			return
		}
		if n.silent == n.term {
			return
		}
		if len(n.conf.voters) == 1 {
			n.contact = now
			n.advance()
			n.renew()
		}
		for _, o := range n.w.nodes {
			if o != n {
				n.send(simMsg{to: o.name, kind: "append", term: n.term, t: n.conf.t, sent: now, release: n.word.ReleaseFor(n.term), conf: n.conf, commit: n.commit})
			}
		}
		n.lead()
	case n.role == "follower" && now.Sub(n.contact) >= wait && now >= n.tryAt,
		n.role == "candidate" && now >= n.tryAt:
		n.stand(false)
	}
}

// lead gives the seat away when the node does not want it.
func (n *simNode) lead() {
	wants := slices.Contains(n.seats, "cp") && !n.witness
	ended := n.word.Ended(n.term)
	next := n.successor()
	switch {
	case n.handing && n.w.r.IntN(12) == 0: // failed: nothing was heard
		n.silent, n.handing = n.term, false
	case n.handing, wants && !ended:
	case next != "" && !ended:
		n.handing = true
		n.release(next)
	case ended:
		n.silent = n.term
	}
}

func (n *simNode) successor() string {
	for _, o := range n.w.nodes {
		if o != n && !o.dead && !o.witness && slices.Contains(o.seats, "cp") && slices.Contains(n.conf.voters, o.name) && o.facts.Healthy() {
			return o.name
		}
	}
	return ""
}

// release hands over.
func (n *simNode) release(to string) {
	n.lease.Revoke()
	n.lease = nil
	r := n.word.Release(n.term, to)
	n.w.log("%s releases term %d to %s", n.name, n.term, to)
	n.send(simMsg{to: to, kind: "timeout", term: n.term, release: r})
}

// term is what the elector would report.
func (n *simNode) report() leader.Term {
	t := leader.Term{Holder: n.holder, Epoch: n.term, Joined: true, Standing: n.role == "candidate" && !n.witness}
	if n.lease != nil {
		t.Holder, t.Lease = n.name, n.lease
		if !n.facts.Healthy() {
			t.Successor = n.successor()
		}
	}
	return t
}

// work lets a setter take one step; it may fail, or be stuck for a while.
func work[T comparable](n *simNode, s *simSetter[T]) (err error) {
	p := &s.part
	calm := n.w.now >= simFault
	switch {
	case p.busy && n.w.now >= s.doneAt:
		p.busy = false
		if !calm && n.w.r.IntN(6) == 0 {
			err = fmt.Errorf("injected")
			s.truth = p.doing[:n.w.r.IntN(len(p.doing)+1)] // a part of it was done
		} else {
			s.truth = p.doing
		}
		p.have, p.doing, p.err = s.truth, nil, err
	case !p.busy && (!same(p.have, p.mailed) || p.mailed != nil && p.have == nil):
		p.doing, p.busy = p.mailed, true
		s.doneAt = n.w.now + time.Duration(n.w.r.IntN(2))*simStep
		if !calm && n.w.r.IntN(40) == 0 {
			s.doneAt += time.Duration(n.w.r.IntN(800)) * time.Millisecond // RTNL
		}
		// from here on either may be true
		s.truth = s.truth[:len(s.truth):len(s.truth)]
	}
	return err
}

// agent turns the loop.
func (n *simNode) agent() {
	f := &n.facts
	f.Tick(n.clock())
	f.Learn("cp", n.report())
	look := func() {
		f.Have = State{Addresses: n.bound.part.have, Targets: n.targets.part.have, Routes: n.routes.part.have}
		f.Doing = State{Addresses: n.bound.part.certain(), Targets: n.targets.part.possible(), Routes: n.routes.part.possible()}
		f.Note()
	}
	look()
	sick := f.Sick("cp")
	want := Plan(f)
	if sick && !slices.Contains(want.Seats, "cp") {
		f.Yielded("cp")
	}
	n.seats = want.Seats
	n.allowed = slices.Contains(n.seats, "cp")
	if !n.allowed && n.lease.Valid() && slices.ContainsFunc(n.targets.truth, func(t Target) bool { return t.Lease.Valid() }) {
		n.w.failf("%s resigns while it claims", n.name)
	}
	if !n.allowed && n.lease.Valid() && n.advertises() {
		n.w.failf("%s resigns while it advertises", n.name)
	}
	if !n.allowed && n.lease != nil {
		n.lease.Revoke()
		n.lease = nil
	}
	n.bound.part.mailed, n.targets.part.mailed, n.routes.part.mailed = want.Addresses, want.Targets, want.Routes
	f.Unable = ""
	if err := work(n, &n.bound); err != nil {
		f.Unable = err.Error()
	}
	_ = work(n, &n.targets)
	_ = work(n, &n.routes)
	look()
}

// advertises reports whether the process lets routers have the address: it
// withdraws a route by itself when the lease is over.
func (n *simNode) advertises() bool {
	return slices.ContainsFunc(n.routes.truth, func(r Route) bool { return r.Lease == nil || r.Lease.Valid() })
}

// look has the routers look at a node. One that does not run is silent: they go
// on believing what it said last, for as long as they take to notice.
func (w *simWorld) look(n *simNode) {
	if !n.dead && !n.paused {
		n.lastSeen, n.believed = w.now, n.advertises()
	}
	if w.now >= n.lastSeen+w.detect {
		n.believed = false
	}
}

// checkRoutes: no two nodes have the packets of a router at a time.
func (w *simWorld) checkRoutes() (routed []string) {
	for _, n := range w.nodes {
		w.look(n)
		if !n.believed {
			continue
		}
		if !n.dead && !n.paused && !n.lease.Valid() {
			w.failf("%s advertises without a lease", n.name)
		}
		routed = append(routed, n.name)
		if !slices.Contains(n.bound.truth, simAddr) && !n.paused && !n.dead {
			w.failf("%s advertises what it does not hold", n.name)
		}
	}
	if len(routed) > 1 {
		w.failf("routers send packets to %v", routed)
	}
	return routed
}

// check holds the invariants against what is true now.
func (w *simWorld) check() (claiming []string) {
	for _, n := range w.nodes {
		if n.dead {
			continue
		}
		for _, t := range n.targets.truth {
			if t.Lease == nil || !t.Lease.Valid() {
				continue
			}
			claiming = append(claiming, n.name)
			if !slices.Contains(n.bound.truth, simAddr) && !n.paused {
				w.failf("%s announces what it does not hold", n.name)
			}
		}
	}
	if len(claiming) > 1 {
		w.failf("%v claim the address", claiming)
	}
	return claiming
}

func (w *simWorld) step() []string {
	w.now += simStep
	if w.now < simFault {
		w.harm()
	} else if w.now == simFault {
		w.heal()
	}
	due := w.wire[:0:0]
	rest := w.wire[:0]
	for _, m := range w.wire {
		if m.at <= w.now {
			due = append(due, m)
		} else {
			rest = append(rest, m)
		}
	}
	w.wire = rest
	for _, m := range due {
		w.deliver(m)
	}
	for _, n := range w.nodes {
		if n.paused && w.now >= n.wakeAt {
			n.paused = false
			w.log("%s wakes", n.name)
		}
		if n.dead && w.now >= n.wakeAt {
			n.boot(true)
			w.log("%s starts again", n.name)
		}
		if n.backAt != 0 && w.now >= n.backAt {
			n.facts.Draining, n.backAt = false, 0
		}
		if !n.dead && !n.paused {
			n.elect()
			n.agent()
		}
	}
	w.checkRoutes()
	return w.check()
}

func (w *simWorld) deliver(m simMsg) {
	for _, n := range w.nodes {
		switch {
		case n.name != m.to || n.dead || w.cut[[2]string{m.from, m.to}]:
		case n.paused:
			m.at = n.wakeAt // the kernel keeps it
			w.wire = append(w.wire, m)
		default:
			n.receive(m)
		}
	}
}

// harm does something bad now and then.
func (w *simWorld) harm() {
	if w.r.IntN(150) != 0 {
		return
	}
	n := w.nodes[w.r.IntN(len(w.nodes))]
	o := w.nodes[w.r.IntN(len(w.nodes))]
	if i := slices.IndexFunc(w.nodes, func(n *simNode) bool { return n.lease.Valid() }); i >= 0 && w.r.IntN(2) == 0 {
		n = w.nodes[i] // the holder has more to lose
	}
	switch w.r.IntN(16) {
	case 0, 1:
		w.log("%s pauses", n.name)
		n.paused, n.wakeAt = !n.dead, w.now+time.Duration(w.r.IntN(900))*time.Millisecond
	case 2, 3:
		w.log("%s is killed", n.name)
		n.dead, n.paused, n.wakeAt = true, false, w.now+time.Duration(w.r.IntN(500)>>(w.r.IntN(2)*4))*time.Millisecond
	case 4:
		w.log("%s hears nothing from %s", o.name, n.name)
		w.cut[[2]string{n.name, o.name}] = true
	case 5:
		w.log("%s is cut off", n.name)
		for _, o := range w.nodes {
			w.cut[[2]string{n.name, o.name}], w.cut[[2]string{o.name, n.name}] = true, true
		}
	case 6, 7:
		clear(w.cut)
	case 8:
		n.facts.Checks["c"] = !n.facts.Checks["c"]
	case 9, 12, 13:
		n.facts.Draining = !n.facts.Draining
		if n.facts.Draining && w.r.IntN(2) == 0 {
			n.backAt = w.now + time.Duration(w.r.IntN(12))*time.Millisecond
		}
	case 10, 14, 15:
		if i := slices.IndexFunc(w.nodes, func(n *simNode) bool { return n.role == "leader" && !n.dead }); i >= 0 {
			n = w.nodes[i]
		}
		w.change(n)
	case 11:
		w.log("split")
		side := w.r.IntN(1 << len(w.nodes))
		for i, a := range w.nodes {
			for j, b := range w.nodes {
				w.cut[[2]string{a.name, b.name}] = side>>i&1 != side>>j&1
			}
		}
	}
}

// change has a leader propose another set of voters, or another T.
func (w *simWorld) change(n *simNode) {
	if n.role != "leader" || n.commit != n.conf.index || n.dead || n.paused || n.handing || n.silent == n.term {
		if s := n.facts.Seats["cp"]; s.Valid {
			n.facts.Move = &Move{Seat: "cp", Epoch: s.Term.Epoch, Until: n.clock().Add(time.Duration(5+w.r.IntN(60)) * time.Millisecond)}
		}
		return
	}
	next := simConf{index: n.conf.index + 1, term: n.term, voters: slices.Clone(n.conf.voters), t: n.conf.t}
	o := w.nodes[w.r.IntN(len(w.nodes))].name
	i := slices.Index(next.voters, o)
	switch {
	case w.r.IntN(2) == 0:
		next.t = time.Duration(60+w.r.IntN(200)) * time.Millisecond
	case i < 0:
		next.voters = append(next.voters, o)
	case len(next.voters) > 2 && o != n.name:
		next.voters = slices.Delete(next.voters, i, i+1)
	}
	confs[[2]uint64{next.index, next.term}] = n.conf
	n.conf, n.kept = next, n.term
	w.log("%s proposes %v T %v", n.name, next.voters, next.t)
}

func (w *simWorld) heal() {
	w.log("faults end")
	clear(w.cut)
	for _, n := range w.nodes {
		n.wakeAt = min(n.wakeAt, w.now)
		n.facts.Checks["c"], n.facts.Draining, n.backAt, n.facts.Rest = true, false, 0, Rest{}
	}
}

func simRuns(t *testing.T) (first, n uint64) {
	n = 1000
	if testing.Short() {
		n = 150
	}
	if s := os.Getenv("SIM_RUNS"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		n = v
	}
	if s := os.Getenv("SIM_SEED"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		first = v
	}
	return first, n
}

func TestSim(t *testing.T) {
	first, n := simRuns(t)
	for seed := first; seed < first+n; seed++ {
		confs = map[[2]uint64]simConf{}
		w := newSimWorld(t, seed)
		var claiming []string
		for w.now < simEnd {
			claiming = w.step()
			if w.now == simSick {
				for _, n := range w.nodes {
					n.facts.Checks["c"] = !slices.Contains(claiming, n.name)
				}
			}
		}
		if len(claiming) != 1 {
			w.failf("%v claim the address after all faults ended", claiming)
		}
		if routed := w.checkRoutes(); w.detect > 0 && !slices.Equal(routed, claiming) {
			w.failf("%v claims and routers send packets to %v after all faults ended", claiming, routed)
		}
		for _, n := range w.nodes {
			if n.name == claiming[0] && !n.facts.Healthy() && n.successor() != "" {
				w.failf("%s claims and is unhealthy, %s is not", n.name, n.successor())
			}
			if bound := slices.Contains(n.bound.truth, simAddr); !n.facts.Ready && bound != (n.name == claiming[0]) {
				w.failf("%s has the address: %v; %s claims it", n.name, bound, claiming[0])
			}
		}
	}
}
