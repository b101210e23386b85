package leader

import (
	"time"
)

// A ward is what this node knows of the Lease of a node, and the rule by which it
// fences the node: like bid a pure value. A fence is a take-over by which
// nobody takes over, and bid's rule for one holds: an update of exactly the state
// that was seen unchanged for T, the longest T of this node's own, the record's and
// that of the record before, and that a read of the quorum has just shown again.
// What is absent is made first, and what was made is waited for. There is no release
// to be believed and no heir.
type ward struct {
	view
	node string
	self bool // it is this node, which does not fence itself

	since   Instant // when the state was first seen
	last    record  // the last that could be understood
	until   Instant // when the holder of last is not counted on any more
	missing bool    // the watch says that there is no object

	needed bool
	need   uint64 // the epoch that has to be over
	lane   lane
	told   RollMember
}

// see takes a state of the object: see view.
func (w *ward) see(now Instant, s sighting, read Instant) {
	if s.object != nil {
		w.missing = false
	} else if read != 0 {
		w.missing = true
	}
	if !w.view.see(now, s, read) {
		return
	}
	r := &s.record
	foreign := r.Epoch == 0 || r.Process == w.last.Process && r.Epoch == w.last.Epoch && r.Seq == w.last.Seq
	if !foreign || w.alive(now) { // the next renewal of one that is alive has T to come
		w.until = now.Add(w.cur.wait)
	}
	w.since = now
	if r.Epoch > 0 {
		w.last = *r
	}
}

// alive reports whether a process holds, as far as can be seen.
func (w *ward) alive(now Instant) bool {
	return w.last.held() && w.last.Holder == w.node && now < w.until
}

func (w *ward) member(now Instant) RollMember {
	return RollMember{Node: w.node, Epoch: w.last.Epoch, Alive: w.alive(now), Note: w.last.Note, MACs: w.last.MACs, Fenced: w.last.Fenced != ""}
}

// wanted reports whether the node is to be fenced once that is due.
func (w *ward) wanted() bool { return w.needed && !w.self && w.last.Epoch <= w.need }

// due is when this node may fence by the state that it sees. back is when the
// API came back after a while: then the owners of all Leases come for them too, and
// go first.
func (w *ward) due(back Instant, lag time.Duration) Instant {
	wait := w.cur.wait
	if w.cur.object == nil {
		wait /= 2 // nothing is taken from anyone by making it, and a holder does so sooner
	}
	at := w.cur.at.Add(wait)
	if settled := back.Add(w.t / 3); w.cur.at < back {
		at = max(at, settled)
	} else if w.cur.at < settled {
		at = at.Add(w.t / 3)
	}
	return at.Add(lag)
}

// next says what to do now, or when to ask again, 0 for not before something is
// seen.
func (w *ward) next(now, back Instant, lag time.Duration) (act, Instant) {
	alive, wanted := w.alive(now), w.wanted()
	if !alive && !wanted {
		return doNothing, 0
	}
	if w.cur == nil || w.doubt {
		return doLook, 0
	}
	var wake Instant
	if alive {
		// Renewals come each T/3. Where none does, the watch may be dead.
		silent := max(w.since, w.looked).Add(w.cur.wait / 10 * 7)
		if now >= silent {
			return doLook, 0
		}
		wake = min(silent, w.until)
	}
	if !wanted {
		return doNothing, wake
	}
	stale := w.heard.Add(w.cur.wait / 2 * 3) // before the silence is too long to have waited
	if now >= stale {
		return doLook, 0
	}
	due := w.due(back, lag)
	switch {
	case now < due:
		if wake == 0 {
			wake = due
		}
		return doNothing, min(wake, due, stale)
	case !w.sure(now, due):
		return doLook, 0
	case w.cur.object == nil:
		return doReserve, 0
	}
	return doFence, 0
}

// draft makes the record that an act writes: a fence, or that one is coming.
func (w *ward) draft(a act, by record, floor uint64) record {
	r := by
	if a == doReserve {
		r.Forming, r.High = true, max(w.high, w.need)
		return r
	}
	r.Epoch = max(w.high+1, w.need+1, floor)
	return r
}
