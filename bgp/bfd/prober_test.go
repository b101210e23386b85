package bfd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// A bench is a Speaker under test, and the host of the probers, each with an address of its own.
type bench struct {
	lab     *netlab.Lab
	station *station
	mu      sync.Mutex // guards what follows
	peers   map[string]Peer
}

// newBench starts the Speaker, without peers.
func newBench(t *testing.T) *bench {
	t.Helper()
	lab := newLab(t, 2)
	b := &bench{lab: lab, peers: map[string]Peer{}}
	b.station = inhabit(t, lab.Node(1).Host)
	return b
}

// change makes the Speaker's peer p, or ends it.
func (b *bench) change(t *testing.T, p Peer, wanted bool) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.peers, p.Name)
	if wanted {
		b.peers[p.Name] = p
	}
	var all []Peer
	for _, p := range b.peers {
		all = append(all, p)
	}
	if err := b.station.Set(context.Background(), all); err != nil {
		t.Error(err)
	}
}

// A prober is a neighbour that does what the test says, with sockets of its own.
type prober struct {
	t     *testing.T
	bench *bench
	peer  Peer // the Speaker's side
	disc  uint32
	seq   uint32
	rx    *net.UDPConn
	tx    *net.UDPConn

	mu  sync.Mutex // guards what follows
	log []heard
}

// heard is a packet of the Speaker.
type heard struct {
	packet
	raw      []byte
	at       time.Time
	from     netip.AddrPort
	ttl, tos uint8
}

// A kind says what the session of a prober is like.
type kind struct {
	v6   bool
	hops uint8
	auth *Auth
}

var (
	proberMu sync.Mutex
	probers  = map[*bench]int{}
)

// newProber adds a session between the Speaker and a new address.
func newProber(t *testing.T, b *bench, k kind) *prober {
	t.Helper()
	proberMu.Lock()
	probers[b]++
	number := 100 + probers[b]
	proberMu.Unlock()
	node, host := b.lab.Node(1), b.lab.Node(2)
	local, at := node.Addr(), netip.AddrFrom4([4]byte{10, 77, 0, byte(number)})
	if k.v6 {
		local, at = node.Addr6(), netip.MustParseAddr(fmt.Sprintf("fd77::1:%x", number))
	}
	p := &prober{t: t, bench: b, disc: uint32(number) << 16, seq: 5000}
	p.peer = to(fmt.Sprint(t.Name(), " ", number), local, at)
	p.peer.Auth = k.auth
	if k.hops > 0 {
		p.peer.Link, p.peer.MultihopTTL = "", k.hops
	}
	if err := host.Do(func() error { return p.settle() }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.rx.Close()
		p.tx.Close()
		if t.Failed() {
			t.Logf("%+v", p.status())
		}
	})
	go p.listen()
	b.change(t, p.peer, true)
	return p
}

// settle makes the address and the sockets.
func (p *prober) settle() error {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	bits := 24
	if p.peer.Remote.Is6() {
		bits = 64
	}
	prefix := netip.PrefixFrom(p.peer.Remote, bits)
	_, ipnet, err := net.ParseCIDR(prefix.String())
	if err != nil {
		return err
	}
	ipnet.IP = p.peer.Remote.AsSlice()
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipnet, Flags: unix.IFA_F_NODAD}); err != nil {
		return err
	}
	port := p.peer.path().port()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		_ = c.Control(func(fd uintptr) {
			err = errors.Join(set(int(fd), p.peer.path(), unix.IP_RECVTTL, unix.IPV6_RECVHOPLIMIT, 1),
				set(int(fd), p.peer.path(), unix.IP_RECVTOS, unix.IPV6_RECVTCLASS, 1))
		})
		return err
	}}
	conn, err := lc.ListenPacket(context.Background(), "udp", netip.AddrPortFrom(p.peer.Remote, port).String())
	if err != nil {
		return err
	}
	p.rx = conn.(*net.UDPConn)
	p.tx, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.peer.Remote, 0)),
		net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.peer.Local, port)))
	return err
}

func (p *prober) listen() {
	buf, oob := make([]byte, 512), make([]byte, 512)
	for {
		n, oobn, _, from, err := p.rx.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			return
		}
		h := heard{raw: slices.Clone(buf[:n]), at: time.Now(), from: from, ttl: hopLimit(oob[:oobn]), tos: class(oob[:oobn])}
		if h.packet, _, err = parsePacket(h.raw); err != nil {
			p.t.Errorf("the Speaker sends % x: %v", h.raw, err)
		}
		p.mu.Lock()
		p.log = append(p.log, h)
		p.mu.Unlock()
	}
}

