package service

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/pintle-lb/pintle/leader"
)

// A nodeLease is the Lease of a node: what matters of it.
type nodeLease struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	Epoch   uint64
	Process string // that holds it; "" for none
	Fenced  bool
	Seq     int
	Note    string
}

func (l *nodeLease) DeepCopyObject() runtime.Object { c := *l; return &c }

func (p *process) lookLease(ctx context.Context, node string) (*nodeLease, error) {
	return ask(ctx, p, func() (*nodeLease, error) {
		if l, ok := p.w.find("leases", node).(*nodeLease); ok {
			return copied(l), nil
		}
		return nil, nil
	})
}

func (p *process) putLease(ctx context.Context, l *nodeLease) (*nodeLease, error) {
	return ask(ctx, p, func() (*nodeLease, error) {
		p.w.writer = p.name
		if l.ResourceVersion == "" {
			return create(p.w.store, "leases", l)
		}
		return update(p.w.store, "leases", l)
	})
}

// leaseSink brings Leases to the elector and the roll.
type leaseSink struct{ p *process }

func (s leaseSink) Add(o any) error    { return s.Update(o) }
func (s leaseSink) Delete(any) error   { return nil } // nobody deletes one here
func (s leaseSink) Update(o any) error { s.p.saw(o.(*nodeLease)); return nil }
func (s leaseSink) Replace(all []any, _ string) error {
	for _, o := range all {
		_ = s.Update(o)
	}
	return nil
}

func (p *process) followLeases(ctx context.Context) { p.watch(ctx, "leases", leaseSink{p}) }

func (p *process) saw(l *nodeLease) {
	if l.Name == p.host.name {
		p.elector.see(l)
	}
	p.roll.see(l)
}

// An elector holds the Lease of its node, by the rule of leader.Kube in few words.
type elector struct {
	p    *process
	wake chan struct{}

	mu    sync.Mutex // guards what follows
	cur   *nodeLease
	at    leader.Instant // when it was seen
	epoch uint64
	sent  map[int]leader.Instant // when each write was
	last  leader.Instant         // when the last one was that counts
	seq   int
	lease *leader.Lease
	note  string
	above uint64
	ready bool // it may take the Lease
	quits bool
}

func (e *elector) stir() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *elector) setNote(text string) {
	e.mu.Lock()
	e.note = text
	e.mu.Unlock()
	e.stir()
}

func (e *elector) stand() {
	e.mu.Lock()
	e.ready = true
	e.mu.Unlock()
	e.stir()
}

func (e *elector) raise(epoch uint64) {
	e.mu.Lock()
	e.above = max(e.above, epoch)
	if e.epoch <= e.above {
		e.lose(e.epoch)
	}
	e.mu.Unlock()
	e.stir()
}

// lose ends the lease. The caller holds mu.
func (e *elector) lose(epoch uint64) {
	if e.lease != nil {
		e.lease.Revoke()
		e.lease = nil
		e.p.ctl.Term(leader.Term{Epoch: epoch})
	}
}

// see takes a state of the Lease.
func (e *elector) see(l *nodeLease) {
	defer e.stir()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cur != nil && version(l.ResourceVersion) <= version(e.cur.ResourceVersion) {
		return
	}
	now := e.p.host.now()
	e.cur, e.at = l, now
	if l.Process != e.p.name {
		if l.Epoch > e.epoch && e.epoch != 0 {
			e.lose(l.Epoch)
			e.p.ctl.Term(leader.Term{Epoch: l.Epoch})
		}
		return
	}
	e.last = e.sent[l.Seq]
	until := e.last.Add(e.p.w.lease * 9 / 10)
	if l.Epoch > e.epoch {
		e.lose(e.epoch)
		e.epoch = l.Epoch
	}
	switch {
	case e.lease != nil && !e.lease.Extend(until):
		e.lose(e.epoch)
	case e.lease == nil && now < until && e.epoch > e.above && !e.quits:
		e.lease = leader.NewLease(e.p.host.now, until)
		e.p.ctl.Term(leader.Term{Holder: e.p.host.name, Epoch: e.epoch, Lease: e.lease})
	}
}

// next is what to write now, if anything, and else when to look again.
func (e *elector) next(now leader.Instant) (write *nodeLease, again time.Duration) {
	t := e.p.w.lease
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.lease != nil && !e.lease.Valid() {
		e.lose(e.epoch)
	}
	l := &nodeLease{ObjectMeta: metav1.ObjectMeta{Name: e.p.host.name}, Process: e.p.name, Note: e.note, Epoch: 1}
	if e.cur != nil {
		l.ObjectMeta, l.Epoch = e.cur.ObjectMeta, e.cur.Epoch+1
	}
	l.Epoch = max(l.Epoch, e.above+1)
	switch {
	case e.quits || !e.ready:
		return nil, t
	case e.cur == nil:
	case e.cur.Process == e.p.name && e.epoch > e.above:
		due := e.last.Add(t / 3)
		if e.note != e.cur.Note {
			due = e.last.Add(t / 20)
		}
		if now < due {
			return nil, due.Sub(now)
		}
		l.Epoch = e.epoch
	case e.cur.Fenced && now < e.at.Add(t) && !e.p.host.hasty: // by another node; what else is there is of this process, or of a dead one of this host
		return nil, e.at.Add(t).Sub(now)
	}
	e.seq++
	l.Seq = e.seq
	e.sent[l.Seq] = now
	return l, 0
}

