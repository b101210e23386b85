package service

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
	"github.com/pintle-lb/pintle/leader"
)

// someCoordinator is that of nodes that have so many addresses each, each of a Service of its own, when nothing is left to be done.
func someCoordinator(t *testing.T, each int, nodes ...string) *coordinator {
	t.Helper()
	f := someFacts(nodes...)
	f.Wall = time.Unix(1e9, 0)
	load := map[string]int{}
	for _, n := range nodes {
		load[n] = each
	}
	f.spread(load)
	all, err := ipam.ParseRange("192.0.0.0/16", false)
	if err != nil {
		t.Fatal(err)
	}
	f.Pools["main"].Ranges = []ipam.Range{all}
	for a, r := range f.Records {
		k := ipam.Key{Namespace: "shop", Name: objectName(a)}
		f.Services[k] = &Service{Key: k, Type: true, Families: []ipam.Family{ipam.IPv4}}
		r.Object.Spec.Services = []pintlev1.ServiceRef{{Namespace: k.Namespace, Name: k.Name}}
	}
	c := newCoordinator(f)
	for a := range f.Records {
		c.recordChanged(a)
	}
	c.poolsChanged()
	c.urgent()
	c.settled(t)
	return c
}

// settled carries out what the coordinator decides, so many writes at a time, until there is nothing more, and returns the writes.
func (c *coordinator) settled(t *testing.T) (all []Write) {
	t.Helper()
	for range 10 * len(c.Records) {
		out := c.decide(16)
		for _, w := range out {
			w.Record.Object, w.Record.Writing, w.Record.Next = w.Object, false, nil
			c.recordChanged(w.Record.Addr)
		}
		all = append(all, out...)
		if len(out) == 0 && !c.more {
			return all
		}
	}
	t.Fatal("there is always more to write")
	return nil
}

// TestFenced: what a fenced node had is given to others before anything else is looked at, evenly, and to one after the other.
func TestFenced(t *testing.T) {
	const each = 240
	c := someCoordinator(t, each, "n1", "n2", "n3", "n4", "n5")
	c.speaks("n5", func(m *Fellow) { m.Alive = false })
	c.placesChanged()
	if out := c.settled(t); len(out) > 0 {
		t.Fatalf("%d writes, the first of %s, before the node is fenced", len(out), out[0].Record.Addr)
	}
	c.speaks("n5", func(m *Fellow) { m.Epoch++ })
	c.placesChanged()
	out := c.settled(t)
	var to []string
	got := map[string]int{}
	for i, w := range out {
		h := w.Object.Status.Holder
		if got[h]++; i == 0 || to[len(to)-1] != h {
			to = append(to, h)
		}
	}
	if len(out) != each || !slices.Equal(to, []string{"n1", "n2", "n3", "n4"}) {
		t.Errorf("%d addresses of %d go to %v", len(out), each, to)
	}
	for n, k := range got {
		if k != each/4 {
			t.Errorf("%s gets %d of %d", n, k, each)
		}
	}
}

// TestFencedFirst: while many addresses are looked at for another reason, a node is fenced.
func TestFencedFirst(t *testing.T) {
	c := someCoordinator(t, 2*mostLooks, "n1", "n2", "n3")
	c.speaks("n3", func(m *Fellow) { m.Alive = false })
	c.placesChanged()
	if out := c.decide(16); len(out) > 0 || !c.more || c.records.len() != len(c.Records)-mostLooks {
		t.Fatalf("%d writes, %d of %d addresses left, more: %t", len(out), c.records.len(), len(c.Records), c.more)
	}
	c.speaks("n3", func(m *Fellow) { m.Epoch++ })
	c.placesChanged()
	out := c.decide(16)
	if len(out) != 16 {
		t.Fatalf("%d writes", len(out))
	}
	for _, w := range out {
		if w.Object.Status.Holder != "n1" {
			t.Errorf("%s goes to %q", w.Record.Addr, w.Object.Status.Holder)
		}
	}
}

// TestFencedElsewhere: the node that was meant for an address cannot have it any more.
func TestFencedElsewhere(t *testing.T) {
	for name, change := range map[string]func(*Facts){
		"it is cordoned":     func(f *Facts) { f.Nodes["n1"].Cordoned = true },
		"it is dead":         func(f *Facts) { f.speaks("n1", func(m *Fellow) { m.Alive = false }) },
		"others are better":  func(f *Facts) { f.Nodes["n2"].Priority, f.Nodes["n3"].Priority = 1, 1 },
		"it is to have none": func(f *Facts) { f.Nodes["n1"].Weight = 0 },
		"it is no node":      func(f *Facts) { delete(f.Nodes, "n1") },
		"it has other labels": func(f *Facts) {
			f.Pools["main"].Nodes = ipam.Selector{{Key: "zone", Op: ipam.NotIn, Values: []string{"1"}}}
			f.Nodes["n1"].Labels = map[string]string{"zone": "1"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := someCoordinator(t, 30, "n1", "n2", "n3", "n4")
			c.speaks("n4", func(m *Fellow) { m.Alive, m.Epoch = false, m.Epoch+1 })
			c.placesChanged()
			change(c.Facts)
			got := map[string]int{}
			for range 3 {
				for _, w := range c.decide(16) {
					if w.Record.Object.Status.Holder == "n4" {
						got[w.Object.Status.Holder]++
					}
				}
			}
			if fmt.Sprint(got) != "map[n2:15 n3:15]" {
				t.Errorf("addresses go to %v", got)
			}
		})
	}
}

// TestWhoFences: the coordinator at once; when its own node is gone, who is to be the next, and each further node later.
func TestWhoFences(t *testing.T) {
	nodes := []string{"n1", "n2", "n3", "n4", "n5", "n6"}
	for name, want := range map[string]time.Duration{"n2": 0, "n3": 0, "n4": seatStep, "n5": 2 * seatStep, "n6": fenceLag} {
		lag := time.Duration(-1)
		c := newController(Config{Node: name, Clock: func() leader.Instant { return 1 }, Need: func(map[string]uint64) {}, Lag: func(d time.Duration) { lag = d }}, nil)
		f := someFacts(nodes...)
		f.Node, f.Seat = name, SeatRecord{Node: "n1", Epoch: 3, known: true}
		f.speaks("n2", func(m *Fellow) { m.Word.Leaving = true })
		c.facts, c.rollAt = *f, leader.Instant(time.Hour)
		if c.tellRoll(); lag != fenceLag {
			t.Errorf("%s fences %v late while n1 coordinates", name, lag)
		}
		gone := f.Roll["n1"].RollMember
		gone.Alive = false
		c.learnMember(gone)
		if c.rollAt != 0 {
			t.Errorf("%s goes on with what it was told before", name)
		}
		if c.tellRoll(); lag != want {
			t.Errorf("%s fences n1 %v late, want %v", name, lag, want)
		}
	}
}
