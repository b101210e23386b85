package vip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A Screen rejects packets to the addresses of Services that nobody on this host translates. It is an nftables table of family
// inet:
//
//	table inet pintle_INSTANCE {
//		set addrs4 { type ipv4_addr }          # what is guarded
//		set bound4 { type ipv4_addr }          # what of it is on lo
//		set ports4 { type ipv4_addr . inet_proto . inet_service }
//		...                                    # the same for IPv6
//		chain refuse { meta l4proto tcp reject with tcp reset; reject with icmpx port-unreachable }
//		chain wanted { iif lo accept; meta l4proto { icmp, ipv6-icmp } accept; (a later fragment) accept;
//			ip daddr . meta l4proto . th dport @ports4 accept; ... }
//		chain plain { jump wanted; notrack }
//		chain guard { jump wanted; goto refuse }
//		chain forward { type filter hook forward priority filter; ip daddr @addrs4 goto refuse; ... }
//		chain prerouting { type filter hook prerouting priority raw; ip daddr @bound4 goto plain; ... }
//		chain input { type filter hook input priority filter; ip daddr @bound4 goto guard; ... }
//	}
//
// kube-proxy and the CNIs translate a packet to a Service before it is forwarded, to the address of a pod. One that is still for
// the Service's address then has nobody to take it: the Service has no endpoint, or not that port, or the proxy is behind. Sent
// on, it would go back to the router or the link from which it came, and come again. So it is rejected: TCP with a reset, all else
// with an ICMP error, of which the kernel sends to one host but one each second after the first six (net.ipv4.icmp_ratelimit,
// net.ipv6.icmp.ratelimit); a redirect, which a client of the same link may get before, counts too. ICMP errors and pieces of IPv6
// packets are dropped: the kernel answers none.
//
// A bound address is one of the host's own, so its every port would be reachable there: sshd, the kubelet, and NodePorts too,
// which kube-proxy serves at every address of the host. What is for no port of a Service is therefore kept from translation
// (notrack) and rejected when it comes in. ICMP gets in. So does what comes from the host itself, over lo: it reaches all its ports
// anyway. Answers to what a program of the host sends from the address on its own do not get in, unless it uses a Service's port:
// to let them in would take connection tracking, for all traffic of a host that may do without it.
//
// What a SIGKILL leaves stays until the next start. All methods may be called concurrently.
type Screen struct {
	binder *Binder

	turn   turn // one at a time; guards all but err, and is held across I/O
	rules  *ruleset
	on     bool // there is something to guard
	closed bool

	mu  sync.Mutex // guards err
	err error
}

// A Guarded is an address that this host answers for.
type Guarded struct {
	Addr  netip.Addr
	Bound bool   // on lo: only Ports and ICMP get in
	Ports []Port // of its Services; only counts if Bound
}

// A Port is a port of a Service.
type Port struct {
	Protocol string // TCP, UDP or SCTP
	Number   uint16
}

// The sets, each for IPv4 and then for IPv6, in the order in which they are filled: no address is bound before its ports are known.
const (
	screenPorts = 2 * iota
	screenBound
	screenAddrs
)

// OpenScreen makes a Screen for the network namespace of the calling thread, and removes what dead instances left. A Binder has
// but one Screen at a time.
func (b *Binder) OpenScreen() (*Screen, error) {
	r, err := dialRuleset(b.cfg.Instance, nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("open screen: %w", err)
	}
	r.ledger = b.ledger
	err = b.reg.locked(func() error {
		living, _, err := b.reg.others()
		if err != nil {
			return err
		}
		if err := r.sweep(living, nftables.TableFamilyINet); err != nil {
			b.log.Warn("nftables leftovers stay", "err", err) // where there is no nftables there are none
		}
		return nil
	})
	if err != nil {
		r.close()
		return nil, fmt.Errorf("open screen: %w", err)
	}
	for _, f := range families {
		r.addSet("ports"+f.name, f.addr, nftables.TypeInetProto, nftables.TypeInetService)
	}
	for _, set := range []string{"bound", "addrs"} {
		for _, f := range families {
			r.addSet(set+f.name, f.addr)
		}
	}
	addChains(r)
	return &Screen{binder: b, turn: newTurn(), rules: r}, nil
}

