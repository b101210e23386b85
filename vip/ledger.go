package vip

import "sync"

// A ledger tells which generations of a network namespace's rules came of this process's own transactions: between those nobody else
// changed anything, so that a table need not be read again because of another one of ours.
type ledger struct {
	mu   sync.Mutex // held from the generation before a change until after it
	runs []stretch  // oldest first
}

// A stretch is transactions of ours with none of others between them: the generation before the first, and that of the last.
type stretch struct{ from, to uint32 }

// keptRuns is how many stretches a ledger remembers.
const keptRuns = 16

// add notes own transactions. mu is held.
func (l *ledger) add(r stretch) {
	if n := len(l.runs); n > 0 && l.runs[n-1].to == r.from {
		l.runs[n-1].to = r.to
		return
	}
	l.runs = append(l.runs[max(0, len(l.runs)-keptRuns+1):], r)
}

// since returns the last generation up to which all since g are ours; g itself if that is 0, which is none.
func (l *ledger) since(g uint32) uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.runs {
		if g != 0 && r.from <= g && g < r.to {
			g = r.to
		}
	}
	return g
}
