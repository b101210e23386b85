package bgp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// inTime is how long a test waits for what takes milliseconds.
const inTime = 20 * time.Second

var (
	nodeID   = netip.MustParseAddr("10.0.0.1")
	routerID = netip.MustParseAddr("10.10.9.1")
	ourOffer = offer{as: 65001, remoteAS: 65000, id: nodeID, hold: 90 * time.Second, families: []Family{IPv4, IPv6}}
	theirs   = open{as: 65000, id: routerID, hold: 90, families: []Family{IPv4, IPv6}, routeRefresh: true, fourOctetAS: true}
	testVIP  = export{prefix: netip.MustParsePrefix("192.0.2.1/32"), nextHop: nodeID, as: 65001}
)

// A rig is one session: the test is the router, and behind the handshake and the relay there is a real gobgp.
type rig struct {
	router  *net.TCPConn
	relay   atomic.Pointer[relay]
	ended   chan error // of handshake or relay.run
	up      chan struct{}
	dropped atomic.Int64
	sent    atomic.Int64
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := makeServer(slog.New(slog.DiscardHandler))
	if err := s.start(t.Context(), ourOffer.as, nodeID); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

// tcpPair is a connection over loopback.
func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); d.Close() })
	return c.(*net.TCPConn), d.(*net.TCPConn)
}

func newRig(t *testing.T, s *server, o offer) *rig {
	t.Helper()
	router, guard := tcpPair(t)
	r := &rig{router: router, ended: make(chan error, 1), up: make(chan struct{})}
	go func() { r.ended <- r.serve(t.Context(), s, guard, o) }()
	return r
}

func (r *rig) serve(ctx context.Context, s *server, guard net.Conn, o offer) error {
	defer guard.Close()
	a, err := handshake(ctx, guard, o)
	if err != nil {
		return err
	}
	defer s.disconnect()
	if err := s.add(testVIP); err != nil {
		return err
	}
	inner, err := s.connect(ctx, neighbour{localAS: o.as, remoteAS: a.remoteAS, hold: a.hold, keepalive: a.hold / 3, families: a.families})
	if err != nil {
		return err
	}
	e := &relay{router: guard, inner: inner, agreed: a, up: func() { close(r.up) },
		sent: func([]byte) { r.sent.Add(1) }, dropped: func(n int) { r.dropped.Add(int64(n)) }}
	r.relay.Store(e)
	return e.run(ctx)
}

// read returns the next message that the router gets.
func (r *rig) read(t *testing.T) message {
	t.Helper()
	r.router.SetReadDeadline(time.Now().Add(inTime))
	m, err := readMessage(r.router, make([]byte, maxMessage))
	if err != nil {
		r.router.Close()
		t.Fatalf("the router reads: %v; the session: %v", err, <-r.ended)
	}
	return m
}

// await reads up to a message of the kind.
func (r *rig) await(t *testing.T, kind byte) message {
	t.Helper()
	for {
		m := r.read(t)
		if m.kind() == kind {
			return m
		}
		if m.kind() == typeNotification {
			t.Fatalf("the router gets %s", explain(m.body()[0], m.body()[1], m.body()[2:]))
		}
	}
}

func (r *rig) write(t *testing.T, ms ...message) {
	t.Helper()
	r.router.SetWriteDeadline(time.Now().Add(inTime))
	if _, err := r.router.Write(bytes.Join(asBytes(ms), nil)); err != nil {
		t.Fatalf("the router writes: %v", err)
	}
}

func asBytes(ms []message) (b [][]byte) {
	for _, m := range ms {
		b = append(b, m)
	}
	return b
}

// establish takes the session to where the router has our routes.
func (r *rig) establish(t *testing.T, o open) {
	t.Helper()
	r.await(t, typeOpen)
	r.write(t, o.message())
	r.await(t, typeKeepalive)
	r.write(t, keepalive)
	r.await(t, typeUpdate)
}

// end waits for the end of the session.
func (r *rig) end(t *testing.T) *closed {
	t.Helper()
	select {
	case err := <-r.ended:
		var c *closed
		if !errors.As(err, &c) {
			t.Fatalf("ended with %v, want a *closed", err)
		}
		return c
	case <-time.After(inTime):
		t.Fatal("the session does not end")
		return nil
	}
}

