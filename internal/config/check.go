package config

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
)

func defaults() *Config {
	return &Config{
		Instance:   "default",
		Announce:   []Announce{AnnounceARP},
		Election:   ElectionRaft,
		Lease:      Lease{Namespace: "kube-system", Duration: 5 * time.Second},
		Kubernetes: Kubernetes{ServerName: "kubernetes.default.svc"},
		BGP:        defaultBGP(),
		Table:      Table{Number: 155, Protocol: 155},
		Bind:       BindHolder,
		Linger:     MaxLinger,
		Raft: Raft{
			Profile:  ProfileDefault,
			Realtime: RealtimeAuto,
			TLS:      TLS{CA: "/etc/pintle/tls/ca.crt", Cert: "/etc/pintle/tls/{node}.crt", Key: "/etc/pintle/tls/{node}.key"},
		},
		HoldDown: 10 * time.Second,
		Server:   Server{Listen: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), StatusPort), RunDir: "/run/pintle"},
		Log:      Log{Format: "text"},
	}
}

// serve makes the defaults those of a service node.
func (c *Config) serve() {
	c.Services = defaultServices()
	c.Server.Listen = netip.AddrPortFrom(c.Server.Listen.Addr(), c.statusPort())
}

// statusPort is that of server.listen if none is said.
func (c *Config) statusPort() uint16 {
	if c.Services != nil {
		return ServicesStatusPort
	}
	return StatusPort
}

// fill sets what has no fixed default.
func (c *Config) fill(r *reader, o Options) {
	if o.Node != "" {
		c.Node = o.Node
		r.at["node"] = position{} // it is not the file's
	}
	if c.Node == "" {
		c.Node = o.Hostname
	}
	if c.Services != nil {
		c.fillServices(r, o)
	} else {
		c.fillAnnounce(r)
		c.fillElection(r)
	}
	for i := range c.Health {
		c.fillHealth(r, i)
	}
}

func (c *Config) fillRaft(r *reader) {
	for _, p := range []*string{&c.Raft.TLS.CA, &c.Raft.TLS.Cert, &c.Raft.TLS.Key} {
		*p = strings.ReplaceAll(*p, "{node}", c.Node)
	}
	if c.Raft.StateDir == "" {
		c.Raft.StateDir = "/var/lib/pintle"
		if c.Instance != "default" {
			c.Raft.StateDir = path.Join(c.Raft.StateDir, c.Instance)
		}
	}
	if !r.given("raft.listen") {
		c.Raft.Listen = c.Self().Address
	}
	for i := range c.Raft.Peers {
		if p := &c.Raft.Peers[i]; p.Role == RoleWitness && !r.given(fmt.Sprintf("raft.peers[%d].candidate", i)) {
			p.Candidate = false
		}
	}
	if i := slices.IndexFunc(c.Raft.Peers, func(p Peer) bool { return p.Candidate }); i >= 0 && c.Raft.Bootstrap == "" {
		c.Raft.Bootstrap = c.Raft.Peers[i].Name
	}
}

func (c *Config) fillHealth(r *reader, i int) {
	h := &c.Health[i]
	for _, p := range []*string{&h.CA, &h.Cert, &h.Key} {
		*p = strings.ReplaceAll(*p, "{node}", c.Node)
	}
	if !r.given(fmt.Sprintf("health[%d].timeout", i)) {
		h.Timeout = min(500*time.Millisecond, h.Interval)
	}
	if h.Name != "" {
		return
	}
	kind := "tcp"
	if h.HTTP != "" {
		kind = "http"
	} else if h.Command != nil {
		kind = "command"
	}
	h.Name = kind
	for n := 2; slices.ContainsFunc(slices.Delete(slices.Clone(c.Health), i, i+1), func(o Health) bool { return o.Name == h.Name }); n++ {
		h.Name = fmt.Sprintf("%s-%d", kind, n)
	}
}

// given reports whether the file has a value for a path.
func (r *reader) given(path string) bool {
	at, ok := r.at[path]
	return ok && !at.null
}

// check reports what is wrong with values that are good by themselves. Values that were refused are zero: it says
// nothing about these.
func (c *Config) check(r *reader, o Options) {
	if !r.given("apiVersion") {
		r.add("apiVersion", "", "is missing", "write apiVersion: "+APIVersion)
	}
	if c.Services == nil {
		c.checkAddresses(r)
	}
	c.checkNode(r)
	if c.Services == nil {
		c.checkElection(r)
		c.checkAnnounce(r)
	} else {
		c.checkServices(r, o)
	}
	c.checkListen(r)
	for i := range c.Health {
		c.checkHealth(r, i)
	}
}

func (c *Config) checkRaft(r *reader) {
	c.checkPeers(r)
	c.checkMember(r)
	c.checkBootstrap(r)
	c.checkVotes(r)
}

