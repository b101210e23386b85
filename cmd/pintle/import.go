package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pintle-lb/pintle/internal/kubevip"
	"github.com/pintle-lb/pintle/internal/metallb"
	"github.com/pintle-lb/pintle/internal/poolfile"
)

func newImport() *cobra.Command {
	c := group("import", "Make a configuration of another program's")
	c.AddCommand(newImportKubeVIP(), newImportMetalLB())
	return c
}

func newImportKubeVIP() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "kube-vip FILE", Short: "Make a configuration, or pools, of a kube-vip manifest", Args: args(1, 1),
		Long: `Read a manifest of kube-vip, a static pod or a DaemonSet (- is standard input), and print the configuration of Pintle
for the same address: by ARP, by BGP or in a routing table, as there. Passwords of routers are not copied: it is told
where to write them. Of the ConfigMap kubevip, which the cloud provider of kube-vip gives Services addresses of, and of a
kube-vip that serves Services only, it prints what Pintle needs for Services: AddressPools for kubectl apply, and if there
are routers a ConfigMap with the configuration. --config-out writes the configuration into a file instead. Each setting
that has no equivalent, or another meaning, is told on standard error, with what to do. Exit status: 0 if there is
something to print, 2 if there can be nothing.`,
		Example: `  pintle import kube-vip /etc/kubernetes/manifests/kube-vip.yaml > pintle.yaml
  kubectl -n kube-system get daemonset kube-vip-ds -o yaml | pintle import kube-vip - > pintle.yaml
  kubectl -n kube-system get configmap kubevip -o yaml | pintle import kube-vip - | kubectl apply -f -`,
		RunE: func(c *cobra.Command, args []string) error {
			name, data, err := readInput(c, args[0])
			if err != nil {
				return err
			}
			r, notes, err := kubevip.Import(data, "pintle import kube-vip "+args[0])
			for _, n := range notes {
				fmt.Fprintf(c.ErrOrStderr(), "%s: %s\n", name, n)
			}
			if err != nil {
				return &badInput{fmt.Sprintf("%s: %v", name, err)}
			}
			if r.Plane == nil {
				return printServices(c, r.Pools, r.Config, file)
			}
			if file != "" {
				return os.WriteFile(file, r.Plane, 0o644)
			}
			_, err = c.OutOrStdout().Write(r.Plane)
			return err
		},
	}
	c.Flags().StringVar(&file, "config-out", "", "write the configuration into this file instead of printing it")
	return c
}

func newImportMetalLB() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "metallb FILE...", Short: "Make pools and a configuration of MetalLB's objects", Args: args(1, 1000),
		Long: `Read objects of MetalLB (IPAddressPool, L2Advertisement, BGPAdvertisement, BGPPeer, BFDProfile, Community, and the
ConfigMap of v0.12 and before), and print AddressPools for kubectl apply. - is standard input. Routers are not objects
with Pintle but in the configuration of its nodes: if there are BGPPeers, a ConfigMap with it follows, unless
--config-out names a file for it, as pintle manifest services takes one. Passwords of routers are not copied: it is told
where to write them. Each setting that has no equivalent, or another meaning, is told on standard error, with what to
do. Nothing is changed in the cluster. Exit status: 0 if there is something to print, 2 if there can be nothing.`,
		Example: `  kubectl -n metallb-system get ipaddresspools,l2advertisements,bgpadvertisements,bgppeers,bfdprofiles,communities -o yaml > metallb.yaml
  pintle import metallb metallb.yaml --config-out pintle.yaml > pools.yaml
  pintle import metallb metallb.yaml | kubectl apply -f -`,
		RunE: func(c *cobra.Command, args []string) error {
			var sources []metallb.Source
			for _, name := range args {
				s := metallb.Source{Name: name}
				var err error
				if s.Name, s.Data, err = readInput(c, name); err != nil {
					return err
				}
				sources = append(sources, s)
			}
			r, notes, err := metallb.Import(sources, "pintle import metallb "+strings.Join(args, " "))
			for _, n := range notes {
				if n.File != "" {
					fmt.Fprint(c.ErrOrStderr(), n.File, ": ")
				}
				fmt.Fprintln(c.ErrOrStderr(), n)
			}
			if err != nil {
				return &badInput{err.Error()}
			}
			config := r.Config
			if file == "" && !r.Needed {
				config = nil
			}
			return printServices(c, r.Pools, config, file)
		},
	}
	c.Flags().StringVar(&file, "config-out", "", "write the configuration into this file instead of printing a ConfigMap")
	return c
}

// printServices prints objects for kubectl: pools, and the configuration, if there is one, unless it goes into a file.
func printServices(c *cobra.Command, pools, config []byte, file string) error {
	out := pools
	if file != "" && len(config) > 0 {
		if err := os.WriteFile(file, config, 0o644); err != nil {
			return err
		}
	} else if len(config) > 0 {
		if len(out) > 0 {
			out = append(out, "---\n"...)
		}
		out = append(out, poolfile.ConfigMap(config)...)
	}
	_, err := c.OutOrStdout().Write(out)
	return err
}

// readInput reads a file that a person named, and returns what to call it.
func readInput(c *cobra.Command, name string) (string, []byte, error) {
	read := os.ReadFile
	if name == "-" {
		name, read = "standard input", func(string) ([]byte, error) { return io.ReadAll(c.InOrStdin()) }
	}
	data, err := read(name)
	if err != nil {
		return "", nil, &badInput{err.Error()}
	}
	return name, data, nil
}
