package arp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	rfc826 "github.com/mdlayher/arp"
	"golang.org/x/sys/unix"
)

// A switchGate is open or not.
type switchGate struct{ open, asked atomic.Int64 }

func (g *switchGate) Valid() bool {
	if g.open.Load() == 0 {
		return false
	}
	g.asked.Add(1)
	return true
}

func openGate() *switchGate { g := new(switchGate); g.open.Store(1); return g }

// A fakeHost has links without a kernel. Tests use it within a synctest bubble.
type fakeHost struct {
	mu     sync.Mutex
	links  map[string]int // index by name
	wires  []*fakeWire
	joined map[netip.Addr]int
	all    []mac
	lists  int // calls of stations

	indexErr, ipv6Err, joinErr, onlyErr error
	stuck                               map[string]chan struct{} // by method, which returns once this is closed
}

type sentFrame struct {
	at    time.Time
	index int
	b     []byte
}

type fakeWire struct {
	h      *fakeHost
	index  int
	kind   uint16
	in     chan []byte
	waited atomic.Int64 // how long what is read now has waited, in ns
	closed chan struct{}
	once   sync.Once
	sent   []sentFrame // guarded by h.mu
	err    error       // of send; guarded by h.mu
	about  []netip.Addr
	narrow bool // read is shown what is about these; both guarded by h.mu
}

func newFakeHost() *fakeHost {
	return &fakeHost{links: map[string]int{"eth0": 1, "eth1": 2}, joined: map[netip.Addr]int{}}
}

func fakeMAC(index int) mac { return mac{2, 0, 0, 0, 1, byte(index)} }

func (h *fakeHost) index(link string) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i, ok := h.links[link]; ok {
		return i, h.indexErr
	}
	return 0, unix.ENODEV
}

func (h *fakeHost) ipv6(string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ipv6Err
}

func (h *fakeHost) open(index int, kind uint16) (wire, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := &fakeWire{h: h, index: index, kind: kind, in: make(chan []byte), closed: make(chan struct{})}
	h.wires = append(h.wires, w)
	return w, nil
}

type leaver func()

func (l leaver) Close() error { l(); return nil }

func (h *fakeHost) join(_ int, addr netip.Addr) (io.Closer, error) {
	h.wait("join")
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.joinErr != nil {
		return nil, h.joinErr
	}
	h.joined[addr]++
	return leaver(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.joined[addr]--
	}), nil
}

func (h *fakeHost) stations() ([]mac, error) {
	h.wait("stations")
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lists++
	all := slices.Clone(h.all)
	for _, i := range h.links {
		all = append(all, fakeMAC(i))
	}
	return all, nil
}

// wait waits while others have the RTNL lock.
func (h *fakeHost) wait(method string) {
	h.mu.Lock()
	free := h.stuck[method]
	h.mu.Unlock()
	if free != nil {
		<-free
	}
}

// hold has a method hang until the returned function is called.
func (h *fakeHost) hold(method string) (release func()) {
	free := make(chan struct{})
	h.change(func() { h.stuck = map[string]chan struct{}{method: free} })
	return func() {
		h.change(func() { h.stuck = nil })
		close(free)
	}
}

