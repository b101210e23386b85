package service

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

// fromYAML reads an object as people write it.
func fromYAML[T any](t *testing.T, text string) *T {
	t.Helper()
	o := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), o); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestReadService(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       Service
	}{
		{"of another type", `
metadata: {namespace: shop, name: web, uid: u1, resourceVersion: "7", annotations: {pintle.dev/pool: main}}
spec: {type: ClusterIP, ports: [{port: 80, protocol: TCP}]}`,
			Service{UID: "u1", Version: 7, VIPMode: true}},
		{"the least", `
metadata: {namespace: shop, name: web}
spec: {type: LoadBalancer}`,
			Service{Type: true, VIPMode: true, Families: []ipam.Family{ipam.IPv4}}},
		{"all of it", `
metadata:
  {namespace: shop, name: web, labels: {tier: edge}, deletionTimestamp: "2026-01-01T00:00:00Z",
   annotations: {pintle.dev/share: k, kube-vip.io/loadbalancerIPs: 192.0.2.7, pintle.dev/bgp-local-pref: "200", other.example/x: y}}
spec:
  type: LoadBalancer
  loadBalancerClass: pintle.dev/lb
  loadBalancerIP: 192.0.2.8
  ipFamilies: [IPv6, IPv4]
  ipFamilyPolicy: RequireDualStack
  externalTrafficPolicy: Local
  selector: {b: "2", a: "1"}
  ports: [{port: 80, protocol: TCP}, {port: 53, protocol: UDP}]`,
			Service{Type: true, VIPMode: true, Deleting: true, Class: "pintle.dev/lb", AskedIP: "192.0.2.8", Families: []ipam.Family{ipam.IPv6, ipam.IPv4}, Policy: ipam.RequireDualStack,
				Local: true, Selector: "a=1,b=2", Labels: map[string]string{"tier": "edge"}, Ports: []ipam.Port{{Protocol: "TCP", Number: 80}, {Protocol: "UDP", Number: 53}},
				Notes: map[string]string{"pintle.dev/share": "k", "kube-vip.io/loadbalancerIPs": "192.0.2.7", "pintle.dev/bgp-local-pref": "200"}}},
		{"what its status says", `
metadata: {namespace: shop, name: web}
spec: {type: LoadBalancer, ipFamilies: [IPv4], ipFamilyPolicy: PreferDualStack}
status:
  loadBalancer: {ingress: [{ip: 192.0.2.7, ipMode: VIP}, {ip: "2001:db8::7", ipMode: VIP}]}
  conditions: [{type: Other, status: "True"}, {type: pintle.dev/Assigned, status: "False", reason: NoAddress}]`,
			Service{Type: true, VIPMode: true, Families: []ipam.Family{ipam.IPv4}, Policy: ipam.PreferDualStack, Ingress: []string{"192.0.2.7", "2001:db8::7"},
				Condition: &metav1.Condition{Type: conditionType, Status: "False", Reason: "NoAddress"}}},
		{"a mode that is not VIP", `
metadata: {namespace: shop, name: web}
spec: {type: LoadBalancer}
status: {loadBalancer: {ingress: [{ip: 192.0.2.7, ipMode: VIP}, {ip: 192.0.2.8, ipMode: Proxy}]}}`,
			Service{Type: true, Families: []ipam.Family{ipam.IPv4}, Ingress: []string{"192.0.2.7", "192.0.2.8"}}},
		{"no mode", `
metadata: {namespace: shop, name: web}
spec: {type: LoadBalancer}
status: {loadBalancer: {ingress: [{ip: 192.0.2.7}]}}`,
			Service{Type: true, Families: []ipam.Family{ipam.IPv4}, Ingress: []string{"192.0.2.7"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.want.Key = web
			if got := readService(fromYAML[corev1.Service](t, c.text)); !reflect.DeepEqual(*got, c.want) {
				t.Errorf("got  %+v\nwant %+v", *got, c.want)
			}
		})
	}
}

