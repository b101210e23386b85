package arp

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
)

// A target is what a link does for one address. It is guarded by its link's mu.
type target struct {
	addr   netip.Addr
	claim  Gate
	since  time.Time // when claim was first wanted
	course course
	rivals rivals
	group  io.Closer // membership of the solicited-node group; nil for IPv4, and until it is joined
	stat   Stat
}

func (t *target) kind() uint16 {
	if t.addr.Is4() {
		return etherARP
	}
	return etherIPv6
}

// A link is where the addresses of one network interface are spoken for.
type link struct {
	s    *Speaker
	name string
	log  *slog.Logger
	wake chan struct{} // the schedule changed
	done chan struct{} // closed by close
	turn sync.Mutex    // held by who opens sockets, which may wait for the RTNL lock; taken before mu

	// mu guards what follows. It is held across the gate's check and the sending of a frame (which never blocks), so that who
	// closes a claim under mu knows that its last frame has been sent; never across a read, an open, or a call of the user.
	mu                sync.Mutex
	targets           map[netip.Addr]*target
	order             []*target       // the same, as they were wanted
	wires             map[uint16]wire // by EtherType
	index             int             // of the link that wires belong to
	own               mac
	retry             time.Time     // when to mend; zero: nothing is broken
	wait              time.Duration // before the retry after that
	flaw              error         // what the latest mending did not mend
	notes             []func()      // what is to be done after mu is released: log, call the user, close sockets
	err               error         // of the latest announcement of any target; nil if none is claimed
	saidUse, saidSend string        // what was last logged as wrong with the sockets, and with sending,
	saidNarrow        string        // and with their filters
}

func newLink(s *Speaker, name string) *link {
	return &link{
		s: s, name: name, log: s.cfg.Log.With("link", name),
		wake: make(chan struct{}, 1), done: make(chan struct{}),
		targets: make(map[netip.Addr]*target), wires: make(map[uint16]wire),
	}
}

// unlock releases mu and then does what was noted under it.
func (l *link) unlock() {
	notes := l.notes
	l.notes = nil
	l.mu.Unlock()
	for _, do := range notes {
		do()
	}
}

// close ends the link's goroutines and sockets; no claim is sent after it has returned.
func (l *link) close() {
	l.apply(nil, time.Now())
	close(l.done)
	l.mu.Lock()
	defer l.unlock()
	l.closeWires()
}

// closeWires closes all wires. mu is held.
func (l *link) closeWires() {
	for kind := range l.wires {
		l.closeWire(kind)
	}
}

func (l *link) closeWire(kind uint16) {
	if w := l.wires[kind]; w != nil {
		delete(l.wires, kind)
		l.drop(w)
	}
}

// leave leaves the solicited-node group of t. mu is held.
func (l *link) leave(t *target) {
	if t.group != nil {
		l.drop(t.group)
		t.group = nil
	}
}

// leaveAll leaves the groups of all targets. mu is held.
func (l *link) leaveAll() {
	for _, t := range l.order {
		l.leave(t)
	}
}

// drop closes c once mu is released: the kernel may take its time (RTNL lock, RCU) to forget a socket. mu is held.
func (l *link) drop(c io.Closer) {
	l.notes = append(l.notes, func() { _ = c.Close() }) // nothing is left to be done if it fails
}

// apply makes want the targets. Who newly claims is announced: the first at once, each other 1 ms after the one before.
func (l *link) apply(want []Target, now time.Time) {
	l.mu.Lock()
	defer l.unlock()
	before := l.targets
	l.targets, l.order = make(map[netip.Addr]*target, len(want)), l.order[:0]
	start, others := now, len(before) != len(want)
	for _, w := range want {
		t := before[w.Addr]
		if t == nil {
			others = true
			t = &target{addr: w.Addr, stat: Stat{Link: l.name, Addr: w.Addr}}
			l.hurry(now)
		}
		l.targets[w.Addr], l.order = t, append(l.order, t)
		if t.claim == w.Claim {
			continue
		}
		t.claim, t.since = w.Claim, now
		t.course.stop()
		if t.claim != nil {
			t.course.restart(start)
			start = start.Add(pace)
		}
	}
	for addr, t := range before {
		if l.targets[addr] != t {
			l.leave(t)
		}
	}
	if w := l.wires[etherARP]; w != nil && others && !l.narrow(w) { // before anything is claimed
		l.lose(w)
	}
	if !slices.ContainsFunc(l.order, func(t *target) bool { return t.claim != nil }) {
		l.err = nil // no sending will show that it works again
	}
	l.announceDue(now)
	l.kick()
}

