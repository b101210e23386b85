package arp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A host is where the links are: the kernel, in the namespace of the calling thread. Tests put another one in its place.
type host interface {
	index(link string) (int, error)                     // unix.ENODEV: there is no such link
	ipv6(link string) error                             // why the kernel drops IPv6 packets that come in there; nil if it does not
	open(index int, kind uint16) (wire, error)          // for frames of one EtherType
	join(index int, addr netip.Addr) (io.Closer, error) // the solicited-node group of addr, until closed
	stations() ([]mac, error)                           // the addresses of all links; may wait for the RTNL lock
}

// A wire sends and receives the frames of one EtherType on one link.
type wire interface {
	// read waits for one frame, for ever if limit is 0, and says when it came to this host. It returns an error after Close.
	read(b []byte, limit time.Duration) (n int, came time.Time, err error)
	send(frame []byte) error                  // never blocks: with full buffers it is an error
	station() (index int, own mac, err error) // of the link as it is now; an error if it is gone
	// only has read shown only the ARP frames that are about one of addrs, or not many others. After an error it may be shown too few.
	only(addrs []netip.Addr) error
	io.Closer
}

// kernel is the real host. Only stations and, on older kernels, join take the RTNL lock.
type kernel struct{}

func (kernel) index(link string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(link)
	if err != nil {
		return 0, fmt.Errorf("link name %q: %w", link, err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, fmt.Errorf("look up link: %w", err)
	}
	return int(ifr.Uint32()), nil
}

// ipv6 looks whether IPv6 was disabled (ip6_rcv drops then) or has ended, as it does below an MTU of 1280. Where /proc/sys is
// hidden nothing is known, and nothing said.
func (kernel) ipv6(link string) error {
	const conf = "/proc/sys/net/ipv6/conf/"
	switch off, err := os.ReadFile(conf + link + "/disable_ipv6"); {
	case errors.Is(err, os.ErrNotExist):
		if _, err := os.Stat(conf + "all"); err == nil {
			return errors.New("the link has no IPv6 (is its MTU below 1280?)")
		}
	case err == nil && strings.TrimSpace(string(off)) != "0":
		return fmt.Errorf("IPv6 is disabled on the link: sysctl -w net/ipv6/conf/%s/disable_ipv6=0", link)
	}
	return nil
}

func (kernel) open(index int, kind uint16) (wire, error) {
	filter, err := bpf.Assemble(filters[kind])
	if err != nil {
		return nil, err
	}
	// A socket for one EtherType is not shown what this host sends, and costs the host's other traffic nothing, which one for
	// all of them would.
	c, err := packet.Listen(&net.Interface{Index: index}, packet.Raw, int(kind), &packet.Config{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("open packet socket (needs CAP_NET_RAW): %w", err)
	}
	rc, err := c.SyscallConn()
	if err != nil {
		c.Close()
		return nil, err
	}
	w := &packetWire{Conn: c, rc: rc, to: unix.SockaddrLinklayer{Ifindex: index}, oob: make([]byte, unix.CmsgSpace(binary.Size(stamp{})))}
	if _, _, err := w.station(); err != nil {
		c.Close()
		return nil, err
	}
	err = w.control(func(fd int) error {
		// Claims leave before the bulk traffic that queues on the link: band 0 of pfifo_fast, and the like.
		err := os.NewSyscallError("set SO_PRIORITY", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, 6))
		return errors.Join(err, os.NewSyscallError("set SO_TIMESTAMPNS", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, 1)))
	})
	if err != nil {
		c.Close()
		return nil, err
	}
	return w, nil
}

// filters let pass, to a new socket of an EtherType, what package arp may want to read. Frames for other hosts are left out, as the kernel's
// own ARP does: a broadcast of a VLAN that has no link here comes by as one, with its tag taken off (__netif_receive_skb_core).
var filters = map[uint16][]bpf.Instruction{
	etherARP: {
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OTHERHOST, SkipTrue: 1},
		bpf.RetConstant{Val: maxFrame},
		bpf.RetConstant{Val: 0},
	},
	etherIPv6: {
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OTHERHOST, SkipTrue: 6},
		bpf.LoadAbsolute{Off: etherHeader + 6, Size: 1}, // next header
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: icmpv6, SkipTrue: 4},
		bpf.LoadAbsolute{Off: etherHeader + ipv6Header, Size: 1}, // ICMPv6 type
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: typeSolicit, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: typeAdvert, SkipTrue: 1},
		bpf.RetConstant{Val: maxFrame},
		bpf.RetConstant{Val: 0},
	},
}

