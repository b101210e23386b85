package leader

import (
	"fmt"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
)

// sec is a time in the tables below, in which T is 10 s.
func sec(seconds float64) Instant {
	return Instant(time.Hour) + Instant(seconds*float64(time.Second))
}

const tableT = 10 * time.Second

// seen is a state that came at 0 s, by a read that was sent then too.
func seen(r record) sighting {
	s := sight(&coordinationv1.Lease{})
	s.record, s.print = r, r.Process+r.Holder
	return s
}

func TestHeirRule(t *testing.T) {
	dead := record{Holder: "n1", Process: "dead", Epoch: 5, Seq: 9, Millis: 10000, Heir: "host 1"}
	with := func(change func(*record)) record {
		r := dead
		change(&r)
		return r
	}
	own := with(func(r *record) { r.Process = "own" })
	held := func(b *bid) { b.epoch, b.sent = 5, sec(-100) }
	for _, tt := range []struct {
		name  string
		r     record
		bid   func(*bid)
		after float64 // seconds since the read
		want  act
	}{
		{"its dead predecessor held", dead, nil, 0.5, doTake},
		{"the read is long ago", dead, nil, 1.5, doLook},
		{"its dead predecessor gave up", with(func(r *record) { r.Released = "n1/5" }), nil, 0.5, doTake},
		{"it has no heir itself", dead, func(b *bid) { b.heir = "" }, 0.5, doNothing},
		{"neither has one", with(func(r *record) { r.Heir = "" }), func(b *bid) { b.heir = "" }, 0.5, doNothing},
		{"another host's process of its name held", with(func(r *record) { r.Heir = "host 2" }), nil, 0.5, doNothing},
		{"a node of another name held", with(func(r *record) { r.Holder = "n2" }), nil, 0.5, doNothing},
		{"its predecessor only made the object", with(func(r *record) { r.Forming, r.Holder, r.Epoch = true, "", 0 }), nil, 0.5, doNothing},
		{"another node fenced it", record{Process: "other", Epoch: 6, Millis: 10000, Fenced: "n2"}, nil, 0.5, doNothing},
		{"it held itself, after the record", dead, func(b *bid) { b.epoch = 6 }, 0.5, doNothing},
		{"its own tenure ran out", own, held, 0.5, doRenew},
		{"its own tenure ran out, and it did not look", own, held, 1.5, doLook},
		{"its own tenure was ended", own, func(b *bid) { held(b); b.gone = true }, 0.5, doNothing},
		{"its own tenure is used up", own, func(b *bid) { held(b); b.raise(5) }, 0.5, doTake},
		{"it gave its own tenure up", with(func(r *record) { r.Process, r.Released = "own", "n1/5" }), held, 0.5, doNothing},
		{"its own tenure ran out without an heir", own, func(b *bid) { held(b); b.heir = "" }, 0.5, doNothing},
		{"it does not stand", dead, func(b *bid) { b.wanted = false }, 0.5, doNothing},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := sec(0)
			b := &bid{view: view{t: tableT}, node: "n1", process: "own", heir: "host 1", clock: func() Instant { return now },
				candidate: true, wanted: true, healthy: true, writes: map[uint64]written{}}
			if tt.bid != nil {
				tt.bid(b)
			}
			b.see(now, seen(tt.r), now)
			now = sec(tt.after)
			got, _ := b.next(now)
			if got != tt.want {
				t.Fatalf("does %d, want %d", got, tt.want)
			}
			if got != doTake && got != doRenew {
				return
			}
			was := b.epoch
			r := b.draft(got, now, nil, "")
			if r.Heir != "host 1" || got == doTake && r.Epoch <= max(tt.r.Epoch, was) || got == doRenew && r.Epoch != was {
				t.Errorf("writes %+v", r)
			}
			b.see(now, seen(r), 0)
			if !b.lease.Valid() || b.lease.Until() != now.Add(hold(tableT)) {
				t.Errorf("the lease is until %v", b.lease.Until())
			}
		})
	}
}

