package kubevip

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// Each name is known once, and there is something to do or to say for it.
func TestSettingsAreUnique(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range settings {
		all := slices.Concat(k.env, k.flags)
		if len(all) == 0 || (k.take == nil) == (k.why == "") {
			t.Errorf("%+v: nothing, or two things, to do", k)
		}
		for _, name := range all {
			if seen[name] {
				t.Errorf("%s is there twice", name)
			}
			seen[name] = true
		}
	}
}

// pod is a static pod with one more variable, or one more flag.
func pod(name, value string) string {
	if strings.HasPrefix(name, "-") {
		return "kind: Pod\nspec:\n  containers:\n  - image: kube-vip\n    args: [manager, '" + name + "=" + value + "']\n    env:\n    - {name: address, value: 192.0.2.9}\n    - {name: cp_enable, value: 'true'}\n"
	}
	return "kind: Pod\nspec:\n  containers:\n  - image: kube-vip\n    env:\n    - {name: address, value: 192.0.2.9}\n    - {name: cp_enable, value: 'true'}\n    - {name: " + name + ", value: '" + value + "'}\n"
}

// taken are the values that become part of the configuration, or say what is so anyway: nothing is to be told.
var taken = map[string]string{
	"address": "192.0.2.9", "vip_interface": "eth7", "vip_subnet": "/32", "port": "6443", "cp_enable": "true", "svc_enable": "false", "vip_arp": "true",
	"vip_loglevel": "5", "kubernetes_addr": "https://192.0.2.1:6443", "KUBERNETES_SERVICE_HOST": "192.0.2.1", "KUBERNETES_SERVICE_PORT": "6443",
	"dns_mode": "first", "cp_namespace": "network", "vip_leaderelection": "true", "vip_leaseduration": "7", "--leaderElectionType": "kubernetes",
	"--inCluster": "true", "vip_routingtable": "true",
}

