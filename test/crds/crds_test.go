package crds_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/kube"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
	"github.com/pintle-lb/pintle/manifests"
	"github.com/pintle-lb/pintle/test/cluster"
	"github.com/pintle-lb/pintle/test/cluster/clustertest"
)

// An api is a cluster that knows Pintle's objects.
type api struct {
	*cluster.Cluster
	client rest.Interface
}

// All tests share one cluster: each has names of its own.
func TestCRDs(t *testing.T) {
	c, ctx := clustertest.New(t, cluster.Options{}), clustertest.Context(t)
	cfg := c.Config(1, c.Lab().Client(), c.Admin())
	cfg.GroupVersion, cfg.NegotiatedSerializer = &pintlev1.GroupVersion, scheme.Codecs.WithoutConversion()
	client, err := rest.RESTClientFor(cfg)
	check(t, err)
	a := &api{c, client}
	install, err := manifests.Kube{Image: "pintle:dev", Instance: "services", Config: []byte("a: b\n"), Token: true,
		Rules: manifests.ServiceRules("pintle-system", true)}.All(manifests.Pool{Name: "first", Addresses: []string{"203.0.113.0/24", "2001:db8:f::/112"}})
	check(t, err)
	out, err := c.Apply(ctx, 1, install, "--validate=strict") // the pool too, at once
	check(t, err)
	for _, want := range []string{"namespace/pintle-system created", "daemonset.apps/pintle-services created", "addresspool.pintle.dev/first created"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%s: not said in\n%s", want, out)
		}
	}
	_, err = c.Kubectl(ctx, 1, "wait", "--for=condition=Established", "--timeout=60s", "crd", "addresspools.pintle.dev", "addresses.pintle.dev")
	check(t, err)
	for _, crd := range []string{"addresspools.pintle.dev", "addresses.pintle.dev"} {
		out, err := c.Kubectl(ctx, 1, "get", "crd", crd, "-o", "jsonpath={.status.conditions[?(@.type==\"NonStructuralSchema\")].message}")
		check(t, err)
		if len(out) > 0 {
			t.Errorf("%s: %s", crd, out)
		}
	}
	for name, f := range map[string]func(*testing.T, context.Context, *api){
		"pools": pools, "entries": entries, "defaults": defaults, "pool in full": poolInFull, "address in full": addressInFull,
		"names": names, "addresses": addresses, "changes": changes, "columns": columns, "describe": describe, "rights": rights, "priority": priority, "printed": printed,
	} {
		t.Run(name, func(t *testing.T) { f(t, ctx, a) })
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// printed: what Pintle's commands print the API server takes: the manifests, with routers and pools, and the pools of import metallb.
func printed(t *testing.T, ctx context.Context, a *api) {
	taken := 0
	for _, pattern := range []string{"../../manifests/testdata/services/*.yaml", "../../internal/metallb/testdata/*.out"} {
		files, err := filepath.Glob(pattern)
		check(t, err)
		for _, file := range files {
			text, err := os.ReadFile(file)
			check(t, err)
			objects, _, _ := strings.Cut(string(text), "--- pintle.yaml")
			if !strings.Contains(objects, "kind:") {
				continue
			}
			for _, o := range strings.Split(objects, "\n---\n") {
				if strings.Contains(o, "kind: Namespace\n") { // what is in it is not looked at before it is there
					_, err := a.Apply(ctx, 1, []byte(o))
					check(t, err)
				}
			}
			if out, err := a.Apply(ctx, 1, []byte(objects), "--validate=strict", "--dry-run=server"); err != nil {
				t.Errorf("%s: %v: %s", filepath.Base(file), err, out)
			}
			taken++
		}
	}
	if taken < 9 {
		t.Errorf("only %d files have objects", taken)
	}
}

const path = "/apis/pintle.dev/v1/"

// send writes an object, or tries to, and returns what the API server made of it. Unknown fields are an error.
func (a *api) send(ctx context.Context, verb, where string, in any, dry bool) ([]byte, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	r := a.client.Verb(verb).AbsPath(path+where).Param("fieldValidation", "Strict").SetHeader("Content-Type", "application/json").Body(body)
	if dry {
		r = r.Param("dryRun", metav1.DryRunAll)
	}
	return raw(r.Do(ctx))
}

// raw is the answer, or what the API server said against the question.
func raw(r rest.Result) ([]byte, error) {
	if err := r.Error(); err != nil {
		return nil, err
	}
	return r.Raw()
}

func pool(name string, spec map[string]any) map[string]any {
	return map[string]any{"apiVersion": "pintle.dev/v1", "kind": "AddressPool", "metadata": map[string]any{"name": name}, "spec": spec}
}

// causes are what an API server has against an object: field and message of each.
func causes(err error) (out []string) {
	var s apierrors.APIStatus
	if !errors.As(err, &s) || s.Status().Details == nil {
		return []string{fmt.Sprint(err)}
	}
	for _, c := range s.Status().Details.Causes {
		if c.Field != "<nil>" { // that rules were not looked at, because of the others
			out = append(out, c.Field+": "+c.Message)
		}
	}
	return out
}

// pools: what a pool may say, and in which words the rest is refused.
func pools(t *testing.T, ctx context.Context, a *api) {
	with := func(more map[string]any) map[string]any {
		spec := map[string]any{"addresses": []any{"192.0.2.0/24"}}
		for k, v := range more {
			spec[k] = v
		}
		return spec
	}
	type m = map[string]any
	type l = []any
	for name, tt := range map[string]struct {
		spec m
		want string // the only problem: its place, and what is said; "" for none
	}{
		"plain":             {with(nil), ""},
		"everything":        {with(m{"announce": l{"arp", "bgp"}, "bind": true, "onAPILoss": "keep", "links": l{"eth0", "enp*"}, "bgp": m{"localPref": 1}, "namespaces": l{"a"}}), ""},
		"announce in both":  {with(m{"announce": l{"bgp", "arp"}}), ""},
		"no addresses":      {m{}, "spec.addresses: Required value"},
		"empty addresses":   {m{"addresses": l{}}, "spec.addresses: .*is empty: list prefixes like 192.0.2.0/24 or ranges like 192.0.2.10-192.0.2.20"},
		"one twice":         {m{"addresses": l{"192.0.2.0/24", "192.0.2.0/24"}}, `spec.addresses\[1\]: Duplicate value`},
		"announce":          {with(m{"announce": l{"ospf"}}), `spec.announce\[0\]: .*supported values: "arp", "bgp"`},
		"announce nothing":  {with(m{"announce": l{}}), "spec.announce: .*is empty: write arp or bgp, or leave it out"},
		"announce twice":    {with(m{"announce": l{"arp", "arp"}}), `spec.announce\[1\]: Duplicate value`},
		"onAPILoss":         {with(m{"onAPILoss": "stay"}), `spec.onAPILoss: .*supported values: "release", "keep"`},
		"keep without ARP":  {with(m{"announce": l{"bgp"}, "onAPILoss": "keep"}), "spec.onAPILoss: .*keep has no effect: routes stay anyway when the API is away: leave it out, or add arp to announce"},
		"bind without ARP":  {with(m{"announce": l{"bgp"}, "bind": true}), "spec.bind: .*only one node at a time can have an address on lo: leave it out, or add arp to announce"},
		"no bind":           {with(m{"announce": l{"bgp"}, "bind": false}), ""},
		"links without ARP": {with(m{"announce": l{"bgp"}, "links": l{"eth0"}}), "spec.links: .*only ARP and neighbour discovery happen on a link"},
		"bgp without BGP":   {with(m{"bgp": m{}}), "spec.bgp: .*announce does not have bgp: leave it out, or add bgp to announce"},
		"nothing left":      {m{"addresses": l{"192.0.2.0/31"}, "skipFirstLast": true}, "spec.skipFirstLast: .*a prefix of one or two addresses has none left"},
		"nothing left v6":   {m{"addresses": l{"2001:db8::/127"}, "skipFirstLast": true}, "spec.skipFirstLast: .*a prefix of one or two addresses has none left"},
		"enough left":       {m{"addresses": l{"192.0.2.0/30", "2001:db8::/32"}, "skipFirstLast": true}, ""},
		"link":              {with(m{"links": l{"a/b"}}), `spec.links\[0\]: .*"a/b" is no link on which anybody asks: write a name like eth0, or a glob like enp\*`},
		"lo":                {with(m{"links": l{"lo"}}), `spec.links\[0\]: .*"lo" is no link on which anybody asks`},
		"namespace":         {with(m{"namespaces": l{"A"}}), `spec.namespaces\[0\]: .*"A" is no name of a namespace`},
		"selectors": {with(m{"namespaceSelector": m{"matchLabels": m{"a/b": "c"}}, "nodeSelector": m{"matchExpressions": l{m{"key": "a", "operator": "Exists"}}},
			"serviceSelector": m{"matchExpressions": l{m{"key": "a", "operator": "NotIn", "values": l{"b"}}}}}), ""},
		"operator":             {with(m{"nodeSelector": m{"matchExpressions": l{m{"key": "a", "operator": "Is"}}}}), `spec.nodeSelector.matchExpressions\[0\].operator: .*supported values: "In", "NotIn", "Exists", "DoesNotExist"`},
		"operator, no values":  {with(m{"nodeSelector": m{"matchExpressions": l{m{"key": "a", "operator": "In"}}}}), `spec.nodeSelector.matchExpressions\[0\]: .*operator In needs at least one value`},
		"operator with values": {with(m{"serviceSelector": m{"matchExpressions": l{m{"key": "a", "operator": "Exists", "values": l{"b"}}}}}), `spec.serviceSelector.matchExpressions\[0\]: .*operator Exists has no values`},
		"communities":          {with(m{"announce": l{"bgp"}, "bgp": m{"communities": l{"65001:100", "0:65535", "no-export"}, "largeCommunities": l{"4294967295:0:1"}, "localPref": 4294967295}}), ""},
		"community":            {with(m{"announce": l{"bgp"}, "bgp": m{"communities": l{"65536:1"}}}), `spec.bgp.communities\[0\]: .*"65536:1" is no community: write it like 65001:100, or no-export`},
		"community by a name":  {with(m{"announce": l{"bgp"}, "bgp": m{"communities": l{"no-import"}}}), `spec.bgp.communities\[0\]: .*"no-import" is no community`},
		"large community":      {with(m{"announce": l{"bgp"}, "bgp": m{"largeCommunities": l{"65001:1"}}}), `spec.bgp.largeCommunities\[0\]: .*"65001:1" is no large community: write it like 65001:1:2`},
		"large number":         {with(m{"announce": l{"bgp"}, "bgp": m{"largeCommunities": l{"1:1:4294967296"}}}), `spec.bgp.largeCommunities\[0\]: .*is no large community`},
		"localPref":            {with(m{"announce": l{"bgp"}, "bgp": m{"localPref": -1}}), "spec.bgp.localPref: .*greater than or equal to 0"},
		"priority of a text":   {with(m{"priority": "high"}), "spec.priority: .*must be of type integer"},
		"autoAssign of a text": {with(m{"autoAssign": "no"}), "spec.autoAssign: .*must be of type boolean"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := a.send(ctx, "POST", "addresspools", pool("tried", tt.spec), true)
			if tt.want == "" {
				check(t, err)
				return
			}
			got := causes(err)
			if len(got) != 1 || !regexp.MustCompile("^"+tt.want).MatchString(got[0]) {
				t.Errorf("got\n  %s\nwant %s", strings.Join(got, "\n  "), tt.want)
			}
		})
	}
	if _, err := a.send(ctx, "POST", "addresspools", pool("tried", with(m{"autoassign": false})), true); err == nil || !strings.Contains(err.Error(), `unknown field "spec.autoassign"`) {
		t.Errorf("an unknown field: %v", err)
	}
}

