package arp

import (
	"slices"
	"testing"
	"time"
)

var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func after(ms float64) time.Time { return epoch.Add(time.Duration(ms * float64(time.Millisecond))) }

// play announces whenever something is due, until the end, and returns when, in ms.
func play(c *course, end, chance float64) (at []float64) {
	for {
		next, ok := c.next()
		if !ok || next.After(after(end)) {
			return at
		}
		c.pass(next, 1, chance)
		at = append(at, float64(next.Sub(epoch))/1e6)
	}
}

func TestCourse(t *testing.T) {
	for _, tt := range []struct {
		name   string
		make   func(*course)
		chance float64
		want   []float64 // ms, until 23 s
	}{
		{"empty", func(*course) {}, 0.5, nil},
		{"take-over then steady", func(c *course) { c.restart(epoch) }, 0.5,
			[]float64{0, 20, 100, 250, 500, 1100, 2100, 12100, 22100}},
		{"steady, shortest", func(c *course) { c.restart(epoch) }, 0,
			[]float64{0, 20, 100, 250, 500, 1100, 2100, 11100, 20100}},
		{"second address of a take-over", func(c *course) { c.restart(epoch.Add(pace)) }, 0.5,
			[]float64{1, 21, 101, 251, 501, 1101, 2101, 12101, 22101}},
		{"defence within a take-over", func(c *course) { c.restart(epoch); c.add(after(50), defence) }, 0.5,
			[]float64{0, 20, 50, 55, 70, 100, 110, 250, 500, 1100, 2100, 12100, 22100}},
		{"defence while steady keeps the repeat", func(c *course) {
			c.restart(epoch)
			c.pass(after(2100), 1, 0.5)
			c.add(after(3000), defence)
		}, 0.5, []float64{3000, 3005, 3020, 3060, 12100, 22100}},
		{"restart drops the rest", func(c *course) { c.restart(epoch); c.pass(after(300), 1, 0); c.restart(after(400)) }, 0.5,
			[]float64{400, 420, 500, 650, 900, 1500, 2500, 12500, 22500}},
		{"a late wake-up serves all that was due", func(c *course) { c.restart(epoch); c.pass(after(400), 1, 0) }, 0.5,
			[]float64{500, 1100, 2100, 12100, 22100}},
		{"late beyond the burst", func(c *course) { c.restart(epoch); c.pass(after(5000), 1, 0.5) }, 0.5, []float64{15000}},
		{"stopped", func(c *course) { c.restart(epoch); c.stop() }, 0.5, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c course
			tt.make(&c)
			if got := play(&c, 23000, tt.chance); !slices.Equal(got, tt.want) {
				t.Errorf("announced at\n%v, want\n%v", got, tt.want)
			}
		})
	}
}

func TestSteady(t *testing.T) {
	for _, tt := range []struct {
		many   int
		chance float64
		want   time.Duration
	}{
		{1, 0, 9 * time.Second}, {1, 0.5, 10 * time.Second}, {1, 0.999999, 11 * time.Second},
		{1000, 0.5, 10 * time.Second}, {5000, 0.5, 50 * time.Second}, {5000, 0, 45 * time.Second},
	} {
		c := course{due: []time.Time{epoch}}
		c.pass(epoch, tt.many, tt.chance)
		if got, _ := c.next(); got.Sub(epoch).Round(time.Millisecond) != tt.want {
			t.Errorf("%d addresses, chance %v: next after %v, want %v", tt.many, tt.chance, got.Sub(epoch), tt.want)
		}
	}
}

func TestContest(t *testing.T) {
	a, b := mac{2, 0, 0, 0, 0, 1}, mac{2, 0, 0, 0, 0, 2}
	const no = -1
	type claim struct {
		ms    float64
		by    mac
		at    float64 // ms when a burst is due, or no
		fresh bool
	}
	for _, tt := range []struct {
		name   string
		claims []claim
	}{
		{"one burst in 4 ms", []claim{{0, a, 0, true}, {1, a, no, false}, {3.9, a, no, false}, {4, a, 4, false}}},
		{"one burst in 4 ms for all stations", []claim{{0, a, 0, true}, {1, b, no, true}, {5, b, 5, false}}},
		{"after three in a second one a second", []claim{
			{0, a, 0, true}, {100, a, 100, false}, {200, a, 200, false},
			{300, a, 1200, false}, {400, a, no, false}, {1199, a, no, false},
			{1200, a, 2200, false}, {2300, a, 3200, false}, {5000, a, 5000, false}, {5010, a, 6000, false}}},
		{"a slow rival is not limited", []claim{
			{0, a, 0, true}, {600, a, 600, false}, {1200, a, 1200, false}, {1800, a, 1800, false}, {2400, a, 2400, false}}},
		{"the limit is for one station", []claim{
			{0, a, 0, true}, {10, a, 10, false}, {20, a, 20, false}, {30, a, 1020, false}, {40, b, 40, true}, {50, b, 50, false}}},
		{"quiet for ten seconds ends the episode", []claim{
			{0, a, 0, true}, {10, a, 10, false}, {20, a, 20, false}, {30, a, 1020, false},
			{10029, a, 10029, false}, {20029, a, 20029, true}, {20040, a, 20040, false}, {20050, a, 20050, false}, {20060, a, 21050, false}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r rivals
			for _, c := range tt.claims {
				at, fresh := r.contest(c.by, after(c.ms))
				var want time.Time
				if c.at != no {
					want = after(c.at)
				}
				if !at.Equal(want) || fresh != c.fresh {
					t.Errorf("claim by %v at %v ms: burst at %v, fresh %v; want %v, %v", c.by, c.ms, at, fresh, want, c.fresh)
				}
			}
		})
	}
}

func TestInventedRivalsAreBounded(t *testing.T) {
	var r rivals
	fresh, bursts := 0, 0
	for i := range 10000 {
		m := mac{2, 0, 0, 0, byte(i >> 8), byte(i)}
		at, f := r.contest(m, after(float64(i)*5))
		if f {
			fresh++
		}
		if !at.IsZero() {
			bursts++
		}
	}
	// 50 s, so each second of flood may find a few episodes over; but not one for each station.
	if len(r.byMAC) > maxRivals+1 || fresh > 120 || bursts > 400 {
		t.Errorf("10000 stations in 50 s: %d kept, %d episodes, %d bursts", len(r.byMAC), fresh, bursts)
	}
}
