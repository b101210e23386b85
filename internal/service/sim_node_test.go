package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"golang.org/x/sync/errgroup"

	"github.com/pintle-lb/pintle/arp"
	"github.com/pintle-lb/pintle/bgp"
	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
	"github.com/pintle-lb/pintle/leader"
	"github.com/pintle-lb/pintle/vip"
)

// A host is a machine. It outlives the processes that run on it.
type host struct {
	w    *simWorld
	name string
	rate float64 // of its clock

	// Guarded by the world's mu. The channels are nil when all is well, and closed when that is so again.
	cut    chan struct{} // it reaches no API server
	frozen chan struct{} // its process stands still
	bad    int           // how often calls fail, in percent
	slow   time.Duration // how long they take at most
	lag    time.Duration // how late watches are at most,
	lags   string        // those of one kind, or, if it is empty, all
	hasty  bool          // its elector takes a new epoch at once when the node was fenced, as it may
	relist int           // counts what makes watches begin anew
	unfit  string
	proc   *process // nil: none runs
}

func (h *host) now() leader.Instant {
	d := time.Since(h.w.since)
	return leader.Instant(time.Hour) + leader.Instant(d) + leader.Instant(float64(d)*h.rate)
}

// A process is Pintle on one host: the Controller is the real one.
type process struct {
	w    *simWorld
	host *host
	name string // of this process
	ctx  context.Context
	end  context.CancelFunc
	over sync.WaitGroup
	ctl  *Controller

	elector elector
	roll    roll
	targets *setter[arp.Target]
	guards  *setter[vip.Guarded]
	bound   *setter[netip.Prefix]
	hushed  *setter[netip.Addr]
	routes  *setter[bgp.Route]

	// Guarded by the world's mu.
	dice  *rand.Rand
	dead  bool
	turns int // of the Controller's loop
}

// start starts Pintle on a host. The caller does not hold mu.
func (h *host) start() {
	w := h.w
	w.starts++
	p := &process{w: w, host: h, name: fmt.Sprintf("%s#%d", h.name, w.starts), dice: rand.New(rand.NewPCG(w.seed, uint64(w.starts)))}
	p.ctx, p.end = context.WithCancel(context.Background())
	p.elector = elector{p: p, sent: map[int]leader.Instant{}, wake: make(chan struct{}, 1)}
	p.roll = roll{p: p, wards: map[string]*simWard{}, wake: make(chan struct{}, 1)}
	p.targets, p.guards, p.bound = newSetter[arp.Target](p, "targets"), newSetter[vip.Guarded](p, "guards"), newSetter[netip.Prefix](p, "bound")
	p.hushed, p.routes = newSetter[netip.Addr](p, "hushed"), newSetter[bgp.Route](p, "routes")
	conf := Config{Node: h.name, Namespace: simNamespace, Rules: simRules,
		Targets: p.targets, Bound: p.bound, Guards: p.guards, Hushed: p.hushed, Routes: p.routes, Flush: p.forget,
		Note: p.elector.setNote, Stand: p.elector.stand, Above: p.elector.raise, Need: p.roll.setNeed, Lag: p.roll.setLag,
		DrainWait: time.Second, Version: "sim", Clock: p.turn, Log: slog.New(&simLog{p: p})}
	p.ctl = newController(conf, hostileAPI{p})
	p.ctl.watch = p.follow
	w.lock(func() {
		w.note("%s starts", p.name)
		h.proc = p
		p.ctl.Unfit(h.unfit)
	})
	p.ctl.Links(simLinks)
	p.over.Go(func() { p.run() })
}

func (p *process) run() {
	g, ctx := errgroup.WithContext(p.ctx)
	for _, f := range []func(context.Context){p.elector.run, p.roll.run, p.followLeases} {
		g.Go(func() error { f(ctx); return nil })
	}
	g.Go(func() error { return p.ctl.Run(ctx) })
	if err := g.Wait(); err != nil {
		p.w.fail("%s: Run: %v", p.name, err)
	}
}

// kill ends a process at once. The caller holds mu.
func (p *process) kill() {
	p.w.note("%s is killed", p.name)
	p.dead = true
	p.host.proc = nil
	p.end()
	p.w.ended = append(p.w.ended, p)
}

