package bgp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// The capabilities that we know (RFC 4760 8, RFC 2918 2, RFC 8950 4, RFC 6793 3).
const (
	capMultiprotocol   = 1
	capRefresh         = 2
	capExtendedNextHop = 5
	capFourOctetAS     = 65
)

const (
	asTrans         = 23456 // RFC 6793 9: stands for an AS that needs four octets
	minHold         = 3     // seconds, RFC 4271 4.2
	paramCapability = 2     // RFC 5492 4
	paramExtended   = 255   // RFC 9072 2
)

// offer is what we say in our OPEN.
type offer struct {
	as, remoteAS    uint32 // remoteAS 0: any other than as
	id              netip.Addr
	hold            time.Duration // at least 3 s; whole seconds count
	families        []Family
	extendedNextHop bool // RFC 8950, for IPv4
}

// agreement is what both sides said.
type agreement struct {
	remoteAS        uint32
	remoteID        netip.Addr
	hold            time.Duration // the lower of both; at least 3 s, see acceptableHold
	families        []Family
	extendedNextHop bool   // IPv4 routes may have IPv6 next hops
	routeRefresh    bool   // RFC 2918: the router can be asked for its routes; it may ask for ours in any case
	fourOctetAS     bool   // RFC 6793
	clean           []byte // the router's OPEN as gobgp is to see it: rebuilt, with nothing that we did not offer
}

// open is what an OPEN says, as far as we know it.
type open struct {
	as              uint32
	id              netip.Addr
	hold            uint16 // seconds
	families        []Family
	extendedNextHop bool // IPv4 with IPv6 next hops
	routeRefresh    bool
	fourOctetAS     bool

	as2           uint16 // the field of two octets
	multiprotocol bool   // some family was named, known to us or not
}

func (o offer) open() open {
	return open{as: o.as, id: o.id, hold: uint16(min(o.hold/time.Second, 65535)), families: o.families,
		extendedNextHop: o.extendedNextHop, routeRefresh: true, fourOctetAS: true}
}

// message is the OPEN that says o.
func (o open) message() message {
	var caps []byte
	for _, f := range o.families {
		caps = append(caps, capability(f)...)
	}
	if o.extendedNextHop {
		caps = append(caps, capExtendedNextHop, 6, 0, 1, 0, 1, 0, 2) // IPv4 unicast with IPv6 next hops
	}
	if o.routeRefresh {
		caps = append(caps, capRefresh, 0)
	}
	as2 := uint16(asTrans) // RFC 6793 4.2.2
	if o.as <= 0xffff {
		as2 = uint16(o.as)
	}
	if o.fourOctetAS {
		caps = binary.BigEndian.AppendUint32(append(caps, capFourOctetAS, 4), o.as)
	}
	body := binary.BigEndian.AppendUint16([]byte{4}, as2)
	body = binary.BigEndian.AppendUint16(body, o.hold)
	body = append(body, o.id.AsSlice()...)
	if len(caps) == 0 {
		return newMessage(typeOpen, append(body, 0))
	}
	body = append(body, byte(2+len(caps)), paramCapability, byte(len(caps)))
	return newMessage(typeOpen, append(body, caps...))
}

func capability(f Family) []byte { return []byte{capMultiprotocol, 4, 0, byte(f), 0, 1} } // AFI 1 and 2 are our IPv4 and IPv6

// parseOpen reads the body of an OPEN of at least the least length. The error is a *violation.
func parseOpen(b []byte) (open, error) {
	// RFC 4271 6.2: the data is the version that we speak.
	if b[0] != 4 {
		return open{}, &violation{code: codeOpen, subcode: 1, data: []byte{0, 4},
			text: fmt.Sprintf("unsupported version: router speaks %d, we speak 4", b[0])}
	}
	o := open{as2: binary.BigEndian.Uint16(b[1:]), hold: binary.BigEndian.Uint16(b[3:]), id: netip.AddrFrom4([4]byte(b[5:9]))}
	o.as = uint32(o.as2)
	if err := o.parameters(b[9:]); err != nil {
		return open{}, err
	}
	if !o.multiprotocol {
		o.families = []Family{IPv4} // what BGP-4 is without RFC 4760
	}
	return o, nil
}

