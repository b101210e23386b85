package node

import (
	"context"
	"net/netip"
	"time"

	"github.com/pintle-lb/pintle/leader"
)

// A recorder tells of what happened where people of a Kubernetes cluster look for
// it. Its calls do not block.
type recorder interface {
	Run(ctx context.Context) error
	TookOver(epoch uint64, from string)
	Router(name string, up bool, why string)
	Stranger(addr netip.Addr, link, mac string, claims uint64)
}

// A tenure is the last thing that the elector reported, for events.
type tenure struct {
	lease  *leader.Lease
	holder string
}

// tell makes an event of a term in which this node begins to hold. Reports come one
// at a time.
func (n *Node) tell(t leader.Term) {
	if n.events == nil {
		return
	}
	if t.Lease != nil && t.Lease != n.tenure.lease {
		n.events.TookOver(t.Epoch, n.tenure.holder)
	}
	n.tenure.lease = t.Lease
	if t.Holder != "" {
		n.tenure.holder = t.Holder
	}
}

// strangerWait is how long a claim is kept before it counts as a stranger's: whose a
// hardware address is may be heard a moment after its first claim.
const strangerWait = 3 * time.Second

// tellStrangers makes events of claims by stations that are no peers, until ctx
// ends.
func (n *Node) tellStrangers(ctx context.Context) {
	t := time.NewTicker(strangerWait)
	defer t.Stop()
	told := map[station]uint64{}
	before := map[station]uint64{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		for who, claims := range before {
			if n.elector.PeerOf(who.mac) != "" {
				delete(told, who)
			} else if fresh := claims - told[who]; fresh > 0 {
				n.events.Stranger(who.addr, who.link, who.mac, fresh)
				told[who] = claims
			}
		}
		before = n.heard.counts()
	}
}
