package leader

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"
)

const rollPrefix = "pintle-node-"

// rollWorld is some nodes before one store, each with an elector for a Lease of
// its own and a Roll of all.
type rollWorld struct {
	*kubeWorld
	rolls map[string]*rollNode
	tune  func(*RollConfig)
}

type rollNode struct {
	roll   *Roll
	cancel func()
	done   chan struct{}

	mu      sync.Mutex // guards what follows
	members map[string]RollMember
	reports int
}

func newRollWorld(t testing.TB, n int, change func(*KubeConfig)) *rollWorld {
	w := &rollWorld{rolls: map[string]*rollNode{}}
	w.kubeWorld = newKubeWorld(t, n, func(c *KubeConfig) {
		c.Name, c.Prefix, c.Heir = "", rollPrefix, "host of "+c.Node
		if change != nil {
			change(c)
		}
	})
	t.Cleanup(func() { // before that of the kubeWorld
		for _, s := range w.servers {
			s.start()
			s.thaw()
		}
		for _, n := range w.names {
			w.links[n].set(false)
			w.stopRoll(n)
		}
	})
	return w
}

func (w *rollWorld) startRoll(name string, report func(RollMember)) *rollNode {
	k := w.config(name)
	c := RollConfig{Node: name, Namespace: k.Namespace, Prefix: k.Prefix, Duration: k.Duration, Servers: k.Servers, Clock: k.Clock, open: k.open}
	if w.tune != nil {
		w.tune(&c)
	}
	r, err := OpenRoll(c)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &rollNode{roll: r, cancel: cancel, done: make(chan struct{}), members: map[string]RollMember{}}
	w.mu.Lock()
	w.rolls[name] = n
	w.mu.Unlock()
	go func() {
		defer close(n.done)
		err := r.Run(ctx, func(m RollMember) {
			n.mu.Lock()
			n.members[m.Node] = m
			n.reports++
			n.mu.Unlock()
			if report != nil {
				report(m)
			}
		})
		if err != nil {
			w.t.Errorf("%s: %v", name, err)
		}
	}()
	return n
}

func (w *rollWorld) stopRoll(name string) {
	w.mu.Lock()
	n := w.rolls[name]
	delete(w.rolls, name)
	w.mu.Unlock()
	if n != nil {
		n.cancel()
		<-n.done
	}
}

// up starts a node.
func (w *rollWorld) up(names ...string) {
	for _, n := range names {
		w.start(n, nil)
		w.startRoll(n, nil)
	}
}

// down kills a node.
func (w *rollWorld) down(name string) {
	w.stop(name)
	w.stopRoll(name)
}

func (w *rollWorld) member(at, of string) RollMember {
	w.mu.Lock()
	n := w.rolls[at]
	w.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.members[of]
}

func (w *rollWorld) wait(what string, ok func() bool) time.Duration {
	w.t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > 2*time.Minute {
			w.t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(began)
}

func (w *rollWorld) holds(name string) bool { return w.node(name).last().Lease.Valid() }

// allAlive waits until all nodes hold and all know it.
func (w *rollWorld) allAlive() {
	w.t.Helper()
	w.wait("all to be alive", func() bool {
		for _, at := range w.names {
			for _, of := range w.names {
				if !w.member(at, of).Alive {
					return false
				}
			}
		}
		return true
	})
}

func rollBubble(t *testing.T, n int, change func(*KubeConfig), test func(*testing.T, *rollWorld)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newRollWorld(t, n, change)
		w.up(w.names...)
		w.allAlive()
		test(t, w)
	})
}

