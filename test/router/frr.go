package router

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// frrDir is where Debian has FRR's daemons: outside of any PATH.
const frrDir = "/usr/lib/frr"

// StartFRR starts zebra, bfdd and bgpd on the host and loads text, a frr.conf, as FRR itself does at boot: by vtysh. It
// returns when all of it is in force. The files are in dir, which is made; its path must be short enough for a socket.
// ErrMissing is returned where the programs are not.
func StartFRR(ctx context.Context, host *netlab.Host, dir, text string) (*Router, error) {
	r := &Router{host: host, dir: dir, ask: func(ctx context.Context, commands []string) *exec.Cmd {
		return vtysh(ctx, dir, withFlag("-c", commands)...)
	}}
	r.load = func(ctx context.Context, text string) error {
		if err := write(dir, "frr.conf", text); err != nil {
			return err
		}
		return run(vtysh(ctx, dir, "-b"))
	}
	if err := r.prepare(frrDir+"/zebra", frrDir+"/bgpd", frrDir+"/bfdd", "vtysh"); err != nil {
		return nil, err
	}
	if err := errors.Join(write(dir, "vtysh.conf", ""), write(dir, "empty.conf", "")); err != nil {
		return nil, err
	}
	for _, daemon := range []string{"zebra", "bfdd", "bgpd"} {
		if err := r.startFRR(ctx, daemon); err != nil {
			return nil, errors.Join(fmt.Errorf("start FRR on %s: %w", host.Name(), err), r.Stop())
		}
	}
	if err := r.load(ctx, text); err != nil {
		return nil, errors.Join(fmt.Errorf("configure FRR on %s: %w", host.Name(), err), r.Stop())
	}
	return r, nil
}

// startFRR starts one daemon and waits for its socket. The group is what lets it run as root: the daemons refuse a user who is
// not in Debian's group for vtys, and take the one that is named for a member. A TCP port for vtys is not opened.
func (r *Router) startFRR(ctx context.Context, daemon string) error {
	file := func(name string) string { return filepath.Join(r.dir, name) }
	args := []string{
		"-u", "root", "-g", "frrvty", "-P", "0", "--log", "stdout", "-f", file("empty.conf"),
		"-z", file("zserv.api"), "--vty_socket", r.dir, "-i", file(daemon + ".pid"),
	}
	if daemon == "bfdd" {
		args = append(args, "--bfdctl", file("bfdd.sock"))
	}
	p, err := r.start(ctx, daemon, exec.Command(filepath.Join(frrDir, daemon), args...))
	if err != nil {
		return err
	}
	return r.ready(ctx, daemon, p, func() error {
		return run(vtysh(ctx, r.dir, "-d", daemon, "-c", "show version"))
	})
}

func vtysh(ctx context.Context, dir string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "vtysh", append([]string{"--vty_socket", dir, "--config_dir", dir}, args...)...)
}

// withFlag puts a flag before each of the values.
func withFlag(flag string, values []string) []string {
	var args []string
	for _, v := range values {
		args = append(args, flag, v)
	}
	return args
}

// FRR is the configuration as a frr.conf.
func (c Config) FRR() string {
	var b strings.Builder
	c.frrProfiles(&b)
	if c.GracefulShutdown {
		b.WriteString(`bgp community-list standard LEAVING permit 65535:0
route-map FROM permit 10
 match community LEAVING
 set local-preference 0
exit
route-map FROM permit 20
exit
`)
	}
	fmt.Fprintf(&b, "router bgp %d\n bgp router-id %s\n", c.AS, c.RouterID)
	b.WriteString(" no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n no bgp network import-check\n" +
		" bgp bestpath as-path multipath-relax\n")
	for _, n := range c.Neighbors {
		n.frr(&b)
	}
	for _, f := range []Family{IPv4, IPv6} {
		c.frrFamily(&b, f)
	}
	b.WriteString("exit\n")
	return b.String()
}

// frrProfiles are the timers of BFD, which bfdd knows by name.
func (c Config) frrProfiles(b *strings.Builder) {
	done := map[string]bool{}
	for _, n := range c.Neighbors {
		if n.BFD == nil || done[n.BFD.profile()] {
			continue
		}
		done[n.BFD.profile()] = true
		fmt.Fprintf(b, "bfd\n profile %s\n  detect-multiplier %d\n  receive-interval %d\n  transmit-interval %[3]d\n exit\nexit\n",
			n.BFD.profile(), n.BFD.Multiplier, milliseconds(n.BFD.Interval))
	}
}

func (d BFD) profile() string {
	return fmt.Sprintf("every-%d-by-%d", milliseconds(d.Interval), d.Multiplier)
}

// frrName is the neighbour's name in a frr.conf.
func (n Neighbor) frrName() string {
	if n.Interface != "" {
		return n.Interface
	}
	return n.Addr.String()
}

func (n Neighbor) frr(b *strings.Builder) {
	line := func(when bool, format string, args ...any) {
		if when {
			fmt.Fprintf(b, " neighbor "+n.frrName()+" "+format+"\n", args...)
		}
	}
	unnumbered := n.Interface != ""
	line(unnumbered, "interface remote-as %d", n.AS)
	line(!unnumbered, "remote-as %d", n.AS)
	line(n.LocalAddr.IsValid(), "update-source %s", n.LocalAddr)
	line(n.Port != 0, "port %d", n.Port)
	line(n.Password != "", "password %s", n.Password)
	line(n.Multihop > 0, "ebgp-multihop %d", n.Multihop)
	line(n.GTSM, "ttl-security hops 1")
	line(n.Passive, "passive")
	line(n.Hold > 0, "timers %d %d", n.keepalive(), seconds(n.Hold))
	line(true, "timers connect %d", n.connectRetry())
	line(n.ExtendedNextHop && !unnumbered, "capability extended-nexthop")
	if n.BFD != nil {
		line(true, "bfd")
		line(true, "bfd profile %s", n.BFD.profile())
	}
}

func (c Config) frrFamily(b *strings.Builder, f Family) {
	fmt.Fprintf(b, " address-family %s unicast\n  maximum-paths %d\n", f, c.maxPaths())
	for _, p := range c.Originate {
		if family(p) == f {
			fmt.Fprintf(b, "  network %s\n", p)
		}
	}
	for _, n := range c.Neighbors {
		for _, of := range n.families() {
			if of != f {
				continue
			}
			fmt.Fprintf(b, "  neighbor %s activate\n", n.frrName())
			if c.GracefulShutdown {
				fmt.Fprintf(b, "  neighbor %s route-map FROM in\n", n.frrName())
			}
		}
	}
	b.WriteString(" exit-address-family\n")
}
