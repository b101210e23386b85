package bfd

import (
	"fmt"
	"time"
)

// slow is how often packets are sent at most while the session is not Up (RFC 5880 6.8.3).
const slow = time.Second

// settings are what may change while a session lives.
type settings struct {
	interval time.Duration
	mult     uint8 // bfd.DetectMult
	auth     *Auth // bfd.AuthType and the key; not changed once it is here
}

// A session is the state of one session (RFC 5880 6.8.1). It is a value: step makes the next one of it.
type session struct {
	settings
	minTTL uint8 // that a packet must have come with: 255 for a single hop

	state       State
	diag        Diag
	localDisc   uint32
	remoteState State
	remoteDiag  Diag
	remoteDisc  uint32 // 0: not known

	desiredMinTx  time.Duration // as we advertise it
	pacing        time.Duration // the same as far as it counts already: an increase waits for the end of the poll sequence
	requiredMinRx time.Duration // as we advertise it
	expecting     time.Duration // the same as far as it counts already: a decrease waits for the end of the poll sequence
	polling       bool          // a poll sequence is on
	pollAgain     bool          // the values changed after it began

	remoteMinRx  time.Duration // 0: the neighbour wants no packets
	remoteMinTx  time.Duration
	remoteMult   uint8 // 0: no packet has come yet
	remoteDemand bool

	xmitSeq  uint32 // bfd.XmitAuthSeq: of the next packet
	rcv      window
	lastSent string // the latest packet but for its authentication

	sentAt   time.Time // of the latest packet, but for answers to a poll
	heardAt  time.Time // of the latest valid packet
	txAt     time.Time // when the next packet is due; zero: none is
	detectAt time.Time // when the neighbour is given up; zero: not
	full     time.Time // rate limit: when all credit of the neighbour is back
}

// newSession returns a session that sends its first packet at once. disc, not 0, is unique on this node; seq is random.
func newSession(set settings, minTTL uint8, disc, seq uint32, now time.Time) session {
	// RFC 5880 6.8.1: the initial values.
	s := session{
		settings: set, minTTL: minTTL, localDisc: disc, xmitSeq: seq,
		state: Down, remoteState: Down, remoteMinRx: time.Microsecond, txAt: now,
	}
	s.desiredMinTx, s.requiredMinRx = max(set.interval, slow), set.interval
	s.pacing, s.expecting = s.desiredMinTx, s.requiredMinRx
	return s
}

// sends is the interval between our packets before jitter; 0: none are sent. RFC 5880 6.8.7: "the greater of" both.
func (s *session) sends() time.Duration {
	if s.remoteMinRx == 0 {
		return 0
	}
	return max(s.pacing, s.remoteMinRx)
}

// expects is the neighbour's agreed interval; 0 before its first packet.
func (s *session) expects() time.Duration {
	if s.remoteMult == 0 {
		return 0
	}
	return max(s.expecting, s.remoteMinTx)
}

// detection is the Detection Time; 0 before the first packet. RFC 5880 6.8.4: the *neighbour's* multiplier counts.
func (s *session) detection() time.Duration { return time.Duration(s.remoteMult) * s.expects() }

// detected is when the neighbour gives us up.
func (s *session) detected() time.Duration {
	return time.Duration(s.mult) * max(s.desiredMinTx, s.remoteMinRx)
}

// An event is what happens to a session, and when. dice is random, from 0 to less than 1.
type event struct {
	now  time.Time
	dice float64
	what any // arrival, transmitDue, detectionDue, adminDown, adminUp, farewell or settings
}

type (
	arrival struct { // a packet of this session that parsePacket let pass
		packet packet
		raw    []byte
		ttl    uint8
	}
	transmitDue  struct{} // txAt is here
	detectionDue struct{} // detectAt is here
	adminDown    struct{} // we end the session
	adminUp      struct{} // and begin it again
	farewell     struct{} // say AdminDown once more
)

// Actions are what is to be done after a step, in this order. The timers are in the state: txAt and detectAt.
type actions struct {
	drop    string // the packet was dropped, and why
	changed *Change
	send    [][]byte
}

