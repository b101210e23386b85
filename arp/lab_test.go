package arp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A space is a network namespace of its own, which lives as long as the test (sockets in it may outlive it). One locked
// thread is in it; the runtime never starts another thread from a locked one, so no other goroutine gets there.
type space struct {
	t    testing.TB
	jobs chan func()
	nl   *netlink.Handle
	fd   *os.File
}

func newSpace(t testing.TB) *space {
	t.Helper()
	n := &space{t: t, jobs: make(chan func())}
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		failed <- unix.Unshare(unix.CLONE_NEWNET)
		for job := range n.jobs {
			job()
		}
	}()
	if err := <-failed; err != nil {
		close(n.jobs)
		if os.Getenv("LAB") == "require" {
			t.Fatalf("make a network namespace: %v", err)
		}
		t.Skipf("make a network namespace: %v (needs root)", err)
	}
	t.Cleanup(func() { n.nl.Close(); n.fd.Close(); close(n.jobs) })
	n.do(func() {
		var err error
		if n.fd, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			t.Error(err)
		}
		if n.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	// No waiting for duplicate address detection; the kernel is mute for what is on lo.
	n.sysctl("net/ipv6/conf/default/accept_dad", "0")
	n.sysctl("net/ipv6/conf/all/accept_dad", "0")
	n.sysctl("net/ipv4/conf/all/arp_ignore", "1")
	n.sysctl("net/ipv4/conf/all/arp_announce", "2")
	n.up("lo")
	return n
}

func (n *space) do(f func()) {
	done := make(chan struct{})
	n.jobs <- func() { defer close(done); f() }
	<-done
}

func (n *space) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *space) sysctl(key, value string) {
	n.t.Helper()
	n.do(func() {
		if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0); err != nil {
			n.t.Errorf("set %s: %v", key, err)
		}
	})
}

func (n *space) link(name string) netlink.Link {
	n.t.Helper()
	l, err := n.nl.LinkByName(name)
	n.must(err)
	return l
}

func (n *space) up(name string)   { n.t.Helper(); n.must(n.nl.LinkSetUp(n.link(name))) }
func (n *space) down(name string) { n.t.Helper(); n.must(n.nl.LinkSetDown(n.link(name))) }

func (n *space) mac(name string) mac {
	n.t.Helper()
	m, _ := toMAC(n.link(name).Attrs().HardwareAddr)
	return m
}

func (n *space) address(link, prefix string) {
	n.t.Helper()
	a, err := netlink.ParseAddr(prefix)
	n.must(err)
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	n.must(n.nl.AddrAdd(n.link(link), a))
}

// A segment is a bridge in a namespace of its own.
type segment struct {
	*space
	ports int
}

func newSegment(t testing.TB) *segment {
	s := &segment{space: newSpace(t)}
	s.must(s.nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
	s.up("br0")
	return s
}

// attach makes a link of this name in n that is on the segment, and waits until the bridge forwards for it: the kernel
// enables a port some time after its carrier came, and frames before that are lost without an error.
func (s *segment) attach(n *space, name string) {
	s.t.Helper()
	s.ports++
	port := fmt.Sprintf("p%d", s.ports)
	s.must(s.nl.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: port}, PeerName: name, PeerNamespace: netlink.NsFd(n.fd.Fd()),
	}))
	s.must(s.nl.LinkSetMaster(s.link(port), s.link("br0")))
	s.up(port)
	n.up(name)
	eventually(s.t, name+" is operational", func() bool {
		return s.link(port).Attrs().OperState == netlink.OperUp && n.link(name).Attrs().OperState == netlink.OperUp
	})
}

// station adds a namespace with eth0 on the segment, with the addresses 192.0.2.host/24 and 2001:db8::host/64.
func (s *segment) station(host int) *space {
	s.t.Helper()
	n := newSpace(s.t)
	s.attach(n, "eth0")
	n.address("eth0", fmt.Sprintf("192.0.2.%d/24", host))
	n.address("eth0", fmt.Sprintf("2001:db8::%x/64", host))
	return n
}

// A spaceHost is the kernel in a namespace, and may watch the frames.
type spaceHost struct {
	n          *space
	sent, read func(b []byte)
}

func (h *spaceHost) index(link string) (i int, err error) {
	h.n.do(func() { i, err = kernel{}.index(link) })
	return i, err
}

func (h *spaceHost) ipv6(link string) (err error) {
	h.n.do(func() { err = kernel{}.ipv6(link) })
	return err
}

func (h *spaceHost) open(index int, kind uint16) (w wire, err error) {
	h.n.do(func() { w, err = kernel{}.open(index, kind) })
	if err != nil {
		return nil, err
	}
	return &watchedWire{w, h}, nil
}

