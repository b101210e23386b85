package bfd

import (
	"strings"
	"testing"
	"time"
)

const ms = time.Millisecond

// A rig is a session and the clock that it lives by.
type rig struct {
	t *testing.T
	session
	now  time.Time
	dice float64
	actions
}

const (
	ourDisc   = 0x0a0a0a0a
	theirDisc = 0x0b0b0b0b
)

// newRig returns a session at 3 x 100 ms that has just begun.
func newRig(t *testing.T) *rig {
	now := time.Unix(1e9, 0)
	return &rig{t: t, now: now, session: newSession(settings{interval: 100 * ms, mult: 3}, 255, ourDisc, 1000, now)}
}

func (r *rig) step(what any) {
	r.session, r.actions = step(r.session, event{now: r.now, dice: r.dice, what: what})
}

func (r *rig) pass(d time.Duration) { r.now = r.now.Add(d) }

// told is the neighbour's packet in a state, as it comes with good manners.
func (r *rig) told(s State) packet {
	p := packet{state: s, mult: 5, myDisc: theirDisc, yourDisc: ourDisc, desiredMinTx: 200 * ms, requiredMinRx: 50 * ms}
	if s == Down {
		p.yourDisc = 0
	}
	return p
}

func (r *rig) hear(p packet) {
	raw := p.marshal()
	p, raw, err := parsePacket(raw)
	if err != nil {
		r.t.Fatalf("the test's packet is wrong: %v", err)
	}
	r.step(arrival{packet: p, raw: raw, ttl: 255})
}

// at brings the session to a state, and the poll sequence of its coming up to its end.
func (r *rig) at(s State) *rig {
	switch s {
	case AdminDown:
		r.step(adminDown{})
	case Init:
		r.hear(r.told(Down))
	case Up:
		r.hear(r.told(Init))
		p := r.told(Up)
		p.final = true
		r.hear(p)
	}
	if r.state != s || r.polling {
		r.t.Fatalf("%v, polling %v; wanted %v", r.state, r.polling, s)
	}
	r.pass(30 * ms)
	return r
}

// sentPackets are the packets of the latest step.
func (r *rig) sentPackets() (all []packet) {
	for _, b := range r.send {
		p, _, err := parsePacket(b)
		if err != nil {
			r.t.Errorf("we send a bad packet: %v", err)
		}
		if p.poll && p.final {
			r.t.Error("RFC 5880 6.5: a packet with Poll and Final")
		}
		all = append(all, p)
	}
	return all
}

// RFC 5880 6.8.6, 6.2: every state, every state that the neighbour can be in.
func TestTransitions(t *testing.T) {
	for _, c := range []struct {
		state, heard, want State
		diag               Diag
	}{
		{AdminDown, AdminDown, AdminDown, DiagAdminDown},
		{AdminDown, Down, AdminDown, DiagAdminDown},
		{AdminDown, Init, AdminDown, DiagAdminDown},
		{AdminDown, Up, AdminDown, DiagAdminDown},
		{Down, AdminDown, Down, DiagNone},
		{Down, Down, Init, DiagNone},
		{Down, Init, Up, DiagNone},
		{Down, Up, Down, DiagNone},
		{Init, AdminDown, Down, DiagNeighborDown},
		{Init, Down, Init, DiagNone},
		{Init, Init, Up, DiagNone},
		{Init, Up, Up, DiagNone},
		{Up, AdminDown, Down, DiagNeighborDown},
		{Up, Down, Down, DiagNeighborDown},
		{Up, Init, Up, DiagNone},
		{Up, Up, Up, DiagNone},
	} {
		t.Run(c.state.String()+" hears "+c.heard.String(), func(t *testing.T) {
			r := newRig(t).at(c.state)
			r.hear(r.told(c.heard))
			if r.state != c.want || r.diag != c.diag {
				t.Errorf("%v, %v; want %v, %v", r.state, r.diag, c.want, c.diag)
			}
			changed := c.state != c.want
			if (r.changed != nil) != changed {
				t.Errorf("the change is told: %v", r.changed)
			}
			// RFC 5880 6.8.7: a change is sent at once, and nothing else is.
			if sent := r.sentPackets(); (len(sent) == 1) != changed || changed && (sent[0].state != c.want || sent[0].yourDisc != theirDisc) {
				t.Errorf("sent %+v", sent)
			}
			if changed && *r.changed != (Change{Old: c.state, New: c.want, Diag: c.diag, RemoteAdminDown: c.heard == AdminDown}) {
				t.Errorf("told %+v", *r.changed)
			}
		})
	}
}

