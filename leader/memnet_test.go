package leader

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// A memNet is a network in memory: streams with delays, and links between nodes
// that can be cut in either direction. What is sent over a cut link arrives when
// the link is healed, unless the connection is broken before: as with TCP.
type memNet struct {
	mu        sync.Mutex // guards what follows
	rng       *rand.Rand
	delay     time.Duration // of each write, at most
	owner     map[string]string
	listeners map[string]*memListener
	cut       map[[2]string]bool
	lag       map[[2]string]time.Duration // of one direction, on top
	pipes     map[*memPipe]struct{}
}

func newMemNet(seed uint64) *memNet {
	return &memNet{rng: rand.New(rand.NewPCG(seed, 2)), delay: 2 * time.Millisecond, owner: map[string]string{},
		listeners: map[string]*memListener{}, cut: map[[2]string]bool{}, lag: map[[2]string]time.Duration{}, pipes: map[*memPipe]struct{}{}}
}

func (n *memNet) some() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return time.Duration(n.rng.Int64N(int64(n.delay) + 1))
}

// lagOf is how much longer one direction takes.
func (n *memNet) lagOf(from, to string) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lag[[2]string{from, to}]
}

func (n *memNet) setLag(from, to string, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lag[[2]string{from, to}] = d
}

func (n *memNet) isCut(from, to string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cut[[2]string{from, to}]
}

// setCut cuts or heals one direction.
func (n *memNet) setCut(from, to string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]string{from, to}] = cut
	for p := range n.pipes {
		p.wake()
	}
}

// isolate cuts or heals all links of a node.
func (n *memNet) isolate(name string, all []Peer, cut bool) {
	for _, p := range all {
		if p.Name != name {
			n.setCut(name, p.Name, cut)
			n.setCut(p.Name, name, cut)
		}
	}
}

// reset breaks connections for which pick says so.
func (n *memNet) reset(pick func(from, to string) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for p := range n.pipes {
		if pick(p.from, p.to) {
			p.end(syscall.ECONNRESET)
			delete(n.pipes, p)
		}
	}
}

func (n *memNet) pipe(from, to string) *memPipe {
	p := &memPipe{net: n, from: from, to: to, changed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pipes[p] = struct{}{}
	return p
}

func (n *memNet) listen(addr, owner string) net.Listener {
	l := &memListener{net: n, addr: addr, conns: make(chan net.Conn, 64), done: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[addr], n.owner[addr] = l, owner
	return l
}

func (n *memNet) dialer(from string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		n.mu.Lock()
		l, to := n.listeners[addr], n.owner[addr]
		n.mu.Unlock()
		for to != "" && (n.isCut(from, to) || n.isCut(to, from)) {
			sleep(ctx, 10*time.Millisecond)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
		sleep(ctx, n.some())
		if l == nil {
			return nil, syscall.ECONNREFUSED
		}
		there, back := n.pipe(from, to), n.pipe(to, from)
		select {
		case <-l.done:
			return nil, syscall.ECONNREFUSED
		case l.conns <- &memConn{in: there, out: back}:
			return &memConn{in: back, out: there}, nil
		}
	}
}

type memListener struct {
	net   *memNet
	addr  string
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.net.mu.Lock()
		defer l.net.mu.Unlock()
		if l.net.listeners[l.addr] == l {
			delete(l.net.listeners, l.addr)
		}
	})
	return nil
}

func (l *memListener) Addr() net.Addr { return memAddr(l.addr) }

type memAddr string

func (memAddr) Network() string  { return "mem" }
func (a memAddr) String() string { return string(a) }

// A memPipe is one direction of a connection.
type memPipe struct {
	net      *memNet
	from, to string

	mu       sync.Mutex // guards what follows
	chunks   []memChunk
	closed   error
	deadline time.Time
	changed  chan struct{}
}

type memChunk struct {
	at   time.Time
	data []byte
}

func (p *memPipe) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changed)
	p.changed = make(chan struct{})
}

// end closes the pipe; with an error other than io.EOF what is under way is lost.
func (p *memPipe) end(err error) {
	p.mu.Lock()
	if p.closed == nil || err != io.EOF {
		p.closed = err
	}
	if p.closed != io.EOF {
		p.chunks = nil
	}
	p.mu.Unlock()
	p.wake()
}

func (p *memPipe) write(b []byte) (int, error) {
	at := time.Now().Add(p.net.some() + p.net.lagOf(p.from, p.to))
	p.mu.Lock()
	if p.closed != nil {
		p.mu.Unlock()
		return 0, syscall.EPIPE
	}
	if n := len(p.chunks); n > 0 && at.Before(p.chunks[n-1].at) {
		at = p.chunks[n-1].at
	}
	p.chunks = append(p.chunks, memChunk{at, append([]byte(nil), b...)})
	p.mu.Unlock()
	p.wake()
	return len(b), nil
}

// take returns what has arrived, or how long to wait for it, -1 for unknown.
func (p *memPipe) take(b []byte, cut bool) (n int, wait time.Duration, err error) {
	now := time.Now()
	wait = -1
	switch {
	case len(p.chunks) > 0 && !cut && !now.Before(p.chunks[0].at):
		n = copy(b, p.chunks[0].data)
		if p.chunks[0].data = p.chunks[0].data[n:]; len(p.chunks[0].data) == 0 {
			p.chunks = p.chunks[1:]
		}
		return n, 0, nil
	case p.closed != nil && (len(p.chunks) == 0 && !cut || p.closed != io.EOF):
		return 0, 0, p.closed
	case len(p.chunks) > 0 && !cut:
		wait = p.chunks[0].at.Sub(now)
	}
	if !p.deadline.IsZero() {
		left := p.deadline.Sub(now)
		if left <= 0 {
			return 0, 0, os.ErrDeadlineExceeded
		}
		if wait < 0 || left < wait {
			wait = left
		}
	}
	return 0, wait, nil
}

func (p *memPipe) read(b []byte) (int, error) {
	for {
		cut := p.net.isCut(p.from, p.to)
		p.mu.Lock()
		n, wait, err := p.take(b, cut)
		changed := p.changed
		p.mu.Unlock()
		if n > 0 || err != nil {
			return n, err
		}
		var timer <-chan time.Time
		if wait >= 0 {
			timer = time.After(wait)
		}
		select {
		case <-changed:
		case <-timer:
		}
	}
}

type memConn struct{ in, out *memPipe }

func (c *memConn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *memConn) Write(b []byte) (int, error) { return c.out.write(b) }

func (c *memConn) Close() error {
	c.out.end(io.EOF)
	c.in.end(net.ErrClosed)
	c.in.net.mu.Lock()
	defer c.in.net.mu.Unlock()
	delete(c.in.net.pipes, c.in)
	return nil
}

func (c *memConn) LocalAddr() net.Addr  { return memAddr(c.out.from) }
func (c *memConn) RemoteAddr() net.Addr { return memAddr(c.out.to) }

func (c *memConn) SetDeadline(t time.Time) error {
	c.in.mu.Lock()
	c.in.deadline = t
	c.in.mu.Unlock()
	c.in.wake()
	return nil
}

func (c *memConn) SetReadDeadline(t time.Time) error { return c.SetDeadline(t) }
func (c *memConn) SetWriteDeadline(time.Time) error  { return nil } // writes never wait
