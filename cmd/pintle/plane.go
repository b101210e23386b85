package main

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/manifests"
)

// A plane is the flags that say of which control plane a manifest is: a configuration, or what one is made from.
type plane struct {
	file             string
	image, namespace string

	addresses, links, peers []string
	routers                 []string
	as                      string
	election, profile       string
	tls                     manifests.TLS
	kubeconfig              string
	port                    uint16
	health                  string

	made string // the command, for the configuration's first lines
}

// making are the flags that a configuration is made from.
var making = []string{"address", "link", "peers", "bgp-as", "bgp-peer", "election", "profile", "tls-ca", "tls-cert", "tls-key", "kubeconfig", "api-port", "api-health"}

func (p *plane) flags(c *cobra.Command, election manifests.Election) {
	f := c.Flags()
	f.StringVarP(&p.file, "config", "c", "", "configuration to install, instead of the flags that make one")
	f.StringVar(&p.image, "image", "pintle:"+version, "name of the image")
	f.StringVarP(&p.namespace, "namespace", "n", "kube-system", "namespace of the pods, and of the lease")

	f.StringSliceVar(&p.addresses, "address", nil, "address of the control plane, one that no machine has; IPv4 and IPv6 if there are two")
	f.StringSliceVar(&p.links, "link", nil, "where the address is announced: a link or a glob (default: the link that has its subnet)")
	f.StringSliceVar(&p.peers, "peers", nil, "Raft: every control-plane node, NAME=ADDRESS, the name as in Kubernetes; the first one starts")
	f.StringVar(&p.as, "bgp-as", "", "BGP: the AS of the nodes; they tell routers of the address, all that are healthy, unless there is an --election")
	f.StringSliceVar(&p.routers, "bgp-peer", nil, "BGP: every router, ADDRESS=AS")
	f.StringVar(&p.election, "election", string(election), "raft (the nodes among themselves), lease (by an object of the cluster), or none (BGP only)")
	f.StringVar(&p.profile, "profile", "", "Raft: fast, default or wan (default: default)")
	f.StringVar(&p.tls.CA, "tls-ca", "", "Raft: CA of the nodes (default: of kubeadm's etcd)")
	f.StringVar(&p.tls.Cert, "tls-cert", "", "Raft: certificate of a node (default: its etcd peer certificate)")
	f.StringVar(&p.tls.Key, "tls-key", "", "Raft: key of a node")
	f.StringVar(&p.kubeconfig, "kubeconfig", "", "lease: who a node is to the API (default: static pod /etc/kubernetes/pintle.conf, DaemonSet its service account)")
	f.Uint16Var(&p.port, "api-port", 6443, "port of the API servers on their nodes")
	f.StringVar(&p.health, "api-health", string(manifests.Readyz), "how a node asks its API server: readyz, or tcp if that answers nobody without a name")
}

// kube is the installation that the flags mean.
func (p *plane) kube(c *cobra.Command) (manifests.Kube, error) {
	data, file, err := p.config(c)
	if err != nil {
		return manifests.Kube{}, err
	}
	k, err := kubeOf(c.ErrOrStderr(), data, file)
	if err == nil && k.Services {
		err = &badInput{file + ": is for Services (it has section services): pintle manifest services installs it"}
	}
	k.Image, k.Namespace = p.image, p.namespace
	return k, err
}

// config is the configuration, and the name by which its problems are told.
func (p *plane) config(c *cobra.Command) (data []byte, name string, err error) {
	if p.file == "" {
		if p.as != "" && !c.Flags().Changed("election") {
			p.election = string(manifests.None)
		}
		plane, err := p.controlPlane()
		if err != nil {
			return nil, "", err
		}
		if data, err = plane.Config(); err != nil {
			return nil, "", &badInput{err.Error()}
		}
		return data, "the configuration", nil
	}
	for _, f := range making {
		if c.Flags().Changed(f) {
			return nil, "", &badInput{fmt.Sprintf("--%s and --config: the configuration says it: change it there", f)}
		}
	}
	data, err = readConfig(p.file)
	return data, p.file, err
}

func readConfig(file string) ([]byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, &badInput{err.Error()}
	}
	return data, nil
}

