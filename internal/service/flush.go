package service

import (
	"context"
	"net/netip"
	"time"

	"github.com/pintle-lb/pintle/internal/agent"
	"github.com/pintle-lb/pintle/leader"
)

// flushLimit is how long an address that comes to this node waits at most for the kernel to forget its old connections.
const flushLimit = 200 * time.Millisecond

// A flush has the kernel forget what it has noted of connections to addresses: when an address comes from another node, before it is
// claimed, since the connections of an earlier time here are over; and when this node no longer serves it.
type flush struct {
	forget  func([]netip.Addr) // nil: there is nothing to forget; may block
	queue   chan []netip.Addr
	due     []netip.Addr
	waiting map[netip.Addr]leader.Instant // addresses that came, and until when they wait at most
	serving map[netip.Addr]bool           // addresses that packets were taken for at the last look
}

func newFlush(forget func([]netip.Addr)) *flush {
	return &flush{forget: forget, queue: make(chan []netip.Addr, 1), waiting: map[netip.Addr]leader.Instant{}}
}

// arrives notes that an address comes from another node. One that was served until just now keeps its connections: packets of theirs
// may be under way.
func (f *flush) arrives(a netip.Addr, now leader.Instant) {
	if f.forget != nil && !f.serving[a] {
		f.due = append(f.due, a)
		f.waiting[a] = now.Add(flushLimit)
	}
}

// waits reports whether an address is not to be claimed yet.
func (f *flush) waits(a netip.Addr, now leader.Instant) bool { return now < f.waiting[a] }

// serves takes what packets are taken for now, and hands out what is to be forgotten.
func (f *flush) serves(st State) {
	now := make(map[netip.Addr]bool, len(st.Guards))
	for _, g := range st.Guards {
		now[g.Addr] = true
	}
	for a := range f.serving {
		if !now[a] && f.forget != nil {
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
// in crowds. done is told of each set; it must
// not block.
func (f *flush) run(ctx context.Context, done func([]netip.Addr)) error {
	pace := agent.Pace{Times: lookTimes, Least: flushLimit / 4, Most: flushLimit / 2}
	for {
		select {
		case <-ctx.Done():
			return nil
		case addrs := <-f.queue:
			began := time.Now()
			f.forget(addrs)
			done(addrs)
			if pace.Rest(ctx, time.Since(began), false) != nil {
				return nil
			}
		}
	}
}

// forgot notes that connections of these addresses are forgotten.
func (f *flush) forgot(addrs []netip.Addr) {
	for _, a := range addrs {
		delete(f.waiting, a)
	}
}
