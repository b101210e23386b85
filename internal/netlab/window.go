package netlab

import (
	"slices"
	"time"
)

// A Mark is an instant of the probe's clock.
type Mark int64

// Sub is the time from other to m.
func (m Mark) Sub(other Mark) time.Duration { return time.Duration(m - other) }

// answerWait is how late an answer may come; after it the question is lost.
const answerWait = time.Second

// A Window is what the client noticed between two marks.
type Window struct {
	From, To Mark
	Every    time.Duration // the probe's interval
	Realtime bool          // the probe ran under SCHED_RR; if not, a busy machine adds to Outage

	// Outage is the longest time between two UDP answers, less the interval. The last answer before From, if it is at
	// most a second older, and the time from the last answer to To count too.
	Outage time.Duration
	// Stall is the longest time between two questions, less the interval: how far the probe itself was late. An Outage
	// can contain as much that is not the network's.
	Stall time.Duration
	Sent  int // UDP questions sent between From and To
	Lost  int // of these, not answered within a second

	Answers map[string]int // UDP answers to these questions, by node
	ARP     map[string]int // first ARP answers to those, by host, or by MAC address if it is no host's
	Dual    []Dual         // ARP questions that two hosts answered

	first map[string]time.Duration
}

// A Dual is one ARP question that two hosts answered.
type Dual struct {
	At   time.Duration // since From, of the second answer
	Late time.Duration // the same since the question
	A, B string        // in the order of their answers
}

// FirstFrom is the time from From to the first answer that came from the node, by UDP or ARP.
func (w Window) FirstFrom(node string) (time.Duration, bool) {
	d, ok := w.first[node]
	return d, ok
}

// FirstOther finds the host, other than old, whose answer came first after From.
func (w Window) FirstOther(old string) (host string, after time.Duration, ok bool) {
	return firstOther(w.first, old)
}

func firstOther(first map[string]time.Duration, old string) (host string, after time.Duration, ok bool) {
	for h, d := range first {
		if h != old && (!ok || d < after) {
			host, after, ok = h, d, true
		}
	}
	return host, after, ok
}

// measure computes a window from the questions of the window and of the second before it.
func measure(qs []question, from, to Mark, every time.Duration, name func(macAddr) string) Window {
	w := Window{
		From: from, To: to, Every: every,
		Answers: map[string]int{}, ARP: map[string]int{}, first: map[string]time.Duration{},
	}
	for _, q := range qs {
		w.see(q, name)
		if q.sent >= int64(from) {
			w.count(q, name)
		}
	}
	var answers, questions []int64
	for _, q := range qs {
		questions = append(questions, q.sent)
		if q.answered() {
			answers = append(answers, q.udpAt)
		}
	}
	w.Outage, w.Stall = longest(answers, from, to, every), longest(questions, from, to, every)
	return w
}

func (q question) answered() bool { return q.udpAt != 0 && q.udpAt-q.sent <= int64(answerWait) }

// see notes who answered first after From, whenever the question was asked.
func (w *Window) see(q question, name func(macAddr) string) {
	note := func(t int64, who func() string) {
		if t < int64(w.From) || t > int64(w.To) {
			return
		}
		h, d := who(), Mark(t).Sub(w.From)
		if old, ok := w.first[h]; !ok || d < old {
			w.first[h] = d
		}
	}
	note(q.udpAt, func() string { return nodeName(q.node) })
	note(q.arpAt, func() string { return name(q.mac) })
	note(q.dualAt, func() string { return name(q.rival) })
}

func (w *Window) count(q question, name func(macAddr) string) {
	w.Sent++
	if q.answered() {
		w.Answers[nodeName(q.node)]++
	} else {
		w.Lost++
	}
	if q.arpAt != 0 {
		w.ARP[name(q.mac)]++
	}
	if q.dualAt != 0 {
		w.Dual = append(w.Dual, Dual{At: Mark(q.dualAt).Sub(w.From), Late: Mark(q.dualAt).Sub(Mark(q.sent)), A: name(q.mac), B: name(q.rival)})
	}
}

// longest is the longest time between two of the instants, less the interval. It begins with the last instant before
// from, or with from if there is none, and ends at to.
func longest(instants []int64, from, to Mark, every time.Duration) (most time.Duration) {
	before := int64(0)
	var ts []int64
	for _, t := range instants {
		switch {
		case t > int64(to):
		case t < int64(from):
			before = max(before, t)
		default:
			ts = append(ts, t)
		}
	}
	slices.Sort(ts)
	last := before
	if last == 0 {
		last = int64(from)
	}
	for _, t := range append(ts, int64(to)) {
		most = max(most, time.Duration(t-last)-every)
		last = t
	}
	return most
}
