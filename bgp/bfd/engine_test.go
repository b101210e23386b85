package bfd

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A world is engines that talk over a simulated network, by a simulated clock.
type world struct {
	now     time.Time
	rand    *rand.Rand
	engines []*engine
	flights []flight
	last    [2]time.Time // arrival at each engine
	loss    float64      // of all packets
	cut     [2]bool      // nothing arrives at this engine
	told    [2][]Change
}

// A flight is a packet on its way to an engine.
type flight struct {
	at time.Time
	to int
	d  datagram
}

// A pipe is an engine's wire to the other one.
type pipe struct {
	w    *world
	to   int
	path path
}

func (p pipe) Send(b []byte) error {
	if p.w.rand.Float64() >= p.w.loss && !p.w.cut[p.to] {
		back := p.path
		back.local, back.remote = p.path.remote, p.path.local
		delay := time.Duration(p.w.rand.IntN(3000)) * time.Microsecond
		p.w.last[p.to] = maxTime(p.w.last[p.to], p.w.now.Add(delay)) // packets do not overtake each other
		p.w.flights = append(p.w.flights, flight{p.w.last[p.to], p.to, datagram{path: back, ttl: 255, payload: b}})
	}
	return nil
}

func (pipe) Close() {}

// newWorld makes two engines with one session.
func newWorld(seed uint64, a, b settings) *world {
	w := &world{now: time.Unix(1e9, 0), rand: rand.New(rand.NewPCG(seed, 1))}
	for i := range 2 {
		open := func(p path) (wire, error) { return pipe{w: w, to: 1 - i, path: p}, nil }
		w.engines = append(w.engines, newEngine(open, rand.New(rand.NewPCG(seed, uint64(i)))))
	}
	w.set(0, a)
	w.set(1, b)
	return w
}

func (w *world) set(i int, s settings) {
	addr := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	p := Peer{Name: "x", Local: addr[i], Remote: addr[1-i], Link: "l", Interval: s.interval, Multiplier: s.mult, Auth: s.auth}
	w.engines[i].set(w.now, []Peer{p}, nil)
}

// run lets time pass, event by event.
func (w *world) run(d time.Duration) {
	for end := w.now.Add(d); ; {
		next := end
		for i, e := range w.engines {
			if at := e.tick(w.now); at.Before(next) {
				next = at
			}
			for _, n := range e.notes {
				if n.change != nil {
					w.told[i] = append(w.told[i], *n.change)
				}
			}
			e.notes = nil
		}
		slices.SortStableFunc(w.flights, func(a, b flight) int { return a.at.Compare(b.at) })
		if len(w.flights) > 0 && w.flights[0].at.Before(next) {
			next = w.flights[0].at
		}
		if !next.Before(end) {
			w.now = end
			return
		}
		w.now = maxTime(next, w.now)
		for len(w.flights) > 0 && !w.flights[0].at.After(w.now) {
			f := w.flights[0]
			w.flights = w.flights[1:]
			w.engines[f.to].arrive(w.now, f.d)
		}
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (w *world) status(i int) Status { return w.engines[i].status()[0] }

// Many runs with random settings: no path that loses nothing ever goes down, whatever is changed while it is up; a cut is seen
// by each side within its own detection time; and it comes back.
func TestSimulation(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 99))
		var auth *Auth
		if r.IntN(2) == 0 {
			auth = &Auth{KeyID: 1, Key: "k", Meticulous: r.IntN(2) == 0}
		}
		random := func() settings {
			return settings{interval: time.Duration(50+r.IntN(2000)) * ms, mult: uint8(2 + r.IntN(9)), auth: auth}
		}
		w := newWorld(seed, random(), random())
		w.run(10 * time.Second)
		for range 5 {
			w.set(r.IntN(2), random())
			w.run(time.Duration(r.IntN(8000)) * ms)
		}
		w.run(10 * time.Second)
		for i := range 2 {
			s, o := w.status(i), w.status(1-i)
			if s.State != Up || s.Flaps != 0 || s.Dropped != 0 || s.Detection != o.Detected || s.Sends != o.Expects {
				t.Fatalf("seed %d: %+v\n%+v", seed, s, o)
			}
		}
		cutAndHeal(t, seed, w)
	}
}

func cutAndHeal(t *testing.T, seed uint64, w *world) {
	t.Helper()
	w.cut = [2]bool{true, true}
	began := w.now
	w.run(max(w.status(0).Detection, w.status(1).Detection) + 10*ms)
	for i := range 2 {
		s := w.status(i)
		if s.State != Down || s.Diag != DiagTimeExpired || s.Flaps != 1 || s.Since.Sub(began) > s.Detection+3*ms {
			t.Fatalf("seed %d: %+v", seed, s)
		}
	}
	w.cut = [2]bool{}
	w.run(12 * time.Second)
	for i := range 2 {
		if s := w.status(i); s.State != Up || s.Flaps != 1 {
			t.Fatalf("seed %d: %+v", seed, s)
		}
	}
}

// One direction is enough to bring both down, each with its own reason.
func TestSimulatedOneWay(t *testing.T) {
	set := settings{interval: 100 * ms, mult: 3}
	w := newWorld(5, set, set)
	w.run(5 * time.Second)
	w.cut[1] = true
	w.run(400 * ms)
	if a, b := w.status(0), w.status(1); a.Diag != DiagNeighborDown || a.RemoteDiag != DiagTimeExpired || b.Diag != DiagTimeExpired {
		t.Errorf("%+v\n%+v", a, b)
	}
}