func TestOurs(t *testing.T) {
	rules := Rules{Class: "pintle.dev/lb", Unclassed: true}
	for _, c := range []struct {
		name  string
		rules Rules
		s     Service
		want  bool
	}{
		{"without a class", rules, Service{Type: true}, true},
		{"without a class, by choice not", Rules{Class: "pintle.dev/lb"}, Service{Type: true}, false},
		{"of our class", rules, Service{Type: true, Class: "pintle.dev/lb"}, true},
		{"of our class only", Rules{Class: "pintle.dev/lb"}, Service{Type: true, Class: "pintle.dev/lb"}, true},
		{"of another class", rules, Service{Type: true, Class: "other.example/lb"}, false},
		{"of another type", rules, Service{}, false},
		{"being deleted", rules, Service{Type: true, Deleting: true}, false},
		{"ignored", rules, Service{Type: true, Notes: map[string]string{"pintle.dev/ignore": "true"}}, false},
		{"ignored as for kube-vip", rules, Service{Type: true, Notes: map[string]string{"kube-vip.io/ignore": "True"}}, false},
		{"not ignored", rules, Service{Type: true, Notes: map[string]string{"pintle.dev/ignore": "false"}}, true},
		{"our word counts", rules, Service{Type: true, Notes: map[string]string{"pintle.dev/ignore": "false", "kube-vip.io/ignore": "true"}}, true},
		{"not understood", rules, Service{Type: true, Notes: map[string]string{"pintle.dev/ignore": "yes please"}}, true},
	} {
		f := &Facts{Rules: c.rules}
		if got := f.ours(&c.s); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestRequest(t *testing.T) {
	addrs := func(texts ...string) (out []netip.Addr) {
		for _, text := range texts {
			out = append(out, netip.MustParseAddr(text))
		}
		return out
	}
	for _, c := range []struct {
		name      string
		notes     map[string]string
		asked     string
		pool      string
		addresses []netip.Addr
		err       string
	}{
		{name: "nothing"},
		{name: "a pool", notes: map[string]string{"pintle.dev/pool": " main "}, pool: "main"},
		{name: "a pool as for MetalLB", notes: map[string]string{"metallb.universe.tf/address-pool": "main"}, pool: "main"},
		{name: "our word counts", notes: map[string]string{"metallb.io/address-pool": "other", "pintle.dev/pool": "main"}, pool: "main"},
		{name: "one address", notes: map[string]string{"pintle.dev/addresses": "192.0.2.1"}, addresses: addrs("192.0.2.1")},
		{name: "two", notes: map[string]string{"metallb.io/loadBalancerIPs": "192.0.2.1, 2001:DB8::1,"}, addresses: addrs("192.0.2.1", "2001:db8::1")},
		{name: "IPv4 written as IPv6", notes: map[string]string{"kube-vip.io/loadbalancerIPs": "::ffff:192.0.2.1"}, addresses: addrs("192.0.2.1")},
		{name: "in the spec", asked: "192.0.2.9", addresses: addrs("192.0.2.9")},
		{name: "an annotation counts more", notes: map[string]string{"metallb.universe.tf/loadBalancerIPs": "192.0.2.1"}, asked: "192.0.2.9", addresses: addrs("192.0.2.1")},
		{name: "no address", notes: map[string]string{"pintle.dev/addresses": "192.0.2.1,web"}, addresses: addrs("192.0.2.1"), err: `pintle.dev/addresses: "web" is no address: write`},
		{name: "a prefix", asked: "192.0.2.0/24", err: `spec.loadBalancerIP: "192.0.2.0/24" is no address`},
		{name: "with a zone", notes: map[string]string{"pintle.dev/addresses": "fe80::1%eth0"}, err: `"fe80::1%eth0" is no address`},
		{name: "by DHCP", notes: map[string]string{"kube-vip.io/loadbalancerIPs": "0.0.0.0"}, err: "kube-vip.io/loadbalancerIPs: 0.0.0.0 asks for an address by DHCP"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &Facts{Namespaces: map[string]map[string]string{"shop": {"team": "red"}}}
			s := &Service{Key: web, UID: "u1", Notes: c.notes, AskedIP: c.asked, Labels: map[string]string{"tier": "edge"}, Families: []ipam.Family{ipam.IPv6}, Policy: ipam.PreferDualStack,
				Ingress: []string{"", "192.0.2.7"}}
			r, err := f.request(s)
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			want := ipam.Request{User: ipam.User{Service: web, UID: "u1"}, Labels: s.Labels, NamespaceLabels: map[string]string{"team": "red"}, Families: s.Families, Policy: s.Policy,
				Pool: c.pool, Addresses: c.addresses, Shown: addrs("192.0.2.7")}
			if !reflect.DeepEqual(r, want) {
				t.Errorf("got  %+v\nwant %+v", r, want)
			}
		})
	}
}

// TestUser: who may share with whom. With externalTrafficPolicy Local both need the same Pods.
func TestUser(t *testing.T) {
	local := func(name, selector string) *Service {
		return &Service{Key: ipam.Key{Namespace: "shop", Name: name}, Local: true, Selector: selector}
	}
	if a, b := local("a", "app=x").user(), local("b", "app=x").user(); a.Backends != b.Backends || a.Backends == "" {
		t.Errorf("the same selector: %q and %q", a.Backends, b.Backends)
	}
	if a, b := local("a", "app=x").user(), local("b", "app=y").user(); a.Backends == b.Backends {
		t.Errorf("another selector: %q", a.Backends)
	}
	if a, b := local("a", "").user(), local("b", "").user(); a.Backends == b.Backends {
		t.Errorf("no selector: %q", a.Backends)
	}
	other := local("a", "app=x")
	other.Namespace = "bank"
	if a, b := local("a", "app=x").user(), other.user(); a.Backends == b.Backends {
		t.Errorf("another namespace: %q", a.Backends)
	}
	s := &Service{Key: web, Notes: map[string]string{"metallb.universe.tf/allow-shared-ip": "k"}}
	if u := s.user(); u.ShareKey != "k" || u.Backends != "" {
		t.Errorf("%+v", u)
	}
}

func TestReadSlice(t *testing.T) {
	for _, c := range []struct {
		name           string
		endpoint       string
		ready, serving int
	}{
		{"no conditions: ready", `{nodeName: n1}`, 1, 1},
		{"ready", `{nodeName: n1, conditions: {ready: true}}`, 1, 1},
		{"not ready", `{nodeName: n1, conditions: {ready: false}}`, 0, 0},
		{"not ready, serving", `{nodeName: n1, conditions: {ready: false, serving: true}}`, 0, 1},
		{"ends, serving", `{nodeName: n1, conditions: {ready: false, serving: true, terminating: true}}`, 0, 1},
		{"ends, not serving", `{nodeName: n1, conditions: {ready: false, serving: false, terminating: true}}`, 0, 0},
		{"ends, said to be ready (publishNotReadyAddresses)", `{nodeName: n1, conditions: {ready: true, serving: true, terminating: true}}`, 0, 1},
		{"ready, said not to serve", `{nodeName: n1, conditions: {ready: true, serving: false}}`, 1, 0},
		{"on no node", `{conditions: {ready: true}}`, 0, 0},
		{"on another node", `{nodeName: n2, conditions: {ready: true}}`, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := readSlice(fromYAML[discoveryv1.EndpointSlice](t, `
metadata: {namespace: shop, name: web-x, labels: {kubernetes.io/service-name: web}}
endpoints: [`+strings.Replace(c.endpoint, "{", "{addresses: [10.0.0.1], ", 1)+`]`))
			if e.Service != web || e.Ready["n1"] != c.ready || e.Serving["n1"] != c.serving {
				t.Errorf("%+v; want %d ready, %d serving", e, c.ready, c.serving)
			}
			if len(e.Ready) > 1 || c.ready == 0 && e.Ready["n1"] != 0 {
				t.Errorf("nodes %v", e.Ready)
			}
		})
	}
}

