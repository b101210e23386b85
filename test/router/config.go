package router

import (
	"net/netip"
	"time"
)

// A Config is what a router is, for either program.
type Config struct {
	AS               uint32
	RouterID         netip.Addr
	Neighbors        []Neighbor
	MaxPaths         int  // how many next hops a route may have; 0: 8
	GracefulShutdown bool // routes with the community of RFC 8326 are the last choice
	Originate        []netip.Prefix
	OriginateMany    int // how many prefixes of 10.128.0.0/9 BIRD announces, each of one address; not for FRR
}

// A Neighbor is a BGP speaker that the router expects.
type Neighbor struct {
	Addr            netip.Addr
	Interface       string // unnumbered; BIRD needs Addr too, a link-local address
	AS              uint32
	LocalAddr       netip.Addr    // zero: what the kernel chooses
	Port            uint16        // 0: 179
	Password        string        // of TCP-MD5
	Multihop        uint8         // 0: on a link of the router's
	GTSM            bool          // RFC 5082, one hop
	Passive         bool          // never connect
	Hold            time.Duration // 0: the program's default; keepalives come at a third of it
	ConnectRetry    time.Duration // 0: 1 s
	BFD             *BFD          // nil: none
	Families        []Family      // nil: IPv4
	ExtendedNextHop bool          // IPv4 routes may have IPv6 next hops (RFC 8950)
}

// BFD is how a neighbour is watched.
type BFD struct {
	Interval   time.Duration
	Multiplier int
}

// A Family is a kind of routes.
type Family string

// The families, as both programs call them.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

func (c Config) maxPaths() int {
	if c.MaxPaths == 0 {
		return 8
	}
	return c.MaxPaths
}

func (n Neighbor) families() []Family {
	if n.Families == nil {
		return []Family{IPv4}
	}
	return n.Families
}

func (n Neighbor) connectRetry() int {
	return max(1, seconds(n.ConnectRetry))
}

func (n Neighbor) keepalive() int { return max(1, seconds(n.Hold)/3) }

func seconds(d time.Duration) int { return int(d / time.Second) }

func milliseconds(d time.Duration) int { return int(d / time.Millisecond) }

func family(p netip.Prefix) Family {
	if p.Addr().Is4() {
		return IPv4
	}
	return IPv6
}
