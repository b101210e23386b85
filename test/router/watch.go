package router

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// watchBuffer holds what the kernel says of a hundred thousand routes while nobody listens.
const watchBuffer = 64 << 20

// A Watch follows the routes of a host's kernel, in its main table, and remembers when their next hops became what they are.
// Times are when the kernel's message was read, some 50 microseconds after the change.
type Watch struct {
	done  chan struct{}
	close func() // closes done once
	ended chan struct{}

	mu      sync.Mutex // guards all below
	routes  map[netip.Prefix]metrics
	prefix  map[netip.Prefix][]change // oldest first
	changed chan struct{}             // closed at the next change
	err     error                     // why nothing more is heard
}

// metrics are the routes of a prefix: next hops by the metric that makes them different routes.
type metrics map[int][]netip.Addr

// A change is what the next hops of a prefix were from an instant on.
type change struct {
	at   time.Time
	hops []netip.Addr // sorted; nil: there is no route
}

// NewWatch starts to watch. It knows the routes that there are already, as of now.
func NewWatch(host *netlab.Host) (*Watch, error) {
	w := &Watch{
		done: make(chan struct{}), ended: make(chan struct{}), changed: make(chan struct{}),
		routes: map[netip.Prefix]metrics{}, prefix: map[netip.Prefix][]change{},
	}
	w.close = sync.OnceFunc(func() { close(w.done) })
	updates := make(chan netlink.RouteUpdate, 1024)
	if err := host.Do(func() error { return w.begin(updates) }); err != nil {
		w.close()
		return nil, fmt.Errorf("watch routes of %s: %w", host.Name(), err)
	}
	go w.follow(updates)
	return w, nil
}

// begin subscribes to this thread's namespace and then asks for what there is: messages that came before the answer are read
// after it, and the last one is always right. To let the subscription ask would send the question to all who subscribed.
func (w *Watch) begin(updates chan<- netlink.RouteUpdate) error {
	ns, err := netns.Get()
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	err = netlink.RouteSubscribeWithOptions(updates, w.done, netlink.RouteSubscribeOptions{
		Namespace: &ns, ReceiveBufferSize: watchBuffer, ReceiveBufferForceSize: true, ErrorCallback: w.fail,
	})
	if err != nil {
		return err
	}
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	there, err := h.RouteList(nil, netlink.FAMILY_ALL)
	for _, r := range there {
		w.take(netlink.RouteUpdate{Type: unix.RTM_NEWROUTE, Route: r}, time.Now())
	}
	return err
}

// Close ends it. What it knows can still be asked.
func (w *Watch) Close() {
	w.close()
	<-w.ended
}

// NextHops are those of a prefix now, sorted; none if there is no route.
func (w *Watch) NextHops(prefix netip.Prefix) []netip.Addr {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.last(prefix).hops)
}

// Await waits until a prefix has exactly these next hops, in whatever order, and returns since when.
func (w *Watch) Await(ctx context.Context, prefix netip.Prefix, hops ...netip.Addr) (time.Time, error) {
	want := slices.SortedFunc(slices.Values(hops), netip.Addr.Compare)
	at, err := w.wait(ctx, func() (time.Time, bool) {
		c := w.last(prefix)
		return c.at, slices.Equal(c.hops, want)
	})
	if err != nil {
		return at, fmt.Errorf("wait for %s via %v: it is via %v: %w", prefix, want, w.NextHops(prefix), err)
	}
	return at, nil
}

// Gone waits until a prefix has next hops without this one, or none, and returns since when: the zero time if it never had it.
func (w *Watch) Gone(ctx context.Context, prefix netip.Prefix, hop netip.Addr) (time.Time, error) {
	at, err := w.wait(ctx, func() (time.Time, bool) {
		return w.without(prefix, hop)
	})
	if err != nil {
		return at, fmt.Errorf("wait for the end of %s via %s: it is via %v: %w", prefix, hop, w.NextHops(prefix), err)
	}
	return at, nil
}

// AwaitCount waits until this many prefixes within a network have a route, and returns the time of their last change.
func (w *Watch) AwaitCount(ctx context.Context, within netip.Prefix, n int) (time.Time, error) {
	last := 0
	at, err := w.wait(ctx, func() (at time.Time, ok bool) {
		last, at = w.count(within)
		return at, last == n
	})
	if err != nil {
		return at, fmt.Errorf("wait for %d routes within %s: there are %d: %w", n, within, last, err)
	}
	return at, nil
}

// last is the newest change of a prefix. The caller holds mu.
func (w *Watch) last(prefix netip.Prefix) change {
	if cs := w.prefix[prefix]; len(cs) > 0 {
		return cs[len(cs)-1]
	}
	return change{}
}

