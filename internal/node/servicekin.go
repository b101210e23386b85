package node

import (
	"context"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/pintle-lb/pintle/internal/hearsay"
	"github.com/pintle-lb/pintle/internal/kube"
	"github.com/pintle-lb/pintle/internal/service"
	"github.com/pintle-lb/pintle/internal/status"
	"github.com/pintle-lb/pintle/leader"
	"github.com/pintle-lb/pintle/manifests"
	"github.com/pintle-lb/pintle/vip"
)

func (s *serviceNode) openController(creds *rest.Config) (err error) {
	n, c := s.Node, s.cfg
	rotated, rotation := kube.Rotate(creds, n.apiServers)
	s.rotates = rotation
	conf := service.Config{Node: c.Node, Namespace: c.Services.Namespace, Rules: service.Rules{Class: c.Services.Class, Unclassed: c.Services.Unclassed, Routers: n.bgp != nil},
		Rest: rotated, Targets: n.speaker, Bound: n.binder, Guards: &guards{screen: s.screen}, Hushed: hushes{n.binder},
		Flush: s.flush, Keep: func(l *leader.Lease) service.Gate { return s.circle.Gate(l) }, Note: s.note, Stand: func() { n.kube.Set([]string{nodeSeat}) }, Above: n.kube.Above, Need: s.roll.Need, Lag: s.roll.Lag,
		Kin: s.kinChanged, Version: n.version, Clock: leader.Boot, Log: n.log}
	if n.bgp != nil {
		conf.Routes, conf.DrainWait, conf.DrainPrepend = routeSetter{n.bgp}, c.BGP.Drain.Wait, c.BGP.Drain.Prepend
	}
	s.ctl, err = service.New(conf)
	return err
}

func (s *serviceNode) note(text string) {
	if err := s.kube.Note(text); err != nil {
		s.log.Error("cannot tell the other nodes of this one", "err", err)
	}
}

func (s *serviceNode) flush(addrs []netip.Addr) {
	n, err := vip.FlushConntrack(addrs)
	switch {
	case err != nil:
		s.log.Warn("cannot forget connections to addresses that moved", "err", err)
	case n > 0:
		s.log.Debug("forgot connections to addresses that moved", "connections", n, "addresses", len(addrs))
	}
}

// kinChanged takes who runs Pintle.
func (s *serviceNode) kinChanged(k service.Kin) {
	s.mu.Lock()
	s.kin = k
	s.mu.Unlock()
	select {
	case s.wants <- struct{}{}:
	default:
	}
}

func (s *serviceNode) sharedKey() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.key
}

// keyAgain is how often the shared key is asked for while it could not be read.
const keyAgain = 5 * time.Second

// circleRun has the nodes talk to each other while some pool keeps its addresses without the API, until ctx ends.
func (s *serviceNode) circleRun(ctx context.Context) error {
	for s.untilKin(ctx, func(k service.Kin) bool { return k.Keep }) {
		g, talking := errgroup.WithContext(ctx)
		talking, end := context.WithCancel(talking)
		g.Go(func() error { return s.circle.Run(talking) })
		g.Go(func() error {
			defer end()
			s.untilKin(talking, func(k service.Kin) bool { return !k.Keep })
			return nil
		})
		if err := g.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// untilKin follows who runs Pintle until that is so. It returns false when ctx ended before.
func (s *serviceNode) untilKin(ctx context.Context, so func(service.Kin) bool) bool {
	again := time.NewTicker(keyAgain)
	defer again.Stop()
	for {
		s.mu.Lock()
		kin, key := s.kin, s.key
		s.mu.Unlock()
		if kin.Keep && key == nil {
			s.readKey(ctx)
		}
		var peers []hearsay.Peer
		for name, addr := range kin.Nodes {
			peers = append(peers, hearsay.Peer{Name: name, Addr: addr})
		}
		s.circle.SetPeers(peers)
		if so(kin) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-s.wants:
		case <-again.C:
		}
	}
}

func (s *serviceNode) readKey(ctx context.Context) {
	creds, err := kube.Credentials(s.cfg.Kubernetes)
	var key []byte
	if err == nil {
		key, err = kube.SharedKey(ctx, creds, s.apiServers(), s.cfg.Services.Namespace, manifests.HearsaySecret)
	}
	if err != nil {
		s.log.Warn("onAPILoss: keep does nothing yet: no key to talk to other nodes", "err", err)
		return
	}
	s.mu.Lock()
	s.key = key
	s.mu.Unlock()
}

// lookLimit is how long a status waits for the loop.
const lookLimit = 2 * time.Second

// look puts together what is true now.
func (s *serviceNode) look(ctx context.Context) *status.Report {
	n := s.Node
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	r := &status.Report{Version: n.version, Instance: n.cfg.Instance, LoopAge: s.ctl.LoopAge(), Started: n.started, Candidate: true}
	r.Node, r.At = n.cfg.Node, time.Now()
	snap, err := s.ctl.Snapshot(ctx)
	if err != nil {
		snap = &service.Snapshot{Node: n.cfg.Node, At: r.At, Faults: []string{"the loop does not answer"}}
	}
	r.Services, r.Draining, r.Healthy, r.Unhealthy = snap, snap.Leaving, snap.Unfit == "", snap.Unfit
	st := n.kube.Status()
	r.Lease = &st
	for _, p := range n.probers {
		r.Checks = append(r.Checks, status.Check(p.Status()))
	}
	mute := n.binder.Mute()
	r.Mute.Wall = mute.Wall
	for _, l := range mute.Links {
		r.Mute.Links = append(r.Mute.Links, status.MutedLink(l))
	}
	for _, w := range n.speaker.Stats() {
		r.Wire = append(r.Wire, status.Wire{Stat: status.Stat(w), Peer: s.roll.PeerOf(w.LastMAC), Strangers: n.heard.strangers(w.Addr, w.Link, s.roll.PeerOf)})
	}
	if n.bgp != nil {
		b := n.bgp.Status()
		r.BGP = &b
	}
	return r
}
