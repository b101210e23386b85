package bgp

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The error codes of a NOTIFICATION (RFC 4271 4.5, RFC 7313 5, RFC 9687 3).
const (
	codeHeader   = 1
	codeOpen     = 2
	codeUpdate   = 3
	codeHold     = 4
	codeFSM      = 5
	codeCease    = 6
	codeRefresh  = 7
	codeSendHold = 8
)

// The subcodes of Cease that we use (RFC 4486, RFC 9384).
const (
	ceaseShutdown     = 2
	ceaseDeconfigured = 3
	ceaseReset        = 4
	ceaseBFDDown      = 10
)

// closed says who ended a session, and why. handshake and relay.run return no other error.
type closed struct {
	byRouter, byUs bool // byUs also when the router broke the protocol and we ended it; neither: the connection broke
	malformed      bool // the router broke the protocol
	code, subcode  uint8
	text           string // in words, with a shutdown communication of the router (RFC 9003) quoted
	err            error  // of the connection; nil when a NOTIFICATION ended it

	data []byte // of the NOTIFICATION
	told bool   // the router knows: it said it, or we did
}

// Error is "peer closed: bad peer AS", "closed: bad peer AS: router says 65010, configured 65000", ...
func (c *closed) Error() string {
	who := "closed"
	if c.byRouter {
		who = "peer closed"
	}
	if c.text == "" {
		return who
	}
	return who + ": " + c.text
}

// Unwrap is what broke the connection, if that ended it.
func (c *closed) Unwrap() error { return c.err }

// refuse is the end of a session whose router broke the protocol or wants what we do not.
func refuse(v *violation) *closed {
	disagrees := v.code == codeOpen && (v.subcode == 2 || v.subcode == 3 || v.subcode == 6 || v.subcode == 7)
	return &closed{byUs: true, malformed: !disagrees, code: v.code, subcode: v.subcode, data: v.data, text: v.Error()}
}

// notified is the end of a session by a NOTIFICATION that was received.
func notified(m message) *closed {
	b := m.body()
	return &closed{code: b[0], subcode: b[1], data: b[2:], text: explain(b[0], b[1], b[2:]), told: true}
}

// notification is what the router is told. The data is cut where the message would be too long.
func (c *closed) notification() message {
	body := append([]byte{c.code, c.subcode}, c.data...)
	return newMessage(typeNotification, body[:min(len(body), maxMessage-headerLen)])
}

// communication is the data of Cease with a text (RFC 9003 2): at most 255 bytes of whole UTF-8 characters.
func communication(subcode uint8, text string) []byte {
	if subcode != ceaseShutdown && subcode != ceaseReset || text == "" {
		return nil
	}
	text = strings.ToValidUTF8(text, "?")
	for len(text) > 255 {
		_, size := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-size]
	}
	return append([]byte{byte(len(text))}, text...)
}

// names are the words for the codes (key: code<<8), and for the subcodes.
var names = map[int]string{
	codeHeader << 8:   "message header error",
	codeHeader<<8 | 1: "connection not synchronized",
	codeHeader<<8 | 2: "bad message length",
	codeHeader<<8 | 3: "bad message type",

	codeOpen << 8:    "OPEN message error",
	codeOpen<<8 | 1:  "unsupported version",
	codeOpen<<8 | 2:  "bad peer AS",
	codeOpen<<8 | 3:  "bad BGP identifier",
	codeOpen<<8 | 4:  "unsupported optional parameter",
	codeOpen<<8 | 5:  "authentication failure",
	codeOpen<<8 | 6:  "unacceptable hold time",
	codeOpen<<8 | 7:  "unsupported capability",
	codeOpen<<8 | 11: "role mismatch",

	codeUpdate << 8:    "UPDATE message error",
	codeUpdate<<8 | 1:  "malformed attribute list",
	codeUpdate<<8 | 2:  "unrecognized well-known attribute",
	codeUpdate<<8 | 3:  "missing well-known attribute",
	codeUpdate<<8 | 4:  "attribute flags error",
	codeUpdate<<8 | 5:  "attribute length error",
	codeUpdate<<8 | 6:  "invalid ORIGIN",
	codeUpdate<<8 | 8:  "invalid NEXT_HOP",
	codeUpdate<<8 | 9:  "optional attribute error",
	codeUpdate<<8 | 10: "invalid network field",
	codeUpdate<<8 | 11: "malformed AS_PATH",

	codeHold << 8: "hold timer expired",

	codeFSM << 8:   "message out of order",
	codeFSM<<8 | 1: "message out of order: before the OPEN",
	codeFSM<<8 | 2: "message out of order: before the first KEEPALIVE",
	codeFSM<<8 | 3: "message out of order: in an established session",

	codeCease << 8:    "cease",
	codeCease<<8 | 1:  "maximum number of prefixes reached",
	codeCease<<8 | 2:  "administrative shutdown",
	codeCease<<8 | 3:  "peer deconfigured",
	codeCease<<8 | 4:  "administrative reset",
	codeCease<<8 | 5:  "connection rejected",
	codeCease<<8 | 6:  "other configuration change",
	codeCease<<8 | 7:  "connection collision resolution",
	codeCease<<8 | 8:  "out of resources",
	codeCease<<8 | 9:  "hard reset",
	codeCease<<8 | 10: "BFD down",

	codeRefresh << 8:   "ROUTE-REFRESH message error",
	codeRefresh<<8 | 1: "ROUTE-REFRESH message error: invalid message length",

	codeSendHold << 8: "send hold timer expired",
}

