package hearsay

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/pintle-lb/pintle/leader"
)

const ms = time.Millisecond

// at is the instant that is d after the start of a test.
func at(d time.Duration) leader.Instant { return leader.Instant(time.Hour).Add(d) }

func peersUpTo(n int) (all []Peer) {
	for i := range n {
		all = append(all, Peer{Name: fmt.Sprintf("n%d", i+1), Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})})
	}
	return all
}

// village returns the tallies of nodes n1 to nn by name, who know each other.
func village(n int) map[string]*tally {
	v := map[string]*tally{}
	for _, p := range peersUpTo(n) {
		v[p.Name] = &tally{node: p.Name, self: newProcess()}
		v[p.Name].setPeers(peersUpTo(n))
	}
	return v
}

// letterTo returns what from says to the node to now.
func letterTo(t testing.TB, from *tally, to string, now leader.Instant) datagram {
	t.Helper()
	for _, l := range from.say(now) {
		if l.to == to {
			return l.datagram
		}
	}
	t.Fatalf("%s says nothing to %s", from.node, to)
	return datagram{}
}

// take has to hear d now.
func take(t testing.TB, to *tally, d datagram, now leader.Instant) error {
	t.Helper()
	p := to.find(d)
	if p == nil {
		t.Fatalf("%s knows no %s", to.node, d.from)
	}
	return to.hear(now, p, d)
}

// talk carries what from says now to to, at once.
func talk(t testing.TB, from, to *tally, now leader.Instant) {
	t.Helper()
	if err := take(t, to, letterTo(t, from, to.node, now), now); err != nil {
		t.Fatalf("%s does not hear %s: %v", to.node, from.node, err)
	}
}

// meet makes a and b believe each other: three datagrams, in each round one of a and then one of b.
func meet(t testing.TB, a, b *tally, now leader.Instant) {
	t.Helper()
	talk(t, a, b, now)
	talk(t, b, a, now.Add(1*ms))
	talk(t, a, b, now.Add(2*ms))
}

func lost(h *tally, now leader.Instant) bool { return now < h.until() }

func TestMajority(t *testing.T) {
	for _, c := range []struct {
		nodes, othersAway int
		want              bool
	}{
		{1, 0, true},
		{2, 0, false}, {2, 1, true},
		{3, 0, false}, {3, 1, true}, {3, 2, true},
		{4, 0, false}, {4, 1, false}, {4, 2, true}, {4, 3, true},
		{5, 0, false}, {5, 1, false}, {5, 2, true}, {5, 3, true}, {5, 4, true},
	} {
		for _, self := range []bool{false, true} {
			v := village(c.nodes)
			n1 := v["n1"]
			n1.away = self
			for i := range c.nodes - 1 {
				other := v[fmt.Sprintf("n%d", i+2)]
				other.away = i < c.othersAway
				meet(t, other, n1, at(0))
			}
			if got, want := lost(n1, at(5*ms)), self && c.want; got != want {
				t.Errorf("%d nodes, %d others say away, this one %v: lost %v, want %v", c.nodes, c.othersAway, self, got, want)
			}
		}
	}
}

func TestNobodyIsNoMajority(t *testing.T) {
	h := &tally{node: "n1", self: newProcess(), away: true}
	if lost(h, at(0)) {
		t.Error("lost before the nodes are known")
	}
	h.setPeers(nil)
	if lost(h, at(0)) {
		t.Error("lost with an empty list")
	}
	h.setPeers([]Peer{{Name: "n2"}})
	if lost(h, at(0)) {
		t.Error("one of two is taken for a majority where the list leaves this node out")
	}
	h.setPeers([]Peer{{Name: "n1"}, {Name: "n2"}, {Name: "n2"}, {Name: "n3"}})
	if got := h.nodes(); got != 3 {
		t.Errorf("%d nodes, want 3: a name counts once", got)
	}
}

