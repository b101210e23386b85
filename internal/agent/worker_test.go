package agent

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestWorkerReportsBeforeItIsAskedAnew: who calls Set knows, when it returns, of every state that the worker is yet to bring about.
func TestWorkerReportsBeforeItIsAskedAnew(t *testing.T) {
	var mu sync.Mutex // guards order
	var order []string
	note := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, s)
	}
	begun, asked := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w := NewWorker[int](setterFunc(func(want []int) []int { return want }), func(doing, _ []int, _ error) {
		if len(doing) != 1 {
			return
		}
		once.Do(func() {
			close(begun)
			<-asked
			time.Sleep(20 * time.Millisecond) // Set has time to return too soon
			note("reported")
		})
	})
	w.Set([]int{1})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = w.Run(ctx) })
	<-begun
	close(asked)
	w.Set([]int{})
	note("asked anew")
	cancel()
	wg.Wait()
	if len(order) != 2 || order[0] != "reported" {
		t.Errorf("in this order: %q", order)
	}
}

// TestWorkerThatWaitedForTheProcessor rests as for work of the size that it had.
func TestWorkerThatWaitedForTheProcessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, began := time.Now(), []time.Duration(nil)
		w := NewWorker[int](setterFunc(func(want []int) []int {
			began = append(began, time.Since(start))
			time.Sleep(time.Second)
			return want
		}), func(_, _ []int, _ error) {})
		w.Pace = Pace{Times: 9, Most: time.Minute, Each: time.Millisecond}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = w.Run(ctx) })
		w.Set([]int{1, 2})
		time.Sleep(time.Millisecond)
		w.Set([]int{1, 2, 3})
		time.Sleep(time.Minute)
		cancel()
		wg.Wait()
		if want := time.Second + 18*time.Millisecond; len(began) != 2 || began[1] != want {
			t.Errorf("it worked at %v, want the second time at %v", began, want)
		}
	})
}

type setterFunc func(want []int) []int

func (f setterFunc) Set(_ context.Context, want []int) ([]int, error) { return f(want), nil }

// A Pace rests in proportion to the work, and longer while there is always more; without limits it does not rest.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rest := func(p *Pace, took time.Duration, more bool) time.Duration {
			start := time.Now()
			if err := p.Rest(t.Context(), took, more); err != nil {
				t.Error(err)
			}
			return time.Since(start)
		}
		const ms = time.Millisecond
		p := &Pace{Times: 3, Least: ms, More: 5 * ms, Most: 100 * ms}
		for i, c := range []struct {
			took time.Duration
			more bool
			want time.Duration
		}{{0, false, ms}, {0, true, 2 * ms}, {0, true, 4 * ms}, {0, true, 5 * ms}, {10 * ms, true, 30 * ms}, {0, false, ms}, {time.Second, false, 100 * ms}} {
			if got := rest(p, c.took, c.more); got != c.want {
				t.Errorf("%d: rested %v, want %v", i, got, c.want)
			}
		}
		if got := rest(&Pace{}, time.Second, true); got != 0 {
			t.Errorf("no Pace rested %v", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.Rest(ctx, time.Second, false); err == nil {
			t.Error("it rests on when all is over")
		}
	})
}
