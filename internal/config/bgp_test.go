package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// byBGP is a good file of BGP on every healthy node: 9 lines, then what is more of section bgp, its one peer, and more text.
func byBGP(bgp, peer, more string) string {
	return "apiVersion: pintle.dev/v1\naddresses:\n  - address: 192.0.2.10\n" +
		"announce: [bgp]\nelection: none\nbgp:\n  as: 65001\n  peers:\n    - address: 10.0.0.254\n      as: 65000\n" + indented(peer, "      ") + indented(bgp, "  ") + more
}

func indented(text, by string) string {
	if text == "" {
		return ""
	}
	return by + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n"+by) + "\n"
}

func parseBGP(t *testing.T, file string) *Config {
	t.Helper()
	c, problems := Parse([]byte(file), "f", Options{Hostname: "n2"})
	if failed(problems) {
		t.Fatalf("%v\n%s", problems, file)
	}
	return c
}

func TestBGPDefaults(t *testing.T) {
	c, problems := Parse([]byte(byBGP("", "", "")), "f", Options{Hostname: "n2"})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	want := BGP{AS: 65001, Unhealthy: UnhealthyWithdraw, Drain: Drain{Wait: 2 * time.Second}, Peers: []BGPPeer{{
		Name: "10.0.0.254", Address: netip.MustParseAddr("10.0.0.254"), Port: 179, AS: 65000, Hold: 9 * time.Second, Keepalive: 3 * time.Second,
		ConnectRetry: 5 * time.Second, Families: []Family{FamilyIPv4, FamilyIPv6}}}}
	if !reflect.DeepEqual(c.BGP, want) {
		t.Errorf("got  %+v\nwant %+v", c.BGP, want)
	}
	if self := (Peer{Name: "n2", Role: RoleVoter, Candidate: true}); c.Self() != self || c.Rank() != 0 || c.Bind != BindReady {
		t.Errorf("%+v, rank %d, bind %s", c.Self(), c.Rank(), c.Bind)
	}
	if c.Addresses[0].Link != nil || len(c.Resolve(nil)) > 0 || c.Addresses[0].Links != nil {
		t.Errorf("it wants a link: %+v", c.Addresses[0])
	}
	if c.NeedsKubernetes() || !reflect.DeepEqual(c.Kubernetes, Kubernetes{}) || !reflect.DeepEqual(c.Lease, Lease{}) || !reflect.DeepEqual(c.Table, Table{}) {
		t.Errorf("it has what nobody asked for: %+v", c)
	}
}

func TestBGPValues(t *testing.T) {
	c := parseBGP(t, byBGP("communities: [65001:100, no-export]\nlargeCommunities: [4294967295:0:1]\nmed: 0", `localAS: 1.10
passwordFile: /etc/pintle/bgp/{node}
nextHop: ["2001:db8::1", 10.0.0.1]
hold: 10s
bfd:
nodeLabels: {example.com/rack: r1}`, ""))
	p := c.BGP.Peers[0]
	if want := []uint32{65001<<16 | 100, 0xffffff01}; !slices.Equal(c.BGP.Communities, want) {
		t.Errorf("communities %x, want %x", c.BGP.Communities, want)
	}
	if want := [][3]uint32{{4294967295, 0, 1}}; !slices.Equal(c.BGP.Large, want) {
		t.Errorf("large communities %v, want %v", c.BGP.Large, want)
	}
	if c.BGP.MED == nil || *c.BGP.MED != 0 || c.BGP.LocalPref != nil {
		t.Errorf("MED %v, local preference %v: want 0 and none", c.BGP.MED, c.BGP.LocalPref)
	}
	if p.LocalAS != 1<<16|10 || p.PasswordFile != "/etc/pintle/bgp/n2" || p.Keepalive != 3*time.Second {
		t.Errorf("%+v", p)
	}
	if p.NextHop4 != netip.MustParseAddr("10.0.0.1") || p.NextHop6 != netip.MustParseAddr("2001:db8::1") {
		t.Errorf("next hops %v, %v", p.NextHop4, p.NextHop6)
	}
	if p.BFD == nil || *p.BFD != (BGPBFD{Interval: 300 * time.Millisecond, Multiplier: 3}) {
		t.Errorf("BFD %+v", p.BFD)
	}
	if !c.NeedsKubernetes() || !slices.Equal(c.Kubernetes.Servers, []string{DefaultServer}) {
		t.Errorf("labels need the API: %+v", c.Kubernetes)
	}
}

