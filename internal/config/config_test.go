package config

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// base is a good file; tests change lines of it.
const base = `apiVersion: pintle.dev/v1
addresses:
  - address: 192.0.2.10
raft:
  peers:
    - {name: n1, address: "10.0.0.1:7400"}
    - {name: n2, address: 10.0.0.2}
    - {name: n3, address: 10.0.0.3}
`

func TestDefaults(t *testing.T) {
	c, problems := Parse([]byte(base), "f", Options{Hostname: "n2"})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	c.at = nil
	peer := func(n byte) Peer {
		return Peer{Name: "n" + string('0'+n), Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, n}), 7400),
			Role: RoleVoter, Candidate: true}
	}
	want := &Config{
		File: "f", Instance: "default", Node: "n2", Election: ElectionRaft, Bind: BindHolder, Linger: time.Minute, HoldDown: 10 * time.Second,
		Addresses: []Address{{Address: netip.MustParseAddr("192.0.2.10"), Link: []string{"auto"}}},
		Announce:  []Announce{AnnounceARP},
		Raft: Raft{Profile: ProfileDefault, Listen: netip.MustParseAddrPort("10.0.0.2:7400"), Bootstrap: "n1",
			StateDir: "/var/lib/pintle", Realtime: RealtimeAuto,
			TLS:   TLS{CA: "/etc/pintle/tls/ca.crt", Cert: "/etc/pintle/tls/n2.crt", Key: "/etc/pintle/tls/n2.key"},
			Peers: []Peer{peer(1), peer(2), peer(3)}},
		Server: Server{Listen: netip.MustParseAddrPort("127.0.0.1:7401"), RunDir: "/run/pintle"},
		Log:    Log{Level: slog.LevelInfo, Format: "text"},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestNode(t *testing.T) {
	file := base + "node: n1\n"
	for _, tt := range []struct {
		file string
		o    Options
		want string
	}{
		{base, Options{Hostname: "n3"}, "n3"},
		{file, Options{Hostname: "n3"}, "n1"},
		{file, Options{Node: "n2", Hostname: "n3"}, "n2"},
	} {
		c, problems := Parse([]byte(tt.file), "f", tt.o)
		if len(problems) > 0 || c.Node != tt.want || c.Self().Name != tt.want {
			t.Errorf("%+v: node %+v, want %s; %v", tt.o, c, tt.want, problems)
		}
	}
}

// byLease is a good file of the election by a Lease with more text at its end.
func byLease(text string) string {
	return "apiVersion: pintle.dev/v1\naddresses:\n  - address: 192.0.2.10\nelection: lease\n" + text
}

func TestLeaseDefaults(t *testing.T) {
	c, problems := Parse([]byte(byLease("")), "f", Options{Hostname: "n2"})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if want := (Lease{Namespace: "kube-system", Name: "pintle", Duration: 5 * time.Second}); !reflect.DeepEqual(c.Lease, want) {
		t.Errorf("%+v, want %+v", c.Lease, want)
	}
	if want := (Kubernetes{Servers: []string{DefaultServer}, ServerName: "kubernetes.default.svc"}); !reflect.DeepEqual(c.Kubernetes, want) {
		t.Errorf("%+v, want %+v", c.Kubernetes, want)
	}
	if want := (Raft{Realtime: RealtimeOff}); !reflect.DeepEqual(c.Raft, want) {
		t.Errorf("%+v, want %+v", c.Raft, want)
	}
	if want := (Peer{Name: "n2", Role: RoleVoter, Candidate: true}); c.Self() != want || c.Rank() != 0 {
		t.Errorf("%+v, rank %d", c.Self(), c.Rank())
	}
	if c, _ = Parse([]byte(byLease("instance: blue\n")), "f", Options{Hostname: "n2"}); c.Lease.Name != "pintle-blue" {
		t.Errorf("of another instance: %s", c.Lease.Name)
	}
}

func TestRank(t *testing.T) {
	file := byLease(`lease:
  nodes:
    - {name: n1, priority: 10}
    - {name: n2, priority: 20}
    - {name: n3, priority: 20}
    - {name: n4, priority: 30, candidate: false}
`)
	for name, want := range map[string]int{"n1": 1, "n2": 0, "n3": 0, "n5": 2} {
		c, problems := Parse([]byte(file), "f", Options{Hostname: name})
		if failed(problems) || c.Rank() != want || !c.Self().Candidate {
			t.Errorf("%s: rank %d, want %d; %+v, %v", name, c.Rank(), want, c.Self(), problems)
		}
	}
	if c, _ := Parse([]byte(file), "f", Options{Hostname: "n4"}); c.Self().Candidate {
		t.Error("n4 may hold")
	}
}

// edit is base with one text replaced, or added at the end if old is "".
func edit(old, text string) string {
	if old == "" {
		return base + text
	}
	if strings.Count(base, old) != 1 {
		panic("not once in base: " + old)
	}
	return strings.Replace(base, old, text, 1)
}

// Each file has the problems listed, all of them and no others.
func TestProblems(t *testing.T) {
	health := func(line string) string { return base + "health:\n  - " + line + "\n" }
	peers := func(lines ...string) string {
		return base[:strings.Index(base, "    - {name")] + "    - " + strings.Join(lines, "\n    - ") + "\n"
	}
	tests := []struct {
		name, file string
		want       []string
	}{
		// The file as YAML.
		{"empty", "", []string{"f:1: the file is empty (begin with apiVersion: pintle.dev/v1)"}},
		{"comments only", "# hello\n", []string{"f:1: the file is empty (begin with apiVersion: pintle.dev/v1)"}},
		{"a list", "- a\n", []string{"f:1: want keys and values, got a list (begin with apiVersion: pintle.dev/v1)"}},
		{"tab", edit("  - address", "\t- address"), []string{"f:3: has a tab (use spaces)"}},
		{"tab in a word", edit("192.0.2.10", "192.0.2\t.10"), []string{"f:3: has a tab (use spaces)"}},
		{"several documents", base + "---\n" + base, []string{"f:10: has more than one document (keep one, and leave out lines of --- and %)"}},
		{"not closed", edit("", "health: [\n"), []string{"f:9: not YAML: sequence end token ']' not found"}},
		{"binary", "a: \x00\n", []string{`f:1: has the control character '\x00' (is this the right file?)`}},
		{"not UTF-8", "a: \xff\n", []string{"f:1: not UTF-8 text (save it as UTF-8)"}},
		{"alias", edit("", "node: &x n1\nbind: *x\n"), []string{
			"f:9: node: anchors and aliases (& and *) are not read (write the value out)",
			"f:10: bind: anchors and aliases (& and *) are not read (write the value out)"}},
		{"merge", edit("", "log:\n  <<: {level: info}\n"), []string{"f:10: log: merge keys (<<) are not read (write the keys out)"}},
		{"tag", edit("", "node: !!str n1\n"), []string{"f:9: node: !!str: tags are not read (leave it out)"}},
		{"deep", edit("", "health: "+strings.Repeat("[", 40)+"\n"), []string{"f:9: nested too deep (is this the right file?)"}},
		{"long", strings.Repeat("#", maxFile+1), []string{"f: larger than 65536 bytes (is this the right file?)"}},

		// Keys.
		{"unknown key", edit("", "lingr: 1s\n"), []string{"f:9: lingr: unknown key (did you mean linger?)"}},
		{"unknown key in another case", edit("", "Holddown: 1s\n"), []string{"f:9: Holddown: unknown key (did you mean holdDown?)"}},
		{"unknown key, nothing near", edit("", "log:\n  colour: red\n"), []string{"f:10: log.colour: unknown key (known here: level, format)"}},
		{"unknown key in a list", edit("{name: n2,", "{name: n2, prio: 1,"), []string{
			"f:7: raft.peers[1].prio: unknown key (known here: name, address, role, priority, candidate)"}},
		{"key of two lines", edit("", "\"a\\nb\": 1\n"), []string{
			"f:9: a b: unknown key (known here: apiVersion, instance, node, addresses, announce, bind, linger, election, raft, lease, bgp, table, services, kubernetes, health, holdDown, server, log)"}},
		{"duplicate key", edit("", "bind: ready\nbind: holder\n"), []string{"f:10: bind: given twice, first in line 9 (keep one)"}},
		{"no version", edit("apiVersion: pintle.dev/v1\n", ""), []string{"f:1: apiVersion: is missing (write apiVersion: pintle.dev/v1)"}},
		{"another version", edit("v1", "v9"), []string{"f:1: apiVersion: pintle.dev/v9: not a version that this Pintle reads (write pintle.dev/v1)"}},

		// Types.
		{"text for a mapping", edit("", "log: debug\n"), []string{"f:9: log: debug: is a text, want a mapping"}},
		{"mapping for a list", edit("", "health: {tcp: a}\n"), []string{"f:9: health: is a mapping, want a list (begin the item with -)"}},
		{"number for a text", edit("", "node: 1\n"), []string{"f:9: node: 1: is a number, want a text (put it in quotes)"}},
		{"text for a flag", edit("raft:", "raft:\n  alone: yes"), []string{"f:5: raft.alone: yes: is a text, want true or false"}},
		{"text for a number", edit("{name: n2,", "{name: n2, priority: high,"), []string{
			"f:7: raft.peers[1].priority: high: is a text, want a number (write the number without quotes)"}},
		{"number out of range", edit("{name: n2,", "{name: n2, priority: 256,"), []string{
			"f:7: raft.peers[1].priority: 256: out of range, want 0 to 255"}},
		{"hexadecimal", edit("{name: n2,", "{name: n2, priority: 0x10,"), []string{
			"f:7: raft.peers[1].priority: 0x10: not a whole number (write it in decimal)"}},
		{"not one of", edit("", "bind: all\n"), []string{"f:9: bind: all: not known here (one of holder, ready)"}},
		{"log level", edit("", "log: {level: trace}\n"), []string{"f:9: log.level: trace: not known here (one of debug, info, warn, error)"}},
		{"instance", edit("", "instance: A_b\n"), []string{"f:9: instance: A_b: not a name (up to 31 of a-z, 0-9 and -, the first no -)"}},
		{"relative path", edit("", "server: {runDir: run}\n"), []string{"f:9: server.runDir: run: not an absolute path (begin it with /)"}},

		// Durations.
		{"no unit", edit("", "holdDown: 10\n"), []string{"f:9: holdDown: 10: not a duration (write a number and a unit, as in 500ms, 10s or 1m)"}},
		{"negative", edit("", "linger: -1s\n"), []string{"f:9: linger: -1s: out of range, want 0s to 60s"}},
		{"linger too long", edit("", "linger: 61s\n"), []string{"f:9: linger: 61s: out of range, want 0s to 60s"}},
		{"hold-down of nothing", edit("", "holdDown: 0\n"), []string{"f:9: holdDown: 0: out of range, want 1s to 3600s"}},

		// Addresses.
		{"no addresses", edit("addresses:\n  - address: 192.0.2.10\n", ""), []string{"f:1: addresses: is missing (name the address that the nodes share)"}},
		{"addresses of null", edit("  - address: 192.0.2.10\n", ""), []string{"f:2: addresses: is missing (name the address that the nodes share)"}},
		{"item without address", edit("address: 192.0.2.10", "link: eth0"), []string{"f:3: addresses[0].address: is missing (name the address)"}},
		{"item of null", edit("  - address: 192.0.2.10", "  - "), []string{"f:3: addresses[0]: is nothing, want a mapping"}},
		{"no address", edit("192.0.2.10", "192.0.2.300"), []string{"f:3: addresses[0].address: 192.0.2.300: not an IP address (write it as 192.0.2.10 or 2001:db8::10)"}},
		{"prefix length", edit("192.0.2.10", "192.0.2.10/24"), []string{
			"f:3: addresses[0].address: 192.0.2.10/24: has the prefix length 24, want 32 (write 192.0.2.10: the subnet stays with the machines' own addresses)"}},
		{"prefix length v6", edit("192.0.2.10", "2001:db8::1/64"), []string{
			"f:3: addresses[0].address: 2001:db8::1/64: has the prefix length 64, want 128 (write 2001:db8::1: the subnet stays with the machines' own addresses)"}},
		{"unspecified", edit("192.0.2.10", "0.0.0.0"), []string{"f:3: addresses[0].address: 0.0.0.0: is the unspecified address (choose a free address of the machines' network)"}},
		{"loopback", edit("192.0.2.10", "127.0.0.5"), []string{"f:3: addresses[0].address: 127.0.0.5: is a loopback address (choose a free address of the machines' network)"}},
		{"multicast", edit("192.0.2.10", "ff02::1"), []string{"f:3: addresses[0].address: ff02::1: is a multicast address (choose a free address of the machines' network)"}},
		{"link-local", edit("192.0.2.10", "169.254.1.1"), []string{"f:3: addresses[0].address: 169.254.1.1: is a link-local address (choose a free address of the machines' network)"}},
		{"broadcast", edit("192.0.2.10", "255.255.255.255"), []string{"f:3: addresses[0].address: 255.255.255.255: is the broadcast address (choose a free address of the machines' network)"}},
		{"zone", edit("192.0.2.10", `"fe80::1%eth0"`), []string{"f:3: addresses[0].address: fe80::1%eth0: has a zone (write it without %eth0)"}},
		{"mapped", edit("192.0.2.10", `"::ffff:192.0.2.1"`), []string{"f:3: addresses[0].address: ::ffff:192.0.2.1: is an IPv4 address in IPv6 form (write 192.0.2.1)"}},
		{"same address twice", edit("192.0.2.10", "192.0.2.10\n  - address: 192.0.2.10/32"), []string{
			"f:4: addresses[1].address: 192.0.2.10: the same as addresses[0].address (keep one, and give it a list of links)"}},
		{"a peer's address", edit("192.0.2.10", "10.0.0.2"), []string{
			"f:3: addresses[0].address: 10.0.0.2: is the node n2's own (raft.peers[1].address) (choose an address that no machine has)"}},
		{"link names", edit("192.0.2.10", "192.0.2.10\n    link: [a/b, lo, 'eth[', abcdefghijklmnop, \"\"]"), []string{
			"f:4: addresses[0].link[0]: a/b: not the name of a link",
			"f:4: addresses[0].link[1]: lo: nobody asks on lo (name the link on which clients ask for the address)",
			"f:4: addresses[0].link[2]: eth[: not a glob (as in enp* or eth[01])",
			"f:4: addresses[0].link[3]: abcdefghijklmnop: not the name of a link (the kernel's names have at most 15 letters)",
			"f:4: addresses[0].link[4]: not the name of a link"}},
		{"auto and more", edit("192.0.2.10", "192.0.2.10\n    link: [auto, eth0]"), []string{"f:4: addresses[0].link: has auto beside other links (auto stands alone)"}},
		{"no link", edit("192.0.2.10", "192.0.2.10\n    link: []"), []string{"f:4: addresses[0].link: is missing (name a link, or write auto)"}},

		// Peers.
		{"no peers", base[:strings.Index(base, "  peers")], []string{"f:4: raft.peers: is missing (name every node of the cluster, this one too)"}},
		{"not this node", edit("", "node: n9\n"), []string{"f:5: raft.peers: n9: do not include this node's name (set node, or --node, to one of n1, n2, n3)"}},
		{"bad node", edit("", "node: n/9\n"), []string{"f:9: node: n/9: not a name (write it as a host name: letters, digits, - and .)"}},
		{"same name", edit("n3, address", "n2, address"), []string{"f:8: raft.peers[2].name: n2: the same as raft.peers[1].name (give every node a name of its own)"}},
		{"same address", edit("10.0.0.3", `"10.0.0.2:7400"`), []string{"f:8: raft.peers[2].address: 10.0.0.2:7400: the same as raft.peers[1].address (give every node an address of its own)"}},
		{"peer by name", edit("10.0.0.3", "n3.example.com"), []string{"f:8: raft.peers[2].address: n3.example.com: not an IP address and port (write the IP address: Pintle must not need a name server)"}},
		{"peer without name", edit("{name: n3, address", "{address"), []string{"f:8: raft.peers[2].name: is missing (name the node)"}},
		{"peer without address", edit(", address: 10.0.0.3", ""), []string{"f:8: raft.peers[2].address: is missing (write it as 10.0.0.1:7400)"}},
		{"peer named as address", edit("{name: n3", `{name: "10.0.0.3"`), []string{"f:8: raft.peers[2].name: 10.0.0.3: is an address (give the node a name)"}},
		{"peer at no node", edit("10.0.0.3", "0.0.0.0"), []string{"f:8: raft.peers[2].address: 0.0.0.0: is no address of one node (write the address by which the other nodes reach it)"}},
		{"port 0", edit("10.0.0.3", `"10.0.0.3:0"`), []string{"f:8: raft.peers[2].address: 10.0.0.3:0: port 0 is no port (choose one, as in 7400)"}},
		{"two voters", peers("{name: n1, address: 10.0.0.1}", "{name: n2, address: 10.0.0.2}"), []string{
			"f:5: raft.peers: two voters: if either fails, nobody holds the address (add a third machine, if only with role: witness)"}},
		{"four voters", edit("    - {name: n2", "    - {name: n4, address: 10.0.0.4, role: witness}\n    - {name: n2"), []string{
			"f:5: raft.peers: 4 voters stand no more failures than 3 (add a node, if only with role: witness)"}},
		{"no candidates", peers("{name: n1, address: 10.0.0.1, candidate: false}"), []string{
			"f:5: raft.peers: none may hold the address (let one be a voter with candidate: true)"}},
		{"witness as candidate", edit("{name: n3", "{name: n3, role: witness, candidate: true"), []string{
			"f:8: raft.peers[2].candidate: true: a witness never holds the address (leave it out, or make the role voter)"}},
		{"priority of a witness", edit("{name: n3", "{name: n3, role: witness, priority: 5"), []string{
			"f:8: raft.peers[2].priority: 5: has no effect: the node never holds the address (leave it out)"}},
		{"bootstrap no peer", edit("raft:", "raft:\n  bootstrap: n9"), []string{"f:5: raft.bootstrap: n9: is none of raft.peers (name one of them)"}},
		{"bootstrap a witness", strings.Replace(edit("raft:", "raft:\n  bootstrap: n3"), "{name: n3", "{name: n3, role: witness", 1), []string{
			"f:5: raft.bootstrap: n3: never holds the address, so it cannot start the cluster (name a voter that is a candidate)"}},

		// Listening.
		{"no host", edit("raft:", "raft:\n  listen: \":7400\""), []string{"f:5: raft.listen: :7400: has a port but no address (write 0.0.0.0:7400 or [::]:7400)"}},
		{"listen on the address", edit("", "server: {listen: \"192.0.2.10:7401\"}\n"), []string{
			"f:9: server.listen: 192.0.2.10:7401: is the shared address (addresses[0]) (use this node's own address)"}},
		{"the same port", edit("", "server: {listen: \"0.0.0.0:7400\"}\n"), []string{
			"f:9: server.listen: 0.0.0.0:7400: the same as raft.listen, 10.0.0.1:7400 (give it a port of its own)"}},
		{"not the peers' port", edit("raft:", "raft:\n  listen: \"0.0.0.0:7500\""), []string{
			"f:5: raft.listen: 0.0.0.0:7500: not the port that the other nodes use for this one, 10.0.0.1:7400 (right only if something between them translates it)"}},

		// The other election.
		{"election", edit("", "election: zookeeper\nlease: {duration: 3s}\n"), []string{"f:9: election: zookeeper: not known here (one of raft, lease, none)"}},
		{"lease without its election", edit("", "lease: {duration: 3s}\nkubernetes:\n  kubeconfig: /k\n"), []string{
			"f:9: lease: has no effect with election: raft (leave it out, or set election: lease)",
			"f:10: kubernetes: has no effect with election: raft (leave it out, or set election: lease)"}},
		{"raft without its election", edit("", "election: lease\n"), []string{
			"f:4: raft: has no effect with election: lease (leave it out, or set election: raft)"}},
		{"lease names", byLease("lease: {namespace: Kube, name: a/b, duration: 1s}\n"), []string{
			"f:5: lease.namespace: Kube: not a name that Kubernetes has (up to 63 of a-z, 0-9 and -)",
			"f:5: lease.name: a/b: not a name that Kubernetes has (up to 253 of a-z, 0-9, - and .)",
			"f:5: lease.duration: 1s: out of range, want 2s to 60s"}},
		{"lease too long", byLease("lease: {duration: 2m}\n"), []string{"f:5: lease.duration: 2m: out of range, want 2s to 60s"}},
		{"node not of Kubernetes", byLease("node: N_1\n"), []string{"f:5: node: N_1: not a name that Kubernetes has (up to 253 of a-z, 0-9, - and .)"}},
		{"node no name", byLease("node: a/b\n"), []string{"f:5: node: a/b: not a name (write it as a host name: letters, digits, - and .)"}},
		{"lease nodes", byLease("lease:\n  nodes:\n    - {name: n1}\n    - {name: n1, priority: 3}\n    - {priority: 256}\n    - {name: n2, priority: 1, candidate: false}\n"), []string{
			"f:8: lease.nodes[1].name: n1: the same as lease.nodes[0].name (keep one)",
			"f:9: lease.nodes[2].name: is missing (name the node)",
			"f:9: lease.nodes[2].priority: 256: out of range, want 0 to 255",
			"f:10: lease.nodes[3].priority: 1: has no effect: the node never holds the address (leave it out)"}},
		{"kubeconfig by name", byLease("kubernetes: {kubeconfig: k}\n"), []string{"f:5: kubernetes.kubeconfig: k: not an absolute path (begin it with /)"}},
		{"no servers", byLease("kubernetes: {servers: []}\n"), []string{"f:5: kubernetes.servers: is missing (name one, or leave it out: https://127.0.0.1:6443)"}},
		{"no server name", byLease("kubernetes: {serverName: \"\"}\n"), []string{"f:5: kubernetes.serverName: is empty (leave the key out)"}},
		{"servers", byLease("kubernetes:\n  servers:\n    - \"http://10.0.0.1\"\n    - \"https://10.0.0.1/api\"\n    - \"https://api.example.com\"\n" +
			"    - \"10.0.0.1:6443\"\n    - \"https://[::ffff:192.0.2.10]:6443\"\n    - \"https://10.0.0.9\"\n    - \"https://10.0.0.9/\"\n"), []string{
			"f:7: kubernetes.servers[0]: http://10.0.0.1: is not https (write it as https://127.0.0.1:6443)",
			"f:8: kubernetes.servers[1]: https://10.0.0.1/api: has more than a host and a port (write it as https://127.0.0.1:6443)",
			"f:9: kubernetes.servers[2]: https://api.example.com: has a name (write the IP address: Pintle must not need a name server)",
			"f:10: kubernetes.servers[3]: 10.0.0.1:6443: not a URL: first path segment in URL cannot contain colon (write it as https://127.0.0.1:6443)",
			"f:11: kubernetes.servers[4]: https://[::ffff:192.0.2.10]:6443: is the shared address (addresses[0]) (name the API servers by the nodes' own addresses)",
			"f:13: kubernetes.servers[6]: https://10.0.0.9: the same as kubernetes.servers[5] (keep one)"}},

		// Health.
		{"no kind", health("{name: a}"), []string{"f:10: health[0]: has 0 of tcp, http and command (want exactly one)"}},
		{"two kinds", health(`{tcp: "127.0.0.1:80", command: [/bin/true]}`), []string{"f:10: health[0]: has 2 of tcp, http and command (want exactly one)"}},
		{"timeout over interval", health(`{tcp: "127.0.0.1:80", interval: 1s, timeout: 2s}`), []string{"f:10: health[0].timeout: 2s: longer than the interval, 1s (make it at most as long)"}},
		{"timeout of nothing", health(`{tcp: "127.0.0.1:80", timeout: 0s}`), []string{"f:10: health[0].timeout: 0s: out of range, want 10ms to 3600s"}},
		{"rise of 0", health(`{tcp: "127.0.0.1:80", rise: 0}`), []string{"f:10: health[0].rise: 0: out of range, want 1 to 100"}},
		{"tcp without port", health(`{tcp: 127.0.0.1}`), []string{"f:10: health[0].tcp: 127.0.0.1: not an address and port (write it as 127.0.0.1:6443)"}},
		{"tcp port", health(`{tcp: "127.0.0.1:65536"}`), []string{"f:10: health[0].tcp: 127.0.0.1:65536: not a port (1 to 65535)"}},
		{"bad URL", health(`{http: "https://[::1/"}`), []string{"f:10: health[0].http: https://[::1/: not a URL: missing ']' in host (write it as https://127.0.0.1:6443/readyz)"}},
		{"scheme", health(`{http: "ftp://a/"}`), []string{"f:10: health[0].http: ftp://a/: not an http or https URL (write it as https://127.0.0.1:6443/readyz)"}},
		{"user in URL", health(`{http: "https://me:secret@a/"}`), []string{"f:10: health[0].http: https://me:secret@a/: has a user in it (use a client certificate: cert and key)"}},
		{"http to the address", health(`{http: "https://192.0.2.10:6443/readyz"}`), []string{
			"f:10: health[0].http: https://192.0.2.10:6443/readyz: is the shared address (addresses[0]) (check this node itself, as in 127.0.0.1)"}},
		{"tcp to the address", health(`{tcp: "[::ffff:192.0.2.10]:6443"}`), []string{
			"f:10: health[0].tcp: [::ffff:192.0.2.10]:6443: is the shared address (addresses[0]) (check this node itself, as in 127.0.0.1)"}},
		{"CA without https", health(`{http: "http://127.0.0.1/", ca: /ca}`), []string{"f:10: health[0].ca: /ca: only an https check has it (leave it out)"}},
		{"certificate without key", health(`{http: "https://127.0.0.1/", cert: /c}`), []string{"f:10: health[0]: has only one of cert and key (give both, or neither)"}},
		{"command by name", health(`{command: [check]}`), []string{"f:10: health[0].command[0]: check: not an absolute path (begin it with /)"}},
		{"command of nothing", health(`{command: []}`), []string{"f:10: health[0].command: is missing (as in [/usr/local/bin/check, arg])"}},
		{"same check name", base + "health:\n  - {name: a, tcp: \"127.0.0.1:1\"}\n  - {name: a, tcp: \"127.0.0.1:2\"}\n", []string{
			"f:11: health[1].name: a: another check has this name (give every check a name of its own)"}},

		{"all at once", "bind: x\naddresses:\n  - address: y\nraft:\n  alone: 1\n  peers:\n  - {name: n1, address: z}\nlog: {format: w}\n", []string{
			"f:1: apiVersion: is missing (write apiVersion: pintle.dev/v1)",
			"f:1: bind: x: not known here (one of holder, ready)",
			"f:3: addresses[0].address: y: not an IP address (write it as 192.0.2.10 or 2001:db8::10)",
			"f:5: raft.alone: 1: is a number, want true or false",
			"f:7: raft.peers[0].address: z: not an IP address and port (write the IP address: Pintle must not need a name server)",
			"f:8: log.format: w: not known here (one of text, json)"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, problems := Parse([]byte(tt.file), "f", Options{Hostname: "n1"})
			var got []string
			for _, p := range problems {
				got = append(got, p.String())
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(tt.want, "\n  "))
			}
			if (c == nil) != failed(problems) {
				t.Errorf("config %v with problems %v", c, problems)
			}
		})
	}
}

