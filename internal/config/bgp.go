package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"
)

// Announce is a way in which the network learns which node has the addresses.
type Announce string

// By ARP and neighbour discovery on a link, by BGP to routers, or by a route in a table of this host, for another daemon to
// tell of.
const (
	AnnounceARP   Announce = "arp"
	AnnounceBGP   Announce = "bgp"
	AnnounceTable Announce = "table"
)

// Announces reports whether the addresses are announced in this way.
func (c *Config) Announces(a Announce) bool { return slices.Contains(c.Announce, a) }

// BGP is what this node tells routers. It is zero unless the addresses are announced by BGP, or a service node has routers.
type BGP struct {
	AS            uint32
	RouterID      netip.Addr     // as configured, or the zero value: RouterID derives it
	Listen        netip.AddrPort // where passive peers connect to; the zero value means nowhere
	BGPAttributes                // of every route, to every peer
	Unhealthy     Unhealthy
	Exclusive     bool // a new holder waits for Detection before it advertises; only with an election
	Drain         Drain
	Peers         []BGPPeer // of all nodes: see On
}

// A BGPPeer is a router. Exactly one of Address and Interface is set.
type BGPPeer struct {
	Name         string // unique; the address or interface if the file has none
	Address      netip.Addr
	Interface    string // as written: a name or a glob
	Link         string // what Interface stands for on this host; set by Resolve
	Port         uint16
	AS           uint32 // 0: any other than ours ("external")
	LocalAS      uint32 // 0: BGP.AS
	LocalAddress netip.Addr
	PasswordFile string // "": none; {node} has been replaced
	Multihop     uint8  // 0: the router is on a link of ours
	GTSM         bool
	Passive      bool
	Hold         time.Duration
	Keepalive    time.Duration
	ConnectRetry time.Duration
	Families     []Family
	NextHop4     netip.Addr // zero: what the session has
	NextHop6     netip.Addr
	BGPAttributes
	BFD *BGPBFD // nil: none

	Nodes           []string          // names and globs; none means every node
	NodeLabels      map[string]string // that the node must have, in Kubernetes
	NodeAnnotations map[string]string
}

// BGPBFD is how a router is watched, and watches us.
type BGPBFD struct {
	Interval   time.Duration
	Multiplier uint8
	Strict     bool // advertise only while BFD is up
	Auth       *BGPAuth
}

// BGPAuth is keyed SHA1 authentication of BFD.
type BGPAuth struct {
	KeyID      uint8
	KeyFile    string // its first line is the key, 1 to MaxBFDKey bytes; {node} has been replaced
	Meticulous bool
}

// The most bytes of a password of TCP-MD5 and of a key of BFD.
const (
	MaxPassword = 80
	MaxBFDKey   = 20
)

// BGPAttributes are what routes carry. The fields are those of bgp.Attributes, so that one converts to the other.
type BGPAttributes struct {
	Communities []uint32
	Large       [][3]uint32
	LocalPref   *uint32
	MED         *uint32
	Prepend     uint8
}

// Family is a kind of routes, as the file calls it.
type Family string

// The families: unicast.
const (
	FamilyIPv4 Family = "ipv4"
	FamilyIPv6 Family = "ipv6"
)

// Unhealthy is what a node does with its routes while its health checks fail.
type Unhealthy string

// It withdraws them; or it goes on with a longer path and the community GRACEFUL_SHUTDOWN, so that routers use them only if
// no healthy node is left. The second is for election: none only.
const (
	UnhealthyWithdraw   Unhealthy = "withdraw"
	UnhealthyLastResort Unhealthy = "last-resort"
)

// Drain is how a node that stops leaves.
type Drain struct {
	Wait    time.Duration // how long it advertises with GRACEFUL_SHUTDOWN before it withdraws; 0: it withdraws at once
	Prepend uint8         // how many more times our AS stands in the path meanwhile
}

// Table is where the routes are that another daemon is to tell of. It is zero unless the addresses are announced so.
type Table struct {
	Number   uint32
	Protocol uint8 // the routes' protocol number, by which they are known as ours
}

// On is the peers of one node, in the order of the file. Labels and annotations are what Kubernetes says of the node; they
// may be nil unless NeedsNode.
func (b BGP) On(node string, labels, annotations map[string]string) []BGPPeer {
	var out []BGPPeer
	for _, p := range b.Peers {
		if p.named(node) && within(p.NodeLabels, labels) && within(p.NodeAnnotations, annotations) {
			out = append(out, p)
		}
	}
	return out
}

