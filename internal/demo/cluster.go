package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// A cluster is the machines of the demo, with a Pintle and a service on each, and the client's probe.
type cluster struct {
	lab      *netlab.Lab
	machines []*machine
	probe    *netlab.Probe
	watch    *watch
	stop     func() // ends the watch

	dir, exe      string
	keep          bool // dir was asked for
	profile, bind string
	timeout       time.Duration // T of the profile
	settle, every time.Duration
	patience      time.Duration // for a take-over, and for all to be well again
}

// A machine runs two processes: Pintle, and the service that the address stands for, which outlives it.
type machine struct {
	node   *netlab.Node
	config string // path of Pintle's configuration
	log    string // path of what it prints
	socket string // path of its status socket
	pintle *netlab.Process
}

func (m *machine) name() string { return m.node.Name() }

// newCluster builds the machines, without a process on any.
func newCluster(ctx context.Context, opts Options) (*cluster, error) {
	c := &cluster{
		dir: opts.Dir, keep: opts.Dir != "", exe: opts.Exe, profile: opts.Profile, bind: opts.Bind,
		timeout: timeouts[opts.Profile], settle: opts.Settle, every: opts.Every, patience: opts.patience,
	}
	if err := c.build(opts.Nodes); err != nil {
		return nil, errors.Join(fmt.Errorf("set up demo: %w", err), c.close(true))
	}
	watching, stop := context.WithCancel(ctx)
	c.watch = newWatch(c.machines)
	done := make(chan struct{})
	go func() { defer close(done); c.watch.run(watching) }()
	c.stop = func() { stop(); <-done }
	return c, nil
}

func (c *cluster) build(nodes int) (err error) {
	if c.dir == "" {
		if c.dir, err = os.MkdirTemp("", "pintle-demo-"); err != nil {
			return err
		}
	}
	if c.lab, err = netlab.New(netlab.Options{Nodes: nodes}); err != nil {
		return err
	}
	for _, n := range c.lab.Nodes() {
		dir := filepath.Join(c.dir, n.Name())
		c.machines = append(c.machines, &machine{
			node: n, config: filepath.Join(dir, "pintle.yaml"), log: filepath.Join(dir, "log"),
			socket: filepath.Join(dir, "run", "default.sock"),
		})
	}
	return c.writeFiles()
}

// start runs all processes and the probe, and returns when the machines are settled.
func (c *cluster) start(ctx context.Context) (err error) {
	for _, m := range c.machines {
		if err := errors.Join(c.runEcho(ctx, m), c.run(ctx, m)); err != nil {
			return err
		}
	}
	if c.probe, err = c.lab.StartProbe(Address, c.every); err != nil {
		return err
	}
	if _, err := c.settled(ctx); err != nil {
		return fmt.Errorf("start %d machines: %w", len(c.machines), err)
	}
	return nil
}

// run starts the machine's Pintle, whose output is added to its log.
func (c *cluster) run(ctx context.Context, m *machine) error {
	p, err := m.start(ctx, exec.Command(c.exe, "run", "--config", m.config, "--node", m.name()))
	if err == nil {
		m.pintle = p
	}
	return err
}

func (c *cluster) runEcho(ctx context.Context, m *machine) error {
	number, port := strconv.Itoa(int(m.node.Number())), strconv.Itoa(netlab.EchoPort)
	_, err := m.start(ctx, exec.Command(c.exe, "demo-echo", "--number", number, "--port", port))
	return err
}

// start starts a process whose output is added to the machine's log.
func (m *machine) start(ctx context.Context, cmd *exec.Cmd) (*netlab.Process, error) {
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the process has its own descriptor
	cmd.Stdout, cmd.Stderr = log, log
	return m.node.Start(ctx, cmd)
}

func (c *cluster) machine(name string) *machine {
	for _, m := range c.machines {
		if m.name() == name {
			return m
		}
	}
	return nil
}

func (c *cluster) pids() map[string]int {
	ids := map[string]int{}
	for _, m := range c.machines {
		ids[m.name()] = m.pintle.PID()
	}
	return ids
}

// close ends everything. The files go if all went well and nobody asked for them.
func (c *cluster) close(well bool) error {
	if c.stop != nil {
		c.stop()
	}
	var errs []error
	if c.lab != nil {
		errs = append(errs, c.lab.Close())
	}
	if c.dir != "" && well && !c.keep {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	return errors.Join(errs...)
}
