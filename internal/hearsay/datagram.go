package hearsay

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/pintle-lb/pintle/leader"
)

// The bytes of a datagram, numbers in network order:
//
//	 0  "PtHs", version (1), flags (bit 0: away; others are 0)
//	 6  process of the sender (16), its clock when it wrote this (8)
//	30  the same two of the newest datagram that it heard from the addressee, or zeros (16 + 8)
//	54  nanoseconds from then to now (8)
//	62  name of the sender, name of the addressee: each a length (1) and so many bytes
//	    HMAC-SHA256 of all before it (32)
//
// The seal covers the addressee too, so that a datagram for one node is nothing to another.
const (
	magic       = "PtHs"
	version     = 1
	flagAway    = 1
	headLen     = 62
	sealLen     = sha256.Size
	maxName     = 253 // a node's name is a DNS subdomain (RFC 1123)
	maxDatagram = headLen + 2*(1+maxName) + sealLen
)

// A process is a random number that tells one run of a program from all others.
type process [16]byte

func newProcess() (p process) {
	_, _ = rand.Read(p[:]) // never fails
	return p
}

// A mark names a datagram: the process that wrote it, and when by that one's clock. A process never uses a mark twice for one
// addressee, and its later ones are greater.
type mark struct {
	process process
	at      leader.Instant
}

// A datagram is what one node says to another.
type datagram struct {
	from, to string
	away     bool
	mark     mark
	echo     mark          // the newest that was heard from the addressee; zero for none
	held     time.Duration // how long before mark that was
}

// seal returns d in bytes.
func (d datagram) seal(key []byte) []byte {
	b := make([]byte, 0, headLen+2+len(d.from)+len(d.to)+sealLen)
	b = append(b, magic...)
	b = append(b, version, 0)
	if d.away {
		b[len(b)-1] = flagAway
	}
	b = d.mark.append(b)
	b = d.echo.append(b)
	b = binary.BigEndian.AppendUint64(b, uint64(d.held))
	b = append(append(b, byte(len(d.from))), d.from...)
	b = append(append(b, byte(len(d.to))), d.to...)
	return mac(key, b).Sum(b)
}

func (m mark) append(b []byte) []byte {
	return binary.BigEndian.AppendUint64(append(b, m.process[:]...), uint64(m.at))
}

func mac(key, b []byte) interface{ Sum([]byte) []byte } {
	h := hmac.New(sha256.New, key)
	h.Write(b)
	return h
}

// sealed reports whether b, which parse took, has the seal of key.
func sealed(b, key []byte) bool {
	text, seal := b[:len(b)-sealLen], b[len(b)-sealLen:]
	return hmac.Equal(seal, mac(key, text).Sum(nil))
}

// parse reads what seal wrote, and nothing else. It does not look at the seal.
func parse(b []byte) (d datagram, err error) {
	if len(b) < headLen+2+sealLen || len(b) > maxDatagram {
		return d, fmt.Errorf("%d bytes, a datagram has %d to %d", len(b), headLen+2+sealLen, maxDatagram)
	}
	switch {
	case string(b[:4]) != magic:
		return d, errors.New("not of this protocol")
	case b[4] != version:
		return d, fmt.Errorf("version %d, not %d", b[4], version)
	case b[5]&^flagAway != 0:
		return d, fmt.Errorf("flags %#x", b[5])
	}
	d.away = b[5] == flagAway
	d.mark, d.echo = readMark(b[6:]), readMark(b[30:])
	d.held = time.Duration(binary.BigEndian.Uint64(b[54:]))
	rest := b[headLen : len(b)-sealLen]
	var ok1, ok2 bool
	d.from, rest, ok1 = readName(rest)
	d.to, rest, ok2 = readName(rest)
	switch {
	case !ok1 || !ok2 || len(rest) != 0:
		return d, errors.New("names do not fill the datagram")
	case d.mark.process == process{} || d.mark.at <= 0:
		return d, errors.New("no mark")
	case d.echo.at < 0 || d.held < 0 || (d.echo.process == process{}) != (d.echo.at == 0):
		return d, errors.New("no echo, and not none")
	}
	return d, nil
}

func readMark(b []byte) (m mark) {
	copy(m.process[:], b)
	m.at = leader.Instant(binary.BigEndian.Uint64(b[len(m.process):]))
	return m
}

func readName(b []byte) (name string, rest []byte, ok bool) {
	if len(b) == 0 {
		return "", nil, false
	}
	n := int(b[0])
	if n == 0 || n > maxName || len(b) < 1+n {
		return "", nil, false
	}
	return string(b[1 : 1+n]), b[1+n:], true
}
