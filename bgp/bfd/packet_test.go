package bfd

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// good is a packet that breaks no rule.
func good() packet {
	return packet{state: Down, mult: 3, myDisc: theirDisc, desiredMinTx: time.Second, requiredMinRx: 100 * ms}
}

// RFC 5880 6.8.6: what is dropped before a session is looked for, and why.
func TestParseDrops(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(b []byte) []byte
		why   string
	}{
		{"empty", func([]byte) []byte { return nil }, "0 bytes, a packet has at least 24"},
		{"short", func(b []byte) []byte { return b[:23] }, "23 bytes, a packet has at least 24"},
		{"version 0", func(b []byte) []byte { b[0] &= 0x1f; return b }, "version 0, not 1"},
		{"version 2", func(b []byte) []byte { b[0] = 2 << 5; return b }, "version 2, not 1"},
		{"length 23", func(b []byte) []byte { b[3] = 23; return b }, "length field 23 is too small"},
		{"length 25 with A", func(b []byte) []byte { b[1] |= flagAuth; b[3] = 25; return append(b, 0, 0) }, "length field 25 is too small"},
		{"length 25 of 24", func(b []byte) []byte { b[3] = 25; return b }, "length field 25, but 24 bytes came"},
		{"multiplier", func(b []byte) []byte { b[2] = 0; return b }, "detect multiplier 0"},
		{"multipoint", func(b []byte) []byte { b[1] |= flagMulti; return b }, "multipoint bit set"},
		{"my discriminator", func(b []byte) []byte { clear(b[4:8]); return b }, "my discriminator 0"},
		{"Init", func(b []byte) []byte { b[1] = byte(Init) << 6; return b }, "your discriminator 0 in state Init"},
		{"Up", func(b []byte) []byte { b[1] = byte(Up) << 6; return b }, "your discriminator 0 in state Up"},
		// In the RFC's order: of several errors the first one is said.
		{"version before length", func(b []byte) []byte { b[0], b[3] = 0, 0; return b }, "version 0, not 1"},
		{"multiplier before M", func(b []byte) []byte { b[2] = 0; b[1] |= flagMulti; clear(b[4:8]); return b }, "detect multiplier 0"},
	} {
		_, _, err := parsePacket(c.spoil(good().marshal()))
		if err == nil || err.Error() != c.why {
			t.Errorf("%s: %v, not %q", c.name, err, c.why)
		}
	}
}

// What is sent can be read, and trailing bytes are not part of the packet.
func TestMarshal(t *testing.T) {
	for _, p := range []packet{
		good(),
		{diag: 31, state: Up, poll: true, demand: true, mult: 255, myDisc: 1<<32 - 1, yourDisc: 1, desiredMinTx: (1<<32 - 1) * time.Microsecond},
		{state: Init, final: true, mult: 1, myDisc: 1, yourDisc: 2, requiredMinRx: time.Microsecond},
	} {
		b := p.marshal()
		got, raw, err := parsePacket(append(bytes.Clone(b), 1, 2, 3))
		if err != nil || got != p || !bytes.Equal(raw, b) {
			t.Errorf("%+v: %+v, %v", p, got, err)
		}
	}
	b := packet{diag: 3, state: Up, poll: true, mult: 3, myDisc: 0x01020304, yourDisc: 0x05060708, desiredMinTx: time.Second, requiredMinRx: 100 * ms}.marshal()
	want := []byte{0x23, 0xe0, 3, 24, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0x0f, 0x42, 0x40, 0, 1, 0x86, 0xa0, 0, 0, 0, 0}
	if !bytes.Equal(b, want) {
		t.Errorf("% x", b)
	}
}