// controlPlane is what the flags that make a configuration say.
func (p *plane) controlPlane() (manifests.ControlPlane, error) {
	out := manifests.ControlPlane{MadeBy: p.made, Links: p.links, Election: manifests.Election(p.election), Profile: p.profile, TLS: p.tls,
		Health: manifests.Health{Kind: manifests.HealthKind(p.health), Port: p.port}}
	for _, s := range p.addresses {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return out, &badInput{fmt.Sprintf("--address %s: not an IP address", s)}
		}
		out.Addresses = append(out.Addresses, a)
	}
	for _, s := range p.peers {
		peer, err := parsePeer(s)
		if err != nil {
			return out, err
		}
		out.Peers = append(out.Peers, peer)
	}
	bgp, err := parseBGP(p.as, p.routers)
	if err != nil {
		return out, err
	}
	if out.BGP = bgp; out.Election == manifests.Lease {
		out.Kubeconfig = p.kubeconfig
		if p.namespace != "kube-system" {
			out.Namespace = p.namespace
		}
	}
	return out, p.complete(out)
}

// parseBGP is what the flags --bgp-as and --bgp-peer say of routers; nil if they say nothing.
func parseBGP(as string, routers []string) (*manifests.BGP, error) {
	if as == "" && len(routers) == 0 {
		return nil, nil
	}
	own, err := parseAS(as)
	if err != nil {
		return nil, &badInput{fmt.Sprintf("--bgp-as %q: not the number of an AS", as)}
	}
	out := manifests.BGP{AS: own}
	for _, s := range routers {
		addr, as, _ := strings.Cut(s, "=")
		a, addrErr := netip.ParseAddr(addr)
		n, err := parseAS(as)
		if addrErr != nil || err != nil {
			return nil, &badInput{fmt.Sprintf("--bgp-peer %s: want ADDRESS=AS, as in 10.0.0.254=65000", s)}
		}
		out.Routers = append(out.Routers, manifests.Router{Addr: a, AS: n})
	}
	return &out, nil
}

// parseAS reads a number; whether it can be anybody's AS the configuration says.
func parseAS(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err
}

// complete says what is missing, in the words of the flags.
func (p *plane) complete(c manifests.ControlPlane) error {
	some := p.tls.CA != "" || p.tls.Cert != "" || p.tls.Key != ""
	switch {
	case len(c.Addresses) == 0:
		return &badInput{"name the address of the control plane with --address, or a configuration with --config"}
	case c.Election == manifests.Raft && len(c.Peers) == 0:
		return &badInput{"name every control-plane node, as Kubernetes names it, with its own address: --peers n1=10.0.0.1,n2=10.0.0.2,n3=10.0.0.3"}
	case c.Election != manifests.Raft && (len(c.Peers) > 0 || p.profile != "" || some):
		return &badInput{"--peers, --profile and --tls-* are of the Raft election: leave them out, or give --election raft"}
	case c.Election == manifests.None && c.BGP == nil:
		return &badInput{"--election none: every healthy node has the address, so routers must hear of it: --bgp-as 65001 --bgp-peer 10.0.0.254=65000"}
	case c.BGP != nil && len(c.BGP.Routers) == 0:
		return &badInput{"name every router with its AS: --bgp-peer 10.0.0.254=65000"}
	case c.BGP != nil && len(c.Links) > 0:
		return &badInput{"--link: with BGP the address is announced on no link: leave it out"}
	case some && (p.tls.CA == "" || p.tls.Cert == "" || p.tls.Key == ""):
		return &badInput{"--tls-ca, --tls-cert and --tls-key belong together"}
	}
	return nil
}

// parsePeer reads NAME=ADDRESS, with a port or without.
func parsePeer(s string) (manifests.Peer, error) {
	name, addr, ok := strings.Cut(s, "=")
	if ok && name != "" {
		if a, err := netip.ParseAddr(addr); err == nil {
			return manifests.Peer{Name: name, Addr: netip.AddrPortFrom(a, 0)}, nil
		}
		if ap, err := netip.ParseAddrPort(addr); err == nil && ap.Port() != 0 {
			return manifests.Peer{Name: name, Addr: ap}, nil
		}
	}
	return manifests.Peer{}, &badInput{fmt.Sprintf("--peers %s: want NAME=ADDRESS, as in n1=10.0.0.1", s)}
}