func (h *fakeHost) change(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

func (w *fakeWire) read(b []byte, limit time.Duration) (int, time.Time, error) {
	var late <-chan time.Time
	if limit > 0 {
		late = time.After(limit)
	}
	select {
	case f := <-w.in:
		if f == nil {
			return 0, time.Time{}, errors.New("network is down")
		}
		if !w.shows(f) {
			return w.read(b, limit)
		}
		return copy(b, f), time.Now().Add(-time.Duration(w.waited.Load())), nil
	case <-w.closed:
		return 0, time.Time{}, os.ErrClosed
	case <-late:
		return 0, time.Time{}, os.ErrDeadlineExceeded
	}
}

func (w *fakeWire) shows(f []byte) bool {
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	m, _ := parse(f)
	return !w.narrow || slices.Contains(w.about, m.claims) || slices.Contains(w.about, m.asks)
}

func (w *fakeWire) only(addrs []netip.Addr) error {
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	if w.narrow, w.about = true, addrs; w.h.onlyErr != nil {
		w.about = nil
	}
	return w.h.onlyErr
}

func (w *fakeWire) send(b []byte) error {
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	w.sent = append(w.sent, sentFrame{time.Now(), w.index, b})
	return nil
}

func (w *fakeWire) station() (int, mac, error) {
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	for _, i := range w.h.links {
		if i == w.index {
			return i, fakeMAC(i), nil
		}
	}
	return 0, mac{}, errGone
}

func (w *fakeWire) Close() error { w.once.Do(func() { close(w.closed) }); return nil }

// wire returns the newest wire of a link's index.
func (h *fakeHost) wire(index int, kind uint16) *fakeWire {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range slices.Backward(h.wires) {
		if w.index == index && w.kind == kind {
			return w
		}
	}
	return nil
}

// times are when frames for addr were sent, in ms since start.
func (h *fakeHost) times(start time.Time, addr netip.Addr) (ms []int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.wires {
		for _, f := range w.sent {
			if m, err := parse(f.b); err == nil && m.claims == addr {
				ms = append(ms, f.at.Sub(start).Milliseconds())
			}
		}
	}
	slices.Sort(ms)
	return ms
}

// A bubble is a running Speaker on a fakeHost, in a synctest bubble.
type bubble struct {
	*Speaker
	t     *testing.T
	h     *fakeHost
	start time.Time
	log   *bytes.Buffer
	heard chan Heard
}

func inBubble(t *testing.T, f func(b *bubble)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{t: t, h: newFakeHost(), start: time.Now(), log: new(bytes.Buffer), heard: make(chan Heard, 10000)}
		b.Speaker = New(Config{
			Log:     slog.New(slog.NewTextHandler(b.log, nil)),
			OnHeard: func(h Heard) { b.heard <- h },
			Peer:    func(m string) string { return map[string]string{them.String(): "cp2"}[m] },
		})
		b.host = b.h
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- b.Run(ctx) }()
		synctest.Wait()
		f(b)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		b.h.change(func() {
			for _, w := range b.h.wires {
				select {
				case <-w.closed:
				default:
					t.Error("Run has ended and a socket is open")
				}
			}
			for addr, n := range b.h.joined {
				if n != 0 {
					t.Errorf("Run has ended and the group of %s is joined %d times", addr, n)
				}
			}
		})
		if _, err := b.Set(t.Context(), nil); err == nil {
			t.Error("Set succeeded after Run")
		}
	})
}

func (b *bubble) set(want ...Target) {
	b.t.Helper()
	have, err := b.Set(b.t.Context(), want)
	if err != nil || !slices.Equal(have, want) {
		b.t.Errorf("Set: have %v, %v; want %v", have, err, want)
	}
	synctest.Wait()
}

func (b *bubble) expect(addr netip.Addr, ms ...int64) {
	b.t.Helper()
	if got := b.h.times(b.start, addr); !slices.Equal(got, ms) {
		b.t.Errorf("%s: frames at %v ms, want %v", addr, got, ms)
	}
}

// claimBy is a gratuitous ARP of another station.
func claimBy(m mac) []byte { return announcements(vip4, m)[0] }

func (b *bubble) deliver(index int, kind uint16, frames ...[]byte) {
	for _, f := range frames {
		b.h.wire(index, kind).in <- f
		synctest.Wait()
	}
}

