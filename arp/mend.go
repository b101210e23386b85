package arp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

const (
	mendFirst = 50 * time.Millisecond // before the second try; then twice as long each time,
	mendMost  = 2 * time.Second       // at most this
)

// lose drops a wire whose link is gone, and has it mended. mu is held.
func (l *link) lose(w wire) {
	for kind, have := range l.wires {
		if have == w {
			delete(l.wires, kind)
			l.drop(w)
			l.retry, l.wait = time.Now(), mendFirst
			l.s.work()
		}
	}
}

// work tells Run that there is something to do.
func (s *Speaker) work() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// mendUntil mends what breaks until ctx ends.
func (s *Speaker) mendUntil(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.poke:
		case <-timer.C:
		}
		if s.kin.asked() {
			s.readKin()
		}
		timer.Reset(time.Until(s.mendDue(time.Now())))
	}
}

// mendDue mends each link that is due, and returns when it has to be called again.
func (s *Speaker) mendDue(now time.Time) (next time.Time) {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.mu.Lock()
	links := make([]*link, 0, len(s.links))
	for _, l := range s.links {
		links = append(links, l)
	}
	s.mu.Unlock()
	next = now.Add(time.Hour)
	for _, l := range links {
		at := l.broken()
		if !at.IsZero() && !at.After(now) {
			_, _ = s.mend(l) // it logs, and says when it wants to be tried again
			at = l.broken()
		}
		if !at.IsZero() && at.Before(next) {
			next = at
		}
	}
	return next
}

// broken is when l has to be mended; zero if nothing is broken.
func (l *link) broken() time.Time {
	l.mu.Lock()
	defer l.unlock()
	return l.retry
}

// mend opens what l's targets need and lacks, or belongs to a former link of the same name; addresses whose socket is new are
// announced. What does not succeed is tried again later. turn is held.
func (s *Speaker) mend(l *link) (reopened bool, err error) {
	index, err := s.host.index(l.name)
	if err != nil {
		index = 0
	}
	kinds, addrs := l.lacks(index)
	if err == nil {
		reopened, err = s.open(l, index, kinds)
		err = errors.Join(err, s.join(l, index, addrs))
	}
	if err != nil {
		err = fmt.Errorf("use link %s: %w", l.name, err)
	}
	l.mended(err)
	return reopened, err
}

// lacks drops what does not belong to the link of this index, and returns what is missing then.
func (l *link) lacks(index int) (kinds []uint16, addrs []netip.Addr) {
	l.mu.Lock()
	defer l.unlock()
	if index != l.index {
		l.index = index
		l.closeWires()
		for _, t := range l.order {
			l.leave(t)
		}
	}
	need := make(map[uint16]bool)
	for _, t := range l.order {
		need[t.kind()] = true
		if t.addr.Is6() && t.group == nil {
			addrs = append(addrs, t.addr)
		}
	}
	for kind := range need {
		if l.wires[kind] == nil {
			kinds = append(kinds, kind)
		}
	}
	return kinds, addrs
}

// open opens the wires of these kinds, announces the addresses that have waited for them, and then has them read.
func (s *Speaker) open(l *link, index int, kinds []uint16) (opened bool, err error) {
	var wires []wire
	var errs []error
	for _, kind := range kinds {
		w, err := s.host.open(index, kind)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		l.use(kind, w)
		wires = append(wires, w)
	}
	if len(wires) == 0 {
		return false, errors.Join(errs...)
	}
	l.restart(time.Now(), kinds...)
	s.readKin()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range wires {
		s.spawn(func(ctx context.Context) error { return l.read(ctx, w) })
	}
	return true, errors.Join(errs...)
}

func (l *link) use(kind uint16, w wire) {
	l.mu.Lock()
	defer l.unlock()
	l.wires[kind] = w
	if _, own, err := w.station(); err == nil {
		l.isAt(own)
	}
}

// join joins the solicited-node groups of addrs.
func (s *Speaker) join(l *link, index int, addrs []netip.Addr) error {
	var errs []error
	for _, addr := range addrs {
		group, err := s.host.join(index, addr)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		l.mu.Lock()
		l.targets[addr].group = group // targets change only with turn held
		l.unlock()
	}
	return errors.Join(errs...)
}

// mended takes note of how mending went.
func (l *link) mended(err error) {
	l.mu.Lock()
	defer l.unlock()
	l.say(&l.saidUse, "use link", err)
	if err == nil {
		l.retry, l.wait = time.Time{}, mendFirst
		return
	}
	l.wait = max(l.wait, mendFirst)
	l.retry = time.Now().Add(l.wait)
	l.wait = min(2*l.wait, mendMost)
	l.s.work()
}

// kin are the stations that are this node itself, on whatever link. Reading them takes the RTNL lock, so it is done by Run,
// when a station was heard that may have come since; those of our own links are always known.
type kin struct {
	mu   sync.Mutex // guards what follows
	macs map[mac]bool
	read time.Time // when all were read
	want bool      // they have to be read again
}

func (k *kin) add(m mac) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.macs == nil {
		k.macs = make(map[mac]bool)
	}
	k.macs[m] = true
}

// has says whether m is one of ours, as far as is known; stale says that it is time to read them again.
func (k *kin) has(m mac, now time.Time) (ours, stale bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ours = k.macs[m]
	keep := time.Second
	if ours {
		keep = 10 * time.Second
	}
	if now.Sub(k.read) < keep || k.want {
		return ours, false
	}
	k.want = true
	return ours, true
}

func (k *kin) asked() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.want
}

// foreign says whether the claim of m is another node's.
func (s *Speaker) foreign(m message, now time.Time) bool {
	ours, stale := s.kin.has(m.at, now)
	if stale {
		s.work()
	}
	return !ours
}

// readKin reads the stations of this node. If it cannot, those known stay.
func (s *Speaker) readKin() {
	all, err := s.host.stations()
	s.kin.mu.Lock()
	defer s.kin.mu.Unlock()
	s.kin.want, s.kin.read = false, time.Now()
	if err != nil {
		s.cfg.Log.Debug("cannot list links", "err", err)
		return
	}
	s.kin.macs = make(map[mac]bool, len(all))
	for _, m := range all {
		s.kin.macs[m] = true
	}
}