func (c *Config) checkAddresses(r *reader) {
	if len(c.Addresses) == 0 && r.quiet("addresses") {
		r.add("addresses", "", "is missing", "name the address that the nodes share")
	}
	seen := map[netip.Addr]string{}
	for i, a := range c.Addresses {
		path := fmt.Sprintf("addresses[%d].address", i)
		if len(a.Link) > 1 && slices.Contains(a.Link, Auto) {
			r.add(fmt.Sprintf("addresses[%d].link", i), "", "has auto beside other links", "auto stands alone")
		}
		if len(a.Link) == 0 && c.Announces(AnnounceARP) {
			r.missing(fmt.Sprintf("addresses[%d].link", i), "name a link, or write auto")
		}
		if !a.Address.IsValid() {
			r.missing(path, "name the address")
			continue
		}
		if first, twice := seen[a.Address]; twice {
			r.add(path, a.Address.String(), "the same as "+first, "keep one, and give it a list of links")
		} else {
			seen[a.Address] = path
		}
		for j, p := range c.Raft.Peers {
			if p.Address.Addr() == a.Address {
				r.add(path, a.Address.String(), fmt.Sprintf("is the node %s's own (raft.peers[%d].address)", p.Name, j),
					"choose an address that no machine has")
			}
		}
	}
}

// quiet reports whether nothing was said about a path yet.
func (r *reader) quiet(path string) bool {
	return !slices.ContainsFunc(r.problems, func(p Problem) bool { return p.Path == path })
}

// sound reports whether nothing was said about a path and what is below it.
func (r *reader) sound(path string) bool {
	return !slices.ContainsFunc(r.problems, func(p Problem) bool {
		rest, below := strings.CutPrefix(p.Path, path)
		return below && (rest == "" || rest[0] == '[' || rest[0] == '.')
	})
}

// missing reports a value that must be there, unless it is and was refused.
func (r *reader) missing(path, hint string) {
	if r.quiet(path) && r.quiet(parent(path)) {
		r.add(path, "", "is missing", hint)
	}
}

func (c *Config) checkPeers(r *reader) {
	if len(c.Raft.Peers) == 0 && r.quiet("raft.peers") && r.quiet("raft") {
		r.add("raft.peers", "", "is missing", "name every node of the cluster, this one too")
	}
	names, addrs := map[string]int{}, map[netip.AddrPort]int{}
	for i, p := range c.Raft.Peers {
		path := fmt.Sprintf("raft.peers[%d]", i)
		if p.Name == "" {
			r.missing(path+".name", "name the node")
		} else if j, twice := names[p.Name]; twice {
			r.add(path+".name", p.Name, fmt.Sprintf("the same as raft.peers[%d].name", j), "give every node a name of its own")
		} else {
			names[p.Name] = i
		}
		if !p.Address.IsValid() {
			r.missing(path+".address", fmt.Sprintf("write it as 10.0.0.1:%d", DefaultPort))
		} else if j, twice := addrs[p.Address]; twice {
			r.add(path+".address", p.Address.String(), fmt.Sprintf("the same as raft.peers[%d].address", j), "give every node an address of its own")
		} else {
			addrs[p.Address] = i
		}
		if p.Role == RoleWitness && p.Candidate {
			r.add(path+".candidate", "true", "a witness never holds the address", "leave it out, or make the role voter")
		}
		if p.Priority != 0 && !p.Candidate {
			r.warn(path+".priority", fmt.Sprint(p.Priority), "has no effect: the node never holds the address", "leave it out")
		}
	}
}

func (c *Config) checkNode(r *reader) {
	if err := checkNode(c.Node); err != nil {
		r.refuse(&node{path: "node", text: c.Node}, err)
		return
	}
	if c.Node == "" {
		r.missing("node", "name this node, or give --node")
	}
}

// checkMember reports a node that is none of the peers.
func (c *Config) checkMember(r *reader) {
	if c.Node == "" || checkNode(c.Node) != nil {
		return
	}
	var names []string
	for _, p := range c.Raft.Peers {
		if p.Name == "" || p.Name == c.Node {
			return // it is one, or which one it is cannot be said yet
		}
		names = append(names, p.Name)
	}
	if len(names) == 0 {
		return
	}
	from := "this node's name"
	if !r.given("node") {
		from = "this host's name"
	}
	r.add("raft.peers", c.Node, "do not include "+from, "set node, or --node, to one of "+strings.Join(names, ", "))
}

func (c *Config) checkBootstrap(r *reader) {
	b := c.Raft.Bootstrap
	if b == "" || !r.given("raft.bootstrap") {
		return
	}
	for _, p := range c.Raft.Peers {
		if p.Name != b {
			continue
		}
		if !p.Candidate {
			r.add("raft.bootstrap", b, "never holds the address, so it cannot start the cluster", "name a voter that is a candidate")
		}
		return
	}
	r.add("raft.bootstrap", b, "is none of raft.peers", "name one of them")
}