// leave has a process hand over, and then ends it; not gently if that takes too long.
func (p *process) leave() {
	p.w.lock(func() { p.w.note("%s leaves", p.name) })
	p.ctl.Leave()
	select {
	case <-p.ctl.Left():
		p.w.lock(func() { p.w.note("%s has left", p.name) })
	case <-time.After(30 * time.Second):
	case <-p.ctx.Done():
		return
	}
	p.elector.resign(p.ctx)
	p.w.lock(func() {
		if !p.dead {
			p.kill()
		}
	})
}

// awake waits while the process is frozen. It fails when the process was killed.
func (p *process) awake() error {
	for {
		var frozen chan struct{}
		p.w.lock(func() { frozen = p.host.frozen })
		if p.ctx.Err() != nil || frozen == nil {
			return p.ctx.Err()
		}
		select {
		case <-frozen:
		case <-p.ctx.Done():
		}
	}
}

// clock is the host's, for what stands still with the process.
func (p *process) clock() leader.Instant {
	_ = p.awake()
	return p.host.now()
}

// turn is the clock that the loop of the Controller reads once each time it turns.
func (p *process) turn() leader.Instant {
	at := p.clock()
	p.w.lock(func() { p.turns++ })
	return at
}

// reach waits until the process runs and reaches the API. It fails when ctx ends.
func (p *process) reach(ctx context.Context) error {
	for {
		if err := p.awake(); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		var cut chan struct{}
		p.w.lock(func() { cut = p.host.cut })
		if cut == nil {
			return nil
		}
		select {
		case <-cut:
		case <-ctx.Done():
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	pause(ctx, d)
	return ctx.Err()
}

// A fate is what becomes of a call.
type fate struct {
	before, after time.Duration // how long the request and the answer take
	lost          bool          // the request is, and that is noticed
	mute          bool          // the answer is
	linger        time.Duration // how much later the request arrives when its caller has given up; 0: never
}

// lateness is how late a watch may be.
func (h *host) lateness(kind string) time.Duration {
	const least = 4 * time.Millisecond
	if h.lags != "" && h.lags != kind {
		return least
	}
	return max(h.lag, least)
}

// upTo is a time that is mostly short. The caller holds mu.
func (p *process) upTo(most time.Duration) time.Duration {
	if most <= 0 || p.w.prompt {
		return 0
	}
	most = most >> p.dice.IntN(6)
	return time.Duration(p.dice.Int64N(int64(most) + 1))
}

func (p *process) fate() (f fate) {
	p.w.lock(func() {
		slow := max(p.host.slow, 4*time.Millisecond)
		f.before, f.after = p.upTo(slow), p.upTo(slow)
		if p.dice.IntN(6) == 0 {
			f.after += p.upTo(60 * time.Millisecond)
		}
		if p.dice.IntN(100) >= p.host.bad {
			return
		}
		switch p.dice.IntN(3) {
		case 0:
			f.lost = true
		case 1:
			f.mute = true
		case 2:
			f.lost, f.linger = true, p.upTo(20*time.Second)
		}
	})
	return f
}

var errLost = errors.New("connection reset by peer")

// ask makes a call to the API. do runs with mu held, once or never, perhaps after ask returned.
func ask[T any](ctx context.Context, p *process, do func() (T, error)) (out T, err error) {
	var zero T
	f := p.fate()
	arrive := func() (out T, err error) {
		p.w.lock(func() { out, err = do() })
		return out, err
	}
	if err := p.reach(ctx); err != nil {
		return zero, err
	}
	if f.linger > 0 {
		p.w.later(f.linger, func() { _, _ = arrive() })
	}
	if err := sleep(ctx, f.before); err != nil {
		if !f.lost && p.chance(2) {
			p.w.later(f.before+f.after, func() { _, _ = arrive() })
		}
		return zero, err
	}
	if f.lost {
		return zero, errLost
	}
	if p.isCut() && p.chance(2) {
		return zero, p.hang(ctx)
	}
	if out, err = arrive(); p.isCut() {
		return zero, p.hang(ctx)
	}
	if err := sleep(ctx, f.after); err != nil {
		return zero, err
	}
	if err := p.reach(ctx); err != nil {
		return zero, err
	}
	if f.mute {
		return zero, errLost
	}
	return out, err
}

// hang is what becomes of a call whose answer never comes.
func (p *process) hang(ctx context.Context) error {
	<-ctx.Done()
	_ = p.awake()
	return ctx.Err()
}

func (p *process) chance(n int) (so bool) {
	p.w.lock(func() { so = p.dice.IntN(n) == 0 })
	return so
}

func (p *process) isCut() (so bool) {
	p.w.lock(func() { so = p.host.cut != nil })
	return so
}

// A hostileAPI is the store as a Controller meets it.
type hostileAPI struct{ p *process }

func (a hostileAPI) create(ctx context.Context, o *pintlev1.Address) (*pintlev1.Address, error) {
	o = o.DeepCopy()
	return ask(ctx, a.p, func() (*pintlev1.Address, error) { a.by(); return a.p.w.create(ctx, o) })
}

func (a hostileAPI) update(ctx context.Context, o *pintlev1.Address) (*pintlev1.Address, error) {
	o = o.DeepCopy()
	return ask(ctx, a.p, func() (*pintlev1.Address, error) { a.by(); return a.p.w.update(ctx, o) })
}

func (a hostileAPI) get(ctx context.Context, name string) (*pintlev1.Address, error) {
	return ask(ctx, a.p, func() (*pintlev1.Address, error) { return a.p.w.get(ctx, name) })
}

func (a hostileAPI) addresses(ctx context.Context, see func(*pintlev1.Address)) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	all, err := ask(ctx, a.p, func() (all []*pintlev1.Address, err error) {
		err = a.p.w.addresses(ctx, func(o *pintlev1.Address) { all = append(all, o) })
		return all, err
	})
	for _, o := range all {
		see(o)
	}
	return err
}

func (a hostileAPI) remove(ctx context.Context, o *pintlev1.Address) error {
	o = o.DeepCopy()
	_, err := ask(ctx, a.p, func() (any, error) { a.by(); return nil, a.p.w.remove(ctx, o) })
	return err
}

func (a hostileAPI) service(ctx context.Context, k ipam.Key) (string, error) {
	return ask(ctx, a.p, func() (string, error) { return a.p.w.service(ctx, k) })
}

func (a hostileAPI) status(ctx context.Context, s *Service, addrs []netip.Addr, cond *metav1.Condition) (*corev1.Service, error) {
	s, addrs, cond = &Service{Key: s.Key, UID: s.UID}, slices.Clone(addrs), cond.DeepCopy()
	brief := false
	a.p.w.lock(func() { brief = a.p.w.brief[types.UID(s.UID)] })
	out, err := ask(ctx, a.p, func() (*corev1.Service, error) { a.by(); return a.p.w.status(ctx, s, addrs, cond) })
	if brief {
		_ = sleep(ctx, 20*time.Millisecond) // the answer comes when the watch may have told of the end
	}
	return out, err
}

func (a hostileAPI) poolStatus(ctx context.Context, name string, st pintlev1.AddressPoolStatus) error {
	_, err := ask(ctx, a.p, func() (any, error) { a.by(); return nil, a.p.w.poolStatus(ctx, name, st) })
	return err
}

func (a hostileAPI) event(ctx context.Context, e *corev1.Event) error {
	_, err := ask(ctx, a.p, func() (any, error) { a.by(); return nil, a.p.w.event(ctx, e) })
	return err
}

func (a hostileAPI) seat(ctx context.Context, namespace string) (*coordinationv1.Lease, error) {
	return ask(ctx, a.p, func() (*coordinationv1.Lease, error) { return a.p.w.seat(ctx, namespace) })
}

func (a hostileAPI) putSeat(ctx context.Context, o *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	o = o.DeepCopy()
	return ask(ctx, a.p, func() (*coordinationv1.Lease, error) { a.by(); return a.p.w.putSeat(ctx, o) })
}

func (a hostileAPI) written() uint64 { return 0 }

// by notes whose write comes next.
func (a hostileAPI) by() { a.p.w.writer = a.p.name }

// follow is a watch of each kind.
func (p *process) follow(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for f := range p.ctl.feeds(&client{}) {
		g.Go(func() error { p.watch(ctx, f.name, f); return nil })
	}
	return g.Wait()
}

// A sink takes what a watch brings, as a cache.ReflectorStore does.
type sink interface {
	Add(any) error
	Update(any) error
	Delete(any) error
	Replace([]any, string) error
}

// watch brings one kind of objects, in order and late. Now and then it begins anew, with a list that may be behind too, but
// not behind what it brought before.
func (p *process) watch(ctx context.Context, kind string, to sink) {
	w := p.w
	at, lists := 0, -1
	var due time.Time
	for {
		var bring func()
		var more chan struct{}
		w.lock(func() {
			more = w.more[kind]
			log, late := w.log[kind], p.upTo(p.host.lateness(kind))
			switch {
			case lists != p.host.relist:
				lists = p.host.relist
				for at < len(log) && time.Since(log[at].at) > late { // it may be so old
					at++
				}
				at += p.dice.IntN(len(log) - at + 1)
				list, version := w.list(kind, at)
				due = time.Now().Add(late)
				bring = func() { _ = to.Replace(list, version) }
			case at < len(log):
				e := log[at]
				at++
				if on := e.at.Add(late); on.After(due) {
					due = on
				}
				bring = func() {
					if o := copied(e.object); e.gone {
						_ = to.Delete(o)
					} else {
						_ = to.Update(o)
					}
				}
			}
		})
		if bring == nil {
			select {
			case <-more:
			case <-ctx.Done():
				return
			}
			continue
		}
		if sleep(ctx, time.Until(due)) != nil || p.reach(ctx) != nil {
			return
		}
		bring()
	}
}

// A setter brings the host to a wanted state, and takes its time.
type setter[T any] struct {
	p    *process
	name string

	// Guarded by the world's mu.
	have, doing []T
}

func newSetter[T any](p *process, name string) *setter[T] { return &setter[T]{p: p, name: name} }

// Set implements agent.Setter.
func (s *setter[T]) Set(ctx context.Context, want []T) (have []T, err error) {
	w, p := s.p.w, s.p
	if p.awake() != nil {
		return nil, p.ctx.Err()
	}
	var takes time.Duration
	fails := false
	w.lock(func() {
		takes = p.upTo(20 * time.Millisecond)
		fails = !w.calm && p.dice.IntN(30) == 0
		s.doing = want
		w.checkClaims(p)
	})
	_ = sleep(ctx, takes)
	if p.awake() != nil {
		return nil, p.ctx.Err()
	}
	w.lock(func() {
		if fails {
			err = errors.New("injected")
			w.note("%s: %s cannot be set", p.name, s.name)
		} else {
			s.have = want
		}
		s.doing, have = nil, s.have
		w.checkClaims(p)
	})
	return have, err
}

// maybe are what the host may have now. The caller holds mu.
func (s *setter[T]) maybe() []T { return slices.Concat(s.have, s.doing) }

// claimed are the addresses that a process claims. The caller holds mu.
func (p *process) claimed() map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	if p == nil || p.dead {
		return out
	}
	for _, t := range p.targets.maybe() {
		if t.Claim != nil && t.Claim.Valid() {
			out[t.Addr] = true
		}
	}
	return out
}