// A report counts from when it can have been written at the earliest, whenever it comes.
func TestReportAges(t *testing.T) {
	for _, c := range []struct {
		name           string
		heard, written time.Duration // by n2, of what n1 sent at 0
		comes          time.Duration // to n1
		until          time.Duration // 0: it does not count
	}{
		{"at once", 0, 0, 0, 1500 * ms},
		{"the way there takes time, that may have passed after it was written", 100 * ms, 100 * ms, 100 * ms, 1500 * ms},
		{"the way back does", 0, 0, 900 * ms, 1500 * ms},
		{"held for 400 ms, less 5 %", 0, 400 * ms, 400 * ms, 1880 * ms},
		{"held and under way", 100 * ms, 500 * ms, 1400 * ms, 1880 * ms},
		{"just in time", 0, 0, 1500*ms - 1, 1500 * ms},
		{"repeats what is too old", 0, 0, 1500 * ms, 0},
		{"repeats what is too old, and was held", 0, 1400 * ms, 1500 * ms, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := village(2)
			n1, n2 := v["n1"], v["n2"]
			n1.away, n2.away = true, true
			if err := take(t, n2, letterTo(t, n1, "n2", at(0)), at(c.heard)); err != nil {
				t.Fatal(err)
			}
			if err := take(t, n1, letterTo(t, n2, "n1", at(c.written)), at(c.comes)); err != nil {
				t.Fatal(err)
			}
			want := at(c.until)
			if c.until == 0 {
				want = 0
			}
			if got := n1.until(); got != want {
				t.Errorf("counts until %v, want %v", got.Sub(at(0)), c.until)
			}
		})
	}
}

// A datagram of ours that takes long makes what repeats it look old. It takes back nothing of what was said before.
func TestReportIsNotMadeOlder(t *testing.T) {
	v := village(2)
	n1, n2 := v["n1"], v["n2"]
	n1.away, n2.away = true, true
	talk(t, n1, n2, at(0))
	slow := letterTo(t, n1, "n2", at(100*ms))
	talk(t, n2, n1, at(1000*ms))
	if err := take(t, n2, slow, at(1010*ms)); err != nil {
		t.Fatal(err)
	}
	talk(t, n2, n1, at(1020*ms))
	if got, want := n1.until(), at(950*ms).Add(Fresh); got != want {
		t.Errorf("counts until %v, want %v", got.Sub(at(0)), want.Sub(at(0)))
	}
}

// A sender that says it held our datagram for longer than can be, by its clock or by a lie, is not believed for longer than one
// that wrote just now.
func TestReportIsNeverOfTheFuture(t *testing.T) {
	v := village(2)
	n1, n2 := v["n1"], v["n2"]
	n1.away, n2.away = true, true
	talk(t, n1, n2, at(0))
	d := letterTo(t, n2, "n1", at(100*ms))
	d.held = time.Hour
	if err := take(t, n1, d, at(100*ms)); err != nil {
		t.Fatal(err)
	}
	if got, want := n1.until(), at(100*ms).Add(Fresh); got != want {
		t.Errorf("counts until %v, want %v", got.Sub(at(0)), want.Sub(at(0)))
	}
}

// Only who hears this process counts.
func TestEchoRule(t *testing.T) {
	v := village(2)
	n1, n2 := v["n1"], v["n2"]
	n1.away, n2.away = true, true
	talk(t, n2, n1, at(0))
	if lost(n1, at(0)) {
		t.Error("a node that has not heard this one counts")
	}
	n1.say(at(1 * ms))
	for name, echo := range map[string]mark{
		"another process":     {newProcess(), at(1 * ms)},
		"what was not sent":   {n1.self, at(2 * ms)},
		"what is of long ago": {n1.self, at(1 * ms).Add(-Fresh)},
	} {
		d := letterTo(t, n2, "n1", at(2*ms))
		d.echo = echo
		if err := take(t, n1, d, at(2*ms)); err != nil {
			t.Errorf("repeats %s: %v", name, err)
		}
		if lost(n1, at(2*ms)) {
			t.Errorf("a node that repeats %s counts", name)
		}
	}
	talk(t, n1, n2, at(3*ms))
	talk(t, n2, n1, at(4*ms))
	if !lost(n1, at(4*ms)) {
		t.Error("a node that has heard this one does not count")
	}
}

func TestStaleAndCutOff(t *testing.T) {
	v := village(3)
	n1 := v["n1"]
	n1.away = true
	for _, name := range []string{"n2", "n3"} {
		v[name].away = true
		meet(t, v[name], n1, at(0))
	}
	// n2 goes on, and n3 is silent.
	talk(t, n1, v["n2"], at(1000*ms))
	talk(t, v["n2"], n1, at(1001*ms))
	if now := at(2400 * ms); !lost(n1, now) {
		t.Error("one of two others is enough, and not taken")
	}
	if now := at(2600 * ms); lost(n1, now) {
		t.Error("who hears nobody thinks that all say away")
	}
	if got := v["n1"].peers["n3"].says(at(2000 * ms)); got != Nothing {
		t.Errorf("n3, not heard for 2 s, says %v", got)
	}
}

