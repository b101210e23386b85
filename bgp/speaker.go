package bgp

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pintle-lb/pintle/bgp/bfd"
)

// A Speaker advertises routes to routers. Its methods may be called from any goroutine, also before Run.
type Speaker struct {
	cfg   Config
	pool  *pool
	watch *bfd.Speaker
	gates chan struct{} // routes are different: see whose gate is over next
	bfds  chan struct{} // what BFD has to watch is different

	peering chan struct{} // held by SetPeers

	mu       sync.Mutex             // guards the rest
	routes   map[netip.Prefix]Route // as Set said
	want     *wanted
	peers    map[string]*peer
	leaving  map[*peer]struct{} // no longer in peers, but their routers may have our routes yet
	listener *listener
	start    func(*peer) // nil while Run does not
	ended    bool
}

// New makes a Speaker, and starts nothing. The error says all that is wrong with the configuration.
func New(cfg Config) (*Speaker, error) {
	if err := checkConfig(cfg); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.OnChange == nil {
		cfg.OnChange = func() {}
	}
	s := &Speaker{
		cfg: cfg, want: &wanted{}, peers: make(map[string]*peer), leaving: make(map[*peer]struct{}), peering: make(chan struct{}, 1),
		pool:  &pool{log: cfg.Log, as: cfg.AS, id: cfg.RouterID},
		gates: make(chan struct{}, 1), bfds: make(chan struct{}, 1),
	}
	s.watch = bfd.New(bfd.Config{Log: cfg.Log, OnChange: s.bfdChanged})
	return s, nil
}

// How long the end of Run may last: for withdrawals to be written, and for the routers to be told that this was on purpose.
const (
	withdrawLimit = 1200 * time.Millisecond
	ceaseLimit    = 600 * time.Millisecond
)

// Run keeps the sessions until ctx ends. Then it withdraws all routes, waits until the routers were sent that, closes the
// sessions with Cease (administrative shutdown), and BFD with AdminDown: in 2 s at most. The error is what a person must
// mend: nobody can be listened for at Config.Listen, or BFD's ports are taken. A Speaker runs once.
func (s *Speaker) Run(ctx context.Context) error {
	g, life := errgroup.WithContext(context.WithoutCancel(ctx))
	life, end := context.WithCancel(life)
	defer end()
	if s.cfg.Listen.IsValid() {
		l, err := listen(ctx, s.cfg.Listen)
		if err != nil {
			return err
		}
		s.listener = l
		g.Go(func() error { return l.run(life) })
	}
	watched, unwatch := context.WithCancel(life)
	defer unwatch()
	g.Go(func() error { return s.watch.Run(watched) })
	g.Go(func() error { return s.watchGates(life) })
	g.Go(func() error { return s.watchRouters(watched) })
	s.begin(func(p *peer) { g.Go(func() error { return p.run(life) }) })
	select {
	case <-ctx.Done():
	case <-life.Done():
	}
	s.finish(life)
	unwatch()
	end()
	err := g.Wait()
	s.pool.close()
	return err
}

func (s *Speaker) begin(start func(*peer)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.start = start
	for _, p := range s.peers {
		p.listener = s.listener
		start(p)
	}
}

// finish withdraws and closes.
func (s *Speaker) finish(ctx context.Context) {
	s.mu.Lock()
	s.ended, s.start = true, nil
	s.push()
	peers := s.everyone()
	version := s.want.removal
	s.mu.Unlock()
	withdraw, cancel := context.WithTimeout(ctx, withdrawLimit)
	defer cancel()
	settle(withdraw, peers, version, usual)
	cease, cancel := context.WithTimeout(ctx, ceaseLimit)
	defer cancel()
	each(peers, func(p *peer) { p.end(cease, ceaseShutdown, "Pintle on this node was stopped") })
}

// SetPeers makes peers, all of them, the routers that there are. Peers that did not change are left alone; where only
// attributes, next hops, timers of BFD or the pause between attempts did, the session goes on. It blocks until the sessions
// with routers that are no longer wanted, or wanted otherwise, are closed: a second or so. On an error, which says all that is
// wrong, nothing was changed, unless ctx ended.
func (s *Speaker) SetPeers(ctx context.Context, peers []Peer) error {
	if err := checkPeers(s.cfg, peers); err != nil {
		return err
	}
	select {
	case s.peering <- struct{}{}:
		defer func() { <-s.peering }()
	case <-ctx.Done():
		return ctx.Err()
	}
	gone, fresh := s.changePeers(peers)
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), ceaseLimit)
	defer cancel()
	each(gone, func(p *peer) { p.end(limit, ceaseDeconfigured, "") })
	s.forget(gone)
	s.startPeers(fresh)
	s.bfdKick()
	s.cfg.OnChange()
	return nil
}

