package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"
)

// idle measures what each system costs while nothing happens and nobody asks, and how large its program is.
func idle(ctx context.Context, r *rig, p plan) ([]Figure, error) {
	var s samples
	for round := range p.runs {
		for _, sys := range p.systems {
			fmt.Fprintf(os.Stderr, "idle: round %d of %d, %s, %v\n", round+1, p.runs, sys.Name(), p.minute)
			if err := idleOf(ctx, r, sys, p.minute, &s); err != nil {
				return s.figures(), fmt.Errorf("%s: %w", sys.Name(), err)
			}
		}
	}
	for _, sys := range p.systems {
		if err := binarySize(sys, &s); err != nil {
			return s.figures(), err
		}
	}
	return s.figures(), nil
}

// idleOf watches one system. The probe is gone by then: its questions would be work.
func idleOf(ctx context.Context, r *rig, sys system, minute time.Duration, s *samples) (err error) {
	c, err := r.start(ctx, sys)
	defer func() { err = errors.Join(err, c.stop()) }()
	if err != nil {
		return err
	}
	holder, err := c.settled(ctx)
	if err != nil {
		return err
	}
	c.probe.Close()
	before, begin, err := c.usage()
	if err != nil {
		return err
	}
	if err := pause(ctx, minute); err != nil {
		return err
	}
	after, end, err := c.usage()
	if err != nil {
		return err
	}
	for i, m := range c.machines {
		cas := "standby"
		if m == holder {
			cas = "holder"
		}
		spent := (after[i].cpu - before[i].cpu).Seconds() / end.Sub(begin).Minutes()
		s.add(kind{"idle", sys.Name(), cas, "cpu", "s/min"}, spent)
		s.add(kind{"idle", sys.Name(), cas, "rss", "MiB"}, mebibytes(after[i].rss))
	}
	return nil
}

// usage is that of each machine's processes, by now.
func (c *cluster) usage() ([]usage, time.Time, error) {
	var all []usage
	for _, m := range c.machines {
		u, err := groupUsage(os.DirFS("/proc"), m.proc.PID())
		if err != nil {
			return nil, time.Time{}, err
		}
		all = append(all, u)
	}
	return all, time.Now(), nil
}

func binarySize(sys system, s *samples) error {
	path, err := sys.Binary()
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	s.add(kind{"idle", sys.Name(), "binary", "size", "MiB"}, mebibytes(info.Size()))
	return nil
}

func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }

func idleTable(fs []Figure) string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "medians of a node\tholder CPU s/min\tstandby CPU s/min\tholder RSS MiB\tstandby RSS MiB\tprogram MiB\n")
	for _, sys := range distinct(fs, func(f Figure) string { return f.System }) {
		fmt.Fprintf(t, "%s", sys)
		for _, of := range [][2]string{{"holder", "cpu"}, {"standby", "cpu"}, {"holder", "rss"}, {"standby", "rss"}, {"binary", "size"}} {
			f, _ := find(fs, sys, of[0], of[1])
			fmt.Fprintf(t, "\t%.2f", f.Median)
		}
		fmt.Fprintln(t)
	}
	_ = t.Flush() // a strings.Builder takes all
	return b.String()
}
