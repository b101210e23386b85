package demo

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pintle-lb/pintle/leader/pki"
)

const (
	raftPort   = 7400
	statusPort = 7401
)

// writeFiles makes the cluster's CA, and the certificate, configuration and directories of each machine.
func (c *cluster) writeFiles() error {
	ca := filepath.Join(c.dir, "pki")
	if err := pki.CreateCA(ca, "pintle demo", 24*time.Hour); err != nil {
		return err
	}
	for _, m := range c.machines {
		if err := pki.Issue(ca, m.name(), []netip.Addr{m.node.Addr()}, 24*time.Hour); err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(m.config), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(m.config, []byte(c.configuration(m, ca)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// configuration is what a person would write for these machines.
func (c *cluster) configuration(m *machine, ca string) string {
	dir := filepath.Dir(m.config)
	file := func(name string) string { return filepath.Join(ca, name) }
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: pintle.dev/v1
instance: default
addresses:
  - address: %s
    link: eth0
bind: %s
raft:
  profile: %s
  listen: %s:%d
  bootstrap: %s
  stateDir: %s
  tls: {ca: %s, cert: %s, key: %s}
  peers:
`, Address, c.bind, c.profile, m.node.Addr(), raftPort, c.machines[0].name(), filepath.Join(dir, "state"),
		file("ca.crt"), file(m.name()+".crt"), file(m.name()+".key"))
	for _, peer := range c.machines {
		fmt.Fprintf(&b, "    - {name: %s, address: \"%s:%d\"}\n", peer.name(), peer.node.Addr(), raftPort)
	}
	fmt.Fprintf(&b, "server: {listen: 127.0.0.1:%d, runDir: %s}\nlog: {level: info, format: text}\n", statusPort, filepath.Dir(m.socket))
	return b.String()
}