// entries: the API server refuses what the allocator would refuse, in one place and in words that help. What only the allocator
// sees it reports in the status.
func entries(t *testing.T, ctx context.Context, a *api) {
	const shape, ipv4, ipv6 = "is no prefix and no range", "write it like 192.0.2.0/24 or 192.0.2.10-192.0.2.20", "write it like 2001:db8::/112"
	const alone, mixed, length, unfit = "is an address: for this one alone write ", "mixes IPv4 and IPv6", "has a length out of range", "no Service can have"
	for entry, want := range map[string]string{
		"192.0.2.0/24": "", "192.0.2.7/32": "", "10.0.0.0/8": "", "192.0.2.10-192.0.2.20": "", "192.0.2.10 - 192.0.2.20": "", "192.0.2.7-192.0.2.7": "",
		"9.255.255.255-10.0.0.0": "", "128.0.0.0/9": "", "192.0.2.128/25": "", "240.0.0.0/24": "",
		"2001:db8::/32": "", "2001:db8::10/128": "", "2001:DB8::A-2001:db8::f": "", "1:2:3:4:5:6:7:8-1:2:3:4:5:6:7:9": "", "fd00::1:2:3:4:5:6/128": "", "1:2:3:4:5:6:7::/128": "",
		"2001:db8::": alone + "2001:db8::/128", "192.0.2.10": alone + "192.0.2.10/32", "::": alone + "::/128",
		"": shape, "-": shape, "/": shape, "a": shape, "192.0.2.0/": shape, "192.0.2.0/024": shape, "192.0.2.0/24/8": shape, "192.0.2.0/24-192.0.3.0/24": shape,
		"192.0.2.1-192.0.2.2-192.0.2.3": shape, " 192.0.2.0/24": shape, "192.0.2.10 192.0.2.20": shape, "192.0.2.0/24,": shape,
		"192.0.2.10-20": ipv4, "192.0.2/24": ipv4, "192.0.2.256/32": ipv4, "192.0.2.010/32": ipv4, "a.b.c.d/24": ipv4, "example.com-b": ipv4, "192.0.2.1-x": ipv4, "a-b": ipv4,
		"2001:db8/64": ipv6, "2001:db8::1::/64": ipv6, "1:2:3:4:5:6:7:8:9/64": ipv6, "1:2:3:4:5:6:7::8/64": ipv6, "1:2:3:4::5:6:7:8/64": ipv6, "2001:db8::12345/128": ipv6,
		"2001:db8:::/64": ipv6, ":1-::2": ipv6, "fe80::1%eth0-fe80::2%eth0": ipv6, "2001:db8::1-2001:db8": ipv6, "2001:db8::1-x": ipv6,
		"192.0.2.1-2001:db8::1": mixed, "2001:db8::1-192.0.2.1": mixed, "::ffff:192.0.2.0/120": mixed,
		"192.0.2.0/33": length, "0.0.0.0/0": length, "8.0.0.0/7": length, "::/0": length, "2001:d00::/24": length, "2001:db8::/129": length, "2001:db8::/31": length,
		"192.0.2.20-192.0.2.10": "goes backwards: write the lower address first", "10.0.1.0-10.0.0.255": "goes backwards",
		"192.0.2.1/24": "has bits beyond its /24: write the first address of the prefix, or 192.0.2.1/32 for the one address", "192.0.2.64/25": "has bits beyond its /25", "10.1.0.0/8": "has bits beyond its /8",
		"127.0.0.0/24": unfit, "169.254.1.0/24": unfit, "224.0.0.0/24": unfit, "239.255.255.0/24": unfit, "0.0.0.0/8": unfit, "255.255.255.255/32": unfit, "192.0.2.1-255.255.255.255": unfit,
		"fe80::/64": unfit, "ff02::/64": unfit, "febf::1-febf::2": unfit, "::1/128": unfit, "::/96": unfit, "::1-::2": unfit,
	} {
		t.Run(entry, func(t *testing.T) {
			_, err := a.send(ctx, "POST", "addresspools", pool("tried", map[string]any{"addresses": []any{entry}}), true)
			_, own := ipam.ParseRange(entry, false)
			if (err == nil) != (own == nil) && entry == strings.TrimSpace(entry) {
				t.Errorf("the API server says %v, the allocator %v", err, own)
			}
			if want == "" {
				check(t, err)
				return
			}
			got := causes(err)
			if len(got) != 1 || !strings.HasPrefix(got[0], "spec.addresses[0]: ") || !strings.Contains(got[0], want) || !strings.Contains(got[0], entry) {
				t.Errorf("got\n  %s\nwant %s\nthe allocator says: %v", strings.Join(got, "\n  "), want, own)
			}
		})
	}
}

