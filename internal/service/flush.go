package service

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pintle-lb/pintle/leader"
	"github.com/pintle-lb/pintle/vip"
)

const (
	// flushLimit is how long an address that comes to this node waits while the kernel forgets connections to others. That is for a
	// kernel that hangs: to keep old connections is wrong too. When its turn has begun, it waits until that ends.
	flushLimit = time.Second

	// Addresses come in crowds. The kernel rests until no more of them have come for a while, within these.
	flushQuiet                    = 30 * time.Millisecond
	flushRestLeast, flushRestMost = 50 * time.Millisecond, 250 * time.Millisecond
)

// A flush has the kernel forget what it has noted of connections to addresses: when an address comes from another node, before it is
// claimed, since the connections of an earlier time here are over; and when this node no longer serves it. What is claimed is left out:
// it would take answers that are under way, and new connections.
type flush struct {
	forget func([]netip.Addr) // nil: there is nothing to forget; may block
	clock  leader.Clock
	log    *slog.Logger
	wake   chan struct{} // something is due

	mu      sync.Mutex
	due     map[netip.Addr]bool           // what is to be forgotten when its turn comes
	last    leader.Instant                // when the last of that came
	came    map[netip.Addr]leader.Instant // addresses that came and have had no turn yet, and since when they wait for it; 0: they do not
	serving map[netip.Addr]bool           // addresses that packets were taken for at the last look
	busy    map[netip.Addr]bool           // what is being forgotten now
	began   leader.Instant                // and since when; 0: nothing is
}

func newFlush(forget func([]netip.Addr), clock leader.Clock, log *slog.Logger) *flush {
	return &flush{forget: forget, clock: clock, log: log, wake: make(chan struct{}, 1),
		due: map[netip.Addr]bool{}, came: map[netip.Addr]leader.Instant{}}
}

// arrives notes that an address comes from another node. One that was served until just now keeps its connections: packets of theirs
// may be under way.
func (f *flush) arrives(a netip.Addr, now leader.Instant) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.forget != nil && !f.serving[a] {
		f.came[a] = now
		f.add(a)
	}
}

// add has an address forgotten when its turn comes. The caller holds mu.
func (f *flush) add(a netip.Addr) {
	f.due[a], f.last = true, f.clock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// waits reports whether an address is not to be claimed yet. One that has waited long enough does so never again: it may be claimed
// from now on.
func (f *flush) waits(a netip.Addr, now leader.Instant) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	since := f.came[a]
	if since != 0 && f.began != 0 && !f.busy[a] && now >= max(since, f.began).Add(flushLimit) {
		since, f.came[a] = 0, 0
	}
	return since != 0 || f.busy[a]
}

// next is how long from now to ask again about addresses that wait for their turn, if nothing happens till then; 0: there are none.
func (f *flush) next() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, since := range f.came {
		if since != 0 {
			return flushLimit / 4
		}
	}
	return 0
}

// serves takes what packets are taken for from now on, and for which other addresses they may still come.
func (f *flush) serves(guards []vip.Guarded, come func(netip.Addr) bool) {
	now := make(map[netip.Addr]bool, len(guards))
	for _, g := range guards {
		now[g.Addr] = true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for a := range f.serving {
		switch {
		case now[a] || f.forget == nil:
		case come(a):
			now[a] = true
		default:
			f.add(a)
		}
	}
	f.serving = now
}

// run forgets until ctx ends, with rests: each time the kernel goes through the connections of all network namespaces. done is called
// after each set; it must not block.
func (f *flush) run(ctx context.Context, done func()) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
			if addrs := f.begin(); len(addrs) > 0 {
				f.forget(addrs)
			}
			f.end()
			done()
			f.rest(ctx)
		}
	}
}

func (f *flush) rest(ctx context.Context) {
	for began := f.clock(); ; {
		f.mu.Lock()
		until := max(began.Add(flushRestLeast), min(f.last.Add(flushQuiet), began.Add(flushRestMost)))
		f.mu.Unlock()
		if now := f.clock(); now >= until || !pause(ctx, until.Sub(now)) {
			return
		}
	}
}

// begin returns what is due and not claimed, and is not to be claimed until end.
func (f *flush) begin() []netip.Addr {
	f.mu.Lock()
	late := 0
	f.busy, f.began = map[netip.Addr]bool{}, f.clock()
	for a := range f.due {
		since, came := f.came[a]
		delete(f.came, a)
		switch {
		case since != 0 || !f.serving[a]:
			f.busy[a] = true
		case came:
			late++
		}
	}
	clear(f.due)
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
	f.busy, f.began = nil, 0
}
