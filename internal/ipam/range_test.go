package ipam

import (
	"math/big"
	"net/netip"
	"strings"
	"testing"
)

func TestParseRange(t *testing.T) {
	for _, c := range []struct {
		text        string
		skip        bool
		first, last string
		count       string
		again       string // as String has it, if not like text
	}{
		{text: "192.0.2.0/24", first: "192.0.2.0", last: "192.0.2.255", count: "256"},
		{text: "192.0.2.0/24", skip: true, first: "192.0.2.1", last: "192.0.2.254", count: "254"},
		{text: "192.0.2.4/30", skip: true, first: "192.0.2.5", last: "192.0.2.6", count: "2"},
		{text: "192.0.2.5/32", first: "192.0.2.5", last: "192.0.2.5", count: "1"},
		{text: "10.0.0.0/8", first: "10.0.0.0", last: "10.255.255.255", count: "16777216"},
		{text: "192.0.2.10-192.0.2.20", first: "192.0.2.10", last: "192.0.2.20", count: "11"},
		{text: "192.0.2.10-192.0.2.20", skip: true, first: "192.0.2.10", last: "192.0.2.20", count: "11"},
		{text: "192.0.2.10-192.0.2.10", first: "192.0.2.10", last: "192.0.2.10", count: "1"},
		{text: "  192.0.2.10 - 192.0.3.1 ", first: "192.0.2.10", last: "192.0.3.1", count: "248", again: "192.0.2.10-192.0.3.1"},
		{text: "2001:db8::/64", first: "2001:db8::", last: "2001:db8::ffff:ffff:ffff:ffff", count: "18446744073709551616"},
		{text: "2001:db8::/64", skip: true, first: "2001:db8::1", last: "2001:db8::ffff:ffff:ffff:fffe", count: "18446744073709551614"},
		{text: "2001:DB8::a-2001:db8:0::c", first: "2001:db8::a", last: "2001:db8::c", count: "3", again: "2001:db8::a-2001:db8::c"},
		{text: "2001:db8::/32", first: "2001:db8::", last: "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", count: "79228162514264337593543950336"},
		{text: "fd00::1/128", first: "fd00::1", last: "fd00::1", count: "1"},
	} {
		r, err := ParseRange(c.text, c.skip)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if r.First().String() != c.first || r.Last().String() != c.last || r.Count().String() != c.count {
			t.Errorf("%s: %s to %s, %s addresses", c.text, r.First(), r.Last(), r.Count())
		}
		if c.again == "" {
			c.again = c.text
		}
		if r.String() != c.again {
			t.Errorf("%s: written as %s", c.text, r)
		}
	}
}

