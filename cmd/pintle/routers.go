package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/pintle-lb/pintle/bgp/bfd"
	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/kube"
	"github.com/pintle-lb/pintle/internal/node"
	"github.com/pintle-lb/pintle/manifests"
)

// routers is a look at the routers of this node.
type routers struct {
	cfg   *config.Config
	w     io.Writer        // for warnings
	peers []config.BGPPeer // of this node, as far as that is known
	errs  []error
}

// lookAtRouters checks what BGP needs of this machine, and finds out which peers this node has. Ports are checked by
// checkPorts and checkBFD.
func lookAtRouters(ctx context.Context, w io.Writer, cfg *config.Config) *routers {
	r := &routers{cfg: cfg, w: w}
	if !cfg.Self().Candidate || !cfg.Announces(config.AnnounceBGP) {
		return r
	}
	labels, annotations := r.readNode(ctx)
	r.peers = cfg.BGP.On(cfg.Node, labels, annotations)
	if len(r.peers) == 0 && len(r.errs) == 0 {
		r.warn("bgp.peers", "this node, "+cfg.Node+", has none of them")
	}
	for _, p := range r.peers {
		r.secret(p, ".passwordFile", p.PasswordFile, config.MaxPassword)
		if p.BFD != nil && p.BFD.Auth != nil {
			r.secret(p, ".bfd.auth.keyFile", p.BFD.Auth.KeyFile, config.MaxBFDKey)
		}
		r.reach(p)
	}
	return r
}

// path is where a peer stands in the file.
func (r *routers) path(p config.BGPPeer, key string) string {
	i := slices.IndexFunc(r.cfg.BGP.Peers, func(o config.BGPPeer) bool { return o.Name == p.Name })
	return fmt.Sprintf("bgp.peers[%d]%s", i, key)
}

func (r *routers) bad(path string, err error) { r.errs = append(r.errs, problem(r.cfg, path, err)) }

func (r *routers) warn(path, text string) {
	fmt.Fprintln(r.w, "warning:", problem(r.cfg, path, errors.New(text)))
}

// readNode asks Kubernetes for what chooses the peers, if anything does. The election by a Lease, and Services, have their own
// look at the API servers, and only with none is nothing said yet of credentials.
func (r *routers) readNode(ctx context.Context) (labels, annotations map[string]string) {
	if !r.cfg.BGP.NeedsNode() {
		return nil, nil
	}
	creds, err := kube.Credentials(r.cfg.Kubernetes)
	if err != nil {
		if r.cfg.Election == config.ElectionNone {
			r.bad("kubernetes.kubeconfig", err)
		}
		return nil, nil
	}
	if r.cfg.Election != config.ElectionLease && r.cfg.Services == nil {
		if !r.rights(kube.Check(ctx, creds, r.cfg.Kubernetes, config.Lease{}, manifests.NodeRule(r.cfg.Node))) {
			return nil, nil
		}
	}
	labels, annotations, err = kube.ReadNode(ctx, creds, r.cfg.Kubernetes, r.cfg.Node)
	if err != nil {
		r.bad("kubernetes", err)
	}
	return labels, annotations
}

// rights takes over what a look at the API brought, and reports whether it is worth asking more.
func (r *routers) rights(found kube.Report) bool {
	good := found.Answered
	for _, f := range found.Findings {
		path := f.Path
		if path == "" {
			path = "kubernetes"
		}
		if f.Warning {
			r.warn(path, f.Text)
		} else {
			r.bad(path, errors.New(f.Text))
			good = false
		}
	}
	return good
}

// secret looks at a file of which only the first line counts. Nothing of it is shown.
func (r *routers) secret(p config.BGPPeer, key, file string, most int) {
	if file == "" {
		return
	}
	path := r.path(p, key)
	info, err := os.Stat(file)
	if err != nil {
		r.bad(path, err)
		return
	}
	if !info.Mode().IsRegular() {
		r.bad(path, fmt.Errorf("%s: is no file", file))
		return
	}
	if info.Mode().Perm()&0o004 != 0 {
		r.warn(path, fmt.Sprintf("%s: everybody on this machine may read it (chmod o-rwx %s)", file, file))
	}
	text, err := os.ReadFile(file)
	if err != nil {
		r.bad(path, err)
		return
	}
	line, _, _ := strings.Cut(string(text), "\n")
	switch n := len(strings.TrimRight(line, "\r\n")); {
	case n == 0:
		r.bad(path, fmt.Errorf("%s: its first line is empty", file))
	case n > most:
		r.bad(path, fmt.Errorf("%s: its first line has %d bytes, at most %d are allowed", file, n, most))
	}
}

