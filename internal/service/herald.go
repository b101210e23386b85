package service

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/time/rate"

	"github.com/pintle-lb/pintle/internal/ipam"
)

// Limits of Events, as those of Kubernetes' own controllers: ten thousand refusals must not hold up what else is asked of the API server.
const (
	eventsEach   = 50 * time.Millisecond
	eventsAtOnce = 50
	eventsBusy   = 500 * time.Millisecond // between Events while many Services wait to be served
	manyWait     = 200
)

// A herald sends Events about Services, each once, at a limited rate. Of a Service that has further news before its Event was sent only
// the newest is told.
type herald struct {
	wake chan struct{}
	busy atomic.Bool // what the Services wait for goes first

	mu    sync.Mutex // guards what follows
	news  map[ipam.Key]*corev1.Event
	order []ipam.Key // oldest first
}

func newHerald() *herald {
	return &herald{wake: make(chan struct{}, 1), news: map[ipam.Key]*corev1.Event{}}
}

// tell has an Event sent. It does not block.
func (h *herald) tell(of ipam.Key, e *corev1.Event) {
	h.mu.Lock()
	if h.news[of] == nil {
		h.order = append(h.order, of)
	}
	h.news[of] = e
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// next takes the oldest; nil if there is none.
func (h *herald) next() *corev1.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.order) == 0 {
		return nil
	}
	of := h.order[0]
	h.order = h.order[1:]
	e := h.news[of]
	delete(h.news, of)
	return e
}

// run sends until ctx ends.
func (h *herald) run(ctx context.Context, send func(context.Context, *corev1.Event)) error {
	limit := rate.NewLimiter(rate.Every(eventsEach), eventsAtOnce)
	for {
		if limit.Wait(ctx) != nil || h.busy.Load() && !pause(ctx, eventsBusy) {
			return nil
		}
		e := h.next()
		for e == nil {
			select {
			case <-ctx.Done():
				return nil
			case <-h.wake:
				e = h.next()
			}
		}
		send(ctx, e)
	}
}
