package bgp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// wanted is what every router is to hear: what Set said last, without the routes whose gate is over. It is never changed.
type wanted struct {
	version uint64
	removal uint64 // the latest version that took a route away
	urgent  bool   // a gate of one of these was over
	routes  []Route
	own     map[netip.Addr]struct{} // all addresses that Set named, also those whose gate is over
}

// session is one connection to a router from the OPENs to its end. It keeps gobgp's routes as they are wanted, and knows
// what was written to the router.
//
// gobgp says nothing of changes that it hears of before it takes the session for established, and sends an UPDATE for every
// one after. So that it is always known whether a withdrawal is to come, nothing is changed in between: the leg calls up
// before gobgp can know that the session is established, and from then on the next change waits until it does.
type session struct {
	server *server
	relay  *relay
	router net.Conn
	wish   func(hops map[Family]netip.Addr) (*wanted, terms)
	look   func() map[Family]netip.Addr // the hops for wish; it asks the kernel, and may block
	kick   chan struct{}                // wish has something new
	stale  chan struct{}                // the hops may be other ones
	tell   func()                       // what status says has changed

	applying  sync.Mutex    // held while gobgp is told; guards live and confirmed
	lives     chan struct{} // closed with live
	live      bool          // gobgp may take the session for established at any moment
	confirmed bool          // and it does

	mu        sync.Mutex                // guards the rest
	installed map[netip.Prefix]export   // in gobgp; changed only with applying held too
	written   map[netip.Prefix]struct{} // what the router has
	owed      map[netip.Prefix]int      // withdrawals that gobgp is to send yet
	withheld  []Withheld
	hops      map[Family]netip.Addr // as look found them last
	applied   uint64                // the version of wanted whose withdrawals gobgp knows
	moves     uint64                // grows with every UPDATE that was written
	over      bool                  // the connection is closed
	changed   chan struct{}         // closed at the next change of the above
}

func newSession() *session {
	return &session{
		installed: make(map[netip.Prefix]export), written: make(map[netip.Prefix]struct{}), owed: make(map[netip.Prefix]int),
		changed: make(chan struct{}), lives: make(chan struct{}), stale: make(chan struct{}, 1),
	}
}

// run relays until the session ends. The error says why, and is a *closed if it was not our own trouble.
func (s *session) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer s.end() // the connection is closed
		if err := s.relay.run(ctx); err != nil {
			return err
		}
		return errors.New("the session ended")
	})
	g.Go(func() error { return s.keep(ctx) })
	g.Go(func() error { return s.watchHops(ctx) })
	return g.Wait()
}

// lookEvery is how often the next hops are looked at again: addresses come and go.
const lookEvery = 3 * time.Second

// watchHops asks the kernel, until ctx ends. It may take as long as it likes: no withdrawal waits for it.
func (s *session) watchHops(ctx context.Context) error {
	every := time.NewTicker(lookEvery)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.stale:
		case <-every.C:
		}
		if s.lookAgain() {
			kick(s.kick)
		}
	}
}

func (s *session) lookAgain() (different bool) {
	hops := s.look()
	s.mu.Lock()
	defer s.mu.Unlock()
	different = !maps.Equal(s.hops, hops)
	s.hops = hops
	return different
}

func (s *session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	clear(s.written)
	s.ring()
}

// ring wakes who waits for a change. The caller holds mu.
func (s *session) ring() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// fill gives gobgp the routes before it has a neighbour, so that it packs them into few messages.
func (s *session) fill() error {
	s.lookAgain()
	s.applying.Lock()
	defer s.applying.Unlock()
	return s.applyAll()
}

// up is called before gobgp can take the session for established.
func (s *session) up() error {
	s.applying.Lock()
	defer s.applying.Unlock()
	if err := s.applyAll(); err != nil {
		return err
	}
	s.live = true
	close(s.lives)
	return nil
}

func (s *session) applyAll() error {
	for {
		if again, err := s.apply(); err != nil || !again {
			return err
		}
	}
}

