package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Election is how the nodes agree on the holder.
type Election string

// The elections: among the nodes themselves, by a Lease object of a Kubernetes cluster, or none: every healthy node has the
// addresses, and routers spread what comes to them.
const (
	ElectionRaft  Election = "raft"
	ElectionLease Election = "lease"
	ElectionNone  Election = "none"
)

// Lease is the election by a Lease object. It is zero with another kind of election.
type Lease struct {
	Namespace, Name string
	Duration        time.Duration // how long a holder that is not heard of keeps the seat
	Nodes           []LeaseNode   // those that are not like the others
}

// A LeaseNode is a node of which something is said. All others are candidates of priority 0.
type LeaseNode struct {
	Name      string
	Priority  int  // the higher is preferred as a holder
	Candidate bool // it may hold the addresses
}

// Kubernetes is how this node reaches the API. It is zero where nothing needs it.
type Kubernetes struct {
	Kubeconfig string   // of it the identity and the CA count; "" means the pod's service account
	Servers    []string // base URLs, asked in this order
	ServerName string   // what the certificates of all API servers must be for
}

// DefaultServer is the API server of this host, where kubeadm, k3s and RKE2 have it.
const DefaultServer = "https://127.0.0.1:6443"

func (l *Lease) keys() []key {
	return []key{
		{"namespace", word(&l.Namespace, checkLabel)},
		{"name", word(&l.Name, checkObject)},
		{"duration", duration(&l.Duration, 2*time.Second, time.Minute)},
		{"nodes", items(&l.Nodes, LeaseNode{Candidate: true}, (*LeaseNode).keys)},
	}
}

func (n *LeaseNode) keys() []key {
	return []key{
		{"name", word(&n.Name, checkObject)},
		{"priority", count(&n.Priority, 0, 255)},
		{"candidate", flag(&n.Candidate)},
	}
}

func (k *Kubernetes) keys() []key {
	return []key{
		{"kubeconfig", word(&k.Kubeconfig, absolute)},
		{"servers", words(&k.Servers, checkServer)},
		{"serverName", word(&k.ServerName, filled)},
	}
}

// applies reports whether a section means anything with this kind of election, and with this way of announcing, or to a service
// node.
func (c *Config) applies(section string) bool {
	if c.Services != nil && strange(section) {
		return false
	}
	switch section {
	case "raft":
		return c.Election == ElectionRaft
	case "lease":
		return c.Election == ElectionLease
	case "kubernetes":
		return c.NeedsKubernetes()
	case "bgp":
		return c.Announces(AnnounceBGP)
	case "table":
		return c.Announces(AnnounceTable)
	case "services":
		return c.Services != nil
	}
	return true
}

// NeedsKubernetes reports whether this node asks the API for anything.
func (c *Config) NeedsKubernetes() bool {
	return c.Services != nil || c.Election == ElectionLease || c.Announces(AnnounceBGP) && c.BGP.NeedsNode()
}

// fillElection clears what does not apply and sets what has no fixed default.
func (c *Config) fillElection(r *reader) {
	if !c.NeedsKubernetes() {
		c.Kubernetes = Kubernetes{}
	} else {
		c.fillKubernetes(r, DefaultServer)
	}
	if c.Election != ElectionLease {
		c.Lease = Lease{}
	}
	if c.Election == ElectionRaft {
		c.fillRaft(r)
		return
	}
	c.Raft = Raft{Realtime: RealtimeOff} // seconds need no real-time scheduling
	if c.Election == ElectionNone && !r.given("bind") {
		c.Bind = BindReady
	}
	if c.Election == ElectionLease && c.Lease.Name == "" {
		c.Lease.Name = "pintle"
		if c.Instance != "default" {
			c.Lease.Name += "-" + c.Instance
		}
	}
}

func (c *Config) fillKubernetes(r *reader, server string) {
	if !r.given("kubernetes.servers") {
		c.Kubernetes.Servers = []string{server}
	}
	for i, s := range c.Kubernetes.Servers {
		c.Kubernetes.Servers[i] = strings.TrimSuffix(s, "/")
	}
}

// Rank is this node's place among the candidates: 0 stands first, and nodes of one priority have one rank.
func (c *Config) Rank() int {
	var before []int
	for _, n := range c.Lease.Nodes {
		if n.Candidate && n.Priority > c.Self().Priority {
			before = append(before, n.Priority)
		}
	}
	slices.Sort(before)
	return len(slices.Compact(before))
}