// defaults: what a person leaves out is to be seen.
func defaults(t *testing.T, ctx context.Context, a *api) {
	answer, err := a.send(ctx, "POST", "addresspools", pool("tried", map[string]any{"addresses": []any{"192.0.2.0/24"}}), true)
	check(t, err)
	var got pintlev1.AddressPool
	check(t, json.Unmarshal(answer, &got))
	yes := true
	want := pintlev1.AddressPoolSpec{Addresses: []string{"192.0.2.0/24"}, AutoAssign: &yes, Announce: []string{pintlev1.AnnounceARP}, OnAPILoss: pintlev1.Release}
	if !reflect.DeepEqual(got.Spec, want) {
		t.Errorf("got %+v, want %+v", got.Spec, want)
	}
}

func fullPool(name string) *pintlev1.AddressPool {
	no, pref := false, int64(4294967295)
	selector := func(key string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{key: "a", "other": ""}, MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: key, Operator: metav1.LabelSelectorOpIn, Values: []string{"a", "b"}}, {Key: "x", Operator: metav1.LabelSelectorOpDoesNotExist}}}
	}
	return &pintlev1.AddressPool{
		TypeMeta:   metav1.TypeMeta{APIVersion: "pintle.dev/v1", Kind: "AddressPool"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"a": "b"}},
		Spec: pintlev1.AddressPoolSpec{Addresses: []string{"192.0.2.0/24", "2001:db8::10-2001:db8::20"}, AutoAssign: &no, Priority: -7, SkipFirstLast: true,
			Namespaces: []string{"a", "b"}, NamespaceSelector: selector("n"), ServiceSelector: selector("s"), NodeSelector: selector("m"),
			Announce: []string{"arp", "bgp"}, Links: []string{"eth0", "enp*"}, Bind: true, OnAPILoss: "keep",
			BGP: &pintlev1.RouteBGP{Communities: []string{"65001:100", "no-export"}, LargeCommunities: []string{"1:2:3"}, LocalPref: &pref}},
		Status: pintlev1.AddressPoolStatus{Total: "18446744073709551616", Used: 3, Free: "18446744073709551613", Conflicts: 1,
			Conditions: []metav1.Condition{{Type: "Ready", Status: metav1.ConditionFalse, ObservedGeneration: 2, LastTransitionTime: metav1.Unix(1e9, 0), Reason: "Overlap", Message: "overlaps b"}}},
	}
}

