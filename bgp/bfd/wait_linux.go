package bfd

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// niceness is what the thread of the sessions asks for: a busy machine must not look like a dead one.
const niceness = -15

// hasten raises the priority of the current thread, which must be locked, if it may (CAP_SYS_NICE). undo puts it back.
func hasten() (undo func()) {
	tid := unix.Gettid()
	before, err := unix.Getpriority(unix.PRIO_PROCESS, tid) // 20 less the niceness
	if err != nil || 20-before <= niceness || unix.Setpriority(unix.PRIO_PROCESS, tid, niceness) != nil {
		return func() {}
	}
	return func() { _ = unix.Setpriority(unix.PRIO_PROCESS, tid, 20-before) }
}

// A bell wakes who waits for packets.
type bell struct {
	mu     sync.Mutex // guards what follows; held only for a write that does not block
	fd     int
	closed bool
}

func newBell() (*bell, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open an event: %w", err)
	}
	return &bell{fd: fd}, nil
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		_, _ = unix.Write(b.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // it cannot be full: each wait empties it
	}
}

func (b *bell) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	_ = unix.Close(b.fd)
}

// wait returns when a packet has arrived, the bell has rung, or until is here.
func (b *bell) wait(fds []unix.PollFd, until time.Time) {
	fds = append(fds, unix.PollFd{Fd: int32(b.fd), Events: unix.POLLIN})
	left := unix.NsecToTimespec(max(0, time.Until(until)).Nanoseconds())
	if n, err := unix.Ppoll(fds, &left, nil); err != nil || n == 0 {
		return // a signal: the caller looks at all and comes back
	}
	if fds[len(fds)-1].Revents != 0 {
		var count [8]byte
		_, _ = unix.Read(b.fd, count[:])
	}
}
