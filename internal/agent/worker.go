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
		var err error
		have, err = w.setter.Set(ctx, want)
		w.report(nil, have, err)
		retry = nil
		if err != nil {
			retry = time.After(wait)
		}
	}
}
