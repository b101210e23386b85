package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/kube"
	"github.com/pintle-lb/pintle/internal/node"
	"github.com/pintle-lb/pintle/internal/status"
	"github.com/pintle-lb/pintle/leader"
	"github.com/pintle-lb/pintle/leader/pki"
	"github.com/pintle-lb/pintle/vip"
)

func newCheck() *cobra.Command {
	var s settings
	var offline bool
	c := &cobra.Command{
		Use: "check", Short: "Check the configuration and this machine, and print what is in effect", Args: args(0, 0),
		Long: `Check the configuration file, then this machine: interfaces, rights, certificates, ports, whether someone else has the
address, and whether keepalived or kube-vip runs here. With election: lease or services, also the API servers, this node's
rights there, and its clock. With BGP, also which routers this node has and the way to each, files of passwords, and ports;
nothing is sent to a router. All problems are printed at once, and nothing is changed. If there are none, the
configuration is printed with all defaults, and how long a route lives after a node froze.
Exit status: 0 if all is well, 2 if there are problems.`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := s.load(c.ErrOrStderr())
			if err != nil {
				return err
			}
			out, err := cfg.Effective()
			if err != nil {
				return err
			}
			if !offline {
				peers, err := preflight(c.Context(), c.ErrOrStderr(), cfg)
				if err != nil {
					return err
				}
				out = here(out, cfg, peers)
			}
			out = frozen(out, cfg)
			_, err = c.OutOrStdout().Write(out)
			return err
		},
	}
	s.flags(c)
	c.Flags().BoolVar(&offline, "offline", false, "check the file only, not this machine")
	return c
}

// preflight checks the machine and returns all that is wrong as one error, and the routers of this node.
func preflight(ctx context.Context, w io.Writer, cfg *config.Config) ([]config.BGPPeer, error) {
	errs := []error{resolve(w, cfg), checkRights(cfg), checkRealtime(w, cfg)}
	routers := lookAtRouters(ctx, w, cfg)
	errs = append(errs, routers.errs...)
	if cfg.Election == config.ElectionRaft {
		errs = append(errs, checkFiles(cfg))
	}
	around := node.SelfCheck(ctx, cfg)
	for _, f := range around.Findings {
		if f.Warning {
			fmt.Fprintln(w, "warning:", f.Text)
		} else {
			errs = append(errs, errors.New(f.Text))
		}
	}
	if status.NewClient(status.Socket(cfg.Server.RunDir, cfg.Instance)).Running(ctx) {
		fmt.Fprintf(w, "warning: a pintle of instance %s is running here: ports and the address were not checked\n", cfg.Instance)
		return routers.peers, together(errs...)
	}
	if cfg.Election == config.ElectionRaft {
		errs = append(errs, leader.CheckState(cfg.Raft.StateDir, cfg.Node))
	}
	return routers.peers, together(append(errs, checkPorts(cfg), routers.checkBFD(), checkFree(ctx, cfg, around.Holder))...)
}

func checkRealtime(w io.Writer, cfg *config.Config) error {
	if cfg.Raft.Realtime == config.RealtimeOff || node.CheckRealtime() == nil {
		return nil
	}
	if cfg.Raft.Realtime == config.RealtimeRequire {
		return problem(cfg, "raft.realtime", errors.New("require: this process may not have it: give it CAP_SYS_NICE, or set auto"))
	}
	fmt.Fprintln(w, "warning: no real-time scheduling (CAP_SYS_NICE): a busy machine may disturb elections")
	return nil
}

// together makes one error of all that are wrong.
func together(errs ...error) error {
	if err := errors.Join(errs...); err != nil {
		return &badInput{err.Error()}
	}
	return nil
}

// problem is an error of this machine in the form of those of the file.
func problem(cfg *config.Config, path string, err error) error {
	return errors.New(cfg.Problem(path, "", err.Error(), "").String())
}

// checkRights names the capabilities that this process lacks.
func checkRights(cfg *config.Config) error {
	missing := vip.CheckCapabilities()
	if !cfg.Self().Candidate || len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("this process lacks %s: run it as root, or give it %s (the unit of `pintle manifest systemd` does)",
		strings.Join(missing, " and "), strings.Join(missing, ","))
}

// checkFiles looks at what says who this node is.
func checkFiles(cfg *config.Config) error {
	if cfg.NeedsKubernetes() {
		if _, err := kube.Credentials(cfg.Kubernetes); err != nil {
			return problem(cfg, "kubernetes.kubeconfig", err)
		}
	}
	if cfg.Election != config.ElectionRaft {
		return nil
	}
	creds, err := pki.Open(pki.Files{CA: cfg.Raft.TLS.CA, Cert: cfg.Raft.TLS.Cert, Key: cfg.Raft.TLS.Key}, nil)
	if err == nil {
		err = node.CheckName(creds, cfg)
	}
	if err != nil {
		return problem(cfg, "raft.tls", err)
	}
	return nil
}

func checkPorts(cfg *config.Config) error {
	places := map[string]netip.AddrPort{"raft.listen": cfg.Raft.Listen, "server.listen": cfg.Server.Listen, "bgp.listen": cfg.BGP.Listen}
	maps.DeleteFunc(places, func(_ string, at netip.AddrPort) bool { return !at.IsValid() })
	var errs []error
	for _, path := range slices.Sorted(maps.Keys(places)) {
		ln, err := net.Listen("tcp", places[path].String())
		if err != nil {
			errs = append(errs, problem(cfg, path, lowPort(node.InUse(err))))
			continue
		}
		ln.Close()
	}
	return errors.Join(errs...)
}

// lowPort adds what to do where a port is not anybody's to listen on.
func lowPort(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w (a port below 1024 needs CAP_NET_BIND_SERVICE: `pintle manifest systemd --low-port`, or choose another)", err)
	}
	return err
}

// checkFree asks the network whether someone answers for the addresses. The
// holder of a running cluster does, and may; where a Lease elects, that is whom it
// names.
func checkFree(ctx context.Context, cfg *config.Config, holder string) error {
	if !cfg.Self().Candidate || !cfg.Announces(config.AnnounceARP) || len(vip.CheckCapabilities()) > 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	err := node.Free(ctx, cfg)
	running := holder != "" && holder != cfg.Node || peerUp(ctx, cfg)
	if used := (*node.InUseError)(nil); !errors.As(err, &used) || !running {
		return err
	}
	return nil
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
