package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pintle-lb/pintle/arp"
	"github.com/pintle-lb/pintle/bgp"
	"github.com/pintle-lb/pintle/internal/health"
	"github.com/pintle-lb/pintle/internal/hearsay"
	"github.com/pintle-lb/pintle/internal/kube"
	"github.com/pintle-lb/pintle/internal/service"
	"github.com/pintle-lb/pintle/internal/status"
	"github.com/pintle-lb/pintle/leader"
	"github.com/pintle-lb/pintle/vip"
)

// LeasePrefix is what the name of a node's Lease begins with.
const LeasePrefix = "pintle-node-"

// nodeSeat is the seat of a node's own Lease.
const nodeSeat = "node"

// A serviceNode is a node that serves Services of type LoadBalancer.
type serviceNode struct {
	*Node
	screen  *vip.Screen
	lock    net.Listener // no other process is this node on this host
	roll    *leader.Roll
	circle  *hearsay.Circle
	ctl     *service.Controller
	rotates *kube.Rotation
	proxy   *health.Prober // of what forwards to pods; nil: nobody is asked

	mu       sync.Mutex // guards what follows
	verdicts map[string]string
	late     bool // no verdict is waited for any longer
	kin      service.Kin
	key      []byte
	wants    chan struct{} // kin is news
}

// openServices acquires what a service node needs. What was opened is closed by closeServices, also after an error.
func (n *Node) openServices() (_ *serviceNode, err error) {
	s := &serviceNode{Node: n, verdicts: map[string]string{}, wants: make(chan struct{}, 1)}
	if err := s.openHost(); err != nil {
		return s, err
	}
	if err := s.openAPI(); err != nil {
		return s, err
	}
	checks := n.cfg.Health
	for _, h := range checks {
		p, err := health.New(health.Check(h))
		if err != nil {
			return s, err
		}
		n.probers = append(n.probers, p)
	}
	if u := n.cfg.Services.ProxyHealth; u != "" {
		if s.proxy, err = health.New(health.Check{Name: "proxy", HTTP: u, Interval: 2 * time.Second, Timeout: time.Second, Rise: 1, Fall: 2}); err != nil {
			return s, err
		}
		n.probers = append(n.probers, s.proxy)
	}
	for _, p := range n.probers {
		s.verdicts[p.Status().Name] = unknown
	}
	return s, n.openServers()
}

// openHost opens what touches the host's network.
func (s *serviceNode) openHost() (err error) {
	n := s.Node
	if s.lock, err = lockNode(n.cfg.Instance, n.cfg.Node); err != nil {
		return err
	}
	n.binder, err = vip.Open(vip.Config{Instance: n.cfg.Instance, RunDir: n.cfg.Server.RunDir, Log: n.log,
		OnChange: func() {
			if s.ctl != nil {
				s.ctl.Disturbed()
			}
		}})
	if err != nil {
		return err
	}
	if s.screen, err = n.binder.OpenScreen(); err != nil {
		return err
	}
	n.speaker = arp.New(arp.Config{Log: n.log, OnHeard: n.heard.hear,
		Peer: func(mac string) string { return s.roll.PeerOf(mac) }})
	return n.openRouters()
}

// lockNode takes a name in the network namespace that the kernel gives to one process at a time, until it ends.
func lockNode(instance, node string) (net.Listener, error) {
	ln, err := net.Listen("unix", fmt.Sprintf("@pintle/%s/%s", instance, node))
	if err != nil {
		return nil, fmt.Errorf("be node %s of instance %s: %w (another pintle is that here; is it frozen?)", node, instance, err)
	}
	return ln, nil
}

// heir names that lock among those of all hosts; "" if that cannot be told.
func heir(instance string) string {
	id, err := vip.NamespaceID()
	if err != nil || id == "" {
		return ""
	}
	return id + "/" + instance
}

// openAPI opens what talks to Kubernetes. It asks nobody.
func (s *serviceNode) openAPI() error {
	n, c := s.Node, s.cfg
	creds, err := kube.Credentials(c.Kubernetes)
	if err != nil {
		return err
	}
	n.kube, err = leader.OpenKube(leader.KubeConfig{Seat: nodeSeat, Node: c.Node, Namespace: c.Services.Namespace, Prefix: LeasePrefix, Name: LeasePrefix + c.Node,
		Duration: c.Services.Lease, Candidate: true, Heir: heir(c.Instance), Rest: creds, Servers: c.Kubernetes.Servers, Discover: true,
		Version: n.version, Log: n.log, MACs: n.ownMACs})
	if err != nil {
		return err
	}
	n.elector = n.kube
	s.roll, err = leader.OpenRoll(leader.RollConfig{Node: c.Node, Namespace: c.Services.Namespace, Prefix: LeasePrefix, Duration: c.Services.Lease, Rest: creds,
		Servers: c.Kubernetes.Servers, Discover: true, Version: n.version, Log: n.log})
	if err != nil {
		return err
	}
	s.circle = hearsay.New(hearsay.Config{Node: c.Node, Port: c.Services.KeepPort, Key: s.sharedKey, Clock: leader.Boot, Log: n.log})
	return s.openController(creds)
}

