package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/manifests"
)

// serving is the flags that say how Pintle is to serve Services: a configuration, or what one is made from.
type serving struct {
	file             string
	image, namespace string
	pools            []string
	lease            time.Duration
	as               string
	routers          []string
	noKeep           bool
}

// servingConfig are the flags that a configuration is made from.
var servingConfig = []string{"lease", "bgp-as", "bgp-peer"}

func newManifestServices() *cobra.Command {
	var s serving
	c := &cobra.Command{
		Use: "services", Short: "Print all that Services of type LoadBalancer need: a DaemonSet for all nodes, pools", Args: args(0, 0),
		Long: `Print all that a cluster needs for Pintle to give Services of type LoadBalancer their addresses: a namespace, the definitions
of AddressPool and Address, a service account with its rights, the configuration in a ConfigMap, a DaemonSet for all nodes,
and the pools of --pool. More pools, and all else of them, are AddressPool objects: see kubectl explain addresspools.

With --bgp-as and --bgp-peer the pools are announced to routers, by every suitable node; else by ARP and neighbour discovery,
from one node for each address. All else of BGP is for a configuration of your own: --config. Passwords of routers come from a
Secret: the command that makes it is told.`,
		Example: `  pintle manifest services --pool lan=192.0.2.100-192.0.2.150 | kubectl apply -f -
  pintle manifest services --pool dc=198.51.100.0/24,2001:db8::/112 --bgp-as 65001 --bgp-peer 10.0.0.254=65000
  pintle manifest services --config services.yaml`,
		RunE: func(c *cobra.Command, _ []string) error {
			pools, err := s.parsePools()
			if err != nil {
				return err
			}
			k, err := s.kube(c)
			if err != nil {
				return err
			}
			if err := printManifest(c, k, func(k manifests.Kube) ([]byte, error) { return k.All(pools...) }); err != nil {
				return err
			}
			tellSecret(c, k)
			return nil
		},
	}
	f := c.Flags()
	f.StringVarP(&s.file, "config", "c", "", "configuration to install, instead of the flags that make one")
	f.StringVar(&s.image, "image", "pintle:"+version, "name of the image")
	f.StringVarP(&s.namespace, "namespace", "n", "pintle-system", "namespace of the pods, and of the Leases")
	f.StringArrayVar(&s.pools, "pool", nil, "addresses, NAME=RANGE[,RANGE], each a prefix or FIRST-LAST; may be given several times")
	f.DurationVar(&s.lease, "lease", 10*time.Second, "how long a node that is not heard of keeps its addresses, about")
	f.StringVar(&s.as, "bgp-as", "", "BGP: the AS of the nodes; the pools of --pool are announced to routers")
	f.StringSliceVar(&s.routers, "bgp-peer", nil, "BGP: every router, ADDRESS=AS")
	f.BoolVar(&s.noKeep, "no-keep", false, "without the rights that pools with onAPILoss: keep need: to make and read one Secret")
	return c
}

func newManifestCRDs() *cobra.Command {
	return &cobra.Command{
		Use: "crds", Short: "Print the definitions of Pintle's objects: AddressPool and Address", Args: args(0, 0),
		Long: `Print the definitions (CustomResourceDefinition) of Pintle's objects: AddressPool, which people write, and Address, which Pintle
writes. pintle manifest services has them too. They are for Kubernetes 1.29 and newer.`,
		Example: `  pintle manifest crds | kubectl apply -f -`,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := c.OutOrStdout().Write(manifests.CRDs())
			return err
		},
	}
}

// kube is the installation that the flags mean.
func (s *serving) kube(c *cobra.Command) (manifests.Kube, error) {
	data, file, err := s.config(c)
	if err != nil {
		return manifests.Kube{}, err
	}
	k, err := kubeOf(c.ErrOrStderr(), data, file)
	switch {
	case err != nil:
		return k, err
	case !k.Services:
		return k, &badInput{fmt.Sprintf("%s: has no section services: pintle manifest daemonset, or pod, installs it", file)}
	}
	if k.Image = s.image; c.Flags().Changed("namespace") {
		k.Namespace = s.namespace
	}
	if s.noKeep {
		k.Rules = slices.DeleteFunc(k.Rules, manifests.Rule.ForKeep)
	}
	return k, nil
}

// config is the configuration, and the name by which its problems are told.
func (s *serving) config(c *cobra.Command) (data []byte, name string, err error) {
	if s.file != "" {
		for _, f := range servingConfig {
			if c.Flags().Changed(f) {
				return nil, "", &badInput{fmt.Sprintf("--%s and --config: the configuration says it: change it there", f)}
			}
		}
		data, err = readConfig(s.file)
		return data, s.file, err
	}
	bgp, err := parseBGP(s.as, s.routers)
	if err != nil {
		return nil, "", err
	}
	if bgp != nil && len(bgp.Routers) == 0 {
		return nil, "", &badInput{"name every router with its AS: --bgp-peer 10.0.0.254=65000"}
	}
	data, err = manifests.ServiceNode{MadeBy: c.CommandPath(), Namespace: s.namespace, Lease: s.lease, BGP: bgp}.Config()
	if err != nil {
		return nil, "", &badInput{err.Error()}
	}
	return data, "the configuration", nil
}

// parsePools reads NAME=RANGE[,RANGE] of each --pool, and all that is wrong with them.
func (s *serving) parsePools() ([]manifests.Pool, error) {
	var pools []manifests.Pool
	var known []ipam.Pool
	var errs []error
	for _, text := range s.pools {
		name, ranges, _ := strings.Cut(text, "=")
		if ranges == "" || len(validation.IsDNS1123Subdomain(name)) > 0 {
			errs = append(errs, fmt.Errorf("--pool %s: want NAME=RANGE[,RANGE], as in lan=192.0.2.100-192.0.2.150", text))
			continue
		}
		p := ipam.Pool{Name: name}
		for _, entry := range strings.Split(ranges, ",") {
			r, err := ipam.ParseRange(entry, false)
			if err != nil {
				errs = append(errs, fmt.Errorf("--pool %s: %w", name, err))
				continue
			}
			p.Ranges = append(p.Ranges, r)
		}
		known = append(known, p)
		pools = append(pools, manifests.Pool{Name: name, Addresses: strings.Split(ranges, ",")})
	}
	if len(errs) == 0 {
		for name, problems := range ipam.CheckPools(known) {
			for _, err := range problems {
				errs = append(errs, fmt.Errorf("--pool %s: %w", name, err))
			}
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return pools, together(errors.Join(errs...))
}
