package main

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
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
	election, profile       string
	tls                     manifests.TLS
	kubeconfig              string
	port                    uint16
	health                  string

	made string // the command, for the configuration's first lines
}

// making are the flags that a configuration is made from.
var making = []string{"address", "link", "peers", "election", "profile", "tls-ca", "tls-cert", "tls-key", "kubeconfig", "api-port", "api-health"}

func (p *plane) flags(c *cobra.Command, election manifests.Election) {
	f := c.Flags()
	f.StringVarP(&p.file, "config", "c", "", "configuration to install, instead of the flags that make one")
	f.StringVar(&p.image, "image", "pintle:"+version, "name of the image")
	f.StringVarP(&p.namespace, "namespace", "n", "kube-system", "namespace of the pods, and of the lease")

	f.StringSliceVar(&p.addresses, "address", nil, "address of the control plane, one that no machine has; IPv4 and IPv6 if there are two")
	f.StringSliceVar(&p.links, "link", nil, "where the address is announced: a link or a glob (default: the link that has its subnet)")
	f.StringSliceVar(&p.peers, "peers", nil, "Raft: every control-plane node, NAME=ADDRESS, the name as in Kubernetes; the first one starts")
	f.StringVar(&p.election, "election", string(election), "raft (the nodes among themselves) or lease (by an object of the cluster)")
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
	k.Image, k.Namespace = p.image, p.namespace
	return k, err
}

// config is the configuration, and the name by which its problems are told.
func (p *plane) config(c *cobra.Command) (data []byte, name string, err error) {
	if p.file == "" {
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
	if out.Election == manifests.Lease {
		out.Kubeconfig = p.kubeconfig
		if p.namespace != "kube-system" {
			out.Namespace = p.namespace
		}
	}
	return out, p.complete(out)
}

// complete says what is missing, in the words of the flags.
func (p *plane) complete(c manifests.ControlPlane) error {
	some := p.tls.CA != "" || p.tls.Cert != "" || p.tls.Key != ""
	switch {
	case len(c.Addresses) == 0:
		return &badInput{"name the address of the control plane with --address, or a configuration with --config"}
	case c.Election == manifests.Raft && len(c.Peers) == 0:
		return &badInput{"name every control-plane node, as Kubernetes names it, with its own address: --peers n1=10.0.0.1,n2=10.0.0.2,n3=10.0.0.3"}
	case c.Election == manifests.Lease && (len(c.Peers) > 0 || p.profile != "" || some):
		return &badInput{"--peers, --profile and --tls-* are of the Raft election: leave them out, or give --election raft"}
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
	if err := sharedFiles(files(cfg), files(last)); err != nil {
		return manifests.Kube{}, err
	}
	k := manifests.Kube{Instance: cfg.Instance, Config: data, Files: files(cfg), RunDir: cfg.Server.RunDir, Probe: probe(cfg.Server.Listen)}
	if cfg.Election == config.ElectionRaft {
		k.StateDir = cfg.Raft.StateDir
		return k, nil
	}
	k.Rules, k.Token = manifests.LeaseRules(cfg.Lease.Namespace, cfg.Lease.Name), cfg.Kubernetes.Kubeconfig == ""
	return k, nil
}

// nodesOf are two nodes that the configuration is for, or more: what it names is named after them. Whatever is wrong
// with it is said when it is parsed.
func nodesOf(data []byte) []string {
	var some struct {
		Raft struct{ Peers []struct{ Name string } }
	}
	if yaml.Unmarshal(data, &some) != nil || len(some.Raft.Peers) == 0 {
		return []string{"node-a", "node-b"}
	}
	var out []string
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