// without says since when the prefix has not had the hop, if it has not. The caller holds mu.
func (w *Watch) without(prefix netip.Prefix, hop netip.Addr) (since time.Time, ok bool) {
	for _, c := range slices.Backward(w.prefix[prefix]) {
		if slices.Contains(c.hops, hop) {
			return since, ok
		}
		since, ok = c.at, true
	}
	return since, true
}

// count is how many prefixes within a network have a route, and when that of any changed last. The caller holds mu.
func (w *Watch) count(within netip.Prefix) (n int, at time.Time) {
	for p := range w.prefix {
		if p.Bits() < within.Bits() || !within.Contains(p.Addr()) {
			continue
		}
		c := w.last(p)
		if len(c.hops) > 0 {
			n++
		}
		if c.at.After(at) {
			at = c.at
		}
	}
	return n, at
}

// wait asks after every change, but rests a millisecond between two: what it returns are the times of the changes.
func (w *Watch) wait(ctx context.Context, ok func() (time.Time, bool)) (time.Time, error) {
	for {
		w.mu.Lock()
		at, ok := ok()
		changed, err := w.changed, w.err
		w.mu.Unlock()
		if ok {
			return at, nil
		}
		if err != nil {
			return at, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return at, ctx.Err()
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return at, ctx.Err()
		}
	}
}

func (w *Watch) follow(updates <-chan netlink.RouteUpdate) {
	defer close(w.ended)
	for u := range updates {
		w.take(u, time.Now())
	}
	w.fail(errors.New("the kernel's messages ended"))
}

// fail notes why nothing can be said any more, such as messages that were lost.
func (w *Watch) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = fmt.Errorf("watch routes: %w", err)
		w.tell()
	}
}

// tell wakes those who wait. The caller holds mu.
func (w *Watch) tell() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// take notes a message. A new route's message has all of its next hops, in both families. An IPv4 route ends as a whole; an
// IPv6 route's end has the next hops that go (net/ipv6/route.c, fib6_del_route and __ip6_del_rt_siblings).
func (w *Watch) take(u netlink.RouteUpdate, at time.Time) {
	prefix, ok := prefixOf(u.Route)
	if !ok || u.Table != unix.RT_TABLE_MAIN {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	ms, hops := w.routes[prefix], nextHops(u.Route)
	if ms == nil {
		ms = metrics{}
		w.routes[prefix] = ms
	}
	left := slices.DeleteFunc(slices.Clone(ms[u.Priority]), func(a netip.Addr) bool { return slices.Contains(hops, a) })
	switch {
	case u.Type == unix.RTM_NEWROUTE:
		ms[u.Priority] = hops
	case prefix.Addr().Is4() || len(left) == 0:
		delete(ms, u.Priority)
	default:
		ms[u.Priority] = left
	}
	w.note(prefix, at)
}

// note adds what is true of a prefix now, if that is new. The caller holds mu.
func (w *Watch) note(prefix netip.Prefix, at time.Time) {
	var hops []netip.Addr
	if ms := w.routes[prefix]; len(ms) > 0 {
		hops = ms[slices.Min(slices.Collect(maps.Keys(ms)))]
	}
	if slices.Equal(hops, w.last(prefix).hops) {
		return
	}
	w.prefix[prefix] = append(w.prefix[prefix], change{at, hops})
	w.tell()
}

func prefixOf(r netlink.Route) (netip.Prefix, bool) {
	if r.Dst == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(r.Dst.IP)
	bits, _ := r.Dst.Mask.Size()
	if addr = addr.Unmap(); !ok || r.Family != unix.AF_INET && r.Family != unix.AF_INET6 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr, bits), true
}

// nextHops are the gateways of a route, sorted, also those of another family than the route's. A route without a gateway,
// such as that of a link, has the unspecified address.
func nextHops(r netlink.Route) []netip.Addr {
	hops := []netip.Addr{gateway(r.Gw, r.Via)}
	if len(r.MultiPath) > 0 {
		hops = nil
	}
	for _, n := range r.MultiPath {
		hops = append(hops, gateway(n.Gw, n.Via))
	}
	slices.SortFunc(hops, netip.Addr.Compare)
	return hops
}

func gateway(gw net.IP, via netlink.Destination) netip.Addr {
	if v, ok := via.(*netlink.Via); ok && v != nil {
		gw = v.Addr
	}
	addr, ok := netip.AddrFromSlice(gw)
	if !ok {
		return netip.IPv6Unspecified()
	}
	return addr.Unmap()
}
