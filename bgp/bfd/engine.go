package bfd

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

const (
	retryOpen    = time.Second           // between attempts to open a session's sockets
	farewells    = 3                     // packets that say AdminDown
	farewellPace = 30 * time.Millisecond // between them
)

// A wire sends one session's packets.
type wire interface {
	Send(b []byte) error // never blocks
	Close()
}

// An engine leads all sessions. It has no clock, no goroutine and no lock, and never blocks.
type engine struct {
	open   func(path) (wire, error) // makes packets of this path arrive, and send
	rand   *rand.Rand
	byName map[string]*neighbor
	byPath map[path]*neighbor   // of the same
	byDisc map[uint32]*neighbor // of the same
	gone   []*neighbor          // no longer wanted; they still say so
	notes  []note               // what happened and nobody has been told yet
}

// A note is a line of the log, or a change of a session.
type note struct {
	level  slog.Level
	text   string
	attrs  []any
	peer   string
	change *Change
}

// A neighbor is a session with what moves its packets.
type neighbor struct {
	Peer
	session
	wire      wire      // nil: not open
	openAt    time.Time // when to try again
	since     time.Time
	flaw      string
	flaps     uint64
	sent      uint64
	received  uint64
	dropped   uint64
	last      string    // why the latest packet was dropped
	farewells int       // left to be sent by a session that has gone
	byeAt     time.Time // when
}

func newEngine(open func(path) (wire, error), r *rand.Rand) *engine {
	return &engine{open: open, rand: r,
		byName: map[string]*neighbor{}, byPath: map[path]*neighbor{}, byDisc: map[uint32]*neighbor{}}
}

// set makes peers, which were sifted, the wanted ones. Those whose name is in keep stay as they are.
func (e *engine) set(now time.Time, peers []Peer, keep map[string]bool) {
	want := map[string]Peer{}
	for _, p := range peers {
		if !keep[p.Name] {
			want[p.Name] = p
		}
	}
	for _, name := range e.names() {
		if n := e.byName[name]; !keep[name] && !n.same(want[name]) {
			e.leave(now, n)
		}
	}
	for _, p := range peers {
		if !keep[p.Name] {
			e.want(now, p)
		}
	}
}

// free takes out of peers those whose path belongs to a session that stays as it is.
func (e *engine) free(peers []Peer, keep map[string]bool) (rest []Peer, err error) {
	var errs []error
	for _, p := range peers {
		if n := e.byPath[p.path()]; n != nil && n.Name != p.Name && keep[n.Name] {
			errs = append(errs, taken(p, n.Name))
			keep[p.Name] = true
			continue
		}
		rest = append(rest, p)
	}
	return rest, errors.Join(errs...)
}

func (e *engine) names() []string { return slices.Sorted(maps.Keys(e.byName)) }

// want makes p's session live with p's settings.
func (e *engine) want(now time.Time, p Peer) {
	n := e.byName[p.Name]
	if n == nil {
		n = e.join(now, p)
	}
	if set := p.settings(); set.interval != n.interval || set.mult != n.mult || !sameAuth(set.auth, n.auth) {
		e.step(now, n, set)
	}
	n.Peer = p
}

// join adds a session, or takes back the one that was about to go. One that goes and leaves its path to another hurries.
func (e *engine) join(now time.Time, p Peer) *neighbor {
	i := slices.IndexFunc(e.gone, func(n *neighbor) bool { return n.path() == p.path() })
	if i >= 0 && e.gone[i].same(p) {
		n := e.gone[i]
		e.gone = slices.Delete(e.gone, i, i+1)
		n.farewells = 0
		e.index(n)
		e.step(now, n, adminUp{})
		return n
	}
	if i >= 0 {
		e.hurry(now, e.gone[i])
	}
	n := &neighbor{Peer: p, since: now, session: newSession(p.settings(), p.minTTL(), e.discriminator(), e.rand.Uint32(), now)}
	e.index(n)
	return n
}

// discriminator returns an unused one (RFC 5880 6.8.1: "unique across all BFD sessions on this system", nonzero).
func (e *engine) discriminator() uint32 {
	for {
		d := e.rand.Uint32()
		if d != 0 && e.byDisc[d] == nil && !slices.ContainsFunc(e.gone, func(n *neighbor) bool { return n.localDisc == d }) {
			return d
		}
	}
}

