package bfd

import (
	"crypto/sha1"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
)

// The SHA1 authentication section (RFC 5880 4.4).
const (
	authLen        = 28
	authKeyed      = 4
	authMeticulous = 5
	authHash       = packetLen + 8 // where the hash is
)

func (a *Auth) kind() byte {
	if a.Meticulous {
		return authMeticulous
	}
	return authKeyed
}

// hash is the SHA1 of a whole packet with the key, padded with zeros, in the place of the hash (RFC 5880 6.7.4).
func (a *Auth) hash(b []byte) [sha1.Size]byte {
	var with [packetLen + authLen]byte
	copy(with[:], b[:authHash])
	copy(with[authHash:], a.Key)
	return sha1.Sum(with[:])
}

// sign adds the authentication section to a mandatory section whose A bit is set.
func (a *Auth) sign(b []byte, seq uint32) []byte {
	b = append(b, a.kind(), authLen, a.KeyID, 0)
	b = binary.BigEndian.AppendUint32(b, seq)
	b[3] = byte(packetLen + authLen)
	sum := a.hash(b)
	return append(b, sum[:]...)
}

// A window is what is known of the neighbour's sequence numbers.
type window struct {
	known bool   // bfd.AuthSeqKnown
	seq   uint32 // bfd.RcvAuthSeq
}

// verify applies the rules of RFC 5880 6.7.4 to a received packet, in their order, and returns the window after it. The error
// is the reason for the drop; the window is then as it was, since nothing a stranger sent may move it.
func (a *Auth) verify(raw []byte, mult uint8, w window) (window, error) {
	auth := raw[packetLen:]
	// "If ... the Auth Type is not correct (4 for Keyed SHA1 or 5 for Meticulous Keyed SHA1), then the received packet MUST be discarded."
	if auth[0] != a.kind() {
		return w, fmt.Errorf("authentication type %d, not %d", auth[0], a.kind())
	}
	// "If the Auth Len field is not equal to 28 ..." Before the key ID, which could lie outside of the packet.
	if auth[1] != authLen || len(auth) != authLen {
		return w, fmt.Errorf("authentication section of %d bytes, not %d", auth[1], authLen)
	}
	// "If the Auth Key ID field does not match the ID of a configured authentication key ..."
	if auth[2] != a.KeyID {
		return w, fmt.Errorf("authentication key ID %d, not %d", auth[2], a.KeyID)
	}
	seq := binary.BigEndian.Uint32(auth[4:])
	if w.known && !a.follows(seq-w.seq, mult) {
		return w, fmt.Errorf("sequence number %d after %d: a replay, or too many lost packets", seq, w.seq)
	}
	// "If the SHA1 hash of the entire BFD Control packet is equal to the received value of the Auth Key/Hash field ..."
	sum := a.hash(raw)
	if subtle.ConstantTimeCompare(sum[:], raw[authHash:]) == 0 {
		return w, fmt.Errorf("authentication hash is wrong: another key?")
	}
	return window{known: true, seq: seq}, nil
}

// follows says whether a sequence number may come so much, in the circle of 32 bits, after the one before: "bfd.RcvAuthSeq
// [+1 if meticulous] to bfd.RcvAuthSeq+(3*Detect Mult) inclusive".
func (a *Auth) follows(ahead uint32, mult uint8) bool {
	if a.Meticulous && ahead == 0 {
		return false
	}
	return ahead <= 3*uint32(mult)
}
