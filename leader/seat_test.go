package leader

import (
	"slices"
	"testing"
	"time"
)

func TestWitnessNeverHolds(t *testing.T) {
	bubble(t, 3, nil, func(t *testing.T, w *world) {
		w.peer("n1").Witness = true // the bootstrap node even
		w.start("n1", "n2", "n3")
		w.voters(3)
		for range 4 {
			h := w.holder()
			if h.name == "n1" {
				t.Fatal("the witness holds")
			}
			w.stop(h.name)
			if next := w.holder(); next.name == "n1" || next.name == h.name {
				t.Fatalf("%s holds", next.name)
			}
			w.start(h.name)
			w.known()
		}
		w.stop("n2")
		w.stop("n3")
		w.never("the witness holds alone", 2*time.Second, w.anyHolds)
		w.start("n2")
		w.wait("n2 to hold", func() bool { return w.nodes["n2"].holds() })
	})
}

func TestExcludedNodeNeverHolds(t *testing.T) {
	bubble(t, 3, nil, func(t *testing.T, w *world) {
		w.peer("n2").Candidate = false
		w.start("n1", "n2", "n3")
		w.voters(3)
		w.moveTo("n1")
		wantErr(t, w.nodes["n1"].raft.Prefer("n2"), "n2 is not a candidate")
		w.stop("n1")
		w.wait("n3 to hold", func() bool { return w.nodes["n3"].holds() })
		w.stop("n3")
		w.never("the excluded node holds", 2*time.Second, w.anyHolds)
	})
}

// A higher priority is certain in a hand-over, and a head start in an election.
func TestPriorityGoesFirst(t *testing.T) {
	bubble(t, 5, nil, func(t *testing.T, w *world) {
		w.peer("n4").Priority = 10
		w.start("n1", "n2", "n3", "n4", "n5")
		w.voters(5)
		won := 0
		for range 10 {
			w.moveTo("n1")
			w.follow("n1")
			w.known()
			w.stop("n1")
			if w.holder().name == "n4" {
				won++
			}
			w.start("n1")
			w.known()
		}
		if won < 5 {
			t.Errorf("the preferred node won %d of 10 elections", won)
		}
		w.moveTo("n1")
		w.known()
		time.Sleep(time.Second)
		w.nodes["n1"].raft.Set(nil)
		if h := w.holder(); h.name != "n4" {
			t.Errorf("%s was handed the seat, not n4", h.name)
		}
	})
}

func TestUnhealthyHolderNamesASuccessor(t *testing.T) {
	bubble(t, 3, nil, func(t *testing.T, w *world) {
		w.start("n1", "n2", "n3")
		w.voters(3)
		w.moveTo("n1")
		n1 := w.nodes["n1"]
		w.nodes["n2"].raft.SetHealthy(false)
		n1.raft.SetHealthy(false)
		w.wait("n3 as successor", func() bool { return n1.last().Successor == "n3" })
		w.nodes["n3"].raft.SetHealthy(false)
		w.wait("no successor", func() bool { return n1.last().Successor == "" })
		w.nodes["n2"].raft.SetHealthy(true)
		w.wait("n2 as successor", func() bool { return n1.last().Successor == "n2" })
		w.net.isolate("n2", w.peers, true)
		w.wait("no successor that is away", func() bool { return n1.last().Successor == "" })
		if !n1.holds() {
			t.Error("the only holder there can be gave up")
		}
	})
}

func TestUnhealthyNodeStandsLast(t *testing.T) {
	bubble(t, 3, nil, func(t *testing.T, w *world) {
		w.start("n1", "n2", "n3")
		w.voters(3)
		w.moveTo("n1")
		w.follow("n1")
		w.nodes["n2"].raft.SetHealthy(false)
		time.Sleep(time.Second)
		w.stop("n1")
		if h := w.holder(); h.name != "n3" {
			t.Errorf("%s holds, not the healthy n3", h.name)
		}
		w.start("n1")
		w.nodes["n1"].raft.SetHealthy(false)
		w.follow("n3")
		w.known()
		time.Sleep(time.Second)
		w.stop("n3")
		stopped := time.Now()
		w.holder() // fail-static: an unhealthy one is better than none
		if d := time.Since(stopped); d < 2*Fast.T() {
			t.Errorf("an unhealthy node took over after %v, before 2 T", d)
		}
	})
}

func TestPreferredSuccessor(t *testing.T) {
	bubble(t, 5, nil, func(t *testing.T, w *world) {
		w.start("n1", "n2", "n3", "n4", "n5")
		w.voters(5)
		for _, to := range []string{"n5", "n3", "n4"} {
			h := w.holder()
			w.follow(h.name)
			w.known()
			time.Sleep(time.Second)
			must(t, h.raft.Prefer(to))
			h.raft.Set(nil)
			if h.holds() {
				t.Fatal("holds after Set(nil)")
			}
			if next := w.holder(); next.name != to {
				t.Errorf("%s holds, not %s", next.name, to)
			}
			h.raft.Set([]string{"cp"})
		}
		h := w.holder()
		wantErr(t, h.raft.Prefer(h.name), "is this node")
		wantErr(t, h.raft.Prefer("n9"), "not a voting member")
		other := w.others(h)[0]
		other.raft.Set(nil)
		w.wait("a refusal of one that does not want it", func() bool { return h.raft.Prefer(other.name) != nil })
		w.stop(other.name)
		time.Sleep(time.Second)
		wantErr(t, h.raft.Prefer(other.name), "does not answer")
	})
}