// step is the state machine: it has no other input and no other effect.
func step(s session, e event) (session, actions) {
	t := &turn{session: s, now: e.now, dice: e.dice}
	switch what := e.what.(type) {
	case arrival:
		if err := t.admit(what); err != nil {
			t.drop = err.Error()
		} else {
			t.receive(what.packet)
		}
	case transmitDue:
		t.transmitDue()
	case detectionDue:
		t.detectionDue()
	case adminDown:
		// RFC 5880 6.8.16: "Set bfd.SessionState to AdminDown. Set bfd.LocalDiag to an appropriate value."
		t.become(AdminDown, DiagAdminDown)
	case adminUp:
		// RFC 5880 6.8.16: "If enabling session: Set bfd.SessionState to Down."
		if t.state == AdminDown {
			t.become(Down, t.diag)
		}
	case farewell:
		t.transmit(false)
	case settings:
		t.configure(what)
	}
	return t.session, t.actions
}

// A turn is one step being made.
type turn struct {
	session
	actions
	now  time.Time
	dice float64
}

// admit applies the rules by which a packet is dropped although it is well-formed and belongs to this session. It changes
// nothing but the window of sequence numbers and the rate limit.
func (t *turn) admit(a arrival) error {
	p := a.packet
	// RFC 5881 5: without authentication a TTL below 255 MUST be dropped, with it that may be done first, "if it saves".
	// RFC 5883 3: how far away a neighbour may be is configuration.
	if a.ttl < t.minTTL {
		return t.tooFar(a.ttl)
	}
	switch {
	// RFC 5880 6.8.6: "If the A bit is set and no authentication is in use ..., the packet MUST be discarded."
	case p.auth && t.auth == nil:
		return fmt.Errorf("authenticated, but no key is configured here")
	// "If the A bit is clear and authentication is in use ..., the packet MUST be discarded."
	case !p.auth && t.auth != nil:
		return fmt.Errorf("not authenticated, but a key is configured here")
	// "If the A bit is set, the packet MUST be authenticated under the rules of section 6.7".
	case p.auth:
		if err := t.authenticate(a); err != nil {
			return err
		}
	}
	// Hardening beyond the RFC: who does not know our discriminator cannot end a session that is Up. A neighbour that was
	// restarted is seen by the detection time.
	if t.state == Up && p.yourDisc == 0 && p.myDisc != t.remoteDisc {
		return fmt.Errorf("unknown my discriminator %#x and your discriminator 0 while Up", p.myDisc)
	}
	return t.limit()
}

func (t *turn) tooFar(ttl uint8) error {
	if t.minTTL == singleHopTTL {
		return fmt.Errorf("TTL %d, not 255: sent from beyond the link", ttl)
	}
	return fmt.Errorf("TTL %d, less than %d: from too far away, or the neighbour does not send with TTL 255 (then 255 hops must be allowed)", ttl, t.minTTL)
}

func (t *turn) authenticate(a arrival) error {
	// RFC 5880 6.8.1: bfd.AuthSeqKnown "MUST be set to zero after no packets have been received on this session for at least
	// twice the Detection Time".
	if t.rcv.known && t.now.Sub(t.heardAt) >= 2*t.detection() {
		t.rcv = window{}
	}
	w, err := t.auth.verify(a.raw, a.packet.mult, t.rcv)
	t.rcv = w
	return err
}

// The rate limit: credit packets at once, and then four times what we ask for, but four a second in any case.
const (
	credit  = 20
	leisure = 250 * time.Millisecond
)

// limit drops what comes much faster than we said that we can receive (RFC 5880 6.8.2: Required Min RX Interval).
func (t *turn) limit() error {
	each := min(t.requiredMinRx/4, leisure)
	if t.full.Before(t.now) {
		t.full = t.now
	}
	if t.full.Sub(t.now) > (credit-1)*each {
		return fmt.Errorf("more than 4 packets in %v", 4*each)
	}
	t.full = t.full.Add(each)
	return nil
}

