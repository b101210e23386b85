package leader

import "testing"

// A MemCluster is a Raft cluster in memory for the conformance suite.
type MemCluster struct{ w *world }

// NewMemCluster returns a cluster of three nodes, for a synctest bubble.
func NewMemCluster(t *testing.T) *MemCluster { return &MemCluster{newMemWorld(t, 3, nil)} }

func (c *MemCluster) Seat() string                { return "cp" }
func (c *MemCluster) Elector(node string) Elector { return c.w.nodes[node].raft }
func (c *MemCluster) Stop(node string)            { c.w.stop(node) }
func (c *MemCluster) Partition(node string)       { c.w.net.isolate(node, c.w.peers, true) }
func (c *MemCluster) Heal(node string)            { c.w.net.isolate(node, c.w.peers, false) }
func (c *MemCluster) Ready()                      { c.w.voters(len(c.w.peers)) }

func (c *MemCluster) Start(node string, f func(Term)) {
	c.w.listen = f
	c.w.start(node)
}

func (c *MemCluster) Nodes() []string {
	var names []string
	for _, p := range c.w.peers {
		names = append(names, p.Name)
	}
	return names
}
