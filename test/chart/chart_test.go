package chart_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

const chart = "../../manifests/chart"

// The programs, built once for all tests: helm, which is a module of its own, and pintle.
var programs = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "pintle-chart-"); err != nil {
		return "", err
	}
	for name, source := range map[string]string{"helm": "../../tools/helm", "pintle": "../../cmd/pintle"} {
		build := exec.Command("go", "build", "-C", source, "-buildvcs=false", "-o", filepath.Join(dir, name), ".")
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	status := m.Run()
	if dir, err := programs(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(status)
}

// run runs one of the programs and returns what it prints; the error has what it says on standard error.
func run(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	dir, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd := exec.Command(filepath.Join(dir, name), args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", errors.New(errs.String())
	}
	return out.String(), nil
}

func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := run(t, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// file writes a text into a file for a program.
func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// An install is values of the chart, and the flags of `pintle manifest services` that mean the same, beside --config.
type install struct {
	values string
	flags  []string
}

var installs = map[string]install{
	"nothing":   {"", nil},
	"pools":     {"pools: {lan: {addresses: [192.0.2.10-192.0.2.20, '2001:db8::/112']}, b: {addresses: [198.51.100.0/24]}}", []string{"--pool", "lan=192.0.2.10-192.0.2.20,2001:db8::/112", "--pool", "b=198.51.100.0/24"}},
	"image":     {"image: {repository: 'registry.example:5000/a/pintle', tag: v1}\nkeep: false", []string{"--image", "registry.example:5000/a/pintle:v1", "--no-keep"}},
	"namespace": {`config: {services: {namespace: leases, unclassed: false, class: a/b, lease: 4s, proxyHealth: "off", keepPort: 7777}}`, []string{"--namespace", "net"}},
	"bgp": {`config:
  services:
  bgp:
    as: 4200000000
    routerID: 10.0.0.1
    listen: "[::]:179"
    communities: ["65001:100", no-export]
    largeCommunities: ["4200000000:1:2"]
    med: 4294967295
    localPref: 100
    prepend: 1
    drain: {wait: 5s, prepend: 2}
    peers:
      - {name: a, address: 10.0.0.254, as: 65000, passwordFile: /etc/pintle-bgp/tor1, hold: 30s, multihop: 2}
      - {interface: eth1, as: external, families: [ipv6], bfd: {interval: 300ms, multiplier: 3, strict: true, auth: {keyFile: /etc/pintle-bgp/bfd.key}}}
      - {address: "fd00::fe", as: 4200000000, nodes: ["rack1-*"], nodeLabels: {rack: r1}, nodeAnnotations: {a.b/c: ""}, localPref: 0}
pools: {dc: {addresses: [198.51.100.0/24]}}`, []string{"--pool", "dc=198.51.100.0/24"}},
	"a high port":        {"config: {bgp: {as: 65001, listen: '0.0.0.0:1790', peers: [{address: 10.0.0.254, as: 65000}]}}", nil},
	"a port left out":    {"config: {bgp: {as: 65001, listen: '::', peers: [{address: 10.0.0.254, as: 65000}]}}", nil},
	"listens not at all": {"config: {bgp: {as: 65001, listen: 'off', peers: [{address: 10.0.0.254, as: 65000}]}, server: {listen: 'off'}}", nil},
	"a password of each": {"config: {bgp: {as: 65001, peers: [{address: 10.0.0.254, as: 65000, passwordFile: '/etc/pintle/bgp/{node}'}]}}", nil},
	"files": {`config:
  kubernetes: {kubeconfig: /etc/kubernetes/pintle.conf, servers: ["https://10.0.0.1:6443"], serverName: kubernetes}
  health:
    - {name: a, http: "https://127.0.0.1:6443/readyz", ca: /etc/pintle/tls/ca.crt, cert: "/etc/pintle/tls/{node}.crt", key: "/etc/pintle/tls/{node}.key", serverName: x, interval: 2s, timeout: 1s, rise: 1, fall: 100}
    - {http: "https://127.0.0.1:10257/healthz", ca: "/etc/Very/long/PATH/of/a/certificate_authority/that/has/more/than/sixty-three/letters.crt"}
    - {tcp: "127.0.0.1:10250"}
    - {http: "https://127.0.0.1:10259/healthz", ca: /srv/a.crt}
  server: {listen: "0.0.0.0:9000", runDir: /run/lb}
  log: {level: debug, format: json}`, nil},
	"the pod's own CA": {"config: {kubernetes: {kubeconfig: /k.conf}, health: [{http: 'https://127.0.0.1:6443/readyz', ca: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt}]}", nil},
	"IPv6 of all":      {"config: {server: {listen: '[::]:7403'}}", nil},
	"IPv6 of one":      {"config: {server: {listen: '::1'}}", nil},
	"IPv4 of one":      {"config: {server: {listen: 10.0.0.1}}", nil},
}

// The chart renders what `pintle manifest services` prints for the same configuration, to the last field: but for the namespace, which
// is Helm's business, and the definitions, which are files of the chart.
func TestSameObjects(t *testing.T) {
	for name, in := range installs {
		t.Run(name, func(t *testing.T) {
			namespace := "pintle-system"
			if i := slices.Index(in.flags, "--namespace"); i >= 0 {
				namespace = in.flags[i+1]
			}
			values := file(t, in.values)
			for _, kube := range []string{"v1.29.0", "v1.36.3"} {
				if out, err := run(t, "helm", "-lint", "-kube", kube, "-namespace", namespace, "-values", values, chart); err != nil {
					t.Errorf("lint: %v%s", err, out)
				}
			}
			got := objects(t, must(t, "helm", "-namespace", namespace, "-values", values, chart))
			text, _ := got["ConfigMap pintle-services"]["data"].(map[string]any)["pintle.yaml"].(string)
			want := objects(t, must(t, "pintle", slices.Concat([]string{"manifest", "services", "--config", file(t, text)}, in.flags)...))
			maps.DeleteFunc(want, func(_ string, o map[string]any) bool {
				return o["kind"] == "Namespace" || o["kind"] == "CustomResourceDefinition"
			})
			if len(want) < 7 {
				t.Fatalf("only %d objects", len(want))
			}
			same(t, got, want)
		})
	}
}

// objects are documents by kind and name.
func objects(t *testing.T, text string) map[string]map[string]any {
	t.Helper()
	out := map[string]map[string]any{}
	for doc := range strings.SplitSeq("\n"+text, "\n---\n") {
		var o map[string]any
		if err := yaml.UnmarshalStrict([]byte(doc+"\n"), &o); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		if o == nil {
			continue
		}
		name := fmt.Sprint(o["kind"], " ", o["metadata"].(map[string]any)["name"])
		if _, twice := out[name]; twice {
			t.Fatalf("%s is there twice", name)
		}
		out[name] = o
	}
	return out
}

func same(t *testing.T, got, want map[string]map[string]any) {
	t.Helper()
	for name := range want {
		if got[name] == nil {
			t.Errorf("%s is not in the chart", name)
		}
	}
	for name, o := range got {
		if reflect.DeepEqual(o, want[name]) {
			continue
		}
		a, _ := yaml.Marshal(o)
		b, _ := yaml.Marshal(want[name])
		t.Errorf("%s of the chart:\n%s\nof pintle manifest services:\n%s", name, a, b)
	}
}

// Without a configuration of one's own, both make the same one.
func TestSameConfiguration(t *testing.T) {
	of := func(text string) string {
		text = objects(t, text)["ConfigMap pintle-services"]["data"].(map[string]any)["pintle.yaml"].(string)
		cfg, problems := config.Parse([]byte(text), "f", config.Options{Node: "n1"})
		if len(problems) > 0 {
			t.Fatalf("%v\n%s", problems, text)
		}
		out, err := cfg.Effective()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	for values, flags := range map[string][]string{
		"": nil,
		"config: {services: {lease: 4s}, bgp: {as: 65001, peers: [{address: 10.0.0.254, as: 65000}]}}": {"--lease", "4s", "--bgp-as", "65001", "--bgp-peer", "10.0.0.254=65000"},
	} {
		got := of(must(t, "helm", "-namespace", "net", "-values", file(t, values), chart))
		want := of(must(t, "pintle", append([]string{"manifest", "services", "--namespace", "net"}, flags...)...))
		if got != want {
			t.Errorf("%q: got\n%s\nwant\n%s", values, got, want)
		}
	}
}

// What a chart alone can say.
func TestValuesOfTheChart(t *testing.T) {
	got := objects(t, must(t, "helm", "-values", file(t, `image: {pullPolicy: Always, pullSecrets: [a, b]}
resources: {limits: {memory: 1Gi}}
nodeSelector: {lb: "yes"}
tolerations: []
config: {bgp: {as: 65001, peers: [{address: 10.0.0.254, as: 65000}]}}
pools:
  wire: {addresses: [192.0.2.0/24], announce: [arp], autoAssign: false, priority: 7, namespaces: [a], nodeSelector: {matchLabels: {a: b}}, links: [eth0], bind: true, onAPILoss: keep}
`), chart))
	spec := got["DaemonSet pintle-services"]["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
	container := spec["containers"].([]any)[0].(map[string]any)
	for name, tt := range map[string]struct {
		got  any
		want string
	}{
		"pullPolicy":   {container["imagePullPolicy"], `"Always"`},
		"pullSecrets":  {got["ServiceAccount pintle-services"]["imagePullSecrets"], `[{"name":"a"},{"name":"b"}]`},
		"resources":    {container["resources"], `{"limits":{"memory":"1Gi"},"requests":{"cpu":"50m","memory":"64Mi"}}`},
		"nodeSelector": {spec["nodeSelector"], `{"kubernetes.io/os":"linux","lb":"yes"}`},
		"tolerations":  {spec["tolerations"], `null`},
		"pool": {got["AddressPool wire"]["spec"], `{"addresses":["192.0.2.0/24"],"announce":["arp"],"autoAssign":false,"bind":true,"links":["eth0"],` +
			`"namespaces":["a"],"nodeSelector":{"matchLabels":{"a":"b"}},"onAPILoss":"keep","priority":7}`},
	} {
		if text, err := json.Marshal(tt.got); err != nil || string(text) != tt.want {
			t.Errorf("%s: %s, want %s; %v", name, text, tt.want, err)
		}
	}
}

// The schema, or the template, refuses what could not work, and names the place.
func TestRefused(t *testing.T) {
	for values, want := range map[string]string{
		"pool: {}":               "additional properties 'pool' not allowed",
		"config: {adresses: []}": "at '/config': additional properties 'adresses' not allowed",
		"config: {addresses: [{address: 192.0.2.1}]}":                                      "at '/config': additional properties 'addresses' not allowed",
		"config: {services: {leas: 10s}}":                                                  "at '/config/services': additional properties 'leas' not allowed",
		"config: {services: {lease: 10}}":                                                  "at '/config/services/lease'",
		"config: {services: {unclassed: sometimes}}":                                       "at '/config/services/unclassed': got string, want boolean",
		"config: {services: {keepPort: 80}}":                                               "at '/config/services/keepPort'",
		"config: {services: {namespace: A}}":                                               "at '/config/services/namespace'",
		"config: {services: {proxyHealth: 'https://a'}}":                                   "at '/config/services/proxyHealth'",
		"config: {bgp: {as: 65001}}":                                                       "at '/config/bgp': missing property 'peers'",
		"config: {bgp: {as: 65001, peers: []}}":                                            "at '/config/bgp/peers': minItems",
		"config: {bgp: {as: 65001, peers: [{address: a, as: 1, password: x}]}}":            "additional properties 'password' not allowed",
		"config: {bgp: {as: 65001, exclusive: true, peers: [{address: a, as: 1}]}}":        "at '/config/bgp/exclusive'",
		"config: {bgp: {as: 65001, unhealthy: last-resort, peers: [{address: a, as: 1}]}}": "at '/config/bgp/unhealthy'",
		"config: {health: [{command: [/bin/true]}]}":                                       "additional properties 'command' not allowed",
		"config: {kubernetes: {servers: ['http://10.0.0.1']}}":                             "at '/config/kubernetes/servers/0'",
		"config: {log: {level: trace}}":                                                    "at '/config/log/level'",
		"pools: {a: {}}":                                                                   "at '/pools/a': missing property 'addresses'",
		"pools: {a: {addresses: []}}":                                                      "at '/pools/a/addresses': minItems",
		"pools: {a: {addresses: [192.0.2.10]}}":                                            "at '/pools/a/addresses/0'",
		"pools: {a: {addresses: [192.0.2.0/24], announce: [ospf]}}":                        "at '/pools/a/announce/0'",
		"pools: {a: {addresses: [192.0.2.0/24], onApiLoss: keep}}":                         "additional properties 'onApiLoss' not allowed",
		"pools: {A_1: {addresses: [192.0.2.0/24]}}":                                        "A_1",
		"keep: maybe":                    "at '/keep': got string, want boolean",
		"image: {pullPolicy: Sometimes}": "at '/image/pullPolicy'",
		"image: {repository: ''}":        "at '/image/repository'",
		"tolerations: {}":                "at '/tolerations'",
		"config: {bgp: {as: 65001, peers: [{address: 10.0.0.1, as: 1, passwordFile: /a/x}, {address: 10.0.0.2, as: 1, passwordFile: /b/x}]}}":                      "/b/x: is not in /a, where other passwords are",
		"config: {bgp: {as: 65001, peers: [{address: 10.0.0.1, as: 1, passwordFile: /etc/pintle/bgp/a}]}, health: [{tcp: '127.0.0.1:1', ca: /etc/pintle/ca.crt}]}": "keep the passwords out of /etc/pintle",
		"config: {bgp: {as: 65001, peers: [{address: 10.0.0.1, as: 1, passwordFile: '/a/{node}'}]}}":                                                               "is another one on each node: keep it in /etc/pintle",
		"config: {health: [{http: 'https://127.0.0.1/', ca: '/a/{node}'}]}":                                                                                        "is another one on each node: keep it in /etc/pintle",
	} {
		if out, err := run(t, "helm", "-values", file(t, values), chart); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s\n%s", values, err, want, out)
		}
	}
	if _, err := run(t, "helm", "-kube", "v1.28.15", chart); err == nil || !strings.Contains(err.Error(), "the chart is for Kubernetes >=1.29.0-0, and this is v1.28.15") {
		t.Errorf("an old cluster: %v", err)
	}
	if _, err := run(t, "helm", "-kube", "v1.29.3-eks-1", chart); err != nil {
		t.Errorf("a cluster of a provider: %v", err)
	}
}

// What values.yaml shows in comments is good, too.
func TestShownValues(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(chart, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile(`(?m)^( +)# ( *(- )?[a-z][a-zA-Z]*:( .*)?)$`).ReplaceAllString(string(text), "$1$2")
	shown = strings.NewReplacer("services: {}", "services:", "pools: {}", "pools:").Replace(shown)
	for _, want := range []string{"\n    lease: 10s\n", "\n    proxyHealth: http", "\n  bgp:\n", "\n        as: 65000\n", "\n        passwordFile: ", "\n    listen: ", "\n    addresses: "} {
		if !strings.Contains(shown, want) {
			t.Errorf("%q is not shown in\n%s", want, shown)
		}
	}
	got := objects(t, must(t, "helm", "-values", file(t, shown), chart))
	data := []byte(got["ConfigMap pintle-services"]["data"].(map[string]any)["pintle.yaml"].(string))
	if _, problems := config.Parse(data, "values.yaml", config.Options{Node: "n1"}); len(problems) > 0 {
		t.Errorf("%v\n%s", problems, data)
	}
	if got["AddressPool lan"] == nil {
		t.Error("no pool")
	}
}

// The definitions of the chart are those of `pintle manifest crds`.
func TestDefinitions(t *testing.T) {
	var all []byte
	for _, name := range []string{"addresspools.yaml", "addresses.yaml"} {
		own, err := os.ReadFile(filepath.Join(chart, "crds", name))
		if err != nil {
			t.Fatal(err)
		}
		if all != nil {
			all = append(all, "---\n"...)
		}
		all = append(all, own...)
	}
	if got := must(t, "pintle", "manifest", "crds"); got != string(all) {
		t.Error("cp manifests/crds/*.yaml manifests/chart/crds/")
	}
	if files, err := filepath.Glob(filepath.Join(chart, "crds/*")); err != nil || len(files) != 2 {
		t.Errorf("%v, %v", files, err)
	}
}

// A schema is what values.schema.json says of a value.
type schema struct {
	Properties           map[string]*schema
	AdditionalProperties any
	Items                *schema
}

// at follows keys; [] is an item of a list.
func (s *schema) at(path ...string) *schema {
	for _, k := range path {
		if k == "[]" {
			s = s.Items
		} else {
			s = s.Properties[k]
		}
	}
	return s
}

// The schema has the keys that Pintle knows, and refuses all others: an unknown key makes Pintle list them.
func TestSchemaHasEveryKey(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(chart, "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var root schema
	if err := json.Unmarshal(text, &root); err != nil {
		t.Fatal(err)
	}
	for path, file := range map[string]string{
		"services": "services: {?}", "bgp": "services:\nbgp: {?}", "bgp drain": "services:\nbgp: {drain: {?}}", "bgp peers []": "services:\nbgp: {peers: [{?}]}",
		"bgp peers [] bfd": "services:\nbgp: {peers: [{bfd: {?}}]}", "bgp peers [] bfd auth": "services:\nbgp: {peers: [{bfd: {auth: {?}}}]}",
		"kubernetes": "services:\nkubernetes: {?}", "health []": "services:\nhealth: [{?}]", "server": "services:\nserver: {?}", "log": "services:\nlog: {?}",
	} {
		s := root.at(append([]string{"config"}, strings.Fields(path)...)...)
		known := knownKeys(t, strings.Replace(file, "?", "qqqqqqqqq: 1", 1))
		if path == "health []" { // the image has no programs
			known = slices.DeleteFunc(known, func(k string) bool { return k == "command" })
		}
		expect(t, "config "+path, s, known)
	}
	expect(t, "config", root.at("config"), []string{"services", "bgp", "kubernetes", "health", "server", "log"})
	pool := new(schema)
	text, err = json.Marshal(root.Properties["pools"].AdditionalProperties)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, pool); err != nil {
		t.Fatal(err)
	}
	expect(t, "pool", pool, fields(reflect.TypeFor[pintlev1.AddressPoolSpec]()))
	expect(t, "pool bgp", pool.at("bgp"), fields(reflect.TypeFor[pintlev1.RouteBGP]()))
}

func expect(t *testing.T, what string, s *schema, keys []string) {
	t.Helper()
	if got, want := slices.Sorted(maps.Keys(s.Properties)), slices.Sorted(slices.Values(keys)); !slices.Equal(got, want) {
		t.Errorf("%s: the schema has %v, and Pintle %v", what, got, want)
	}
	if s.AdditionalProperties != false {
		t.Errorf("%s: the schema takes any key", what)
	}
}

// knownKeys are those that Pintle names when it meets another.
func knownKeys(t *testing.T, file string) []string {
	t.Helper()
	_, problems := config.Parse([]byte("apiVersion: pintle.dev/v1\n"+file+"\n"), "f", config.Options{Node: "n1"})
	for _, p := range problems {
		if known, ok := strings.CutPrefix(p.Hint, "known here: "); ok {
			return strings.Split(known, ", ")
		}
	}
	t.Fatalf("%s: %v", file, problems)
	return nil
}

func fields(typ reflect.Type) (out []string) {
	for i := range typ.NumField() {
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		out = append(out, name)
	}
	return out
}