// The clauses about timers, polls and administrative changes.
func TestClauses(t *testing.T) {
	for clause, check := range map[string]func(t *testing.T, r *rig){
		"6.8.1 initial values": func(t *testing.T, r *rig) {
			if r.state != Down || r.remoteState != Down || r.remoteMinRx != time.Microsecond || r.remoteDisc != 0 || r.txAt != r.now || !r.detectAt.IsZero() {
				t.Errorf("%+v", r.session)
			}
		},
		"6.8.3 at least one second while not Up": func(t *testing.T, r *rig) {
			for _, s := range []State{Down, Init} {
				r.step(transmitDue{})
				if p := r.sentPackets(); len(p) != 1 || p[0].desiredMinTx != time.Second || p[0].requiredMinRx != 100*ms || p[0].state != s {
					t.Errorf("%v: %+v", s, p)
				}
				if r.txAt != r.now.Add(time.Second) {
					t.Errorf("the next one after %v", r.txAt.Sub(r.now))
				}
				r.hear(r.told(Down))
			}
		},
		"6.8.3 a poll sequence on Up": func(t *testing.T, r *rig) {
			r.hear(r.told(Init))
			if p := r.sentPackets(); len(p) != 1 || !p[0].poll || p[0].desiredMinTx != 100*ms {
				t.Errorf("%+v", p)
			}
			r.step(transmitDue{})
			if p := r.sentPackets(); !p[0].poll {
				t.Error("the poll ends without an answer")
			}
			final := r.told(Up)
			final.final = true
			r.hear(final)
			r.step(transmitDue{})
			if p := r.sentPackets(); p[0].poll {
				t.Error("the poll goes on after the answer")
			}
		},
		"6.8.7 the slower one decides": func(t *testing.T, r *rig) {
			r.at(Up)
			p := r.told(Up)
			for _, c := range []struct{ asked, want time.Duration }{{50 * ms, 100 * ms}, {500 * ms, 500 * ms}, {100 * ms, 100 * ms}} {
				p.requiredMinRx = c.asked
				r.hear(p)
				if r.sends() != c.want || r.txAt != r.sentAt.Add(c.want) {
					t.Errorf("asked for %v: %v, at %v", c.asked, r.sends(), r.txAt.Sub(r.sentAt))
				}
			}
		},
		"6.8.7 jitter of up to 25 %": func(t *testing.T, r *rig) {
			r.at(Up)
			for dice, want := range map[float64]time.Duration{0: 100 * ms, 0.5: 87500 * time.Microsecond, 1: 75 * ms} {
				r.dice = dice
				r.step(transmitDue{})
				if got := r.txAt.Sub(r.now); got != want {
					t.Errorf("%v: %v, not %v", dice, got, want)
				}
			}
		},
		"6.8.7 jitter of 10 to 25 % with a multiplier of 1": func(t *testing.T, r *rig) {
			r.at(Up)
			r.mult = 1
			for dice, want := range map[float64]time.Duration{0: 90 * ms, 1: 75 * ms} {
				r.dice = dice
				r.step(transmitDue{})
				if got := r.txAt.Sub(r.now); got != want {
					t.Errorf("%v: %v, not %v", dice, got, want)
				}
			}
		},
		"6.8.7 no periodic packets if none are wanted": func(t *testing.T, r *rig) {
			r.at(Up)
			p := r.told(Up)
			p.requiredMinRx = 0
			r.hear(p)
			if !r.txAt.IsZero() || r.sends() != 0 {
				t.Error("it sends")
			}
			p.poll = true
			r.hear(p)
			if sent := r.sentPackets(); len(sent) != 1 || !sent[0].final || !r.txAt.IsZero() {
				t.Errorf("a poll is not answered: %+v", sent)
			}
			p.requiredMinRx = 100 * ms
			r.hear(p)
			if r.txAt.IsZero() {
				t.Error("it does not begin again")
			}
		},
		"6.8.1 a neighbour that wanted nothing can come back": func(t *testing.T, r *rig) {
			r.at(Up)
			p := r.told(Up)
			p.requiredMinRx = 0
			r.hear(p)
			r.now = r.detectAt
			r.step(detectionDue{})
			if r.txAt.IsZero() || r.state != Down {
				t.Errorf("%+v", r.session)
			}
		},
		"6.8.7 no periodic packets in the neighbour's demand mode": func(t *testing.T, r *rig) {
			r.at(Up)
			p := r.told(Up)
			p.demand = true
			r.hear(p)
			r.step(transmitDue{})
			if len(r.send) != 0 || !r.txAt.After(r.now) {
				t.Error("it sends")
			}
			r.step(settings{interval: 200 * ms, mult: 3})
			r.step(transmitDue{})
			if p := r.sentPackets(); len(p) != 1 || !p[0].poll {
				t.Error("it does not poll")
			}
		},
		"6.8.4 the detection time has the neighbour's multiplier": func(t *testing.T, r *rig) {
			r.at(Up)
			r.hear(r.told(Up))
			if r.detection() != time.Second || r.detectAt != r.now.Add(time.Second) { // 5 * max(100, 200)
				t.Errorf("%v", r.detection())
			}
			if r.detected() != 300*ms { // 3 * max(100, 50)
				t.Errorf("%v", r.detected())
			}
		},
		"6.8.4 expiry in Up":   func(t *testing.T, r *rig) { expires(t, r.at(Up), Up) },
		"6.8.4 expiry in Init": func(t *testing.T, r *rig) { expires(t, r.at(Init), Init) },
		"6.8.1 expiry in Down forgets the neighbour": func(t *testing.T, r *rig) {
			r.at(Up)
			r.hear(r.told(Down))
			if r.remoteDisc == 0 || r.detectAt.IsZero() {
				t.Fatal("no neighbour")
			}
			r.now = r.detectAt
			r.step(detectionDue{})
			if r.remoteDisc != 0 || r.changed != nil || r.diag != DiagNeighborDown {
				t.Errorf("%+v", r.session)
			}
		},
		"6.8.3 a slower sending waits for the final": func(t *testing.T, r *rig) {
			r.at(Up)
			r.step(settings{interval: 300 * ms, mult: 3})
			if r.sends() != 100*ms || r.expecting != 300*ms || !r.polling || len(r.send) != 0 {
				t.Errorf("%+v", r.session)
			}
			r.step(transmitDue{})
			if p := r.sentPackets(); !p[0].poll || p[0].desiredMinTx != 300*ms || r.txAt != r.now.Add(100*ms) {
				t.Errorf("%+v", p)
			}
			p := r.told(Up)
			p.final = true
			r.hear(p)
			if r.sends() != 300*ms || r.polling {
				t.Errorf("%+v", r.session)
			}
		},
		"6.8.3 a faster detection waits for the final": func(t *testing.T, r *rig) {
			r.at(Up)
			fast := r.told(Up)
			fast.desiredMinTx = 50 * ms
			r.hear(fast)
			r.step(settings{interval: 60 * ms, mult: 3})
			if r.sends() != 60*ms || r.txAt != r.sentAt.Add(60*ms) || r.detection() != 500*ms {
				t.Errorf("%v, %v", r.sends(), r.detection())
			}
			fast.final = true
			r.hear(fast)
			if r.detection() != 300*ms || r.detectAt != r.now.Add(300*ms) {
				t.Errorf("%v", r.detection())
			}
		},
		"6.8.3 a slower detection counts at once": func(t *testing.T, r *rig) {
			r.at(Up)
			heard := r.heardAt
			r.step(settings{interval: 300 * ms, mult: 3})
			if r.detection() != 1500*ms || r.detectAt != heard.Add(1500*ms) {
				t.Errorf("%v", r.detection())
			}
		},
		"6.5 a final of an earlier poll does not end the next": func(t *testing.T, r *rig) {
			r.at(Up)
			r.step(settings{interval: 300 * ms, mult: 3})
			r.step(settings{interval: 400 * ms, mult: 3})
			p := r.told(Up)
			p.final = true
			r.hear(p)
			if !r.polling || r.sends() != 100*ms {
				t.Errorf("%+v", r.session)
			}
			r.hear(p)
			if r.polling || r.sends() != 400*ms {
				t.Errorf("%+v", r.session)
			}
		},
		"6.8.3 leaving Up ends what waited": func(t *testing.T, r *rig) {
			r.at(Up)
			r.step(settings{interval: 3 * time.Second, mult: 3})
			r.hear(r.told(AdminDown))
			if r.sends() != 3*time.Second || r.expecting != 3*time.Second {
				t.Errorf("%+v", r.session)
			}
		},
		"6.8.3 leaving Up changes a timer: a poll": func(t *testing.T, r *rig) {
			r.at(Up)
			p := r.told(Down)
			p.yourDisc = ourDisc
			r.hear(p)
			if sent := r.sentPackets(); len(sent) != 1 || !sent[0].poll || sent[0].desiredMinTx != time.Second {
				t.Errorf("%+v", sent)
			}
		},
		"6.8.4 expiry ends a poll and the neighbour's demand mode": func(t *testing.T, r *rig) {
			r.at(Up)
			p := r.told(Up)
			p.demand = true
			r.hear(p)
			r.step(settings{interval: 90 * ms, mult: 3})
			expires(t, r, Up)
			if r.remoteDemand || r.sentPackets()[0].poll {
				t.Errorf("%+v", r.session)
			}
		},
		"6.8.3 only the multiplier: no poll": func(t *testing.T, r *rig) {
			r.at(Up)
			at := r.txAt
			r.step(settings{interval: 100 * ms, mult: 9})
			if r.polling || r.txAt != at || r.mult != 9 {
				t.Errorf("%+v", r.session)
			}
		},
		"6.8.6 a poll is answered at once, and the timer stays": func(t *testing.T, r *rig) {
			r.at(Up)
			at := r.txAt
			p := r.told(Up)
			p.poll = true
			r.hear(p)
			if sent := r.sentPackets(); len(sent) != 1 || !sent[0].final || r.txAt != at {
				t.Errorf("%+v", sent)
			}
		},
		"6.8.6 a poll with a change: both are sent": func(t *testing.T, r *rig) {
			p := r.told(Init)
			p.poll = true
			r.hear(p)
			if sent := r.sentPackets(); len(sent) != 2 || !sent[0].poll || !sent[1].final || sent[1].state != Up {
				t.Errorf("%+v", sent)
			}
		},
		"6.8.6 in AdminDown nothing is answered": func(t *testing.T, r *rig) {
			r.at(AdminDown)
			p := r.told(Down)
			p.poll = true
			r.hear(p)
			if len(r.send) != 0 || r.drop == "" {
				t.Errorf("%+v", r.actions)
			}
		},
		"6.8.16 AdminDown is sent, and said again": func(t *testing.T, r *rig) {
			r.at(Up)
			r.step(adminDown{})
			first := r.sentPackets()
			r.step(farewell{})
			for _, p := range append(first, r.sentPackets()...) {
				if p.state != AdminDown || p.diag != DiagAdminDown || p.yourDisc != theirDisc {
					t.Errorf("%+v", p)
				}
			}
			if len(first) != 1 || len(r.send) != 1 {
				t.Error("not one each")
			}
		},
		"6.8.16 enabled again": func(t *testing.T, r *rig) {
			r.at(AdminDown).step(adminUp{})
			if r.state != Down || len(r.send) != 1 {
				t.Errorf("%+v", r.session)
			}
			r.step(adminUp{})
			if r.changed != nil || len(r.send) != 0 {
				t.Error("it is enabled twice")
			}
		},
		"hardening: a stranger cannot end a session": func(t *testing.T, r *rig) {
			r.at(Up)
			p := r.told(Down)
			p.myDisc++
			r.hear(p)
			if r.state != Up || !strings.Contains(r.drop, "unknown my discriminator") {
				t.Errorf("%v, %q", r.state, r.drop)
			}
			p.myDisc--
			r.hear(p)
			if r.state != Down {
				t.Error("the neighbour cannot end it either")
			}
		},
		"rate limit": func(t *testing.T, r *rig) {
			r.at(Up)
			dropped := 0
			for i := range 200 { // for 2 s, every 10 ms; 100 ms are asked for
				r.pass(10 * ms)
				r.hear(r.told(Up))
				if r.drop != "" {
					dropped++
				}
				if i < 15 && dropped > 0 {
					t.Fatalf("packet %d: %s", i, r.drop)
				}
			}
			if dropped < 90 || dropped > 110 { // 4 in 100 ms pass, and 20 at first
				t.Errorf("%d are dropped", dropped)
			}
			r.pass(time.Second)
			for range 20 {
				r.hear(r.told(Up))
				if r.drop != "" {
					t.Fatal(r.drop)
				}
			}
		},
		"neighbour's limits": func(t *testing.T, r *rig) {
			p := r.told(Init)
			p.mult, p.desiredMinTx, p.requiredMinRx = 255, (1<<32-1)*time.Microsecond, (1<<32-1)*time.Microsecond
			r.hear(p)
			if r.detection() != 255*p.desiredMinTx || r.detectAt != r.now.Add(r.detection()) || r.sends() != p.requiredMinRx {
				t.Errorf("%v, %v", r.detection(), r.sends())
			}
		},
	} {
		t.Run(clause, func(t *testing.T) { check(t, newRig(t)) })
	}
}

