package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"
)

// A fault is done to the machine that holds the address.
type fault struct {
	name string
	text string // for people, after the machine's name
	do   func(*cluster, *machine) error
	undo func(context.Context, *cluster, *machine) error
	// stays: the holder may get over it and keep the address, so only the client's view counts.
	stays bool
}

// lossPercent and stayTime describe a fault that stays.
const (
	lossPercent = 20
	stayTime    = 3 * time.Second
)

var faults = map[string]fault{
	"cut": {
		name: "cut", text: "vanishes from the network, without a sign",
		do:   func(_ *cluster, m *machine) error { return m.node.Cut() },
		undo: func(_ context.Context, _ *cluster, m *machine) error { return m.node.Heal() },
	},
	"down": {
		name: "down", text: "loses its link",
		do:   func(_ *cluster, m *machine) error { return m.node.LinkDown() },
		undo: func(_ context.Context, _ *cluster, m *machine) error { return m.node.LinkUp() },
	},
	"peers": {
		name: "peers", text: "is cut off from the others, not from the client",
		do:   func(_ *cluster, m *machine) error { return m.node.CutFromPeers(true) },
		undo: func(_ context.Context, _ *cluster, m *machine) error { return m.node.CutFromPeers(false) },
	},
	"oneway": {
		name: "oneway", text: "hears everyone, but nobody hears it",
		do:   func(c *cluster, m *machine) error { return c.silence(m, true) },
		undo: func(_ context.Context, c *cluster, m *machine) error { return c.silence(m, false) },
	},
	"loss": {
		name: "loss", text: fmt.Sprintf("loses %d %% of all packets", lossPercent), stays: true,
		do:   func(c *cluster, m *machine) error { return c.lab.Loss(m.node, lossPercent) },
		undo: func(_ context.Context, c *cluster, m *machine) error { return c.lab.Loss(m.node, 0) },
	},
	"kill": {
		name: "kill", text: "has its Pintle killed (SIGKILL)",
		do: func(_ *cluster, m *machine) error { return m.pintle.Signal(syscall.SIGKILL) }, undo: restart,
	},
	"term": {
		name: "term", text: "has its Pintle stopped as planned (SIGTERM)",
		do: func(_ *cluster, m *machine) error { return m.pintle.Signal(syscall.SIGTERM) }, undo: restart,
	},
	"freeze": {
		name: "freeze", text: "has its Pintle frozen (SIGSTOP)",
		do:   func(_ *cluster, m *machine) error { return m.pintle.Signal(syscall.SIGSTOP) },
		undo: func(_ context.Context, _ *cluster, m *machine) error { return m.pintle.Signal(syscall.SIGCONT) },
	},
}

func restart(ctx context.Context, c *cluster, m *machine) error {
	select {
	case <-m.pintle.Done():
		return c.run(ctx, m)
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(c.patience):
		return fmt.Errorf("end pintle on %s: still there %v after the signal", m.name(), c.patience)
	}
}

// silence drops, or no longer drops, all that a machine sends.
func (c *cluster) silence(m *machine, drop bool) error {
	errs := []error{c.lab.OneWay(m.node, c.lab.Client(), drop)}
	for _, other := range c.machines {
		if other != m {
			errs = append(errs, c.lab.OneWay(m.node, other.node, drop))
		}
	}
	return errors.Join(errs...)
}

// suffer waits until all is well, does the fault to the holder, waits for another to take over, heals, and measures from
// the fault until all is well again.
func (c *cluster) suffer(ctx context.Context, f fault, out printer) (Result, error) {
	holder, err := c.settled(ctx)
	if err != nil {
		return Result{}, err
	}
	// Not in step with the election's heartbeats.
	if err := pause(ctx, rand.N(c.timeout)); err != nil {
		return Result{}, err
	}
	out.fault(holder, f)
	epochs := c.watch.epochs()
	from := c.probe.Mark()
	if err := f.do(c, holder); err != nil {
		return Result{}, err
	}
	taken := c.takenOver(ctx, f, holder)
	if err := errors.Join(taken, f.undo(ctx, c, holder)); err != nil {
		return Result{}, err
	}
	if _, err := c.settled(ctx); err != nil {
		return Result{}, fmt.Errorf("after healing %s: %w", holder.name(), err)
	}
	w := c.probe.Report(from, c.probe.Mark())
	return newResult(f, c.profile, holder.name(), w, c.watch.epochs()-epochs), nil
}

// takenOver waits until another machine answers, and a little longer, so that it also has to go on answering.
func (c *cluster) takenOver(ctx context.Context, f fault, holder *machine) error {
	if f.stays {
		return pause(ctx, stayTime)
	}
	err := wait(ctx, c.patience, func() (string, bool) {
		now := c.probe.LastNode()
		return fmt.Sprintf("%q answers, no other than %s", now, holder.name()), now != "" && now != holder.name() && c.probe.Serving() != ""
	})
	if err != nil {
		return fmt.Errorf("take over %s from %s: %w", Address, holder.name(), err)
	}
	return pause(ctx, max(300*time.Millisecond, 2*c.timeout))
}

// settled waits until every machine is ready and all agree with the client on who holds the address, for the whole of
// the settling time. It returns the holder.
func (c *cluster) settled(ctx context.Context) (*machine, error) {
	var holder string
	since := time.Now()
	err := wait(ctx, c.patience+c.settle, func() (string, bool) {
		now, why := c.agreed()
		if now == "" || now != holder {
			holder, since = now, time.Now()
		}
		return why, holder != "" && time.Since(since) >= c.settle
	})
	if err != nil {
		return nil, fmt.Errorf("settle: %w", err)
	}
	return c.machine(holder), nil
}

// agreed returns the holder that everyone names, or "" and who does not.
func (c *cluster) agreed() (holder, why string) {
	holder, why = c.watch.holder()
	if holder == "" {
		return "", why
	}
	if arp, udp := c.probe.LastNode(), c.probe.Serving(); arp != holder || udp != holder {
		return "", fmt.Sprintf("%s holds the address, but %q answers ARP and %q UDP", holder, arp, udp)
	}
	return holder, ""
}

// wait polls a condition. After the time, its error says why it does not hold.
func wait(ctx context.Context, atMost time.Duration, ok func() (why string, ok bool)) error {
	deadline := time.Now().Add(atMost)
	for {
		why, ok := ok()
		if ok {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %v: %s", atMost, why)
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
