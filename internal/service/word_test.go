package service

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestWordLinks(t *testing.T) {
	w := Word{Links: []Link{
		{Name: "eth0", Subnets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/64")}, Default: true},
		{Name: "eth1", Subnets: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("192.0.2.128/25")}},
		{Name: "eth2", Default: true},
		{Name: "wlan0", Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
	}}
	for _, c := range []struct {
		name, addr string
		patterns   []string
		want       []string
	}{
		{"the one with its subnet", "198.51.100.7", nil, []string{"eth1"}},
		{"all with its subnet", "192.0.2.200", nil, []string{"eth0", "eth1"}},
		{"IPv6", "2001:db8::7", nil, []string{"eth0"}},
		{"none has it: those with a default route", "203.0.113.7", nil, []string{"eth0", "eth2"}},
		{"none has it, IPv6", "2001:db8:1::7", nil, []string{"eth0", "eth2"}},
		{"named", "192.0.2.7", []string{"eth1"}, []string{"eth1"}},
		{"named by a pattern", "192.0.2.7", []string{"eth*"}, []string{"eth0", "eth1", "eth2"}},
		{"named twice", "192.0.2.7", []string{"eth0", "eth?"}, []string{"eth0", "eth1", "eth2"}},
		{"named, and not there", "192.0.2.7", []string{"bond0"}, nil},
		{"a pattern that is none", "192.0.2.7", []string{"[eth0"}, nil},
	} {
		if got := w.links(netip.MustParseAddr(c.addr), c.patterns); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestWordOf: what a node says is read as it was written, and one that says nothing, or nonsense, serves nobody.
func TestWordOf(t *testing.T) {
	w := Word{Unfit: "its proxy is ill", Leaving: true, Version: "1.2", Links: []Link{{Name: "eth0", Subnets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Default: true}}}
	if got := wordOf(w.text()); got.text() != w.text() {
		t.Errorf("%+v", got)
	}
	for _, text := range []string{"", "{", "7", `{"links": 3}`} {
		if got := wordOf(text); got.Unfit == "" || len(got.Links) > 0 {
			t.Errorf("%q: %+v", text, got)
		}
	}
	if got := wordOf("{}"); got.Unfit != "" {
		t.Errorf("one that says that all is well: %+v", got)
	}
}

// TestWordFits: however many links a node has, and whatever is wrong with it, its word has room in a Lease.
func TestWordFits(t *testing.T) {
	var links []Link
	for i := range 250 {
		links = append(links, Link{Name: fmt.Sprintf("vlan%d", i), Subnets: []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 200, byte(i), 128}), 25), netip.MustParsePrefix("2001:db8:1234:5678::/64")}})
	}
	links = append(links, Link{Name: "uplink", Default: true})
	told := fitting(links)
	if n := len(told); n < 25 || n == len(links) || told[0].Name != "vlan0" || told[n-1].Name != "uplink" {
		t.Errorf("of %d links it tells of %d: %+v", len(links), len(told), told)
	}
	if few := links[200:]; !slices.EqualFunc(fitting(few[:20]), few[:20], func(a, b Link) bool { return a.Name == b.Name }) {
		t.Errorf("of 20 links it tells of %+v", fitting(few[:20]))
	}
	for _, unfit := range []string{strings.Repeat("x", 5000), strings.Repeat("\"", 5000), strings.Repeat("\x01", 5000), strings.Repeat("é", 5000)} {
		w := Word{Unfit: shortened(unfit, mostUnfit), Leaving: true, Links: told, Version: "v1.2.3-0.20260101000000-0123456789ab+dirty"}
		if n := len(w.text()); n > 4<<10 {
			t.Errorf("%.5q...: %d bytes", unfit, n)
		}
		if got := wordOf(w.text()); !got.Leaving || len(got.Links) != len(told) || !strings.HasSuffix(got.Unfit, " ...") || len(got.Unfit) < 90 {
			t.Errorf("%.5q...: it is read as %+v", unfit, got)
		}
	}
	if got := shortened("short", mostUnfit); got != "short" {
		t.Errorf("%q", got)
	}
}
