package plane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// A Program keeps the address in Pintle's place. Its functions get the number
// of the node, from 1.
type Program struct {
	Prepare func(p *Plane, i int) error     // writes what it needs to the node's own folders
	Command func(p *Plane, i int) *exec.Cmd // runs it, in the foreground
}

// A Rival is a control plane whose address another program keeps. Where that
// ends by itself, it is started again a second later, as the kubelet would.
type Rival struct {
	*Plane
	daemons []*daemon
	stop    func() // no more restarts
	stepIns int
}

// NewRival makes it and waits until one node alone serves. It needs what New
// needs, Pintle's program too, which it installs and does not start. The
// election and the lease say how patient Measure is.
func NewRival(ctx context.Context, opts Options, program Program) (*Rival, error) {
	opts.Bare = true
	p, err := New(ctx, opts)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	r := &Rival{Plane: p, stop: stop}
	if err := r.begin(ctx, program); err != nil {
		return nil, errors.Join(fmt.Errorf("set up control plane: %w", err), r.Close())
	}
	return r, nil
}

func (r *Rival) begin(ctx context.Context, program Program) error {
	for i := 1; i <= r.Len(); i++ {
		if err := program.Prepare(r.Plane, i); err != nil {
			return err
		}
		r.daemons = append(r.daemons, &daemon{start: func() (*netlab.Process, error) {
			return r.run(ctx, i, program.Command(r.Plane, i))
		}})
	}
	if err := r.startAll(ctx); err != nil {
		return err
	}
	_, err := r.Settled(ctx)
	return err
}

const rivalLog = "/var/log/rival.log"

