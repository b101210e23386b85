package leader

import (
	"context"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	"golang.org/x/sync/errgroup"
)

// Times of the loop.
const (
	discoverTime = 10 * time.Minute // how often the list of API servers is read
	probeTime    = 10 * time.Second // between two probes of an address that someone has
	retryTime    = 3 * time.Second  // between two questions whether a write is allowed again
)

// Run implements [Elector].
func (k *Kube) Run(ctx context.Context, report func(seat string, t Term)) error {
	k.mu.Lock()
	k.report = report
	k.mu.Unlock()
	defer k.moves.Wait()
	defer k.stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return k.campaign(ctx) })
	g.Go(func() error { return k.watch(ctx) })
	g.Go(func() error { return k.retry(ctx) })
	if k.cfg.Discover {
		g.Go(func() error { k.servers.discover(ctx, k.log); return nil })
	}
	return g.Wait()
}

// stop ends the lease for good.
func (k *Kube) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.bid.want(false)
	k.report = nil
}

// patience is how long a silent API server is waited for before another one is
// asked too.
func patience(t time.Duration) time.Duration {
	return min(max(t/20, 100*time.Millisecond), 250*time.Millisecond)
}

// A lane carries one call at a time.
type lane struct {
	busy  bool
	again Instant // not before this, after an error
	fails int
}

// ended notes the end of a call.
func (l *lane) ended(now Instant, failed bool, t time.Duration) {
	l.busy = false
	if !failed {
		l.fails, l.again = 0, 0
		return
	}
	l.again = now.Add(min(5*time.Millisecond<<min(l.fails, 9), t/6))
	l.fails++
}

// campaign does what the bid says, until ctx ends.
func (k *Kube) campaign(ctx context.Context) error {
	var reads, writes lane
	ended := make(chan func(Instant), 2)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := k.cfg.Clock()
		k.mu.Lock()
		a, wake := k.bid.next(now)
		l := &reads
		if a.writes() {
			l = &writes
		}
		start := a != doNothing && !l.busy && now >= l.again
		if a != doNothing && !l.busy && !start {
			wake = l.again
		} else if a != doNothing && a != doProbe {
			wake = 0 // the end of the call wakes
		}
		k.near = a == doTake || a == doLook && k.bid.standing(now)
		var do func() func(Instant)
		if start {
			l.busy = true
			do = k.prepare(ctx, a, now, l)
		}
		if k.bid.lease != nil && wake != 0 {
			wake = min(wake, k.bid.lease.Until())
		}
		k.mu.Unlock()
		k.publish()
		if do != nil {
			go func() { ended <- do() }()
			continue
		}
		if wake != 0 {
			timer.Reset(max(wake.Sub(now), 0) + time.Millisecond)
		} else {
			timer.Reset(k.cfg.Duration / 10)
		}
		select {
		case <-ctx.Done():
			for reads.busy || writes.busy {
				(<-ended)(k.cfg.Clock())
			}
			return nil
		case f := <-ended:
			f(k.cfg.Clock())
		case <-k.kick:
		case <-timer.C:
		}
	}
}

// prepare makes the call that an act needs. The caller holds mu; the call is to
// be made without it, at once, and what it returns by the loop.
func (k *Kube) prepare(ctx context.Context, a act, now Instant, l *lane) func() func(Instant) {
	switch a {
	case doLook:
		k.counts.reads++
		return func() func(Instant) { return k.look(ctx, now, l) }
	case doProbe:
		return func() func(Instant) { return k.probe(ctx, l) }
	}
	var macs []string
	if k.cfg.MACs != nil {
		macs = k.cfg.MACs()
	}
	base := *k.bid.cur
	if k.cfg.Prefix != "" {
		k.bid.floor = epochFloor(time.Now())
	}
	r := k.bid.draft(a, now, macs, k.cfg.Version)
	k.counts.writes++
	o := base.write(leaseKey{k.cfg.Namespace, k.cfg.Name, group(k.cfg.Prefix)}, r, a != doAnswer && a != doAsk, time.Now())
	return func() func(Instant) { return k.put(ctx, base.print, o, l) }
}

func (k *Kube) look(ctx context.Context, sent Instant, l *lane) func(Instant) {
	ctx, cancel := context.WithTimeout(ctx, k.cfg.Duration)
	defer cancel()
	said, err := call(ctx, k.servers, patience(k.cfg.Duration), func(ctx context.Context, api leaseAPI) (*coordinationv1.Lease, error) {
		return api.Get(ctx, k.cfg.Name)
	})
	if err == nil {
		k.mu.Lock()
		s, c := sight(said.answer), k.bid.cur
		late := c != nil && c.print != s.print && sent.Sub(c.at) > time.Second
		k.mu.Unlock()
		k.saw(s, sent)
		k.suspect(late)
	}
	return func(now Instant) {
		l.ended(now, err != nil, k.cfg.Duration)
		k.failed(&k.readFault, "get", err)
	}
}

