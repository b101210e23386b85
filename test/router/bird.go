package router

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// StartBIRD starts BIRD on the host with text, a bird.conf, and returns when it answers. The files are in dir, which is made;
// its path must be short enough for a socket. ErrMissing is returned where the program is not.
func StartBIRD(ctx context.Context, host *netlab.Host, dir, text string) (*Router, error) {
	file := func(name string) string { return filepath.Join(dir, name) }
	birdc := func(ctx context.Context, args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, look("birdc"), append([]string{"-s", file("bird.ctl")}, args...)...)
	}
	r := &Router{host: host, dir: dir, ask: func(ctx context.Context, commands []string) *exec.Cmd {
		return birdc(ctx, commands...)
	}}
	r.load = func(ctx context.Context, text string) error {
		if err := write(dir, "bird.conf", text); err != nil {
			return err
		}
		return run(birdc(ctx, "configure"))
	}
	if err := r.prepare("bird", "birdc"); err != nil {
		return nil, err
	}
	if err := write(dir, "bird.conf", text); err != nil {
		return nil, err
	}
	p, err := r.start(ctx, "bird", exec.Command(look("bird"), "-f", "-c", file("bird.conf"), "-s", file("bird.ctl"), "-P", file("bird.pid")))
	if err == nil {
		err = r.ready(ctx, "bird", p, func() error { return run(birdc(ctx, "show", "status")) })
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start BIRD on %s: %w", host.Name(), err), r.Stop())
	}
	return r, nil
}

// BIRD is the configuration as a bird.conf. Neighbours are named n1, n2, ... in their order. BIRD learns the kernel's other
// routes, without which it could not resolve the next hops of neighbours several hops away; it tells nobody.
func (c Config) BIRD() string {
	var b strings.Builder
	fmt.Fprintf(&b, "log stderr all;\nrouter id %s;\nprotocol device { scan time 1; }\nprotocol direct { ipv4; ipv6; }\nprotocol bfd {}\n", c.RouterID)
	b.WriteString("filter from_neighbors {\n")
	if c.GracefulShutdown {
		b.WriteString("  if (65535, 0) ~ bgp_community then bgp_local_pref = 0;\n")
	}
	b.WriteString("  accept;\n}\n")
	for _, f := range []Family{IPv4, IPv6} {
		fmt.Fprintf(&b, "protocol kernel { %s { import all; export where source = RTS_BGP; }; learn; merge paths yes limit %d; }\n", f, c.maxPaths())
		c.birdStatic(&b, f)
	}
	for i, n := range c.Neighbors {
		n.bird(&b, fmt.Sprintf("n%d", i+1), c.AS)
	}
	return b.String()
}

// birdStatic are the routes that BIRD itself has.
func (c Config) birdStatic(b *strings.Builder, f Family) {
	fmt.Fprintf(b, "protocol static { %s;\n", f)
	for _, p := range c.Originate {
		if family(p) == f {
			fmt.Fprintf(b, "  route %s unreachable;\n", p)
		}
	}
	if f == IPv4 {
		for i := range c.OriginateMany {
			fmt.Fprintf(b, "  route %s unreachable;\n", Many(i))
		}
	}
	b.WriteString("}\n")
}

// Many is prefix i of Config.OriginateMany.
func Many(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 128 | byte(i>>16), byte(i >> 8), byte(i)}), 32)
}

func (n Neighbor) bird(b *strings.Builder, name string, as uint32) {
	line := func(when bool, format string, args ...any) {
		if when {
			fmt.Fprintf(b, "  "+format+";\n", args...)
		}
	}
	if n.Interface != "" { // FRR waits for a router advertisement
		fmt.Fprintf(b, "protocol radv { interface %q { min ra interval 3; max ra interval 4; default lifetime 0; }; }\n", n.Interface)
	}
	fmt.Fprintf(b, "protocol bgp %s {\n", name)
	line(!n.LocalAddr.IsValid(), "local as %d", as)
	line(n.LocalAddr.IsValid(), "local %s as %d", n.LocalAddr, as)
	line(n.Port == 0, "neighbor %s as %d", n.Addr, n.AS)
	line(n.Port != 0, "neighbor %s port %d as %d", n.Addr, n.Port, n.AS)
	line(n.Interface != "", "interface %q", n.Interface)
	line(n.Multihop > 0, "multihop %d", n.Multihop)
	line(n.Multihop == 0, "direct")
	line(n.GTSM, "ttl security on")
	line(n.Password != "", "password %q", n.Password)
	line(n.Passive, "passive on")
	if n.Hold > 0 {
		line(true, "hold time %d", seconds(n.Hold))
		line(true, "keepalive time %d", n.keepalive())
	}
	line(true, "connect retry time %d", n.connectRetry())
	line(true, "connect delay time 1")
	line(true, "error wait time 1, 2")
	if n.BFD != nil {
		line(true, "bfd { interval %d ms; multiplier %d; }", milliseconds(n.BFD.Interval), n.BFD.Multiplier)
	}
	for _, f := range n.families() {
		fmt.Fprintf(b, "  %s { import filter from_neighbors; export where source = RTS_STATIC;", f)
		if n.ExtendedNextHop && f == IPv4 {
			b.WriteString(" extended next hop on;")
		}
		b.WriteString(" };\n")
	}
	b.WriteString("}\n")
}
