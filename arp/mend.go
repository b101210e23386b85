package arp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	mendFirst = 50 * time.Millisecond // before the second try; then twice as long each time,
	mendMost  = 2 * time.Second       // at most this
	lookAgain = time.Second           // whether IPv6 still works: the kernel does not tell
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
	s.mu.Lock()
	links := slices.Collect(maps.Values(s.links))
	s.mu.Unlock()
	next = now.Add(time.Hour)
	for _, l := range links {
		if at := s.mendInTime(l, now); !at.IsZero() && at.Before(next) {
			next = at
		}
	}
	return next
}

// mendInTime mends l if that is due, and returns when l wants to be looked at again; zero: not before something happens.
func (s *Speaker) mendInTime(l *link, now time.Time) (next time.Time) {
	at, ipv6 := l.broken(), l.needsIPv6()
	if at.IsZero() && ipv6 && s.host.ipv6(l.name) != nil {
		at = now
	}
	if !at.IsZero() && !at.After(now) {
		l.turn.Lock()
		_, _ = s.mend(l) // it logs, and says when it wants to be tried again
		l.turn.Unlock()
		at = l.broken()
	}
	if at.IsZero() && ipv6 {
		return now.Add(lookAgain)
	}
	return at
}

// mendNew mends l unless it is broken: then Run does, which nobody waits for, and err is what is wrong.
func (s *Speaker) mendNew(l *link) error {
	if !l.broken().IsZero() || !l.turn.TryLock() {
		l.mu.Lock()
		defer l.unlock()
		return l.flaw
	}
	defer l.turn.Unlock()
	_, err := s.mend(l)
	return err
}

// broken is when l has to be mended; zero if nothing is broken.
func (l *link) broken() time.Time {
	l.mu.Lock()
	defer l.unlock()
	return l.retry
}

// needsIPv6 says whether there are targets that nothing reaches without IPv6 on the link.
func (l *link) needsIPv6() bool {
	l.mu.Lock()
	defer l.unlock()
	return slices.ContainsFunc(l.order, func(t *target) bool { return t.addr.Is6() })
}

// hurry tells Run that there is more to look after; what is broken is mended now instead of later. mu is held.
func (l *link) hurry(now time.Time) {
	if !l.retry.IsZero() {
		l.retry = now
	}
	l.s.work()
}

// mend opens what l's targets need and lacks, or belongs to a former link of the same name; addresses whose socket is new are
// announced. What does not succeed is tried again later. l.turn is held.
func (s *Speaker) mend(l *link) (reopened bool, err error) {
	reopened, err = s.reopen(l)
	if err != nil {
		err = fmt.Errorf("use link %s: %w", l.name, err)
	}
	l.mended(err)
	return reopened, err
}

func (s *Speaker) reopen(l *link) (reopened bool, err error) {
	index, err := s.host.index(l.name)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return false, err // EMFILE, for one: what is open goes on working
	}
	var off error
	if err == nil && l.needsIPv6() {
		off = s.host.ipv6(l.name)
	}
	kinds, addrs := l.lacks(index, off != nil)
	if err != nil {
		return false, err
	}
	reopened, err = s.open(l, index, kinds)
	return reopened, errors.Join(err, s.join(l, index, addrs), off)
}

// lacks drops what does not belong to the link of this index (0: there is none), and what is for IPv6 where that is off: a
// claim would only attract what the kernel drops. It returns what is missing then.
func (l *link) lacks(index int, off6 bool) (kinds []uint16, addrs []netip.Addr) {
	l.mu.Lock()
	defer l.unlock()
	if index != l.index {
		l.index = index
		l.closeWires()
		l.leaveAll()
	}
	if off6 {
		l.closeWire(etherIPv6)
		l.leaveAll() // groups do not outlive the end of IPv6 on a link
	}
	need := make(map[uint16]bool)
	for _, t := range l.order {
		if off6 && t.addr.Is6() {
			continue
		}
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
		if l.use(kind, w) {
			wires = append(wires, w)
		}
	}
	if len(wires) == 0 {
		return false, errors.Join(errs...)
	}
	l.restart(time.Now(), kinds...)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return true, errors.Join(errs...)
	}
	known := sync.OnceFunc(s.readKin) // not here: it may wait for the RTNL lock
	for _, w := range wires {
		s.spawn(func(ctx context.Context) error { known(); return l.read(ctx, w) })
	}
	return true, errors.Join(errs...)
}

// use takes w, or closes it if l was closed meanwhile.
func (l *link) use(kind uint16, w wire) bool {
	l.mu.Lock()
	defer l.unlock()
	select {
	case <-l.done:
		l.drop(w)
		return false
	default:
	}
	l.wires[kind] = w
	if kind == etherARP {
		l.narrow(w) // if it cannot be done, a new wire is shown everything
	}
	if _, own, err := w.station(); err == nil {
		l.isAt(own)
	}
	return true
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
		if t := l.targets[addr]; t != nil && t.group == nil {
			t.group = group
		} else { // no longer wanted
			l.drop(group)
		}
		l.unlock()
	}
	return errors.Join(errs...)
}

// mended takes note of how mending went.
func (l *link) mended(err error) {
	l.mu.Lock()
	defer l.unlock()
	l.say(&l.saidUse, "use link", err)
	l.flaw = err
	if err == nil {
		l.retry, l.wait = time.Time{}, mendFirst
		if slices.ContainsFunc(l.order, l.incomplete) { // since it was looked what is missing
			l.retry = time.Now()
			l.s.work()
		}
		return
	}
	l.wait = max(l.wait, mendFirst)
	l.retry = time.Now().Add(l.wait)
	l.wait = min(2*l.wait, mendMost)
	l.s.work()
}

// kin are the stations that are this node itself, on whatever link. Reading them takes the RTNL lock, so it is done by the
// readers of new sockets, before they begin, and by Run when a station was heard that may have come since; those of our own
// links are always known.
type kin struct {
	turn sync.Mutex // held while they are read; taken before mu

	mu   sync.Mutex // guards what follows
	macs map[mac]bool
	read time.Time // when all were read
	want bool      // they have to be read again
	late []mac     // came while they were read
}

func (k *kin) add(m mac) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.macs == nil {
		k.macs = make(map[mac]bool)
	}
	k.macs[m] = true
	k.late = append(k.late, m)
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
	s.kin.turn.Lock()
	defer s.kin.turn.Unlock()
	s.kin.mu.Lock()
	s.kin.late = nil
	s.kin.mu.Unlock()
	all, err := s.host.stations()
	s.kin.mu.Lock()
	defer s.kin.mu.Unlock()
	s.kin.want, s.kin.read = false, time.Now()
	if err != nil {
		s.cfg.Log.Debug("cannot list links", "err", err)
		return
	}
	s.kin.macs = make(map[mac]bool, len(all))
	for _, m := range append(all, s.kin.late...) {
		s.kin.macs[m] = true
	}
}
