package netlab

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Greeter is the service of a host, in this process: it answers a probe's UDP questions as RunEcho does, with the host's
// number, and on the same port accepts TCP connections, on which it says who it is and whom it sees, and then sends back what
// it gets.
type Greeter struct {
	lab  *Lab
	host *Host

	mu     sync.Mutex // guards all below
	closed bool
	open   []io.Closer // sockets and connections
	busy   sync.WaitGroup
}

// Greet starts the service on every address of the host that is its own, until Close or the end of the lab.
func (h *Host) Greet(port int) (*Greeter, error) {
	g := &Greeter{lab: h.lab, host: h}
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	if h.lab.closed {
		return nil, fmt.Errorf("greet on %s: %w", h.name, errClosed)
	}
	for _, a := range h.addrs {
		if a.Addr().IsLinkLocalUnicast() {
			continue
		}
		if err := h.Do(func() error { return g.listen(netip.AddrPortFrom(a.Addr(), uint16(port))) }); err != nil {
			g.end()
			return nil, fmt.Errorf("greet on %s: %w", h.name, err)
		}
	}
	h.lab.open = append(h.lab.open, g)
	return g, nil
}

func (g *Greeter) listen(at netip.AddrPort) error {
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	g.keep(udp)
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	g.keep(tcp)
	g.busy.Go(func() { g.echo(udp) })
	g.busy.Go(func() { g.accept(tcp) })
	return nil
}

// keep says whether c is to be used; after Close it is closed instead.
func (g *Greeter) keep(c io.Closer) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		_ = c.Close()
		return false
	}
	g.open = append(g.open, c)
	return true
}

func (g *Greeter) drop(c io.Closer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = slices.DeleteFunc(g.open, func(o io.Closer) bool { return o == c })
	_ = c.Close()
}

func (g *Greeter) echo(c *net.UDPConn) {
	b := make([]byte, 64)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil || n < echoLen:
			continue // an error is the ICMP one of an earlier answer
		}
		b[echoLen-1] = g.host.Number()
		_, _ = c.WriteToUDPAddrPort(b[:n], from) // one that cannot be sent is a lost one
	}
}

func (g *Greeter) accept(l *net.TCPListener) {
	for {
		c, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || !g.keep(c) {
			continue
		}
		g.busy.Go(func() {
			defer g.drop(c)
			if _, err := fmt.Fprintf(c, "%s %s\n", g.host.name, c.RemoteAddr()); err == nil {
				_, _ = io.Copy(onlyWriter{c}, c)
			}
		})
	}
}

// An onlyWriter hides that a connection can splice: that would hold on to more pipes than a test wants.
type onlyWriter struct{ io.Writer }

// Close ends the service, its connections with it. It may be called again.
func (g *Greeter) Close() {
	g.end()
	g.lab.forget(g)
}

func (g *Greeter) end() {
	g.mu.Lock()
	open := g.open
	g.closed, g.open = true, nil
	g.mu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
	g.busy.Wait()
}

// An Answer is who answered a host's question.
type Answer struct {
	By   string         // the name of the Greeter's host, by UDP of the node that its number stands for
	Seen netip.AddrPort // whom it saw asking; only by TCP
}

// Ask asks the service at an address and port, by a connection or a datagram from a new port for each question. Network is "tcp"
// or "udp". No answer within a second is an error.
func (h *Host) Ask(ctx context.Context, network string, to netip.AddrPort) (a Answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	c, err := h.Dial(ctx, network, to)
	if err != nil {
		return Answer{}, err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
	if network == "udp" {
		a, err = askUDP(c)
	} else {
		a, err = readGreeting(bufio.NewReader(c))
	}
	if err != nil {
		return Answer{}, fmt.Errorf("ask %s by %s: %w", to, network, err)
	}
	return a, nil
}

// Dial opens a connection from the host to an address, in whose network it then stays.
func (h *Host) Dial(ctx context.Context, network string, to netip.AddrPort) (c net.Conn, err error) {
	err = h.Do(func() error {
		c, err = (&net.Dialer{}).DialContext(ctx, network, to.String())
		return err
	})
	return c, err
}

func askUDP(c net.Conn) (Answer, error) {
	seq := uint64(time.Now().UnixNano())
	q := binary.LittleEndian.AppendUint64(nil, seq)
	if _, err := c.Write(append(q, 0)); err != nil {
		return Answer{}, err
	}
	b := make([]byte, 64)
	n, err := c.Read(b)
	if err != nil {
		return Answer{}, err
	}
	if n < echoLen || binary.LittleEndian.Uint64(b) != seq {
		return Answer{}, fmt.Errorf("%d bytes that are no answer", n)
	}
	return Answer{By: nodeName(b[echoLen-1])}, nil
}

func readGreeting(r *bufio.Reader) (Answer, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return Answer{}, err
	}
	by, seen, _ := strings.Cut(strings.TrimSpace(line), " ")
	from, err := netip.ParseAddrPort(seen)
	if err != nil {
		return Answer{}, fmt.Errorf("greeting %q: %w", line, err)
	}
	return Answer{By: by, Seen: from}, nil
}
