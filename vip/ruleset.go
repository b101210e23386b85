package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ruleset is an nftables table of this instance: chains that stay as they are, and sets whose elements change. A change costs a
// transaction with what differs, and no change costs none: each transaction on a host holds up everybody who lists tables there.
// A change that is too large for one transaction adds before it removes, to the first set first and from the last one first.
// Whether others changed the table is asked of the kernel's generation counter first, one small message; chains and elements are
// read only when it has moved. One goroutine at a time.
type ruleset struct {
	nft    *nftables.Conn
	sock   *netlink.Conn // of nft
	table  *nftables.Table
	sets   []nftSet
	chains []chain

	put  bool     // the table is as we made it, as far as we know
	have elements // that it then has
	next elements // that it is to have; nil: what it has
	seen uint32   // the generation in which the table was seen to be so; 0 is none

	ledger *ledger // of all tables of this process in the namespace
}

// nftSet is a set of addresses, or of addresses with a protocol and a port.
type nftSet struct {
	*nftables.Set
	ports bool
}

// chain is a chain with its rules.
type chain struct {
	*nftables.Chain
	rules [][]expr.Any
}

// element is in the set with that index.
type element struct {
	set   uint8
	proto uint8  // in sets with ports, else 0
	port  uint16 // likewise
	addr  netip.Addr
}

type elements map[element]bool

const (
	tablePrefix  = "pintle_"
	nfgenmsgSize = 4 // struct nfgenmsg, before the attributes of each message
)

// How many elements a message and a transaction have at most. An attribute ends at 64 KiB, a batch at the socket's send buffer, and
// the largest elements take 36 bytes.
const (
	perMessage     = 1000
	perTransaction = 4000
	sendBuffer     = 208 << 10
)

// dialRuleset opens a socket in the network namespace of the calling thread.
func dialRuleset(instance string, family nftables.TableFamily) (*ruleset, error) {
	r := &ruleset{table: &nftables.Table{Name: tableName(instance), Family: family}, ledger: &ledger{}}
	keep := func(c *netlink.Conn) error { r.sock = c; return c.SetWriteBuffer(sendBuffer) }
	nft, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(keep))
	if err != nil {
		return nil, fmt.Errorf("open nftables socket: %w", err)
	}
	r.nft = nft
	return r, nil
}

func (r *ruleset) close() { _ = r.nft.CloseLasting() } // a socket; nothing to lose

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

// addSet adds a set and returns its index. It has its ID from us: the library counts in a variable that all connections share
// without a lock.
func (r *ruleset) addSet(name string, types ...nftables.SetDatatype) uint8 {
	i := len(r.sets)
	r.sets = append(r.sets, nftSet{
		Set:   &nftables.Set{Table: r.table, Name: name, ID: uint32(i + 1), KeyType: nftables.MustConcatSetType(types...)},
		ports: len(types) > 1,
	})
	return uint8(i)
}

// addChain adds a chain. Chains to which others jump are added before those.
func (r *ruleset) addChain(c nftables.Chain, rules ...[]expr.Any) {
	c.Table = r.table
	r.chains = append(r.chains, chain{&c, rules})
}

// want makes es, which it keeps, what the table is to have after the next keep.
func (r *ruleset) want(es elements) { r.next = es }

// keep makes the table what it is to be, and reports whether others had changed it since it was looked at last.
func (r *ruleset) keep() (razed bool, err error) {
	razed, err = r.look()
	if err == nil && r.put && (r.next == nil || r.change() == nil) {
		return razed, nil
	}
	return razed, r.build() // what cannot be read or changed is made anew; if it cannot, that tells why
}

