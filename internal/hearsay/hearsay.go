// Package hearsay lets the nodes of a cluster tell each other whether the Kubernetes API answers them. It serves pools with
// `onAPILoss: keep`, and nothing else: a node whose Lease ran out goes on claiming the addresses of such a pool while a
// majority of all nodes, itself among them, says that the API is away for it too. That is outside the safety rule of Pintle
// (docs/safety.md), which package leader alone keeps: nothing here makes a lease longer.
//
// A [Circle] is this node's part of the talk. Each 0.4 s it sends every other node one UDP datagram: who I am, whether the
// API is away for me, what I last heard of you. All nodes have one secret, and a datagram without its seal (HMAC-SHA256) is
// dropped. Nobody answers a datagram; each is sent by the clock, to addresses that came from the API.
//
// A report must be fresh, and clocks of different machines tell nothing about that. So a datagram repeats (echo) the newest
// one that its sender heard from the addressee, and how long before it was written that came. What node B says counts for node
// A from when A sent the datagram that B repeats, plus the time that B says it held it, for [Fresh]. Whatever the network, a
// frozen process or an eavesdropper does with a datagram in between: it cannot make the report younger. It also means that a
// node counts only while it is heard *and* hears. Who starts anew draws a random number, its process, and is believed once it
// has repeated something; what its former process said does not count from then on.
//
//	tally.go     the rule, pure: who said what, and until when a majority says that the API is away
//	datagram.go  what is said, in bytes
//	circle.go    the talk: a socket, a clock and the rule
//	gate.go      what a claim asks: the lease, or else the majority
//
// A majority that says "away" proves nothing about those who do not: in a network that is cut, the side of the API may have
// fenced this node and claim its addresses rightly. Then two nodes claim one address until either hears the other
// ([Gate.Drop]). This is what `keep` means, and why it is off by default.
package hearsay

import (
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/pintle-lb/pintle/leader"
)

// Times of the talk.
const (
	Interval = 400 * time.Millisecond  // between two datagrams to a peer
	Fresh    = 1500 * time.Millisecond // how long what a node says counts: two datagrams in a row may be lost
	hurry    = 100 * time.Millisecond  // the least time between two datagrams when a node changes what it says
	reopen   = time.Second             // between two attempts to open the socket
)

// minKey is the length of the shortest secret that is used, in bytes.
const minKey = 16

// A Peer is a node of the cluster, and the address at which its Pintle hears.
type Peer struct {
	Name string
	Addr netip.Addr // the zero value: not known yet; the node counts all the same
}

// Config is what a Circle needs.
type Config struct {
	Node string // this node's name in the API
	Port uint16 // UDP, the same on all nodes

	// Key returns the secret of the cluster, 16 bytes or more; nil while it is unknown. Without one nothing is sent or
	// believed. It is asked for each datagram and must not block. Nodes that have different keys do not believe each other, so
	// while the secret is being changed there may be no majority.
	Key   func() []byte
	Clock leader.Clock // the one that the leases of the gates are read from; nil: leader.Boot
	Log   *slog.Logger
}

// Says is what a node says of the API.
type Says int

// What a node can say.
const (
	Nothing Says = iota // that counts: it is not heard, does not hear this node, or has just started
	Answers             // the API answers it
	Away                // it does not
)

func (s Says) String() string {
	switch s {
	case Nothing:
		return "nothing"
	case Answers:
		return "answers"
	case Away:
		return "away"
	}
	return fmt.Sprintf("Says(%d)", int(s))
}

// Said is what is known of one node.
type Said struct {
	Node  string
	Addr  netip.Addr
	Self  bool // this node itself; then Err is what keeps it from talking at all
	Says  Says
	Heard time.Time // when its newest datagram came; the zero time for none
	Err   error     // why it does not count, or cannot be told anything
}
