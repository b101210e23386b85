// Package bgp advertises addresses to routers (RFC 4271). It only ever talks: what a router sends as routes is counted and
// dropped, and nothing is installed in the host's tables.
//
// For each router there is a peer, which has everything of its own: the connection, a guard, a gobgp server with nothing but
// our routes in it, and a BFD session. The guard stands between the router and gobgp. It owns the connection to the router,
// speaks the OPEN itself, checks every byte that the router sends, and hands gobgp only what it rebuilt or checked, over a
// connection on loopback that nobody else can use. So no message of a router can bring this process down, and no route of one
// router can reach another.
//
// A [Speaker] is told the whole wanted state, routes by Set and routers by SetPeers, and says what is true by Status.
package bgp

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/pintle-lb/pintle/bgp/bfd"
)

// Port is BGP's (RFC 4271 2).
const Port = 179

// Config is what a Speaker is on this node.
type Config struct {
	AS       uint32         // of this node; 1 to 4294967295, but not 23456 (RFC 6793) or 65535 and 4294967295 (RFC 7300)
	RouterID netip.Addr     // an IPv4 address as an identifier, unique among the routers' neighbours (RFC 6286); not 0.0.0.0
	Shared   []netip.Addr   // addresses that other nodes may have too, and that are never this node's own end of anything; those of the routes are so anyway
	Listen   netip.AddrPort // where passive peers may connect to; the zero value: nowhere
	Log      *slog.Logger   // nil: silent
	OnChange func()         // something in Status is different; must not block; may be nil
}

// A Peer is a router that is to hear our routes.
type Peer struct {
	Name         string // for people; unique
	Address      netip.Addr
	Interface    string        // instead of Address: the router is the one neighbour on this link (unnumbered, RFC 8950 next hops)
	Port         uint16        // of the router; 0: Port
	AS           uint32        // of the router; 0: whatever other AS than ours it says it has
	LocalAS      uint32        // what we say to this router; 0: Config.AS
	LocalAddress netip.Addr    // our side of the session; zero: what the kernel would choose, but never one of the routes' addresses
	PasswordFile string        // of TCP-MD5 (RFC 2385): the first line of the file, 1 to 80 bytes; read for each connection; "": none
	Multihop     uint8         // how many hops away the router may be (TTL); 0 or 1: on a link of ours
	GTSM         bool          // packets of the router must come with TTL 255, and ours do (RFC 5082); not with Multihop
	Passive      bool          // wait for the router to connect, at Config.Listen
	Hold         time.Duration // offered; at least 3 s; the lower one of both sides counts; 0: 9 s
	Keepalive    time.Duration // 0: a third of the hold time
	ConnectRetry time.Duration // the pause between two attempts; 0: 5 s
	Families     []Family      // offered; nil: both
	NextHop4     netip.Addr    // of IPv4 routes; zero: LocalAddress, by RFC 8950 if that is IPv6
	NextHop6     netip.Addr    // of IPv6 routes; zero: LocalAddress, or this node's address on the link if that is IPv4
	Attributes                 // in addition to those of each route
	BFD          *BFD          // nil: none
}

// BFD is how a Peer's router is watched, and watches us (RFC 5882).
type BFD struct {
	Interval   time.Duration // both ways, at least 50 ms; 0: 300 ms
	Multiplier uint8         // 0: 3
	Strict     bool          // advertise only while BFD is up
	Auth       *bfd.Auth     // nil: none
}

// A Family is a kind of routes.
type Family uint8

// The families, as RFC 4760 calls them: unicast, of either version of IP.
const (
	IPv4 Family = iota + 1
	IPv6
)

// String is the family in words.
func (f Family) String() string {
	switch f {
	case IPv4:
		return "IPv4"
	case IPv6:
		return "IPv6"
	}
	return "no family"
}