func TestFlapping(t *testing.T) {
	v := village(2)
	n1, n2 := v["n1"], v["n2"]
	n1.away, n2.away = true, true
	meet(t, n2, n1, at(0))
	for i := range 10 {
		now := at(time.Duration(i+1) * 10 * ms)
		n2.away = i%2 == 1
		talk(t, n2, n1, now)
		if got := lost(n1, now); got != n2.away {
			t.Fatalf("n2 says away: %v; lost: %v", n2.away, got)
		}
		n1.away = !n1.away
		if got := lost(n1, now); got != (n1.away && n2.away) {
			t.Fatalf("n1 says away: %v, n2 %v; lost: %v", n1.away, n2.away, got)
		}
		n1.away = true
	}
}

// What says less counts at once, also if it repeats nothing new.
func TestAnswerCountsWithoutEcho(t *testing.T) {
	v := village(2)
	n1, n2 := v["n1"], v["n2"]
	n1.away, n2.away = true, true
	meet(t, n2, n1, at(0))
	n2.away = false
	d := letterTo(t, n2, "n1", at(10*ms))
	d.echo, d.held = mark{}, 0
	if err := take(t, n1, d, at(10*ms)); err != nil {
		t.Fatal(err)
	}
	if lost(n1, at(10*ms)) {
		t.Error("away counts although the node takes it back")
	}
}

// An eavesdropper has all datagrams and sends them when and to whom it likes.
func TestReplays(t *testing.T) {
	v := village(3)
	n1, n2 := v["n1"], v["n2"]
	n1.away, n2.away = true, true
	hello := letterTo(t, n2, "n1", at(0))
	if err := take(t, n1, hello, at(0)); err != nil {
		t.Fatal(err)
	}
	meet(t, n2, n1, at(10*ms))
	away := letterTo(t, n2, "n1", at(20*ms))
	if err := take(t, n1, away, at(20*ms)); err != nil {
		t.Fatal(err)
	}
	elsewhere := letterTo(t, n2, "n3", at(30*ms))
	n2.away = false
	talk(t, n2, n1, at(40*ms))

	if err := take(t, n1, away, at(50*ms)); !errors.Is(err, errRepeated) {
		t.Errorf("the same again: %v", err)
	}
	if n1.find(elsewhere) != nil {
		t.Error("what is for another node is taken")
	}
	if own := letterTo(t, n1, "n2", at(50*ms)); n1.find(own) != nil {
		t.Error("what this node sent is taken")
	}
	if lost(n1, at(50*ms)) {
		t.Error("old datagrams are believed")
	}

	// n2 starts anew. What its former process said is nothing, neither before its new one is heard nor after.
	reborn := &tally{node: "n2", self: newProcess()}
	reborn.setPeers(peersUpTo(3))
	meet(t, n1, reborn, at(100*ms))
	talk(t, reborn, n1, at(110*ms))
	for _, old := range []datagram{hello, away} {
		if err := take(t, n1, old, at(120*ms)); !errors.Is(err, errOtherLife) {
			t.Errorf("of the former process: %v", err)
		}
	}
	if lost(n1, at(120*ms)) {
		t.Error("the former process is believed")
	}
	// And it makes nobody deaf to the living.
	reborn.away = true
	talk(t, n1, reborn, at(130*ms))
	talk(t, reborn, n1, at(140*ms))
	if !lost(n1, at(140*ms)) {
		t.Error("the living process is not believed")
	}

	// Long after, when n2 is silent, a recorded datagram is at most taken for a greeting.
	for _, old := range []datagram{hello, away} {
		_ = take(t, n1, old, at(time.Minute))
		if lost(n1, at(time.Minute)) {
			t.Error("an old datagram counts when its sender is silent")
		}
	}
	meet(t, reborn, n1, at(time.Minute+10*ms))
	if !lost(n1, at(time.Minute+20*ms)) {
		t.Error("a node is not believed after its old datagrams were heard")
	}
}

// A datagram of the former process that was held back, and repeats what was sent moments ago, comes after the new one was heard.
func TestFormerProcessComesLate(t *testing.T) {
	v := village(2)
	n1, n2 := v["n1"], v["n2"]
	n1.away, n2.away = true, true
	meet(t, n2, n1, at(0))
	late := letterTo(t, n2, "n1", at(10*ms))

	reborn := &tally{node: "n2", self: newProcess()}
	reborn.setPeers(peersUpTo(2))
	meet(t, n1, reborn, at(100*ms))
	talk(t, reborn, n1, at(110*ms))
	if err := take(t, n1, late, at(120*ms)); !errors.Is(err, errOtherLife) {
		t.Errorf("%v", err)
	}
	if lost(n1, at(120*ms)) {
		t.Error("what the former process said counts after the new one was heard")
	}
}

