package vip

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// TCP states of net/tcp_states.h.
const (
	tcpEstablished = 1
	tcpFinWait1    = 4
	tcpCloseWait   = 8
	tcpLastAck     = 9
	tcpClosing     = 11
)

// inUse are the states in which a connection may still carry data: open, or closed by one side with something left to
// send. FIN_WAIT2 and TIME_WAIT only wait for the other side, up to a minute, and keep no address.
const inUse = 1<<tcpEstablished | 1<<tcpFinWait1 | 1<<tcpCloseWait | 1<<tcpLastAck | 1<<tcpClosing

// Layout of struct inet_diag_req_v2 and struct inet_diag_msg (linux/inet_diag.h).
const (
	diagRequestSize = 56
	diagStates      = 4 // in the request
	diagSource      = 8 // in the answer
	diagAnswerSize  = 72
)

// Established counts the TCP sockets in the calling thread's network namespace that may still carry data and whose local
// address is one of addrs: established, close-wait, and those that closed with data still to send. Connections that
// reached a dual-stack listener over IPv4 count too. Both ends count when both are local. It needs no privilege.
func Established(addrs []netip.Addr) (int, error) {
	if len(addrs) == 0 {
		return 0, nil
	}
	wanted, n := setOf(addrs), 0
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		locals, err := localAddresses(family)
		if err != nil {
			return 0, fmt.Errorf("list tcp sockets: %w", err)
		}
		for _, a := range locals {
			if wanted[a] {
				n++
			}
		}
	}
	return n, nil
}

// localAddresses returns the local address of every TCP socket of a family that is in use.
func localAddresses(family uint8) ([]netip.Addr, error) {
	body := make([]byte, diagRequestSize)
	body[0], body[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(body[diagStates:], inUse)
	req := nl.NewNetlinkRequest(unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.AddRawData(body)
	var out []netip.Addr
	err := req.ExecuteIter(unix.NETLINK_SOCK_DIAG, unix.SOCK_DIAG_BY_FAMILY, func(m []byte) bool {
		if len(m) >= diagAnswerSize {
			size := 16
			if m[0] == unix.AF_INET {
				size = 4
			}
			a, _ := netip.AddrFromSlice(m[diagSource : diagSource+size])
			out = append(out, a.Unmap()) // an IPv4 client of a dual-stack listener is ::ffff:a.b.c.d
		}
		return true
	})
	return out, err
}
