package config

import (
	"bytes"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/goccy/go-yaml"
)

// roundTrip checks that the effective configuration of c is c.
func roundTrip(t *testing.T, c *Config) {
	t.Helper()
	out, err := c.Effective()
	if err != nil {
		t.Fatal(err)
	}
	again, problems := Parse(out, c.File, Options{Hostname: "another"})
	if failed(problems) {
		t.Fatalf("the effective configuration is refused: %v\n%s", problems, out)
	}
	want := *c
	want.at, again.at = nil, nil
	if !reflect.DeepEqual(again, &want) {
		t.Fatalf("got  %+v\nwant %+v\n%s", again, &want, out)
	}
}

func TestEffective(t *testing.T) {
	files := map[string]string{
		"base":        base,
		"reference":   string(reference),
		"lease":       byLease(""),
		"of lease":    string(leaseReference()),
		"priority":    byLease("instance: blue\nlease: {duration: 2500ms, nodes: [{name: n1, priority: 7, candidate: false}, {name: n2}]}\n"),
		"services":    byServices(""),
		"of services": string(servicesReference()),
		"no services": byServices("services: {proxyHealth: off, unclassed: false, lease: 2500ms}\ninstance: blue\nserver: {listen: 0.0.0.0}\n"),
		"witness":     edit("{name: n3", "{name: n3, role: witness"),
		"instance":    base + "instance: blue\nlinger: 1500us\nserver: {listen: off}\nlog: {level: warn, format: json}\n",
		"bgp":         byBGP("communities: [0:0, \"65535:65535\", no-peer]\nlocalPref: 0\ndrain: {wait: 0}\nexclusive: false", "bfd: {auth: {keyFile: /k, keyID: 0}}\nnodes: [n1]\nnodeAnnotations: {\"a.b/c\": \"\", \"null\": \"true\"}", ""),
		"unnumbered":  strings.NewReplacer("[bgp]", "[bgp, table]", "address: 10.0.0.254\n      as: 65000", "interface: eth*\n      as: external").Replace(byBGP("listen: \"[::]:1790\"", "families: ipv6", "table: {number: 4294967295}\n")),
		"command": base + "health:\n  - command: [/bin/sh, -c, \"a: b # c\\n\\ttab 'x' \\\"y\\\"\", \"\", \" \", \"-\", \"null\", \"1\", \"yes\", \"é\", \"{}\", \"*x\", \"|\", \"a\\nb\"]\n" +
			"    interval: 100ms\n",
	}
	for name, file := range files {
		t.Run(name, func(t *testing.T) {
			c, problems := Parse([]byte(file), "f", Options{Hostname: "n1"})
			if failed(problems) {
				t.Fatal(problems)
			}
			roundTrip(t, c)
		})
	}
}

// leaseReference is the reference with the other election and all that can be announced.
func leaseReference() []byte {
	text := strings.Replace(string(reference), "\nelection: raft #", "\nelection: lease #", 1)
	return otherForm(strings.Replace(text, "\nannounce: [arp] #", "\nannounce: [arp, bgp, table] #", 1), "raft", "services")
}

// servicesReference is the reference of a service node.
func servicesReference() []byte {
	var out []string
	for _, s := range strangers {
		out = append(out, s.section)
	}
	return otherForm(string(reference), out...)
}

var topLevel = regexp.MustCompile(`^#?([a-zA-Z]+):`)

// otherForm is the reference with what is switched off switched on, without these sections. Lines stay where they are.
func otherForm(text string, without ...string) []byte {
	lines := strings.Split(text, "\n")
	out := false
	for i, line := range lines {
		if m := topLevel.FindStringSubmatch(line); m != nil {
			out = slices.Contains(without, m[1])
		} else if regexp.MustCompile(`^# [^ ]`).MatchString(line) {
			out = false
		}
		if out {
			lines[i] = ""
		} else if regexp.MustCompile(`^#( {2}|[a-z])`).MatchString(line) {
			lines[i] = line[1:]
		}
	}
	return []byte(strings.Join(lines, "\n"))
}

// references are the reference's three forms: what it says, what it says of the other election, and of a service node, which has
// none.
func references() map[Election][]byte {
	return map[Election][]byte{ElectionRaft: reference, ElectionLease: leaseReference(), "": servicesReference()}
}

// pathsWith lists every key that applies with an election, or to a service node.
func pathsWith(e Election) []string {
	c := &Config{Election: e, Announce: []Announce{AnnounceARP}}
	switch e {
	case ElectionLease:
		c.Announce = []Announce{AnnounceARP, AnnounceBGP, AnnounceTable}
	case "":
		c.Announce, c.Services = []Announce{AnnounceBGP}, defaultServices()
	}
	return paths("", slices.DeleteFunc(c.keys(), func(k key) bool { return !c.applies(k.name) }))
}

