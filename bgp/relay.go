package bgp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// holdSpare is how much later than gobgp the relay ends a silent session by itself.
	holdSpare = 2 * time.Second
	// refreshPause keeps a router from having all routes sent again faster than it takes them: gobgp's queue has no bound.
	refreshPause = time.Second
	// crowded is a write to the router that waits: the buffers of its connection are full.
	crowded = 20 * time.Millisecond
)

// relay carries the messages of one session between a router and gobgp, and lets through what is checked only.
type relay struct {
	router  net.Conn // after handshake
	inner   net.Conn // to gobgp: it sends its own OPEN first, which is swallowed, and gets agreed.clean
	agreed  agreement
	sent    func(update []byte) // a whole UPDATE was written to the router; in order, from one goroutine
	up      func()              // both sides have sent a KEEPALIVE: established; before the first sent
	dropped func(routes int)    // so many routes were in an UPDATE of the router

	once  sync.Once
	stops chan *closed  // from cease; room for one
	signs atomic.Uint32 // whose first KEEPALIVE there was
	out   chan message  // from gobgp to the router
	in    chan message  // from the router to gobgp; never a slice that is used again
	ends  chan *closed  // of the three goroutines; room for all
	done  chan struct{} // closed when the session is over
	last  message       // for gobgp, when it is; set before done is closed
	idle  chan struct{} // closed when toInner has ended

	writing atomic.Pointer[time.Time] // since when a write to the router goes on; nil: none does
	waited  atomic.Bool               // one was crowded; cleared by slowReader

	alive time.Time // of fromRouter: when gobgp last heard that the router is
}

// The bits of relay.signs.
const (
	signOfRouter = 1 << iota
	signOfGobgp
	signsOfBoth = signOfRouter | signOfGobgp
)

func (r *relay) init() {
	r.stops = make(chan *closed, 1)
	r.out, r.in = make(chan message), make(chan message)
	r.ends, r.done, r.idle = make(chan *closed, 3), make(chan struct{}), make(chan struct{})
}

// run relays until either side, cease or ctx ends the session; then it closes both connections. The error is a *closed.
// It may be called once.
func (r *relay) run(ctx context.Context) error {
	r.once.Do(r.init)
	stop := context.AfterFunc(ctx, r.closeSoon)
	defer stop()
	var wg sync.WaitGroup
	for _, side := range []func() *closed{r.fromRouter, r.toInner, r.fromInner} {
		wg.Go(func() {
			if end := side(); end != nil {
				r.ends <- end
			}
		})
	}
	end := r.toRouter(ctx)
	r.finish(end)
	wg.Wait()
	return end
}

// cease has run end the session with Cease and the subcode. The text is for the operator of the router, of at most 255 bytes
// (RFC 9003), and is sent with subcodes 2 and 4 only. It does not block; the first call counts.
func (r *relay) cease(subcode uint8, text string) {
	r.once.Do(r.init)
	select {
	case r.stops <- ceased(subcode, text):
		r.closeSoon()
	default:
	}
}

// closeSoon bounds the end of a session whose router no longer reads.
func (r *relay) closeSoon() {
	time.AfterFunc(lastWords, func() {
		dropQueue(r.router)
		r.router.Close()
	})
}

// finish tells both sides. gobgp gets the code only: what a router adds is for people.
func (r *relay) finish(end *closed) {
	if end.byRouter && end.code != 0 {
		r.last = newMessage(typeNotification, []byte{end.code, end.subcode})
	}
	close(r.done)
	if r.last != nil {
		select {
		case <-r.idle:
		case <-time.After(lastWords):
		}
	}
	r.inner.Close()
	farewell(r.router, end)
	r.router.Close()
}

// toRouter is the only one that writes to the router.
func (r *relay) toRouter(ctx context.Context) *closed {
	for {
		select {
		case <-ctx.Done():
			return stopped(ctx)
		case end := <-r.stops:
			return end
		case end := <-r.ends:
			return end
		case m := <-r.out:
			if err := r.write(m); err != nil {
				return r.unwritten(err)
			}
		}
	}
}