// alive proves that both directions of the session work still: gobgp answers a ROUTE-REFRESH with its routes.
func (r *rig) alive(t *testing.T) {
	t.Helper()
	r.write(t, refreshOf(IPv4))
	r.await(t, typeUpdate)
}

func TestSession(t *testing.T) {
	s := newServer(t)
	r := newRig(t, s, ourOffer)
	ours, err := parseOpen(r.await(t, typeOpen).body())
	if err != nil {
		t.Fatal(err)
	}
	if ours.as != 65001 || ours.hold != 90 || ours.id != nodeID || !ours.fourOctetAS || !ours.routeRefresh || len(ours.families) != 2 {
		t.Errorf("our OPEN: %+v", ours)
	}
	r.write(t, theirs.message(), keepalive)
	r.await(t, typeUpdate)
	select {
	case <-r.up:
	default:
		t.Error("an UPDATE before up")
	}
	r.write(t, update(cat(origin, asPath, nextHop), net24, net24))
	r.alive(t)
	if n := r.dropped.Load(); n != 2 {
		t.Errorf("dropped %d routes, want 2", n)
	}
	r.relay.Load().cease(ceaseShutdown, "moving to the \x1b[31mother\nrack")
	m := r.lastWords(t)
	if got, want := m.body()[:2], []byte{6, 2}; !bytes.Equal(got, want) {
		t.Errorf("NOTIFICATION %v, want %v", got, want)
	}
	if c := r.end(t); !c.byUs || c.byRouter || c.malformed || c.Error() != `closed: administrative shutdown: "moving to the \x1b[31mother\nrack"` {
		t.Errorf("ended with %+v: %v", c, c)
	}
}

// lastWords reads up to the NOTIFICATION and the end behind it.
func (r *rig) lastWords(t *testing.T) message {
	t.Helper()
	for {
		if m := r.read(t); m.kind() == typeNotification {
			if _, err := r.router.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("after the NOTIFICATION: %v, want the end", err)
			}
			r.router.Close()
			return m
		}
	}
}

// The words are those that pintle status shows.
func TestHandshakeRefuses(t *testing.T) {
	with := func(change func(*open)) open { o := theirs; change(&o); return o }
	tests := []struct {
		name string
		send message
		code [2]byte
		data []byte
		want string
	}{
		{"bad peer AS", with(func(o *open) { o.as = 65010 }).message(), [2]byte{2, 2}, nil,
			"closed: bad peer AS: router says 65010, configured 65000"},
		{"bad peer AS of four octets", with(func(o *open) { o.as = 4200000000 }).message(), [2]byte{2, 2}, nil,
			"closed: bad peer AS: router says 4200000000, configured 65000"},
		{"bad identifier", with(func(o *open) { o.id = netip.IPv4Unspecified() }).message(), [2]byte{2, 3}, nil,
			"closed: bad BGP identifier: router says 0.0.0.0"},
		{"hold time 2", with(func(o *open) { o.hold = 2 }).message(), [2]byte{2, 6}, nil,
			"closed: unacceptable hold time: router says 2 s, needed at least 3 s"},
		{"hold time 0", with(func(o *open) { o.hold = 0 }).message(), [2]byte{2, 6}, nil,
			"closed: unacceptable hold time: router says 0 s, needed at least 3 s"},
		{"version", patched(theirs.message(), headerLen, 3), [2]byte{2, 1}, []byte{0, 4},
			"closed: unsupported version: router speaks 3, we speak 4"},
		{"KEEPALIVE first", keepalive, [2]byte{5, 1}, []byte{4},
			"closed: message out of order: before the OPEN: type 4"},
		{"marker", patched(theirs.message(), 3, 0), [2]byte{1, 1}, nil,
			"closed: connection not synchronized"},
		{"type", newMessage(9, nil), [2]byte{1, 3}, []byte{9},
			"closed: bad message type: type 9"},
		{"length", patched(keepalive, 17, 18), [2]byte{1, 2}, []byte{0, 18},
			"closed: bad message length: 18 in a message of type 4"},
		{"longest", patched(theirs.message(), 16, 0x10, 0x01), [2]byte{1, 2}, []byte{0x10, 0x01},
			"closed: bad message length: 4097 in a message of type 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			router, guard := tcpPair(t)
			r := &rig{router: router, ended: make(chan error, 1)}
			go func() {
				_, err := handshake(t.Context(), guard, ourOffer)
				guard.Close()
				r.ended <- err
			}()
			r.await(t, typeOpen)
			r.write(t, tt.send)
			m := r.lastWords(t)
			if got := [2]byte(m.body()); got != tt.code || !bytes.Equal(m.body()[2:], tt.data) {
				t.Errorf("NOTIFICATION %v %v, want %v %v", got, m.body()[2:], tt.code, tt.data)
			}
			if c := r.end(t); c.Error() != tt.want || !c.byUs || c.code != tt.code[0] || c.subcode != tt.code[1] {
				t.Errorf("ended with %+v: %q, want %q", c, c, tt.want)
			}
		})
	}
}

