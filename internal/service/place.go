package service

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"

	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

// A grade is how well a node suits an address.
type grade uint8

const (
	never grade = iota // it must not have it
	stay               // it may keep it while no other node suits
	fit
)

// suits says how well a node suits an address, and what is against it.
func (f *Facts) suits(r *Record, node string) (grade, string) {
	if g, why := f.suitsPool(r.Object, node); g == never {
		return never, why
	}
	m := f.Roll[node]
	if len(m.Word.links(r.Addr, linksOf(r.Object))) == 0 {
		return never, "has no link for it"
	}
	if g, why := f.serves(node); g != fit {
		return g, why
	}
	if why := f.lacksEndpoints(r, node); why != "" {
		return stay, why
	}
	return fit, ""
}

// suitsPool says what is known of a node against the addresses of a pool, whichever they are.
func (f *Facts) suitsPool(o *pintlev1.Address, node string) (grade, string) {
	if g, why := f.suitsAny(node); g == never {
		return never, why
	}
	if p := f.Pools[o.Spec.Pool]; p != nil && !p.Nodes.Matches(f.Nodes[node].Labels) {
		return never, "is not selected by pool " + p.Name
	}
	return fit, ""
}

// suitsAny says what rules a node out for any address.
func (f *Facts) suitsAny(node string) (grade, string) {
	info := f.Nodes[node]
	switch {
	case info == nil:
		return never, "is no node of the cluster"
	case !f.Roll[node].Alive:
		return never, "does not renew its Lease"
	case info.Excluded:
		return never, "has the label " + excludeLabel
	case info.Weight == 0:
		return never, "has weight 0"
	}
	return fit, ""
}

// serves says whether a node can serve anybody now.
func (f *Facts) serves(node string) (grade, string) {
	m := f.Roll[node]
	switch {
	case m.Word.Leaving:
		return stay, "is stopping"
	case f.Nodes[node].Cordoned:
		return stay, "is cordoned"
	case m.Word.Unfit != "":
		return stay, "is unfit: " + m.Word.Unfit
	}
	return fit, ""
}

// lacksEndpoints says for which Service with externalTrafficPolicy Local a node has no endpoint that is ready and stays so. A
// Service without a selector and without endpoints is served by something else, as that of a Gateway is.
func (f *Facts) lacksEndpoints(r *Record, node string) string {
	for _, ref := range r.Object.Spec.Services {
		k := ipam.Key{Namespace: ref.Namespace, Name: ref.Name}
		s := f.Services[k]
		if s == nil || !s.Local || s.Selector == "" && len(f.Slices[k]) == 0 {
			continue
		}
		if !f.endpointsOn(k, node) {
			return fmt.Sprintf("has no ready endpoint of %s/%s, which has externalTrafficPolicy Local", k.Namespace, k.Name)
		}
	}
	return ""
}

// endpointsOn reports whether a node has endpoints of a Service that are ready and stay so; or, if no node has any, some that still
// serve until they end.
func (f *Facts) endpointsOn(k ipam.Key, node string) bool {
	ready, serving, some := 0, 0, false
	for _, e := range f.Slices[k] {
		ready, serving, some = ready+e.Ready[node], serving+e.Serving[node], some || len(e.Ready) > 0
	}
	return ready > 0 || !some && serving > 0
}

func linksOf(o *pintlev1.Address) []string {
	return slices.DeleteFunc(slices.Clone(o.Spec.Links), func(s string) bool { return s == "auto" })
}

// A Choice is where an address belongs.
type Choice struct {
	Node   string // "": nowhere
	Reason string
}

// choose says which node is to have an address: the one that has it, as long as it is fit; else of the fit ones of the highest
// priority the one that is meant, or that with the fewest addresses for its weight; else, if its node only stays for want of a better
// one, that one.
func (f *Facts) choose(r *Record, load map[string]int, meant string) Choice {
	was := f.placed(r)
	if was != "" {
		if g, _ := f.suits(r, was); g == fit {
			return Choice{Node: was, Reason: r.Object.Status.Reason}
		}
	}
	if h, e := r.holder(); h != "" && h != was && !f.void(h, e) {
		if g, _ := f.suits(r, h); g == fit {
			return Choice{Node: h, Reason: "it stays: " + cmp.Or(was, "nobody") + " cannot have it"}
		}
	}
	best, fits := f.best(r, load, meant)
	against := ""
	if was != "" {
		_, against = f.suits(r, was)
	}
	switch {
	case best != "":
		return Choice{best, f.reason(r, was, against, fits)}
	case was != "":
		if g, _ := f.suits(r, was); g == stay {
			return Choice{Node: was, Reason: r.Object.Status.Reason}
		}
	}
	return Choice{Reason: f.nowhere(r)}
}

// placed is the node that an address is wanted on, or is held by in an epoch that is not over.
func (f *Facts) placed(r *Record) string {
	if w := r.Object.Spec.Wanted; w != "" {
		return w
	}
	if h, e := r.holder(); h != "" && !f.void(h, e) {
		return h
	}
	return ""
}