// Set makes want, the whole of it, what is guarded. Nothing is changed when want names what is no address or no port. When an
// address is in it more than once, it is bound if one says so, and has the ports of all. With an error the table may have
// something else or nothing: bind no address then. Run goes on trying.
func (s *Screen) Set(ctx context.Context, want []Guarded) error {
	es, err := screenElements(want)
	if err != nil {
		return err
	}
	if err := s.turn.take(ctx); err != nil {
		return fmt.Errorf("set screen: %w", err)
	}
	defer s.turn.give()
	if s.closed {
		return errors.New("set screen: it is closed")
	}
	if len(es) == 0 {
		return s.clear()
	}
	s.on = true
	s.rules.want(es)
	_, err = s.keep()
	return err
}

// clear removes the table: who guards nothing has no say in the host's packets.
func (s *Screen) clear() error {
	if !s.on {
		return nil
	}
	s.rules.want(elements{})
	if err := s.rules.remove(); err != nil {
		s.fail(err)
		return fmt.Errorf("set screen: %w", err)
	}
	s.on = false
	s.fail(nil)
	return nil
}

// keep makes the table what it is to be, and reports whether that is another state than before.
func (s *Screen) keep() (changed bool, err error) {
	razed, err := s.rules.keep()
	if razed {
		s.binder.log.Warn("nftables screen was changed by another program, set again", "table", s.rules.table.Name)
	}
	if err != nil {
		err = fmt.Errorf("set screen: %w", err)
	}
	return s.fail(err), err
}

// fail keeps the error, and logs when it is another one.
func (s *Screen) fail(err error) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.err
	s.err = err
	switch {
	case err == nil && was != nil:
		s.binder.log.Info("nftables screen stands again")
	case err != nil && (was == nil || was.Error() != err.Error()):
		s.binder.log.Warn("nftables screen is not up, trying again", "err", err)
	}
	return (err == nil) != (was == nil)
}

// Err tells why the table does not guard what it should, as of a second ago while Run runs; nil: it does. It never blocks.
func (s *Screen) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Run looks each second whether the table is as it was set, and sets it again when another program changed it, until ctx ends;
// then it returns nil and leaves the table, for Close. It calls Config.OnChange of the Binder when Err comes or goes.
func (s *Screen) Run(ctx context.Context) error {
	tick := time.NewTicker(s.binder.readBack)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if s.look(ctx) {
			s.binder.cfg.OnChange()
		}
	}
}

func (s *Screen) look(ctx context.Context) (changed bool) {
	if s.turn.take(ctx) != nil {
		return false
	}
	defer s.turn.give()
	if !s.on || s.closed {
		return false
	}
	changed, _ = s.keep() // logged there, and Err tells
	return changed
}

// Close removes the table. End Run before, and take bound addresses off lo. Called again it does nothing.
func (s *Screen) Close() error {
	_ = s.turn.take(context.Background())
	defer s.turn.give()
	if s.closed {
		return nil
	}
	s.closed = true
	err := s.clear()
	s.rules.close()
	return err
}

// screenElements returns what the sets have to have.
func screenElements(want []Guarded) (elements, error) {
	es := make(elements, len(want))
	for _, g := range want {
		a := g.Addr
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" || !a.IsGlobalUnicast() {
			return nil, fmt.Errorf("guard %s: not a plain unicast address", a)
		}
		var family uint8
		if a.Is6() {
			family = 1
		}
		es[element{set: screenAddrs + family, addr: a}] = true
		if !g.Bound {
			continue
		}
		es[element{set: screenBound + family, addr: a}] = true
		for _, p := range g.Ports {
			number, ok := protocols[p.Protocol]
			if !ok || p.Number == 0 {
				return nil, fmt.Errorf("guard %s: port %s %d: want TCP, UDP or SCTP and 1 to 65535", a, p.Protocol, p.Number)
			}
			es[element{set: screenPorts + family, addr: a, proto: number, port: p.Number}] = true
		}
	}
	return es, nil
}

