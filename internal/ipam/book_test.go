package ipam

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

// FuzzBook plays any sequence of events and checks what holds for every decision and after each: see world.
func FuzzBook(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(randomBytes(seed, 80))
	}
	f.Fuzz(func(t *testing.T, data []byte) { newWorld(t, data[:min(len(data), 400)]).run() })
}

// TestRandom is FuzzBook for many sequences that are the same each time.
func TestRandom(t *testing.T) {
	runs := uint64(150)
	if testing.Short() {
		runs = 30
	}
	for seed := range runs {
		if !t.Run(fmt.Sprint("seed", seed), func(t *testing.T) { newWorld(t, randomBytes(seed, 400)).run() }) {
			return
		}
	}
}

func randomBytes(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// A world is a small cluster in which few Services and pools meet often. Bytes say what happens.
type world struct {
	*cluster
	t    *testing.T
	data []byte
}

func newWorld(t *testing.T, data []byte) *world {
	return &world{cluster: newCluster(), t: t, data: data}
}

// below takes the next byte as a number below n.
func (w *world) below(n int) int {
	if len(w.data) == 0 {
		return 0
	}
	b := w.data[0]
	w.data = w.data[1:]
	return int(b) % n
}

func pick[T any](w *world, of ...T) T { return of[w.below(len(of))] }

var worldRanges = []string{"192.0.2.0/30", "192.0.2.2-192.0.2.6", "192.0.2.9-192.0.2.9", "2001:db8::/126", "2001:db8::8-2001:db8::9", "198.51.100.0/29"}

func (w *world) addr() netip.Addr {
	if w.below(2) == 0 {
		return netip.AddrFrom4([4]byte{192, 0, 2, byte(w.below(11))})
	}
	return netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", w.below(11)))
}

func (w *world) run() {
	for len(w.data) > 0 {
		w.step()
		for round, quiet := 0, false; !quiet; round++ {
			if round > 20 {
				w.t.Fatal("there is no end to it")
			}
			quiet = true
			for _, key := range slices.SortedFunc(maps.Keys(w.services), compareKeys) {
				quiet = !w.resolve(key) && quiet
			}
		}
		w.checkShares()
	}
}

func (w *world) step() {
	switch w.below(8) {
	case 0:
		w.changePool()
	case 1:
		key := w.key()
		if r, ok := w.services[key]; ok {
			for _, h := range w.book.Of(key, r.UID) {
				w.release(h, r)
			}
			delete(w.services, key)
		}
	case 2:
		w.book.Block(w.addr(), "is blocked")
	case 3:
		for a := range w.book.blocked {
			w.book.Unblock(a)
		}
	case 4: // deleted behind our back
		w.book.Remove(w.addr())
	default:
		w.changeService()
	}
}

func (w *world) key() Key { return Key{pick(w, "red", "blue"), pick(w, "a", "b", "c", "d")} }

func (w *world) changePool() {
	name := pick(w, "p", "q", "r")
	delete(w.pools, name)
	if w.below(4) > 0 {
		p := Pool{Name: name, AutoAssign: w.below(4) > 0, Priority: w.below(2)}
		for range 1 + w.below(3) {
			r, err := ParseRange(pick(w, worldRanges...), w.below(3) == 0)
			if err != nil {
				w.t.Fatal(err)
			}
			p.Ranges = append(p.Ranges, r)
		}
		if w.below(3) == 0 {
			p.Namespaces = []string{"red"}
		}
		if w.below(3) == 0 {
			p.NamespaceSelector = &Selector{{"n", In, []string{"1"}}}
		}
		if w.below(3) == 0 {
			p.ServiceSelector = Selector{{"s", Exists, nil}}
		}
		w.pools[name] = p
	}
	w.setPools()
}

func (w *world) changeService() {
	r := Request{Policy: Policy(w.below(3)), Pool: pick(w, "", "", "", "p", "q")}
	if r.Service = w.key(); w.services[r.Service].UID != "" {
		r.UID = w.services[r.Service].UID
	} else {
		r.UID = w.uid()
	}
	r.Families = pick(w, []Family{IPv4}, []Family{IPv6}, []Family{IPv4, IPv6}, []Family{IPv6, IPv4}, nil)
	r.ShareKey, r.Backends = pick(w, "", "k", "k", "l"), pick(w, "", "", "x", "y")
	for _, n := range pick(w, []uint16{80}, []uint16{81}, []uint16{80, 82}, []uint16{82, 83}) {
		r.Ports = append(r.Ports, Port{"TCP", n})
	}
	for range pick(w, 0, 0, 1, 2) {
		r.Addresses = append(r.Addresses, w.addr())
	}
	if w.below(2) == 0 {
		r.Labels = map[string]string{"s": ""}
	}
	if w.below(2) == 0 {
		r.NamespaceLabels = map[string]string{"n": "1"}
	}
	w.change(r)
}

// resolve checks the decision of one Service and brings it about.
func (w *world) resolve(key Key) (changed bool) {
	r := w.services[key]
	d := w.book.Resolve(r)
	held := maps.Clone(w.book.held)
	w.check(r, d)
	w.same(r, d, w.book, "asked again")
	w.same(r, d, w.anew(), "with all read anew")
	if !reflect.DeepEqual(held, w.book.held) {
		w.t.Fatal("Resolve changed the book")
	}
	for _, a := range d.Drop {
		h, _ := w.book.Get(a)
		w.release(h, r)
	}
	for _, g := range slices.Concat(d.Keep, d.Take) {
		h, _ := w.book.Get(g.Addr)
		changed = changed || h.Pool != g.Pool
		h.Addr, h.Pool = g.Addr, g.Pool
		w.book.Set(h.With(r.User))
	}
	if again := w.book.Resolve(r); len(again.Take)+len(again.Drop) > 0 || !slices.Equal(addrs(again.Keep), addrs(d.Keep, d.Take)) ||
		again.OK() != d.OK() || !slices.Equal(again.Missing, d.Missing) {
		w.fail(r, again, "is not stable, after %+v", d)
	}
	return changed || len(d.Take)+len(d.Drop) > 0
}

func (w *world) fail(r Request, d Decision, format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s\nrequest %+v\ndecision %+v\npools %+v\nheld %+v\nblocked %v", fmt.Sprintf(format, args...), r, d, w.pools, w.book.held, w.book.blocked)
}

func (w *world) same(r Request, d Decision, b *Book, when string) {
	w.t.Helper()
	if again := b.Resolve(r); !reflect.DeepEqual(d, again) {
		w.fail(r, d, "%s: %+v", when, again)
	}
	for name := range w.pools {
		if x, y := w.book.Usage(name), b.Usage(name); !reflect.DeepEqual(x, y) {
			w.t.Fatalf("usage of %s %s: %+v, not %+v", name, when, y, x)
		}
	}
}

// anew is the book as one would read it after a restart.
func (w *world) anew() *Book {
	b := NewBook()
	for _, h := range w.book.held {
		b.Set(h)
	}
	for a, why := range w.book.blocked {
		b.Block(a, why)
	}
	b.SetPools(slices.Collect(maps.Values(w.pools)))
	return b
}

func addrs(grants ...[]Grant) (all []netip.Addr) {
	for _, g := range slices.Concat(grants...) {
		all = append(all, g.Addr)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

// check compares a decision with the rules, told once more and without any index.
func (w *world) check(r Request, d Decision) {
	var has []netip.Addr
	for _, h := range w.book.Of(r.Service, r.UID) {
		has = append(has, h.Addr)
	}
	if all := slices.Concat(addrs(d.Keep), d.Drop); !slices.Equal(has, slices.SortedFunc(slices.Values(all), netip.Addr.Compare)) {
		w.fail(r, d, "of %v each is kept or dropped", has)
	}
	for _, g := range d.Keep {
		if _, blocked := w.book.blocked[g.Addr]; blocked {
			w.fail(r, d, "%s is blocked", g.Addr)
		}
		h, p := w.book.held[g.Addr], w.pools[g.Pool]
		if h.Pool != g.Pool && !(p.has(g.Addr) && w.admits(p, r) && (h.Users[0].is(r.Service, r.UID) || !w.pools[h.Pool].has(g.Addr))) {
			w.fail(r, d, "%s is of pool %s, not %s", g.Addr, h.Pool, g.Pool)
		}
	}
	for _, g := range d.Take {
		if slices.Contains(has, g.Addr) {
			w.fail(r, d, "takes %s, which it has", g.Addr)
		}
		w.checkTake(r, d, g)
	}
	if r.Policy != PreferDualStack && !d.OK() && len(d.Take) > 0 {
		w.fail(r, d, "takes something, and is refused")
	}
	if d.OK() == (Explain(d.Refused) != "") {
		w.fail(r, d, "says %q", Explain(d.Refused))
	}
	w.checkFamilies(r, d)
	w.checkRefused(r, d)
}

func (w *world) admits(p Pool, r Request) bool {
	ns := len(p.Namespaces) == 0 && p.NamespaceSelector == nil || slices.Contains(p.Namespaces, r.Service.Namespace) ||
		p.NamespaceSelector != nil && r.NamespaceLabels["n"] == "1"
	_, s := r.Labels["s"]
	return ns && (s || p.ServiceSelector == nil)
}

func (p Pool) has(a netip.Addr) bool {
	return slices.ContainsFunc(p.Ranges, func(r Range) bool { return r.Contains(a) })
}

func (w *world) checkTake(r Request, d Decision, g Grant) {
	p, exists := w.pools[g.Pool]
	if !exists || !p.has(g.Addr) {
		w.fail(r, d, "%s is not in pool %q", g.Addr, g.Pool)
	}
	asked := slices.Contains(r.Addresses, g.Addr)
	admitted := w.admits(p, r)
	if asked { // any pool that has it will do
		for _, q := range w.pools {
			admitted = admitted || q.has(g.Addr) && w.admits(q, r)
		}
	}
	if !admitted {
		w.fail(r, d, "pool %s is not for it", g.Pool)
	}
	if r.Pool != "" && !w.pools[r.Pool].has(g.Addr) {
		w.fail(r, d, "%s is not in pool %s", g.Addr, r.Pool)
	}
	if _, blocked := w.book.blocked[g.Addr]; blocked {
		w.fail(r, d, "%s is blocked", g.Addr)
	}
	h, held := w.book.held[g.Addr]
	if held != g.Share {
		w.fail(r, d, "%s is in use: %v", g.Addr, held)
	}
	for _, u := range h.Users {
		if !mayShare(u, r.User) {
			w.fail(r, d, "%s cannot be shared with %+v", g.Addr, u)
		}
	}
	if asked {
		return
	}
	if shared := w.shared(r, FamilyOf(g.Addr)); g.Share && shared[0] != g.Addr || !g.Share && len(shared) > 0 {
		w.fail(r, d, "could share %v", shared)
	}
	if !g.Share {
		w.checkPool(r, d, g)
	}
}

// checkPool: it is the lowest address of the first pool, or of that from which the other family comes.
func (w *world) checkPool(r Request, d Decision, g Grant) {
	p, f := w.pools[g.Pool], FamilyOf(g.Addr)
	if !w.serves(p, r) {
		w.fail(r, d, "pool %s does not serve it", g.Pool)
	}
	if a := w.lowest(p, f); a != g.Addr {
		w.fail(r, d, "%s is lower and free", a)
	}
	var other Grant
	var alone bool // g is the only one that was chosen from a pool
	for _, o := range slices.Concat(d.Keep, d.Take) {
		if o != g {
			other = o
			alone = slices.Contains(d.Keep, o) || o.Share || slices.Contains(r.Addresses, o.Addr)
		}
	}
	if other.Pool == g.Pool {
		return
	}
	for _, q := range w.pools {
		if !w.serves(q, r) || !w.lowest(q, f).IsValid() {
			continue
		}
		first := comparePools(&q, &p) < 0
		if alone && q.Name == other.Pool || other.Addr.IsValid() && !alone && w.lowest(q, 10-f).IsValid() || first && other.Pool != g.Pool {
			w.fail(r, d, "pool %s is better than %s for %s", q.Name, g.Pool, f)
		}
	}
}

func (w *world) serves(p Pool, r Request) bool {
	return w.admits(p, r) && (r.Pool == p.Name || r.Pool == "" && p.AutoAssign)
}

// lowest is the lowest free address of a pool, the zero value if there is none.
func (w *world) lowest(p Pool, f Family) (lowest netip.Addr) {
	for a := range w.all(p, f) {
		if w.isFree(a) && (!lowest.IsValid() || a.Less(lowest)) {
			lowest = a
		}
	}
	return lowest
}

// shared finds the addresses of others that a Service may share by its key alone.
func (w *world) shared(r Request, f Family) (all []netip.Addr) {
	for a, h := range w.book.held {
		p := w.pools[h.Pool]
		_, blocked := w.book.blocked[a]
		if FamilyOf(a) == f && !blocked && p.has(a) && w.admits(p, r) && (r.Pool == "" || r.Pool == p.Name) && len(h.Users) > 0 &&
			!slices.ContainsFunc(h.Users, func(u User) bool { return !mayShare(u, r.User) }) {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

// all yields the addresses of a pool.
func (w *world) all(p Pool, f Family) func(func(netip.Addr) bool) {
	return func(yield func(netip.Addr) bool) {
		for _, r := range p.Ranges {
			for a := r.First(); r.Family() == f && r.Contains(a); a = a.Next() {
				if !yield(a) {
					return
				}
			}
		}
	}
}

func (w *world) isFree(a netip.Addr) bool {
	_, held := w.book.held[a]
	_, blocked := w.book.blocked[a]
	return !held && !blocked
}

func mayShare(a, b User) bool {
	for _, p := range a.Ports {
		if slices.Contains(b.Ports, p) {
			return false
		}
	}
	return a.Service != b.Service && a.ShareKey != "" && a.ShareKey == b.ShareKey && a.Backends == b.Backends
}

// checkFamilies: at most one address of each family that is wanted, and all that is needed if the decision is OK.
func (w *world) checkFamilies(r Request, d Decision) {
	wanted := slices.Clone(r.Families)
	if r.Policy == SingleStack && len(wanted) > 1 {
		wanted = wanted[:1]
	}
	if len(wanted) == 0 {
		if d.OK() || len(d.Take) > 0 {
			w.fail(r, d, "has no family")
		}
		return
	}
	all := addrs(d.Keep, d.Take)
	count := map[Family]int{}
	for _, a := range all {
		count[FamilyOf(a)]++
	}
	got := 0
	for _, f := range []Family{IPv4, IPv6} {
		if count[f] > 1 || count[f] == 1 && !slices.Contains(wanted, f) {
			w.fail(r, d, "has %d %s addresses", count[f], f)
		}
		if missing := count[f] == 0 && slices.Contains(wanted, f); missing != slices.Contains(d.Missing, f) {
			w.fail(r, d, "%s is missing: %v", f, missing)
		}
		got += count[f]
	}
	if !d.OK() {
		return
	}
	if got == 0 || r.Policy != PreferDualStack && got != len(wanted) {
		w.fail(r, d, "is OK with %d addresses", got)
	}
	for _, a := range r.Addresses {
		if !slices.Contains(all, a) {
			w.fail(r, d, "is OK without %s", a)
		}
	}
	for _, g := range slices.Concat(d.Keep, d.Take) {
		if p := w.pools[r.Pool]; r.Pool != "" && g.Pool != r.Pool && !(p.has(g.Addr) && w.admits(p, r)) {
			w.fail(r, d, "is OK with %s of pool %s", g.Addr, g.Pool)
		}
	}
}

// checkRefused: what is missing could not be had, nor what is asked for instead of what it has.
func (w *world) checkRefused(r Request, d Decision) {
	if len(r.Addresses) > 0 || len(r.Families) == 0 {
		return
	}
	available := func(f Family) bool {
		return len(w.shared(r, f)) > 0 ||
			slices.ContainsFunc(slices.Collect(maps.Values(w.pools)), func(p Pool) bool { return w.serves(p, r) && w.lowest(p, f).IsValid() })
	}
	met := func(f Family) bool {
		return slices.ContainsFunc(d.Keep, func(g Grant) bool { return FamilyOf(g.Addr) == f && (r.Pool == "" || w.pools[r.Pool].has(g.Addr)) })
	}
	if r.Policy == RequireDualStack {
		if !d.OK() && !slices.ContainsFunc(r.Families, func(f Family) bool { return !met(f) && !available(f) }) {
			w.fail(r, d, "is refused, and all could be had")
		}
		return
	}
	for _, f := range d.Missing {
		if available(f) {
			w.fail(r, d, "%s is missing, and could be had", f)
		}
	}
}

// checkShares: no address is with two Services that may not share it.
func (w *world) checkShares() {
	for _, h := range w.book.held {
		for i, u := range h.Users {
			if now := w.services[u.Service]; !reflect.DeepEqual(now.User, u) {
				w.t.Fatalf("%s is with %+v, which is %+v now", h.Addr, u, now)
			}
			for _, v := range h.Users[:i] {
				if !mayShare(u, v) {
					w.t.Fatalf("%s is with both %+v and %+v", h.Addr, v, u)
				}
			}
		}
	}
}
