package leader

import (
	"crypto/rand"
	"encoding/hex"
	"slices"
	"strings"
	"time"
)

// An act is what a node is to do next about a Lease object.
type act int

const (
	doNothing act = iota
	doLook        // read the object as the quorum of the API has it
	doProbe       // ask whether a station outside the cluster has the addresses
	doReserve     // write: this node probes, and will be the first holder
	doTake        // write: this node holds, in a new epoch
	doRenew       // write: it still does
	doOffer       // write, as the holder: who would take the seat?
	doRelease     // write, as the holder: the seat is given up, to the one who is named
	doAnswer      // write, as a candidate: this node would
	doAsk         // write, as anyone: hand over
	doFence       // write, as another node: nobody holds, in a new epoch
)

func (a act) writes() bool { return a >= doReserve }

// Times, beside those that follow from T.
const (
	rankStep    = 50 * time.Millisecond  // how much later each rank stands
	answersTime = 30 * time.Millisecond  // how long better answers are waited for
	preferTime  = time.Second            // how long the preferred successor's is
	pollTime    = 100 * time.Millisecond // how often the object is read for answers,
	polls       = 3                      // and how many times
	formTime    = 10 * time.Second       // how much longer a reservation is left to who made it
	confirmTime = time.Second            // how fresh the last look before a take-over must be
)

// A bid is the safety rule of the elector that uses a Kubernetes Lease, as a
// pure value: it reads no clock and calls nobody. It says what to do next, and
// learns from what was seen. The rule:
//
//   - A holder may act until the send time of its last write that was committed
//
//   - 0.9 T. That a write was committed shows in the API server's answer or in
//     any later sight of the object.
//
//   - Another node takes the seat only by an update of exactly the state that
//     it has seen unchanged for T by its own clock, the longest T of its own,
//     the record's and that of the record before, and that a read of the
//     quorum has just shown again. Whatever changes the object, a deletion, a
//     person's edit, a backup that was restored, counts as a renewal, and so
//     does a time of 2 T in which this node could not read it.
//
//   - It takes the seat at once only if the holder's release repeats the nonce
//     with which this very process answered the holder's offer, once, and within
//     0.9 T of that answer. A holder offers what its last write shows, and not
//     what an earlier one does that came back with a backup.
//
//   - Or if the record is that of a process that is dead for sure, because
//     this one holds the lock under which that ran (see KubeConfig.Heir), or is
//     its own; then by an update of exactly the state that was just read.
//
// So a lease ends before the next begins, for clocks that run up to 5 % apart.
// Not covered: a restore that brings back the very state that a node sees, within
// 2 T of its having been superseded; nodes configured with different T while
// someone also rewrites the record by hand.
type bid struct {
	view
	node, process string
	heir          string // "" without the rule of heirs
	clock         Clock
	rank          int
	candidate     bool
	needProbe     bool // before there is a first holder

	wanted  bool
	healthy bool
	prefer  string
	note    string
	above   uint64 // epochs up to this one are used up
	floor   uint64 // the least number for the next epoch

	clear     bool   // the addresses were probed and are free
	rival     uint64 // the highest epoch of another process
	seq       uint64 // of the last write of this process
	done      uint64 // of its last write that is known to be committed
	writes    map[uint64]written
	lastWrite Instant

	epoch uint64  // of this node's tenure; 0 when it never had one
	sent  Instant // of the last write in it that was committed
	gone  bool    // it was released, or another node's epoch ended it
	lease *Lease  // nil when over

	left       Instant // when this node last gave its lease up
	offers     int     // made since an answer is wanted
	offerID    string  // of the last offer of this node
	offered    Instant // when it was made
	answeredAt Instant // when its first answer was seen
	asked      bool    // an offer is wanted although this node is healthy
	promised   *promise
	wishing    *wish
}

// written is a write that was sent.
type written struct {
	epoch uint64
	at    Instant
	again bool // a renewal after the lease had run out
}

// A promise is this node's answer to an offer.
type promise struct {
	answer
	epoch uint64  // the holder's
	until Instant // when it lapses
}

func hold(t time.Duration) time.Duration { return t / 10 * 9 }

