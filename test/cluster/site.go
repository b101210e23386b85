package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// apiPort is where each API server listens; etcd's ports are those of kubeadm, too.
const apiPort = 6443

// poll is how often a condition is looked at that nothing tells of.
const poll = 50 * time.Millisecond

// Options describes a cluster. The zero value is one node in a lab of its own.
type Options struct {
	Nodes                 int               // of the control plane; 1 if zero; the first ones of Lab
	Workers               int               // further nodes without a part of the control plane; not in an installed cluster
	Lab                   *netlab.Lab       // nil: a lab of its own, which Close closes
	IPv6                  bool              // dual stack; a lab that is given must have IPv6
	VIP                   netip.Addr        // controlPlaneEndpoint, which nobody bears yet; 10.77.0.100 by default
	SANs                  []string          // more names and addresses for the certificates of the API servers
	Dir                   string            // for files, kept after Close; by default a temporary one that goes with it
	ControllerManager     bool              // run one on each node of the control plane; in an installed cluster there always is one
	Proxy                 bool              // run kube-proxy on every node, in its nftables mode
	APIServerArgs         map[string]string // flags, without their dashes
	ControllerManagerArgs map[string]string // likewise; not in an installed cluster
	Log                   *slog.Logger      // nil: silent
}

func (o *Options) setDefaults() {
	if o.Nodes == 0 {
		o.Nodes = 1
	}
	if !o.VIP.IsValid() {
		o.VIP = netip.AddrFrom4([4]byte{10, 77, 0, 100})
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// A site is what both kinds of cluster have: machines with the files that kubeadm makes, and a way in.
type site struct {
	opts     Options
	lab      *netlab.Lab
	bin      string
	dir      string
	machines []*Machine
	closers  []func() error // in reverse order
}

// newSite makes the machines; nothing runs on them.
func newSite(opts Options) (*site, error) {
	opts.setDefaults()
	s := &site{opts: opts, lab: opts.Lab, dir: opts.Dir}
	if err := s.build(); err != nil {
		return nil, errors.Join(fmt.Errorf("make cluster: %w", err), s.closeSite())
	}
	return s, nil
}

func (s *site) build() (err error) {
	if s.bin, err = Programs(); err != nil {
		return err
	}
	if s.dir == "" {
		if s.dir, err = os.MkdirTemp("", "pintle-cluster-"); err != nil {
			return err
		}
		s.closers = append(s.closers, func() error { return os.RemoveAll(s.dir) })
	} else if s.dir, err = filepath.Abs(s.dir); err != nil {
		return err
	}
	if s.lab == nil {
		if s.lab, err = netlab.New(netlab.Options{Nodes: s.size(), IPv6: s.opts.IPv6, Log: s.opts.Log}); err != nil {
			return err
		}
		s.closers = append(s.closers, s.lab.Close)
	}
	if n := len(s.lab.Nodes()); n < s.size() {
		return fmt.Errorf("%d nodes in a lab of %d", s.size(), n)
	}
	return s.addMachines()
}

// size is how many machines there are to be.
func (s *site) size() int { return s.opts.Nodes + s.opts.Workers }

func (s *site) addMachines() error {
	hosts := "127.0.0.1 localhost\n::1 localhost\n"
	for _, n := range s.lab.Nodes() {
		hosts += fmt.Sprintf("%s %s\n", n.Addr(), n.Name())
	}
	for _, n := range s.lab.Nodes()[:s.size()] {
		m := &Machine{
			Node: n, dir: filepath.Join(s.dir, n.Name()), hosts: []byte(hosts), gateway: s.lab.Client().Addr(),
			path: s.bin + ":" + systemPath,
		}
		if err := m.assemble(); err != nil {
			return fmt.Errorf("make %s: %w", n.Name(), err)
		}
		s.machines = append(s.machines, m)
		s.closers = append(s.closers, m.close)
	}
	return nil
}

// closeSite ends every process and removes what was made.
func (s *site) closeSite() error {
	var running errgroup.Group
	for _, m := range s.machines {
		running.Go(func() error { m.killAll(); return nil })
	}
	_ = running.Wait()
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		errs = append(errs, s.closers[i]())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// Lab is the network that the cluster is in: its Client asks, its nodes can be cut off.
func (s *site) Lab() *netlab.Lab { return s.lab }

// VIP is the address of the controlPlaneEndpoint.
func (s *site) VIP() netip.Addr { return s.opts.VIP }

// Dir is the folder with all files of the cluster.
func (s *site) Dir() string { return s.dir }

// Len is the number of nodes, workers too.
func (s *site) Len() int { return len(s.machines) }

// WaitReady waits until the API server of node i, counted from 1, says that it is ready. The error has its last answer.
func (s *site) WaitReady(ctx context.Context, i int) error {
	cfg := s.Config(i, s.lab.Client(), s.Admin())
	cfg.Timeout = 2 * time.Second
	k, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	err = eventually(ctx, func() error { return k.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error() })
	if err != nil {
		return fmt.Errorf("wait for the API server of n%d: %w", i, err)
	}
	return nil
}

// eventually calls f until it succeeds. When ctx ends first, the error is that, with the last one of f that has another cause.
func eventually(ctx context.Context, f func() error) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	var last error
	for {
		err := f()
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), last)
		case <-tick.C:
		}
	}
}

// Kubectl runs kubectl on node i as administrator, with the API server of that node, and returns what it prints.
func (s *site) Kubectl(ctx context.Context, i int, args ...string) ([]byte, error) {
	return s.kubectl(ctx, i, nil, args...)
}

// Apply applies manifests through the API server of node i; args may add flags, as --dry-run=server.
func (s *site) Apply(ctx context.Context, i int, manifests []byte, args ...string) ([]byte, error) {
	return s.kubectl(ctx, i, manifests, append([]string{"apply", "-f", "-"}, args...)...)
}

func (s *site) kubectl(ctx context.Context, i int, input []byte, args ...string) ([]byte, error) {
	m := s.machines[i-1]
	config, err := s.Kubeconfig(i, s.Admin())
	if err != nil {
		return nil, err
	}
	file := filepath.Join(m.dir, "kubectl.conf")
	if err := renameio.WriteFile(file, config, 0o600); err != nil { // others may run it at the same time
		return nil, err
	}
	return m.exec(ctx, input, append([]string{"kubectl", "--kubeconfig=" + file}, args...)...)
}

// Logs is the end of every log of the cluster, for a person who looks for the cause of a failure.
func (s *site) Logs(lines int) string {
	var b strings.Builder
	for _, m := range s.machines {
		dir := m.File("/var/log")
		units, _ := filepath.Glob(filepath.Join(dir, "*.log"))
		containers, _ := filepath.Glob(filepath.Join(dir, "pods/*/*/*.log"))
		for _, f := range append(units, containers...) {
			text, _ := os.ReadFile(f)
			name, _ := filepath.Rel(dir, f)
			fmt.Fprintf(&b, "--- %s: %s\n%s\n", m.Name(), name, lastLines(string(text), lines))
		}
	}
	return b.String()
}