func (e *engine) index(n *neighbor) {
	e.byName[n.Name], e.byPath[n.path()], e.byDisc[n.localDisc] = n, n, n
}

// leave ends a session: the neighbour is told that it is not a failure (RFC 5880 6.8.16), three times since packets get lost.
func (e *engine) leave(now time.Time, n *neighbor) {
	delete(e.byName, n.Name)
	delete(e.byPath, n.path())
	delete(e.byDisc, n.localDisc)
	e.step(now, n, adminDown{})
	if n.wire == nil {
		return
	}
	n.farewells, n.byeAt = farewells-1, now.Add(farewellPace)
	e.gone = append(e.gone, n)
}

// hurry says the farewells that are left at once.
func (e *engine) hurry(now time.Time, n *neighbor) {
	for ; n.farewells > 0; n.farewells-- {
		e.step(now, n, farewell{})
	}
	n.byeAt = now
	e.bury(now)
}

// bury closes those that have said all.
func (e *engine) bury(now time.Time) {
	e.gone = slices.DeleteFunc(e.gone, func(n *neighbor) bool {
		if n.farewells > 0 || now.Before(n.byeAt) {
			return false
		}
		n.wire.Close()
		return true
	})
}

// close ends all sessions; the engine is empty when empty says so.
func (e *engine) close(now time.Time) { e.set(now, nil, nil) }

func (e *engine) empty() bool { return len(e.byName) == 0 && len(e.gone) == 0 }

// A datagram is what arrived, on the socket of this path but for its remote address: that is who sent it.
type datagram struct {
	path    path
	ttl     uint8
	payload []byte
}

// arrive gives a datagram to its session.
func (e *engine) arrive(now time.Time, d datagram) {
	n := e.byPath[d.path]
	if n == nil {
		return // a stranger; what it sends says nothing of anybody
	}
	if refused(n.flaw) {
		e.mend(n) // something runs there after all
	}
	p, raw, err := parsePacket(d.payload)
	if err != nil {
		n.drop(err.Error())
		return
	}
	// RFC 5880 6.8.6: "If the Your Discriminator field is nonzero, it MUST be used to select the session with which this BFD
	// packet is associated. If no session is found, the packet MUST be discarded." It must be that of who sends, too.
	if p.yourDisc != 0 && e.byDisc[p.yourDisc] != n {
		n.drop(fmt.Sprintf("your discriminator %#x is not this session's", p.yourDisc))
		return
	}
	e.step(now, n, arrival{packet: p, raw: raw, ttl: d.ttl})
}

func (n *neighbor) drop(why string) {
	n.dropped++
	n.last = why
}

// tick does all that is due and returns when something is due next.
func (e *engine) tick(now time.Time) (next time.Time) {
	next = now.Add(time.Hour)
	for _, n := range e.byName {
		e.tend(now, n)
		for _, at := range []time.Time{n.detectAt, n.due()} {
			if !at.IsZero() && at.Before(next) {
				next = at
			}
		}
	}
	for _, n := range e.gone {
		if n.farewells > 0 && !now.Before(n.byeAt) {
			e.step(now, n, farewell{})
			n.farewells--
			n.byeAt = now.Add(farewellPace)
			if n.farewells == 0 {
				n.byeAt = now
			}
		}
		if n.byeAt.Before(next) {
			next = n.byeAt
		}
	}
	e.bury(now)
	return next
}

// due is when the session has to be looked at to send.
func (n *neighbor) due() time.Time {
	if n.wire == nil {
		return n.openAt
	}
	return n.txAt
}

// tend does what is due for one session.
func (e *engine) tend(now time.Time, n *neighbor) {
	if !n.detectAt.IsZero() && !now.Before(n.detectAt) {
		e.step(now, n, detectionDue{})
	}
	if n.wire == nil && !now.Before(n.openAt) {
		e.connect(now, n)
	}
	if n.wire != nil && !n.txAt.IsZero() && !now.Before(n.txAt) {
		e.step(now, n, transmitDue{})
	}
}

