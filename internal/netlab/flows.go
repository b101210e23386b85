package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// flowSize is how many questions of one flow are remembered: 32 s at an interval of 2 ms.
const flowSize = 1 << 14

// A Flows asks for one address over many UDP flows at once, each with a source port of its own, so that a router which
// spreads packets by their ports sends some to every next hop. One thread asks and one hears, under SCHED_RR where that is
// allowed.
type Flows struct {
	lab   *Lab
	every time.Duration
	fds   []int
	ports []uint16
	poll  int
	index map[int32]int // flow by file descriptor
	flows []*flowRing

	stop    atomic.Bool
	threads sync.WaitGroup
	close   func() // closes once
}

// A flowRing is the newest questions of one flow. One thread asks, one answers, anyone may look.
type flowRing struct {
	newest atomic.Int64 // -1 before the first
	sent   [flowSize]atomic.Int64
	at     [flowSize]atomic.Int64 // of the answer, 0: none
	node   [flowSize]atomic.Uint32
}

// Flow is what one flow noticed between two marks.
type Flow struct {
	Port    uint16 // of the asker
	Sent    int
	Lost    int            // not answered within a second
	Answers map[string]int // by node
}

// StartFlows starts to ask for addr from h over n flows, on each at every interval, until Close or the end of the lab.
// Sixty-four flows of 2 ms are 32 000 questions a second, which with the router between and their answers take about a core.
func (h *Host) StartFlows(addr netip.Addr, n int, every time.Duration) (*Flows, error) {
	if every <= 0 || n < 1 {
		return nil, fmt.Errorf("ask %s: %d flows of %v: want more than 0", addr, n, every)
	}
	f := &Flows{lab: h.lab, every: every, poll: -1, index: map[int32]int{}}
	f.close = sync.OnceFunc(f.end)
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	if h.lab.closed {
		return nil, fmt.Errorf("ask %s: %w", addr, errClosed)
	}
	if err := h.Do(func() error { return f.open(netip.AddrPortFrom(addr, EchoPort), n) }); err != nil {
		f.closeSockets()
		return nil, fmt.Errorf("ask %s: %w", addr, err)
	}
	h.lab.open = append(h.lab.open, f)
	for _, loop := range []func(){f.ask, f.hear} {
		f.threads.Go(func() {
			runtime.LockOSThread() // and the thread ends with the goroutine
			goRealtime()
			loop()
		})
	}
	return f, nil
}

func (f *Flows) open(to netip.AddrPort, n int) (err error) {
	if f.poll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("open epoll: %w", err)
	}
	for i := range n {
		fd, err := openUDP(to)
		if err != nil {
			return err
		}
		keepMuch(fd)
		f.fds, f.index[int32(fd)] = append(f.fds, fd), i
		f.flows = append(f.flows, &flowRing{})
		f.flows[i].newest.Store(-1)
		sa, err := unix.Getsockname(fd)
		if err != nil {
			return fmt.Errorf("find the port of a udp socket: %w", err)
		}
		f.ports = append(f.ports, portOf(sa))
		event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
		if err := errors.Join(unix.SetNonblock(fd, true), unix.EpollCtl(f.poll, unix.EPOLL_CTL_ADD, fd, &event)); err != nil {
			return fmt.Errorf("watch udp socket: %w", err)
		}
	}
	return nil
}

// ask sends one question on each flow at each instant of an absolute schedule. What it could not send in time it leaves out.
func (f *Flows) ask() {
	b := make([]byte, echoLen)
	next := now()
	for seq := int64(0); !f.stop.Load(); seq++ {
		sleepUntil(next)
		binary.LittleEndian.PutUint64(b, uint64(seq))
		for i, fd := range f.fds {
			f.flows[i].ask(seq, now())
			// A connected socket first reports the ICMP error that an earlier question got.
			if _, err := unix.Write(fd, b); err == unix.ECONNREFUSED || err == unix.EHOSTUNREACH || err == unix.ENETUNREACH {
				_, _ = unix.Write(fd, b)
			}
		}
		if next += int64(f.every); next < now() {
			next = now() + int64(f.every)
		}
	}
}

func (f *Flows) hear() {
	events := make([]unix.EpollEvent, len(f.fds))
	b := make([]byte, 64)
	for !f.stop.Load() {
		n, _ := unix.EpollWait(f.poll, events, 100)
		for _, e := range events[:max(n, 0)] {
			f.drain(int(e.Fd), f.flows[f.index[e.Fd]], b)
		}
	}
}

// drain takes all answers of a flow that have come.
func (f *Flows) drain(fd int, r *flowRing, b []byte) {
	for {
		n, err := unix.Read(fd, b)
		if err == unix.EAGAIN {
			return
		}
		if err == nil && n >= echoLen {
			r.answer(int64(binary.LittleEndian.Uint64(b)), b[8], now())
		}
	}
}

func (r *flowRing) ask(seq, t int64) {
	i := seq % flowSize
	r.at[i].Store(0)
	r.sent[i].Store(t)
	r.newest.Store(seq)
}

func (r *flowRing) answer(seq int64, node byte, t int64) {
	newest := r.newest.Load()
	if i := seq % flowSize; seq >= 0 && seq <= newest && seq > newest-flowSize && r.at[i].Load() == 0 {
		r.node[i].Store(uint32(node))
		r.at[i].Store(t)
	}
}

// Mark is now.
func (f *Flows) Mark() Mark { return Mark(now()) }

// Report counts the questions from one mark to another, of the last 32 s at intervals of 2 ms, and their answers by flow. It
// waits until a second after to, when the last answer counts.
func (f *Flows) Report(from, to Mark) []Flow {
	for now() < int64(to)+int64(answerWait) && !f.stop.Load() {
		time.Sleep(5 * time.Millisecond)
	}
	all := make([]Flow, len(f.flows))
	for i, r := range f.flows {
		all[i] = r.between(int64(from), int64(to))
		all[i].Port = f.ports[i]
	}
	return all
}

func (r *flowRing) between(from, to int64) Flow {
	flow := Flow{Answers: map[string]int{}}
	newest := r.newest.Load()
	for seq := max(0, newest-flowSize+2); seq <= newest; seq++ {
		i := seq % flowSize
		sent, at := r.sent[i].Load(), r.at[i].Load()
		if sent < from || sent > to {
			continue
		}
		flow.Sent++
		if at == 0 || at-sent > int64(answerWait) {
			flow.Lost++
			continue
		}
		flow.Answers[nodeName(byte(r.node[i].Load()))]++
	}
	return flow
}

func portOf(sa unix.Sockaddr) uint16 {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return uint16(sa.Port)
	case *unix.SockaddrInet6:
		return uint16(sa.Port)
	}
	return 0
}

// Close ends the questions. What was recorded can still be reported.
func (f *Flows) Close() { f.close() }

func (f *Flows) end() {
	f.stop.Store(true)
	f.threads.Wait()
	f.closeSockets()
	f.lab.forget(f)
}

func (f *Flows) closeSockets() {
	for _, fd := range append(slices.Clone(f.fds), f.poll) {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}