func nonce() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// A view is what a node has seen of a Lease object, and since when: what the rule
// about waiting goes by.
type view struct {
	t      time.Duration // this node's T
	cur    *sighting     // nil before the first
	looked Instant       // when the read was sent that last showed cur
	heard  Instant       // when cur was first seen, or last read
	doubt  bool          // cur may be old: look before anything else
	high   uint64        // the highest epoch seen
}

// see takes a state of the object and reports whether it is another one than
// before. read is when the read was sent that showed it, 0 if it came by a watch,
// which may be late.
func (v *view) see(now Instant, s sighting, read Instant) bool {
	if v.cur != nil && v.cur.print == s.print {
		if now >= v.heard.Add(2*v.cur.wait) {
			v.cur.at = now // too long ago: it may have changed, and come back with a backup
		}
		v.heard = max(v.heard, read)
		v.looked = max(v.looked, read)
		v.doubt = v.doubt && read == 0
		return false
	}
	if v.cur != nil && read == 0 && s.before(v.cur) {
		return false
	}
	s.at, s.wait = now, max(v.t, s.record.t())
	if v.cur != nil {
		s.wait = max(s.wait, v.cur.record.t())
	}
	v.cur, v.heard, v.looked, v.doubt = &s, now, read, false
	v.high = max(v.high, s.record.Epoch, s.record.High)
	return true
}

// sure reports whether a read of the quorum has just shown that the state did
// not change before due.
func (v *view) sure(now, due Instant) bool {
	return v.looked >= due && now < v.looked.Add(confirmTime)
}

// missed notes that a write met another state of the object than it was made for.
func (v *view) missed(base string) {
	if v.cur != nil && v.cur.print == base {
		v.doubt = true
	}
}

// see takes a state of the object: see view.
func (b *bid) see(now Instant, s sighting, read Instant) {
	b.count(now, &s.record)
	if !b.view.see(now, s, read) {
		return
	}
	if p := b.promised; p != nil && s.record.Epoch > p.epoch {
		b.promised = nil // it was for the hand-over that is past
	}
	if s.record.Process != b.process && s.record.Epoch > 0 {
		b.rival = max(b.rival, s.record.Epoch)
		if s.record.Epoch >= b.epoch {
			b.end()
		}
	}
	if b.answeredAt == 0 && b.open(now) && len(b.answers()) > 0 {
		b.answeredAt = now
	}
	if w := s.record.Wish; w != nil && b.wishing != nil && w.ID == b.wishing.ID {
		b.wishing = nil // it was heard
	}
}

// end ends this node's tenure.
func (b *bid) end() {
	b.lease.Revoke()
	b.lease, b.gone = nil, true
}

// count notes that a write of this process was committed.
func (b *bid) count(now Instant, r *record) {
	if r.Process != b.process {
		return
	}
	b.done = max(b.done, r.Seq)
	w, ok := b.writes[r.Seq]
	if !ok {
		return
	}
	for seq := range b.writes {
		if seq <= r.Seq {
			delete(b.writes, seq)
		}
	}
	until := w.at.Add(hold(b.t))
	switch {
	case w.epoch > b.epoch:
		b.epoch, b.sent, b.gone, b.prefer, b.left = w.epoch, w.at, w.epoch <= b.rival, "", now
		b.ask(false)
		if b.lease.Revoke(); b.wanted && now < until && !b.gone {
			b.lease = NewLease(b.clock, until)
		}
	case w.epoch == b.epoch:
		b.sent = max(b.sent, w.at)
		switch {
		case b.lease != nil:
			if !b.lease.Extend(until) {
				b.lease = nil
			}
		case w.again && b.wanted && !b.gone && b.epoch > b.above && now < until:
			b.lease = NewLease(b.clock, until)
		}
	}
}

// want says whether the node campaigns. A lease is over when it returns.
func (b *bid) want(wanted bool) {
	b.wanted = wanted
	if !wanted {
		if b.lease != nil {
			b.left = b.clock()
		}
		b.lease.Revoke()
		b.lease = nil
	}
}

// raise says that epochs up to this one are used up. A lease in one of them is
// over when it returns, and the node takes its seat again in a higher one.
func (b *bid) raise(epoch uint64) {
	b.above, b.high = max(b.above, epoch), max(b.high, epoch)
	if b.epoch <= b.above {
		b.lease.Revoke()
		b.lease = nil
	}
}

