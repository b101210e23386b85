package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	kubernetes "github.com/pintle-lb/pintle/test/cluster"
	"github.com/pintle-lb/pintle/test/plane"
)

const kubeName = "kube"

func isKube(b benchmark) bool { return b.name == kubeName }

// A planeSystem keeps the address of a Kubernetes control plane.
type planeSystem interface {
	Name() string
	// Period is the interval of its heartbeats or renewals: faults come at any instant of it.
	Period() time.Duration
	Start(ctx context.Context, echo []string) (controlPlane, error)
	Versions() []string
}

// A controlPlane is a real one, with the system's program on every node: a plane.Plane or a plane.Rival.
type controlPlane interface {
	Measure(context.Context, plane.Fault) (plane.Outcome, error)
	Len() int
	Node(int) *kubernetes.Node
	Log(int) string
	Close() error
}

// planeSystems lists all that kube can measure: kube-vip only where its program is.
func planeSystems(pintle, kubeVIP string) []planeSystem {
	all := []planeSystem{
		&pintlePlane{exe: pintle, name: "pintle-raft-fast", options: plane.Options{Election: "raft", Profile: "fast"}, period: 100 * time.Millisecond},
		&pintlePlane{exe: pintle, name: "pintle-raft-default", options: plane.Options{Election: "raft", Profile: "default"}, period: 300 * time.Millisecond},
		&pintlePlane{exe: pintle, name: "pintle-lease-5s", options: plane.Options{Election: "lease", Lease: 5 * time.Second}, period: 5 * time.Second / 3},
		&pintlePlane{exe: pintle, name: "pintle-lease-2s", options: plane.Options{Election: "lease", Lease: 2 * time.Second}, period: 2 * time.Second / 3},
	}
	if kubeVIP == "" {
		return all
	}
	s, err := newKubeVIP(kubeVIP, pintle)
	if err != nil {
		fmt.Fprintln(os.Stderr, "kube: without kube-vip:", err)
		return all
	}
	return append(all, s)
}

// pintlePlane is Pintle as `pintle manifest pod` installs it.
type pintlePlane struct {
	exe, name string
	options   plane.Options
	period    time.Duration
}

func (s *pintlePlane) Name() string          { return s.name }
func (s *pintlePlane) Period() time.Duration { return s.period }

// Versions are Pintle's and that of Kubernetes.
func (s *pintlePlane) Versions() []string {
	dir, err := kubernetes.Programs()
	if err != nil {
		return []string{firstLine(s.exe, "version"), err.Error()}
	}
	return []string{firstLine(s.exe, "version"), firstLine(filepath.Join(dir, "kube-apiserver"), "--version")}
}

// Start makes the control plane.
func (s *pintlePlane) Start(ctx context.Context, echo []string) (controlPlane, error) {
	o := s.options
	o.Pintle, o.Echo = s.exe, echo
	return noNil(plane.New(ctx, o))
}

// noNil is an interface that is nil where there was an error.
func noNil[P controlPlane](p P, err error) (controlPlane, error) {
	if err != nil {
		return nil, err
	}
	return p, nil
}

// kube does every fault to every system, round by round, each time on a new control plane. Where a system does not come
// back from a fault, its round ends there and the others go on; the error says so in the end.
func kube(ctx context.Context, _ *rig, p plan) ([]Figure, error) {
	var s samples
	var errs []error
	for round := range p.runs {
		for _, sys := range p.planes {
			fmt.Fprintf(os.Stderr, "kube: round %d of %d, %s\n", round+1, p.runs, sys.Name())
			err := kubeOf(ctx, sys, p.faults, &s)
			if err == nil {
				continue
			}
			err = fmt.Errorf("round %d, %s: %w", round+1, sys.Name(), err)
			fmt.Fprintln(os.Stderr, "kube:", err)
			errs = append(errs, err)
			if ctx.Err() != nil || errors.Is(err, kubernetes.ErrNoPrograms) || errors.Is(err, unix.EPERM) {
				return s.figures(), errors.Join(errs...)
			}
		}
	}
	return s.figures(), errors.Join(errs...)
}

