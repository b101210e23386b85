package bgp

import "net"

// leg is the guard's connection to gobgp. It calls before once, just before gobgp is given the first message behind the OPEN:
// that is the KEEPALIVE by which gobgp takes the session for established.
type leg struct {
	net.Conn
	before func() error
}

// Write is given whole messages, by one goroutine until the session is over.
func (l *leg) Write(b []byte) (int, error) {
	if before := l.before; before != nil && message(b).kind() == typeKeepalive {
		l.before = nil
		if err := before(); err != nil {
			l.Close()
			return 0, err
		}
	}
	return l.Conn.Write(b)
}