// sleep lets time pass, and what is due at its end happen.
func (b *bubble) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestTakeOverSchedule(t *testing.T) {
	inBubble(t, func(b *bubble) {
		second, sixth := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.11")
		g := openGate()
		have, err := b.Set(t.Context(), []Target{{"eth0", vip4, g}, {"eth0", second, g}, {"eth0", vip6, g}, {"eth0", sixth, nil}})
		if err != nil || len(have) != 4 {
			t.Errorf("Set: %v, %v", have, err)
		}
		b.expect(vip4, 0, 0) // before Set returned
		b.sleep(3 * time.Second)
		b.expect(vip4, 0, 0, 20, 20, 100, 100, 250, 250, 500, 500, 1100, 1100, 2100, 2100)
		b.expect(second, 1, 1, 21, 21, 101, 101, 251, 251, 501, 501, 1101, 1101, 2101, 2101)
		b.expect(vip6, 2, 22, 102, 252, 502, 1102, 2102)
		b.expect(sixth)
		b.sleep(100 * time.Second)
		if n := len(b.h.times(b.start, vip6)) - 7; n < 9 || n > 11 {
			t.Errorf("%d repeats in 100 s, want about 10", n)
		}
	})
}

func TestSetAgainChangesNothing(t *testing.T) {
	inBubble(t, func(b *bubble) {
		g := openGate()
		b.set(Target{"eth0", vip4, g})
		b.sleep(5 * time.Millisecond)
		b.set(Target{"eth0", vip4, g})
		b.expect(vip4, 0, 0)
		b.set(Target{"eth0", vip4, openGate()}) // another lease: regained
		b.expect(vip4, 0, 0, 5, 5)
		b.sleep(15 * time.Millisecond) // the first burst's second announcement is gone
		b.expect(vip4, 0, 0, 5, 5)
		b.sleep(5 * time.Millisecond)
		b.expect(vip4, 0, 0, 5, 5, 25, 25)
	})
}

func TestNothingIsClaimedAfterTheClaimEnded(t *testing.T) {
	for name, end := range map[string]func(b *bubble, g *switchGate){
		"nil claim":   func(b *bubble, _ *switchGate) { b.set(Target{"eth0", vip4, nil}) },
		"no target":   func(b *bubble, _ *switchGate) { b.set() },
		"gate closed": func(_ *bubble, g *switchGate) { g.open.Store(0) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				g := openGate()
				b.set(Target{"eth0", vip4, g})
				w := b.h.wire(1, etherARP)
				w.in <- claimBy(them) // a defence is due too
				b.sleep(2 * time.Millisecond)
				end(b, g)
				b.sleep(time.Minute)
				b.expect(vip4, 0, 0, 0, 0)
				if name != "no target" {
					w.in <- claimBy(them)
					w.in <- arpFrame(broadcast, rfc826.OperationRequest, them, peer4, nobody, vip4)
					b.sleep(time.Minute)
					b.expect(vip4, 0, 0, 0, 0)
					if st := b.Stats(); len(st) != 1 || st[0].Claims || st[0].Heard != 2 || st[0].Defended != 1 {
						t.Errorf("stats %+v", st)
					}
				}
			})
		})
	}
}

