package health

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxOutput is how much of a command's output is kept, in bytes; the rest is read and dropped.
const maxOutput = 4 << 10

// command runs a program without a shell, in a process group of its own. Whatever of that group is left when the
// program or its time has ended is killed. It gets nothing of Pintle's environment and no input.
func command(name string, args []string) func(context.Context) error {
	return func(ctx context.Context) error {
		var out head
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Env = []string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"LANG=C",
			"PINTLE_CHECK=" + name,
		}
		cmd.Dir = "/"
		cmd.Stdout, cmd.Stderr = &out, &out
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return killGroup(cmd.Process) }
		cmd.WaitDelay = grace / 2 // a child that left the group may hold the pipe of the output
		if err := start(cmd); err != nil {
			return err
		}
		err := cmd.Wait()
		_ = killGroup(cmd.Process) // there may be children of it
		if errors.Is(err, exec.ErrWaitDelay) {
			err = nil // the program itself ended well
		}
		if err == nil {
			return nil
		}
		if line := out.line(); line != "" {
			return fmt.Errorf("%w: %s", err, line)
		}
		return err
	}
}

// start starts the program from a thread of its own, from which it inherits no more than it needs. The thread is never
// unlocked, so it ends with its goroutine.
func start(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := ordinary()
		if err == nil {
			err = cmd.Start()
		}
		started <- err
	}()
	return <-started
}

// ordinary takes what this thread has of Pintle's away: real-time scheduling, under which a busy check could starve
// the election, and ambient capabilities (capabilities(7); a program that root runs has those of the bounding set).
func ordinary() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop ambient capabilities: %w", err)
	}
	now, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return fmt.Errorf("read scheduling: %w", err)
	}
	if now.Policy != unix.SCHED_RR && now.Policy != unix.SCHED_FIFO {
		return nil
	}
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}, 0); err != nil {
		return fmt.Errorf("leave real-time scheduling: %w", err)
	}
	return nil
}

// killGroup kills all that are still in the group that p leads. While one of them lives no other process gets the
// number, also after p has ended.
func killGroup(p *os.Process) error {
	err := syscall.Kill(-p.Pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// A head keeps the beginning of what is written to it.
type head struct{ kept []byte }

func (h *head) Write(p []byte) (int, error) {
	h.kept = append(h.kept, p[:min(len(p), maxOutput-len(h.kept))]...)
	return len(p), nil
}

// line is the first line that has something in it, shortened.
func (h *head) line() string {
	const most = 200
	for line := range strings.Lines(string(h.kept)) {
		line = strings.Map(printable, strings.ToValidUTF8(strings.TrimSpace(line), "?"))
		if r := []rune(line); len(r) > most {
			line = string(r[:most]) + "..."
		}
		if line != "" {
			return line
		}
	}
	return ""
}

func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return ' '
	}
	return r
}
