// Package node puts one Pintle together from its parts and runs it.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pintle-lb/pintle/arp"
	"github.com/pintle-lb/pintle/internal/agent"
	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/health"
	"github.com/pintle-lb/pintle/internal/status"
	"github.com/pintle-lb/pintle/leader"
	"github.com/pintle-lb/pintle/leader/pki"
	"github.com/pintle-lb/pintle/vip"
)

// seat is the one seat of a Raft cluster: the control plane.
const seat = "control-plane"

// drainLimit is how long a node that is told to stop may take to hand over.
const drainLimit = 10 * time.Second

// A Node is one running Pintle.
type Node struct {
	cfg     *config.Config
	version string
	log     *slog.Logger
	started time.Time

	creds    *pki.Source
	binder   *vip.Binder  // nil where the node never holds
	speaker  *arp.Speaker // likewise
	elector  *leader.Raft
	agent    *agent.Agent
	probers  []*health.Prober
	checks   []atomic.Pointer[health.Status]
	macs     atomic.Pointer[[]string]
	links    map[string]linkState // of WatchLinks; owned by its goroutine
	realtime bool
	socket   net.Listener
	http     net.Listener // nil when off
}

// Run runs a node until ctx ends, then hands over, lets go of everything and
// returns. now, when closed, cuts that short. The configuration must have been
// resolved.
func Run(ctx context.Context, now <-chan struct{}, cfg *config.Config, version string, log *slog.Logger) (err error) {
	n := &Node{cfg: cfg, version: version, log: log, started: time.Now(), links: map[string]linkState{}}
	if n.realtime, err = goRealtime(cfg.Raft.Realtime, log); err != nil {
		return err
	}
	if err := n.open(); err != nil {
		return errors.Join(err, n.close())
	}
	return errors.Join(n.run(ctx, now), n.close())
}

// open acquires what the node needs. What was opened is closed by close, also
// after an error.
func (n *Node) open() (err error) {
	c := n.cfg
	tls := pki.Files{CA: c.Raft.TLS.CA, Cert: c.Raft.TLS.Cert, Key: c.Raft.TLS.Key}
	if n.creds, err = pki.Open(tls, n.log); err != nil {
		return err
	}
	if err := n.openHost(); err != nil {
		return err
	}
	if n.elector, err = leader.OpenRaft(n.raftConfig()); err != nil {
		return err
	}
	for _, h := range c.Health {
		p, err := health.New(health.Check(h))
		if err != nil {
			return err
		}
		n.probers = append(n.probers, p)
	}
	n.checks = make([]atomic.Pointer[health.Status], len(n.probers))
	n.agent = agent.New(n.agentConfig())
	if n.socket, err = status.ListenSocket(status.Socket(c.Server.RunDir, c.Instance)); err != nil {
		return err
	}
	if c.Server.Listen.IsValid() {
		if n.http, err = net.Listen("tcp", c.Server.Listen.String()); err != nil {
			return fmt.Errorf("serve metrics and probes: %w", err)
		}
	}
	return nil
}

// openHost opens the parts that touch the host's network. A witness has none.
func (n *Node) openHost() (err error) {
	if !n.holds() {
		return nil
	}
	n.binder, err = vip.Open(vip.Config{Instance: n.cfg.Instance, RunDir: n.cfg.Server.RunDir, Log: n.log,
		OnChange: func() { n.agent.Disturbed() }})
	if err != nil {
		return err
	}
	n.speaker = arp.New(arp.Config{Log: n.log,
		OnHeard: func(h arp.Heard) { n.agent.Heard(h.Addr) },
		Peer:    func(mac string) string { return n.elector.PeerOf(mac) }})
	return nil
}

// holds reports whether this node may ever hold the addresses.
func (n *Node) holds() bool { return n.cfg.Self().Candidate }

func (n *Node) raftConfig() leader.RaftConfig {
	c := n.cfg
	out := leader.RaftConfig{Seat: seat, Node: c.Node, Listen: c.Raft.Listen.String(), Bootstrap: c.Raft.Bootstrap, Alone: c.Raft.Alone,
		StateDir: c.Raft.StateDir, Profile: leader.Profile(c.Raft.Profile), Version: n.version, Creds: n.creds, Log: n.log,
		MACs: n.ownMACs, Move: func(to string) error { return n.agent.Move(to) }}
	for _, p := range c.Raft.Peers {
		out.Peers = append(out.Peers, leader.Peer{Name: p.Name, Address: p.Address.String(), Witness: p.Role == config.RoleWitness,
			Candidate: p.Candidate, Priority: p.Priority})
	}
	for _, a := range c.Addresses {
		out.Join = append(out.Join, netip.AddrPortFrom(a.Address, c.Self().Address.Port()).String())
	}
	if n.holds() {
		out.Free = n.free
	}
	return out
}

func (n *Node) agentConfig() agent.Config {
	c := n.cfg
	out := agent.Config{Node: c.Node, Ready: c.Bind == config.BindReady, Linger: c.Linger, HoldDown: c.HoldDown,
		Elector: n.elector, Sockets: vip.Established, Clock: leader.Boot, Log: n.log}
	for _, h := range c.Health {
		out.Checks = append(out.Checks, h.Name)
	}
	if !n.holds() {
		out.Sockets = nil
		return out
	}
	claim := agent.Claim{Name: seat, Seat: seat}
	for _, a := range c.Addresses {
		claim.Addrs = append(claim.Addrs, agent.Placed{Prefix: a.Prefix(), Links: a.Links})
		out.Links = append(out.Links, a.Links...)
	}
	out.Claims = []agent.Claim{claim}
	out.Addresses, out.Targets = n.binder, voice{n.speaker}
	return out
}

