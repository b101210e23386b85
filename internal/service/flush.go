package service

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pintle-lb/pintle/internal/agent"
	"github.com/pintle-lb/pintle/leader"
	"github.com/pintle-lb/pintle/vip"
)

// flushLimit is how long an address that comes to this node waits at most until the kernel begins to forget its old connections.
const flushLimit = 200 * time.Millisecond

// A flush has the kernel forget what it has noted of connections to addresses: when an address comes from another node, before it is
// claimed, since the connections of an earlier time here are over; and when this node no longer serves it. What comes too late is left
// out: it would take answers that are under way, and new connections.
type flush struct {
	forget func([]netip.Addr) // nil: there is nothing to forget; may block
	clock  leader.Clock
	log    *slog.Logger
	queue  chan []netip.Addr
	due    []netip.Addr

	mu      sync.Mutex
	waiting map[netip.Addr]leader.Instant // addresses that came, and until when they wait at most
	serving map[netip.Addr]bool           // addresses that packets were taken for at the last look
	busy    map[netip.Addr]bool           // what is being forgotten now
}

func newFlush(forget func([]netip.Addr), clock leader.Clock, log *slog.Logger) *flush {
	return &flush{forget: forget, clock: clock, log: log, queue: make(chan []netip.Addr, 1), waiting: map[netip.Addr]leader.Instant{}}
}

// arrives notes that an address comes from another node. One that was served until just now keeps its connections: packets of theirs
// may be under way.
func (f *flush) arrives(a netip.Addr, now leader.Instant) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.forget != nil && !f.serving[a] {
		f.due = append(f.due, a)
		f.waiting[a] = now.Add(flushLimit)
	}
}

// waits reports whether an address is not to be claimed yet.
func (f *flush) waits(a netip.Addr, now leader.Instant) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return now < f.waiting[a] || f.busy[a]
}

// until is when addresses wait no longer that have not been looked after till then.
func (f *flush) until() []leader.Instant {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.waiting))
}

// serves takes what packets are taken for from now on, and which other addresses may still be claimed, and hands out what is to be
// forgotten.
func (f *flush) serves(guards []vip.Guarded, claimed func(netip.Addr) bool) {
	now := make(map[netip.Addr]bool, len(guards))
	for _, g := range guards {
		now[g.Addr] = true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for a := range f.serving {
		switch {
		case now[a] || f.forget == nil:
		case claimed(a):
			now[a] = true
		default:
			f.due = append(f.due, a)
		}
	}
	f.serving = now
	if len(f.due) == 0 {
		return
	}
	select {
	case f.queue <- f.due:
		f.due = nil
	default: // the next time
	}
}

// run forgets until ctx ends, with rests: each time the kernel goes through the connections of all network namespaces, and addresses come
// in crowds. done is called after each set; it must not block.
func (f *flush) run(ctx context.Context, done func()) error {
	pace := agent.Pace{Times: lookTimes, Least: flushLimit / 4, Most: flushLimit / 2}
	for {
		select {
		case <-ctx.Done():
			return nil
		case addrs := <-f.queue:
			began := time.Now()
			if addrs = f.begin(addrs); len(addrs) > 0 {
				f.forget(addrs)
			}
			f.end()
			done()
			if pace.Rest(ctx, time.Since(began), false) != nil {
				return nil
			}
		}
	}
}

// begin returns those of the addresses that are not claimed, and are not to be until end.
func (f *flush) begin(addrs []netip.Addr) []netip.Addr {
	f.mu.Lock()
	now, late := f.clock(), 0
	f.busy = map[netip.Addr]bool{}
	for _, a := range addrs {
		until, came := f.waiting[a]
		delete(f.waiting, a)
		switch {
		case came && now < until || !came && !f.serving[a]:
			f.busy[a] = true
		case came:
			late++
		}
	}
	forgets := slices.Collect(maps.Keys(f.busy))
	f.mu.Unlock()
	if late > 0 {
		f.log.Warn("connections of an earlier time are kept: the addresses came, and it took too long until their turn to be forgotten", "addresses", late)
	}
	return forgets
}

func (f *flush) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.busy = nil
}
