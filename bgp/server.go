package bgp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	gobgplog "github.com/osrg/gobgp/v3/pkg/log"
	gobgp "github.com/osrg/gobgp/v3/pkg/server"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// server is gobgp with the routes of one router in it, and at most one neighbour: a guard of ours, which connects to it over
// loopback. It is the only file that knows gobgp. A server is never ended, because gobgp's main goroutine never ends: servers
// that are no longer needed go back into the pool.
type server struct {
	bgp   *gobgp.BgpServer
	at    netip.AddrPort // where gobgp listens
	guard netip.Addr     // where the guard connects from: the neighbour's address
	key   string         // of TCP-MD5 between the two, so that nobody else on this machine can be the neighbour

	// The next sessions are from other addresses, so that gobgp, when it is late, does not take the connection of one session
	// for the next one's. They come round, because a listener has room for few keys.
	guards [8]netip.Addr
	turn   int

	done func() // with globals; nil: it does not read them
}

// neighbour is what gobgp is to believe of a router. It is what the guard negotiated, so gobgp has nothing to decide.
type neighbour struct {
	localAS, remoteAS uint32
	hold, keepalive   time.Duration
	families          []Family
}

// leave is the one policy: what is ours may come in and go out, and nothing else. Without it gobgp would carry routes from
// one neighbour to the next. gobgp applies the import policy to our own routes too.
const leave = "local-only"

// makeServer makes one that is to be started.
func makeServer(log *slog.Logger) *server {
	s := &server{key: rand.Text(), bgp: gobgp.NewBgpServer(gobgp.LoggerOption(gobgpLog{log}))}
	for i := range s.guards {
		s.guards[i] = randomLoopback()
	}
	go s.bgp.Serve()
	return s
}

// start starts gobgp on a random address and port of 127/8. After an error it can be tried again.
func (s *server) start(ctx context.Context, as uint32, id netip.Addr) (err error) {
	const tries = 20
	for range tries {
		s.at = netip.AddrPortFrom(randomLoopback(), randomPort())
		if err = s.startAt(ctx, as, id); !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	if err != nil {
		return err
	}
	if err = s.leaveOnly(ctx); err != nil {
		s.close()
	}
	return err
}

func (s *server) startAt(ctx context.Context, as uint32, id netip.Addr) error {
	defer globals.write()()
	// The listener takes TCP-MD5 only if it is not Multipath TCP's, which go.mod says for programs of this module.
	err := s.bgp.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{
		Asn: as, RouterId: id.String(), ListenPort: int32(s.at.Port()), ListenAddresses: []string{s.at.Addr().String()},
	}})
	if err != nil {
		return fmt.Errorf("start gobgp at %s: %w", s.at, err)
	}
	return nil
}

// leaveOnly sets the policy.
func (s *server) leaveOnly(ctx context.Context) error {
	policy := &api.Policy{Name: leave, Statements: []*api.Statement{{
		Name:       leave,
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ACCEPT},
	}}}
	if err := s.bgp.AddPolicy(ctx, &api.AddPolicyRequest{Policy: policy}); err != nil {
		return fmt.Errorf("set policy: %w", err)
	}
	for _, d := range []api.PolicyDirection{api.PolicyDirection_IMPORT, api.PolicyDirection_EXPORT} {
		err := s.bgp.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
			Name: "global", Direction: d, Policies: []*api.Policy{{Name: leave}}, DefaultAction: api.RouteAction_REJECT,
		}})
		if err != nil {
			return fmt.Errorf("set policy: %w", err)
		}
	}
	return nil
}

// connect makes the guard gobgp's neighbour and returns the guard's connection to it. gobgp has sent nothing but its OPEN then.
func (s *server) connect(ctx context.Context, n neighbour) (net.Conn, error) {
	s.turn++
	s.guard = s.guards[s.turn%len(s.guards)]
	s.done = globals.read() // gobgp does by itself when the session is established
	if err := s.addNeighbour(ctx, s.guard, n, s.key); err != nil {
		return nil, err
	}
	// Before this state gobgp closes what it accepts.
	if err := s.await(ctx, s.guard, api.PeerState_ACTIVE); err != nil {
		return nil, err
	}
	conn, err := dial(ctx, endpoint{remote: s.at, local: s.guard, password: []byte(s.key)})
	if err != nil {
		return nil, fmt.Errorf("connect to gobgp on loopback: %w", err)
	}
	return conn, nil
}

