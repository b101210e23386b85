package ipam

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestMerge(t *testing.T) {
	for in, want := range map[string]string{
		"":                                   "",
		"192.0.2.0/30 2001:db8::/64":         "192.0.2.0-192.0.2.3",
		"192.0.2.20-192.0.2.29 192.0.2.0/30": "192.0.2.0-192.0.2.3 192.0.2.20-192.0.2.29",
		"192.0.2.0-192.0.2.9 192.0.2.5-192.0.2.12":                       "192.0.2.0-192.0.2.12",
		"192.0.2.5-192.0.2.6 192.0.2.0-192.0.2.9 192.0.2.9/32":           "192.0.2.0-192.0.2.9",
		"192.0.2.0/30 192.0.2.0/30 192.0.2.4/30":                         "192.0.2.0-192.0.2.3 192.0.2.4-192.0.2.7",
		"192.0.2.0-192.0.2.20 192.0.2.1-192.0.2.2 192.0.2.30-192.0.2.30": "192.0.2.0-192.0.2.20 192.0.2.30-192.0.2.30",
	} {
		var got []string
		for _, r := range merge(IPv4, ranges(in)) {
			got = append(got, r.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

// A search does not look at addresses in use again and again: not while they are taken one after the other, not while those that
// were given back are taken again, not when there is none.
func TestLowestIsQuick(t *testing.T) {
	for _, text := range []string{"10.0.0.0/16", "2001:db8::/64", "10.0.0.0-10.0.2.9 10.0.3.0/24 10.1.0.0/16"} {
		used := map[netip.Addr]bool{}
		looked := 0
		free := func(a netip.Addr) bool { looked++; return !used[a] }
		rs := ranges(text)
		s := newShelf(rs[0].Family(), rs)
		const n = 5000
		var taken []netip.Addr
		take := func() {
			a, ok := s.lowest(free)
			if !ok || used[a] || !s.contains(a) || len(taken) > 0 && a.Less(taken[0]) {
				t.Fatalf("%s: %s, %v", text, a, ok)
			}
			used[a] = true
			taken = append(taken, a)
		}
		for range n {
			take()
		}
		for i := range n { // give one back, take one
			give := taken[i*7%n]
			delete(used, give)
			s.putBack(give)
			s.putBack(give)
			if a, ok := s.lowest(free); !ok || a != give {
				t.Fatalf("%s: %s, not %s", text, a, give)
			}
			used[give] = true
		}
		if looked > 6*n {
			t.Errorf("%s: looked at %d addresses for %d requests", text, looked, 3*n)
		}
		if len(s.back) > n || len(s.back) != len(s.in) {
			t.Errorf("%s: remembers %d and %d", text, len(s.back), len(s.in))
		}
	}
}

func TestLowestExhausted(t *testing.T) {
	used := map[netip.Addr]bool{}
	looked := 0
	free := func(a netip.Addr) bool { looked++; return !used[a] }
	s := newShelf(IPv4, ranges("192.0.2.0/28 192.0.2.64/28"))
	var last netip.Addr
	for range 32 {
		a, ok := s.lowest(free)
		if !ok || last.IsValid() && !last.Less(a) {
			t.Fatalf("%s after %s", a, last)
		}
		used[a], last = true, a
	}
	for range 100 {
		if a, ok := s.lowest(free); ok {
			t.Fatal(a)
		}
	}
	if looked > 100 {
		t.Errorf("looked %d times", looked)
	}
	for _, text := range []string{"192.0.2.79", "192.0.2.3", "192.0.2.30"} { // the last is not of the shelf
		a := netip.MustParseAddr(text)
		delete(used, a)
		s.putBack(a)
	}
	for _, want := range []string{"192.0.2.3", "192.0.2.79"} {
		a, ok := s.lowest(free)
		if !ok || a.String() != want {
			t.Fatalf("%s, %v, want %s", a, ok, want)
		}
		used[a] = true
	}
	if a, ok := s.lowest(free); ok {
		t.Fatal(a)
	}
}

// BenchmarkResolve gives addresses to 10,000 Services, one after the other, each written into the book: one operation is all of it.
func BenchmarkResolve(b *testing.B) {
	const n = 10000
	many := make([]Pool, 200)
	for i := range many {
		many[i] = Pool{Name: fmt.Sprint("p", i), AutoAssign: true, Ranges: ranges(fmt.Sprintf("10.%d.0.0/16", i)), Namespaces: []string{fmt.Sprint("ns", i)}}
	}
	one := []Pool{{Name: "p", AutoAssign: true, Ranges: ranges("10.0.0.0/16 2001:db8::/64")}}
	share := func(ports ...uint16) Request {
		return Request{User: testUser(Key{}, "", "k", ports...), Families: []Family{IPv4}}
	}
	for name, c := range map[string]struct {
		pools   []Pool
		request func(i int) Request
	}{
		"IPv4":      {one, func(int) Request { return Request{Families: []Family{IPv4}} }},
		"IPv6":      {one, func(int) Request { return Request{Families: []Family{IPv6}} }},
		"dual":      {one, func(int) Request { return Request{Families: []Family{IPv4, IPv6}, Policy: RequireDualStack} }},
		"exhausted": {[]Pool{{Name: "p", AutoAssign: true, Ranges: ranges("10.0.0.0/24")}}, func(int) Request { return Request{Families: []Family{IPv4}} }},
		"200 pools": {many, func(i int) Request {
			return Request{User: User{Service: Key{Namespace: fmt.Sprint("ns", i%200)}}, Families: []Family{IPv4}}
		}},
		"one key and the same ports":       {one, func(int) Request { return share(80, 443) }},
		"one key and one of two ports":     {one, func(i int) Request { return share(80 + uint16(i*2/n)) }},
		"one key, 100 Services an address": {one, func(i int) Request { return share(uint16(i % 100)) }},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				book := NewBook()
				book.SetPools(c.pools)
				for i := range n {
					r := c.request(i)
					r.Service.Name = fmt.Sprint("svc-", i)
					for _, g := range book.Resolve(r).Take {
						h, _ := book.Get(g.Addr)
						h.Addr, h.Pool = g.Addr, g.Pool
						book.Set(h.With(r.User))
					}
				}
			}
		})
	}
}