// Every setting that is known is taken over in silence or told; none is dropped.
func TestNothingIsDropped(t *testing.T) {
	for _, k := range settings {
		for _, name := range slices.Concat(k.env, k.flags) {
			first := slices.Concat(k.env, k.flags)[0]
			value, silent := taken[first]
			if !silent {
				value = "true"
			}
			_, notes, err := Import([]byte(pod(name, value)), "")
			if first == "bgp_enable" {
				if err == nil || !strings.Contains(err.Error(), "names no router") {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			told := slices.ContainsFunc(notes, func(n Note) bool { return n.Name == name && n.Text != "" })
			if told == silent && name != "--vip" { // as --address, in other words
				t.Errorf("%s: %s: told: %v, notes %v", name, value, told, notes)
			}
		}
	}
}

// What is switched off, and what is not given, is nothing to tell.
func TestOffIsSilent(t *testing.T) {
	for _, k := range settings {
		if !k.on || k.take != nil {
			continue
		}
		for _, value := range []string{"false", ""} {
			name := slices.Concat(k.env, k.flags)[0]
			if _, notes, err := Import([]byte(pod(name, value)), ""); err != nil || slices.ContainsFunc(notes, func(n Note) bool { return n.Name == name }) {
				t.Errorf("%s: %q: %v, %v", name, value, notes, err)
			}
		}
	}
}

func TestUnknownIsTold(t *testing.T) {
	for _, name := range []string{"vip_shiny_new", "bgp_shiny", "HTTPS_PROXY", "--shiny"} {
		_, notes, err := Import([]byte(pod(name, "x")), "")
		if err != nil || !slices.ContainsFunc(notes, func(n Note) bool { return n.Name == name && n.Value == "x" }) {
			t.Errorf("%s: %v, %v", name, notes, err)
		}
	}
}

func TestHidePassword(t *testing.T) {
	for peer, want := range map[string]string{
		"192.0.2.1:65000::false":            "192.0.2.1:65000::false",
		"192.0.2.1:65000":                   "192.0.2.1:65000",
		"192.0.2.1:65000:s3cret:false":      "192.0.2.1:65000:(not shown)",
		"192.0.2.1:65000:s3:cret:false:x/1": "192.0.2.1:65000:(not shown)",
		"[2001:db8::1]:65000:s3cret:false":  "[2001:db8::1]:65000:(not shown)",
		"[2001:db8::1]:65000::false":        "[2001:db8::1]:65000::false",
	} {
		if got := hidePassword(peer); got != want {
			t.Errorf("%s: %s, want %s", peer, got, want)
		}
	}
}

// with is a static pod of BGP with these variables, name=value, and more lines of env.
func with(more string, variables ...string) string {
	out := pod("bgp_enable", "true")
	for _, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		out += "    - {name: " + name + ", value: '" + value + "'}\n"
	}
	return out + more
}

// Each set of settings makes these lines, in their order, and has these notes, all of them.
func TestBGP(t *testing.T) {
	id := "is this node's: on every other node leave "
	for name, tt := range map[string]struct {
		manifest string
		want     []string
		notes    []string
	}{
		"one router": {with("", "bgp_as=65001", "bgp_peeraddress=10.0.0.254", "bgp_peeras=65000", "bgp_routerid=10.0.0.1", "bgp_sourceip=10.0.0.1", "bgp_hold_time=30", "bgp_keepalive_interval=10"),
			[]string{"announce: [bgp]", "election: none", "as: 65001", "routerID: 10.0.0.1", "- address: 10.0.0.254", "as: 65000", "localAddress: 10.0.0.1", "hold: 30s", "keepalive: 10s"},
			[]string{"bgp_routerid: 10.0.0.1: " + id + "bgp.routerID out, or change it", "bgp_sourceip: 10.0.0.1: " + id + "localAddress out, or change it"}},
		"elected": {with("", "vip_leaderelection=true", "bgp_as=65001", "bgp_peers=10.0.0.254:65000"), []string{"election: lease", "kubernetes:", "as: 65001"},
			[]string{"kubeconfig: make Pintle a user of its own: kubeadm kubeconfig user --client-name pintle > /etc/kubernetes/pintle.conf, and its rights: pintle manifest rbac --user pintle | kubectl apply -f -"}},
		"usual numbers": {with("", "bgp_peeraddress=10.0.0.254"), []string{"as: 65000", "as: 65000"}, []string{
			"bgp_as: is not there: bgp.as is 65000, as it is with kube-vip", "bgp_peeras: is not there: the router's AS is 65000, as it is with kube-vip"}},
		"a password from a Secret": {with("    - {name: bgp_peerpass, valueFrom: {secretKeyRef: {name: bgp, key: pass}}}\n", "bgp_as=65001", "bgp_peeraddress=10.0.0.254", "bgp_peeras=65000"),
			[]string{"passwordFile: /etc/pintle/bgp/10.0.0.254"}, []string{"bgp_peerpass: from Secret bgp, key pass: write the password into /etc/pintle/bgp/10.0.0.254 on every node, for only root to read, " +
				"or with a DaemonSet into the Secret that `pintle manifest daemonset` tells of: it is not copied"}},
		"a password of nobody": {with("", "bgp_as=65001", "bgp_peerpass=s3cret", "bgp_peers=10.0.0.254:65000"), []string{"- address: 10.0.0.254"},
			[]string{"bgp_peerpass: (not shown): belongs to bgp_peeraddress, which is not there or is in bgp_peers too"}},
		"all of a router": {with("", "bgp_as=65001", "bgp_peers=[fd00::1]:65000::true:1790:mpbgp_nexthop=auto_sourceif:true;200;400;5,unnumbered:eth0,unnumbered:eth1:65002"),
			[]string{`- address: "fd00::1"`, "as: 65000", "port: 1790", "multihop: 50", "bfd: {interval: 400ms, multiplier: 5}", "- interface: eth0", "as: external", "- interface: eth1", "as: 65002"}, []string{
				"bgp_peers: [fd00::1]:65000::true:1790:mpbgp_nexthop=auto_sourceif:true;200;400;5: port 1790 is asked here, where kube-vip has always asked port 179",
				"bgp_peers: [fd00::1]:65000::true:1790:mpbgp_nexthop=auto_sourceif:true;200;400;5: multihop is 50, which is what kube-vip has: make it how many hops away the router is",
				"bgp_peers: [fd00::1]:65000::true:1790:mpbgp_nexthop=auto_sourceif:true;200;400;5: Pintle names this node's own addresses as next hops: set nextHop for others",
				"bgp_peers: [fd00::1]:65000::true:1790:mpbgp_nexthop=auto_sourceif:true;200;400;5: BFD is each 400ms, times 5: one interval for both ways"}},
		"options as they were": {with("", "bgp_as=65001", "bgp_peers=10.0.0.254:65000:s3cret:false/mpbgp_nexthop=fixed;mpbgp_ipv6=fd00::1", "mpbgp_ipv6=fd00::2"),
			[]string{"passwordFile: /etc/pintle/bgp/10.0.0.254", `nextHop: ["fd00::2"]`}, []string{
				"bgp_peers: 10.0.0.254:65000:(not shown): Pintle names this node's own addresses as next hops: set nextHop for others",
				"bgp_peers: 10.0.0.254:65000:(not shown): write the password into /etc/pintle/bgp/10.0.0.254 on every node, for only root to read, " +
					"or with a DaemonSet into the Secret that `pintle manifest daemonset` tells of: it is not copied",
				"mpbgp_ipv6: fd00::2: " + id + "nextHop out, or change it"}},
		"one that cannot be read": {with("", "bgp_as=x", "bgp_hold_time=2", "bgp_peers=tor1:65000,10.0.0.254:65000,,10.0.0.253"), []string{"as: 65000", "- address: 10.0.0.254"}, []string{
			"bgp_as: x: is no AS: 65000, kube-vip's own, is taken: correct it",
			"bgp_hold_time: 2: is not 3 to 65535: Pintle's own is taken, hold 9s, and a third of it for keepalive",
			"bgp_peers: tor1:65000: is no address and AS: name this router in bgp.peers",
			"bgp_peers: 10.0.0.253: is no address and AS: name this router in bgp.peers"}},
		"a table beside it": {with("", "bgp_as=65001", "bgp_peers=10.0.0.254:65000", "vip_routingtable=true", "vip_routingtableid=7"), []string{"announce: [bgp]"}, []string{
			"vip_routingtable: true: bgp_enable is true too, and kube-vip then writes no routes: with Pintle announce: [bgp, table] does both",
			"vip_routingtableid: 7: has no effect: vip_routingtable is not true, or bgp_enable is too"}},
		"ARP beside it": {with("", "vip_arp=true", "bgp_as=65001", "bgp_peers=10.0.0.254:65000", "vip_interface=eth0", "k8s_config_file=/etc/kubernetes/admin.conf"), []string{"announce: [bgp]"}, []string{
			"vip_arp: true: kube-vip does one thing only, and here that is not ARP: with Pintle announce: [arp, bgp] does both, with an election",
			"vip_interface: eth0: the address stands on lo, and is announced on no link",
			"k8s_config_file: /etc/kubernetes/admin.conf: nothing is elected here, so Pintle asks nothing of the API and needs no kubeconfig"}},
		"a table": {pod("vip_routingtable", "true"), []string{"announce: [table]", "election: none", "number: 198", "protocol: 248"}, nil},
		"a table of its own": {pod("vip_routingtable", "true") + "    - {name: vip_routingtableid, value: 7}\n    - {name: vip_routingprotocol, value: 99}\n    - {name: vip_leaderelection, value: true}\n",
			[]string{"announce: [table]", "election: none", "number: 7", "protocol: 99"}, []string{
				"vip_leaderelection: true: kube-vip elects nobody for a control plane in a routing table: every healthy node has the route. election: lease would"}},
		"the host's table": {pod("vip_routingtable", "true") + "    - {name: vip_routingtableid, value: 254}\n    - {name: vip_routingprotocol, value: 2}\n", []string{"number: 198", "protocol: 248"}, []string{
			"vip_routingtableid: 254: Pintle keeps out of the host's own tables: table.number is 198, and the other daemon must read that one",
			"vip_routingprotocol: 2: is not 4 to 255: table.protocol is 248"}},
	} {
		t.Run(name, func(t *testing.T) {
			r, notes, err := Import([]byte(tt.manifest), "")
			if err != nil {
				t.Fatal(err)
			}
			config := r.Plane
			rest := string(config)
			for _, w := range tt.want {
				_, after, ok := strings.Cut(rest, w)
				if !ok {
					t.Fatalf("no %q in its place in\n%s", w, config)
				}
				rest = after
			}
			var got []string
			for _, n := range notes {
				got = append(got, n.String())
			}
			if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(tt.notes))) {
				t.Errorf("notes\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(tt.notes, "\n  "))
			}
			if strings.Contains(string(config)+strings.Join(got, ""), "s3cret") {
				t.Error("a password is shown")
			}
		})
	}
}

