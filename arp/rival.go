package arp

import "time"

const (
	defendGap  = 4 * time.Millisecond // at most one burst for an address in this time
	fightSpan  = time.Second          // with fightMax bursts against one station within it ...
	fightMax   = 3
	fightPause = time.Second      // ... at most one in this time, until the station was quiet for
	quiet      = 10 * time.Second // (DEFEND_INTERVAL of RFC 5227): an episode is over
	maxRivals  = 16               // stations told apart; a flood of invented ones is one more
)

// A rival is another station that claims one of our addresses: one episode of it.
type rival struct {
	heard   time.Time           // its latest claim
	bursts  [fightMax]time.Time // when our latest bursts against it began; the newest is the last
	limited bool                // it goes on in spite of them: two stubborn defenders must not fill the network
}

// rivals are the stations that claim one address of ours. The zero value is ready.
type rivals struct {
	byMAC map[mac]*rival
	last  time.Time // when the latest immediate burst for the address began
}

// contest takes note of a foreign claim by m. A burst of announcements is due at the returned time; the zero time says that
// a burst that runs or is due already answers the claim. fresh is true for the first claim of an episode.
func (r *rivals) contest(m mac, now time.Time) (at time.Time, fresh bool) {
	v, fresh := r.meet(m, now)
	v.heard = now
	newest := v.bursts[fightMax-1]
	if newest.After(now) {
		return time.Time{}, fresh
	}
	if oldest := v.bursts[0]; !oldest.IsZero() && now.Sub(oldest) < fightSpan {
		v.limited = true
	}
	at = now
	if next := newest.Add(fightPause); v.limited && next.After(now) {
		at = next // later, but not never: else the rival would have the last word
	}
	if at.Equal(now) {
		if now.Sub(r.last) < defendGap {
			return time.Time{}, fresh
		}
		r.last = now
	}
	copy(v.bursts[:], v.bursts[1:])
	v.bursts[fightMax-1] = at
	return at, fresh
}

// meet returns the running episode of m, or begins one.
func (r *rivals) meet(m mac, now time.Time) (v *rival, fresh bool) {
	if r.byMAC == nil {
		r.byMAC = make(map[mac]*rival)
	}
	for other, v := range r.byMAC {
		if now.Sub(v.heard) >= quiet {
			delete(r.byMAC, other)
		}
	}
	if v, ok := r.byMAC[m]; ok {
		return v, false
	}
	if len(r.byMAC) >= maxRivals {
		m = mac{} // one rival for all beyond
		if v, ok := r.byMAC[m]; ok {
			return v, false
		}
	}
	v = new(rival)
	r.byMAC[m] = v
	return v, true
}
