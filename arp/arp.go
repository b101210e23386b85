// Package arp is the only voice of an address on its links. It answers the questions of others (ARP, RFC 826; NDP, RFC 4861),
// announces the address when this node takes it over, defends it against foreign claims, and hears who else claims it. The
// kernel is muted for such an address (package vip).
//
// Three kinds of frames attract traffic: ARP replies, gratuitous ARP and neighbour advertisements. Each is a claim, and each
// passes through link.claim, which asks the target's Gate immediately before it gives the frame to the kernel. So a node
// without the permission is silent, whatever this package still has to do; and so is a process that is frozen or killed.
//
// Frames are read and sent by AF_PACKET sockets, one for each link and EtherType, not by the kernel's own ICMPv6: that way no
// route, neighbour entry or missing link-local address stands between the gate and the wire, and a question sent to our MAC
// alone (neighbour unreachability detection) is seen too.
//
// A Speaker has a goroutine for each link, which sleeps until the next announcement is due, one reader for each socket, and
// one that mends what broke (Run itself). schedule.go and rival.go are pure: time is an argument.
package arp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// A Gate says whether this node may claim now. It is asked immediately before each frame that claims, from several
// goroutines and with a lock held: it must be quick and must not call the Speaker. Gates are compared with ==, so a Gate is
// a pointer or another comparable value. One that has a method Drop is told by it, in the same way, of each claim of another station
// for the address, before it is asked whether that is to be contested.
type Gate interface{ Valid() bool }

// A Target is an address on a link. With a nil Claim it is only listened for: foreign claims are heard, for IPv6 the
// solicited-node group is joined, and nothing that claims is ever sent.
type Target struct {
	Link  string
	Addr  netip.Addr
	Claim Gate
}

// Heard is a claim by another station for the address of a target: an ARP packet with it as sender address, an NA for it, or
// an NS from it. Frames of this node's own links are not foreign.
type Heard struct {
	Addr     netip.Addr
	Link     string
	MAC      string // as net.HardwareAddr prints it
	At       time.Time
	Defended bool // we claim the address, and contest this
}

// Config is what a Speaker needs. The zero value is usable.
type Config struct {
	Log     *slog.Logger
	OnHeard func(Heard)             // called for every foreign claim, for one target in order; must not block
	Peer    func(mac string) string // name of the peer with this MAC, or ""; for logs; must not block
}

// Stat is what was done for one target since it was first wanted.
type Stat struct {
	Link        string
	Addr        netip.Addr
	Claims      bool   // its gate is open
	Answered    uint64 // questions
	Announced   uint64 // announcements; for IPv4 each is two frames
	Heard       uint64 // foreign claims
	Defended    uint64 // bursts against them
	WriteErrors uint64
	LastMAC     string // of the latest foreign claim
	LastHeard   time.Time
}

// A Speaker speaks for addresses on links. Its methods may be called from any goroutine.
type Speaker struct {
	cfg  Config
	host host
	kin  kin
	poke chan struct{} // something broke, or a strange station was heard: Run has work

	turn sync.Mutex // held by whoever says what is wanted: Set, and Run as it ends

	mu     sync.Mutex // guards what follows; held for moments
	links  map[string]*link
	jobs   []func(context.Context) error // to be started by Run
	group  *errgroup.Group               // of Run, with ctx; nil before
	ctx    context.Context
	closed bool // Run has ended
}

// New returns a Speaker that speaks for nothing yet. It starts nothing.
func New(cfg Config) *Speaker {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.OnHeard == nil {
		cfg.OnHeard = func(Heard) {}
	}
	if cfg.Peer == nil {
		cfg.Peer = func(string) string { return "" }
	}
	return &Speaker{cfg: cfg, host: kernel{}, poke: make(chan struct{}, 1), links: make(map[string]*link)}
}

var errClosed = errors.New("speaker has ended")

// Run answers, announces, defends and mends until ctx ends, and then closes all sockets and returns nil. A Speaker runs once.
func (s *Speaker) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	s.mu.Lock()
	s.group, s.ctx = g, ctx
	for _, job := range s.jobs {
		g.Go(func() error { return job(ctx) })
	}
	s.jobs = nil
	s.mu.Unlock()
	s.mendUntil(ctx)
	s.end()
	return g.Wait()
}

// end closes everything, for good.
func (s *Speaker) end() {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.mu.Lock()
	s.closed = true
	links := s.links
	s.links = nil
	s.mu.Unlock()
	for _, l := range links {
		l.close()
	}
}

