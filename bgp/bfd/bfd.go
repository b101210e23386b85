// Package bfd tells within a fraction of a second that the path to a neighbour is gone, and lets the neighbour tell the same
// of us: Bidirectional Forwarding Detection (RFC 5880) in asynchronous mode, over one hop (RFC 5881) and over several
// (RFC 5883), with keyed SHA1 authentication (RFC 5880 6.7.4).
//
// The state machine, session.go, is pure: step takes a state and an event and returns the next state and what to do. engine.go
// leads the sessions by a clock that it is given, conn_linux.go is the UDP side, and a [Speaker] joins them.
package bfd

import (
	"fmt"
	"log/slog"
	"net/netip"
	"time"
)

// The ports (RFC 5881 4, RFC 5883 5).
const (
	SingleHopPort = 3784
	MultihopPort  = 4784
)

// Config is what a Speaker needs besides its peers.
type Config struct {
	Log      *slog.Logger                // nil: silent
	OnChange func(peer string, c Change) // a session changed its state; called in order, from one goroutine; must not block; may be nil
}

// A Peer is a neighbour to have a session with. Two peers are the same session if Name, Local, Remote, Link and MultihopTTL
// are the same: the rest changes while the session lives (RFC 5880 6.8.3).
type Peer struct {
	Name        string // unique
	Local       netip.Addr
	Remote      netip.Addr
	Link        string        // the link of a single-hop session; "" with MultihopTTL
	MultihopTTL uint8         // 0: single hop, TTL 255 both ways (RFC 5881 5); else how many hops there may be, if the neighbour sends with TTL 255 (BIRD does not: 255 takes any)
	Interval    time.Duration // we send at most this often and want packets at least this often; 50 ms to 10 s; while not Up, 1 s (RFC 5880 6.8.3)
	Multiplier  uint8         // how many lost packets mean down; 2 to 50
	Auth        *Auth         // nil: none; both sides have to change it within the detection time
}

// Auth is keyed SHA1 authentication.
type Auth struct {
	KeyID      uint8
	Key        string // 1 to 20 bytes
	Meticulous bool   // the sequence number grows with every packet, not only now and then (RFC 5880 6.7.4)
}

// State is the state of a session (RFC 5880 4.1).
type State uint8

// The states, with their values on the wire.
const (
	AdminDown State = iota
	Down
	Init
	Up
)

// String returns the name as the RFC writes it.
func (s State) String() string { return [...]string{"AdminDown", "Down", "Init", "Up"}[s&3] }

// MarshalText implements encoding.TextMarshaler.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *State) UnmarshalText(text []byte) error {
	for known := AdminDown; known <= Up; known++ {
		if string(text) == known.String() {
			*s = known
			return nil
		}
	}
	return fmt.Errorf("parse state %q: want AdminDown, Down, Init or Up", text)
}

// A Change is a session's step from one state to another.
type Change struct {
	Old, New   State
	Diag       Diag // ours: why
	RemoteDiag Diag
	// RemoteAdminDown says that the neighbour ended the session on purpose. That is no failure of the path, and nothing that
	// uses it should end with it (RFC 5882 3.2, 4.2).
	RemoteAdminDown bool
}

// Status is what is true of one session.
type Status struct {
	Name        string        `json:"name"`
	State       State         `json:"state"`
	Since       time.Time     `json:"since"`
	RemoteState State         `json:"remoteState"`
	Diag        Diag          `json:"diag"` // why our state changed last
	RemoteDiag  Diag          `json:"remoteDiag"`
	Flaps       uint64        `json:"flaps"`     // times it went from Up to another state, but by AdminDown of either side
	Sends       time.Duration `json:"sends"`     // how often we send now, before jitter; 0: the neighbour wants no packets
	Expects     time.Duration `json:"expects"`   // how often the neighbour sends now; 0 before its first packet
	Detection   time.Duration `json:"detection"` // when we give the neighbour up; 0 before its first packet
	Detected    time.Duration `json:"detected"`  // when the neighbour gives us up: what it multiplies is ours
	Sent        uint64        `json:"sent"`
	Received    uint64        `json:"received"`
	Dropped     uint64        `json:"dropped"`               // packets that broke a rule, came too fast, or from too far away
	LastDropped string        `json:"lastDropped,omitempty"` // why the latest of these
	Error       string        `json:"error,omitempty"`       // why packets cannot be sent or received, with what a person can do; tried again each second; "" if they can
}