// forget is what the kernel does with connections. Answers of those to an address that is claimed, or that routers send here, may be
// under way.
func (p *process) forget(addrs []netip.Addr) {
	var takes time.Duration
	check := func() {
		takes = p.upTo(3 * flushLimit)
		claimed := p.claimed()
		for _, r := range p.routes.maybe() {
			claimed[r.Prefix.Addr()] = true
		}
		for _, a := range addrs {
			if claimed[a] {
				p.w.wrongf("%s has connections to %s forgotten, which packets come for", p.name, a)
			}
		}
	}
	for range 2 {
		if p.awake() != nil {
			return
		}
		p.w.lock(check)
		_ = sleep(p.ctx, takes)
	}
	if p.awake() == nil {
		p.w.lock(check)
	}
}

// A simLog puts what a Controller says into the trace.
type simLog struct {
	slog.Handler
	p *process
}

func (l *simLog) Enabled(context.Context, slog.Level) bool { return true }
func (l *simLog) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *simLog) WithGroup(string) slog.Handler            { return l }
func (l *simLog) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	r.Attrs(func(a slog.Attr) bool { fmt.Fprintf(&b, " %s=%v", a.Key, a.Value); return true })
	l.p.w.lock(func() { l.p.w.note("%s: %s%s", l.p.name, r.Message, b.String()) })
	return nil
}
