// Package plane is a Kubernetes control plane whose address Pintle keeps, for
// tests and benchmarks: the real API servers of test/cluster with the real
// program beside each, and a client that asks the API through the address.
//
//	p, err := plane.New(ctx, plane.Options{Pintle: "build/pintle", Echo: []string{os.Args[0], "echo"}})
//	defer p.Close()
//	out, err := p.Measure(ctx, plane.NodeDies)
package plane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/internal/status"
	"github.com/pintle-lb/pintle/test/cluster"
)

// Options says what is to be made. Only Pintle and Echo have no useful zero value.
type Options struct {
	Pintle   string        // the program
	Echo     []string      // a command that, with a number added, calls netlab.RunEcho with it
	Election string        // raft by default, or lease
	Profile  string        // of Raft: fast by default
	Lease    time.Duration // its duration, 5 s by default
	Nodes    int           // 3 by default
	Health   string        // lines of a health check's mapping, instead of the default ones
	Bare     bool          // install Pintle and start none
}

func (o *Options) setDefaults() {
	if o.Election == "" {
		o.Election = "raft"
	}
	if o.Profile == "" {
		o.Profile = "fast"
	}
	if o.Lease == 0 {
		o.Lease = 5 * time.Second
	}
	if o.Nodes == 0 {
		o.Nodes = 3
	}
}

// User is the name that the Lease election has to the API.
const User = "pintle"

// A Plane is a control plane with a Pintle on each node.
type Plane struct {
	*cluster.Cluster
	ctx     context.Context // of New: processes end with it
	opts    Options
	pintles []*netlab.Process
	probe   *netlab.Probe
}

// New makes it and waits until every Pintle is ready. Processes end with ctx.
func New(ctx context.Context, opts Options) (*Plane, error) {
	opts.setDefaults()
	c, err := cluster.New(ctx, cluster.Options{Nodes: opts.Nodes})
	if err != nil {
		return nil, err
	}
	p := &Plane{Cluster: c, ctx: ctx, opts: opts, pintles: make([]*netlab.Process, opts.Nodes)}
	if err := p.build(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("set up control plane: %w", err), p.Close())
	}
	return p, nil
}

func (p *Plane) build(ctx context.Context) (err error) {
	if p.opts.Election == "lease" {
		if err := p.allow(ctx); err != nil {
			return err
		}
	}
	for i := 1; i <= p.Len(); i++ {
		if err := p.install(ctx, i); err != nil {
			return err
		}
		if err := p.echo(i); err != nil {
			return err
		}
	}
	if p.probe, err = p.Lab().StartProbe(p.VIP(), 10*time.Millisecond); err != nil || p.opts.Bare {
		return err
	}
	for i := 1; i <= p.Len(); i++ {
		if err := p.Start(i); err != nil {
			return err
		}
	}
	_, err = p.Settled(ctx)
	return err
}

// allow gives the user what `pintle manifest rbac` says it needs, and no more.
func (p *Plane) allow(ctx context.Context) error {
	rules, err := exec.CommandContext(ctx, p.opts.Pintle, "manifest", "rbac", "--user", User).Output()
	if err != nil {
		return fmt.Errorf("pintle manifest rbac: %w", err)
	}
	if err := p.Node(1).WriteFile("/etc/pintle/rbac.yaml", rules, 0o600); err != nil {
		return err
	}
	out, err := p.Kubectl(ctx, 1, "apply", "-f", "/etc/pintle/rbac.yaml")
	if err != nil {
		return fmt.Errorf("kubectl apply: %w: %s", err, out)
	}
	return nil
}

// install lays down what `pintle manifest pod` makes for node i.
func (p *Plane) install(ctx context.Context, i int) error {
	var peers []string
	for _, n := range p.Nodes() {
		peers = append(peers, n.Name()+"="+n.Addr().String())
	}
	args := []string{"manifest", "pod", "--address", p.VIP().String(), "--dir", p.Node(i).File("/"), "--election", p.opts.Election}
	if p.opts.Election == "raft" {
		args = append(args, "--peers", strings.Join(peers, ","), "--profile", p.opts.Profile)
	}
	if out, err := exec.CommandContext(ctx, p.opts.Pintle, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("pintle manifest pod: %w: %s", err, out)
	}
	if p.opts.Election == "lease" {
		if err := p.credentials(i); err != nil {
			return err
		}
	}
	return p.adapt(i)
}