func TestAnswers(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.set(Target{"eth0", vip4, nil}, Target{"eth0", vip6, nil})
		own := fakeMAC(1)
		group, groupMAC := solicitedNode(vip6)
		ask4 := arpFrame(broadcast, rfc826.OperationRequest, them, peer4, nobody, vip4)
		ask6 := nsFrame(peer6, group, vip6, groupMAC)
		b.deliver(1, etherARP, ask4)
		b.deliver(1, etherIPv6, ask6)
		b.expect(vip4)
		b.expect(vip6)

		b.set(Target{"eth0", vip4, openGate()}, Target{"eth0", vip6, openGate()})
		b.sleep(3 * time.Second)
		before4, before6 := len(b.h.times(b.start, vip4)), len(b.h.times(b.start, vip6))
		toOther := arpFrame(mac{2, 9, 9, 9, 9, 9}, rfc826.OperationRequest, them, peer4, nobody, vip4)
		b.deliver(1, etherARP, ask4, arpFrame(own, rfc826.OperationRequest, them, peer4, own, vip4), probe(vip4, them),
			toOther, arpFrame(broadcast, rfc826.OperationRequest, them, peer4, nobody, peer4),
			arpFrame(broadcast, rfc826.OperationRequest, broadcast, peer4, nobody, vip4), []byte("rubbish"))
		b.deliver(1, etherIPv6, ask6, nsFrame(peer6, vip6, vip6, own), probe(vip6, them))
		for _, tt := range []struct {
			kind   uint16
			before int
			want   [][]byte
		}{
			{etherARP, before4, [][]byte{
				arpFrame(them, rfc826.OperationReply, own, vip4, them, peer4),
				arpFrame(them, rfc826.OperationReply, own, vip4, them, peer4),
				arpFrame(them, rfc826.OperationReply, own, vip4, them, netip.IPv4Unspecified())}},
			{etherIPv6, before6, [][]byte{
				advertisement(vip6, own, message{back: them, asker: peer6}),
				advertisement(vip6, own, message{back: them, asker: peer6}),
				announcements(vip6, own)[0]}},
		} {
			w := b.h.wire(1, tt.kind)
			var got [][]byte
			b.h.change(func() {
				for _, f := range w.sent[tt.before:] {
					got = append(got, f.b)
				}
			})
			if !slices.EqualFunc(got, tt.want, bytes.Equal) {
				t.Errorf("answered\n%x, want\n%x", got, tt.want)
			}
		}
		for _, st := range b.Stats() {
			if st.Answered != 3 || st.Heard != 0 {
				t.Errorf("stats %+v", st)
			}
		}
	})
}

// TestQuestionsOfBefore: what waited in a socket while another node had the address was answered there.
func TestQuestionsOfBefore(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.set(Target{"eth0", vip4, openGate()})
		b.sleep(10 * time.Millisecond)
		b.set(Target{"eth0", vip4, nil})
		b.sleep(10 * time.Millisecond)
		b.set(Target{"eth0", vip4, openGate()})
		b.sleep(5 * time.Millisecond)
		for _, c := range []struct {
			waited time.Duration
			want   uint64
		}{{15 * time.Millisecond, 0}, {5*time.Millisecond + 1, 0}, {5 * time.Millisecond, 1}, {0, 2}} {
			b.h.wire(1, etherARP).waited.Store(int64(c.waited))
			b.deliver(1, etherARP, arpFrame(broadcast, rfc826.OperationRequest, them, peer4, nobody, vip4))
			if st := b.Stats()[0]; st.Answered != c.want {
				t.Errorf("%d answers once a question had waited %v, want %d", st.Answered, c.waited, c.want)
			}
		}
	})
}

func TestDefence(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.set(Target{"eth0", vip4, openGate()})
		b.sleep(4 * time.Second)
		b.start = time.Now()
		b.deliver(1, etherARP, claimBy(them), claimBy(them), announcements(vip4, them)[1])
		b.sleep(time.Second)
		b.expectFrom(vip4, 0, 0, 5, 5, 20, 20, 60, 60)
		for range 40 { // a stubborn one, for 4 s
			b.deliver(1, etherARP, claimBy(them))
			b.sleep(100 * time.Millisecond)
		}
		st := b.Stats()[0]
		if st.Heard != 43 || st.Defended < 5 || st.Defended > 8 || st.LastMAC != them.String() {
			t.Errorf("stats %+v", st)
		}
		close(b.heard)
		n := 0
		for h := range b.heard {
			n++
			if !h.Defended || h.MAC != them.String() || h.Addr != vip4 || h.Link != "eth0" {
				t.Errorf("heard %+v", h)
			}
		}
		if warns := strings.Count(b.log.String(), "another station claims"); n != 43 || warns != 1 || !strings.Contains(b.log.String(), "peer=cp2") {
			t.Errorf("heard %d, warned %d times:\n%s", n, warns, b.log)
		}
	})
}

