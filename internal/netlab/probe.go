package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// EchoPort is where the probe asks by UDP.
const EchoPort = 7777

// echoLen is the length of a UDP question and its answer: its number in 8 bytes, and a byte that the echo sets to its
// node's number.
const echoLen = 9

// currentFor is how old the newest answer may be for its sender to count as the one that answers now.
const currentFor = 250 * time.Millisecond

// A Probe asks, from the client, for one address: by UDP, as any program there would, and for IPv4 also by ARP. Every
// answer is recorded with its time and sender. Its threads run under SCHED_RR where that is allowed.
type Probe struct {
	lab      *Lab
	every    time.Duration
	ring     *ring
	who      *whoHas // nil for IPv6
	udp, arp int     // sockets; arp is -1 for IPv6

	lastARP   atomic.Uint64 // macAddr
	lastARPAt atomic.Int64
	lastUDP   atomic.Uint32
	lastUDPAt atomic.Int64

	normal  atomic.Bool // a thread was refused SCHED_RR
	stop    atomic.Bool
	threads sync.WaitGroup
	close   func() // closes once
}

// StartProbe starts to ask for addr at each interval, until Close or the end of the lab.
func (l *Lab) StartProbe(addr netip.Addr, every time.Duration) (*Probe, error) {
	if every <= 0 {
		return nil, fmt.Errorf("probe %s: interval %v: want more than 0", addr, every)
	}
	p := &Probe{lab: l, every: every, ring: newRing(), udp: -1, arp: -1}
	p.close = sync.OnceFunc(p.end)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("probe %s: %w", addr, errClosed)
	}
	if addr.Is4() {
		p.who = newWhoHas(addr, l.askers)
		l.askers++
	}
	if err := l.client.Do(func() error { return p.open(addr) }); err != nil {
		p.closeSockets()
		return nil, fmt.Errorf("probe %s: %w", addr, err)
	}
	l.open = append(l.open, p)
	p.start()
	return p, nil
}

func (p *Probe) open(addr netip.Addr) (err error) {
	if p.udp, err = openUDP(netip.AddrPortFrom(addr, EchoPort)); err != nil {
		return err
	}
	if p.who != nil {
		p.arp, err = openPacket("eth0", unix.ETH_P_ARP)
	}
	return err
}

// openUDP returns a socket connected to the address, so that no other answer is taken for its.
func openUDP(to netip.AddrPort) (int, error) {
	family, sa := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(to.Port())})
	if to.Addr().Is6() {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	} else {
		sa.(*unix.SockaddrInet4).Addr = to.Addr().As4()
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open udp socket: %w", err)
	}
	if err := errors.Join(receiveWait(fd), unix.Connect(fd, sa)); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("connect udp socket to %s: %w", to, err)
	}
	return fd, nil
}

// openPacket returns a packet socket that sees every frame of a kind which arrives at the link, for whatever MAC address.
func openPacket(link string, kind uint16) (int, error) {
	ifc, err := net.InterfaceByName(link)
	if err != nil {
		return -1, fmt.Errorf("find %s: %w", link, err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open packet socket: %w", err)
	}
	promiscuous := &unix.PacketMreq{Ifindex: int32(ifc.Index), Type: unix.PACKET_MR_PROMISC}
	err = errors.Join(receiveWait(fd),
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, promiscuous),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(kind), Ifindex: ifc.Index}))
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("set up packet socket: %w", err)
	}
	return fd, nil
}

func bigEndian(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

func (p *Probe) start() {
	loops := []func(){p.ask, p.hearUDP}
	if p.who != nil {
		loops = append(loops, p.hearARP)
	}
	for _, loop := range loops {
		p.threads.Go(func() {
			runtime.LockOSThread() // and the thread ends with the goroutine
			if !goRealtime() {
				p.normal.Store(true)
			}
			loop()
		})
	}
}

// ask sends the questions on an absolute schedule. What it could not send in time it leaves out: a burst afterwards
// would hide the gap.
func (p *Probe) ask() {
	b := make([]byte, echoLen)
	next := now()
	for seq := int64(0); !p.stop.Load(); seq++ {
		sleepUntil(next)
		t := now()
		p.ring.ask(seq, t)
		binary.LittleEndian.PutUint64(b, uint64(seq))
		// A connected socket first reports the ICMP error that an earlier question got.
		if _, err := unix.Write(p.udp, b); err == unix.ECONNREFUSED {
			_, _ = unix.Write(p.udp, b)
		}
		if p.who != nil {
			_, _ = unix.Write(p.arp, p.who.ask(seq))
		}
		if next += int64(p.every); next < t {
			next = t + int64(p.every)
		}
	}
}

func (p *Probe) hearUDP() {
	b := make([]byte, 64)
	for !p.stop.Load() {
		n, err := unix.Read(p.udp, b)
		if err != nil || n < echoLen {
			continue
		}
		t := now()
		p.ring.answerUDP(int64(binary.LittleEndian.Uint64(b)), b[8], t)
		p.lastUDP.Store(uint32(b[8]))
		p.lastUDPAt.Store(t)
	}
}

func (p *Probe) hearARP() {
	b := make([]byte, 128)
	for !p.stop.Load() {
		n, err := unix.Read(p.arp, b)
		if err != nil {
			continue
		}
		t := now()
		if seq, by, ok := p.who.answer(b[:n], p.ring.newest.Load()); ok {
			p.ring.answerARP(seq, by, t)
			p.lastARP.Store(uint64(by))
			p.lastARPAt.Store(t)
		}
	}
}

// Mark is now.
func (p *Probe) Mark() Mark { return Mark(now()) }

// Report measures what was noticed from one mark to another, of the last two minutes at most (65 000 questions). While
// questions of the window are open, it waits for their answers, at most one second after to.
func (p *Probe) Report(from, to Mark) Window {
	for p.pending(from, to) && now() < int64(to)+int64(answerWait) && !p.stop.Load() {
		time.Sleep(5 * time.Millisecond)
	}
	qs := p.ring.between(int64(from)-int64(answerWait), int64(to))
	w := measure(qs, from, to, p.every, p.lab.nameOf)
	w.Realtime = !p.normal.Load()
	return w
}

// pending says whether an answer to any question of the window may still come.
func (p *Probe) pending(from, to Mark) bool {
	t := now()
	for _, q := range p.ring.between(max(int64(from), t-int64(answerWait)), int64(to)) {
		if q.udpAt == 0 {
			return true
		}
	}
	return false
}

// LastNode is the host that answered the newest ARP question, for IPv6 the newest UDP question; "" if nobody did in the
// last quarter of a second.
func (p *Probe) LastNode() string {
	if p.who == nil {
		return p.Serving()
	}
	if now()-p.lastARPAt.Load() > int64(currentFor) {
		return ""
	}
	return p.lab.nameOf(macAddr(p.lastARP.Load()))
}

// Serving is the node that answered the newest UDP question; "" if nobody did in the last quarter of a second.
func (p *Probe) Serving() string {
	if now()-p.lastUDPAt.Load() > int64(currentFor) {
		return ""
	}
	return nodeName(byte(p.lastUDP.Load()))
}

// Close ends the probe. What it recorded can still be reported.
func (p *Probe) Close() { p.close() }

func (p *Probe) end() {
	p.stop.Store(true)
	p.threads.Wait()
	p.closeSockets()
	p.lab.forget(p)
}

func (p *Probe) closeSockets() {
	for _, fd := range []int{p.udp, p.arp} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}
