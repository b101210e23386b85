package hearsay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// sendBuffer is room for what waits for neighbours that do not answer the kernel: it holds each datagram for 3 s while it looks
// for their hardware address, and with the usual 208 KiB a hundred dead nodes would silence us towards the living.
const sendBuffer = 4 << 20

// A socket is the wire of the real network: one for IPv4 and IPv6.
type socket struct {
	conn *net.UDPConn
	port uint16
}

func listen(port uint16) (wire, error) {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{Port: int(port)})
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("listen on UDP port %d: %w: another program has it (services.keepPort)", port, unix.EADDRINUSE)
	case err != nil:
		return nil, fmt.Errorf("listen on UDP port %d: %w", port, err)
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer) != nil { // CAP_NET_ADMIN
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
			}
		})
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("set up UDP port %d: %w", port, err)
	}
	return &socket{conn, port}, nil
}

// Send sends b, or fails: it waits for room for a moment only.
func (s *socket) Send(b []byte, to netip.Addr) error {
	_ = s.conn.SetWriteDeadline(time.Now().Add(time.Millisecond))
	_, err := s.conn.WriteToUDPAddrPort(b, netip.AddrPortFrom(to, s.port))
	return err
}

func (s *socket) Receive(b []byte) (int, netip.AddrPort, error) {
	return s.conn.ReadFromUDPAddrPort(b)
}

func (s *socket) Close() error { return s.conn.Close() }
