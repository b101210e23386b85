package leader

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const ms = time.Millisecond

// at is an instant, in milliseconds.
func at(n int) Instant { return Instant(time.Duration(n+1_000_000) * ms) }

func appendOf(from string, term uint64, t time.Duration) Ask {
	return Ask{Kind: Append, From: from, Term: term, T: t}
}

func TestPromise(t *testing.T) {
	free := &Release{Holder: "a", Term: 5, To: "b"}
	for _, tt := range []struct {
		name string
		when int // ms after the promise to a in term 5, of 100 ms
		ask  Ask
		want string
	}{
		{"the holder again", 50, appendOf("a", 5, 100*ms), ""},
		{"the holder in a new term", 50, appendOf("a", 6, 100*ms), ""},
		{"another holder", 99, appendOf("b", 6, 100*ms), "promised to a"},
		{"a vote", 99, Ask{Kind: Vote, From: "b", Term: 6}, "promised to a"},
		{"a pre-vote", 99, Ask{Kind: PreVote, From: "b", Term: 6}, "promised to a"},
		{"another holder, in time", 100, appendOf("b", 6, 100*ms), ""},
		{"a vote, in time", 100, Ask{Kind: Vote, From: "b", Term: 6}, ""},
		{"an old term is for Raft to refuse", 10, appendOf("b", 4, 100*ms), ""},
		{"released", 1, Ask{Kind: Vote, From: "b", Term: 6, Release: free}, ""},
		{"released, as holder", 1, Ask{Kind: Append, From: "b", Term: 6, T: 100 * ms, Release: free}, ""},
		{"released to another", 1, Ask{Kind: Vote, From: "c", Term: 6, Release: free}, "promised to a"},
		{"released, a term later", 1, Ask{Kind: Vote, From: "b", Term: 7, Release: free}, "promised to a"},
		{"released in another term", 1, Ask{Kind: Vote, From: "b", Term: 5, Release: &Release{Holder: "a", Term: 4, To: "b"}}, "promised to a"},
		{"released by another", 1, Ask{Kind: Vote, From: "b", Term: 6, Release: &Release{Holder: "c", Term: 5, To: "b"}}, "promised to a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := NewWord("v", 100*ms)
			if err := w.Admit(at(0), 5, appendOf("a", 5, 100*ms)); err != nil {
				t.Fatal(err)
			}
			wantErr(t, w.Admit(at(tt.when), 5, tt.ask), tt.want)
		})
	}
}

func wantErr(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("got %v, want no error", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("got %v, want an error with %q", err, want)
	}
}

func TestRefusedAndOldRequestsPromiseNothing(t *testing.T) {
	w := NewWord("v", 100*ms)
	w.Admit(at(0), 5, appendOf("a", 5, 100*ms))
	w.Admit(at(50), 5, appendOf("b", 6, 100*ms)) // refused
	w.Admit(at(50), 5, appendOf("c", 4, 100*ms)) // an old term
	if h, until := w.Promised(); h != "a" || until != at(100) {
		t.Errorf("promised to %s until %v", h, until)
	}
}

func TestPromiseNeverShrinks(t *testing.T) {
	w := NewWord("v", 100*ms)
	w.Admit(at(0), 1, appendOf("a", 1, 300*ms))
	w.Admit(at(10), 1, appendOf("a", 1, 100*ms))
	wantErr(t, w.Admit(at(299), 1, Ask{Kind: Vote, From: "b", Term: 2}), "promised to a")
	wantErr(t, w.Admit(at(309), 1, Ask{Kind: Vote, From: "b", Term: 2}), "promised to a") // the longest heard of
	wantErr(t, w.Admit(at(310), 1, Ask{Kind: Vote, From: "b", Term: 2}), "")
}

func TestSettleShortensOnlyWhatHasEnded(t *testing.T) {
	w := NewWord("v", 300*ms)
	w.Admit(at(0), 1, appendOf("a", 1, 300*ms))
	if w.Settle(at(199), 100*ms) {
		t.Error("settled while a promise of 300 ms had 101 ms to go")
	}
	w.Admit(at(150), 1, appendOf("a", 1, 100*ms)) // it goes on
	if !w.Settle(at(200), 100*ms) || w.Longest() != 100*ms {
		t.Error("did not settle")
	}
	if _, until := w.Promised(); until != at(300) {
		t.Errorf("until %v, want 300 ms", until)
	}
	w.Admit(at(250), 1, appendOf("a", 1, 100*ms))
	if _, until := w.Promised(); until != at(350) {
		t.Errorf("until %v, want 350 ms", until)
	}
}

func TestOvertakenRequestKeepsTheTerm(t *testing.T) {
	w := NewWord("v", 100*ms)
	w.Admit(at(0), 4, appendOf("a", 5, 100*ms))
	w.Admit(at(1), 4, appendOf("a", 4, 100*ms)) // Raft has not seen term 5 yet
	old := &Release{Holder: "a", Term: 4, To: "b"}
	wantErr(t, w.Admit(at(2), 5, Ask{Kind: Vote, From: "b", Term: 5, Release: old}), "promised to a")
	now := &Release{Holder: "a", Term: 5, To: "b"}
	wantErr(t, w.Admit(at(2), 5, Ask{Kind: Vote, From: "b", Term: 6, Release: now}), "")
}

