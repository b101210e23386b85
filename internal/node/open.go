package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/pintle-lb/pintle/arp"
	"github.com/pintle-lb/pintle/internal/agent"
	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/health"
	"github.com/pintle-lb/pintle/internal/status"
	"github.com/pintle-lb/pintle/leader"
	"github.com/pintle-lb/pintle/leader/pki"
	"github.com/pintle-lb/pintle/vip"
)

// open acquires what the node needs. What was opened is closed by close, also
// after an error.
func (n *Node) open() error {
	if err := n.openCreds(); err != nil {
		return err
	}
	if err := n.openHost(); err != nil {
		return err
	}
	if err := n.openElector(); err != nil {
		return err
	}
	for _, h := range n.cfg.Health {
		p, err := health.New(health.Check(h))
		if err != nil {
			return err
		}
		n.probers = append(n.probers, p)
	}
	n.checks = make([]atomic.Pointer[health.Status], len(n.probers))
	n.agent = agent.New(n.agentConfig())
	return n.openServers()
}

func (n *Node) openCreds() (err error) {
	if n.cfg.Election != config.ElectionRaft {
		return nil
	}
	t := n.cfg.Raft.TLS
	if n.creds, err = pki.Open(pki.Files{CA: t.CA, Cert: t.Cert, Key: t.Key}, n.log); err != nil {
		return err
	}
	return CheckName(n.creds, n.cfg)
}

// CheckName reports an error unless the certificate is this node's: the others
// would refuse it.
func CheckName(creds *pki.Source, cfg *config.Config) error {
	if names := creds.Names(); !slices.Contains(names, cfg.Node) {
		return fmt.Errorf("check certificate: %s: is for %s, not for this node, %s (`pintle raft certs %s` makes one)",
			cfg.Raft.TLS.Cert, strings.Join(names, ", "), cfg.Node, cfg.Node)
	}
	return nil
}

func (n *Node) openServers() (err error) {
	c := n.cfg.Server
	if n.socket, err = status.ListenSocket(status.Socket(c.RunDir, n.cfg.Instance)); err != nil {
		return err
	}
	if !c.Listen.IsValid() {
		return nil
	}
	if n.http, err = net.Listen("tcp", c.Listen.String()); err != nil {
		return InUse(fmt.Errorf("serve metrics and probes: %w", err))
	}
	return nil
}

// InUse adds what to do to an error of an address that cannot be listened on.
func InUse(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w (stop what uses it, or choose another port)", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w (no link of this host has this address)", err)
	}
	return err
}

// openHost opens the parts that touch the host's network. A witness has none.
func (n *Node) openHost() (err error) {
	if !n.holds() {
		return nil
	}
	n.binder, err = vip.Open(vip.Config{Instance: n.cfg.Instance, RunDir: n.cfg.Server.RunDir, Log: n.log,
		OnChange: func() { n.agent.Disturbed() }})
	if err != nil {
		return err
	}
	n.speaker = arp.New(arp.Config{Log: n.log,
		OnHeard: func(h arp.Heard) { n.heard.hear(h); n.agent.Heard(h.Addr) },
		Peer:    func(mac string) string { return n.elector.PeerOf(mac) }})
	if n.cfg.Announces(config.AnnounceTable) {
		if n.table, err = n.binder.OpenTable(vip.TableConfig(n.cfg.Table)); err != nil {
			return err
		}
	}
	return n.openRouters()
}

// holds reports whether this node may ever hold the addresses.
func (n *Node) holds() bool { return n.cfg.Self().Candidate }

func (n *Node) raftConfig() leader.RaftConfig {
	c := n.cfg
	out := leader.RaftConfig{Seat: seat, Node: c.Node, Listen: c.Raft.Listen.String(), Bootstrap: c.Raft.Bootstrap, Alone: c.Raft.Alone,
		StateDir: c.Raft.StateDir, Profile: leader.Profile(c.Raft.Profile), Version: n.version, Creds: n.creds, Log: n.log,
		MACs: n.ownMACs, Move: func(to string) error { return n.agent.Move(to) }}
	for _, p := range c.Raft.Peers {
		out.Peers = append(out.Peers, leader.Peer{Name: p.Name, Address: p.Address.String(), Witness: p.Role == config.RoleWitness,
			Candidate: p.Candidate, Priority: p.Priority})
	}
	for _, a := range c.Addresses {
		out.Join = append(out.Join, netip.AddrPortFrom(a.Address, c.Self().Address.Port()).String())
	}
	if n.holds() {
		out.Free = func(ctx context.Context) error { return Free(ctx, c) }
	}
	return out
}

func (n *Node) agentConfig() agent.Config {
	c := n.cfg
	out := agent.Config{Node: c.Node, Ready: c.Bind == config.BindReady, Linger: c.Linger, HoldDown: c.HoldDown,
		Elector: n.elector, Sockets: vip.Established, Clock: leader.Boot, Log: n.log}
	n.forLease(&out)
	for _, h := range c.Health {
		out.Checks = append(out.Checks, h.Name)
	}
	if !n.holds() {
		out.Sockets = nil
		return out
	}
	claim := agent.Claim{Name: seat, Seat: seat, Announce: agent.Announce{Wire: c.Announces(config.AnnounceARP),
		BGP: c.Announces(config.AnnounceBGP), Table: c.Announces(config.AnnounceTable)}}
	if c.Election == config.ElectionNone {
		claim.Seat = ""
	}
	for _, a := range c.Addresses {
		claim.Addrs = append(claim.Addrs, agent.Placed{Prefix: a.Prefix(), Links: a.Links})
		out.Links = append(out.Links, a.Links...)
	}
	out.Claims = []agent.Claim{claim}
	out.Addresses, out.Targets = n.binder, voice{n.speaker}
	if n.bgp != nil {
		out.Routes = routers{n.bgp, c.BGP}
		out.Routing = agent.Routing{LastResort: c.BGP.Unhealthy == config.UnhealthyLastResort, DrainWait: c.BGP.Drain.Wait}
	}
	if n.table != nil {
		out.Table = n.table
	}
	if c.BGP.Exclusive {
		out.Routing.Detection = c.Detection()
	}
	return out
}

// close closes what open opened. A directory that others still use stays.
func (n *Node) close() error {
	var errs []error
	for _, ln := range []net.Listener{n.socket, n.http} {
		if ln == nil {
			continue
		}
		if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if n.table != nil {
		errs = append(errs, n.table.Close())
	}
	if n.binder != nil {
		errs = append(errs, n.binder.Close())
	}
	if n.elector != nil {
		errs = append(errs, n.elector.Close())
	}
	if n.socket != nil || n.binder != nil {
		_ = os.Remove(n.cfg.Server.RunDir) // it goes only if it is empty
	}
	return errors.Join(errs...)
}
