// Package status renders what is true on this node: as JSON on the status
// socket, as Prometheus metrics, as probes and as text for people. It decides
// nothing.
package status

import (
	"net/netip"
	"time"

	"github.com/pintle-lb/pintle/bgp"
	"github.com/pintle-lb/pintle/internal/agent"
	"github.com/pintle-lb/pintle/internal/service"
	"github.com/pintle-lb/pintle/leader"
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
	Election  string             `json:"election"`           // raft, lease or none
	Witness   bool               `json:"witness"`            // as configured
	Candidate bool               `json:"candidate"`          // likewise
	Raft      leader.RaftStatus  `json:"raft,omitzero"`      // where the nodes elect among themselves
	Lease     *leader.KubeStatus `json:"lease,omitempty"`    // where a Lease elects
	BGP       *bgp.Status        `json:"bgp,omitempty"`      // where routes are advertised
	Services  *service.Snapshot  `json:"services,omitempty"` // on a node that serves Services
	Elections Elections          `json:"elections"`
	Checks    []Check            `json:"checks"`
	Wire      []Wire             `json:"wire"`
	Mute      Mute               `json:"mute"`
	Cert      Certificate        `json:"certificate,omitzero"` // towards the peers
	Realtime  bool               `json:"realtime"`             // threads run under SCHED_RR
	LoopAge   time.Duration      `json:"loopAge"`
	Started   time.Time          `json:"started"`
}

// Elections counts those that this node saw since it was started.
type Elections struct {
	New   uint64 `json:"new"`   // another node than before holds, or the first one
	Same  uint64 `json:"same"`  // the same node holds again: nothing had to move
	Empty uint64 `json:"empty"` // terms without a holder that this node heard of
}

// Stat is arp.Stat: what was done on a link for one address. Heard counts the
// peers' claims too, which are as they should be while this node does not hold.
type Stat struct {
	Link        string     `json:"link"`
	Addr        netip.Addr `json:"address"`
	Claims      bool       `json:"claims"`
	Answered    uint64     `json:"answered"`
	Announced   uint64     `json:"announced"`
	Heard       uint64     `json:"heard"`
	Defended    uint64     `json:"defended"`
	WriteErrors uint64     `json:"writeErrors"`
	LastMAC     string     `json:"lastMAC,omitempty"`
	LastHeard   time.Time  `json:"lastHeard,omitzero"`
}

// Wire is what happened on a link for one address.
type Wire struct {
	Stat
	Peer      string    `json:"peer,omitempty"` // who LastMAC is, "" for a stranger
	Strangers Strangers `json:"strangers"`      // of all claims, those by nobody of this cluster
}

// Strangers are stations that claim an address and are no peers.
type Strangers struct {
	Claims uint64    `json:"claims"`
	MAC    string    `json:"mac,omitempty"` // of the latest
	Last   time.Time `json:"last,omitzero"` // when that was
}

// Check is health.Status: what is known of one health check.
type Check struct {
	Name      string    `json:"name"`
	Healthy   bool      `json:"healthy"`
	Known     bool      `json:"known"`
	Since     time.Time `json:"since"`
	LastError string    `json:"lastError,omitempty"`
	Checks    uint64    `json:"checks"`
	Failures  uint64    `json:"failures"`
}

// Mute is vip.Mute: what keeps the kernel from claiming.
type Mute struct {
	Links []MutedLink `json:"links"`
	Wall  bool        `json:"wall"`
}

// MutedLink is vip.MutedLink: what counts on one link.
type MutedLink struct {
	Name        string `json:"name"`
	Index       int    `json:"index"`
	ARPIgnore   int    `json:"arpIgnore"`
	ARPAnnounce int    `json:"arpAnnounce"`
	Muted       bool   `json:"muted"`
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
