package bgp

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func number(n uint32) *uint32 { return &n }

func TestExport(t *testing.T) {
	route := Route{Prefix: vip, Attributes: Attributes{
		Communities: []uint32{1, 2}, Large: [][3]uint32{{1, 2, 3}}, LocalPref: number(200), Prepend: 3,
	}}
	own := Attributes{Communities: []uint32{2, 3}, MED: number(7), LocalPref: number(50), Prepend: 253}
	base := terms{localAS: nodeAS, next: map[Family]netip.Addr{IPv4: nodeAddr}, why: map[Family]string{IPv6: "no next hop"}}
	for _, tt := range []struct {
		name     string
		external bool
		own      Attributes
		want     export
	}{
		{"external", true, Attributes{}, export{communities: []uint32{1, 2}, prepend: 3}},
		{"internal", false, Attributes{}, export{communities: []uint32{1, 2}, localPref: number(200)}},
		{"external, with the peer's", true, own, export{communities: []uint32{1, 2, 3}, med: number(7), prepend: maxPrepend}},
		{"internal, with the peer's", false, own, export{communities: []uint32{1, 2, 3}, med: number(7), localPref: number(200)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			terms := base
			terms.external, terms.attributes = tt.external, tt.own
			tt.want.prefix, tt.want.nextHop, tt.want.as, tt.want.large = vip, nodeAddr, nodeAS, route.Large
			if got, why := terms.export(route); !got.equal(tt.want) || why != "" {
				t.Errorf("%+v, %q, want %+v", got, why, tt.want)
			}
		})
	}
	if !slices.Equal(route.Communities, []uint32{1, 2}) || !slices.Equal(own.Communities, []uint32{2, 3}) {
		t.Error("the caller's slices were changed")
	}
	if _, why := base.export(Route{Prefix: vip6}); why != "no next hop" {
		t.Errorf("withheld because %q", why)
	}
	base.withheldBy = "BFD is Down"
	if _, why := base.export(route); why != "BFD is Down" {
		t.Errorf("withheld because %q", why)
	}
}

// TestNextHops: there is always an explicit one of the right kind, or words.
func TestNextHops(t *testing.T) {
	both := []Family{IPv4, IPv6}
	peer4, peer6 := Peer{Address: routerAddr}, Peer{Address: routerAddr6}
	set := Peer{Address: routerAddr, NextHop4: routerAddr, NextHop6: routerAddr6}
	local := func(a netip.Addr) endpoint { return endpoint{local: a} }
	agreed := agreement{families: both}
	extended := agreement{families: both, extendedNextHop: true}
	for _, tt := range []struct {
		name       string
		peer       Peer
		at         endpoint
		agreed     agreement
		own6       netip.Addr
		hop4, hop6 netip.Addr
		why        string
	}{
		{"over IPv4", peer4, local(nodeAddr), agreed, nodeAddr6, nodeAddr, nodeAddr6, ""},
		{"over IPv4, no IPv6 address", peer4, local(nodeAddr), agreed, netip.Addr{}, nodeAddr, netip.Addr{}, "no global IPv6 address"},
		{"over IPv6", peer6, local(nodeAddr6), extended, netip.Addr{}, nodeAddr6, nodeAddr6, ""},
		{"over IPv6, not extended", peer6, local(nodeAddr6), agreed, netip.Addr{}, netip.Addr{}, nodeAddr6, "capability extended-nexthop"},
		{"unnumbered", Peer{Interface: "eth0"}, local(nodeLink6.WithZone("eth0")), extended, netip.Addr{}, nodeLink6, nodeLink6, ""},
		{"a daemon on this node", peer4, local(netip.MustParseAddr("127.0.0.1")), agreed, nodeAddr6, nodeAddr, nodeAddr6, ""},
		{"over ::1", peer6, local(netip.MustParseAddr("::1")), agreed, nodeAddr6, nodeAddr, nodeAddr6, ""},
		{"set", set, local(nodeAddr), agreed, nodeAddr6, routerAddr, routerAddr6, ""},
		{"the router has one family", peer4, local(nodeAddr), agreement{families: []Family{IPv4}}, nodeAddr6, nodeAddr, netip.Addr{}, "activate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			next, why := nextHops(tt.peer, tt.at, tt.agreed, map[Family]netip.Addr{IPv4: nodeAddr, IPv6: tt.own6})
			if next[IPv4] != tt.hop4 || next[IPv6] != tt.hop6 {
				t.Errorf("next hops %v, want %s and %s", next, tt.hop4, tt.hop6)
			}
			for _, f := range both {
				if _, has := next[f]; has == (why[f] != "") {
					t.Errorf("%s: %v and %q", f, next[f], why[f])
				}
				if why[f] != "" && !strings.Contains(why[f], tt.why) {
					t.Errorf("%s: %q does not say %q", f, why[f], tt.why)
				}
			}
		})
	}
}

