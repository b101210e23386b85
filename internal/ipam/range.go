package ipam

import (
	"fmt"
	"math/big"
	"net/netip"
	"strings"
)

// The largest ranges: a /8 and a /32. Larger ones are slips of the pen.
const (
	maxBits4 = 24
	maxBits6 = 96
)

// maxText is longer than any range can be: two IPv6 addresses and spaces around the dash.
const maxText = 100

// A Range is addresses in a row, of one family. The zero value has none. Ranges are comparable.
type Range struct {
	first, last netip.Addr
	prefix      netip.Prefix // as it was written; the zero value: as first-last
}

// ParseRange reads "192.0.2.0/24" or "192.0.2.10-192.0.2.20", IPv4 or IPv6. With skipFirstLast a prefix is without its first
// and its last address; a range "a-b" always has both. It refuses addresses that no Service can have, and any spelling
// that could be a mistake; the error says what would be right.
func ParseRange(text string, skipFirstLast bool) (Range, error) {
	if len(text) > maxText {
		return Range{}, fmt.Errorf("%q and so on is too long for a prefix or range", text[:32])
	}
	text = strings.TrimSpace(text)
	first, last, dash := strings.Cut(text, "-")
	var r Range
	var err error
	switch slash := strings.Contains(text, "/"); {
	case slash && dash:
		return Range{}, fmt.Errorf("%q mixes a prefix and a range: write one, like 192.0.2.0/24 or 192.0.2.10-192.0.2.20", text)
	case slash:
		r, err = parsePrefix(text, skipFirstLast)
	case dash:
		r, err = parseFirstLast(text, strings.TrimSpace(first), strings.TrimSpace(last))
	default:
		return Range{}, noRange(text)
	}
	if err == nil {
		err = r.check(text)
	}
	if err != nil {
		return Range{}, err
	}
	return r, nil
}

func noRange(text string) error {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		return fmt.Errorf("%q is an address: for this one alone write %s", text, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
	}
	return fmt.Errorf("%q is no prefix and no range: write one like 192.0.2.0/24 or 192.0.2.10-192.0.2.20", text)
}

func parsePrefix(text string, skip bool) (Range, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return Range{}, fmt.Errorf("%q is no prefix: write one like 192.0.2.0/24 or 2001:db8::/64", text)
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return Range{}, fmt.Errorf("%q is an IPv4 address with the length of an IPv6 prefix: write one like 192.0.2.0/24", text)
		}
		return Range{}, fmt.Errorf("%q is IPv4 written as IPv6: write %s", text, netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Masked())
	}
	if p != p.Masked() {
		return Range{}, fmt.Errorf("%q has bits beyond its /%d: write %s, or %s for the one address",
			text, p.Bits(), p.Masked(), netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
	}
	r := Range{first: p.Addr(), last: lastOf(p), prefix: p}
	if !skip {
		return r, nil
	}
	if p.Addr().BitLen()-p.Bits() < 2 {
		return Range{}, fmt.Errorf("%q has no address left without its first and last (skipFirstLast): write %s-%s to have all of it",
			text, r.first, r.last)
	}
	r.first, r.last = r.first.Next(), r.last.Prev()
	return r, nil
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func parseFirstLast(text, first, last string) (Range, error) {
	a, err := parseAddr(text, first)
	if err != nil {
		return Range{}, err
	}
	if full, ok := complete(a, last); ok {
		return Range{}, fmt.Errorf("%q has only a part of its last address: write %s-%s", text, a, full)
	}
	b, err := parseAddr(text, last)
	switch {
	case err != nil:
		return Range{}, err
	case a.Is4() != b.Is4():
		return Range{}, fmt.Errorf("%q goes from %s to %s: write two addresses of one family", text, FamilyOf(a), FamilyOf(b))
	case b.Less(a):
		return Range{}, fmt.Errorf("%q goes backwards: write %s-%s", text, b, a)
	}
	return Range{first: a, last: b}, nil
}

func parseAddr(text, part string) (netip.Addr, error) {
	a, err := netip.ParseAddr(part)
	switch {
	case err != nil:
		return a, fmt.Errorf("%q: %q is no address: write a range like 192.0.2.10-192.0.2.20", text, part)
	case a.Zone() != "":
		return a, fmt.Errorf("%q: %q has a zone: write an address that is the same on every link", text, part)
	case a.Is4In6():
		return a, fmt.Errorf("%q: %q is IPv4 written as IPv6: write %s", text, part, a.Unmap())
	}
	return a, nil
}

// complete makes of 192.0.2.10 and "20" the address that the range 192.0.2.10-20 probably means.
func complete(a netip.Addr, last string) (netip.Addr, bool) {
	if !a.Is4() || last == "" || strings.Trim(last, "0123456789") != "" {
		return a, false
	}
	text := a.String()
	b, err := netip.ParseAddr(text[:strings.LastIndexByte(text, '.')+1] + last)
	return b, err == nil
}

// unfit is what no Service can have.
var unfit = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), `"this network"`}, // RFC 1122 3.2.1.3
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"}, // clouds have their metadata there
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("255.255.255.255/32"), "broadcast"},
	{netip.MustParsePrefix("::/128"), "unspecified"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("::ffff:0.0.0.0/96"), "IPv4 written as IPv6"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

func (r Range) check(text string) error {
	most := maxBits4
	if !r.first.Is4() {
		most = maxBits6
	}
	if r.Count().Cmp(new(big.Int).Lsh(big.NewInt(1), uint(most))) > 0 {
		return fmt.Errorf("%q is too large: a range has at most as many addresses as a /%d", text, r.first.BitLen()-most)
	}
	for _, u := range unfit {
		if r.overlaps(Range{first: u.prefix.Addr(), last: lastOf(u.prefix)}) {
			return fmt.Errorf("%q has addresses of %s (%s), which no Service can have: leave them out", text, u.prefix, u.what)
		}
	}
	return nil
}

// First returns the lowest address.
func (r Range) First() netip.Addr { return r.first }

// Last returns the highest address.
func (r Range) Last() netip.Addr { return r.last }

// Family returns the family of the addresses.
func (r Range) Family() Family { return FamilyOf(r.first) }

// Contains reports whether a is one of the addresses.
func (r Range) Contains(a netip.Addr) bool {
	return a.IsValid() && FamilyOf(a) == r.Family() && !a.Less(r.first) && !r.last.Less(a)
}

// Skips reports whether a is the first or the last address of the prefix, and left out.
func (r Range) Skips(a netip.Addr) bool {
	return r.prefix.IsValid() && r.prefix.Contains(a) && !r.Contains(a)
}

func (r Range) overlaps(other Range) bool {
	return r.Family() == other.Family() && !r.last.Less(other.first) && !other.last.Less(r.first)
}

// Count returns how many addresses there are.
func (r Range) Count() *big.Int {
	if !r.first.IsValid() {
		return new(big.Int)
	}
	n := new(big.Int).Sub(number(r.last), number(r.first))
	return n.Add(n, big.NewInt(1))
}

func number(a netip.Addr) *big.Int { return new(big.Int).SetBytes(a.AsSlice()) }

// String returns the range as [ParseRange] reads it. That a prefix is without its first and last address is not to be seen.
func (r Range) String() string {
	switch {
	case r.prefix.IsValid():
		return r.prefix.String()
	case !r.first.IsValid():
		return "none"
	}
	return r.first.String() + "-" + r.last.String()
}
