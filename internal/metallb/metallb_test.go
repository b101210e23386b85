package metallb

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/poolfile"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

var update = flag.Bool("update", false, "write the files of testdata anew")

// Each input makes these pools, this configuration, and these notes.
func TestGolden(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.*")
	if err != nil || len(inputs) < 8 {
		t.Fatal(inputs, err)
	}
	for _, file := range inputs {
		name, ok := strings.CutSuffix(filepath.Base(file), ".yaml")
		if !ok {
			if name, ok = strings.CutSuffix(filepath.Base(file), ".json"); !ok {
				continue
			}
		}
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			r, notes, err := Import([]Source{{filepath.Base(file), data}}, "pintle import metallb "+filepath.Base(file))
			if err != nil {
				t.Fatal(err)
			}
			said := ""
			for _, n := range notes {
				said += n.String() + "\n"
			}
			out := string(r.Pools)
			if r.Needed {
				out += "--- " + fileName + "\n" + string(r.Config)
			}
			golden(t, name+".out", out)
			golden(t, name+".notes", said)
			if strings.Contains(out+said, "hunter2") || strings.Contains(out+said, "aHVudGVyMg") {
				t.Error("a password is shown")
			}
			if name != "odd" && strings.Contains(said, fileName+":") {
				t.Error("Pintle would say something of the configuration")
			}
			if problems := sound(r); problems != nil && name != "odd" {
				t.Error(problems)
			}
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
	}
}

// sound reads a result as an API server and Pintle do. What it returns is wrong with it.
func sound(r Result) (problems []string) {
	add := func(err error) {
		if err != nil {
			problems = append(problems, err.Error())
		}
	}
	var names []string
	for _, doc := range strings.Split(string(r.Pools), "\n---\n") {
		if doc == "" {
			continue
		}
		var p pintlev1.AddressPool
		add(yaml.UnmarshalStrict([]byte(doc), &p))
		names = append(names, p.Name)
		problems = append(problems, validation.IsDNS1123Subdomain(p.Name)...)
		if p.Kind != "AddressPool" || p.APIVersion != "pintle.dev/v1" || len(p.Spec.Addresses) == 0 || len(p.Spec.Announce) == 0 {
			problems = append(problems, "not a pool: "+doc)
		}
		for _, a := range p.Spec.Addresses {
			_, err := ipam.ParseRange(a, p.Spec.SkipFirstLast)
			add(err)
		}
		// As the rules of manifests/crds say it.
		routed := slices.Contains(p.Spec.Announce, pintlev1.AnnounceBGP)
		if len(p.Spec.Links) > 0 && !slices.Contains(p.Spec.Announce, pintlev1.AnnounceARP) || p.Spec.BGP != nil && !routed {
			problems = append(problems, "links without arp, or bgp without bgp: "+doc)
		}
		for _, set := range [][]string{p.Spec.Addresses, p.Spec.Links, p.Spec.Namespaces} {
			if len(unique(set)) != len(set) || len(set) > poolfile.MaxAddresses {
				problems = append(problems, "no set: "+strings.Join(set, " "))
			}
		}
		for _, s := range []*metav1.LabelSelector{p.Spec.NamespaceSelector, p.Spec.ServiceSelector, p.Spec.NodeSelector} {
			_, err := metav1.LabelSelectorAsSelector(s)
			add(err)
		}
		if b := p.Spec.BGP; b != nil {
			for _, c := range b.Communities {
				_, err := config.Community(c)
				add(err)
			}
			for _, c := range b.LargeCommunities {
				_, err := config.LargeCommunity(c)
				add(err)
			}
		}
	}
	if slices.Sort(names); len(slices.Compact(slices.Clone(names))) != len(names) {
		problems = append(problems, "two pools of one name: "+strings.Join(names, " "))
	}
	c, found := config.Parse(r.Config, fileName, config.Options{Node: "node"})
	for _, p := range found {
		problems = append(problems, p.String())
	}
	if c != nil && c.Services == nil {
		problems = append(problems, "no configuration for Services")
	}
	var m corev1.ConfigMap
	add(yaml.UnmarshalStrict(poolfile.ConfigMap(r.Config), &m))
	if m.Name != "pintle-services" || m.Namespace != "pintle-system" || m.Data["pintle.yaml"] != string(r.Config) {
		problems = append(problems, "the ConfigMap has another configuration: "+m.Data["pintle.yaml"])
	}
	return problems
}

