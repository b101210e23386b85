package bgp

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"github.com/pintle-lb/pintle/bgp/bfd"
)

func strictPeer() *peer {
	cfg := numberedPeer()
	cfg.BFD = &BFD{Strict: true}
	p := newPeer(Config{AS: nodeAS, Log: slog.New(slog.DiscardHandler)}, cfg, &wanted{})
	p.watch, p.changed = func() {}, func() {}
	return p
}

func (p *peer) withholds() bool {
	_, t := p.wish(endpoint{local: nodeAddr}, agreement{families: []Family{IPv4}}, nil)
	return t.withheldBy != ""
}

// TestBFDEnds: what ends a session that is up, and what only withholds the routes.
func TestBFDEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		change          bfd.Change
		without         bool // BFD is no longer configured
		cease, withhold bool
	}{
		"down":               {bfd.Change{Old: bfd.Up, New: bfd.Down}, false, true, true},
		"the router ends it": {bfd.Change{Old: bfd.Up, New: bfd.Down, RemoteAdminDown: true}, false, false, false},
		"we end it":          {bfd.Change{Old: bfd.Up, New: bfd.AdminDown}, false, false, true},
		"late":               {bfd.Change{Old: bfd.Up, New: bfd.Down}, true, false, false},
	} {
		p, s := strictPeer(), newSession()
		s.relay = &relay{}
		s.relay.router, _ = tcpPair(t)
		s.relay.once.Do(s.relay.init)
		p.adopt(s)
		p.become(Established, "")
		p.bfdChanged(bfd.Change{Old: bfd.Init, New: bfd.Up})
		if p.withholds() {
			t.Errorf("%s: routes are withheld before", name)
		}
		if tt.without {
			p.cfg.BFD = nil
		}
		p.bfdChanged(tt.change)
		if got := len(s.relay.stops) == 1; got != tt.cease {
			t.Errorf("%s: the session ends: %t", name, got)
		}
		if got := p.withholds(); got != tt.withhold {
			t.Errorf("%s: routes are withheld: %t", name, got)
		}
		p.beginPath()
		if got := p.withholds(); got != !tt.without {
			t.Errorf("%s: routes are withheld in the next session: %t", name, got)
		}
	}
}

// TestBFDIs: a peer learns the state of a BFD session that was there before it; what it heard later counts more.
func TestBFDIs(t *testing.T) {
	p := strictPeer()
	p.bfdIs(bfd.Init)
	if !p.withholds() {
		t.Error("up, by a session that is not")
	}
	p.bfdIs(bfd.Up)
	p.beginPath()
	if p.withholds() || len(p.kick) != 1 {
		t.Error("it does not know that BFD is up")
	}
	p.bfdChanged(bfd.Change{Old: bfd.Up, New: bfd.Down})
	p.bfdIs(bfd.Up)
	if !p.withholds() {
		t.Error("old news count")
	}
}

// TestAcceptFresh: a connection that came too late for one session is not the next one's.
func TestAcceptFresh(t *testing.T) {
	l, err := listen(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	must(t, err)
	defer l.socket.Close()
	p := strictPeer()
	p.listener = l
	old, _ := tcpPair(t)
	p.incoming <- old
	e := endpoint{remote: netip.MustParseAddrPort("127.0.0.1:179"), ttl: 64}
	got := make(chan net.Conn, 1)
	go func() {
		conn, err := p.accept(t.Context(), e)
		if err != nil {
			t.Error(err)
		}
		got <- conn
	}()
	await(t, "the listener expects the router", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.expected) == 1
	})
	go l.run(t.Context())
	router, err := net.Dial("tcp", l.socket.Addr().String())
	must(t, err)
	defer router.Close()
	conn := <-got
	defer conn.Close()
	if conn.RemoteAddr().String() != router.LocalAddr().String() {
		t.Errorf("a connection from %s", conn.RemoteAddr())
	}
	if _, err := old.Write([]byte{0}); err == nil {
		t.Error("the old connection is open")
	}
}
