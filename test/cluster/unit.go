package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// restartAfter is how long a unit that ended by itself stays down.
const restartAfter = time.Second

// A unit is a program of a machine that is started again when it ends by itself, as the kubelet or systemd would.
type unit struct {
	machine *Machine
	name    string // also of its log, below /var/log
	command func() ([]string, error)
	runs    *units

	mu     sync.Mutex // guards all below, and the order of starts and ends
	wanted bool
	proc   *netlab.Process // the last one; nil before the first
}

// units is what all units of a cluster have in common.
type units struct {
	ctx  context.Context
	end  context.CancelFunc
	log  *slog.Logger
	busy sync.WaitGroup // watchers
}

func newUnits(ctx context.Context, log *slog.Logger) *units {
	u := &units{log: log}
	u.ctx, u.end = context.WithCancel(ctx)
	return u
}

// close kills all units and returns when none will be started again.
func (u *units) close() {
	u.end()
	u.busy.Wait()
}

// start starts the unit, if it does not run.
func (u *unit) start() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.wanted {
		return nil
	}
	if err := u.spawn(); err != nil {
		return err
	}
	u.wanted = true
	return nil
}

// stop ends the unit's process and leaves it down.
func (u *unit) stop(how func(*netlab.Process)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.wanted = false
	if u.proc != nil {
		how(u.proc)
	}
}

// unwant leaves the unit down when its process ends.
func (u *unit) unwant() { u.stop(func(*netlab.Process) {}) }

func (u *unit) signal(sig syscall.Signal) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.proc == nil {
		return fmt.Errorf("signal %s on %s: it was never started", u.name, u.machine.Name())
	}
	return u.proc.Signal(sig)
}

func (u *unit) running() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.proc != nil && !u.proc.Exited()
}

// spawn starts the process; the caller has the lock.
func (u *unit) spawn() error {
	if err := context.Cause(u.runs.ctx); err != nil {
		return err
	}
	argv, err := u.command()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(u.machine.File("/var/log/"+u.name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if u.proc, err = u.machine.Run(u.runs.ctx, cmd); err != nil {
		return err
	}
	u.runs.busy.Add(1)
	go u.watch(u.proc)
	return nil
}

// watch waits for the end of a process and starts the next one.
func (u *unit) watch(p *netlab.Process) {
	defer u.runs.busy.Done()
	<-p.Done()
	pause := time.NewTimer(restartAfter)
	defer pause.Stop()
	select {
	case <-u.runs.ctx.Done():
		return
	case <-pause.C:
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.wanted || u.proc != p {
		return
	}
	u.runs.log.Info("start again what ended", "node", u.machine.Name(), "unit", u.name)
	if err := u.spawn(); err != nil {
		u.runs.log.Error("unit stays down", "node", u.machine.Name(), "unit", u.name, "err", err)
	}
}

func kill(p *netlab.Process) {
	_ = p.Signal(syscall.SIGKILL)
	<-p.Done()
}