// reach looks at the way to the router.
func (r *routers) reach(p config.BGPPeer) {
	if !p.Address.IsValid() {
		if p.Link == "" {
			r.bad(r.path(p, ".interface"), fmt.Errorf("%s: no such link", p.Interface))
		}
		return
	}
	if l := p.LocalAddress; l.IsValid() && !l.IsLoopback() && !slices.Contains(node.HostAddrs(), l) {
		r.bad(r.path(p, ".localAddress"), fmt.Errorf("%s: no link of this host has it", l))
		return
	}
	via, err := way(p)
	switch {
	case err != nil:
		r.bad(r.path(p, ".address"), fmt.Errorf("%s: no route to it: %w", p.Address, err))
	case via.Gw != nil && p.Multihop == 0 && p.BFD != nil:
		r.warn(r.path(p, ".address"), fmt.Sprintf("%s: is not on a link of this host but behind %s: BFD needs multihop", p.Address, via.Gw))
	case via.Gw != nil && p.Multihop == 0 && p.AS != r.cfg.BGP.AS:
		r.warn(r.path(p, ".address"), fmt.Sprintf("%s: is not on a link of this host but behind %s: the session needs multihop", p.Address, via.Gw))
	}
}

// way asks the kernel how it would send to the router.
func way(p config.BGPPeer) (netlink.Route, error) {
	options := &netlink.RouteGetOptions{}
	if p.LocalAddress.IsValid() {
		options.SrcAddr = p.LocalAddress.AsSlice()
	}
	routes, err := netlink.RouteGetWithOptions(p.Address.AsSlice(), options)
	if err != nil {
		return netlink.Route{}, err
	}
	if len(routes) == 0 {
		return netlink.Route{}, errors.New("the kernel names none")
	}
	return routes[0], nil
}

// checkBFD tries the ports of BFD, at the addresses of this node that it would use.
func (r *routers) checkBFD() error {
	places := map[string]string{}
	for _, p := range r.peers {
		if p.BFD == nil {
			continue
		}
		port := uint16(bfd.SingleHopPort)
		if p.Multihop > 0 {
			port = bfd.MultihopPort
		}
		if local := localAddr(p); local.IsValid() {
			places[netip.AddrPortFrom(local, port).String()] = r.path(p, ".bfd")
		}
	}
	var errs []error
	for _, place := range slices.Sorted(maps.Keys(places)) {
		conn, err := net.ListenPacket("udp", place)
		if err != nil {
			errs = append(errs, problem(r.cfg, places[place], node.InUse(err)))
			continue
		}
		conn.Close()
	}
	return errors.Join(errs...)
}

// localAddr is this node's side of the way to the router, if the kernel knows one.
func localAddr(p config.BGPPeer) netip.Addr {
	if p.LocalAddress.IsValid() || !p.Address.IsValid() {
		return p.LocalAddress
	}
	via, err := way(p)
	if err != nil {
		return netip.Addr{}
	}
	a, _ := netip.AddrFromSlice(via.Src)
	return a.Unmap()
}

// here is what is so on this node, in comments.
func here(out []byte, cfg *config.Config, peers []config.BGPPeer) []byte {
	for _, a := range cfg.Addresses {
		if len(a.Links) > 0 {
			out = fmt.Appendf(out, "# here: %s is announced on %s\n", a.Address, strings.Join(a.Links, ", "))
		}
		if cfg.Announces(config.AnnounceTable) && cfg.Self().Candidate {
			out = fmt.Appendf(out, "# here: %s is a route in table %d, with protocol %d\n", a.Address, cfg.Table.Number, cfg.Table.Protocol)
		}
	}
	if len(peers) == 0 {
		return out
	}
	out = fmt.Appendf(out, "# here: this is %s, router ID %s\n", cfg.Node, config.RouterID(cfg, node.HostAddrs()))
	for _, p := range peers {
		out = fmt.Appendf(out, "# here: %s is told\n", describePeer(p))
	}
	return out
}

func describePeer(p config.BGPPeer) string {
	as, at := fmt.Sprintf("AS %d", p.AS), "the neighbour on "+p.Link
	if p.AS == 0 {
		as = "any other AS"
	}
	if p.Address.IsValid() {
		at = netip.AddrPortFrom(p.Address, p.Port).String()
	}
	return fmt.Sprintf("%s, %s, %s,", p.Name, at, as)
}

// frozen says how long routers believe a node that says nothing more, in comments.
func frozen(out []byte, cfg *config.Config) []byte {
	if !cfg.Announces(config.AnnounceBGP) {
		return out
	}
	for _, p := range cfg.BGP.Peers {
		out = fmt.Appendf(out, "# a frozen node's route ends at %s after at most %s\n", p.Name, detection(p))
	}
	if d := cfg.Detection(); cfg.BGP.Exclusive {
		out = fmt.Appendf(out, "# exclusive: a new holder waits %s before it advertises: a tenth longer, and half a second\n", d/10*11+time.Second/2)
	} else if cfg.Election == config.ElectionRaft || cfg.Election == config.ElectionLease {
		out = fmt.Appendf(out, "# so two nodes may be advertised for up to %s when a holder freezes (bgp.exclusive prevents it)\n", d)
	}
	return out
}

// detection is Detection in words.
func detection(p config.BGPPeer) string {
	hold := fmt.Sprintf("%s (hold time)", p.Hold)
	switch {
	case p.BFD == nil || p.BFD.Detection() >= p.Hold:
		return hold
	case p.BFD.Strict:
		return fmt.Sprintf("%s (BFD), if the router takes a packet each %s", p.BFD.Detection(), p.BFD.Interval.Round(time.Millisecond))
	}
	return fmt.Sprintf("%s, and %s while BFD is up", hold, p.BFD.Detection())
}