const maxFrame = 2048

func (kernel) join(index int, addr netip.Addr) (io.Closer, error) {
	// A socket for each group: the kernel limits the groups of one socket, and closing it leaves the group.
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	group, _ := solicitedNode(addr)
	mreq := &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(index)}
	if err := unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, mreq); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("join group %s (is IPv6 disabled on the link?): %w", group, err)
	}
	return os.NewFile(uintptr(fd), "group "+group.String()), nil
}

func (kernel) stations() ([]mac, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var all []mac
	for _, l := range links {
		if m, ok := toMAC(l.HardwareAddr); ok && m != nobody {
			all = append(all, m)
		}
	}
	return all, nil
}

// packetWire is an AF_PACKET socket.
type packetWire struct {
	*packet.Conn
	rc syscall.RawConn
	to unix.SockaddrLinklayer

	// Only the reader uses these.
	end time.Time // the read deadline
	oob []byte    // what the kernel says besides
}

func (w *packetWire) read(b []byte, limit time.Duration) (n int, came time.Time, err error) {
	var end time.Time
	if limit > 0 {
		end = time.Now().Add(limit)
	}
	if end != w.end {
		if err := w.SetReadDeadline(end); err != nil {
			return 0, came, err
		}
		w.end = end
	}
	var oob int
	cerr := w.rc.Read(func(fd uintptr) bool {
		for err = unix.EINTR; err == unix.EINTR; {
			n, oob, _, _, err = unix.Recvmsg(int(fd), b, w.oob, unix.MSG_DONTWAIT)
		}
		return err != unix.EAGAIN
	})
	if cerr != nil {
		return 0, came, cerr
	}
	if err != nil {
		return 0, came, os.NewSyscallError("recvmsg", err)
	}
	return n, arrival(w.oob[:oob], time.Now()), nil
}

// A stamp is the kernel's __kernel_timespec, the same on all architectures.
type stamp struct{ Seconds, Nanoseconds int64 }

// arrival is when a frame that is read now came, by the kernel's stamp. That is of a clock which may be set meanwhile: a frame that
// would come later than it is read, or that has no stamp, comes now.
func arrival(oob []byte, now time.Time) time.Time {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return now
	}
	for _, m := range messages {
		var s stamp
		if m.Header.Level != unix.SOL_SOCKET || m.Header.Type != unix.SO_TIMESTAMPNS_NEW {
			continue
		}
		if _, err := binary.Decode(m.Data, binary.NativeEndian, &s); err == nil {
			return now.Add(-max(0, now.Sub(time.Unix(s.Seconds, s.Nanoseconds))))
		}
	}
	return now
}

func (w *packetWire) only(addrs []netip.Addr) error {
	open := filters[etherARP]
	narrow := append(slices.Clone(open[:2]), bpf.Jump{Skip: 1}, open[3]) // a frame for other hosts ends here
	narrow = append(narrow, about(spans(addrs))...)
	// The open one comes between: the kernel has no room for two large ones.
	for _, f := range [][]bpf.Instruction{open, narrow} {
		raw, err := bpf.Assemble(f)
		if err != nil {
			return err
		}
		if err := w.SetBPF(raw); err != nil {
			return fmt.Errorf("set the filter of a packet socket: %w", err)
		}
	}
	return nil
}

func (w *packetWire) send(frame []byte) error {
	err := w.control(func(fd int) error { return unix.Sendto(fd, frame, unix.MSG_DONTWAIT, &w.to) })
	return os.NewSyscallError("sendto", err)
}

func (w *packetWire) station() (int, mac, error) {
	var sa unix.Sockaddr
	err := w.control(func(fd int) (err error) { sa, err = unix.Getsockname(fd); return err })
	if err != nil {
		return 0, mac{}, err
	}
	ll, ok := sa.(*unix.SockaddrLinklayer)
	if !ok || ll.Ifindex <= 0 || ll.Halen == 0 {
		return 0, mac{}, errGone
	}
	own, ok := toMAC(ll.Addr[:ll.Halen])
	if !ok || own == nobody || ll.Hatype != unix.ARPHRD_ETHER {
		return 0, mac{}, errNotEthernet
	}
	return ll.Ifindex, own, nil
}

var (
	errGone        = errors.New("link is gone")
	errNotEthernet = errors.New("not an Ethernet link")
)

func (w *packetWire) control(f func(fd int) error) error {
	var err error
	if cerr := w.rc.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}