// filled reports the fields of a value that are zero: a test that leaves one out would not see that it is pruned.
func filled(path string, v reflect.Value) (empty []string) {
	switch {
	case v.IsZero():
		return []string{path}
	case v.Kind() == reflect.Pointer && v.Elem().Kind() == reflect.Struct:
		return filled(path, v.Elem())
	case v.Kind() == reflect.Struct && v.Type().PkgPath() == reflect.TypeFor[pintlev1.Address]().PkgPath():
		for i := range v.NumField() {
			empty = append(empty, filled(path+"."+v.Type().Field(i).Name, v.Field(i))...)
		}
	}
	return empty
}

// poolInFull: nothing of a pool is lost, its status is written by itself, and who may write that may not write the rest.
func poolInFull(t *testing.T, ctx context.Context, a *api) {
	want := fullPool("full")
	if empty := filled("pool", reflect.ValueOf(*want)); len(empty) > 0 {
		t.Fatalf("not tried: %v", empty)
	}
	_, err := a.send(ctx, "POST", "addresspools", want, false)
	check(t, err)
	status := map[string]any{"apiVersion": want.APIVersion, "kind": want.Kind, "metadata": map[string]any{"name": want.Name}, "status": want.Status}
	_, err = a.send(ctx, "PATCH", "addresspools/full/status", status, false)
	if err == nil || !apierrors.IsUnsupportedMediaType(err) {
		t.Fatalf("a patch of no kind: %v", err)
	}
	body, err := json.Marshal(map[string]any{"status": want.Status, "spec": map[string]any{"addresses": []any{"198.51.100.0/24"}}})
	check(t, err)
	_, err = raw(a.client.Patch(types.MergePatchType).AbsPath(path + "addresspools/full/status").Body(body).Do(ctx))
	check(t, err)
	answer, err := raw(a.client.Get().AbsPath(path + "addresspools/full").Do(ctx))
	check(t, err)
	var got pintlev1.AddressPool
	check(t, json.Unmarshal(answer, &got))
	got.Status.Conditions[0].LastTransitionTime = metav1.NewTime(got.Status.Conditions[0].LastTransitionTime.Local())
	if !reflect.DeepEqual(got.Spec, want.Spec) || !reflect.DeepEqual(got.Status, want.Status) || got.Annotations["a"] != "b" {
		t.Errorf("got  %+v\nwant %+v", got, *want)
	}
}