// receive is RFC 5880 6.8.6 from where the packet is accepted.
func (t *turn) receive(p packet) {
	before := t.sends()
	// "Set bfd.RemoteDiscr ..., bfd.RemoteState ..., bfd.RemoteDemandMode ..., bfd.RemoteMinRxInterval".
	t.remoteDisc, t.remoteState, t.remoteDiag, t.remoteDemand = p.myDisc, p.state, p.diag, p.demand
	t.remoteMinRx, t.remoteMinTx, t.remoteMult = p.requiredMinRx, p.desiredMinTx, p.mult
	// "If a Poll Sequence is being transmitted by the local system and the Final (F) bit in the received packet is set, the
	// Poll Sequence MUST be terminated."
	if t.polling && p.final {
		t.finishPoll()
	}
	// "Update the transmit interval", "Update the Detection Time".
	t.heardAt = t.now
	t.detectAt = t.now.Add(t.detection())
	if t.sends() != before {
		t.pace()
	}
	// "If bfd.SessionState is AdminDown, discard the packet."
	if t.state == AdminDown {
		t.drop = "the session is AdminDown"
		return
	}
	t.follow(p.state)
	// "If the Poll (P) bit is set, send a BFD Control packet to the remote system with the Poll (P) bit clear, and the Final
	// (F) bit set".
	if p.poll {
		t.transmit(true)
	}
}

// follow makes the transition that the neighbour's state asks for (RFC 5880 6.8.6, 6.2).
func (t *turn) follow(remote State) {
	switch {
	// "If received state is AdminDown: If bfd.SessionState is not Down: Set bfd.LocalDiag to 3 (Neighbor signaled session
	// down), Set bfd.SessionState to Down."
	case remote == AdminDown:
		if t.state != Down {
			t.become(Down, DiagNeighborDown)
		}
	// "If bfd.SessionState is Down: If received State is Down, set bfd.SessionState to Init; else if received State is Init,
	// set bfd.SessionState to Up." The diagnostic stays until Up, for the neighbour to read.
	case t.state == Down && remote == Down:
		t.become(Init, t.diag)
	case t.state == Down && remote == Init:
		t.become(Up, DiagNone)
	// "Else if bfd.SessionState is Init: If received State is Init or Up, set bfd.SessionState to Up."
	case t.state == Init && (remote == Init || remote == Up):
		t.become(Up, DiagNone)
	// "Else (bfd.SessionState is Up): If received State is Down, Set bfd.LocalDiag to 3 ..., Set bfd.SessionState to Down."
	case t.state == Up && remote == Down:
		t.become(Down, DiagNeighborDown)
	}
}

// become changes the state, and tells the neighbour without waiting for the timer (RFC 5880 6.8.7: "when the contents of that
// packet would differ ..., to more rapidly communicate a change in state").
func (t *turn) become(s State, d Diag) {
	if s == t.state {
		return
	}
	t.changed = &Change{Old: t.state, New: s, Diag: d, RemoteDiag: t.remoteDiag, RemoteAdminDown: t.remoteState == AdminDown}
	t.state, t.diag = s, d
	t.retime()
	t.transmit(false)
}

// configure takes new settings.
func (t *turn) configure(set settings) {
	if !sameAuth(t.auth, set.auth) {
		t.rcv = window{} // another key has its own sequence
	}
	before := t.sends()
	t.settings = set
	t.retime()
	// RFC 5880 6.8.3: "In any case other than those explicitly called out above, timing parameter changes MUST be effected
	// immediately".
	if t.sends() != before {
		t.pace()
	}
}

func sameAuth(a, b *Auth) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// retime makes the timers what state and settings say (RFC 5880 6.8.3).
func (t *turn) retime() {
	tx, rx := t.interval, t.interval
	// "When bfd.SessionState is not Up, the system MUST set bfd.DesiredMinTxInterval to a value of not less than one second".
	if t.state != Up {
		tx = max(tx, slow)
	}
	changed := tx != t.desiredMinTx || rx != t.requiredMinRx
	t.desiredMinTx, t.requiredMinRx = tx, rx
	// "If bfd.DesiredMinTxInterval is increased and bfd.SessionState is Up, the actual transmission interval used MUST NOT
	// change until the Poll Sequence described above has terminated."
	if t.state != Up || tx < t.pacing {
		t.pacing = tx
	}
	// "If bfd.RequiredMinRxInterval is reduced and bfd.SessionState is Up, the previous value ... MUST be used when
	// calculating the Detection Time ... until the Poll Sequence described above has terminated."
	if t.state != Up || rx > t.expecting {
		t.expecting = rx
		t.watch()
	}
	// "If either bfd.DesiredMinTxInterval is changed or bfd.RequiredMinRxInterval is changed, a Poll Sequence MUST be
	// initiated". A neighbour that is not known cannot answer it, and learns the values from its first packet.
	if changed && t.remoteDisc != 0 {
		t.pollAgain = t.polling
		t.polling = true
	}
}