func TestColumns(t *testing.T) {
	_, problems := Parse([]byte(edit("10.0.0.3", "10.0.0.333")), "f", Options{Hostname: "n1"})
	if len(problems) != 1 || problems[0].Line != 8 || problems[0].Column != 27 || problems[0].Value != "10.0.0.333" {
		t.Errorf("%+v", problems)
	}
}

// What editors and other programs do to files is accepted.
func TestAccepted(t *testing.T) {
	for name, file := range map[string]string{
		"BOM":                "\ufeff" + base,
		"CRLF":               strings.ReplaceAll(base, "\n", "\r\n"),
		"tab before comment": edit("192.0.2.10", "192.0.2.10\t# with a\ttab"),
		"document start":     "---\n" + base,
		"null sections":      base + "health:\nlog:\nserver: ~\nnode:\n",
		"null timeout":       base + "health:\n  - {tcp: \"127.0.0.1:1\", timeout: }\n",
		"zero without unit":  base + "linger: 0\n",
		"/32":                edit("192.0.2.10", "192.0.2.10/32"),
		"off":                base + "server: {listen: off}\n",
	} {
		c, problems := Parse([]byte(file), "f", Options{Hostname: "n1"})
		if len(problems) > 0 {
			t.Errorf("%s: %v", name, problems)
			continue
		}
		roundTrip(t, c)
	}
}

