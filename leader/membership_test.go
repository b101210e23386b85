package leader

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// bubble runs a test of a cluster in fake time.
func bubble(t *testing.T, n int, tune func(*RaftConfig), f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newMemWorld(t, n, tune)) })
}

// never fails when something becomes true within d.
func (w *world) never(what string, d time.Duration, bad func() bool) {
	w.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if bad() {
			w.t.Fatal(what)
		}
	}
}

func (w *world) anyHolds() bool {
	return slices.ContainsFunc(w.up(), func(n *node) bool { return n.holds() })
}

func (w *world) voterNames(of string) []string {
	var names []string
	for _, m := range w.nodes[of].raft.Status().Members {
		if m.Voter {
			names = append(names, m.Name)
		}
	}
	return names
}

// others are the nodes that are up, but this one.
func (w *world) others(than *node) []*node {
	return slices.DeleteFunc(w.up(), func(n *node) bool { return n == than })
}

func (w *world) follow(holder string) {
	w.t.Helper()
	w.wait("all to know "+holder, func() bool {
		return !slices.ContainsFunc(w.up(), func(n *node) bool { return n.last().Holder != holder })
	})
}

// known waits until every node has heard every other that is up.
func (w *world) known() {
	w.t.Helper()
	w.wait("all to hear each other", func() bool {
		for _, n := range w.up() {
			for _, m := range n.raft.Status().Members {
				if o := w.nodes[m.Name]; o != nil && o.cancel != nil && !m.Alive {
					return false
				}
			}
		}
		return true
	})
}

func TestLateNodesJoinAndVoteInPairs(t *testing.T) {
	bubble(t, 3, nil, func(t *testing.T, w *world) {
		w.start("n1", "n2")
		w.wait("two members", func() bool { return len(w.nodes["n2"].raft.Status().Members) == 2 })
		w.never("a second voter alone", 2*time.Second, func() bool { return len(w.voterNames("n1")) != 1 })
		if h := w.holder(); h.name != "n1" {
			t.Errorf("%s holds", h.name)
		}
		w.start("n3")
		w.voters(3)
		w.addPeer()
		w.addPeer()
		w.start("n4")
		w.never("a fourth voter alone", 2*time.Second, func() bool { return len(w.voterNames("n1")) == 4 })
		w.start("n5")
		w.voters(5)
		w.stop("n4")
		w.stop(w.holder().name)
		w.holder()
	})
}

func TestDeadJoinerHoldsNobodyUp(t *testing.T) {
	bubble(t, 5, nil, func(t *testing.T, w *world) {
		w.start("n1", "n2", "n3")
		w.voters(3)
		w.start("n4")
		w.wait("n4 to be a member", func() bool { return len(w.nodes["n1"].raft.Status().Members) == 4 })
		w.stop("n4")
		w.start("n5")
		w.wait("n5 to be a member", func() bool { return len(w.nodes["n5"].raft.Status().Members) == 5 })
		w.never("n5 votes without a pair", 2*time.Second, func() bool { return len(w.voterNames("n1")) != 3 })
		w.start("n4")
		w.voters(5)
	})
}

func TestFullRestartComesBack(t *testing.T) {
	bubble(t, 3, nil, func(t *testing.T, w *world) {
		w.start("n1", "n2", "n3")
		w.voters(3)
		id, term := w.nodes["n1"].raft.Status().Cluster, w.nodes["n1"].raft.Status().Term
		for range 2 {
			w.stopAll()
			w.start("n2", "n3") // without the bootstrap node
			w.holder()
			w.start("n1")
			w.voters(3)
			w.follow(w.holder().name)
		}
		for _, n := range w.up() {
			if got := n.raft.Status().Cluster; got != id || got == "" {
				t.Errorf("%s is in cluster %s, was in %s", n.name, got, id)
			}
		}
		if now := w.nodes["n1"].raft.Status().Term; now <= term {
			t.Errorf("term %d after term %d", now, term)
		}
	})
}

func TestNodesThatMissedTheChangesFormNoQuorum(t *testing.T) {
	bubble(t, 5, nil, func(t *testing.T, w *world) {
		w.peers[3].Candidate, w.peers[4].Candidate = true, true
		w.start("n1", "n2", "n3")
		w.voters(3)
		for i, gone := range []string{"n2", "n3"} {
			w.moveTo("n1")
			w.stop(gone)
			w.remove("n1", gone)
			w.start([]string{"n4", "n5"}[i])
			w.wait(gone+" to be replaced", func() bool {
				return len(w.voterNames("n1")) == 3 && !slices.Contains(w.voterNames("n1"), gone)
			})
			// Raft lets nobody vote for a node whose own vote it has not heard of yet.
			w.wait("all to know it", func() bool {
				return !slices.ContainsFunc(w.up(), func(n *node) bool { return !slices.Equal(w.voterNames(n.name), w.voterNames("n1")) })
			})
		}
		w.stopAll()
		w.start("n2", "n3") // two of the three that n2 remembers
		w.never("they elected one of them", 5*time.Second, w.anyHolds)
		w.start("n4", "n5")
		w.wait("the others to go on", func() bool { return w.nodes["n4"].holds() || w.nodes["n5"].holds() })
	})
}

