package bgp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestReadMessage(t *testing.T) {
	long := newMessage(typeUpdate, make([]byte, maxMessage-headerLen))
	tests := []struct {
		name string
		in   []byte
		code [2]byte // of the violation
		err  error
	}{
		{name: "KEEPALIVE", in: keepalive},
		{name: "the longest", in: long},
		{name: "too long", in: patched(long, 16, 0x10, 0x01), code: [2]byte{1, 2}},
		{name: "length 0", in: patched(keepalive, 16, 0, 0), code: [2]byte{1, 2}},
		{name: "length 65535", in: patched(keepalive, 16, 0xff, 0xff), code: [2]byte{1, 2}},
		{name: "OPEN of 28", in: newMessage(typeOpen, make([]byte, 9)), code: [2]byte{1, 2}},
		{name: "UPDATE of 22", in: newMessage(typeUpdate, make([]byte, 3)), code: [2]byte{1, 2}},
		{name: "NOTIFICATION of 20", in: newMessage(typeNotification, make([]byte, 1)), code: [2]byte{1, 2}},
		{name: "ROUTE-REFRESH of 24", in: newMessage(typeRefresh, make([]byte, 5)), code: [2]byte{1, 2}},
		{name: "type 0", in: newMessage(0, nil), code: [2]byte{1, 3}},
		{name: "type 128", in: newMessage(128, make([]byte, 4)), code: [2]byte{1, 3}},
		{name: "last marker octet", in: patched(keepalive, 15, 0xfe), code: [2]byte{1, 1}},
		{name: "nothing", err: io.EOF},
		{name: "half a header", in: keepalive[:10], err: io.ErrUnexpectedEOF},
		{name: "no body", in: long[:headerLen], err: io.ErrUnexpectedEOF},
		{name: "half a body", in: long[:2000], err: io.ErrUnexpectedEOF},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := readMessage(bytes.NewReader(tt.in), make([]byte, maxMessage))
			var v *violation
			switch {
			case tt.code != [2]byte{}:
				if !errors.As(err, &v) || [2]byte{v.code, v.subcode} != tt.code {
					t.Errorf("error %v, want %v", err, tt.code)
				}
			case err != tt.err:
				t.Errorf("error %v, want %v", err, tt.err)
			case err == nil && !bytes.Equal(m, tt.in):
				t.Errorf("read %x, want %x", m, tt.in)
			}
		})
	}
}

func TestCountRoutes(t *testing.T) {
	v6 := append([]byte{0, 2, 1, 16}, make([]byte, 16+1)...)
	long := append([]byte{0x90, 14, 0, byte(len(v6) + 3)}, append(slices.Clone(v6), 16, 0xfd, 0)...)
	tests := []struct {
		name string
		m    message
		n    int
	}{
		{"End-of-RIB", update(nil), 0},
		{"two prefixes", update(nil, net24, []byte{0}), 2},
		{"withdrawn do not count", newMessage(typeUpdate, []byte{0, 4, 24, 192, 0, 2, 0, 0}), 0},
		{"IPv6", update(attr(0x80, 14, append(slices.Clone(v6), 64, 0xfd, 0, 0, 0, 0, 0, 0, 1, 0)...)), 2},
		{"extended length", update(long), 1},
		{"both", update(cat(origin, long, asPath), net24), 2},
		{"MP_REACH_NLRI cut off", update(attr(0x80, 14, 0, 2, 1)), 0},
		{"MP_REACH_NLRI with a next hop past its end", update(attr(0x80, 14, 0, 2, 1, 200, 0)), 0},
		{"extended length cut off", update([]byte{0x90, 14, 0}), 0},
		{"IPv4 in MP_REACH_NLRI, 33 bits", update(attr(0x80, 14, 0, 1, 1, 4, 1, 2, 3, 4, 0, 32, 1, 2, 3, 4, 33, 1, 2, 3, 4, 5)), 1},
	}
	for _, tt := range tests {
		if n, err := countRoutes(tt.m.body()); n != tt.n || err != nil {
			t.Errorf("%s: %d, %v, want %d", tt.name, n, err, tt.n)
		}
	}
}

