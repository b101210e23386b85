package bfd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// newLab makes a lab, or skips the test where that is not possible.
func newLab(t testing.TB, nodes int) *netlab.Lab {
	t.Helper()
	lab, err := netlab.New(netlab.Options{Nodes: nodes, IPv6: true})
	if err != nil {
		if os.Getenv("LAB") == "require" || !errors.Is(err, unix.EPERM) {
			t.Fatal(err)
		}
		t.Skipf("this test makes network namespaces: %v", err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	return lab
}

// await waits until ok holds.
func await(t testing.TB, within time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > within {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(began)
}

// A station is a Speaker that runs on a host, and what it told.
type station struct {
	*Speaker
	t    testing.TB
	stop context.CancelFunc
	done chan struct{}

	mu      sync.Mutex
	changes []told
}

type told struct {
	Change
	peer string
	at   time.Time
}

// inhabit runs a Speaker on host until the test ends or stop is called.
func inhabit(t testing.TB, host *netlab.Host, peers ...Peer) *station {
	t.Helper()
	st := &station{t: t, done: make(chan struct{})}
	st.Speaker = New(Config{OnChange: st.note})
	var ctx context.Context
	ctx, st.stop = context.WithCancel(t.Context())
	st.want(peers...)
	go func() {
		defer close(st.done)
		if err := host.Do(func() error { return st.Run(ctx) }); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	t.Cleanup(st.end)
	return st
}

func (s *station) note(peer string, c Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes = append(s.changes, told{Change: c, peer: peer, at: time.Now()})
}

func (s *station) told() []told {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.changes)
}

// end stops the Speaker, which is to say farewell in a moment.
func (s *station) end() {
	s.stop()
	select {
	case <-s.done:
	case <-time.After(10 * time.Second):
		s.t.Error("the speaker did not end")
	}
}

func (s *station) want(peers ...Peer) {
	s.t.Helper()
	if err := s.Set(context.Background(), peers); err != nil {
		s.t.Fatal(err)
	}
}

func (s *station) status(name string) Status {
	for _, st := range s.Status() {
		if st.Name == name {
			return st
		}
	}
	return Status{}
}

func (s *station) is(name string, want State) func() bool {
	return func() bool { return s.status(name).State == want }
}

func (s *station) awaitUp(name string) {
	s.t.Helper()
	defer func() {
		if s.t.Failed() {
			s.t.Logf("%+v", s.status(name))
		}
	}()
	await(s.t, 10*time.Second, name+" is Up", s.is(name, Up))
}

// to is a single-hop peer at 3 x 100 ms.
func to(name string, local, remote netip.Addr) Peer {
	return Peer{Name: name, Local: local, Remote: remote, Link: "eth0", Interval: 100 * time.Millisecond, Multiplier: 3}
}

// patient is a peer that is not down because this process, which speaks for both sides, stood still for a moment.
func patient(p Peer) Peer {
	p.Multiplier = 20
	return p
}

func far(p Peer) Peer {
	p.Name, p.Link, p.MultihopTTL = p.Name+"-far", "", 2
	return p
}

func with(p Peer, a *Auth) Peer {
	p.Auth = a
	return p
}

// linkLocal is a host's link-local address, as the lab gives it.
func linkLocal(n *netlab.Node) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 14: 0x77, 15: n.Number()})
}

// Two speakers: every kind of session comes up, settles, notices a silent cut, and comes back.
func TestTwoSpeakers(t *testing.T) {
	lab := newLab(t, 2)
	a, b := lab.Node(1), lab.Node(2)
	both := func(l, r *netlab.Node) []Peer {
		key := &Auth{KeyID: 7, Key: "a key", Meticulous: true}
		return []Peer{
			to("v4", l.Addr(), r.Addr()), with(to("v6", l.Addr6(), r.Addr6()), key),
			far(with(to("v4", l.Addr(), r.Addr()), &Auth{KeyID: 1, Key: "another"})), far(to("v6", l.Addr6(), r.Addr6())),
			to("link-local", linkLocal(l), linkLocal(r).WithZone("eth0")),
		}
	}
	sa, sb := inhabit(t, a.Host, both(a, b)...), inhabit(t, b.Host, both(b, a)...)
	names := []string{"v4", "v6", "v4-far", "v6-far", "link-local"}
	for _, name := range names {
		sa.awaitUp(name)
		sb.awaitUp(name)
	}
	for _, name := range names {
		await(t, 5*time.Second, name+" runs at 100 ms both ways", func() bool {
			st := sa.status(name)
			return st.Sends == 100*time.Millisecond && st.Expects == 100*time.Millisecond && st.Detection == 300*time.Millisecond
		})
	}
	began := time.Now()
	if err := b.Cut(); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		await(t, 3*time.Second, name+" is Down", func() bool { return sa.status(name).Flaps == 1 })
		if st := sa.status(name); st.Diag != DiagTimeExpired {
			t.Errorf("%s: %v", name, st.Diag)
		}
	}
	t.Logf("all seen %v after the cut", time.Since(began).Round(time.Millisecond))
	if err := b.Heal(); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		sa.awaitUp(name)
	}
}