// moveTo makes the named node the holder.
func (w *world) moveTo(name string) {
	w.t.Helper()
	w.known()
	w.wait(name+" to hold", func() bool {
		h := w.holder()
		if h.name == name {
			return true
		}
		if h.raft.Prefer(name) == nil {
			h.raft.Set(nil)
			time.Sleep(50 * time.Millisecond)
			h.raft.Set([]string{"cp"})
		}
		return false
	})
}

func (w *world) remove(at, name string) {
	w.t.Helper()
	var err error
	w.wait("the removal of "+name, func() bool {
		err = w.nodes[at].raft.Remove(w.t.Context(), name)
		return err == nil
	})
}

func TestReplacedNode(t *testing.T) {
	bubble(t, 3, nil, func(t *testing.T, w *world) {
		w.start("n1", "n2", "n3")
		w.voters(3)
		w.moveTo("n1")
		w.stop("n3")
		w.startIn("n3", t.TempDir())
		w.voters(3)
		st := w.nodes["n1"].raft.Status()
		if len(st.Members) != 3 || st.Members[2].ID != string(w.nodes["n3"].raft.identity().serverID()) {
			t.Errorf("members %+v", st.Members)
		}
		w.wait("the old n3 to be forgotten", func() bool {
			w.nodes["n1"].raft.mu.Lock()
			defer w.nodes["n1"].raft.mu.Unlock()
			return len(w.nodes["n1"].raft.peers) == 2
		})
	})
}

func TestSecondNodeOfALiveName(t *testing.T) {
	bubble(t, 3, nil, func(t *testing.T, w *world) {
		w.start("n1", "n2", "n3")
		w.voters(3)
		w.moveTo("n1")
		for _, name := range []string{"n1", "n3"} {
			q := question{Op: "join", Name: name, ID: name + ".ffff", Address: "10.0.0.99:1"}
			a := w.nodes["n1"].raft.consider(name, q)
			if !strings.Contains(a.Error, "two nodes cannot have one name") {
				t.Errorf("%s: %+v", name, a)
			}
		}
		if got := w.voterNames("n1"); len(got) != 3 {
			t.Errorf("voters %v", got)
		}
	})
}

func TestRemove(t *testing.T) {
	bubble(t, 3, nil, func(t *testing.T, w *world) {
		w.start("n1", "n2", "n3")
		w.voters(3)
		w.moveTo("n1")
		w.stop("n2")
		w.stop("n3")
		time.Sleep(time.Second)
		w.start("n2")
		w.holder()
		w.moveTo("n1")
		ctx := t.Context()
		wantErr(t, w.nodes["n1"].raft.Remove(ctx, "n9"), "n9 is not a member")
		wantErr(t, w.nodes["n1"].raft.Remove(ctx, "n1"), "move the seat first")
		wantErr(t, w.nodes["n1"].raft.Remove(ctx, "n2"), "only 1 of the 2 voters that would be left")
		wantErr(t, w.nodes["n2"].raft.Remove(ctx, "n3"), "") // asked of another than the leader
		if got := w.voterNames("n1"); !slices.Equal(got, []string{"n1", "n2"}) {
			t.Errorf("voters %v", got)
		}
		w.follow("n1")
	})
}

func TestTwoClustersStayTwo(t *testing.T) {
	bubble(t, 3, nil, func(t *testing.T, w *world) {
		w.tune = func(c *RaftConfig) { c.Alone = true; c.Bootstrap = c.Node; c.Peers = []Peer{*w.peer(c.Node)} }
		w.start("n1", "n2")
		w.wait("two clusters of one", func() bool { return w.nodes["n1"].holds() && w.nodes["n2"].holds() })
		n1 := w.nodes["n1"].raft
		_, err := n1.askOnce(t.Context(), w.peer("n2").Address, "n2", question{Op: "remove", Name: "n2"})
		wantErr(t, err, "this node belongs to cluster")
		_, _, err = n1.stream.connect(t.Context(), "raft", w.peer("n2").Address, "n2")
		wantErr(t, err, "this node belongs to cluster")
		if st := n1.Status(); len(st.Members) != 1 {
			t.Errorf("members %+v", st.Members)
		}
	})
}

