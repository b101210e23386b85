package agent

import (
	"context"
	"sync"
	"testing"
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

type setterFunc func(want []int) []int

func (f setterFunc) Set(_ context.Context, want []int) ([]int, error) { return f(want), nil }
