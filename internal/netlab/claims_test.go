package netlab

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const ms = int64(time.Millisecond)

// surveyed is a record of 100 questions, each 5 ms from 1 s on. say tells who answers question i a millisecond later; the
// numbers of several hosts answer one after the other.
func surveyed(say func(i int) string) *record {
	r := &record{}
	for i := range 100 {
		t := 1000*ms + 5*ms*int64(i)
		r.ask(t, 1000)
		for k, by := range say(i) {
			r.claim(claim{at: t + ms + int64(k)*100_000, seq: int64(i), by: macAddr(by - '0')})
		}
	}
	return r
}

func TestClaimed(t *testing.T) {
	tests := []struct {
		name    string
		say     func(i int) string
		extra   []claim // before the marks are set
		tenures string  // HOST FROM-TO in ms since the mark, which is at 1.1 s
		outage  int64   // ms
		lost    int
		rivals  string // a part of what is said
		moved   int64  // ms until another than n1 answered; -1: none did
	}{
		{name: "one host", say: func(int) string { return "1" }, tenures: "n1 1-396", moved: -1},
		{
			name: "a move", tenures: "n1 1-196, n2 201-396", moved: 201,
			say: func(i int) string { return before(i, 60, "1", "2") },
		},
		{
			name: "a move with a gap", tenures: "n1 1-196, n2 251-396", outage: 50, lost: 10, moved: 251,
			say: func(i int) string { return before(i, 60, "1", before(i, 70, "", "2")) },
		},
		{
			name: "a gap that began before the mark", tenures: "n1 51-396", outage: 100, lost: 10, moved: -1,
			say: func(i int) string { return before(i, 10, "1", before(i, 30, "", "1")) },
		},
		{name: "nobody", say: func(int) string { return "" }, outage: 390, lost: 79, moved: -1},
		{
			name: "two answer one question", tenures: "n1 1-201, n2 201-396", moved: 201,
			rivals: "1 questions answered by two, the first by n1 and n2 after 201.1ms, 1.1ms after it was asked",
			say:    func(i int) string { return before(i, 60, "1", before(i, 61, "12", "2")) },
		},
		{
			name: "the old one answers again", tenures: "n1 1-196, n2 201-296, n1 301-301, n2 306-396", moved: 201,
			rivals: "claimed by n1 again after 301ms",
			say:    func(i int) string { return before(i, 60, "1", before(i, 80, "2", before(i, 81, "1", "2"))) },
		},
		{
			name: "the old one announces after the new one has answered", tenures: "n1 1-196, n2 201-396, n1 398-398", moved: 201,
			rivals: "claimed by n1 again after 398ms",
			say:    func(i int) string { return before(i, 60, "1", "2") },
			extra:  []claim{{at: 1498 * ms, seq: -1, by: 1}},
		},
		{
			name: "an announcement is no answer", tenures: "n1 1-396, n2 398-398", moved: -1,
			say:   func(int) string { return "1" },
			extra: []claim{{at: 1498 * ms, seq: -1, by: 2}},
		},
		{
			name: "what comes after the time", tenures: "n1 1-396", moved: -1,
			say:   func(int) string { return "1" },
			extra: []claim{{at: 1501 * ms, seq: -1, by: 2}},
		},
	}
	addr := netip.MustParseAddr("10.77.0.100")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := surveyed(tt.say)
			for _, c := range tt.extra {
				r.claim(c)
			}
			c := Claims{From: Mark(1100 * ms), To: Mark(1500*ms - 1), Every: 5 * time.Millisecond}
			m := r.measure(addr, c, func(m macAddr) string { return nodeName(byte(m)) })
			c.Of = []Claimed{m}
			var tenures []string
			for _, x := range m.Tenures {
				tenures = append(tenures, fmt.Sprintf("%s %d-%d", x.Host, x.From.Milliseconds(), x.To.Milliseconds()))
			}
			if got := strings.Join(tenures, ", "); got != tt.tenures {
				t.Errorf("tenures %s; want %s", got, tt.tenures)
			}
			if tt.name != "nobody" && m.Outage.Milliseconds() != tt.outage || tt.name == "nobody" && m.Outage.Milliseconds() < tt.outage {
				t.Errorf("outage %v; want %d ms", m.Outage, tt.outage)
			}
			if m.Sent != 80 || (tt.name != "nobody" && m.Lost != tt.lost) || m.Stall != 0 {
				t.Errorf("sent %d, lost %d, stall %v; want 80, %d, 0", m.Sent, m.Lost, m.Stall, tt.lost)
			}
			if got := strings.Join(c.Rivals(), "\n"); !strings.Contains(got, tt.rivals) || (got == "") != (tt.rivals == "") {
				t.Errorf("rivals %q; want %q", got, tt.rivals)
			}
			last, never := c.Moved("n1")
			if want := tt.moved < 0; want != slices.Contains(never, addr) || !want && last.Milliseconds() != tt.moved {
				t.Errorf("moved after %v, never %v; want %d ms", last, never, tt.moved)
			}
		})
	}
}

