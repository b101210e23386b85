package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/pintle-lb/pintle/internal/kubevip"
)

func newImport() *cobra.Command {
	c := group("import", "Make a configuration of another program's")
	c.AddCommand(newImportKubeVIP())
	return c
}

func newImportKubeVIP() *cobra.Command {
	return &cobra.Command{
		Use: "kube-vip FILE", Short: "Make a configuration of a kube-vip manifest", Args: args(1, 1),
		Long: `Read a manifest of kube-vip, a static pod or a DaemonSet (- is standard input), and print the configuration of Pintle
for the same address: by ARP, by BGP or in a routing table, as there. Passwords of routers are not copied: it is told
where to write them. Each setting that has no equivalent, or another meaning, is told on standard error, with what to
do. Exit status: 0 if there is a configuration, 2 if there can be none.`,
		Example: `  pintle import kube-vip /etc/kubernetes/manifests/kube-vip.yaml > pintle.yaml
  kubectl -n kube-system get daemonset kube-vip-ds -o yaml | pintle import kube-vip - > pintle.yaml`,
		RunE: func(c *cobra.Command, args []string) error {
			name, read := args[0], os.ReadFile
			if name == "-" {
				name, read = "standard input", func(string) ([]byte, error) { return io.ReadAll(c.InOrStdin()) }
			}
			data, err := read(name)
			if err != nil {
				return &badInput{err.Error()}
			}
			out, notes, err := kubevip.Import(data, "pintle import kube-vip "+args[0])
			for _, n := range notes {
				fmt.Fprintf(c.ErrOrStderr(), "%s: %s\n", name, n)
			}
			if err != nil {
				return &badInput{fmt.Sprintf("%s: %v", name, err)}
			}
			_, err = c.OutOrStdout().Write(out)
			return err
		},
	}
}
