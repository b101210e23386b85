package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/pintle-lb/pintle/internal/status"
)

func newStatus() *cobra.Command {
	var s settings
	var output string
	var watch bool
	c := &cobra.Command{
		Use: "status", Short: "Say who holds the address, since when and why, as this node sees it", Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return &badInput{fmt.Sprintf("--output %q: want text or json", output)}
			}
			cl, err := s.client()
			if err != nil {
				return err
			}
			if watch {
				return watchStatus(c, cl, output)
			}
			r, err := cl.Report(c.Context())
			if err != nil {
				return err
			}
			return show(c.OutOrStdout(), r, output)
		},
	}
	s.flags(c)
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	c.Flags().BoolVarP(&watch, "watch", "w", false, "again each second, until interrupted")
	return c
}

func show(w io.Writer, r *status.Report, output string) error {
	if output == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	return r.Text(w)
}

// watchStatus shows the state each second. A node that is away for a while is
// part of what is to be seen.
func watchStatus(c *cobra.Command, cl *status.Client, output string) error {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		var page bytes.Buffer
		if output == "text" {
			page.WriteString("\x1b[H\x1b[J")
		}
		r, err := cl.Report(c.Context())
		switch {
		case c.Context().Err() != nil:
			return nil
		case err != nil:
			fmt.Fprintln(&page, err)
		default:
			if err := show(&page, r, output); err != nil {
				return err
			}
		}
		if _, err := c.OutOrStdout().Write(page.Bytes()); err != nil {
			return err
		}
		select {
		case <-c.Context().Done():
			return nil
		case <-t.C:
		}
	}
}