// ask has candidates asked anew, or no more.
func (b *bid) ask(asked bool) {
	b.asked, b.offerID, b.offers, b.answeredAt = asked, "", 0, 0
}

// mine reports whether the object says that this process holds, by its last write
// and not by an earlier one that came back with a backup.
func (b *bid) mine() bool {
	r := &b.cur.record
	return b.cur.object != nil && r.Process == b.process && r.Seq >= b.done && r.Epoch == b.epoch && !r.Forming && !r.released() && b.epoch != 0
}

// open reports whether candidates may answer the last offer of this node.
func (b *bid) open(now Instant) bool {
	return b.mine() && b.offerID != "" && b.cur.record.Offer == b.offerID && now < b.offered.Add(b.t/2)
}

// fresh reports whether nobody can have taken this node's tenure from it.
func (b *bid) fresh(now Instant) bool {
	return !b.gone && b.epoch != 0 && now < b.sent.Add(hold(b.t))
}

// due is when this node may stand against the state that it sees.
func (b *bid) due() Instant {
	at := b.cur.at.Add(b.cur.wait).Add(time.Duration(b.rank) * rankStep)
	if !b.healthy {
		at = at.Add(b.cur.wait) // healthy nodes go first
	}
	if r := &b.cur.record; r.Forming && r.Process != b.process && r.Fenced == "" && !b.kin(r) {
		at = at.Add(formTime)
	}
	return at
}

// kin reports whether a process under this one's lock wrote the record: it is
// this one, or it is dead.
func (b *bid) kin(r *record) bool { return b.heir != "" && r.Heir == b.heir }

// inherits reports whether the record is a tenure of a dead process that ran
// under this one's lock, before this one had any, or this one's own tenure that
// ran out. A process that has had one and meets another of its lock is not alone,
// as it should be: it waits like anyone.
func (b *bid) inherits() bool {
	r := &b.cur.record
	if !b.kin(r) || r.Holder != b.node || r.Epoch == 0 || r.Forming || b.cur.object == nil {
		return false
	}
	return r.Process != b.process && b.epoch == 0 || b.mine() && !b.gone
}

// next says what to do now, or when to ask again.
func (b *bid) next(now Instant) (act, Instant) {
	if b.lease != nil && !b.lease.Valid() {
		b.lease = nil
	}
	switch {
	case b.cur == nil, b.doubt:
		return doLook, 0
	case b.lease != nil:
		return b.keep(now)
	case !b.wanted && b.mine() && b.rival < b.epoch && now < min(b.sent, b.left).Add(hold(b.t)):
		return b.handOver(now)
	case b.wanted && b.candidate:
		return b.stand(now)
	}
	return b.follow(now)
}

// keep is next for a holder.
func (b *bid) keep(now Instant) (act, Instant) {
	due := b.sent.Add(b.t / 3)
	wondering := b.asked || !b.healthy
	switch {
	case wondering && !b.open(now) && (b.asked || b.offers == 0 || now >= due):
		return doOffer, 0
	case now >= due:
		return doRenew, 0
	case !b.mine():
		if at := b.lastWrite.Add(b.t / 20); now < at {
			return doNothing, min(at, due) // against whom writes all the time
		}
		return doRenew, 0
	case b.cur.record.Note != b.note:
		if at := b.lastWrite.Add(b.t / 20); now < at {
			return doNothing, min(at, due)
		}
		return doRenew, 0
	case wondering && b.answeredAt == 0 && (b.asked || b.offers < 2):
		return b.poll(now, min(due, b.offered.Add(b.t/2)))
	}
	return doNothing, due
}

// handOver is next for a node that holds by the object and wants to no more.
func (b *bid) handOver(now Instant) (act, Instant) {
	end := b.sent.Add(hold(b.t))
	if !b.open(now) {
		return doOffer, 0
	}
	if b.answeredAt == 0 || len(b.answers()) == 0 {
		return b.poll(now, end)
	}
	settled := b.answeredAt.Add(answersTime)
	if b.prefer != "" && !b.answeredBy(b.prefer) {
		settled = b.answeredAt.Add(preferTime)
	}
	if now < settled {
		return doNothing, min(settled, end)
	}
	return doRelease, 0
}

