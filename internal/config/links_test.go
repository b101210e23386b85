package config

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func link(name string, up bool, addrs ...string) Link {
	l := Link{Name: name, Up: up}
	for _, a := range addrs {
		l.Addrs = append(l.Addrs, netip.MustParsePrefix(a))
	}
	return l
}

func TestResolve(t *testing.T) {
	host := []Link{
		link("lo", true, "127.0.0.1/8", "192.0.2.10/32"), // a shared address that Pintle has bound
		link("eth0", true, "10.0.0.1/24", "192.0.2.1/24", "fe80::1/64", "2001:db8::1/64"),
		link("eth1", true, "198.51.100.1/24"),
		link("eth2", true, "198.51.100.2/24"),
		link("eth3", false, "192.0.2.200/32"),
		link("docker0", true, "192.0.0.1/16"),
	}
	const has = "this host has docker0 192.0.0.1/16, eth0 10.0.0.1/24 192.0.2.1/24 2001:db8::1/64, " +
		"eth1 198.51.100.1/24, eth2 198.51.100.2/24, eth3 192.0.2.200/32"
	tests := []struct {
		name, address, link string
		links               []string
		want                []string
	}{
		{"auto", "192.0.2.10", "auto", []string{"eth0"}, nil},
		{"auto v6", "2001:db8::10", "auto", []string{"eth0"}, nil},
		{"the smallest subnet", "192.0.3.10", "auto", []string{"docker0"}, nil},
		{"a name", "203.0.113.1", "eth1", []string{"eth1"}, nil},
		{"a glob", "203.0.113.1", `"eth[01]"`, []string{"eth0", "eth1"}, nil},
		{"a list", "203.0.113.1", `[eth1, "eth*", docker0]`, []string{"docker0", "eth0", "eth1", "eth2", "eth3"},
			[]string{"f:4: addresses[0].link: eth3: is down (ip link set eth3 up)"}},
		{"unknown", "192.0.2.10", "eth9", nil, []string{"f:4: addresses[0].link: eth9: no such link (" + has + ")"}},
		{"unknown in a list", "192.0.2.10", `[eth0, "wl*"]`, []string{"eth0"},
			[]string{"f:4: addresses[0].link[1]: wl*: no such link (" + has + ")"}},
		{"no subnet", "203.0.113.1", "auto", nil,
			[]string{"f:4: addresses[0].link: auto: no link has the subnet of 203.0.113.1 (name the link; " + has + ")"}},
		{"two links in the subnet", "198.51.100.10", "auto", nil,
			[]string{"f:4: addresses[0].link: auto: several links have the subnet of 198.51.100.10 (name one, or a list, of eth1, eth2)"}},
		{"a link's own", "192.0.2.1", "auto", []string{"eth0"},
			[]string{"f:3: addresses[0].address: 192.0.2.1: is eth0's own address (remove it there: Pintle brings it up; or choose another)"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, problems := Parse([]byte(edit("192.0.2.10", tt.address+"\n    link: "+tt.link)), "f", Options{Hostname: "n1"})
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			before := slices.Clone(host)
			var got []string
			for _, p := range c.Resolve(host) {
				got = append(got, p.String())
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(tt.want, "\n  "))
			}
			if !slices.Equal(c.Addresses[0].Links, tt.links) {
				t.Errorf("links %q, want %q", c.Addresses[0].Links, tt.links)
			}
			if !reflect.DeepEqual(host, before) {
				t.Error("changed the caller's links")
			}
		})
	}
}

func TestResolveOfNoCandidate(t *testing.T) {
	c, problems := Parse([]byte(edit("{name: n3", "{name: n3, role: witness")), "f", Options{Hostname: "n3"})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if problems := c.Resolve(nil); len(problems) > 0 {
		t.Errorf("a witness needs no link, got %v", problems)
	}
}

func TestResolveOnAnotherHost(t *testing.T) {
	c, problems := Parse([]byte(base), "f", Options{Hostname: "n2"})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	problems = c.Resolve([]Link{link("eth0", true, "192.0.2.1/24")})
	want := "f:7: raft.peers[1].address: 10.0.0.2: no link of this host has it (is this host n2? it has eth0 192.0.2.1/24)"
	if len(problems) != 1 || problems[0].String() != want || !problems[0].Warning {
		t.Errorf("got %v, want %s", problems, want)
	}
}

func TestProblemOfTheHost(t *testing.T) {
	c, problems := Parse([]byte("apiVersion: pintle.dev/v1\nnode: n1\naddresses: [{address: 192.0.2.9}]\nraft:\n  peers:\n    - {name: n1, address: 192.0.2.1}\n"),
		"f.yaml", Options{})
	if c == nil {
		t.Fatal(problems)
	}
	for path, want := range map[string]string{
		"raft.peers[0].address": "f.yaml:6: raft.peers[0].address: x: in use (stop it)",
		"raft.tls":              "f.yaml:4: raft.tls: x: in use (stop it)", // not in the file: where raft is
		"server.listen":         "f.yaml:1: server.listen: x: in use (stop it)",
	} {
		if got := c.Problem(path, "x", "in use", "stop it").String(); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

// Where a Lease elects, nobody has said what the node's own address is.
func TestResolveByLease(t *testing.T) {
	c, problems := Parse([]byte(byLease("")), "f", Options{Hostname: "n1"})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if problems = c.Resolve([]Link{link("eth0", true, "192.0.2.1/24")}); len(problems) > 0 || !slices.Equal(c.Addresses[0].Links, []string{"eth0"}) {
		t.Errorf("links %q, %v", c.Addresses[0].Links, problems)
	}
}
