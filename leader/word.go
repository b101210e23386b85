package leader

import (
	"fmt"
	"slices"
	"time"
)

// A Release is a holder's word that it claims no more in one term, in favour of
// exactly one successor.
type Release struct {
	Holder string `json:"holder"`
	Term   uint64 `json:"term"`
	To     string `json:"to"`
}

// A Kind is what a node is asked for.
type Kind int

// What a voter is asked for: to acknowledge a holder, to vote, or to say
// whether it would vote.
const (
	Append Kind = iota
	Vote
	PreVote
)

// An Ask is a request from one node to a voter.
type Ask struct {
	Kind    Kind
	From    string
	Term    uint64
	T       time.Duration // the promise that the asking node counts on
	Release *Release      // why a standing promise need not be kept; nil for none
}

// A Word is what one node has given its word for, as voter and as holder. It is
// the safety core of the elector: pure, without a clock of its own and without
// locks.
//
//   - As voter: having acknowledged holder h at time t, it neither acknowledges,
//     nor votes for, nor stands against h before t+T, unless h released the seat
//     in exactly that term to exactly the asking node.
//   - As holder: it may claim until the quorum-th newest *send time* of its
//     acknowledged requests plus [LeaseOf](T); acknowledgements that come back
//     late count from when the request was sent.
//
// A request arrives after it was sent, so the holder's deadline, send + 0.9 T,
// passes before the voter's promise, receipt + T, while the two clocks run at
// most five per cent apart.
type Word struct {
	self string

	// as voter
	holder string
	term   uint64 // the term in which holder was last acknowledged
	until  Instant
	least  time.Duration // the T of the cluster, or a longer one heard of since
	longT  time.Duration // the longest T of a promise that may stand
	silent Instant       // nothing is answered before
	vague  bool          // votes given before a restart may be forgotten
	floor  uint64        // no votes in terms up to this one

	// as holder
	acked   uint64             // the term that acks belongs to
	acks    map[string]Instant // by voter: when the claim it supports ends
	ended   uint64             // this node claims in no term up to this one
	granted *Release           // in favour of this node
}

// LeaseOf is how long a holder may count on a promise of t: nine tenths.
func LeaseOf(t time.Duration) time.Duration { return t / 10 * 9 }

// NewWord returns the word of a node that has never promised anything to
// anyone, in a cluster whose promise is t.
func NewWord(self string, t time.Duration) *Word {
	return &Word{self: self, least: t, longT: t, acks: map[string]Instant{}}
}

// Restarted says that the node may have forgotten promises of up to t: it stays
// silent for that long. When votes may be forgotten too (they were not kept on
// disk), it stays silent for three times as long and never votes in the first
// term it hears of.
func (w *Word) Restarted(now Instant, t time.Duration, votesLost bool) {
	w.longT = max(w.longT, t)
	w.vague = votesLost
	if votesLost {
		t = 3 * t
	}
	w.silent = now.Add(t)
}

// Promised is the promise that stands: the holder and when it ends.
func (w *Word) Promised() (holder string, until Instant) { return w.holder, w.until }

// Settle says that the cluster's promise is t from now on, shorter ones than
// before included. It reports whether no longer one stands any more.
func (w *Word) Settle(now Instant, t time.Duration) bool {
	w.least = t
	if now < w.silent || w.until.Sub(now) > t {
		return false
	}
	w.longT = t
	return true
}

// Longest is the longest promise of this node that may stand.
func (w *Word) Longest() time.Duration { return w.longT }

// Admit decides whether the node may answer a request, and remembers what the
// answer promises. current is the newest term the node knows. A refusal says
// why; nothing is promised then.
func (w *Word) Admit(now Instant, current uint64, a Ask) error {
	if now < w.silent {
		return fmt.Errorf("silent for %v after a restart", w.silent.Sub(now).Round(time.Millisecond))
	}
	if w.vague {
		w.vague, w.floor = false, max(heard(a), current)
	}
	if a.Kind == Append && a.Term < current {
		return nil // the caller refuses it for its term; that promises nothing
	}
	if a.Kind == Vote && a.Term <= w.floor {
		return fmt.Errorf("may have voted in term %d before a restart", a.Term)
	}
	if err := w.standsAgainst(now, a); err != nil {
		return err
	}
	if a.Kind == Append {
		w.promise(now, a)
	}
	return nil
}

// heard is the newest term that a request speaks of as begun: a pre-vote only
// proposes its own.
func heard(a Ask) uint64 {
	if a.Kind == PreVote && a.Term > 0 {
		return a.Term - 1
	}
	return a.Term
}