// kubeOf is one system's part of a round.
func kubeOf(ctx context.Context, sys planeSystem, faults []plane.Fault, s *samples) (err error) {
	c, err := sys.Start(ctx, []string{"/proc/self/exe", echoArg})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for _, f := range faults {
		if err := pause(ctx, rand.N(sys.Period())); err != nil {
			return err
		}
		if err := kubeFault(ctx, c, sys.Name(), f, s); err != nil {
			fmt.Fprint(os.Stderr, logs(c))
			return fmt.Errorf("%s: %w", f, err)
		}
	}
	return nil
}

// kubeFault does one fault and records what came of it. etcd's elections come apart: in a third of the cases the holder's
// node has etcd's leader, and then nobody can write a Lease until there is another one.
func kubeFault(ctx context.Context, c controlPlane, sys string, f plane.Fault, s *samples) error {
	before, err := etcdTerm(ctx, c)
	if err != nil {
		return err
	}
	steps := stepIns(c)
	out, err := c.Measure(ctx, f)
	if err != nil {
		return err
	}
	after, err := etcdTerm(ctx, c)
	if err != nil {
		return err
	}
	add := func(metric, unit string, v float64) { s.add(kind{kubeName, sys, string(f), metric, unit}, v) }
	add("outage", "ms", milliseconds(out.Outage))
	add("lost", "questions", float64(out.Lost))
	add("dual", "questions", float64(out.Dual))
	add("etcd-elections", "elections", float64(after-before))
	if after > before {
		add("outage-etcd", "ms", milliseconds(out.Outage))
	}
	add("step-ins", "times", float64(stepIns(c)-steps))
	return nil
}

// stepIns is 0 of Pintle: a plane.Plane has no way to step in.
func stepIns(c controlPlane) int {
	if r, ok := c.(interface{ StepIns() int }); ok {
		return r.StepIns()
	}
	return 0
}

// etcdTerm grows by one with each election of etcd, which its members vote on only once they agree that it is due (raft's
// pre-vote), and outlives their restarts, as their counters of leaders do not. The first node that answers says it.
func etcdTerm(ctx context.Context, c controlPlane) (uint64, error) {
	var errs []error
	for i := 1; i <= c.Len(); i++ {
		out, err := c.Node(i).Etcdctl(ctx, "endpoint", "status", "--write-out=json")
		if err == nil {
			return parseTerm(out)
		}
		errs = append(errs, err)
	}
	return 0, fmt.Errorf("ask etcd for its term: %w", errors.Join(errs...))
}

func parseTerm(status []byte) (uint64, error) {
	var members []struct {
		Status struct {
			RaftTerm uint64 `json:"raftTerm"`
		}
	}
	if err := json.Unmarshal(status, &members); err != nil {
		return 0, fmt.Errorf("read etcd's status: %w", err)
	}
	if len(members) != 1 || members[0].Status.RaftTerm == 0 {
		return 0, fmt.Errorf("read etcd's status: no term in %q", status)
	}
	return members[0].Status.RaftTerm, nil
}

// logs is the end of what the programs have said.
func logs(c controlPlane) string {
	const last = 2000
	var b strings.Builder
	for i := 1; i <= c.Len(); i++ {
		text := c.Log(i)
		fmt.Fprintf(&b, "--- %s\n%s\n", c.Node(i).Name(), text[max(0, len(text)-last):])
	}
	return b.String()
}

var kubeColumns = []column{
	{"outage", "outage ms", false},
	{"lost", "lost", false},
	{"dual", "by two", false},
	{"etcd-elections", "etcd elections", false},
	{"outage-etcd", "outage ms then", false},
	{"step-ins", "stepped in", false},
}

const kubeLegend = `Median / maximum. The client opens a new TLS connection to the API and asks for /version every 20 ms. Outage: from the
first question without an answer to the next that got one. Lost: questions without an answer. By two: questions for the
address that two nodes answered, until the fault was undone. Etcd elections: etcd's own, until all was well again; "outage
ms then" is that of the rounds with one. Stepped in: how often someone had to take the address from all nodes by hand.
`

// kubeTable shows each fault by system, and how Pintle compares.
func kubeTable(fs []Figure) string {
	table := caseTables(fs, kubeColumns) + kubeLegend + "\n"
	if _, theirs := sides(fs); len(theirs) == 0 {
		return table + "kube-vip was not measured: KUBE_VIP=path names its program.\n"
	}
	return table + ratioTable(fs, "outage")
}
