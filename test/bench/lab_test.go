package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/netlab"
)

func newLab(t *testing.T) *netlab.Lab {
	t.Helper()
	lab, err := netlab.New(netlab.Options{Nodes: nodes})
	if errors.Is(err, unix.EPERM) && os.Getenv("LAB") != "require" {
		t.Skipf("this test makes network namespaces: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lab.Close() })
	return lab
}

// Pintle takes the configuration that the benchmark writes, and means by it what is to be measured.
func TestPintleConfiguration(t *testing.T) {
	lab, dir := newLab(t), t.TempDir()
	s := &pintleSystem{profile: "default"}
	for _, n := range lab.Nodes() {
		home := filepath.Join(dir, n.Name())
		if err := os.Mkdir(home, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := s.Prepare(home, n, lab.Nodes()); err != nil {
			t.Fatal(err)
		}
		c, problems := config.Load(filepath.Join(home, "pintle.yaml"), n.Name())
		if len(problems) > 0 {
			t.Fatalf("%s: %v", n.Name(), problems)
		}
		if c.Raft.Profile != config.ProfileDefault || c.Addresses[0].Address != address || len(c.Raft.Peers) != nodes || c.Self().Address.Addr() != n.Addr() {
			t.Errorf("%s: %+v", n.Name(), c)
		}
	}
}

func addAddress() error {
	eth0, addr, err := onEth0()
	if err != nil {
		return err
	}
	return netlink.AddrAdd(eth0, addr)
}

// What a killed keepalived leaves is removed, and also nothing is.
func TestSweep(t *testing.T) {
	lab, dir := newLab(t), t.TempDir()
	s := &keepalivedSystem{}
	n := lab.Node(2)
	pid := filepath.Join(dir, "vrrp.pid")
	if err := os.WriteFile(pid, []byte("7\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := n.Do(addAddress); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Sweep(dir, n); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(pid); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", pid, err)
	}
	if err := n.Do(addAddress); err != nil {
		t.Errorf("the address was still there: %v", err)
	}
}

func TestKeepalivedConfiguration(t *testing.T) {
	s := &keepalivedSystem{advert: 100e6}
	got := s.configuration(newLab(t).Node(3))
	for _, want := range []string{"priority 80\n", "advert_int 0.1\n", "10.77.0.100/24 dev eth0\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if s.Name() != "keepalived-0.1s" {
		t.Errorf("its name is %s", s.Name())
	}
}
