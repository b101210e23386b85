package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/pintle-lb/pintle/bgp"
	"github.com/pintle-lb/pintle/bgp/bfd"
	"github.com/pintle-lb/pintle/internal/agent"
	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/kube"
	"github.com/pintle-lb/pintle/leader"
)

// routers lets the agent's routes be advertised by BGP.
type routers struct {
	speaker *bgp.Speaker
	cfg     config.BGP
}

// A gate is a lease as package bgp asks for it.
type gate struct{ lease *leader.Lease }

// Left implements bgp.Gate.
func (g gate) Left() time.Duration { return g.lease.Until().Sub(leader.Boot()) }

// Set implements agent.Setter.
func (r routers) Set(ctx context.Context, want []agent.Route) ([]agent.Route, error) {
	routes := make([]bgp.Route, len(want))
	for i, w := range want {
		routes[i] = bgp.Route{Prefix: w.Prefix, Attributes: r.attributes(w.Grade)}
		if w.Lease != nil {
			routes[i].Gate = gate{w.Lease}
		}
	}
	have, err := r.speaker.Set(ctx, routes)
	out := []agent.Route{}
	for _, w := range want {
		if slices.Contains(have, w.Prefix) {
			out = append(out, w)
		}
	}
	for _, p := range have {
		if !slices.ContainsFunc(want, func(w agent.Route) bool { return w.Prefix == p }) {
			out = append(out, agent.Route{Prefix: p})
			err = errors.Join(err, fmt.Errorf("withdraw %s: some router may have it still", p))
		}
	}
	return out, err // an error has it looked at again
}

// lastResortPrepend makes a path longer than any that a healthy node has by
// accident.
const lastResortPrepend = 5

// attributes are what a route has besides its peer's: those of a node that others
// are to be preferred to. That is the community of RFC 8326, for routers that know
// it, and a longer path, for those that do not. Routers of our own AS go by the
// local preference.
func (r routers) attributes(g agent.Grade) bgp.Attributes {
	switch g {
	case agent.Leaving:
		return bgp.Attributes{Communities: []uint32{bgp.GracefulShutdown}, LocalPref: new(uint32), Prepend: r.cfg.Drain.Prepend}
	case agent.LastResort:
		return bgp.Attributes{Communities: []uint32{bgp.GracefulShutdown}, LocalPref: new(uint32), Prepend: lastResortPrepend}
	}
	return bgp.Attributes{}
}

// openRouters makes the speaker. Its peers come from watchPeers.
func (n *Node) openRouters() (err error) {
	if !n.cfg.Announces(config.AnnounceBGP) || !n.holds() {
		return nil
	}
	n.routed = make(chan struct{}, 1)
	n.bgp, err = bgp.New(bgp.Config{AS: n.cfg.BGP.AS, RouterID: config.RouterID(n.cfg, HostAddrs()), Listen: n.cfg.BGP.Listen, Shared: addrsOf(n.cfg), Log: n.log,
		OnChange: func() {
			select {
			case n.routed <- struct{}{}:
			default: // it will look anyway
			}
		}})
	if err != nil {
		return err
	}
	if n.cfg.BGP.NeedsNode() {
		return nil
	}
	peers, err := n.peers(nil, nil)
	if err != nil {
		return err
	}
	return n.bgp.SetPeers(context.Background(), peers)
}

// HostAddrs are the addresses of this host's links, those of the first links
// first.
func HostAddrs() (out []netip.Addr) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil // the node's name will do
	}
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok {
			addr, _ := netip.AddrFromSlice(ip.IP)
			out = append(out, addr.Unmap())
		}
	}
	return out
}