func TestRestart(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lost  bool
		when  int
		ask   Ask
		want  string
		again string // the same question in the next term
	}{
		{"silent", false, 99, appendOf("a", 5, 100*ms), "silent", "silent"},
		{"silent no more", false, 100, Ask{Kind: Vote, From: "a", Term: 5}, "", ""},
		{"silent for longer", true, 299, Ask{Kind: Vote, From: "a", Term: 5}, "silent", "silent"},
		{"not in the first term heard of", true, 300, Ask{Kind: Vote, From: "a", Term: 5}, "may have voted", ""},
		{"a pre-vote speaks of a term to come", true, 300, Ask{Kind: PreVote, From: "a", Term: 5}, "", ""},
		{"following is safe", true, 300, appendOf("a", 5, 100*ms), "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := NewWord("v", 100*ms)
			w.Restarted(at(0), 100*ms, tt.lost)
			wantErr(t, w.Admit(at(tt.when), 0, tt.ask), tt.want)
			tt.ask.Term++
			wantErr(t, w.Admit(at(tt.when), 0, tt.ask), tt.again)
		})
	}
}

func TestRestartFloorIsTheNewestTerm(t *testing.T) {
	w := NewWord("v", 100*ms)
	w.Restarted(at(0), 100*ms, true)
	w.Admit(at(300), 7, Ask{Kind: PreVote, From: "a", Term: 5})
	wantErr(t, w.Admit(at(300), 7, Ask{Kind: Vote, From: "a", Term: 7}), "may have voted")
	wantErr(t, w.Admit(at(300), 7, Ask{Kind: Vote, From: "a", Term: 8}), "")
}

func TestRestartedNodeDoesNotStandOrClaim(t *testing.T) {
	w := NewWord("v", 100*ms)
	w.Restarted(at(0), 100*ms, false)
	wantErr(t, w.MayStand(at(99), 9), "silent")
	wantErr(t, w.MayStand(at(100), 9), "")
	if u := w.Until(at(50), 9, 100*ms, []string{"v"}); u != 0 {
		t.Errorf("claims until %v while silent", u)
	}
}

func TestMayStand(t *testing.T) {
	w := NewWord("v", 100*ms)
	w.Admit(at(0), 5, appendOf("a", 5, 100*ms))
	wantErr(t, w.MayStand(at(99), 6), "promised to a")
	for _, r := range []*Release{nil, {"a", 5, "x"}, {"a", 4, "v"}, {"b", 5, "v"}} {
		if w.Receive(at(1), r) == nil {
			t.Errorf("took release %+v", r)
		}
		wantErr(t, w.MayStand(at(99), 6), "promised to a")
	}
	wantErr(t, w.Receive(at(1), &Release{"a", 5, "v"}), "")
	wantErr(t, w.MayStand(at(1), 6), "")
	wantErr(t, w.MayStand(at(1), 7), "promised to a") // in exactly the next term
	wantErr(t, w.MayStand(at(100), 7), "")
}

func TestLeaseCountsFromTheSendTime(t *testing.T) {
	w := NewWord("a", 100*ms)
	three := []string{"a", "b", "c"}
	if u := w.Until(at(0), 3, 100*ms, three); u != 0 {
		t.Errorf("claims until %v without an acknowledgement", u)
	}
	w.Acked("b", 3, at(10), 100*ms) // sent at 10, heard of at 60
	if u := w.Until(at(60), 3, 100*ms, three); u != at(100) {
		t.Errorf("until %v, want send time + 90 ms", u)
	}
	w.Acked("c", 3, at(40), 100*ms)
	if u := w.Until(at(60), 3, 100*ms, three); u != at(130) {
		t.Errorf("until %v, want the newest of two", u)
	}
	w.Acked("c", 3, at(20), 100*ms) // a late one takes nothing back
	if u := w.Until(at(61), 3, 100*ms, three); u != at(130) {
		t.Errorf("until %v after a late answer", u)
	}
	w.Acked("b", 2, at(60), 100*ms)
	if u := w.Until(at(62), 3, 100*ms, three); u != at(130) {
		t.Errorf("until %v after an answer of an old term", u)
	}
	if u := w.Until(at(62), 4, 100*ms, three); u != 0 {
		t.Errorf("until %v in a term without acknowledgements", u)
	}
}

