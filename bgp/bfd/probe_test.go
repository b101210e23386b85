package bfd

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// A probe is one check of a live Speaker over UDP, with a session of its own.
type probe struct {
	name string // with the clause
	kind
	check func(t *testing.T, p *prober)
}

// TestProbe asks a live Speaker, as a neighbour of bad manners would, whether it keeps to the RFCs.
func TestProbe(t *testing.T) {
	b := newBench(t)
	all := slices.Concat(quietProbes(), dropProbes(), stateProbes(), timerProbes(), kindProbes())
	if len(all) < 32 {
		t.Fatalf("only %d probes", len(all))
	}
	for _, probe := range all {
		t.Run(probe.name, func(t *testing.T) {
			t.Parallel()
			probe.check(t, newProber(t, b, probe.kind))
		})
	}
}

// quietProbes say nothing and listen.
func quietProbes() []probe {
	listen := func(t *testing.T, p *prober, n int) []heard {
		await(t, 10*time.Second, "packets", func() bool { return len(p.since(time.Time{})) >= n })
		return p.since(time.Time{})
	}
	return []probe{
		{name: "5880 6.8.3 at most one packet a second while Down", check: func(t *testing.T, p *prober) {
			g := gaps(listen(t, p, 5))
			if g[0] < 700*ms || g[len(g)-1] > 2*time.Second {
				t.Errorf("gaps %v", g)
			}
		}},
		{name: "5880 6.8.7 jitter while Down", check: func(t *testing.T, p *prober) {
			if g := gaps(listen(t, p, 6)); g[len(g)-1]-g[0] < 5*ms {
				t.Errorf("gaps %v", g)
			}
		}},
		{name: "5881 5 TTL 255 is sent", check: func(t *testing.T, p *prober) {
			if h := p.first(); h.ttl != 255 {
				t.Errorf("TTL %d", h.ttl)
			}
		}},
		{name: "traffic class CS6 is sent", check: func(t *testing.T, p *prober) {
			if h := p.first(); h.tos != classCS6 {
				t.Errorf("%#x", h.tos)
			}
		}},
		{name: "5881 4 a source port from 49152, always the same", check: func(t *testing.T, p *prober) {
			for _, h := range listen(t, p, 3) {
				if h.from.Port() < 49152 || h.from != p.last().from {
					t.Errorf("from %v and %v", h.from, p.last().from)
				}
			}
		}},
		{name: "5880 6.8.1 discriminators before anybody is heard", check: func(t *testing.T, p *prober) {
			if h := p.first(); h.myDisc == 0 || h.yourDisc != 0 {
				t.Errorf("%+v", h)
			}
		}},
		{name: "5880 6.8.7 contents while Down", check: func(t *testing.T, p *prober) {
			h := p.first()
			want := packet{state: Down, mult: 3, myDisc: h.myDisc, desiredMinTx: time.Second, requiredMinRx: 100 * ms}
			if h.packet != want || len(h.raw) != 24 || h.raw[0] != 0x20 || h.raw[1] != 0x40 || [4]byte(h.raw[20:]) != [4]byte{} {
				t.Errorf("% x", h.raw)
			}
		}},
	}
}

