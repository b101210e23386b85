package bgp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	dialTimeout = 10 * time.Second
	tosCS6      = 0xc0 // network control (RFC 4594 3.1): BGP goes before what fills a link
	maxTTL      = 255
)

// endpoint is how the connection to a router is made.
type endpoint struct {
	remote   netip.AddrPort // may be a zoned link-local address
	local    netip.Addr     // zero: the kernel's choice
	device   string         // bind to this link (unnumbered); "": none
	password []byte         // of TCP-MD5; nil: none
	ttl      uint8          // 1: a single hop; more: multihop; 0: the system's
	gtsm     bool           // send TTL 255 and take nothing else (RFC 5082); ttl does not count then
}

// dial connects to the router. It blocks until there is a connection, an answer that there will be none, the end of ctx, or
// for dialTimeout; the error is in words that a person can act on.
func dial(ctx context.Context, e endpoint) (*net.TCPConn, error) {
	network := "tcp6"
	if e.remote.Addr().Unmap().Is4() {
		network = "tcp4"
	}
	d := net.Dialer{
		Timeout:   dialTimeout,
		KeepAlive: -1, // BGP has its own
		Control:   func(_, _ string, c syscall.RawConn) error { return control(c, e.prepare) },
	}
	if e.local.IsValid() {
		local := e.local.Unmap()
		if local.IsLinkLocalUnicast() && local.Is6() {
			local = local.WithZone(e.zone())
		}
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	remote := netip.AddrPortFrom(e.remote.Addr().Unmap().WithZone(e.zone()), e.remote.Port())
	c, err := d.DialContext(ctx, network, remote.String())
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", e.remote, e.reason(ctx, err))
	}
	return c.(*net.TCPConn), nil
}

// zone is the number of the link that a link-local address is on, "" for other addresses. Names are asked of the kernel each
// time: package net remembers them for a minute.
func (e endpoint) zone() string {
	name := e.remote.Addr().Zone()
	if name == "" && e.remote.Addr().IsLinkLocalUnicast() && e.remote.Addr().Is6() {
		name = e.device
	}
	if link, err := net.InterfaceByName(name); err == nil {
		return strconv.Itoa(link.Index)
	}
	return name
}

// control calls f with the socket.
func control(c syscall.RawConn, f func(fd int) error) error {
	var failed error
	if err := c.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return err
	}
	return failed
}

// prepare sets what must be right before the first packet.
func (e endpoint) prepare(fd int) error {
	if e.device != "" {
		if err := unix.BindToDevice(fd, e.device); err != nil {
			return fmt.Errorf("bind to link %s: %w", e.device, err)
		}
	}
	if len(e.password) > 0 {
		if err := setKey(fd, e.remote.Addr(), e.password); err != nil {
			return err
		}
	}
	return e.setTTL(fd)
}

// setTTL also sets the traffic class. IPv4 on an IPv6 socket has the options of IPv4.
func (e endpoint) setTTL(fd int) error {
	level, class, hops, least := unix.IPPROTO_IPV6, unix.IPV6_TCLASS, unix.IPV6_UNICAST_HOPS, unix.IPV6_MINHOPCOUNT
	if e.remote.Addr().Unmap().Is4() {
		level, class, hops, least = unix.IPPROTO_IP, unix.IP_TOS, unix.IP_TTL, unix.IP_MINTTL
	}
	if err := unix.SetsockoptInt(fd, level, class, tosCS6); err != nil {
		return fmt.Errorf("set traffic class: %w", err)
	}
	ttl := int(e.ttl)
	if e.gtsm {
		ttl = maxTTL
		if err := unix.SetsockoptInt(fd, level, least, maxTTL); err != nil {
			return fmt.Errorf("set least TTL: %w", err)
		}
	}
	if ttl == 0 {
		return nil
	}
	if err := unix.SetsockoptInt(fd, level, hops, ttl); err != nil {
		return fmt.Errorf("set TTL: %w", err)
	}
	return nil
}

