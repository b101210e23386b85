package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"
)

// calmSlice is how often calm looks at the probe, which forgets.
const calmSlice = 5 * time.Second

// calm watches Pintle while one core of the machine is burnt and nothing is wrong: elections there are false ones, and the
// client should notice none. The profile default is measured with ordinary and with real-time scheduling.
func calm(ctx context.Context, r *rig, p plan) ([]Figure, error) {
	var s samples
	for round := range p.runs {
		for _, sys := range p.systems {
			base, ok := sys.(*pintleSystem)
			if !ok {
				continue
			}
			for _, scheduling := range []string{"off", "auto"} {
				one := &pintleSystem{exe: base.exe, profile: base.profile, period: base.period, realtime: scheduling}
				fmt.Fprintf(os.Stderr, "calm: round %d of %d, %s, %v\n", round+1, p.runs, one.Name(), p.minute)
				if err := calmOf(ctx, r, one, p.minute, &s); err != nil {
					return s.figures(), fmt.Errorf("%s: %w", one.Name(), err)
				}
			}
		}
	}
	return s.figures(), nil
}

// calmOf counts elections, lost questions and dual answers of one system for a while.
func calmOf(ctx context.Context, r *rig, sys *pintleSystem, long time.Duration, s *samples) (err error) {
	c, err := r.start(ctx, sys)
	defer func() { err = errors.Join(err, c.stop()) }()
	if err != nil {
		return err
	}
	if _, err := c.settled(ctx); err != nil {
		return err
	}
	defer burn()()
	before, err := c.epoch(ctx)
	if err != nil {
		return err
	}
	var lost, dual, elections float64
	for end := time.Now().Add(long); time.Now().Before(end); {
		from := c.probe.Mark()
		if err := pause(ctx, min(calmSlice, time.Until(end))); err != nil {
			return err
		}
		w := c.probe.Report(from, c.probe.Mark())
		lost, dual = lost+float64(w.Lost), dual+float64(len(w.Dual))
	}
	after, err := c.epoch(ctx)
	if err != nil {
		return err
	}
	elections = float64(after - before)
	per := "/" + long.String()
	s.add(kind{"calm", sys.Name(), "one core burnt", "false elections", per}, elections)
	s.add(kind{"calm", sys.Name(), "one core burnt", "lost", per}, lost)
	s.add(kind{"calm", sys.Name(), "one core burnt", "dual", per}, dual)
	return nil
}

// epoch is the newest that a node knows: it grows with each election.
func (c *cluster) epoch(ctx context.Context) (newest uint64, err error) {
	for _, m := range c.machines {
		r, err := c.sys.(*pintleSystem).client(m.dir).Report(ctx)
		if err != nil {
			return 0, err
		}
		for _, seat := range r.Seats {
			newest = max(newest, seat.Epoch)
		}
	}
	return newest, nil
}

// burn keeps one core busy until the function it returns is called.
func burn() (stop func()) {
	var done atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		for !done.Load() { // nothing else, as long as it takes
		}
	}()
	return func() { done.Store(true); <-ended }
}

func calmTable(fs []Figure) string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "one core burnt\tfalse elections\tquestions lost\tanswers by two\n")
	for _, sys := range distinct(fs, func(f Figure) string { return f.System }) {
		fmt.Fprintf(t, "%s", sys)
		for _, metric := range []string{"false elections", "lost", "dual"} {
			f, _ := find(fs, sys, "one core burnt", metric)
			fmt.Fprintf(t, "\t%.0f%s", f.Median, f.Unit)
		}
		fmt.Fprintln(t)
	}
	_ = t.Flush() // a strings.Builder takes all
	return b.String()
}