// narrow has the wire for ARP shown what is about the targets: a network may be full of questions about others. It returns false if the
// wire may be shown too little. mu is held.
func (l *link) narrow(w wire) bool {
	addrs := make([]netip.Addr, len(l.order))
	for i, t := range l.order {
		addrs[i] = t.addr
	}
	err := w.only(addrs)
	l.say(&l.saidNarrow, "leave out what is about other addresses", err)
	return err == nil
}

// restart announces all claimed addresses of these kinds as after a take-over.
func (l *link) restart(now time.Time, kinds ...uint16) {
	l.mu.Lock()
	defer l.unlock()
	start := now
	for _, t := range l.order {
		if t.claim != nil && slices.Contains(kinds, t.kind()) {
			t.course.restart(start)
			start = start.Add(pace)
		}
	}
	l.announceDue(now)
	l.kick()
}

// kick makes run look at the schedule again.
func (l *link) kick() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run announces what is due until ctx ends or the link is closed.
func (l *link) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.done:
			return nil
		case <-l.wake:
		case <-timer.C:
		}
		l.mu.Lock()
		next := l.announceDue(time.Now())
		rest := time.Duration(len(l.order)) * gather
		l.unlock()
		timer.Reset(max(time.Until(next), rest))
	}
}

// announceDue announces what is due and returns when it has to be called again. mu is held.
func (l *link) announceDue(now time.Time) (next time.Time) {
	next = now.Add(time.Hour)
	for _, t := range l.order {
		at, ok := t.course.next()
		if ok && !at.After(now) {
			t.course.pass(now, len(l.order), rand.Float64())
			l.announce(t)
			at, ok = t.course.next()
		}
		if ok && at.Before(next) {
			next = at
		}
	}
	return next
}

// announce sends one announcement of t. mu is held.
func (l *link) announce(t *target) {
	w := l.wires[t.kind()]
	if w == nil { // mend announces once there is one
		if !l.retry.IsZero() && t.claim.Valid() {
			t.stat.WriteErrors++
		}
		return
	}
	_, own, err := w.station() // a bond may have taken the address of another slave
	if err != nil {
		l.lose(w)
		return
	}
	l.isAt(own)
	sent := false
	for _, frame := range announcements(t.addr, own) {
		ok, cerr := l.claim(t, w, frame)
		sent = sent || ok
		if err == nil {
			err = cerr
		}
	}
	if sent {
		t.stat.Announced++
	}
	if sent || err != nil {
		l.err = err
		l.say(&l.saidSend, "send on link", err)
	}
}

// isAt takes note of the link's own address. mu is held.
func (l *link) isAt(own mac) {
	if own != l.own {
		l.own = own
		l.s.kin.add(own)
	}
}

// claim sends a frame that claims t's address, if the gate is open now. Every such frame passes here. mu is held.
func (l *link) claim(t *target, w wire, frame []byte) (sent bool, err error) {
	if t.claim == nil || !t.claim.Valid() {
		return false, nil
	}
	if err := w.send(frame); err != nil {
		t.stat.WriteErrors++
		return false, err
	}
	return true, nil
}

// read hands the frames of w to hear until w is closed or its link is gone.
func (l *link) read(ctx context.Context, w wire) error {
	const first, most = 10 * time.Millisecond, time.Second
	buf := make([]byte, maxFrame)
	var limit time.Duration // 0: none
	for ctx.Err() == nil {
		n, came, err := w.read(buf, limit)
		if err == nil {
			limit = 0
			if m, err := parse(buf[:n]); err == nil {
				l.hear(m, came, time.Now())
			}
			continue
		}
		// No station: closed, or the link is gone. A link that goes down says so once (ENETDOWN). Its socket works again when it is up, but does not say when it is
		// deleted instead: so look after it until the next frame comes.
		if _, _, err := w.station(); err != nil {
			l.mu.Lock()
			l.lose(w)
			l.unlock()
			return nil
		}
		limit = min(max(2*limit, first), most)
		if !errors.Is(err, os.ErrDeadlineExceeded) && !pause(ctx, limit) {
			return nil
		}
	}
	return nil
}

