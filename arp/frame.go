package arp

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	rfc826 "github.com/mdlayher/arp"
)

// A mac is an Ethernet address that can be compared and be the key of a map.
type mac [6]byte

func (m mac) String() string { return net.HardwareAddr(m[:]).String() }

// group says whether m names more than one station.
func (m mac) group() bool { return m[0]&1 != 0 }

func toMAC(b []byte) (m mac, ok bool) { return m, copy(m[:], b) == len(m) && len(b) == len(m) }

const (
	etherARP    = 0x0806
	etherIPv6   = 0x86dd
	etherHeader = 14
)

var (
	broadcast = mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	nobody    = mac{}

	errShort   = errors.New("frame too short")
	errForeign = errors.New("not an ARP or ND frame for Ethernet and IP")
)

// A message is what one ARP or ND frame says, alike for both. A frame may both claim and ask.
type message struct {
	from, to mac        // of the Ethernet header
	claims   netip.Addr // the sender says that it has this address ...
	at       mac        // ... here
	asks     netip.Addr // the sender wants to know who has this address ...
	back     mac        // ... and be told here
	asker    netip.Addr // its own address; unspecified: it only probes (RFC 5227, duplicate address detection)
}

// etherFrame puts an Ethernet header before payload.
func etherFrame(to, from mac, kind uint16, payload []byte) []byte {
	b := make([]byte, etherHeader, etherHeader+len(payload))
	copy(b, to[:])
	copy(b[6:], from[:])
	binary.BigEndian.PutUint16(b[12:], kind)
	return append(b, payload...)
}

// splitEther reads the Ethernet header of b.
func splitEther(b []byte) (m message, kind uint16, payload []byte, err error) {
	if len(b) < etherHeader {
		return m, 0, nil, errShort
	}
	m.to, m.from = mac(b[:6]), mac(b[6:12])
	return m, binary.BigEndian.Uint16(b[12:]), b[etherHeader:], nil
}

// parse reads a frame of either kind.
func parse(b []byte) (message, error) {
	m, kind, payload, err := splitEther(b)
	if err != nil {
		return m, err
	}
	switch kind {
	case etherARP:
		return m, m.readARP(payload)
	case etherIPv6:
		return m, m.readND(payload)
	}
	return m, errForeign
}

// readARP fills m from an ARP packet (RFC 826).
func (m *message) readARP(b []byte) error {
	var p rfc826.Packet
	if err := p.UnmarshalBinary(b); err != nil {
		return err
	}
	sha, ok := toMAC(p.SenderHardwareAddr)
	if !ok || p.HardwareType != 1 || p.ProtocolType != 0x0800 || p.IPLength != 4 {
		return errForeign
	}
	if !p.SenderIP.IsUnspecified() {
		m.claims, m.at = p.SenderIP, sha
	}
	if p.Operation == rfc826.OperationRequest {
		m.asks, m.back, m.asker = p.TargetIP, sha, p.SenderIP
	}
	return nil
}

// announcements are the frames that tell everyone on the link that addr is at own.
func announcements(addr netip.Addr, own mac) [][]byte {
	if addr.Is6() {
		return [][]byte{advertisement(addr, own, message{back: allNodesMAC, asker: netip.IPv6Unspecified()})}
	}
	// Both forms: some routers learn from requests only, others from replies only. With another target hardware address than
	// the sender's, Linux does not take the reply for a gratuitous one and ignores it for a second after the last change.
	return [][]byte{
		arpFrame(broadcast, rfc826.OperationRequest, own, addr, nobody, addr),
		arpFrame(broadcast, rfc826.OperationReply, own, addr, own, addr),
	}
}

// answer is the frame that answers the question of m: m.asks is at own.
func answer(m message, own mac) []byte {
	if m.asks.Is6() {
		return advertisement(m.asks, own, m)
	}
	return arpFrame(m.back, rfc826.OperationReply, own, m.asks, m.back, m.asker)
}

// probe is the frame that asks for addr without saying anything about the asker (RFC 5227 2.1.1, RFC 4862 5.4.2).
func probe(addr netip.Addr, own mac) []byte {
	if addr.Is6() {
		return solicitation(addr, own)
	}
	return arpFrame(broadcast, rfc826.OperationRequest, own, netip.IPv4Unspecified(), nobody, addr)
}

func arpFrame(to mac, op rfc826.Operation, sha mac, spa netip.Addr, tha mac, tpa netip.Addr) []byte {
	p, err := rfc826.NewPacket(op, sha[:], spa, tha[:], tpa)
	if err != nil {
		panic("arp: " + err.Error()) // addresses are checked when they come in
	}
	b, err := p.MarshalBinary()
	if err != nil {
		panic("arp: " + err.Error())
	}
	return etherFrame(to, sha, etherARP, b)
}
