package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// restartAfter is how long a component that ended by itself stays down.
const restartAfter = time.Second

// A Node is a control-plane node of a Cluster.
type Node struct {
	*Machine
	cluster *Cluster
	units   map[string]*unit
}

func newNode(ctx context.Context, c *Cluster, m *Machine) *Node {
	n := &Node{Machine: m, cluster: c, units: map[string]*unit{}}
	for _, name := range c.components() {
		n.units[name] = &unit{ctx: ctx, node: n, name: name}
	}
	return n
}

// A unit is a component: a process that is started again when it ends by itself, as the kubelet would.
type unit struct {
	ctx  context.Context // of the cluster
	node *Node
	name string

	mu     sync.Mutex // guards all below, and the order of starts and ends
	wanted bool
	proc   *netlab.Process // the last one
}

// Start starts a component from the static pod manifest that kubeadm wrote, if it does not run. It does not wait until it is ready.
func (n *Node) Start(component string) error {
	u, err := n.unit(component)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.wanted {
		return nil
	}
	if err := u.start(); err != nil {
		return err
	}
	u.wanted = true
	return nil
}

// Kill kills a component with SIGKILL. It is gone when Kill returns, and stays so until Start.
func (n *Node) Kill(component string) error { return n.end(component, kill) }

// Stop asks a component to end and waits until it has; after three seconds it kills it. It stays down until Start.
func (n *Node) Stop(component string) error { return n.end(component, (*netlab.Process).End) }

// Freeze stops a component with SIGSTOP: its connections stay open and nothing answers.
func (n *Node) Freeze(component string) error { return n.signal(component, syscall.SIGSTOP) }

// Continue undoes Freeze.
func (n *Node) Continue(component string) error { return n.signal(component, syscall.SIGCONT) }

// Running says whether a component's process is there, be it ready, frozen or neither.
func (n *Node) Running(component string) bool {
	u, err := n.unit(component)
	if err != nil {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.proc != nil && !u.proc.Exited()
}

// Crash is a power failure: the switch loses the node, then everything on it is killed.
func (n *Node) Crash() error {
	err := n.Cut()
	for _, u := range n.units {
		u.mu.Lock()
		u.wanted = false
		u.mu.Unlock()
	}
	n.killAll()
	return err
}

// Boot starts a node after Crash: with its files, but for /run, and without the addresses and the like that were set on it. What
// the caller has started with Run is for the caller to start.
func (n *Node) Boot() error {
	if err := n.reset(); err != nil {
		return err
	}
	if err := n.Heal(); err != nil {
		return err
	}
	for _, component := range n.cluster.components() {
		if err := n.Start(component); err != nil {
			return err
		}
	}
	return nil
}

func kill(p *netlab.Process) {
	_ = p.Signal(syscall.SIGKILL)
	<-p.Done()
}

func (n *Node) unit(component string) (*unit, error) {
	if u := n.units[component]; u != nil {
		return u, nil
	}
	return nil, fmt.Errorf("%s does not run %q", n.Name(), component)
}

func (n *Node) end(component string, how func(*netlab.Process)) error {
	u, err := n.unit(component)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.wanted = false
	if u.proc != nil {
		how(u.proc)
	}
	return nil
}

func (n *Node) signal(component string, sig syscall.Signal) error {
	u, err := n.unit(component)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.proc == nil {
		return fmt.Errorf("signal %s on %s: it was never started", component, n.Name())
	}
	return u.proc.Signal(sig)
}

// start starts the process; the caller has the lock.
func (u *unit) start() error {
	if err := context.Cause(u.ctx); err != nil {
		return err
	}
	argv, err := manifestCommand(u.node.File("/etc/kubernetes/manifests/" + u.name + ".yaml"))
	if err != nil {
		return err
	}
	log, err := os.OpenFile(u.node.File("/var/log/"+u.name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if u.proc, err = u.node.Run(u.ctx, cmd); err != nil {
		return err
	}
	u.node.cluster.units.Add(1)
	go u.watch(u.proc)
	return nil
}

// watch waits for the end of a process and starts the next one.
func (u *unit) watch(p *netlab.Process) {
	defer u.node.cluster.units.Done()
	<-p.Done()
	pause := time.NewTimer(restartAfter)
	defer pause.Stop()
	select {
	case <-u.ctx.Done():
		return
	case <-pause.C:
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.wanted || u.proc != p {
		return
	}
	log := u.node.cluster.opts.Log
	log.Info("start component again", "node", u.node.Name(), "component", u.name)
	if err := u.start(); err != nil {
		log.Error("component stays down", "node", u.node.Name(), "component", u.name, "err", err)
	}
}

// manifestCommand is what the only container of a static pod runs.
func manifestCommand(file string) ([]string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var pod corev1.Pod
	if err := yaml.UnmarshalStrict(b, &pod); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	if n := len(pod.Spec.Containers); n != 1 {
		return nil, fmt.Errorf("read %s: %d containers: want 1", file, n)
	}
	c := pod.Spec.Containers[0]
	argv := append(c.Command, c.Args...)
	if len(argv) == 0 {
		return nil, fmt.Errorf("read %s: no command", file)
	}
	return argv, nil
}