// pause waits for d; it returns false if ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// hear acts on one frame, which may have waited for us since it came.
func (l *link) hear(m message, came, now time.Time) {
	l.mu.Lock()
	defer l.unlock()
	if t := l.targets[m.claims]; t != nil && l.s.foreign(m, now) {
		l.contest(t, m, came, now)
	}
	// What came before our claim was answered by whoever had the address then.
	if t := l.targets[m.asks]; t != nil && m.asks != m.claims && (m.to == l.own || m.to.group()) && !came.Before(t.since) {
		l.answer(t, m)
	}
}

// answer tells the asker of m where t is. mu is held.
func (l *link) answer(t *target, m message) {
	w := l.wires[t.kind()]
	if w == nil || m.back.group() || m.back == nobody {
		return
	}
	if sent, _ := l.claim(t, w, answer(m, l.own)); sent { // a failure is counted; the asker asks again
		t.stat.Answered++
	}
}

// contest takes note of a foreign claim for t, and defends t if this node claims it. mu is held.
func (l *link) contest(t *target, m message, came, now time.Time) {
	t.stat.Heard++
	t.stat.LastMAC, t.stat.LastHeard = m.at.String(), now
	heard := Heard{Addr: t.addr, Link: l.name, MAC: t.stat.LastMAC, At: now}
	if d, ok := t.claim.(interface{ Drop() }); ok {
		d.Drop() // before it is asked: it may give way to whoever else claims
	}
	// What came before our claim needs no answer: ours came after it.
	if t.claim != nil && t.claim.Valid() && !came.Before(t.since) {
		heard.Defended = true
		l.defend(t, m.at, now)
	}
	l.notes = append(l.notes, func() { l.s.cfg.OnHeard(heard) })
}

func (l *link) defend(t *target, rival mac, now time.Time) {
	at, fresh := t.rivals.contest(rival, now)
	if !at.IsZero() {
		t.stat.Defended++
		t.course.add(at, defence)
		l.announceDue(now)
		l.kick()
	}
	if fresh {
		addr, name := t.addr, rival.String()
		l.notes = append(l.notes, func() {
			l.log.Warn("another station claims our address", "addr", addr, "mac", name, "peer", l.s.cfg.Peer(name))
		})
	}
}

// say logs that the link cannot do something if that is another error than what was said before. mu is held.
func (l *link) say(before *string, do string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == *before {
		return
	}
	*before = text
	l.notes = append(l.notes, func() {
		if err != nil {
			l.log.Warn("cannot "+do+", trying again", "err", err)
		} else {
			l.log.Info("can " + do + " again")
		}
	})
}

// outcome puts into wrong, for each of want, why it is not spoken for, or nil if it is.
func (l *link) outcome(want []Target, wrong map[Target]error) {
	l.mu.Lock()
	defer l.unlock()
	for _, t := range want {
		wrong[t] = l.trouble(l.targets[t.Addr])
	}
}

func (l *link) trouble(t *target) error {
	switch {
	case l.wires[t.kind()] == nil:
		return errNoSocket
	case l.incomplete(t):
		return errNoGroup
	}
	return l.err
}

// incomplete says whether t lacks a socket. mu is held.
func (l *link) incomplete(t *target) bool {
	return l.wires[t.kind()] == nil || t.addr.Is6() && t.group == nil
}

var (
	errNoSocket = errors.New("no socket on the link")
	errNoGroup  = errors.New("not in the solicited-node group")
)

func (l *link) stats() []Stat {
	l.mu.Lock()
	defer l.unlock()
	all := make([]Stat, 0, len(l.targets))
	for _, t := range l.order {
		st := t.stat
		st.Claims = t.claim != nil && t.claim.Valid()
		all = append(all, st)
	}
	return all
}
