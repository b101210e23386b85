package vip

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Tag is the address protocol (IFA_PROTO, shown by "ip addr" as "proto 0x70") of every address that Pintle binds. The
// kernel uses 1 to 3, daemons their route protocol's number; 0x70 is ASCII p. Kernels before 5.18 do not keep it.
const Tag = 0x70

const (
	ifaProto = 11 // IFA_PROTO of linux/if_addr.h, not in x/sys
	loIndex  = 1  // LOOPBACK_IFINDEX: the same in every network namespace
)

// address is an address as the kernel has it.
type address struct {
	netip.Prefix
	link  int // index
	proto uint8
	flags uint32
	valid uint32 // seconds, all ones is for ever
}

// tagged reports whether the address carries our mark.
func (a address) tagged() bool { return a.link == loIndex && a.IsSingleIP() && a.proto == Tag }

// likeOurs reports whether the address, seen through a kernel that does not keep tags, is bound just as we bind.
// Nobody binds so by hand: on lo, without a prefix route, deprecated and with a lifetime.
func (a address) likeOurs() bool {
	const flags = unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_DEPRECATED
	return a.link == loIndex && a.IsSingleIP() && a.proto == 0 && a.flags&flags == flags && a.valid != ^uint32(0)
}

// A Stray is an address that another program, or a person, gave to a link of this host.
type Stray struct {
	netip.Prefix
	Link string
}

// Strays returns where the calling thread's network namespace has one of addrs without our tag. What a Pintle left behind on
// lo is none. It waits while others hold RTNL, which may be seconds.
func Strays(addrs []netip.Addr) ([]Stray, error) {
	r, err := dialRoute()
	if err != nil {
		return nil, err
	}
	defer r.close()
	links, err := r.links()
	if err != nil {
		return nil, err
	}
	all, err := r.addresses()
	if err != nil {
		return nil, err
	}
	wanted := setOf(addrs)
	var out []Stray
	for _, l := range links {
		for _, a := range all {
			if a.link == l.Index && wanted[a.Addr()] && !a.tagged() && !a.likeOurs() {
				out = append(out, Stray{a.Prefix, l.Name})
			}
		}
	}
	return out, nil
}

// addresses returns every address of every link.
func (r *route) addresses() ([]address, error) {
	msgs, err := r.dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, nl.NewIfAddrmsg(unix.AF_UNSPEC))
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var all []address
	for _, m := range msgs {
		if a, ok := parseAddress(m); ok {
			all = append(all, a)
		}
	}
	return all, nil
}

func parseAddress(m []byte) (address, bool) {
	if len(m) < unix.SizeofIfAddrmsg {
		return address{}, false
	}
	msg := nl.DeserializeIfAddrmsg(m)
	attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfAddrmsg:])
	if err != nil {
		return address{}, false
	}
	a := address{link: int(msg.Index), flags: uint32(msg.Flags), valid: ^uint32(0)}
	var local, other netip.Addr
	for _, at := range attrs {
		switch {
		case at.Attr.Type == unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(at.Value)
		case at.Attr.Type == unix.IFA_ADDRESS:
			other, _ = netip.AddrFromSlice(at.Value)
		case at.Attr.Type == ifaProto && len(at.Value) >= 1:
			a.proto = at.Value[0]
		case at.Attr.Type == unix.IFA_FLAGS && len(at.Value) >= 4:
			a.flags = binary.NativeEndian.Uint32(at.Value)
		case at.Attr.Type == unix.IFA_CACHEINFO && len(at.Value) >= unix.SizeofIfaCacheinfo:
			a.valid = nl.DeserializeIfaCacheInfo(at.Value).Valid
		}
	}
	if !local.IsValid() { // IPv6 without a peer has IFA_ADDRESS only
		local = other
	}
	a.Prefix = netip.PrefixFrom(local, int(msg.Prefixlen))
	return a, a.IsValid()
}

