package main

import (
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/status"
	"github.com/pintle-lb/pintle/vip"
)

// settings are the flags that say which node of which configuration is meant.
type settings struct {
	file, node          string
	logLevel, logFormat string
}

func (s *settings) flags(c *cobra.Command) {
	c.Flags().StringVarP(&s.file, "config", "c", "/etc/pintle/pintle.yaml", "configuration file")
	c.Flags().StringVar(&s.node, "node", "", "name of this node (default: the file's, else the host name)")
}

// load reads the configuration. Warnings go to w; problems become the error.
func (s *settings) load(w io.Writer) (*config.Config, error) {
	cfg, problems := config.Load(s.file, s.node)
	return cfg, report(w, problems)
}

// resolve finds the links of the addresses on this host.
func resolve(w io.Writer, cfg *config.Config) error {
	links, err := vip.Links()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	var ls []config.Link
	for _, l := range links {
		ls = append(ls, config.Link{Name: l.Name, Addrs: l.Addrs, Up: l.Up})
	}
	return report(w, cfg.Resolve(ls))
}

// report prints warnings and returns what is worse as one error.
func report(w io.Writer, problems []config.Problem) error {
	var bad []string
	for _, p := range problems {
		if p.Warning {
			fmt.Fprintln(w, "warning:", p)
		} else {
			bad = append(bad, p.String())
		}
	}
	if len(bad) > 0 {
		return &badInput{strings.Join(bad, "\n")}
	}
	return nil
}

// logger is the log that the configuration and the flags ask for.
func (s *settings) logger(w io.Writer, cfg *config.Config) (*slog.Logger, error) {
	level, format := cfg.Log.Level, cfg.Log.Format
	if s.logLevel != "" {
		if err := level.UnmarshalText([]byte(s.logLevel)); err != nil {
			return nil, &badInput{fmt.Sprintf("--log-level %q: want debug, info, warn or error", s.logLevel)}
		}
	}
	if s.logFormat != "" {
		format = s.logFormat
	}
	opts := &slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, &badInput{fmt.Sprintf("--log-format %q: want text or json", format)}
}

// client asks the running node that the configuration is of. That one has warned
// when it was started.
func (s *settings) client() (*status.Client, error) {
	cfg, err := s.load(io.Discard)
	if err != nil {
		return nil, err
	}
	return clientOf(cfg), nil
}

// raftClient is client for what only nodes know that elect among themselves.
func (s *settings) raftClient(c *cobra.Command) (*status.Client, error) {
	cfg, err := s.load(io.Discard)
	if err != nil {
		return nil, err
	}
	if err := onlyRaft(c, cfg); err != nil {
		return nil, err
	}
	return clientOf(cfg), nil
}

// onlyRaft refuses a command that means nothing where a Lease elects.
func onlyRaft(c *cobra.Command, cfg *config.Config) error {
	if cfg.Election == config.ElectionRaft {
		return nil
	}
	has := fmt.Sprint("election: ", cfg.Election)
	if cfg.Services != nil {
		has = "section services"
	}
	return &badInput{fmt.Sprintf("%s: needs election: raft; %s has %s, see: pintle status", c.CommandPath(), cfg.File, has)}
}

func clientOf(cfg *config.Config) *status.Client {
	return status.NewClient(status.Socket(cfg.Server.RunDir, cfg.Instance))
}