func TestLeaseNeedsBothConfigurations(t *testing.T) {
	w := NewWord("a", 100*ms)
	old, next := []string{"a", "b", "c"}, []string{"a", "b", "c", "d", "e"}
	w.Acked("b", 1, at(0), 100*ms)
	for _, tt := range []struct {
		name string
		sets [][]string
		want Instant
	}{
		{"the committed one", [][]string{old}, at(90)},
		{"the latest one", [][]string{next}, 0},
		{"both", [][]string{old, next}, 0},
		{"both, the other way", [][]string{next, old}, 0},
		{"one without this node", [][]string{{"b", "c"}}, 0},
		{"one that this node left", [][]string{{"b"}}, at(90)},
		{"none", nil, 0},
		{"an empty one", [][]string{{}}, 0},
	} {
		if u := w.Until(at(1), 1, 100*ms, tt.sets...); u != tt.want {
			t.Errorf("%s: until %v, want %v", tt.name, u, tt.want)
		}
	}
	w.Acked("d", 1, at(5), 100*ms)
	if u := w.Until(at(6), 1, 100*ms, old, next); u != at(90) {
		t.Errorf("until %v, want what b supports", u)
	}
}

func TestSoleVoter(t *testing.T) {
	w := NewWord("a", 100*ms)
	if u := w.Until(at(0), 1, 100*ms, []string{"a"}); u != at(90) {
		t.Errorf("until %v", u)
	}
	wantErr(t, w.Admit(at(99), 1, Ask{Kind: Vote, From: "b", Term: 2}), "promised to a") // its own support binds it
}

func TestOwnPromiseForbidsToClaim(t *testing.T) {
	w := NewWord("a", 100*ms)
	w.Admit(at(0), 5, appendOf("b", 5, 100*ms))
	w.Acked("c", 6, at(50), 100*ms)
	if u := w.Until(at(50), 6, 100*ms, []string{"a", "b", "c"}); u != 0 {
		t.Errorf("until %v with one supporter and an own promise to b", u)
	}
}

func TestReleasedTermIsOver(t *testing.T) {
	w := NewWord("a", 100*ms)
	set := []string{"a", "b", "c"}
	w.Acked("b", 5, at(0), 100*ms)
	if r := w.Release(5, "b"); *r != (Release{"a", 5, "b"}) {
		t.Errorf("release %+v", r)
	}
	w.Acked("b", 5, at(10), 100*ms)
	if u := w.Until(at(10), 5, 100*ms, set); u != 0 || !w.Ended(5) {
		t.Errorf("claims until %v in a term it released", u)
	}
	w.Acked("b", 6, at(200), 100*ms)
	if u := w.Until(at(200), 6, 100*ms, set); u != at(290) {
		t.Errorf("until %v in a new term", u)
	}
}

func TestAcknowledgingAnotherEndsTheTerm(t *testing.T) {
	w := NewWord("a", 100*ms)
	w.Admit(at(0), 7, appendOf("b", 7, 100*ms))
	if !w.Ended(7) || w.Ended(8) {
		t.Error("following b in term 7 ends claims up to term 7, and no further")
	}
}

// testClock is a clock that a test moves.
type testClock struct{ now atomic.Int64 }

func (c *testClock) read() Instant           { return Instant(c.now.Load()) }
func (c *testClock) forward(d time.Duration) { c.now.Add(int64(d)) }

func TestLease(t *testing.T) {
	var c testClock
	c.forward(time.Hour)
	l := NewLease(c.read, c.read().Add(90*ms))
	if !l.Extend(c.read().Add(50*ms)) || l.Until() != c.read().Add(90*ms) {
		t.Error("extend moved the deadline back")
	}
	c.forward(89 * ms)
	if !l.Valid() || !l.Extend(c.read().Add(90*ms)) {
		t.Error("cannot extend a valid lease")
	}
	c.forward(90 * ms)
	if l.Valid() || l.Extend(c.read().Add(90*ms)) || l.Valid() || l.Until() != 0 {
		t.Error("a lease that ran out was revived")
	}
	l = NewLease(c.read, c.read().Add(90*ms))
	l.Revoke()
	if l.Valid() || l.Extend(c.read().Add(90*ms)) || l.Valid() {
		t.Error("a revoked lease was revived")
	}
	var none *Lease
	none.Revoke()
	if none.Valid() {
		t.Error("no lease is valid")
	}
}

func TestLeaseIsNeverRevivedInARace(t *testing.T) {
	for range 2000 {
		var c testClock
		c.forward(time.Hour)
		l := NewLease(c.read, c.read().Add(ms))
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() {
				for j := range 20 {
					l.Extend(c.read().Add(time.Duration(i*20+j) * ms))
				}
			})
		}
		wg.Go(func() {
			l.Revoke()
			if l.Valid() {
				t.Error("valid after Revoke returned")
			}
		})
		wg.Wait()
		if l.Valid() || l.Extend(c.read().Add(time.Hour)) {
			t.Fatal("a revoked lease was revived")
		}
	}
}

func TestLeaseRunsOutForGoodInARace(t *testing.T) {
	for range 500 {
		var c testClock
		c.forward(time.Hour)
		l := NewLease(c.read, c.read().Add(ms))
		var wg sync.WaitGroup
		over := false
		wg.Go(func() {
			for range 50 {
				c.forward(ms / 10)
			}
		})
		wg.Go(func() {
			for range 200 {
				ok := l.Extend(c.read().Add(ms / 5))
				if over && ok {
					t.Error("extended after it had run out")
				}
				over = over || !ok
			}
		})
		wg.Wait()
	}
}