func TestReadNode(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       NodeInfo
	}{
		{"plain", `metadata: {name: n1}`, NodeInfo{Weight: 1}},
		{"cordoned", `
metadata: {name: n1}
spec: {unschedulable: true}`, NodeInfo{Weight: 1, Cordoned: true}},
		{"being deleted", `metadata: {name: n1, deletionTimestamp: "2026-01-01T00:00:00Z"}`, NodeInfo{Weight: 1, Cordoned: true}},
		{"excluded, whatever the value", `metadata: {name: n1, labels: {node.kubernetes.io/exclude-from-external-load-balancers: "false"}}`,
			NodeInfo{Weight: 1, Excluded: true, Labels: map[string]string{excludeLabel: "false"}}},
		{"weight and priority", `metadata: {name: n1, annotations: {pintle.dev/weight: "7", pintle.dev/priority: "-2"}}`, NodeInfo{Weight: 7, Priority: -2}},
		{"weight 0", `metadata: {name: n1, annotations: {pintle.dev/weight: "0"}}`, NodeInfo{}},
		{"weight too small", `metadata: {name: n1, annotations: {pintle.dev/weight: "-3"}}`, NodeInfo{}},
		{"weight too large", `metadata: {name: n1, annotations: {pintle.dev/weight: "1000"}}`, NodeInfo{Weight: 100}},
		{"not understood", `metadata: {name: n1, annotations: {pintle.dev/weight: much, pintle.dev/priority: high}}`, NodeInfo{Weight: 1}},
		{"its addresses", `
metadata: {name: n1}
status: {addresses: [{type: Hostname, address: n1}, {type: InternalIP, address: 10.0.0.1}, {type: ExternalIP, address: 192.0.2.1}, {type: InternalIP, address: "fd00::1"}]}`,
			NodeInfo{Weight: 1, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.want.Name = "n1"
			if got := readNode(fromYAML[corev1.Node](t, c.text)); !reflect.DeepEqual(*got, c.want) {
				t.Errorf("got  %+v\nwant %+v", *got, c.want)
			}
		})
	}
}

