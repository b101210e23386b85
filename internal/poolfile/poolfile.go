// Package poolfile writes AddressPools, and the configuration that goes with them, as documents for kubectl. It is what
// importers of other systems' configurations end with; which pools there are is their business.
package poolfile

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

// New is an empty pool of this name.
func New(name string) pintlev1.AddressPool {
	return pintlev1.AddressPool{
		TypeMeta:   metav1.TypeMeta{APIVersion: pintlev1.GroupVersion.String(), Kind: "AddressPool"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
	}
}

// Write renders one document for each pool, below some lines of comment. A line must not end within the text.
func Write(comments []string, pools []pintlev1.AddressPool) ([]byte, error) {
	var out bytes.Buffer
	for _, c := range comments {
		fmt.Fprintf(&out, "# %s\n", c)
	}
	for i, p := range pools {
		text, err := yaml.Marshal(p)
		if err != nil {
			return nil, fmt.Errorf("write AddressPool %s: %w", p.Name, err)
		}
		if i > 0 {
			out.WriteString("---\n")
		}
		out.Write(text)
	}
	return out.Bytes(), nil
}

// Comments are the lines above pools that a command made.
func Comments(madeBy string) []string {
	printable := func(c rune) rune {
		if c < ' ' || c >= 0x7f {
			return '?'
		}
		return c
	}
	return []string{"Addresses for Services of type LoadBalancer, for kubectl apply.", "Made by " + strings.Map(printable, madeBy) + "."}
}

// Namespace is where Pintle for Services is.
const Namespace = "pintle-system"

// ConfigMap is a configuration as the object that `pintle manifest services` makes of it too.
func ConfigMap(config []byte) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, `# pintle manifest services --config makes this object too, of a file: --config-out writes one.
apiVersion: v1
kind: ConfigMap
metadata:
  name: pintle-services
  namespace: %s
data:
  pintle.yaml: |
`, Namespace)
	for line := range strings.SplitSeq(strings.TrimSuffix(string(config), "\n"), "\n") {
		if line != "" {
			line = "    " + line
		}
		out.WriteString(line + "\n")
	}
	return out.Bytes()
}

// Name makes a name that Kubernetes takes of one that something else had; "" if nothing of it can be used.
func Name(s string) string {
	if len(validation.IsDNS1123Subdomain(s)) == 0 {
		return s
	}
	s = strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			return c
		}
		return '-'
	}, strings.ToLower(s))
	return strings.Trim(s[:min(len(s), 63)], "-")
}

// IsLink reports whether a text is the name of an interface on which somebody may ask for an address, and no glob.
func IsLink(s string) bool {
	return s != "" && len(s) <= 15 && s != "lo" && s != "." && s != ".." && !strings.ContainsAny(s, "/: \t\n*?[]\\")
}

// A Span is addresses of one family that follow one another.
type Span struct {
	First, Last netip.Addr
	Prefix      netip.Prefix // valid if it was written as one
}

// ParseSpan reads a prefix, also one that names an address within, or a range: first-last.
func ParseSpan(text string) (Span, error) {
	text = strings.TrimSpace(text)
	if p, err := netip.ParsePrefix(text); err == nil && p.Addr().Zone() == "" && !p.Addr().Is4In6() {
		return Of(p), nil
	}
	from, to, ranged := strings.Cut(text, "-")
	first, err := netip.ParseAddr(strings.TrimSpace(from))
	last, lastErr := netip.ParseAddr(strings.TrimSpace(to))
	if !ranged || err != nil || lastErr != nil || first.Zone() != "" || last.Zone() != "" {
		return Span{}, fmt.Errorf("%s is no prefix and no range: write 192.0.2.0/24 or 192.0.2.10-192.0.2.20", text)
	}
	first, last = first.Unmap(), last.Unmap()
	if first.Is4() != last.Is4() || last.Less(first) {
		return Span{}, fmt.Errorf("%s is no range: the second address must follow the first", text)
	}
	return Span{First: first, Last: last}, nil
}

// Of is the addresses of a prefix.
func Of(p netip.Prefix) Span {
	p = p.Masked()
	last := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(last) // as long as it was
	return Span{First: p.Addr(), Last: a, Prefix: p}
}

// String is how a pool writes it.
func (s Span) String() string {
	if s.Prefix.IsValid() {
		return s.Prefix.String()
	}
	return s.First.String() + "-" + s.Last.String()
}

// MaxAddresses is how many prefixes and ranges a pool may have.
const MaxAddresses = 128

// Spell writes the addresses of a pool that leaves out the first and the last address of each prefix, or does not. What no
// pool can have is left out, and problems say why; if there are too many all are.
func Spell(spans []Span, skipFirstLast bool) (addresses []string, problems []error) {
	for _, s := range spans {
		if skipFirstLast && s.Prefix.IsValid() && s.Prefix.Addr().BitLen()-s.Prefix.Bits() < 2 {
			s.Prefix = netip.Prefix{} // nothing would be left of it, and whoever wrote it meant these addresses
		}
		if _, err := ipam.ParseRange(s.String(), skipFirstLast); err != nil {
			problems = append(problems, err)
			continue
		}
		if !slices.Contains(addresses, s.String()) {
			addresses = append(addresses, s.String())
		}
	}
	if len(addresses) > MaxAddresses {
		return nil, append(problems, fmt.Errorf("makes %d prefixes and ranges, and a pool has at most %d: divide it",
			len(addresses), MaxAddresses))
	}
	return addresses, problems
}

// Overlaps reports whether there is an address in both.
func (s Span) Overlaps(o Span) bool {
	return s.First.Is4() == o.First.Is4() && !s.Last.Less(o.First) && !o.Last.Less(s.First)
}

// Is4 reports whether it is of IPv4.
func (s Span) Is4() bool { return s.First.Is4() }
