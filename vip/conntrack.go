package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Of linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h.
const (
	subsysConntrack = 1 << 8
	conntrackNew    = subsysConntrack | nl.IPCTNL_MSG_CT_NEW
	conntrackGet    = subsysConntrack | nl.IPCTNL_MSG_CT_GET
	conntrackDelete = subsysConntrack | nl.IPCTNL_MSG_CT_DELETE

	ctaFilter          = 25
	ctaFilterOrigFlags = 1
	filterDestination  = 1 << 1 // CTA_FILTER_F_CTA_IP_DST of net/netfilter/nf_internals.h
)

// forgetTimeout bounds one wait for the kernel: an address is not answered for meanwhile.
const forgetTimeout = 3 * time.Second

// FlushConntrack makes the kernel forget the TCP, UDP and SCTP connections whose first packet was for one of addrs, in the network
// namespace of the calling thread, and returns how many there were. Their next packet is then translated as that of a new one.
// That nobody tracks connections here is no error. It needs CAP_NET_ADMIN. The kernel's table is read once for each family, however
// many addresses there are: give it all that you have.
func FlushConntrack(addrs []netip.Addr) (n int, err error) {
	var errs []error
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		some := map[netip.Addr]bool{}
		for _, a := range addrs {
			if a.Is4() == (family == unix.AF_INET) {
				some[a] = true
			}
		}
		if len(some) == 0 {
			continue
		}
		flushed, err := flushConntrack(family, some)
		n += flushed
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return n, fmt.Errorf("flush connection tracking: %w", err)
	}
	return n, nil
}

func flushConntrack(family uint8, addrs map[netip.Addr]bool) (n int, err error) {
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_NETFILTER)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return 0, nil // a kernel without netfilter
	}
	if err != nil {
		return 0, err
	}
	sockets := map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: {Socket: s}}
	defer s.Close()
	timeout := unix.NsecToTimeval(int64(forgetTimeout))
	if err := errors.Join(s.SetSendTimeout(&timeout), s.SetReceiveTimeout(&timeout)); err != nil {
		return 0, err
	}
	ask := func(kind, flags int) *nl.NetlinkRequest {
		req := nl.NewNetlinkRequest(kind, flags)
		req.Sockets = sockets
		req.AddData(&nl.Nfgenmsg{NfgenFamily: family})
		return req
	}

	dump := ask(conntrackGet, unix.NLM_F_DUMP)
	if family == unix.AF_INET && len(addrs) == 1 {
		for a := range addrs {
			only(dump, a)
		}
	}
	var found [][]byte
	err = dump.ExecuteIter(unix.NETLINK_NETFILTER, conntrackNew, func(m []byte) bool {
		if dst, proto := original(m); addrs[dst] && (proto == unix.IPPROTO_TCP || proto == unix.IPPROTO_UDP || proto == unix.IPPROTO_SCTP) {
			found = append(found, slices.Clone(m[nl.SizeofNfgenmsg:]))
		}
		return true
	})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return 0, nil // a kernel without nf_conntrack_netlink
	}
	if err != nil {
		return 0, err
	}
	for _, entry := range found {
		req := ask(conntrackDelete, unix.NLM_F_ACK)
		req.AddRawData(entry) // with its ID, so that no later connection of the same ports is meant
		switch _, err := req.Execute(unix.NETLINK_NETFILTER, 0); {
		case err == nil:
			n++
		case !errors.Is(err, unix.ENOENT): // else it has ended meanwhile
			return n, err
		}
	}
	return n, nil
}

// only asks for the connections whose first packet was for the IPv4 address: a twentieth of the work with 100,000 others. Kernels
// before 5.8 do not know what is asked, and tell all. (Of IPv6 6.18 tells all the others: ctnetlink_filter_match_tuple has it wrong.)
func only(dump *nl.NetlinkRequest, a netip.Addr) {
	tuple := nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_ORIG, nil)
	tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_IP, nil).AddRtAttr(nl.CTA_IP_V4_DST, a.AsSlice())
	dump.AddData(tuple)
	filter := nl.NewRtAttr(unix.NLA_F_NESTED|ctaFilter, nil)
	filter.AddRtAttr(ctaFilterOrigFlags, binary.NativeEndian.AppendUint32(nil, filterDestination))
	dump.AddData(filter)
}

// original returns the destination and the protocol of the first packet of a connection.
func original(m []byte) (dst netip.Addr, proto uint8) {
	if len(m) < nl.SizeofNfgenmsg {
		return dst, 0
	}
	tuple := attribute(m[nl.SizeofNfgenmsg:], nl.CTA_TUPLE_ORIG)
	ip := attribute(tuple, nl.CTA_TUPLE_IP)
	kind := uint16(nl.CTA_IP_V4_DST)
	if m[0] == unix.AF_INET6 {
		kind = nl.CTA_IP_V6_DST
	}
	dst, _ = netip.AddrFromSlice(attribute(ip, kind))
	if p := attribute(attribute(tuple, nl.CTA_TUPLE_PROTO), nl.CTA_PROTO_NUM); len(p) == 1 {
		proto = p[0]
	}
	return dst, proto
}

// attribute returns the value of the first attribute of the kind; nil: there is none.
func attribute(b []byte, kind uint16) []byte {
	for len(b) >= nl.SizeofNfattr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < nl.SizeofNfattr || size > len(b) {
			return nil
		}
		if binary.NativeEndian.Uint16(b[2:])&nl.NLA_TYPE_MASK == kind {
			return b[nl.SizeofNfattr:size]
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}
