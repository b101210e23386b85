package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/pintle-lb/pintle/internal/netlab"
)

const (
	nodes      = 3
	probeEvery = 2 * time.Millisecond
	// settleTime is how long one node alone must have answered before a fault.
	settleTime = 1500 * time.Millisecond
	// patience is how long a take-over may take, and healing.
	patience = 30 * time.Second
)

// A rig is the lab in which the systems run in turn, and the service behind the address, which runs all the time.
type rig struct {
	lab  *netlab.Lab
	dir  string
	echo sync.Once
}

func newRig() (*rig, error) {
	lab, err := netlab.New(netlab.Options{Nodes: nodes})
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pintle-bench-")
	if err != nil {
		return nil, errors.Join(err, lab.Close())
	}
	return &rig{lab: lab, dir: dir}, nil
}

// close keeps the logs after a failure.
func (r *rig) close(well bool) error {
	err := r.lab.Close()
	if !well {
		return errors.Join(err, fmt.Errorf("the logs are %s/*/*/log", r.dir))
	}
	return errors.Join(err, os.RemoveAll(r.dir))
}

// A cluster is one system that runs on the nodes.
type cluster struct {
	rig      *rig
	sys      system
	machines []*machine
	probe    *netlab.Probe
}

// A machine is a node with the system's process.
type machine struct {
	node *netlab.Node
	dir  string
	proc *netlab.Process
}

// start runs the system on all nodes and returns when the client is served. Whatever it returns, stop ends it.
func (r *rig) start(ctx context.Context, s system) (*cluster, error) {
	c := &cluster{rig: r, sys: s}
	if err := r.serve(ctx); err != nil {
		return c, err
	}
	for _, n := range r.lab.Nodes() {
		m := &machine{node: n, dir: filepath.Join(r.dir, s.Name(), n.Name())}
		if err := m.prepare(s, r.lab.Nodes()); err != nil {
			return c, err
		}
		if err := c.run(ctx, m); err != nil {
			return c, err
		}
		c.machines = append(c.machines, m)
	}
	var err error
	if c.probe, err = r.lab.StartProbe(address, probeEvery); err != nil {
		return c, err
	}
	if _, err := c.settled(ctx); err != nil {
		return c, fmt.Errorf("start %s: %w", s.Name(), err)
	}
	return c, nil
}

// serve starts the service behind the address on every node, once: this program itself.
func (r *rig) serve(ctx context.Context) (err error) {
	r.echo.Do(func() {
		for _, n := range r.lab.Nodes() {
			_, e := n.Start(ctx, exec.Command("/proc/self/exe", echoArg, strconv.Itoa(int(n.Number()))))
			err = errors.Join(err, e)
		}
	})
	return err
}

// prepare makes the machine's files, unless an earlier round has.
func (m *machine) prepare(s system, peers []*netlab.Node) error {
	if _, err := os.Stat(m.dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return err
	}
	if err := s.Prepare(m.dir, m.node, peers); err != nil {
		return fmt.Errorf("prepare %s: %w", s.Name(), err)
	}
	return nil
}

// run starts the system's process on a machine, its output added to the log.
func (c *cluster) run(ctx context.Context, m *machine) error {
	log, err := os.OpenFile(filepath.Join(m.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the process has its own descriptor
	cmd := c.sys.Command(m.dir, m.node)
	cmd.Stdout, cmd.Stderr = log, log
	m.proc, err = m.node.Start(ctx, cmd)
	return err
}

// stop ends the system on all nodes and leaves nothing of it.
func (c *cluster) stop() error {
	if c.probe != nil {
		c.probe.Close()
	}
	var wg sync.WaitGroup
	for _, m := range c.machines {
		wg.Go(m.proc.End)
	}
	wg.Wait()
	var errs []error
	for _, m := range c.machines {
		errs = append(errs, c.sys.Sweep(m.dir, m.node))
	}
	return errors.Join(errs...)
}

// settled waits until for settleTime one machine alone has answered and all are ready. It returns that machine.
func (c *cluster) settled(ctx context.Context) (*machine, error) {
	var holder *machine
	begin := c.probe.Mark()
	err := wait(ctx, patience+settleTime, 20*time.Millisecond, func() (string, bool) {
		now, why := c.agreed(ctx)
		mark := c.probe.Mark()
		if now == nil || now != holder {
			holder, begin = now, mark
		}
		if holder == nil || mark.Sub(begin) < settleTime {
			return why, false
		}
		if n := len(c.probe.Report(begin, mark).Dual); n > 0 {
			begin = mark
			return fmt.Sprintf("%d questions were answered by two", n), false
		}
		return "", true
	})
	if err != nil {
		return nil, fmt.Errorf("settle: %w", err)
	}
	return holder, nil
}

// agreed returns who serves the client, with the consent of all; or nil and why there is none.
func (c *cluster) agreed(ctx context.Context) (*machine, string) {
	arp, udp := c.probe.LastNode(), c.probe.Serving()
	if arp == "" || arp != udp {
		return nil, fmt.Sprintf("%q answers ARP and %q UDP", arp, udp)
	}
	var holder *machine
	for _, m := range c.machines {
		if m.proc.Exited() {
			return nil, fmt.Sprintf("%s has ended on %s: %v", c.sys.Name(), m.node.Name(), m.proc.Wait())
		}
		if err := c.sys.Ready(ctx, m.dir, arp); err != nil {
			return nil, fmt.Sprintf("%s on %s: %v", c.sys.Name(), m.node.Name(), err)
		}
		if m.node.Name() == arp {
			holder = m
		}
	}
	return holder, ""
}

// signal is for the main process alone, as from a service manager; signalAll is for all of its processes.
func (m *machine) signal(sig syscall.Signal) error    { return syscall.Kill(m.proc.PID(), sig) }
func (m *machine) signalAll(sig syscall.Signal) error { return m.proc.Signal(sig) }

// restart waits for the end of a process that was told to go, and starts it again.
func (c *cluster) restart(ctx context.Context, m *machine) error {
	select {
	case <-m.proc.Done():
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(patience):
		return fmt.Errorf("end %s on %s: still there %v after the signal", c.sys.Name(), m.node.Name(), patience)
	}
	return errors.Join(c.sys.Sweep(m.dir, m.node), c.run(ctx, m))
}

// wait polls a condition. After the time, its error says why it does not hold.
func wait(ctx context.Context, atMost, every time.Duration, ok func() (why string, ok bool)) error {
	deadline := time.Now().Add(atMost)
	for {
		why, ok := ok()
		if ok {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %v: %s", atMost, why)
		}
		if err := pause(ctx, every); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
