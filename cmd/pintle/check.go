package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pintle-lb/pintle/arp"
	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/status"
	"github.com/pintle-lb/pintle/leader/pki"
	"github.com/pintle-lb/pintle/vip"
)

func newCheck() *cobra.Command {
	var s settings
	var offline bool
	c := &cobra.Command{
		Use: "check", Short: "Check the configuration and this machine, and print what is in effect", Args: cobra.NoArgs,
		Long: `Check the configuration file, then this machine: interfaces, rights, certificates, ports, and whether someone else has
the address. All problems are printed at once. Nothing is changed. Then the configuration is printed with all defaults.`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := s.load(c.ErrOrStderr())
			if err != nil {
				return err
			}
			if !offline {
				if err := preflight(c.Context(), c.ErrOrStderr(), cfg); err != nil {
					return err
				}
			}
			out, err := cfg.Effective()
			if err != nil {
				return err
			}
			_, err = c.OutOrStdout().Write(out)
			return err
		},
	}
	s.flags(c)
	c.Flags().BoolVar(&offline, "offline", false, "check the file only, not this machine")
	return c
}

// preflight checks the machine and returns all that is wrong as one error.
func preflight(ctx context.Context, w io.Writer, cfg *config.Config) error {
	running := status.NewClient(status.Socket(cfg.Server.RunDir, cfg.Instance)).Running(ctx)
	errs := []error{resolve(w, cfg), checkRights(cfg), checkFiles(cfg)}
	if running {
		fmt.Fprintf(w, "warning: a pintle of instance %s is running here: ports and the address were not checked\n", cfg.Instance)
	} else {
		errs = append(errs, checkPorts(cfg), checkFree(ctx, cfg))
	}
	var bad []string
	for _, err := range errs {
		if err != nil {
			bad = append(bad, err.Error())
		}
	}
	if len(bad) > 0 {
		return &badInput{strings.Join(bad, "\n")}
	}
	return nil
}

// checkRights names the capabilities that this process lacks.
func checkRights(cfg *config.Config) error {
	missing := vip.CheckCapabilities()
	if !cfg.Self().Candidate || len(missing) == 0 {
		return nil
	}
	return &badInput{fmt.Sprintf("this process lacks %s: run it as root, or give it %s (the unit of `pintle manifest systemd` does)",
		strings.Join(missing, " and "), strings.Join(missing, ","))}
}

func checkFiles(cfg *config.Config) error {
	_, err := pki.Open(pki.Files{CA: cfg.Raft.TLS.CA, Cert: cfg.Raft.TLS.Cert, Key: cfg.Raft.TLS.Key}, nil)
	return err
}

func checkPorts(cfg *config.Config) error {
	var errs []error
	places := []string{cfg.Raft.Listen.String()}
	if cfg.Server.Listen.IsValid() {
		places = append(places, cfg.Server.Listen.String())
	}
	for _, a := range places {
		ln, err := net.Listen("tcp", a)
		if err != nil {
			errs = append(errs, fmt.Errorf("%w: stop what uses it, or choose another in the configuration", err))
			continue
		}
		ln.Close()
	}
	return errors.Join(errs...)
}

// checkFree asks the network whether someone answers for the addresses. The
// holder of a running cluster does, so this only warns when peers may be up.
func checkFree(ctx context.Context, cfg *config.Config) error {
	if !cfg.Self().Candidate || len(vip.CheckCapabilities()) > 0 {
		return nil
	}
	var errs []error
	for _, a := range cfg.Addresses {
		for _, l := range a.Links {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			mac, found, err := arp.Probe(ctx, l, a.Address)
			cancel()
			switch {
			case err != nil:
				errs = append(errs, fmt.Errorf("probe for %s on %s: %w", a.Address, l, err))
			case found && !peerUp(ctx, cfg):
				errs = append(errs, fmt.Errorf("%s is in use by %s on %s, and no peer is up: take it away there, or choose another address", a.Address, mac, l))
			}
		}
	}
	return errors.Join(errs...)
}

// peerUp reports whether another configured node accepts connections.
func peerUp(ctx context.Context, cfg *config.Config) bool {
	return slices.ContainsFunc(cfg.Raft.Peers, func(p config.Peer) bool {
		if p.Name == cfg.Node {
			return false
		}
		d := net.Dialer{Timeout: time.Second}
		conn, err := d.DialContext(ctx, "tcp", p.Address.String())
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}