// run runs the parts until the node has let go.
func (s *serviceNode) run(stop context.Context, now <-chan struct{}, failed func()) error {
	n := s.Node
	ctx, cancel := context.WithCancel(context.WithoutCancel(stop))
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, failed)()
	for _, run := range []func(context.Context) error{n.binder.Run, s.screen.Run, n.speaker.Run, s.ctl.Run, s.circleRun} {
		g.Go(func() error { return run(ctx) })
	}
	g.Go(func() error { s.followLinks(ctx); return nil })
	g.Go(func() error { return s.roll.Run(ctx, s.ctl.Member) })
	g.Go(func() error { return n.kube.Run(ctx, func(_ string, t leader.Term) { s.ctl.Term(t) }) })
	g.Go(func() error { s.followServers(ctx); return nil })
	g.Go(func() error { n.selfCheck(ctx); return nil })
	late := time.AfterFunc(judgeLimit, s.judgeAnyway)
	defer late.Stop()
	s.judge()
	for _, p := range n.probers {
		g.Go(func() error { return p.Run(ctx, s.checked) })
	}
	if n.bgp != nil {
		g.Go(func() error { return n.bgp.Run(ctx) })
		if n.cfg.BGP.NeedsNode() {
			g.Go(func() error { n.watchPeers(ctx); return nil })
		}
	}
	srv := &status.Server{Look: func() *status.Report { return s.look(ctx) }, Version: n.version}
	g.Go(func() error { return srv.ServeSocket(ctx, n.socket) })
	if n.http != nil {
		g.Go(func() error { return srv.ServeHTTP(ctx, n.http) })
	}
	g.Go(func() error {
		defer cancel()
		s.drain(ctx, stop, now)
		return nil
	})
	n.log.Info("pintle runs", "version", n.version, "peer", n.cfg.Node, "instance", n.cfg.Instance, "services", true)
	return g.Wait()
}

// servicesDrain is how long a node that stops may take to hand its addresses over: each is two writes to the API.
const servicesDrain = 30 * time.Second

// drain waits until the node is to stop, and then until it has nothing any more.
func (s *serviceNode) drain(ctx, stop context.Context, now <-chan struct{}) {
	select {
	case <-ctx.Done(): // a part failed
		return
	case <-stop.Done():
	}
	s.log.Info("stopping: hands its addresses over")
	s.ctl.Leave()
	limit := time.NewTimer(servicesDrain)
	defer limit.Stop()
	select {
	case <-ctx.Done():
	case <-s.ctl.Left():
	case <-now:
		s.log.Warn("stopping at once")
	case <-limit.C:
		s.log.Error("could not hand over in time: other nodes take the rest when this node's Lease has run out", "after", servicesDrain)
	}
}

// checked takes the verdict of a health check.
func (s *serviceNode) checked(v health.Status) {
	why := ""
	switch {
	case !v.Known:
		why = unknown
	case !v.Healthy:
		why = cmp.Or(v.LastError, "failed")
	}
	s.mu.Lock()
	was := s.verdicts[v.Name]
	s.verdicts[v.Name] = why
	s.mu.Unlock()
	if (was == "") != (why == "") {
		s.log.Info("health check", "check", v.Name, "healthy", why == "", "err", why)
	}
	s.judge()
}

// unknown is the verdict of a check before its first one.
const unknown = "is not known yet"

// judgeLimit is how long the first verdicts are waited for.
const judgeLimit = 3 * time.Second

// judgeAnyway waits for no verdict any longer.
func (s *serviceNode) judgeAnyway() {
	s.mu.Lock()
	s.late = true
	s.mu.Unlock()
	s.judge()
}

// judge tells the controller whether this node can serve anybody, once that is known.
func (s *serviceNode) judge() {
	s.mu.Lock()
	var bad []string
	known := true
	for name, why := range s.verdicts {
		if why != "" {
			bad = append(bad, "check "+name+" "+why)
		}
		known = known && why != unknown
	}
	known = known || s.late
	s.mu.Unlock()
	if !known {
		return
	}
	slices.Sort(bad)
	s.ctl.Unfit(strings.Join(bad, "; "))
}

