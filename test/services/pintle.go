package services

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// Start starts the Pintle of node i, as the DaemonSet would: with a file of its own, and the API's Service in its environment. Its
// output is added to its log. One that runs is left alone.
func (b *Bed) Start(i int) error { return b.StartWith(i, b.opts.Pintle) }

// StartWith starts another build of Pintle on node i.
func (b *Bed) StartWith(i int, program string) error {
	if b.Running(i) {
		return nil
	}
	log, err := os.OpenFile(b.Node(i).File(logFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own descriptor
	if program, err = filepath.Abs(program); err != nil {
		return err
	}
	cmd := exec.Command(program, "run", "--config", configFile, "--node", b.Node(i).Name())
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if !b.opts.NoProxy { // which is who leads there
		cmd.Env = append(cmd.Env, "KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_SERVICE_PORT=443")
	}
	cmd.Stdout, cmd.Stderr = log, log
	b.pintles[i-1], err = b.Node(i).Run(b.ctx, cmd)
	return err
}

// Pintle is the process of node i; nil before Start.
func (b *Bed) Pintle(i int) *netlab.Process { return b.pintles[i-1] }

// Running says whether the Pintle of node i is there, be it frozen.
func (b *Bed) Running(i int) bool { return b.pintles[i-1] != nil && !b.pintles[i-1].Exited() }

// Kill kills the Pintle of node i with SIGKILL. It is gone when Kill returns.
func (b *Bed) Kill(i int) error {
	if err := b.signal(i, syscall.SIGKILL); err != nil {
		return err
	}
	<-b.pintles[i-1].Done()
	return nil
}

// Stop asks the Pintle of node i to end, as the kubelet does, and waits until it has, for as long as it takes.
func (b *Bed) Stop(ctx context.Context, i int) error {
	if err := b.signal(i, syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-b.pintles[i-1].Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the Pintle of %s does not end: %w", b.Node(i).Name(), context.Cause(ctx))
	}
}

// Freeze stops the Pintle of node i with SIGSTOP.
func (b *Bed) Freeze(i int) error { return b.signal(i, syscall.SIGSTOP) }

// Continue undoes Freeze.
func (b *Bed) Continue(i int) error { return b.signal(i, syscall.SIGCONT) }

func (b *Bed) signal(i int, sig syscall.Signal) error {
	if b.pintles[i-1] == nil {
		return fmt.Errorf("signal the Pintle of %s: it was never started", b.Node(i).Name())
	}
	return b.pintles[i-1].Signal(sig)
}

// Log is what the Pintle of node i has said so far.
func (b *Bed) Log(i int) string {
	text, err := os.ReadFile(b.Node(i).File(logFile))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Status is what `pintle status` prints on node i, with more arguments, as "-o", "json".
func (b *Bed) Status(ctx context.Context, i int, args ...string) ([]byte, error) {
	program, err := filepath.Abs(b.opts.Pintle)
	if err != nil {
		return nil, err
	}
	return b.Node(i).Exec(ctx, append([]string{program, "status", "--config", configFile, "--node", b.Node(i).Name()}, args...)...)
}

// RSS is how much memory the Pintle of node i has now, in bytes, and Peak how much it had at most.
func (b *Bed) RSS(i int) (now, peak int64, err error) {
	if b.pintles[i-1] == nil {
		return 0, 0, fmt.Errorf("measure the Pintle of %s: it was never started", b.Node(i).Name())
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.pintles[i-1].PID()))
	if err != nil {
		return 0, 0, err
	}
	for _, line := range strings.Split(string(text), "\n") {
		key, value, _ := strings.Cut(line, ":")
		var into *int64
		switch key {
		case "VmRSS":
			into = &now
		case "VmHWM":
			into = &peak
		default:
			continue
		}
		kb, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("read %q: %w", line, err)
		}
		*into = kb << 10
	}
	return now, peak, nil
}
