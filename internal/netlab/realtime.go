package netlab

import (
	"time"

	"golang.org/x/sys/unix"
)

// realtimePriority is above that of anything measured, so that the measuring is not what is late.
const realtimePriority = 30

// goRealtime puts the current thread, which must be locked and end with its goroutine, under SCHED_RR. It says whether
// the kernel allowed that; in a user namespace it does not.
func goRealtime() bool {
	attr := &unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: realtimePriority, Flags: unix.SCHED_FLAG_RESET_ON_FORK,
	}
	return unix.SchedSetAttr(0, attr, 0) == nil
}

// now is CLOCK_MONOTONIC in nanoseconds.
func now() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// sleepUntil waits for an instant of now's clock. Signals only make it start again.
func sleepUntil(t int64) {
	ts := unix.NsecToTimespec(t)
	for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &ts, nil) == unix.EINTR {
	}
}

// waitExit blocks until a child has ended and leaves it for Wait to reap.
func waitExit(pid int) {
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
}

// receiveWait bounds a blocking read, so that its thread can notice that it should end.
func receiveWait(fd int) error {
	tv := unix.NsecToTimeval(int64(100 * time.Millisecond))
	return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
}
