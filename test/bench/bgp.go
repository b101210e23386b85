package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/test/router"
)

const (
	bgpName = "bgp"
	// The systems of the nodes and of their router.
	nodeAS, routerAS = 65001, 65000
	// bfdSteady is how long BFD must have been up before a fault: the fast timers are agreed on only once it is.
	bfdSteady = 1500 * time.Millisecond
)

// route is what the nodes advertise.
var route = netip.PrefixFrom(netip.MustParseAddr("10.99.0.1"), 32)

// bgpTimers are those of both sides of a session.
type bgpTimers struct {
	hold time.Duration
	bfd  *router.BFD
}

// A bgpCase is something that ends a node's route.
type bgpCase struct {
	name   string
	timers bgpTimers
	// do returns when it began. heal lets the node advertise again; nil: it has to be started again.
	do   func(context.Context, *site) (time.Time, error)
	heal func(context.Context, *site) error
}

var (
	plainTimers = bgpTimers{hold: 3 * time.Second}
	bfd100      = bgpTimers{hold: 9 * time.Second, bfd: &router.BFD{Interval: 100 * time.Millisecond, Multiplier: 3}}
	bfd50       = bgpTimers{hold: 9 * time.Second, bfd: &router.BFD{Interval: 50 * time.Millisecond, Multiplier: 3}}
)

var bgpCases = []bgpCase{
	{"withdraw", plainTimers, withdraw, advertise},
	{"term", plainTimers, signalled(syscall.SIGTERM), nil},
	{"kill", plainTimers, signalled(syscall.SIGKILL), nil},
	{"freeze-hold-3s", plainTimers, signalled(syscall.SIGSTOP), wake},
	{"cut-hold-3s", plainTimers, cut, mend},
	{"freeze-bfd-3x100", bfd100, signalled(syscall.SIGSTOP), wake},
	{"cut-bfd-3x100", bfd100, cut, mend},
	{"freeze-bfd-3x50", bfd50, signalled(syscall.SIGSTOP), wake},
	{"cut-bfd-3x50", bfd50, cut, mend},
	{name: manyCase}, // measured by manyOf
}

func bgpCaseName(c bgpCase) string { return c.name }

func withdraw(ctx context.Context, x *site) (time.Time, error) { return x.nodes[0].Withdraw(ctx) }
func advertise(ctx context.Context, x *site) error             { return x.nodes[0].Return(ctx) }

func signalled(sig syscall.Signal) func(context.Context, *site) (time.Time, error) {
	return func(_ context.Context, x *site) (time.Time, error) { return time.Now(), x.nodes[0].Signal(sig) }
}

func wake(_ context.Context, x *site) error { return x.nodes[0].Signal(syscall.SIGCONT) }

// cut makes the switch drop all of the node's frames: nobody loses a carrier.
func cut(_ context.Context, x *site) (time.Time, error) { return time.Now(), x.lab.Node(1).Cut() }
func mend(_ context.Context, x *site) error             { return x.lab.Node(1).Heal() }

// A routerKind is a program that the nodes' router can be.
type routerKind struct {
	name  string
	start func(ctx context.Context, h *netlab.Host, dir string, c router.Config) (*router.Router, error)
	bfd   []string // asks for the sessions
}

var routerKinds = []routerKind{
	{
		name: "FRR", bfd: []string{"show bfd peers brief"},
		start: func(ctx context.Context, h *netlab.Host, dir string, c router.Config) (*router.Router, error) {
			return router.StartFRR(ctx, h, dir, c.FRR())
		},
	},
	{
		name: "BIRD", bfd: []string{"show", "bfd", "sessions"},
		start: func(ctx context.Context, h *netlab.Host, dir string, c router.Config) (*router.Router, error) {
			return router.StartBIRD(ctx, h, dir, c.BIRD())
		},
	},
}

