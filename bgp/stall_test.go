package bgp

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// listenNarrow accepts BGP on a host, with so little room that a connection nobody reads from is full soon.
func listenNarrow(t testing.TB, host *netlab.Host, at netip.Addr) net.Listener {
	t.Helper()
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return control(c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
	}}
	var l net.Listener
	must(t, host.Do(func() (err error) {
		l, err = config.Listen(context.Background(), "tcp4", netip.AddrPortFrom(at, Port).String())
		return err
	}))
	t.Cleanup(func() { l.Close() })
	return l
}

// answer takes the next connection and agrees to everything.
func answer(t testing.TB, l net.Listener) net.Conn {
	t.Helper()
	conn, err := l.Accept()
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	buf := make([]byte, maxMessage)
	_, err = readMessage(conn, buf)
	must(t, err)
	_, err = conn.Write(open{as: routerAS, as2: routerAS, id: routerAddr, hold: 90, families: []Family{IPv4}, routeRefresh: true, fourOctetAS: true}.message())
	must(t, err)
	go func() {
		for err := error(nil); err == nil; time.Sleep(time.Second) {
			_, err = conn.Write(keepalive)
		}
	}()
	return conn
}

// full waits until the connection to the router, which does not read, takes no more, and says how many routes went into it.
func (s *running) full(t *testing.T) (n int) {
	t.Helper()
	since := time.Now()
	await(t, "the connection is full", func() bool {
		if now := len(s.peer("r").Advertised); now != n {
			n, since = now, time.Now()
		}
		return n > 0 && time.Since(since) > usual.stalled
	})
	return n
}

// TestStalled: a router that no longer reads is not waited for; its session ends, so that it has nothing from us.
func TestStalled(t *testing.T) {
	host := newLab(t)
	l := listenNarrow(t, host, routerAddr)
	s := speak(t, numberedPeer())
	conn := answer(t, l)
	s.awaitState("r", Established)
	s.set(many(20000)...)
	n := s.full(t)
	if n == 20000 {
		t.Fatal("all of it went into the sockets")
	}
	began := time.Now()
	early, cancel := context.WithTimeout(t.Context(), usual.stalled/10)
	defer cancel()
	if have, err := s.Set(early, nil); err != nil || len(have) == 0 && time.Since(began) < usual.stalled {
		t.Errorf("Set returned early, and said that the router has %d, %v", len(have), err)
	}
	have := s.set()
	took := time.Since(began)
	t.Logf("Set took %s", took)
	if len(have) != 0 {
		t.Errorf("have %d", len(have))
	}
	if took < usual.stalled/2 || took > 30*usual.stalled {
		t.Errorf("Set took %s", took)
	}
	await(t, "the end of the session", func() bool { return s.peer("r").State != Established })
	if p := s.peer("r"); len(p.Advertised) != 0 || p.Flaps != 1 {
		t.Errorf("status %+v", p)
	}
	thrownAway(t, conn, n)
}

// TestStalledGate: when a gate is over such a router's connection is reset, whether or not anybody calls Set.
func TestStalledGate(t *testing.T) {
	host := newLab(t)
	l := listenNarrow(t, host, routerAddr)
	s := speak(t, numberedPeer())
	conn := answer(t, l)
	s.awaitState("r", Established)
	gate := &left{}
	const lasts = 7 * time.Second // less than the hold time, which ends such a session too
	over := time.Now().Add(lasts)
	gate.set(lasts)
	routes := many(20000)
	for i := range routes {
		routes[i].Gate = gate
	}
	s.set(routes...)
	n := s.full(t)
	await(t, "the end of the session", func() bool { return s.peer("r").State != Established })
	t.Logf("the session ended %s after the gate", time.Since(over))
	if p := s.peer("r"); len(p.Advertised) != 0 {
		t.Errorf("status %+v", p)
	}
	thrownAway(t, conn, n)
}

// TestStalledEnd: such a router does not keep Run from ending.
func TestStalledEnd(t *testing.T) {
	host := newLab(t)
	l := listenNarrow(t, host, routerAddr)
	s := speak(t, numberedPeer())
	answer(t, l)
	s.awaitState("r", Established)
	s.set(many(20000)...)
	await(t, "routes are on their way", func() bool { return len(s.peer("r").Advertised) > 0 })
	began := time.Now()
	s.end()
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("the end took %s", took)
	}
}