func nameOf(a netip.Addr) string { return strings.ReplaceAll(a.StringExpanded(), ":", "-") }

func address(a string) *pintlev1.Address {
	return &pintlev1.Address{
		TypeMeta:   metav1.TypeMeta{APIVersion: "pintle.dev/v1", Kind: "Address"},
		ObjectMeta: metav1.ObjectMeta{Name: nameOf(netip.MustParseAddr(a))},
		Spec:       pintlev1.AddressSpec{Address: a, Pool: "p"},
	}
}

// addressInFull: nothing of an address is lost, and all of it is written at once.
func addressInFull(t *testing.T, ctx context.Context, a *api) {
	pref, since := int64(200), metav1.NewMicroTime(time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC))
	want := address("2001:db8::10")
	want.Finalizers = []string{"pintle.dev/held"}
	want.Spec = pintlev1.AddressSpec{Address: want.Spec.Address, Pool: "p", Services: []pintlev1.ServiceRef{{Namespace: "a", Name: "b", UID: "u"}, {Namespace: "c", Name: "d", UID: "v"}},
		Announce: []string{"arp", "bgp"}, Links: []string{"eth0"}, Bind: true, OnAPILoss: "keep", Wanted: "n1",
		BGP: &pintlev1.RouteBGP{Communities: []string{"1:1"}, LargeCommunities: []string{"1:2:3"}, LocalPref: &pref}}
	want.Status = pintlev1.AddressStatus{Holder: "n1", Epoch: 9007199254740993, Turn: 3, Since: &since, Reason: "placed", Services: "a/b,c/d"}
	if empty := filled("address", reflect.ValueOf(*want)); len(empty) > 0 {
		t.Fatalf("not tried: %v", empty)
	}
	answer, err := a.send(ctx, "POST", "addresses", want, false)
	check(t, err)
	for _, change := range []string{"n2", ""} {
		var got pintlev1.Address
		check(t, json.Unmarshal(answer, &got))
		local := metav1.NewMicroTime(got.Status.Since.UTC())
		if got.Status.Since = &local; !reflect.DeepEqual(got.Spec, want.Spec) || !reflect.DeepEqual(got.Status, want.Status) || !slices.Equal(got.Finalizers, want.Finalizers) {
			t.Errorf("got  %+v\nwant %+v", got, *want)
		}
		if change != "" { // of both halves in one
			want.Status.Holder, want.Spec.Wanted, want.Status.Turn = change, change, 4
			got.Status.Holder, got.Spec.Wanted, got.Status.Turn = change, change, 4
			answer, err = a.send(ctx, "PUT", "addresses/"+got.Name, got, false)
			check(t, err)
		}
	}
	body := []byte(`{"metadata":{"finalizers":[]}}`)
	_, err = raw(a.client.Patch(types.MergePatchType).AbsPath(path + "addresses/" + want.Name).Body(body).Do(ctx))
	check(t, err)
}

