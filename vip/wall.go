package vip

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// wall is the second wall, an nftables table of family arp:
//
//	table arp pintle_INSTANCE {
//		set bound { type ipv4_addr; elements = { 192.0.2.9 } }
//		set quiet { type ipv4_addr; elements = { 192.0.2.9, 192.0.2.200 } }
//		chain input { type filter hook input priority filter; arp daddr ip @bound drop }
//		chain output { type filter hook output priority filter; arp saddr ip @quiet drop }
//	}
//
// The kernel sends neither questions nor answers in the name of a quiet address. It sees no question for one that is bound
// either, nor any claim of it; a node that is but a client of the address has to hear who claims it. Packet sockets, and so
// Pintle's own speaker, are before and behind the wall. One goroutine at a time.
type wall struct {
	*ruleset
	bound, quiet uint8 // sets
}

// Hooks of family arp, linux/netfilter_arp.h. They are not those of family ip, which nftables.ChainHookInput means.
const (
	arpIn  = nftables.ChainHook(0)
	arpOut = nftables.ChainHook(1)
)

// Offsets of the protocol addresses in an ARP packet for IPv4 over Ethernet (RFC 826).
const (
	arpSender = 14
	arpTarget = 24
)

// dialWall opens a socket in the network namespace of the calling thread.
func dialWall(instance string) (*wall, error) {
	r, err := dialRuleset(instance, nftables.TableFamilyARP)
	if err != nil {
		return nil, err
	}
	w := &wall{ruleset: r}
	w.bound = r.addSet("bound", nftables.TypeIPAddr)
	w.quiet = r.addSet("quiet", nftables.TypeIPAddr)
	w.drop("input", arpIn, arpTarget, w.bound)
	w.drop("output", arpOut, arpSender, w.quiet)
	return w, nil
}

// drop adds a chain that drops what has an address of the set at the offset.
func (w *wall) drop(name string, hook nftables.ChainHook, offset uint32, set uint8) {
	w.addChain(nftables.Chain{Name: name, Type: nftables.ChainTypeFilter, Hooknum: &hook, Priority: nftables.ChainPriorityFilter},
		[]expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
			&expr.Lookup{SourceRegister: 1, SetName: w.sets[set].Name, SetID: w.sets[set].ID},
			&expr.Verdict{Kind: expr.VerdictDrop},
		})
}

// hold makes these IPv4 addresses, those that are bound and others, what the wall is for after the next keep.
func (w *wall) hold(bound, others []netip.Addr) {
	want := make(elements, 2*len(bound)+len(others))
	for _, a := range bound {
		want[element{set: w.bound, addr: a}] = true
		want[element{set: w.quiet, addr: a}] = true
	}
	for _, a := range others {
		want[element{set: w.quiet, addr: a}] = true
	}
	w.want(want)
}
