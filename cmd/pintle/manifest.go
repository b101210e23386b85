package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/pintle-lb/pintle/manifests"
)

func newManifest() *cobra.Command {
	c := &cobra.Command{Use: "manifest", Short: "Print what installs Pintle", Args: cobra.NoArgs}
	c.AddCommand(newManifestSystemd())
	return c
}

func newManifestSystemd() *cobra.Command {
	var u manifests.Unit
	c := &cobra.Command{
		Use: "systemd", Short: "Print a systemd unit", Args: cobra.NoArgs,
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
	exe, err := os.Executable()
	if err != nil {
		exe = "/usr/local/bin/pintle"
	}
	c.Flags().StringVar(&u.Exe, "exe", exe, "path of the pintle program on the machine")
	c.Flags().StringVarP(&u.Config, "config", "c", "/etc/pintle/pintle.yaml", "configuration file on the machine")
	return c
}