func TestCheckRoutes(t *testing.T) {
	for prefix, wrong := range map[string]bool{
		"192.0.2.1/32": false, "198.51.100.0/24": false, "2001:db8::1/128": false, "0.0.0.0/0": false,
		"192.0.2.1/24": true, "224.0.0.1/32": true, "127.0.0.1/32": true, "fe80::1/128": true, "::ffff:192.0.2.1/128": true,
	} {
		routes, err := checkRoutes([]Route{{Prefix: netip.MustParsePrefix(prefix)}, {Prefix: vip}})
		if (err != nil) != wrong || len(routes) != map[bool]int{false: 2, true: 1}[wrong] {
			t.Errorf("%s: %v, %v", prefix, routes, err)
		}
	}
	routes, err := checkRoutes([]Route{{Prefix: vip}, {}, {Prefix: vip, Attributes: Attributes{Prepend: 1}}})
	if err == nil || !strings.Contains(err.Error(), "twice") || len(routes) != 1 || routes[vip].Prepend != 0 {
		t.Errorf("%v, %v", routes, err)
	}
}

// TestReadUpdate reads what gobgp wrote.
func TestReadUpdate(t *testing.T) {
	withdrawn, reached, err := readUpdate(foreignUpdate())
	if err != nil || len(withdrawn) != 0 || !slices.Equal(reached, []netip.Prefix{foreign}) {
		t.Errorf("%v, %v, %v", withdrawn, reached, err)
	}
	hop := nodeAddr6.As16()
	address := vip6.Addr().As16()
	reach := append(append([]byte{0, 2, 1, 16}, hop[:]...), 0)
	reach = append(append(reach, 128), address[:]...)
	attrs := append([]byte{0x90, 14, 0, byte(len(reach))}, reach...)
	attrs = append(attrs, 0x80, 15, 4+3, 0, 1, 1, 24, 203, 0, 113)
	body := append([]byte{0, 5, 32, 192, 0, 2, 10, 0, byte(len(attrs))}, attrs...)
	withdrawn, reached, err = readUpdate(newMessage(typeUpdate, body))
	if err != nil || !slices.Equal(withdrawn, []netip.Prefix{vip, foreign}) || !slices.Equal(reached, []netip.Prefix{vip6}) {
		t.Errorf("%v, %v, %v", withdrawn, reached, err)
	}
}

func FuzzReadUpdate(f *testing.F) {
	f.Add([]byte(foreignUpdate()))
	f.Add([]byte(newMessage(typeUpdate, []byte{0, 0, 0, 4, 0x80, 15, 1, 0})))
	f.Fuzz(func(t *testing.T, b []byte) {
		withdrawn, reached, err := readUpdate(b)
		for _, p := range append(withdrawn, reached...) {
			if err != nil || !p.IsValid() {
				t.Errorf("%v, %v", p, err)
			}
		}
	})
}
