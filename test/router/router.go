// Package router runs real routers for tests and benchmarks, FRR and BIRD, on hosts of a netlab, and watches what comes of it
// in their kernels' routing tables.
//
//	lab, err := netlab.New(netlab.Options{Nodes: 3})
//	c := router.Config{AS: 65000, RouterID: lab.Client().Addr(), Neighbors: []router.Neighbor{{Addr: lab.Node(1).Addr(), AS: 65001}}}
//	r, err := router.StartFRR(ctx, lab.Client(), dir, c.FRR())
//	w, err := router.NewWatch(lab.Client())
//	...
//	start := time.Now()
//	err = process.Signal(syscall.SIGKILL)
//	at, err := w.Gone(ctx, prefix, lab.Node(1).Addr())
//	fmt.Println(at.Sub(start))
package router

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// ErrMissing says that a router's program is not installed.
var ErrMissing = errors.New("scripts/setup.sh test installs it")

// patience is how long a program may take to answer after its start.
const patience = 30 * time.Second

// A Router is a routing program that runs on a host, which forwards packets and spreads them over next hops by addresses and
// ports (fib_multipath_hash_policy=1).
type Router struct {
	host  *netlab.Host
	dir   string
	procs []*netlab.Process
	ask   func(ctx context.Context, commands []string) *exec.Cmd
	load  func(ctx context.Context, text string) error
}

// Ask runs commands of the router's own language, by vtysh or birdc, and returns what they print. For birdc each word is an
// argument of one command.
func (r *Router) Ask(ctx context.Context, commands ...string) (string, error) {
	cmd := r.ask(ctx, commands)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ask the router on %s: %s: %w: %s", r.host.Name(), strings.Join(commands, "; "), err, out)
	}
	return string(out), nil
}

// Load changes the configuration while the router runs. BIRD then has this one; FRR adds it to what it has.
func (r *Router) Load(ctx context.Context, text string) error {
	if err := r.load(ctx, text); err != nil {
		return fmt.Errorf("configure the router on %s: %w", r.host.Name(), err)
	}
	return nil
}

// Processes are the router's daemons, the one that speaks BGP last.
func (r *Router) Processes() []*netlab.Process { return slices.Clone(r.procs) }

// Signal goes to all of the router's daemons: SIGSTOP freezes it, with its routes in the kernel.
func (r *Router) Signal(sig syscall.Signal) error {
	var errs []error
	for _, p := range r.procs {
		errs = append(errs, p.Signal(sig))
	}
	return errors.Join(errs...)
}

// Stop ends the router in an orderly way, the one that speaks BGP first. It may be called again.
func (r *Router) Stop() error {
	for _, p := range slices.Backward(r.procs) {
		p.End()
	}
	return nil
}

// Log is what the router's daemons have said.
func (r *Router) Log() string {
	var b strings.Builder
	names, _ := filepath.Glob(filepath.Join(r.dir, "*.log"))
	for _, name := range names {
		text, err := os.ReadFile(name)
		fmt.Fprintf(&b, "--- %s on %s\n%s", filepath.Base(name), r.host.Name(), text)
		if err != nil {
			fmt.Fprintln(&b, err)
		}
	}
	return b.String()
}

// Versions are the first lines that the programs say of themselves.
func Versions() []string {
	var all []string
	for _, program := range []string{frrDir + "/bgpd", look("bird")} {
		out, err := exec.Command(program, "--version").CombinedOutput()
		line, _, _ := strings.Cut(string(out), "\n")
		if err != nil && line == "" {
			line = err.Error()
		}
		all = append(all, line)
	}
	return all
}

// prepare looks for the programs, makes the directory, and the host a router.
func (r *Router) prepare(programs ...string) error {
	for _, p := range programs {
		if _, err := exec.LookPath(look(p)); err != nil {
			return fmt.Errorf("find %s: %w", p, ErrMissing)
		}
	}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return err
	}
	return r.host.Do(forward)
}

// look finds a program also where a user's PATH does not lead.
func look(program string) string {
	if path := filepath.Join("/usr/sbin", program); !filepath.IsAbs(program) {
		if _, err := exec.LookPath(path); err == nil {
			return path
		}
	}
	return program
}

// forward makes this thread's namespace a router. A kernel without IPv6 has no such files.
func forward() error {
	for _, name := range []string{"ip_forward", "fib_multipath_hash_policy"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte("1"), 0); err != nil {
			return err
		}
	}
	for _, name := range []string{"conf/all/forwarding", "fib_multipath_hash_policy"} {
		if err := os.WriteFile("/proc/sys/net/ipv6/"+name, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// start runs a daemon, its output added to its log.
func (r *Router) start(ctx context.Context, name string, cmd *exec.Cmd) (*netlab.Process, error) {
	log, err := os.OpenFile(filepath.Join(r.dir, name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the process has its own descriptor
	cmd.Stdout, cmd.Stderr = log, log
	p, err := r.host.Start(ctx, cmd)
	if err == nil {
		r.procs = append(r.procs, p)
	}
	return p, err
}

// ready waits until a daemon answers.
func (r *Router) ready(ctx context.Context, name string, p *netlab.Process, answers func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := answers()
		if err == nil {
			return nil
		}
		select {
		case <-p.Done():
			return fmt.Errorf("%s has ended: %w: %s", name, p.Wait(), r.Log())
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %w", name, context.Cause(ctx), err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// run runs a command for its success. vtysh also says on its output what it did not understand.
func run(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err == nil && bytes.Contains(out, []byte("Unknown command")) {
		err = errors.New("not all of it was understood")
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, bytes.TrimSpace(out))
	}
	return nil
}

func write(dir, name, text string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)
}
