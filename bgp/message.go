package bgp

import (
	"encoding/binary"
	"fmt"
	"io"
)

// The types of messages (RFC 4271 4.1, RFC 2918), and their sizes.
const (
	typeOpen         = 1
	typeUpdate       = 2
	typeNotification = 3
	typeKeepalive    = 4
	typeRefresh      = 5

	headerLen  = 19
	maxMessage = 4096 // we never offer longer ones (RFC 8654)
)

// A message is a whole one, header and all. What readMessage returns has a valid header.
type message []byte

var keepalive = newMessage(typeKeepalive, nil)

func newMessage(kind byte, body []byte) message {
	m := make(message, headerLen, headerLen+len(body))
	for i := range 16 {
		m[i] = 0xff
	}
	m[18] = kind
	m = append(m, body...)
	binary.BigEndian.PutUint16(m[16:], uint16(len(m)))
	return m
}

func (m message) kind() byte   { return m[18] }
func (m message) body() []byte { return m[headerLen:] }

// A violation is what is wrong with a message, as a NOTIFICATION says it, and in words. An empty text is what explain says.
type violation struct {
	code, subcode uint8
	data          []byte
	text          string
}

func (v *violation) Error() string {
	if v.text == "" {
		return explain(v.code, v.subcode, v.data)
	}
	return v.text
}

// readMessage reads one message into buf, which has room for the longest. The error is a *violation or the connection's; io.EOF
// only between two messages.
func readMessage(r io.Reader, buf []byte) (message, error) {
	header := buf[:headerLen]
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	n, err := checkHeader(header)
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(r, buf[headerLen:n]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return message(buf[:n]), nil
}

// checkHeader returns the length of the whole message.
func checkHeader(h []byte) (int, error) {
	for _, b := range h[:16] {
		// RFC 4271 6.1: a marker that is not all ones is a synchronization error.
		if b != 0xff {
			return 0, &violation{code: codeHeader, subcode: 1}
		}
	}
	n, kind := int(binary.BigEndian.Uint16(h[16:])), h[18]
	shortest, longest := bounds(kind)
	switch {
	// RFC 4271 6.1: the data is the wrong length ...
	case n < headerLen || n > maxMessage || shortest > 0 && (n < shortest || n > longest):
		return 0, &violation{code: codeHeader, subcode: 2, data: h[16:18],
			text: fmt.Sprintf("bad message length: %d in a message of type %d", n, kind)}
	// ... or the unknown type.
	case shortest == 0:
		return 0, &violation{code: codeHeader, subcode: 3, data: h[18:19]}
	}
	return n, nil
}

// bounds are the lengths that a message of a kind may have; 0, 0 for an unknown kind.
func bounds(kind byte) (shortest, longest int) {
	switch kind {
	case typeOpen:
		return 29, maxMessage // RFC 4271 4.2
	case typeUpdate:
		return 23, maxMessage // 4.3
	case typeNotification:
		return 21, maxMessage // 4.5
	case typeKeepalive:
		return headerLen, headerLen // 4.4
	case typeRefresh:
		return 23, 23 // RFC 2918 3; longer ones carry filters (RFC 5291), which we do not offer
	}
	return 0, 0
}

// countRoutes checks that the parts of an UPDATE fit together and counts the routes that it announces. Attributes are only
// looked through for more routes: what is wrong in them makes the routes unusable (RFC 7606 2, treat-as-withdraw), and here no
// route is used anyway.
func countRoutes(body []byte) (int, error) {
	withdrawn, rest, ok := cut16(body)
	if !ok {
		return 0, badUpdate("withdrawn routes")
	}
	attributes, nlri, ok := cut16(rest)
	if !ok {
		return 0, badUpdate("path attributes")
	}
	// RFC 7606 5.3: prefixes that do not fit their field end the session, RFC 4271 6.3: as an invalid network field.
	if _, ok := countPrefixes(withdrawn, 32); !ok {
		return 0, &violation{code: codeUpdate, subcode: 10}
	}
	n, ok := countPrefixes(nlri, 32)
	if !ok {
		return 0, &violation{code: codeUpdate, subcode: 10}
	}
	return n + countReachable(attributes), nil
}

// badUpdate is RFC 4271 6.3: lengths that exceed the message are a malformed attribute list.
func badUpdate(part string) error {
	return &violation{code: codeUpdate, subcode: 1, text: "malformed attribute list: the length of the " + part + " exceeds the message"}
}

// cut16 splits b after the field whose length its first two bytes are.
func cut16(b []byte) (field, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if b = b[2:]; n > len(b) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}

// countPrefixes counts prefixes of at most bits bits (RFC 4271 4.3); false when they do not fill b.
func countPrefixes(b []byte, bits int) (n int, ok bool) {
	for len(b) > 0 {
		size := 1 + (int(b[0])+7)/8
		if int(b[0]) > bits || size > len(b) {
			return n, false
		}
		b = b[size:]
		n++
	}
	return n, true
}

// countReachable counts the routes in the MP_REACH_NLRI attributes (RFC 4760 3), as far as they can be read.
func countReachable(attributes []byte) (n int) {
	for len(attributes) >= 3 {
		flags, kind := attributes[0], attributes[1]
		size, value := int(attributes[2]), attributes[3:]
		if flags&0x10 != 0 { // extended length
			if len(value) < 1 {
				return n
			}
			size, value = size<<8|int(value[0]), value[1:]
		}
		if size > len(value) {
			return n
		}
		if kind == 14 {
			n += countMP(value[:size])
		}
		attributes = value[size:]
	}
	return n
}

func countMP(v []byte) int {
	if len(v) < 5 || len(v) < 5+int(v[3]) {
		return 0
	}
	bits := 128
	if binary.BigEndian.Uint16(v) == 1 {
		bits = 32
	}
	n, _ := countPrefixes(v[5+int(v[3]):], bits) // AFI, SAFI, length of the next hop, next hop, a reserved byte
	return n
}
