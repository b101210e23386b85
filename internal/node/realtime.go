package node

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pintle-lb/pintle/internal/config"
)

// rtPriority is above ordinary work and below the kernel's own threads.
const rtPriority = 10

// goRealtime puts all threads of this process under SCHED_RR, if the
// configuration wants it and the system allows it. Threads made later inherit
// it. It reports whether it is in force.
func goRealtime(want config.Realtime, log *slog.Logger) (bool, error) {
	if want == config.RealtimeOff {
		return false, nil
	}
	err := setScheduler()
	switch {
	case err == nil:
		return true, nil
	case want == config.RealtimeRequire:
		return false, fmt.Errorf("real-time scheduling: %w: give the process CAP_SYS_NICE, or set raft.realtime to auto", err)
	}
	log.Warn("no real-time scheduling: elections may be disturbed on a busy machine", "err", err)
	return false, nil
}

// CheckRealtime tries real-time scheduling on a thread that is thrown away.
func CheckRealtime() error {
	tried := make(chan error)
	go func() {
		runtime.LockOSThread() // and the thread ends with the goroutine
		tried <- roundRobin(0)
	}()
	return <-tried
}

// setScheduler goes over the threads until it has seen no new one.
func setScheduler() error {
	done := map[int]bool{}
	for {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		fresh := 0
		for _, t := range tasks {
			tid, err := strconv.Atoi(t.Name())
			if err != nil || done[tid] {
				continue
			}
			if err := roundRobin(tid); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
			done[tid] = true
			fresh++
		}
		if fresh == 0 {
			return nil
		}
	}
}

// roundRobin puts one thread under SCHED_RR (sched(7)).
func roundRobin(tid int) error {
	param := struct{ priority int32 }{rtPriority}
	_, _, e := unix.Syscall(unix.SYS_SCHED_SETSCHEDULER, uintptr(tid), unix.SCHED_RR, uintptr(unsafe.Pointer(&param)))
	if e != 0 {
		return fmt.Errorf("sched_setscheduler: %w", e)
	}
	return nil
}
