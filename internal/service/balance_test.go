package service

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/pintle-lb/pintle/leader"
)

// spread puts so many addresses on each node.
func (f *Facts) spread(load map[string]int) {
	f.Records = map[netip.Addr]*Record{}
	a := netip.MustParseAddr("192.0.2.1")
	for _, n := range f.alive() {
		for range load[n] {
			r := someRecord(a.String(), n, n, 3)
			f.Records[a] = r
			a = a.Next()
		}
	}
	for _, n := range f.alive() { // more than a /24 has
		f.speaks(n, func(m *Fellow) { m.Word.Links[0].Subnets = []netip.Prefix{netip.MustParsePrefix("192.0.0.0/16")} })
	}
}

func (f *Facts) loads() map[string]int {
	load := map[string]int{}
	for _, r := range f.Records {
		load[r.Object.Spec.Wanted]++
	}
	return load
}

// level moves addresses until the spread is even, and returns how often each was moved.
func (f *Facts) level(t *testing.T) map[netip.Addr]int {
	t.Helper()
	moved := map[netip.Addr]int{}
	for round := 0; ; round++ {
		moves := f.balance(f.loads())
		if len(moves) == 0 {
			return moved
		}
		if len(moves) > fewMoves || round > len(f.Records) {
			t.Fatalf("%d moves in round %d", len(moves), round)
		}
		for _, m := range moves {
			if f.Nodes[m.to].Priority != f.Nodes[m.record.Object.Spec.Wanted].Priority {
				t.Errorf("%s moves from %s to %s of another priority", m.record.Addr, m.record.Object.Spec.Wanted, m.to)
			}
			moved[m.record.Addr]++
			m.record.Object.Spec.Wanted, m.record.Object.Status.Holder = m.to, m.to
		}
	}
}

// unevenness is how many times more than another a node has, for its weight, of those of a priority, where one address less or more
// would make a difference.
func (f *Facts) unevenness(prio int) float64 {
	load, worst := f.loads(), 1.0
	for a, x := range f.Nodes {
		for b, y := range f.Nodes {
			if x.Priority != prio || y.Priority != prio || x.Weight == 0 || y.Weight == 0 {
				continue
			}
			if float64(load[a]-1)/float64(x.Weight) >= float64(load[b]+1)/float64(y.Weight) {
				worst = max(worst, float64(load[a])/float64(x.Weight)/(float64(load[b])/float64(y.Weight)))
			}
		}
	}
	return worst
}

func nodeNames(n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("n%02d", i+1))
	}
	return out
}

// TestBalance: from any imbalance an even spread comes, in few steps, and nothing is moved twice.
func TestBalance(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for size := 3; size <= 10; size++ {
		nodes := nodeNames(size)
		for name, load := range map[string]map[string]int{
			"all on one":    {"n01": 100 * size},
			"one is new":    func() map[string]int { l := even(nodes, 100); l["n02"] = 0; return l }(),
			"one has twice": func() map[string]int { l := even(nodes, 30); l["n03"] = 60; return l }(),
			"few":           {"n01": size},
			"random": func() map[string]int {
				l := map[string]int{}
				for _, n := range nodes {
					l[n] = rng.IntN(200)
				}
				return l
			}(),
		} {
			t.Run(fmt.Sprintf("%d nodes, %s", size, name), func(t *testing.T) {
				f := someFacts(nodes...)
				f.spread(load)
				total, want := len(f.Records), len(f.Records)/size
				surplus := 0
				for _, n := range load {
					surplus += max(0, n-want)
				}
				moved := f.level(t)
				if len(f.Records) != total || len(moved) > surplus {
					t.Errorf("%d of %d addresses move, %d were too many", len(moved), total, surplus)
				}
				for a, n := range moved {
					if n > 1 {
						t.Errorf("%s moves %d times", a, n)
					}
				}
				if u := f.unevenness(0); u > 1.2 {
					t.Errorf("one has %.2f times as many as another: %v", u, f.loads())
				}
			})
		}
	}
}

func even(nodes []string, n int) map[string]int {
	out := map[string]int{}
	for _, name := range nodes {
		out[name] = n
	}
	return out
}

func TestBalanceRules(t *testing.T) {
	for _, c := range []struct {
		name   string
		load   map[string]int
		change func(f *Facts)
		want   map[string]int // nil: nothing moves
	}{
		{"even", map[string]int{"n01": 10, "n02": 10, "n03": 10}, nil, nil},
		{"as even as can be", map[string]int{"n01": 1, "n02": 0, "n03": 0}, nil, nil},
		{"within a tenth", map[string]int{"n01": 105, "n02": 100, "n03": 96}, nil, nil},
		{"by weight", map[string]int{"n01": 40, "n02": 40, "n03": 40}, func(f *Facts) { f.Nodes["n01"].Weight = 2 }, map[string]int{"n01": 58, "n02": 31, "n03": 31}},
		{"weight 0 gets nothing", map[string]int{"n01": 9, "n02": 9}, func(f *Facts) { f.Nodes["n03"].Weight = 0 }, nil},
		{"cordoned gets nothing", map[string]int{"n01": 9, "n02": 9}, func(f *Facts) { f.Nodes["n03"].Cordoned = true }, nil},
		{"excluded gets nothing", map[string]int{"n01": 9, "n02": 9}, func(f *Facts) { f.Nodes["n03"].Excluded = true }, nil},
		{"unfit gets nothing", map[string]int{"n01": 9, "n02": 9}, func(f *Facts) { f.speaks("n03", func(m *Fellow) { m.Word.Unfit = "ill" }) }, nil},
		{"dead gets nothing", map[string]int{"n01": 9, "n02": 9}, func(f *Facts) { f.speaks("n03", func(m *Fellow) { m.Alive = false }) }, nil},
		{"of another priority", map[string]int{"n01": 9, "n02": 9}, func(f *Facts) { f.Nodes["n03"].Priority = 1 }, nil},
		{"each priority for itself", map[string]int{"n01": 9, "n02": 1}, func(f *Facts) { f.Nodes["n03"].Priority = 1 }, map[string]int{"n01": 5, "n02": 5}},
		{"what is under way is left alone", map[string]int{"n01": 9}, func(f *Facts) {
			for _, r := range f.Records {
				r.Object.Status.Holder = "n02"
			}
		}, nil},
		{"what is being written is left alone", map[string]int{"n01": 9}, func(f *Facts) {
			for _, r := range f.Records {
				r.Writing = true
			}
		}, nil},
		{"what was fenced is left alone", map[string]int{"n01": 9}, func(f *Facts) {
			f.speaks("n01", func(m *Fellow) { m.RollMember = leader.RollMember{Epoch: 4, Alive: true} })
		}, nil},
		{"only what suits", map[string]int{"n01": 9}, func(f *Facts) {
			f.Services[web] = &Service{Key: web, Type: true, Local: true, Selector: "app=web"}
			f.endpointsAt(map[string]int{"n01": 1, "n03": 1}, nil)
		}, map[string]int{"n01": 5, "n03": 4}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := someFacts("n01", "n02", "n03")
			f.spread(c.load)
			if c.change != nil {
				c.change(f)
			}
			want := c.want
			if want == nil {
				want = f.loads()
			}
			f.level(t)
			got := f.loads()
			for _, n := range nodeNames(3) {
				if got[n] != want[n] {
					t.Errorf("%s has %d, want %d", n, got[n], want[n])
				}
			}
		})
	}
}