// TestRestoredTenure: what was put back from a backup may say that this node
// holds, while its successor does.
func TestRestoredTenure(t *testing.T) {
	took := record{Holder: "n1", Process: "own", Epoch: 5, Seq: 1, Millis: 10000}
	renewed, other := took, record{Holder: "n2", Process: "other", Epoch: 6, Seq: 1, Millis: 10000}
	renewed.Seq = 2
	for _, tt := range []struct {
		name    string
		resigns bool
		sees    []record
		want    act
	}{
		{"it resigns", true, []record{took, renewed}, doOffer},
		{"it resigns, and its first write comes back", true, []record{took, renewed, took}, doNothing},
		{"it resigns, another takes the seat, and its last write comes back", true, []record{took, renewed, other, renewed}, doNothing},
		{"it resigns, another takes the seat, and its first write comes back", true, []record{took, renewed, other, took}, doNothing},
		{"it holds", false, []record{took, renewed}, doNothing},
		{"it holds, and its first write comes back", false, []record{took, renewed, took}, doRenew},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := sec(0)
			b := &bid{view: view{t: tableT}, node: "n1", process: "own", clock: func() Instant { return now }, candidate: true, wanted: true, healthy: true,
				writes: map[uint64]written{1: {epoch: 5, at: now}, 2: {epoch: 5, at: now}}, seq: 2, lastWrite: now}
			for i, r := range tt.sees {
				if i == 2 && tt.resigns {
					b.want(false)
				}
				now = now.Add(time.Second)
				s := seen(r)
				s.print = fmt.Sprint(i)
				b.see(now, s, now)
			}
			if tt.resigns {
				b.want(false)
			}
			if got, _ := b.next(now); got != tt.want {
				t.Errorf("does %d, want %d", got, tt.want)
			}
		})
	}
}

func TestNoteRule(t *testing.T) {
	for _, tt := range []struct {
		name    string
		note    string
		wrote   float64 // when it last wrote
		now     float64
		want    act
		asAfter float64 // when to ask again
	}{
		{"no news", "old", 0, 1, doNothing, 10. / 3},
		{"news", "new", 0, 1, doRenew, 0},
		{"news at once after a write", "new", 0.8, 1, doNothing, 1.3},
		{"the note is dropped", "", 0, 1, doRenew, 0},
		{"no news when it is time to renew", "old", 0, 4, doRenew, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := sec(0)
			b := &bid{view: view{t: tableT}, node: "n1", process: "own", clock: func() Instant { return now }, candidate: true, wanted: true, healthy: true,
				note: "old", writes: map[uint64]written{}}
			b.see(now, seen(record{}), now)
			r := b.draft(doTake, now, nil, "")
			if r.Note != "old" {
				t.Fatalf("the take says %q", r.Note)
			}
			b.see(now, seen(r), 0)
			b.note, b.lastWrite = tt.note, sec(tt.wrote)
			now = sec(tt.now)
			got, again := b.next(now)
			if got != tt.want || got == doNothing && again.Sub(sec(tt.asAfter)).Abs() > time.Millisecond {
				t.Fatalf("does %d, asks again at %v", got, again.Sub(sec(0)))
			}
			if got == doRenew {
				if r := b.draft(got, now, nil, ""); r.Note != tt.note {
					t.Errorf("the renewal says %q", r.Note)
				}
			}
		})
	}
}

