package demo

import (
	"math"
	"slices"
	"time"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// A Result is what a client noticed of one fault, from the fault until the machine was back and all were well again.
type Result struct {
	Fault   string `json:"fault"`
	Profile string `json:"profile"`
	From    string `json:"from"` // who held the address
	To      string `json:"to"`   // who took it over
	// TakeoverMS is the time from the fault to the first answer, by UDP or ARP, of the new holder.
	TakeoverMS float64 `json:"takeover_ms"`
	// OutageMS is the longest gap in the UDP answers less the probe's interval.
	OutageMS float64 `json:"outage_ms"`
	Lost     int     `json:"lost"`         // UDP questions without an answer
	Dual     int     `json:"dual_answers"` // ARP questions that two machines answered
	// FalseElections counts the changes of holder, or new epochs of one, beyond the one that the fault explains.
	FalseElections int `json:"false_elections"`
}

func newResult(f fault, profile, from string, w netlab.Window, epochs int) Result {
	r := Result{
		Fault: f.name, Profile: profile, From: from, To: from,
		OutageMS: milliseconds(w.Outage), Lost: w.Lost, Dual: len(w.Dual), FalseElections: max(0, epochs-1),
	}
	if to, after, ok := w.FirstOther(from); ok {
		r.To, r.TakeoverMS = to, milliseconds(after)
	}
	return r
}

// A Summary is the last JSON object of a demo.
type Summary struct {
	Summary  bool             `json:"summary"` // true, which tells it from a Result
	PerFault map[string]Total `json:"per_fault"`
}

// A Total sums up the results of one fault. Median and maximum without another name are those of the outage.
type Total struct {
	MedianMS         float64 `json:"median_ms"`
	MaxMS            float64 `json:"max_ms"`
	TakeoverMedianMS float64 `json:"takeover_median_ms"`
	LostMedian       float64 `json:"lost_median"`
	LostMax          int     `json:"lost_max"`
	Dual             int     `json:"dual_answers"`
}

// Summarize sums up by fault.
func Summarize(results []Result) Summary {
	byFault := map[string][]Result{}
	for _, r := range results {
		byFault[r.Fault] = append(byFault[r.Fault], r)
	}
	s := Summary{Summary: true, PerFault: map[string]Total{}}
	for f, rs := range byFault {
		outages := column(rs, func(r Result) float64 { return r.OutageMS })
		lost := column(rs, func(r Result) float64 { return float64(r.Lost) })
		s.PerFault[f] = Total{
			MedianMS: median(outages), MaxMS: slices.Max(outages),
			TakeoverMedianMS: median(column(rs, func(r Result) float64 { return r.TakeoverMS })),
			LostMedian:       median(lost), LostMax: int(slices.Max(lost)), Dual: dualAnswers(rs),
		}
	}
	return s
}

func dualAnswers(rs []Result) (n int) {
	for _, r := range rs {
		n += r.Dual
	}
	return n
}

func column(rs []Result, value func(Result) float64) []float64 {
	var vs []float64
	for _, r := range rs {
		vs = append(vs, value(r))
	}
	return vs
}

// median of values, of which there is at least one.
func median(vs []float64) float64 {
	vs = slices.Sorted(slices.Values(vs))
	n := len(vs)
	return round((vs[(n-1)/2] + vs[n/2]) / 2)
}

// milliseconds of d, to the microsecond.
func milliseconds(d time.Duration) float64 { return round(float64(d) / float64(time.Millisecond)) }

func round(ms float64) float64 { return math.Round(ms*1000) / 1000 }