// bgpRounds does every case to every system with every router, round by round, each group of cases in a new lab.
func bgpRounds(ctx context.Context, _ *rig, p plan) (_ []Figure, err error) {
	var s samples
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for round := range p.runs {
		for _, sys := range p.speakers {
			fmt.Fprintf(os.Stderr, "bgp: round %d of %d, %s\n", round+1, p.runs, sys.Name())
			if err := bgpRound(ctx, dir, sys, p.bgpCases, &s); err != nil {
				return s.figures(), fmt.Errorf("%s: %w", sys.Name(), err)
			}
		}
	}
	return s.figures(), nil
}

// bgpRound is one system's part of a round.
func bgpRound(ctx context.Context, dir string, sys bgpSpeaker, cases []bgpCase, s *samples) error {
	for _, t := range []bgpTimers{plainTimers, bfd100, bfd50} {
		now := slices.DeleteFunc(slices.Clone(cases), func(c bgpCase) bool { return c.timers != t })
		if len(now) == 0 {
			continue
		}
		for _, kind := range routerKinds {
			if err := bgpOf(ctx, dir, sys, kind, now, s); err != nil {
				return fmt.Errorf("with %s: %w", kind.name, err)
			}
		}
	}
	if slices.ContainsFunc(cases, func(c bgpCase) bool { return c.name == manyCase }) {
		return manyOf(ctx, dir, sys, s)
	}
	return nil
}

// A site is two nodes with their speakers, and their router.
type site struct {
	sys    bgpSpeaker
	lab    *netlab.Lab
	dir    string
	kind   routerKind
	timers bgpTimers
	router *router.Router
	watch  *router.Watch
	nodes  []speaking
}

// bgpOf does the cases, which have the same timers, in a lab.
func bgpOf(ctx context.Context, dir string, sys bgpSpeaker, kind routerKind, cases []bgpCase, s *samples) (err error) {
	x := &site{sys: sys, kind: kind, timers: cases[0].timers}
	if x.dir, err = os.MkdirTemp(dir, ""); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.close(err == nil)) }()
	if err := x.build(ctx); err != nil {
		return err
	}
	for _, c := range cases {
		after, err := x.suffer(ctx, c)
		for try := 1; errors.Is(err, errBefore) && try < 5; try++ {
			after, err = x.suffer(ctx, c)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		s.add(kind.figure(sys, c.name, "gone", "ms"), milliseconds(after))
	}
	return nil
}

func (k routerKind) figure(sys bgpSpeaker, cas, metric, unit string) kind {
	return kind{bgpName, sys.Name(), k.name + " " + cas, metric, unit}
}

func (x *site) build(ctx context.Context) (err error) {
	if x.lab, err = netlab.New(netlab.Options{Nodes: 2}); err != nil {
		return err
	}
	hub := x.lab.Client()
	c := router.Config{AS: routerAS, RouterID: hub.Addr()}
	for _, n := range x.lab.Nodes() {
		c.Neighbors = append(c.Neighbors, router.Neighbor{Addr: n.Addr(), AS: nodeAS, Hold: x.timers.hold, BFD: x.timers.bfd})
	}
	if x.watch, err = router.NewWatch(hub); err != nil {
		return err
	}
	if x.router, err = x.kind.start(ctx, hub, filepath.Join(x.dir, "router"), c); err != nil {
		return err
	}
	for i := range x.lab.Nodes() {
		x.nodes = append(x.nodes, nil)
		if err := x.speak(ctx, i); err != nil {
			return err
		}
	}
	return x.settled(ctx)
}

// speak starts the speaker of a node.
func (x *site) speak(ctx context.Context, i int) (err error) {
	n := x.lab.Nodes()[i]
	x.nodes[i], err = x.sys.Speak(ctx, station{
		node: n, router: x.lab.Client(), dir: filepath.Join(x.dir, n.Name()), timers: x.timers,
	})
	return err
}

