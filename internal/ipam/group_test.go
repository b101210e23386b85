package ipam

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// TestGroup compares a group with a list that is searched from its beginning each time.
func TestGroup(t *testing.T) {
	type use struct {
		addr  netip.Addr
		ports []Port
	}
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 2))
		somePorts := func() (ports []Port) {
			for range 1 + r.IntN(2) {
				ports = append(ports, Port{"TCP", uint16(r.IntN(4))})
			}
			return ports
		}
		g := newGroup()
		var uses []use
		for step := range 300 {
			if i := r.IntN(20); i < len(uses) && r.IntN(3) > 0 {
				g.remove(uses[i].addr, uses[i].ports)
				uses = slices.Delete(uses, i, i+1)
			} else {
				u := use{netip.AddrFrom4([4]byte{192, 0, 2, byte(r.IntN(12))}), somePorts()}
				g.add(u.addr, u.ports)
				uses = append(uses, u)
			}
			ports := somePorts()
			free := map[netip.Addr]bool{}
			for _, u := range uses {
				free[u.addr] = true
			}
			for _, u := range uses {
				if slices.ContainsFunc(ports, func(p Port) bool { return slices.Contains(u.ports, p) }) {
					delete(free, u.addr)
				}
			}
			want := slices.SortedFunc(maps.Keys(free), netip.Addr.Compare)
			if got := slices.Collect(g.without(ports)); !slices.Equal(got, want) {
				t.Fatalf("seed %d, step %d: without %v: %v, want %v", seed, step, ports, got, want)
			}
		}
		for _, u := range uses {
			g.remove(u.addr, u.ports)
		}
		if len(g.addrs)+len(g.users)+len(g.ports) > 0 {
			t.Errorf("seed %d: %+v is left", seed, g)
		}
	}
	var none *group
	if got := slices.Collect(none.without(nil)); len(got) > 0 {
		t.Errorf("%v of no group", got)
	}
}

// A search passes over what is full once.
func TestGroupIsQuick(t *testing.T) {
	g := newGroup()
	port := []Port{{"TCP", 80}}
	var addrs []netip.Addr
	for i := range 200 {
		addrs = append(addrs, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
		g.add(addrs[i], port)
	}
	use := g.ports[port[0]]
	for range g.without(port) {
		t.Fatal("one is free")
	}
	if i, _ := slices.BinarySearchFunc(g.addrs, use.full, netip.Addr.Compare); i != len(addrs) {
		t.Errorf("only %d are known to be full", i)
	}
	g.add(addrs[50], []Port{{"TCP", 81}})
	g.remove(addrs[50], []Port{{"TCP", 81}})
	if i, _ := slices.BinarySearchFunc(g.addrs, use.full, netip.Addr.Compare); i != len(addrs) {
		t.Errorf("what happens to other ports makes it forget all but %d", i)
	}
	g.remove(addrs[100], port)
	g.add(addrs[100], []Port{{"TCP", 81}})
	if got := slices.Collect(g.without(port)); !slices.Equal(got, addrs[100:101]) {
		t.Errorf("%v", got)
	}
}