// names: an object has the name of its address, so that there cannot be two.
func names(t *testing.T, ctx context.Context, a *api) {
	for _, s := range []string{"192.0.2.10", "2001:db8::1f", "::2", "2001:db8::", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:0", "::2:3:4:5:6:7:8", "1::8", "a:b0:c00:d000::", "1:0:0:2::3", "fd00:0:1::"} {
		want := address(s)
		if _, err := a.send(ctx, "POST", "addresses", want, true); err != nil {
			t.Errorf("%s named %s: %v", s, want.Name, err)
		}
		for _, other := range []string{"192.0.2.11", "192.0.2.1", "x", nameOf(netip.MustParseAddr("2001:db8::11")), nameOf(netip.MustParseAddr("::")), nameOf(netip.MustParseAddr("8:7:6:5:4:3:2:1")),
			strings.ToUpper(want.Name), want.Name[:len(want.Name)-1], want.Name + "0", strings.Replace(want.Name, "0000", "0001", 1), strings.Replace(want.Name, "1", "2", 1)} {
			if other == want.Name {
				continue
			}
			named := address(s)
			named.Name = other
			if _, err := a.send(ctx, "POST", "addresses", named, true); err == nil {
				t.Errorf("%s may be named %s", s, other)
			}
		}
	}
	named := address("2001:db8::1f")
	named.Name = nameOf(netip.MustParseAddr("2001:db8::11"))
	_, err := a.send(ctx, "POST", "addresses", named, true)
	if err == nil || !strings.Contains(err.Error(), "the name of the object of 2001:db8::1f follows from the address: eight groups of four digits with dashes between") {
		t.Errorf("%v", err)
	}
	named = address("192.0.2.10")
	named.Name = "web"
	if _, err = a.send(ctx, "POST", "addresses", named, true); err == nil || !strings.Contains(err.Error(), "the name of the object of 192.0.2.10 follows from the address: 192.0.2.10") {
		t.Errorf("%v", err)
	}
}

// addresses: only addresses in their one spelling are any.
func addresses(t *testing.T, ctx context.Context, a *api) {
	for _, s := range []string{"", "x", "192.0.2", "192.0.2.256", "192.0.2.010", "2001:DB8::1", "2001:db8:1", "1:2:3:4:5:6:7:8:9", "::ffff:192.0.2.1", "192.0.2.10/32", "fe80::1%eth0"} {
		wrong := address("192.0.2.10")
		wrong.Spec.Address = s
		_, err := a.send(ctx, "POST", "addresses", wrong, true)
		if !slices.ContainsFunc(causes(err), func(c string) bool {
			return strings.HasPrefix(c, "spec.address: ") && strings.Contains(c, fmt.Sprintf("%q is no address", s))
		}) {
			t.Errorf("%q: %v", s, err)
		}
	}
	none := address("192.0.2.10")
	none.Spec.Pool = ""
	if _, err := a.send(ctx, "POST", "addresses", none, true); err == nil || !strings.Contains(err.Error(), "spec.pool") {
		t.Errorf("no pool: %v", err)
	}
}