// spawn runs job in Run, now or once it runs. mu is held.
func (s *Speaker) spawn(job func(context.Context) error) {
	if s.group == nil {
		s.jobs = append(s.jobs, job)
		return
	}
	ctx := s.ctx
	s.group.Go(func() error { return job(ctx) })
}

// Set makes want the whole wanted state. A target whose Claim is new (another interface value than before) begins its
// take-over burst: the first address of each link is announced before Set returns, the others follow 1 ms apart, in the order
// of want. Of a target that is no longer there, or whose Claim has become nil, no claim is sent after Set has returned.
//
// have are the wanted targets that are heard (and, if they claim, answered and announced); for all others err says why not,
// and the Speaker goes on trying: call Set again to learn the outcome. Set waits for no one on the network. The first time for
// a link or an IPv6 address it opens sockets, which may take the kernel's RTNL lock: let a target be known, with a nil Claim,
// before it is needed. What is broken is left to Run, and not waited for.
func (s *Speaker) Set(ctx context.Context, want []Target) (have []Target, err error) {
	s.turn.Lock()
	defer s.turn.Unlock()
	byLink, errs := sortTargets(want)
	links, gone, err := s.take(slices.Sorted(maps.Keys(byLink)))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	for _, l := range links {
		l.apply(byLink[l.name], now)
	}
	for _, l := range gone {
		l.close()
	}
	for _, l := range links {
		if ctx.Err() != nil {
			break
		}
		if err := s.mendNew(l); err != nil {
			errs = append(errs, err)
		}
	}
	wrong := make(map[Target]error)
	for _, l := range links {
		l.outcome(byLink[l.name], wrong)
	}
	for _, t := range want {
		switch err, known := wrong[t]; {
		case err != nil:
			errs = append(errs, fmt.Errorf("announce %s on %s: %w", t.Addr, t.Link, err))
		case known:
			have = append(have, t)
		}
		delete(wrong, t)
	}
	return have, errors.Join(append(errs, ctx.Err())...)
}

// Refresh says that link came up, got its carrier back or changed its active slave, or that it may be another one of the
// same name: its sockets are looked after, and its claimed addresses announced again as after a take-over.
func (s *Speaker) Refresh(link string) {
	s.mu.Lock()
	l := s.links[link]
	s.mu.Unlock()
	if l == nil {
		return
	}
	l.turn.Lock()
	defer l.turn.Unlock()
	if reopened, _ := s.mend(l); !reopened { // an error is logged, and mended later
		l.restart(time.Now(), etherARP, etherIPv6)
	}
}

// Stats returns one Stat for each target, in no particular order. It does not wait for a running Set.
func (s *Speaker) Stats() []Stat {
	s.mu.Lock()
	links := slices.Collect(maps.Values(s.links))
	s.mu.Unlock()
	var all []Stat
	for _, l := range links {
		all = append(all, l.stats()...)
	}
	return all
}

// take makes the links of these names, and no others, the ones there are; those that are gone have to be closed. turn is held.
func (s *Speaker) take(names []string) (links, gone []*link, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, errClosed
	}
	for name, l := range s.links {
		if !slices.Contains(names, name) {
			gone = append(gone, l)
			delete(s.links, name)
		}
	}
	for _, name := range names {
		if s.links[name] == nil {
			s.links[name] = newLink(s, name)
			s.spawn(s.links[name].run)
		}
		links = append(links, s.links[name])
	}
	return links, gone, nil
}

// sortTargets groups the targets that can be by their links.
func sortTargets(want []Target) (byLink map[string][]Target, errs []error) {
	byLink = make(map[string][]Target)
	type key struct {
		link string
		addr netip.Addr
	}
	seen := make(map[key]bool)
	for _, t := range want {
		k := key{t.Link, t.Addr}
		switch {
		case !speakable(t.Addr):
			errs = append(errs, fmt.Errorf("announce %s on %s: not a unicast address without zone", t.Addr, t.Link))
		case seen[k]:
			errs = append(errs, fmt.Errorf("announce %s on %s: wanted twice", t.Addr, t.Link))
		default:
			byLink[t.Link] = append(byLink[t.Link], t)
		}
		seen[k] = true
	}
	return byLink, errs
}

func speakable(a netip.Addr) bool {
	return a.IsValid() && !a.Is4In6() && a.Zone() == "" && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