func (e *elector) run(ctx context.Context) {
	p := e.p
	defer func() {
		e.mu.Lock()
		e.lease.Revoke()
		e.mu.Unlock()
	}()
	look := true
	for ctx.Err() == nil {
		limited, cancel := context.WithTimeout(ctx, p.w.lease/2)
		if look {
			if l, err := p.lookLease(limited, p.host.name); err == nil {
				look = false
				if l != nil {
					e.see(l)
				}
			} else {
				_ = sleep(ctx, p.w.lease/20)
			}
			cancel()
			continue
		}
		l, again := e.next(p.clock())
		if l != nil {
			got, err := p.putLease(limited, l)
			if err == nil {
				e.see(got)
			} else {
				look = true
			}
			cancel()
			continue
		}
		cancel()
		select {
		case <-ctx.Done():
		case <-e.wake:
		case <-time.After(again + time.Millisecond):
		}
	}
}

// resign gives the Lease up.
func (e *elector) resign(ctx context.Context) {
	e.mu.Lock()
	e.quits = true
	e.lease.Revoke()
	e.lease = nil
	l := e.cur
	e.mu.Unlock()
	if l == nil || l.Process != e.p.name {
		return
	}
	l = copied(l)
	l.Process = ""
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, _ = e.p.putLease(ctx, l)
}

// A roll follows the Leases of all nodes and fences those that are gone, by the rule of leader.Roll in few words.
type roll struct {
	p    *process
	wake chan struct{}

	mu    sync.Mutex // guards what follows
	wards map[string]*simWard
	need  map[string]uint64
	lag   time.Duration
}

// A simWard is what is known of one Lease.
type simWard struct {
	cur  *nodeLease
	at   leader.Instant // when it was seen
	told leader.RollMember
	busy bool
}

func (r *roll) stir() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *roll) setNeed(need map[string]uint64) {
	r.mu.Lock()
	r.need = need
	r.mu.Unlock()
	r.stir()
}

func (r *roll) setLag(d time.Duration) {
	r.mu.Lock()
	r.lag = d
	r.mu.Unlock()
}

func (r *roll) see(l *nodeLease) {
	r.mu.Lock()
	w := r.wards[l.Name]
	if w == nil {
		w = &simWard{}
		r.wards[l.Name] = w
	}
	if w.cur == nil || version(l.ResourceVersion) > version(w.cur.ResourceVersion) {
		w.cur, w.at = l, r.p.host.now()
	}
	r.mu.Unlock()
	r.stir()
}

func (r *roll) run(ctx context.Context) {
	t := r.p.w.lease
	for ctx.Err() == nil {
		now := r.p.clock()
		again := t
		r.mu.Lock()
		for _, node := range slices.Sorted(maps.Keys(r.wards)) {
			w := r.wards[node]
			m := leader.RollMember{Node: node, Epoch: w.cur.Epoch, Note: w.cur.Note, Fenced: w.cur.Fenced}
			if until := w.at.Add(t); w.cur.Process != "" && now < until {
				m.Alive = true
				again = min(again, until.Sub(now))
			}
			if m.Alive != w.told.Alive || m.Epoch != w.told.Epoch || m.Note != w.told.Note || m.Fenced != w.told.Fenced || w.told.Node == "" {
				w.told = m
				r.p.ctl.Member(m)
			}
			need, needed := r.need[node]
			due := w.at.Add(t + r.lag)
			switch {
			case !needed || node == r.p.host.name || w.cur.Epoch > need || w.busy:
			case now < due:
				again = min(again, due.Sub(now))
			default:
				w.busy = true
				cur := w.cur
				r.p.over.Go(func() { r.fence(ctx, w, cur, need) })
			}
		}
		r.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-r.wake:
		case <-time.After(again + time.Millisecond):
		}
	}
}

// fence raises the epoch of a Lease that has been seen unchanged for T, if it still is.
func (r *roll) fence(ctx context.Context, w *simWard, cur *nodeLease, need uint64) {
	limited, cancel := context.WithTimeout(ctx, r.p.w.lease/2)
	defer cancel()
	l, err := r.p.lookLease(limited, cur.Name)
	if err == nil && l.ResourceVersion == cur.ResourceVersion {
		l.Epoch, l.Process, l.Fenced = max(l.Epoch, need)+1, "", true
		l, err = r.p.putLease(limited, l)
	}
	if err != nil {
		_ = sleep(ctx, r.p.w.lease/20)
	} else {
		r.see(l)
	}
	r.mu.Lock()
	w.busy = false
	r.mu.Unlock()
	r.stir()
}