// paths lists every key below keys, items of lists as [0].
func paths(prefix string, keys []key) (all []string) {
	for _, k := range keys {
		p := prefix + k.name
		all = append(all, p)
		if k.keys == nil {
			continue
		}
		if k.many {
			p += "[0]"
		}
		all = append(all, paths(p+".", k.keys)...)
	}
	return all
}

// exclusive are keys that cannot stand in the first item of the reference, and where they are.
var exclusive = map[string]string{"health[0].tcp": "health[1].tcp", "health[0].command": "health[2].command",
	"bgp.peers[0].interface": "bgp.peers[1].interface", "bgp.peers[0].multihop": "bgp.peers[2].multihop",
	"bgp.peers[0].localPref": "bgp.peers[2].localPref"}

func TestReferenceHasEveryKey(t *testing.T) {
	for election, file := range references() {
		c, problems := Parse(file, "reference.yaml", Options{Hostname: "n1"})
		if len(problems) > 0 || c.Election != election {
			t.Fatal(election, problems)
		}
		for _, path := range pathsWith(election) {
			if other, ok := exclusive[path]; ok {
				path = other
			}
			if _, ok := c.at[path]; !ok {
				t.Errorf("%s is not in the reference", path)
			}
		}
	}
	if !bytes.Equal(Reference(), reference) {
		t.Error("the reference is not the file")
	}
}

// Every field of the types is a key of the file, apart from what is found out.
func TestKeysHaveEveryField(t *testing.T) {
	known := map[string]bool{"config.file": true, "address.links": true, "bgppeer.link": true,
		// Flattened, or of another name.
		"bgp.bGPAttributes": true, "bgppeer.bGPAttributes": true, "bgpattributes.large": true, "bgppeer.nextHop4": true, "bgppeer.nextHop6": true}
	check := func(v any, keys []key) {
		typ := reflect.TypeOf(v)
		for i := range typ.NumField() {
			f := typ.Field(i)
			name := lowerFirst(f.Name)
			if !f.IsExported() || known[strings.ToLower(typ.Name())+"."+name] {
				continue
			}
			if !slices.ContainsFunc(keys, func(k key) bool { return k.name == name }) {
				t.Errorf("%s.%s has no key %s", typ.Name(), f.Name, name)
			}
		}
	}
	check(Config{}, new(Config).keys())
	check(Address{}, new(Address).keys())
	check(Raft{}, new(Raft).keys())
	check(TLS{}, new(TLS).keys())
	check(Peer{}, new(Peer).keys())
	check(Lease{}, new(Lease).keys())
	check(LeaseNode{}, new(LeaseNode).keys())
	check(BGP{}, new(BGP).keys())
	check(BGPPeer{}, new(BGPPeer).keys())
	check(BGPAttributes{}, new(BGPAttributes).keys())
	check(Drain{}, new(Drain).keys())
	check(BGPBFD{}, new(BGPBFD).keys())
	check(BGPAuth{}, new(BGPAuth).keys())
	check(Table{}, new(Table).keys())
	check(Kubernetes{}, new(Kubernetes).keys())
	check(Health{}, new(Health).keys())
	check(Services{}, new(Services).keys())
	check(Server{}, new(Server).keys(0))
	check(Log{}, new(Log).keys())
}

// lowerFirst makes the key of a field's name: apiVersion of APIVersion, ca of CA, tls of TLS.
func lowerFirst(s string) string {
	if strings.ToUpper(s) == s {
		return strings.ToLower(s)
	}
	r := []rune(s)
	r[0] = unicode.ToLower(r[0])
	return string(r)
}

var documented = regexp.MustCompile(`^( *(?:- )?)([A-Za-z]+): .*# default: (.+)$`)

// Each default that the reference documents is what the key is when its line is missing.
func TestReferenceDefaults(t *testing.T) {
	for election, file := range references() {
		t.Run(string(election), func(t *testing.T) { checkDefaults(t, election, string(file)) })
	}
}

func checkDefaults(t *testing.T, election Election, file string) {
	lines := strings.Split(file, "\n")
	c, _ := Parse([]byte(file), "f", Options{Hostname: "n1"})
	checked := 0
	for i, line := range lines {
		m := documented.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		path := pathAt(c, i+1, m[2])
		if path == "" {
			t.Fatalf("line %d: no path", i+1)
		}
		if (path == "election" || path == "announce") && election != ElectionRaft {
			continue // without it, the other form would be meant
		}
		without := slices.Clone(lines)
		without[i] = ""
		if strings.HasSuffix(m[1], "- ") { // the item goes on in the next line
			without[i] = m[1][:len(m[1])-2] + "-"
		}
		got, problems := Parse([]byte(strings.Join(without, "\n")), "f", Options{Hostname: "n1"})
		if failed(problems) {
			t.Errorf("without %s: %v", path, problems)
			continue
		}
		want := m[3]
		if derived, ok := derivedDefaults[path]; ok && strings.HasPrefix(want, "(") {
			want = derived
		}
		if path == "server.listen" && election == "" {
			want = "127.0.0.1:7403"
		}
		want = strings.ReplaceAll(want, "{node}", "n1")
		if v := effectiveAt(t, got, path); v != want {
			t.Errorf("%s: documented default %s, real one %s", path, want, v)
		}
		checked++
	}
	// What has no default is required or off; the rest must say what it is.
	var none []string
	for _, path := range pathsWith(election) {
		if p, ok := exclusive[path]; ok {
			path = p
		}
		line := lines[c.at[path].line-1]
		if !documented.MatchString(line) && !slices.Contains(noDefault, path) {
			none = append(none, path)
		}
	}
	if len(none) > 0 || checked < 22 {
		t.Errorf("%d defaults checked; none documented for %v", checked, none)
	}
}