// settings are all that MetalLB's objects have had, with a value each that means something.
var settings = map[string][]string{
	"IPAddressPool": {"autoAssign: false", "avoidBuggyIPs: true", "serviceAllocation: {priority: 5}", "serviceAllocation: {namespaces: [a]}",
		"serviceAllocation: {namespaceSelectors: [{matchLabels: {a: b}}]}", "serviceAllocation: {serviceSelectors: [{matchLabels: {a: b}}]}", "serviceAllocation: {shiny: 1}",
		"bgpAdvertisements: [{localPref: 3}]"},
	"L2Advertisement": {"ipAddressPools: [b]", "ipAddressPoolSelectors: [{matchLabels: {a: c}}]", "nodeSelectors: [{matchLabels: {a: b}}]", "interfaces: [eth0]",
		"serviceSelectors: [{matchLabels: {a: b}}]", "preferredNodeSelectors: [{weight: 1, preference: {}}]"},
	"BGPAdvertisement": {"aggregationLength: 24", "aggregationLengthV6: 64", "localPref: 7", "communities: ['1:2']", "communities: [mine]", "ipAddressPools: [b]",
		"ipAddressPoolSelectors: [{matchLabels: {a: c}}]", "nodeSelectors: [{matchLabels: {a: b}}]", "peers: [r]", "serviceSelectors: [{matchLabels: {a: b}}]"},
	"BGPPeer": {"peerPort: 180", "holdTime: 30s", "holdTime: 0s", "keepaliveTime: 2s", "connectTime: 9s", "ebgpMultiHop: true", "password: x", "passwordSecret: {name: x}",
		"passwordSecret: {shiny: x}", "bfdProfile: b", "bfdProfile: c", "sourceAddress: 10.0.0.2", "routerID: 10.0.0.3", "nodeSelectors: [{matchLabels: {a: b}}]",
		"nodeSelectors: [{matchExpressions: [{key: a, operator: Exists}]}]", "interface: eth0", "vrf: red", "disableMP: true", "enableGracefulRestart: true",
		"dynamicASN: external", "myASN: 64503", "peerASN: 64504", "peerAddress: 10.0.0.5"},
	"BFDProfile": {"receiveInterval: 400", "transmitInterval: 400", "detectMultiplier: 5", "echoMode: true", "passiveMode: true", "minimumTtl: 3"},
	"Community":  {"communities: [{name: mine, value: '3:4'}]"},
}

// cluster is one object of each kind, with one more setting in one of them.
func cluster(kind, setting string) string {
	out := ""
	for _, o := range []struct{ kind, spec string }{
		{"IPAddressPool", "addresses: [10.0.9.0/28]"}, {"L2Advertisement", "interfaces: [eth9]"}, {"BGPAdvertisement", "communities: [mine, '1:9']"},
		{"BGPPeer", "myASN: 64501\n  peerASN: 64502\n  peerAddress: 10.0.0.1\n  bfdProfile: p"}, {"BFDProfile", "echoInterval: 50"},
		{"Community", "communities: [{name: mine, value: '1:3'}]"},
	} {
		spec := o.spec
		if o.kind == kind {
			key, _, _ := strings.Cut(setting, ":")
			lines := strings.Split(spec, "\n")
			lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(strings.TrimSpace(l), key+":") })
			spec = strings.Join(append(lines, "  "+setting), "\n")
		}
		out += "apiVersion: metallb.io/v1\nkind: " + o.kind + "\nmetadata: {name: p, labels: {a: b}}\nspec:\n  " + strings.TrimSpace(spec) + "\n---\n"
	}
	return out
}

// Every setting changes what comes of it, or is told; none is dropped.
func TestNothingIsDropped(t *testing.T) {
	all := func(text string) (out, said string, notes []Note) {
		t.Helper()
		r, notes, err := Import([]Source{{"f", []byte(text)}}, "")
		if err != nil {
			t.Fatal(err, text)
		}
		if problems := sound(r); problems != nil {
			t.Error(problems, text)
		}
		for _, n := range notes {
			said += n.String() + "\n"
		}
		return string(r.Pools) + string(r.Config), said, notes
	}
	before, saidBefore, _ := all(cluster("", ""))
	for kind, list := range settings {
		for _, s := range list {
			out, _, notes := all(cluster(kind, s))
			key, _, _ := strings.Cut(s, ":")
			told := slices.ContainsFunc(notes, func(n Note) bool { return strings.Contains(n.Path, key) && !strings.Contains(saidBefore, n.String()) })
			if out == before && !told {
				t.Errorf("%s: %s: dropped in silence", kind, s)
			}
			_, said, notes := all(cluster(kind, "shiny-"+s))
			if !slices.ContainsFunc(notes, func(n Note) bool { return n.Place == kind+"/p" && n.Path == "spec.shiny-"+key }) {
				t.Errorf("%s: shiny-%s: dropped in silence: %s", kind, s, said)
			}
		}
	}
}