// The process of this node is new; the others have heard the former one a moment ago.
func TestNewProcessIsBelievedSoon(t *testing.T) {
	v := village(2)
	n1, n2 := v["n1"], v["n2"]
	n2.away = true
	meet(t, n1, n2, at(0))
	talk(t, n2, n1, at(5*ms))

	reborn := &tally{node: "n1", self: newProcess(), away: true}
	reborn.setPeers(peersUpTo(2))
	talk(t, n2, reborn, at(10*ms))
	if lost(reborn, at(10*ms)) {
		t.Error("believes what was said to its former process")
	}
	talk(t, reborn, n2, at(20*ms))
	talk(t, n2, reborn, at(30*ms))
	if !lost(reborn, at(30*ms)) {
		t.Error("not believed after it has heard and was heard")
	}
}

// A node that speaks again after a silence, with the same process, is heard at once, also if a greeting came in between.
func TestSilenceEnds(t *testing.T) {
	v := village(2)
	n1, n2 := v["n1"], v["n2"]
	n1.away, n2.away = true, true
	meet(t, n2, n1, at(0))
	stranger := &tally{node: "n2", self: newProcess(), away: true}
	stranger.setPeers(peersUpTo(2))
	talk(t, stranger, n1, at(3000*ms))
	talk(t, stranger, n1, at(3100*ms))
	talk(t, n2, n1, at(3200*ms))
	if lost(n1, at(3200*ms)) {
		t.Error("believed without an echo")
	}
	talk(t, n1, n2, at(3300*ms))
	talk(t, n2, n1, at(3400*ms))
	if !lost(n1, at(3400*ms)) {
		t.Error("not believed after a silence")
	}
}

func TestRemovedNode(t *testing.T) {
	v := village(3)
	n1 := v["n1"]
	n1.away, v["n2"].away = true, true
	meet(t, v["n2"], n1, at(0))
	meet(t, v["n3"], n1, at(0))
	if !lost(n1, at(10*ms)) {
		t.Fatal("two of three are no majority")
	}
	n1.setPeers([]Peer{{Name: "n1"}, {Name: "n3"}})
	if lost(n1, at(10*ms)) {
		t.Error("a node that is gone counts")
	}
	if d := letterTo(t, v["n2"], "n1", at(10*ms)); n1.find(d) != nil {
		t.Error("a node that is gone is heard")
	}
	n1.setPeers(peersUpTo(3))
	if lost(n1, at(10*ms)) {
		t.Error("a node that came back counts before it was heard")
	}
	meet(t, v["n2"], n1, at(20*ms))
	if n1.setPeers(peersUpTo(3)); !lost(n1, at(30*ms)) {
		t.Error("the same list again makes forget what was heard")
	}
	if n1.setPeers(peersUpTo(4)); lost(n1, at(30*ms)) {
		t.Error("two of four are a majority")
	}
}

func TestSays(t *testing.T) {
	v := village(3)
	n1, n2 := v["n1"], v["n2"]
	meet(t, n2, n1, at(0))
	p := n1.peers["n2"]
	if got := p.says(at(10 * ms)); got != Answers {
		t.Errorf("says %v", got)
	}
	n2.away = true
	talk(t, n2, n1, at(20*ms))
	if got := p.says(at(30 * ms)); got != Away {
		t.Errorf("says %v", got)
	}
	want := func(now leader.Instant, name, text string) {
		t.Helper()
		err := n1.peers[name].fault(now)
		if fmt.Sprint(err) != text {
			t.Errorf("%s: %v, want %s", name, err, text)
		}
	}
	want(at(30*ms), "n2", "<nil>")
	want(at(30*ms), "n3", "it was never heard")
	want(at(3020*ms), "n2", "it was not heard for 3s")
	talk(t, n2, n1, at(3030*ms))
	want(at(3040*ms), "n2", "it is heard, but does not hear this node")
	n1.peers["n2"].Addr = netip.Addr{}
	want(at(3040*ms), "n2", "its address is not known")
}

func TestStretch(t *testing.T) {
	s := stretch{}
	for _, c := range []struct {
		now, until leader.Instant
		want       stretch
	}{
		{10, 0, stretch{}},
		{20, 30, stretch{20, 30}},
		{25, 40, stretch{20, 40}},
		{25, 35, stretch{20, 35}}, // it may end sooner than was thought
		{34, 50, stretch{20, 50}},
		{50, 60, stretch{50, 60}}, // a break, of no time at all
		{55, 55, stretch{}},
		{56, 70, stretch{56, 70}},
		{60, 0, stretch{}},
	} {
		if s = s.next(c.now, c.until); s != c.want {
			t.Fatalf("at %d until %d: %v, want %v", c.now, c.until, s, c.want)
		}
	}
}