// The end of Run is no failure for the neighbour, and it is told so at once.
func TestRunEndsWithFarewell(t *testing.T) {
	lab := newLab(t, 2)
	a, b := lab.Node(1), lab.Node(2)
	sa := inhabit(t, a.Host, patient(to("b", a.Addr(), b.Addr())))
	sb := inhabit(t, b.Host, patient(to("a", b.Addr(), a.Addr())))
	sa.awaitUp("b")
	sb.awaitUp("a")
	sa.end()
	await(t, 10*time.Second, "b knows", sb.is("a", Down))
	st := sb.status("a")
	if st.Flaps != 0 || st.RemoteState != AdminDown || st.Diag != DiagNeighborDown || st.RemoteDiag != DiagAdminDown {
		t.Errorf("%+v", st)
	}
	await(t, 10*time.Second, "b's client is told", func() bool { return len(sb.told()) > 0 && sb.told()[len(sb.told())-1].New == Down })
	if last := sb.told()[len(sb.told())-1]; !last.RemoteAdminDown || last.Old != Up || last.RemoteDiag != DiagAdminDown {
		t.Errorf("%+v", last)
	}
	if last := sa.told()[len(sa.told())-1]; last.New != AdminDown || last.Diag != DiagAdminDown {
		t.Errorf("%+v", last)
	}
	if len(sa.Status()) != 0 {
		t.Error("a session is left")
	}
	if err := sa.Run(t.Context()); err == nil {
		t.Error("it runs twice")
	}
}

// Timers change while the session lives: both ways, and on both sides at the same time.
func TestLiveChange(t *testing.T) {
	lab := newLab(t, 2)
	a, b := lab.Node(1), lab.Node(2)
	pa, pb := patient(to("b", a.Addr(), b.Addr())), patient(to("a", b.Addr(), a.Addr()))
	sa, sb := inhabit(t, a.Host, pa), inhabit(t, b.Host, pb)
	sa.awaitUp("b")
	for _, c := range []struct{ a, b time.Duration }{{50, 100}, {300, 100}, {300, 300}, {60, 60}, {1500, 200}, {100, 100}} {
		pa.Interval, pb.Interval = c.a*time.Millisecond, c.b*time.Millisecond
		pa.Multiplier++
		sa.want(pa)
		sb.want(pb)
		agreed := max(pa.Interval, pb.Interval)
		await(t, 10*time.Second, fmt.Sprintf("%v and %v count", pa.Interval, pb.Interval), func() bool {
			x, y := sa.status("b"), sb.status("a")
			return x.Sends == agreed && y.Sends == agreed && x.Expects == agreed && y.Expects == agreed &&
				x.Detected == time.Duration(pa.Multiplier)*agreed && y.Detection == x.Detected
		})
	}
	for _, st := range []Status{sa.status("b"), sb.status("a")} {
		if st.State != Up || st.Flaps != 0 || st.Dropped != 0 {
			t.Errorf("%+v", st)
		}
	}
}