func TestParseOpen(t *testing.T) {
	fixed := []byte{4, 0xfd, 0xe8, 0, 90, 10, 10, 9, 1}
	body := func(rest ...byte) []byte { return append(slices.Clone(fixed), rest...) }
	plain := open{as: 65000, as2: 65000, id: routerID, hold: 90, families: []Family{IPv4}}
	with := func(change func(*open)) open { o := plain; change(&o); return o }
	tests := []struct {
		name string
		body []byte
		want open
		code [2]byte
	}{
		{name: "no parameters", body: body(0), want: plain},
		{name: "two parameters", body: body(12, 2, 2, 2, 0, 2, 6, 1, 4, 0, 2, 0, 1),
			want: with(func(o *open) { o.routeRefresh, o.multiprotocol, o.families = true, true, []Family{IPv6} })},
		{name: "an unknown family only", body: body(8, 2, 6, 1, 4, 0x40, 4, 0, 71),
			want: with(func(o *open) { o.multiprotocol, o.families = true, nil })},
		{name: "extended length (RFC 9072)", body: body(255, 255, 0, 7, 2, 0, 4, 75, 0, 2, 0), want: with(func(o *open) { o.routeRefresh = true })},
		{name: "extended length, any first octet", body: body(1, 255, 0, 5, 2, 0, 2, 2, 0), want: with(func(o *open) { o.routeRefresh = true })},
		{name: "next hops of other families too", body: body(16, 2, 14, 5, 12, 0, 1, 0, 128, 0, 2, 0, 1, 0, 1, 0, 2),
			want: with(func(o *open) { o.extendedNextHop = true })},
		{name: "next hop of another family", body: body(10, 2, 8, 5, 6, 0, 1, 0, 128, 0, 2), want: plain},
		{name: "AS of four octets", body: body(8, 2, 6, 65, 4, 0xfa, 0x56, 0xea, 0), want: with(func(o *open) { o.fourOctetAS, o.as = true, 4200000000 })},
		{name: "graceful restart is skipped", body: body(6, 2, 4, 64, 2, 0x40, 120), want: plain},
		{name: "version 5", body: append([]byte{5}, body(0)[1:]...), code: [2]byte{2, 1}},
		{name: "authentication", body: body(3, 1, 1, 0), code: [2]byte{2, 4}},
		{name: "the length is too large", body: body(3, 2, 0), code: [2]byte{2, 0}},
		{name: "the length is too small", body: body(1, 2, 0), code: [2]byte{2, 0}},
		{name: "the length is 0", body: body(0, 2, 0), code: [2]byte{2, 0}},
		{name: "half a header", body: body(1, 2), code: [2]byte{2, 0}},
		{name: "half an extended header", body: body(255, 255, 0, 2, 2, 0), code: [2]byte{2, 0}},
		{name: "extended length too large", body: body(255, 255, 1, 0, 2, 0, 0), code: [2]byte{2, 0}},
		{name: "parameter past the end", body: body(2, 2, 1), code: [2]byte{2, 0}},
		{name: "half a capability", body: body(3, 2, 1, 2), code: [2]byte{2, 0}},
		{name: "capability past its parameter", body: body(6, 2, 2, 65, 4, 0, 0), code: [2]byte{2, 0}},
		{name: "multiprotocol of 3", body: body(7, 2, 5, 1, 3, 0, 1, 0), code: [2]byte{2, 0}},
		{name: "route refresh of 1", body: body(5, 2, 3, 2, 1, 0), code: [2]byte{2, 0}},
		{name: "next hop of 5", body: body(9, 2, 7, 5, 5, 0, 1, 0, 1, 0), code: [2]byte{2, 0}},
		{name: "two AS", body: body(14, 2, 12, 65, 4, 0, 0, 0xfd, 0xe8, 65, 4, 0, 0, 0xfd, 0xe9), code: [2]byte{2, 0}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseOpen(tt.body)
			var v *violation
			if tt.code != [2]byte{} {
				if !errors.As(err, &v) || [2]byte{v.code, v.subcode} != tt.code {
					t.Errorf("error %v, want %v", err, tt.code)
				}
				return
			}
			if err != nil || !sameOpen(got, tt.want) {
				t.Errorf("%+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}

func sameOpen(a, b open) bool {
	f, g := a.families, b.families
	a.families, b.families = nil, nil
	return slices.Equal(f, g) && a.as == b.as && a.as2 == b.as2 && a.id == b.id && a.hold == b.hold && a.fourOctetAS == b.fourOctetAS &&
		a.extendedNextHop == b.extendedNextHop && a.routeRefresh == b.routeRefresh && a.multiprotocol == b.multiprotocol
}

// What is written reads the same.
func TestOpenRoundTrip(t *testing.T) {
	for _, o := range []open{
		{as: 65001, id: nodeID, hold: 9, families: []Family{IPv4, IPv6}, extendedNextHop: true, routeRefresh: true, fourOctetAS: true},
		{as: 4200000000, id: nodeID, hold: 3, families: []Family{IPv6}, fourOctetAS: true},
		{as: 65001, id: nodeID, hold: 65535, families: []Family{IPv4}},
	} {
		got, err := parseOpen(o.message().body())
		o.multiprotocol, o.as2 = true, uint16(o.as)
		if o.as > 65535 {
			o.as2 = asTrans
		}
		if err != nil || !sameOpen(got, o) {
			t.Errorf("%+v, %v, want %+v", got, err, o)
		}
	}
}

func TestAgree(t *testing.T) {
	base := offer{as: 65001, remoteAS: 65000, id: nodeID, hold: 9 * time.Second, families: []Family{IPv4, IPv6}, extendedNextHop: true}
	tests := []struct {
		name   string
		o      func(*offer)
		r      func(*open)
		want   string // of the agreement or the violation
		refuse bool
	}{
		{name: "all", want: "65000 9s [IPv4 IPv6] next hops refresh four"},
		{name: "the lower hold time", r: func(r *open) { r.hold = 3 }, want: "65000 3s [IPv4 IPv6] next hops refresh four"},
		{name: "one family", r: func(r *open) { r.families = []Family{IPv6} }, want: "65000 9s [IPv6] refresh four"},
		{name: "next hops not offered", o: func(o *offer) { o.extendedNextHop = false }, want: "65000 9s [IPv4 IPv6] refresh four"},
		{name: "next hops not taken", r: func(r *open) { r.extendedNextHop = false }, want: "65000 9s [IPv4 IPv6] refresh four"},
		{name: "an old router", r: func(r *open) { r.routeRefresh, r.fourOctetAS = false, false }, want: "65000 9s [IPv4 IPv6] next hops"},
		{name: "any other AS", o: func(o *offer) { o.remoteAS = 0 }, want: "65000 9s [IPv4 IPv6] next hops refresh four"},
		{name: "AS_TRANS for a small AS", r: func(r *open) { r.as2 = asTrans }, want: "65000 9s [IPv4 IPv6] next hops refresh four"},
		{name: "the same identifier in another AS", r: func(r *open) { r.id = nodeID }, want: "65000 9s [IPv4 IPv6] next hops refresh four"},

		{name: "our AS", o: func(o *offer) { o.remoteAS, o.as = 0, 65000 }, refuse: true, want: "2/2 bad peer AS: router says 65000, which is ours; configured any other"},
		{name: "another AS", o: func(o *offer) { o.remoteAS = 65009 }, refuse: true, want: "2/2 bad peer AS: router says 65000, configured 65009"},
		{name: "two AS", r: func(r *open) { r.as2 = 64999 }, refuse: true, want: "2/2 bad peer AS: router says both 64999 and 65000"},
		{name: "AS 0", o: func(o *offer) { o.remoteAS = 0 }, r: func(r *open) { r.as, r.as2 = 0, 0 }, refuse: true, want: "2/2 bad peer AS: router says 0, which no router can have"},
		{name: "AS_TRANS alone", o: func(o *offer) { o.remoteAS = 0 }, r: func(r *open) { r.as, r.as2, r.fourOctetAS = asTrans, asTrans, false }, refuse: true,
			want: "2/2 bad peer AS: router says 23456, which no router can have"},
		{name: "the same identifier in our AS", o: func(o *offer) { o.as = 65000 }, r: func(r *open) { r.id = nodeID }, refuse: true,
			want: "2/3 bad BGP identifier: router says 10.0.0.1, which is ours too: set another router ID"},
		{name: "hold time 1", r: func(r *open) { r.hold = 1 }, refuse: true, want: "2/6 unacceptable hold time: router says 1 s, needed at least 3 s"},
		{name: "no family in common", o: func(o *offer) { o.families = []Family{IPv6} }, r: func(r *open) { r.families = []Family{IPv4} }, refuse: true,
			want: "2/7 unsupported capability: router has IPv4 routes, configured IPv6 routes"},
		{name: "no family at all", r: func(r *open) { r.families = nil }, refuse: true,
			want: "2/7 unsupported capability: router has neither IPv4 nor IPv6 routes, configured IPv4 and IPv6 routes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o, r := base, theirs
			r.as2, r.extendedNextHop = 65000, true
			if tt.o != nil {
				tt.o(&o)
			}
			if tt.r != nil {
				tt.r(&r)
			}
			a, err := o.agree(r)
			if got := words(a, err); got != tt.want || (err != nil) != tt.refuse {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if err == nil {
				checkClean(t, a)
			}
		})
	}
}

// checkClean: gobgp gets what was agreed to and no more.
func checkClean(t *testing.T, a agreement) {
	t.Helper()
	c, err := parseOpen(message(a.clean).body())
	if err != nil {
		t.Fatal(err)
	}
	if c.as != a.remoteAS || c.id != a.remoteID || !slices.Equal(c.families, a.families) || c.fourOctetAS != a.fourOctetAS ||
		c.extendedNextHop != a.extendedNextHop || time.Duration(c.hold)*time.Second != a.hold || !c.routeRefresh {
		t.Errorf("clean OPEN %+v of %+v", c, a)
	}
}

func words(a agreement, err error) string {
	var v *violation
	if errors.As(err, &v) {
		return fmt.Sprintf("%d/%d %s", v.code, v.subcode, v)
	}
	s := []string{fmt.Sprint(a.remoteAS, a.hold, a.families)}
	for _, x := range []struct {
		is   bool
		name string
	}{{a.extendedNextHop, "next hops"}, {a.routeRefresh, "refresh"}, {a.fourOctetAS, "four"}} {
		if x.is {
			s = append(s, x.name)
		}
	}
	return strings.Join(s, " ")
}

func TestExplain(t *testing.T) {
	tests := []struct {
		code, subcode uint8
		data          []byte
		want          string
	}{
		{1, 2, []byte{0, 18}, "bad message length: length 18"},
		{1, 3, []byte{9}, "bad message type: type 9"},
		{2, 1, []byte{0, 4}, "unsupported version: version 4 is spoken"},
		{2, 2, []byte{0xfd, 0xe9}, "bad peer AS: the router expects another AS than 65001"},
		{2, 2, []byte{0xfa, 0x56, 0xea, 0}, "bad peer AS: the router expects another AS than 4200000000"},
		{2, 2, []byte{1}, "bad peer AS"},
		{2, 7, []byte{1, 4, 0, 2, 0, 1, 70, 0, 9, 9}, "unsupported capability: IPv6 routes, capability 70"},
		{2, 11, nil, "role mismatch"},
		{3, 99, nil, "UPDATE message error, subcode 99"},
		{4, 0, nil, "hold timer expired"},
		{6, 1, []byte{0, 1, 1, 0, 0, 0, 10}, "maximum number of prefixes reached: limit 10"},
		{6, 2, nil, "administrative shutdown"},
		{6, 2, []byte{0}, "administrative shutdown"},
		{6, 2, []byte{200, 'a'}, "administrative shutdown"},
		{6, 2, []byte{3, 'a', '\n', 0xff, 'x'}, `administrative shutdown: "a\n\xff"`},
		{6, 4, communication(4, "grüße"), `administrative reset: "grüße"`},
		{6, 9, append([]byte{6, 2}, communication(2, "bye")...), `hard reset: administrative shutdown: "bye"`},
		{6, 9, bytes.Repeat([]byte{6, 9}, 1000), "hard reset"},
		{6, 10, nil, "BFD down"},
		{7, 1, nil, "ROUTE-REFRESH message error: invalid message length"},
		{8, 0, nil, "send hold timer expired"},
		{77, 5, nil, "error code 77, subcode 5"},
	}
	for _, tt := range tests {
		if got := explain(tt.code, tt.subcode, tt.data); got != tt.want {
			t.Errorf("explain(%d, %d, %v) = %s, want %s", tt.code, tt.subcode, tt.data, got, tt.want)
		}
	}
}

func TestCommunication(t *testing.T) {
	long := communication(ceaseShutdown, strings.Repeat("ü", 200))
	if len(long) != 255 || long[0] != 254 {
		t.Errorf("%d octets, the first is %d, want 255 and 254: whole characters only", len(long), long[0])
	}
	if got := communication(ceaseBFDDown, "text"); got != nil {
		t.Errorf("a text with BFD down: %q", got)
	}
	c := closed{code: 2, subcode: 2, data: make([]byte, 9000)}
	if n := len(c.notification()); n != maxMessage {
		t.Errorf("a NOTIFICATION of %d octets", n)
	}
}