func TestRecover(t *testing.T) {
	bubble(t, 3, nil, func(t *testing.T, w *world) {
		w.start("n1", "n2", "n3")
		w.voters(3)
		old := w.nodes["n1"].raft.Status().Cluster
		if _, err := Recover(w.nodes["n1"].dir, "n1", w.peer("n1").Address); !errors.Is(err, ErrState) {
			t.Errorf("recovered under a running node: %v", err)
		}
		w.stopAll()
		id, err := Recover(w.nodes["n1"].dir, "n1", w.peer("n1").Address)
		if err != nil || id == old {
			t.Fatalf("cluster %s (was %s), %v", id, old, err)
		}
		w.start("n1")
		w.wait("n1 to hold alone", func() bool { return w.nodes["n1"].holds() })
		w.start("n2", "n3")
		w.never("the old nodes take part", 3*time.Second, func() bool {
			return len(w.voterNames("n1")) != 1 || !w.nodes["n1"].holds()
		})
		w.wait("n2 to say why", func() bool {
			return slices.ContainsFunc(w.nodes["n2"].raft.Status().Members, func(m Member) bool {
				return m.Name == "n1" && strings.Contains(m.Error, "this node belongs to cluster "+id)
			})
		})
		w.stop("n2")
		w.stop("n3")
		w.startIn("n2", t.TempDir())
		w.startIn("n3", t.TempDir())
		w.voters(3)
		if _, err := Recover(t.TempDir(), "n1", "10.0.0.1:1"); !errors.Is(err, ErrState) {
			t.Errorf("recovered a node that was never a member: %v", err)
		}
	})
}

func TestBootstrapNeedsAMajority(t *testing.T) {
	bubble(t, 3, nil, func(t *testing.T, w *world) {
		w.start("n1")
		w.never("it started alone", 5*time.Second, func() bool { return w.nodes["n1"].last().Joined })
		if p := w.nodes["n1"].raft.Status().Phase; !strings.Contains(p, "1 of 3 peers are up, 2 are needed") {
			t.Errorf("phase %q", p)
		}
		w.start("n2")
		w.holder()
	})
}

func TestBootstrapAlone(t *testing.T) {
	bubble(t, 3, func(c *RaftConfig) { c.Alone = true }, func(t *testing.T, w *world) {
		w.start("n2", "n3")
		w.never("a node that may not start a cluster did", 3*time.Second, func() bool { return w.nodes["n2"].last().Joined })
		w.stop("n2")
		w.stop("n3")
		w.start("n1")
		if h := w.holder(); h.name != "n1" {
			t.Errorf("%s holds", h.name)
		}
	})
}

func TestSomebodyElseOnTheAddressDelaysTheStart(t *testing.T) {
	rival := time.Now().Add(-time.Hour) // set in the bubble
	free := func(context.Context) error {
		if time.Now().Before(rival) {
			return errors.New("192.0.2.9 is answered for by 02:00:00:00:00:01")
		}
		return nil
	}
	bubble(t, 3, func(c *RaftConfig) { c.Free = free }, func(t *testing.T, w *world) {
		rival = time.Now().Add(25 * time.Second)
		w.start("n1", "n2", "n3")
		w.never("it started", 24*time.Second, func() bool { return w.nodes["n1"].last().Joined })
		if p := w.nodes["n1"].raft.Status().Phase; !strings.Contains(p, "answered for by") {
			t.Errorf("phase %q", p)
		}
		w.holder()
	})
}

func TestCrashBetweenTheStepsOfAStart(t *testing.T) {
	bubble(t, 3, nil, func(t *testing.T, w *world) {
		dir := t.TempDir()
		d, err := openStateDir(dir)
		must(t, err)
		id, err := d.loadIdentity("n1")
		must(t, err)
		s := openTestStore(t, d.file("state.json"), false)
		conf := confLog(1, string(id.serverID()))
		must(t, s.SetUint64([]byte("CurrentTerm"), 1), s.StoreLog(conf), d.Close()) // and then it crashed
		w.startIn("n1", dir)
		w.start("n2", "n3")
		w.voters(3)
		w.holder()
	})
}

func TestCrashedStartOfANodeThatThenJoins(t *testing.T) {
	bubble(t, 3, nil, func(t *testing.T, w *world) {
		w.start("n1", "n2", "n3")
		w.voters(3)
		w.moveTo("n1")
		w.stop("n3")
		dir := t.TempDir()
		d, err := openStateDir(dir)
		must(t, err)
		id, err := d.loadIdentity("n3")
		must(t, err)
		s := openTestStore(t, d.file("state.json"), false)
		must(t, s.SetUint64([]byte("CurrentTerm"), 1), s.StoreLog(confLog(1, string(id.serverID()))), d.Close())
		w.startIn("n3", dir)
		w.voters(3)
		if got := w.voterNames("n3"); !slices.Equal(got, []string{"n1", "n2", "n3"}) {
			t.Errorf("n3 believes in voters %v", got)
		}
	})
}

func TestMemberThatLostItsStateIsRefused(t *testing.T) {
	bubble(t, 3, nil, func(t *testing.T, w *world) {
		w.start("n1", "n2", "n3")
		w.voters(3)
		w.stop("n3")
		must(t, os.Remove(filepath.Join(w.nodes["n3"].dir, "state.json")))
		_, err := OpenRaft(RaftConfig{Node: "n3", Peers: w.peers, StateDir: w.nodes["n3"].dir, Profile: Fast})
		wantErr(t, err, "move "+w.nodes["n3"].dir+" away")
	})
}