var derivedDefaults = map[string]string{
	"node": "n1", "raft.listen": "10.0.0.1:7400", "raft.bootstrap": "n1", "health[0].name": "http", "kubernetes.servers": "- https://127.0.0.1:6443",
	"announce": "- arp", "server.listen": "127.0.0.1:7401", "bgp.peers[0].name": "10.0.0.254", "bgp.peers[0].keepalive": "3s", "bgp.peers[0].families": "- ipv4\n- ipv6",
}

var noDefault = []string{
	"apiVersion", "addresses", "addresses[0].address", "lease", "lease.nodes", "lease.nodes[0].name", "kubernetes", "kubernetes.kubeconfig", "raft", "raft.tls", "raft.peers", "raft.peers[0].name",
	"raft.peers[0].address", "health", "health[1].tcp", "health[0].http", "health[2].command", "health[0].ca",
	"health[0].cert", "health[0].key", "health[0].serverName", "server", "log",
	"bgp", "bgp.as", "bgp.routerID", "bgp.communities", "bgp.largeCommunities", "bgp.localPref", "bgp.med", "bgp.drain", "bgp.peers",
	"bgp.peers[0].address", "bgp.peers[1].interface", "bgp.peers[0].as", "bgp.peers[0].localAS", "bgp.peers[0].localAddress",
	"bgp.peers[0].passwordFile", "bgp.peers[2].multihop", "bgp.peers[0].nextHop", "bgp.peers[0].communities", "bgp.peers[0].largeCommunities",
	"bgp.peers[2].localPref", "bgp.peers[0].med", "bgp.peers[0].bfd", "bgp.peers[0].bfd.auth", "bgp.peers[0].bfd.auth.keyFile",
	"bgp.peers[0].nodes", "bgp.peers[0].nodeLabels", "bgp.peers[0].nodeAnnotations", "table", "services",
}

// pathAt is the path of a key in a line of the file.
func pathAt(c *Config, line int, name string) string {
	for path, at := range c.at {
		if at.line == line && strings.HasSuffix("."+path, "."+name) {
			return path
		}
	}
	return ""
}

func effectiveAt(t *testing.T, c *Config, path string) string {
	t.Helper()
	out, err := c.Effective()
	if err != nil {
		t.Fatal(err)
	}
	p, err := yaml.PathString("$." + path)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := p.Read(bytes.NewReader(out), &v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	text, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Trim(strings.TrimSpace(string(text)), `"`)
}

func FuzzParse(f *testing.F) {
	f.Add(string(reference))
	f.Add(string(leaseReference()))
	f.Add(string(servicesReference()))
	f.Add(byServices("services:\nlease: {}\nkubernetes: {servers: [\"https://[::1]/\"]}\nbgp: {as: 1}\n"))
	f.Add(base)
	f.Add(byLease("kubernetes: {servers: [\"https://[::1]/\", \"https://192.0.2.10\"]}\nraft:\n"))
	f.Add(byBGP("communities: [no-export]\nunhealthy: last-resort", "bfd: {auth: {keyFile: /k}}\nnodeLabels: {a: b}\nnextHop: [10.0.0.1]\nlocalAS: 1.10", ""))
	f.Add(strings.Replace(byBGP("", "families: ipv6", "table:\n"), "[bgp]", "[bgp, table]", 1))
	f.Add("a: &x [*x]\n<<: *x\n? b\n: !!c |\n  d\n--- \n%e\n")
	f.Fuzz(func(t *testing.T, file string) {
		c, problems := Parse([]byte(file), "f", Options{Hostname: "n1"})
		if (c == nil) != failed(problems) {
			t.Fatalf("config %v with problems %v", c, problems)
		}
		for _, p := range problems {
			if s := p.String(); strings.ContainsAny(s, "\n\r") || p.Message == "" {
				t.Errorf("not one line: %q", s)
			}
		}
		if c != nil {
			c.Resolve(nil)
			roundTrip(t, c)
		}
	})
}
