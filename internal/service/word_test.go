package service

import (
	"net/netip"
	"slices"
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