// standsAgainst returns why the promise that stands forbids what is asked.
func (w *Word) standsAgainst(now Instant, a Ask) error {
	if w.holder == "" || w.holder == a.From || now >= w.until || w.freed(a) {
		return nil
	}
	return fmt.Errorf("promised to %s for another %v", w.holder, w.until.Sub(now).Round(100*time.Microsecond))
}

// freed reports whether the holder itself gave up the promise, in the very term
// it was given in and to the very node that asks, for the very next term.
func (w *Word) freed(a Ask) bool {
	r := a.Release
	return r != nil && r.Holder == w.holder && r.Term == w.term && r.To == a.From && a.Term == r.Term+1
}

func (w *Word) promise(now Instant, a Ask) {
	if a.From != w.self {
		w.ended = max(w.ended, a.Term) // another node leads this term
	}
	w.least = max(w.least, a.T)
	w.longT = max(w.longT, w.least)
	if w.holder != a.From {
		w.until, w.term = 0, 0
	}
	w.holder, w.term = a.From, max(w.term, a.Term) // requests may overtake each other
	w.until = max(w.until, now.Add(w.least))
}

// MayStand returns why this node must not campaign for term now, nil if it may.
func (w *Word) MayStand(now Instant, term uint64) error {
	if now < w.silent {
		return fmt.Errorf("silent for %v after a restart", w.silent.Sub(now).Round(time.Millisecond))
	}
	return w.standsAgainst(now, Ask{Kind: Vote, From: w.self, Term: term, Release: w.ReleaseFor(term)})
}

// Receive takes a holder's release in favour of this node. It is refused when it
// is meant for another, or when the promise that stands was given in another term.
func (w *Word) Receive(now Instant, r *Release) error {
	switch {
	case r == nil:
		return fmt.Errorf("hand-over without a release")
	case r.To != w.self:
		return fmt.Errorf("hand-over to %s, this is %s", r.To, w.self)
	case w.holder != "" && now < w.until && (r.Holder != w.holder || r.Term != w.term):
		return fmt.Errorf("hand-over by %s in term %d, promised to %s in term %d", r.Holder, r.Term, w.holder, w.term)
	}
	w.granted = r
	return nil
}

// ReleaseFor is the release that this node may show for the given term, if any.
func (w *Word) ReleaseFor(term uint64) *Release {
	if w.granted != nil && w.granted.Term+1 == term {
		return w.granted
	}
	return nil
}

// Acked counts a voter's acknowledgement of a request that this node sent, as
// leader of term, at time sent, counting on promise t.
func (w *Word) Acked(voter string, term uint64, sent Instant, t time.Duration) {
	if term < w.acked || term <= w.ended {
		return
	}
	if term > w.acked {
		w.acked = term
		clear(w.acks)
	}
	w.acks[voter] = max(w.acks[voter], sent.Add(LeaseOf(t)))
}

// Until is the deadline of this node's claim in term: the least over the given
// sets of voters (the latest configuration and the committed one) of what a
// majority of each supports. The node's own support is a promise like any
// other. It returns 0 when there is no such deadline.
func (w *Word) Until(now Instant, term uint64, t time.Duration, voters ...[]string) Instant {
	if term <= w.ended || len(voters) == 0 {
		return 0
	}
	own := Ask{Kind: Append, From: w.self, Term: term, T: t, Release: w.ReleaseFor(term)}
	if w.Admit(now, term, own) == nil {
		w.Acked(w.self, term, now, t)
	}
	if w.acked != term {
		return 0
	}
	until := Instant(0)
	for i, set := range voters {
		u := w.majority(set)
		if i == 0 || u < until {
			until = u
		}
	}
	return until
}

func (w *Word) majority(voters []string) Instant {
	ends := make([]Instant, 0, len(voters))
	for _, v := range voters {
		ends = append(ends, w.acks[v])
	}
	if len(ends) == 0 {
		return 0
	}
	slices.SortFunc(ends, func(a, b Instant) int { return int(max(-1, min(1, b-a))) })
	return ends[len(ends)/2]
}

// End ends this node's claims in every term up to the given one, for good.
func (w *Word) End(term uint64) { w.ended = max(w.ended, term) }

// Ended reports whether this node may no longer claim in term.
func (w *Word) Ended(term uint64) bool { return term <= w.ended }

// Release ends this node's claim in term for good and returns the word that
// lets voters accept the successor. The node's lease must be revoked by then.
func (w *Word) Release(term uint64, to string) *Release {
	w.End(term)
	return &Release{Holder: w.self, Term: term, To: to}
}