// addNeighbour has gobgp expect a connection from the address.
func (s *server) addNeighbour(ctx context.Context, from netip.Addr, n neighbour, key string) error {
	p := &api.Peer{
		Conf: &api.PeerConf{NeighborAddress: from.String(), PeerAsn: n.remoteAS, LocalAsn: n.localAS, AuthPassword: key},
		Timers: &api.Timers{Config: &api.TimersConfig{
			HoldTime: uint64(n.hold / time.Second), KeepaliveInterval: uint64(max(n.keepalive/time.Second, 1)),
		}},
		Transport: &api.Transport{PassiveMode: true, LocalAddress: s.at.Addr().String()},
	}
	for _, f := range n.families {
		p.AfiSafis = append(p.AfiSafis, &api.AfiSafi{Config: &api.AfiSafiConfig{Family: f.api(), Enabled: true}})
	}
	if err := s.bgp.AddPeer(ctx, &api.AddPeerRequest{Peer: p}); err != nil {
		return fmt.Errorf("add neighbour to gobgp: %w", err)
	}
	return nil
}

// established blocks until gobgp has taken the session for established. From then on it sends an UPDATE for each change.
func (s *server) established(ctx context.Context) error {
	err := s.await(ctx, s.guard, api.PeerState_ESTABLISHED)
	s.doneReading()
	return err
}

func (s *server) doneReading() {
	if s.done != nil {
		s.done()
		s.done = nil
	}
}

// await asks rather than listens: gobgp's events of an earlier neighbour may come late.
func (s *server) await(ctx context.Context, from netip.Addr, want api.PeerState_SessionState) error {
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for pause := 250 * time.Microsecond; ; pause = min(2*pause, 20*time.Millisecond) {
		state := api.PeerState_UNKNOWN
		err := s.bgp.ListPeer(ctx, &api.ListPeerRequest{Address: from.String()}, func(p *api.Peer) { state = p.State.SessionState })
		if err != nil || state == want {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until gobgp is %s: it is %s: %w", want, state, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// disconnect forgets the neighbour and every route.
func (s *server) disconnect() {
	s.doneReading()
	defer globals.read()()
	ctx := context.Background()
	if s.guard.IsValid() {
		_ = s.bgp.DeletePeer(ctx, &api.DeletePeerRequest{Address: s.guard.String()}) // there may be none
	}
	_ = s.bgp.DeletePath(ctx, &api.DeletePathRequest{})
}

// add advertises a route, or replaces it.
func (s *server) add(e export) error {
	defer globals.read()()
	_, err := s.bgp.AddPath(context.Background(), &api.AddPathRequest{Path: e.api()})
	if err != nil {
		return fmt.Errorf("add %s to gobgp: %w", e.prefix, err)
	}
	return nil
}

// remove withdraws what was added.
func (s *server) remove(e export) error {
	defer globals.read()()
	if err := s.bgp.DeletePath(context.Background(), &api.DeletePathRequest{Path: e.api()}); err != nil {
		return fmt.Errorf("remove %s from gobgp: %w", e.prefix, err)
	}
	return nil
}

// close stops listening.
func (s *server) close() { _ = s.bgp.StopBgp(context.Background(), &api.StopBgpRequest{}) }

// pool has servers that nobody uses.
type pool struct {
	log *slog.Logger
	as  uint32
	id  netip.Addr

	mu     sync.Mutex // guards the rest
	free   []*server
	failed []*server // that could not be started, for the next try
}

func (p *pool) take(ctx context.Context) (*server, error) {
	p.mu.Lock()
	if n := len(p.free); n > 0 {
		s := p.free[n-1]
		p.free = p.free[:n-1]
		p.mu.Unlock()
		return s, nil
	}
	var s *server
	if n := len(p.failed); n > 0 {
		s, p.failed = p.failed[n-1], p.failed[:n-1]
	}
	p.mu.Unlock()
	if s == nil {
		s = makeServer(p.log)
	}
	if err := s.start(ctx, p.as, p.id); err != nil {
		p.mu.Lock()
		p.failed = append(p.failed, s)
		p.mu.Unlock()
		return nil, err
	}
	return s, nil
}

func (p *pool) give(s *server) {
	s.disconnect()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, s)
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.free {
		s.close()
	}
	p.free = nil
}

func (f Family) api() *api.Family {
	if f == IPv6 {
		return &api.Family{Afi: api.Family_AFI_IP6, Safi: api.Family_SAFI_UNICAST}
	}
	return &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}
}

func (e export) api() *api.Path {
	family := familyOf(e.prefix).api()
	nlri := pack(&api.IPAddressPrefix{Prefix: e.prefix.Addr().String(), PrefixLen: uint32(e.prefix.Bits())})
	attrs := []*anypb.Any{pack(&api.OriginAttribute{Origin: 0})} // IGP
	if e.prefix.Addr().Is4() && e.nextHop.Is4() {
		attrs = append(attrs, pack(&api.NextHopAttribute{NextHop: e.nextHop.String()}))
	} else {
		attrs = append(attrs, pack(&api.MpReachNLRIAttribute{Family: family, NextHops: []string{e.nextHop.String()}, Nlris: []*anypb.Any{nlri}}))
	}
	if e.prepend > 0 {
		path := &api.AsSegment{Type: api.AsSegment_AS_SEQUENCE}
		for range e.prepend {
			path.Numbers = append(path.Numbers, e.as)
		}
		attrs = append(attrs, pack(&api.AsPathAttribute{Segments: []*api.AsSegment{path}}))
	}
	if e.med != nil {
		attrs = append(attrs, pack(&api.MultiExitDiscAttribute{Med: *e.med}))
	}
	if e.localPref != nil {
		attrs = append(attrs, pack(&api.LocalPrefAttribute{LocalPref: *e.localPref}))
	}
	if len(e.communities) > 0 {
		attrs = append(attrs, pack(&api.CommunitiesAttribute{Communities: e.communities}))
	}
	if len(e.large) > 0 {
		large := &api.LargeCommunitiesAttribute{}
		for _, c := range e.large {
			large.Communities = append(large.Communities, &api.LargeCommunity{GlobalAdmin: c[0], LocalData1: c[1], LocalData2: c[2]})
		}
		attrs = append(attrs, pack(large))
	}
	return &api.Path{Family: family, Nlri: nlri, Pattrs: attrs}
}

func pack(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		panic("bgp: " + err.Error()) // our own messages
	}
	return a
}