func (r *Rival) run(ctx context.Context, i int, cmd *exec.Cmd) (*netlab.Process, error) {
	n := r.Node(i)
	log, err := os.OpenFile(n.File(rivalLog), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has its own descriptor
	cmd.Stdout, cmd.Stderr = log, log
	return n.Run(ctx, cmd)
}

func (r *Rival) startAll(ctx context.Context) (err error) {
	for _, d := range r.daemons {
		err = errors.Join(err, d.up(ctx))
	}
	return err
}

// Log is what the program on node i has said so far.
func (r *Rival) Log(i int) string {
	b, err := os.ReadFile(r.Node(i).File(rivalLog))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// StepIns is how often Settled had to step in so far, as a person would: it
// ended the program everywhere, took the address from all nodes, and started
// the program again.
func (r *Rival) StepIns() int { return r.stepIns }

// Measure is that of Plane, done to the program instead of Pintle.
func (r *Rival) Measure(ctx context.Context, f Fault) (Outcome, error) {
	return r.measure(ctx, r, f)
}

// Do does a fault to a node.
func (r *Rival) Do(f Fault, i int) error {
	d := r.daemons[i-1]
	switch f {
	case NodeDies:
		d.unwant()
	case Killed:
		return d.unwant().Signal(syscall.SIGKILL)
	case Stopped:
		return d.unwant().Signal(syscall.SIGTERM)
	case Frozen:
		return d.process().Signal(syscall.SIGSTOP)
	}
	return r.Plane.Do(f, i)
}

// Undo makes a node well again.
func (r *Rival) Undo(ctx context.Context, f Fault, i int) error {
	n, d := r.Node(i), r.daemons[i-1]
	switch f {
	case NodeDies:
		if err := n.Boot(); err != nil {
			return err
		}
		return errors.Join(r.echo(i), d.up(ctx))
	case Killed, Stopped:
		d.process().End()
		return d.up(ctx)
	case Frozen:
		return d.process().Signal(syscall.SIGCONT)
	}
	return r.Plane.Undo(ctx, f, i)
}

// aloneFor is how long one node alone must have answered. It gives a program
// that was just started the time to become one that can take over, which
// cannot be asked of it.
const aloneFor = 3 * time.Second

// stepAfter is how long Settled waits before it steps in.
const stepAfter = 30 * time.Second

// Settled waits until every API server is ready, the program runs on every
// node and the API answers through the address, which one node alone has. If
// that does not come by itself, it steps in, twice at most.
func (r *Rival) Settled(ctx context.Context) (holder int, err error) {
	if err := r.ready(ctx); err != nil {
		return 0, err
	}
	for steps := 0; ; steps++ {
		holder, why := r.alone(ctx)
		switch {
		case holder != 0:
			return holder, nil
		case ctx.Err() != nil || steps == 2:
			return 0, fmt.Errorf("the control plane does not settle: %s", why)
		}
		r.stepIns++
		if err := r.stepIn(ctx); err != nil {
			return 0, err
		}
	}
}

func (r *Rival) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	for i := 1; i <= r.Len(); i++ {
		if err := r.WaitReady(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

func (r *Rival) alone(ctx context.Context) (holder int, why string) {
	since := r.probe.Mark()
	for end := time.Now().Add(stepAfter); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		now, reason := r.serving(ctx)
		mark := r.probe.Mark()
		switch {
		case now == 0 || now != holder:
			holder, why, since = now, reason, mark
		case mark.Sub(since) < aloneFor:
		case len(r.probe.Report(since, mark).Dual) > 0:
			why, since = "two nodes answer for the address", mark
		default:
			return holder, ""
		}
	}
	return 0, why
}

func (r *Rival) serving(ctx context.Context) (holder int, why string) {
	for i, d := range r.daemons {
		if d.process().Exited() {
			return 0, fmt.Sprintf("the program on n%d has ended", i+1)
		}
	}
	arp, udp := r.probe.LastNode(), r.probe.Serving()
	if arp == "" || arp != udp {
		return 0, fmt.Sprintf("%q answers ARP and %q UDP", arp, udp)
	}
	if err := r.client().Ask(ctx); err != nil {
		return 0, "through the address: " + err.Error()
	}
	for i := 1; i <= r.Len(); i++ {
		if r.Node(i).Name() == arp {
			return i, "it is " + arp + " since a moment ago"
		}
	}
	return 0, arp + " answers, which is no node"
}

func (r *Rival) stepIn(ctx context.Context) error {
	for i, d := range r.daemons {
		d.unwant().End()
		if err := r.Node(i + 1).Do(r.removeAddress); err != nil {
			return fmt.Errorf("take the address from n%d: %w", i+1, err)
		}
	}
	return r.startAll(ctx)
}

// removeAddress runs on a node.
func (r *Rival) removeAddress() error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, link := range links {
		addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
		}
		for _, a := range addrs {
			if !a.IP.Equal(net.IP(r.VIP().AsSlice())) {
				continue
			}
			if err := netlink.AddrDel(link, &a); err != nil {
				return fmt.Errorf("remove %s: %w", a.IPNet, err)
			}
		}
	}
	return nil
}

// Close ends everything.
func (r *Rival) Close() error {
	r.stop()
	for _, d := range r.daemons {
		d.unwant()
	}
	err := r.Plane.Close()
	for _, d := range r.daemons {
		d.restarts.Wait()
	}
	return err
}

// restartAfter is how long one that ended by itself stays down.
const restartAfter = time.Second

// A daemon is the program on one node.
type daemon struct {
	start    func() (*netlab.Process, error)
	restarts sync.WaitGroup

	mu     sync.Mutex // guards all below
	proc   *netlab.Process
	wanted bool
}

// up starts it, and again when it ends by itself, until unwant.
func (d *daemon) up(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wanted = true
	return d.run(ctx)
}

// run wants the lock.
func (d *daemon) run(ctx context.Context) error {
	proc, err := d.start()
	if err != nil {
		return err
	}
	d.proc = proc
	d.restarts.Go(func() { d.mind(ctx, proc) })
	return nil
}

// mind waits for the end of a process and starts the next. Where that fails
// Settled says that the program has ended.
func (d *daemon) mind(ctx context.Context, proc *netlab.Process) {
	<-proc.Done()
	select {
	case <-ctx.Done():
	case <-time.After(restartAfter):
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.wanted && d.proc == proc && ctx.Err() == nil {
		_ = d.run(ctx)
	}
}

// unwant lets it be down when it ends. It returns the process.
func (d *daemon) unwant() *netlab.Process {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wanted = false
	return d.proc
}

func (d *daemon) process() *netlab.Process {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.proc
}