func (k *Kube) put(ctx context.Context, base string, o *coordinationv1.Lease, l *lane) func(Instant) {
	ctx, cancel := context.WithTimeout(ctx, k.cfg.Duration)
	defer cancel()
	said, err := call(ctx, k.servers, patience(k.cfg.Duration), func(ctx context.Context, api leaseAPI) (*coordinationv1.Lease, error) { return api.Put(ctx, o) })
	if err == nil {
		k.saw(sight(said.answer), 0)
	}
	return func(now Instant) {
		l.ended(now, err != nil, k.cfg.Duration)
		if met(o, err) {
			k.mu.Lock()
			k.bid.missed(base)
			k.mu.Unlock()
		} else {
			k.failed(&k.writeFault, "update", err)
		}
		k.suspect(false)
	}
}

// met reports whether a write met another state of the object than it was made
// for. Without a resourceVersion the object was to be made, and there is one
// (LeaseStrategy: no unconditional update).
func met(o *coordinationv1.Lease, err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsInvalid(err) && o.ResourceVersion == ""
}

func (k *Kube) probe(ctx context.Context, l *lane) func(Instant) {
	err := k.cfg.Free(ctx)
	return func(now Instant) {
		l.busy, l.again = false, now
		k.mu.Lock()
		k.bid.clear = err == nil
		k.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			l.again = now.Add(probeTime)
			k.log.Error("does not make the lease: someone else has the address", "seat", k.cfg.Seat, "err", err)
		}
	}
}

// suspect starts the watch anew if it is surely dead, or if its server is not
// the one to ask any more.
func (k *Kube) suspect(surely bool) {
	select {
	case k.rewatch <- surely:
	default:
	}
}

// retry asks now and then, after a write failed, whether one would succeed now: a node that does not hold has nothing to write.
func (k *Kube) retry(ctx context.Context) error {
	for ; ctx.Err() == nil; sleep(ctx, retryTime) {
		k.mu.Lock()
		ask := k.writeFault != "" && k.bid.lease == nil && k.bid.cur != nil && k.bid.cur.object != nil
		var o *coordinationv1.Lease
		if ask {
			o = k.bid.cur.object.DeepCopy()
		}
		k.mu.Unlock()
		if !ask {
			continue
		}
		limit, cancel := context.WithTimeout(ctx, k.cfg.Duration)
		_, err := call(limit, k.servers, patience(k.cfg.Duration), func(ctx context.Context, api leaseAPI) (struct{}, error) { return struct{}{}, api.DryPut(ctx, o) })
		cancel()
		if err == nil || apierrors.IsConflict(err) {
			k.failed(&k.writeFault, "update", nil)
		}
	}
	return nil
}

// watch follows the object until ctx ends.
func (k *Kube) watch(ctx context.Context) error {
	for fails := 0; ctx.Err() == nil; {
		began := time.Now()
		x := k.servers.next(nil)
		err := k.follow(ctx, x)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			k.servers.note(x, err, false)
			if refused(err) {
				k.failed(&k.watchFault, "watch", err)
			}
			k.log.Debug("the watch ended", "server", x.url, "err", err)
		}
		if time.Since(began) > time.Second {
			fails = 0
		}
		sleep(ctx, min(20*time.Millisecond<<min(fails, 6), time.Second))
		fails++
	}
	return nil
}

// follow watches through one server until the watch ends or is suspect.
func (k *Kube) follow(ctx context.Context, x *apiServer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opened := make(chan struct{})
	limit := time.AfterFunc(k.cfg.Duration/2, func() {
		select {
		case <-opened:
		default:
			cancel()
		}
	})
	defer limit.Stop()
	w, err := x.api.Watch(ctx, k.cfg.Name)
	close(opened)
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	defer w.Stop()
	k.mu.Lock()
	k.counts.watches++
	k.watchFault = ""
	k.bid.doubt = k.bid.doubt || k.bid.lease == nil // that it is gone is not told; a holder's next write shows it
	k.mu.Unlock()
	k.wake()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case surely := <-k.rewatch:
			if surely || k.servers.next(nil) != x {
				return nil
			}
		case e, ok := <-w.ResultChan():
			if !ok {
				return nil
			}
			if err := k.event(e); err != nil {
				return err
			}
		}
	}
}

func (k *Kube) event(e watch.Event) error {
	o, _ := e.Object.(*coordinationv1.Lease)
	switch {
	case e.Type == watch.Error:
		return apierrors.FromObject(e.Object)
	case o == nil || o.Name != k.cfg.Name:
	case e.Type == watch.Deleted:
		k.saw(sight(nil), 0)
	case e.Type == watch.Added, e.Type == watch.Modified:
		k.saw(sight(o), 0)
	}
	return nil
}