// settled waits until the router has the routes of both nodes, and BFD has been up for a while.
func (x *site) settled(ctx context.Context) error {
	var hops []netip.Addr
	for _, n := range x.lab.Nodes() {
		hops = append(hops, n.Addr())
	}
	limit, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := x.watch.Await(limit, route, hops...); err != nil || x.timers.bfd == nil {
		return err
	}
	since := time.Now()
	return wait(ctx, patience, 50*time.Millisecond, func() (string, bool) {
		out, err := x.router.Ask(ctx, x.kind.bfd...)
		if err != nil || bfdUp(out) < len(hops) {
			since = time.Now()
			return fmt.Sprintf("BFD is not up: %v%s", err, out), false
		}
		return "BFD has just come up", time.Since(since) > bfdSteady
	})
}

// bfdUp counts the sessions that a router lists as up.
func bfdUp(list string) int {
	up := 0
	for line := range strings.Lines(list) {
		if slices.ContainsFunc(strings.Fields(line), func(f string) bool { return strings.EqualFold(f, "up") }) {
			up++
		}
	}
	return up
}

// errBefore says that the route went before anything was done: BFD with short timers errs on a machine with more to do.
var errBefore = errors.New("the route was gone before the event")

// suffer does a case to the first node, at any instant of its keepalives, and says how long the router's kernel kept the
// route. Then it makes all well again.
func (x *site) suffer(ctx context.Context, c bgpCase) (time.Duration, error) {
	if err := pause(ctx, rand.N(time.Second)); err != nil {
		return 0, err
	}
	victim, hop := x.nodes[0], x.lab.Node(1).Addr()
	start, err := c.do(ctx, x)
	if err != nil {
		return 0, err
	}
	limit, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	at, err := x.watch.Gone(limit, route, hop)
	if err != nil {
		return 0, err
	}
	early := at.Before(start)
	if c.heal != nil {
		err = c.heal(ctx, x)
	} else {
		select {
		case <-victim.Done():
			err = x.speak(ctx, 0)
		case <-limit.Done():
			err = fmt.Errorf("end %s: still there after the signal", x.sys.Name())
		}
	}
	if err == nil {
		err = x.settled(ctx)
	}
	if err == nil && early {
		err = errBefore
	}
	return at.Sub(start), err
}

// close shows what the programs said after a failure.
func (x *site) close(well bool) error {
	if x.router != nil && !well {
		fmt.Fprint(os.Stderr, x.router.Log())
	}
	for _, s := range x.nodes {
		if s != nil && !well {
			fmt.Fprint(os.Stderr, s.Log())
		}
	}
	if x.watch != nil {
		x.watch.Close()
	}
	if x.lab == nil {
		return nil
	}
	return x.lab.Close()
}

const bgpLegend = `Milliseconds from the event until the router's kernel had the route no more: median (maximum). withdraw: the node's health
check fails, or birdc is told to; from the first bad answer, or from the start of birdc. term and kill: the signal. freeze:
SIGSTOP. cut: the switch drops its frames, and nobody loses a carrier. The hold time is 3 s without BFD and 9 s with it.
`

// bgpTable has a row for each case, and a column for each system with each router.
func bgpTable(fs []Figure) string {
	gone := slices.DeleteFunc(slices.Clone(fs), func(f Figure) bool { return f.Metric != "gone" })
	if len(gone) == 0 {
		return manyTable(fs)
	}
	var b strings.Builder
	systems := distinct(gone, func(f Figure) string { return f.System })
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "route gone after, ms")
	for _, kind := range routerKinds {
		for _, sys := range systems {
			fmt.Fprintf(t, "\t%s, %s", sys, kind.name)
		}
	}
	fmt.Fprintln(t)
	for _, cas := range distinct(gone, func(f Figure) string { return f.Case[strings.Index(f.Case, " ")+1:] }) {
		fmt.Fprint(t, cas)
		for _, kind := range routerKinds {
			for _, sys := range systems {
				f, ok := find(gone, sys, kind.name+" "+cas, "gone")
				fmt.Fprintf(t, "\t%s", medianMax(f, ok))
			}
		}
		fmt.Fprintln(t)
	}
	_ = t.Flush() // a strings.Builder takes all
	return b.String() + "\n" + bgpLegend + manyTable(fs)
}

func medianMax(f Figure, ok bool) string {
	if !ok {
		return "-"
	}
	return number(f.Median) + " (" + number(f.Max) + ")"
}
