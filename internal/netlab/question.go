package netlab

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync/atomic"
)

// A macAddr is a MAC address that fits into an atomic; zero means none.
type macAddr uint64

func macOf(b []byte) macAddr {
	return macAddr(binary.BigEndian.Uint16(b))<<32 | macAddr(binary.BigEndian.Uint32(b[2:]))
}

func (m macAddr) String() string {
	b := binary.BigEndian.AppendUint64(nil, uint64(m))
	return net.HardwareAddr(b[2:]).String()
}

// An ARP reply carries no number, so a question is recognised by who asked it: questions rotate through askers that do
// not exist, 50 addresses from 10.77.0.201 on with 16 MAC addresses each. 800 questions later an asker comes round again.
// That the askers are nobody also keeps the client's own neighbour cache as it is: the kernel learns from every reply to
// its MAC address, whatever protocol address it is for, but ignores frames for others, which only a packet socket in
// promiscuous mode sees.
const (
	askerFirst = 201
	askerAddrs = 50
	askers     = askerAddrs * 16
)

// ARP frame layout, RFC 826 over Ethernet and IPv4.
const (
	arpLen    = 42
	offOp     = 20
	offSHA    = 22
	offSPA    = 28
	offTPA    = 38
	opRequest = 1
	opReply   = 2
)

// A whoHas is an ARP question that is sent again and again with another asker.
type whoHas struct {
	frame [arpLen]byte
	base  [5]byte // of the askers' MAC addresses
	addr  [4]byte
}

// newWhoHas returns questions for addr. Different probes of a lab have different askers.
func newWhoHas(addr netip.Addr, probe byte) *whoHas {
	w := &whoHas{base: [5]byte{2, 0x77, 0x70, probe, 0}, addr: addr.As4()}
	f := w.frame[:]
	copy(f, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	copy(f[12:], []byte{0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, opRequest})
	copy(f[offTPA:], w.addr[:])
	return w
}

// ask returns the frame of question seq, which is valid until the next call.
func (w *whoHas) ask(seq int64) []byte {
	slot := seq % askers
	mac := w.frame[offSHA : offSHA+6]
	copy(mac, w.base[:])
	mac[5] = byte(slot / askerAddrs)
	copy(w.frame[6:], mac)
	copy(w.frame[offSPA:], []byte{10, 77, 0, byte(askerFirst + slot%askerAddrs)})
	return w.frame[:]
}

// answer tells which question a frame answers, at a time when newest was the last one asked, and who says so.
func (w *whoHas) answer(frame []byte, newest int64) (seq int64, by macAddr, ok bool) {
	if len(frame) < arpLen || [5]byte(frame[0:5]) != w.base || frame[offOp+1] != opReply || [4]byte(frame[offSPA:offSPA+4]) != w.addr {
		return 0, 0, false
	}
	addr := int64(frame[offTPA+3]) - askerFirst
	slot := int64(frame[5])*askerAddrs + addr
	if addr < 0 || addr >= askerAddrs || slot >= askers {
		return 0, 0, false
	}
	seq = latest(slot, newest, askers)
	return seq, macOf(frame[offSHA:]), seq >= 0
}

// latest is the newest question, of those up to newest, whose asker was the one of a slot, when a round has so many.
func latest(slot, newest, round int64) int64 { return newest - ((newest-slot)%round+round)%round }

// answers is answer for who knows already who says so.
func (w *whoHas) answers(frame []byte, newest int64) (seq int64, ok bool) {
	seq, _, ok = w.answer(frame, newest)
	return seq, ok
}

// A question is what is known of one instant's questions, the UDP and the ARP one. Times are of now's clock, 0: not yet.
type question struct {
	seq, sent int64
	udpAt     int64
	node      byte // who answered by UDP
	arpAt     int64
	mac       macAddr // who answered by ARP first
	dualAt    int64
	rival     macAddr // who, other than mac, answered the same ARP question
}

// ringSize bounds the memory of a probe: 4 MB, two minutes at an interval of 2 ms.
const ringSize = 1 << 16

// A ring holds the newest questions. One thread asks; one for each protocol answers; anyone may look.
type ring struct {
	newest atomic.Int64 // -1 before the first
	slots  [ringSize]slot
}

type slot struct {
	seq, sent, udpAt, arpAt, dualAt atomic.Int64
	node                            atomic.Uint32
	mac, rival                      atomic.Uint64
}

func newRing() *ring {
	r := &ring{}
	r.newest.Store(-1)
	return r
}

func (r *ring) at(seq int64) *slot { return &r.slots[seq%ringSize] }

// ask records that question seq is sent at t.
func (r *ring) ask(seq, t int64) {
	s := r.at(seq)
	s.sent.Store(0)
	s.udpAt.Store(0)
	s.arpAt.Store(0)
	s.dualAt.Store(0)
	s.mac.Store(0)
	s.seq.Store(seq)
	s.sent.Store(t)
	r.newest.Store(seq)
}

func (r *ring) has(seq int64) bool {
	return seq >= 0 && seq <= r.newest.Load() && r.at(seq).seq.Load() == seq
}

// answerUDP records the first answer to question seq.
func (r *ring) answerUDP(seq int64, node byte, t int64) {
	if s := r.at(max(seq, 0)); r.has(seq) && s.udpAt.Load() == 0 {
		s.node.Store(uint32(node))
		s.udpAt.Store(t)
	}
}

// answerARP records the first answer to question seq, and the first from anyone else.
func (r *ring) answerARP(seq int64, by macAddr, t int64) {
	if !r.has(seq) {
		return
	}
	switch s := r.at(seq); {
	case s.arpAt.Load() == 0:
		s.mac.Store(uint64(by))
		s.arpAt.Store(t)
	case s.mac.Load() != uint64(by) && s.dualAt.Load() == 0:
		s.rival.Store(uint64(by))
		s.dualAt.Store(t)
	}
}

// between copies the questions sent from one time to another, oldest first.
func (r *ring) between(from, to int64) []question {
	var qs []question
	newest := r.newest.Load()
	// The oldest slots may be overwritten while we look.
	for seq := max(0, newest-ringSize+askers); seq <= newest; seq++ {
		s := r.at(seq)
		if t := s.sent.Load(); t < from || t > to || s.seq.Load() != seq {
			continue
		}
		qs = append(qs, s.copy())
	}
	return qs
}

func (s *slot) copy() question {
	q := question{seq: s.seq.Load(), sent: s.sent.Load(), udpAt: s.udpAt.Load(), arpAt: s.arpAt.Load(), dualAt: s.dualAt.Load()}
	q.node = byte(s.node.Load())
	q.mac, q.rival = macAddr(s.mac.Load()), macAddr(s.rival.Load())
	return q
}