func TestRollFencesWhoIsNeeded(t *testing.T) {
	rollBubble(t, 3, nil, func(t *testing.T, w *rollWorld) {
		was := w.member("n1", "n3")
		w.links["n3"].set(true)
		w.wait("n3 to be away", func() bool { return !w.member("n1", "n3").Alive })
		time.Sleep(10 * time.Second)
		if m := w.member("n1", "n3"); m.Epoch != was.Epoch || m.Fenced {
			t.Fatalf("nobody needs n3 to be fenced: %+v", m)
		}
		w.rolls["n1"].roll.Need(map[string]uint64{"n3": was.Epoch, "n2": w.member("n1", "n2").Epoch, "n1": w.member("n1", "n1").Epoch})
		w.wait("n3 to be fenced", func() bool { return w.member("n2", "n3").Fenced })
		if w.holds("n3") {
			t.Fatal("n3 holds")
		}
		m := w.member("n2", "n3")
		if m.Epoch <= was.Epoch || m.Alive {
			t.Fatalf("n3 after the fence: %+v, before: %+v", m, was)
		}
		o := w.store.get(rollPrefix + "n3")
		if *o.Spec.HolderIdentity != "" || o.Labels[groupLabel] != "pintle-node" {
			t.Errorf("the fence leaves %q %v", *o.Spec.HolderIdentity, o.Labels)
		}
		w.links["n3"].set(false)
		w.wait("n3 to hold again", func() bool { return w.member("n1", "n3").Alive && w.holds("n3") })
		if now := w.member("n1", "n3"); now.Epoch <= m.Epoch || now.Fenced || w.node("n3").last().Epoch != now.Epoch {
			t.Errorf("n3 after it came back: %+v, fenced: %+v", now, m)
		}
		if n := w.rolls["n1"].roll.Status().Fences + w.rolls["n2"].roll.Status().Fences; n != 1 {
			t.Errorf("%d fences", n)
		}
	})
}

// A node that dies is fenced once its T is over, and not long after.
func TestRollFencesInTime(t *testing.T) {
	rollBubble(t, 3, nil, func(t *testing.T, w *rollWorld) {
		time.Sleep(10 * time.Second)
		w.rolls["n1"].roll.Need(map[string]uint64{"n3": w.member("n1", "n3").Epoch})
		w.rolls["n2"].roll.Need(map[string]uint64{"n3": w.member("n1", "n3").Epoch})
		w.rolls["n2"].roll.Lag(time.Second)
		w.down("n3")
		d := w.wait("n3 to be fenced", func() bool { return w.member("n1", "n3").Fenced })
		if d < time.Second || d > 2100*time.Millisecond {
			t.Errorf("fenced after %v, T is 2 s", d)
		}
		if st := w.rolls["n2"].roll.Status(); st.Fences != 0 || st.Writes != 0 {
			t.Errorf("who stands by wrote too: %+v", st)
		}
	})
}

func TestRollFencesWhatIsGone(t *testing.T) {
	rollBubble(t, 2, nil, func(t *testing.T, w *rollWorld) {
		was := w.member("n1", "n2")
		w.down("n2")
		w.store.edit(rollPrefix+"n2", func(*coordinationv1.Lease) *coordinationv1.Lease { return nil })
		w.wait("n2 to be off the roll", func() bool { return w.member("n1", "n2").Epoch == 0 })
		w.rolls["n1"].roll.Need(map[string]uint64{"n2": was.Epoch, "n9": 7})
		d := w.wait("n2 and n9 to be fenced", func() bool { return w.member("n1", "n2").Fenced && w.member("n1", "n9").Fenced })
		if w.member("n1", "n2").Epoch <= was.Epoch || w.member("n1", "n9").Epoch <= 7 {
			t.Errorf("%+v %+v", w.member("n1", "n2"), w.member("n1", "n9"))
		}
		if d < 2*time.Second {
			t.Errorf("fenced what was gone after %v, T is 2 s", d)
		}
	})
}