// leaseSelf is this node as a peer, where the Lease elects.
func (c *Config) leaseSelf() Peer {
	for _, n := range c.Lease.Nodes {
		if n.Name == c.Node {
			return Peer{Name: n.Name, Role: RoleVoter, Priority: n.Priority, Candidate: n.Candidate}
		}
	}
	return Peer{Name: c.Node, Role: RoleVoter, Candidate: true}
}

// checkElection refuses sections of another kind of election, and checks the one that applies.
func (c *Config) checkElection(r *reader) {
	if !r.quiet("election") {
		return // which one is meant cannot be said
	}
	for _, s := range []struct {
		name  string
		wants Election
	}{{"raft", ElectionRaft}, {"lease", ElectionLease}, {"kubernetes", ElectionLease}} {
		if r.given(s.name) && !c.applies(s.name) {
			r.add(s.name, "", fmt.Sprintf("has no effect with election: %s", c.Election),
				fmt.Sprintf("leave it out, or set election: %s", s.wants))
		}
	}
	switch c.Election {
	case ElectionRaft:
		c.checkRaft(r)
	case ElectionLease:
		c.checkLeaseNodes(r)
	}
	if c.NeedsKubernetes() {
		c.checkKubernetes(r)
	}
}

func (c *Config) checkKubernetes(r *reader) {
	c.checkServers(r)
	if err := checkObject(c.Node); c.Node != "" && checkNode(c.Node) == nil && err != nil {
		r.refuse(&node{path: "node", text: c.Node}, err)
	}
}

func (c *Config) checkLeaseNodes(r *reader) {
	first := map[string]int{}
	for i, n := range c.Lease.Nodes {
		path := fmt.Sprintf("lease.nodes[%d]", i)
		if n.Name == "" {
			r.missing(path+".name", "name the node")
			continue
		}
		if j, twice := first[n.Name]; twice {
			r.add(path+".name", n.Name, fmt.Sprintf("the same as lease.nodes[%d].name", j), "keep one")
			continue
		}
		first[n.Name] = i
		if n.Priority != 0 && !n.Candidate {
			r.warn(path+".priority", fmt.Sprint(n.Priority), "has no effect: the node never holds the address", "leave it out")
		}
	}
}

// checkServers refuses to reach the API through the address that depends on it.
func (c *Config) checkServers(r *reader) {
	if len(c.Kubernetes.Servers) == 0 {
		r.missing("kubernetes.servers", "name one, or leave it out: "+DefaultServer)
	}
	for i, s := range c.Kubernetes.Servers {
		path := fmt.Sprintf("kubernetes.servers[%d]", i)
		for j, a := range c.Addresses {
			if serverIP(s) == a.Address && a.Address.IsValid() {
				r.add(path, s, fmt.Sprintf("is the shared address (addresses[%d])", j), "name the API servers by the nodes' own addresses")
			}
		}
		if j := slices.Index(c.Kubernetes.Servers, s); j < i && s != "" {
			r.add(path, s, fmt.Sprintf("the same as kubernetes.servers[%d]", j), "keep one")
		}
	}
}

// serverIP is the address in a URL that checkServer accepted.
func serverIP(s string) netip.Addr {
	u, err := url.Parse(s)
	if err != nil {
		return netip.Addr{}
	}
	ip, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return netip.Addr{}
	}
	return ip.Unmap()
}

func checkServer(s string) error {
	if err := checkURL(s); err != nil {
		return refuse("write it as "+DefaultServer, "%v", err)
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return err // not after checkURL
	case u.Scheme != "https":
		return refuse("write it as "+DefaultServer, "is not https")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return refuse("write it as "+DefaultServer, "has more than a host and a port")
	case !serverIP(s).IsValid():
		return refuse("write the IP address: Pintle must not need a name server", "has a name")
	}
	return nil
}

// The names of Kubernetes: RFC 1123 with small letters.
var (
	labelName  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	objectName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
)

func checkLabel(s string) error {
	if !labelName.MatchString(s) {
		return refuse("up to 63 of a-z, 0-9 and -", "not a name that Kubernetes has")
	}
	return nil
}

func checkObject(s string) error {
	if len(s) > 253 || !objectName.MatchString(s) {
		return refuse("up to 253 of a-z, 0-9, - and .", "not a name that Kubernetes has")
	}
	return nil
}