// dropProbes send a packet that breaks one rule. It is counted with the reason, and changes nothing.
func dropProbes() (all []probe) {
	for _, c := range []struct {
		name  string
		state State
		spoil func(b []byte) []byte
		ttl   int
		why   string
	}{
		{name: "5881 5 TTL 254 is dropped", ttl: 254, why: "TTL 254, not 255"},
		{name: "5881 5 TTL 1 is dropped", ttl: 1, why: "TTL 1, not 255"},
		{name: "5880 6.8.6 version 0 is dropped", spoil: func(b []byte) []byte { b[0] &= 0x1f; return b }, why: "version 0"},
		{name: "5880 6.8.6 version 2 is dropped", spoil: func(b []byte) []byte { b[0] = 0x40; return b }, why: "version 2"},
		{name: "5880 6.8.6 a length of 23 is dropped", spoil: func(b []byte) []byte { b[3] = 23; return b }, why: "length field 23"},
		{name: "5880 6.8.6 a length beyond the payload is dropped", spoil: func(b []byte) []byte { b[3] = 80; return b }, why: "length field 80"},
		{name: "5880 6.8.6 a packet cut short is dropped", spoil: func(b []byte) []byte { return b[:20] }, why: "20 bytes"},
		{name: "5880 6.8.6 an empty packet is dropped", spoil: func([]byte) []byte { return nil }, why: "0 bytes"},
		{name: "5880 6.8.6 a multiplier of 0 is dropped", spoil: func(b []byte) []byte { b[2] = 0; return b }, why: "detect multiplier 0"},
		{name: "5880 6.8.6 the multipoint bit is dropped", spoil: func(b []byte) []byte { b[1] |= 1; return b }, why: "multipoint"},
		{name: "5880 6.8.6 my discriminator 0 is dropped", spoil: func(b []byte) []byte { clear(b[4:8]); return b }, why: "my discriminator 0"},
		{name: "5880 6.8.6 your discriminator 0 in Init is dropped", state: Init, spoil: func(b []byte) []byte { clear(b[8:12]); return b }, why: "in state Init"},
		{name: "5880 6.8.6 your discriminator 0 in Up is dropped", state: Up, spoil: func(b []byte) []byte { clear(b[8:12]); return b }, why: "in state Up"},
		{name: "5880 6.8.6 an unknown your discriminator is dropped", spoil: func(b []byte) []byte { b[11] ^= 1; return b }, why: "is not this session's"},
		{name: "5880 6.8.6 the A bit without a section is dropped", spoil: func(b []byte) []byte { b[1] |= 4; return b }, why: "length field 24"},
		{name: "5880 6.8.6 the A bit without a key is dropped", spoil: func(b []byte) []byte {
			b[1] |= 4
			return (&Auth{Key: "x"}).sign(b, 1)
		}, why: "no key is configured"},
	} {
		if c.state == AdminDown {
			c.state = Down
		}
		if c.ttl == 0 {
			c.ttl = 255
		}
		all = append(all, probe{name: c.name, check: func(t *testing.T, p *prober) {
			p.first()
			for range 3 {
				b := p.says(c.state).marshal()
				if c.spoil != nil {
					b = c.spoil(b)
				}
				p.sendRaw(b, c.ttl)
			}
			await(t, 5*time.Second, "three drops", func() bool { return p.status().Dropped == 3 })
			if st := p.status(); st.State != Down || st.Received != 0 || !strings.Contains(st.LastDropped, c.why) {
				t.Errorf("%+v", st)
			}
			h := p.await("the next packet", func(heard) bool { return true }, nil)
			if h.state != Down || h.yourDisc != 0 {
				t.Errorf("%+v", h)
			}
		}})
	}
	return all
}