func (s *Speaker) changePeers(peers []Peer) (gone []*peer, fresh []Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stays := make(map[string]bool)
	for _, cfg := range peers {
		old, has := s.peers[cfg.Name]
		switch was := has && sameSession(old.config(), cfg); {
		case !was:
			fresh = append(fresh, cfg)
		case !reflect.DeepEqual(old.config(), cfg):
			old.update(cfg)
			fallthrough
		default:
			stays[cfg.Name] = true
		}
	}
	for name, p := range s.peers {
		if !stays[name] {
			gone = append(gone, p)
			delete(s.peers, name)
			s.leaving[p] = struct{}{}
		}
	}
	return gone, fresh
}

func (s *Speaker) forget(gone []*peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range gone {
		delete(s.leaving, p)
	}
}

// everyone is whose router may have our routes. The caller holds mu.
func (s *Speaker) everyone() []*peer {
	return slices.AppendSeq(slices.Collect(maps.Values(s.peers)), maps.Keys(s.leaving))
}

func (s *Speaker) startPeers(fresh []Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, cfg := range fresh {
		p := newPeer(s.cfg, cfg, s.want)
		p.pool, p.listener, p.watch, p.changed = s.pool, s.listener, s.bfdKick, s.cfg.OnChange
		s.peers[cfg.Name] = p
		if s.start != nil {
			s.start(p)
		}
	}
}

// Set makes routes, all of them, what this node advertises. It returns once every withdrawal that this implies is written to
// the connection of every router; a router whose connection takes no bytes for a second loses it, and the routes with it. So
// have, sorted, are the prefixes that routers may have from this node, or get as soon as they are up: those wanted whose gate
// is open, and no other unless ctx ended early. The error names routes that cannot be advertised to anybody; the others are.
func (s *Speaker) Set(ctx context.Context, routes []Route) (have []netip.Prefix, err error) {
	good, err := checkRoutes(routes)
	s.mu.Lock()
	s.routes = good
	s.push()
	peers := s.everyone()
	want := s.want
	s.mu.Unlock()
	s.gateKick()
	settle(ctx, peers, want.removal, want.patience())
	return mayHave(want, peers), err
}

// mayHave is what routers may have, or get.
func mayHave(want *wanted, peers []*peer) []netip.Prefix {
	out := make(map[netip.Prefix]struct{}, len(want.routes))
	for _, r := range want.routes {
		out[r.Prefix] = struct{}{}
	}
	for _, p := range peers {
		if s := p.current(); s != nil {
			s.mayHave(func(p netip.Prefix) { out[p] = struct{}{} })
		}
	}
	return slices.SortedFunc(maps.Keys(out), netip.Prefix.Compare)
}

// push tells the peers what is wanted now, if that is different. The caller holds mu.
func (s *Speaker) push() {
	next := &wanted{
		version: s.want.version + 1, removal: s.want.removal, urgent: s.want.urgent,
		routes: make([]Route, 0, len(s.routes)), own: make(map[netip.Addr]struct{}, len(s.routes)),
	}
	for _, r := range s.routes {
		if r.Prefix.IsSingleIP() {
			next.own[r.Prefix.Addr()] = struct{}{}
		}
		if !s.ended && isOpen(r.Gate) {
			next.routes = append(next.routes, r)
		}
	}
	slices.SortFunc(next.routes, func(a, b Route) int { return a.Prefix.Compare(b.Prefix) })
	if slices.EqualFunc(s.want.routes, next.routes, sameRoute) && maps.Equal(s.want.own, next.own) {
		return
	}
	s.want.removeTo(next)
	s.want = next
	for _, p := range s.everyone() {
		p.set(next)
	}
}

// removeTo notes in next what it takes away.
func (w *wanted) removeTo(next *wanted) {
	for _, r := range w.routes {
		if _, stays := slices.BinarySearchFunc(next.routes, r.Prefix, func(r Route, p netip.Prefix) int { return r.Prefix.Compare(p) }); stays {
			continue
		}
		if next.removal != next.version {
			next.removal, next.urgent = next.version, false
		}
		next.urgent = next.urgent || !isOpen(r.Gate)
	}
}