func TestParseRangeRefuses(t *testing.T) {
	for _, c := range []struct {
		text string
		skip bool
		want string
	}{
		{"", false, `"" is no prefix and no range: write one like 192.0.2.0/24 or 192.0.2.10-192.0.2.20`},
		{"main", false, `"main" is no prefix and no range: write one like 192.0.2.0/24 or 192.0.2.10-192.0.2.20`},
		{"192.0.2.1", false, `"192.0.2.1" is an address: for this one alone write 192.0.2.1/32`},
		{"2001:db8::1", false, `"2001:db8::1" is an address: for this one alone write 2001:db8::1/128`},
		{"192.0.2.5/24", false, `"192.0.2.5/24" has bits beyond its /24: write 192.0.2.0/24, or 192.0.2.5/32 for the one address`},
		{"2001:db8::5/64", false, `"2001:db8::5/64" has bits beyond its /64: write 2001:db8::/64, or 2001:db8::5/128 for the one address`},
		{"192.0.2.0/33", false, `"192.0.2.0/33" is no prefix: write one like 192.0.2.0/24 or 2001:db8::/64`},
		{"192.0.2.0/255.255.255.0", false, `"192.0.2.0/255.255.255.0" is no prefix: write one like 192.0.2.0/24 or 2001:db8::/64`},
		{"fe80::%eth0/64", false, `"fe80::%eth0/64" is no prefix: write one like 192.0.2.0/24 or 2001:db8::/64`},
		{"192.0.2.0/24-192.0.2.9", false, `"192.0.2.0/24-192.0.2.9" mixes a prefix and a range: write one, like 192.0.2.0/24 or 192.0.2.10-192.0.2.20`},
		{"192.0.2.4/31", true, `"192.0.2.4/31" has no address left without its first and last (skipFirstLast): write 192.0.2.4-192.0.2.5 to have all of it`},
		{"2001:db8::4/128", true, `"2001:db8::4/128" has no address left without its first and last (skipFirstLast): write 2001:db8::4-2001:db8::4 to have all of it`},
		{"192.0.2.20-192.0.2.10", false, `"192.0.2.20-192.0.2.10" goes backwards: write 192.0.2.10-192.0.2.20`},
		{"192.0.2.20-2001:db8::1", false, `"192.0.2.20-2001:db8::1" goes from IPv4 to IPv6: write two addresses of one family`},
		{"192.0.2.10-20", false, `"192.0.2.10-20" has only a part of its last address: write 192.0.2.10-192.0.2.20`},
		{"192.0.2.10-256", false, `"192.0.2.10-256": "256" is no address: write a range like 192.0.2.10-192.0.2.20`},
		{"192.0.2.10-", false, `"192.0.2.10-": "" is no address: write a range like 192.0.2.10-192.0.2.20`},
		{"192.0.2.1-192.0.2.5-192.0.2.9", false, `"192.0.2.1-192.0.2.5-192.0.2.9": "192.0.2.5-192.0.2.9" is no address: write a range like 192.0.2.10-192.0.2.20`},
		{"192.0.2.010-192.0.2.20", false, `"192.0.2.010-192.0.2.20": "192.0.2.010" is no address: write a range like 192.0.2.10-192.0.2.20`},
		{"2001:db8::1%eth0-2001:db8::2", false, `"2001:db8::1%eth0-2001:db8::2": "2001:db8::1%eth0" has a zone: write an address that is the same on every link`},
		{"::ffff:192.0.2.1-::ffff:192.0.2.9", false,
			`"::ffff:192.0.2.1-::ffff:192.0.2.9": "::ffff:192.0.2.1" is IPv4 written as IPv6: write 192.0.2.1`},
		{"::ffff:192.0.2.1/120", false, `"::ffff:192.0.2.1/120" is IPv4 written as IPv6: write 192.0.2.0/24`},
		{"::ffff:192.0.2.1/24", false, `"::ffff:192.0.2.1/24" is an IPv4 address with the length of an IPv6 prefix: write one like 192.0.2.0/24`},
		{"0.0.0.0/0", false, `"0.0.0.0/0" is too large: a range has at most as many addresses as a /8`},
		{"10.0.0.0-11.0.0.0", false, `"10.0.0.0-11.0.0.0" is too large: a range has at most as many addresses as a /8`},
		{"2000::/3", false, `"2000::/3" is too large: a range has at most as many addresses as a /32`},
		{"0.0.0.0/24", false, `"0.0.0.0/24" has addresses of 0.0.0.0/8 ("this network"), which no Service can have: leave them out`},
		{"127.0.0.1/32", false, `"127.0.0.1/32" has addresses of 127.0.0.0/8 (loopback), which no Service can have: leave them out`},
		{"126.255.255.0-127.0.0.0", false, `"126.255.255.0-127.0.0.0" has addresses of 127.0.0.0/8 (loopback), which no Service can have: leave them out`},
		{"169.254.169.254/32", false, `"169.254.169.254/32" has addresses of 169.254.0.0/16 (link-local), which no Service can have: leave them out`},
		{"239.0.0.0/8", false, `"239.0.0.0/8" has addresses of 224.0.0.0/4 (multicast), which no Service can have: leave them out`},
		{"255.255.255.254-255.255.255.255", false,
			`"255.255.255.254-255.255.255.255" has addresses of 255.255.255.255/32 (broadcast), which no Service can have: leave them out`},
		{"::/128", false, `"::/128" has addresses of ::/128 (unspecified), which no Service can have: leave them out`},
		{"::1-::2", false, `"::1-::2" has addresses of ::1/128 (loopback), which no Service can have: leave them out`},
		{"::fffe:0:0/95", false, `"::fffe:0:0/95" has addresses of ::ffff:0.0.0.0/96 (IPv4 written as IPv6), which no Service can have: leave them out`},
		{"fe80::/64", false, `"fe80::/64" has addresses of fe80::/10 (link-local), which no Service can have: leave them out`},
		{"ff02::/64", false, `"ff02::/64" has addresses of ff00::/8 (multicast), which no Service can have: leave them out`},
		{strings.Repeat("1", 101), false, `"11111111111111111111111111111111" and so on is too long for a prefix or range`},
	} {
		if r, err := ParseRange(c.text, c.skip); err == nil || err.Error() != c.want || r != (Range{}) {
			t.Errorf("%s: %s, %v\nwant %s", c.text, r, err, c.want)
		}
	}
}