// With a tenth of all packets lost and a multiplier of 10, nothing goes down.
func TestSimulatedLoss(t *testing.T) {
	set := settings{interval: 100 * ms, mult: 10, auth: &Auth{Key: "k", Meticulous: true}}
	w := newWorld(6, set, set)
	w.loss = 0.1
	w.run(time.Hour)
	if s := w.status(0); s.State != Up || s.Flaps != 0 || s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
}

// Three farewells in less than 100 ms, and none is a failure.
func TestSimulatedEnd(t *testing.T) {
	set := settings{interval: 100 * ms, mult: 3}
	w := newWorld(7, set, set)
	w.run(5 * time.Second)
	before := w.status(1).Received
	w.engines[0].close(w.now)
	w.run(99 * ms)
	if !w.engines[0].empty() {
		t.Error("it is not over")
	}
	if s := w.status(1); s.Received-before != 3 || s.State != Down || s.Flaps != 0 || s.RemoteState != AdminDown {
		t.Errorf("%d: %+v", s.Received-before, s)
	}
	if c := w.told[1][len(w.told[1])-1]; !c.RemoteAdminDown {
		t.Errorf("%+v", c)
	}
	if c := w.told[0][len(w.told[0])-1]; c.New != AdminDown || c.RemoteAdminDown {
		t.Errorf("%+v", c)
	}
}

// badWire is a wire that fails.
type badWire struct {
	errs   []error
	closed int
}

func (b *badWire) Send([]byte) error {
	if len(b.errs) == 0 {
		return nil
	}
	err := b.errs[0]
	b.errs = b.errs[1:]
	return err
}

func (b *badWire) Close() { b.closed++ }

// Each thing that is wrong is said once, and ends when it ends.
func TestTroubleIsSaidOnce(t *testing.T) {
	noRoute := errors.New("no route")
	w := &badWire{errs: []error{noRoute, noRoute}}
	opens := 0
	e := newEngine(func(path) (wire, error) {
		if opens++; opens < 3 {
			return nil, errors.New("no link")
		}
		return w, nil
	}, rand.New(rand.NewPCG(1, 1)))
	p := to("x", netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"))
	now := time.Unix(1e9, 0)
	e.set(now, []Peer{p}, nil)
	for range 8 {
		now = maxTime(now, e.tick(now))
	}
	var said []string
	for _, n := range e.notes {
		said = append(said, fmt.Sprint(append([]any{n.text}, n.attrs[4:]...)...))
	}
	want := "BFD session cannot work" + "err" + "no link, BFD session can work again, BFD session cannot work" + "err" +
		"send to 192.0.2.2: no route, BFD session can work again"
	if got := strings.Join(said, ", "); got != want {
		t.Errorf("said %s", got)
	}
	if s := e.status()[0]; s.Error != "" || opens != 3 {
		t.Errorf("%+v, %d", s, opens)
	}
}

// A session that was taken back on its way out is a session like any other: it gets new sockets when its link goes.
func TestTakenBack(t *testing.T) {
	w := &badWire{}
	opens := 0
	e := newEngine(func(path) (wire, error) { opens++; return w, nil }, rand.New(rand.NewPCG(1, 1)))
	p := to("x", netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"))
	now := time.Unix(1e9, 0)
	e.set(now, []Peer{p}, nil)
	e.tick(now)
	disc := e.byName["x"].localDisc
	e.set(now, nil, nil)
	e.set(now, []Peer{p}, nil)
	if n := e.byName["x"]; n == nil || n.localDisc != disc || n.state != Down || len(e.gone) != 0 || w.closed != 0 {
		t.Fatalf("%+v, %d gone, closed %d times", n, len(e.gone), w.closed)
	}
	w.errs = []error{unix.ENODEV}
	for range 6 {
		now = maxTime(now, e.tick(now))
	}
	if opens != 2 || w.closed != 1 || e.status()[0].Error != "" {
		t.Errorf("opened %d times, closed %d times, %+v", opens, w.closed, e.status())
	}
}

// FuzzArrive gives anything to a session: it never panics, and without a packet that is right in every respect nothing changes
// but the count of what was dropped.
func FuzzArrive(f *testing.F) {
	auth := &Auth{KeyID: 1, Key: "k"}
	for _, s := range []State{AdminDown, Down, Init, Up} {
		p := good()
		p.state, p.yourDisc = s, 1
		f.Add(p.marshal(), uint8(255), false)
		p.auth = true
		f.Add(auth.sign(p.marshal(), 1), uint8(255), true)
		f.Add(auth.sign(p.marshal(), 1)[:26], uint8(255), true)
	}
	f.Add(good().marshal(), uint8(254), false)
	f.Add([]byte{0x20, 0x44, 3, 26}, uint8(0), true)
	f.Fuzz(func(t *testing.T, b []byte, ttl uint8, signed bool) {
		set := settings{interval: 100 * ms, mult: 3}
		if signed {
			set.auth = auth
		}
		w := newWorld(1, set, set)
		w.run(5 * time.Second)
		n := w.engines[0].byName["x"]
		before := n.session
		if len(b) >= 12 { // the one field that can hardly be guessed
			b = slices.Clone(b)
			b[8], b[9], b[10], b[11] = byte(n.localDisc>>24), byte(n.localDisc>>16), byte(n.localDisc>>8), byte(n.localDisc)
		}
		w.engines[0].arrive(w.now, datagram{path: n.path(), ttl: ttl, payload: b})
		if n.dropped == 0 && (ttl != 255 || signed || len(b) < packetLen) {
			t.Errorf("accepted: % x, TTL %d", b, ttl)
		}
		if n.dropped > 0 && n.session != before {
			t.Errorf("dropped (%s), but it changed", n.last)
		}
		w.run(time.Second)
		_ = n.status()
	})
}
