package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// A fault is done to the machine that holds the address.
type fault struct {
	name string
	text string
	do   func(*machine) error
	heal func(context.Context, *cluster, *machine) error
}

var faults = []fault{
	{"cut", "the holder's node vanishes from the network", func(m *machine) error { return m.node.Cut() }, heal},
	{"kill", "SIGKILL to all its processes", func(m *machine) error { return m.signalAll(syscall.SIGKILL) }, restart},
	{"freeze", "SIGSTOP to all its processes", func(m *machine) error { return m.signalAll(syscall.SIGSTOP) }, thaw},
	{"term", "planned move: SIGTERM to its main process", func(m *machine) error { return m.signal(syscall.SIGTERM) }, restart},
}

func heal(_ context.Context, _ *cluster, m *machine) error      { return m.node.Heal() }
func thaw(_ context.Context, _ *cluster, m *machine) error      { return m.signalAll(syscall.SIGCONT) }
func restart(ctx context.Context, c *cluster, m *machine) error { return c.restart(ctx, m) }

func caseNames() []string {
	var names []string
	for _, f := range faults {
		names = append(names, f.name)
	}
	return names
}

func faultOf(name string) (fault, bool) {
	i := slices.IndexFunc(faults, func(f fault) bool { return f.name == name })
	if i < 0 {
		return fault{}, false
	}
	return faults[i], true
}

// failover does every fault to every system, round by round.
func failover(ctx context.Context, r *rig, p plan) ([]Figure, error) {
	var s samples
	for round := range p.runs {
		for _, sys := range p.systems {
			fmt.Fprintf(os.Stderr, "failover: round %d of %d, %s\n", round+1, p.runs, sys.Name())
			if err := failoverOf(ctx, r, sys, p.cases, &s); err != nil {
				return s.figures(), fmt.Errorf("%s: %w", sys.Name(), err)
			}
		}
	}
	return s.figures(), nil
}

// failoverOf is one system's part of a round.
func failoverOf(ctx context.Context, r *rig, sys system, cases []string, s *samples) (err error) {
	c, err := r.start(ctx, sys)
	defer func() { err = errors.Join(err, c.stop()) }()
	if err != nil {
		return err
	}
	for _, name := range cases {
		f, _ := faultOf(name)
		h, err := c.suffer(ctx, f)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		record(s, sys.Name(), name, h)
	}
	return nil
}

// A history is what the client noticed of one fault.
type history struct {
	from    string        // who held the address before
	fault   netlab.Window // from the fault until it was healed
	healing netlab.Window // until all was well again
}

func record(s *samples, sys, name string, h history) {
	add := func(metric, unit string, v float64) { s.add(kind{"failover", sys, name, metric, unit}, v) }
	add("outage", "ms", milliseconds(h.fault.Outage))
	if _, after, ok := h.fault.FirstOther(h.from); ok {
		add("takeover", "ms", milliseconds(after))
	}
	add("lost", "probes", float64(h.fault.Lost))
	add("stall", "ms", milliseconds(h.fault.Stall)) // how far the probe itself was late
	add("healing", "ms", milliseconds(h.healing.Outage))
	add("healing-lost", "probes", float64(h.healing.Lost))
	add("dual", "answers", float64(len(h.fault.Dual)+len(h.healing.Dual)))
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// suffer waits until all is well, does the fault to the holder, waits for another to take over, heals, and waits until
// all is well again.
func (c *cluster) suffer(ctx context.Context, f fault) (history, error) {
	holder, err := c.settled(ctx)
	if err != nil {
		return history{}, err
	}
	if err := pause(ctx, rand.N(c.sys.Period())); err != nil {
		return history{}, err
	}
	name := holder.node.Name()
	begin := c.probe.Mark()
	if err := f.do(holder); err != nil {
		return history{}, err
	}
	if err := c.takenOver(ctx, name); err != nil {
		return history{}, fmt.Errorf("take over from %s: %w", name, err)
	}
	healed := c.probe.Mark()
	if err := f.heal(ctx, c, holder); err != nil {
		return history{}, fmt.Errorf("heal %s: %w", name, err)
	}
	if _, err := c.settled(ctx); err != nil {
		return history{}, fmt.Errorf("after healing %s: %w", name, err)
	}
	return history{from: name, fault: c.probe.Report(begin, healed), healing: c.probe.Report(healed, c.probe.Mark())}, nil
}

// takenOver waits until another machine answers, be it beside the old one, and a little longer.
func (c *cluster) takenOver(ctx context.Context, old string) error {
	other := func(name string) bool { return name != "" && name != old }
	err := wait(ctx, patience, 2*time.Millisecond, func() (string, bool) {
		arp, udp := c.probe.LastNode(), c.probe.Serving()
		return fmt.Sprintf("%q answers ARP and %q UDP", arp, udp), udp != "" && (other(arp) || other(udp))
	})
	if err != nil {
		return err
	}
	return pause(ctx, max(300*time.Millisecond, 2*c.sys.Period()))
}

// A column of a table. Of some p99 is shown.
type column struct {
	metric, title string
	p99           bool
}

var failoverColumns = []column{
	{"outage", "outage ms", true},
	{"takeover", "takeover ms", true},
	{"lost", "lost", false},
	{"healing", "healing ms", false},
	{"healing-lost", "lost", false},
	{"dual", "by two", false},
}

const legend = `
The client asks every 2 ms. Outage and takeover: median / p99 / maximum; the others: median / maximum. Outage: the longest
gap in the client's answers until the fault was healed. Takeover: from the fault to the first answer of another node.
Healing: the longest gap from then until all was well. By two: questions for the address that two nodes answered, until all
was well.
`

// failoverTable shows each case by system, and how Pintle compares.
func failoverTable(fs []Figure) string {
	return caseTables(fs, failoverColumns) + strings.TrimPrefix(legend, "\n") + "\n" + ratioTable(fs, "outage", "takeover")
}

// caseTables is one table a case, with one row a system.
func caseTables(fs []Figure, columns []column) string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, cas := range distinct(fs, func(f Figure) string { return f.Case }) {
		fmt.Fprint(t, cas)
		for _, c := range columns {
			fmt.Fprintf(t, "\t%s", c.title)
		}
		fmt.Fprintln(t)
		for _, sys := range distinct(fs, func(f Figure) string { return f.System }) {
			fmt.Fprint(t, sys)
			for _, c := range columns {
				f, ok := find(fs, sys, cas, c.metric)
				fmt.Fprintf(t, "\t%s", cell(f, ok, c.p99))
			}
			fmt.Fprintln(t)
		}
		fmt.Fprintln(t)
	}
	_ = t.Flush() // a strings.Builder takes all
	return b.String()
}

func cell(f Figure, ok, p99 bool) string {
	switch {
	case !ok:
		return "-"
	case p99:
		return number(f.Median) + " / " + number(f.P99) + " / " + number(f.Max)
	}
	return number(f.Median) + " / " + number(f.Max)
}

// number has a decimal only where it says something.
func number(v float64) string {
	if v >= 100 || v == math.Trunc(v) {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}