// look reports whether others changed the table since it was looked at last. Then, and only then, it is no longer put.
func (r *ruleset) look() (razed bool, err error) {
	if !r.put {
		return false, nil
	}
	now, err := r.generation()
	if r.seen = r.ledger.since(r.seen); err != nil || now == r.seen {
		return false, err
	}
	whole, err := r.whole()
	switch {
	case err != nil:
		return false, fmt.Errorf("read nftables table %s: %w", r.table.Name, err)
	case whole:
		r.seen = now // what others commit while we read, the next look sees
	default:
		r.put = false
	}
	return !whole, nil
}

// whole reads the table.
func (r *ruleset) whole() (bool, error) {
	r.patience()
	for _, c := range r.chains {
		rules, err := r.nft.GetRules(r.table, c.Chain)
		if err != nil || len(rules) != len(c.rules) {
			return false, r.failed(err)
		}
	}
	n := 0
	for i, s := range r.sets {
		found, err := r.nft.GetSetElements(s.Set)
		if err != nil {
			return false, r.failed(err)
		}
		for _, f := range found {
			if !r.have[r.decode(uint8(i), f.Key)] {
				return false, nil
			}
		}
		n += len(found)
	}
	return n == len(r.have), nil
}

// change adds and removes what differs.
func (r *ruleset) change() error {
	var add, del []element
	for e := range r.next {
		if !r.have[e] {
			add = append(add, e)
		}
	}
	for e := range r.have {
		if !r.next[e] {
			del = append(del, e)
		}
	}
	if len(add)+len(del) == 0 {
		r.next = nil
		return nil
	}
	return r.commit(func(b *batch) {
		b.add(add)
		b.remove(del)
	})
}

// commit makes the table what it is to be, by what fill puts into the batch, and notes the transactions if nobody else had any
// meanwhile.
func (r *ruleset) commit(fill func(*batch)) error {
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	before, err := r.generation()
	if err != nil {
		return err
	}
	b := batch{ruleset: r}
	fill(&b)
	b.flush()
	if b.err != nil {
		return fmt.Errorf("set nftables table %s: %w", r.table.Name, b.err)
	}
	fresh := !r.put
	r.put, r.have, r.next = true, r.next, nil
	now, err := r.generation()
	if err != nil || now != before+b.sent {
		return nil // what others did, the next look sees
	}
	r.ledger.add(stretch{before, now})
	if fresh || r.seen == before {
		r.seen = now
	}
	return nil
}

// build replaces the whole table, in one transaction unless it has too many elements for that.
func (r *ruleset) build() error {
	r.put, r.seen = false, 0
	if r.next == nil {
		r.next = r.have
	}
	return r.commit(func(b *batch) {
		r.nft.AddTable(r.table)
		r.nft.DelTable(r.table)
		r.nft.AddTable(r.table)
		for _, s := range r.sets {
			b.err = errors.Join(b.err, r.nft.AddSet(s.Set, nil))
		}
		for _, c := range r.chains {
			r.nft.AddChain(c.Chain)
		}
		for _, c := range r.chains {
			for _, exprs := range c.rules {
				r.nft.AddRule(&nftables.Rule{Table: r.table, Chain: c.Chain, Exprs: exprs})
			}
		}
		b.add(slices.Collect(maps.Keys(r.next)))
	})
}

// remove removes the table. That it is not there is no error.
func (r *ruleset) remove() error {
	r.put, r.seen = false, 0
	r.nft.AddTable(r.table)
	r.nft.DelTable(r.table)
	if err := r.flush(); err != nil {
		return fmt.Errorf("remove nftables table %s: %w", r.table.Name, err)
	}
	return nil
}

// batch is a change in as few transactions as can be.
type batch struct {
	*ruleset
	waiting int    // elements
	sent    uint32 // transactions
	err     error
}

// add fills the sets in their order, and remove empties them in the opposite one.
func (b *batch) add(es []element) {
	for i, keys := range b.keys(es) {
		b.request(b.nft.SetAddElements, i, keys)
	}
}

func (b *batch) remove(es []element) {
	for i, keys := range slices.Backward(b.keys(es)) {
		b.request(b.nft.SetDeleteElements, i, keys)
	}
}

