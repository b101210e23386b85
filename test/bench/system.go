package main

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/test/router"
)

// address is what every system keeps on one node.
var address = netip.MustParseAddr("10.77.0.100")

// A system is a program that keeps the address on one of the nodes.
type system interface {
	Name() string
	// Period is the interval of its heartbeats or the like: faults come at any instant of it.
	Period() time.Duration
	// Prepare writes the node's files to dir, which stays the same for the whole benchmark. peers are all nodes.
	Prepare(dir string, node *netlab.Node, peers []*netlab.Node) error
	Command(dir string, node *netlab.Node) *exec.Cmd
	// Ready returns nil if the node's program takes part and could take over, as far as that can be asked of it, and
	// agrees that holder has the address.
	Ready(ctx context.Context, dir string, holder string) error
	// Sweep removes what a killed one leaves on the node and the next one does not remove itself.
	Sweep(dir string, node *netlab.Node) error
	// Version and Binary are the program's.
	Version() string
	Binary() (path string, err error)
}

// systems lists all that can be measured.
func systems(pintle, keepalived string) []system {
	return []system{
		&pintleSystem{exe: pintle, profile: "fast", period: 100 * time.Millisecond},
		&pintleSystem{exe: pintle, profile: "default", period: 300 * time.Millisecond},
		&keepalivedSystem{exe: keepalived, advert: 100 * time.Millisecond},
		&keepalivedSystem{exe: keepalived, advert: time.Second},
	}
}

// versions are those of all programs that are measured.
func (p plan) versions() []string {
	var all []string
	for _, s := range p.systems {
		all = append(all, s.Version())
	}
	for _, s := range p.planes {
		all = append(all, s.Versions()...)
	}
	for _, s := range p.speakers {
		all = append(all, s.Version())
	}
	if p.served != "" {
		all = append(all, (&pintlePlane{exe: p.served}).Versions()...)
	}
	if len(p.speakers) > 0 {
		all = append(all, router.Versions()...)
	}
	return all
}

// setting says on what the figures were measured.
func setting(versions []string) string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	var b strings.Builder
	fmt.Fprintf(&b, "%d cores, Linux %s, %s\n", runtime.NumCPU(), unix.ByteSliceToString(u.Release[:]), runtime.Version())
	for i, v := range versions {
		if !slices.Contains(versions[:i], v) {
			fmt.Fprintln(&b, v)
		}
	}
	return b.String()
}

// firstLine is the first line that a program prints, on whichever output, or why it did not run.
func firstLine(exe string, args ...string) string {
	out, err := exec.Command(exe, args...).CombinedOutput()
	line, _, _ := strings.Cut(string(out), "\n")
	if line == "" && err != nil {
		return fmt.Sprintf("%s: %v", exe, err)
	}
	return strings.TrimSpace(line)
}