// Each file has the problems listed, all of them and no others.
func TestBGPProblems(t *testing.T) {
	raft := func(announce string) string { return base + announce }
	with := "announce: [arp, bgp]\nbgp: {as: 65001, peers: [{address: 10.0.0.254, as: 65000}]"
	tests := []struct {
		name, file string
		want       []string
	}{
		// How it is announced.
		{"unknown", raft("announce: [arp, bpg]\n"), []string{"f:9: announce[1]: bpg: not known here (one of arp, bgp, table)"}},
		{"twice", raft("announce: [arp, arp]\n"), []string{"f:9: announce[1]: arp: given twice (keep one)"}},
		{"nothing", raft("announce: []\n"), []string{"f:9: announce: is empty (leave the key out)"}},
		{"none by ARP", raft("election: none\n"), []string{
			"f:4: raft: has no effect with election: none (leave it out, or set election: raft)",
			"f:9: election: none: several nodes would answer for one address by ARP (set announce: [bgp], or elect a holder: election: raft)"}},
		{"none by ARP too", strings.Replace(byBGP("", "", ""), "[bgp]", "[arp, bgp]", 1), []string{
			"f:5: election: none: several nodes would answer for one address by ARP (leave arp out of announce, or elect a holder: election: raft)"}},
		{"none and a lease", byBGP("", "", "lease: {}\nkubernetes: {}\n"), []string{
			"f:11: lease: has no effect with election: none (leave it out, or set election: lease)",
			"f:12: kubernetes: has no effect with election: none (leave it out, or set election: lease)"}},
		{"a link", strings.Replace(byBGP("", "", ""), "address: 192.0.2.10", "{address: 192.0.2.10, link: eth0}", 1), []string{
			"f:3: addresses[0].link: eth0: has no effect: only ARP and neighbour discovery happen on a link (leave it out, or add arp to announce)"}},
		{"the holder", byBGP("", "", "bind: holder\n"), []string{"f:11: bind: holder: there is no holder: every healthy node has the addresses on lo (leave it out)"}},
		{"bgp alone", raft("bgp: {as: 1}\n"), []string{"f:9: bgp: has no effect: announce does not have bgp (leave it out, or add bgp to announce)"}},
		{"table alone", raft("table: {}\n"), []string{"f:9: table: has no effect: announce does not have table (leave it out, or add table to announce)"}},

		// The table.
		{"the main table", raft("announce: [table]\ntable: {number: 254}\n"), []string{
			"f:10: table.number: 254: is the host's own table: default, main or local (choose one that nothing else uses)"}},
		{"no table", raft("announce: table\ntable: {number: 0}\n"), []string{
			"f:10: table.number: 0: not the number of a table (1 to 4294967295, as in /etc/iproute2/rt_tables)"}},
		{"another daemon's routes", raft("announce: table\ntable: {protocol: 12}\n"), []string{
			"f:10: table.protocol: 12: is the number of a well-known routing daemon, and Pintle removes every route of its own that it does not want (choose one that no daemon uses here, as 155)"}},
		{"the kernel's routes", raft("announce: table\ntable: {protocol: 2}\n"), []string{"f:10: table.protocol: 2: out of range, want 4 to 255"}},

		// The node.
		{"nothing in it", raft("announce: [bgp]\nbgp:\n"), []string{
			"f:10: bgp.as: is missing (64512 to 65534 are free for private use; ask who runs the routers)", "f:10: bgp.peers: is missing (name a router)"}},
		{"not there", raft("announce: [bgp]\n"), []string{
			"f:1: bgp.as: is missing (64512 to 65534 are free for private use; ask who runs the routers)", "f:1: bgp.peers: is missing (name a router)"}},
		{"AS", strings.ReplaceAll(byBGP("", "localAS: 65536.1", ""), "as: 65001", "as: 23456"), []string{
			"f:7: bgp.as: 23456: is reserved: nobody's AS (64512 to 65534 are free for private use)",
			"f:11: bgp.peers[0].localAS: 65536.1: not the number of an AS (1 to 4294967294, or two numbers with a dot, as in 1.10)"}},
		{"AS by words", byBGP("", "localAS: external", ""), []string{
			"f:11: bgp.peers[0].localAS: external: not the number of an AS (1 to 4294967294, or two numbers with a dot, as in 1.10)"}},
		{"router ID", byBGP("routerID: \"::1\"", "", ""), []string{
			"f:11: bgp.routerID: ::1: not a router ID (write it like an IPv4 address, another on each node)"}},
		{"the same router ID", byBGP("routerID: 192.0.2.10", "", ""), []string{
			"f:11: bgp.routerID: 192.0.2.10: is a shared address: every node would have the same ID (leave it out)"}},
		{"listen", byBGP("listen: 0.0.0.0:7401", "", ""), []string{
			"f:11: bgp.listen: 0.0.0.0:7401: the same as server.listen, 127.0.0.1:7401 (give it a port of its own)"}},
		{"listen on the address", byBGP("listen: 192.0.2.10:179", "", ""), []string{
			"f:11: bgp.listen: 192.0.2.10:179: is the shared address (addresses[0]) (use this node's own address)"}},
		{"communities", byBGP("communities: [no-exprt, \"65536:1\", \"1:2:3\"]\nlargeCommunities: [\"1:2\"]", "", ""), []string{
			"f:11: bgp.communities[0]: no-exprt: not a community (as in \"65001:100\", each part up to 65535, or one of graceful-shutdown, blackhole, no-export, no-advertise, no-export-subconfed, no-peer)",
			"f:11: bgp.communities[1]: 65536:1: not a community (as in \"65001:100\", each part up to 65535, or one of graceful-shutdown, blackhole, no-export, no-advertise, no-export-subconfed, no-peer)",
			"f:11: bgp.communities[2]: 1:2:3: not a community (as in \"65001:100\", each part up to 65535, or one of graceful-shutdown, blackhole, no-export, no-advertise, no-export-subconfed, no-peer)",
			"f:12: bgp.largeCommunities[0]: 1:2: not a large community (as in \"65001:1:2\", each part up to 4294967295)"}},
		{"blackhole", byBGP("communities: [blackhole]", "", ""), []string{
			"f:11: bgp.communities: blackhole: routers that know it drop everything that comes to the address (leave it out)"}},
		{"exclusive everywhere", byBGP("exclusive: true", "", ""), []string{
			"f:11: bgp.exclusive: true: every healthy node advertises with election: none (leave it out, or set election: raft)"}},
		{"last resort of a holder", raft(with + ", unhealthy: last-resort}\n"), []string{
			"f:10: bgp.unhealthy: last-resort: only the holder advertises with election: raft, and the election cares for its health (leave it out, or set election: none)"}},
		{"drain", byBGP("drain: {wait: 0, prepend: 3}", "", ""), []string{"f:11: bgp.drain.prepend: 3: has no effect: drain.wait is 0s (leave it out)"}},
		{"drain too long", byBGP("drain: {wait: 9s}", "", ""), []string{"f:11: bgp.drain.wait: 9s: out of range, want 0s to 8s"}},
		{"local preference for nobody", byBGP("localPref: 200", "", ""), []string{
			"f:11: bgp.localPref: 200: has no effect: no peer is of our own AS (use med, prepend or communities)"}},
		{"prepend within the AS", strings.Replace(byBGP("prepend: 1\ndrain: {prepend: 3}", "prepend: 2", ""), "as: 65000", "as: 65001", 1), []string{
			"f:11: bgp.peers[0].prepend: 2: has no effect: the router is of our own AS (use localPref)",
			"f:12: bgp.prepend: 1: has no effect: all peers are of our own AS (use localPref)",
			"f:13: bgp.drain.prepend: 3: has no effect: all peers are of our own AS (use localPref)"}},

		// Peers.
		{"a password", byBGP("", "password: s3cret", ""), []string{
			"f:11: bgp.peers[0].password: unknown key (secrets do not belong here: write it into a file that only root reads, and name that with passwordFile)"}},
		{"a key", byBGP("", "bfd: {auth: {key: s3cret}}", ""), []string{
			"f:11: bgp.peers[0].bfd.auth.keyFile: is missing (as /etc/pintle/bgp/bfd.key)",
			"f:11: bgp.peers[0].bfd.auth.key: unknown key (secrets do not belong here: write it into a file that only root reads, and name that with keyFile)"}},
		{"a file somewhere", byBGP("", "passwordFile: tor1", ""), []string{"f:11: bgp.peers[0].passwordFile: tor1: not an absolute path (begin it with /)"}},
		{"no place", strings.Replace(byBGP("", "", ""), "address: 10.0.0.254", "name: a", 1), []string{
			"f:9: bgp.peers[0]: has neither address nor interface (name the router by its address)"}},
		{"no AS", strings.Replace(byBGP("", "", ""), "      as: 65000\n", "", 1), []string{
			"f:9: bgp.peers[0].as: is missing (the router's AS, or external for any other than ours)"}},
		{"two places", byBGP("", "interface: eth0\nmultihop: 2\nlocalAddress: 10.0.0.1", ""), []string{
			"f:9: bgp.peers[0]: has both address and interface (keep one: interface is for a router whose address is not known)"}},
		{"unnumbered", strings.Replace(byBGP("", "multihop: 2\nlocalAddress: 10.0.0.1", ""), "address: 10.0.0.254", "interface: eth0", 1), []string{
			"f:11: bgp.peers[0].multihop: has no effect with interface: the router is the neighbour on the link (leave it out)",
			"f:12: bgp.peers[0].localAddress: has no effect with interface: the router is the neighbour on the link (leave it out)"}},
		{"link-local", strings.Replace(byBGP("", "", ""), "address: 10.0.0.254", "address: \"fe80::1\"", 1), []string{
			"f:9: bgp.peers[0].address: fe80::1: is a link-local address (name the link in its place: interface: eth0)"}},
		{"by name", strings.Replace(byBGP("", "", ""), "address: 10.0.0.254", "address: tor1", 1), []string{
			"f:9: bgp.peers[0].address: tor1: not an IP address (write it as 10.0.0.254 or 2001:db8::1)"}},
		{"the shared address", strings.Replace(byBGP("", "localAddress: 192.0.2.10\nnextHop: [192.0.2.10]", ""), "address: 10.0.0.254", "address: 192.0.2.10", 1), []string{
			"f:9: bgp.peers[0].address: 192.0.2.10: is a shared address (name the router's own address)",
			"f:11: bgp.peers[0].localAddress: 192.0.2.10: is a shared address (use this node's own address)",
			"f:12: bgp.peers[0].nextHop: 192.0.2.10: is a shared address (use this node's own address)"}},
		{"two families", byBGP("", "localAddress: \"2001:db8::1\"", ""), []string{
			"f:11: bgp.peers[0].localAddress: 2001:db8::1: is not of the family of the router's address, 10.0.0.254 (use this node's address of that family)"}},
		{"GTSM far away", byBGP("", "gtsm: true\nmultihop: 2", ""), []string{
			"f:11: bgp.peers[0].gtsm: true: takes packets of a neighbour on the link only, and multihop is for one that is farther away (keep one of them)"}},
		{"one hop", byBGP("", "multihop: 1", ""), []string{"f:11: bgp.peers[0].multihop: 1: out of range, want 2 to 255"}},
		{"passive", byBGP("", "passive: true", ""), []string{
			"f:11: bgp.peers[0].passive: true: waits for the router to connect, and bgp.listen is off (set bgp.listen, as \"0.0.0.0:179\")"}},
		{"hold", byBGP("", "hold: 2s\nkeepalive: 1500ms", ""), []string{
			"f:11: bgp.peers[0].hold: 2s: out of range, want 3s to 65535s",
			"f:12: bgp.peers[0].keepalive: 1500ms: has a part of a second (routers count whole seconds)"}},
		{"keepalive", byBGP("", "keepalive: 9s", ""), []string{
			"f:11: bgp.peers[0].keepalive: 9s: not shorter than the hold time, 9s (a third of it is usual: leave it out)"}},
		{"passive and unnumbered", strings.ReplaceAll(byBGP("listen: 0.0.0.0:179", "passive: true", ""), "address: 10.0.0.254", "interface: eth0"), []string{
			"f:11: bgp.peers[0].passive: true: is for a router whose address is known: an unnumbered one is connected to (leave it out, or give its address)"}},
		{"communities", byBGP("communities: [no-peer"+numbered(80)+"]", "communities: [no-export"+numbered(90)+"]", ""), []string{
			"f:11: bgp.peers[0].communities: makes 92, with those of bgp and the large ones (at most 90 fit into a message)"}},
		{"keepalive late", byBGP("", "keepalive: 4s", ""), []string{
			"f:11: bgp.peers[0].keepalive: 4s: more than a third of the hold time, 9s: one lost packet could end the session (leave it out)"}},
		{"families", byBGP("", "families: [ipv6, ipv6]", ""), []string{"f:11: bgp.peers[0].families[1]: ipv6: given twice (keep one)"}},
		{"next hops", byBGP("", "nextHop: [10.0.0.1, 10.0.0.2]", ""), []string{"f:11: bgp.peers[0].nextHop[1]: 10.0.0.2: is a second one of this family (keep one)"}},
		{"next hop for nothing", byBGP("", "families: ipv6\nnextHop: [10.0.0.1]", ""), []string{
			"f:12: bgp.peers[0].nextHop: 10.0.0.1: has no effect: families does not have ipv4 (leave it out)"}},
		{"the same name", strings.Replace(byBGP("", "", ""), "    - address: 10.0.0.254\n      as: 65000\n",
			"    - {name: a, address: 10.0.0.254, as: 65000}\n    - {name: a, address: 10.0.0.253, as: 65000}\n", 1), []string{
			"f:10: bgp.peers[1].name: a: the same as bgp.peers[0].name (give every peer a name of its own)"}},
		{"the same router", strings.Replace(byBGP("", "", ""), "    - address: 10.0.0.254\n      as: 65000\n",
			"    - {address: 10.0.0.254, as: 65000}\n    - {address: 10.0.0.254, as: 65000, nodes: [n1]}\n", 1), []string{
			"f:10: bgp.peers[1]: 10.0.0.254: the same router as bgp.peers[0], on the same nodes (keep one, or tell them apart by nodes or nodeLabels)"}},
		{"the same router elsewhere", strings.Replace(byBGP("", "", ""), "    - address: 10.0.0.254\n      as: 65000\n",
			"    - {address: 10.0.0.254, as: 65000, nodes: [\"a-*\"]}\n    - {address: 10.0.0.254, as: 65002, nodes: [b-1]}\n    - {address: 10.0.0.254, as: 65003, port: 180}\n", 1), nil},
		{"nodes", byBGP("", "nodes: [\"n[\", \"\"]", ""), []string{
			"f:11: bgp.peers[0].nodes[0]: n[: not a glob (as in rack1-* or n[12])", "f:11: bgp.peers[0].nodes[1]: is empty (leave it out)"}},
		{"labels", byBGP("", "nodeLabels: {rack: 1}", ""), []string{"f:11: bgp.peers[0].nodeLabels.rack: 1: is a number, want a text (put it in quotes)"}},
		{"labels of a node that Kubernetes cannot have", byBGP("", "nodeLabels: {rack: r1}", "node: N_1\n"), []string{
			"f:12: node: N_1: not a name that Kubernetes has (up to 253 of a-z, 0-9, - and .)"}},

		// BFD.
		{"BFD", byBGP("", "bfd: {interval: 40ms, multiplier: 1}", ""), []string{
			"f:11: bgp.peers[0].bfd.interval: 40ms: out of range, want 50ms to 10s", "f:11: bgp.peers[0].bfd.multiplier: 1: out of range, want 2 to 50"}},
		{"BFD fast", byBGP("", "bfd: {interval: 50ms}", ""), []string{
			"f:11: bgp.peers[0].bfd.interval: 50ms: times 3 is 150ms: a busy machine may flap (at least 300ms in all is usual)"}},
		{"BFD slow", byBGP("", "bfd: {interval: 3s}", ""), []string{
			"f:11: bgp.peers[0].bfd: finds out in 9s, and the hold time in 9s (make the interval shorter, or leave it out)"}},
		{"BFD by a word", byBGP("", "bfd: true", ""), []string{"f:11: bgp.peers[0].bfd: true: is true or false, want a mapping"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, problems := Parse([]byte(tt.file), "f", Options{Hostname: "n1"})
			var got []string
			for _, p := range problems {
				got = append(got, p.String())
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got\n  %s\nwant\n  %s\n%s", strings.Join(got, "\n  "), strings.Join(tt.want, "\n  "), tt.file)
			}
		})
	}
}

