package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// byServices is a good file of a service node; what is more has a section services of its own, or the file has an empty one.
func byServices(more string) string {
	if !strings.Contains(more, "services:") {
		more = "services: {}\n" + more
	}
	return "apiVersion: pintle.dev/v1\n" + more
}

const servicesBGP = "bgp:\n  as: 65001\n  peers:\n    - {address: 10.0.0.254, as: 65000}\n"

func TestServicesDefaults(t *testing.T) {
	for _, file := range []string{byServices(""), byServices("services:\n"), byServices("bgp:\nservices: ~\n")} {
		c, problems := Parse([]byte(file), "f", Options{Hostname: "n2"})
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		if want := (Peer{Name: "n2", Role: RoleVoter, Candidate: true}); c.Self() != want || c.Rank() != 0 {
			t.Errorf("%+v, rank %d", c.Self(), c.Rank())
		}
		for _, a := range []Announce{AnnounceARP, AnnounceBGP, AnnounceTable} {
			if c.Announces(a) {
				t.Errorf("announces %s", a)
			}
		}
		if !c.NeedsKubernetes() || c.Detection() != 0 || len(c.Resolve(nil)) > 0 {
			t.Errorf("%v, %s, %v", c.NeedsKubernetes(), c.Detection(), c.Resolve(nil))
		}
		c.at = nil
		want := &Config{File: "f", Instance: "default", Node: "n2", Raft: Raft{Realtime: RealtimeOff},
			Services: &Services{Namespace: "pintle-system", Lease: 10 * time.Second, Class: "pintle.dev/lb", Unclassed: true,
				ProxyHealth: "http://127.0.0.1:10256/healthz", KeepPort: 7402},
			Kubernetes: Kubernetes{Servers: []string{DefaultServer}, ServerName: "kubernetes.default.svc"},
			Server:     Server{Listen: netip.MustParseAddrPort("127.0.0.1:7403"), RunDir: "/run/pintle"},
			Log:        Log{Format: "text"},
		}
		if !reflect.DeepEqual(c, want) {
			t.Errorf("got  %+v\nwant %+v", c, want)
		}
	}
}

// Another instance on the same host has other ports.
func TestServicesPorts(t *testing.T) {
	for more, want := range map[string]string{
		"":                                      "127.0.0.1:7403",
		"server: {}\n":                          "127.0.0.1:7403",
		"server: {listen: 0.0.0.0}\n":           "0.0.0.0:7403", // without a port
		"server: {listen: \"[::1]:7401\"}\n":    "[::1]:7401",
		"server: {listen: off}\nservices: {}\n": "invalid AddrPort",
	} {
		c, problems := Parse([]byte(byServices(more)), "f", Options{Hostname: "n1"})
		if len(problems) > 0 || c.Server.Listen.String() != want {
			t.Errorf("%q: %v, want %s; %v", more, c, want, problems)
		}
	}
}

func TestServicesBGP(t *testing.T) {
	c, problems := Parse([]byte(byServices(servicesBGP)), "f", Options{Hostname: "n1"})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if !c.Announces(AnnounceBGP) || c.Announces(AnnounceARP) || len(c.BGP.On("n1", nil, nil)) != 1 || c.Detection() != 9*time.Second || c.BGP.Drain.Wait != 2*time.Second {
		t.Errorf("%+v", c)
	}
	if got := RouterID(c, []netip.Addr{netip.MustParseAddr("10.0.0.7")}).String(); got != "10.0.0.7" {
		t.Errorf("router ID %s", got)
	}
	roundTrip(t, c)
}

