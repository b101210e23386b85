package bgp

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pintle-lb/pintle/bgp/bfd"
)

func TestCheckConfig(t *testing.T) {
	for name, tt := range map[string]struct {
		config Config
		says   string
	}{
		"good":         {Config{AS: 65001, RouterID: id}, ""},
		"no AS":        {Config{RouterID: id}, "RFC 7607"},
		"AS_TRANS":     {Config{AS: 23456, RouterID: id}, "RFC 6793"},
		"last AS":      {Config{AS: 4294967295, RouterID: id}, "RFC 7300"},
		"no router ID": {Config{AS: 65001}, "router ID"},
		"IPv6 ID":      {Config{AS: 65001, RouterID: nodeAddr6}, "router ID fd09::1"},
		"no port":      {Config{AS: 65001, RouterID: id, Listen: netip.AddrPortFrom(nodeAddr, 0)}, "needs a port"},
	} {
		_, err := New(tt.config)
		if (err != nil) != (tt.says != "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", name, err, tt.says)
		}
	}
}

func TestCheckPeers(t *testing.T) {
	good := Peer{Name: "r1", Address: routerAddr, AS: routerAS}
	change := func(f func(*Peer)) []Peer {
		p := good
		f(&p)
		return []Peer{p}
	}
	for name, tt := range map[string]struct {
		peers []Peer
		says  string
	}{
		"good":              {[]Peer{good}, ""},
		"unnumbered":        {[]Peer{{Name: "u", Interface: "eth0"}}, ""},
		"no name":           {change(func(p *Peer) { p.Name = "" }), "peer number 1: has no name"},
		"two of a name":     {[]Peer{good, good}, "two with this name"},
		"same router":       {[]Peer{good, {Name: "r2", Address: routerAddr, AS: 65010}}, "peer r2: the same router as r1"},
		"no place":          {change(func(p *Peer) { p.Address = netip.Addr{} }), "give one of them"},
		"two places":        {change(func(p *Peer) { p.Interface = "eth0" }), "give one of them"},
		"multicast":         {change(func(p *Peer) { p.Address = netip.MustParseAddr("224.0.0.1") }), "not of a router"},
		"no link":           {change(func(p *Peer) { p.Address = routerLink6 }), "needs the link"},
		"other family":      {change(func(p *Peer) { p.LocalAddress = nodeAddr6 }), "not of the same family"},
		"AS":                {change(func(p *Peer) { p.AS = 65535 }), "AS 65535"},
		"local AS":          {change(func(p *Peer) { p.LocalAS = 23456 }), "local AS 23456"},
		"GTSM and multihop": {change(func(p *Peer) { p.GTSM, p.Multihop = true, 2 }), "gtsm with multihop 2"},
		"passive":           {change(func(p *Peer) { p.Passive = true }), "listens nowhere"},
		"hold":              {change(func(p *Peer) { p.Hold = time.Second }), "hold time 1s: 3s to"},
		"keepalive":         {change(func(p *Peer) { p.Keepalive = 5 * time.Second }), "keepalive 5s"},
		"retry":             {change(func(p *Peer) { p.ConnectRetry = time.Millisecond }), "connect retry 1ms"},
		"families":          {change(func(p *Peer) { p.Families = []Family{IPv4, IPv4} }), "families"},
		"no families":       {change(func(p *Peer) { p.Families = []Family{} }), "families: none"},
		"next hop":          {change(func(p *Peer) { p.NextHop6 = nodeAddr }), "IPv6 next hop 10.9.0.1"},
		"communities":       {change(func(p *Peer) { p.Communities = make([]uint32, 101) }), "101 communities"},
		"BFD interval":      {change(func(p *Peer) { p.BFD = &BFD{Interval: time.Millisecond} }), "bfd interval 1ms: 50ms to"},
		"BFD multiplier":    {change(func(p *Peer) { p.BFD = &BFD{Multiplier: 1} }), "bfd multiplier 1"},
		"BFD key":           {change(func(p *Peer) { p.BFD = &BFD{Auth: &bfd.Auth{}} }), "bfd key"},
	} {
		err := checkPeers(Config{AS: nodeAS}, tt.peers)
		if (err != nil) != (tt.says != "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", name, err, tt.says)
		}
	}
}

