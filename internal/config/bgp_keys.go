package config

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// bgpPort is where routers listen (RFC 4271 2).
const bgpPort = 179

func (b *BGP) keys() []key {
	return slices.Concat([]key{
		{"as", asn(&b.AS)},
		{"routerID", address(&b.RouterID, parseRouterID)},
		{"listen", listen(&b.Listen, bgpPort, true)},
	}, b.BGPAttributes.keys(), []key{
		{"unhealthy", enum(&b.Unhealthy, UnhealthyWithdraw, UnhealthyLastResort)},
		{"exclusive", flag(&b.Exclusive)},
		{"drain", section(b.Drain.keys())},
		{"peers", items(&b.Peers, BGPPeer{Port: bgpPort, Hold: 9 * time.Second, ConnectRetry: 5 * time.Second}, (*BGPPeer).keys)},
	})
}

func (d *Drain) keys() []key {
	return []key{{"wait", duration(&d.Wait, 0, 8*time.Second)}, {"prepend", count(&d.Prepend, 0, maxPrepend)}}
}

// maxPrepend is more than anybody needs; routers refuse very long paths.
const maxPrepend = 16

func (a *BGPAttributes) keys() []key {
	return []key{
		{"communities", parsed(&a.Communities, parseCommunity, showCommunity)},
		{"largeCommunities", parsed(&a.Large, parseLarge, showLarge)},
		{"localPref", maybe(&a.LocalPref)},
		{"med", maybe(&a.MED)},
		{"prepend", count(&a.Prepend, 0, maxPrepend)},
	}
}

func (p *BGPPeer) keys() []key {
	return slices.Concat([]key{
		{"name", word(&p.Name, checkName)},
		{"address", address(&p.Address, parseRouter)},
		{"interface", word(&p.Interface, checkLink)},
		{"port", count(&p.Port, 1, 65535)},
		{"as", external(&p.AS)},
		{"localAS", omitted(asn(&p.LocalAS), func() bool { return p.LocalAS == 0 })},
		{"localAddress", address(&p.LocalAddress, parseLocal)},
		{"passwordFile", word(&p.PasswordFile, absolute)},
		{"multihop", omitted(count(&p.Multihop, 2, 255), func() bool { return p.Multihop == 0 })},
		{"gtsm", flag(&p.GTSM)},
		{"passive", flag(&p.Passive)},
		{"hold", seconds(&p.Hold, 3)},
		{"keepalive", seconds(&p.Keepalive, 1)},
		{"connectRetry", duration(&p.ConnectRetry, time.Second, time.Hour)},
		{"families", enums(&p.Families, FamilyIPv4, FamilyIPv6)},
		{"nextHop", p.nextHops()},
	}, p.BGPAttributes.keys(), []key{
		{"bfd", optional(&p.BFD, BGPBFD{Interval: 300 * time.Millisecond, Multiplier: 3}, (*BGPBFD).keys)},
		{"nodes", words(&p.Nodes, checkNodes)},
		{"nodeLabels", texts(&p.NodeLabels)},
		{"nodeAnnotations", texts(&p.NodeAnnotations)},
	})
}

func (b *BGPBFD) keys() []key {
	return []key{
		{"interval", duration(&b.Interval, 50*time.Millisecond, 10*time.Second)},
		{"multiplier", count(&b.Multiplier, 2, 50)},
		{"strict", flag(&b.Strict)},
		{"auth", optional(&b.Auth, BGPAuth{KeyID: 1, Meticulous: true}, (*BGPAuth).keys)},
	}
}

func (a *BGPAuth) keys() []key {
	return []key{
		{"keyID", count(&a.KeyID, 0, 255)},
		{"keyFile", word(&a.KeyFile, absolute)},
		{"meticulous", flag(&a.Meticulous)},
	}
}

func (t *Table) keys() []key {
	return []key{
		{"number", scalar(&t.Number, number, parseTable, func(n uint32) any { return n })},
		{"protocol", count(&t.Protocol, 4, 255)},
	}
}

// seconds is a duration that is told to routers in whole seconds (RFC 4271 4.2).
func seconds(p *time.Duration, least int) value {
	return loose(scalar(p, text, func(s string) (time.Duration, error) {
		d, err := parseDuration(s, time.Duration(least)*time.Second, 65535*time.Second)
		if err == nil && d%time.Second != 0 {
			return 0, refuse("routers count whole seconds", "has a part of a second")
		}
		return d, err
	}, func(d time.Duration) any { return showDuration(d) }))
}

// asn reads the number of an autonomous system, as one number or as two (RFC 5396).
func asn(p *uint32) value {
	return loose(scalar(p, text, parseAS, func(n uint32) any { return n }))
}

// external is asn, or that word for 0.
func external(p *uint32) value {
	return loose(scalar(p, text, func(s string) (uint32, error) {
		if s == "external" {
			return 0, nil
		}
		return parseAS(s)
	}, func(n uint32) any {
		if n == 0 {
			return "external"
		}
		return n
	}))
}