// Attributes are those of every route to a peer: what all peers hear and what is the peer's own, which wins where there can be
// only one. Prepends add up.
func (b BGP) Attributes(p BGPPeer) BGPAttributes {
	out := BGPAttributes{LocalPref: cmp.Or(p.LocalPref, b.LocalPref), MED: cmp.Or(p.MED, b.MED), Prepend: b.Prepend + p.Prepend}
	for _, c := range slices.Concat(b.Communities, p.Communities) {
		if !slices.Contains(out.Communities, c) {
			out.Communities = append(out.Communities, c)
		}
	}
	for _, l := range slices.Concat(b.Large, p.Large) {
		if !slices.Contains(out.Large, l) {
			out.Large = append(out.Large, l)
		}
	}
	return out
}

// NeedsNode reports whether labels or annotations of the node decide over a peer.
func (b BGP) NeedsNode() bool { return slices.ContainsFunc(b.Peers, BGPPeer.needsNode) }

func (p BGPPeer) needsNode() bool { return len(p.NodeLabels)+len(p.NodeAnnotations) > 0 }

// named reports whether the peer's list of nodes has this one.
func (p BGPPeer) named(node string) bool {
	return len(p.Nodes) == 0 || slices.ContainsFunc(p.Nodes, func(pattern string) bool { return matches(pattern, node) })
}

func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return pattern == name || ok && err == nil
}

// within reports whether have has all that want has.
func within(want, have map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// Detection is how long at most the router goes on sending packets to a node that froze. That is the hold time, which a
// router can only make shorter. BFD counts only if it is strict, because else there may be a session without it; and only if
// the router takes packets as often as we offer them.
func (p BGPPeer) Detection() time.Duration {
	if p.BFD == nil || !p.BFD.Strict {
		return p.Hold
	}
	return min(p.Hold, p.BFD.Detection())
}

// Detection is how long the router waits for a packet of BFD.
func (b BGPBFD) Detection() time.Duration { return b.Interval * time.Duration(b.Multiplier) }

// Detection is the longest Detection of all peers of all nodes; 0 without BGP.
func (c *Config) Detection() time.Duration {
	var longest time.Duration
	for _, p := range c.BGP.Peers {
		longest = max(longest, p.Detection())
	}
	return longest
}

// RouterID is the BGP identifier of this node (RFC 6286): as configured, else the node's own IPv4 address of raft.peers, else the
// first of hostAddrs that is an IPv4 address of this node alone, else four bytes of a hash of the node's name. The same addresses
// in the same order give the same one: list those of the first links first, so that a bridge that every node has alike comes last.
func RouterID(c *Config, hostAddrs []netip.Addr) netip.Addr {
	if c.BGP.RouterID.IsValid() {
		return c.BGP.RouterID
	}
	for _, a := range append([]netip.Addr{c.Self().Address.Addr()}, hostAddrs...) {
		if a = a.Unmap(); a.Is4() && a.IsGlobalUnicast() && !c.shared(a) {
			return a
		}
	}
	return hashID(c.Node)
}

// shared reports whether an address is one of those that the nodes share.
func (c *Config) shared(a netip.Addr) bool {
	return slices.ContainsFunc(c.Addresses, func(s Address) bool { return s.Address == a })
}

// hashID looks like a host's address: no 0.0.0.0/8, no loopback, no multicast.
func hashID(name string) netip.Addr {
	for n := uint32(0); ; n++ {
		sum := sha256.Sum256(binary.BigEndian.AppendUint32([]byte("pintle router ID "+name), n))
		if first := sum[0]; first != 0 && first != 127 && first < 224 {
			return netip.AddrFrom4([4]byte(sum[:4]))
		}
	}
}

// ofNode puts the node's name into the names of files.
func (b *BGP) ofNode(node string) {
	for i := range b.Peers {
		p := &b.Peers[i]
		p.PasswordFile = strings.ReplaceAll(p.PasswordFile, "{node}", node)
		if p.BFD != nil && p.BFD.Auth != nil {
			p.BFD.Auth.KeyFile = strings.ReplaceAll(p.BFD.Auth.KeyFile, "{node}", node)
		}
	}
}
