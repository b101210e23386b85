package node

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/pintle-lb/pintle/internal/agent"
	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/kube"
	"github.com/pintle-lb/pintle/internal/status"
	"github.com/pintle-lb/pintle/leader"
)

// An elector is what a node needs of its election, whichever kind it is.
type elector interface {
	leader.Elector
	leader.Ranker
	leader.Mover
	PeerOf(mac string) string // "" for a stranger's
	Transfer(ctx context.Context, to string) error
	Close() error
}

// openElector opens the elector that the configuration asks for.
func (n *Node) openElector() error {
	switch n.cfg.Election {
	case config.ElectionNone:
		n.elector = solo{}
		return nil
	case config.ElectionLease:
		return n.openKube()
	}
	raft, err := leader.OpenRaft(n.raftConfig())
	if err != nil {
		return InUse(err)
	}
	n.raft, n.elector = raft, raft
	return nil
}

func (n *Node) openKube() error {
	c := n.cfg
	creds, err := kube.Credentials(c.Kubernetes)
	if err != nil {
		return err
	}
	conf := leader.KubeConfig{Seat: seat, Node: c.Node, Namespace: c.Lease.Namespace, Name: c.Lease.Name, Duration: c.Lease.Duration,
		Candidate: n.holds(), Rank: c.Rank(), Rest: creds, Servers: c.Kubernetes.Servers, Discover: true, Avoid: addrsOf(c),
		Version: n.version, Log: n.log, MACs: n.ownMACs, Move: func(to string) error { return n.agent.Move(to) }}
	if n.holds() {
		conf.Free = n.free
	}
	k, err := leader.OpenKube(conf)
	if err != nil {
		return err
	}
	n.kube, n.elector = k, k
	n.events, err = kube.NewRecorder(kube.RecorderConfig{Node: c.Node, Namespace: c.Lease.Namespace, Name: c.Lease.Name, Creds: creds,
		Servers: n.apiServers, Log: n.log})
	return err
}

// free is Free, whose last error is part of what is true.
func (n *Node) free(ctx context.Context) error {
	err := Free(ctx, n.cfg)
	text := ""
	if err != nil && ctx.Err() == nil {
		text = err.Error()
	}
	n.taken.Store(&text)
	return err
}

func addrsOf(c *config.Config) (out []netip.Addr) {
	for _, a := range c.Addresses {
		out = append(out, a.Address)
	}
	return out
}

// apiServers are the API servers that are known now: the one that answered last in
// front, those that did not last.
func (n *Node) apiServers() (urls []string) {
	st := n.kube.Status()
	if st.Server != "" {
		urls = append(urls, st.Server)
	}
	for _, ill := range []bool{false, true} {
		for _, s := range st.Servers {
			if (s.Error != "") == ill && s.URL != st.Server {
				urls = append(urls, s.URL)
			}
		}
	}
	return urls
}

// forLease fits the agent to an election by a Lease, which takes writes to an API.
func (n *Node) forLease(c *agent.Config) {
	if n.kube != nil {
		c.Backer, c.MoveLimit = "the Kubernetes API", max(time.Second, n.cfg.Lease.Duration/2)
	}
}

// transferLimit is less than what a client on the status socket waits for.
const transferLimit = 12 * time.Second

// actions are what a person may ask for.
func (n *Node) actions() status.Actions {
	a := status.Actions{Transfer: func(ctx context.Context, to string) error {
		ctx, cancel := context.WithTimeout(ctx, transferLimit)
		defer cancel()
		return n.elector.Transfer(ctx, to)
	}}
	if n.raft != nil {
		a.Remove = n.raft.Remove
		a.Profile = func(ctx context.Context, p string) error { return n.raft.SetProfile(ctx, leader.Profile(p)) }
	}
	return a
}

// lookElection puts into a report what the election knows.
func (n *Node) lookElection(r *status.Report) {
	r.Election = string(n.cfg.Election)
	if n.cfg.Election == config.ElectionNone {
		return
	}
	if n.kube != nil {
		st := n.kube.Status()
		if why := n.taken.Load(); why != nil && st.Error == "" && st.Epoch == 0 { // there is no Lease yet, and for a reason
			st.Error = *why
		}
		r.Lease = &st
		return
	}
	r.Raft = n.raft.Status()
	r.Cert = status.Certificate{Names: n.creds.Names(), NotAfter: n.creds.NotAfter()}
	self := slices.IndexFunc(r.Raft.Members, func(m leader.Member) bool { return m.Self })
	if self >= 0 { // nobody greets itself
		r.Raft.Members[self].Hello = leader.Hello{Name: n.cfg.Node, Version: n.version, Healthy: r.Healthy, Candidate: r.Candidate,
			Witness: r.Witness, Priority: n.cfg.Self().Priority, T: r.Raft.T}
	}
}
