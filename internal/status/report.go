// Package status renders what is true on this node: as JSON on the status
// socket, as Prometheus metrics, as probes and as text for people. It decides
// nothing.
package status

import (
	"slices"
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
	Ready    bool   `json:"ready"` // a member that knows who holds the seat, healthy, and its loop turns
	NotReady string `json:"notReady,omitempty"`
	agent.Snapshot
	Raft     leader.RaftStatus `json:"raft"`
	Checks   []health.Status   `json:"checks"`
	Wire     []Wire            `json:"wire"`
	Mute     vip.Mute          `json:"mute"`
	Cert     Certificate       `json:"certificate"`
	Realtime bool              `json:"realtime"` // threads run under SCHED_RR
	LoopAge  time.Duration     `json:"loopAge"`
	Started  time.Time         `json:"started"`
}

// Wire is what happened on a link for one address.
type Wire struct {
	arp.Stat
	Peer string // who LastMAC is, "" for a stranger
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

// judge fills in Ready.
func (r *Report) judge() {
	self := slices.IndexFunc(r.Raft.Members, func(m leader.Member) bool { return m.Self })
	switch {
	case !r.Live():
		r.NotReady = "the loop is stuck"
	case r.Draining:
		r.NotReady = "this node is stopping"
	case r.Raft.Removed:
		r.NotReady = "this node was removed from the cluster: to join again, move its state directory away"
	case r.Raft.Cluster == "" || self < 0:
		r.NotReady = "this node has not joined the cluster: " + r.Raft.Phase
	case !r.Raft.Members[self].Voter && len(r.Raft.Members) > 2:
		r.NotReady = "this node has no vote yet"
	case r.Raft.Leader == "":
		r.NotReady = "no leader is known: an election needs a majority of the voters"
	case !r.Healthy:
		r.NotReady = "unhealthy: " + r.Unhealthy
	}
	r.Ready = r.NotReady == ""
}