// patched is m with other bytes at a place.
func patched(m message, at int, b ...byte) message {
	m = bytes.Clone(m)
	copy(m[at:], b)
	return m
}

func TestHandshakeEnds(t *testing.T) {
	tests := []struct {
		name string
		do   func(router *net.TCPConn, cancel func())
		want string
		by   closed
	}{
		{"the router says why", func(c *net.TCPConn, _ func()) {
			c.Write(newMessage(typeNotification, []byte{2, 2, 0xfd, 0xe9}))
		}, "peer closed: bad peer AS: the router expects another AS than 65001", closed{byRouter: true, code: 2, subcode: 2}},
		{"the router shuts down", func(c *net.TCPConn, _ func()) {
			c.Write(newMessage(typeNotification, append([]byte{6, 2}, communication(2, "maintenance")...)))
		}, `peer closed: administrative shutdown: "maintenance"`, closed{byRouter: true, code: 6, subcode: 2}},
		{"the router closes", func(c *net.TCPConn, _ func()) { c.Close() },
			"peer closed: the router closed the connection without a word; it may not have this node as a neighbor by the address 127.0.0.1", closed{byRouter: true}},
		{"half a message", func(c *net.TCPConn, _ func()) { c.Write(keepalive[:18]); c.Close() },
			"peer closed: the router closed the connection in the middle of a message; it may not have this node as a neighbor by the address 127.0.0.1", closed{byRouter: true}},
		{"we stop", func(_ *net.TCPConn, cancel func()) { cancel() },
			"closed: administrative shutdown", closed{byUs: true, code: 6, subcode: 2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			router, guard := tcpPair(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				router.SetDeadline(time.Now().Add(inTime))
				readMessage(router, make([]byte, maxMessage)) // our OPEN: with that unread a close would be a reset
				tt.do(router, cancel)
			}()
			_, err := handshake(ctx, guard, ourOffer)
			var c *closed
			if !errors.As(err, &c) || c.Error() != tt.want {
				t.Fatalf("ended with %q, want %q", err, tt.want)
			}
			if c.byRouter != tt.by.byRouter || c.byUs != tt.by.byUs || c.code != tt.by.code || c.subcode != tt.by.subcode || c.malformed {
				t.Errorf("ended with %+v, want %+v", c, tt.by)
			}
		})
	}
}

