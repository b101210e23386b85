package bfd

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// What a peer may not be, and that the error says which one, what, and what would be right.
func TestPeerIsChecked(t *testing.T) {
	a4, b4 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	a6, b6 := netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("fe80::2")
	for _, c := range []struct {
		change func(p *Peer)
		why    string // "": fine
	}{
		{func(p *Peer) {}, ""},
		{func(p *Peer) { p.Local, p.Remote = a6, b6 }, ""},
		{func(p *Peer) { p.Interval, p.Multiplier = 50*ms, 50 }, ""},
		{func(p *Peer) { p.Interval, p.Multiplier = 10*time.Second, 2 }, ""},
		{func(p *Peer) { p.Link, p.MultihopTTL = "", 255 }, ""},
		{func(p *Peer) { p.Auth = &Auth{Key: strings.Repeat("x", 20)} }, ""},
		{func(p *Peer) { p.Name = "" }, "it needs a name"},
		{func(p *Peer) { p.Local = netip.Addr{} }, "local address invalid IP: an address of this node is needed"},
		{func(p *Peer) { p.Local = netip.IPv4Unspecified() }, "local address 0.0.0.0: an address of this node is needed"},
		{func(p *Peer) { p.Remote = netip.MustParseAddr("224.0.0.1") }, "remote address 224.0.0.1: the address of the neighbour is needed"},
		{func(p *Peer) { p.Remote = b6 }, "both must be IPv4 or both IPv6"},
		{func(p *Peer) { p.Remote = a4 }, "remote address 192.0.2.1: it is the local one"},
		{func(p *Peer) { p.Link = "" }, "a single-hop session needs a link"},
		{func(p *Peer) { p.MultihopTTL = 2 }, `link "eth0": a multihop session has none`},
		{func(p *Peer) { p.Local, p.Remote, p.Link, p.MultihopTTL = a6.WithZone(""), b6, "", 2 }, "reach one hop only"},
		{func(p *Peer) { p.Local, p.Remote, p.Link = a6, b6, "eth1" }, `its zone must be the link "eth1"`},
		{func(p *Peer) { p.Link = "sixteen-letters-" }, "at most 15 bytes"},
		{func(p *Peer) { p.Interval = 49 * ms }, "interval 49ms: it must be from 50ms to 10s"},
		{func(p *Peer) { p.Interval = 10*time.Second + 1 }, "it must be from 50ms to 10s"},
		{func(p *Peer) { p.Multiplier = 1 }, "multiplier 1: it must be from 2 to 50"},
		{func(p *Peer) { p.Multiplier = 51 }, "multiplier 51: it must be from 2 to 50"},
		{func(p *Peer) { p.Auth = &Auth{} }, "key of 0 bytes: it must have 1 to 20"},
		{func(p *Peer) { p.Auth = &Auth{Key: strings.Repeat("x", 21)} }, "key of 21 bytes: it must have 1 to 20"},
	} {
		p := to("router", a4, b4)
		c.change(&p)
		switch err := p.check(); {
		case c.why == "" && err != nil:
			t.Errorf("%v", err)
		case c.why != "" && (err == nil || !strings.Contains(err.Error(), c.why) || !strings.HasPrefix(err.Error(), "BFD peer ")):
			t.Errorf("%v, not %q", err, c.why)
		}
		if err := p.check(); err != nil && strings.Contains(err.Error(), "xxx") {
			t.Error("the key is told")
		}
	}
}

// Set does what it can, and touches nothing of what it cannot.
func TestSet(t *testing.T) {
	s := New(Config{})
	a := netip.MustParseAddr("192.0.2.1")
	one, two := to("one", a, netip.MustParseAddr("192.0.2.2")), to("two", a, netip.MustParseAddr("192.0.2.3"))
	names := func() string {
		var all []string
		for _, st := range s.Status() {
			all = append(all, st.Name)
		}
		return strings.Join(all, " ")
	}
	if err := s.Set(t.Context(), []Peer{two, one}); err != nil || names() != "one two" {
		t.Fatalf("%v, %s", err, names())
	}
	if st := s.Status()[0]; st.State != Down || st.Error != "" || st.Detected != 3*time.Second {
		t.Errorf("%+v", st)
	}

	bad := one
	bad.Multiplier = 0
	same := two
	same.Name = "same"
	again := two
	again.Remote = netip.MustParseAddr("192.0.2.4")
	err := s.Set(t.Context(), []Peer{bad, two, same, again})
	for _, want := range []string{`BFD peer "one": multiplier 0`, `BFD peer "same": 192.0.2.1 with 192.0.2.3 on eth0 is peer "two" already`, `BFD peer "two": the name is given twice`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, not %s", err, want)
		}
	}
	if names() != "one two" {
		t.Errorf("%s", names())
	}
	heir := one // of a session that stays, since what is wanted of it is wrong
	heir.Name = "heir"
	if err := s.Set(t.Context(), []Peer{bad, two, heir}); err == nil || !strings.Contains(err.Error(), `is peer "one" already`) || names() != "one two" {
		t.Errorf("%v, %s", err, names())
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Set(ended, nil); err == nil || names() != "one two" {
		t.Errorf("%v, %s", err, names())
	}
	if err := s.Set(t.Context(), nil); err != nil || names() != "" {
		t.Errorf("%v, %s", err, names())
	}
}
