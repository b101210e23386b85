package netlab

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// endWait is how long a process that was asked to end may take before it is killed.
const endWait = 3 * time.Second

// A Process runs on a host of the lab and does not outlive it.
type Process struct {
	cmd   *exec.Cmd
	stdin io.Closer // nil if the caller chose cmd.Stdin
	done  chan struct{}
	err   error // set before done is closed

	mu     sync.Mutex // guards exited, so that no signal goes to a process id that is free again
	exited bool
}

// Start runs cmd on the host, in a process group of its own. Its standard input is a pipe that stays empty until End
// closes it, unless cmd.Stdin is set; output goes where cmd.Stdout and cmd.Stderr say, by default nowhere. The process is
// killed when ctx ends, when the lab is closed, and by the kernel when the lab's process dies.
func (h *Host) Start(ctx context.Context, cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, done: make(chan struct{})}
	if err := p.prepare(); err != nil {
		return nil, fmt.Errorf("start %s on %s: %w", cmd.Path, h.name, err)
	}
	// The lock keeps Close from missing a process that is being started.
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	if h.lab.closed {
		return nil, fmt.Errorf("start %s on %s: %w", cmd.Path, h.name, errClosed)
	}
	if err := h.onKeeper(cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s on %s: %w", cmd.Path, h.name, err)
	}
	h.lab.procs = append(h.lab.livingProcs(), p)
	stop := context.AfterFunc(ctx, func() { _ = p.Signal(syscall.SIGKILL) })
	go p.wait(stop)
	return p, nil
}

func (p *Process) prepare() error {
	if p.cmd.SysProcAttr == nil {
		p.cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	p.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	p.cmd.SysProcAttr.Setpgid = true
	p.cmd.WaitDelay = time.Second // a grandchild that holds the output open does not hold us
	if p.cmd.Stdin != nil {
		return nil
	}
	var err error
	p.stdin, err = p.cmd.StdinPipe()
	return err
}

// livingProcs drops the processes that are gone, so that a lab which restarts one for days does not grow.
func (l *Lab) livingProcs() []*Process {
	var living []*Process
	for _, p := range l.procs {
		if !p.Exited() {
			living = append(living, p)
		}
	}
	return living
}

// wait reaps the process in two steps: until the second one its id is not free for others.
func (p *Process) wait(stop func() bool) {
	waitExit(p.cmd.Process.Pid)
	p.mu.Lock()
	p.exited = true
	p.mu.Unlock()
	p.err = p.cmd.Wait()
	stop()
	close(p.done)
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends sig to the process's whole group. It does nothing, without an error, to one that has ended.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exited {
		return nil
	}
	if err := syscall.Kill(-p.PID(), sig); err != nil {
		return fmt.Errorf("signal process %d: %w", p.PID(), err)
	}
	return nil
}

// Done is closed when the process has ended and its output is complete.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exited says whether Done is closed.
func (p *Process) Exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Wait blocks until the process has ended and returns what exec.Cmd.Wait said.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// End closes the process's standard input, asks it to terminate, and kills it when it has not ended after three
// seconds. It returns when the process is gone.
func (p *Process) End() {
	if p.stdin != nil {
		_ = p.stdin.Close()
	}
	_ = p.Signal(syscall.SIGTERM)
	_ = p.Signal(syscall.SIGCONT) // a frozen one cannot hear
	select {
	case <-p.done:
		return
	case <-time.After(endWait):
	}
	_ = p.Signal(syscall.SIGKILL)
	<-p.done
}