// What a router does in a session, and how it ends.
func TestRelayEnds(t *testing.T) {
	s := newServer(t)
	tests := []struct {
		name string
		hold uint16
		do   func(t *testing.T, r *rig)
		want string
		wire []byte // the NOTIFICATION that the router gets
		by   closed
	}{
		{"the router shuts down", 90, func(t *testing.T, r *rig) {
			r.write(t, newMessage(typeNotification, append([]byte{6, 2}, communication(2, "maintenance")...)))
		}, `peer closed: administrative shutdown: "maintenance"`, nil, closed{byRouter: true, code: 6, subcode: 2}},
		{"the router closes", 90, func(_ *testing.T, r *rig) { r.router.CloseWrite() },
			"peer closed: the router closed the connection without a word", nil, closed{byRouter: true}},
		{"BFD", 90, func(_ *testing.T, r *rig) { r.relay.Load().cease(ceaseBFDDown, "not for the router") },
			"closed: BFD down", []byte{6, 10}, closed{byUs: true, code: 6, subcode: 10}},
		{"a second OPEN", 90, func(t *testing.T, r *rig) { r.write(t, theirs.message()) },
			"closed: message out of order: in an established session: type 1", []byte{5, 3, 1}, closed{byUs: true, malformed: true, code: 5, subcode: 3}},
		{"silence", 3, func(*testing.T, *rig) {},
			"closed: hold timer expired: nothing from the router for 3s", []byte{4, 0}, closed{byUs: true, code: 4}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, o := newRig(t, s, ourOffer), theirs
			o.hold = tt.hold
			r.establish(t, o)
			tt.do(t, r)
			if tt.wire != nil {
				if got := r.lastWords(t).body(); !bytes.Equal(got, tt.wire) {
					t.Errorf("NOTIFICATION %v, want %v", got, tt.wire)
				}
			}
			c := r.end(t)
			if c.Error() != tt.want || c.byRouter != tt.by.byRouter || c.byUs != tt.by.byUs || c.malformed != tt.by.malformed ||
				c.code != tt.by.code || c.subcode != tt.by.subcode {
				t.Errorf("ended with %+v: %q, want %+v: %q", c, c, tt.by, tt.want)
			}
		})
	}
}

// UPDATEs alone keep a session up (RFC 4271 8.2.2), without a KEEPALIVE and for longer than the hold time.
func TestUpdatesAreSigns(t *testing.T) {
	r, o := newRig(t, newServer(t), ourOffer), theirs
	o.hold = 3
	r.establish(t, o)
	go io.Copy(io.Discard, r.router)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); time.Since(begin) < 5*time.Second; <-tick.C {
		r.write(t, update(cat(origin, asPath, nextHop), net24))
	}
	select {
	case err := <-r.ended:
		t.Fatalf("ended: %v", err)
	default:
	}
}

// A router may ask for all routes as often as it likes; gobgp is asked once a second, and not for nothing.
func TestRefreshFlood(t *testing.T) {
	r := newRig(t, newServer(t), ourOffer)
	r.establish(t, theirs)
	before := r.sent.Load()
	const flood = 2000
	begin := time.Now()
	for range flood {
		r.write(t, refreshOf(IPv4))
	}
	r.await(t, typeUpdate) // the first, at once
	for r.sent.Load() < before+2 {
		r.await(t, typeUpdate) // and one for all others
	}
	if n, most := r.sent.Load()-before, 4+int64(4*time.Since(begin)/refreshPause); n > most { // each may be an UPDATE and an End-of-RIB
		t.Errorf("%d UPDATEs for %d questions in %s, want at most %d", n, flood, time.Since(begin), most)
	}
}

// A router that asks for all routes and does not read them is not sent more than it takes: gobgp's queue has no bound.
func TestRefreshWithoutReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		router, guard := net.Pipe()
		inner, gobgp := net.Pipe()
		e := &relay{router: guard, inner: inner, agreed: agreed(t), up: func() {}, sent: func([]byte) {}, dropped: func(int) {}}
		ended := make(chan error, 1)
		go func() { ended <- e.run(t.Context()) }()
		out := make(chan message, 1000)
		go func() {
			for m := range out {
				gobgp.Write(m)
			}
		}()
		defer close(out)
		out <- ourOffer.open().message()
		out <- keepalive
		var asked atomic.Int32
		go func() {
			for buf := make([]byte, maxMessage); ; {
				m, err := readMessage(gobgp, buf)
				if err != nil {
					return
				}
				if m.kind() == typeRefresh {
					asked.Add(1)
					out <- newMessage(typeUpdate, make([]byte, 4))
				}
			}
		}()
		if m, err := readMessage(router, make([]byte, maxMessage)); err != nil || m.kind() != typeKeepalive {
			t.Fatal(m, err)
		}
		router.Write(keepalive)
		for range 20 {
			router.Write(refreshOf(IPv4))
			time.Sleep(refreshPause)
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("gobgp was asked %d times by a router that reads nothing", n)
		}
		go io.Copy(io.Discard, router)
		time.Sleep(3 * refreshPause)
		if n := asked.Load(); n != 2 {
			t.Errorf("gobgp was asked %d times when the router read again", n)
		}
		router.Close()
		<-ended
		gobgp.Close()
	})
}