// followLinks tells the controller of the links, until ctx ends.
func (s *serviceNode) followLinks(ctx context.Context) {
	const first, last = time.Second, 30 * time.Second
	for wait := first; ; wait = min(2*wait, last) {
		err := vip.WatchLinks(ctx, func(links []vip.Link) { wait = first; s.sawLinks(links) })
		if ctx.Err() != nil {
			return
		}
		s.log.Warn("cannot follow the links, trying again", "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// sawLinks takes the links of the host: those with a subnet, or a default route, may have addresses announced on them.
func (s *serviceNode) sawLinks(links []vip.Link) {
	n := s.Node
	defaults, err := vip.DefaultLinks()
	if err != nil {
		s.log.Warn("cannot tell which links lead elsewhere", "err", err)
	}
	var out []service.Link
	var macs []string
	now := map[string]linkState{}
	for _, l := range links {
		up := l.Up && l.Carrier
		if len(l.MAC) != 6 {
			continue
		}
		now[l.Name] = linkState{l.Index, l.MAC.String(), up}
		link := service.Link{Name: l.Name, Default: defaults[l.Index]}
		for _, p := range l.Addrs {
			if p.Addr().IsGlobalUnicast() && !p.IsSingleIP() {
				link.Subnets = append(link.Subnets, p.Masked())
			}
		}
		if up && (len(link.Subnets) > 0 || link.Default) {
			out, macs = append(out, link), append(macs, l.MAC.String())
		}
	}
	n.macs.Store(&macs)
	s.ctl.Links(out)
	for name, st := range now {
		if was, known := n.links[name]; known && st.carrier && was != st {
			n.speaker.Refresh(name)
		}
	}
	n.links = now
}

// leaveAfter is how long an API server must not have answered until all watches are taken from it: to read everything anew is dear.
const leaveAfter = 4 * time.Second

// followServers has the requests of the controller go where the elector finds an API server, until ctx ends: it notices soonest that
// one is silent.
func (s *serviceNode) followServers(ctx context.Context) {
	t := time.NewTicker(250 * time.Millisecond)
	defer t.Stop()
	bad := map[string]time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		st := s.kube.Status()
		s.circle.SetAway(s.away(st))
		current := s.rotates.Current()
		i := slices.IndexFunc(st.Servers, func(x leader.KubeServer) bool { return x.URL == current && x.Error != "" })
		if i < 0 {
			clear(bad)
			continue
		}
		if bad[current].IsZero() {
			bad[current] = time.Now()
		}
		well := slices.ContainsFunc(st.Servers, func(x leader.KubeServer) bool {
			return x.URL == st.Server && x.Error == "" && time.Since(x.Seen) < leaveAfter
		})
		if time.Since(bad[current]) > leaveAfter && st.Server != current && well {
			s.log.Warn("leaves an API server that does not answer", "server", current, "err", st.Servers[i].Error)
			s.rotates.Leave(current)
			clear(bad)
		}
	}
}

// away reports whether the API does not answer this node: a node that has a Lease asks it each third of that. One that has none
// asks seldom, and says it only if it was not answered.
func (s *serviceNode) away(st leader.KubeStatus) bool {
	var last time.Time
	for _, list := range [][]leader.KubeServer{st.Servers, s.roll.Status().Servers} {
		for _, x := range list {
			if x.Seen.After(last) {
				last = x.Seen
			}
		}
	}
	asks := st.Error != "" || st.Holder == s.cfg.Node
	return asks && !last.IsZero() && time.Since(last) > st.Duration*4/10
}

// closeServices closes what openServices opened.
func (s *serviceNode) closeServices() error {
	var errs []error
	if s.screen != nil {
		errs = append(errs, s.screen.Close())
	}
	errs = append(errs, s.Node.close())
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// guards lets the screen be set by the controller.
type guards struct {
	screen *vip.Screen
	have   []vip.Guarded
}

// Set implements agent.Setter. What the table had before it is taken to have still when it could not be changed: the node says that it
// is unfit, and loses nothing at once.
func (g *guards) Set(ctx context.Context, want []vip.Guarded) ([]vip.Guarded, error) {
	err := g.screen.Set(ctx, want)
	if err == nil {
		g.have = want
	}
	return g.have, err
}

// hushes lets the kernel be kept mute by the controller.
type hushes struct{ binder *vip.Binder }

// Set implements agent.Setter.
func (h hushes) Set(ctx context.Context, want []netip.Addr) ([]netip.Addr, error) {
	if err := h.binder.Hush(ctx, want); err != nil {
		return nil, err
	}
	return want, nil
}

// routeSetter lets routes be advertised by the controller.
type routeSetter struct{ speaker *bgp.Speaker }

// Set implements agent.Setter.
func (r routeSetter) Set(ctx context.Context, want []bgp.Route) ([]bgp.Route, error) {
	have, err := r.speaker.Set(ctx, want)
	wanted := make(map[netip.Prefix]bgp.Route, len(want))
	for _, w := range want {
		wanted[w.Prefix] = w
	}
	out := make([]bgp.Route, len(have))
	for i, p := range have {
		out[i] = bgp.Route{Prefix: p}
		if w, ok := wanted[p]; ok {
			out[i] = w
		} else {
			err = errors.Join(err, fmt.Errorf("withdraw %s: some router may have it still", p))
		}
	}
	return out, err
}
