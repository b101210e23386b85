// Package config reads Pintle's one configuration file.
//
// The file is strict YAML: what is not known is refused, and all problems are reported at once, each with its line,
// its path, the value and what to do. Parse is pure. What depends on the host, which links there are, is a second
// step: Config.Resolve. reference.yaml describes every key.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"
)

// APIVersion is the version of the file's vocabulary that this package reads.
const APIVersion = "pintle.dev/v1"

const (
	// DefaultPort is where the nodes talk Raft to each other.
	DefaultPort = 7400
	// StatusPort is where metrics and probes are served.
	StatusPort = 7401
	// MaxLinger bounds how long a former holder goes on accepting.
	MaxLinger = 60 * time.Second
)

// Config is the configuration of one node: every default filled in, every value checked. With Services it is a service node: it has
// no addresses, links, election and hold-down of its own, so these fields are zero.
type Config struct {
	File       string // where it came from, for messages
	Instance   string // tells several Pintles on one host apart
	Node       string // this node's name: with Raft one of Raft.Peers
	Addresses  []Address
	Announce   []Announce    // how the network learns who has them; not empty. Of a service node BGP alone, if it has routers, or nothing
	Bind       Bind          // BindReady with ElectionNone
	Linger     time.Duration // how long a former holder goes on accepting while sockets are open
	Election   Election
	Raft       Raft // but for Realtime zero with another kind of election
	Lease      Lease
	BGP        BGP
	Table      Table
	Services   *Services // nil: this is no service node
	Kubernetes Kubernetes
	Health     []Health
	HoldDown   time.Duration // the least time between two moves for health
	Server     Server
	Log        Log

	at map[string]position // where each path stands in the file
}

// An Address is one shared address, and where it is announced.
type Address struct {
	Address netip.Addr
	Link    []string // as written: names, globs, or "auto" alone; nil unless announced by ARP
	Links   []string // what Link stands for on this host, sorted; set by Resolve
}

// Prefix is the address as it is bound: /32 or /128.
func (a Address) Prefix() netip.Prefix { return netip.PrefixFrom(a.Address, a.Address.BitLen()) }

// Auto is the link pattern for the link that has the subnet of the address.
const Auto = "auto"

// Bind says which nodes have the addresses on lo.
type Bind string

// The holder alone, or every candidate that is ready to become it.
const (
	BindHolder Bind = "holder"
	BindReady  Bind = "ready"
)

// Raft is the election among the peers.
type Raft struct {
	Profile   Profile
	Listen    netip.AddrPort
	Bootstrap string // the node that starts the cluster
	Alone     bool   // it may start before a majority of the peers has answered
	StateDir  string
	Realtime  Realtime
	TLS       TLS
	Peers     []Peer
}

// Profile is a set of timers.
type Profile string

// See the reference for what they need.
const (
	ProfileFast    Profile = "fast"
	ProfileDefault Profile = "default"
	ProfileWAN     Profile = "wan"
)

// Realtime says whether Pintle's threads run under SCHED_RR.
type Realtime string

// If it is allowed, never, or else do not start.
const (
	RealtimeAuto    Realtime = "auto"
	RealtimeOff     Realtime = "off"
	RealtimeRequire Realtime = "require"
)

// TLS names the files of this node's identity; {node} has been replaced.
type TLS struct{ CA, Cert, Key string }

// A Peer is a member of the cluster: this node or another.
type Peer struct {
	Name      string
	Address   netip.AddrPort
	Role      Role
	Priority  int  // the higher is preferred as a holder
	Candidate bool // it may hold the addresses; never for a witness
}

// Role is what a peer takes part in.
type Role string

// A voter has a vote, and may hold the addresses if it is a candidate. A witness has a vote and no more.
const (
	RoleVoter   Role = "voter"
	RoleWitness Role = "witness"
)

// Health is a check that gates the claim: exactly one of TCP, HTTP and Command is set. The fields are those of
// health.Check, so that one converts to the other.
type Health struct {
	Name                      string
	TCP                       string // host:port
	HTTP                      string // an http or https URL
	Command                   []string
	CA, Cert, Key, ServerName string // for https; {node} has been replaced
	Interval, Timeout         time.Duration
	Rise, Fall                int
}

// Server is what Pintle tells about itself.
type Server struct {
	Listen netip.AddrPort // metrics and probes; the zero value means off
	RunDir string         // locks and the status socket
}

// Log says what is logged and how.
type Log struct {
	Level  slog.Level
	Format string // text or json
}

// Self is this node as a peer. Where a Lease elects, or nobody, it has no address and no role but a voter's; a service node is a
// candidate too.
func (c *Config) Self() Peer {
	if c.Election != ElectionRaft {
		return c.leaseSelf() // of which nobody has said anything with ElectionNone
	}
	for _, p := range c.Raft.Peers {
		if p.Name == c.Node {
			return p
		}
	}
	return Peer{}
}

// Options is what Parse must know besides the file.
type Options struct {
	Node      string // --node: it wins over the file
	Hostname  string // what node means if neither says it
	APIServer string // the base URL of the API that a pod's environment names: what kubernetes.servers of a service node means if the file has none
}

// maxFile bounds the file, in bytes: a configuration is a page or two.
const maxFile = 64 << 10

// Load reads the file at path for the given node; an empty node means what the file says, and else the host's name.
// The Config is nil exactly if one of the problems is more than a warning.
func Load(path string, node string) (*Config, []Problem) {
	data, err := read(path)
	if err != nil {
		p := Problem{File: path, Message: err.Error()}
		if errors.Is(err, fs.ErrNotExist) {
			p.Hint = "name the file with --config"
		}
		return nil, []Problem{p}
	}
	host, err := os.Hostname()
	if err != nil {
		host = "" // the node's name is asked for, if nobody gave it
	}
	return Parse(data, path, Options{Node: node, Hostname: host, APIServer: apiServer(os.Getenv)})
}

// apiServer is the API as Kubernetes tells a pod of it, by the address of the Service kubernetes; "" outside of a pod.
func apiServer(env func(string) string) string {
	host, port := env("KUBERNETES_SERVICE_HOST"), env("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return ""
	}
	return "https://" + net.JoinHostPort(host, port)
}

// read returns a little more than is allowed of a file that is too long.
func read(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, errors.Unwrap(err) // the problem names the file itself
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read: %w", errors.Unwrap(err))
	}
	return data, nil
}

// Parse reads data, which came from file. The Config is nil exactly if one of the problems is more than a warning.
// Problems are in the order of the file.
func Parse(data []byte, file string, o Options) (*Config, []Problem) {
	r := &reader{file: file, at: map[string]position{}}
	c := defaults()
	c.File, c.at = file, r.at
	if root := r.tree(data); root != nil {
		if root.has("services") {
			c.serve()
		}
		section(c.keys()).read(r, root)
		c.fill(r, o)
		c.check(r, o)
	}
	sortProblems(r.problems)
	if failed(r.problems) {
		return nil, r.problems
	}
	return c, r.problems
}
