package bgp

import (
	"context"
	"errors"
	"net"
)

// handshake writes our OPEN, and reads and checks the router's. On an error, which is a *closed, the router was told by a
// NOTIFICATION as far as there was something to say; the caller closes the connection in any case. It blocks for at most
// openTimeout.
func handshake(ctx context.Context, router net.Conn, o offer) (agreement, error) {
	return agreement{}, errors.New("not yet")
}

// relay carries the messages of one session between a router and gobgp, and lets through what is checked only.
type relay struct {
	router  net.Conn // after handshake
	inner   net.Conn // to gobgp: it sends its own OPEN first, which is swallowed, and gets agreed.clean
	agreed  agreement
	sent    func(update []byte) // a whole UPDATE was written to the router; in order, from one goroutine; the slice is reused
	up      func()              // both sides have sent a KEEPALIVE: established; before the first sent
	dropped func(routes int)    // so many routes were in an UPDATE of the router
}

// run relays until either side, cease or ctx ends the session; then it closes both connections. The error is a *closed.
func (r *relay) run(ctx context.Context) error { return errors.New("not yet") }

// cease has run end the session with Cease and the subcode. The text is for the operator of the router, of at most 255 bytes
// (RFC 9003), and is sent with subcodes 2 and 4 only. It does not block; the first call counts.
func (r *relay) cease(subcode uint8, text string) {}