// bind puts p on lo. That it is there already is an error.
//
// Scope link keeps an IPv4 address from ever being chosen as a source: inet_select_addr takes no address of scope link
// from another device than the outgoing one. IPv6 has no such scope; preferred lifetime 0 puts the address behind every
// other of the same scope (RFC 6724 rule 3). NODAD: who may have the address is decided elsewhere, and lo does no DAD.
func (r *route) bind(p netip.Prefix, lifetime time.Duration) error {
	if err := r.put(p, lifetime, unix.NLM_F_CREATE|unix.NLM_F_EXCL); err != nil {
		return fmt.Errorf("bind %s on lo: %w", p, err)
	}
	return nil
}

// renew starts the lifetime of p again. The kernel binds p when it is not there, so look before.
func (r *route) renew(p netip.Prefix, lifetime time.Duration) error {
	if err := r.put(p, lifetime, unix.NLM_F_REPLACE); err != nil {
		return fmt.Errorf("renew %s on lo: %w", p, err)
	}
	return nil
}

func (r *route) put(p netip.Prefix, lifetime time.Duration, how int) error {
	flags := uint32(unix.IFA_F_NOPREFIXROUTE)
	if p.Addr().Is6() {
		flags |= unix.IFA_F_NODAD
	}
	seconds := uint32((lifetime + time.Second - 1) / time.Second)
	life := nl.IfaCacheInfo{IfaCacheinfo: unix.IfaCacheinfo{Valid: seconds, Prefered: 0}}
	parts := append(addressParts(p),
		nl.NewRtAttr(ifaProto, []byte{Tag}),
		nl.NewRtAttr(unix.IFA_FLAGS, binary.NativeEndian.AppendUint32(nil, flags)),
		nl.NewRtAttr(unix.IFA_CACHEINFO, life.Serialize()))
	err := r.do(unix.RTM_NEWADDR, how, parts...)
	if errors.Is(err, unix.EACCES) && p.Addr().Is6() {
		return fmt.Errorf("%w (is net.ipv6.conf.lo.disable_ipv6 set?)", err)
	}
	return err
}

// unbind takes p off lo. That it is not there is no error.
func (r *route) unbind(p netip.Prefix) error {
	err := r.do(unix.RTM_DELADDR, 0, addressParts(p)...)
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("unbind %s from lo: %w", p, err)
	}
	return nil
}

func addressParts(p netip.Prefix) []nl.NetlinkRequestData {
	family, scope := unix.AF_INET6, unix.RT_SCOPE_UNIVERSE
	if p.Addr().Is4() {
		family, scope = unix.AF_INET, unix.RT_SCOPE_LINK
	}
	msg := nl.NewIfAddrmsg(family)
	msg.Index, msg.Prefixlen, msg.Scope = loIndex, uint8(p.Bits()), uint8(scope)
	ip := p.Addr().AsSlice()
	return []nl.NetlinkRequestData{msg, nl.NewRtAttr(unix.IFA_LOCAL, ip), nl.NewRtAttr(unix.IFA_ADDRESS, ip)}
}

// normalise checks the wanted addresses and returns them sorted, each once.
func normalise(want []netip.Prefix) ([]netip.Prefix, error) {
	for _, p := range want {
		a := p.Addr()
		switch {
		case !p.IsValid():
			return nil, errors.New("bind address: it is no address")
		case !p.IsSingleIP():
			return nil, fmt.Errorf("bind %s: want a single address (%s)", p, netip.PrefixFrom(a, a.BitLen()))
		case a.Is4In6() || a.Zone() != "" || !a.IsGlobalUnicast():
			return nil, fmt.Errorf("bind %s: not a plain unicast address", p)
		}
	}
	want = slices.Clone(want)
	slices.SortFunc(want, comparePrefix)
	return slices.Compact(want), nil
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// only4 returns the IPv4 ones among ps: the kernel answers ARP for no others.
func only4(ps []netip.Prefix) []netip.Addr {
	var out []netip.Addr
	for _, p := range ps {
		if p.Addr().Is4() {
			out = append(out, p.Addr())
		}
	}
	return out
}
