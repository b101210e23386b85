package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// keepalivedSystem is keepalived with VRRPv3, without failback, as Pintle is.
type keepalivedSystem struct {
	exe    string
	advert time.Duration
}

func (s *keepalivedSystem) seconds() string {
	return strconv.FormatFloat(s.advert.Seconds(), 'f', -1, 64)
}

func (s *keepalivedSystem) Name() string            { return "keepalived-" + s.seconds() + "s" }
func (s *keepalivedSystem) Period() time.Duration   { return s.advert }
func (s *keepalivedSystem) Version() string         { return firstLine(s.exe, "--version") }
func (s *keepalivedSystem) Binary() (string, error) { return exec.LookPath(s.exe) }

// Prepare writes the configuration.
func (s *keepalivedSystem) Prepare(dir string, node *netlab.Node, _ []*netlab.Node) error {
	return os.WriteFile(filepath.Join(dir, "keepalived.conf"), []byte(s.configuration(node)), 0o644)
}

// configuration gives the nodes the priorities 100, 90, 80, ... and its process SCHED_RR, which Pintle has too.
func (s *keepalivedSystem) configuration(node *netlab.Node) string {
	return fmt.Sprintf(`global_defs {
  router_id %s
  vrrp_version 3
  vrrp_rt_priority 50
}
vrrp_instance bench {
  state BACKUP
  nopreempt
  interface eth0
  virtual_router_id 51
  priority %d
  advert_int %s
  virtual_ipaddress {
    %s/24 dev eth0
  }
}
`, node.Name(), 110-10*int(node.Number()), s.seconds(), address)
}

// Command runs it in the foreground.
func (s *keepalivedSystem) Command(dir string, _ *netlab.Node) *exec.Cmd {
	file := func(name string) string { return filepath.Join(dir, name) }
	return exec.Command(s.exe, "--dont-fork", "--log-console", "--vrrp",
		"--use-file", file("keepalived.conf"), "--pid", file("keepalived.pid"), "--vrrp_pid", file("vrrp.pid"))
}

// Ready asks nothing: keepalived has nowhere to ask. A backup can take over as soon as it listens.
func (*keepalivedSystem) Ready(context.Context, string, string) error { return nil }

// Sweep takes the address from a node whose keepalived was killed: it would stay there for ever, and be answered for. And
// it removes the process id files: until the dead are reaped, keepalived takes them for living ones and does not start.
func (*keepalivedSystem) Sweep(dir string, node *netlab.Node) error {
	for _, name := range []string{"keepalived.pid", "vrrp.pid"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return node.Do(removeAddress)
}

func removeAddress() error {
	eth0, addr, err := onEth0()
	if err != nil {
		return err
	}
	if err := netlink.AddrDel(eth0, addr); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("remove %s: %w", address, err)
	}
	return nil
}

// onEth0 is the address as keepalived has it on a node.
func onEth0() (netlink.Link, *netlink.Addr, error) {
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return nil, nil, fmt.Errorf("find eth0: %w", err)
	}
	return eth0, &netlink.Addr{IPNet: &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(24, 32)}}, nil
}
