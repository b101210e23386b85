package node_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// arpFrame is an ARP message (RFC 826) in an Ethernet frame.
func arpFrame(op uint16, mac net.HardwareAddr, from, about netip.Addr) []byte {
	var b bytes.Buffer
	b.Write(bytes.Repeat([]byte{0xff}, 6))
	b.Write(mac)
	b.Write([]byte{0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, byte(op)})
	b.Write(mac)
	b.Write(from.AsSlice())
	b.Write(make([]byte, 6))
	b.Write(about.AsSlice())
	return b.Bytes()
}

// onWire runs f with a packet socket for ARP on a link of a host.
func onWire(h *netlab.Host, link string, f func(fd int, to unix.Sockaddr, mac net.HardwareAddr) error) error {
	return h.Do(func() error {
		ifc, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		proto := binary.NativeEndian.Uint16([]byte{0x08, 0x06})
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(proto))
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		sa := &unix.SockaddrLinklayer{Protocol: proto, Ifindex: ifc.Index}
		tv := unix.NsecToTimeval(int64(50 * time.Millisecond))
		if err := errors.Join(unix.Bind(fd, sa), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)); err != nil {
			return err
		}
		return f(fd, sa, ifc.HardwareAddr)
	})
}

// whoHas asks for an address on a link, as another station there, and returns all
// that answer.
func whoHas(t *testing.T, h *netlab.Host, link string, addr netip.Addr) (macs []string) {
	t.Helper()
	asker := addr.As4()
	asker[3] = 250
	err := onWire(h, link, func(fd int, to unix.Sockaddr, mac net.HardwareAddr) error {
		buf := make([]byte, 128)
		for range 3 {
			if err := unix.Sendto(fd, arpFrame(1, mac, netip.AddrFrom4(asker), addr), 0, to); err != nil {
				return err
			}
			for end := time.Now().Add(150 * time.Millisecond); time.Now().Before(end); {
				n, err := unix.Read(fd, buf)
				if err != nil || n < 42 || buf[21] != 2 || !bytes.Equal(buf[28:32], addr.AsSlice()) {
					continue
				}
				if m := net.HardwareAddr(buf[22:28]).String(); !slices.Contains(macs, m) {
					macs = append(macs, m)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return macs
}

// claim claims an address on the client's link n times.
func (s *site) claim(addr netip.Addr, n int) {
	s.t.Helper()
	s.check(onWire(s.lab.Client(), "eth0", func(fd int, to unix.Sockaddr, mac net.HardwareAddr) error {
		for range n {
			if err := unix.Sendto(fd, arpFrame(2, mac, addr, addr), 0, to); err != nil {
				return err
			}
		}
		return nil
	}))
}
