package leader

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	"golang.org/x/sync/errgroup"
)

// rollCalls is how many calls for single Leases a Roll makes at a time.
const rollCalls = 8

// Run follows the Leases until ctx ends, and reports every change of a RollMember, all
// of them at first; not renewals. report must not block, and calls nothing of the
// Roll. A RollMember without an epoch has no Lease any more.
func (r *Roll) Run(ctx context.Context, report func(RollMember)) error {
	r.mu.Lock()
	r.report = report
	for node, w := range r.wards {
		w.told = RollMember{Node: node}
	}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.report = nil
	}()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.tend(ctx) })
	g.Go(func() error { return r.watch(ctx) })
	if r.cfg.Discover {
		g.Go(func() error { r.servers.discover(ctx, r.log); return nil })
	}
	return g.Wait()
}

// tend does what the wards say, until ctx ends.
func (r *Roll) tend(ctx context.Context) error {
	ended := make(chan func(Instant), rollCalls)
	calls := 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := r.cfg.Clock()
		todo, wake := r.next(ctx, now, rollCalls-calls)
		r.publish()
		for _, do := range todo {
			calls++
			go func() { ended <- do() }()
		}
		wait := r.cfg.Duration
		if wake != 0 {
			wait = min(wait, max(wake.Sub(now), 0)+time.Millisecond)
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			for ; calls > 0; calls-- {
				(<-ended)(r.cfg.Clock())
			}
			return nil
		case f := <-ended:
			calls--
			f(r.cfg.Clock())
		case <-r.kick:
		case <-timer.C:
		}
	}
}

// next makes the calls that are to be made now, some at most, and says when to
// ask again; 0 when nothing is to be waited for.
func (r *Roll) next(ctx context.Context, now Instant, room int) (todo []func() func(Instant), wake Instant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.listed {
		return nil, 0
	}
	wanted := false
	for _, node := range slices.Sorted(maps.Keys(r.wards)) {
		w := r.wards[node]
		wanted = wanted || w.wanted()
		a, at := w.next(now, r.back, r.lag)
		switch {
		case a == doNothing:
		case w.lane.busy || len(todo) == room:
			continue // the end of a call wakes
		case now < w.lane.again:
			at = w.lane.again
		default:
			w.lane.busy = true
			todo = append(todo, r.prepare(ctx, w, a, now))
			continue
		}
		if at != 0 && (wake == 0 || at < wake) {
			wake = at
		}
	}
	if !wanted {
		r.writeFault = "" // nothing is to be written
	}
	return todo, wake
}

// prepare makes the call that an act needs. The caller holds mu; the call is to
// be made without it, at once, and what it returns by the loop.
func (r *Roll) prepare(ctx context.Context, w *ward, a act, now Instant) func() func(Instant) {
	if a == doLook {
		r.counts.reads++
		return func() func(Instant) { return r.look(ctx, w, now) }
	}
	r.seq++
	r.counts.writes++
	rec := w.draft(a, record{Process: r.process, Seq: r.seq, Millis: r.cfg.Duration.Milliseconds(), Version: r.cfg.Version, Fenced: r.cfg.Node}, epochFloor(time.Now()))
	base := *w.cur
	o := base.write(leaseKey{r.cfg.Namespace, r.cfg.Prefix + w.node, r.group}, rec, true, time.Now())
	return func() func(Instant) { return r.put(ctx, w, a, base, rec.Epoch, o) }
}

func (r *Roll) look(ctx context.Context, w *ward, sent Instant) func(Instant) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Duration/2)
	defer cancel()
	said, err := call(ctx, r.servers, patience(r.cfg.Duration), func(ctx context.Context, api leaseAPI) (*coordinationv1.Lease, error) {
		return api.Get(ctx, r.cfg.Prefix+w.node)
	})
	if err == nil {
		s := sight(said.answer)
		r.mu.Lock()
		late := w.cur != nil && w.cur.print != s.print && sent.Sub(w.since) > time.Second
		r.mu.Unlock()
		r.saw(w.node, s, sent)
		r.suspect(late)
	}
	return func(now Instant) {
		r.ended(w, now, err)
		r.failed(&r.readFault, "get", err)
	}
}