// peers are the routers of this node.
func (n *Node) peers(labels, annotations map[string]string) (out []bgp.Peer, err error) {
	for _, p := range n.cfg.BGP.On(n.cfg.Node, labels, annotations) {
		peer := bgp.Peer{Name: p.Name, Address: p.Address, Interface: cmp.Or(p.Link, p.Interface), Port: p.Port, AS: p.AS, LocalAS: p.LocalAS, LocalAddress: p.LocalAddress,
			PasswordFile: p.PasswordFile, Multihop: p.Multihop, GTSM: p.GTSM, Passive: p.Passive, Hold: p.Hold, Keepalive: p.Keepalive,
			ConnectRetry: p.ConnectRetry, NextHop4: p.NextHop4, NextHop6: p.NextHop6, Attributes: bgp.Attributes(n.cfg.BGP.Attributes(p))}
		for _, f := range p.Families {
			peer.Families = append(peer.Families, families[f])
		}
		if peer.BFD, err = bfdOf(p.BFD); err != nil {
			return nil, fmt.Errorf("peer %s: %w", p.Name, err)
		}
		out = append(out, peer)
	}
	return out, nil
}

var families = map[config.Family]bgp.Family{config.FamilyIPv4: bgp.IPv4, config.FamilyIPv6: bgp.IPv6}

func bfdOf(c *config.BGPBFD) (*bgp.BFD, error) {
	if c == nil {
		return nil, nil
	}
	out := &bgp.BFD{Interval: c.Interval, Multiplier: c.Multiplier, Strict: c.Strict}
	if c.Auth == nil {
		return out, nil
	}
	text, err := os.ReadFile(c.Auth.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("read key of BFD: %w", err)
	}
	key, _, _ := strings.Cut(string(text), "\n")
	out.Auth = &bfd.Auth{KeyID: c.Auth.KeyID, Key: strings.TrimSuffix(key, "\r"), Meticulous: c.Auth.Meticulous}
	return out, nil
}

// watchRouters follows what becomes of the sessions, until ctx ends.
func (n *Node) watchRouters(ctx context.Context) {
	up := map[string]bool{}
	look := time.NewTicker(time.Second) // nobody tells of the timers of BFD
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.routed:
		case <-look.C:
		}
		peers := n.bgp.Status().Peers
		n.agent.Detection(n.detection(peers))
		for _, p := range peers {
			now := p.State == bgp.Established
			if now != up[p.Name] && n.events != nil {
				n.events.Router(p.Name, now, p.LastError)
			}
			up[p.Name] = now
		}
	}
}

// detection is how long routers may go on sending packets to another node that
// froze, as far as this node can tell from its own sessions with them: a router may
// take packets of BFD less often than the configuration offers them. BFD counts
// only where there are no routes without it.
func (n *Node) detection(peers []bgp.PeerStatus) (longest time.Duration) {
	strict := map[string]bool{}
	for _, p := range n.cfg.BGP.Peers {
		strict[p.Name] = p.BFD != nil && p.BFD.Strict
	}
	for _, p := range peers {
		d := p.Hold
		switch {
		case !strict[p.Name] || p.BFD == nil:
		case p.BFD.State == bfd.Up:
			d = min(d, p.BFD.Detected)
		case len(p.Advertised) == 0:
			d = 0 // it has nothing of us, and routes wait for BFD
		}
		longest = max(longest, d)
	}
	return longest
}

// askNode is how often the labels and annotations of this node are asked for.
const askNode = 30 * time.Second

// askPeers asks Kubernetes what decides over this node's peers.
func (n *Node) askPeers(ctx context.Context) ([]bgp.Peer, error) {
	creds, err := kube.Credentials(n.cfg.Kubernetes)
	if err != nil {
		return nil, err
	}
	labels, annotations, err := kube.ReadNode(ctx, creds, n.cfg.Kubernetes, n.cfg.Node)
	if err != nil {
		return nil, err
	}
	return n.peers(labels, annotations)
}

// watchPeers follows, where they decide over peers, the labels and annotations that
// Kubernetes has of this node. While the API does not answer, the peers stay as
// they are.
func (n *Node) watchPeers(ctx context.Context) {
	var last []bgp.Peer
	set, failed := false, false
	for {
		peers, err := n.askPeers(ctx)
		if err == nil && (!set || !reflect.DeepEqual(peers, last)) {
			if err = n.bgp.SetPeers(ctx, peers); err == nil {
				last, set = peers, true
			}
		}
		if err != nil && !failed && ctx.Err() == nil {
			n.log.Warn("cannot tell which peers this node has, trying again", "err", err)
		}
		wait := askNode
		if failed = err != nil; failed {
			wait = 2 * time.Second
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}
