package main

import (
	"github.com/spf13/cobra"

	"github.com/pintle-lb/pintle/manifests"
)

func newManifest() *cobra.Command {
	c := group("manifest", "Print what installs Pintle")
	c.AddCommand(newManifestSystemd())
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
	c.Flags().StringVar(&u.User, "user", "", "user that runs it and owns the keys (default root, with three capabilities)")
	return c
}