func TestInstanceAndNames(t *testing.T) {
	c, problems := Parse([]byte(base+`instance: blue
health:
  - {tcp: "127.0.0.1:1"}
  - {name: tcp-2, tcp: "127.0.0.1:2"}
  - {tcp: "127.0.0.1:3", interval: 200ms}
  - {http: "https://127.0.0.1/", cert: "/{node}.crt", key: "/{node}.key"}
`), "f", Options{Hostname: "n1"})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if c.Raft.StateDir != "/var/lib/pintle/blue" {
		t.Errorf("stateDir %s", c.Raft.StateDir)
	}
	var names []string
	for _, h := range c.Health {
		names = append(names, h.Name)
	}
	if got := strings.Join(names, " "); got != "tcp tcp-2 tcp-3 http" {
		t.Errorf("names %s", got)
	}
	if c.Health[2].Timeout != 200*time.Millisecond {
		t.Errorf("timeout %s of an interval of 200ms", c.Health[2].Timeout)
	}
	if h := c.Health[3]; h.Cert != "/n1.crt" || h.Key != "/n1.key" {
		t.Errorf("%+v", h)
	}
}

func TestLoad(t *testing.T) {
	name := filepath.Join(t.TempDir(), "pintle.yaml")
	_, problems := Load(name, "n1")
	if len(problems) != 1 || problems[0].String() != name+": no such file or directory (name the file with --config)" {
		t.Errorf("absent: %v", problems)
	}
	if _, problems = Load(filepath.Dir(name), "n1"); len(problems) != 1 || !strings.Contains(problems[0].String(), "is a directory") {
		t.Errorf("directory: %v", problems)
	}
	if err := os.WriteFile(name, []byte(base), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, problems := Load(name, "n3"); len(problems) > 0 || c.Node != "n3" || c.File != name {
		t.Errorf("%+v, %v", c, problems)
	}
}
