package arp

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/mdlayher/ndp"
)

const (
	ipv6Header   = 40
	icmpv6       = 58
	typeSolicit  = 135
	typeAdvert   = 136
	minNeighbour = 24 // octets of the shortest NS and NA
)

var (
	allNodes    = netip.MustParseAddr("ff02::1")
	allNodesMAC = mac{0x33, 0x33, 0, 0, 0, 1}

	errInvalidND = errors.New("not a valid neighbour message (RFC 4861 7.1)")
)

// solicitedNode is the multicast group in which addr is asked for (RFC 4291 2.7.1), and its Ethernet address.
func solicitedNode(addr netip.Addr) (netip.Addr, mac) {
	g, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil {
		panic("arp: " + err.Error()) // addresses are checked when they come in
	}
	b := g.As16()
	return g, mac{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// readND fills m from an IPv6 packet that is a neighbour solicitation or advertisement. The kernel has not looked at it yet,
// so the rules of RFC 4861 7.1.1 and 7.1.2 are checked here.
func (m *message) readND(b []byte) error {
	if len(b) < ipv6Header+minNeighbour || b[0]>>4 != 6 || b[6] != icmpv6 || b[7] != ndp.HopLimit {
		return errInvalidND
	}
	size := int(binary.BigEndian.Uint16(b[4:]))
	if size < minNeighbour || len(b) < ipv6Header+size {
		return errShort
	}
	src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	body := b[ipv6Header : ipv6Header+size]
	if body[1] != 0 || checksum(src, dst, body) != 0 {
		return errInvalidND
	}
	msg, err := ndp.ParseMessage(body)
	if err != nil {
		return err
	}
	switch msg := msg.(type) {
	case *ndp.NeighborSolicitation:
		return m.solicited(msg, src, dst)
	case *ndp.NeighborAdvertisement:
		return m.advertised(msg, dst)
	}
	return errForeign
}

func (m *message) solicited(ns *ndp.NeighborSolicitation, src, dst netip.Addr) error {
	lladdr, has := linkLayer(ns.Options, ndp.Source)
	if !speakable(ns.TargetAddress) || src.IsMulticast() {
		return errInvalidND
	}
	if group, _ := solicitedNode(ns.TargetAddress); src.IsUnspecified() && (has || dst != group) {
		return errInvalidND
	}
	m.asks, m.asker, m.back = ns.TargetAddress, src, m.from
	if has {
		m.back = lladdr
		m.claims, m.at = src, lladdr // who hears it may learn the sender's place from it
	}
	return nil
}

func (m *message) advertised(na *ndp.NeighborAdvertisement, dst netip.Addr) error {
	if !speakable(na.TargetAddress) || na.Solicited && dst.IsMulticast() {
		return errInvalidND
	}
	m.claims, m.at = na.TargetAddress, m.from
	if lladdr, has := linkLayer(na.Options, ndp.Target); has {
		m.at = lladdr
	}
	return nil
}

func linkLayer(options []ndp.Option, d ndp.Direction) (mac, bool) {
	for _, o := range options {
		if lla, ok := o.(*ndp.LinkLayerAddress); ok && lla.Direction == d {
			return toMAC(lla.Addr)
		}
	}
	return mac{}, false
}

// advertisement is the NA that says addr is at own, in answer to the question of q. Who has no address yet is told by a word
// to all nodes, not solicited (RFC 4861 7.2.4). It is sent from addr itself, as Linux does for an address of its own: so a
// link needs no link-local address to announce on.
func advertisement(addr netip.Addr, own mac, q message) []byte {
	to, dst, solicited := q.back, q.asker, true
	if q.asker.IsUnspecified() {
		to, dst, solicited = allNodesMAC, allNodes, false
	}
	return icmpFrame(to, own, addr, dst, &ndp.NeighborAdvertisement{
		Solicited:     solicited,
		Override:      true,
		TargetAddress: addr,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: own[:]}},
	})
}

// solicitation is the NS of duplicate address detection.
func solicitation(addr netip.Addr, own mac) []byte {
	group, to := solicitedNode(addr)
	return icmpFrame(to, own, netip.IPv6Unspecified(), group, &ndp.NeighborSolicitation{TargetAddress: addr})
}

func icmpFrame(to, from mac, src, dst netip.Addr, msg ndp.Message) []byte {
	body, err := ndp.MarshalMessageChecksum(msg, src, dst)
	if err != nil {
		panic("arp: " + err.Error()) // addresses are checked when they come in
	}
	b := make([]byte, ipv6Header, ipv6Header+len(body))
	b[0] = 6 << 4
	binary.BigEndian.PutUint16(b[4:], uint16(len(body)))
	b[6], b[7] = icmpv6, ndp.HopLimit
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return etherFrame(to, from, etherIPv6, append(b, body...))
}

// checksum is the ICMPv6 checksum over body and its pseudo header (RFC 4443 2.3): 0 if the one in body is right.
func checksum(src, dst netip.Addr, body []byte) uint16 {
	sum := uint32(len(body)) + icmpv6
	add := func(b []byte) {
		for ; len(b) > 1; b = b[2:] {
			sum += uint32(binary.BigEndian.Uint16(b))
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	s, d := src.As16(), dst.As16()
	add(s[:])
	add(d[:])
	add(body)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
