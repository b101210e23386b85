package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/pintle-lb/pintle/internal/node"
)

func newRun() *cobra.Command {
	var s settings
	c := &cobra.Command{
		Use: "run", Short: "Run this node until SIGTERM, then hand over and let go of everything", Args: args(0, 0),
		Long: "Run this node until SIGTERM or SIGINT, then hand over and let go of everything. A second signal stops it at once.",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := s.load(c.ErrOrStderr())
			if err != nil {
				return err
			}
			log, err := s.logger(c.ErrOrStderr(), cfg)
			if err != nil {
				return err
			}
			if err := together(resolve(c.ErrOrStderr(), cfg), checkRights(cfg), checkFiles(cfg)); err != nil {
				return err
			}
			signals := make(chan os.Signal, 2)
			signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
			if err := node.Run(c.Context(), second(signals), cfg, version, log); err != nil {
				return fmt.Errorf("run %s: %w", cfg.Node, err)
			}
			return nil
		},
	}
	s.flags(c)
	c.Flags().StringVar(&s.logLevel, "log-level", "", "debug, info, warn or error (default: the file's)")
	c.Flags().StringVar(&s.logFormat, "log-format", "", "text or json (default: the file's)")
	return c
}

// second is closed when a second signal comes.
func second(signals <-chan os.Signal) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		<-signals
		<-signals
		close(done)
	}()
	return done
}
