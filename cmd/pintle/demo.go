package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pintle-lb/pintle/internal/demo"
	"github.com/pintle-lb/pintle/internal/netlab"
)

func newDemo() *cobra.Command {
	var o demo.Options
	c := &cobra.Command{
		Use: "demo", Short: "Show three nodes and a client on this machine, and what faults do to the address", Args: args(0, 0),
		Long: `Start three nodes and a client in network namespaces of this machine, elect a holder, then break things one after the
other. For each fault it prints who held the address, who took it, the longest gap the client saw, its lost questions,
and the questions that two nodes answered, which must be none. It exits with 1 if there were any, or if a fault was
never recovered from. Needs no root where the system lets users make namespaces.`,
		RunE: func(c *cobra.Command, _ []string) error {
			o.Out = c.OutOrStdout()
			return demo.Run(c.Context(), o)
		},
	}
	c.Flags().StringSliceVar(&o.Faults, "faults", demo.DefaultFaults, "faults to do: "+strings.Join(demo.Faults(), ", "))
	c.Flags().IntVar(&o.Runs, "runs", 1, "how many times")
	c.Flags().IntVar(&o.Nodes, "nodes", 3, "how many nodes")
	c.Flags().StringVar(&o.Profile, "profile", "fast", "timing of the election: fast, default or wan")
	c.Flags().StringVar(&o.Bind, "bind", "holder", "who has the address: holder or ready")
	c.Flags().BoolVar(&o.JSON, "json", false, "print one JSON object for each fault and a summary")
	c.Flags().StringVar(&o.Dir, "dir", "", "keep the nodes' files and logs there")
	return c
}

// newDemoEcho is the service behind the address in the demo.
func newDemoEcho() *cobra.Command {
	var number uint8
	var port int
	c := &cobra.Command{
		Use: "demo-echo", Hidden: true, Args: args(0, 0), Short: "Answer UDP questions with a number",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := netlab.RunEcho(c.Context(), number, port); err != nil {
				return fmt.Errorf("echo: %w", err)
			}
			return nil
		},
	}
	c.Flags().Uint8Var(&number, "number", 0, "the number")
	c.Flags().IntVar(&port, "port", netlab.EchoPort, "UDP port")
	return c
}