func (h *spaceHost) join(index int, addr netip.Addr) (c io.Closer, err error) {
	h.n.do(func() { c, err = kernel{}.join(index, addr) })
	return c, err
}

func (h *spaceHost) stations() (all []mac, err error) {
	h.n.do(func() { all, err = kernel{}.stations() })
	return all, err
}

type watchedWire struct {
	wire
	h *spaceHost
}

func (w *watchedWire) send(b []byte) error {
	if w.h.sent != nil {
		w.h.sent(b)
	}
	return w.wire.send(b)
}

func (w *watchedWire) read(b []byte, limit time.Duration) (int, time.Time, error) {
	n, came, err := w.wire.read(b, limit)
	if err == nil && w.h.read != nil {
		w.h.read(b[:n])
	}
	return n, came, err
}

// A node is a namespace with a running Speaker.
type node struct {
	*space
	*Speaker
	host *spaceHost

	mu    sync.Mutex
	heard []Heard // guarded by mu
}

// speak runs a Speaker in n. watch, which may be nil, sees each frame that is sent.
func (n *space) speak(watch func(b []byte)) *node {
	n.t.Helper()
	nd := &node{space: n, host: &spaceHost{n: n, sent: watch}}
	nd.Speaker = New(Config{Log: slog.New(slog.DiscardHandler), OnHeard: func(h Heard) {
		nd.mu.Lock()
		defer nd.mu.Unlock()
		nd.heard = append(nd.heard, h)
	}})
	nd.Speaker.host = nd.host
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- nd.Run(ctx) }()
	n.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			n.t.Errorf("Run: %v", err)
		}
	})
	return nd
}

func (nd *node) set(want ...Target) {
	nd.t.Helper()
	have, err := nd.Set(context.Background(), want)
	if err != nil || !slices.Equal(have, want) {
		nd.t.Fatalf("Set: have %v, %v; want %v", have, err, want)
	}
}

func (nd *node) hears(what func(Heard) bool) bool {
	nd.mu.Lock()
	defer nd.mu.Unlock()
	return slices.ContainsFunc(nd.heard, what)
}

func (nd *node) stat(link string, addr netip.Addr) Stat {
	for _, st := range nd.Stats() {
		if st.Link == link && st.Addr == addr {
			return st
		}
	}
	return Stat{}
}

// neighbour is n's entry for addr; the zero Neigh if there is none.
func (n *space) neighbour(link string, addr netip.Addr) netlink.Neigh {
	n.t.Helper()
	all, err := n.nl.NeighList(n.link(link).Attrs().Index, family(addr))
	n.must(err)
	for _, e := range all {
		if a, ok := netip.AddrFromSlice(e.IP); ok && a.Unmap() == addr {
			return e
		}
	}
	return netlink.Neigh{}
}

func (n *space) believes(link string, addr netip.Addr) mac {
	m, _ := toMAC(n.neighbour(link, addr).HardwareAddr)
	return m
}

// believe makes n's entry for addr say m, in this state.
func (n *space) believe(link string, addr netip.Addr, m mac, state int) {
	n.t.Helper()
	n.must(n.nl.NeighSet(&netlink.Neigh{LinkIndex: n.link(link).Attrs().Index, Family: family(addr), State: state,
		IP: addr.AsSlice(), HardwareAddr: net.HardwareAddr(m[:])}))
}

func (n *space) forget(link string, addr netip.Addr) {
	n.t.Helper()
	err := n.nl.NeighDel(&netlink.Neigh{LinkIndex: n.link(link).Attrs().Index, Family: family(addr), IP: addr.AsSlice()})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		n.t.Fatal(err)
	}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// knock sends a datagram to addr, so that n's kernel looks for it.
func (n *space) knock(addr netip.Addr) {
	n.t.Helper()
	n.do(func() {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 9)))
		if err != nil {
			n.t.Errorf("knock: %v", err)
			return
		}
		defer c.Close()
		_, _ = c.Write([]byte("knock")) // no answer is wanted, and an ICMP error may come
	})
}

// wire opens a wire in n, for frames that the test makes itself.
func (n *space) wire(link string, kind uint16) wire {
	n.t.Helper()
	h := &spaceHost{n: n}
	index, err := h.index(link)
	n.must(err)
	w, err := h.open(index, kind)
	n.must(err)
	n.t.Cleanup(func() { w.Close() })
	return w
}

// eventually waits until true holds, for at most 30 s.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if holds() {
			return
		}
	}
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	t.Fatalf("not within 30 s: %s\n%s", what, stacks)
}
