package vip

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
)

// wall is the second wall, an nftables table of family arp:
//
//	table arp pintle_INSTANCE {
//		set addrs { type ipv4_addr; elements = { 192.0.2.9 } }
//		chain input { type filter hook input priority filter; arp daddr ip @addrs drop }
//		chain output { type filter hook output priority filter; arp saddr ip @addrs drop }
//	}
//
// The kernel sees no question for our addresses and sends none in their name. Packet sockets, and so Pintle's own speaker,
// are before and behind it. Only addresses that are bound are in the set: a node that is but a client of the address has
// to hear its claims. One goroutine at a time.
type wall struct {
	nft   *nftables.Conn
	sock  *netlink.Conn // of nft
	table *nftables.Table
}

const (
	tablePrefix = "pintle_"
	setName     = "addrs"
)

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
	w := &wall{table: &nftables.Table{Name: tableName(instance), Family: nftables.TableFamilyARP}}
	keep := func(c *netlink.Conn) error { w.sock = c; return nil }
	nft, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(keep))
	if err != nil {
		return nil, fmt.Errorf("open nftables socket: %w", err)
	}
	w.nft = nft
	return w, nil
}

func (w *wall) close() { _ = w.nft.CloseLasting() } // a socket; nothing to lose

// patience starts the time that an answer may take. The library waits for an answer to each message of a batch; when the
// kernel is out of memory it sends but one.
func (w *wall) patience() { _ = w.sock.SetDeadline(time.Now().Add(answerTimeout)) }

// flush sends the batch. After an error it takes what answers are left off the socket.
func (w *wall) flush() error {
	err := w.nft.Flush()
	for tries := 0; err != nil && tries < 64; tries++ {
		_ = w.sock.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if _, err := w.sock.Receive(); errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed) {
			break
		}
	}
	return err
}

// tableName gives each instance a name of its own.
func tableName(instance string) string {
	var b strings.Builder
	b.WriteString(tablePrefix)
	for _, c := range []byte(instance) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	return b.String()
}

// put replaces the whole table in one transaction.
func (w *wall) put(addrs []netip.Addr) error {
	w.patience()
	w.nft.AddTable(w.table)
	w.nft.DelTable(w.table)
	w.nft.AddTable(w.table)
	set := w.set()
	elements := make([]nftables.SetElement, 0, len(addrs))
	for _, a := range addrs {
		elements = append(elements, nftables.SetElement{Key: a.AsSlice()})
	}
	if err := w.nft.AddSet(set, elements); err != nil {
		return fmt.Errorf("set nftables table %s: %w", w.table.Name, err)
	}
	w.drop(set, "input", arpIn, arpTarget)
	w.drop(set, "output", arpOut, arpSender)
	if err := w.flush(); err != nil {
		return fmt.Errorf("set nftables table %s: %w", w.table.Name, err)
	}
	return nil
}

// set has its ID from us: the library counts in a variable that all connections share without a lock.
func (w *wall) set() *nftables.Set {
	return &nftables.Set{Table: w.table, Name: setName, ID: 1, KeyType: nftables.TypeIPAddr}
}

// drop adds a chain that drops what has one of our addresses at the offset.
func (w *wall) drop(set *nftables.Set, name string, hook nftables.ChainHook, offset uint32) {
	chain := w.nft.AddChain(&nftables.Chain{Table: w.table, Name: name, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookRef(hook), Priority: nftables.ChainPriorityFilter})
	w.nft.AddRule(&nftables.Rule{Table: w.table, Chain: chain, Exprs: []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
}

// stands reports whether the table is seen in the kernel as put made it, with just these addresses, sorted. That it cannot
// be read is no: put tells why.
func (w *wall) stands(addrs []netip.Addr) bool {
	w.patience()
	if _, err := w.nft.GetSetByName(w.table, setName); err != nil {
		return false
	}
	elements, err := w.nft.GetSetElements(w.set())
	if err != nil {
		return false
	}
	got := make([]netip.Addr, 0, len(elements))
	for _, e := range elements {
		if a, ok := netip.AddrFromSlice(e.Key); ok {
			got = append(got, a)
		}
	}
	slices.SortFunc(got, netip.Addr.Compare)
	return slices.Equal(got, addrs) && w.drops("input") && w.drops("output")
}

// drops reports whether a chain has its one rule.
func (w *wall) drops(chain string) bool {
	rules, err := w.nft.GetRules(w.table, &nftables.Chain{Name: chain})
	return err == nil && len(rules) == 1
}

// sweep removes our table and those of instances that do not live.
func (w *wall) sweep(living map[string]record) error {
	w.patience()
	tables, err := w.nft.ListTablesOfFamily(nftables.TableFamilyARP)
	if err != nil {
		return fmt.Errorf("list nftables tables: %w", err)
	}
	keep := map[string]bool{}
	for name := range living {
		keep[tableName(name)] = true
	}
	found := false
	for _, t := range tables {
		if strings.HasPrefix(t.Name, tablePrefix) && !keep[t.Name] {
			w.nft.DelTable(t)
			found = true
		}
	}
	if !found {
		return nil
	}
	if err := w.flush(); err != nil {
		return fmt.Errorf("remove nftables tables: %w", err)
	}
	return nil
}