// What is as it is by default, as the API server fills it in, is nothing to tell.
func TestDefaultsAreSilent(t *testing.T) {
	const text = `kind: List
items:
- {apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {name: p}, spec: {addresses: [10.0.9.0/28], autoAssign: true, avoidBuggyIPs: false, serviceAllocation: {priority: 0}}}
- {apiVersion: metallb.io/v1beta1, kind: BGPAdvertisement, metadata: {name: p}, spec: {aggregationLength: 32, aggregationLengthV6: 128, localPref: 0}}
- {apiVersion: metallb.io/v1beta1, kind: BFDProfile, metadata: {name: p}, spec: {receiveInterval: 300, transmitInterval: 300, detectMultiplier: 3, echoInterval: 50, echoMode: false, passiveMode: false}}
- {apiVersion: metallb.io/v1beta2, kind: BGPPeer, metadata: {name: p}, spec: {myASN: 64501, peerASN: 64502, peerAddress: 10.0.0.1, peerPort: 179, bfdProfile: p, passwordSecret: {},
    holdTime: 90s, keepaliveTime: 0s, disableMP: false, ebgpMultiHop: false, enableGracefulRestart: false, dualStackAddressFamily: false, vrf: "", routerID: "", nodeSelectors: []}}
- {apiVersion: metallb.io/v1beta1, kind: ServiceBGPStatus, metadata: {name: p}}
- {apiVersion: v1, kind: Namespace, metadata: {name: metallb-system}}
`
	r, notes, err := Import([]Source{{"f", []byte(text)}}, "")
	if err != nil || len(notes) > 0 || sound(r) != nil {
		t.Error(err, notes, sound(r))
	}
}

func TestImportRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "there is no object in it: want IPAddressPools",
		"# nothing\n---\n":              "there is no object in it",
		"kind: Pod\n---\nkind: Service": "nothing of MetalLB in it, but Pod, Service: want",
		"kind: AddressPool\napiVersion: pintle.dev/v1":        "nothing of MetalLB in it, but AddressPool: want",
		"Dear administrator":                                  "f: no objects of Kubernetes: it is a text or a list",
		"a: b\n---\nkind: {":                                  "f: no objects of Kubernetes: [3:",
		"kind: L2Advertisement":                               "no pool and no router came of it: want",
		"kind: BGPPeer\nspec: {myASN: 1}":                     "no pool and no router came of it",
		"kind: ConfigMap\ndata: {config: 'address-pools: ['}": "no pool and no router",
	} {
		r, _, err := Import([]Source{{"f", []byte(text)}}, "")
		if err == nil || !strings.HasPrefix(err.Error(), want) || r.Needed || len(r.Pools) > 0 {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// Several files are one cluster's.
func TestSeveralSources(t *testing.T) {
	r, notes, err := Import([]Source{
		{"adv.yaml", []byte("kind: BGPAdvertisement\nmetadata: {name: a}\nspec: {ipAddressPools: [p], communities: [mine]}")},
		{"pool.yaml", []byte("kind: IPAddressPool\nmetadata: {name: p}\nspec: {addresses: [10.0.9.0/28], shiny: 1}")},
		{"names.yaml", []byte("kind: Community\nspec: {communities: [{name: mine, value: '64500:5'}]}")},
	}, "")
	if err != nil || !strings.Contains(string(r.Pools), "64500:5") {
		t.Error(err, string(r.Pools))
	}
	if len(notes) != 2 || notes[0].File != "pool.yaml" || notes[0].Path != "spec.shiny" || !strings.Contains(notes[1].Text, "no BGPPeer in the input") {
		t.Error(notes)
	}
}

func FuzzImport(f *testing.F) {
	inputs, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(inputs) == 0 {
		f.Fatal(inputs, err)
	}
	for _, i := range inputs {
		data, err := os.ReadFile(i)
		if err != nil {
			f.Fatal(err)
		}
		for _, doc := range strings.Split(string(data), "\n---\n") {
			f.Add([]byte(doc))
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, notes, err := Import([]Source{{"f", data}}, "pintle import metallb f")
		for _, n := range notes {
			if n.Place == "" || n.Text == "" && !strings.HasPrefix(n.Place, fileName) || strings.ContainsAny(n.String(), "\n\x00\x1b") {
				t.Errorf("a note that says nothing: %+v", n)
			}
		}
		if err != nil {
			return
		}
		if len(r.Pools) == 0 && !r.Needed {
			t.Error("neither pools nor a configuration nor an error")
		}
		for _, p := range sound(r) {
			// What Pintle says of the configuration was told.
			if !slices.ContainsFunc(notes, func(n Note) bool { return n.Place == p }) {
				t.Error(p)
			}
		}
	})
}
