// Package node puts one Pintle together from its parts and runs it.
package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pintle-lb/pintle/arp"
	"github.com/pintle-lb/pintle/bgp"
	"github.com/pintle-lb/pintle/internal/agent"
	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/health"
	"github.com/pintle-lb/pintle/internal/status"
	"github.com/pintle-lb/pintle/leader"
	"github.com/pintle-lb/pintle/leader/pki"
	"github.com/pintle-lb/pintle/vip"
)

// seat is the one seat of a cluster: the control plane.
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

	creds    *pki.Source   // nil where a Lease elects
	binder   *vip.Binder   // nil where the node never holds
	speaker  *arp.Speaker  // likewise
	bgp      *bgp.Speaker  // nil where no routes are advertised
	routed   chan struct{} // its status is another
	table    *vip.Table    // nil where none are in a table
	elector  elector
	raft     *leader.Raft           // the elector, or nil
	kube     *leader.Kube           // likewise
	events   recorder               // nil where nobody would read them
	tenure   tenure                 // owned by the elector's reports
	taken    atomic.Pointer[string] // who else answered for the addresses when last asked; "" for nobody
	agent    *agent.Agent
	probers  []*health.Prober
	checks   []atomic.Pointer[health.Status]
	macs     atomic.Pointer[[]string]
	links    map[string]linkState // when last looked at; owned by watchLinks
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
	go func() { ended <- n.life(ctx, now, failed) }()
	limit := drainLimit
	if cfg.Services != nil {
		limit = servicesDrain
	}
	return await(ctx, now, ended, limit+closeLimit)
}

// life opens, runs and closes the node.
func (n *Node) life(ctx context.Context, now <-chan struct{}, failed func()) error {
	if n.cfg.Services != nil {
		s, err := n.openServices()
		if err == nil {
			err = s.run(ctx, now, failed)
		}
		return errors.Join(err, s.closeServices())
	}
	err := n.open()
	if err == nil {
		err = n.run(ctx, now, failed)
	}
	return errors.Join(err, n.close())
}

// await waits for the end of the node, but not for ever once it is to stop.
func await(ctx context.Context, now <-chan struct{}, ended <-chan error, most time.Duration) error {
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	limit := time.NewTimer(most)
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

// run runs the parts until the node has let go. When a part fails it calls
// failed, so that the others' end has a limit too.
func (n *Node) run(stop context.Context, now <-chan struct{}, failed func()) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(stop))
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, failed)()
	n.firstLook()
	n.runElection(ctx, g)
	g.Go(func() error { return n.agent.Run(ctx) })
	n.runHost(ctx, g)
	for i, p := range n.probers {
		g.Go(func() error { return p.Run(ctx, func(s health.Status) { n.checked(i, s) }) })
	}
	srv := &status.Server{Look: n.look, Version: n.version, Actions: n.actions()}
	g.Go(func() error { return srv.ServeSocket(ctx, n.socket) })
	if n.http != nil {
		g.Go(func() error { return srv.ServeHTTP(ctx, n.http) })
	}
	g.Go(func() error {
		defer cancel()
		n.drain(ctx, stop, now)
		return nil
	})
	g.Go(func() error { n.selfCheck(ctx); return nil })
	n.log.Info("pintle runs", "version", n.version, "peer", n.cfg.Node, "instance", n.cfg.Instance)
	return g.Wait()
}

func (n *Node) runElection(ctx context.Context, g *errgroup.Group) {
	if n.creds != nil {
		g.Go(func() error { return n.creds.Run(ctx) })
	}
	if n.events != nil {
		g.Go(func() error { return n.events.Run(ctx) })
		g.Go(func() error { n.tellStrangers(ctx); return nil })
	}
	g.Go(func() error { return n.elector.Run(ctx, n.termChanged) })
}

func (n *Node) runHost(ctx context.Context, g *errgroup.Group) {
	if !n.holds() {
		return
	}
	g.Go(func() error { return n.binder.Run(ctx) })
	g.Go(func() error { return n.speaker.Run(ctx) })
	g.Go(func() error { n.watchLinks(ctx); return nil })
	if n.table != nil {
		g.Go(func() error { return n.table.Run(ctx) })
	}
	if n.bgp != nil {
		g.Go(func() error { return n.bgp.Run(ctx) })
		g.Go(func() error { n.watchRouters(ctx); return nil })
	}
	if n.cfg.BGP.NeedsNode() {
		g.Go(func() error { n.watchPeers(ctx); return nil })
	}
}

// termChanged takes a report of the elector.
func (n *Node) termChanged(seat string, t leader.Term) {
	n.tally.see(t)
	n.tell(t)
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

func (n *Node) checked(i int, s health.Status) {
	n.checks[i].Store(&s)
	n.agent.Check(s.Name, s.Healthy && s.Known, s.LastError)
}

// look puts together what is true now.
func (n *Node) look() *status.Report {
	r := &status.Report{Version: n.version, Instance: n.cfg.Instance, Snapshot: *n.agent.Snapshot(), Realtime: n.realtime,
		LoopAge: n.agent.LoopAge(), Started: n.started, Witness: n.cfg.Self().Role == config.RoleWitness, Candidate: n.holds(),
		Elections: n.tally.count()}
	n.lookElection(r)
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
	if n.bgp != nil {
		st := n.bgp.Status()
		r.BGP = &st
	}
	slices.SortFunc(r.Wire, func(a, b status.Wire) int { return a.Addr.Compare(b.Addr) })
	return r
}
