package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/pintle-lb/pintle/manifests"
)

func newManifest() *cobra.Command {
	c := group("manifest", "Print, or put in place, what installs Pintle")
	c.AddCommand(newManifestSystemd(), newManifestPod(), newManifestDaemonSet(), newManifestServices(), newManifestRBAC(), newManifestCRDs())
	return c
}

func newManifestSystemd() *cobra.Command {
	var u manifests.Unit
	c := &cobra.Command{
		Use: "systemd", Short: "Print a systemd unit", Args: args(0, 0),
		Example: "  pintle manifest systemd > /etc/systemd/system/pintle.service",
		RunE: func(c *cobra.Command, _ []string) error {
			out, err := manifests.SystemdUnit(u)
			if err != nil {
				return &badInput{err.Error()}
			}
			_, err = c.OutOrStdout().Write(out)
			return err
		},
	}
	c.Flags().StringVar(&u.Binary, "binary", "", "path of the program on the machine (default /usr/local/bin/pintle)")
	c.Flags().StringVarP(&u.Config, "config", "c", "", "configuration file on the machine (default /etc/pintle/pintle.yaml)")
	c.Flags().StringVar(&u.Instance, "instance", "", "name of the instance, as in the configuration (default default)")
	c.Flags().BoolVar(&u.LowPort, "low-port", false, "let it listen on a port below 1024: for bgp.listen on 179")
	c.Flags().StringVar(&u.User, "user", "", "user that runs it and owns the keys (default root, with three capabilities)")
	return c
}

func newManifestPod() *cobra.Command {
	var p plane
	var dir string
	var force bool
	c := &cobra.Command{
		Use: "pod", Short: "Put a static pod and its configuration in place, for kubeadm", Args: args(0, 0),
		Long: `Write /etc/kubernetes/manifests/pintle.yaml, a static pod, and /etc/pintle/pintle.yaml, its configuration. Run it with the
same flags on every control-plane node, before kubeadm init or kubeadm join, or at any time later.

With Raft (the default) the nodes elect the holder among themselves, with the certificates that kubeadm makes for the
etcd of each node. A control plane with an external etcd has none: make some with pintle raft certs, put each node's
into /etc/pintle/tls, and give --tls-ca, --tls-cert and --tls-key. {node} in these names is the node's name.

With --election lease the cluster must be there already, and each node needs a kubeconfig (--kubeconfig). This makes one,
and gives its user the few rights that it needs:
  kubeadm kubeconfig user --client-name pintle > /etc/kubernetes/pintle.conf
  pintle manifest rbac --user pintle | kubectl apply -f -

With --bgp-as and --bgp-peer the nodes tell routers of the address, and every healthy one has it at once: nothing is
elected. Passwords of routers, and all else of BGP, are for a configuration of your own: --config.

A configuration that is there and differs is left alone, unless --force is given; to keep it and renew the pod only,
give --config /etc/pintle/pintle.yaml.`,
		Example: `  pintle manifest pod --address 10.0.0.100 --peers n1=10.0.0.1,n2=10.0.0.2,n3=10.0.0.3
  pintle manifest pod --address 10.0.0.100 --peers n1=10.0.0.1,n2=10.0.0.2,n3=10.0.0.3 \
      --tls-ca /etc/pintle/tls/ca.crt --tls-cert /etc/pintle/tls/{node}.crt --tls-key /etc/pintle/tls/{node}.key
  pintle manifest pod --address 10.99.0.10 --bgp-as 65001 --bgp-peer 10.0.0.254=65000
  pintle manifest pod --config /etc/pintle/pintle.yaml`,
		RunE: func(c *cobra.Command, _ []string) error {
			p.made, p.kubeconfig = "pintle manifest pod", cmp.Or(p.kubeconfig, "/etc/kubernetes/pintle.conf")
			k, err := p.kube(c)
			if err != nil {
				return err
			}
			pod, err := k.Pod()
			if err != nil {
				return &badInput{err.Error()}
			}
			if dir == "-" {
				_, err := fmt.Fprintf(c.OutOrStdout(), "# %s\n%s---\n# %s\n%s", k.ConfigFile(), k.Config, podFile(k), pod)
				return err
			}
			return install{root: dir, force: force, kube: k, pod: pod, ownTLS: p.file != "" || p.tls != manifests.TLS{}}.run(c.OutOrStdout())
		},
	}
	p.flags(c, manifests.Raft)
	c.Flags().StringVar(&dir, "dir", "/", "write below this directory; - prints both files")
	c.Flags().BoolVar(&force, "force", false, "replace a configuration that differs")
	return c
}

