package service

import (
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pintle-lb/pintle/leader"
)

// TestTakesSeat: a vacant seat is taken by the first node of those that are alive, and by each further one a little later.
func TestTakesSeat(t *testing.T) {
	const now = leader.Instant(time.Hour)
	for _, c := range []struct {
		name   string
		node   string
		change func(f *Facts)
		take   bool
		after  time.Duration // -1: not until there is news
	}{
		{"the first", "n1", nil, true, 0},
		{"the second", "n2", nil, false, seatStep},
		{"the third", "n3", nil, false, 2 * seatStep},
		{"the third when it is time", "n3", func(f *Facts) { f.Seat.vacant = now.Add(-2 * seatStep) }, true, 0},
		{"before it is dead", "n2", func(f *Facts) { f.speaks("n1", func(m *Fellow) { m.Alive = false }) }, true, 0},
		{"before it is leaving", "n2", func(f *Facts) { f.speaks("n1", func(m *Fellow) { m.Word.Leaving = true }) }, true, 0},
		{"somebody sits there", "n1", func(f *Facts) { f.Seat.Node, f.Seat.Epoch = "n2", 3 }, false, -1},
		{"whose epoch is over", "n1", func(f *Facts) { f.Seat.Node, f.Seat.Epoch = "n2", 2 }, true, 0},
		{"whose Lease is not seen any more, but not fenced", "n1", func(f *Facts) {
			f.Seat.Node, f.Seat.Epoch = "n2", 3
			f.speaks("n2", func(m *Fellow) { m.Alive = false })
		}, false, -1},
		{"who is not known", "n1", func(f *Facts) { f.Seat.Node, f.Seat.Epoch = "n9", 1 }, false, -1},
		{"this node in an epoch that is over", "n1", func(f *Facts) { f.Seat.Node, f.Seat.Epoch = "n1", 2 }, true, 0},
		{"the seat was not looked for", "n1", func(f *Facts) { f.Seat.known = false }, false, -1},
		{"without a Lease", "n1", func(f *Facts) { f.Lease.Revoke() }, false, -1},
		{"leaving", "n1", func(f *Facts) { f.Leaving = true }, false, -1},
		{"before all was listed", "n1", func(f *Facts) { f.Synced = false }, false, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := someFacts("n1", "n2", "n3")
			f.Node, f.Now, f.Epoch, f.Synced = c.node, now, 3, true
			f.Lease = leader.NewLease(func() leader.Instant { return f.Now }, now.Add(time.Second))
			f.Seat.known = true
			if c.change != nil {
				c.change(f)
			}
			take, at := f.takesSeat()
			switch {
			case take != c.take:
				t.Errorf("takes it: %v", take)
			case c.after < 0 && at != 0, c.after > 0 && at.Sub(now) != c.after:
				t.Errorf("asks again after %v, want %v", at.Sub(now), c.after)
			}
		})
	}
}

// TestSeatRecord: the seat is read as it was written, keeps what others wrote beside it, and what is not ours names nobody.
func TestSeatRecord(t *testing.T) {
	var none SeatRecord
	o := none.write("pintle-system", "n1", 7, time.Now())
	s := readSeat(o)
	if s.Node != "n1" || s.Epoch != 7 || !s.known || o.Name != seatName || o.Namespace != "pintle-system" || *o.Spec.HolderIdentity != "n1" {
		t.Errorf("%+v from %+v", s, o)
	}
	o.ResourceVersion, o.UID, o.Labels["team"] = "12", "u1", "red"
	s = readSeat(o)
	if next := s.write("pintle-system", "", 0, time.Now()); next.ResourceVersion != "12" || next.UID != "u1" || next.Labels["team"] != "red" || readSeat(next).Node != "" {
		t.Errorf("%+v", next)
	}
	if s := readSeat(nil); !s.known || s.Node != "" {
		t.Errorf("none: %+v", s)
	}
	if s := readSeat(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "3", Annotations: map[string]string{seatNote: "{"}}}); s.Node != "" || !s.known || s.version != 3 {
		t.Errorf("nonsense: %+v", s)
	}
}
