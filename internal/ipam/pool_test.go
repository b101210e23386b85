package ipam

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// ranges reads "192.0.2.0/24 192.0.3.1-192.0.3.9".
func ranges(text string) (all []Range) {
	for _, s := range strings.Fields(text) {
		r, err := ParseRange(s, false)
		if err != nil {
			panic(err)
		}
		all = append(all, r)
	}
	return all
}

func TestCheckPools(t *testing.T) {
	for _, c := range []struct {
		name  string
		pools []Pool
		want  map[string][]string
	}{
		{"none", nil, nil},
		{"well", []Pool{
			{Name: "a", Ranges: ranges("192.0.2.0/25 2001:db8::/64")},
			{Name: "b", Ranges: ranges("192.0.2.128/25 2001:db8:0:1::/64 192.0.2.200/32")}, // its own twice is no matter
		}, nil},
		{"empty", []Pool{{Name: "a"}},
			map[string][]string{"a": {"has no addresses: list prefixes like 192.0.2.0/24 or ranges like 192.0.2.10-192.0.2.20"}}},
		{"twice", []Pool{{Name: "a", Ranges: ranges("192.0.2.0/25")}, {Name: "a", Ranges: ranges("192.0.2.0/25")}, {Name: "a", Ranges: ranges("192.0.2.0/25")}},
			map[string][]string{"a": {"is there twice: each pool needs a name of its own"}}},
		{"a selector of namespaces", []Pool{{Name: "a", Ranges: ranges("192.0.2.0/25"), NamespaceSelector: &Selector{{"team", "Is", nil}}}},
			map[string][]string{"a": {`has a wrong namespaceSelector: key "team": operator "Is" is none of In, NotIn, Exists, DoesNotExist`}}},
		{"overlaps: one error for each pair, in the order of addresses", []Pool{
			{Name: "c", Ranges: ranges("192.0.2.7-192.0.2.9 192.0.2.100-192.0.2.200")},
			{Name: "a", Ranges: ranges("192.0.2.0/29")},
			{Name: "b", Ranges: ranges("192.0.2.0/24 192.0.2.3/32")},
		}, map[string][]string{
			"a": {"overlaps pool b: 192.0.2.0/29 and its 192.0.2.0/24 have addresses in common",
				"overlaps pool c: 192.0.2.0/29 and its 192.0.2.7-192.0.2.9 have addresses in common"},
			"b": {"overlaps pool a: 192.0.2.0/24 and its 192.0.2.0/29 have addresses in common",
				"overlaps pool c: 192.0.2.0/24 and its 192.0.2.7-192.0.2.9 have addresses in common"},
			"c": {"overlaps pool a: 192.0.2.7-192.0.2.9 and its 192.0.2.0/29 have addresses in common",
				"overlaps pool b: 192.0.2.7-192.0.2.9 and its 192.0.2.0/24 have addresses in common"},
		}},
		{"a long one and a short one before the third", []Pool{
			{Name: "long", Ranges: ranges("192.0.2.0-192.0.2.100")},
			{Name: "short", Ranges: ranges("192.0.2.10-192.0.2.11")},
			{Name: "third", Ranges: ranges("192.0.2.50-192.0.2.51")},
		}, map[string][]string{
			"long": {"overlaps pool short: 192.0.2.0-192.0.2.100 and its 192.0.2.10-192.0.2.11 have addresses in common",
				"overlaps pool third: 192.0.2.0-192.0.2.100 and its 192.0.2.50-192.0.2.51 have addresses in common"},
			"short": {"overlaps pool long: 192.0.2.10-192.0.2.11 and its 192.0.2.0-192.0.2.100 have addresses in common"},
			"third": {"overlaps pool long: 192.0.2.50-192.0.2.51 and its 192.0.2.0-192.0.2.100 have addresses in common"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := map[string][]string{}
			for name, errs := range CheckPools(c.pools) {
				for _, err := range errs {
					got[name] = append(got[name], err.Error())
				}
			}
			if len(got)+len(c.want) > 0 && !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %q", got)
			}
		})
	}
}

// What a prefix leaves out is nobody's: another pool may have it.
func TestSkippedIsFree(t *testing.T) {
	skip, err := ParseRange("192.0.2.0/24", true)
	if err != nil {
		t.Fatal(err)
	}
	if p := CheckPools([]Pool{{Name: "a", Ranges: []Range{skip}}, {Name: "b", Ranges: ranges("192.0.2.0/32 192.0.2.255/32")}}); len(p) > 0 {
		t.Error(p)
	}
}

func TestExplain(t *testing.T) {
	var many []Refusal
	for i := range 9 {
		many = append(many, Refusal{Family: IPv4, Pool: fmt.Sprint("p", i), Why: "is exhausted (2 IPv4 addresses)"})
	}
	addr := ranges("192.0.2.9/32")[0].First()
	for want, refusals := range map[string][]Refusal{
		"": nil,
		"no IPv4 address: pool a has no IPv4 addresses":                    {{Family: IPv4, Pool: "a", Why: "has no IPv4 addresses"}},
		"192.0.2.9 is in no pool":                                          {{Addr: addr, Why: "is in no pool"}},
		"192.0.2.9 of pool a is in use; it is late; no IPv6 address: none": {{Addr: addr, Pool: "a", Why: "is in use"}, {Why: "it is late"}, {Family: IPv6, Why: "none"}},
		"no IPv4 address: pool p0 is exhausted (2 IPv4 addresses), pool p1 is exhausted (2 IPv4 addresses), pool p2 is exhausted (2 IPv4 addresses), " +
			"pool p3 is exhausted (2 IPv4 addresses), and 5 more pools refuse it": many,
		"no IPv4 address: pool p0 is exhausted (2 IPv4 addresses), pool p1 is exhausted (2 IPv4 addresses), pool p2 is exhausted (2 IPv4 addresses), " +
			"pool p3 is exhausted (2 IPv4 addresses), pool p4 is exhausted (2 IPv4 addresses)": many[:5],
	} {
		if got := Explain(refusals); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}