func TestFenceRule(t *testing.T) {
	held := record{Holder: "n2", Process: "p", Epoch: 5, Seq: 9, Millis: 10000}
	need := func(epoch uint64) func(*ward) { return func(w *ward) { w.needed, w.need = true, epoch } }
	absent := sight(nil)
	for _, tt := range []struct {
		name   string
		s      sighting
		ward   func(*ward)
		looked float64 // when the state was read again; 0 for not
		now    float64
		back   float64
		lag    time.Duration
		want   act
		again  float64 // when to ask again; 0 for not
	}{
		{"nobody needs it, it is alive", seen(held), nil, 0, 1, -100, 0, doNothing, 7},
		{"nobody needs it, and it is silent", seen(held), nil, 0, 8, -100, 0, doLook, 0},
		{"nobody needs it, and it is gone", seen(held), nil, 8, 11, -100, 0, doNothing, 0},
		{"it is alive", seen(held), need(5), 0, 1, -100, 0, doNothing, 7},
		{"it is silent", seen(held), need(5), 0, 8, -100, 0, doLook, 0},
		{"not yet", seen(held), need(5), 8, 9.9, -100, 0, doNothing, 10},
		{"it is due, but not read since", seen(held), need(5), 8, 10.1, -100, 0, doLook, 0},
		{"it is due, and was read long ago", seen(held), need(5), 10.1, 11.2, -100, 0, doLook, 0},
		{"it is due and was read", seen(held), need(5), 10.1, 10.2, -100, 0, doFence, 0},
		{"who stands by is later", seen(held), need(5), 10.1, 10.2, -100, 2 * time.Second, doNothing, 12},
		{"who stands by comes at last", seen(held), need(5), 12.1, 12.2, -100, 2 * time.Second, doFence, 0},
		{"a long lag keeps the state in sight", seen(held), need(5), 0, 15, -100, time.Minute, doLook, 0},
		{"a lower epoch is needed than it has", seen(held), need(4), 10.1, 10.2, -100, 0, doNothing, 0},
		{"a higher epoch is needed than it has", seen(held), need(7), 10.1, 10.2, -100, 0, doFence, 0},
		{"it is this node", seen(held), func(w *ward) { need(5)(w); w.self = true }, 10.1, 10.2, -100, 0, doNothing, 0},
		{"it was fenced already", seen(record{Process: "q", Epoch: 6, Millis: 10000, Fenced: "n3"}), need(5), 10.1, 10.2, -100, 0, doNothing, 0},
		{"it was fenced too low", seen(record{Process: "q", Epoch: 6, Millis: 10000, Fenced: "n3"}), need(6), 10.1, 10.2, -100, 0, doFence, 0},
		{"it gave up", seen(record{Holder: "n2", Process: "p", Epoch: 5, Seq: 9, Millis: 10000, Released: "n2/5"}), need(5), 0, 1, -100, 0, doNothing, 10},
		{"its T is longer", seen(record{Holder: "n2", Process: "p", Epoch: 5, Millis: 20000}), need(5), 10.1, 10.2, -100, 0, doNothing, 20},
		{"it is absent", absent, need(5), 0, 1, -100, 0, doNothing, 5},
		{"it is absent for a while", absent, need(5), 5.1, 5.2, -100, 0, doReserve, 0},
		{"it is absent and nobody needs it", absent, nil, 5.1, 5.2, -100, 0, doNothing, 0},
		{"it was just made", seen(record{Process: "q", Millis: 10000, Forming: true, Fenced: "n3", High: 5}), need(5), 5.1, 5.2, -100, 0, doNothing, 10},
		{"it was made long enough ago", seen(record{Process: "q", Millis: 10000, Forming: true, Fenced: "n3", High: 5}), need(5), 10.1, 10.2, -100, 0, doFence, 0},
		{"the API is just back", seen(held), need(5), 12.1, 12.2, 12, 0, doNothing, 12 + 10./3},
		{"the API was back when it was seen", seen(held), need(5), 10.1, 10.2, 0, 0, doNothing, 10 + 10./3},
		{"owners had their time", seen(held), need(5), 13.5, 13.6, 0, 0, doFence, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &ward{view: view{t: tableT}, node: "n2"}
			w.see(sec(0), tt.s, sec(0))
			if tt.ward != nil {
				tt.ward(w)
			}
			if tt.looked != 0 {
				w.see(sec(tt.looked), tt.s, sec(tt.looked))
			}
			got, again := w.next(sec(tt.now), sec(tt.back), tt.lag)
			if got != tt.want {
				t.Fatalf("does %d, want %d", got, tt.want)
			}
			if got == doNothing && (tt.again == 0) != (again == 0) || tt.again != 0 && again.Sub(sec(tt.again)).Abs() > time.Millisecond {
				t.Errorf("asks again at %v", again.Sub(sec(0)))
			}
			if got == doFence {
				if r := w.draft(got, record{Process: "own", Fenced: "n1"}, 0); r.Epoch <= max(w.need, tt.s.record.Epoch) || r.held() || r.Heir != "" {
					t.Errorf("writes %+v", r)
				}
			}
		})
	}
}

// A state that was not read for 2 T may have changed and come back.
func TestFenceAfterSilence(t *testing.T) {
	s := seen(record{Holder: "n2", Process: "p", Epoch: 5, Millis: 10000})
	w := &ward{view: view{t: tableT}, node: "n2"}
	w.see(sec(0), s, sec(0))
	w.needed, w.need = true, 5
	w.see(sec(25), s, sec(25))
	if got, again := w.next(sec(25.1), sec(-100), 0); got != doNothing || again.Sub(sec(35)).Abs() > time.Millisecond {
		t.Errorf("does %d, asks again at %v", got, again.Sub(sec(0)))
	}
	if w.alive(sec(25.1)) {
		t.Error("what is unchanged for 25 s is alive")
	}
}

func TestAliveAfterAnEdit(t *testing.T) {
	held := record{Holder: "n2", Process: "p", Epoch: 5, Seq: 9, Millis: 10000}
	edited := seen(held)
	edited.print = "edited"
	for _, tt := range []struct {
		name   string
		s      sighting
		edited float64
		alive  bool
	}{
		{"of one that is alive", edited, 8, true},
		{"of one that is gone", edited, 12, false},
		{"emptied while it is alive", seen(record{}), 8, true},
		{"emptied while it is gone", seen(record{}), 12, false},
		{"deleted while it is alive", sight(nil), 8, true},
		{"deleted while it is gone", sight(nil), 12, false},
		{"renewed", seen(record{Holder: "n2", Process: "p2", Epoch: 6, Seq: 1, Millis: 10000}), 12, true},
		{"given up", seen(record{Holder: "n2", Process: "p3", Epoch: 5, Seq: 10, Millis: 10000, Released: "n2/5"}), 8, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &ward{view: view{t: tableT}, node: "n2"}
			w.see(sec(0), seen(held), 0)
			w.see(sec(tt.edited), tt.s, 0)
			if got := w.alive(sec(13)); got != tt.alive {
				t.Errorf("alive %v", got)
			}
			if w.alive(sec(tt.edited + 10)) {
				t.Error("alive for longer than T")
			}
		})
	}
}
