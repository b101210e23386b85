package bgp

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// readUpdate says which prefixes an UPDATE withdraws and which it advertises (RFC 4271 4.3, RFC 4760). It is for the messages
// of our own gobgp.
func readUpdate(message []byte) (withdrawn, reached []netip.Prefix, err error) {
	const header = 19
	if len(message) < header {
		return nil, nil, errUpdate
	}
	gone, rest, err := cut(message[header:])
	if err != nil {
		return nil, nil, err
	}
	attrs, nlri, err := cut(rest)
	if err != nil {
		return nil, nil, err
	}
	if withdrawn, err = readPrefixes(gone, IPv4, nil); err != nil {
		return nil, nil, err
	}
	if reached, err = readPrefixes(nlri, IPv4, nil); err != nil {
		return nil, nil, err
	}
	for len(attrs) > 0 {
		var kind byte
		var value []byte
		if kind, value, attrs, err = readAttribute(attrs); err != nil {
			return nil, nil, err
		}
		switch kind {
		case 14: // MP_REACH_NLRI
			reached, err = readReach(value, reached)
		case 15: // MP_UNREACH_NLRI
			withdrawn, err = readUnreach(value, withdrawn)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return withdrawn, reached, nil
}

var errUpdate = errors.New("read UPDATE: too short")

// cut splits b behind a part that has its length, 2 octets, before it.
func cut(b []byte) (part, rest []byte, err error) {
	if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
		return nil, nil, errUpdate
	}
	n := 2 + int(binary.BigEndian.Uint16(b))
	return b[2:n], b[n:], nil
}

func readAttribute(b []byte) (kind byte, value, rest []byte, err error) {
	const extendedLength = 0x10
	if len(b) < 3 {
		return 0, nil, nil, errUpdate
	}
	kind = b[1]
	if b[0]&extendedLength != 0 {
		value, rest, err = cut(b[2:])
		return kind, value, rest, err
	}
	if n := int(b[2]); len(b)-3 >= n {
		return kind, b[3 : 3+n], b[3+n:], nil
	}
	return 0, nil, nil, errUpdate
}

func readReach(b []byte, to []netip.Prefix) ([]netip.Prefix, error) {
	if len(b) < 5 || len(b) < 5+int(b[3]) {
		return nil, errUpdate
	}
	return readPrefixes(b[5+int(b[3]):], readFamily(b), to) // behind the next hop and a reserved octet
}

func readUnreach(b []byte, to []netip.Prefix) ([]netip.Prefix, error) {
	if len(b) < 3 {
		return nil, errUpdate
	}
	return readPrefixes(b[3:], readFamily(b), to)
}

func readFamily(b []byte) Family {
	if binary.BigEndian.Uint16(b) == 2 {
		return IPv6
	}
	return IPv4
}

func readPrefixes(b []byte, f Family, to []netip.Prefix) ([]netip.Prefix, error) {
	for len(b) > 0 {
		bits := int(b[0])
		size := (bits + 7) / 8
		var whole [16]byte
		addr := netip.Addr{}
		if len(b)-1 < size || size > len(whole) {
			return nil, errUpdate
		}
		copy(whole[:], b[1:1+size])
		if addr = netip.AddrFrom16(whole); f == IPv4 {
			addr = netip.AddrFrom4([4]byte(whole[:4]))
		}
		if bits > addr.BitLen() {
			return nil, errUpdate
		}
		to = append(to, netip.PrefixFrom(addr, bits))
		b = b[1+size:]
	}
	return to, nil
}
