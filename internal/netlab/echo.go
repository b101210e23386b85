package netlab

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// RunEcho answers the probe's UDP questions on port, on every address of the machine and from the very address that was
// asked, until ctx ends. node is the number that it answers with. It is a program of its own beside what is tested, like
// the service behind an address, and goes on when that stops.
func RunEcho(ctx context.Context, node byte, port int) error {
	var fds []int
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	for _, open := range []func(int) (int, error){openEcho4, openEcho6} {
		fd, err := open(port)
		if errors.Is(err, unix.EAFNOSUPPORT) { // a kernel without IPv6
			continue
		}
		if err != nil {
			return fmt.Errorf("listen on udp port %d: %w", port, err)
		}
		fds = append(fds, fd)
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, fd := range fds {
		g.Go(func() error {
			runtime.LockOSThread() // and the thread ends with the goroutine
			goRealtime()
			return echo(ctx, fd, node)
		})
	}
	return g.Wait()
}

func openEcho4(port int) (int, error) {
	return openEcho(unix.AF_INET, &unix.SockaddrInet4{Port: port}, unix.IPPROTO_IP, unix.IP_PKTINFO)
}

func openEcho6(port int) (int, error) {
	return openEcho(unix.AF_INET6, &unix.SockaddrInet6{Port: port}, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO)
}

func openEcho(family int, addr unix.Sockaddr, level, pktinfo int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	keepMuch(fd)
	err = errors.Join(receiveWait(fd), unix.SetsockoptInt(fd, level, pktinfo, 1))
	if family == unix.AF_INET6 {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1))
	}
	if err = errors.Join(err, unix.Bind(fd, addr)); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// echo sends every message back as it came, but for the node byte. The packet information that recvmsg gives says which
// address was asked; given to sendmsg, the same bytes say which address to answer from (ip(7), ipv6(7)).
func echo(ctx context.Context, fd int, node byte) error {
	var name [unix.SizeofSockaddrInet6]byte
	var control [128]byte
	var data [64]byte
	iov := unix.Iovec{Base: &data[0]}
	for ctx.Err() == nil {
		iov.SetLen(len(data))
		msg := unix.Msghdr{Name: &name[0], Namelen: uint32(len(name)), Iov: &iov, Control: &control[0]}
		msg.SetIovlen(1)
		msg.SetControllen(len(control))
		n, errno := message(unix.SYS_RECVMSG, fd, &msg)
		if errno != 0 && !errno.Timeout() && errno != unix.EINTR {
			return fmt.Errorf("receive udp question: %w", errno)
		}
		if errno != 0 || n < echoLen {
			continue
		}
		data[echoLen-1] = node
		iov.SetLen(n)
		_, _ = message(unix.SYS_SENDMSG, fd, &msg) // one that cannot be sent is a lost one
	}
	return nil
}

func message(call uintptr, fd int, msg *unix.Msghdr) (int, unix.Errno) {
	n, _, errno := unix.Syscall(call, uintptr(fd), uintptr(unsafe.Pointer(msg)), 0)
	return int(n), errno
}
