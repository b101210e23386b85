// Package netlab is a small network on one machine: a switch, some nodes and a client, each in a network namespace of
// its own, with faults that take effect at a known instant and a probe that measures what a client notices.
//
// It needs no `ip`, `bridge` or `nft` program and leaves nothing behind: namespaces have no name and live only as long as
// the lab's process holds them, and every process that it starts dies with it, also when it is killed.
//
//	lab, err := netlab.New(netlab.Options{Nodes: 3})
//	defer lab.Close()
//	p, err := lab.Node(1).Start(ctx, exec.Command("pintle", "run", "--config", "n1.yaml"))
//	probe, err := lab.StartProbe(netip.MustParseAddr("10.77.0.100"), 2*time.Millisecond)
//	from := probe.Mark()
//	err = lab.Node(1).Cut()
//	...
//	fmt.Println(probe.Report(from, probe.Mark()).Outage)
//
// A Survey does for hundreds of addresses what a Probe does for one, by ARP and neighbour solicitation alone. Behind puts a host
// behind a router, Pod one on a node; a Greeter there is a service that costs no process.
//
// Making network namespaces needs CAP_SYS_ADMIN and CAP_NET_ADMIN; Enter gets them in a user namespace where they are missing.
package netlab

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
)

// MaxNodes is the largest lab: beyond it node addresses would meet those of the probe.
const MaxNodes = 99

// clientNumber is the client's host part, 10.77.0.200.
const clientNumber = 200

// Options describes a lab. Only Nodes has no useful zero value.
type Options struct {
	Nodes int          // 1 to MaxNodes
	IPv6  bool         // also fd77::i/64 and a link-local address on every host, without duplicate address detection
	Log   *slog.Logger // nil: silent
}

// A Lab is a bridge in a namespace of its own with nodes n1, n2, ... (10.77.0.i/24, fd77::i/64) and a client
// (10.77.0.200, fd77::c8) connected to it by eth0. Its methods may be called from any goroutine.
type Lab struct {
	log    *slog.Logger
	sw     *fabric
	nodes  []*Node
	client *Host

	ipv6 bool

	mu       sync.Mutex // guards all below
	behind   []*Host    // that Behind and Pod made
	podsMade int
	procs    []*Process
	askers   byte                   // probes and surveys made so far
	open     []interface{ Close() } // what asks and answers in this process
	closed   bool
}

// A Node is a machine of the lab whose connection can be disturbed.
type Node struct {
	*Host
	lab *Lab
}

// New builds the lab. It returns when every host can send. On an error nothing is left.
func New(opts Options) (*Lab, error) {
	if opts.Nodes < 1 || opts.Nodes > MaxNodes {
		return nil, fmt.Errorf("make lab: %d nodes: want 1 to %d", opts.Nodes, MaxNodes)
	}
	l := &Lab{log: opts.Log, ipv6: opts.IPv6}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if err := l.build(opts.Nodes); err != nil {
		return nil, errors.Join(fmt.Errorf("make lab: %w", err), l.Close())
	}
	return l, nil
}

func (l *Lab) build(nodes int) (err error) {
	if l.sw, err = newFabric(); err != nil {
		return err
	}
	for i := 1; i <= nodes; i++ {
		h, err := l.addHost(fmt.Sprintf("n%d", i), i)
		if err != nil {
			return err
		}
		l.nodes = append(l.nodes, &Node{Host: h, lab: l})
	}
	if l.client, err = l.addHost("client", clientNumber); err != nil {
		return err
	}
	for _, h := range l.hosts() {
		if err := l.sw.waitForwarding(h.port); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) addHost(name string, number int) (*Host, error) {
	addrs := []netip.Prefix{addr4(number)}
	if l.ipv6 {
		addrs = append(addrs, addr6(number), linkLocal(number))
	}
	h, err := newHost(l, name, number, addrs...)
	if err != nil {
		return nil, fmt.Errorf("add %s: %w", name, err)
	}
	if err := l.sw.connect(h); err != nil {
		return nil, errors.Join(fmt.Errorf("connect %s: %w", name, err), h.close())
	}
	if err := h.configure(); err != nil {
		return nil, errors.Join(fmt.Errorf("configure %s: %w", name, err), h.close())
	}
	return h, nil
}

// Node returns node i, counted from 1.
func (l *Lab) Node(i int) *Node { return l.nodes[i-1] }

// Nodes returns all nodes in order.
func (l *Lab) Nodes() []*Node { return l.nodes }

// Client returns the machine that asks.
func (l *Lab) Client() *Host { return l.client }

// Close ends probes, echoes and processes (see Process.End) and lets the namespaces go. The kernel dismantles them in the
// background within moments. It may be called again.
func (l *Lab) Close() error {
	procs, open := l.shut()
	for _, o := range open {
		o.Close()
	}
	var wg sync.WaitGroup
	for _, p := range procs {
		wg.Go(p.End)
	}
	wg.Wait()
	var errs []error
	for _, h := range slices.Concat(l.hosts(), l.behind) {
		errs = append(errs, h.close())
	}
	if l.sw != nil {
		errs = append(errs, l.sw.close())
	}
	return errors.Join(errs...)
}

// shut refuses further processes and probes and returns those that there are.
func (l *Lab) shut() (procs []*Process, open []interface{ Close() }) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	procs, open = l.procs, l.open
	l.procs, l.open = nil, nil
	return procs, open
}

// forget is told of one that has closed.
func (l *Lab) forget(closed interface{ Close() }) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = slices.DeleteFunc(l.open, func(o interface{ Close() }) bool { return o == closed })
}

// hosts are all that are connected to the switch.
func (l *Lab) hosts() []*Host {
	var all []*Host
	for _, n := range l.nodes {
		all = append(all, n.Host)
	}
	if l.client != nil {
		all = append(all, l.client)
	}
	return all
}

// nameOf tells whose a MAC address is: a host's name, or the address itself for a stranger's.
func (l *Lab) nameOf(mac macAddr) string {
	for _, h := range l.hosts() {
		if macOf(h.mac) == mac {
			return h.name
		}
	}
	return mac.String()
}

// nodeName is the name of the node that an echo calls by number.
func nodeName(number byte) string { return fmt.Sprintf("n%d", number) }

// addresses that a host number stands for.
func addr4(number int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, 0, byte(number)}), 24)
}

func addr6(number int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x77, 15: byte(number)}), 64)
}

func linkLocal(number int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 14: 0x77, 15: byte(number)}), 64)
}

func hostMAC(number int) net.HardwareAddr { return net.HardwareAddr{2, 0x77, 0, 0, 0, byte(number)} }
func portMAC(number int) net.HardwareAddr { return net.HardwareAddr{2, 0x77, 0, 0, 1, byte(number)} }
