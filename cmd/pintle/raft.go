package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pintle-lb/pintle/internal/status"
	"github.com/pintle-lb/pintle/leader"
	"github.com/pintle-lb/pintle/leader/pki"
)

func newRaft() *cobra.Command {
	c := group("raft", "Look after the cluster of the nodes that elect among themselves")
	c.AddCommand(newMembers(), newTransfer(), newRemove(), newProfile(), newCerts(), newRecover())
	return c
}

func newMembers() *cobra.Command {
	var s settings
	c := &cobra.Command{
		Use: "members", Short: "List the members as this node sees them", Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := s.raftClient(c)
			if err != nil {
				return err
			}
			r, err := cl.Report(c.Context())
			if err != nil {
				return err
			}
			return printMembers(c.OutOrStdout(), r)
		},
	}
	s.flags(c)
	return c
}

func printMembers(w io.Writer, r *status.Report) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tADDRESS\tVOTE\tROLE\tSTATE\tVERSION")
	for _, m := range r.Raft.Members {
		state := "alive"
		switch {
		case m.Self:
			state = "this node"
		case !m.Alive:
			state = "away: " + m.Error
		case !m.Hello.Healthy:
			state = "unhealthy"
		}
		role := "candidate"
		switch {
		case m.Leader:
			role = "leader"
		case m.Hello.Witness:
			role = "witness"
		case !m.Hello.Candidate:
			role = "no candidate"
		}
		vote := "no"
		if m.Voter {
			vote = "yes"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", m.Name, m.Address, vote, role, state, m.Hello.Version)
	}
	return t.Flush()
}

// action is a command of `pintle raft` that has the running node do something with
// a name.
func action(use, short, what string, accept cobra.PositionalArgs, done func(name string) string) *cobra.Command {
	return actionBy((*settings).raftClient, use, short, what, accept, done)
}

// actionBy is an action through a client of some kind.
func actionBy(client func(*settings, *cobra.Command) (*status.Client, error), use, short, what string, accept cobra.PositionalArgs,
	done func(name string) string) *cobra.Command {
	var s settings
	c := &cobra.Command{
		Use: use, Short: short, Args: accept,
		RunE: func(c *cobra.Command, args []string) error {
			name := strings.Join(args, "")
			cl, err := client(&s, c)
			if err != nil {
				return err
			}
			if err := cl.Do(c.Context(), what, name); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), done(name))
			return nil
		},
	}
	s.flags(c)
	return c
}

// newTransfer works with every election; it is a command of `pintle raft` too, as
// it always was.
func newTransfer() *cobra.Command {
	client := func(s *settings, _ *cobra.Command) (*status.Client, error) { return s.client() }
	return actionBy(client, "transfer [NODE]", "Move the address to another node, without losing a packet", "transfer", args(0, 1),
		func(name string) string {
			if name == "" {
				return "the holder hands over to the best other node; see: pintle status"
			}
			return "the holder hands over to " + name + "; see: pintle status"
		})
}

func newRemove() *cobra.Command {
	return action("remove NODE", "Take a node out of the cluster for good", "remove", args(1, 1), func(name string) string {
		return name + " is no member any more; before it joins again, move its state directory away"
	})
}

func newProfile() *cobra.Command {
	return action("profile NAME", "Change how fast the whole cluster notices a dead holder: fast, default or wan", "profile",
		args(1, 1), func(name string) string {
			return "the cluster changes to " + name + "; write it into each node's configuration too"
		})
}

func newCerts() *cobra.Command {
	var dir string
	var days int
	var addrs map[string]string
	c := &cobra.Command{
		Use: "certs NODE...", Short: "Make the cluster's CA, if there is none yet, and a certificate for each node",
		Example: "  pintle raft certs --dir tls n1 n2 n3",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return &badInput{"name the nodes, as in the peers of the configuration: pintle raft certs n1 n2 n3"}
			}
			return nil
		},
		RunE: func(c *cobra.Command, nodes []string) error { return makeCerts(c, dir, nodes, addrs, days) },
	}
	c.Flags().StringVar(&dir, "dir", "tls", "folder for ca.crt, ca.key and NODE.crt, NODE.key")
	c.Flags().IntVar(&days, "days", 3650, "how long they are valid")
	c.Flags().StringToStringVar(&addrs, "address", nil, "IP address of a node, to be in its certificate: n1=10.0.0.1")
	return c
}

func makeCerts(c *cobra.Command, dir string, nodes []string, addrs map[string]string, days int) error {
	if days < 1 {
		return &badInput{fmt.Sprintf("--days %d: want at least 1", days)}
	}
	validity := time.Duration(days) * 24 * time.Hour
	switch err := pki.CreateCA(dir, "pintle", validity); {
	case errors.Is(err, fs.ErrExist): // made before: it signs these nodes too
	case err != nil:
		return err
	default:
		fmt.Fprintf(c.OutOrStdout(), "made the CA %s/ca.crt; keep %s/ca.key off the nodes\n", dir, dir)
	}
	for _, n := range nodes {
		var ips []netip.Addr
		if a, ok := addrs[n]; ok {
			ip, err := netip.ParseAddr(a)
			if err != nil {
				return &badInput{fmt.Sprintf("--address %s=%s: not an IP address", n, a)}
			}
			ips = append(ips, ip)
		}
		if err := pki.Issue(dir, n, ips, validity); err != nil {
			return err
		}
		fmt.Fprintf(c.OutOrStdout(), "made %s/%s.crt and its key; on %s they go to /etc/pintle/tls with ca.crt\n", dir, n, n)
	}
	return nil
}

func newRecover() *cobra.Command {
	var s settings
	var force bool
	c := &cobra.Command{
		Use: "recover", Short: "Start a new cluster from this node after a majority was lost for good", Args: args(0, 0),
		Long: `Make a new cluster out of this stopped node. Use it only when a majority of the voters is lost for good: were they still
running, two clusters would fight for one address. The new cluster has another ID, so the lost nodes are refused until
their state directories are moved away; then they join as new members.`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := s.load(c.ErrOrStderr())
			if err != nil {
				return err
			}
			if err := onlyRaft(c, cfg); err != nil {
				return err
			}
			if _, err := os.Stat(cfg.Raft.StateDir); err != nil { // else it would be made
				return &badInput{fmt.Sprintf("look for the state directory: %v; this node was never a member of a cluster", err)}
			}
			if status.NewClient(status.Socket(cfg.Server.RunDir, cfg.Instance)).Running(c.Context()) {
				return &badInput{"this node is running: stop it first"}
			}
			if !force && !confirm(c, cfg.Raft.StateDir) {
				return &badInput{"nothing was changed; say yes, or give --force-new-cluster"}
			}
			id, err := leader.Recover(cfg.Raft.StateDir, cfg.Node, cfg.Self().Address.String())
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is the only member of the new cluster %s; start it, then clear and start the others\n", cfg.Node, id)
			return nil
		},
	}
	s.flags(c)
	c.Flags().BoolVar(&force, "force-new-cluster", false, "do not ask")
	return c
}

func confirm(c *cobra.Command, dir string) bool {
	fmt.Fprintf(c.ErrOrStderr(), "Are the other voters gone for good, and shall %s become a cluster of its own? Type yes: ", dir)
	line, err := bufio.NewReader(c.InOrStdin()).ReadString('\n')
	return err == nil && strings.TrimSpace(line) == "yes"
}