func expires(t *testing.T, r *rig, from State) {
	t.Helper()
	r.now = r.detectAt
	r.step(detectionDue{})
	if r.state != Down || r.diag != DiagTimeExpired || r.remoteDisc != 0 || !r.detectAt.IsZero() || r.polling {
		t.Errorf("%+v", r.session)
	}
	if r.changed == nil || r.changed.Old != from || r.changed.RemoteAdminDown {
		t.Errorf("told %+v", r.changed)
	}
	if p := r.sentPackets(); len(p) != 1 || p[0].state != Down || p[0].diag != DiagTimeExpired || p[0].yourDisc != 0 || p[0].desiredMinTx != time.Second {
		t.Errorf("sent %+v", p)
	}
}

// RFC 5881 5, RFC 5883: how far away a packet may come from.
func TestTTL(t *testing.T) {
	for _, c := range []struct {
		hops, ttl uint8
		ok        bool
	}{{0, 255, true}, {0, 254, false}, {0, 1, false}, {1, 255, true}, {1, 254, false}, {2, 254, true}, {2, 253, false}, {255, 1, true}, {255, 0, false}} {
		r := newRig(t)
		r.minTTL = Peer{MultihopTTL: c.hops}.minTTL()
		p := r.told(Down)
		r.step(arrival{packet: p, raw: p.marshal(), ttl: c.ttl})
		if (r.drop == "") != c.ok || (r.state == Init) != c.ok {
			t.Errorf("%d hops, TTL %d: %v %q", c.hops, c.ttl, r.state, r.drop)
		}
	}
}

// step changes nothing but what it returns.
func TestStepIsPure(t *testing.T) {
	r := newRig(t).at(Up)
	before := r.session
	for range 3 {
		for _, what := range []any{adminDown{}, detectionDue{}, transmitDue{}, settings{interval: time.Second, mult: 2}} {
			one, did := step(before, event{now: r.now, dice: 0.3, what: what})
			two, also := step(before, event{now: r.now, dice: 0.3, what: what})
			if one != two || len(did.send) != len(also.send) {
				t.Errorf("%T: %+v and %+v", what, one, two)
			}
		}
	}
	if before != r.session {
		t.Error("the state it was given changed")
	}
}
