package leader

import (
	"slices"
	"time"
)

// draft makes the record that an act writes, and notes that it is sent now. The
// caller has asked next, and sends it at once.
func (b *bid) draft(a act, now Instant, macs []string, version string) record {
	r := b.cur.record
	switch a {
	case doAnswer:
		b.promise(now, &r, macs)
		return r
	case doAsk:
		r.Wish = b.wishing
		return r
	}
	epoch := b.epoch
	if a == doTake {
		epoch = max(b.high+1, b.epoch+1, b.floor)
	}
	for seq, w := range b.writes {
		if now >= w.at.Add(b.t) {
			delete(b.writes, seq) // it can give no lease any more
		}
	}
	b.seq++
	b.writes[b.seq] = written{epoch: epoch, at: now, again: a == doRenew && b.lease == nil}
	b.lastWrite = now
	was := r
	if a == doReserve {
		return record{Process: b.process, Seq: b.seq, Millis: b.t.Milliseconds(), Version: version, Heir: b.heir, Forming: true, High: b.high}
	}
	r = record{Holder: b.node, Process: b.process, Epoch: epoch, Seq: b.seq, Millis: b.t.Milliseconds(), Version: version, MACs: macs,
		Heir: b.heir, Note: b.note}
	switch {
	case a == doOffer:
		r.Offer = nonce()
		b.offerID, b.offered, b.answeredAt = r.Offer, now, 0
		b.offers++
	case a == doRelease:
		r.Released, r.Next = r.release(), &b.answers()[0]
		b.end()
	case a == doRenew && b.open(now):
		r.Offer, r.Answers = was.Offer, was.Answers
	}
	return r
}

// promise answers the open offer, with the same nonce if it did already.
func (b *bid) promise(now Instant, r *record, macs []string) {
	if p := b.promised; p == nil || p.Offer != r.Offer || now >= p.until {
		t := b.t
		if h := r.t(); h > 0 {
			t = min(t, h)
		}
		b.promised = &promise{epoch: r.Epoch, until: now.Add(hold(t)),
			answer: answer{Node: b.node, Process: b.process, Offer: r.Offer, Nonce: nonce(), Rank: b.rank, MACs: macs}}
	}
	r.Answers = append(slices.Clone(r.Answers), b.promised.answer)
}

// standing reports whether the time to stand has come, and nothing is to be
// probed before.
func (b *bid) standing(now Instant) bool {
	return b.wanted && b.candidate && b.lease == nil && b.cur != nil && now >= b.due() && b.cur.object != nil && !b.unprobed()
}

// term is what the node knows of the seat. standing says that it is about to
// take it.
func (b *bid) term(now Instant, standing bool) Term {
	t := Term{Joined: b.cur != nil}
	if b.cur == nil {
		return t
	}
	r := &b.cur.record
	t.Epoch = r.Epoch
	switch {
	case b.lease != nil:
		t.Holder, t.Epoch, t.Lease = b.node, b.epoch, b.lease
		if !b.healthy {
			t.Successor = b.successor(now)
		}
	case r.released() || r.Process == b.process || now >= b.cur.at.Add(b.cur.wait+time.Second):
	default:
		t.Holder = r.Holder
	}
	t.Standing = standing && b.lease == nil
	return t
}