func parseAS(s string) (uint32, error) {
	high, low, dotted := strings.Cut(s, ".")
	if !dotted {
		high, low = "0", s
	}
	h, err := strconv.ParseUint(high, 10, 16)
	bits := map[bool]int{false: 32, true: 16}[dotted]
	l, lowErr := strconv.ParseUint(low, 10, bits)
	if err != nil || lowErr != nil {
		return 0, refuse("1 to 4294967294, or two numbers with a dot, as in 1.10", "not the number of an AS")
	}
	n := uint32(h<<16 | l)
	switch n { // RFC 7607, RFC 6793, RFC 7300
	case 0, 23456, 65535, 4294967295:
		return 0, refuse("64512 to 65534 are free for private use", "is reserved: nobody's AS")
	}
	return n, nil
}

func parseRouterID(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() || a.IsUnspecified() {
		return netip.Addr{}, refuse("write it like an IPv4 address, another on each node", "not a router ID")
	}
	return a, nil
}

// parseRouter reads the address of one router. One on this host, as 127.0.0.1, is another daemon.
func parseRouter(s string) (netip.Addr, error) {
	a, err := parseHost(s)
	if err == nil && a.Is6() && a.IsLinkLocalUnicast() {
		return netip.Addr{}, refuse("name the link in its place: interface: eth0", "is a link-local address")
	}
	return a, err
}

func parseHost(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, refuse("write it as 10.0.0.254 or 2001:db8::1", "not an IP address")
	}
	if err := plainIP(a); err != nil {
		return netip.Addr{}, err
	}
	if a.IsUnspecified() || a.IsMulticast() {
		return netip.Addr{}, refuse("write an address that one host has", "is no address of one host")
	}
	return a, nil
}

// parseLocal reads an address of this host.
func parseLocal(s string) (netip.Addr, error) {
	a, err := parseHost(s)
	if err == nil && a.Is6() && a.IsLinkLocalUnicast() {
		return netip.Addr{}, refuse("with interface it is used anyway: leave it out", "is a link-local address")
	}
	return a, err
}

func parseTable(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	switch {
	case err != nil || n == 0:
		return 0, refuse("1 to 4294967295, as in /etc/iproute2/rt_tables", "not the number of a table")
	case n >= 253 && n <= 255:
		return 0, refuse("choose one that nothing else uses", "is the host's own table: default, main or local")
	}
	return uint32(n), nil
}

// checkNodes accepts the name of a node or a glob for names.
func checkNodes(s string) error {
	if _, err := path.Match(s, ""); err != nil {
		return refuse("as in rack1-* or n[12]", "not a glob")
	}
	if s == "" {
		return refuse("leave it out", "is empty")
	}
	return nil
}

// wellKnown are communities that have names (RFC 1997, RFC 3765, RFC 7999, RFC 8326).
var wellKnown = []struct {
	name  string
	value uint32
}{
	{"graceful-shutdown", 0xffff0000}, {"blackhole", 0xffff029a}, {"no-export", 0xffffff01}, {"no-advertise", 0xffffff02},
	{"no-export-subconfed", 0xffffff03}, {"no-peer", 0xffffff04},
}

func parseCommunity(s string) (uint32, error) {
	var names []string
	for _, w := range wellKnown {
		if w.name == s {
			return w.value, nil
		}
		names = append(names, w.name)
	}
	parts, err := numbers(s, 2, 16)
	if err != nil {
		return 0, refuse("as in \"65001:100\", each part up to 65535, or one of "+strings.Join(names, ", "), "not a community")
	}
	return parts[0]<<16 | parts[1], nil
}

func showCommunity(c uint32) string {
	for _, w := range wellKnown {
		if w.value == c {
			return w.name
		}
	}
	return fmt.Sprintf("%d:%d", c>>16, c&0xffff)
}

func parseLarge(s string) ([3]uint32, error) {
	parts, err := numbers(s, 3, 32)
	if err != nil {
		return [3]uint32{}, refuse("as in \"65001:1:2\", each part up to 4294967295", "not a large community")
	}
	return [3]uint32(parts), nil
}

func showLarge(l [3]uint32) string { return fmt.Sprintf("%d:%d:%d", l[0], l[1], l[2]) }

// numbers reads so many numbers with colons between them.
func numbers(s string, n, bits int) ([]uint32, error) {
	parts := strings.Split(s, ":")
	if len(parts) != n {
		return nil, strconv.ErrSyntax
	}
	var out []uint32
	for _, p := range parts {
		v, err := strconv.ParseUint(p, 10, bits)
		if err != nil {
			return nil, err
		}
		out = append(out, uint32(v))
	}
	return out, nil
}

// nextHops reads at most one address of each family.
func (p *BGPPeer) nextHops() value {
	v := parsed(new([]netip.Addr), parseHost, netip.Addr.String)
	v.read = func(r *reader, n *node) {
		var all []netip.Addr
		parsed(&all, parseHost, netip.Addr.String).read(r, n)
		for i, a := range all {
			hop := &p.NextHop4
			if a.Is6() {
				hop = &p.NextHop6
			}
			if a.IsValid() && hop.IsValid() {
				r.add(fmt.Sprintf("%s[%d]", n.path, i), a.String(), "is a second one of this family", "keep one")
			}
			*hop = a
		}
	}
	v.show = func() any {
		var out []string
		for _, a := range []netip.Addr{p.NextHop4, p.NextHop6} {
			if a.IsValid() {
				out = append(out, a.String())
			}
		}
		if out == nil {
			return nil
		}
		return out
	}
	return v
}
