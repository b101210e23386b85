package leader

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pintle-lb/pintle/leader/pki"
)

// The versions of the protocol between nodes that this build speaks. Two nodes
// talk when their ranges overlap.
const (
	protocolMin = 1
	protocolMax = 1
)

// Credentials are a node's identity towards the others; *pki.Source is one.
type Credentials interface {
	Server() *tls.Config
	Client(name string) *tls.Config
}

// handshakeLimit bounds how long a connection may take to say who it is, and
// how many may be about to.
const (
	handshakeLimit   = 3 * time.Second
	handshakesAtOnce = 64
)

// A greeting opens each connection in both directions, inside TLS.
type greeting struct {
	Kind    string `json:"kind"`    // "raft" or "ask"
	Cluster string `json:"cluster"` // "" from a node that has not joined
	Name    string `json:"name"`
	Min     int    `json:"min"`
	Max     int    `json:"max"`
	Error   string `json:"error,omitempty"` // why the connection is refused
}

// A stream accepts and dials authenticated connections and sorts them: those of
// Raft go to a raft.StreamLayer, the others to a function.
type stream struct {
	listener net.Listener
	dial     func(ctx context.Context, addr string) (net.Conn, error)
	creds    Credentials // nil only in tests that bring their own connections
	name     string
	log      *slog.Logger
	cluster  func() string
	nameOf   func(raft.ServerAddress) string
	ask      func(ctx context.Context, from string, conn net.Conn)

	raftConns chan net.Conn
	slots     chan struct{}
}

// serve accepts connections until ctx ends, then waits for what it started.
func (s *stream) serve(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { s.listener.Close() })
	defer stop()
	for {
		conn, err := s.listener.Accept()
		if ctx.Err() != nil {
			if conn != nil {
				conn.Close()
			}
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accept: %w", err)
		}
		if err != nil {
			s.log.Warn("cannot accept a connection", "err", err)
			sleep(ctx, 100*time.Millisecond)
			continue
		}
		wg.Go(func() { s.receive(ctx, conn) })
	}
}

// sleep waits for d or for ctx, whichever ends first.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// receive finds out who calls. A stranger is hung up on without a word.
func (s *stream) receive(ctx context.Context, conn net.Conn) {
	select {
	case s.slots <- struct{}{}:
	default:
		conn.Close() // too many are still to say who they are
		return
	}
	g, secured, err := s.welcome(ctx, conn)
	<-s.slots
	if err != nil {
		conn.Close()
		s.log.Debug("refused a connection", "peer", conn.RemoteAddr().String(), "err", err)
		return
	}
	if g.Kind == "raft" {
		select {
		case s.raftConns <- secured:
		case <-ctx.Done():
			secured.Close()
		}
		return
	}
	stop := context.AfterFunc(ctx, func() { secured.Close() })
	defer stop()
	defer secured.Close()
	s.ask(ctx, g.Name, secured)
}

func (s *stream) welcome(ctx context.Context, conn net.Conn) (greeting, net.Conn, error) {
	var g greeting
	conn.SetDeadline(time.Now().Add(handshakeLimit))
	names := []string(nil)
	if s.creds != nil {
		t := tls.Server(conn, s.creds.Server())
		if err := t.HandshakeContext(ctx); err != nil {
			return g, nil, fmt.Errorf("handshake: %w", err)
		}
		conn, names = t, pki.Names(t.ConnectionState())
	}
	if err := readFrame(conn, &g); err != nil {
		return g, nil, err
	}
	err := s.check(g)
	if err == nil && s.creds != nil && !slices.Contains(names, g.Name) {
		err = fmt.Errorf("certificate is for %q, not for %q", names, g.Name)
	}
	reply := s.greeting(g.Kind)
	if err != nil {
		reply.Error = err.Error()
	}
	if werr := writeFrame(conn, reply); err == nil {
		err = werr
	}
	conn.SetDeadline(time.Time{})
	return g, conn, err
}

func (s *stream) greeting(kind string) greeting {
	return greeting{Kind: kind, Cluster: s.cluster(), Name: s.name, Min: protocolMin, Max: protocolMax}
}