// A peer that is removed and wanted again before its farewell is over goes on with the same session; one that leaves its
// path to another makes room at once.
func TestSetAgain(t *testing.T) {
	lab := newLab(t, 2)
	a, b := lab.Node(1), lab.Node(2)
	p := to("b", a.Addr(), b.Addr())
	sa := inhabit(t, a.Host, p)
	sb := inhabit(t, b.Host, to("a", b.Addr(), a.Addr()))
	sa.awaitUp("b")
	sa.want()
	sa.want(p)
	sa.awaitUp("b")
	p.Name = "c"
	sa.want(p)
	if all := sa.Status(); len(all) != 1 || all[0].Name != "c" {
		t.Errorf("%+v", all)
	}
	sa.awaitUp("c")
	sb.awaitUp("a")
	if st := sb.status("a"); st.Flaps != 0 {
		t.Errorf("%+v", st)
	}
	bad := p
	bad.Interval = time.Millisecond
	if err := sa.Set(t.Context(), []Peer{bad}); err == nil {
		t.Error("1 ms is accepted")
	}
	if st := sa.status("c"); st.State != Up {
		t.Errorf("%+v", st)
	}
}

// What hinders a session is said, and ends by itself.
func TestSocketTroubles(t *testing.T) {
	lab := newLab(t, 2)
	a, b := lab.Node(1), lab.Node(2)
	p := to("b", a.Addr(), b.Addr())
	q := to("late", a.Addr(), netip.MustParseAddr("10.77.0.50"))
	q.Link = "eth1"
	r := to("else", netip.MustParseAddr("10.77.0.51"), b.Addr())

	first := inhabit(t, a.Host, p)
	await(t, 5*time.Second, "the port is taken", func() bool { return first.status("b").Sent > 0 })
	second := inhabit(t, a.Host, p, q, r)
	for name, want := range map[string]string{
		"b":    "listen on UDP 10.77.0.1:3784 of link eth0: address already in use: another BFD daemon (bfdd, BIRD) has the port",
		"late": "listen on UDP 10.77.0.1:3784: use link eth1: no such device",
		"else": "listen on UDP 10.77.0.51:3784 of link eth0: cannot assign requested address: this node does not have the address (yet)",
	} {
		await(t, 5*time.Second, name+" says why", func() bool { return second.status(name).Error == want })
	}
	await(t, 5*time.Second, "the refusal is noticed", func() bool { return first.status("b").Error == errRefused.Error()+": connection refused" })
	first.end()
	sb := inhabit(t, b.Host, to("a", b.Addr(), a.Addr()))
	second.awaitUp("b")
	sb.awaitUp("a")
	if st := second.status("b"); st.Error != "" {
		t.Errorf("%+v", st)
	}
}

// A link that goes takes its sockets with it, and a new one of the same name is used without a restart.
func TestLinkComesBack(t *testing.T) {
	lab := newLab(t, 1)
	node := lab.Node(1)
	p := to("x", netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"))
	p.Link = "v0"
	renew := func() {
		t.Helper()
		if err := node.Do(makeLink); err != nil {
			t.Fatal(err)
		}
	}
	renew()
	st := inhabit(t, node.Host, p)
	await(t, 5*time.Second, "it sends", func() bool { return st.status("x").Sent > 0 })
	if err := node.Do(func() error { return netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v0"}}) }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { t.Logf("%+v", st.Status()) })
	await(t, 5*time.Second, "it says that the link is gone", func() bool { return strings.HasSuffix(st.status("x").Error, "no such device") })
	renew()
	await(t, 5*time.Second, "it sends again", func() bool { return st.status("x").Error == "" })
}

// makeLink makes a link v0 with 192.0.2.1/24, whose other end is nobody's.
func makeLink() error {
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v0"}, PeerName: "v1"}); err != nil {
		return err
	}
	for _, name := range []string{"v0", "v1"} {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
		if err == nil && name == "v0" {
			addr, _ := netlink.ParseAddr("192.0.2.1/24")
			err = netlink.AddrAdd(link, addr)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// The thread of the sessions comes before others, and only while Run runs.
func TestPriority(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := unix.Getpriority(unix.PRIO_PROCESS, unix.Gettid())
	if err != nil {
		t.Fatal(err)
	}
	undo := hasten()
	during, _ := unix.Getpriority(unix.PRIO_PROCESS, unix.Gettid())
	undo()
	after, _ := unix.Getpriority(unix.PRIO_PROCESS, unix.Gettid())
	if after != before {
		t.Errorf("nice %d before, %d after", 20-before, 20-after)
	}
	if during == before {
		t.Skip("this process may not raise a priority")
	}
	if 20-during != niceness {
		t.Errorf("nice %d, not %d", 20-during, niceness)
	}
}