// kubeOf is the installation of a configuration, without an image. Warnings about the configuration go to w.
func kubeOf(w io.Writer, data []byte, file string) (manifests.Kube, error) {
	nodes := nodesOf(data)
	cfg, problems := config.Parse(data, file, config.Options{Node: nodes[0]})
	if err := report(w, problems); err != nil {
		return manifests.Kube{}, err
	}
	for _, h := range cfg.Health {
		if h.Command != nil {
			return manifests.Kube{}, together(problem(cfg, "health", fmt.Errorf("%s: runs %s, and the image has no programs: use tcp or http", h.Name, h.Command[0])))
		}
	}
	last, _ := config.Parse(data, file, config.Options{Node: nodes[len(nodes)-1]})
	if err := sharedFiles(append(files(cfg), secrets(cfg)...), append(files(last), secrets(last)...)); err != nil {
		return manifests.Kube{}, err
	}
	port := cfg.BGP.Listen.Port()
	k := manifests.Kube{Instance: cfg.Instance, Config: data, Files: files(cfg), Secrets: secrets(cfg), RunDir: cfg.Server.RunDir,
		Probe: probe(cfg.Server.Listen), StateDir: cfg.Raft.StateDir, LowPort: port > 0 && port < 1024,
		Rules: rulesOf(cfg, ""), Token: cfg.NeedsKubernetes() && cfg.Kubernetes.Kubeconfig == ""}
	if s := cfg.Services; s != nil {
		k.Services, k.Namespace, k.Routers = true, s.Namespace, cfg.Announces(config.AnnounceBGP)
	}
	return k, nil
}

// rulesOf are the rights that a configuration needs of the API: on this node, or on each if it is "".
func rulesOf(cfg *config.Config, node string) []manifests.Rule {
	if s := cfg.Services; s != nil {
		return manifests.ServiceRules(s.Namespace, true) // the node's labels are in there
	}
	var out []manifests.Rule
	if cfg.Election == config.ElectionLease {
		out = manifests.LeaseRules(cfg.Lease.Namespace, cfg.Lease.Name)
	}
	if cfg.BGP.NeedsNode() {
		out = append(out, manifests.NodeRule(node))
	}
	return out
}

// secrets are the files with passwords and keys of BGP, of all peers.
func secrets(c *config.Config) []string {
	var out []string
	for _, p := range c.BGP.Peers {
		out = append(out, p.PasswordFile)
		if p.BFD != nil && p.BFD.Auth != nil {
			out = append(out, p.BFD.Auth.KeyFile)
		}
	}
	return slices.DeleteFunc(out, func(f string) bool { return f == "" })
}

// nodesOf are two nodes that the configuration is for, or more: what it names is named after them. Whatever is wrong
// with it is said when it is parsed, also what this decoder panics on: a tag in the place of a list.
func nodesOf(data []byte) (out []string) {
	defer func() {
		if recover() != nil {
			out = []string{"node-a", "node-b"}
		}
	}()
	var some struct {
		Raft struct{ Peers []struct{ Name string } }
	}
	if yaml.Unmarshal(data, &some) != nil || len(some.Raft.Peers) == 0 {
		return []string{"node-a", "node-b"}
	}
	for _, p := range some.Raft.Peers {
		out = append(out, p.Name)
	}
	return out
}

// files are the files that a node's configuration names.
func files(c *config.Config) []string {
	out := []string{c.Raft.TLS.CA, c.Raft.TLS.Cert, c.Raft.TLS.Key, c.Kubernetes.Kubeconfig}
	for _, h := range c.Health {
		out = append(out, h.CA, h.Cert, h.Key)
	}
	return slices.DeleteFunc(out, func(f string) bool { return f == "" })
}

// sharedFiles refuses files that a pod cannot be given on every node alike.
func sharedFiles(one, other []string) error {
	for i, f := range one {
		if f != other[i] && !strings.HasPrefix(f, "/etc/pintle/") {
			return &badInput{fmt.Sprintf("%s: is %s on another node: keep it in /etc/pintle, which pods see as a whole", f, other[i])}
		}
	}
	return nil
}

// probe is where a node asks itself.
func probe(listen netip.AddrPort) netip.AddrPort {
	switch a := listen.Addr(); {
	case !a.IsUnspecified():
		return listen
	case a.Is4():
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), listen.Port())
	}
	return netip.AddrPortFrom(netip.IPv6Loopback(), listen.Port())
}
