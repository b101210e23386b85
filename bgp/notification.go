package bgp

// closed says who ended a session, and why. handshake and relay.run return no other error.
type closed struct {
	byRouter, byUs bool // byUs also when the router broke the protocol and we ended it; neither: the connection broke
	malformed      bool // the router broke the protocol
	code, subcode  uint8
	text           string // in words, with a shutdown communication of the router (RFC 9003) quoted
	err            error  // of the connection; nil when a NOTIFICATION ended it
}

// Error is "peer closed: bad peer AS", "closed: bad peer AS: router says 65010, configured 65000", ...
func (c *closed) Error() string { return c.text }

// Unwrap is what broke the connection, if that ended it.
func (c *closed) Unwrap() error { return c.err }

// explain puts a NOTIFICATION into words.
func explain(code, subcode uint8, data []byte) string { return "not yet" }