// A secret that is written where it does not belong is not shown.
func TestSecretsAreNotShown(t *testing.T) {
	for _, file := range []string{byBGP("", "password: s3cret", ""), byBGP("", "bfd: {auth: {key: s3cret, keyID: x}}", "")} {
		_, problems := Parse([]byte(file), "f", Options{Hostname: "n1"})
		if !failed(problems) {
			t.Errorf("accepted\n%s", file)
		}
		for _, p := range problems {
			if strings.Contains(p.String(), "s3cret") {
				t.Error(p)
			}
		}
	}
}

func TestOn(t *testing.T) {
	c := parseBGP(t, strings.Replace(byBGP("", "", ""), "    - address: 10.0.0.254\n      as: 65000\n", `    - {name: all, address: 10.0.0.1, as: 65000}
    - {name: named, address: 10.0.0.2, as: 65000, nodes: [n1, "rack1-*"]}
    - {name: labelled, address: 10.0.0.3, as: 65000, nodeLabels: {rack: r1, zone: a}}
    - {name: noted, address: 10.0.0.4, as: 65000, nodes: ["n?"], nodeAnnotations: {bgp: ""}}
`, 1))
	r1 := map[string]string{"rack": "r1", "zone": "a", "more": "x"}
	for _, tt := range []struct {
		node                string
		labels, annotations map[string]string
		want                string
	}{
		{"n1", nil, nil, "all named"},
		{"n3", nil, nil, "all"},
		{"rack1-7", nil, nil, "all named"},
		{"rack11-7", nil, nil, "all"},
		{"n3", r1, nil, "all labelled"},
		{"n3", map[string]string{"rack": "r1"}, r1, "all"},
		{"n3", map[string]string{"rack": "r2", "zone": "a"}, nil, "all"},
		{"n3", nil, map[string]string{"bgp": ""}, "all noted"},
		{"rack1-7", nil, map[string]string{"bgp": ""}, "all named"},
		{"n1", r1, map[string]string{"bgp": ""}, "all named labelled noted"},
	} {
		var names []string
		for _, p := range c.BGP.On(tt.node, tt.labels, tt.annotations) {
			names = append(names, p.Name)
		}
		if got := strings.Join(names, " "); got != tt.want {
			t.Errorf("%s %v %v: %s, want %s", tt.node, tt.labels, tt.annotations, got, tt.want)
		}
	}
	if !c.BGP.NeedsNode() || (BGP{Peers: c.BGP.Peers[:2]}).NeedsNode() {
		t.Error("labels need the node, names do not")
	}
}

