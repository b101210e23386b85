package service

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pintle-lb/pintle/leader"
	"github.com/pintle-lb/pintle/vip"
)

// TestFlush: what is forgotten when its turn comes, which is late sometimes. An address that is claimed has connections that live.
func TestFlush(t *testing.T) {
	a := netip.MustParseAddr("192.0.2.1")
	serves := func(f *flush) { f.serves([]vip.Guarded{{Addr: a}}, func(netip.Addr) bool { return false }) }
	ends := func(claimed bool) func(*flush) {
		return func(f *flush) { f.serves(nil, func(netip.Addr) bool { return claimed }) }
	}
	arrives := func(f *flush) { f.arrives(a, f.clock()) }
	begins := func(f *flush) { f.begin() }
	hangs := func(f *flush) { f.arrives(a.Next(), f.clock()); f.begin() }
	now := leader.Instant(0)
	passes := func(*flush) { now = now.Add(time.Minute) }
	leaves := func(f *flush) { serves(f); ends(false)(f) }
	for _, tt := range []struct {
		name   string
		do     []func(*flush)
		late   time.Duration
		forget bool
		waits  bool // right before its turn
	}{
		{"it comes", []func(*flush){arrives}, 0, true, true},
		{"it comes, and is served at once", []func(*flush){arrives, serves}, time.Minute, true, true},
		{"others are looked after", []func(*flush){hangs, arrives, serves}, flushLimit / 2, true, true},
		{"it comes while others are looked after for long", []func(*flush){hangs, passes, arrives, serves}, flushLimit / 2, true, true},
		{"its turn is late", []func(*flush){hangs, arrives, serves}, flushLimit, false, false},
		{"its turn is late, and it was never served", []func(*flush){hangs, arrives}, flushLimit, true, false},
		{"it was served until just now", []func(*flush){serves, arrives}, 0, false, false},
		{"it leaves", []func(*flush){leaves}, time.Minute, true, false},
		{"it leaves, and may still be claimed", []func(*flush){serves, ends(true)}, time.Minute, false, false},
		{"it leaves, and is claimed no more", []func(*flush){serves, ends(true), ends(false)}, time.Minute, true, false},
		{"it leaves and comes again", []func(*flush){leaves, arrives}, time.Minute, true, true},
		{"it leaves and comes again, and its turn is late", []func(*flush){hangs, leaves, arrives, serves}, flushLimit, false, false},
		{"it left, and comes again while that is looked after", []func(*flush){leaves, begins, arrives, serves}, flushLimit, true, true},
		{"it left, and is served again", []func(*flush){leaves, serves}, 0, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now = leader.Instant(time.Hour)
			log := &strings.Builder{}
			f := newFlush(func([]netip.Addr) {}, func() leader.Instant { return now }, slog.New(slog.NewTextHandler(log, nil)))
			for _, do := range tt.do {
				do(f)
			}
			now = now.Add(tt.late)
			if got := f.waits(a, now); got != tt.waits {
				t.Errorf("waits: %v, want %v", got, tt.waits)
			}
			f.end()
			got := f.begin()
			if slices.Contains(got, a) != tt.forget || f.waits(a, now.Add(time.Hour)) != tt.forget {
				t.Errorf("forgets %v, and it waits meanwhile: %v; want %v", got, f.waits(a, now.Add(time.Hour)), tt.forget)
			}
			if late := !tt.forget && tt.late == flushLimit; strings.Contains(log.String(), "addresses=1") != late {
				t.Errorf("says %q", log)
			}
			if f.end(); f.waits(a, now) {
				t.Error("waits when all is done")
			}
		})
	}
}

// TestFlushTurns: an address that comes while others are looked after has its turn with the next ones.
func TestFlushTurns(t *testing.T) {
	const takes = 30 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		start, log := time.Now(), &strings.Builder{}
		clock := func() leader.Instant { return leader.Instant(1 + time.Since(start)) }
		turns := 0
		f := newFlush(func([]netip.Addr) { turns++; time.Sleep(takes) }, clock, slog.New(slog.NewTextHandler(log, nil)))
		ctx, cancel := context.WithCancel(t.Context())
		var g sync.WaitGroup
		g.Go(func() { _ = f.run(ctx, func() {}) })
		came := map[netip.Addr]time.Time{}
		a := netip.MustParseAddr("192.0.2.0")
		for i := range 200 {
			time.Sleep(5 * time.Millisecond)
			for b, at := range came {
				if f.waits(b, clock()) {
					continue
				}
				if took, most := time.Since(at), 2*takes+flushRestMost+5*time.Millisecond; took > most {
					t.Errorf("%s waited %v, want %v at most", b, took, most)
				}
				delete(came, b)
			}
			if i < 150 {
				a = a.Next()
				came[a] = time.Now()
				f.arrives(a, clock())
				f.serves([]vip.Guarded{{Addr: a}}, func(netip.Addr) bool { return true })
			}
		}
		cancel()
		if len(came) > 0 || log.Len() > 0 {
			t.Errorf("%d addresses wait still; log: %s", len(came), log)
		}
		g.Wait()
		if turns > 4 { // a crowd of 0.75 s
			t.Errorf("%d turns", turns)
		}
	})
}
