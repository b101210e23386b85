package hearsay

import (
	"strings"
	"testing"
	"time"

	"github.com/pintle-lb/pintle/arp"
	"github.com/pintle-lb/pintle/leader"
)

var _ arp.Gate = (*Gate)(nil)

// A gate's life, a column for each second. The lease is made at 0 and ends at 5, the node is alone in its cluster, so that what it
// says of the API is the majority.
//
//	api   . it answers   A it is away
//	do    e the lease is extended to 5 s from now   r it is revoked   d Drop   a space or nothing: nothing
//	ask   . the gate is not asked in this second (a space or nothing: it is)
//	want  v valid by the lease   k kept   . shut
var lives = []struct{ name, api, do, ask, want string }{
	{"the API answers", "..........", "", "", "vvvvv....."},
	{"away before the end", "...AAAAAAA", "", "", "vvvvvkkkkk"},
	{"away in the last moment", "....AAAAAA", "", "", "vvvvvkkkkk"},
	{"away at the very end", ".....AAAAA", "", "", "vvvvvkkkkk"},
	{"away too late", "......AAAA", "", "", "vvvvv....."},
	{"away too late, and not asked meanwhile", "......AAAA", "", "     ..", "vvvvv....."},
	{"it comes back", "...AAAA...", "", "", "vvvvvkk..."},
	{"it comes back and goes again: shut for good", "...AAAA.AA", "", "", "vvvvvkk..."},
	{"the same, not asked at that moment", "...AAAA.AA", "", "       .", "vvvvvkk..."},
	{"a break before the end does not matter", ".AA.AAAAAA", "", "", "vvvvvkkkkk"},
	{"away and back before the end", ".AA.......", "", "", "vvvvv....."},
	{"the lease is renewed once more", "...AAAAAAAAA", "   e", "", "vvvvvvvvkkkk"},
	{"renewed, and the API answers at the end", "...A....AAAA", "   e", "", "vvvvvvvvkkkk"},
	{"renewed too late: the API answered", "...AAAAAAA", "      e", "", "vvvvvk...."},
	{"revoked before the end", "...AAAAAAA", "    r", "", "vvvv......"},
	{"revoked, and away from the first", "AAAAAAAAAA", "    r", "", "vvvv......"},
	{"revoked after the end", "...AAAAAAA", "       r", "", "vvvvvkk..."},
	{"a rival after the end", "...AAAAAAA", "       d", "", "vvvvvkk..."},
	{"a rival shortly before the end", "...AAAAAAA", "   d", "", "vvvvv....."},
	{"a rival at the end", "...AAAAAAA", "     d", "", "vvvvv....."},
	{"a rival eleven seconds before the end", "..........AAAAAAAA", "   ed  e  e", "", "vvvvvvvvvvvvvvvkkk"},
	{"a rival nine seconds before the end", "..........AAAAAAAA", "   e  de  e", "", "vvvvvvvvvvvvvvv..."},
}

func TestGate(t *testing.T) {
	for _, l := range lives {
		t.Run(l.name, func(t *testing.T) {
			now := leader.Instant(0)
			c := aloneAt(&now)
			lease := leader.NewLease(c.cfg.Clock, now.Add(5*time.Second))
			gate := c.Gate(lease)
			var got strings.Builder
			for i := range l.want {
				now = leader.Instant(time.Duration(i) * time.Second)
				c.SetAway(column(l.api, i) == 'A')
				switch column(l.do, i) {
				case 'e':
					lease.Extend(now.Add(5 * time.Second))
				case 'r':
					lease.Revoke()
				case 'd':
					gate.Drop()
				}
				if column(l.ask, i) == '.' {
					got.WriteByte(l.want[i])
					continue
				}
				got.WriteByte(look(gate))
			}
			if got.String() != l.want {
				t.Errorf("api  %s\ndo   %s\ngot  %s\nwant %s", l.api, l.do, got.String(), l.want)
			}
		})
	}
}

func column(s string, i int) byte {
	if i < len(s) {
		return s[i]
	}
	return ' '
}

