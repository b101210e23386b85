package bfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

const (
	firstPort = 49152 // RFC 5881 4: "The source port MUST be in the range 49152 through 65535."
	portCount = 1<<16 - firstPort
	classCS6  = 0xc0 // the traffic class of network control
	batch     = 64   // datagrams that are read from one socket before the next one's turn
)

// Sockets are the UDP side: one socket for each door where packets arrive, and one for each session that sends. They are
// opened in the network namespace of the calling thread, and never block.
type sockets struct {
	rand  *rand.Rand
	doors map[path]*entrance // by the path without its remote address
	ports map[uint16]bool    // source ports in use
	buf   [512]byte          // a packet has at most 255 bytes
	oob   [128]byte
}

// An entrance is a socket where packets of several neighbours may arrive.
type entrance struct {
	fd    int
	users int
}

func newSockets(r *rand.Rand) *sockets {
	return &sockets{rand: r, doors: map[path]*entrance{}, ports: map[uint16]bool{}}
}

func (p path) door() path {
	p.remote = netip.Addr{}
	return p
}

// open makes packets of p arrive and send.
func (s *sockets) open(p path) (wire, error) {
	if err := s.enter(p); err != nil {
		return nil, err
	}
	w, err := s.dial(p)
	if err != nil {
		s.exit(p)
		return nil, err
	}
	return w, nil
}

// enter opens p's door, unless it is open.
func (s *sockets) enter(p path) error {
	door := s.doors[p.door()]
	if door == nil {
		fd, err := listen(p)
		if err != nil {
			return err
		}
		door = &entrance{fd: fd}
		s.doors[p.door()] = door
	}
	door.users++
	return nil
}

// exit closes p's door after its last user.
func (s *sockets) exit(p path) {
	door := s.doors[p.door()]
	if door.users--; door.users == 0 {
		delete(s.doors, p.door())
		_ = unix.Close(door.fd)
	}
}

// listen opens a socket where packets of p arrive, and no others: SO_REUSEADDR, which would share the port with another
// daemon and take packets from it, is not set.
func listen(p path) (int, error) {
	at := netip.AddrPortFrom(p.local, p.port())
	fd, err := socket(p)
	if err != nil {
		return -1, fmt.Errorf("listen on UDP %v: %w", at, err)
	}
	err = set(fd, p, unix.IP_RECVTTL, unix.IPV6_RECVHOPLIMIT, 1)
	if err == nil {
		err = unix.Bind(fd, sockaddr(at))
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("listen on UDP %v%s: %w", at, onLink(p), hint(err))
	}
	return fd, nil
}

// hint adds what a person can do.
func hint(err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("%w: another BFD daemon (bfdd, BIRD) has the port", err)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("%w: this node does not have the address (yet)", err)
	}
	return err
}

func onLink(p path) string {
	if p.link == "" {
		return ""
	}
	return " of link " + p.link
}

// socket makes a socket that has to do with p's link only (RFC 5881 3: what arrives elsewhere is not of this session).
func socket(p path) (int, error) {
	family := unix.AF_INET6
	if p.local.Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil || p.link == "" {
		return fd, err
	}
	if err := unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, p.link); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("use link %s: %w", p.link, err)
	}
	return fd, nil
}

// set sets an option that both versions of IP have.
func set(fd int, p path, v4, v6, value int) error {
	if p.local.Is4() {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, v4, value)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, v6, value)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// dial opens the socket that sends p's packets, with a source port of its own (RFC 5881 4).
func (s *sockets) dial(p path) (wire, error) {
	fd, err := socket(p)
	if err == nil {
		var port uint16
		if port, err = s.aim(fd, p); err == nil {
			s.ports[port] = true
			return &outlet{sockets: s, fd: fd, path: p, port: port}, nil
		}
		_ = unix.Close(fd)
	}
	return nil, fmt.Errorf("send from %v to %v%s: %w", p.local, p.remote, onLink(p), hint(err))
}

