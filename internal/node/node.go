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
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
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

// Limits of a stop. What a stuck kernel keeps this process from letting go of
// ends by the kernel's lifetimes, and is swept at the next start.
const (
	drainLimit = 10 * time.Second // to hand over and let go
	closeLimit = 3 * time.Second  // to end after that, and after a second signal
)

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
	tally    tally
	heard    stations
	realtime bool
	socket   net.Listener
	http     net.Listener // nil when off
}

// Run runs a node until ctx ends, then hands over, lets go of everything and
// returns. now, when closed, cuts that short. The configuration must have been
// resolved. It returns an error for what a person or a restart must mend; after
// one that says that the process is held up, end the process.
func Run(ctx context.Context, now <-chan struct{}, cfg *config.Config, version string, log *slog.Logger) (err error) {
	n := &Node{cfg: cfg, version: version, log: log, started: time.Now(), links: map[string]linkState{}}
	if n.realtime, err = goRealtime(cfg.Raft.Realtime, log); err != nil {
		return err
	}
	ended := make(chan error, 1)
	ctx, failed := context.WithCancel(ctx)
	// Not in an errgroup: nothing can wait for a call that the kernel does not end.
	go func() {
		err := n.open()
		if err == nil {
			err = n.run(ctx, now, failed)
		}
		ended <- errors.Join(err, n.close())
	}()
	return await(ctx, now, ended)
}

// await waits for the end of the node, but not for ever once it is to stop.
func await(ctx context.Context, now <-chan struct{}, ended <-chan error) error {
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	limit := time.NewTimer(drainLimit + closeLimit)
	defer limit.Stop()
	select {
	case err := <-ended:
		return err
	case <-now:
		limit.Reset(closeLimit)
	case <-limit.C:
		return errHeldUp
	}
	select {
	case err := <-ended:
		return err
	case <-limit.C:
		return errHeldUp
	}
}

var errHeldUp = errors.New("stop: a call into the kernel does not end: what is left goes by the kernel's lifetimes or at the next start")

// open acquires what the node needs. What was opened is closed by close, also
// after an error.
func (n *Node) open() (err error) {
	if err := n.openCreds(); err != nil {
		return err
	}
	if err := n.openHost(); err != nil {
		return err
	}
	if n.elector, err = leader.OpenRaft(n.raftConfig()); err != nil {
		return InUse(err)
	}
	for _, h := range n.cfg.Health {
		p, err := health.New(health.Check(h))
		if err != nil {
			return err
		}
		n.probers = append(n.probers, p)
	}
	n.checks = make([]atomic.Pointer[health.Status], len(n.probers))
	n.agent = agent.New(n.agentConfig())
	return n.openServers()
}

func (n *Node) openCreds() (err error) {
	t := n.cfg.Raft.TLS
	if n.creds, err = pki.Open(pki.Files{CA: t.CA, Cert: t.Cert, Key: t.Key}, n.log); err != nil {
		return err
	}
	return CheckName(n.creds, n.cfg)
}

// CheckName reports an error unless the certificate is this node's: the others
// would refuse it.
func CheckName(creds *pki.Source, cfg *config.Config) error {
	if names := creds.Names(); !slices.Contains(names, cfg.Node) {
		return fmt.Errorf("check certificate: %s: is for %s, not for this node, %s (`pintle raft certs %s` makes one)",
			cfg.Raft.TLS.Cert, strings.Join(names, ", "), cfg.Node, cfg.Node)
	}
	return nil
}

func (n *Node) openServers() (err error) {
	c := n.cfg.Server
	if n.socket, err = status.ListenSocket(status.Socket(c.RunDir, n.cfg.Instance)); err != nil {
		return err
	}
	if !c.Listen.IsValid() {
		return nil
	}
	if n.http, err = net.Listen("tcp", c.Listen.String()); err != nil {
		return InUse(fmt.Errorf("serve metrics and probes: %w", err))
	}
	return nil
}