// randomLoopback keeps away from the ends of 127/8, where others are.
func randomLoopback() netip.Addr {
	b := randomBytes()
	return netip.AddrFrom4([4]byte{127, 64 | b[0]&63, b[1], 1 + b[2]%254})
}

// randomPort is below the ports that the kernel gives out.
func randomPort() uint16 {
	b := randomBytes()
	return 16384 + (uint16(b[0])<<8|uint16(b[1]))&0x3fff
}

func randomBytes() (b [3]byte) {
	_, _ = rand.Read(b[:]) // never fails
	return b
}

// gobgpLog hands gobgp's lines on at debug level: what matters of them, the guard and the peer say themselves.
type gobgpLog struct{ log *slog.Logger }

func (l gobgpLog) line(level, msg string, fields gobgplog.Fields) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug("gobgp: "+msg, "level", level, "fields", fmt.Sprint(map[string]any(fields)))
	}
}

func (l gobgpLog) Panic(msg string, f gobgplog.Fields) { l.line("panic", msg, f) }
func (l gobgpLog) Fatal(msg string, f gobgplog.Fields) { l.line("fatal", msg, f) }
func (l gobgpLog) Error(msg string, f gobgplog.Fields) { l.line("error", msg, f) }
func (l gobgpLog) Warn(msg string, f gobgplog.Fields)  { l.line("warn", msg, f) }
func (l gobgpLog) Info(msg string, f gobgplog.Fields)  { l.line("info", msg, f) }

// Debug says nothing: gobgp would format every message for it, and some of that reads what other goroutines write.
func (l gobgpLog) Debug(string, gobgplog.Fields) {}
func (l gobgpLog) SetLevel(gobgplog.LogLevel)    {}
func (l gobgpLog) GetLevel() gobgplog.LogLevel   { return gobgplog.InfoLevel }
