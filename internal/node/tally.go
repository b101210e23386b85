package node

import (
	"sync"

	"github.com/pintle-lb/pintle/internal/status"
	"github.com/pintle-lb/pintle/leader"
)

// A tally counts elections by what the elector reports.
type tally struct {
	mu     sync.Mutex // guards all below
	now    status.Elections
	known  bool   // a term was seen
	epoch  uint64 // the newest
	held   bool   // somebody held it
	holder string // of the newest that had one
}

// see takes one report.
func (t *tally) see(term leader.Term) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if term.Epoch > t.epoch {
		if t.known {
			t.now.Empty += term.Epoch - t.epoch - 1
			if !t.held {
				t.now.Empty++
			}
		}
		t.known, t.epoch, t.held = true, term.Epoch, false
	}
	if term.Epoch != t.epoch || term.Holder == "" || t.held {
		return
	}
	t.held = true
	if term.Holder == t.holder {
		t.now.Same++
	} else {
		t.now.New++
	}
	t.holder = term.Holder
}

func (t *tally) count() status.Elections {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.now
}