// checkVotes looks at the cluster as a whole.
func (c *Config) checkVotes(r *reader) {
	peers := c.Raft.Peers
	if len(peers) == 0 {
		return
	}
	if !slices.ContainsFunc(peers, func(p Peer) bool { return p.Candidate }) {
		r.add("raft.peers", "", "none may hold the address", "let one be a voter with candidate: true")
	}
	switch n := len(peers); {
	case n == 2:
		r.warn("raft.peers", "", "two voters: if either fails, nobody holds the address", "add a third machine, if only with role: witness")
	case n%2 == 0:
		r.warn("raft.peers", "", fmt.Sprintf("%d voters stand no more failures than %d", n, n-1), "add a node, if only with role: witness")
	}
}

func (c *Config) checkListen(r *reader) {
	raft, status, bgp := c.Raft.Listen, c.Server.Listen, c.BGP.Listen
	for i, a := range c.Addresses {
		for path, l := range map[string]netip.AddrPort{"raft.listen": raft, "server.listen": status, "bgp.listen": bgp} {
			if a.Address.IsValid() && l.Addr() == a.Address && r.given(path) {
				r.add(path, l.String(), fmt.Sprintf("is the shared address (addresses[%d])", i), "use this node's own address")
			}
		}
	}
	if collide(raft, status) {
		r.add("server.listen", status.String(), "the same as raft.listen, "+raft.String(), "give it a port of its own")
	}
	if collide(bgp, raft) {
		r.add("bgp.listen", bgp.String(), "the same as raft.listen, "+raft.String(), "give it a port of its own")
	}
	if collide(bgp, status) {
		r.add("bgp.listen", bgp.String(), "the same as server.listen, "+status.String(), "give it a port of its own")
	}
	if self := c.Self().Address; raft.IsValid() && self.IsValid() && self.Port() != raft.Port() {
		r.warn("raft.listen", raft.String(), "not the port that the other nodes use for this one, "+self.String(),
			"right only if something between them translates it")
	}
}

// collide reports whether one host cannot listen at both.
func collide(a, b netip.AddrPort) bool {
	return a.IsValid() && b.IsValid() && a.Port() == b.Port() && overlap(a.Addr(), b.Addr())
}

func overlap(a, b netip.Addr) bool {
	return a == b || a.IsUnspecified() && (a.Is6() || b.Is4()) || b.IsUnspecified() && (b.Is6() || a.Is4())
}

func (c *Config) checkHealth(r *reader, i int) {
	h, path := c.Health[i], fmt.Sprintf("health[%d]", i)
	if !r.quiet(path) {
		return // not even a mapping
	}
	for _, o := range c.Health[:i] {
		if o.Name == h.Name {
			r.add(path+".name", h.Name, "another check has this name", "give every check a name of its own")
		}
	}
	kinds := 0
	for _, k := range []string{"tcp", "http", "command"} {
		if r.given(path + "." + k) {
			kinds++
		}
	}
	if kinds != 1 {
		r.add(path, "", fmt.Sprintf("has %d of tcp, http and command", kinds), "want exactly one")
	}
	if h.Timeout > h.Interval && r.quiet(path+".interval") {
		r.add(path+".timeout", showDuration(h.Timeout), "longer than the interval, "+showDuration(h.Interval), "make it at most as long")
	}
	c.checkTarget(r, h, path)
	checkCommand(r, h, path)
	checkHealthTLS(r, h, path)
}

// checkTarget refuses to ask the shared address: its answer is the holder's, not this node's.
func (c *Config) checkTarget(r *reader, h Health, path string) {
	key, host := ".tcp", ""
	if h.TCP != "" {
		host, _, _ = net.SplitHostPort(h.TCP)
	} else if u, err := url.Parse(h.HTTP); err == nil {
		key, host = ".http", u.Hostname()
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return
	}
	for i, a := range c.Addresses {
		if a.Address == ip.Unmap() {
			r.add(path+key, cmp.Or(h.TCP, h.HTTP), fmt.Sprintf("is the shared address (addresses[%d])", i),
				"check this node itself, as in 127.0.0.1")
		}
	}
}

func checkCommand(r *reader, h Health, path string) {
	switch {
	case !r.given(path + ".command"):
	case len(h.Command) == 0:
		r.missing(path+".command", "as in [/usr/local/bin/check, arg]")
	case r.quiet(path + ".command[0]"):
		if err := absolute(h.Command[0]); err != nil {
			r.refuse(&node{path: path + ".command[0]", text: h.Command[0]}, err)
		}
	}
	for i, arg := range h.Command {
		if strings.ContainsRune(arg, 0) {
			r.add(fmt.Sprintf("%s.command[%d]", path, i), arg, "has a zero byte", "leave it out")
		}
	}
}

func checkHealthTLS(r *reader, h Health, path string) {
	u, err := url.Parse(h.HTTP)
	if err != nil || h.HTTP == "" && r.given(path+".http") {
		return
	}
	for k, v := range map[string]string{"ca": h.CA, "cert": h.Cert, "key": h.Key, "serverName": h.ServerName} {
		if v != "" && u.Scheme != "https" {
			r.add(path+"."+k, v, "only an https check has it", "leave it out")
		}
	}
	if (h.Cert == "") != (h.Key == "") && u.Scheme == "https" {
		r.add(path, "", "has only one of cert and key", "give both, or neither")
	}
}