var protocols = map[string]uint8{"TCP": unix.IPPROTO_TCP, "UDP": unix.IPPROTO_UDP, "SCTP": unix.IPPROTO_SCTP}

// families are what differs between the rules for IPv4 and IPv6.
var families = []struct {
	name        string
	proto       byte
	addr        nftables.SetDatatype
	destination uint32 // offset of the destination in the header
}{
	{"4", unix.NFPROTO_IPV4, nftables.TypeIPAddr, 16},
	{"6", unix.NFPROTO_IPV6, nftables.TypeIP6Addr, 24},
}

// reg is the first of the registers of 4 bytes that rules use. The parts of a key are in those that follow each other.
const reg = 8 // NFT_REG32_00

// addChains adds the chains that the comment of Screen shows.
func addChains(r *ruleset) {
	tcp := []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, equal(unix.IPPROTO_TCP)}
	r.addChain(nftables.Chain{Name: "refuse"},
		slices.Concat(tcp, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}),
		[]expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}})

	accept := &expr.Verdict{Kind: expr.VerdictAccept}
	wanted := [][]expr.Any{
		{&expr.Meta{Key: expr.MetaKeyIIF, Register: reg}, equal(binaryutil.NativeEndian.PutUint32(loIndex)...), accept},
		{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, equal(unix.IPPROTO_ICMP), accept},
		{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, equal(unix.IPPROTO_ICMPV6), accept},
	}
	wanted = append(wanted, append(laterFragment(), accept))
	for i := range families {
		wanted = append(wanted, append(port(r, i), accept))
	}
	r.addChain(nftables.Chain{Name: "wanted"}, wanted...)

	jump := []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: "wanted"}}
	r.addChain(nftables.Chain{Name: "plain"}, jump, []expr.Any{&expr.Notrack{}})
	r.addChain(nftables.Chain{Name: "guard"}, jump, []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: "refuse"}})

	for _, c := range []struct {
		name     string
		hook     *nftables.ChainHook
		priority *nftables.ChainPriority
		set      int
		then     string
	}{
		{"forward", nftables.ChainHookForward, nftables.ChainPriorityFilter, screenAddrs, "refuse"},
		{"prerouting", nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, screenBound, "plain"},
		{"input", nftables.ChainHookInput, nftables.ChainPriorityFilter, screenBound, "guard"},
	} {
		var rules [][]expr.Any
		for i := range families {
			rules = append(rules, append(destination(i), in(r, i, c.set), &expr.Verdict{Kind: expr.VerdictGoto, Chain: c.then}))
		}
		r.addChain(nftables.Chain{Name: c.name, Type: nftables.ChainTypeFilter, Hooknum: c.hook, Priority: c.priority}, rules...)
	}
}

// laterFragment matches fragments of IPv6 after the first. They have no port, and are of no use without the first, which is judged
// by its own. Where nobody tracks connections, the kernel puts packets together only after they have come in. (IPv4: before.)
func laterFragment() []expr.Any {
	return append(isFamily(1),
		&expr.Exthdr{DestRegister: reg, Type: unix.IPPROTO_FRAGMENT, Offset: 2, Len: 2, Op: expr.ExthdrOpIpv6},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 2, Mask: []byte{0xff, 0xf8}, Xor: []byte{0, 0}}, // RFC 8200 4.5
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: []byte{0, 0}})
}

// port matches a packet to a port of a Service.
func port(r *ruleset, family int) []expr.Any {
	next := reg + families[family].addr.Bytes/4
	return append(destination(family),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: next},
		&expr.Payload{DestRegister: next + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		in(r, family, screenPorts))
}

// destination loads the destination of a packet of the family.
func destination(family int) []expr.Any {
	f := families[family]
	return append(isFamily(family),
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: f.destination, Len: f.addr.Bytes})
}

func isFamily(family int) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg}, equal(families[family].proto)}
}

func in(r *ruleset, family, set int) expr.Any {
	s := r.sets[set+family]
	return &expr.Lookup{SourceRegister: reg, SetName: s.Name, SetID: s.ID}
}

func equal(data ...byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: data} }
