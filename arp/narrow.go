package arp

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/net/bpf"
)

// Where an ARP packet for Ethernet and IPv4 (RFC 826) has the addresses, in its frame.
const (
	senderIP = etherHeader + 14
	targetIP = etherHeader + 24
)

// A span is the IPv4 addresses from one to another, with these.
type span struct{ first, last uint32 }

// mostSpans keeps a filter below what the kernel allows a socket (net.core.optmem_max, 20 KiB on older ones).
const mostSpans = 128

// spans are the fewest that have just the IPv4 addresses among addrs in them; if these are too many, the smallest gaps between them are
// filled.
func spans(addrs []netip.Addr) (out []span) {
	var all []uint32
	for _, a := range addrs {
		if a.Is4() {
			all = append(all, binary.BigEndian.Uint32(a.AsSlice()))
		}
	}
	slices.Sort(all)
	var gaps []uint32
	for i := 1; i < len(all); i++ {
		if d := all[i] - all[i-1]; d > 1 {
			gaps = append(gaps, d)
		}
	}
	least := uint32(2) // a gap that stays
	if len(gaps) >= mostSpans {
		slices.Sort(gaps)
		least = gaps[len(gaps)-mostSpans] + 1
	}
	for i, a := range all {
		if i == 0 || a-all[i-1] >= least {
			out = append(out, span{a, a})
		}
		out[len(out)-1].last = a
	}
	return out
}

// about is a filter that lets ARP frames pass whose target's or sender's address is in one of the spans, and none without spans.
func about(in []span) []bpf.Instruction {
	if len(in) == 0 {
		return []bpf.Instruction{bpf.RetConstant{Val: 0}}
	}
	tree := search(in)
	for i, ins := range tree {
		if j, ok := ins.(bpf.Jump); ok && j.Skip == elsewhere {
			tree[i] = bpf.Jump{Skip: uint32(len(tree) - i - 1)}
		}
	}
	out := append([]bpf.Instruction{bpf.LoadAbsolute{Off: targetIP, Size: 4}}, tree...)
	out = append(append(out, bpf.LoadAbsolute{Off: senderIP, Size: 4}), tree...)
	return append(out, bpf.RetConstant{Val: 0})
}

// elsewhere marks the jumps of search that leave it without success.
const elsewhere = ^uint32(0)

// search lets a frame pass if the number that was loaded is in one of the spans: a binary search. A filter has no loops.
func search(in []span) []bpf.Instruction {
	pass := bpf.RetConstant{Val: maxFrame}
	if s := in[0]; len(in) == 1 && s.first == s.last {
		return []bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: s.first, SkipTrue: 1}, pass, bpf.Jump{Skip: elsewhere}}
	} else if len(in) == 1 {
		return []bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpLessThan, Val: s.first, SkipTrue: 2},
			bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: s.last, SkipTrue: 1}, pass, bpf.Jump{Skip: elsewhere}}
	}
	below, above := search(in[:len(in)/2]), search(in[len(in)/2:])
	var out []bpf.Instruction
	if n := len(below); n < 256 { // a conditional jump is no longer
		out = append(out, bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: in[len(in)/2].first, SkipTrue: uint8(n)})
	} else {
		out = append(out, bpf.JumpIf{Cond: bpf.JumpLessThan, Val: in[len(in)/2].first, SkipTrue: 1}, bpf.Jump{Skip: uint32(n)})
	}
	return append(append(out, below...), above...)
}