func TestRange(t *testing.T) {
	r, err := ParseRange("192.0.2.8/29", true)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string][2]bool{ // contains, skips
		"192.0.2.7": {}, "192.0.2.8": {false, true}, "192.0.2.9": {true}, "192.0.2.14": {true}, "192.0.2.15": {false, true}, "192.0.2.16": {},
		"2001:db8::9": {}, "::ffff:192.0.2.9": {},
	} {
		a := netip.MustParseAddr(text)
		if got := [2]bool{r.Contains(a), r.Skips(a)}; got != want {
			t.Errorf("%s: contained, skipped %v, want %v", a, got, want)
		}
	}
	var none Range
	if none.Contains(netip.MustParseAddr("192.0.2.1")) || none.Contains(netip.Addr{}) || none.Count().Sign() != 0 || none.Family() != 0 || none.String() != "none" {
		t.Errorf("the zero Range is %s", none)
	}
}

func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"192.0.2.0/24", "192.0.2.10-192.0.2.20", "2001:db8::/64", "2001:db8::1-2001:db8::ff", "192.0.2.1", "::ffff:192.0.2.0/120",
		"192.0.2.10-20", "fe80::1%eth0/64", " 192.0.2.1 - 192.0.2.9 ", "0.0.0.0/0", "255.255.255.255/32", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, text string, skip bool) {
		r, err := ParseRange(text, skip)
		if err != nil {
			if r != (Range{}) || len(err.Error()) > 600 {
				t.Fatalf("%s, %v", r, err)
			}
			return
		}
		first, last := r.First(), r.Last()
		if !first.IsValid() || last.Less(first) || first.Is4() != last.Is4() || first.Is4In6() || first.Zone() != "" {
			t.Fatalf("%q is %s to %s", text, first, last)
		}
		if !r.Contains(first) || !r.Contains(last) || r.Contains(first.Prev()) || r.Contains(last.Next()) || r.Skips(first) {
			t.Fatalf("%q has wrong ends", text)
		}
		for _, a := range []netip.Addr{first, last} {
			if a.IsLoopback() || a.IsMulticast() || a.IsUnspecified() || a.IsLinkLocalUnicast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
				t.Fatalf("%q has %s", text, a)
			}
		}
		if n := r.Count(); n.Sign() <= 0 || n.Cmp(new(big.Int).Lsh(big.NewInt(1), 96)) > 0 {
			t.Fatalf("%q has %s addresses", text, n)
		}
		if again, err := ParseRange(r.String(), skip); err != nil || again != r {
			t.Fatalf("%q is written as %s, which is %s, %v", text, r, again, err)
		}
	})
}