func TestHeirTakesAtOnce(t *testing.T) {
	rollBubble(t, 2, nil, func(t *testing.T, w *rollWorld) {
		for range 3 {
			was := w.node("n2").last()
			w.stop("n2")
			w.start("n2", nil)
			if d := w.wait("n2 to hold", func() bool { return w.holds("n2") }); d > 100*time.Millisecond {
				t.Errorf("an heir waited for %v", d)
			}
			if now := w.node("n2").last(); now.Epoch <= was.Epoch {
				t.Errorf("epoch %d after %d", now.Epoch, was.Epoch)
			}
		}
	})
}

// Who was cut off and not fenced goes on in its epoch: nothing that names it has to be
// written again.
func TestOwnerGoesOn(t *testing.T) {
	rollBubble(t, 2, nil, func(t *testing.T, w *rollWorld) {
		for _, away := range []time.Duration{3 * time.Second, 20 * time.Second} {
			was := w.node("n2").last()
			w.links["n2"].set(true)
			time.Sleep(away)
			if w.holds("n2") {
				t.Fatal("n2 holds")
			}
			w.links["n2"].set(false)
			if d := w.wait("n2 to hold", func() bool { return w.holds("n2") }); d > time.Second {
				t.Errorf("n2 waited for %v", d)
			}
			if now := w.node("n2").last(); now.Epoch != was.Epoch || now.Lease == was.Lease {
				t.Errorf("%+v after %+v", now, was)
			}
		}
	})
}

// When the API comes back after a while, owners come before those who fence.
func TestOwnersComeFirst(t *testing.T) {
	for _, away := range []time.Duration{1500 * time.Millisecond, 2 * time.Second, 3 * time.Second, 10 * time.Second} {
		t.Run(away.String(), func(t *testing.T) {
			rollBubble(t, 5, nil, func(t *testing.T, w *rollWorld) {
				need := map[string]uint64{}
				for _, n := range w.names {
					need[n] = w.member("n1", n).Epoch
				}
				for _, n := range w.names {
					w.rolls[n].roll.Need(need)
				}
				for _, s := range w.servers {
					s.kill()
				}
				time.Sleep(away)
				for _, s := range w.servers {
					s.start()
				}
				w.allAlive()
				time.Sleep(10 * time.Second)
				for _, n := range w.names {
					if m := w.member("n1", n); m.Epoch != need[n] || !w.holds(n) {
						t.Errorf("%s: %+v, epoch before %d", n, m, need[n])
					}
				}
			})
		})
	}
}

func TestEpochsThatAreUsedUp(t *testing.T) {
	rollBubble(t, 2, nil, func(t *testing.T, w *rollWorld) {
		was := w.node("n2").last()
		w.node("n2").kube.Above(was.Epoch - 1)
		time.Sleep(time.Second)
		if now := w.node("n2").last(); now.Lease != was.Lease {
			t.Errorf("gave up for a lower epoch: %+v", now)
		}
		w.node("n2").kube.Above(was.Epoch + 7)
		if was.Lease.Valid() {
			t.Error("the lease of a used up epoch is valid")
		}
		w.wait("n2 to hold", func() bool { return w.holds("n2") })
		if now := w.node("n2").last(); now.Epoch <= was.Epoch+7 {
			t.Errorf("epoch %d after %d", now.Epoch, was.Epoch)
		}
	})
}

