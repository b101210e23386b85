package bgp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

const (
	// openTimeout is the hold time before one was agreed. RFC 4271 8.2.2 suggests 4 minutes, for routers that wait before they
	// say who they are; none of today waits that long, and until then nobody knows that something is wrong.
	openTimeout = 30 * time.Second
	lastWords   = time.Second            // for the NOTIFICATION that ends a session
	linger      = 300 * time.Millisecond // for the router to read it and to close
)

// handshake writes our OPEN, and reads and checks the router's. On an error, which is a *closed, the router was told by a
// NOTIFICATION as far as there was something to say; the caller closes the connection in any case. It blocks for at most
// openTimeout and what lastWords take.
func handshake(ctx context.Context, router net.Conn, o offer) (agreement, error) {
	router.SetDeadline(time.Now().Add(openTimeout))
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		router.SetDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	a, err := exchange(router, o)
	if !stop() {
		<-interrupted
		err = stopped(ctx)
	}
	if err == nil {
		router.SetDeadline(time.Time{})
		return a, nil
	}
	end := lost(err)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		end.text = fmt.Sprintf("hold timer expired: no OPEN from the router for %s; if only one side checks the TTL (GTSM), it looks like this", openTimeout)
	case end.byRouter && end.code == 0:
		end.text += "; it may not have this node as a neighbor" + as(router.LocalAddr())
	}
	farewell(router, end)
	return agreement{}, end
}

func exchange(router net.Conn, o offer) (agreement, error) {
	if _, err := router.Write(o.open().message()); err != nil {
		return agreement{}, err
	}
	m, err := readMessage(router, make([]byte, maxMessage))
	switch {
	case err != nil:
		return agreement{}, err
	case m.kind() == typeNotification:
		return agreement{}, byRouter(m)
	case m.kind() != typeOpen:
		return agreement{}, outOfOrder(m, 1)
	}
	r, err := parseOpen(m.body())
	if err != nil {
		return agreement{}, err
	}
	return o.agree(r)
}

// outOfOrder is RFC 6608 3 and 4: the subcode is the state, OpenSent, OpenConfirm or Established, and the data the type.
func outOfOrder(m message, state uint8) error {
	return &violation{code: codeFSM, subcode: state, data: []byte{m.kind()}}
}

func byRouter(m message) *closed {
	c := notified(m)
	c.byRouter = true
	return c
}

// stopped is the end of a session with the context.
func stopped(ctx context.Context) *closed {
	c := ceased(ceaseShutdown, "")
	c.err = ctx.Err()
	return c
}

func ceased(subcode uint8, text string) *closed {
	data := communication(subcode, text)
	return &closed{byUs: true, code: codeCease, subcode: subcode, data: data, text: explain(codeCease, subcode, data)}
}

// lost is the end of a session by an error of reading from the router, or of checking what was read.
func lost(err error) *closed {
	var c *closed
	var v *violation
	switch {
	case errors.As(err, &c):
		return c
	case errors.As(err, &v):
		return refuse(v)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &closed{byUs: true, code: codeHold, text: explain(codeHold, 0, nil), err: err}
	case err == io.EOF:
		return &closed{byRouter: true, text: "the router closed the connection without a word", err: err, told: true}
	case err == io.ErrUnexpectedEOF:
		return &closed{byRouter: true, text: "the router closed the connection in the middle of a message", err: err, told: true}
	case errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE):
		return &closed{byRouter: true, text: "the router reset the connection", err: err, told: true}
	}
	return &closed{text: err.Error(), err: err, told: true}
}

// as says by which address the router knows this node.
func as(local net.Addr) string {
	if tcp, ok := local.(*net.TCPAddr); ok {
		return " by the address " + tcp.AddrPort().Addr().Unmap().String()
	}
	return ""
}

// farewell tells the router why, and gives it the time to read that: a close with something unread would reset the connection,
// and the NOTIFICATION could be lost with it.
func farewell(router net.Conn, end *closed) {
	if end.told {
		return
	}
	_ = router.SetWriteDeadline(time.Now().Add(lastWords))
	if _, err := router.Write(end.notification()); err != nil {
		dropQueue(router)
		return
	}
	end.told = true
	half, ok := router.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	timer := time.AfterFunc(linger, func() {
		if queued(router) > 0 { // it is stalled, and would have our routes until it has read all that
			dropQueue(router)
		}
		router.Close()
	})
	defer timer.Stop()
	_ = router.SetReadDeadline(time.Time{})
	io.Copy(io.Discard, router) //nolint:errcheck // it ends with an error or without
}
