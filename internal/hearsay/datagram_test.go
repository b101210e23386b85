package hearsay

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/pintle-lb/pintle/leader"
)

var testKey = []byte("the secret of the tests")

func aDatagram() datagram {
	return datagram{
		from: "node-1", to: "node-2", away: true,
		mark: mark{process{1, 2, 3}, leader.Instant(5 * time.Second)},
		echo: mark{process{7, 8, 9}, leader.Instant(3 * time.Second)},
		held: 40 * time.Millisecond,
	}
}

func TestDatagram(t *testing.T) {
	long := strings.Repeat("n", maxName)
	for name, d := range map[string]datagram{
		"all":     aDatagram(),
		"first":   {from: "a", to: "b", mark: mark{process{1}, 1}},
		"longest": {from: long, to: long, mark: mark{process{1}, 1 << 62}, echo: mark{process{2}, 1 << 62}, held: 1 << 62},
	} {
		t.Run(name, func(t *testing.T) {
			b := d.seal(testKey)
			got, err := parse(b)
			if err != nil || got != d {
				t.Errorf("parse: %+v, %v\nwant %+v", got, err, d)
			}
			if !sealed(b, testKey) {
				t.Error("it has not its own seal")
			}
			if sealed(b, []byte("the secret of others...")) {
				t.Error("it has the seal of another secret")
			}
		})
	}
}

// Every bit and every byte more or less is noticed.
func TestDatagramIsWholeOrNothing(t *testing.T) {
	whole := aDatagram().seal(testKey)
	believed := func(b []byte) bool {
		_, err := parse(b)
		return err == nil && sealed(b, testKey)
	}
	if !believed(whole) {
		t.Fatal("the whole is not believed")
	}
	for i := range whole {
		if believed(whole[:i]) {
			t.Errorf("the first %d of %d bytes are believed", i, len(whole))
		}
		for bit := range 8 {
			b := bytes.Clone(whole)
			b[i] ^= 1 << bit
			if believed(b) {
				t.Errorf("believed with bit %d of byte %d flipped", bit, i)
			}
		}
	}
	if believed(append(bytes.Clone(whole), 0)) {
		t.Error("believed with a byte more")
	}
}

// What has the seal and makes no sense is refused all the same.
func TestParseRefuses(t *testing.T) {
	change := func(f func(*datagram)) []byte {
		d := aDatagram()
		f(&d)
		return d.seal(testKey)
	}
	poke := func(i int, v byte) []byte {
		b := aDatagram().seal(testKey)
		b[i] = v
		return b
	}
	for _, c := range []struct {
		name string
		b    []byte
		err  string
	}{
		{"nothing", nil, "0 bytes"},
		{"too long", make([]byte, maxDatagram+1), "bytes"},
		{"another protocol", poke(0, 'X'), "not of this protocol"},
		{"another version", poke(4, 2), "version 2, not 1"},
		{"a flag of the future", poke(5, 3), "flags 0x3"},
		{"no sender", change(func(d *datagram) { d.from = "" }), "names"},
		{"no addressee", change(func(d *datagram) { d.to = "" }), "names"},
		{"a name that is too long", change(func(d *datagram) { d.to = strings.Repeat("n", maxName+1) }), "names"},
		{"a name longer than the rest", poke(headLen, 200), "names"},
		{"a name shorter than the rest", poke(headLen, 1), "names"},
		{"no process", change(func(d *datagram) { d.mark.process = process{} }), "no mark"},
		{"no time", change(func(d *datagram) { d.mark.at = 0 }), "no mark"},
		{"a time before the start", change(func(d *datagram) { d.mark.at = -1 }), "no mark"},
		{"an echo without a time", change(func(d *datagram) { d.echo.at = 0 }), "echo"},
		{"an echo before the start", change(func(d *datagram) { d.echo.at = -1 }), "echo"},
		{"an echo of nobody", change(func(d *datagram) { d.echo.process = process{} }), "echo"},
		{"held before it came", change(func(d *datagram) { d.held = -1 }), "echo"},
	} {
		if _, err := parse(c.b); err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want %q", c.name, err, c.err)
		}
	}
}

// FuzzParse: what is taken is what seal writes, byte for byte, and hear stands anything.
func FuzzParse(f *testing.F) {
	f.Add(aDatagram().seal(testKey))
	f.Add(datagram{from: "a", to: "b", mark: mark{process{1}, 1}}.seal(testKey))
	f.Add([]byte{})
	f.Add(make([]byte, maxDatagram))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := parse(b)
		if err != nil {
			return
		}
		text := len(b) - sealLen
		if !bytes.Equal(d.seal(testKey)[:text], b[:text]) {
			t.Fatalf("%+v is not what was read: %x", d, b)
		}
		now := leader.Instant(time.Hour)
		h := tally{node: d.to, self: d.echo.process, spoke: d.echo.at, away: true}
		h.setPeers([]Peer{{Name: d.from}, {Name: d.to}})
		if p := h.find(d); p != nil {
			_ = h.hear(now, p, d)
			if p.until > now.Add(Fresh) {
				t.Fatalf("%+v counts until %v after it came", d, p.until.Sub(now))
			}
		}
	})
}
