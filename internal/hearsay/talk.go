package hearsay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pintle-lb/pintle/leader"
)

// A wire carries datagrams to the port of other nodes, and brings theirs.
type wire interface {
	Send(b []byte, to netip.Addr) error
	Receive(b []byte) (n int, from netip.AddrPort, err error) // blocks; an error once closed
	Close() error
}

// Run talks until ctx ends, and returns nil then. A socket that cannot be opened, or breaks, is tried again each second;
// [Circle.Status] tells why. It may be called again after it has returned.
func (c *Circle) Run(ctx context.Context) error {
	c.setRuns(true)
	for {
		err := c.talk(ctx)
		if ctx.Err() != nil {
			break
		}
		c.change(func(leader.Instant) { c.trouble(err) })
		c.tell()
		select {
		case <-ctx.Done():
		case <-time.After(reopen):
		}
	}
	c.setRuns(false)
	c.tell()
	return nil
}

func (c *Circle) setRuns(runs bool) {
	c.change(func(leader.Instant) { c.runs, c.fault, c.spoken = runs, nil, 0 })
}

// talk speaks and listens over one socket until ctx ends or the socket breaks. The socket belongs to the network namespace of the
// calling thread.
func (c *Circle) talk(ctx context.Context) error {
	w, err := c.open()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		<-ctx.Done()
		return w.Close()
	})
	g.Go(func() error { return c.speak(ctx, w) })
	g.Go(func() error { return c.listen(ctx, w) })
	return g.Wait()
}

// speak sends a round when it is due, and writes the log.
func (c *Circle) speak(ctx context.Context, w wire) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		key, fault := c.key()
		letters, next := c.round(fault)
		for _, l := range letters {
			c.sent(l.to, w.Send(l.seal(key), l.addr))
		}
		c.tell()
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-c.poke:
		}
	}
}

// key returns the secret, or why there is none.
func (c *Circle) key() ([]byte, error) {
	switch key := c.cfg.Key(); {
	case len(key) == 0:
		return nil, errors.New("the secret that the nodes have in common is not known (yet)")
	case len(key) < minKey:
		return nil, fmt.Errorf("the secret that the nodes have in common has %d bytes, it must have %d or more", len(key), minKey)
	default:
		return key, nil
	}
}

// round returns what is to be sent now, which is nothing before the time and nothing if there is a fault, and when to come back.
func (c *Circle) round(fault error) (letters []letter, next time.Duration) {
	c.change(func(now leader.Instant) {
		c.trouble(fault)
		pause := Interval
		if c.urgent {
			pause = hurry
		}
		if due := c.spoken.Add(pause); c.spoken != 0 && now < due {
			next = due.Sub(now)
			return
		}
		c.spoken, c.urgent, next = now, false, Interval
		if fault == nil {
			letters = c.tally.say(now)
		}
	})
	return letters, next
}

// sent notes whether a datagram to a peer could be sent.
func (c *Circle) sent(name string, err error) {
	c.change(func(leader.Instant) {
		p := c.tally.peers[name]
		if p == nil || text(p.sendErr) == text(err) {
			return
		}
		if p.sendErr = err; err != nil {
			addr := p.Addr
			c.note(func() {
				c.cfg.Log.Warn("cannot tell a node whether the API answers", "peer", name, "addr", addr, "err", err)
			})
		}
	})
}

// listen takes what comes until the wire is closed.
func (c *Circle) listen(ctx context.Context, w wire) error {
	buf := make([]byte, maxDatagram+1) // what is longer is seen to be
	for {
		n, from, err := w.Receive(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		c.receive(buf[:n], from)
	}
}

// receive takes one datagram, or drops it. It is never answered.
func (c *Circle) receive(b []byte, from netip.AddrPort) {
	d, err := parse(b)
	if err != nil {
		return
	}
	key, err := c.key()
	if err != nil {
		return
	}
	c.change(func(now leader.Instant) {
		p := c.tally.find(d)
		if p == nil {
			return // before the seal is looked at, which takes a thousand times as long
		}
		if !sealed(b, key) {
			if p.says(now) == Nothing { // else someone spoils for a quarrel with a node that is heard well
				c.mistrust(p, from.Addr())
			}
			return
		}
		p.hearErr = nil
		_ = c.tally.hear(now, p, d) // what is late or repeated is of no interest
	})
}

// mistrust notes a datagram in the name of p that has another seal. mu is held.
func (c *Circle) mistrust(p *peer, from netip.Addr) {
	if p.hearErr != nil {
		return
	}
	err := fmt.Errorf("a datagram from %v in its name has the seal of another secret", from.Unmap())
	p.hearErr = err
	name := p.Name
	c.note(func() { c.cfg.Log.Warn("does not believe a node", "peer", name, "err", err) })
}

// trouble sets what keeps this node from talking; nil for nothing. mu is held.
func (c *Circle) trouble(err error) {
	if text(err) == text(c.fault) {
		return
	}
	c.fault = err
	if err != nil {
		c.note(func() { c.cfg.Log.Warn("cannot talk with other nodes about the API, tries again", "err", err) })
	} else {
		c.note(func() { c.cfg.Log.Info("talks with other nodes about the API", "port", c.cfg.Port) })
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// note has a line logged. mu is held.
func (c *Circle) note(line func()) {
	c.notes = append(c.notes, line)
	c.kick()
}

// tell logs what was noted. Only Run calls it, so that the lines are in order and nobody else waits for them.
func (c *Circle) tell() {
	c.mu.Lock()
	notes := c.notes
	c.notes = nil
	c.mu.Unlock()
	for _, line := range notes {
		line()
	}
}

// kick wakes the speaker.
func (c *Circle) kick() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}