// keep tells gobgp whatever changes, until ctx ends.
func (s *session) keep(ctx context.Context) error {
	lives := s.lives
	for {
		again, err := s.update(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if again {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-lives:
			lives = nil
		case <-s.kick:
		}
	}
}

func (s *session) update(ctx context.Context) (again bool, err error) {
	s.applying.Lock()
	defer s.applying.Unlock()
	if s.live && !s.confirmed {
		if err := s.server.established(ctx); err != nil {
			return false, err
		}
		s.confirmed = true
	}
	return s.apply()
}

// apply makes gobgp's routes those that are wanted: withdrawals first. Again says that it gave up half-way because there is
// something newer. The caller holds applying.
func (s *session) apply() (again bool, err error) {
	select {
	case <-s.kick:
	default:
	}
	kick(s.stale)
	s.mu.Lock()
	hops := s.hops
	s.mu.Unlock()
	w, t := s.wish(hops)
	exports := make([]export, 0, len(w.routes))
	keep := make(map[netip.Prefix]struct{}, len(w.routes))
	var withheld []Withheld
	for _, r := range w.routes {
		if !isOpen(r.Gate) { // and the Speaker did not get to it yet
			continue
		}
		e, why := t.export(r)
		if why != "" {
			withheld = append(withheld, Withheld{r.Prefix, why})
			continue
		}
		exports = append(exports, e)
		keep[r.Prefix] = struct{}{}
	}
	if err := s.remove(keep); err != nil {
		return false, err
	}
	s.note(w.version, withheld)
	return s.add(exports)
}

// remove takes all out of gobgp that is not in keep.
func (s *session) remove(keep map[netip.Prefix]struct{}) error {
	for prefix, e := range s.installed {
		if _, stays := keep[prefix]; stays {
			continue
		}
		s.mu.Lock()
		delete(s.installed, prefix)
		if s.live {
			s.owed[prefix]++
		}
		s.mu.Unlock()
		if err := s.server.remove(e); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) note(version uint64, withheld []Withheld) {
	s.mu.Lock()
	different := !slices.Equal(s.withheld, withheld)
	s.applied, s.withheld = version, withheld
	s.ring()
	s.mu.Unlock()
	if different {
		s.tell()
	}
}

// add brings gobgp what it does not have yet, and stops when there is something newer: that may be a withdrawal.
func (s *session) add(exports []export) (again bool, err error) {
	for _, e := range exports {
		if old, has := s.installed[e.prefix]; has && old.equal(e) {
			continue
		}
		if len(s.kick) > 0 {
			return true, nil
		}
		s.mu.Lock()
		s.installed[e.prefix] = e
		s.mu.Unlock()
		if err := s.server.add(e); err != nil {
			return false, err
		}
	}
	return false, nil
}

// sent notes what an UPDATE, written to the router, said.
func (s *session) sent(update []byte) {
	withdrawn, reached, err := readUpdate(update)
	if err != nil {
		s.relay.cease(ceaseReset, "our own BGP server sent what cannot be read: "+err.Error())
		return
	}
	s.mu.Lock()
	for _, p := range withdrawn {
		delete(s.written, p)
		if s.owed[p]--; s.owed[p] <= 0 {
			delete(s.owed, p)
		}
	}
	for _, p := range reached {
		s.written[p] = struct{}{}
	}
	s.moves++
	s.ring()
	s.mu.Unlock()
	s.tell()
}

// Limits are for the patience with a router that has to be told of a withdrawal.
type limits struct {
	stalled    time.Duration // its connection may take nothing for so long
	slow       time.Duration // and all of it may last so long
	afterCease time.Duration // then it has so long to hear why its connection is reset
}

// A wish can wait a little. When a gate is over another node may be the one, and it counts on half a second.
var (
	usual  = limits{stalled: time.Second, slow: 4 * time.Second, afterCease: 300 * time.Millisecond}
	urgent = limits{stalled: 200 * time.Millisecond, slow: 300 * time.Millisecond, afterCease: 50 * time.Millisecond}
)

// settle returns when all withdrawals of the version are written to the router, or the session is over. A router that takes
// no bytes gets its connection reset, which withdraws everything. It returns early when ctx ends.
func (s *session) settle(ctx context.Context, version uint64, has limits) {
	limit := time.NewTimer(has.slow)
	defer limit.Stop()
	for {
		done, moves, changed := s.settled(version)
		if done {
			return
		}
		stall := time.NewTimer(has.stalled)
		for again := true; again; {
			select {
			case <-changed:
				var now uint64
				done, now, changed = s.settled(version)
				again = !done && now == moves
			case <-stall.C:
				s.abort(ctx, fmt.Sprintf("the connection took nothing for %s while routes had to be withdrawn", has.stalled), has)
				return
			case <-limit.C:
				s.abort(ctx, fmt.Sprintf("routes could not be withdrawn within %s", has.slow), has)
				return
			case <-ctx.Done():
				stall.Stop()
				return
			}
		}
		stall.Stop()
	}
}

func (s *session) settled(version uint64) (done bool, moves uint64, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over || s.applied >= version && len(s.owed) == 0, s.moves, s.changed
}

// abort ends the session by a reset of the connection: what waits in the socket, before a NOTIFICATION too, is thrown away.
func (s *session) abort(ctx context.Context, why string, has limits) {
	dropQueue(s.router)
	s.relay.cease(ceaseReset, why)
	s.gone(ctx, has.afterCease)
	_ = s.router.Close()
	s.gone(ctx, usual.stalled)
}

// gone waits until the session is over, for so long at most.
func (s *session) gone(ctx context.Context, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		s.mu.Lock()
		over, changed := s.over, s.changed
		s.mu.Unlock()
		if over {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// advertised is what the router has, sorted; and what it does not get, although it is wanted.
func (s *session) advertised() ([]netip.Prefix, []Withheld) {
	s.mu.Lock()
	out, withheld := slices.AppendSeq(make([]netip.Prefix, 0, len(s.written)), maps.Keys(s.written)), s.withheld
	s.mu.Unlock()
	slices.SortFunc(out, netip.Prefix.Compare)
	return out, withheld
}

// mayHave calls yield for each prefix that the router has or will get, from what gobgp knows now.
func (s *session) mayHave(yield func(netip.Prefix)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	for p := range s.written {
		yield(p)
	}
	for p := range s.owed {
		yield(p)
	}
	for p := range s.installed {
		yield(p)
	}
}