// before is a before question n, and b from then on.
func before(i, n int, a, b string) string {
	if i < n {
		return a
	}
	return b
}

// A record forgets the older half of what is too much, and nothing else.
func TestRecordForgets(t *testing.T) {
	r := &record{}
	for i := range int64(25) {
		r.ask(10*i, 10)
		r.claim(claim{at: 10*i + 1, seq: i, by: 1})
	}
	if r.first != 15 || len(r.sent) != 10 || r.newest() != 24 || r.claims[0] != (claim{at: 151, seq: 15, by: 1}) || len(r.claims) != 10 {
		t.Errorf("questions from %d, %d of them; claims %v", r.first, len(r.sent), r.claims)
	}
	got := r.since(230)
	want := record{first: 23, sent: []int64{230, 240}, claims: []claim{{231, 23, 1}, {241, 24, 1}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("since 230: %+v; want %+v", got, want)
	}
	r.ask(250, 100)
	if !r.pending(250, 251) || r.pending(240, 251) || r.pending(250, 251+int64(answerWait)) {
		t.Error("pending is not what has no answer yet and may still get one")
	}
}

// An advertisement is matched with the newest question that its receiver asked.
func TestSolicitation(t *testing.T) {
	addr := netip.MustParseAddr("fd77::ab:cdef")
	s, other := newSolicitation(addr, 1), newSolicitation(addr, 2)
	for _, seq := range []int64{0, 255, 256, 123456789} {
		q := slices.Clone(s.ask(seq))
		if icmpSum(q) != 0 {
			t.Errorf("question %d: wrong checksum", seq)
		}
		a := slices.Clone(q)
		copy(a, q[6:12])
		copy(a[6:], hostMAC(3))
		copy(a[offDest:], q[offSource:offSource+16])
		copy(a[offSource:], addr.AsSlice())
		a[offICMP] = typeAdvert
		a[offOption] = 2
		copy(a[offOption+2:], hostMAC(4))
		for _, newest := range []int64{seq, seq + askers6 - 1} {
			if got, ok := s.answers(a, newest); !ok || got != seq {
				t.Errorf("answer to %d, newest %d: %d, %t", seq, newest, got, ok)
			}
		}
		if _, ok := other.answers(a, seq); ok {
			t.Error("took an answer to another's question")
		}
		if _, ok := s.answers(q, seq); ok {
			t.Error("took a question for an answer")
		}
		if at, by, ok := claimOf(a); !ok || at != addr || by != macOf(hostMAC(4)) {
			t.Errorf("it claims %s for %s, %t", at, by, ok)
		}
		if at, by, ok := claimOf(a[:advertLen]); !ok || at != addr || by != macOf(hostMAC(3)) {
			t.Errorf("without an option it claims %s for %s, %t", at, by, ok)
		}
		if _, _, ok := claimOf(q); ok {
			t.Error("a question claims")
		}
	}
}

func TestClaimOfARP(t *testing.T) {
	w := newWhoHas(netip.MustParseAddr("10.77.0.100"), 0)
	f := w.ask(0)
	copy(f[offSPA:], w.addr[:])
	if at, by, ok := claimOf(f); !ok || at != netip.AddrFrom4(w.addr) || by != macOf(f[offSHA:]) {
		t.Errorf("claims %s for %s, %t", at, by, ok)
	}
	if _, _, ok := claimOf(f[:arpLen-1]); ok {
		t.Error("a short frame claims")
	}
	f[13]++ // not ARP any more
	if _, _, ok := claimOf(f); ok {
		t.Errorf("a frame of another kind than %#x claims", unix.ETH_P_ARP)
	}
}
