package arp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	rfc826 "github.com/mdlayher/arp"
	"golang.org/x/net/bpf"
)

func ip4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

func TestSpans(t *testing.T) {
	far := func(n int) (addrs []netip.Addr) { // each three further than the one before
		for i := range n {
			addrs = append(addrs, ip4(uint32(1000+3*i)))
		}
		return addrs
	}
	for name, tt := range map[string]struct {
		addrs []netip.Addr
		want  []span
	}{
		"none":       {nil, nil},
		"IPv6":       {[]netip.Addr{vip6}, nil},
		"one":        {[]netip.Addr{ip4(5)}, []span{{5, 5}}},
		"neighbours": {[]netip.Addr{ip4(7), ip4(5), vip6, ip4(6), ip4(9)}, []span{{5, 7}, {9, 9}}},
		"the ends":   {[]netip.Addr{ip4(^uint32(0)), ip4(0)}, []span{{0, 0}, {^uint32(0), ^uint32(0)}}},
	} {
		if got := spans(tt.addrs); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
	if n := len(spans(far(mostSpans))); n != mostSpans {
		t.Errorf("%d spans of %d addresses", n, mostSpans)
	}
	wide := append(far(50*mostSpans), ip4(1<<30), ip4(1<<31))
	if got := spans(wide); len(got) != 3 || got[0] != (span{1000, 1000 + 3*(50*mostSpans-1)}) {
		t.Errorf("%d addresses: %v", len(wide), got)
	}
}

// TestFilter has a frame pass the filter if it should, for sets of addresses of all sizes, which are narrow and wide.
func TestFilter(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{0, 1, 2, 3, 5, 20, mostSpans - 1, mostSpans, mostSpans + 1, 1000} {
		for _, width := range []uint32{64, 1 << 10, 1 << 16, 1 << 31} {
			var addrs []netip.Addr
			for range size {
				addrs = append(addrs, ip4(1<<30+rng.Uint32N(width)))
			}
			in := spans(addrs)
			raw, err := bpf.Assemble(about(in))
			if err != nil {
				t.Fatalf("%d addresses: %v", size, err)
			}
			if len(raw) > 1300 || len(in) > mostSpans {
				t.Errorf("%d addresses: %d spans, %d instructions", size, len(in), len(raw))
			}
			vm, err := bpf.NewVM(about(in))
			if err != nil {
				t.Fatal(err)
			}
			ours := func(a netip.Addr) bool {
				n := binary.BigEndian.Uint32(a.AsSlice())
				return slices.ContainsFunc(in, func(s span) bool { return s.first <= n && n <= s.last })
			}
			some := func() netip.Addr { // near them, or one of them
				if size > 0 && rng.IntN(2) == 0 {
					return addrs[rng.IntN(size)]
				}
				return ip4(1<<30 - 5 + rng.Uint32N(width+10))
			}
			for range 500 {
				sender, target := some(), some()
				op := []rfc826.Operation{rfc826.OperationRequest, rfc826.OperationReply}[rng.IntN(2)]
				n, err := vm.Run(arpFrame(broadcast, op, them, sender, nobody, target))
				if err != nil {
					t.Fatal(err)
				}
				if pass := n == maxFrame; pass != (ours(sender) || ours(target)) {
					t.Fatalf("%d addresses: from %s, about %s: pass %v", size, sender, target, pass)
				}
			}
			for _, a := range addrs {
				if !ours(a) {
					t.Fatalf("%s is in none of %v", a, in)
				}
			}
			if n, err := vm.Run(announcements(ip4(1<<30), them)[0][:targetIP+2]); n != 0 || err != nil {
				t.Errorf("a short frame: %d, %v", n, err)
			}
		}
	}
}

// TestFilterThatFails: the kernel has no room for the filter. The link is opened anew, and what is claimed is answered for.
func TestFilterThatFails(t *testing.T) {
	second := vip4.Next()
	ask := func(a netip.Addr) []byte {
		return arpFrame(broadcast, rfc826.OperationRequest, them, peer4, nobody, a)
	}
	inBubble(t, func(b *bubble) {
		one, both := []Target{{"eth0", vip4, openGate()}}, []Target{{"eth0", vip4, openGate()}, {"eth0", second, openGate()}}
		b.set(one...)
		b.h.change(func() { b.h.onlyErr = errors.New("no room") })
		_, _ = b.Set(t.Context(), both)
		b.sleep(time.Minute)
		if n := len(b.h.wires); n != 2 {
			t.Errorf("%d sockets were opened", n)
		}
		if !strings.Contains(b.log.String(), "no room") {
			t.Errorf("log: %s", b.log)
		}
		b.h.change(func() { b.h.onlyErr = nil })
		b.set(one...)
		b.set(both...)
		b.start = time.Now()
		for _, a := range []netip.Addr{vip4, second} {
			before := len(b.h.times(b.start, a))
			b.deliver(1, etherARP, ask(a))
			if after := len(b.h.times(b.start, a)); after != before+1 {
				t.Errorf("%s: %d answers", a, after-before)
			}
		}
	})
}

// TestOnly: the kernel leaves out what is about other addresses.
func TestOnly(t *testing.T) {
	seg := newSegment(t)
	seen, from := seg.station(1).wire("eth0", etherARP), seg.station(2).wire("eth0", etherARP)
	peer, end := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	var many []netip.Addr
	for i := range 1000 {
		many = append(many, ip4(10<<24+1<<16+uint32(i*i)))
	}
	for _, addrs := range [][]netip.Addr{{}, {vip4}, many, {vip4.Next(), vip6}, many[:mostSpans], {vip4}} {
		t.Run(fmt.Sprint(len(addrs), " addresses"), func(t *testing.T) {
			if err := seen.only(append(addrs, end)); err != nil {
				t.Fatal(err)
			}
			ours := func(a netip.Addr) bool { return slices.Contains(addrs, a) }
			var want []string
			for _, a := range []netip.Addr{vip4, vip4.Next(), vip4.Prev(), many[0], many[mostSpans-1], many[999], end} {
				for _, f := range [][]byte{arpFrame(broadcast, rfc826.OperationRequest, them, peer, nobody, a), arpFrame(broadcast, rfc826.OperationReply, them, a, them, peer)} {
					seg.must(from.send(f))
					if m, _ := parse(f); ours(a) || a == end {
						want = append(want, m.claims.String()+" "+m.asks.String())
					}
				}
			}
			var got []string
			for b := make([]byte, maxFrame); ; {
				n, _, err := seen.read(b, 30*time.Second)
				if err != nil {
					t.Fatal(err)
				}
				m, _ := parse(b[:n])
				if got = append(got, m.claims.String()+" "+m.asks.String()); m.claims == end {
					break
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("shown %q, want %q", got, want)
			}
		})
	}
}

// TestLargestFilter: the kernel has room for it even with what older ones allow a socket. Addresses from 128.0.0.0 on, and pairs, make it
// the largest.
func TestLargestFilter(t *testing.T) {
	st := newSegment(t).station(1)
	st.sysctl("net/core/optmem_max", "20480")
	w := st.wire("eth0", etherARP)
	var pairs []netip.Addr
	for i := range mostSpans {
		a := ip4(192<<24 + 168<<16 + uint32(4*i))
		pairs = append(pairs, a, a.Next())
	}
	for range 2 { // the second time in the place of another one
		if err := w.only(pairs); err != nil {
			t.Fatal(err)
		}
	}
}