// changes: an address stays one address, and its turn never goes back, whoever writes.
func changes(t *testing.T, ctx context.Context, a *api) {
	first := address("198.51.100.1")
	first.Status.Turn = 5
	answer, err := a.send(ctx, "POST", "addresses", first, false)
	check(t, err)
	for name, tt := range map[string]struct {
		change func(*pintlev1.Address)
		want   string
	}{
		"another address": {func(p *pintlev1.Address) { p.Spec.Address = "198.51.100.2" }, "is for ever: another address is another object"},
		"turn back":       {func(p *pintlev1.Address) { p.Status.Turn = 4 }, "status.turn counts holders: it never decreases"},
		"no turn":         {func(p *pintlev1.Address) { p.Status = pintlev1.AddressStatus{Holder: "n1"} }, "status.turn counts holders: it never decreases"},
		"no status":       {func(p *pintlev1.Address) { p.Status = pintlev1.AddressStatus{} }, "status.turn counts holders: it never decreases"},
		"same turn":       {func(p *pintlev1.Address) { p.Status.Holder = "n1" }, ""},
		"next turn":       {func(p *pintlev1.Address) { p.Status.Turn = 6 }, ""},
		"another pool":    {func(p *pintlev1.Address) { p.Spec.Pool = "q" }, ""},
	} {
		var p pintlev1.Address
		check(t, json.Unmarshal(answer, &p))
		tt.change(&p)
		if _, err := a.send(ctx, "PUT", "addresses/"+p.Name, p, true); tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
	// There is no other way to its status.
	if _, err := raw(a.client.Get().AbsPath(path + "addresses/" + first.Name + "/status").Do(ctx)); !apierrors.IsNotFound(err) {
		t.Errorf("a status subresource: %v", err)
	}
	var p pintlev1.Address
	check(t, json.Unmarshal(answer, &p))
	p.ResourceVersion = "1"
	if _, err := a.send(ctx, "PUT", "addresses/"+p.Name, p, true); !apierrors.IsConflict(err) {
		t.Errorf("an old version: %v", err)
	}
	if _, err := a.send(ctx, "POST", "addresses", first, false); !apierrors.IsAlreadyExists(err) {
		t.Errorf("a second one: %v", err)
	}
}

// columns: what kubectl get shows.
func columns(t *testing.T, ctx context.Context, a *api) {
	p := fullPool("shown")
	_, err := a.send(ctx, "POST", "addresspools", p, false)
	check(t, err)
	body, err := json.Marshal(map[string]any{"status": p.Status})
	check(t, err)
	_, err = raw(a.client.Patch(types.MergePatchType).AbsPath(path + "addresspools/shown/status").Body(body).Do(ctx))
	check(t, err)
	held := address("198.51.100.7")
	since := metav1.NewMicroTime(time.Now().Add(-2 * time.Hour))
	held.Status = pintlev1.AddressStatus{Holder: "n1", Since: &since, Services: "shop/web"}
	_, err = a.send(ctx, "POST", "addresses", held, false)
	check(t, err)
	for _, tt := range []struct {
		args []string
		want string // each word of it a regular expression
	}{
		{[]string{"addresspools", "shown"}, `NAME ADDRESSES USED FREE CONFLICTS AUTO AGE shown \["192.0.2.0/24","2001:db8::10-2001:db8::20"\] 3 18446744073709551613 1 false [0-9]+s`},
		{[]string{"addresspools", "shown", "-o", "wide"}, `NAME ADDRESSES USED FREE CONFLICTS AUTO ANNOUNCE PRIORITY AGE shown \["192.*"\] 3 [0-9]+ 1 false \["arp","bgp"\] -7 [0-9]+s`},
		{[]string{"addresses.pintle.dev", held.Name}, `NAME ADDRESS POOL SERVICES HOLDER SINCE 198.51.100.7 198.51.100.7 p shop/web n1 120m`},
	} {
		out, err := a.Kubectl(ctx, 1, append([]string{"get"}, tt.args...)...)
		check(t, err)
		if got := strings.Join(strings.Fields(string(out)), " "); !regexp.MustCompile("^" + tt.want + "$").MatchString(got) {
			t.Errorf("%v:\n%s\nwant %s", tt.args, out, tt.want)
		}
	}
	out, err := a.Kubectl(ctx, 1, "get", "pintle", "-o", "name")
	check(t, err)
	for _, want := range []string{"addresspool.pintle.dev/shown", "address.pintle.dev/198.51.100.7"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%s is not in the category: %s", want, out)
		}
	}
}

// describe: what a person reads of one object, and of the fields.
func describe(t *testing.T, ctx context.Context, a *api) {
	held := address("198.51.100.8")
	held.Spec.Services = []pintlev1.ServiceRef{{Namespace: "shop", Name: "web", UID: "u"}}
	held.Status = pintlev1.AddressStatus{Holder: "n1", Reason: "the only node that is well"}
	_, err := a.send(ctx, "POST", "addresses", held, false)
	check(t, err)
	for want, args := range map[string][]string{
		`Reason: +the only node that is well`:              {"describe", "addresses.pintle.dev", held.Name},
		`(?s)Services:\n +Name: +web\n +Namespace: +shop`:  {"describe", "addresses.pintle.dev", held.Name},
		`Prefixes \(192.0.2.0/24\)`:                        {"explain", "addresspools.spec.addresses", "--api-version=pintle.dev/v1"},
		`(?s)Only that\s+node, in that epoch of its Lease`: {"explain", "addresses.status", "--api-version=pintle.dev/v1"},
	} {
		out, err := a.Kubectl(ctx, 1, args...)
		check(t, err)
		if !regexp.MustCompile(want).Match(out) {
			t.Errorf("%v:\n%s\nwant %s", args, out, want)
		}
	}
}