// poll looks a few times for an answer, should the watch not bring it.
func (b *bid) poll(now, end Instant) (act, Instant) {
	at := max(b.looked, b.offered).Add(pollTime)
	switch {
	case at > b.offered.Add(polls*pollTime):
		return doNothing, end
	case now < at:
		return doNothing, min(at, end)
	}
	return doLook, 0
}

func (b *bid) answeredBy(node string) bool {
	return slices.ContainsFunc(b.answers(), func(a answer) bool { return a.Node == node })
}

// answers are those to the open offer, the best first.
func (b *bid) answers() []answer {
	r := &b.cur.record
	out := slices.DeleteFunc(slices.Clone(r.Answers), func(a answer) bool { return a.Offer != r.Offer || r.Offer == "" })
	slices.SortFunc(out, func(x, y answer) int {
		if p := b.prefer; p != "" && (x.Node == p) != (y.Node == p) {
			if x.Node == p {
				return -1
			}
			return 1
		}
		if x.Rank != y.Rank {
			return x.Rank - y.Rank
		}
		return strings.Compare(x.Node, y.Node)
	})
	return out
}

// successor is who would take the seat from this holder now, "" for nobody.
func (b *bid) successor(now Instant) string {
	if b.lease == nil || b.answeredAt == 0 || now >= b.answeredAt.Add(b.t) || b.cur == nil {
		return ""
	}
	if a := b.answers(); len(a) > 0 {
		return a[0].Node
	}
	return ""
}

// chosen reports whether the holder released the seat to this node.
func (b *bid) chosen(now Instant) bool {
	p, r := b.promised, &b.cur.record
	return p != nil && now < p.until && r.released() && r.Epoch == p.epoch && r.Next != nil && r.Next.Process == b.process && r.Next.Nonce == p.Nonce
}

// stand is next for a candidate.
func (b *bid) stand(now Instant) (act, Instant) {
	if b.chosen(now) || b.fresh(now) && b.mine() {
		return doTake, 0
	}
	if b.inherits() {
		switch {
		case b.looked == 0 || now >= b.looked.Add(confirmTime):
			return doLook, 0
		case b.mine() && b.epoch > b.above:
			return doRenew, 0
		}
		return doTake, 0
	}
	due := b.due()
	if now < due {
		if b.probes() {
			return doProbe, due
		}
		return b.follow(now)
	}
	switch {
	case !b.sure(now, due):
		return doLook, 0
	case b.cur.object == nil, b.unprobed() && !b.reserved():
		return doReserve, 0
	case b.unprobed():
		return doProbe, now.Add(b.t / 3)
	}
	return doTake, 0
}

// unprobed reports whether there was no holder yet, as far as this node knows, and
// someone outside the cluster may have the addresses.
func (b *bid) unprobed() bool { return b.high == 0 && b.needProbe && !b.clear }

// reserved reports whether this process wrote last, and no more than that it
// would hold. What is absent has no version to be named in a write, so the
// object is made first, and what was made is waited for like any other state. It
// also has one node probe at a time: two would take each other for strangers.
func (b *bid) reserved() bool {
	return b.cur.object != nil && b.cur.record.Forming && b.cur.record.Process == b.process
}

// probes reports whether this node is to probe while it waits.
func (b *bid) probes() bool { return b.reserved() && b.unprobed() }

// follow is next for a node that waits.
func (b *bid) follow(now Instant) (act, Instant) {
	r := &b.cur.record
	wake := b.cur.at.Add(b.cur.wait)
	if due := b.due(); b.wanted && b.candidate && due > now {
		wake = due
	}
	if b.wanted && b.candidate && b.healthy && r.Offer != "" && !r.released() && r.Process != b.process &&
		!r.answered(b.process, r.Offer) && now < b.cur.at.Add(b.cur.wait) {
		return doAnswer, 0
	}
	if b.wishing != nil && b.cur.object != nil && (r.Wish == nil || r.Wish.ID != b.wishing.ID) {
		return doAsk, 0
	}
	// Renewals come each T/3. Where none does, the watch may be dead.
	silent := max(b.cur.at, b.looked).Add(b.cur.wait / 10 * 7)
	if now >= silent {
		return doLook, 0
	}
	if wake <= now {
		wake = silent
	}
	return doNothing, min(wake, silent)
}
