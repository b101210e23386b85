package cluster

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/yaml"
)

// configFile is where kubeadm finds its configuration on a machine.
const configFile = "/etc/kubernetes/kubeadm.yaml"

// imageRepository is where no image is ever fetched from.
const imageRepository = "localhost/testkube"

// sharedPKI is what every control-plane node has the same.
var sharedPKI = []string{"ca.crt", "ca.key", "sa.key", "sa.pub", "front-proxy-ca.crt", "front-proxy-ca.key", "etcd/ca.crt", "etcd/ca.key"}

// phases are the ones of kubeadm init that only write files.
var phases = []string{"certs", "kubeconfig", "etcd", "control-plane"}

// object is a part of a configuration of kubeadm, whose types are no library.
type object = map[string]any

// kubeadm has kubeadm write the certificates, kubeconfigs and manifests of all nodes, with a CA in common.
func (c *Cluster) kubeadm(ctx context.Context) error {
	if err := c.nodes[0].kubeadm(ctx); err != nil {
		return err
	}
	var others errgroup.Group
	for _, n := range c.nodes[1:] {
		others.Go(func() error {
			if err := copyPKI(c.nodes[0].Machine, n.Machine); err != nil {
				return err
			}
			return n.kubeadm(ctx)
		})
	}
	return others.Wait()
}

func copyPKI(from, to *Machine) error {
	for _, name := range sharedPKI {
		path := filepath.Join("/etc/kubernetes/pki", name)
		b, err := os.ReadFile(from.File(path))
		if err != nil {
			return err
		}
		if err := to.WriteFile(path, b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) kubeadm(ctx context.Context) error {
	c := n.cluster
	version, err := c.version(ctx)
	if err != nil {
		return err
	}
	members := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		members[i] = fmt.Sprintf("%s=https://%s", n.Name(), netip.AddrPortFrom(n.Addr(), 2380))
	}
	etcd := map[string]string{"initial-cluster": strings.Join(members, ","), "initial-cluster-state": "new"}
	cluster := c.clusterConfiguration(version)
	cluster["etcd"] = object{"local": object{"dataDir": "/var/lib/etcd", "extraArgs": arguments(etcd)}}
	cluster["apiServer"] = object{"certSANs": c.sans(), "extraArgs": arguments(c.opts.APIServerArgs)}
	cluster["controllerManager"] = object{"extraArgs": arguments(c.controllerManagerArgs())}
	init := kubeadmObject("InitConfiguration")
	init["localAPIEndpoint"] = object{"advertiseAddress": n.Addr().String(), "bindPort": apiPort}
	init["nodeRegistration"] = object{"name": n.Name(), "criSocket": "unix:///run/containerd/containerd.sock"}
	if err := n.writeConfig(init, cluster); err != nil {
		return err
	}
	for _, phase := range phases {
		which := "all"
		if phase == "etcd" {
			which = "local"
		}
		if _, err := n.Exec(ctx, "kubeadm", "init", "phase", phase, which, "--config", configFile); err != nil {
			return err
		}
	}
	return nil
}

// controllerManagerArgs leave out who would take a node whose Ready no kubelet renews for lost: it is what the test makes it.
func (c *Cluster) controllerManagerArgs() map[string]string {
	args := map[string]string{"controllers": "*,bootstrapsigner,tokencleaner,-node-lifecycle-controller"}
	maps.Copy(args, c.opts.ControllerManagerArgs)
	return args
}

func (s *site) version(ctx context.Context) (string, error) {
	out, err := s.machines[0].Exec(ctx, "kubeadm", "version", "-o", "short")
	return strings.TrimSpace(string(out)), err
}

func kubeadmObject(kind string) object {
	return object{"apiVersion": "kubeadm.k8s.io/v1beta4", "kind": kind}
}

// clusterConfiguration is what both kinds of cluster have in common.
func (s *site) clusterConfiguration(version string) object {
	pods, services := s.subnets()
	cluster := kubeadmObject("ClusterConfiguration")
	maps.Copy(cluster, object{
		"kubernetesVersion":    version,
		"controlPlaneEndpoint": netip.AddrPortFrom(s.opts.VIP, apiPort).String(),
		"imageRepository":      imageRepository,
		"encryptionAlgorithm":  "ECDSA-P256",
		"networking":           object{"podSubnet": pods, "serviceSubnet": services},
	})
	return cluster
}

// subnets are those of all pods and of the Services, as Kubernetes wants them.
func (s *site) subnets() (pods, services string) {
	pods, services = "10.244.0.0/16", "10.96.0.0/16"
	if s.opts.IPv6 {
		pods, services = pods+",fd00:244::/56", services+",fd00:96::/112"
	}
	return pods, services
}

// podSubnets are those of the pods of node i, 10.244.I.0/24 and with IPv6 fd00:244:0:I::/64.
func (s *site) podSubnets(i int) []netip.Prefix {
	subnets := []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), 0}), 24)}
	if s.opts.IPv6 {
		subnets = append(subnets, netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 2: 0x02, 3: 0x44, 7: byte(i)}), 64))
	}
	return subnets
}

func (s *site) sans() []string {
	return append([]string{"localhost", "127.0.0.1", s.opts.VIP.String()}, s.opts.SANs...)
}

// arguments are flags as kubeadm wants them, in order.
func arguments(flags map[string]string) []object {
	list := []object{}
	for _, name := range slices.Sorted(maps.Keys(flags)) {
		list = append(list, object{"name": name, "value": flags[name]})
	}
	return list
}

func (m *Machine) writeConfig(documents ...object) error {
	var text []byte
	for _, d := range documents {
		b, err := yaml.Marshal(d)
		if err != nil {
			return err
		}
		text = append(append(text, "---\n"...), b...)
	}
	return m.WriteFile(configFile, text, 0o600)
}