func newManifestDaemonSet() *cobra.Command {
	var p plane
	c := &cobra.Command{
		Use: "daemonset", Short: "Print a DaemonSet for the control plane, its configuration and rights", Args: args(0, 0),
		Long: `Print all that a running cluster needs to keep the address of its control plane: a service account with its few rights,
the configuration in a ConfigMap, and a DaemonSet for the control-plane nodes. By default they elect the holder by a
Lease of the cluster. Passwords of routers come from a Secret: the command that makes it is told.`,
		Example: `  pintle manifest daemonset --address 10.0.0.100 | kubectl apply -f -
  pintle manifest daemonset --address 10.0.0.100 --api-health tcp   # k3s, RKE2: they answer nobody without a name
  pintle manifest daemonset --address 10.99.0.10 --bgp-as 65001 --bgp-peer 10.0.0.254=65000`,
		RunE: func(c *cobra.Command, _ []string) error {
			p.made = "pintle manifest daemonset"
			return p.print(c, manifests.Kube.DaemonSet)
		},
	}
	p.flags(c, manifests.Lease)
	return c
}

func newManifestRBAC() *cobra.Command {
	var file, namespace, user string
	var noKeep bool
	c := &cobra.Command{
		Use: "rbac", Short: "Print the rights that Pintle needs in a cluster, and no more", Args: args(0, 0),
		Long: `Print the Roles and RoleBindings that the Lease election needs, for the service account that pintle manifest daemonset
uses, or for a user: that of the kubeconfig of a static pod. The Raft election needs no rights. With --config also what
BGP needs where labels of the node choose its routers, and what Services need, with the priority of their Leases.`,
		Example: `  pintle manifest rbac --user pintle | kubectl apply -f -
  pintle manifest rbac --config services.yaml`,
		RunE: func(c *cobra.Command, _ []string) error {
			k := manifests.Kube{Namespace: namespace, User: user, Rules: manifests.LeaseRules(namespace, "pintle")}
			if file != "" {
				data, err := readConfig(file)
				if err != nil {
					return err
				}
				if k, err = kubeOf(io.Discard, data, file); err != nil {
					return err
				}
				k.User = user
				if !k.Services || c.Flags().Changed("namespace") {
					k.Namespace = namespace
				}
				if noKeep {
					k.Rules = slices.DeleteFunc(k.Rules, manifests.Rule.ForKeep)
				}
			}
			return printManifest(c, k, manifests.Kube.RBAC)
		},
	}
	c.Flags().StringVarP(&file, "config", "c", "", "configuration that the rights are for (default: one that names no lease)")
	c.Flags().StringVarP(&namespace, "namespace", "n", "kube-system", "namespace of the service account, and of the lease without --config (with services, theirs)")
	c.Flags().StringVar(&user, "user", "", "name of the user (default: the service account)")
	c.Flags().BoolVar(&noKeep, "no-keep", false, "with services: without what pools with onAPILoss: keep need")
	return c
}

// print prints what render makes of the flags.
func (p *plane) print(c *cobra.Command, render func(manifests.Kube) ([]byte, error)) error {
	k, err := p.kube(c)
	if err != nil {
		return err
	}
	if err := printManifest(c, k, render); err != nil {
		return err
	}
	tellSecret(c, k)
	return nil
}

// tellSecret says what an installation waits for.
func tellSecret(c *cobra.Command, k manifests.Kube) {
	if command := k.MakeSecret(); command != "" {
		fmt.Fprintf(c.ErrOrStderr(), "the pods wait for a Secret with the passwords, one key for each file: %s\n", command)
	}
}

func printManifest(c *cobra.Command, k manifests.Kube, render func(manifests.Kube) ([]byte, error)) error {
	out, err := render(k)
	if err != nil {
		return &badInput{err.Error()}
	}
	_, err = c.OutOrStdout().Write(out)
	return err
}
