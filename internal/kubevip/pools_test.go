package kubevip

import (
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

// configMap is the cloud provider's, of lines key: value.
func configMap(lines ...string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kubevip, namespace: kube-system}\ndata:\n  " + strings.Join(lines, "\n  ") + "\n"
}

// readPools reads documents as an API server does, and says in one line what each pool is.
func readPools(t *testing.T, docs []byte) (out []string) {
	t.Helper()
	for _, doc := range strings.Split(string(docs), "\n---\n") {
		var p pintlev1.AddressPool
		if err := yaml.UnmarshalStrict([]byte(doc), &p); err != nil || p.Kind != "AddressPool" || p.APIVersion != "pintle.dev/v1" {
			t.Errorf("%v: %s", err, doc)
		}
		for _, a := range p.Spec.Addresses {
			if _, err := ipam.ParseRange(a, p.Spec.SkipFirstLast); err != nil {
				t.Error(err)
			}
		}
		line := p.Name + ": " + strings.Join(p.Spec.Addresses, ", ") + " by " + strings.Join(p.Spec.Announce, ", ")
		if p.Spec.SkipFirstLast {
			line += " without ends"
		}
		if len(p.Spec.Links) > 0 {
			line += " on " + strings.Join(p.Spec.Links, ", ")
		}
		if len(p.Spec.Namespaces) > 0 {
			line += " for " + strings.Join(p.Spec.Namespaces, ", ")
		}
		if p.Spec.Priority != 0 {
			line += " first"
		}
		out = append(out, line)
	}
	return out
}

const byARP = "announce: pools are announced by ARP and neighbour discovery: for routers, announce: [bgp], and section bgp of the configuration of `pintle manifest services`"