// voice lets the agent's targets be spoken for.
type voice struct{ speaker *arp.Speaker }

// Set implements agent.Setter.
func (v voice) Set(ctx context.Context, want []agent.Target) ([]agent.Target, error) {
	targets := make([]arp.Target, len(want))
	for i, t := range want {
		targets[i] = arp.Target{Link: t.Link, Addr: t.Addr}
		if t.Lease != nil {
			targets[i].Claim = t.Lease
		}
	}
	have, err := v.speaker.Set(ctx, targets)
	out := make([]agent.Target, len(have))
	for i, t := range have {
		out[i] = agent.Target{Link: t.Link, Addr: t.Addr}
		out[i].Lease, _ = t.Claim.(*leader.Lease)
	}
	return out, err
}

// free reports an error while another station answers for one of the addresses
// (RFC 5227 2.1.1).
func (n *Node) free(ctx context.Context) error {
	for _, a := range n.cfg.Addresses {
		for _, l := range a.Links {
			mac, found, err := arp.Probe(ctx, l, a.Address)
			switch {
			case err != nil:
				return fmt.Errorf("look for another owner of %s: %w", a.Address, err)
			case found:
				return fmt.Errorf("%s is in use by %s on %s: take it away there, or choose another address", a.Address, mac, l)
			}
		}
	}
	return nil
}

// run runs the parts until the node has let go.
func (n *Node) run(stop context.Context, now <-chan struct{}) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(stop))
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.creds.Run(ctx) })
	g.Go(func() error { return n.elector.Run(ctx, n.agent.Seat) })
	g.Go(func() error { return n.agent.Run(ctx) })
	n.runHost(ctx, g)
	for i, p := range n.probers {
		g.Go(func() error { return p.Run(ctx, func(s health.Status) { n.checked(i, s) }) })
	}
	srv := &status.Server{Look: n.look, Version: n.version, Actions: status.Actions{
		Transfer: n.elector.Transfer, Remove: n.elector.Remove,
		Profile: func(ctx context.Context, p string) error { return n.elector.SetProfile(ctx, leader.Profile(p)) }}}
	g.Go(func() error { return srv.ServeSocket(ctx, n.socket) })
	if n.http != nil {
		g.Go(func() error { return srv.ServeHTTP(ctx, n.http) })
	}
	g.Go(func() error {
		defer cancel()
		n.drain(ctx, stop, now)
		return nil
	})
	n.log.Info("pintle runs", "version", n.version, "peer", n.cfg.Node, "instance", n.cfg.Instance)
	return g.Wait()
}

func (n *Node) runHost(ctx context.Context, g *errgroup.Group) {
	if !n.holds() {
		return
	}
	g.Go(func() error { return n.binder.Run(ctx) })
	g.Go(func() error { return n.speaker.Run(ctx) })
	g.Go(func() error { return vip.WatchLinks(ctx, n.linksChanged) })
}

// drain waits until the node is to stop, and then until it has handed over.
func (n *Node) drain(ctx, stop context.Context, now <-chan struct{}) {
	select {
	case <-ctx.Done(): // a part failed
		return
	case <-stop.Done():
	}
	n.log.Info("stopping: hands over and lets go")
	n.agent.Drain()
	limit := time.NewTimer(drainLimit)
	defer limit.Stop()
	select {
	case <-ctx.Done():
	case <-n.agent.Drained():
	case <-now:
		n.log.Warn("stopping at once")
	case <-limit.C:
		n.log.Error("could not let go in time: leaves what is left to the kernel's lifetimes", "after", drainLimit)
	}
}

func (n *Node) close() error {
	var errs []error
	if n.socket != nil {
		if err := n.socket.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if n.binder != nil {
		errs = append(errs, n.binder.Close())
	}
	if n.elector != nil {
		errs = append(errs, n.elector.Close())
	}
	if n.binder != nil {
		_ = os.Remove(n.cfg.Server.RunDir) // only if nobody else uses it
	}
	return errors.Join(errs...)
}

func (n *Node) checked(i int, s health.Status) {
	n.checks[i].Store(&s)
	n.agent.Check(s.Name, s.Healthy && s.Known, s.LastError)
}

// look puts together what is true now.
func (n *Node) look() *status.Report {
	r := &status.Report{Version: n.version, Instance: n.cfg.Instance, Snapshot: *n.agent.Snapshot(), Raft: n.elector.Status(),
		Cert: status.Certificate{Names: n.creds.Names(), NotAfter: n.creds.NotAfter()}, Realtime: n.realtime,
		LoopAge: n.agent.LoopAge(), Started: n.started}
	for i := range n.checks {
		if s := n.checks[i].Load(); s != nil {
			r.Checks = append(r.Checks, *s)
		}
	}
	if n.holds() {
		r.Mute = n.binder.Mute()
		for _, s := range n.speaker.Stats() {
			r.Wire = append(r.Wire, status.Wire{Stat: s, Peer: n.elector.PeerOf(s.LastMAC)})
		}
	}
	slices.SortFunc(r.Wire, func(a, b status.Wire) int { return a.Addr.Compare(b.Addr) })
	return r
}
