package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pintle-lb/pintle/bgp/bfd"
)

// peer connects to one router for as long as it is wanted.
type peer struct {
	name     string
	node     Config
	log      *slog.Logger
	pool     *pool
	listener *listener                                             // nil: there is none
	hops     func(Peer, endpoint, agreement) map[Family]netip.Addr // p.others
	watch    func()                                                // the endpoint for BFD, or its timers, are different; must not block
	changed  func()                                                // something in the status is different; must not block
	kick     chan struct{}                                         // to the session: what is wanted is different
	incoming chan net.Conn                                         // connections of a passive peer's router
	found    *discovery                                            // of an unnumbered peer; nil: it has an address
	done     chan struct{}                                         // closed when run has returned

	mu      sync.Mutex // guards the rest
	cfg     Peer
	want    *wanted
	session *session // from the OPENs to the end
	ending  bool     // we want no session any more
	cancel  context.CancelFunc
	at      endpoint // as far as it is known
	link    string   // that leads to it
	status  PeerStatus
	warned  string    // the last reason that was warned of
	tries   int       // that failed in a row
	path    bfd.State // what BFD says of the path to the router, less what it said of itself
	watched bfd.State // what it said last; AdminDown: nothing
}

func newPeer(node Config, cfg Peer, want *wanted) *peer {
	p := &peer{
		name: cfg.Name, node: node, log: node.Log.With("peer", cfg.Name), cfg: cfg, want: want, path: bfd.Down,
		kick: make(chan struct{}, 1), incoming: make(chan net.Conn, 1), done: make(chan struct{}),
		status: PeerStatus{Name: cfg.Name, Interface: cfg.Interface, AS: cfg.AS, State: Idle, Since: time.Now(), Why: "not started"},
	}
	if cfg.Address.IsValid() {
		p.status.Address = netip.AddrPortFrom(cfg.Address, cfg.port())
	} else {
		p.found = newDiscovery(cfg.Interface, p.log)
	}
	p.hops = p.others
	p.status.Local, p.status.LocalAS = cfg.LocalAddress, p.localASOf(cfg)
	return p
}

// sameSession says that a peer can become another one without a new session.
func sameSession(a, b Peer) bool {
	for _, p := range []*Peer{&a, &b} {
		p.Attributes, p.BFD, p.ConnectRetry = Attributes{}, nil, 0
		p.NextHop4, p.NextHop6 = netip.Addr{}, netip.Addr{}
	}
	return reflect.DeepEqual(a, b)
}

// update changes what a session survives.
func (p *peer) update(cfg Peer) {
	p.mu.Lock()
	p.cfg = cfg
	if cfg.BFD == nil {
		p.path = bfd.Down
	}
	p.mu.Unlock()
	p.wake()
	p.watch()
}

// set is the new wanted state.
func (p *peer) set(w *wanted) {
	p.mu.Lock()
	p.want = w
	p.mu.Unlock()
	p.wake()
}

func (p *peer) wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// current is the session, if there is one.
func (p *peer) current() *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.session
}

// run connects again and again until ctx ends or the peer is to end.
func (p *peer) run(ctx context.Context) error {
	defer close(p.done)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !p.begin(cancel) {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	if p.found != nil {
		g.Go(func() error { return p.found.run(ctx) })
	}
	g.Go(func() error {
		defer cancel()
		for ctx.Err() == nil {
			wasUp, err := p.attempt(ctx)
			if p.over(err) {
				return nil
			}
			pause(ctx, p.failed(wasUp, err))
		}
		return nil
	})
	return g.Wait()
}

func (p *peer) begin(cancel context.CancelFunc) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cancel = cancel
	return !p.ending
}

// end ends the session with Cease, and run. It waits until the router was told, or ctx ends.
func (p *peer) end(ctx context.Context, subcode uint8, text string) {
	p.mu.Lock()
	p.ending = true
	s, cancel := p.session, p.cancel
	p.mu.Unlock()
	if cancel == nil { // before run
		return
	}
	if s != nil {
		s.relay.cease(subcode, text)
	} else {
		cancel()
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		cancel()
		if s != nil {
			dropQueue(s.router)
			_ = s.router.Close()
		}
		<-p.done
	}
}

// The pauses between attempts: at first a short one, which doubles up to what is configured. A session that was up is first tried
// again soon: routers restart, and BFD errs.
const (
	firstRetry   = 250 * time.Millisecond
	soonAgain    = time.Second
	connectLimit = 10 * time.Second
)

// jittered is 75 to 100 % of d, so that nodes do not all come at once (RFC 4271 10).
func jittered(d time.Duration) time.Duration { return d - time.Duration(rand.Int64N(int64(d/4)+1)) }

// attempt is one connection, from finding the router to the end of the session. The error says why it ended.
func (p *peer) attempt(ctx context.Context) (wasUp bool, err error) {
	cfg := p.config()
	e, err := p.endpoint(cfg)
	if err != nil {
		p.enter(Idle, err.Error())
		return false, err
	}
	link := linkTo(cfg, e.remote.Addr())
	p.mu.Lock()
	p.at, p.link = e, link
	p.status.Address, p.status.Local = e.remote, e.local.WithZone("")
	p.mu.Unlock()
	p.watch()
	conn, err := p.connect(ctx, cfg, e)
	if err != nil {
		if p.found != nil {
			p.found.forget(e.remote.Addr())
		}
		return false, err
	}
	defer conn.Close()
	if local, ok := conn.LocalAddr().(*net.TCPAddr); ok && !e.local.IsValid() {
		e.local = local.AddrPort().Addr().Unmap()
	}
	p.enter(Opening, "the router answers: both sides say who they are")
	agreed, err := handshake(ctx, conn, p.offer(cfg, e))
	if err != nil {
		return false, err
	}
	return p.hold(ctx, conn, cfg, e, agreed)
}