// connect opens a session's sockets, or says why not and tries again later: the link or the address may come yet.
func (e *engine) connect(now time.Time, n *neighbor) {
	w, err := e.open(n.path())
	if err != nil {
		n.openAt = now.Add(retryOpen)
		e.fail(n, err.Error())
		return
	}
	n.wire = w
	e.mend(n)
}

// step leads a session through one event.
func (e *engine) step(now time.Time, n *neighbor, what any) {
	var do actions
	n.session, do = step(n.session, event{now: now, dice: e.rand.Float64(), what: what})
	if _, packet := what.(arrival); packet && do.drop == "" {
		n.received++
	}
	if do.drop != "" {
		n.drop(do.drop)
	}
	if do.changed != nil {
		e.changed(now, n, *do.changed)
	}
	for _, b := range do.send {
		e.send(now, n, b)
	}
}

// send sends a packet, if the session's sockets are open. A link that has gone takes its sockets with it.
func (e *engine) send(now time.Time, n *neighbor, b []byte) {
	if n.wire == nil {
		return
	}
	err := n.wire.Send(b)
	switch {
	case err == nil:
		n.sent++
		if !refused(n.flaw) {
			e.mend(n)
		}
	case errors.Is(err, errRefused):
		n.sent++
		e.fail(n, err.Error())
	default:
		e.fail(n, fmt.Sprintf("send to %v: %v", n.Remote, err))
		if isGone(err) {
			n.shut(now)
		}
	}
}

// shut closes the sockets, to be opened again.
func (n *neighbor) shut(now time.Time) {
	if n.farewells > 0 { // it has gone, and is closed soon
		return
	}
	n.wire.Close()
	n.wire, n.openAt = nil, now.Add(retryOpen)
}

// errRefused is that a packet was sent, and an earlier one was answered by an ICMP error.
var errRefused = errors.New("the neighbour refuses packets, BFD does not run there or not for this session")

func refused(flaw string) bool { return strings.HasPrefix(flaw, errRefused.Error()) }

// fail notes what is wrong, once for each thing.
func (e *engine) fail(n *neighbor, why string) {
	if n.flaw != why {
		n.flaw = why
		e.note(n, note{level: slog.LevelWarn, text: "BFD session cannot work", attrs: []any{"err", why}})
	}
}

// mend notes that nothing is wrong any more.
func (e *engine) mend(n *neighbor) {
	if n.flaw != "" {
		n.flaw = ""
		e.note(n, note{level: slog.LevelInfo, text: "BFD session can work again"})
	}
}

// changed notes a change of the state.
func (e *engine) changed(now time.Time, n *neighbor, c Change) {
	n.since = now
	if c.Old == Up && c.New == Down && !c.RemoteAdminDown {
		n.flaps++
	}
	nt := note{level: slog.LevelInfo, text: "BFD session changed", change: &c,
		attrs: []any{"state", c.New.String(), "was", c.Old.String(), "diag", c.Diag.String()}}
	if c.Diag == DiagNeighborDown {
		nt.attrs = append(nt.attrs, "neighbour", n.remoteState.String(), "neighbourDiag", c.RemoteDiag.String())
	}
	if c.Old != Up && c.New != Up {
		nt.level = slog.LevelDebug // it was not up before, and is not now
	}
	e.note(n, nt)
}

func (e *engine) note(n *neighbor, nt note) {
	nt.peer = n.Name
	nt.attrs = append([]any{"peer", n.Name, "addr", n.Remote.String()}, nt.attrs...)
	e.notes = append(e.notes, nt)
}

// status is what is true, by name.
func (e *engine) status() []Status {
	all := make([]Status, 0, len(e.byName))
	for _, name := range e.names() {
		all = append(all, e.byName[name].status())
	}
	return all
}

func (n *neighbor) status() Status {
	return Status{
		Name: n.Name, State: n.state, Since: n.since, RemoteState: n.remoteState, Diag: n.diag, RemoteDiag: n.remoteDiag,
		Flaps: n.flaps, Sends: n.sends(), Expects: n.expects(), Detection: n.detection(), Detected: n.detected(),
		Sent: n.sent, Received: n.received, Dropped: n.dropped, LastDropped: n.last, Error: n.flaw,
	}
}