// MarshalText implements encoding.TextMarshaler: ipv4 and ipv6, as in the configuration.
func (f Family) MarshalText() ([]byte, error) { return []byte(strings.ToLower(f.String())), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *Family) UnmarshalText(text []byte) error {
	for _, known := range []Family{IPv4, IPv6} {
		if string(text) == strings.ToLower(known.String()) {
			*f = known
			return nil
		}
	}
	return fmt.Errorf("parse family %q: want ipv4 or ipv6", text)
}

// Attributes are what a route carries for routers to decide by. Empty ones change nothing.
type Attributes struct {
	Communities []uint32    // RFC 1997: AS<<16 | value
	Large       [][3]uint32 // RFC 8092
	LocalPref   *uint32     // said to routers of our own AS only
	MED         *uint32     // MULTI_EXIT_DISC
	Prepend     uint8       // how many more times our AS stands in the path
}

// GracefulShutdown is the community that asks routers to prefer any other path (RFC 8326).
const GracefulShutdown uint32 = 65535 << 16

// A Route is a prefix that this node is to be reached by.
type Route struct {
	Prefix netip.Prefix
	Attributes
	Gate Gate // nil: the route may be there for as long as it is wanted
}

// A Gate says how much longer this node may advertise a route; it is over at zero or less. When it is over the Speaker
// withdraws the route by itself, whatever Set said last. Gates are compared with ==, and asked from several goroutines.
type Gate interface{ Left() time.Duration }

// State is how far the session with a router is.
type State string

// The states. The session is up only in the last one, and a route is advertised only when [PeerStatus.Advertised] has it.
const (
	Idle        State = "idle"        // something on this node keeps it from trying: Why says what
	Waiting     State = "waiting"     // for the next attempt, or for a passive peer's connection
	Connecting  State = "connecting"  // the router does not answer yet
	Opening     State = "opening"     // the router answers; both sides say who they are
	Established State = "established" // the session is up
)

// Status is what is true.
type Status struct {
	AS       uint32       `json:"as"`
	RouterID netip.Addr   `json:"routerID"`
	Peers    []PeerStatus `json:"peers"` // sorted by name
}

// PeerStatus is what is true of one router.
type PeerStatus struct {
	Name       string         `json:"name"`
	Address    netip.AddrPort `json:"address"` // the zero value while an unnumbered neighbour is not known
	Interface  string         `json:"interface,omitempty"`
	Local      netip.Addr     `json:"local"` // our side of the session, as far as it is known
	AS         uint32         `json:"as"`    // what the router says, or else what it should say
	LocalAS    uint32         `json:"localAS"`
	RouterID   netip.Addr     `json:"routerID"` // the router's; zero before it said so
	State      State          `json:"state"`
	Since      time.Time      `json:"since"`               // of State
	Why        string         `json:"why,omitempty"`       // in words why the session is not up, with the router's own words, or what is not right although it is; "" if all is well
	LastError  string         `json:"lastError,omitempty"` // why the last session ended or the last attempt failed; "" if there was none
	LastAt     time.Time      `json:"lastAt,omitzero"`     // of LastError
	Flaps      uint64         `json:"flaps"`               // times an established session ended, but for our own stops
	Hold       time.Duration  `json:"hold"`                // as agreed; 0 before
	Families   []Family       `json:"families"`            // as agreed
	Advertised []netip.Prefix `json:"advertised"`          // written to the router's connection and not withdrawn since; sorted
	Withheld   []Withheld     `json:"withheld,omitempty"`  // wanted, and not advertised to this router although the session is up
	Dropped    uint64         `json:"dropped"`             // routes that the router sent and nobody wanted
	Malformed  uint64         `json:"malformed"`           // messages that broke the protocol; each ended a session
	Detection  time.Duration  `json:"detection"`           // how long the router may go on sending packets to a node that froze: hold time, or less by BFD
	BFD        *bfd.Status    `json:"bfd,omitempty"`       // nil without BFD
}

// Withheld says why a router does not get a route.
type Withheld struct {
	Prefix netip.Prefix `json:"prefix"`
	Why    string       `json:"why"`
}