// Each ConfigMap makes these pools, and has these notes, all of them.
func TestPools(t *testing.T) {
	for name, tt := range map[string]struct {
		lines, want, notes []string
	}{
		"one prefix":        {[]string{"cidr-global: 192.168.0.220/29"}, []string{"global: 192.168.0.216/29 by arp"}, nil},
		"a range":           {[]string{"range-global: 192.168.0.200-192.168.0.202"}, []string{"global: 192.168.0.200-192.168.0.202 by arp"}, nil},
		"several, and IPv6": {[]string{"cidr-global: '192.168.0.200/30, 2001:db8::10/127'"}, []string{"global: 192.168.0.200/30, 2001:db8::10/127 by arp"}, nil},
		"without ends": {[]string{"cidr-global: 192.168.0.0/24,192.168.9.0/31,2001:db8::/120", "skip-end-ips-in-cidr: 'true'", "search-order: asc"},
			[]string{"global: 192.168.0.0/24, 192.168.9.0-192.168.9.1, 2001:db8::-2001:db8::ff by arp without ends"}, nil},
		"no ends": {[]string{"range-global: 192.168.0.1-192.168.0.9", "skip-end-ips-in-cidr: 'true'"}, []string{"global: 192.168.0.1-192.168.0.9 by arp"}, nil},
		"namespaces": {[]string{"cidr-default: 192.168.1.0/29", "interface-default: eth3", "cidr-dev-team: 192.168.2.0/29", "interface-other: eth5", "interface-global: eth0"},
			[]string{"default: 192.168.1.0/29 by arp on eth3 for default first", "dev-team: 192.168.2.0/29 by arp on eth0 for dev-team first"},
			[]string{"interface-other: eth5: namespace other has no addresses of its own: make a pool for it, with namespaces and links"}},
		"one of its own, and one for all": {[]string{"cidr-global: 192.168.1.0/24", "cidr-dev: 192.168.1.8/29"},
			[]string{"dev: 192.168.1.8/29 by arp for dev first", "global: 192.168.1.0/24 by arp"},
			[]string{"cidr-global: 192.168.1.0/24: has addresses in common with cidr-dev: an address belongs to one pool, so take them out of one",
				"global: when the pool of a namespace is full, its Services get addresses of this one, which kube-vip does not do: if that must not be, give the pool global a namespaceSelector"}},
		"ranges that nobody looks at": {[]string{"cidr-global: 192.168.1.0/24", "range-global: 10.0.0.1-10.0.0.2", "range-dev: 10.0.0.3-10.0.0.4", "cidr-x: 10.1.0.0/24", "range-x: 10.0.0.5-10.0.0.6"},
			[]string{"global: 192.168.1.0/24 by arp", "x: 10.1.0.0/24 by arp for x first"},
			[]string{"range-dev: 10.0.0.3-10.0.0.4: has no effect: cidr-global is there too, and kube-vip looks at that first",
				"range-global: 10.0.0.1-10.0.0.2: has no effect: cidr-global is there too, and kube-vip looks at that first",
				"range-x: 10.0.0.5-10.0.0.6: has no effect: cidr-x is there too, and kube-vip looks at that first",
				"global: when the pool of a namespace is full, its Services get addresses of this one, which kube-vip does not do: if that must not be, give the pool global a namespaceSelector"}},
		"no interface": {[]string{"cidr-global: 192.168.1.0/24", "interface-global: lo"}, []string{"global: 192.168.1.0/24 by arp"},
			[]string{"interface-global: lo: is no interface on which anybody asks: it is left out"}},
		"all else": {[]string{"cidr-dev: 10.1.0.0/24", "allow-share-dev: 'true'", "allow-share-global: 'false'", "search-order: desc", "skip-end-ips-in-cidr: maybe", "kubevip-services: '{}'", "shiny: 1"},
			[]string{"dev: 10.1.0.0/24 by arp for dev first"},
			[]string{"allow-share-dev: true: no Service shares an address by itself: give those that do the annotation pintle.dev/share, with the same key, before Pintle serves them, or only one of them has it",
				"search-order: desc: Pintle gives the lowest free address: ask for others by the annotation pintle.dev/addresses",
				"skip-end-ips-in-cidr: maybe: is neither true nor false: it is false with kube-vip and here", "shiny: 1: " + unknown}},
		"what is none": {[]string{"cidr-global: '10.1.0.0/24,10.1.1.1,127.0.0.0/24'", "cidr-dhcp: 0.0.0.0/32", "cidr-: 10.2.0.0/24", "cidr-Not_one: 10.3.0.0/24"},
			[]string{"global: 10.1.0.0/24 by arp"},
			[]string{"cidr-global: 10.1.0.0/24,10.1.1.1,127.0.0.0/24: 10.1.1.1 is no prefix and no range: write 192.0.2.0/24 or 192.0.2.10-192.0.2.20",
				`cidr-global: 10.1.0.0/24,10.1.1.1,127.0.0.0/24: "127.0.0.0/24" has addresses of 127.0.0.0/8 (loopback), which no Service can have: leave them out`,
				"cidr-dhcp: 0.0.0.0/32: stands for an address by DHCP, which Pintle does not do: give it addresses that the DHCP server leaves alone",
				"cidr-: 10.2.0.0/24: names no namespace: cidr-global is for all of them", "cidr-Not_one: 10.3.0.0/24: Not_one is no name of a namespace: nothing is made of it"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, notes, err := Import([]byte(configMap(tt.lines...)), "pintle import kube-vip x")
			if err != nil {
				t.Fatal(err)
			}
			if got := readPools(t, out.Pools); !slices.Equal(got, tt.want) {
				t.Errorf("pools\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(tt.want, "\n  "))
			}
			checkNotes(t, notes, append(tt.notes, byARP))
		})
	}
}

func checkNotes(t *testing.T, notes []Note, want []string) {
	t.Helper()
	var got []string
	for _, n := range notes {
		got = append(got, n.String())
	}
	if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("notes\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// daemonSet is a kube-vip that serves Services only, with these variables.
func daemonSet(variables ...string) string {
	out := "---\nkind: DaemonSet\nspec:\n  template:\n    spec:\n      containers:\n      - image: ghcr.io/kube-vip/kube-vip:v1.0.0\n        env:\n" +
		"        - {name: svc_enable, value: 'true'}\n"
	for _, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		out += "        - {name: " + name + ", value: '" + value + "'}\n"
	}
	return out
}

// A kube-vip for Services says how its pools are announced.
func TestPoolsBesideServices(t *testing.T) {
	const provider = "---\nkind: Deployment\nspec:\n  template:\n    spec:\n      containers:\n      - image: ghcr.io/kube-vip/kube-vip-cloud-provider:v0.0.12\n        env:\n" +
		"        - {name: KUBEVIP_NAMESPACE, value: kube-system}\n        - {name: KUBEVIP_ENABLE_LOADBALANCERCLASS, value: 'true'}\n" +
		"        - {name: KUBEVIP_CUSTOM_LOADBALANCERCLASS_NAME, value: example.com/lb}\n"
	const served = "svc_enable: true: Services are for another Pintle, on every node: pintle manifest services. Its pools: pintle import kube-vip with the ConfigMap kubevip of the cloud provider"
	for name, tt := range map[string]struct {
		manifest, want string
		notes          []string
	}{
		"ARP": {daemonSet("vip_arp=true", "vip_interface=eth1"), "global: 10.0.9.0/24 by arp on eth1", []string{served}},
		"a link of its own": {daemonSet("vip_arp=true", "vip_interface=eth1", "vip_servicesinterface=eth2"), "global: 10.0.9.0/24 by arp on eth2",
			[]string{served, "vip_servicesinterface: eth2: is links of an AddressPool; without, an address is announced on the link that has its subnet"}},
		"BGP": {daemonSet("bgp_enable=true", "bgp_peers=10.0.0.1:65000"), "global: 10.0.9.0/24 by bgp",
			[]string{served, "bgp_as: is not there: bgp.as is 65000, as it is with kube-vip"}},
		"a table": {daemonSet("vip_routingtable=true"), "global: 10.0.9.0/24 by arp",
			[]string{served, "vip_routingtable: true: pools are announced by ARP or by BGP, not in a table: this is ARP; for routers announce: [bgp]"}},
		"the provider": {provider, "global: 10.0.9.0/24 by arp", []string{byARP,
			"KUBEVIP_ENABLE_LOADBALANCERCLASS: true: services.unclassed: false does it in the configuration, and services.class is the class: kube-vip.io/kube-vip-class, if nothing else is said",
			"KUBEVIP_CUSTOM_LOADBALANCERCLASS_NAME: example.com/lb: is services.class in the configuration: Services keep their class"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, notes, err := Import([]byte(configMap("cidr-global: 10.0.9.0/24")+tt.manifest), "")
			if err != nil {
				t.Fatal(err)
			}
			if got := readPools(t, out.Pools); !slices.Equal(got, []string{tt.want}) {
				t.Errorf("pools %v, want %s", got, tt.want)
			}
			checkNotes(t, notes, tt.notes)
		})
	}
}

func TestPoolsRefused(t *testing.T) {
	for manifest, want := range map[string]string{
		configMap("range-global: nowhere"):                                            "no pool came of it",
		configMap("cidr-global: 0.0.0.0/32"):                                          "no pool came of it",
		configMap("cidr-a: 10.0.0.0/24") + "---\n" + configMap("cidr-b: 10.0.1.0/24"): "there are 2 ConfigMaps with pools",
		configMap("shiny: 1"):                                                         "no kube-vip in it, but ConfigMap: want",
		daemonSet():                                                                   "it keeps no address of a control plane (cp_enable is not true). For Services: pintle manifest services, and",
		configMap("cidr-a: 10.0.0.0/24") + daemonSet() + daemonSet():                  "there are 2 containers of kube-vip",
	} {
		if out, _, err := Import([]byte(manifest), ""); err == nil || !strings.HasPrefix(err.Error(), want) || len(out.Pools)+len(out.Config)+len(out.Plane) > 0 {
			t.Errorf("%s: %v, want %s", manifest, err, want)
		}
	}
}

// Routers of Services are in a configuration that is the same on every node; also those of a static pod.
func TestRoutersOfServices(t *testing.T) {
	for name, manifest := range map[string]string{
		"DaemonSet": daemonSet("bgp_enable=true", "bgp_as=65001", "bgp_peers=10.0.0.254:65000:s3cret:false", "bgp_routerid=10.0.0.1"),
		"Pod": "kind: Pod\nspec:\n  containers:\n  - image: kube-vip\n    env:\n    - {name: svc_enable, value: 'true'}\n    - {name: bgp_enable, value: 'true'}\n" +
			"    - {name: bgp_as, value: '65001'}\n    - {name: bgp_peers, value: '10.0.0.254:65000:s3cret:false'}\n    - {name: bgp_routerid, value: 10.0.0.1}\n",
	} {
		r, notes, err := Import([]byte(manifest), "")
		if err != nil || r.Pools != nil || r.Plane != nil {
			t.Errorf("%s: %v %s %s", name, err, r.Pools, r.Plane)
		}
		c, problems := config.Parse(r.Config, "pintle.yaml", config.Options{Node: "n1"})
		if c == nil || len(problems) > 0 {
			t.Fatalf("%s: %v\n%s", name, problems, r.Config)
		}
		if b := c.BGP; c.Services == nil || b.AS != 65001 || b.RouterID.IsValid() || len(b.Peers) != 1 || b.Peers[0].PasswordFile != "/etc/pintle/bgp/10.0.0.254" {
			t.Errorf("%s: %+v", name, b)
		}
		if !slices.ContainsFunc(notes, func(n Note) bool {
			return strings.Contains(n.Text, "`pintle manifest services` tells of") && !strings.Contains(n.Value, "s3cret")
		}) {
			t.Errorf("%s: %v", name, notes)
		}
	}
}

// What keeps the address of a control plane comes first: one output is one thing.
func TestPoolsBesideTheControlPlane(t *testing.T) {
	out, notes, err := Import([]byte(configMap("cidr-global: 10.0.9.0/24")+"---\n"+pod("vip_interface", "eth0")), "")
	if err != nil || out.Pools != nil || out.Config != nil || !strings.Contains(string(out.Plane), "address: 192.0.2.9") {
		t.Errorf("%v: %s", err, out.Plane)
	}
	if !slices.ContainsFunc(notes, func(n Note) bool {
		return n.Name == "ConfigMap" && strings.Contains(n.Text, "import it from a file of its own")
	}) {
		t.Error(notes)
	}
}