// explain puts a NOTIFICATION into words: "bad peer AS", "administrative shutdown: \"maintenance\"", ...
func explain(code, subcode uint8, data []byte) string {
	words, known := names[int(code)<<8|int(subcode)]
	if !known {
		words = unknownNotification(code, subcode)
	}
	if more := detail(code, subcode, data); more != "" {
		words += ": " + more
	}
	return words
}

func unknownNotification(code, subcode uint8) string {
	if words, known := names[int(code)<<8]; known {
		return fmt.Sprintf("%s, subcode %d", words, subcode)
	}
	return fmt.Sprintf("error code %d, subcode %d", code, subcode)
}

// detail is what the data says, where the RFCs, or all common routers, put something there.
func detail(code, subcode uint8, data []byte) string {
	switch {
	case code == codeHeader && subcode == 2 && len(data) == 2:
		return fmt.Sprintf("length %d", binary.BigEndian.Uint16(data)) // RFC 4271 6.1
	case code == codeHeader && subcode == 3 && len(data) >= 1:
		return fmt.Sprintf("type %d", data[0]) // 6.1
	case code == codeFSM && len(data) == 1:
		return fmt.Sprintf("type %d", data[0]) // RFC 6608 4
	case code == codeOpen && subcode == 1 && len(data) == 2:
		return fmt.Sprintf("version %d is spoken", binary.BigEndian.Uint16(data)) // 6.2
	case code == codeOpen && subcode == 2:
		return saidAS(data)
	case code == codeOpen && subcode == 7:
		return capabilityNames(data) // RFC 5492 5
	case code == codeCease && subcode == 1 && len(data) == 7:
		return fmt.Sprintf("limit %d", binary.BigEndian.Uint32(data[3:])) // RFC 4486 4: AFI, SAFI, bound
	case code == codeCease && (subcode == ceaseShutdown || subcode == ceaseReset):
		return said(data)
	case code == codeCease && subcode == 9 && len(data) >= 2 && (data[0] != codeCease || data[1] != 9):
		return explain(data[0], data[1], data[2:]) // RFC 8538 3.1: the reason of a hard reset
	}
	return ""
}

// saidAS is the AS that FRR and others name with bad peer AS: the one that they were told.
func saidAS(data []byte) string {
	switch len(data) {
	case 2:
		return fmt.Sprintf("the router expects another AS than %d", binary.BigEndian.Uint16(data))
	case 4:
		return fmt.Sprintf("the router expects another AS than %d", binary.BigEndian.Uint32(data))
	}
	return ""
}

// said is a shutdown communication (RFC 9003 2). Quoting leaves nothing in it that a terminal or a log would act on.
func said(data []byte) string {
	if len(data) == 0 || data[0] == 0 || int(data[0]) > len(data)-1 {
		return ""
	}
	return strconv.Quote(string(data[1 : 1+int(data[0])]))
}
