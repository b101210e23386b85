// Command soak does many faults in a row to a cluster of real Pintles, and watches that nothing adds up: no address on
// two nodes, no fault that is not recovered from, and no growth of a process. `make soak` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/pintle-lb/pintle/internal/demo"
	"github.com/pintle-lb/pintle/internal/netlab"
)

// A phase is a part of the faults.
type phase struct {
	name   string
	faults []string
	share  float64
}

// In the first phase processes die, so that what grows is what outlives them. In the second none does, so that each has
// all the faults behind it.
var phases = []phase{
	{"with restarts", demo.DefaultFaults, 0.75},
	{"without restarts", []string{"cut", "freeze", "down", "peers", "oneway", "loss"}, 0.25},
}

// rounds is how often a phase does each of its faults, so that there are about its share of all; at least once.
func (p phase) rounds(all int) int {
	return max(1, int(float64(all)*p.share/float64(len(p.faults))+0.5))
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	pintle := flag.String("pintle", "build/pintle", "the pintle program")
	profile := flag.String("profile", "fast", "timing of the election: fast, default or wan")
	faults := flag.Int("faults", 1000, "how many faults, about")
	flag.Parse()
	if *faults < 1 {
		return fmt.Errorf("%d faults: want at least 1", *faults)
	}
	if err := netlab.Enter(); err != nil {
		return err
	}
	start, done := time.Now(), 0
	for _, p := range phases {
		opts := demo.Options{Exe: *pintle, Profile: *profile, Faults: p.faults, Runs: p.rounds(*faults)}
		n, err := soak(ctx, p.name, opts)
		done += n
		if err != nil {
			return fmt.Errorf("%s: after %d faults: %w", p.name, done, err)
		}
	}
	fmt.Printf("\n%d faults in %v: each recovered from, and never two answers.\n", done, time.Since(start).Round(time.Second))
	return nil
}

// soak runs one phase and returns the number of faults that were recovered from.
func soak(ctx context.Context, name string, opts demo.Options) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	fmt.Printf("\n== %s: %v, %d rounds\n", name, opts.Faults, opts.Runs)
	count, history := 0, map[string][]sample{}
	opts.Each = func(_ demo.Result, pids map[string]int) {
		count++
		for node, pid := range pids {
			s, err := measure(pid)
			if err != nil {
				cancel(fmt.Errorf("measure pintle on %s: %w", node, err))
				return
			}
			history[node] = append(history[node], s)
		}
	}
	err := demo.Run(ctx, opts)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return count, errors.Join(err, judge(os.Stdout, history))
}
