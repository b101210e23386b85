package arp

import (
	"slices"
	"time"
)

// takeOver is when a new holder announces its address, after the moment it may. The first one moves the clients; the repeats
// are for lost frames, for switches that were not ready, and (beyond 1 s) for kernels that ignore a second change of a
// neighbour within their locktime.
var takeOver = []time.Duration{
	0, 20 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	1100 * time.Millisecond, 2100 * time.Millisecond,
}

// defence is when an address is announced after a foreign claim. The last word must be ours, hence the repeats.
var defence = []time.Duration{0, 5 * time.Millisecond, 20 * time.Millisecond, 60 * time.Millisecond}

const (
	pace   = time.Millisecond      // between the first announcements of two addresses that are taken over together
	steady = 10 * time.Second      // between announcements once a take-over is done, less or more a tenth
	share  = 10 * time.Millisecond // of that time for each address of a link: a hundred repeats a second are enough for everybody on it
	gather = 10 * time.Microsecond // for each address: what is due in that time is announced together
)

// A course is when one address is to be announced: what is left of its bursts, then for ever each steady interval.
// The zero course is empty: nothing is due.
type course struct {
	due []time.Time // sorted
}

// restart begins a take-over burst at start; whatever was left before is dropped.
func (c *course) restart(start time.Time) {
	c.due = c.due[:0]
	c.add(start, takeOver)
}

// add puts a burst that begins at start beside what is left.
func (c *course) add(start time.Time, burst []time.Duration) {
	for _, after := range burst {
		c.due = append(c.due, start.Add(after))
	}
	slices.SortFunc(c.due, time.Time.Compare)
}

// stop empties the course.
func (c *course) stop() { c.due = nil }

// next is when the next announcement is due; ok is false if the course is empty.
func (c *course) next() (at time.Time, ok bool) {
	if len(c.due) == 0 {
		return time.Time{}, false
	}
	return c.due[0], true
}

// pass takes out what was due until now, which one announcement serves: a late wake-up does not flush a row of them. After
// the last of a burst the steady repeats begin; many is how many addresses the link has, chance in [0, 1) places the next one.
func (c *course) pass(now time.Time, many int, chance float64) {
	if len(c.due) == 0 {
		return
	}
	left := slices.IndexFunc(c.due, func(at time.Time) bool { return at.After(now) })
	if left < 0 {
		wait := time.Duration((0.9 + 0.2*chance) * float64(max(steady, time.Duration(many)*share)))
		c.due = append(c.due[:0], now.Add(wait))
		return
	}
	c.due = slices.Delete(c.due, 0, left)
}
