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
	"github.com/pintle-lb/pintle/test/plane"
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
	{kubeName, 5, kube, kubeTable},
	{bgpName, 5, bgpRounds, bgpTable},
	{servicesName, 1, servicesRounds, servicesTable},
}

// inRig says whether a benchmark runs in the rig: the others make labs of their own.
func inRig(b benchmark) bool {
	return b.name != kubeName && b.name != bgpName && b.name != servicesName
}

// A plan says what a benchmark measures.
type plan struct {
	systems  []system
	cases    []string // of failover
	planes   []planeSystem
	faults   []plane.Fault // of kube
	speakers []bgpSpeaker
	bgpCases []bgpCase
	served   string // the pintle of services
	svcCases []servicesCase
	runs     int
	minute   time.Duration // of idle: how long each system is watched
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
	if len(os.Args) == 4 && os.Args[1] == manyArg {
		do = speak
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
	kubeVIP := flags.String("kube-vip", os.Getenv("KUBE_VIP"), "the kube-vip program, of kube (default: the environment's KUBE_VIP)")
	only := flags.String("systems", "", "systems to measure (default: all)")
	cases := flags.String("faults", "", "what failover, kube, bgp and services do (default: all)")
	runs := flags.Int("runs", 0, "rounds (default: 10 of failover, 5 of kube and bgp, 1 of the others)")
	minute := flags.Duration("minute", time.Minute, "how long idle and calm watch each system")
	_ = flags.Parse(args) // it exits

	chosen, err := choose(benchmarks, func(b benchmark) string { return b.name }, *names)
	if err != nil {
		return fmt.Errorf("choose benchmark: %w", err)
	}
	p := plan{runs: *runs, minute: *minute}
	if slices.ContainsFunc(chosen, inRig) {
		p.systems, p.cases = systems(*pintle, *keepalived), caseNames()
	}
	if slices.ContainsFunc(chosen, isKube) {
		p.planes, p.faults = planeSystems(*pintle, *kubeVIP), plane.Faults
	}
	if slices.ContainsFunc(chosen, func(b benchmark) bool { return b.name == bgpName }) {
		p.speakers, p.bgpCases = bgpSpeakers(*pintle), bgpCases
	}
	if slices.ContainsFunc(chosen, func(b benchmark) bool { return b.name == servicesName }) {
		p.served, p.svcCases = *pintle, servicesCases
	}
	if err := p.narrow(*only, *cases); err != nil {
		return err
	}
	if err := netlab.Enter(); err != nil {
		return err
	}
	return all(ctx, chosen, p, *out)
}

// choose picks by name, in the order of the list; no name means all.
func choose[T any](list []T, name func(T) string, names string) ([]T, error) {
	return pick(list, name, names), known(names, namesOf(list, name))
}

func namesOf[T any](list []T, name func(T) string) []string {
	var all []string
	for _, v := range list {
		all = append(all, name(v))
	}
	return all
}

// known says whether each of the names, which commas separate, is one of those.
func known(names string, those []string) error {
	for n := range strings.SplitSeq(names, ",") {
		if names != "" && !slices.Contains(those, n) {
			return fmt.Errorf("unknown name %q: want some of %s", n, strings.Join(those, ","))
		}
	}
	return nil
}

func pick[T any](list []T, name func(T) string, names string) []T {
	if names == "" {
		return list
	}
	wanted := strings.Split(names, ",")
	return slices.DeleteFunc(slices.Clone(list), func(v T) bool { return !slices.Contains(wanted, name(v)) })
}

// narrow keeps the systems and the faults with these names: of every kind, where several are measured.
func (p *plan) narrow(systems, faults string) error {
	same := func(name string) string { return name }
	faultName := func(f plane.Fault) string { return string(f) }
	allSystems := slices.Concat(namesOf(p.systems, system.Name), namesOf(p.planes, planeSystem.Name), namesOf(p.speakers, bgpSpeaker.Name))
	if err := known(systems, allSystems); err != nil {
		return fmt.Errorf("choose system: %w", err)
	}
	if err := known(faults, slices.Concat(p.cases, namesOf(p.faults, faultName), namesOf(p.bgpCases, bgpCaseName), namesOf(p.svcCases, servicesCaseName))); err != nil {
		return fmt.Errorf("choose fault: %w", err)
	}
	p.systems, p.planes = pick(p.systems, system.Name, systems), pick(p.planes, planeSystem.Name, systems)
	p.speakers = pick(p.speakers, bgpSpeaker.Name, systems)
	p.cases, p.faults = pick(p.cases, same, faults), pick(p.faults, faultName, faults)
	p.bgpCases = pick(p.bgpCases, bgpCaseName, faults)
	p.svcCases = pick(p.svcCases, servicesCaseName, faults)
	if p.runs < 0 || p.minute <= 0 {
		return errors.New("rounds and minutes must be more than 0")
	}
	return nil
}

// all runs the chosen benchmarks in one lab, but for those that make labs of their own.
func all(ctx context.Context, chosen []benchmark, p plan, out string) (err error) {
	var r *rig
	if len(p.systems) > 0 {
		if r, err = newRig(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.close(err == nil)) }()
	}
	fmt.Print(setting(p.versions()))
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
