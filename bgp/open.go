package bgp

import (
	"net/netip"
	"time"
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
	routeRefresh    bool   // RFC 2918: the router understands it
	fourOctetAS     bool   // RFC 6793
	clean           []byte // the router's OPEN as gobgp is to see it: rebuilt, with nothing that we did not offer
}