// A router that no longer reads does not keep us from stopping.
func TestCeaseWithoutReader(t *testing.T) {
	router, guard := tcpPair(t)
	inner, gobgp := tcpPair(t)
	e := &relay{router: guard, inner: inner, agreed: agreed(t), up: func() {}, sent: func([]byte) {}, dropped: func(int) {}}
	ended := make(chan error, 1)
	go func() { ended <- e.run(t.Context()) }()
	go func() {
		gobgp.Write(theirs.message())
		for err := error(nil); err == nil; {
			_, err = gobgp.Write(newMessage(typeUpdate, make([]byte, maxMessage-headerLen)))
		}
	}()
	stuck(t, router)
	begin := time.Now()
	e.cease(ceaseShutdown, "")
	select {
	case err := <-ended:
		var c *closed
		if !errors.As(err, &c) || c.code != codeCease || c.subcode != ceaseShutdown {
			t.Errorf("ended with %v after %s", err, time.Since(begin))
		}
	case <-time.After(inTime):
		t.Fatal("cease hangs")
	}
}

// agreed is what ourOffer and theirs come to.
func agreed(t testing.TB) agreement {
	t.Helper()
	o, err := parseOpen(theirs.message().body())
	if err != nil {
		t.Fatal(err)
	}
	a, err := ourOffer.agree(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// The waits that nobody wants to sit through.
func TestGuardTimers(t *testing.T) {
	var got struct {
		code  [2]byte
		end   *closed
		after time.Duration
	}
	// from reads as the router until the end, and notes the NOTIFICATION.
	from := func(router net.Conn) {
		for buf := make([]byte, maxMessage); ; {
			m, err := readMessage(router, buf)
			if err != nil {
				return
			}
			if m.kind() == typeNotification {
				got.code = [2]byte(m.body())
			}
		}
	}
	run := func(silent bool) {
		router, guard := net.Pipe()
		inner, gobgp := net.Pipe()
		r := &relay{router: guard, inner: inner, agreed: agreed(t), up: func() {}, sent: func([]byte) {}, dropped: func(int) {}}
		if silent {
			go from(router)
		}
		go io.Copy(io.Discard, gobgp)
		go gobgp.Write(cat(ourOffer.open().message(), keepalive))
		errors.As(r.run(context.Background()), &got.end)
		router.Close()
		gobgp.Close()
	}
	tests := []struct {
		name string
		do   func()
		code [2]byte
		want string
		wait time.Duration
	}{
		{"no OPEN", func() {
			router, guard := net.Pipe()
			go from(router)
			_, err := handshake(context.Background(), guard, ourOffer)
			errors.As(err, &got.end)
			guard.Close()
		}, [2]byte{4, 0}, "closed: hold timer expired: no OPEN from the router for 30s; if only one side checks the TTL (GTSM), it looks like this", openTimeout},
		{"a silent router, and a gobgp that does not notice", func() { run(true) },
			[2]byte{4, 0}, "closed: hold timer expired: nothing from the router for 1m30s", 92 * time.Second},
		{"a router that does not read", func() { run(false) },
			[2]byte{}, "closed: send hold timer expired: the router took nothing for 1m30s", 90 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got.code, got.end = [2]byte{}, nil
				begin := time.Now()
				tt.do()
				got.after = time.Since(begin)
				synctest.Wait()
				if got.code != tt.code || got.end == nil || got.end.Error() != tt.want || got.after != tt.wait {
					t.Errorf("NOTIFICATION %v, %v after %s; want %v, %s after %s", got.code, got.end, got.after, tt.code, tt.want, tt.wait)
				}
			})
		})
	}
}

