package netlab

import (
	"encoding/binary"
	"fmt"
	"maps"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A pair is the direction from one switch port to another, by interface index.
type pair struct{ in, out int }

// bridgeFilter is NF_BR_PRI_FILTER_BRIDGED, before br_netfilter's own hook at 0: where that is loaded, which is for the
// whole machine, it takes frames away from chains of its priority, and they pass.
const bridgeFilter = -200

// A filter drops frames inside the switch. It is one nftables table of the bridge family, complete from the start: the
// forward chain drops what is in the set of blocked pairs, so blocking is one set element; loss is rewritten as a whole.
type filter struct {
	conn    *nftables.Conn
	forward *nftables.Chain
	loss    *nftables.Chain
	pairs   *nftables.Set
	blocked map[pair]bool
}

func newFilter(conn *nftables.Conn) (*filter, error) {
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyBridge, Name: "netlab"})
	f := &filter{conn: conn, blocked: map[pair]bool{}}
	f.loss = conn.AddChain(&nftables.Chain{Name: "loss", Table: table})
	f.forward = conn.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityRef(bridgeFilter),
	})
	f.pairs = &nftables.Set{
		Table: table, Name: "blocked", Concatenation: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeIFIndex, nftables.TypeIFIndex),
	}
	if err := conn.AddSet(f.pairs, nil); err != nil {
		return nil, fmt.Errorf("add nftables set: %w", err)
	}
	// Concatenated keys fill consecutive 4-byte registers: NFT_REG32_00 and 01.
	f.rule(f.forward,
		&expr.Meta{Key: expr.MetaKeyIIF, Register: unix.NFT_REG32_00},
		&expr.Meta{Key: expr.MetaKeyOIF, Register: unix.NFT_REG32_01},
		&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: f.pairs.Name, SetID: f.pairs.ID},
		&expr.Verdict{Kind: expr.VerdictDrop})
	f.rule(f.forward, &expr.Verdict{Kind: expr.VerdictJump, Chain: f.loss.Name})
	if err := conn.Flush(); err != nil {
		return nil, fmt.Errorf("add nftables bridge rules: %w", err)
	}
	return f, nil
}

func (f *filter) rule(c *nftables.Chain, exprs ...expr.Any) {
	f.conn.AddRule(&nftables.Rule{Table: c.Table, Chain: c, Exprs: exprs})
}

// block makes want the set of blocked pairs, in one transaction. After an error the switch is as it was before.
func (f *filter) block(want map[pair]bool) error {
	add, del := difference(want, f.blocked), difference(f.blocked, want)
	if len(add)+len(del) == 0 {
		return nil
	}
	if err := f.conn.SetAddElements(f.pairs, add); err != nil {
		return fmt.Errorf("block ports: %w", err)
	}
	if err := f.conn.SetDeleteElements(f.pairs, del); err != nil {
		return fmt.Errorf("unblock ports: %w", err)
	}
	if err := f.conn.Flush(); err != nil {
		return fmt.Errorf("change blocked ports: %w", err)
	}
	f.blocked = maps.Clone(want)
	return nil
}

// difference returns what is in a and not in b, as set elements.
func difference(a, b map[pair]bool) []nftables.SetElement {
	var es []nftables.SetElement
	for p := range a {
		if !b[p] {
			es = append(es, nftables.SetElement{Key: p.key()})
		}
	}
	return es
}

func (p pair) key() []byte {
	k := binary.NativeEndian.AppendUint32(nil, uint32(p.in))
	return binary.NativeEndian.AppendUint32(k, uint32(p.out))
}

// lose drops the given percentage of frames from and to each port.
func (f *filter) lose(percent map[int]int) error {
	f.conn.FlushChain(f.loss)
	for port, p := range percent {
		for _, dir := range []expr.MetaKey{expr.MetaKeyIIF, expr.MetaKeyOIF} {
			f.rule(f.loss,
				&expr.Meta{Key: dir, Register: unix.NFT_REG_1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: binaryutil.NativeEndian.PutUint32(uint32(port))},
				&expr.Numgen{Register: unix.NFT_REG_1, Modulus: 100, Type: unix.NFT_NG_RANDOM},
				// nft compares values as big endian bytes; numgen writes the host's order.
				&expr.Byteorder{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Op: expr.ByteorderHton, Len: 4, Size: 4},
				&expr.Cmp{Op: expr.CmpOpLt, Register: unix.NFT_REG_1, Data: binary.BigEndian.AppendUint32(nil, uint32(p))},
				&expr.Verdict{Kind: expr.VerdictDrop})
		}
	}
	if err := f.conn.Flush(); err != nil {
		return fmt.Errorf("set loss: %w", err)
	}
	return nil
}

func (f *filter) close() { _ = f.conn.CloseLasting() }
