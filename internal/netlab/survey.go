package netlab

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// surveySize bounds the memory of a survey, some 100 MB: 5,000 questions a second are remembered for five minutes.
	surveySize = 3 << 19
	// surveyTick is the shortest time that it sleeps. Of many addresses it asks for several at once.
	surveyTick = time.Millisecond
	// roomy is how much a socket keeps of what arrives while its thread cannot run.
	roomy = 4 << 20
)

// A Survey asks, from the client, who has each of many addresses, by ARP and neighbour solicitation alone, and records every
// claim of each with its time and sender. Like a Probe it asks in the name of others, so the client's neighbour cache stays as
// it is, and its threads run under SCHED_RR where that is allowed.
type Survey struct {
	lab   *Lab
	every time.Duration
	addrs []netip.Addr
	index map[netip.Addr]int
	asks  []questioner
	socks map[uint16]int // by Ethernet type

	mu      sync.Mutex // guards records
	records []record   // one for each address

	normal  atomic.Bool // a thread was refused SCHED_RR
	stop    atomic.Bool
	threads sync.WaitGroup
	close   func() // closes once
}

// A questioner makes the questions for one address, and knows the answers.
type questioner interface {
	// ask returns the frame of question seq, which is valid until the next call.
	ask(seq int64) []byte
	// answers tells which question a frame answers, at a time when newest was the last one asked.
	answers(frame []byte, newest int64) (seq int64, ok bool)
}

// StartSurvey starts to ask for each address at every interval, until Close or the end of the lab. The questions are spread over
// the interval.
func (l *Lab) StartSurvey(every time.Duration, addrs ...netip.Addr) (*Survey, error) {
	s := &Survey{lab: l, every: every, addrs: slices.Clone(addrs), index: map[netip.Addr]int{}, socks: map[uint16]int{}, records: make([]record, len(addrs))}
	s.close = sync.OnceFunc(s.end)
	for i, a := range s.addrs {
		s.index[a] = i
	}
	if every <= 0 || len(addrs) == 0 || len(s.index) != len(addrs) {
		return nil, fmt.Errorf("survey of %d addresses each %v: want some, no address twice, and an interval of more than 0", len(addrs), every)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("survey: %w", errClosed)
	}
	if err := l.client.Do(func() error { return s.prepare(l.askers) }); err != nil {
		s.closeSockets()
		return nil, fmt.Errorf("survey: %w", err)
	}
	l.askers++
	l.open = append(l.open, s)
	s.start()
	return s, nil
}

// prepare makes the questions and opens a socket for each kind of them.
func (s *Survey) prepare(number byte) error {
	for _, a := range s.addrs {
		if a.Is4() {
			s.asks = append(s.asks, newWhoHas(a, number))
		} else {
			s.asks = append(s.asks, newSolicitation(a, number))
		}
		kind := kindOf(a)
		if _, ok := s.socks[kind]; ok {
			continue
		}
		fd, err := openPacket("eth0", kind)
		if err != nil {
			return err
		}
		s.socks[kind] = fd
		keepMuch(fd)
	}
	return nil
}

func keepMuch(fd int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, roomy) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, roomy) // as much as a user may have
	}
}

func kindOf(a netip.Addr) uint16 {
	if a.Is4() {
		return unix.ETH_P_ARP
	}
	return unix.ETH_P_IPV6
}

func (s *Survey) start() {
	loops := []func(){s.ask}
	for _, fd := range s.socks {
		loops = append(loops, func() { s.hear(fd) })
	}
	for _, loop := range loops {
		s.threads.Go(func() {
			runtime.LockOSThread() // and the thread ends with the goroutine
			if !goRealtime() {
				s.normal.Store(true)
			}
			loop()
		})
	}
}

// ask sends the questions on an absolute schedule. What it could not send in time it leaves out, as a Probe does.
func (s *Survey) ask() {
	n := len(s.addrs)
	group := min(n, max(1, int(time.Duration(n)*surveyTick/s.every))) // how many at once
	step := s.every * time.Duration(group) / time.Duration(n)
	next, i := now(), 0
	for !s.stop.Load() {
		sleepUntil(next)
		for range group {
			s.send(i)
			i = (i + 1) % n
		}
		if next += int64(step); next < now() {
			next = now() + int64(step)
		}
	}
}

func (s *Survey) send(i int) {
	s.mu.Lock()
	r := &s.records[i]
	r.ask(now(), max(surveySize/len(s.addrs), 2))
	seq := r.newest()
	s.mu.Unlock()
	_, _ = unix.Write(s.socks[kindOf(s.addrs[i])], s.asks[i].ask(seq))
}

func (s *Survey) hear(fd int) {
	b := make([]byte, 2048)
	for !s.stop.Load() {
		n, err := unix.Read(fd, b)
		if err != nil {
			continue
		}
		t := now()
		addr, by, ok := claimOf(b[:n])
		if i, ours := s.index[addr]; ok && ours {
			s.take(i, claim{at: t, seq: -1, by: by}, b[:n])
		}
	}
}

func (s *Survey) take(i int, c claim, frame []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.records[i]
	if seq, ok := s.asks[i].answers(frame, r.newest()); ok {
		c.seq = seq
	}
	r.claim(c)
}

// Mark is now.
func (s *Survey) Mark() Mark { return Mark(now()) }

// Report measures what was noticed from one mark to another. While questions of that time are open, it waits for their answers,
// at most one second after to.
func (s *Survey) Report(from, to Mark) Claims {
	for s.pending(from, to) && now() < int64(to)+int64(answerWait) && !s.stop.Load() {
		time.Sleep(5 * time.Millisecond)
	}
	c := Claims{From: from, To: to, Every: s.every, Realtime: !s.normal.Load()}
	names := map[macAddr]string{}
	name := func(m macAddr) string {
		if names[m] == "" {
			names[m] = s.lab.nameOf(m)
		}
		return names[m]
	}
	for i, addr := range s.addrs {
		r := s.copy(i, int64(from)-int64(answerWait))
		c.Of = append(c.Of, r.measure(addr, c, name))
	}
	return c
}

// copy takes what is known of one address from an instant on; the lock is held for one at a time.
func (s *Survey) copy(i int, since int64) record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.records[i].since(since)
}

// pending says whether an answer to any question between the marks may still come.
func (s *Survey) pending(from, to Mark) bool {
	for i := range s.addrs {
		t := now()
		r := s.copy(i, max(int64(from), t-int64(answerWait)))
		if r.pending(int64(to), t) {
			return true
		}
	}
	return false
}

// Holders is who answered the newest question for each address; it has no entry for one that nobody has answered for in the
// last quarter of a second, or in five intervals if that is longer.
func (s *Survey) Holders() map[netip.Addr]string {
	current := max(currentFor, 5*s.every)
	s.mu.Lock()
	defer s.mu.Unlock()
	holders := map[netip.Addr]string{}
	for i, a := range s.addrs {
		if r := &s.records[i]; r.lastAt != 0 && now()-r.lastAt <= int64(current) {
			holders[a] = s.lab.nameOf(r.lastBy)
		}
	}
	return holders
}

// Close ends the survey. What it recorded can still be reported. It may be called again.
func (s *Survey) Close() { s.close() }

func (s *Survey) end() {
	s.stop.Store(true)
	s.threads.Wait()
	s.closeSockets()
	s.lab.forget(s)
}

func (s *Survey) closeSockets() {
	for _, fd := range s.socks {
		_ = unix.Close(fd)
	}
}
