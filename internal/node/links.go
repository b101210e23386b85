package node

import (
	"context"
	"slices"
	"time"

	"github.com/pintle-lb/pintle/vip"
)

// A linkState is what matters of a link between two looks.
type linkState struct {
	index   int
	mac     string // a bond may take over that of another slave
	carrier bool
}

// firstLook tells the agent of the links before it says anything of them itself.
func (n *Node) firstLook() {
	if !n.holds() {
		return
	}
	if links, err := vip.Links(); err == nil { // else watchLinks says so
		n.linksChanged(links)
	}
}

// watchLinks follows the links until ctx ends. When the kernel refuses to tell of
// them, what was last known stays, and it asks again.
func (n *Node) watchLinks(ctx context.Context) {
	const first, last = time.Second, 30 * time.Second
	for wait := first; ; wait = min(2*wait, last) {
		err := vip.WatchLinks(ctx, func(links []vip.Link) { wait = first; n.linksChanged(links) })
		if ctx.Err() != nil {
			return
		}
		n.log.Warn("cannot follow the links, trying again", "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// linksChanged takes the links of the host: their hardware addresses are told to
// the peers, a link without carrier makes the node unhealthy, and one that came
// back, or has another hardware address now, is announced on again.
func (n *Node) linksChanged(links []vip.Link) {
	ours := n.announcing()
	up := map[string]bool{}
	for _, name := range ours {
		up[name] = false
	}
	var macs []string
	now := map[string]linkState{}
	for _, l := range links {
		if !slices.Contains(ours, l.Name) {
			continue
		}
		up[l.Name] = l.Up && l.Carrier
		macs = append(macs, l.MAC.String())
		now[l.Name] = linkState{l.Index, l.MAC.String(), up[l.Name]}
	}
	n.macs.Store(&macs)
	n.agent.Links(up)
	for name, s := range now {
		if was, known := n.links[name]; known && s.carrier && was != s {
			n.speaker.Refresh(name)
		}
	}
	n.links = now
}

// announcing are the links that addresses are announced on.
func (n *Node) announcing() []string {
	var names []string
	for _, a := range n.cfg.Addresses {
		names = append(names, a.Links...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (n *Node) ownMACs() []string {
	if m := n.macs.Load(); m != nil {
		return *m
	}
	return nil
}