func look(g *Gate) byte {
	switch open, kept := g.Valid(), g.Kept(); {
	case open && kept:
		return 'k'
	case open:
		return 'v'
	case kept:
		return '?'
	}
	return '.'
}

// aloneAt returns the Circle of the only node of a cluster, which runs by the clock that now is.
func aloneAt(now *leader.Instant) *Circle {
	c := New(Config{Node: "n1", Clock: func() leader.Instant { return *now }})
	c.SetPeers([]Peer{{Name: "n1"}})
	c.setRuns(true)
	return c
}

func TestGateOnNothing(t *testing.T) {
	now := at(0)
	c := aloneAt(&now)
	c.SetAway(true)
	over := leader.NewLease(c.cfg.Clock, now.Add(time.Second))
	now = now.Add(time.Second)
	if !c.Lost() {
		t.Fatal("not lost")
	}
	for name, lease := range map[string]*leader.Lease{"no lease": nil, "a lease that has run out": over} {
		if g := c.Gate(lease); g.Valid() || g.Kept() {
			t.Errorf("a gate on %s is open", name)
		}
	}
}

// A process that stands still hears nothing and notes nothing. It must not claim when it goes on, before it has done either.
func TestGateOfFrozenProcess(t *testing.T) {
	now := at(0)
	c := New(Config{Node: "n1", Clock: func() leader.Instant { return now }})
	c.SetPeers(peersUpTo(2))
	c.setRuns(true)
	c.SetAway(true)
	other := village(2)["n2"]
	other.away = true
	gate := c.Gate(leader.NewLease(c.cfg.Clock, now.Add(time.Second)))
	c.change(func(leader.Instant) { meet(t, other, &c.tally, now) })
	now = at(1200 * ms)
	if !gate.Valid() || !gate.Kept() || !c.Lost() {
		t.Fatal("shut while both say away")
	}
	now = at(time.Minute)
	if gate.Valid() || gate.Kept() || c.Lost() {
		t.Error("open by what was heard a minute ago")
	}
	c.change(func(leader.Instant) { meet(t, other, &c.tally, now) })
	if !c.Lost() || gate.Valid() {
		t.Errorf("after new reports: lost %v, want true; open %v, want false", c.Lost(), gate.Valid())
	}
}

// Two gates on one lease are two.
func TestGatesAreTold(t *testing.T) {
	now := at(0)
	c := aloneAt(&now)
	c.SetAway(true)
	lease := leader.NewLease(c.cfg.Clock, now.Add(time.Second))
	var a, b arp.Gate = c.Gate(lease), c.Gate(lease)
	if a == b {
		t.Error("gates of two addresses are the same")
	}
	now = now.Add(time.Second)
	a.(*Gate).Drop()
	if a.Valid() || !b.Valid() {
		t.Errorf("a rival of the one address: %v %v, want shut and open", a.Valid(), b.Valid())
	}
}

// A renewal that comes while the gate is asked must not shut it: the deadline that it read is then of before.
func TestGateAndRenewal(t *testing.T) {
	now := at(0)
	c := aloneAt(&now)
	var lease *leader.Lease
	renew := func() {}
	c.cfg.Clock = func() leader.Instant {
		renew()
		return now
	}
	lease = leader.NewLease(func() leader.Instant { return now }, now.Add(time.Second))
	gate := c.Gate(lease)
	now = now.Add(time.Second - 1)
	renew = func() { // right before the clock is read, and then this goroutine stands still for a while
		renew = func() {}
		lease.Extend(now.Add(time.Minute))
		now = now.Add(time.Second)
	}
	if !gate.Valid() {
		t.Error("shut by a deadline that was renewed")
	}
}

func TestGateAllocatesNothing(t *testing.T) {
	now := at(0)
	c := aloneAt(&now)
	c.SetAway(true)
	gate := c.Gate(leader.NewLease(c.cfg.Clock, now.Add(time.Second)))
	now = now.Add(2 * time.Second)
	if n := testing.AllocsPerRun(100, func() {
		if !gate.Valid() {
			t.Fatal("shut")
		}
	}); n != 0 {
		t.Errorf("%v allocations for each frame", n)
	}
}
