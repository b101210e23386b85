package health

// A Verdict is what a row of answers amounts to. The zero value of all but Rise and Fall is the start.
type Verdict struct {
	Rise, Fall int
	Known      bool
	Healthy    bool
	good, bad  int // the last answers in a row: one of them is 0
}

// Next is the verdict after one more answer.
func (v Verdict) Next(ok bool) Verdict {
	if ok {
		v.good, v.bad = min(v.good+1, v.Rise), 0
	} else {
		v.good, v.bad = 0, min(v.bad+1, v.Fall)
	}
	switch {
	case ok && (!v.Known || v.good >= v.Rise):
		v.Known, v.Healthy = true, true
	case !ok && v.bad >= v.Fall:
		v.Known, v.Healthy = true, false
	}
	return v
}

// Settled reports that the check is healthy, and the last Rise answers were all good.
func (v Verdict) Settled() bool { return v.Healthy && v.good >= v.Rise }