// aim sets all that p's packets have in common, and returns their source port.
func (s *sockets) aim(fd int, p path) (uint16, error) {
	err := errors.Join(
		set(fd, p, unix.IP_TTL, unix.IPV6_UNICAST_HOPS, singleHopTTL), // RFC 5881 5
		set(fd, p, unix.IP_TOS, unix.IPV6_TCLASS, classCS6),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, 6), // IP_TOS has set another one
	)
	if err != nil {
		return 0, err
	}
	port, err := s.bind(fd, p.local)
	if err != nil {
		return 0, err
	}
	return port, unix.Connect(fd, sockaddr(netip.AddrPortFrom(p.remote, p.port())))
}

// bind finds a free source port.
func (s *sockets) bind(fd int, local netip.Addr) (port uint16, err error) {
	for range 64 {
		port = uint16(firstPort + s.rand.IntN(portCount))
		if s.ports[port] {
			continue
		}
		if err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(local, port))); !errors.Is(err, unix.EADDRINUSE) {
			return port, err
		}
	}
	return 0, fmt.Errorf("find a source port from %d: %w", firstPort, err)
}

// An outlet is a wire.
type outlet struct {
	sockets *sockets
	fd      int
	path    path
	port    uint16
}

// Send sends b. The kernel tells of an ICMP error instead of sending the packet that follows, so every error gets a second
// attempt; one that passes shows that the error was such an answer.
func (o *outlet) Send(b []byte) error {
	err := o.try(b)
	if err == nil {
		return nil
	}
	again := o.try(b)
	switch {
	case again == nil || errors.Is(again, unix.ECONNREFUSED):
		return fmt.Errorf("%w: %w", errRefused, err)
	case o.path.link != "":
		return o.whyNot(again)
	}
	return again
}

func (o *outlet) try(b []byte) error { return unix.Send(o.fd, b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) }

// whyNot finds out whether the socket's link is gone, which the kernel reports in several ways.
func (o *outlet) whyNot(err error) error {
	if _, gone := unix.GetsockoptString(o.fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE); errors.Is(gone, unix.ENODEV) {
		return fmt.Errorf("use link %s: %w", o.path.link, gone)
	}
	return err
}

// Close closes the session's sockets.
func (o *outlet) Close() {
	_ = unix.Close(o.fd)
	delete(o.sockets.ports, o.port)
	o.sockets.exit(o.path)
}

// isGone says whether err is that the socket's link does not exist any more.
func isGone(err error) bool { return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) }

// fds returns what has to be watched for packets.
func (s *sockets) fds() []unix.PollFd {
	fds := make([]unix.PollFd, 0, len(s.doors)+1)
	for _, door := range s.doors {
		fds = append(fds, unix.PollFd{Fd: int32(door.fd), Events: unix.POLLIN})
	}
	return fds
}

// drain gives what has arrived to arrive.
func (s *sockets) drain(now time.Time, arrive func(time.Time, datagram)) {
	for p, door := range s.doors {
		for range batch {
			if s.doors[p] != door { // an answer found out that its link is gone
				break
			}
			n, oobn, _, from, err := unix.Recvmsg(door.fd, s.buf[:], s.oob[:], unix.MSG_DONTWAIT)
			if err != nil { // there is no more; an error of the socket is gone with this
				break
			}
			d := datagram{path: p, ttl: hopLimit(s.oob[:oobn]), payload: s.buf[:n]}
			d.path.remote = sender(from)
			arrive(now, d)
		}
	}
}

func sender(a unix.Sockaddr) netip.Addr {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(a.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(a.Addr)
	}
	return netip.Addr{}
}

// hopLimit finds the TTL that a packet came with; 0 if the kernel did not say.
func hopLimit(oob []byte) uint8 {
	for len(oob) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return 0
		}
		v4 := h.Level == unix.IPPROTO_IP && h.Type == unix.IP_TTL
		v6 := h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_HOPLIMIT
		if (v4 || v6) && len(data) >= 4 {
			return uint8(binary.NativeEndian.Uint32(data))
		}
		oob = rest
	}
	return 0
}
