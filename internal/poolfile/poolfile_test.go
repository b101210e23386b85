package poolfile

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

func TestParseSpan(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.0/24":                "192.0.2.0 192.0.2.255 192.0.2.0/24",
		"198.51.100.10/24":            "198.51.100.0 198.51.100.255 198.51.100.0/24",
		"192.0.2.7/32":                "192.0.2.7 192.0.2.7 192.0.2.7/32",
		"192.0.2.8/31":                "192.0.2.8 192.0.2.9 192.0.2.8/31",
		"0.0.0.0/0":                   "0.0.0.0 255.255.255.255 0.0.0.0/0",
		"2001:db8::/124":              "2001:db8:: 2001:db8::f 2001:db8::/124",
		" 192.0.2.10 - 192.0.2.20 ":   "192.0.2.10 192.0.2.20 192.0.2.10-192.0.2.20",
		"2001:DB8::10-2001:db8::1f":   "2001:db8::10 2001:db8::1f 2001:db8::10-2001:db8::1f",
		"192.0.2.7":                   "",
		"192.0.2.20-192.0.2.10":       "",
		"192.0.2.20-2001:db8::1":      "",
		"192.0.2.0/33":                "",
		"fe80::1%eth0-fe80::2%eth0":   "",
		"::ffff:192.0.2.0/120":        "",
		"192.0.2.1-192.0.2.2-3":       "",
		"":                            "",
		"-":                           "",
		"::ffff:192.0.2.1-192.0.2.30": "192.0.2.1 192.0.2.30 192.0.2.1-192.0.2.30",
	} {
		s, err := ParseSpan(text)
		got := s.First.String() + " " + s.Last.String() + " " + s.String()
		if err != nil {
			got = ""
		}
		if got != want {
			t.Errorf("%q: %q, want %q (%v)", text, got, want, err)
		}
	}
}

func TestOverlaps(t *testing.T) {
	for pair, want := range map[string]bool{
		"192.0.2.0/24 192.0.2.255-192.0.3.1":   true,
		"192.0.2.0/24 192.0.3.0-192.0.3.1":     false,
		"192.0.2.0/24 192.0.2.77/32":           true,
		"0.0.0.0/0 ::/0":                       false,
		"2001:db8::/64 2001:db8:0:1::/64":      false,
		"2001:db8::/64 2001:db8::1-2001:db9::": true,
	} {
		a, b, _ := strings.Cut(pair, " ")
		one, err := ParseSpan(a)
		other, otherErr := ParseSpan(b)
		if err != nil || otherErr != nil {
			t.Fatal(err, otherErr)
		}
		if one.Overlaps(other) != want || other.Overlaps(one) != want {
			t.Errorf("%s: want %v", pair, want)
		}
	}
}

func TestSpell(t *testing.T) {
	var spans []Span
	for _, text := range []string{"192.0.2.0/24", "192.0.2.0/31", "2001:db8::1/128", "192.0.2.10-192.0.2.20", "127.0.0.0/30", "10.0.0.0/7"} {
		s, err := ParseSpan(text)
		if err != nil {
			t.Fatal(err)
		}
		spans = append(spans, s)
	}
	for skip, want := range map[bool][]string{
		false: {"192.0.2.0/24", "192.0.2.0/31", "2001:db8::1/128", "192.0.2.10-192.0.2.20"},
		true:  {"192.0.2.0/24", "192.0.2.0-192.0.2.1", "2001:db8::1-2001:db8::1", "192.0.2.10-192.0.2.20"},
	} {
		got, problems := Spell(spans, skip)
		if !slices.Equal(got, want) || len(problems) != 2 || !strings.Contains(problems[0].Error(), "loopback") || !strings.Contains(problems[1].Error(), "too large") {
			t.Errorf("skip %v: %q, %v", skip, got, problems)
		}
	}
}

func TestSpellThatIsTooLong(t *testing.T) {
	var spans []Span
	for i := range MaxAddresses {
		spans = append(spans, Of(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 0}), 30)))
	}
	if got, problems := Spell(append(spans, spans...), false); len(got) != MaxAddresses || problems != nil {
		t.Errorf("%d, %v", len(got), problems)
	}
	if got, problems := Spell(append(spans, Of(netip.MustParsePrefix("10.1.0.0/24"))), false); got != nil || len(problems) != 1 {
		t.Errorf("%d, %v", len(got), problems)
	}
}

func TestConfigMap(t *testing.T) {
	const config = "apiVersion: pintle.dev/v1\n\nservices:\n  namespace: x # y\n"
	var m corev1.ConfigMap
	if err := yaml.UnmarshalStrict(ConfigMap([]byte(config)), &m); err != nil || m.Name != "pintle-services" || m.Namespace != Namespace || m.Data["pintle.yaml"] != config {
		t.Errorf("%v: %+v", err, m)
	}
}

func TestIsLink(t *testing.T) {
	for s, want := range map[string]bool{"eth0": true, "bond0.12": true, "": false, "lo": false, "eth*": false, "a b": false, "averyveryverylong": false, "..": false} {
		if IsLink(s) != want {
			t.Errorf("%q: %v", s, !want)
		}
	}
}

func TestName(t *testing.T) {
	for s, want := range map[string]string{"first-pool": "first-pool", "a.b": "a.b", "My Pool": "my-pool", "_x_": "x", "Über": "ber", "___": "", "": "", strings.Repeat("A", 300): strings.Repeat("a", 63)} {
		got := Name(s)
		if got != want || got != "" && len(validation.IsDNS1123Subdomain(got)) > 0 {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}

// What is written is read again, by the strict reader that an API server has too.
func TestWrite(t *testing.T) {
	a, b := New("a"), New("b")
	a.Spec.Addresses, b.Spec.Addresses = []string{"192.0.2.0/24"}, []string{"2001:db8::10-2001:db8::1f"}
	b.Spec.BGP = &pintlev1.RouteBGP{Communities: []string{"65001:100"}, LargeCommunities: []string{"1:2:3"}}
	out, err := Write([]string{"Two pools."}, []pintlev1.AddressPool{a, b})
	if err != nil {
		t.Fatal(err)
	}
	const want = `# Two pools.
apiVersion: pintle.dev/v1
kind: AddressPool
metadata:
  name: a
spec:
  addresses:
  - 192.0.2.0/24
---
apiVersion: pintle.dev/v1
kind: AddressPool
metadata:
  name: b
spec:
  addresses:
  - 2001:db8::10-2001:db8::1f
  bgp:
    communities:
    - 65001:100
    largeCommunities:
    - "1:2:3"
`
	if string(out) != want {
		t.Errorf("got\n%s", out)
	}
	for _, doc := range strings.Split(string(out), "---\n") {
		var p pintlev1.AddressPool
		if err := yaml.UnmarshalStrict([]byte(doc), &p); err != nil {
			t.Error(err)
		}
	}
}
