package status

import (
	"time"

	"github.com/pintle-lb/pintle/leader"
)

// The states that only the election by a Lease has.
const (
	CutOff   State = "cut off"   // it cannot do its part at the API now
	NoHolder State = "no holder" // it knows of nobody who holds
	Watching State = "watcher"   // it never holds
)

// leaseState is state where a Lease elects.
func (r *Report) leaseState() (State, string) {
	l, holder := r.Lease, r.leaseHolder()
	switch {
	case r.holding():
		return Holding, because(r.holderWords(), "; the last call to the API failed: ", l.Error)
	case l.Seen.IsZero():
		return Joining, because("it has not read the Lease "+l.Object+" yet", ": ", l.Error)
	case r.standing():
		return Standing, "it reads the Lease a last time and takes it"
	case l.Error != "":
		return CutOff, "it takes no part in elections: " + l.Error
	case holder == "":
		return NoHolder, "nobody renews the Lease; whoever may hold takes it when its term has ended"
	case !r.Candidate:
		return Watching, "it never holds the address; the holder is " + holder
	case !r.Healthy:
		return Unhealthy, r.Unhealthy + "; it takes the address only if no healthy node does"
	}
	return Following, "it takes over when " + holder + " is gone"
}

// because adds a cause, if there is one.
func because(words, joint, cause string) string {
	if cause == "" {
		return words
	}
	return words + joint + cause
}

// leaseHolder is who holds by the Lease. A node that never holds has no seat that
// would say so, and must see itself whether the object is old.
func (r *Report) leaseHolder() string {
	for _, s := range r.Seats {
		return s.Holder
	}
	if r.at().Sub(r.Lease.Seen) > r.Lease.Duration+time.Second {
		return ""
	}
	return r.Lease.Holder
}

// at is when the report was made.
func (r *Report) at() time.Time {
	if r.At.IsZero() {
		return time.Now()
	}
	return r.At
}

// lease describes the Lease object and the API servers.
func (p *printer) lease(l *leader.KubeStatus) {
	seen := "not read yet"
	if !l.Seen.IsZero() {
		seen = "changed " + p.ago(l.Seen) + " ago"
	}
	p.line("lease      %s of %v, %s; %d reads, %d writes, %d watches so far", l.Object, l.Duration, seen, l.Reads, l.Writes, l.Watches)
	for _, s := range l.Servers {
		words := "not asked yet"
		switch {
		case s.Error != "" && s.Seen.IsZero():
			words = "has never answered: " + s.Error
		case s.Error != "":
			words = "answered " + p.ago(s.Seen) + " ago and not since: " + s.Error
		case s.URL == l.Server:
			words = "in use, answered " + p.ago(s.Seen) + " ago"
		case !s.Seen.IsZero():
			words = "answered " + p.ago(s.Seen) + " ago"
		}
		p.line("server     %s %s", s.URL, words)
	}
}