// parameters reads the optional parameters, from the octet of their length.
func (o *open) parameters(b []byte) error {
	size, width := int(b[0]), 1
	b = b[1:]
	// RFC 9072 2: with this first parameter all lengths have two octets, and the one octet before says nothing.
	if size != 0 && len(b) >= 3 && b[0] == paramExtended {
		size, width = int(binary.BigEndian.Uint16(b[1:])), 2
		b = b[3:]
	}
	if size != len(b) {
		return badOpen("the length of the optional parameters is %d, but there are %d octets", size, len(b))
	}
	for len(b) > 0 {
		if len(b) < 1+width {
			return badOpen("an optional parameter ends in its header")
		}
		kind, n := b[0], int(b[1])
		if width == 2 {
			n = n<<8 | int(b[2])
		}
		b = b[1+width:]
		if n > len(b) {
			return badOpen("optional parameter %d exceeds the message", kind)
		}
		// RFC 4271 6.2: also parameter 1, which RFC 4271 itself no longer knows.
		if kind != paramCapability {
			return &violation{code: codeOpen, subcode: 4, text: fmt.Sprintf("unsupported optional parameter: %d", kind)}
		}
		if err := o.capabilities(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// badOpen is RFC 4271 6.2: what is known but malformed has the subcode 0.
func badOpen(format string, args ...any) error {
	return &violation{code: codeOpen, text: "OPEN message error: " + fmt.Sprintf(format, args...)}
}

func (o *open) capabilities(b []byte) error {
	for len(b) > 0 {
		if len(b) < 2 || int(b[1]) > len(b)-2 {
			return badOpen("capability %d exceeds its parameter", b[0])
		}
		if err := o.capability(b[0], b[2:2+int(b[1])]); err != nil {
			return err
		}
		b = b[2+int(b[1]):]
	}
	return nil
}

// capability notes one that we know; others are skipped (RFC 5492 3).
func (o *open) capability(code byte, v []byte) error {
	wrong := badOpen("capability %d has %d octets", code, len(v))
	switch code {
	case capMultiprotocol:
		if len(v) != 4 {
			return wrong
		}
		o.multiprotocol = true
		if f := family(v[0], v[1], v[3]); f != 0 && !slices.Contains(o.families, f) {
			o.families = append(o.families, f)
		}
	case capRefresh:
		if len(v) != 0 {
			return wrong
		}
		o.routeRefresh = true
	case capExtendedNextHop:
		if len(v)%6 != 0 {
			return wrong
		}
		for t := range slices.Chunk(v, 6) {
			o.extendedNextHop = o.extendedNextHop || slices.Equal(t, []byte{0, 1, 0, 1, 0, 2})
		}
	case capFourOctetAS:
		if len(v) != 4 {
			return wrong
		}
		as := binary.BigEndian.Uint32(v)
		if o.fourOctetAS && as != o.as {
			return badOpen("the AS is said to be both %d and %d", o.as, as)
		}
		o.as, o.fourOctetAS = as, true
	}
	return nil
}

// family is 0 for one that we do not know.
func family(afiHigh, afiLow, safi byte) Family {
	if f := Family(afiLow); afiHigh == 0 && safi == 1 && (f == IPv4 || f == IPv6) {
		return f
	}
	return 0
}

// agree compares the router's OPEN with what we offer. The error is a *violation.
func (o offer) agree(r open) (agreement, error) {
	if err := o.acceptableAS(r); err != nil {
		return agreement{}, err
	}
	if err := o.acceptableID(r); err != nil {
		return agreement{}, err
	}
	if err := acceptableHold(r.hold); err != nil {
		return agreement{}, err
	}
	ours := o.open()
	common := slices.DeleteFunc(slices.Clone(o.families), func(f Family) bool { return !slices.Contains(r.families, f) })
	if len(common) == 0 {
		return agreement{}, noFamily(o.families, r.families)
	}
	both := open{as: r.as, id: r.id, hold: min(ours.hold, r.hold), families: common,
		extendedNextHop: o.extendedNextHop && r.extendedNextHop && slices.Contains(common, IPv4),
		// RFC 2918 4: that we can is what lets the router ask, whether it can be asked itself or not.
		routeRefresh: true, fourOctetAS: r.fourOctetAS}
	return agreement{remoteAS: r.as, remoteID: r.id, hold: time.Duration(both.hold) * time.Second, families: common,
		extendedNextHop: both.extendedNextHop, routeRefresh: r.routeRefresh, fourOctetAS: both.fourOctetAS,
		clean: both.message()}, nil
}

func (o offer) acceptableAS(r open) error {
	bad := func(format string, args ...any) error {
		return &violation{code: codeOpen, subcode: 2, text: "bad peer AS: " + fmt.Sprintf(format, args...)}
	}
	switch {
	// RFC 7607 2, RFC 6793 9: nobody can be one of these.
	case r.as == 0 || r.as == asTrans:
		return bad("router says %d, which no router can have", r.as)
	// RFC 6793 4.2.2: the two octets are the AS itself, or AS_TRANS in its place.
	case r.fourOctetAS && uint32(r.as2) != r.as && r.as2 != asTrans:
		return bad("router says both %d and %d", r.as2, r.as)
	case o.remoteAS == 0 && r.as == o.as:
		return bad("router says %d, which is ours; configured any other", r.as)
	case o.remoteAS != 0 && r.as != o.remoteAS:
		return bad("router says %d, configured %d", r.as, o.remoteAS)
	}
	return nil
}

// acceptableID is RFC 6286 2.2: not zero, and within one AS not ours.
func (o offer) acceptableID(r open) error {
	switch {
	case r.id.IsUnspecified():
		return &violation{code: codeOpen, subcode: 3, text: "bad BGP identifier: router says 0.0.0.0"}
	case r.id == o.id && r.as == o.as:
		return &violation{code: codeOpen, subcode: 3, text: fmt.Sprintf("bad BGP identifier: router says %s, which is ours too: set another router ID", r.id)}
	}
	return nil
}

// acceptableHold is RFC 4271 6.2: 1 and 2 are not. Nor is 0 for us ("MAY reject any Hold Time"): it means no timers at all, and a
// router that never notices a frozen node, nor the node a frozen router, is what a virtual address must not depend on.
func acceptableHold(seconds uint16) error {
	if seconds >= minHold {
		return nil
	}
	return &violation{code: codeOpen, subcode: 6,
		text: fmt.Sprintf("unacceptable hold time: router says %d s, needed at least %d s", seconds, minHold)}
}

// noFamily is RFC 5492 5: the data is the capabilities that the session would need.
func noFamily(ours, theirs []Family) error {
	v := &violation{code: codeOpen, subcode: 7,
		text: fmt.Sprintf("unsupported capability: router has %s, configured %s", familyNames(theirs), familyNames(ours))}
	for _, f := range ours {
		v.data = append(v.data, capability(f)...)
	}
	return v
}

func familyNames(fs []Family) string {
	var s []string
	for _, f := range fs {
		s = append(s, f.String())
	}
	if len(s) == 0 {
		return "neither IPv4 nor IPv6 routes"
	}
	return strings.Join(s, " and ") + " routes"
}

// capabilityNames are the ones that a router misses or does not want.
func capabilityNames(b []byte) string {
	var s []string
	for len(b) >= 2 && int(b[1]) <= len(b)-2 {
		code, v := b[0], b[2:2+int(b[1])]
		if code == capMultiprotocol && len(v) == 4 {
			if f := family(v[0], v[1], v[3]); f != 0 {
				s = append(s, familyNames([]Family{f}))
			}
		} else {
			s = append(s, fmt.Sprintf("capability %d", code))
		}
		b = b[2+len(v):]
	}
	return strings.Join(s, ", ")
}
