package netlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A Host is a machine of the lab: a network namespace with lo and eth0, connected to the switch.
type Host struct {
	*space
	lab    *Lab
	name   string
	number int
	mac    net.HardwareAddr
	port   int            // interface index of its port in the switch; 0 for one that Behind made
	addrs  []netip.Prefix // of eth0: IPv4 and, in a lab with Options.IPv6, IPv6 and link-local
}

func newHost(l *Lab, name string, number int, addrs ...netip.Prefix) (*Host, error) {
	s, err := newSpace()
	if err != nil {
		return nil, err
	}
	return &Host{space: s, lab: l, name: name, number: number, mac: hostMAC(number), addrs: addrs}, nil
}

// Name is "n1", "n2", ..., "client", or what Behind says.
func (h *Host) Name() string { return h.name }

// Number is the host part of its addresses, and what its echo is to answer.
func (h *Host) Number() byte { return byte(h.number) }

// MAC is the address of eth0: fixed, and different for each host.
func (h *Host) MAC() net.HardwareAddr { return h.mac }

// Addr is its own IPv4 address.
func (h *Host) Addr() netip.Addr { return h.addrs[0].Addr() }

// Addr6 is its own IPv6 address, in a lab with Options.IPv6; else the zero value.
func (h *Host) Addr6() netip.Addr {
	if len(h.addrs) < 2 {
		return netip.Addr{}
	}
	return h.addrs[1].Addr()
}

// configure brings lo and eth0 up and gives eth0 its addresses. IPv6 addresses are set by hand, as detection of
// duplicates would take the first two seconds of every lab.
func (h *Host) configure() error {
	return h.withNetlink(func(nl *netlink.Handle) error {
		if err := linkUp(nl, "lo"); err != nil {
			return err
		}
		return setUp(nl, "eth0", h.addrs)
	})
}

// setUp gives a link its addresses and brings it up.
func setUp(nl *netlink.Handle, name string, addrs []netip.Prefix) error {
	link, err := nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if slices.ContainsFunc(addrs, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		if err := nl.LinkSetIP6AddrGenMode(link, addrGenNone); err != nil {
			return fmt.Errorf("turn off IPv6 autoconfiguration: %w", err)
		}
	}
	for _, a := range addrs {
		if err := addAddr(nl, link, a); err != nil {
			return err
		}
	}
	return linkUp(nl, name)
}

func addAddr(nl *netlink.Handle, link netlink.Link, p netip.Prefix) error {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := nl.AddrAdd(link, a); err != nil {
		return fmt.Errorf("add %s: %w", p, err)
	}
	return nil
}

func linkUp(nl *netlink.Handle, name string) error {
	link, err := nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// A space is a network namespace without a name. It lives as long as its keeper, a thread that never leaves it: children
// are forked there, because the kernel sends a child's Pdeathsig when the thread that forked it ends.
type space struct {
	fd   int
	work chan func()
	quit chan struct{}
	gone chan struct{} // closed when the keeper has ended
}

var errClosed = errors.New("the lab is closed")

func newSpace() (*space, error) {
	s := &space{fd: -1, work: make(chan func()), quit: make(chan struct{}), gone: make(chan struct{})}
	made := make(chan error)
	go s.keep(made)
	if err := <-made; err != nil {
		return nil, err
	}
	return s, nil
}

// keep is the life of the keeper thread. It ends with the goroutine, since the goroutine ends locked to it.
func (s *space) keep(made chan<- error) {
	defer close(s.gone)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		made <- fmt.Errorf("make network namespace: %w", err)
		return
	}
	var err error
	s.fd, err = openNetNS()
	made <- err
	if err != nil {
		return
	}
	for {
		select {
		case f := <-s.work:
			f()
		case <-s.quit:
			return
		}
	}
}

// onKeeper runs f, which must not block, on the keeper thread.
func (s *space) onKeeper(f func() error) error {
	done := make(chan error, 1)
	select {
	case s.work <- func() { done <- f() }:
		return <-done
	case <-s.quit:
		return errClosed
	}
}

// Do runs f on an OS thread that is in the host's network namespace: sockets made there stay there. f may block and may
// run at the same time as others; goroutines that it starts are not in the namespace. The error is f's own, or says why
// the namespace could not be entered (f then did not run).
func (s *space) Do(f func() error) error {
	err := errors.New("the function ended its goroutine")
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = s.visit(f)
	}()
	<-done
	return err
}

// visit runs f in the namespace and leaves the thread locked, so that it is thrown away, unless it could be put back.
func (s *space) visit(f func() error) error {
	runtime.LockOSThread()
	home, err := openNetNS()
	if err != nil {
		return err
	}
	defer func() {
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		_ = unix.Close(home)
	}()
	if err := unix.Setns(s.fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return f()
}

// withNetlink runs f with a route netlink socket in the namespace.
func (s *space) withNetlink(f func(*netlink.Handle) error) error {
	nl, err := netlink.NewHandleAt(netns.NsHandle(s.fd), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer nl.Close()
	return f(nl)
}

func (s *space) close() error {
	select {
	case <-s.quit:
		return nil
	default:
	}
	close(s.quit)
	<-s.gone
	return unix.Close(s.fd)
}

func openNetNS() (int, error) {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open network namespace: %w", err)
	}
	return fd, nil
}