// InUse adds what to do to an error of an address that cannot be listened on.
func InUse(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w (stop what uses it, or choose another port)", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w (no link of this host has this address)", err)
	}
	return err
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
		OnHeard: func(h arp.Heard) { n.heard.hear(h); n.agent.Heard(h.Addr) },
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
		out.Free = func(ctx context.Context) error { return Free(ctx, c) }
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

// Free reports an error while other stations answer for addresses of the
// configuration (RFC 5227 2.1.1). It asks for all of them at once, in 4 to 7 s.
func Free(ctx context.Context, cfg *config.Config) error {
	var g errgroup.Group
	var mu sync.Mutex // guards errs
	var errs []error
	for _, a := range cfg.Addresses {
		for _, l := range a.Links {
			g.Go(func() error {
				mac, found, err := arp.Probe(ctx, l, a.Address)
				if err == nil && found {
					err = &InUseError{Address: a.Address, Link: l, MAC: mac}
				}
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
				return nil
			})
		}
	}
	_ = g.Wait() // none returns an error
	return errors.Join(errs...)
}

// An InUseError says that another station answers for an address.
type InUseError struct {
	Address netip.Addr
	Link    string
	MAC     string
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("%s is in use by %s on %s: take it away there, or choose another address", e.Address, e.MAC, e.Link)
}

// run runs the parts until the node has let go. When a part fails it calls
// failed, so that the others' end has a limit too.
func (n *Node) run(stop context.Context, now <-chan struct{}, failed func()) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(stop))
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, failed)()
	g.Go(func() error { return n.creds.Run(ctx) })
	g.Go(func() error { return n.elector.Run(ctx, n.termChanged) })
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
	g.Go(func() error { n.watchLinks(ctx); return nil })
}

// termChanged takes a report of the elector.
func (n *Node) termChanged(seat string, t leader.Term) {
	n.tally.see(t)
	n.agent.Seat(seat, t)
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

// close closes what open opened. A directory that others still use stays.
func (n *Node) close() error {
	var errs []error
	for _, ln := range []net.Listener{n.socket, n.http} {
		if ln == nil {
			continue
		}
		if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if n.binder != nil {
		errs = append(errs, n.binder.Close())
	}
	if n.elector != nil {
		errs = append(errs, n.elector.Close())
	}
	if n.socket != nil || n.binder != nil {
		_ = os.Remove(n.cfg.Server.RunDir) // it goes only if it is empty
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
		LoopAge: n.agent.LoopAge(), Started: n.started, Witness: n.cfg.Self().Role == config.RoleWitness, Candidate: n.holds(),
		Elections: n.tally.count()}
	for i := range r.Raft.Members {
		if m := &r.Raft.Members[i]; m.Self { // nobody greets itself
			m.Hello = leader.Hello{Name: n.cfg.Node, Version: n.version, Healthy: r.Healthy, Candidate: r.Candidate, Witness: r.Witness,
				Priority: n.cfg.Self().Priority, T: r.Raft.T}
		}
	}
	for i := range n.checks {
		if s := n.checks[i].Load(); s != nil {
			r.Checks = append(r.Checks, status.Check(*s))
		}
	}
	if n.holds() {
		mute := n.binder.Mute()
		r.Mute.Wall = mute.Wall
		for _, l := range mute.Links {
			r.Mute.Links = append(r.Mute.Links, status.MutedLink(l))
		}
		for _, s := range n.speaker.Stats() {
			r.Wire = append(r.Wire, status.Wire{Stat: status.Stat(s), Peer: n.elector.PeerOf(s.LastMAC),
				Strangers: n.heard.strangers(s.Addr, s.Link, n.elector.PeerOf)})
		}
	}
	slices.SortFunc(r.Wire, func(a, b status.Wire) int { return a.Addr.Compare(b.Addr) })
	return r
}
