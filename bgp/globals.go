package bgp

import (
	"sync"
	"time"
)

// globals are the global variables of gobgp's route selection: StartBgp sets them, to what they are already, and every
// change of routes reads them.
var globals turns

// turns has a writer alone, and readers together. A reader waits for a writer that is writing, which takes a millisecond, but
// never for one that waits: it may have a route to withdraw.
type turns struct {
	mu      sync.Mutex
	readers int
}

// read begins a reader's turn, which the function ends.
func (t *turns) read() (done func()) {
	t.mu.Lock()
	t.readers++
	t.mu.Unlock()
	return func() {
		t.mu.Lock()
		t.readers--
		t.mu.Unlock()
	}
}

// write begins the writer's turn, which the function ends. A router that is slow to come up reads for as long, so it is not
// waited for to the end: what is written is there already.
func (t *turns) write() (done func()) {
	for end := time.Now().Add(time.Second); ; time.Sleep(time.Millisecond) {
		t.mu.Lock()
		if t.readers == 0 || time.Now().After(end) {
			return t.mu.Unlock
		}
		t.mu.Unlock()
	}
}
