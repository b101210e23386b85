package bfd

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"
)

// A Speaker keeps sessions with neighbours. Its methods may be called from any goroutine.
type Speaker struct {
	log      *slog.Logger
	onChange func(string, Change)

	mu      sync.Mutex // guards what follows; held while packets are sent and read, which never blocks
	engine  *engine
	sockets *sockets
	bell    *bell // nil while Run does not run
	ran     bool

	news chan struct{} // notes has grown
	told sync.Mutex    // guards notes
	tell []note        // for the log and OnChange
}

// New returns a Speaker without sessions. It opens and starts nothing.
func New(cfg Config) *Speaker {
	r := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	sockets := newSockets(r)
	s := &Speaker{
		log: cfg.Log, onChange: cfg.OnChange, sockets: sockets,
		engine: newEngine(sockets.open, r), news: make(chan struct{}, 1),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

// Set makes peers the sessions that there are, before or while Run runs. A session that stays keeps its state, also when its
// interval, multiplier or key changes; one that goes tells its neighbour so (AdminDown). The error names each peer that
// cannot be had, and why: nothing changes for it, and a session of that name goes on as it was; the others are set. Set does not
// block. Sockets are opened later, and Status says what hinders it. If ctx has ended nothing is done.
func (s *Speaker) Set(ctx context.Context, peers []Peer) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	good, bad, err := sift(peers)
	s.mu.Lock()
	good, clash := s.engine.free(good, bad)
	s.engine.set(time.Now(), good, bad)
	s.pass()
	bell := s.bell
	s.mu.Unlock()
	if bell != nil {
		bell.ring()
	}
	return errors.Join(err, clash)
}

// Status returns all sessions, sorted by name.
func (s *Speaker) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.engine.status()
}

// Run keeps the sessions until ctx ends; then it says AdminDown three times to every neighbour, within 100 ms, and returns
// nil. It runs on the caller's OS thread, in whose network namespace the sockets are opened, with raised priority if that is
// allowed. It runs once; an error means that it could not begin.
func (s *Speaker) Run(ctx context.Context) error {
	bell, err := s.begin()
	if err != nil {
		return err
	}
	defer bell.close()
	defer context.AfterFunc(ctx, bell.ring)()

	quit := make(chan struct{})
	var teller sync.WaitGroup
	teller.Go(func() { s.report(quit) })
	defer teller.Wait()
	defer close(quit)

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer hasten()()
	s.lead(ctx, bell)
	return nil
}

func (s *Speaker) begin() (*bell, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ran {
		return nil, errors.New("run BFD: it ran before")
	}
	bell, err := newBell()
	if err != nil {
		return nil, err
	}
	s.bell, s.ran = bell, true
	return bell, nil
}

// lead is the one loop. What has arrived counts before any timer: a late process is not a dead neighbour.
func (s *Speaker) lead(ctx context.Context, bell *bell) {
	for {
		s.mu.Lock()
		now := time.Now()
		s.sockets.drain(now, s.engine.arrive)
		if ctx.Err() != nil {
			s.engine.close(now)
		}
		next := s.engine.tick(now)
		done := ctx.Err() != nil && s.engine.empty()
		fds := s.sockets.fds()
		s.pass()
		s.mu.Unlock()
		if done {
			return
		}
		bell.wait(fds, next)
	}
}

// pass hands the engine's notes to report. mu is held, so that they stay in order.
func (s *Speaker) pass() {
	notes := s.engine.notes
	if len(notes) == 0 {
		return
	}
	s.engine.notes = nil
	s.told.Lock()
	s.tell = append(s.tell, notes...)
	s.told.Unlock()
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// report logs and calls OnChange, in order, until quit; the thread that leads the sessions never waits for either.
func (s *Speaker) report(quit <-chan struct{}) {
	for {
		select {
		case <-s.news:
			s.say()
		case <-quit:
			s.say()
			return
		}
	}
}

func (s *Speaker) say() {
	s.told.Lock()
	notes := s.tell
	s.tell = nil
	s.told.Unlock()
	for _, n := range notes {
		s.log.Log(context.Background(), n.level, n.text, n.attrs...)
		if n.change != nil && s.onChange != nil {
			s.onChange(n.peer, *n.change)
		}
	}
}