// RFC 5880 6.7.4, on the side that receives.
func TestVerify(t *testing.T) {
	keyed, meticulous := &Auth{KeyID: 9, Key: "secret"}, &Auth{KeyID: 9, Key: "secret", Meticulous: true}
	p := good()
	p.auth = true
	at := func(seq uint32) window { return window{known: true, seq: seq} }
	for _, c := range []struct {
		name  string
		auth  *Auth
		seq   uint32
		w     window
		spoil func(b []byte) []byte
		why   string // "": accepted
	}{
		{name: "first", auth: keyed, seq: 77},
		{name: "same", auth: keyed, seq: 77, w: at(77)},
		{name: "older", auth: keyed, seq: 76, w: at(77), why: "sequence number 76 after 77"},
		{name: "at the end of the window", auth: keyed, seq: 86, w: at(77)},
		{name: "beyond the window", auth: keyed, seq: 87, w: at(77), why: "sequence number 87"},
		{name: "round the circle", auth: keyed, seq: 3, w: at(1<<32 - 2)},
		{name: "meticulous next", auth: meticulous, seq: 78, w: at(77)},
		{name: "meticulous same", auth: meticulous, seq: 77, w: at(77), why: "sequence number 77"},
		{name: "meticulous at the end of the window", auth: meticulous, seq: 86, w: at(77)},
		{name: "meticulous beyond", auth: meticulous, seq: 87, w: at(77), why: "sequence number 87"},
		{name: "another type", auth: keyed, spoil: func(b []byte) []byte { b[24] = 5; return b }, why: "authentication type 5, not 4"},
		{name: "simple password", auth: keyed, spoil: func(b []byte) []byte { b[24] = 1; return b }, why: "authentication type 1, not 4"},
		{name: "length", auth: keyed, spoil: func(b []byte) []byte { b[25] = 27; return b }, why: "authentication section of 27 bytes, not 28"},
		{name: "cut short", auth: keyed, spoil: func(b []byte) []byte { b[3] = 26; return b[:26] }, why: "authentication section of 28 bytes"},
		{name: "key ID", auth: keyed, spoil: func(b []byte) []byte { b[26] = 8; return b }, why: "authentication key ID 8, not 9"},
		{name: "hash", auth: keyed, spoil: func(b []byte) []byte { b[51] ^= 1; return b }, why: "authentication hash is wrong"},
		{name: "contents", auth: keyed, spoil: func(b []byte) []byte { b[12] ^= 1; return b }, why: "authentication hash is wrong"},
		{name: "sequence number", auth: keyed, spoil: func(b []byte) []byte { b[31] ^= 1; return b }, why: "authentication hash is wrong"},
	} {
		b := c.auth.sign(p.marshal(), c.seq)
		if c.spoil != nil {
			b = c.spoil(b)
		}
		_, raw, err := parsePacket(b)
		if err != nil {
			t.Fatal(err)
		}
		w, err := c.auth.verify(raw, p.mult, c.w)
		switch {
		case c.why == "" && (err != nil || w != at(c.seq)):
			t.Errorf("%s: %v, %v", c.name, w, err)
		case c.why != "" && (err == nil || !strings.Contains(err.Error(), c.why) || w != c.w):
			t.Errorf("%s: %v, %v", c.name, w, err)
		}
	}
}

// RFC 5880 6.7.4, on the side that sends: how the sequence number grows; and 6.8.6 on both: with A or without.
func TestAuthInSession(t *testing.T) {
	for _, meticulous := range []bool{false, true} {
		auth := &Auth{KeyID: 1, Key: strings.Repeat("k", 20), Meticulous: meticulous}
		r := newRig(t)
		p := r.told(Init)
		p.auth = true
		r.step(arrival{packet: p, raw: auth.sign(p.marshal(), 1), ttl: 255})
		if !strings.Contains(r.drop, "no key is configured") {
			t.Errorf("%q", r.drop)
		}
		r.step(settings{interval: 100 * ms, mult: 3, auth: auth})
		r.hear(r.told(Down))
		if !strings.Contains(r.drop, "not authenticated") {
			t.Errorf("%q", r.drop)
		}
		seq := func() uint32 {
			_, raw, err := parsePacket(r.send[0])
			if err != nil {
				t.Fatal(err)
			}
			w, err := auth.verify(raw, 3, window{})
			if err != nil {
				t.Fatal(err)
			}
			return w.seq
		}
		r.step(transmitDue{})
		first := seq()
		r.step(transmitDue{})
		if grown := seq() - first; (grown == 1) != meticulous {
			t.Errorf("meticulous %v: the same packet: %d more", meticulous, grown)
		}
		before := seq()
		hear := func(p packet, seq uint32) {
			p.auth = true
			b := auth.sign(p.marshal(), seq)
			p, raw, err := parsePacket(b)
			if err != nil {
				t.Fatal(err)
			}
			r.step(arrival{packet: p, raw: raw, ttl: 255})
		}
		hear(r.told(Init), 500)
		if r.state != Up || seq() != before+1 {
			t.Errorf("%v, %q, %d after %d", r.state, r.drop, seq(), before)
		}
		// A replay, also long after, while the session lives; and not after twice the detection time.
		hear(r.told(Down), 499)
		if r.state != Up || !strings.Contains(r.drop, "replay") {
			t.Errorf("%v, %q", r.state, r.drop)
		}
		r.pass(2 * r.detection())
		r.step(detectionDue{})
		hear(r.told(Down), 3)
		if r.state != Init {
			t.Errorf("%v, %q", r.state, r.drop)
		}
		// Another key has its own sequence.
		auth = &Auth{KeyID: 2, Key: "other", Meticulous: meticulous}
		r.step(settings{interval: 100 * ms, mult: 3, auth: auth})
		hear(r.told(Init), 1<<31)
		if r.state != Up {
			t.Errorf("%v, %q", r.state, r.drop)
		}
	}
}
