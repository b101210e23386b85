package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

var web, db = Key{"shop", "web"}, Key{"shop", "db"}

func testUser(svc Key, uid, share string, ports ...uint16) User {
	u := User{Service: svc, UID: uid, ShareKey: share}
	for _, p := range ports {
		u.Ports = append(u.Ports, Port{"TCP", p})
	}
	return u
}

func holding(addr, pool string, users ...User) Holding {
	return Holding{Addr: netip.MustParseAddr(addr), Pool: pool, Users: users}
}

// crowd are users that share an address, each with a port of its own, from 2 on.
func crowd(n int) (all []User) {
	for i := range n {
		all = append(all, testUser(Key{"shop", fmt.Sprint("s", i)}, fmt.Sprint(i), "k", uint16(i+2)))
	}
	return all
}

// TestResolve has what a coordinator that settles all things one by one does not come across, but one may after a crash or a race.
func TestResolve(t *testing.T) {
	pools := []Pool{{Name: "main", AutoAssign: true, Ranges: ranges("192.0.2.0/29 2001:db8::/64")}, {Name: "spare", Ranges: ranges("198.51.100.0/29")}}
	for _, c := range []struct {
		name     string
		holdings []Holding
		request  Request
		want     string
	}{
		{"the request counts, not what the book has of the Service: the later loses",
			[]Holding{holding("192.0.2.0", "main", testUser(db, "2", "k", 2), testUser(web, "1", "k", 1))},
			Request{User: testUser(web, "1", "k", 2), Families: []Family{IPv4}},
			"take 192.0.2.1 main; drop 192.0.2.0; 192.0.2.0 is given up: it is in use by shop/db, which has TCP 2 too"},
		{"the request counts: the former stays",
			[]Holding{holding("192.0.2.0", "main", testUser(web, "1", "k", 1), testUser(db, "2", "k", 2))},
			Request{User: testUser(web, "1", "k", 2), Families: []Family{IPv4}},
			"keep 192.0.2.0 main shared"},
		{"who loses is in nobody's way",
			[]Holding{holding("192.0.2.0", "main", testUser(db, "2", "k", 2), testUser(Key{"a", "b"}, "3", "k", 2, 1), testUser(web, "1", "k", 1))},
			Request{User: testUser(web, "1", "k", 1), Families: []Family{IPv4}},
			"keep 192.0.2.0 main shared"},
		{"the port of one that is neither first nor last",
			[]Holding{holding("192.0.2.0", "main", testUser(db, "2", "k", 1), testUser(Key{"a", "b"}, "3", "k", 2), testUser(web, "1", "k", 3))},
			Request{User: testUser(web, "1", "k", 3, 2), Families: []Family{IPv4}},
			"take 192.0.2.1 main; drop 192.0.2.0; 192.0.2.0 is given up: it is in use by a/b, which has TCP 2 too"},
		{"an address that is blocked is not shared",
			[]Holding{holding("192.0.2.7", "main", testUser(db, "2", "k", 1)), holding("2001:db8::b", "main", testUser(db, "2", "k", 1))},
			Request{User: testUser(web, "1", "k", 2), Families: []Family{IPv4, IPv6}, Policy: RequireDualStack},
			"take 192.0.2.0 main; take 2001:db8::b main shared"},
		{"what is given up comes in the order of addresses",
			[]Holding{holding("192.0.2.2", "main", testUser(web, "1", "")), holding("192.0.2.3", "main", testUser(web, "1", "")),
				holding("192.0.2.7", "main", testUser(web, "1", "")), holding("2001:db8::1", "main", testUser(web, "1", ""))},
			Request{User: testUser(web, "1", ""), Families: []Family{IPv4}},
			"keep 192.0.2.2 main; drop 192.0.2.3; drop 192.0.2.7; drop 2001:db8::1; 192.0.2.7 is given up: it is being deleted; " +
				"2001:db8::1 is given up: it is IPv6, and the Service is IPv4 (spec.ipFamilyPolicy, spec.ipFamilies); " +
				"192.0.2.3 is given up: it makes way for 192.0.2.2"},
		{"both are required, and there is one family",
			nil, Request{User: testUser(web, "1", ""), Families: []Family{IPv6}, Policy: RequireDualStack, Pool: "spare"},
			"missing IPv6; refused: no IPv6 address: pool spare has no IPv6 addresses"},
		{"of two addresses the one in a pool is kept",
			[]Holding{holding("192.0.2.99", "main", testUser(web, "1", "")), holding("198.51.100.2", "spare", testUser(web, "1", ""))},
			Request{User: testUser(web, "1", ""), Families: []Family{IPv4}},
			"keep 198.51.100.2 spare; drop 192.0.2.99; 192.0.2.99 is given up: it makes way for 198.51.100.2"},
		{"of two addresses the lower is kept",
			[]Holding{holding("192.0.2.5", "main", testUser(web, "1", "")), holding("192.0.2.3", "main", testUser(web, "1", ""))},
			Request{User: testUser(web, "1", ""), Families: []Family{IPv4}},
			"keep 192.0.2.3 main; drop 192.0.2.5; 192.0.2.5 is given up: it makes way for 192.0.2.3"},
		{"of two addresses the one that is asked for is kept: a move went half way",
			[]Holding{holding("192.0.2.5", "main", testUser(web, "1", "")), holding("192.0.2.3", "main", testUser(web, "1", ""))},
			Request{User: testUser(web, "1", ""), Families: []Family{IPv4}, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.5")}},
			"keep 192.0.2.5 main; drop 192.0.2.3; 192.0.2.3 is given up: it makes way for 192.0.2.5"},
		{"of two addresses the one of the pool that is asked for is kept",
			[]Holding{holding("192.0.2.5", "main", testUser(web, "1", "")), holding("198.51.100.2", "spare", testUser(web, "1", ""))},
			Request{User: testUser(web, "1", ""), Families: []Family{IPv4}, Pool: "spare"},
			"keep 198.51.100.2 spare; drop 192.0.2.5; 192.0.2.5 is given up: it makes way for 198.51.100.2"},
		{"two addresses and a wish that cannot be met: one stays",
			[]Holding{holding("192.0.2.5", "main", testUser(web, "1", "")), holding("192.0.2.3", "main", testUser(web, "1", ""))},
			Request{User: testUser(web, "1", ""), Families: []Family{IPv4}, Pool: "none"},
			"keep 192.0.2.3 main; drop 192.0.2.5; refused: no IPv4 address: pool none does not exist; 192.0.2.3 of pool main stays until then; " +
				"192.0.2.5 is given up: it makes way for 192.0.2.3"},
		{"of two addresses the one that people were told is kept",
			[]Holding{holding("192.0.2.5", "main", testUser(web, "1", "")), holding("192.0.2.3", "main", testUser(web, "1", ""))},
			Request{User: testUser(web, "1", ""), Families: []Family{IPv4}, Shown: []netip.Addr{netip.MustParseAddr("192.0.2.5")}},
			"keep 192.0.2.5 main; drop 192.0.2.3; 192.0.2.3 is given up: it makes way for 192.0.2.5"},
		{"of two addresses the one that people were told is kept, though it is in no pool any more",
			[]Holding{holding("192.0.2.99", "main", testUser(web, "1", "")), holding("192.0.2.3", "main", testUser(web, "1", ""))},
			Request{User: testUser(web, "1", ""), Families: []Family{IPv4}, Shown: []netip.Addr{netip.MustParseAddr("192.0.2.99")}},
			"keep 192.0.2.99 main; drop 192.0.2.3; 192.0.2.3 is given up: it makes way for 192.0.2.99; " +
				"192.0.2.99 is not in pool main any more; it stays until the Service is deleted"},
		{"of two addresses the one that is asked for is kept, whatever people were told",
			[]Holding{holding("192.0.2.5", "main", testUser(web, "1", "")), holding("192.0.2.3", "main", testUser(web, "1", ""))},
			Request{User: testUser(web, "1", ""), Families: []Family{IPv4}, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.3")},
				Shown: []netip.Addr{netip.MustParseAddr("192.0.2.5")}},
			"keep 192.0.2.3 main; drop 192.0.2.5; 192.0.2.5 is given up: it makes way for 192.0.2.3"},
		{"what people were told is no wish: who has nothing is given the lowest", nil,
			Request{User: testUser(web, "1", ""), Families: []Family{IPv4}, Shown: []netip.Addr{netip.MustParseAddr("192.0.2.5")}},
			"take 192.0.2.0 main"},
		{"as many share an address as may: another one",
			[]Holding{holding("192.0.2.0", "main", crowd(MostUsers)...)},
			Request{User: testUser(web, "1", "k", 1), Families: []Family{IPv4}},
			"take 192.0.2.1 main"},
		{"as many share an address as may, and it is asked for",
			[]Holding{holding("192.0.2.0", "main", crowd(MostUsers)...)},
			Request{User: testUser(web, "1", "k", 1), Families: []Family{IPv4}, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.0")}},
			"missing IPv4; refused: 192.0.2.0 of pool main is shared by 1024 Services, and by no more"},
		{"one less: it is the last",
			[]Holding{holding("192.0.2.0", "main", crowd(MostUsers-1)...)},
			Request{User: testUser(web, "1", "k", 1), Families: []Family{IPv4}},
			"take 192.0.2.0 main shared"},
		{"IPv4 written as IPv6 is asked for",
			nil, Request{User: testUser(web, "1", ""), Families: []Family{IPv4}, Addresses: []netip.Addr{netip.MustParseAddr("::ffff:192.0.2.5")}},
			"take 192.0.2.5 main"},
		{"the same address twice, and the zero one", nil, Request{User: testUser(web, "1", ""), Families: []Family{IPv4, IPv4},
			Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.5"), {}, netip.MustParseAddr("192.0.2.5")}},
			"take 192.0.2.5 main"},
		{"the former Service of this name goes first, whatever it would share",
			[]Holding{holding("192.0.2.5", "main", testUser(web, "0", "k", 1))},
			Request{User: testUser(web, "1", "k", 2), Families: []Family{IPv4}, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.5")}},
			"missing IPv4; refused: 192.0.2.5 of pool main is still with the former Service shop/web"},
		{"the former Service of this name: another address",
			[]Holding{holding("192.0.2.0", "main", testUser(web, "0", "k", 1))},
			Request{User: testUser(web, "1", "k", 2), Families: []Family{IPv4}},
			"take 192.0.2.1 main"},
		{"without a family what it has stays, and nothing is taken",
			[]Holding{holding("192.0.2.5", "main", testUser(web, "1", "")), holding("2001:db8::1", "main", testUser(web, "1", ""))},
			Request{User: testUser(web, "1", ""), Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.6")}},
			"keep 192.0.2.5 main; keep 2001:db8::1 main; refused: the Service has no IP family yet (spec.ipFamilies)"},
		{"one wish of two cannot be met: nothing is taken",
			nil, Request{User: testUser(web, "1", ""), Families: []Family{IPv4, IPv6}, Policy: RequireDualStack,
				Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.5"), netip.MustParseAddr("2001:db8:9::1")}},
			"missing IPv4; missing IPv6; refused: 2001:db8:9::1 is in no pool; ipFamilyPolicy RequireDualStack needs both families"},
		{"one wish of two cannot be met: what can be had is taken, but not all is well",
			nil, Request{User: testUser(web, "1", ""), Families: []Family{IPv4, IPv6}, Policy: PreferDualStack,
				Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.5"), netip.MustParseAddr("2001:db8:9::1")}},
			"take 192.0.2.5 main; missing IPv6; refused: 2001:db8:9::1 is in no pool"},
		{"two that require both cannot move by half",
			[]Holding{holding("192.0.2.5", "main", testUser(web, "1", "")), holding("2001:db8::1", "main", testUser(web, "1", ""))},
			Request{User: testUser(web, "1", ""), Families: []Family{IPv4, IPv6}, Policy: RequireDualStack, Pool: "spare"},
			"keep 192.0.2.5 main; keep 2001:db8::1 main; refused: no IPv6 address: pool spare has no IPv6 addresses; 2001:db8::1 of pool main stays until then; " +
				"ipFamilyPolicy RequireDualStack needs both families"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := NewBook()
			b.SetPools(pools)
			b.Block(netip.MustParseAddr("192.0.2.7"), "is being deleted")
			for _, h := range c.holdings {
				b.Set(h)
			}
			if got := describe(b.Resolve(c.request)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func describe(d Decision) string {
	var words []string
	for verb, grants := range map[string][]Grant{"keep": d.Keep, "take": d.Take} {
		for _, g := range grants {
			words = append(words, strings.TrimSuffix(fmt.Sprintf("%s %s %s %v", verb, g.Addr, g.Pool, map[bool]string{true: "shared"}[g.Share]), " "))
		}
	}
	slices.Sort(words)
	for _, a := range d.Drop {
		words = append(words, "drop "+a.String())
	}
	for _, f := range d.Missing {
		words = append(words, "missing "+f.String())
	}
	if !d.OK() {
		words = append(words, "refused: "+Explain(d.Refused))
	}
	return strings.Join(append(words, d.Notes...), "; ")
}

// What goes into a book is not changed by what is done to it afterwards, and a holding changes only as a whole.
func TestHolding(t *testing.T) {
	b := NewBook()
	h := holding("192.0.2.5", "main", testUser(web, "1", "k", 1), testUser(db, "2", "k", 2), testUser(web, "1", "k", 3))
	b.Set(h)
	h.Users[0].Service.Name = "other"
	got, ok := b.Get(h.Addr)
	if !ok || len(got.Users) != 2 || got.Users[0].Service != web || got.Users[0].Ports[0].Number != 1 {
		t.Errorf("%+v", got)
	}
	more := got.With(testUser(web, "1", "k", 8)).With(testUser(web, "9", "k", 9)).Without(db, "2")
	if len(got.Users) != 2 || got.Users[0].Ports[0].Number != 1 {
		t.Errorf("With changed %+v", got)
	}
	if len(more.Users) != 2 || more.Users[0].Ports[0].Number != 8 || more.Users[1].UID != "9" {
		t.Errorf("%+v", more)
	}
	b.Set(more)
	for _, c := range []struct {
		svc  Key
		uid  string
		want int
	}{{web, "1", 1}, {web, "9", 1}, {web, "", 0}, {db, "2", 0}} {
		if n := len(b.Of(c.svc, c.uid)); n != c.want {
			t.Errorf("%s %s has %d", c.svc, c.uid, n)
		}
	}
	b.Remove(h.Addr)
	b.Remove(h.Addr)
	if _, ok := b.Get(h.Addr); ok || len(b.users)+len(b.groups)+len(b.held) > 0 {
		t.Errorf("%+v is left", b)
	}
}

func TestSetPools(t *testing.T) {
	b := NewBook()
	request := Request{User: testUser(web, "1", ""), Families: []Family{IPv4}}
	b.SetPools([]Pool{{Name: "a", AutoAssign: true, Ranges: ranges("192.0.2.0/30")}, {Name: "a", AutoAssign: true, Ranges: ranges("198.51.100.0/29")}})
	if got := describe(b.Resolve(request)); got != "take 192.0.2.0 a" {
		t.Errorf("of two pools of one name: %s", got)
	}
	if u := b.Usage("a"); u.Total.Int64() != 4 || u.Free.Int64() != 4 {
		t.Errorf("%+v", u)
	}
	if u := b.Usage("b"); u.Total.Sign() != 0 || u.Free.Sign() != 0 || u.Used != 0 {
		t.Errorf("of no pool: %+v", u)
	}
	b.Block(netip.MustParseAddr("192.0.2.0"), "")
	request.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.0")}
	if got := describe(b.Resolve(request)); got != "missing IPv4; refused: 192.0.2.0 of pool a is blocked" {
		t.Errorf("blocked without a reason: %s", got)
	}
	b.Set(holding("192.0.2.1", "a"))
	b.Block(netip.MustParseAddr("192.0.2.1"), "is being deleted") // it counts once
	if u := b.Usage("a"); u.Used != 2 || u.Free.Int64() != 2 {
		t.Errorf("%+v", u)
	}
	b.Usage("a").Free.SetInt64(7)
	if u := b.Usage("a"); u.Free.Int64() != 2 {
		t.Errorf("changed from outside: %+v", u)
	}
}
