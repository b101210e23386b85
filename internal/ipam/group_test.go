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