// What a pod's environment names is asked unless the file names others, and only by a service node.
func TestServicesAPIServer(t *testing.T) {
	env := func(host, port string) string {
		return apiServer(func(k string) string {
			return map[string]string{"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}[k]
		})
	}
	named := "kubernetes: {servers: [\"https://10.0.0.1:6443\"]}\n"
	for _, tt := range []struct{ file, server, want string }{
		{byServices(""), env("10.96.0.1", "443"), "https://10.96.0.1:443"},
		{byServices(""), env("fd00::1", "443"), "https://[fd00::1]:443"},
		{byServices(""), env("", ""), DefaultServer},
		{byServices(""), env("10.96.0.1", ""), DefaultServer},
		{byServices(named), env("10.96.0.1", "443"), "https://10.0.0.1:6443"},
		{byServices(named), env("api.example.com", "443"), "https://10.0.0.1:6443"},
		{byLease(""), env("10.96.0.1", "443"), DefaultServer},
	} {
		c, problems := Parse([]byte(tt.file), "f", Options{Hostname: "n1", APIServer: tt.server})
		if len(problems) > 0 || !slices.Equal(c.Kubernetes.Servers, []string{tt.want}) {
			t.Errorf("%q with %s: %+v, want %s; %v", tt.file, tt.server, c, tt.want, problems)
		}
	}
	_, problems := Parse([]byte(byServices("")), "f", Options{Hostname: "n1", APIServer: env("api.example.com", "443")})
	if want := "f:1: kubernetes.servers: https://api.example.com:443: of this pod's environment: has a name " +
		"(name the IP address and port of the Service kubernetes with kubernetes.servers)"; len(problems) != 1 || problems[0].String() != want {
		t.Errorf("%v, want %s", problems, want)
	}
}

func TestLoadReadsTheEnvironment(t *testing.T) {
	name := filepath.Join(t.TempDir(), "pintle.yaml")
	if err := os.WriteFile(name, []byte(byServices("")), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	if c, problems := Load(name, "n1"); len(problems) > 0 || c.Kubernetes.Servers[0] != "https://10.96.0.1:443" {
		t.Errorf("%+v, %v", c, problems)
	}
}

// Each file has the problems listed, all of them and no others.
func TestServicesProblems(t *testing.T) {
	const other = " (leave it out; the address of a control plane is for another instance, with a file of its own)"
	bgp := func(more string) string {
		return byServices(strings.Replace(servicesBGP, "  peers:", more+"  peers:", 1))
	}
	for _, tt := range []struct {
		name, file string
		want       []string
	}{
		{"a control plane too", base + "services: {}\nannounce: [arp]\nbind: ready\nlinger: 1s\nelection: raft\nlease: {}\ntable: {}\nholdDown: 10s\n", []string{
			"f:2: addresses: has no effect beside services: pools have the addresses of Services" + other,
			"f:4: raft: has no effect beside services: each node has a Lease of its own" + other,
			"f:10: announce: has no effect beside services: pools say how their addresses are announced" + other,
			"f:11: bind: has no effect beside services: pools say it" + other,
			"f:12: linger: has no effect beside services: a node goes on accepting as long as the cluster's own forwarding does" + other,
			"f:13: election: has no effect beside services: each node has a Lease of its own" + other,
			"f:14: lease: has no effect beside services: services.namespace and services.lease say what there is to say of the Leases" + other,
			"f:15: table: has no effect beside services: pools announce by ARP or by BGP" + other,
			"f:16: holdDown: has no effect beside services: the placement bounds how often an address moves" + other}},
		{"not a mapping", byServices("services: true\n"), []string{"f:2: services: true: is true or false, want a mapping"}},
		{"values", byServices("services: {namespace: A, lease: 1s, class: a/b/c, proxyHealth: \"https://127.0.0.1/\", keepPort: 80, pools: []}\n"), []string{
			"f:2: services.namespace: A: not a name that Kubernetes has (up to 63 of a-z, 0-9 and -)",
			"f:2: services.lease: 1s: out of range, want 2s to 60s",
			"f:2: services.class: a/b/c: not a loadBalancerClass (as pintle.dev/lb)",
			"f:2: services.proxyHealth: https://127.0.0.1/: is not http, which kube-proxy and its replacements talk (write it as http://127.0.0.1:10256/healthz, or off)",
			"f:2: services.keepPort: 80: out of range, want 1024 to 65535",
			"f:2: services.pools: unknown key (known here: namespace, lease, class, unclassed, proxyHealth, keepPort)"}},
		{"no URL", byServices("services: {proxyHealth: 127.0.0.1, class: \"\"}\n"), []string{
			"f:2: services.proxyHealth: 127.0.0.1: not an http or https URL (write it as http://127.0.0.1:10256/healthz, or off)",
			"f:2: services.class: not a loadBalancerClass (as pintle.dev/lb)"}},
		{"a port of BFD", byServices("services: {keepPort: 3784}\n" + servicesBGP), []string{
			"f:2: services.keepPort: 3784: is a port of BFD (choose another, the same on every node)"}},
		{"that port without routers", byServices("services: {keepPort: 3784}\n"), nil},
		{"a node that Kubernetes cannot have", byServices("node: N_1\n"), []string{
			"f:3: node: N_1: not a name that Kubernetes has (up to 253 of a-z, 0-9, - and .)"}},
		{"a long name", byServices("node: " + strings.Repeat("a.", 121) + "a\n"), []string{
			"f:3: node: " + strings.Repeat("a.", 40) + "...: has 243 letters: no Lease could be named after it (at most 241)"}},
		{"exclusive", bgp("  exclusive: true\n"), []string{
			"f:5: bgp.exclusive: true: every suitable node advertises the addresses of Services (leave it out)"}},
		{"last resort", bgp("  unhealthy: last-resort\n"), []string{
			"f:5: bgp.unhealthy: last-resort: a node that is not well advertises no Service: others do (leave it out)"}},
		{"BGP of its own kind", bgp("  unhealthy: withdraw\n  exclusive: false\n  drain: {wait: 5s, prepend: 2}\n  localPref: 3\n"), []string{
			"f:8: bgp.localPref: 3: has no effect: no peer is of our own AS (use med, prepend or communities)"}},
		{"BGP without routers", byServices("bgp: {as: 65001}\n"), []string{"f:3: bgp.peers: is missing (name a router)"}},
		{"BGP of a text", byServices("bgp: yes\n"), []string{"f:3: bgp: yes: is a text, want a mapping"}},
		{"the same port twice", byServices("server: {listen: 0.0.0.0:179}\n" + strings.Replace(servicesBGP, "  peers:", "  listen: 0.0.0.0:179\n  peers:", 1)), []string{
			"f:6: bgp.listen: 0.0.0.0:179: the same as server.listen, 0.0.0.0:179 (give it a port of its own)"}},
		{"servers", byServices("kubernetes: {servers: [\"https://api\"]}\n"), []string{
			"f:3: kubernetes.servers[0]: https://api: has a name (write the IP address: Pintle must not need a name server)"}},
		{"health", byServices("health:\n  - {tcp: \"127.0.0.1:1\", rise: 0}\n"), []string{"f:4: health[0].rise: 0: out of range, want 1 to 100"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, problems := Parse([]byte(tt.file), "f", Options{Hostname: "n1"})
			var got []string
			for _, p := range problems {
				got = append(got, p.String())
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got\n  %s\nwant\n  %s\n%s", strings.Join(got, "\n  "), strings.Join(tt.want, "\n  "), tt.file)
			}
			if (c == nil) != failed(problems) {
				t.Errorf("config %v with problems %v", c, problems)
			}
		})
	}
}