func TestNobodyToHandOverTo(t *testing.T) {
	bubble(t, 3, nil, func(t *testing.T, w *world) {
		w.start("n1", "n2", "n3")
		w.voters(3)
		for _, n := range w.up() {
			n.raft.Set(nil)
		}
		w.never("one holds that does not want to", 2*time.Second, w.anyHolds)
		w.nodes["n2"].raft.Set([]string{"cp"})
		w.wait("n2 to hold", func() bool { return w.nodes["n2"].holds() })
	})
}

func TestTargetDiesAtTheHandOver(t *testing.T) {
	bubble(t, 3, nil, func(t *testing.T, w *world) {
		w.start("n1", "n2", "n3")
		w.voters(3)
		for _, to := range []string{"n2", "n3"} {
			w.moveTo("n1")
			w.follow("n1")
			w.known()
			time.Sleep(time.Second)
			n1 := w.nodes["n1"]
			before := n1.last()
			must(t, n1.raft.Prefer(to))
			w.net.setCut(to, "n1", true) // it hears, and is not heard
			w.net.setCut(to, "n2", true)
			w.net.setCut(to, "n3", true)
			n1.raft.Set(nil)
			time.Sleep(10 * time.Millisecond)
			n1.raft.Set([]string{"cp"})
			w.wait("a holder again", func() bool {
				for _, n := range w.up() {
					n.mu.Lock()
					again := n.name == "n1" && n.term.Lease != nil && n.term.Epoch == before.Epoch && n.term.Lease.Valid()
					n.mu.Unlock()
					if again {
						t.Fatal("n1 claims again in the term it released")
					}
				}
				return w.anyHolds()
			})
			for _, p := range w.peers {
				w.net.isolate(p.Name, w.peers, false)
			}
			if before.Lease.Valid() {
				t.Error("the lease of the released term is valid")
			}
		}
	})
}

func TestProfileChangesLive(t *testing.T) {
	bubble(t, 3, nil, func(t *testing.T, w *world) {
		w.start("n1", "n2", "n3")
		w.voters(3)
		wantErr(t, w.nodes["n1"].raft.SetProfile(t.Context(), "warp"), "want fast, default or wan")
		for _, p := range []Profile{Default, Fast, WAN, Fast} {
			w.setProfile(p)
			for _, n := range w.up() {
				if strict := n.raft.store.strict; strict != (p != Fast) {
					t.Errorf("%s: strict %v at %s", n.name, strict, p)
				}
			}
			h := w.holder()
			w.follow(h.name)
			w.known()
			time.Sleep(5 * time.Second)
			w.stop(h.name)
			stopped := time.Now()
			w.holder()
			if d := time.Since(stopped); d > 4*p.T() {
				t.Errorf("%s: took over after %v", p, d)
			}
			w.start(h.name)
			w.known()
		}
		w.stopAll()
		w.start("n1", "n2", "n3")
		w.holder()
		time.Sleep(5 * time.Second)
		for _, n := range w.up() {
			if st := n.raft.Status(); st.Profile != Fast {
				t.Errorf("%s came back with %s", n.name, st.Profile)
			}
			if got, _ := n.raft.store.Promised(); got != Fast.T() {
				t.Errorf("%s: would be silent for %v after a restart", n.name, got)
			}
		}
	})
}

func (w *world) setProfile(p Profile) {
	w.t.Helper()
	w.wait("the cluster to agree", func() bool { return w.holder().raft.SetProfile(w.t.Context(), p) == nil })
	w.wait("all to run at "+string(p), func() bool {
		return !slices.ContainsFunc(w.up(), func(n *node) bool {
			n.raft.mu.Lock()
			defer n.raft.mu.Unlock()
			return n.raft.session == nil || n.raft.session.t != p.T()
		})
	})
}

func TestProfileChangeHandsOver(t *testing.T) {
	bubble(t, 3, nil, func(t *testing.T, w *world) {
		w.start("n1", "n2", "n3")
		w.voters(3)
		time.Sleep(time.Second)
		free, longest := time.Time{}, time.Duration(0)
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.setProfile(Default)
		}()
		for running := true; running; {
			select {
			case <-done:
				running = false
			case <-time.After(time.Millisecond):
			}
			switch held := w.anyHolds(); {
			case held:
				free = time.Time{}
			case free.IsZero():
				free = time.Now()
			default:
				longest = max(longest, time.Since(free))
			}
		}
		t.Logf("nobody held for %v", longest)
		w.holder()
	})
}

func TestCandidateThatJoinsACuriousProfile(t *testing.T) {
	bubble(t, 3, nil, func(t *testing.T, w *world) {
		w.tune = func(c *RaftConfig) {
			if c.Profile = Fast; c.Node == "n1" {
				c.Profile = Default
			}
		}
		w.start("n1", "n2", "n3")
		w.voters(3)
		w.holder()
		for _, n := range w.up() {
			if st := n.raft.Status(); st.Profile != Default || !n.raft.store.strict {
				t.Errorf("%s: profile %s, strict %v: not what the cluster started with", n.name, st.Profile, n.raft.store.strict)
			}
		}
	})
}