// stateProbes go through the states.
func stateProbes() []probe {
	return []probe{
		{name: "5880 6.2 Down to Init, and whom it answers", check: func(t *testing.T, p *prober) {
			p.first()
			p.send(p.says(Down))
			if h := p.await("Init", func(h heard) bool { return h.state == Init }, nil); h.yourDisc != p.disc {
				t.Errorf("%+v", h)
			}
		}},
		{name: "5880 6.2 Down to Up by Init", check: func(t *testing.T, p *prober) {
			p.first()
			p.send(p.says(Init))
			p.await("Up", is(Up, DiagNone), nil)
		}},
		{name: "5880 6.2 Down hears Up and stays", check: func(t *testing.T, p *prober) {
			p.first()
			p.await("an answer in Down", func(h heard) bool { return h.state == Down && h.yourDisc == p.disc }, func() { p.send(p.says(Up)) })
			if st := p.status(); st.State != Down || st.Since.After(p.since(time.Time{})[0].at) {
				t.Errorf("%+v", st)
			}
		}},
		{name: "5880 6.2 Down hears AdminDown and stays", check: func(t *testing.T, p *prober) {
			p.first()
			p.send(p.says(AdminDown))
			if h := p.await("the next packet", func(heard) bool { return true }, nil); h.state != Down {
				t.Errorf("%+v", h)
			}
		}},
		{name: "5880 6.8.4 Init expires with diagnostic 1", check: func(t *testing.T, p *prober) {
			p.first()
			// Again until it shows: on a busy machine Init may expire before a packet tells of it.
			p.await("Init", func(h heard) bool { return h.state == Init }, func() { p.send(p.says(Down)) })
			p.await("Down", is(Down, DiagTimeExpired), nil)
		}},
		{name: "5880 6.8.6 Up hears Down: diagnostic 3", check: func(t *testing.T, p *prober) {
			p.up()
			q := p.says(Up)
			q.state, q.diag = Down, DiagPathDown
			p.send(q)
			p.await("Down", is(Down, DiagNeighborDown), nil)
			if c := p.lastChange(Down); c.Diag != DiagNeighborDown || c.RemoteDiag != DiagPathDown || c.RemoteAdminDown || p.status().Flaps != 1 {
				t.Errorf("%+v, %+v", c, p.status())
			}
		}},
		{name: "5880 6.8.6, 5882 3.2 Up hears AdminDown: no failure", check: func(t *testing.T, p *prober) {
			p.up()
			q := p.says(AdminDown)
			q.diag = DiagAdminDown
			p.send(q)
			p.await("Down", is(Down, DiagNeighborDown), nil)
			if c := p.lastChange(Down); !c.RemoteAdminDown || c.RemoteDiag != DiagAdminDown || p.status().Flaps != 0 {
				t.Errorf("%+v, %+v", c, p.status())
			}
		}},
		{name: "5880 6.8.16 AdminDown is said three times", check: func(t *testing.T, p *prober) {
			p.up()
			from := time.Now()
			p.bench.change(t, p.peer, false)
			await(t, 5*time.Second, "three of them", func() bool {
				n := 0
				for _, h := range p.since(from) {
					if h.state == AdminDown && h.diag == DiagAdminDown && h.yourDisc == p.disc {
						n++
					}
				}
				return n == 3
			})
		}},
		{name: "5880 4.1 every diagnostic is reported", check: func(t *testing.T, p *prober) {
			p.up()
			for d := range Diag(32) {
				q := p.says(Up)
				q.diag = d
				p.await("any", func(heard) bool { return p.status().RemoteDiag == d }, func() { p.send(q) })
			}
		}},
		{name: "hardening: Up, and a stranger says Down", check: func(t *testing.T, p *prober) {
			p.up()
			q := p.says(Down)
			q.myDisc++
			p.send(q)
			await(t, 5*time.Second, "a drop", func() bool { return p.status().Dropped == 1 })
			if st := p.status(); st.State != Up || !strings.Contains(st.LastDropped, "while Up") {
				t.Errorf("%+v", st)
			}
		}},
		{name: "5880 6.8.6 Up, and the neighbour has forgotten us", check: func(t *testing.T, p *prober) {
			p.up()
			p.send(p.says(Down))
			p.await("Down", is(Down, DiagNeighborDown), nil)
		}},
		{name: "5880 6.8.6 the right discriminator from another address", check: func(t *testing.T, p *prober) {
			other := newProber(t, p.bench, kind{})
			other.first()
			p.up()
			q := p.says(Up)
			q.state = Down
			other.send(q)
			await(t, 5*time.Second, "a drop", func() bool { return other.status().Dropped == 1 })
			if c := p.lastChange(Up); c.New != Up {
				t.Errorf("%+v", c)
			}
		}},
		{name: "rate limit: a flood is dropped, the session lives", check: func(t *testing.T, p *prober) {
			p.up()
			for range 100 {
				p.send(p.says(Up))
			}
			await(t, 5*time.Second, "drops", func() bool { return p.status().Dropped > 30 })
			if st := p.status(); st.Flaps != 0 || !strings.Contains(st.LastDropped, "more than 4 packets in 100ms") {
				t.Errorf("%+v", st)
			}
		}},
	}
}