// stuck waits until nothing more arrives in the socket's buffer, which nobody reads.
func stuck(t *testing.T, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	last, since := -1, time.Now()
	for time.Since(since) < 500*time.Millisecond {
		var n int
		if err := control(raw, func(fd int) (err error) { n, err = unread(fd); return err }); err != nil {
			t.Fatal(err)
		}
		if n != last {
			last, since = n, time.Now()
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// unread is how much is in the socket's buffer.
func unread(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.SIOCINQ) }

// The cases that were found against gobgp v3.37.0, four of which end its process. A case is what the router
// sends instead of its OPEN, or in an established session.
func TestMalformed(t *testing.T) {
	s := newServer(t)
	other := newRig(t, newServer(t), ourOffer)
	other.establish(t, theirs)
	for _, tt := range malformed() {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, s, ourOffer)
			if tt.before != nil {
				r.await(t, typeOpen)
				r.write(t, tt.before)
			} else {
				o := theirs
				o.fourOctetAS = !tt.twoOctets
				r.establish(t, o)
				r.write(t, tt.m)
			}
			if tt.code != [2]byte{} {
				m := r.lastWords(t)
				if got := [2]byte(m.body()); got != tt.code {
					t.Errorf("NOTIFICATION %v, want %v", got, tt.code)
				}
				if c := r.end(t); !c.byUs || !c.malformed || [2]byte{c.code, c.subcode} != tt.code {
					t.Errorf("ended with %+v", c)
				}
				return
			}
			if tt.before != nil {
				r.write(t, keepalive)
				r.await(t, typeUpdate)
			}
			r.alive(t)
			if n := int(r.dropped.Load()); n != tt.routes {
				t.Errorf("dropped %d routes, want %d", n, tt.routes)
			}
			r.relay.Load().cease(ceaseReset, "")
			r.end(t)
		})
		// The session of another router is as it was.
		select {
		case err := <-other.ended:
			t.Fatalf("the session of another router ended: %v", err)
		default:
		}
	}
	other.alive(t)
}

type malformation struct {
	name      string
	before    message
	m         message
	twoOctets bool
	code      [2]byte // zero: the session goes on
	routes    int
}

func update(attrs []byte, nlri ...[]byte) message {
	b := binary.BigEndian.AppendUint16([]byte{0, 0}, uint16(len(attrs)))
	return newMessage(typeUpdate, append(append(b, attrs...), cat(nlri...)...))
}

func attr(flags, kind byte, v ...byte) []byte {
	return append([]byte{flags, kind, byte(len(v))}, v...)
}

func cat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

var (
	origin  = attr(0x40, 1, 0)
	asPath  = attr(0x40, 2, 2, 1, 0, 0, 0xfd, 0xe8)
	nextHop = attr(0x40, 3, 10, 10, 9, 1)
	net24   = []byte{24, 192, 0, 2}
)