// keys returns the keys of each set.
func (b *batch) keys(es []element) [][]nftables.SetElement {
	keys := make([][]nftables.SetElement, len(b.sets))
	for _, e := range es {
		keys[e.set] = append(keys[e.set], nftables.SetElement{Key: b.encode(e)})
	}
	return keys
}

func (b *batch) request(what func(*nftables.Set, []nftables.SetElement) error, set int, keys []nftables.SetElement) {
	for some := range slices.Chunk(keys, perMessage) {
		if b.waiting+len(some) > perTransaction {
			b.flush()
		}
		b.err = errors.Join(b.err, what(b.sets[set].Set, some))
		b.waiting += len(some)
	}
}

func (b *batch) flush() {
	if b.err == nil {
		b.err = b.ruleset.flush()
		b.sent++
		b.waiting = 0
	}
}

// encode returns the key of an element. Each part of a key fills 4 bytes.
func (r *ruleset) encode(e element) []byte {
	key := e.addr.AsSlice()
	if r.sets[e.set].ports {
		key = append(key, e.proto, 0, 0, 0, byte(e.port>>8), byte(e.port), 0, 0)
	}
	return key
}

// decode returns the zero element for a key that encode never made.
func (r *ruleset) decode(i uint8, key []byte) element {
	e := element{set: i}
	if n := len(key) - 8; r.sets[i].ports && n > 0 {
		e.proto, e.port = key[n], binary.BigEndian.Uint16(key[n+4:])
		key = key[:n]
	}
	e.addr, _ = netip.AddrFromSlice(key)
	return e
}

// patience starts the time that an answer may take. The library waits for an answer to each message of a batch; when the
// kernel is out of memory it sends but one.
func (r *ruleset) patience() { _ = r.sock.SetDeadline(time.Now().Add(answerTimeout)) }

// flush sends the batch.
func (r *ruleset) flush() error {
	r.patience()
	return r.failed(r.nft.Flush())
}

// failed takes what answers an error has left off the socket.
func (r *ruleset) failed(err error) error {
	for tries := 0; err != nil && tries < 64; tries++ {
		_ = r.sock.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if _, err := r.sock.Receive(); errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed) {
			break
		}
	}
	return err
}

// generation counts the transactions in the network namespace, of everybody.
func (r *ruleset) generation() (uint32, error) {
	r.patience()
	answer, err := r.sock.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   make([]byte, nfgenmsgSize),
	})
	if err == nil && (len(answer) != 1 || len(answer[0].Data) < nfgenmsgSize) {
		err = errors.New("no such answer")
	}
	if err != nil {
		return 0, fmt.Errorf("read nftables generation: %w", r.failed(err))
	}
	attrs, err := netlink.UnmarshalAttributes(answer[0].Data[nfgenmsgSize:])
	for _, a := range attrs {
		if a.Type == unix.NFTA_GEN_ID && len(a.Data) == 4 {
			return binary.BigEndian.Uint32(a.Data), nil
		}
	}
	return 0, fmt.Errorf("read nftables generation: %w", errors.Join(err, errors.New("not told")))
}

// sweep removes the tables of those families that belong to instances that do not live. It holds this one for dead.
func (r *ruleset) sweep(living map[string]record, families ...nftables.TableFamily) error {
	r.patience()
	tables, err := r.nft.ListTables()
	if err != nil {
		return fmt.Errorf("list nftables tables: %w", r.failed(err))
	}
	keep := map[string]bool{}
	for name := range living {
		keep[tableName(name)] = true
	}
	found := false
	for _, t := range tables {
		if strings.HasPrefix(t.Name, tablePrefix) && !keep[t.Name] && slices.Contains(families, t.Family) {
			r.nft.DelTable(t)
			found = true
		}
	}
	if !found {
		return nil
	}
	if err := r.flush(); err != nil {
		return fmt.Errorf("remove nftables tables: %w", err)
	}
	return nil
}
