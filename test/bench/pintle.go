package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/internal/status"
	"github.com/pintle-lb/pintle/leader/pki"
)

// pintleSystem is Pintle with one timing profile.
type pintleSystem struct {
	exe, profile string
	realtime     string // "": as the configuration has it by default
	period       time.Duration
	clients      map[string]*status.Client // by directory; each keeps its connection
}

func (s *pintleSystem) Name() string {
	switch s.realtime {
	case "off":
		return "pintle-" + s.profile + "-normal"
	case "auto":
		return "pintle-" + s.profile + "-realtime"
	}
	return "pintle-" + s.profile
}
func (s *pintleSystem) Period() time.Duration   { return s.period }
func (s *pintleSystem) Version() string         { return firstLine(s.exe, "version") }
func (s *pintleSystem) Binary() (string, error) { return exec.LookPath(s.exe) }

// Sweep does nothing: what a killed Pintle leaves, the next one and the kernel remove.
func (*pintleSystem) Sweep(string, *netlab.Node) error { return nil }

// Prepare writes the configuration, and for the first node also the CA, which is beside the nodes' directories.
func (s *pintleSystem) Prepare(dir string, node *netlab.Node, peers []*netlab.Node) error {
	ca := filepath.Join(filepath.Dir(dir), "pki")
	if node == peers[0] {
		if err := pki.CreateCA(ca, "pintle bench", 24*time.Hour); err != nil {
			return err
		}
	}
	if err := pki.Issue(ca, node.Name(), []netip.Addr{node.Addr()}, 24*time.Hour); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "pintle.yaml"), []byte(s.configuration(dir, ca, node, peers)), 0o644)
}

func (s *pintleSystem) configuration(dir, ca string, node *netlab.Node, peers []*netlab.Node) string {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: pintle.dev/v1
addresses:
  - {address: %s, link: eth0}
raft:
  profile: %s
  listen: %s:7400
  bootstrap: %s
  stateDir: %s/state
  tls: {ca: %s/ca.crt, cert: %[6]s/%[7]s.crt, key: %[6]s/%[7]s.key}
  peers:
`, address, s.profile, node.Addr(), peers[0].Name(), dir, ca, node.Name())
	for _, p := range peers {
		fmt.Fprintf(&b, "    - {name: %s, address: \"%s:7400\"}\n", p.Name(), p.Addr())
	}
	fmt.Fprintf(&b, "  realtime: %s\n", cmp.Or(s.realtime, "auto"))
	fmt.Fprintf(&b, "server: {runDir: %s/run}\n", dir)
	return b.String()
}

// Command runs it.
func (s *pintleSystem) Command(dir string, node *netlab.Node) *exec.Cmd {
	return exec.Command(s.exe, "run", "--config", filepath.Join(dir, "pintle.yaml"), "--node", node.Name())
}

// Ready asks its status socket.
func (s *pintleSystem) Ready(ctx context.Context, dir, holder string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	r, err := s.client(dir).Report(ctx)
	switch {
	case err != nil:
		return err
	case !r.Ready:
		return errors.New(r.NotReady)
	case len(r.Seats) != 1 || r.Seats[0].Holder != holder:
		return fmt.Errorf("it does not know that %s holds the address", holder)
	}
	return nil
}

func (s *pintleSystem) client(dir string) *status.Client {
	if s.clients == nil {
		s.clients = map[string]*status.Client{}
	}
	if s.clients[dir] == nil {
		s.clients[dir] = status.NewClient(filepath.Join(dir, "run", "default.sock"))
	}
	return s.clients[dir]
}