// expectFrom is expect for the frames since b.start.
func (b *bubble) expectFrom(addr netip.Addr, ms ...int64) {
	b.t.Helper()
	got := slices.DeleteFunc(b.h.times(b.start, addr), func(at int64) bool { return at < 0 })
	if !slices.Equal(got, ms) {
		b.t.Errorf("%s: frames at %v ms, want %v", addr, got, ms)
	}
}

func TestTheLastWordIsOurs(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.set(Target{"eth0", vip4, openGate()})
		b.sleep(4 * time.Second)
		var last time.Time
		for range 5 { // more than the limit allows, then silence
			last = time.Now()
			b.deliver(1, etherARP, claimBy(them))
			b.sleep(80 * time.Millisecond)
		}
		b.sleep(2 * time.Second)
		if got := b.h.times(last, vip4); got[len(got)-1] < 0 || got[len(got)-1] > 1100 {
			t.Errorf("last announcement %d ms after the last foreign claim, want within about a second", got[len(got)-1])
		}
	})
}

func TestOwnLinksAreNotForeign(t *testing.T) {
	inBubble(t, func(b *bubble) {
		third := mac{2, 0, 0, 0, 1, 77}
		b.set(Target{"eth0", vip4, openGate()}, Target{"eth1", vip4, nil})
		b.deliver(2, etherARP, claimBy(fakeMAC(1)))
		b.deliver(1, etherARP, claimBy(fakeMAC(1)), claimBy(fakeMAC(2)))
		if len(b.heard) != 0 {
			t.Errorf("heard ourselves: %+v", <-b.heard)
		}
		b.sleep(2 * time.Second)
		b.h.change(func() { b.h.all = append(b.h.all, third) }) // a new link of this node
		b.deliver(1, etherARP, claimBy(third))
		<-b.heard // not known yet; but now it is
		b.deliver(1, etherARP, claimBy(third), claimBy(third))
		if len(b.heard) != 0 {
			t.Error("a link that came later stays foreign")
		}
		lists := b.h.lists
		for range 100 {
			b.deliver(1, etherARP, claimBy(them))
		}
		if b.h.lists > lists+1 {
			t.Errorf("links listed %d times for 100 claims at once", b.h.lists-lists)
		}
	})
}

func TestLinkComesAndGoes(t *testing.T) {
	inBubble(t, func(b *bubble) {
		g := openGate()
		want := []Target{{"eth2", vip4, g}, {"eth2", vip6, g}, {"eth0", vip4, g}}
		have, err := b.Set(t.Context(), want)
		if err == nil || !slices.Equal(have, want[2:]) {
			t.Errorf("Set without eth2: %v, %v", have, err)
		}
		b.sleep(10 * time.Second)
		if warns := strings.Count(b.log.String(), "level=WARN"); warns != 1 {
			t.Errorf("%d warnings, want 1:\n%s", warns, b.log)
		}
		b.h.change(func() { b.h.links["eth2"] = 3 })
		b.sleep(mendMost) // found without being told
		b.set(want...)
		if w := b.h.wire(3, etherARP); len(w.sent) == 0 {
			t.Error("not announced on the new link")
		}

		b.h.change(func() { b.h.links["eth2"] = 4 }) // deleted and made again, one after the other
		b.start = time.Now()
		b.Refresh("eth2")
		if w := b.h.wire(4, etherARP); w == nil || len(w.sent) != 2 || w.sent[0].at != b.start {
			t.Error("not announced at once on the link that replaced the old one")
		}
		synctest.Wait()
		b.set(want...)

		b.h.change(func() { b.h.links["eth2"] = 5 })
		b.deliver(4, etherARP, nil) // its socket says that the link is down
		b.sleep(2 * time.Second)
		if w := b.h.wire(5, etherARP); w == nil || len(w.sent) < 2 {
			t.Error("a link that was replaced silently is not found")
		}
		b.set(want...)
	})
}