func (r *relay) write(m message) error {
	_ = r.router.SetWriteDeadline(time.Now().Add(r.agreed.hold))
	begun := time.Now()
	r.writing.Store(&begun)
	_, err := r.router.Write(m)
	r.writing.Store(nil)
	if time.Since(begun) >= crowded {
		r.waited.Store(true)
	}
	if err != nil {
		return err
	}
	switch m.kind() {
	case typeKeepalive:
		r.sign(signOfGobgp)
	case typeUpdate:
		r.sent(m)
	}
	return nil
}

// sign calls up when it is the second of both.
func (r *relay) sign(of uint32) {
	if old := r.signs.Or(of); old != signsOfBoth && old|of == signsOfBoth {
		r.up()
	}
}

// unwritten finds out why a write failed: the router may have said so before it closed. No NOTIFICATION can follow what may be
// half a message.
func (r *relay) unwritten(err error) *closed {
	dropQueue(r.router)
	select {
	case end := <-r.stops: // then closeSoon cut it short
		end.told = true
		return end
	default:
	}
	// RFC 9687: a router that does not read for so long is as good as gone.
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &closed{byUs: true, code: codeSendHold, err: err, told: true,
			text: fmt.Sprintf("send hold timer expired: the router took nothing for %s", r.agreed.hold)}
	}
	timeout := time.After(lastWords)
	for {
		select {
		case end := <-r.ends:
			if end.byRouter {
				return end
			}
		case <-timeout:
			return lost(err)
		}
	}
}

// fromRouter reads and checks what the router says.
func (r *relay) fromRouter() *closed {
	if !r.hand(message(r.agreed.clean)) {
		return nil
	}
	b, buf := bufio.NewReaderSize(r.router, 16*maxMessage), make([]byte, maxMessage)
	for {
		_ = r.router.SetReadDeadline(time.Now().Add(r.agreed.hold + holdSpare))
		m, err := readMessage(b, buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return r.silent(err)
		}
		if err != nil {
			return lost(err)
		}
		checked, err := r.receive(m)
		if err != nil {
			return lost(err)
		}
		if checked != nil && !r.hand(checked) {
			return nil
		}
	}
}

func (r *relay) hand(m message) bool {
	select {
	case r.in <- m:
		return true
	case <-r.done:
		return false
	}
}

// receive decides what gobgp gets for a message of the router: a message of our own making, or nil for nothing. The error is a
// *violation, or a *closed when the router ends the session.
func (r *relay) receive(m message) (message, error) {
	state := uint8(2) // RFC 6608: OpenConfirm, until the first KEEPALIVE
	if r.signs.Load()&signOfRouter != 0 {
		state = 3
	}
	switch kind := m.kind(); {
	case kind == typeNotification:
		return nil, byRouter(m)
	case kind == typeKeepalive:
		r.sign(signOfRouter)
		return r.heard(), nil
	case kind == typeOpen || state == 2:
		return nil, outOfOrder(m, state)
	case kind == typeRefresh:
		return r.refresh(m.body()), nil
	}
	routes, err := countRoutes(m.body())
	if err != nil {
		return nil, err
	}
	r.dropped(routes)
	return r.heard(), nil
}

// heard is the KEEPALIVE for a KEEPALIVE or an UPDATE of the router, either of which restarts the hold timer (RFC 4271 8.2.2). It is
// nil when there was one just before: a thirtieth of the hold time makes no difference to gobgp, but a flood would.
func (r *relay) heard() message {
	now := time.Now()
	if now.Sub(r.alive) < r.agreed.hold/30 {
		return nil
	}
	r.alive = now
	return keepalive
}

