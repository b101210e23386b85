package bfd

import (
	"encoding/binary"
	"fmt"
	"time"
)

// The mandatory section (RFC 5880 4.1).
const (
	packetLen     = 24
	version       = 1
	flagPoll      = 0x20
	flagFinal     = 0x10
	flagAuth      = 0x04
	flagDemand    = 0x02
	flagMulti     = 0x01
	minAuthPacket = packetLen + 2
)

// A packet is a BFD control packet without its authentication section (RFC 5880 4.1). The two bits that this package never
// sets and never reads, C and M, and the interval of echo packets, which it neither sends nor answers, are left out.
type packet struct {
	diag          Diag
	state         State
	poll, final   bool
	auth          bool // there is an authentication section
	demand        bool
	mult          uint8
	myDisc        uint32
	yourDisc      uint32
	desiredMinTx  time.Duration // whole microseconds, at most 2^32-1, like the next
	requiredMinRx time.Duration
}

// parsePacket reads the mandatory section and applies, in their order, the rules of RFC 5880 6.8.6 that need no session. It
// also returns the part of b that is the packet. The error is the reason for the drop.
func parsePacket(b []byte) (p packet, raw []byte, err error) {
	if len(b) < packetLen {
		return p, nil, fmt.Errorf("%d bytes, a packet has at least %d", len(b), packetLen)
	}
	// RFC 5880 6.8.6: "If the version number is not correct (1), the packet MUST be discarded."
	if v := b[0] >> 5; v != version {
		return p, nil, fmt.Errorf("version %d, not %d", v, version)
	}
	p = packet{
		diag:          Diag(b[0] & 0x1f),
		state:         State(b[1] >> 6),
		poll:          b[1]&flagPoll != 0,
		final:         b[1]&flagFinal != 0,
		auth:          b[1]&flagAuth != 0,
		demand:        b[1]&flagDemand != 0,
		mult:          b[2],
		myDisc:        binary.BigEndian.Uint32(b[4:]),
		yourDisc:      binary.BigEndian.Uint32(b[8:]),
		desiredMinTx:  microseconds(b[12:]),
		requiredMinRx: microseconds(b[16:]),
	}
	length := int(b[3])
	switch {
	// "If the Length field is less than the minimum correct value (24 if the A bit is clear, or 26 if the A bit is set) ..."
	case length < packetLen, p.auth && length < minAuthPacket:
		return p, nil, fmt.Errorf("length field %d is too small", length)
	// "If the Length field is greater than the payload of the encapsulating protocol ..."
	case length > len(b):
		return p, nil, fmt.Errorf("length field %d, but %d bytes came", length, len(b))
	// "If the Detect Mult field is zero ..."
	case p.mult == 0:
		return p, nil, fmt.Errorf("detect multiplier 0")
	// "If the Multipoint (M) bit is nonzero ..."
	case b[1]&flagMulti != 0:
		return p, nil, fmt.Errorf("multipoint bit set")
	// "If the My Discriminator field is zero ..."
	case p.myDisc == 0:
		return p, nil, fmt.Errorf("my discriminator 0")
	// "If the Your Discriminator field is zero and the State field is not Down or AdminDown ..."
	case p.yourDisc == 0 && p.state != Down && p.state != AdminDown:
		return p, nil, fmt.Errorf("your discriminator 0 in state %v", p.state)
	}
	return p, b[:length], nil
}

func microseconds(b []byte) time.Duration {
	return time.Duration(binary.BigEndian.Uint32(b)) * time.Microsecond
}

// marshal returns the mandatory section. With authentication, sign adds the rest.
func (p packet) marshal() []byte {
	b := make([]byte, packetLen, packetLen+authLen)
	b[0] = version<<5 | byte(p.diag)&0x1f
	b[1] = byte(p.state)<<6 | bit(flagPoll, p.poll) | bit(flagFinal, p.final) | bit(flagAuth, p.auth) | bit(flagDemand, p.demand)
	b[2], b[3] = p.mult, packetLen
	binary.BigEndian.PutUint32(b[4:], p.myDisc)
	binary.BigEndian.PutUint32(b[8:], p.yourDisc)
	binary.BigEndian.PutUint32(b[12:], uint32(p.desiredMinTx/time.Microsecond))
	binary.BigEndian.PutUint32(b[16:], uint32(p.requiredMinRx/time.Microsecond))
	return b // Required Min Echo RX Interval 0: no echo packets, please
}

func bit(flag byte, set bool) byte {
	if set {
		return flag
	}
	return 0
}