// What a peer hears is what all hear and what is its own, which wins where there can be only one.
func TestAttributes(t *testing.T) {
	c := parseBGP(t, byBGP("communities: [\"1:1\", \"1:2\"]\nlargeCommunities: [\"1:1:1\"]\nlocalPref: 200\nmed: 10\nprepend: 1",
		"communities: [\"1:2\", \"1:3\"]\nlargeCommunities: [\"1:1:2\"]\nmed: 0\nprepend: 2", ""))
	got := c.BGP.Attributes(c.BGP.Peers[0])
	if !slices.Equal(got.Communities, []uint32{1<<16 | 1, 1<<16 | 2, 1<<16 | 3}) || !slices.Equal(got.Large, [][3]uint32{{1, 1, 1}, {1, 1, 2}}) ||
		*got.LocalPref != 200 || *got.MED != 0 || got.Prepend != 3 {
		t.Errorf("%+v", got)
	}
	if len(c.BGP.Communities) != 2 || len(c.BGP.Peers[0].Communities) != 2 || c.BGP.Prepend != 1 {
		t.Errorf("it changed the configuration: %+v", c.BGP)
	}
	if got = (BGP{}).Attributes(BGPPeer{}); !reflect.DeepEqual(got, BGPAttributes{}) {
		t.Errorf("of nothing: %+v", got)
	}
}