// refresh is the ROUTE-REFRESH that gobgp gets, if any.
func (r *relay) refresh(b []byte) message {
	f := family(b[0], b[1], b[3])
	// RFC 2918 4: for a family that was not offered, ignore it. RFC 7313 5: so too a subtype that was not negotiated.
	if b[2] != 0 || !r.agreed.has(f) {
		return nil
	}
	return refreshOf(f)
}

func (a agreement) has(f Family) bool {
	for _, g := range a.families {
		if f == g {
			return true
		}
	}
	return false
}

func refreshOf(f Family) message { return newMessage(typeRefresh, []byte{0, byte(f), 0, 1}) }

// toInner is the only one that writes to gobgp.
func (r *relay) toInner() *closed {
	defer close(r.idle)
	var wanted []Family // of ROUTE-REFRESH, since the last
	var timer <-chan time.Time
	for {
		var m message
		select {
		case <-r.done:
			if r.last != nil {
				return r.writeInner(r.last)
			}
			return nil
		case m = <-r.in:
		case <-timer:
			timer = nil
			if r.slowReader() {
				timer = time.After(refreshPause)
				continue
			}
			if len(wanted) == 0 {
				continue
			}
			m, wanted = refreshOf(wanted[0]), wanted[1:]
		}
		if m.kind() == typeRefresh {
			if timer != nil {
				wanted = also(wanted, Family(m.body()[1]))
				continue
			}
			timer = time.After(refreshPause)
		}
		if end := r.writeInner(m); end != nil {
			return end
		}
	}
}

// slowReader says that something has waited to be written to the router since the last call. What is more would wait in gobgp.
func (r *relay) slowReader() bool {
	begun := r.writing.Load()
	return r.waited.Swap(false) || begun != nil && time.Since(*begun) >= crowded
}

// also adds f to the set.
func also(set []Family, f Family) []Family {
	if (agreement{families: set}).has(f) {
		return set
	}
	return append(set, f)
}

// writeInner leaves the reason to fromInner when gobgp closed the connection.
func (r *relay) writeInner(m message) *closed {
	_ = r.inner.SetWriteDeadline(time.Now().Add(r.agreed.hold))
	if _, err := r.inner.Write(m); errors.Is(err, os.ErrDeadlineExceeded) {
		return &closed{byUs: true, code: codeCease, text: "our own BGP server does not read", err: err}
	}
	return nil
}

// fromInner reads what gobgp says. It is ours, but a NOTIFICATION of it is the end too: hold timer expired, peer deconfigured.
func (r *relay) fromInner() *closed {
	b, buf := bufio.NewReaderSize(r.inner, 16*maxMessage), make([]byte, maxMessage)
	for opened := false; ; {
		m, err := readMessage(b, buf)
		switch {
		case err != nil:
			return &closed{byUs: true, code: codeCease, text: fmt.Sprintf("our own BGP server ended the session: %v", err), err: err}
		case m.kind() == typeNotification:
			return r.byGobgp(m)
		case m.kind() == typeOpen && !opened: // the router has ours
			opened = true
			continue
		case m.kind() == typeRefresh: // its routes are not wanted, and it may not know the message
			continue
		case m.kind() == typeOpen || !opened:
			return &closed{byUs: true, code: codeCease, text: fmt.Sprintf("our own BGP server sent a message of type %d out of order", m.kind())}
		}
		select {
		case r.out <- bytes.Clone(m):
		case <-r.done:
			return nil
		}
	}
}

func (r *relay) byGobgp(m message) *closed {
	c := notified(m)
	c.byUs, c.told = true, false
	c.data = bytes.Clone(c.data) // the buffer goes away
	if c.code == codeHold {
		return r.silent(nil)
	}
	return c
}

// silent is the end of a session in which the router says nothing.
func (r *relay) silent(err error) *closed {
	text := fmt.Sprintf("%s: nothing from the router for %s", explain(codeHold, 0, nil), r.agreed.hold)
	return &closed{byUs: true, code: codeHold, text: text, err: err}
}