// timerProbes look at when packets come.
func timerProbes() []probe {
	return []probe{
		{name: "5880 6.8.7 pace and jitter while Up", check: func(t *testing.T, p *prober) {
			p.up()
			g := gaps(p.hold(3*time.Second, p.says(Up)))
			n := len(g)
			if n < 20 || g[n/10] < 70*ms || g[n/2] > 110*ms || g[n*9/10]-g[n/10] < 5*ms {
				t.Errorf("gaps %v", g)
			}
		}},
		{name: "5880 6.8.7 our interval of 500 ms is honoured", check: func(t *testing.T, p *prober) {
			p.up()
			q := p.says(Up)
			q.requiredMinRx = 500 * ms
			p.await("the status", func(heard) bool { return p.status().Sends == 500*ms }, func() { p.send(q) })
			if g := gaps(p.hold(3*time.Second, q)); len(g) < 3 || g[0] < 350*ms || g[len(g)-1] > time.Second {
				t.Errorf("gaps %v", g)
			}
		}},
		{name: "5880 6.8.3 a shorter interval counts at once", check: func(t *testing.T, p *prober) {
			p.up()
			slow := p.says(Up)
			slow.requiredMinRx = 5 * time.Second
			p.send(slow)
			await(t, 5*time.Second, "the slow one", func() bool { return p.status().Sends == 5*time.Second })
			from := time.Now()
			p.send(p.says(Up))
			if h := p.await("a packet", func(heard) bool { return true }, func() { p.send(p.says(Up)) }); h.at.Sub(from) > 2*time.Second {
				t.Errorf("after %v", h.at.Sub(from))
			}
		}},
		{name: "5880 6.8.7 an interval of 0: nothing but answers", check: func(t *testing.T, p *prober) {
			p.up()
			q := p.says(Up)
			q.requiredMinRx = 0
			p.send(q)
			await(t, 5*time.Second, "it stops", func() bool { return p.status().Sends == 0 })
			if all := p.hold(time.Second, q); len(all) > 1 { // one may have been under way
				t.Errorf("%d packets", len(all))
			}
			q.poll = true
			p.await("a final", func(h heard) bool { return h.final && h.state == Up }, func() { p.send(q) })
		}},
		{name: "5880 6.8.7 our demand mode: silence", check: func(t *testing.T, p *prober) {
			p.up()
			q := p.says(Up)
			q.demand = true
			p.hold(300*ms, q)
			if all := p.hold(time.Second, q); len(all) > 0 {
				t.Errorf("%d packets", len(all))
			}
		}},
		{name: "5880 6.5 a poll is answered", check: func(t *testing.T, p *prober) {
			p.up()
			q := p.says(Up)
			q.poll = true
			if h := p.await("a final", func(h heard) bool { return h.final }, func() { p.send(q) }); h.poll || h.state != Up {
				t.Errorf("%+v", h)
			}
		}},
		{name: "5880 6.8.7 a poll is answered while Down", check: func(t *testing.T, p *prober) {
			p.first()
			q := p.says(Up)
			q.poll = true
			p.await("a final", func(h heard) bool { return h.final && h.state == Down }, func() { p.send(q) })
		}},
		{name: "5880 6.8.3 it polls when it is Up, until we answer", check: func(t *testing.T, p *prober) {
			p.first()
			p.send(p.says(Init))
			p.await("Up with a poll", func(h heard) bool { return h.state == Up && h.poll && h.desiredMinTx == 100*ms }, nil)
			for _, h := range p.hold(500*ms, p.says(Up)) {
				if !h.poll {
					t.Errorf("no poll: %+v", h)
				}
			}
			p.await("no poll", func(h heard) bool { return !h.poll }, p.final(p.says(Up)))
		}},
		{name: "5880 6.8.3 slower sending waits for our final", check: func(t *testing.T, p *prober) {
			p.up()
			changed := p.peer
			changed.Interval = 600 * ms
			p.bench.change(t, changed, true)
			p.await("a poll", func(h heard) bool { return h.poll && h.desiredMinTx == 600*ms && h.requiredMinRx == 600*ms }, func() { p.send(p.says(Up)) })
			if g := gaps(p.hold(time.Second, p.says(Up))); len(g) < 6 {
				t.Errorf("gaps before the final %v", g)
			}
			p.await("the end of the poll", func(h heard) bool { return !h.poll }, p.final(p.says(Up)))
			if g := gaps(p.hold(2500*ms, p.says(Up))); len(g) < 2 || g[0] < 400*ms {
				t.Errorf("gaps after the final %v", g)
			}
		}},
		{name: "5880 6.8.4 our multiplier makes the detection time", check: func(t *testing.T, p *prober) {
			p.up()
			q := p.says(Up)
			q.mult = 12
			p.hold(200*ms, q)
			sent := time.Now()
			p.send(q)
			h := p.await("Down", is(Down, DiagTimeExpired), nil)
			if took := h.at.Sub(sent); took < 1200*ms-5*ms || took > 2200*ms {
				t.Errorf("after %v, not 12 x 100 ms", took)
			}
			if c := p.lastChange(Down); c.Old != Up || c.Diag != DiagTimeExpired || c.RemoteAdminDown {
				t.Errorf("%+v", c)
			}
		}},
		{name: "5880 6.8.4 our interval makes the detection time", check: func(t *testing.T, p *prober) {
			p.up()
			q := p.says(Up)
			q.mult, q.desiredMinTx = 3, 400*ms
			sent := time.Now()
			p.send(q)
			h := p.await("Down", is(Down, DiagTimeExpired), nil)
			if took := h.at.Sub(sent); took < 1200*ms-5*ms || took > 2200*ms {
				t.Errorf("after %v, not 3 x 400 ms", took)
			}
			if h.yourDisc != 0 || h.desiredMinTx != time.Second {
				t.Errorf("%+v", h)
			}
		}},
	}
}

