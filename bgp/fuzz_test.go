package bgp

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	gobgppacket "github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// Whatever a router says instead of its OPEN, it is refused with words, or what gobgp gets in its place is sound.
func FuzzOpen(f *testing.F) {
	f.Add([]byte(theirs.message()))
	for _, m := range malformed() {
		if m.before != nil {
			f.Add([]byte(m.before))
		}
	}
	f.Add([]byte(newMessage(typeOpen, []byte{4, 0xfd, 0xe8, 0, 90, 10, 10, 9, 1, 255, 255, 0, 7, 2, 0, 4, 75, 0, 2, 0})))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := readMessage(bytes.NewReader(b), make([]byte, maxMessage))
		if err != nil || m.kind() != typeOpen {
			return
		}
		o, err := parseOpen(m.body())
		if err != nil {
			checkViolation(t, err)
			return
		}
		offer := ourOffer
		offer.remoteAS = 0
		a, err := offer.agree(o)
		if err != nil {
			checkViolation(t, err)
			return
		}
		checkClean(t, a)
		if a.hold < minHold*time.Second || a.hold > ourOffer.hold || len(a.families) == 0 || !a.remoteID.Is4() || a.remoteAS == ourOffer.as {
			t.Errorf("agreed to %+v", a)
		}
		gobgpTakes(t, a.clean)
	})
}

func checkViolation(t *testing.T, err error) {
	t.Helper()
	var v *violation
	if !errors.As(err, &v) || v.code == 0 || v.Error() == "" {
		t.Errorf("%v, want a violation", err)
	}
}

// gobgpTakes reads a message as gobgp does, whose panics would end the process.
func gobgpTakes(t *testing.T, m []byte) {
	t.Helper()
	defer func() {
		if p := recover(); p != nil {
			t.Errorf("gobgp panics at %x: %v", m, p)
		}
	}()
	if _, err := gobgppacket.ParseBGPMessage(m); err != nil {
		t.Errorf("gobgp does not take %x: %v", m, err)
	}
}

// Whatever a router says in a session, gobgp gets whole messages of the kinds that it is to get, all of our own making.
func FuzzRelay(f *testing.F) {
	f.Add([]byte(keepalive))
	f.Add(cat(keepalive, refreshOf(IPv4), refreshOf(IPv6), update(cat(origin, asPath, nextHop), net24), newMessage(typeNotification, []byte{6, 2})))
	for _, m := range malformed() {
		if m.m != nil {
			f.Add(cat(keepalive, m.m))
		}
	}
	a := agreed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		router, guard := net.Pipe()
		inner, gobgp := net.Pipe()
		r := &relay{router: guard, inner: inner, agreed: a, up: func() {}, sent: func([]byte) {}, dropped: func(n int) {
			if n < 0 || n > maxMessage {
				t.Errorf("dropped %d", n)
			}
		}}
		ended := make(chan error, 1)
		go func() { ended <- r.run(t.Context()) }()
		go io.Copy(io.Discard, router)
		go gobgp.Write(cat(ourOffer.open().message(), keepalive))
		go func() { router.Write(b); router.Close() }()
		checkInner(t, gobgp, a)
		var c *closed
		if err := <-ended; !errors.As(err, &c) || c.text == "" {
			t.Errorf("ended with %v", err)
		}
	})
}

// checkInner reads what gobgp gets, to the end.
func checkInner(t *testing.T, gobgp io.Reader, a agreement) {
	t.Helper()
	buf := make([]byte, maxMessage)
	for first := true; ; first = false {
		m, err := readMessage(gobgp, buf)
		if err == io.EOF || err == io.ErrUnexpectedEOF { // a pipe takes a message in pieces, and the end may come between two
			return
		}
		if err != nil {
			t.Fatalf("gobgp reads: %v", err)
		}
		gobgpTakes(t, m)
		known := bytes.Equal(m, keepalive) || bytes.Equal(m, refreshOf(IPv4)) || bytes.Equal(m, refreshOf(IPv6)) ||
			m.kind() == typeNotification && len(m) == 21
		if first != bytes.Equal(m, a.clean) || !first && !known {
			t.Errorf("gobgp gets %x", m)
		}
	}
}