// class is the traffic class that a packet came with.
func class(oob []byte) uint8 {
	all, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range all {
		if m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_TOS ||
			m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_TCLASS {
			return m.Data[0]
		}
	}
	return 0
}

func (p *prober) status() Status { return p.bench.station.status(p.peer.Name) }

// since are the packets from an instant on.
func (p *prober) since(at time.Time) []heard {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.log, func(h heard) bool { return !h.at.Before(at) })
	if i < 0 {
		return nil
	}
	return slices.Clone(p.log[i:])
}

// last is the latest packet.
func (p *prober) last() (h heard) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.log); n > 0 {
		h = p.log[n-1]
	}
	return h
}

// says is the prober's packet in a state, with good manners.
func (p *prober) says(s State) packet {
	q := packet{state: s, mult: 10, myDisc: p.disc, desiredMinTx: 100 * ms, requiredMinRx: 100 * ms}
	if h := p.last(); h.myDisc != 0 && s != Down {
		q.yourDisc = h.myDisc
	}
	return q
}

// bytes is q as it is sent.
func (p *prober) bytes(q packet) []byte {
	if p.peer.Auth == nil {
		return q.marshal()
	}
	p.seq++
	q.auth = true
	return p.peer.Auth.sign(q.marshal(), p.seq)
}

func (p *prober) send(q packet) { p.sendRaw(p.bytes(q), 255) }

func (p *prober) sendRaw(b []byte, ttl int) {
	raw, err := p.tx.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { _ = set(int(fd), p.peer.path(), unix.IP_TTL, unix.IPV6_UNICAST_HOPS, ttl) })
	}
	if err == nil {
		_, err = p.tx.Write(b)
	}
	if errors.Is(err, unix.ECONNREFUSED) { // the Speaker had not opened its socket
		_, err = p.tx.Write(b)
	}
	if err != nil && !errors.Is(err, unix.ECONNREFUSED) {
		p.t.Error(err)
	}
}

// await waits for a packet of the Speaker, from now on, meanwhile sending what keep says each 70 ms, if there is one.
func (p *prober) await(what string, ok func(heard) bool, keep func()) (found heard) {
	p.t.Helper()
	from, due := time.Now(), time.Now()
	await(p.t, 8*time.Second, what, func() bool {
		if keep != nil && !time.Now().Before(due) {
			due = time.Now().Add(70 * ms)
			keep()
		}
		all := p.since(from)
		i := slices.IndexFunc(all, ok)
		if i >= 0 {
			found = all[i]
		}
		return i >= 0
	})
	return found
}

// first waits until the Speaker has sent anything: its sockets are open.
func (p *prober) first() heard {
	p.t.Helper()
	await(p.t, 8*time.Second, "the Speaker sends", func() bool { return p.last().myDisc != 0 })
	return p.last()
}

// up brings the session up and ends the Speaker's poll.
func (p *prober) up() {
	p.t.Helper()
	p.first()
	p.await("Up", func(h heard) bool { return h.state == Up && h.yourDisc == p.disc && h.poll }, func() {
		p.send(p.says(map[State]State{Down: Down, Init: Init, Up: Up}[p.last().state]))
	})
	p.await("the end of the poll", func(h heard) bool { return h.state == Up && !h.poll }, p.final(p.says(Up)))
}

// final returns what sends q with the Final bit.
func (p *prober) final(q packet) func() {
	return func() {
		q.final = true
		p.send(q)
	}
}

// hold keeps the session up for d with packets like q, and returns what the Speaker sent. Polls are not answered.
func (p *prober) hold(d time.Duration, q packet) []heard {
	p.t.Helper()
	from := time.Now()
	for time.Since(from) < d {
		p.send(q)
		time.Sleep(70 * ms)
	}
	return p.since(from)
}

// gaps are the times between packets, but for answers to polls; sorted.
func gaps(all []heard) (d []time.Duration) {
	all = slices.DeleteFunc(slices.Clone(all), func(h heard) bool { return h.final })
	for i := 1; i < len(all); i++ {
		d = append(d, all[i].at.Sub(all[i-1].at))
	}
	slices.Sort(d)
	return d
}

// is says whether a packet tells of a state, for a reason.
func is(s State, d Diag) func(heard) bool {
	return func(h heard) bool { return h.state == s && h.diag == d }
}

// lastChange waits for the newest change of the prober's session to be the one to a state.
func (p *prober) lastChange(to State) (c told) {
	p.t.Helper()
	await(p.t, 8*time.Second, "a change to "+to.String()+" is told", func() bool {
		for _, one := range p.bench.station.told() {
			if one.peer == p.peer.Name {
				c = one
			}
		}
		return c.peer != "" && c.New == to
	})
	return c
}