func (r *Roll) put(ctx context.Context, w *ward, a act, base sighting, epoch uint64, o *coordinationv1.Lease) func(Instant) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Duration/2)
	defer cancel()
	said, err := call(ctx, r.servers, patience(r.cfg.Duration), func(ctx context.Context, api leaseAPI) (*coordinationv1.Lease, error) { return api.Put(ctx, o) })
	if err == nil {
		if a == doFence {
			r.mu.Lock()
			r.counts.fences++
			r.mu.Unlock()
			r.log.Info("fenced: its Lease was not renewed", "peer", w.node, "epoch", epoch, "was", base.record.Epoch)
		}
		r.saw(w.node, sight(said.answer), 0)
	}
	return func(now Instant) {
		r.ended(w, now, err)
		if met(o, err) {
			r.mu.Lock()
			w.missed(base.print)
			r.mu.Unlock()
			err = nil // another was faster
		}
		r.failed(&r.writeFault, "update", err)
		r.suspect(false)
	}
}

func (r *Roll) ended(w *ward, now Instant, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w.lane.ended(now, err != nil, r.cfg.Duration)
}

// suspect starts the watch anew if it is surely dead, or if its server is not
// the one to ask any more.
func (r *Roll) suspect(surely bool) {
	select {
	case r.rewatch <- surely:
	default:
	}
}

// watch follows all Leases until ctx ends.
func (r *Roll) watch(ctx context.Context) error {
	for fails := 0; ctx.Err() == nil; {
		began := time.Now()
		x, err := r.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && x != nil {
			r.servers.note(x, err, false)
			if refused(err) {
				r.failed(&r.watchFault, "watch", err)
			}
			r.log.Debug("the watch ended", "server", x.url, "err", err)
		}
		if time.Since(began) > time.Second {
			fails = 0
		}
		sleep(ctx, min(20*time.Millisecond<<min(fails, 6), time.Second))
		fails++
	}
	return nil
}

// list reads all Leases as the quorum has them, and names the server that
// answered.
func (r *Roll) list(ctx context.Context) (*apiServer, string, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Duration)
	defer cancel()
	r.mu.Lock()
	r.counts.reads++
	sent := r.cfg.Clock()
	r.mu.Unlock()
	said, err := call(ctx, r.servers, patience(r.cfg.Duration), func(ctx context.Context, api leaseAPI) (*coordinationv1.LeaseList, error) {
		return api.List(ctx, r.group)
	})
	r.failed(&r.readFault, "list", err)
	if err != nil {
		return nil, "", err
	}
	there := map[string]bool{}
	for i := range said.answer.Items {
		o := &said.answer.Items[i]
		if node, ok := strings.CutPrefix(o.Name, r.cfg.Prefix); ok {
			there[node] = true
			r.saw(node, sight(o), sent)
		}
	}
	r.mu.Lock()
	r.contact(r.cfg.Clock())
	r.listed = true
	var lost []string
	for node, w := range r.wards {
		if !there[node] && w.cur != nil && w.cur.object != nil {
			lost = append(lost, node)
		}
	}
	r.mu.Unlock()
	for _, node := range lost {
		r.lost(node)
	}
	r.wake()
	return said.server, said.answer.ResourceVersion, nil
}

// follow lists and watches all Leases through one server until the watch ends or
// is suspect.
func (r *Roll) follow(ctx context.Context) (*apiServer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	x, version, err := r.list(ctx)
	if err != nil {
		return nil, err
	}
	opened := make(chan struct{})
	limit := time.AfterFunc(r.cfg.Duration/2, func() {
		select {
		case <-opened:
		default:
			cancel()
		}
	})
	defer limit.Stop()
	w, err := x.api.WatchGroup(ctx, r.group, version)
	close(opened)
	if err != nil {
		return x, fmt.Errorf("watch: %w", err)
	}
	defer w.Stop()
	r.mu.Lock()
	r.counts.watches++
	r.watchFault = ""
	r.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return x, ctx.Err()
		case surely := <-r.rewatch:
			if surely || r.servers.next(nil) != x {
				return x, nil
			}
		case e, ok := <-w.ResultChan():
			if !ok {
				return x, nil
			}
			if err := r.event(e); err != nil {
				return x, err
			}
		}
	}
}

func (r *Roll) event(e watch.Event) error {
	if e.Type == watch.Error {
		return apierrors.FromObject(e.Object)
	}
	o, _ := e.Object.(*coordinationv1.Lease)
	if o == nil {
		return nil
	}
	node, ok := strings.CutPrefix(o.Name, r.cfg.Prefix)
	switch {
	case !ok:
	case e.Type == watch.Deleted:
		r.lost(node)
	case e.Type == watch.Added, e.Type == watch.Modified:
		r.saw(node, sight(o), 0)
	}
	return nil
}
