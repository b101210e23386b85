package bgp

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/pintle-lb/pintle/bgp/bfd"
)

// wish is what the router is to hear now, with the hops that others found. It asks nobody: a withdrawal may wait for it.
func (p *peer) wish(e endpoint, a agreement, hops map[Family]netip.Addr) (*wanted, terms) {
	p.mu.Lock()
	cfg, want, state := p.cfg, p.want, p.path
	p.mu.Unlock()
	t := terms{localAS: p.localASOf(cfg), attributes: cfg.Attributes}
	t.external = a.remoteAS != t.localAS
	if cfg.BFD != nil && cfg.BFD.Strict && state != bfd.Up {
		t.withheldBy = fmt.Sprintf("BFD is %s, and routes are for while it is up", state)
	}
	hops = maps.Clone(hops)
	maps.DeleteFunc(hops, func(_ Family, own netip.Addr) bool { return p.shares(own) })
	t.next, t.why = nextHops(cfg, e, a, hops)
	return want, t
}

// others are addresses of this node for routers to send to, where that of the session will not do. It asks the kernel.
func (p *peer) others(cfg Peer, e endpoint, a agreement) map[Family]netip.Addr {
	out := make(map[Family]netip.Addr)
	for _, f := range a.families {
		switch {
		case !slices.Contains(cfg.families(), f) || f == IPv4 && cfg.NextHop4.IsValid() || f == IPv6 && cfg.NextHop6.IsValid():
		case e.local.IsLoopback():
			out[f] = hostAddress(f == IPv4, p.shares)
		case f == IPv6 && e.local.Is4():
			out[f] = global6(e.remote.Addr(), p.shares)
		}
	}
	return out
}

// bfdChanged ends the session when the path to the router is gone (RFC 5882 4.2), and only then: if the router or this node has
// BFD switched off, or a session is not up yet, it says nothing of the path.
func (p *peer) bfdChanged(c bfd.Change) {
	p.mu.Lock()
	ours := c.New == bfd.AdminDown || p.cfg.BFD == nil
	switch {
	case ours:
		p.path = bfd.Down
	case !c.RemoteAdminDown:
		p.path = c.New
	}
	p.watched = c.New
	s, up := p.session, p.status.State == Established
	strict := p.cfg.BFD != nil && p.cfg.BFD.Strict
	p.mu.Unlock()
	if strict {
		p.wake()
	}
	p.changed()
	if s != nil && up && c.Old == bfd.Up && c.New != bfd.Up && !ours && !c.RemoteAdminDown {
		s.relay.cease(ceaseBFDDown, "BFD down: "+c.Diag.String())
	}
}

// bfdIs tells a peer that has heard no change what BFD says now. Its session may be the one of another peer of the same name.
func (p *peer) bfdIs(state bfd.State) {
	p.mu.Lock()
	news := state == bfd.Up && p.watched == bfd.AdminDown && p.cfg.BFD != nil
	if news {
		p.path, p.watched = state, state
	}
	p.mu.Unlock()
	if news {
		p.wake()
	}
}

// beginPath is for a new session. A router that switches BFD off keeps the routes of the session that runs (RFC 5882 4.2); the
// next one of a strict peer starts from what BFD really says.
func (p *peer) beginPath() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watched != bfd.Up {
		p.path = bfd.Down
	}
}