// TestStalledGone: a router that is stalled, and no longer a peer, counts until it has lost the routes, by a reset.
func TestStalledGone(t *testing.T) {
	host := newLab(t)
	l := listenNarrow(t, host, routerAddr)
	s := speak(t, numberedPeer())
	conn := answer(t, l)
	s.awaitState("r", Established)
	s.set(many(20000)...)
	n := s.full(t)
	gone, began := make(chan error, 1), time.Now()
	go func() { gone <- s.SetPeers(t.Context(), nil) }()
	await(t, "the peer has left", func() bool { return len(s.Status().Peers) == 0 })
	early, cancel := context.WithTimeout(t.Context(), usual.stalled/100)
	defer cancel()
	if have, err := s.Set(early, nil); err != nil || len(have) == 0 && time.Since(began) < usual.stalled {
		t.Errorf("Set returned early, and said that the router has %d, %v", len(have), err)
	}
	must(t, <-gone)
	if have := s.set(); len(have) != 0 {
		t.Errorf("have %d", len(have))
	}
	thrownAway(t, conn, n)
}

// TestSlowKernel: a withdrawal does not wait for a kernel that is asked for next hops.
func TestSlowKernel(t *testing.T) {
	host := newLab(t)
	l := listenNarrow(t, host, routerAddr)
	speaker, err := New(Config{AS: nodeAS, RouterID: id})
	must(t, err)
	must(t, speaker.SetPeers(t.Context(), []Peer{numberedPeer()}))
	asked, slow, free := make(chan struct{}, 100), make(chan struct{}), make(chan struct{})
	speaker.peers["r"].hops = func(Peer, endpoint, agreement) map[Family]netip.Addr {
		select {
		case <-slow:
			asked <- struct{}{}
			<-free
		default:
		}
		return nil
	}
	s := runs(t, speaker)
	t.Cleanup(func() { close(free) })
	conn := answer(t, l)
	go io.Copy(io.Discard, conn)
	s.awaitState("r", Established)
	s.set(Route{Prefix: vip})
	s.awaitAdvertised("r", vip)
	close(slow)
	<-asked
	began := time.Now()
	session := speaker.peers["r"].current()
	have := s.set()
	session.mu.Lock()
	defer session.mu.Unlock()
	if len(have) != 0 || len(session.written) != 0 || session.over {
		t.Errorf("have %v after %s; the session is over: %t", have, time.Since(began), session.over)
	}
}

// thrownAway reads what there is, up to the end of the connection: not all n routes that were written to it.
func thrownAway(t testing.TB, conn net.Conn, n int) {
	t.Helper()
	got := 0
	must(t, conn.SetReadDeadline(time.Now().Add(patience)))
	for buf := make([]byte, maxMessage); ; {
		m, err := readMessage(conn, buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the connection is open")
		}
		if err != nil { // the reset, or EOF when who writes has seen that first
			break
		}
		if m.kind() == typeUpdate {
			_, reached, err := readUpdate(m)
			must(t, err)
			got += len(reached)
		}
	}
	if got >= n {
		t.Errorf("the router got all %d routes: what waited was not thrown away", got)
	}
}

// many are routes to as many addresses.
func many(n int) []Route {
	routes := make([]Route, n)
	for i := range routes {
		routes[i].Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(64 + i>>16), byte(i >> 8), byte(i)}), 32)
	}
	return routes
}

// TestPatience: it does not matter who finds that a gate is over, or what is asked for since.
func TestPatience(t *testing.T) {
	over := &left{}
	s, err := New(Config{AS: nodeAS, RouterID: id})
	must(t, err)
	set := func(routes ...Route) limits {
		t.Helper()
		_, err := s.Set(t.Context(), routes)
		must(t, err)
		return s.want.patience()
	}
	routes := many(3)
	gated := Route{Prefix: vip, Gate: over}
	over.set(time.Hour)
	set(append(routes, gated)...)
	if set(gated, routes[0]) != usual {
		t.Error("a route that is no longer wanted has no haste")
	}
	over.set(0)
	if set(routes[0]) != urgent {
		t.Error("the gate of a route was over when it was no longer wanted")
	}
	if set(routes[:2]...) != urgent {
		t.Error("another route makes what was taken away no less urgent")
	}
	if set(routes[1]) != usual {
		t.Error("what is taken away now has no gate")
	}
}