func TestDetection(t *testing.T) {
	for peer, want := range map[string]time.Duration{
		"":                    9 * time.Second,
		"hold: 3s":            3 * time.Second,
		"bfd: {}":             9 * time.Second, // there may be a session without it
		"bfd: {strict: true}": 900 * time.Millisecond,
		"bfd: {interval: 2s, strict: true}\nhold: 3s": 3 * time.Second,
	} {
		c := parseBGP(t, byBGP("", peer, ""))
		if got := c.Detection(); got != want || c.BGP.Peers[0].Detection() != want {
			t.Errorf("%q: %s, want %s", peer, got, want)
		}
	}
	two := parseBGP(t, byBGP("", "bfd: {strict: true}", ""))
	two.BGP.Peers = append(two.BGP.Peers, BGPPeer{Hold: time.Minute})
	if got := two.Detection(); got != time.Minute {
		t.Errorf("of two peers %s, want the longest", got)
	}
	if got := (&Config{}).Detection(); got != 0 {
		t.Errorf("without BGP %s", got)
	}
}

func TestRouterID(t *testing.T) {
	own := parseBGP(t, byBGP("", "", ""))
	addrs := func(s ...string) (out []netip.Addr) {
		for _, a := range s {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	for _, tt := range []struct {
		name string
		c    *Config
		host []netip.Addr
		want string
	}{
		{"as configured", parseBGP(t, byBGP("routerID: 240.1.2.3", "", "")), addrs("10.0.0.7"), "240.1.2.3"},
		{"the first of this node alone", own, addrs("2001:db8::1", "127.0.0.1", "169.254.0.1", "192.0.2.10", "10.0.0.7", "10.0.0.3"), "10.0.0.7"},
		{"of raft.peers", parseBGP(t, base+"announce: [bgp]\nbgp: {as: 65001, peers: [{address: 10.0.0.254, as: 65000}]}\n"), addrs("10.9.9.9"), "10.0.0.2"},
	} {
		if got := RouterID(tt.c, tt.host); got != netip.MustParseAddr(tt.want) {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	seen := map[netip.Addr]bool{}
	for _, node := range []string{"n1", "n2", "n3", "a.example.com", "", "n1000"} {
		own.Node = node
		id := RouterID(own, addrs("2001:db8::1"))
		if !id.Is4() || !id.IsGlobalUnicast() || seen[id] || id != RouterID(own, nil) {
			t.Errorf("%s: %s", node, id)
		}
		seen[id] = true
	}
}

// The hash leaves out what no host has.
func TestHashID(t *testing.T) {
	for i := range 5000 {
		id := hashID(strings.Repeat("x", i))
		if first := id.As4()[0]; first == 0 || first == 127 || first >= 224 {
			t.Fatal(id)
		}
	}
}

func TestResolvePeers(t *testing.T) {
	links := []Link{{Name: "eth0", Up: true}, {Name: "eth1"}, {Name: "swp1", Up: true}}
	file := func(name, more string) string {
		return strings.Replace(byBGP("", more, ""), "address: 10.0.0.254", "interface: \""+name+"\"", 1)
	}
	for _, tt := range []struct{ file, link, want string }{
		{file("eth0", ""), "eth0", ""},
		{file("swp*", ""), "swp1", ""},
		{file("eth1", ""), "eth1", "f:9: bgp.peers[0].interface: eth1: is down (ip link set eth1 up)"},
		{file("eth*", ""), "", "f:9: bgp.peers[0].interface: eth*: several links match (a peer has one: name it, of eth0, eth1)"},
		{file("ens*", ""), "", "f:9: bgp.peers[0].interface: ens*: no such link (this host has eth0, eth1, swp1)"},
		{file("ens*", "nodes: [other]"), "", ""},
	} {
		c := parseBGP(t, tt.file)
		problems := c.Resolve(links)
		got := ""
		for _, p := range problems {
			got += p.String()
		}
		if got != tt.want || c.BGP.Peers[0].Link != tt.link {
			t.Errorf("link %q, want %q; %s, want %s", c.BGP.Peers[0].Link, tt.link, got, tt.want)
		}
	}
	labelled := parseBGP(t, file("ens*", "nodeLabels: {rack: r1}"))
	if problems := labelled.Resolve(links); len(problems) != 1 || failed(problems) {
		t.Errorf("a peer that may be another node's: %v", problems)
	}
}

// numbered are n more communities of a list.
func numbered(n int) (out string) {
	for i := range n {
		out += fmt.Sprintf(", \"65001:%d\"", i)
	}
	return out
}