// patience is what is had with a router that is to lose what was taken away last. Whoever finds first that a gate is over, Set or
// watchGates, must not wait for longer.
func (w *wanted) patience() limits {
	if w.urgent {
		return urgent
	}
	return usual
}

func sameRoute(a, b Route) bool {
	return a.Prefix == b.Prefix && a.Gate == b.Gate && a.Attributes.equal(b.Attributes)
}

func isOpen(g Gate) bool { return g == nil || g.Left() > 0 }

// watchGates withdraws each route whose gate is over.
func (s *Speaker) watchGates(ctx context.Context) error {
	timer := time.NewTimer(s.nextGate())
	defer timer.Stop()
	var slow sync.WaitGroup
	defer slow.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.gates:
		case <-timer.C:
			slow.Go(s.closeGates(ctx))
		}
		timer.Reset(s.nextGate())
	}
}

// closeGates returns what is left to do: to wait for slow routers. Others' gates may be over meanwhile.
func (s *Speaker) closeGates(ctx context.Context) (wait func()) {
	s.mu.Lock()
	before := s.want
	s.push()
	peers := s.everyone()
	want := s.want
	s.mu.Unlock()
	if want == before {
		return func() {}
	}
	s.cfg.Log.Info("routes are withdrawn: the permission to advertise them is over", "routes", len(before.routes)-len(want.routes))
	s.cfg.OnChange()
	return func() { settle(ctx, peers, want.removal, want.patience()) }
}

// nextGate is how long the gates that are open last.
func (s *Speaker) nextGate() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := time.Hour
	asked := make(map[Gate]struct{})
	for _, r := range s.want.routes {
		if r.Gate == nil {
			continue
		}
		if _, twice := asked[r.Gate]; !twice {
			asked[r.Gate] = struct{}{}
			next = min(next, r.Gate.Left())
		}
	}
	return max(next, 0)
}

// watchRouters keeps BFD watching what there is to watch.
func (s *Speaker) watchRouters(ctx context.Context) error {
	said := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.bfds:
		}
		err := s.watch.Set(ctx, s.watched())
		if err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			s.cfg.Log.Warn("bfd", "err", err)
		}
		s.handOver()
	}
}

// handOver tells new peers how the sessions are that BFD has had before. The peers are taken first, so that they hear of any
// change that is later than the status.
func (s *Speaker) handOver() {
	s.mu.Lock()
	peers := maps.Clone(s.peers)
	s.mu.Unlock()
	for _, b := range s.watch.Status() {
		if p := peers[b.Name]; p != nil {
			p.bfdIs(b.State)
		}
	}
}

func (s *Speaker) watched() []bfd.Peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []bfd.Peer
	for _, p := range s.peers {
		if b, ok := p.bfdPeer(); ok {
			out = append(out, b)
		}
	}
	return out
}

func (s *Speaker) bfdChanged(name string, c bfd.Change) {
	s.mu.Lock()
	p := s.peers[name]
	s.mu.Unlock()
	if p != nil {
		p.bfdChanged(c)
	}
}

func (s *Speaker) bfdKick() { kick(s.bfds) }

func (s *Speaker) gateKick() { kick(s.gates) }

func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Status is what is true now.
func (s *Speaker) Status() Status {
	s.mu.Lock()
	peers := slices.Collect(maps.Values(s.peers))
	s.mu.Unlock()
	watched := make(map[string]*bfd.Status)
	for _, b := range s.watch.Status() {
		watched[b.Name] = &b
	}
	out := Status{AS: s.cfg.AS, RouterID: s.cfg.RouterID}
	for _, p := range peers {
		out.Peers = append(out.Peers, p.report(watched[p.name]))
	}
	slices.SortFunc(out.Peers, func(a, b PeerStatus) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// settle waits until no router has what is not wanted any more.
func settle(ctx context.Context, peers []*peer, version uint64, has limits) {
	each(peers, func(p *peer) {
		if s := p.current(); s != nil {
			s.settle(ctx, version, has)
		}
	})
}

func each(peers []*peer, f func(*peer)) {
	var wg sync.WaitGroup
	for _, p := range peers {
		wg.Go(func() { f(p) })
	}
	wg.Wait()
}