func (p *peer) config() Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cfg
}

// endpoint finds out how to reach the router.
func (p *peer) endpoint(cfg Peer) (endpoint, error) {
	e := endpoint{local: cfg.LocalAddress, gtsm: cfg.GTSM, device: cfg.Interface}
	var err error
	router := cfg.Address
	if p.found != nil {
		if router, e.local, err = p.found.find(); err != nil {
			return endpoint{}, err
		}
	} else if !e.local.IsValid() {
		if e.local, err = p.ownAddress(router); err != nil {
			return endpoint{}, err
		}
	}
	e.remote = netip.AddrPortFrom(router, cfg.port())
	if cfg.PasswordFile != "" {
		if e.password, err = readPassword(cfg.PasswordFile); err != nil {
			return endpoint{}, err
		}
	}
	switch {
	case cfg.Multihop > 1:
		e.ttl = cfg.Multihop
	case cfg.AS != p.localASOf(cfg): // of an external router; routers of our own AS may be anywhere
		e.ttl = 1
	}
	return e, nil
}

func (p *peer) ownAddress(router netip.Addr) (netip.Addr, error) {
	if zone := router.Zone(); zone != "" {
		link, err := net.InterfaceByName(zone)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("find link %s: %w", zone, err)
		}
		return linkLocal(link), nil
	}
	return localFor(router, p.shares)
}

func (p *peer) localASOf(cfg Peer) uint32 {
	if cfg.LocalAS != 0 {
		return cfg.LocalAS
	}
	return p.node.AS
}

// shares says that an address is not this node's own: the routes are for it, or it may be another node's too.
func (p *peer) shares(a netip.Addr) bool {
	a = a.WithZone("")
	if slices.Contains(p.node.Shared, a) {
		return true
	}
	p.mu.Lock()
	want := p.want
	p.mu.Unlock()
	_, own := want.own[a]
	return own
}

func (p *peer) offer(cfg Peer, e endpoint) offer {
	return offer{
		as: p.localASOf(cfg), remoteAS: cfg.AS, id: p.node.RouterID, hold: cfg.hold(), families: cfg.families(),
		extendedNextHop: e.local.Is6() && slices.Contains(cfg.families(), IPv4),
	}
}

// connect gets a connection to the router, from either side.
func (p *peer) connect(ctx context.Context, cfg Peer, e endpoint) (net.Conn, error) {
	if cfg.Passive {
		return p.accept(ctx, e)
	}
	p.enter(Connecting, fmt.Sprintf("connecting to %s", e.remote))
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	conn, err := dial(ctx, e)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

func (p *peer) accept(ctx context.Context, e endpoint) (net.Conn, error) {
	if p.listener == nil {
		return nil, errors.New("this node listens nowhere")
	}
	p.refuse()
	cancel, err := p.listener.expect(e, func(c *net.TCPConn) {
		select {
		case p.incoming <- c:
		default:
			c.Close()
		}
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		cancel()
		p.refuse() // there may be a second one
	}()
	p.enter(Waiting, fmt.Sprintf("waiting for %s to connect to %s", e.remote.Addr(), p.node.Listen))
	select {
	case conn := <-p.incoming:
		return conn, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// refuse closes a connection that was delivered and that nobody waits for.
func (p *peer) refuse() {
	select {
	case conn := <-p.incoming:
		conn.Close()
	default:
	}
}

// hold has a session for as long as it lasts.
func (p *peer) hold(ctx context.Context, conn net.Conn, cfg Peer, e endpoint, agreed agreement) (wasUp bool, err error) {
	server, err := p.pool.take(ctx)
	if err != nil {
		return false, err
	}
	defer p.pool.give(server)
	p.beginPath()
	s := newSession()
	s.server, s.router, s.kick, s.tell = server, conn, p.kick, p.changed
	s.wish = func(hops map[Family]netip.Addr) (*wanted, terms) { return p.wish(e, agreed, hops) }
	s.look = func() map[Family]netip.Addr { return p.hops(p.config(), e, agreed) }
	if err := s.fill(); err != nil {
		return false, err
	}
	inner, err := server.connect(ctx, neighbour{
		localAS: p.localASOf(cfg), remoteAS: agreed.remoteAS, families: agreed.families,
		hold: agreed.hold, keepalive: keepaliveTime(cfg, agreed),
	})
	if err != nil {
		return false, err
	}
	defer inner.Close()
	s.relay = &relay{
		router: conn, inner: &leg{Conn: inner, before: s.up}, agreed: agreed,
		sent: s.sent, dropped: p.dropped, up: func() { wasUp = true; p.up(e, agreed) },
	}
	if !p.adopt(s) {
		return false, nil
	}
	err = s.run(ctx)
	p.adopt(nil)
	return wasUp, err
}

func keepaliveTime(cfg Peer, a agreement) time.Duration {
	third := a.hold / 3
	if cfg.Keepalive == 0 {
		return third
	}
	return min(cfg.Keepalive, third)
}

// adopt makes s the session, unless there shall be none.
func (p *peer) adopt(s *session) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.session = s
	return s == nil || !p.ending
}