// TestSameSession: what a session survives, and what not.
func TestSameSession(t *testing.T) {
	a := Peer{Name: "r", Address: routerAddr, AS: routerAS, Families: []Family{IPv4}}
	for name, tt := range map[string]struct {
		change func(*Peer)
		want   bool
	}{
		"nothing":    {func(*Peer) {}, true},
		"attributes": {func(p *Peer) { p.Communities = []uint32{1} }, true},
		"BFD":        {func(p *Peer) { p.BFD = &BFD{} }, true},
		"next hop":   {func(p *Peer) { p.NextHop4 = nodeAddr }, true},
		"hold":       {func(p *Peer) { p.Hold = 3 * time.Second }, false},
		"families":   {func(p *Peer) { p.Families = nil }, false},
		"password":   {func(p *Peer) { p.PasswordFile = "x" }, false},
	} {
		b := a
		tt.change(&b)
		if got := sameSession(a, b); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestOneRouter(t *testing.T) {
	other := netip.MustParseAddr("fe80::7")
	if _, _, err := oneRouter("eth0", nil, nodeLink6); err == nil || !strings.Contains(err.Error(), "no router on link eth0") {
		t.Errorf("none: %v", err)
	}
	got, local, err := oneRouter("eth0", []netip.Addr{other}, nodeLink6.WithZone("eth0"))
	if err != nil || got != other.WithZone("eth0") || local != nodeLink6.WithZone("eth0") {
		t.Errorf("one: %s, %s, %v", got, local, err)
	}
	if _, _, err := oneRouter("eth0", []netip.Addr{routerLink6, other}, nodeLink6); err == nil || !strings.Contains(err.Error(), "fe80::7 and fe80::9:2") {
		t.Errorf("two: %v", err)
	}
}

func TestJittered(t *testing.T) {
	for range 1000 {
		if d := jittered(8 * time.Second); d < 6*time.Second || d > 8*time.Second {
			t.Fatal(d)
		}
	}
}

func TestPresent(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for name, tt := range map[string]struct {
		first, second time.Time
		want          int
	}{
		"two":                     {ago(5 * time.Second), ago(20 * time.Second), 2},
		"one in place of another": {ago(5 * time.Second), ago(time.Minute), 1},
		"one, long ago":           {ago(20 * time.Minute), ago(29 * time.Minute), 1},
		"both have gone":          {ago(31 * time.Minute), ago(31 * time.Minute), 0},
	} {
		got := present(map[netip.Addr]time.Time{routerLink6: tt.first, nodeLink6: tt.second}, now)
		if len(got) != tt.want || tt.want == 1 && got[0] != routerLink6 {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestNote: whoever makes up routers on the link does not fill our memory.
func TestNote(t *testing.T) {
	heard, now := make(map[netip.Addr]time.Time), time.Now()
	a := netip.MustParseAddr("fe80::1")
	for i := range 3 * maxHeard {
		note(heard, a, now.Add(time.Duration(i)*time.Second))
		a = a.Next()
	}
	if _, has := heard[a.Prev()]; !has || len(heard) != maxHeard {
		t.Errorf("%d are remembered, the last one: %t", len(heard), has)
	}
	note(heard, routerLink6, now.Add(heardFor+time.Hour))
	if len(heard) != 1 {
		t.Errorf("%d are remembered for ever", len(heard))
	}
}

// TestFailedStart: a gobgp that could not be started is not lost, because it never ends.
func TestFailedStart(t *testing.T) {
	p := &pool{log: slog.New(slog.DiscardHandler), as: nodeAS}
	for range 3 {
		if _, err := p.take(t.Context()); err == nil || len(p.failed) != 1 {
			t.Fatalf("%d are kept: %v", len(p.failed), err)
		}
	}
	p.id = id
	s, err := p.take(t.Context())
	must(t, err)
	defer s.close()
	if len(p.failed) != 0 {
		t.Error("it is in use, and kept for the next")
	}
}

func TestTurns(t *testing.T) {
	var turns turns
	done := turns.read()
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		turns.write()()
	}()
	turns.read()() // does not wait for the writer that waits
	select {
	case <-wrote:
		t.Fatal("the writer did not wait for the reader")
	case <-time.After(20 * time.Millisecond):
	}
	done()
	<-wrote
}

// TestSetAlone: without a router Set is done at once, and says what routers would get.
func TestSetAlone(t *testing.T) {
	s, err := New(Config{AS: nodeAS, RouterID: id})
	must(t, err)
	open, over := &left{}, &left{}
	open.set(time.Hour)
	other := netip.MustParsePrefix("192.0.2.11/32")
	for range 2 {
		have, err := s.Set(t.Context(), []Route{{Prefix: vip6}, {Prefix: vip, Gate: open}, {Prefix: other, Gate: over}})
		if err != nil || !slices.Equal(have, []netip.Prefix{vip, vip6}) {
			t.Errorf("have %v, %v", have, err)
		}
	}
	if s.want.version != 1 {
		t.Errorf("the same again was a change: version %d", s.want.version)
	}
	have, err := s.Set(t.Context(), []Route{{Prefix: vip}, {}})
	if err == nil || !slices.Equal(have, []netip.Prefix{vip}) {
		t.Errorf("have %v, %v", have, err)
	}
	if have, err := s.Set(t.Context(), nil); err != nil || len(have) != 0 {
		t.Errorf("have %v, %v", have, err)
	}
}
