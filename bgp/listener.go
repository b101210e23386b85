package bgp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listener accepts the connections of passive peers' routers.
type listener struct {
	socket  *net.TCPListener
	refused atomic.Uint64 // connections that nobody expected, or with a wrong TTL

	mu       sync.Mutex // guards expected, and the order of changes of the socket's keys
	expected map[netip.Addr]*expectation
}

// expectation is what is done with the connections from one address.
type expectation struct {
	endpoint
	deliver func(*net.TCPConn)
}

// listen opens the socket; run accepts. An unspecified IPv6 address takes IPv4 too.
func listen(ctx context.Context, at netip.AddrPort) (*listener, error) {
	lc := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error { return control(c, prepareListener) }}
	lc.SetMultipathTCP(false) // which Go would use, and which has no TCP-MD5
	socket, err := lc.Listen(ctx, "tcp", at.String())
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("listen at %s: %w: another BGP daemon on this machine?", at, cause(err))
	case err != nil:
		return nil, fmt.Errorf("listen at %s: %w", at, cause(err))
	}
	return &listener{socket: socket.(*net.TCPListener), expected: map[netip.Addr]*expectation{}}, nil
}

// prepareListener has the kernel keep the SYN of each connection, for its TTL, and answer SYNs with TTL 255: a router that does
// GTSM takes nothing less, and others do not mind.
func prepareListener(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_SAVE_SYN, 1); err != nil {
		return fmt.Errorf("save SYNs: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, maxTTL); err != nil {
		return fmt.Errorf("set TTL: %w", err)
	}
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err == nil && domain == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, maxTTL)
	}
	if err != nil {
		return fmt.Errorf("set TTL: %w", err)
	}
	return nil
}

// expect has connections from e.remote.Addr() delivered, with e's rules for keys and TTL, until cancel is called. Of two
// expectations of one address the later counts. deliver owns the connection and must not block.
func (l *listener) expect(e endpoint, deliver func(*net.TCPConn)) (cancel func(), err error) {
	from, x := e.from16(), &expectation{e, deliver}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.setKey(from, e.password); err != nil {
		return nil, fmt.Errorf("expect %s: %w", e.remote.Addr(), err)
	}
	l.expected[from] = x
	return func() { l.forget(from, x) }, nil
}

func (l *listener) forget(from netip.Addr, x *expectation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.expected[from] == x {
		delete(l.expected, from)
		_ = l.setKey(from, nil) // fails only on a closed socket
	}
}

// from16 is the remote address as expected has it: unmapped, and a link-local one with the name of its link.
func (e endpoint) from16() netip.Addr {
	a := e.remote.Addr().Unmap()
	if a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == "" {
		return a.WithZone(e.device)
	}
	return a
}

// setKey sets or removes the key of an address.
func (l *listener) setKey(from netip.Addr, key []byte) error {
	c, err := l.socket.SyscallConn()
	if err != nil {
		return err
	}
	return control(c, func(fd int) error {
		err := setKey(fd, from, key)
		if len(key) == 0 && errors.Is(err, unix.ENOENT) { // there was none
			return nil
		}
		return err
	})
}

// run accepts until ctx ends, then closes the socket and returns nil.
func (l *listener) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { l.socket.Close() })
	defer stop()
	for {
		c, err := l.socket.AcceptTCP()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept at %s: %w", l.socket.Addr(), err)
		case err != nil: // of one connection, or too many open files: both pass
			wait(ctx, 100*time.Millisecond)
		default:
			l.accept(c)
		}
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (l *listener) accept(c *net.TCPConn) {
	x := l.expecting(c)
	if x == nil || x.admit(c) != nil {
		l.refused.Add(1)
		_ = c.SetLinger(0) // a reset: nothing here speaks to it
		c.Close()
		return
	}
	x.deliver(c)
}

func (l *listener) expecting(c *net.TCPConn) *expectation {
	remote, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.expected[remote.AddrPort().Addr().Unmap()]
}

// admit applies the rules for TTL. The kernel checks those of the packets from here on; what came before is the SYN.
func (x *expectation) admit(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return control(raw, func(fd int) error {
		ttl, err := firstTTL(fd)
		switch {
		case err != nil:
			return err
		case x.gtsm && ttl != maxTTL: // RFC 5082 3
			return fmt.Errorf("SYN with TTL %d: %w", ttl, os.ErrPermission)
		case x.ttl == 0 && !x.gtsm:
			e := x.endpoint
			e.ttl = 64 // the listening socket has 255
			return e.setTTL(fd)
		}
		return x.setTTL(fd)
	})
}
