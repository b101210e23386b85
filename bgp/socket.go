package bgp

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

// endpoint is how the connection to a router is made.
type endpoint struct {
	remote   netip.AddrPort // may be a zoned link-local address
	local    netip.Addr     // zero: the kernel's choice
	device   string         // bind to this link (unnumbered); "": none
	password []byte         // of TCP-MD5; nil: none
	ttl      uint8          // 1: a single hop; more: multihop; 0: the system's
	gtsm     bool           // send TTL 255 and take nothing else (RFC 5082); ttl does not count then
}

// dial connects to the router. It blocks until there is a connection, an answer that there will be none, or the end of ctx;
// the error is in words that a person can act on.
func dial(ctx context.Context, e endpoint) (*net.TCPConn, error) { return nil, errors.New("not yet") }
