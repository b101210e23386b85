// Package status renders what is true on this node: as JSON on the status
// socket, as Prometheus metrics, as probes and as text for people. It decides
// nothing.
package status

import (
	"time"

	"github.com/pintle-lb/pintle/arp"
	"github.com/pintle-lb/pintle/internal/agent"
	"github.com/pintle-lb/pintle/internal/health"
	"github.com/pintle-lb/pintle/leader"
	"github.com/pintle-lb/pintle/vip"
)

// A Report is all that `pintle status -o json` shows. Fields are only ever
// added.
type Report struct {
	Version  string `json:"version"`
	Instance string `json:"instance"`
	State    State  `json:"state"`
	Explain  string `json:"explain"` // the state in words
	Ready    bool   `json:"ready"`   // a member that knows who holds the seat, healthy, and its loop turns
	NotReady string `json:"notReady,omitempty"`
	agent.Snapshot
	Witness   bool              `json:"witness"`   // as configured
	Candidate bool              `json:"candidate"` // likewise
	Raft      leader.RaftStatus `json:"raft"`
	Elections Elections         `json:"elections"`
	Checks    []health.Status   `json:"checks"`
	Wire      []Wire            `json:"wire"`
	Mute      vip.Mute          `json:"mute"`
	Cert      Certificate       `json:"certificate"`
	Realtime  bool              `json:"realtime"` // threads run under SCHED_RR
	LoopAge   time.Duration     `json:"loopAge"`
	Started   time.Time         `json:"started"`
}

// Elections counts those that this node saw since it was started.
type Elections struct {
	New   uint64 `json:"new"`   // another node than before holds, or the first one
	Same  uint64 `json:"same"`  // the same node holds again: nothing had to move
	Empty uint64 `json:"empty"` // terms without a holder that this node heard of
}

// Wire is what happened on a link for one address. Heard counts the peers' claims
// too, which are as they should be while this node does not hold.
type Wire struct {
	arp.Stat
	Peer      string    // who LastMAC is, "" for a stranger
	Strangers Strangers // of all claims, those by nobody of this cluster
}

// Strangers are stations that claim an address and are no peers.
type Strangers struct {
	Claims uint64
	MAC    string    // of the latest
	Last   time.Time // when that was
}

// A Certificate is this node's identity towards its peers.
type Certificate struct {
	Names    []string  `json:"names"`
	NotAfter time.Time `json:"notAfter"`
}

// maxLoopAge is when a loop that turns each second counts as stuck.
const maxLoopAge = 10 * time.Second

// Live reports whether the loop turns.
func (r *Report) Live() bool { return r.LoopAge < maxLoopAge }
