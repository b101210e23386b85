package bgp

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

// listener accepts the connections of passive peers' routers.
type listener struct{}

// listen opens the socket; run accepts. An unspecified IPv6 address takes IPv4 too.
func listen(ctx context.Context, at netip.AddrPort) (*listener, error) { return nil, errors.New("not yet") }

// expect has connections from e.remote.Addr() delivered, with e's rules for keys and TTL, until cancel is called. Of two
// expectations of one address the later counts. deliver owns the connection and must not block.
func (l *listener) expect(e endpoint, deliver func(*net.TCPConn)) (cancel func(), err error) {
	return nil, errors.New("not yet")
}

// run accepts until ctx ends, then closes the socket and returns nil.
func (l *listener) run(ctx context.Context) error { return errors.New("not yet") }
