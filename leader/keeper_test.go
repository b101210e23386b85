package leader

import (
	"testing"
	"time"
)

// TestSlowDiskDoesNotSilenceAVoter: a promise that became shorter is written while the node goes on answering.
func TestSlowDiskDoesNotSilenceAVoter(t *testing.T) {
	s := newTestStore(t, false)
	must(t, s.Promise(1500*ms))
	k := &keeper{clock: func() Instant { return 0 }, store: s, changed: func() {}, word: NewWord("a", 1500*ms)}
	s.disk.Lock()
	settled := make(chan error, 1)
	go func() { settled <- k.settle(300 * ms) }()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if p, _ := s.Promised(); p == 300*ms {
			break
		}
		if time.Now().After(end) {
			t.Fatal("not settled within 20 s")
		}
	}
	admitted := make(chan error, 1)
	go func() { admitted <- k.admit(1, Ask{Kind: Append, From: "b", Term: 1, T: 300 * ms}) }()
	select {
	case err := <-admitted:
		must(t, err)
	case <-time.After(20 * time.Second):
		t.Error("no answer while the disk is slow")
	}
	if p, _ := reopen(t, s, false).Promised(); p != 1500*ms {
		t.Errorf("promised %v on disk before it was written", p)
	}
	s.disk.Unlock()
	must(t, <-settled)
	if p, _ := reopen(t, s, false).Promised(); p != 300*ms {
		t.Errorf("promised %v on disk, want 300 ms", p)
	}
	must(t, k.admit(1, Ask{Kind: Append, From: "b", Term: 1, T: 1500 * ms}))
	if p, _ := reopen(t, s, false).Promised(); p != 1500*ms {
		t.Errorf("a longer promise was given, and %v is on disk", p)
	}
}