// credentials gives node i a kubeconfig of the user.
func (p *Plane) credentials(i int) error {
	id, err := p.Issue(User)
	if err != nil {
		return err
	}
	text, err := p.Kubeconfig(i, id)
	if err != nil {
		return err
	}
	return p.Node(i).WriteFile("/etc/kubernetes/pintle.conf", text, 0o600)
}

// adapt adds what the lab wants to the configuration.
func (p *Plane) adapt(i int) error {
	file := p.Node(i).File("/etc/pintle/pintle.yaml")
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	text := string(b) + "\nserver:\n  runDir: /var/lib/pintle/run\nlog:\n  level: debug\n"
	if p.opts.Election == "lease" {
		text += fmt.Sprintf("lease:\n  duration: %s\n", p.opts.Lease)
		if strings.Contains(string(b), "\nlease:") {
			return fmt.Errorf("%s has a lease section already", file)
		}
	}
	if p.opts.Health != "" {
		head, _, _ := strings.Cut(text, "\nhealth:")
		_, tail, _ := strings.Cut(text, "\nserver:")
		text = head + "\nhealth:\n" + p.opts.Health + "\nserver:" + tail
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

// echo starts the service that the dual check asks.
func (p *Plane) echo(i int) error {
	args := append(p.opts.Echo[1:len(p.opts.Echo):len(p.opts.Echo)], strconv.Itoa(int(p.Node(i).Number())))
	_, err := p.Node(i).Run(p.ctx, exec.Command(p.opts.Echo[0], args...))
	return err
}

// Start starts the Pintle of node i. Its output is added to /var/log/pintle.log.
func (p *Plane) Start(i int) error { return p.StartWith(i, p.opts.Pintle) }

// StartWith starts another build of Pintle on node i.
func (p *Plane) StartWith(i int, program string) error {
	n := p.Node(i)
	log, err := os.OpenFile(n.File("/var/log/pintle.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own descriptor
	program, err = filepath.Abs(program)
	if err != nil {
		return err
	}
	cmd := exec.Command(program, "run", "--config", "/etc/pintle/pintle.yaml", "--node", n.Name())
	cmd.Stdout, cmd.Stderr = log, log
	p.pintles[i-1], err = n.Run(p.ctx, cmd)
	return err
}

// Pintle is the process of node i; nil before Start.
func (p *Plane) Pintle(i int) *netlab.Process { return p.pintles[i-1] }

// Log is what the Pintle of node i has said so far.
func (p *Plane) Log(i int) string {
	b, err := os.ReadFile(p.Node(i).File("/var/log/pintle.log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Status asks the Pintle of node i.
func (p *Plane) Status(ctx context.Context, i int) (*status.Report, error) {
	socket := p.Node(i).File("/var/lib/pintle/run/default.sock")
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	c := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: 2 * time.Second}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://pintle/status", nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	r := &status.Report{}
	return r, json.Unmarshal(b, r)
}

// settleLimit bounds the wait for a quiet control plane.
const settleLimit = 90 * time.Second

// Settled waits until every Pintle is ready and all name one holder, which it
// returns, and the API answers through the address.
func (p *Plane) Settled(ctx context.Context) (holder int, err error) {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	for {
		holder, why := p.settled(ctx)
		if holder != 0 {
			return holder, nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("the control plane does not settle: %s", why)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (p *Plane) settled(ctx context.Context) (holder int, why string) {
	name := ""
	for i := 1; i <= p.Len(); i++ {
		r, err := p.Status(ctx, i)
		switch {
		case err != nil:
			return 0, fmt.Sprintf("n%d: %v", i, err)
		case !r.Ready:
			return 0, fmt.Sprintf("n%d is not ready: %s", i, r.NotReady)
		case len(r.Seats) != 1 || r.Seats[0].Holder == "":
			return 0, fmt.Sprintf("n%d knows no holder", i)
		case name != "" && r.Seats[0].Holder != name:
			return 0, fmt.Sprintf("n1 says %s, n%d says %s", name, i, r.Seats[0].Holder)
		}
		name = r.Seats[0].Holder
		if r.Seats[0].Holding {
			holder = i
		}
	}
	if holder == 0 {
		return 0, name + " holds, as all say, and does not itself"
	}
	if err := p.client().Ask(ctx); err != nil {
		return 0, "through the address: " + err.Error()
	}
	return holder, ""
}

// Close ends everything.
func (p *Plane) Close() error {
	if p.probe != nil {
		p.probe.Close()
	}
	return p.Cluster.Close()
}
