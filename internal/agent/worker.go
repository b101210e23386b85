package agent

import (
	"context"
	"sync"
	"time"
)

// A Setter brings one part of the host to a wanted state.
//
// Set takes the whole state, not a change, and may be called again with the same
// one. It returns what is true afterwards, also when some of it failed. It may
// block in the kernel; it is never called twice at a time.
type Setter[T any] interface {
	Set(ctx context.Context, want []T) (have []T, err error)
}

// Limits between which a failing setter is tried again.
const (
	retryFirst = 50 * time.Millisecond
	retryLast  = 2 * time.Second
)

// A Worker runs one Setter in a goroutine of its own, always with the newest
// wanted state, so that a call stuck in the kernel holds up nothing else.
type Worker[T any] struct {
	Pace Pace // between calls; set it before Run

	setter Setter[T]
	report func(doing, have []T, err error) // doing is nil when the setter rests; must not block

	mu   sync.Mutex // guards want
	want []T
	wake chan struct{}
}

// NewWorker returns a Worker that has nothing to do yet. report is called from Run; doing is nil when the setter rests.
func NewWorker[T any](s Setter[T], report func(doing, have []T, err error)) *Worker[T] {
	return &Worker[T]{setter: s, report: report, wake: make(chan struct{}, 1)}
}

// Set gives the worker a new wanted state. It does not block.
func (w *Worker[T]) Set(want []T) {
	w.mu.Lock()
	w.want = want
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take takes the newest wanted state and reports it. Whoever asks for another one meanwhile goes on when that was reported: else it
// could take for done what is only about to begin.
func (w *Worker[T]) take(have []T) []T {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.report(w.want, have, nil)
	return w.want
}

// Run works until ctx ends.
func (w *Worker[T]) Run(ctx context.Context) error {
	var have []T
	var retry <-chan time.Time
	wait := retryFirst
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.wake:
			wait = retryFirst
		case <-retry:
			wait = min(2*wait, retryLast)
		}
		want := w.take(have)
		began := time.Now()
		var err error
		have, err = w.setter.Set(ctx, want)
		w.report(nil, have, err)
		took := time.Since(began)
		if w.Pace.Each > 0 {
			took = min(took, time.Duration(len(want))*w.Pace.Each)
		}
		if w.Pace.Rest(ctx, took, len(w.wake) > 0) != nil {
			return nil
		}
		retry = nil
		if err != nil {
			retry = time.After(wait)
		}
	}
}

// A Pace bounds the share of a processor that work takes which is dear when there is much to do, and lets what is asked for meanwhile
// be done together. The zero value does not.
type Pace struct {
	Times       int           // how many times as long as the work took there is rest after it,
	Least, Most time.Duration // within these
	More        time.Duration // what the least grows to while there is always more to do
	Each        time.Duration // what takes longer than this for each element waited for others, and does not count; 0: all does

	least time.Duration // as it has grown
}

// Rest waits as long as is right after work that took so long, or until ctx ends, whose error it returns. more says that there is
// further work already.
func (p *Pace) Rest(ctx context.Context, took time.Duration, more bool) error {
	if p.least = max(p.Least, min(2*p.least, p.More)); !more {
		p.least = p.Least
	}
	d := min(max(time.Duration(p.Times)*took, p.least), p.Most)
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