func TestRefreshAnnouncesAgain(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.set(Target{"eth0", vip4, openGate()})
		w := b.h.wire(1, etherARP)
		b.h.change(func() { w.err = errors.New("network is down") })
		b.sleep(30 * time.Second)
		if have, err := b.Set(t.Context(), []Target{}); err != nil || len(have) != 0 {
			t.Errorf("Set: %v, %v", have, err)
		}
		g := openGate()
		if have, err := b.Set(t.Context(), []Target{{"eth0", vip4, g}}); err != nil || len(have) != 1 {
			t.Errorf("Set after removal opens a new socket: %v, %v", have, err)
		}
		w = b.h.wire(1, etherARP)
		b.h.change(func() { w.err = errors.New("network is down") })
		b.sleep(30 * time.Second)
		if have, err := b.Set(t.Context(), []Target{{"eth0", vip4, g}}); err == nil || len(have) != 0 {
			t.Errorf("Set while frames cannot be sent: %v, %v", have, err)
		}
		b.h.change(func() { w.err = nil })
		b.start = time.Now()
		b.Refresh("eth0")
		b.sleep(300 * time.Millisecond)
		b.expectFrom(vip4, 0, 0, 20, 20, 100, 100, 250, 250)
		b.set(Target{"eth0", vip4, g})
	})
}

func TestTroubleWithIPv6LeavesIPv4Alone(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.h.joinErr = errors.New("no such device")
		g := openGate()
		want := []Target{{"eth0", vip6, g}, {"eth0", vip4, g}}
		have, err := b.Set(t.Context(), want)
		if err == nil || !slices.Equal(have, want[1:]) {
			t.Errorf("Set: %v, %v", have, err)
		}
		b.sleep(time.Second)
		if n := len(b.h.times(b.start, vip4)); n != 10 {
			t.Errorf("%d frames for IPv4, want 10", n)
		}
		b.h.change(func() { b.h.joinErr = nil })
		b.sleep(mendMost)
		b.set(want...)
	})
}

func TestSetRefusesWhatCannotBe(t *testing.T) {
	inBubble(t, func(b *bubble) {
		g := openGate()
		for _, bad := range []string{"0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1", "::", "::1", "ff02::1", "fe80::1%eth0", "::ffff:192.0.2.1"} {
			have, err := b.Set(t.Context(), []Target{{"eth0", netip.MustParseAddr(bad), g}, {"eth0", vip4, g}})
			if err == nil || len(have) != 1 {
				t.Errorf("%s: have %v, %v", bad, have, err)
			}
		}
		have, err := b.Set(t.Context(), []Target{{"eth0", vip4, g}, {"eth0", vip4, nil}, {"eth0", netip.Addr{}, nil}})
		if err == nil || len(have) != 1 {
			t.Errorf("twice: have %v, %v", have, err)
		}
		b.expect(vip4, 0, 0)
	})
}

func TestProbeTiming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHost()
		start := time.Now()
		if _, found, err := rfc5227.probe(t.Context(), h, "eth0", vip4); found || err != nil {
			t.Errorf("found %v, %v", found, err)
		}
		if took := time.Since(start); took < 4*time.Second || took > 7*time.Second || len(h.wires[0].sent) != probes {
			t.Errorf("%d probes in %v", len(h.wires[0].sent), took)
		}
		for _, f := range h.wires[0].sent {
			if m, err := parse(f.b); err != nil || m.claims.IsValid() || m.asks != vip4 {
				t.Errorf("sent %+v, %v", m, err)
			}
		}
		go func() { time.Sleep(1500 * time.Millisecond); h.wire(1, etherARP).in <- claimBy(them) }()
		start = time.Now()
		if m, found, err := rfc5227.probe(t.Context(), h, "eth0", vip4); m != them || !found || err != nil || time.Since(start) != 1500*time.Millisecond {
			t.Errorf("%v %v %v after %v", m, found, err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, found, err := rfc5227.probe(ctx, h, "eth0", vip4); found || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("cancelled: %v %v", found, err)
		}
	})
}