func TestReadPool(t *testing.T) {
	for _, c := range []struct {
		name, spec string
		errs       string // all, one a line
	}{
		{"plain", `{addresses: [192.0.2.0/24]}`, ""},
		{"all of it", `{addresses: [192.0.2.0/24, 2001:db8::1-2001:db8::9], autoAssign: false, priority: 3, namespaces: [shop], namespaceSelector: {matchLabels: {a: b}},
   serviceSelector: {matchExpressions: [{key: a, operator: Exists}]}, nodeSelector: {matchLabels: {zone: a}}, announce: [arp, bgp], onAPILoss: keep,
   bgp: {communities: ["65001:1", no-export], largeCommunities: ["65001:1:2"], localPref: 200}}`, ""},
		{"one that is none", `{addresses: [192.0.2.0/24, 192.0.2.300]}`, `spec.addresses[1]: `},
		{"an operator that is none", `{addresses: [192.0.2.0/24], serviceSelector: {matchExpressions: [{key: a, operator: Like}]}}`,
			`spec.serviceSelector.matchExpressions[0].operator: "Like": want In, NotIn, Exists or DoesNotExist`},
		{"a community that is none", `{addresses: [192.0.2.0/24], announce: [bgp], bgp: {communities: ["x"]}}`, `spec.bgp: communities: "x"`},
		{"a preference that is none", `{addresses: [192.0.2.0/24], announce: [bgp], bgp: {localPref: -1}}`, `spec.bgp: localPref: -1: want 0 to 4294967295`},
		{"keep routes", `{addresses: [192.0.2.0/24], announce: [bgp], onAPILoss: keep}`, `spec.onAPILoss: keep is for addresses that one node answers for`},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := readPool(fromYAML[pintlev1.AddressPool](t, "metadata: {name: main}\nspec: "+c.spec))
			var errs []string
			for _, e := range p.Errors {
				errs = append(errs, e.Error())
			}
			if text := strings.Join(errs, "\n"); !strings.HasPrefix(text, c.errs) || (c.errs == "") != (text == "") {
				t.Errorf("errors %q, want %q", text, c.errs)
			}
			if p.Name != "main" || len(p.Ranges) == 0 {
				t.Errorf("%+v", p.Pool)
			}
		})
	}
	p := readPool(fromYAML[pintlev1.AddressPool](t, `
metadata: {name: main}
spec: {addresses: [192.0.2.0/24], autoAssign: false, priority: 3, namespaces: [shop], namespaceSelector: {matchLabels: {a: b}}, nodeSelector: {matchLabels: {zone: a}}}`))
	want := ipam.Pool{Name: "main", Ranges: p.Ranges, Priority: 3, Namespaces: []string{"shop"}, NamespaceSelector: &ipam.Selector{{Key: "a", Op: ipam.In, Values: []string{"b"}}}}
	if !reflect.DeepEqual(p.Pool, want) || p.Nodes.String() != "zone=a" {
		t.Errorf("got  %+v, nodes %s\nwant %+v, nodes zone=a", p.Pool, p.Nodes, want)
	}
	if all := readPool(&pintlev1.AddressPool{}); !all.AutoAssign || all.NamespaceSelector != nil || !all.Nodes.Matches(nil) {
		t.Errorf("without anything said: %+v", all)
	}
}

func TestObjectName(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.10":   "192.0.2.10",
		"2001:db8::10": "2001-0db8-0000-0000-0000-0000-0000-0010",
		"fd00::":       "fd00-0000-0000-0000-0000-0000-0000-0000",
	} {
		a := netip.MustParseAddr(addr)
		o := &pintlev1.Address{ObjectMeta: metav1.ObjectMeta{Name: objectName(a)}, Spec: pintlev1.AddressSpec{Address: addr}}
		if o.Name != want || addressOf(o) != a {
			t.Errorf("%s is called %s and read as %s", addr, o.Name, addressOf(o))
		}
	}
	for name, addr := range map[string]string{"192.0.2.10": "192.0.2.11", "2001-db8--10": "2001:db8::10", "web": "web", "": ""} {
		o := &pintlev1.Address{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: pintlev1.AddressSpec{Address: addr}}
		if a := addressOf(o); a.IsValid() {
			t.Errorf("an object that is called %q and says %q is taken for %s", name, addr, a)
		}
	}
}

func TestVersion(t *testing.T) {
	for text, want := range map[string]uint64{"": 0, "7": 7, "18446744073709551615": 1<<64 - 1, "x7": 0, "-1": 0} {
		if got := version(text); got != want {
			t.Errorf("%q is %d", text, got)
		}
	}
}