func TestNotes(t *testing.T) {
	rollBubble(t, 2, func(c *KubeConfig) { c.MACs = func() []string { return []string{"02:00:00:00:00:0" + c.Node[1:]} } }, func(t *testing.T, w *rollWorld) {
		k := w.node("n2").kube
		for _, text := range []string{"a < b & \"c\"", "", "two"} {
			if err := k.Note(text); err != nil {
				t.Fatal(err)
			}
			if d := w.wait("the note", func() bool { return w.member("n1", "n2").Note == text }); d > 150*time.Millisecond {
				t.Errorf("the note took %v, T/20 is 100 ms", d)
			}
		}
		before := k.Status().Writes
		for i := range 1000 {
			if err := k.Note(strings.Repeat("x", i)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		if n := k.Status().Writes - before; n < 5 || n > 12 {
			t.Errorf("%d writes for 1000 notes in a second", n)
		}
		wantErr(t, k.Note(strings.Repeat("x", maxNote+1)), "want 4096 at most")
		wantErr(t, k.Note("\xff"), "not UTF-8")
		w.wait("the last note", func() bool { return len(w.member("n1", "n2").Note) == 999 })
		if got := w.rolls["n1"].roll.PeerOf("02:00:00:00:00:02"); got != "n2" {
			t.Errorf("the hardware address is of %q", got)
		}
		reports := w.rolls["n1"].reports
		time.Sleep(time.Minute)
		if n := w.rolls["n1"].reports - reports; n != 0 {
			t.Errorf("%d reports of renewals", n)
		}
	})
}

// A quiet group costs no reads.
func TestRollReadsNothingAtRest(t *testing.T) {
	rollBubble(t, 4, nil, func(t *testing.T, w *rollWorld) {
		w.down("n3")
		w.down("n4")
		w.rolls["n1"].roll.Need(map[string]uint64{"n4": w.member("n1", "n4").Epoch, "n2": w.member("n1", "n2").Epoch})
		time.Sleep(10 * time.Second)
		before := w.rolls["n1"].roll.Status()
		time.Sleep(10 * time.Minute)
		after := w.rolls["n1"].roll.Status()
		if after.Reads != before.Reads || after.Writes != before.Writes || after.Watches != before.Watches {
			t.Errorf("at rest: %+v, before %+v", after, before)
		}
		if after.Members != 4 || after.Alive != 2 || after.Error != "" {
			t.Errorf("%+v", after)
		}
	})
}

// A watch that says nothing any more is found out, and started anew.
func TestRollFindsADeadWatch(t *testing.T) {
	rollBubble(t, 3, nil, func(t *testing.T, w *rollWorld) {
		w.servers["n1"].freeze() // n1 asks another one, and its watch stays
		time.Sleep(10 * time.Second)
		for _, n := range w.names {
			if !w.member("n1", n).Alive {
				t.Errorf("%s is away, says n1", n)
			}
		}
	})
}

// denyAPI forbids some verbs.
type denyAPI struct {
	leaseAPI
	deny *string
}

func (a denyAPI) err(verb string) error {
	if strings.Contains(*a.deny, verb) {
		return apierrors.NewForbidden(leases, "", context.Canceled)
	}
	return nil
}

func (a denyAPI) List(ctx context.Context, group string) (*coordinationv1.LeaseList, error) {
	if err := a.err("list"); err != nil {
		return nil, err
	}
	return a.leaseAPI.List(ctx, group)
}

func (a denyAPI) WatchGroup(ctx context.Context, group, version string) (watch.Interface, error) {
	if err := a.err("watch"); err != nil {
		return nil, err
	}
	return a.leaseAPI.WatchGroup(ctx, group, version)
}

func (a denyAPI) Put(ctx context.Context, o *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	if err := a.err("update"); err != nil {
		return nil, err
	}
	return a.leaseAPI.Put(ctx, o)
}

func TestRollSaysWhatItMayNot(t *testing.T) {
	for _, verb := range []string{"list", "watch", "update"} {
		t.Run(verb, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newRollWorld(t, 2, nil)
				deny := verb
				w.tune = func(c *RollConfig) {
					open := c.open
					c.open = func(url string) (leaseAPI, error) {
						api, err := open(url)
						return denyAPI{api, &deny}, err
					}
				}
				r := w.startRoll("n1", nil).roll
				r.Need(map[string]uint64{"n2": 1})
				want := "may not " + verb + " leases.coordination.k8s.io \"pintle-node-*\" in namespace kube-system"
				w.wait("the error", func() bool { return strings.Contains(r.Status().Error, want) })
				deny = ""
				w.wait("no error", func() bool { return r.Status().Error == "" })
				w.wait("the fence", func() bool { return w.member("n1", "n2").Fenced })
			})
		})
	}
}
