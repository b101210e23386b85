package cluster

import (
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// localAPI is where a client on a node finds the API.
var localAPI = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), apiPort).String()

// A Node is a node of a Cluster.
type Node struct {
	*Machine
	cluster    *Cluster
	number     int
	components []string // in the order in which they start
	units      map[string]*unit

	podding sync.Mutex // guards pods
	pods    int        // made so far
}

func newNode(c *Cluster, number int, m *Machine) *Node {
	n := &Node{Machine: m, cluster: c, number: number, units: map[string]*unit{}}
	if !n.Worker() {
		for _, name := range c.components() {
			manifest := m.File("/etc/kubernetes/manifests/" + name + ".yaml")
			n.add(name, func() ([]string, error) { return manifestCommand(manifest) })
		}
	}
	if c.opts.Proxy {
		n.add(KubeProxy, c.proxyCommand(m, proxyConfig))
	}
	return n
}

func (n *Node) add(component string, command func() ([]string, error)) {
	n.components = append(n.components, component)
	n.units[component] = &unit{machine: n.Machine, name: component, runs: n.cluster.units, command: command}
}

// Worker says that the node has no part of the control plane.
func (n *Node) Worker() bool { return n.number > n.cluster.opts.Nodes }

// Pod makes a pod on the node, with the next addresses of its subnets. Other nodes reach it, and it reaches the client. A crash
// does not end what runs in it.
func (n *Node) Pod(name string) (*netlab.Pod, error) {
	n.podding.Lock()
	defer n.podding.Unlock()
	const gateway = 1
	var addrs []netip.Addr
	for _, subnet := range n.cluster.podSubnets(n.number) {
		b := subnet.Addr().AsSlice()
		b[len(b)-1] = byte(n.pods + gateway + 1)
		a, _ := netip.AddrFromSlice(b)
		addrs = append(addrs, a)
	}
	if n.pods += 1; n.pods+gateway >= 255 {
		return nil, fmt.Errorf("add pod %s on %s: its subnet is used up", name, n.Name())
	}
	return n.cluster.lab.Pod(n.Host, name, addrs...)
}

// Start starts a component, of the control plane from the static pod manifest that kubeadm wrote, if it does not run. It does not
// wait until it is ready. When a component ends by itself, it is started again a second later.
func (n *Node) Start(component string) error {
	u, err := n.unit(component)
	if err != nil {
		return err
	}
	return u.start()
}

// Kill kills a component with SIGKILL. It is gone when Kill returns, and stays so until Start.
func (n *Node) Kill(component string) error { return n.stop(component, kill) }

// Stop asks a component to end and waits until it has; after three seconds it kills it. It stays down until Start.
func (n *Node) Stop(component string) error { return n.stop(component, (*netlab.Process).End) }

// Freeze stops a component with SIGSTOP: its connections stay open and nothing answers.
func (n *Node) Freeze(component string) error { return n.signal(component, syscall.SIGSTOP) }

// Continue undoes Freeze.
func (n *Node) Continue(component string) error { return n.signal(component, syscall.SIGCONT) }

// Running says whether a component's process is there, be it ready, frozen or neither.
func (n *Node) Running(component string) bool {
	u, err := n.unit(component)
	return err == nil && u.running()
}

// Crash is a power failure: the switch loses the node, then everything on it is killed.
func (n *Node) Crash() error {
	err := n.Cut()
	for _, u := range n.units {
		u.unwant()
	}
	n.killAll()
	return err
}

// Boot starts a node after Crash: with its files, but for /run, and without the addresses, routes and nftables that were set on it
// since the cluster was made. What the caller has started with Run is for the caller to start.
func (n *Node) Boot() error {
	if err := n.reset(); err != nil {
		return err
	}
	if err := n.Heal(); err != nil {
		return err
	}
	for _, component := range n.components {
		if err := n.Start(component); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) unit(component string) (*unit, error) {
	if u := n.units[component]; u != nil {
		return u, nil
	}
	return nil, fmt.Errorf("%s does not run %q", n.Name(), component)
}

func (n *Node) stop(component string, how func(*netlab.Process)) error {
	u, err := n.unit(component)
	if err != nil {
		return err
	}
	u.stop(how)
	return nil
}

func (n *Node) signal(component string, sig syscall.Signal) error {
	u, err := n.unit(component)
	if err != nil {
		return err
	}
	return u.signal(sig)
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
	argv := append(pod.Spec.Containers[0].Command, pod.Spec.Containers[0].Args...)
	if len(argv) == 0 {
		return nil, fmt.Errorf("read %s: no command", file)
	}
	return argv, nil
}