// check says why a connection with this greeting is refused.
func (s *stream) check(g greeting) error {
	mine := s.cluster()
	switch {
	case g.Max < protocolMin || g.Min > protocolMax:
		return fmt.Errorf("protocol versions %d-%d, this node speaks %d-%d: upgrade the older one", g.Min, g.Max, protocolMin, protocolMax)
	case g.Kind == "ask" && (g.Cluster == "" || mine == "" || g.Cluster == mine):
		return nil
	case g.Kind == "ask":
		return fmt.Errorf("cluster %s, this node belongs to cluster %s", g.Cluster, mine)
	case g.Kind != "raft":
		return fmt.Errorf("unknown kind of connection %q", g.Kind)
	case mine == "":
		return errors.New("this node has not joined a cluster yet")
	case g.Cluster != mine:
		return fmt.Errorf("cluster %s, this node belongs to cluster %s", g.Cluster, mine)
	}
	return nil
}

// connect dials addr, expecting node name there ("" for any member).
func (s *stream) connect(ctx context.Context, kind, addr, name string) (net.Conn, greeting, error) {
	var g greeting
	conn, err := s.dial(ctx, addr)
	if err != nil {
		return nil, g, err
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(handshakeLimit)
	}
	conn.SetDeadline(deadline)
	if s.creds != nil {
		conn = tls.Client(conn, s.creds.Client(name))
	}
	if err = writeFrame(conn, s.greeting(kind)); err == nil {
		err = readFrame(conn, &g)
	}
	if err == nil && g.Error != "" {
		err = fmt.Errorf("refused by %s: %s", g.Name, g.Error)
	}
	if err == nil {
		err = s.checkReply(g)
	}
	if err != nil {
		conn.Close()
		return nil, g, fmt.Errorf("connect to %s: %w", addr, err)
	}
	conn.SetDeadline(time.Time{})
	return conn, g, nil
}

func (s *stream) checkReply(g greeting) error {
	if g.Kind == "ask" {
		return nil
	}
	return s.check(g)
}

// A raftLayer is the raft.StreamLayer of one Raft instance on a stream. Closing
// it closes its connections and leaves the listener open.
type raftLayer struct {
	*stream
	addr  net.Addr
	ready <-chan struct{} // nothing is accepted before
	done  chan struct{}

	mu    sync.Mutex // guards conns
	conns map[*raftConn]struct{}
}

// A raftConn is a connection that its layer can close.
type raftConn struct {
	net.Conn
	layer *raftLayer
}

func (c *raftConn) Close() error {
	c.layer.mu.Lock()
	delete(c.layer.conns, c)
	c.layer.mu.Unlock()
	return c.Conn.Close()
}

func (s *stream) layer(addr net.Addr, ready <-chan struct{}) *raftLayer {
	return &raftLayer{stream: s, addr: addr, ready: ready, done: make(chan struct{}), conns: map[*raftConn]struct{}{}}
}

func (l *raftLayer) Accept() (net.Conn, error) {
	select {
	case <-l.ready:
	case <-l.done:
		return nil, net.ErrClosed
	}
	select {
	case c := <-l.raftConns:
		return l.own(c)
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *raftLayer) own(conn net.Conn) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		conn.Close()
		return nil, net.ErrClosed
	}
	c := &raftConn{conn, l}
	l.conns[c] = struct{}{}
	return c, nil
}

// Close is called once, by Raft's transport.
func (l *raftLayer) Close() error {
	close(l.done)
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		c.Conn.Close()
	}
	l.conns = nil
	return nil
}

func (l *raftLayer) Addr() net.Addr { return l.addr }

func (l *raftLayer) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, _, err := l.connect(ctx, "raft", string(addr), l.nameOf(addr))
	if err != nil {
		return nil, err
	}
	return l.own(conn)
}

// maxFrame bounds what a peer can make this node read at once.
const maxFrame = 1 << 16

func writeFrame(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxFrame {
		return fmt.Errorf("message of %d bytes, at most %d", len(b), maxFrame)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func readFrame(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return fmt.Errorf("message of %d bytes, at most %d", n, maxFrame)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// randomID is n random bytes in hexadecimal.
func randomID(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}