// A DaemonSet's settings are those of every node.
func TestBGPOnEveryNode(t *testing.T) {
	manifest := "kind: DaemonSet\nspec:\n  template:\n    spec:\n      containers:\n      - image: kube-vip\n        env:\n" +
		"        - {name: address, value: 192.0.2.9}\n        - {name: bgp_enable, value: 'true'}\n        - {name: bgp_as, value: '65001'}\n" +
		"        - {name: bgp_peers, value: '10.0.0.254:65000'}\n        - {name: bgp_routerid, valueFrom: {fieldRef: {fieldPath: status.podIP}}}\n" +
		"        - {name: bgp_sourceip, value: 10.0.0.1}\n        - {name: mpbgp_ipv4, value: 10.0.0.1}\n"
	r, notes, err := Import([]byte(manifest), "")
	if err != nil {
		t.Fatal(err)
	}
	config := r.Plane
	for _, key := range []string{"routerID", "localAddress", "nextHop"} {
		if strings.Contains(string(config), key) {
			t.Errorf("every node gets one %s:\n%s", key, config)
		}
	}
	for _, name := range []string{"bgp_routerid", "bgp_sourceip", "mpbgp_ipv4"} {
		if !slices.ContainsFunc(notes, func(n Note) bool { return n.Name == name }) {
			t.Errorf("%s: dropped in silence: %v", name, notes)
		}
	}
}

func FuzzImport(f *testing.F) {
	script, err := os.ReadFile("../../cmd/pintle/testdata/import-kube-vip.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, part := range strings.Split(string(script), "\n-- ") {
		_, text, _ := strings.Cut(part, " --\n")
		f.Add([]byte(text))
	}
	f.Add([]byte(configMap("cidr-global: 10.0.9.0/24,2001:db8::/64", "range-dev: 10.0.1.1-10.0.1.9", "interface-dev: eth1", "allow-share-dev: 'true'", "skip-end-ips-in-cidr: 'true'")))
	f.Fuzz(func(t *testing.T, manifest []byte) {
		r, notes, err := Import(manifest, "")
		if err == nil && len(r.Plane)+len(r.Config)+len(r.Pools) == 0 {
			t.Error("neither something to print nor an error")
		}
		if err == nil && r.Pools != nil {
			readPools(t, r.Pools)
		}
		for _, n := range notes {
			if n.Name == "" && n.Value == "" || n.Text == "" {
				t.Errorf("an empty note: %+v", n)
			}
		}
	})
}