// finishPoll makes what was polled count. A Final that may answer a Poll with older values only begins the next sequence.
func (t *turn) finishPoll() {
	if t.pollAgain {
		t.pollAgain = false
		return
	}
	t.polling = false
	t.pacing, t.expecting = t.desiredMinTx, t.requiredMinRx
}

// watch sets the detection timer to the Detection Time as it is now, from the latest packet.
func (t *turn) watch() {
	if !t.detectAt.IsZero() {
		t.detectAt = t.heardAt.Add(t.detection())
	}
}

// detectionDue is the end of a Detection Time without a packet.
func (t *turn) detectionDue() {
	// RFC 5880 6.8.1, bfd.RemoteDiscr: "If a period of a Detection Time passes without the receipt of a valid, authenticated
	// BFD packet from the remote system, this variable MUST be set to zero."
	t.detectAt, t.remoteDisc = time.Time{}, 0
	t.polling, t.pollAgain, t.remoteDemand = false, false, false
	// What it wanted goes with it: one that asked for no packets, or few, must be able to come back.
	if t.remoteMinRx != time.Microsecond {
		t.remoteMinRx = time.Microsecond
		t.pace()
	}
	// RFC 5880 6.8.4: "... and bfd.SessionState is Init or Up, the session has gone down -- the local system MUST set
	// bfd.SessionState to Down and bfd.LocalDiag to 1 (Control Detection Time Expired)."
	if t.state == Init || t.state == Up {
		t.become(Down, DiagTimeExpired)
	}
}

// transmitDue sends a periodic packet.
func (t *turn) transmitDue() {
	// RFC 5880 6.8.7: "A system MUST NOT periodically transmit BFD Control packets if Demand mode is active on the remote
	// system (bfd.RemoteDemandMode is 1, bfd.SessionState is Up, and bfd.RemoteSessionState is Up) and a Poll Sequence is not
	// being transmitted."
	if t.remoteDemand && t.state == Up && t.remoteState == Up && !t.polling {
		t.sentAt = t.now
		t.pace()
		return
	}
	t.transmit(false)
}

// pace sets the transmit timer, counted from the latest packet (RFC 5880 6.8.7).
func (t *turn) pace() {
	// "A system MUST NOT periodically transmit BFD Control packets if bfd.RemoteMinRxInterval is zero."
	if t.remoteMinRx == 0 {
		t.txAt = time.Time{}
		return
	}
	// "jittered on a per-packet basis by up to 25%"; "If bfd.DetectMult is equal to 1, the interval ... MUST be no more than
	// 90% of the negotiated transmission interval, and MUST be no less than 75%".
	least := 0.0
	if t.mult == 1 {
		least = 0.10
	}
	interval := float64(t.sends())
	t.txAt = t.sentAt.Add(time.Duration(interval - interval*(least+(0.25-least)*t.dice)))
}

// transmit sends a packet (RFC 5880 6.8.7). A Final does not move the timer: it comes "without respect to" it.
func (t *turn) transmit(final bool) {
	p := packet{
		diag: t.diag, state: t.state, final: final, auth: t.auth != nil, mult: t.mult,
		// RFC 5880 6.5: "A BFD Control packet MUST NOT have both the Poll (P) and Final (F) bits set."
		poll:   t.polling && !final,
		myDisc: t.localDisc, yourDisc: t.remoteDisc,
		desiredMinTx: t.desiredMinTx, requiredMinRx: t.requiredMinRx,
	}
	t.send = append(t.send, t.sign(p.marshal()))
	if !final {
		t.sentAt = t.now
		t.pace()
	}
}

// sign adds the authentication section, if one is wanted, and moves the sequence number on.
func (t *turn) sign(b []byte) []byte {
	if t.auth == nil {
		return b
	}
	// RFC 5880 6.7.4: meticulous: "bfd.XmitAuthSeq MUST be incremented ... for each packet"; else it "SHOULD be incremented
	// when the session state changes, or when the transmitted BFD Control packet carries different contents".
	if contents := string(b); t.auth.Meticulous || contents != t.lastSent {
		t.lastSent = contents
		t.xmitSeq++
	}
	return t.auth.sign(b, t.xmitSeq)
}
