// Package demo is the engine of `pintle demo`: real Pintle processes on machines of a netlab, real faults, and what a
// client noticed of each. The long test (make soak) and the benchmarks run it too.
package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// Address is the address that the machines of the demo keep.
var Address = netip.MustParseAddr("10.77.0.100")

// DefaultFaults are those of the project's own figures.
var DefaultFaults = []string{"cut", "kill", "freeze", "term"}

// Options says what to show. The zero value of each is a good choice.
type Options struct {
	Nodes   int           // machines; 0: 3
	Profile string        // timing of the election; "": fast
	Bind    string        // where the address lives; "": holder
	Faults  []string      // see Faults; nil: DefaultFaults
	Runs    int           // rounds of all faults; 0: 1
	Every   time.Duration // the client's interval; 0: 2 ms
	Settle  time.Duration // how long all must be well before each fault; 0: as the profile needs
	JSON    bool          // one JSON object per fault and a summary, instead of text for people
	Out     io.Writer     // nil: os.Stdout
	Exe     string        // the pintle program; "": the running one
	Dir     string        // files and logs of the machines go here and stay; "": a directory that goes after a success

	// Each, if set, is called after each fault with the process ids of the machines' Pintles.
	Each func(r Result, pids map[string]int)

	patience time.Duration // 0: recoverWait
}

// timeouts is T of each profile (DESIGN section 5), which says how long things take.
var timeouts = map[string]time.Duration{
	"fast": 100 * time.Millisecond, "default": 300 * time.Millisecond, "wan": 1500 * time.Millisecond,
}

// recoverWait is how long a fault may keep the address from another node, and the cluster from being well again.
const recoverWait = 30 * time.Second

// Run does every fault Runs times, in rounds, and reports each one to Out. It blocks until the end or until ctx ends,
// and leaves no process and no namespace. The error says that a fault was not recovered from within 30 seconds, that two
// machines answered, or that the demo could not be set up. Without the right to make namespaces, the program is started
// again where it has it (see netlab.Enter), and this call does not return.
func Run(ctx context.Context, opts Options) (err error) {
	if err := opts.complete(); err != nil {
		return err
	}
	if err := netlab.Enter(); err != nil {
		return err
	}
	c, err := newCluster(ctx, opts)
	if err != nil {
		return err
	}
	defer func() { err = c.end(ctx, err) }()
	if err := c.start(ctx); err != nil {
		return err
	}
	return show(ctx, c, opts)
}

// end closes the cluster. After a failure its logs stay, and the error says where.
func (c *cluster) end(ctx context.Context, err error) error {
	failed := err != nil && ctx.Err() == nil
	if failed {
		err = fmt.Errorf("%w (what the machines say: %s/*/log)", err, c.dir)
	}
	return errors.Join(err, c.close(!failed))
}

// show runs the rounds. The summary also comes, of what there was, when a fault ends them.
func show(ctx context.Context, c *cluster, opts Options) error {
	out := newPrinter(opts)
	out.start(c)
	var results []Result
	err := eachFault(opts, func(f fault) error {
		r, err := c.suffer(ctx, f, out)
		if err != nil {
			return err
		}
		results = append(results, r)
		if opts.Each != nil {
			opts.Each(r, c.pids())
		}
		return out.result(r)
	})
	if len(results) > 0 {
		err = errors.Join(err, out.summary(results))
	}
	if n := dualAnswers(results); n > 0 {
		err = errors.Join(err, fmt.Errorf("keep %s on one machine: %d questions were answered by two", Address, n))
	}
	return err
}

func eachFault(opts Options, do func(fault) error) error {
	for range opts.Runs {
		for _, name := range opts.Faults {
			if err := do(faults[name]); err != nil {
				return fmt.Errorf("fault %s: %w", name, err)
			}
		}
	}
	return nil
}

// complete fills in what is not given and refuses what cannot be.
func (o *Options) complete() error {
	o.Nodes = cmp.Or(o.Nodes, 3)
	o.Profile = cmp.Or(o.Profile, "fast")
	o.Bind = cmp.Or(o.Bind, "holder")
	o.Runs = cmp.Or(o.Runs, 1)
	o.Every = cmp.Or(o.Every, 2*time.Millisecond)
	o.Settle = cmp.Or(o.Settle, max(time.Second, 4*timeouts[o.Profile]))
	o.patience = cmp.Or(o.patience, recoverWait)
	if o.Faults == nil {
		o.Faults = DefaultFaults
	}
	if o.Out == nil {
		o.Out = os.Stdout
	}
	if o.Exe == "" {
		exe, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find own program: %w", err)
		}
		o.Exe = exe
	}
	return o.check()
}

func (o *Options) check() error {
	var errs []error
	if timeouts[o.Profile] == 0 {
		errs = append(errs, fmt.Errorf("unknown profile %q: want fast, default or wan", o.Profile))
	}
	for _, name := range o.Faults {
		if _, ok := faults[name]; !ok {
			errs = append(errs, fmt.Errorf("unknown fault %q: want some of %s", name, strings.Join(Faults(), ", ")))
		}
	}
	// With two machines nobody is left who could agree to a new holder.
	if o.Nodes < 3 || o.Nodes > netlab.MaxNodes {
		errs = append(errs, fmt.Errorf("%d machines: want 3 to %d", o.Nodes, netlab.MaxNodes))
	}
	if o.Runs < 0 || o.Every < 0 || o.Settle < 0 {
		errs = append(errs, errors.New("runs and times must not be negative"))
	}
	return errors.Join(errs...)
}

// Faults lists all that can be done to a machine.
func Faults() []string {
	names := make([]string, 0, len(faults))
	for name := range faults {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
