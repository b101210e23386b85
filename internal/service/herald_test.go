package service

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pintle-lb/pintle/internal/ipam"
)

// Events go at a rate, each once, in the order of their Services; of a Service that waits the newest is told.
func TestHerald(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		h, said := newHerald(), make([]string, 0, 300)
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := h.run(ctx, func(_ context.Context, e *corev1.Event) { said = append(said, e.Message) }); err != nil {
				t.Error(err)
			}
		}()
		say := func(service int, text string) {
			h.tell(ipam.Key{Name: fmt.Sprint(service)}, &corev1.Event{Message: fmt.Sprint(service, " ", text)})
		}
		say(1000, "is well") // nobody waits: at once
		synctest.Wait()
		for _, text := range []string{"has none", "has one"} {
			for i := range 200 {
				say(i, text)
			}
		}
		synctest.Wait()
		if len(said) != eventsAtOnce {
			t.Fatalf("%d were sent at once, want %d", len(said), eventsAtOnce)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if want := eventsAtOnce + int(time.Second/eventsEach); len(said) < want-1 || len(said) > want {
			t.Errorf("%d were sent within a second, want %d", len(said), want)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		seen := map[string]int{}
		for _, text := range said {
			seen[text]++
		}
		for i := range 200 {
			if last := fmt.Sprint(i, " has one"); seen[last] != 1 {
				t.Errorf("%q was said %d times", last, seen[last])
			}
		}
		if said[0] != "1000 is well" {
			t.Errorf("first was %q", said[0])
		}
		cancel()
		<-done
	})
}