// setKey has the kernel sign packets to addr and take only signed ones from it (RFC 2385); an empty key ends that.
func setKey(fd int, addr netip.Addr, key []byte) error {
	if len(key) > maxPassword {
		return fmt.Errorf("set TCP-MD5 key: longer than %d bytes", maxPassword)
	}
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return fmt.Errorf("set TCP-MD5 key: %w", err)
	}
	sig := unix.TCPMD5Sig{Keylen: uint16(len(key))}
	copy(sig.Key[:], key)
	sig.Addr.Family = uint16(domain)
	if domain == unix.AF_INET {
		ip := addr.Unmap().As4()
		copy(sig.Addr.Data[2:], ip[:]) // sockaddr_in: port, address
	} else {
		ip := addr.As16()              // IPv4 on such a socket is a mapped address
		copy(sig.Addr.Data[6:], ip[:]) // sockaddr_in6: port, flow, address
	}
	if err := unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, &sig); err != nil {
		return fmt.Errorf("set TCP-MD5 key: %w", err)
	}
	return nil
}

// firstTTL is the TTL of the SYN that began an accepted connection. The listening socket must have TCP_SAVE_SYN.
func firstTTL(fd int) (int, error) {
	var buf [256]byte // the headers of IP and TCP
	size := uint32(len(buf))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_SAVED_SYN,
		uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
	switch {
	case errno != 0:
		return 0, fmt.Errorf("get saved SYN: %w", errno)
	case size < 20:
		return 0, errors.New("get saved SYN: none")
	case buf[0]>>4 == 4:
		return int(buf[8]), nil
	}
	return int(buf[7]), nil
}

// reason is err in words.
func (e endpoint) reason(ctx context.Context, err error) error {
	hint := ""
	var timeout net.Error
	switch {
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled):
		return ctx.Err()
	case errors.Is(err, unix.ECONNREFUSED):
		hint = fmt.Sprintf("the router does not listen on port %d, or does not know this node as a neighbor", e.remote.Port())
	case errors.Is(err, unix.ECONNRESET):
		hint = "the router does not know this node as a neighbor, or has another password or none"
	case errors.Is(err, unix.ENETUNREACH):
		hint = "there is no route to it" + e.from()
	case errors.Is(err, unix.EHOSTUNREACH):
		hint = "it does not answer on the link, or there is no route to it; TTL " + e.hops()
	case errors.Is(err, unix.EADDRNOTAVAIL):
		hint = "this machine does not have the local address" + e.from()
	case errors.Is(err, unix.ENODEV):
		hint = "there is no such link"
	case errors.As(err, &timeout) && timeout.Timeout():
		return &noAnswer{e.silence()}
	default:
		return err
	}
	return fmt.Errorf("%w: %s", cause(err), hint)
}

// cause is what the kernel said, without the addresses that package net adds.
func cause(err error) error {
	if s := new(os.SyscallError); errors.As(err, &s) {
		return s.Err
	}
	return err
}

func (e endpoint) from() string {
	if !e.local.IsValid() {
		return ""
	}
	return fmt.Sprintf(" (%s)", e.local)
}

func (e endpoint) hops() string {
	switch {
	case e.gtsm:
		return "255 (GTSM)"
	case e.ttl == 0:
		return "of the system"
	}
	return strconv.Itoa(int(e.ttl))
}

// A noAnswer is a timeout.
type noAnswer struct{ text string }

func (n *noAnswer) Error() string   { return n.text }
func (n *noAnswer) Timeout() bool   { return true }
func (n *noAnswer) Is(t error) bool { return t == os.ErrDeadlineExceeded }

func (e endpoint) silence() string {
	s := "no answer: the router is down, or a filter drops the packets"
	if len(e.password) > 0 {
		s += "; a wrong password looks the same"
	} else {
		s += "; a router that wants a password looks the same"
	}
	switch {
	case e.gtsm:
		s += ", and so does one that is not on the link or does not use GTSM"
	case e.ttl == 1:
		s += ", and so does one that is not on the link (multihop)"
	}
	return s
}

// dropQueue makes the close of the connection a reset, which does not wait behind what a router that is stalled does not take.
func dropQueue(router net.Conn) {
	if c, ok := router.(*net.TCPConn); ok {
		_ = c.SetLinger(0)
	}
}

// queued is how many bytes the other side has not taken yet.
func queued(conn net.Conn) (n int) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return 0
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0
	}
	_ = control(raw, func(fd int) (err error) { // fails only on a closed one
		n, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		return err
	})
	return n
}