// rights: the service account of the manifest may do what the rules say, and a node says what it may not.
func rights(t *testing.T, ctx context.Context, a *api) {
	id, err := a.ServiceAccount(ctx, "pintle-system", "pintle-services")
	check(t, err)
	cfg := a.Config(1, a.Node(1).Host, id)
	servers := config.Kubernetes{Servers: []string{cfg.Host}}
	clustertest.Await(t, ctx, func(ctx context.Context) error { // until the API server has seen the rights
		if got := kube.Check(ctx, cfg, servers, config.Lease{}, manifests.ServiceRules("pintle-system", true)...); !got.Answered || len(got.Findings) > 0 {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	none, err := a.Issue("nobody")
	check(t, err)
	var got []string
	rules := append(manifests.ServiceRules("pintle-system", true), manifests.Rule{Namespace: "kube-system", Group: "coordination.k8s.io", Resource: "leases", Verbs: []string{"update"}, Why: "x"})
	for _, f := range kube.Check(ctx, a.Config(1, a.Node(1).Host, none), servers, config.Lease{}, rules...).Findings {
		got = append(got, fmt.Sprint(f.Warning, " ", f.Text))
	}
	want := []string{
		"false may not get, list, watch, create, update leases.coordination.k8s.io in pintle-system, to hold addresses by a Lease of this node, and to follow those of the others: `pintle manifest rbac` prints the Role",
		"false may not get, list, watch services, to see which Services want addresses: `pintle manifest rbac` prints the ClusterRole",
		"false may not patch services/status, to write the addresses of Services: `pintle manifest rbac` prints the ClusterRole",
		"false may not get, list, watch endpointslices.discovery.k8s.io, ",
		"false may not get, list, watch nodes, ",
		"false may not get, list, watch namespaces, ",
		"false may not get, list, watch addresspools.pintle.dev, ",
		"true may not patch addresspools.pintle.dev/status, ",
		"false may not get, list, watch, create, update, delete addresses.pintle.dev, ",
		"true may not create events, ",
		"true may not get secrets pintle-hearsay in pintle-system, to know the other nodes when the API is away (onAPILoss: keep)",
		"true may not create secrets in pintle-system, to make that Secret (onAPILoss: keep)",
		"false may not update leases.coordination.k8s.io in kube-system, ",
	}
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
	// And no more than the rules say.
	for _, more := range []manifests.Rule{
		{Namespace: "kube-system", Group: "coordination.k8s.io", Resource: "leases", Verbs: []string{"get", "update"}},
		{Namespace: "pintle-system", Resource: "secrets", Name: "another", Verbs: []string{"get", "update", "delete"}},
		{Namespace: "pintle-system", Resource: "secrets", Name: manifests.HearsaySecret, Verbs: []string{"update", "delete", "list"}},
		{Resource: "services", Verbs: []string{"update", "patch", "delete", "create"}},
		{Resource: "nodes", Verbs: []string{"update", "patch"}},
		{Resource: "nodes/status", Verbs: []string{"update", "patch"}},
		{Resource: "pods", Verbs: []string{"get", "list", "create"}},
		{Group: "pintle.dev", Resource: "addresspools", Verbs: []string{"create", "update", "patch", "delete"}},
	} {
		found := kube.Check(ctx, cfg, servers, config.Lease{}, more).Findings
		if len(found) != 1 || !strings.Contains(found[0].Text, "may not "+strings.Join(more.Verbs, ", ")+" ") {
			t.Errorf("%+v: %+v", more, found)
		}
	}
}

// priority: what a node asks about Leases of nodes has the priority of elections, and what it asks else has not.
func priority(t *testing.T, ctx context.Context, a *api) {
	id, err := a.ServiceAccount(ctx, "pintle-system", "pintle-services")
	check(t, err)
	cfg := a.Config(1, a.Node(1).Host, id)
	hc, err := rest.HTTPClientFor(cfg)
	check(t, err)
	level := func(ctx context.Context, path string) string {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, cfg.Host+path, nil)
		check(t, err)
		resp, err := hc.Do(req)
		check(t, err)
		defer resp.Body.Close()
		return resp.Header.Get("X-Kubernetes-PF-PriorityLevel-UID")
	}
	want, err := a.Kubectl(ctx, 1, "get", "prioritylevelconfiguration", "leader-election", "-o", "jsonpath={.metadata.uid}")
	check(t, err)
	clustertest.Await(t, ctx, func(ctx context.Context) error { // until the API server has seen the FlowSchema
		if got := level(ctx, "/apis/coordination.k8s.io/v1/namespaces/pintle-system/leases/pintle-node-n1"); got != string(want) {
			return fmt.Errorf("Leases of nodes have the priority level %q, want %s", got, want)
		}
		return nil
	})
	for _, path := range []string{"/api/v1/services", "/apis/pintle.dev/v1/addresses", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1"} {
		if got := level(ctx, path); got == string(want) || got == "" {
			t.Errorf("%s has the priority level %q, want another than %s", path, got, want)
		}
	}
}
