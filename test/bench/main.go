// Command bench measures Pintle and its peers side by side: the same lab, the same probe, the same faults, in turn.
// It prints tables and appends one JSON line a figure to OUT/NAME.jsonl. `make bench` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// A benchmark measures the systems in rounds: each system once a round. With an error it also returns the figures of
// what was measured before.
type benchmark struct {
	name string
	runs int // rounds, unless -runs says otherwise
	run  func(context.Context, *rig, plan) ([]Figure, error)
	show func([]Figure) string
}

var benchmarks = []benchmark{
	{"failover", 10, failover, failoverTable},
	{"idle", 1, idle, idleTable},
	{"calm", 1, calm, calmTable},
}

// A plan says what a benchmark measures.
type plan struct {
	systems []system
	cases   []string // of failover
	runs    int
	minute  time.Duration // of idle: how long each system is watched
}

// echoArg makes the program the service behind the address: `bench echo NUMBER`.
const echoArg = "echo"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	do := run
	if len(os.Args) == 3 && os.Args[1] == echoArg {
		do = echo
	}
	if err := do(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func echo(ctx context.Context, args []string) error {
	number, err := strconv.ParseUint(args[1], 10, 8)
	if err != nil {
		return err
	}
	return netlab.RunEcho(ctx, byte(number), netlab.EchoPort)
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	names := flags.String("bench", "failover,idle", "benchmarks to run")
	out := flags.String("out", "build/bench", "directory of the JSON lines")
	pintle := flags.String("pintle", "build/pintle", "the pintle program")
	keepalived := flags.String("keepalived", "keepalived", "the keepalived program")
	only := flags.String("systems", "", "systems to measure (default: all)")
	cases := flags.String("faults", strings.Join(caseNames(), ","), "what failover does")
	runs := flags.Int("runs", 0, "rounds (default: 10 of failover, 1 of idle)")
	minute := flags.Duration("minute", time.Minute, "how long idle and calm watch each system")
	_ = flags.Parse(args) // it exits

	p := plan{cases: strings.Split(*cases, ","), runs: *runs, minute: *minute}
	chosen, err := choose(benchmarks, func(b benchmark) string { return b.name }, *names)
	if err != nil {
		return fmt.Errorf("choose benchmark: %w", err)
	}
	if p.systems, err = choose(systems(*pintle, *keepalived), system.Name, *only); err != nil {
		return fmt.Errorf("choose system: %w", err)
	}
	if err := p.check(); err != nil {
		return err
	}
	if err := netlab.Enter(); err != nil {
		return err
	}
	return all(ctx, chosen, p, *out)
}

// choose picks by name, in the order of the list; no name means all.
func choose[T any](list []T, name func(T) string, names string) ([]T, error) {
	if names == "" {
		return list, nil
	}
	var known []string
	for _, v := range list {
		known = append(known, name(v))
	}
	wanted := strings.Split(names, ",")
	for _, w := range wanted {
		if !slices.Contains(known, w) {
			return nil, fmt.Errorf("unknown name %q: want some of %s", w, strings.Join(known, ","))
		}
	}
	return slices.DeleteFunc(list, func(v T) bool { return !slices.Contains(wanted, name(v)) }), nil
}

func (p plan) check() error {
	for _, c := range p.cases {
		if _, ok := faultOf(c); !ok {
			return fmt.Errorf("choose fault: unknown name %q: want some of %s", c, strings.Join(caseNames(), ","))
		}
	}
	if p.runs < 0 || p.minute <= 0 {
		return errors.New("rounds and minutes must be more than 0")
	}
	return nil
}

// all runs the chosen benchmarks in one lab.
func all(ctx context.Context, chosen []benchmark, p plan, out string) (err error) {
	r, err := newRig()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close(err == nil)) }()
	fmt.Print(setting(p.systems))
	for _, b := range chosen {
		p := p
		if p.runs == 0 {
			p.runs = b.runs
		}
		start := time.Now()
		figures, err := b.run(ctx, r, p)
		if len(figures) > 0 {
			fmt.Printf("\n%s, %d rounds, %v\n\n%s", b.name, p.runs, time.Since(start).Round(time.Second), b.show(figures))
			err = errors.Join(err, appendFigures(out, b.name, figures))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
	}
	return nil
}
