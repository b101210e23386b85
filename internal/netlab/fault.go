package netlab

import (
	"errors"
	"fmt"
	"maps"
	"sync"
)

// An Endpoint is a Node or the client.
type Endpoint interface{ host() *Host }

func (h *Host) host() *Host { return h }

// faults is what is wrong with the network on purpose. Blocked pairs follow from it.
type faults struct {
	mu      sync.Mutex // guards all, and the order of changes in the switch
	cut     map[int]bool
	oneWay  map[pair]bool
	noPeers map[int]bool
	loss    map[int]int
}

// Cut makes the switch drop all that comes from the node or goes to it. The node keeps its carrier and sees only
// silence. The fault has taken effect when Cut returns, after some 50 microseconds: blocking the bridge port instead would
// need the kernel's RTNL lock, which others can hold for seconds.
func (n *Node) Cut() error { return n.setCut(true) }

// Heal undoes Cut.
func (n *Node) Heal() error { return n.setCut(false) }

func (n *Node) setCut(cut bool) error {
	f := n.lab.lockFaults()
	defer f.mu.Unlock()
	setIn(&f.cut, n.port, cut)
	n.lab.log.Debug("fault", "node", n.name, "cut", cut)
	return n.lab.block(f)
}

// LinkDown takes the node's carrier away.
func (n *Node) LinkDown() error { return n.setCarrier(false) }

// LinkUp undoes LinkDown and returns when frames pass again.
func (n *Node) LinkUp() error {
	if err := n.setCarrier(true); err != nil {
		return err
	}
	return n.lab.sw.waitForwarding(n.port)
}

func (n *Node) setCarrier(up bool) error {
	n.lab.log.Debug("fault", "node", n.name, "link", up)
	return n.lab.sw.setCarrier(n.port, up)
}

// OneWay drops, or no longer drops, every frame that goes from one host to another; the other direction is not touched.
func (l *Lab) OneWay(from, to Endpoint, drop bool) error {
	f := l.lockFaults()
	defer f.mu.Unlock()
	setIn(&f.oneWay, pair{from.host().port, to.host().port}, drop)
	l.log.Debug("fault", "from", from.host().name, "to", to.host().name, "drop", drop)
	return l.block(f)
}

// CutFromPeers separates the node from all other nodes, in both directions; the client still reaches each of them.
func (n *Node) CutFromPeers(cut bool) error {
	f := n.lab.lockFaults()
	defer f.mu.Unlock()
	setIn(&f.noPeers, n.port, cut)
	n.lab.log.Debug("fault", "node", n.name, "cut_from_peers", cut)
	return n.lab.block(f)
}

// Loss drops percent of all frames from and of all frames to the node, at random; 0 ends it.
func (l *Lab) Loss(n *Node, percent int) error {
	if percent < 0 || percent > 100 {
		return fmt.Errorf("set loss of %s: %d %%: want 0 to 100", n.name, percent)
	}
	f := l.lockFaults()
	defer f.mu.Unlock()
	want := maps.Clone(f.loss)
	if want == nil {
		want = map[int]int{}
	}
	want[n.port] = percent
	if err := l.sw.filter.lose(want); err != nil {
		return err
	}
	f.loss = want
	l.log.Debug("fault", "node", n.name, "loss", percent)
	return nil
}

// ClearFaults ends every fault of the network.
func (l *Lab) ClearFaults() error {
	var errs []error
	for _, n := range l.nodes {
		errs = append(errs, n.LinkUp())
	}
	f := l.lockFaults()
	defer f.mu.Unlock()
	f.cut, f.oneWay, f.noPeers, f.loss = nil, nil, nil, nil
	return errors.Join(append(errs, l.block(f), l.sw.filter.lose(nil))...)
}

func (l *Lab) lockFaults() *faults {
	l.sw.faults.mu.Lock()
	return &l.sw.faults
}

// block tells the switch which pairs follow from the faults.
func (l *Lab) block(f *faults) error {
	nodes := make([]int, len(l.nodes))
	for i, n := range l.nodes {
		nodes[i] = n.port
	}
	return l.sw.filter.block(f.pairs(nodes, l.client.port))
}

func (f *faults) pairs(nodes []int, client int) map[pair]bool {
	all := map[pair]bool{}
	maps.Copy(all, f.oneWay)
	separate := func(port int, others ...int) {
		for _, other := range others {
			if other != port {
				all[pair{port, other}], all[pair{other, port}] = true, true
			}
		}
	}
	for n := range f.noPeers {
		separate(n, nodes...)
	}
	for n := range f.cut {
		separate(n, nodes...)
		separate(n, client)
	}
	return all
}

// setIn puts k into a set, or takes it out.
func setIn[K comparable](set *map[K]bool, k K, in bool) {
	if !in {
		delete(*set, k)
		return
	}
	if *set == nil {
		*set = map[K]bool{}
	}
	(*set)[k] = true
}
