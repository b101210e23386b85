package ipam

import (
	"container/heap"
	"math/big"
	"net/netip"
	"slices"
)

// A shelf finds the lowest free address of one family in a pool. Each address is looked at once, from the lowest up, and once more
// each time it is given back: a search does not depend on how many are in use, nor on the size of the ranges.
type shelf struct {
	spans []Range // sorted, disjoint
	at    int     // of spans: where the search got to
	next  netip.Addr
	back  addrHeap            // addresses below next that may be free
	in    map[netip.Addr]bool // what is in back
}

func newShelf(f Family, ranges []Range) *shelf {
	s := &shelf{spans: merge(f, ranges), in: map[netip.Addr]bool{}}
	if len(s.spans) > 0 {
		s.next = s.spans[0].first
	}
	return s
}

// merge sorts the ranges of one family and makes one of those that overlap.
func merge(f Family, ranges []Range) (spans []Range) {
	ranges = slices.DeleteFunc(slices.Clone(ranges), func(r Range) bool { return r.Family() != f })
	slices.SortFunc(ranges, func(a, b Range) int { return a.first.Compare(b.first) })
	for _, r := range ranges {
		if n := len(spans); n > 0 && !spans[n-1].last.Less(r.first) {
			if spans[n-1].last.Less(r.last) {
				spans[n-1].last = r.last
			}
			continue
		}
		spans = append(spans, Range{first: r.first, last: r.last})
	}
	return spans
}

func (s *shelf) count() *big.Int {
	n := new(big.Int)
	for _, r := range s.spans {
		n.Add(n, r.Count())
	}
	return n
}

func (s *shelf) contains(a netip.Addr) bool {
	i, found := slices.BinarySearchFunc(s.spans, a, func(r Range, a netip.Addr) int { return r.first.Compare(a) })
	return found || i > 0 && s.spans[i-1].Contains(a)
}

// lowest returns the lowest free address.
func (s *shelf) lowest(free func(netip.Addr) bool) (netip.Addr, bool) {
	for len(s.back) > 0 {
		if a := s.back[0]; free(a) {
			return a, true
		}
		delete(s.in, heap.Pop(&s.back).(netip.Addr))
	}
	for s.at < len(s.spans) {
		if free(s.next) {
			return s.next, true
		}
		s.advance()
	}
	return netip.Addr{}, false
}

func (s *shelf) advance() {
	if s.next != s.spans[s.at].last {
		s.next = s.next.Next()
		return
	}
	if s.at++; s.at < len(s.spans) {
		s.next = s.spans[s.at].first
	}
}

// putBack says that an address may be free that was not.
func (s *shelf) putBack(a netip.Addr) {
	if passed := s.at == len(s.spans) || a.Less(s.next); !passed || s.in[a] || !s.contains(a) {
		return
	}
	s.in[a] = true
	heap.Push(&s.back, a)
}

type addrHeap []netip.Addr

func (h addrHeap) Len() int           { return len(h) }
func (h addrHeap) Less(i, j int) bool { return h[i].Less(h[j]) }
func (h addrHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *addrHeap) Push(a any)        { *h = append(*h, a.(netip.Addr)) }
func (h *addrHeap) Pop() any {
	old := *h
	a := old[len(old)-1]
	*h = old[:len(old)-1]
	return a
}