func malformed() []malformation {
	valid := func(more ...[]byte) message { return update(cat(origin, asPath, nextHop, cat(more...)), net24) }
	opened := func(params ...byte) message {
		return newMessage(typeOpen, append([]byte{4, 0xfd, 0xe8, 0, 90, 10, 10, 9, 1, byte(len(params))}, params...))
	}
	raw := func(length byte, attrs []byte, nlri []byte) message {
		return newMessage(typeUpdate, cat([]byte{0, 0, 0, length}, attrs, nlri))
	}
	mp := func(v ...byte) []byte { return attr(0x80, 14, v...) }
	return []malformation{
		{name: "a valid UPDATE", m: valid(), routes: 1},
		{name: "unknown well-known attribute (CVE-2026-41642)", m: valid(attr(0x40, 0xfa, 1)), routes: 1},
		{name: "ORIGIN without transitive flag", m: update(cat(attr(0, 1, 0), asPath, nextHop), net24), routes: 1},
		{name: "AS4_PATH before AS_PATH, router of two octets (CVE-2026-41643)", twoOctets: true, routes: 1,
			m: update(cat(origin, attr(0xc0, 17, 2, 1, 0, 0, 0xfd, 0xe8), attr(0x40, 2, 2, 1, 0xfd, 0xe8), nextHop), net24)},
		{name: "AS4_PATH first, AS_PATH last, router of two octets", twoOctets: true, routes: 1,
			m: update(cat(attr(0xc0, 17, 2, 1, 0, 0, 0xfd, 0xe8), origin, nextHop, attr(0x40, 2, 2, 1, 0xfd, 0xe8)), net24)},
		{name: "NEXT_HOP of two octets (CVE-2026-30405)", routes: 1,
			m: newMessage(typeUpdate, []byte{0, 0, 0, 13, 0x40, 1, 1, 2, 0x40, 2, 0, 0x40, 3, 2, 1, 2, 1, 24, 192, 168, 1})},
		{name: "attribute longer than the rest (CVE-2026-42285)", routes: 1,
			m: raw(20, cat(attr(0x40, 1, 0), asPath, []byte{0x40, 3, 9, 10, 10, 9, 1}), net24)},
		{name: "attributes end in a header (CVE-2026-37462)", routes: 3,
			m: raw(15, cat(attr(0x40, 1, 0), asPath, nextHop), net24)},
		{name: "unknown message type", m: newMessage(0xff, nil), code: [2]byte{1, 3}},
		{name: "unknown message type before the OPEN", before: newMessage(0xff, nil), code: [2]byte{1, 3}},
		{name: "Prefix-SID with unknown SRv6 sub-TLV (CVE-2026-7734)", m: valid(attr(0xc0, 40, 5, 0, 7, 0, 0xff, 0, 3, 1, 2, 3)), routes: 1},
		{name: "AIGP too short (CVE-2026-7735)", m: valid(attr(0x80, 26, 1, 0, 2)), routes: 1},
		{name: "AIGP of length 0", m: valid(attr(0x80, 26, 1, 0, 0)), routes: 1},
		{name: "empty AS_PATH", m: update(cat(origin, attr(0x40, 2), nextHop), net24), routes: 1},
		{name: "OPEN with an empty 4-octet AS capability (GHSA-gjrg-jjr3-56cm)", before: opened(2, 2, 65, 0), code: [2]byte{2, 0}},
		{name: "OPEN with a short FQDN capability (CVE-2026-5122)", before: opened(2, 5, 73, 3, 1, 'a', 200)},
		{name: "OPEN with an empty software version", before: opened(2, 3, 75, 1, 0)},
		{name: "MP_REACH_NLRI with a next hop of length 0", routes: 1,
			m: update(cat(origin, asPath, mp(0, 2, 1, 0, 0, 128, 0xfd, 0, 0, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)))},
		{name: "MP_REACH_NLRI with a prefix of 255 bits",
			m: update(cat(origin, asPath, mp(0, 2, 1, 16, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 255, 1, 2)))},
		{name: "NOTIFICATION of 19 octets", m: newMessage(typeNotification, nil), code: [2]byte{1, 2}},
		{name: "ROUTE-REFRESH too short", m: newMessage(typeRefresh, []byte{0, 1}), code: [2]byte{1, 2}},
		{name: "large community of 5 octets", m: valid(attr(0xc0, 32, 1, 2, 3, 4, 5)), routes: 1},
		{name: "extended community of 3 octets", m: valid(attr(0xc0, 16, 1, 2, 3)), routes: 1},
		{name: "tunnel encapsulation garbage", m: valid(attr(0xc0, 23, 0, 15, 0, 9, 128, 0, 200, 1, 2)), routes: 1},
		{name: "BGP-LS garbage", m: valid(attr(0x80, 29, 4, 1, 0, 40, 1)), routes: 1},

		{name: "withdrawn routes longer than the message", m: newMessage(typeUpdate, []byte{0, 9, 0, 0}), code: [2]byte{3, 1}},
		{name: "attributes longer than the message", m: newMessage(typeUpdate, []byte{0, 0, 0, 9, 1, 2}), code: [2]byte{3, 1}},
		{name: "IPv4 prefix of 33 bits", m: update(cat(origin, asPath, nextHop), []byte{33, 1, 2, 3, 4, 5}), code: [2]byte{3, 10}},
		{name: "IPv4 prefix cut off", m: update(cat(origin, asPath, nextHop), []byte{24, 1, 2}), code: [2]byte{3, 10}},
		{name: "KEEPALIVE of 20 octets", m: newMessage(typeKeepalive, []byte{0}), code: [2]byte{1, 2}},
		{name: "ROUTE-REFRESH of an unknown family", m: newMessage(typeRefresh, []byte{0, 25, 0, 70})},
		{name: "ROUTE-REFRESH of an unknown subtype", m: newMessage(typeRefresh, []byte{0, 1, 77, 1})},
	}
}
