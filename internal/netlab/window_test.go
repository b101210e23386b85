package netlab

import (
	"net/netip"
	"testing"
	"time"
)

func TestMeasure(t *testing.T) {
	const ms = int64(time.Millisecond)
	// Questions each 2 ms from 100 ms on, answered 1 ms later, changed by edit.
	questions := func(edit func(i int, q *question)) []question {
		var qs []question
		for i := range 100 {
			q := question{seq: int64(i), sent: (100 + 2*int64(i)) * ms, node: 1, mac: macOf(hostMAC(1))}
			q.udpAt, q.arpAt = q.sent+ms, q.sent+ms
			if edit(i, &q); q.sent != 0 {
				qs = append(qs, q)
			}
		}
		return qs
	}
	silent := func(q *question) { q.udpAt, q.arpAt = 0, 0 }
	tests := []struct {
		name      string
		from, to  int64 // ms
		edit      func(i int, q *question)
		outage    int64 // ms
		stall     int64
		lost      int
		dual      int
		first     string
		firstIn   int64 // ms
		answersN1 int
	}{
		{name: "nothing happens", from: 120, to: 290, answersN1: 90},
		{
			name: "a gap that began before the window", from: 120, to: 290, outage: 20, lost: 6, answersN1: 84,
			edit: func(i int, q *question) {
				if i >= 6 && i < 16 {
					silent(q)
				}
			},
		},
		{
			name: "no answer to the end", from: 120, to: 290, outage: 89, lost: 50, answersN1: 40,
			edit: func(i int, q *question) {
				if i >= 50 {
					silent(q)
				}
			},
		},
		{
			name: "an answer after more than a second", from: 120, to: 2000, outage: 1700 - 1, lost: 1, answersN1: 89,
			edit: func(i int, q *question) {
				if i == 50 {
					q.udpAt = q.sent + 1200*ms
				}
			},
		},
		{
			name: "another node takes over, first by ARP", from: 150, to: 290, outage: 20, lost: 10, answersN1: 0, first: "n2", firstIn: 11,
			edit: func(i int, q *question) {
				switch {
				case i >= 25 && i < 30:
					silent(q)
				case i >= 30:
					q.node, q.mac = 2, macOf(hostMAC(2))
				}
				if i >= 30 && i < 35 {
					q.udpAt = 0
				}
			},
		},
		{
			name: "two answer", from: 120, to: 290, dual: 3, first: "n2", firstIn: 81, answersN1: 90,
			edit: func(i int, q *question) {
				if i >= 50 && i < 53 {
					q.dualAt, q.rival = q.arpAt, macOf(hostMAC(2))
				}
			},
		},
		{
			name: "the probe stalls", from: 120, to: 290, outage: 10, stall: 10, answersN1: 85,
			edit: func(i int, q *question) {
				if i >= 50 && i < 55 {
					q.sent = 0
				}
			},
		},
	}
	name := func(m macAddr) string { return nodeName(byte(m)) }
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.edit == nil {
				tt.edit = func(int, *question) {}
			}
			w := measure(questions(tt.edit), Mark(tt.from*ms), Mark(tt.to*ms), 2*time.Millisecond, name)
			if got := w.Outage.Milliseconds(); got != tt.outage {
				t.Errorf("outage %d ms; want %d", got, tt.outage)
			}
			if tt.to < 300 && w.Stall.Milliseconds() != tt.stall {
				t.Errorf("stall %v; want %d ms", w.Stall, tt.stall)
			}
			if w.Lost != tt.lost || len(w.Dual) != tt.dual || w.Answers["n1"] != tt.answersN1 {
				t.Errorf("lost %d dual %d answers %v; want %d, %d, n1: %d", w.Lost, len(w.Dual), w.Answers, tt.lost, tt.dual, tt.answersN1)
			}
			if h, d, _ := w.FirstOther("n1"); h != tt.first || d.Milliseconds() != tt.firstIn {
				t.Errorf("first other %q after %v; want %q after %d ms", h, d, tt.first, tt.firstIn)
			}
		})
	}
}

// A reply is matched with the newest question that its receiver asked.
func TestWhoHasAnswer(t *testing.T) {
	w, other := newWhoHas(netip.MustParseAddr("10.77.0.100"), 1), newWhoHas(netip.MustParseAddr("10.77.0.100"), 2)
	reply := func(question []byte) []byte {
		f := append([]byte(nil), question...)
		copy(f, f[6:12])
		copy(f[6:], hostMAC(3))
		f[offOp+1] = opReply
		copy(f[offSHA+10:], f[offSHA:offTPA-6]) // target: the asker
		copy(f[offSHA:], hostMAC(3))
		copy(f[offSPA:], w.addr[:])
		return f
	}
	for _, seq := range []int64{0, 1, 49, 50, 799, 800, 123456789} {
		f := reply(w.ask(seq))
		for _, newest := range []int64{seq, seq + 1, seq + askers - 1} {
			if got, by, ok := w.answer(f, newest); !ok || got != seq || by != macOf(hostMAC(3)) {
				t.Errorf("answer to %d, newest %d: %d by %v, %t", seq, newest, got, by, ok)
			}
		}
		if got, _, _ := w.answer(f, seq+askers); got != seq+askers {
			t.Errorf("answer to %d a round later: %d", seq, got)
		}
		if _, _, ok := other.answer(f, seq); ok {
			t.Error("took an answer to another probe's question")
		}
	}
	if _, _, ok := w.answer(reply(w.ask(7))[:41], 7); ok {
		t.Error("took a short frame")
	}
	if _, _, ok := w.answer(w.ask(7), 7); ok {
		t.Error("took a question for an answer")
	}
	if _, _, ok := w.answer(reply(w.ask(7)), 6); ok {
		t.Error("took an answer to a question not yet asked")
	}
}

func TestRing(t *testing.T) {
	r := newRing()
	r.answerUDP(0, 1, 1) // before any question
	for seq := int64(0); seq < ringSize+10; seq++ {
		r.ask(seq, 1000+seq)
	}
	r.answerUDP(5, 1, 99) // overwritten
	r.answerUDP(ringSize+5, 2, 77)
	r.answerUDP(ringSize+5, 3, 88) // not the first
	r.answerUDP(ringSize+10, 3, 88)
	r.answerARP(ringSize+6, 7, 70)
	r.answerARP(ringSize+6, 7, 71)
	r.answerARP(ringSize+6, 8, 72)
	r.answerARP(ringSize+6, 9, 73)
	qs := r.between(1000+ringSize+4, 1000+ringSize+6)
	want := []question{
		{seq: ringSize + 4, sent: 1000 + ringSize + 4},
		{seq: ringSize + 5, sent: 1000 + ringSize + 5, udpAt: 77, node: 2},
		{seq: ringSize + 6, sent: 1000 + ringSize + 6, arpAt: 70, mac: 7, dualAt: 72, rival: 8},
	}
	for i := range want {
		if i >= len(qs) || qs[i] != want[i] {
			t.Fatalf("got %+v; want %+v", qs, want)
		}
	}
}