// kindProbes are for the other kinds of sessions.
func kindProbes() []probe {
	keyed, meticulous := &Auth{KeyID: 3, Key: "a key"}, &Auth{KeyID: 3, Key: "a key", Meticulous: true}
	comesUp := func(t *testing.T, p *prober) {
		p.up()
		p.hold(300*ms, p.says(Up))
		if st := p.status(); st.State != Up || st.Dropped != 0 {
			t.Errorf("%+v", st)
		}
	}
	drops := func(ttl int, why string) func(t *testing.T, p *prober) {
		return func(t *testing.T, p *prober) {
			p.first()
			p.sendRaw(p.bytes(p.says(Down)), ttl)
			await(t, 5*time.Second, "a drop", func() bool { return p.status().Dropped == 1 })
			if st := p.status(); st.State != Down || !strings.Contains(st.LastDropped, why) {
				t.Errorf("%+v", st)
			}
		}
	}
	return []probe{
		{name: "5883 5 multihop on port 4784", kind: kind{hops: 2}, check: comesUp},
		{name: "5883 multihop with TTL 254 of 2 hops", kind: kind{hops: 2}, check: func(t *testing.T, p *prober) {
			p.first()
			p.sendRaw(p.bytes(p.says(Init)), 254)
			p.await("Up", is(Up, DiagNone), nil)
		}},
		{name: "multihop with TTL 253 of 2 hops is dropped", kind: kind{hops: 2}, check: drops(253, "TTL 253, less than 254")},
		{name: "IPv6", kind: kind{v6: true}, check: comesUp},
		{name: "IPv6 hop limit 255 and class CS6 are sent", kind: kind{v6: true}, check: func(t *testing.T, p *prober) {
			if h := p.first(); h.ttl != 255 || h.tos != classCS6 || h.from.Port() < 49152 {
				t.Errorf("%+v", h)
			}
		}},
		{name: "5881 5 IPv6 hop limit 254 is dropped", kind: kind{v6: true}, check: drops(254, "TTL 254, not 255")},
		{name: "IPv6 multihop", kind: kind{v6: true, hops: 3}, check: comesUp},
		{name: "5880 6.7.4 keyed SHA1", kind: kind{auth: keyed}, check: comesUp},
		{name: "5880 6.7.4 meticulous keyed SHA1", kind: kind{auth: meticulous}, check: comesUp},
		{name: "5880 6.7.4 what is sent can be verified, and counts up", kind: kind{auth: meticulous}, check: func(t *testing.T, p *prober) {
			var w window
			await(t, 8*time.Second, "packets", func() bool { return len(p.since(time.Time{})) >= 3 })
			for i, h := range p.since(time.Time{}) {
				next, err := meticulous.verify(h.raw, h.mult, w)
				if err != nil || i > 0 && next.seq != w.seq+1 {
					t.Errorf("%v after %v: %v", next, w, err)
				}
				w = next
			}
		}},
		{name: "5880 6.8.6 no A bit, but a key is configured", kind: kind{auth: keyed}, check: func(t *testing.T, p *prober) {
			p.first()
			p.sendRaw(p.says(Down).marshal(), 255)
			await(t, 5*time.Second, "a drop", func() bool { return p.status().Dropped == 1 })
			if st := p.status(); st.State != Down || !strings.Contains(st.LastDropped, "not authenticated") {
				t.Errorf("%+v", st)
			}
		}},
		{name: "5880 6.7.4 another key is dropped", kind: kind{auth: keyed}, check: func(t *testing.T, p *prober) {
			p.first()
			p.peer.Auth = &Auth{KeyID: 3, Key: "another key"}
			drops(255, "hash is wrong")(t, p)
		}},
		{name: "5880 6.7.4 another key ID is dropped", kind: kind{auth: keyed}, check: func(t *testing.T, p *prober) {
			p.first()
			p.peer.Auth = &Auth{KeyID: 4, Key: "a key"}
			drops(255, "key ID 4, not 3")(t, p)
		}},
		{name: "5880 6.7.4 a replay is dropped", kind: kind{auth: meticulous}, check: func(t *testing.T, p *prober) {
			p.up()
			b := p.bytes(p.says(Up))
			p.sendRaw(b, 255)
			p.sendRaw(b, 255)
			await(t, 5*time.Second, "a drop", func() bool { return p.status().Dropped == 1 })
			if st := p.status(); !strings.Contains(st.LastDropped, "a replay") {
				t.Errorf("%+v", st)
			}
		}},
		{name: "5880 6.7.4 a number far ahead is dropped", kind: kind{auth: keyed}, check: func(t *testing.T, p *prober) {
			p.up()
			p.seq += 30 // the next is one more, and 3 x 10 may be lost
			p.send(p.says(Up))
			await(t, 5*time.Second, "a drop", func() bool { return p.status().Dropped == 1 })
			if st := p.status(); !strings.Contains(st.LastDropped, "sequence number") {
				t.Errorf("%+v", st)
			}
		}},
	}
}
