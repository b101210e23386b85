package netlab

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// askers6 is how many stations a solicitation rotates through. They are fewer than for ARP because a kernel that answers keeps
// a neighbour entry for each, of which there may be 1024 on a whole machine (net.ipv6.neigh.default.gc_thresh3).
const askers6 = 256

// Frame layout of neighbour messages, RFC 4861 4.3 and 4.4 over Ethernet and IPv6.
const (
	solicitLen    = 86
	advertLen     = 78 // without options
	offNextHeader = 20
	offSource     = 22
	offDest       = 38
	offICMP       = 54
	offSum        = 56
	offTarget     = 62
	offOption     = 78 // the address of the sender's link layer
	icmpv6        = 58
	typeSolicit   = 135
	typeAdvert    = 136
)

// A solicitation is for IPv6 what whoHas is for IPv4. Its askers are fd77::7770:P:S, where P counts probes and surveys, with a
// MAC address each.
type solicitation struct {
	frame  [solicitLen]byte
	base   [5]byte // of the askers' MAC addresses
	source [15]byte
	addr   [16]byte
}

func newSolicitation(addr netip.Addr, probe byte) *solicitation {
	s := &solicitation{base: [5]byte{2, 0x77, 0x70, probe, 0xff}, source: [15]byte{0: 0xfd, 1: 0x77, 10: 0x77, 11: 0x70, 13: probe}, addr: addr.As16()}
	f := s.frame[:]
	copy(f, []byte{0x33, 0x33, 0xff, s.addr[13], s.addr[14], s.addr[15]})
	copy(f[12:], []byte{0x86, 0xdd, 6 << 4, 0, 0, 0, 0, solicitLen - offICMP, icmpv6, 255})
	copy(f[offDest:], []byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: s.addr[13], 14: s.addr[14], 15: s.addr[15]}) // RFC 4291 2.7.1
	f[offICMP] = typeSolicit
	copy(f[offTarget:], s.addr[:])
	copy(f[offOption:], []byte{1, 1}) // source link-layer address, 8 bytes
	return s
}

// ask returns the frame of question seq, which is valid until the next call.
func (s *solicitation) ask(seq int64) []byte {
	f, slot := s.frame[:], byte(seq%askers6)
	copy(f[6:], s.base[:])
	f[11] = slot
	copy(f[offSource:], s.source[:])
	f[offSource+15] = slot
	copy(f[offOption+2:], f[6:12])
	binary.BigEndian.PutUint16(f[offSum:], 0)
	binary.BigEndian.PutUint16(f[offSum:], icmpSum(f))
	return f
}

// icmpSum is the checksum of RFC 4443 2.3, whose field in the frame must be 0.
func icmpSum(frame []byte) uint16 {
	sum := uint32(len(frame)-offICMP) + icmpv6
	for b := frame[offSource:]; len(b) > 1; b = b[2:] { // both addresses, which the message follows
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// answers tells which question a frame answers, at a time when newest was the last one asked.
func (s *solicitation) answers(frame []byte, newest int64) (seq int64, ok bool) {
	if len(frame) < advertLen || frame[offICMP] != typeAdvert || [16]byte(frame[offTarget:]) != s.addr ||
		[5]byte(frame) != s.base || [15]byte(frame[offDest:]) != s.source || frame[5] != frame[offDest+15] {
		return 0, false
	}
	seq = latest(int64(frame[5]), newest, askers6)
	return seq, seq >= 0
}

// claimOf tells which address a frame claims for which MAC address: an ARP frame by its sender, a neighbour advertisement by its
// target.
func claimOf(frame []byte) (addr netip.Addr, by macAddr, ok bool) {
	if len(frame) < 14 {
		return netip.Addr{}, 0, false
	}
	switch kind := binary.BigEndian.Uint16(frame[12:]); {
	case kind == unix.ETH_P_ARP && len(frame) >= arpLen:
		return netip.AddrFrom4([4]byte(frame[offSPA:])), macOf(frame[offSHA:]), true
	case kind == unix.ETH_P_IPV6 && len(frame) >= advertLen && frame[offNextHeader] == icmpv6 && frame[offICMP] == typeAdvert:
		at := frame[6:]
		if len(frame) >= offOption+8 && frame[offOption] == 2 { // target link-layer address
			at = frame[offOption+2:]
		}
		return netip.AddrFrom16([16]byte(frame[offTarget:])), macOf(at), true
	}
	return netip.Addr{}, 0, false
}