// best is, of the fit nodes of the highest priority, the one that is meant, or the one with the least load for its weight, and how many
// of them there are. The same load is decided by the address, so that a set of addresses that one node leaves does not go to one other.
func (f *Facts) best(r *Record, load map[string]int, meant string) (best string, fits int) {
	var low float64
	var draw uint64
	prio := 0
	for _, n := range f.alive() {
		if g, _ := f.suits(r, n); g != fit {
			continue
		}
		info := f.Nodes[n]
		if fits > 0 && info.Priority < prio {
			continue
		}
		if fits > 0 && info.Priority > prio {
			best, fits = "", 0
		}
		prio = info.Priority
		fits++
		l, d := float64(load[n]+1)/float64(info.Weight), lot(r, n)
		if best == "" || n == meant || best != meant && (l < low || l == low && d < draw) {
			best, low, draw = n, l, d
		}
	}
	return best, fits
}

func lot(r *Record, node string) uint64 {
	h := fnv.New64a()
	a := r.Addr.As16()
	h.Write(a[:])
	h.Write([]byte(node))
	return h.Sum64()
}

// reason says in words why an address comes to the best node.
func (f *Facts) reason(r *Record, was, against string, fits int) string {
	words := fmt.Sprintf("it had the fewest addresses for its weight of %d nodes that suit", fits)
	if fits == 1 {
		words = "it is the only node that suits"
	}
	switch h, e := r.holder(); {
	case h != "" && f.void(h, e) && h != was:
		return fmt.Sprintf("%s; it was on %s, whose epoch %d is over", words, h, e)
	case h != "" && f.void(h, e):
		return fmt.Sprintf("%s; %s's epoch %d is over", words, h, e)
	case was != "" && against != "":
		return fmt.Sprintf("%s; %s %s", words, was, against)
	}
	return words
}

// maxReason keeps an object small in a cluster of many nodes.
const maxReason = 512

// nowhere says in words why no node has an address.
func (f *Facts) nowhere(r *Record) string {
	var why []string
	for _, n := range slices.Sorted(maps.Keys(f.Roll)) {
		if f.gone(n) {
			continue
		}
		if g, w := f.suits(r, n); g != fit {
			why = append(why, n+" "+w)
		}
	}
	if len(why) == 0 {
		return "no node runs Pintle"
	}
	text := "no node suits: " + strings.Join(why, "; ")
	if len(text) > maxReason {
		text = text[:maxReason-4] + " ..."
	}
	return text
}

// A move is an address that is to go to another node for the sake of an even spread.
type move struct {
	record *Record
	to     string
	reason string
}

// Bounds of what is moved for an even spread.
const (
	unevenBy  = 1.1 // of two nodes one may have so many times as much as the other, for its weight
	fewMoves  = 5   // at a time
	moveTries = 200 // addresses that are looked at for one move
)

// balance says which addresses to move, if nodes that suit them have too uneven a share. It moves a few at a time, from the
// fullest node to the emptiest of the same priority.
func (f *Facts) balance(load map[string]int) (out []move) {
	load = maps.Clone(load)
	by := map[string][]*Record{}
	for _, r := range f.Records {
		if h, e := r.holder(); h != "" && h == r.Object.Spec.Wanted && !f.void(h, e) && !r.Writing {
			by[h] = append(by[h], r)
		}
	}
	for len(out) < fewMoves {
		m, ok := f.relieve(by, load)
		if !ok {
			break
		}
		from := m.record.Object.Spec.Wanted
		load[from]--
		load[m.to]++
		by[from] = slices.DeleteFunc(by[from], func(r *Record) bool { return r == m.record })
		out = append(out, m)
	}
	return out
}

// relieve is the next move.
func (f *Facts) relieve(by map[string][]*Record, load map[string]int) (move, bool) {
	share := func(n string, more int) float64 { return float64(load[n]+more) / float64(f.Nodes[n].Weight) }
	var nodes []string
	for _, n := range f.alive() {
		if i := f.Nodes[n]; i != nil && i.Weight > 0 && !i.Excluded {
			nodes = append(nodes, n)
		}
	}
	slices.SortFunc(nodes, func(a, b string) int {
		if x, y := share(a, 0), share(b, 0); x != y {
			if x > y {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	for _, from := range nodes {
		for i := len(nodes) - 1; i >= 0 && share(from, -1) >= share(nodes[i], 1) && share(from, 0) > unevenBy*share(nodes[i], 0); i-- {
			to := nodes[i]
			if f.Nodes[to].Priority != f.Nodes[from].Priority {
				continue
			}
			tries := by[from]
			slices.SortFunc(tries, func(a, b *Record) int { return a.Addr.Compare(b.Addr) })
			for _, r := range tries[:min(len(tries), moveTries)] {
				if g, _ := f.suits(r, to); g == fit {
					return move{r, to, fmt.Sprintf("moved from %s for an even spread", from)}, true
				}
			}
		}
	}
	return move{}, false
}
