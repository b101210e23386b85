package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// A watch follows what the machines' Pintles say of themselves.
type watch struct {
	machines []*machine
	clients  []*http.Client

	mu    sync.Mutex // guards all below
	said  []report   // by machine
	epoch uint64     // the newest that had a holder
	terms int        // how many such epochs there were
}

// A report is what one Pintle says.
type report struct {
	ready  bool
	reason string // why it is not ready
	holder string // of the address; "" if it knows none
	epoch  uint64
	err    error // it says nothing
}

// watchEvery is how often each is asked, and watchWait how long it may take. An epoch shorter than that is not counted.
const (
	watchEvery = 100 * time.Millisecond
	watchWait  = time.Second
)

func newWatch(machines []*machine) *watch {
	w := &watch{machines: machines, said: make([]report, len(machines))}
	for i, m := range machines {
		w.said[i].err = errors.New("not asked yet")
		w.clients = append(w.clients, statusClient(m.socket))
	}
	return w
}

// run asks all machines until ctx ends, each in its own time: a frozen one does not answer.
func (w *watch) run(ctx context.Context) {
	var wg sync.WaitGroup
	for i := range w.machines {
		wg.Go(func() {
			for ctx.Err() == nil {
				w.note(i, readStatus(ctx, w.clients[i]))
				_ = pause(ctx, watchEvery)
			}
		})
	}
	wg.Wait()
}

func (w *watch) note(i int, r report) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said[i] = r
	if r.holder != "" && r.epoch > w.epoch {
		w.epoch = r.epoch
		w.terms++
	}
}

// epochs counts the epochs in which the address had a holder, so far.
func (w *watch) epochs() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.terms
}

// holder returns whom all machines, all of them ready, name in the same epoch; or "" and why there is none.
func (w *watch) holder() (name, why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	first := w.said[0]
	for i, r := range w.said {
		switch m := w.machines[i].name(); {
		case r.err != nil:
			return "", fmt.Sprintf("%s: %v", m, r.err)
		case !r.ready:
			return "", strings.TrimSuffix(m+" is not ready: "+r.reason, ": ")
		case r.holder == "":
			return "", m + " knows no holder"
		case r.holder != first.holder || r.epoch != first.epoch:
			return "", fmt.Sprintf("%s says that %s holds, %s says %s", w.machines[0].name(), first.holder, m, r.holder)
		}
	}
	return first.holder, ""
}

func statusClient(socket string) *http.Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConns: 1}, Timeout: watchWait}
}

// readStatus asks one Pintle over its status socket.
func readStatus(ctx context.Context, client *http.Client) report {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://pintle/status", nil)
	if err != nil {
		return report{err: err}
	}
	resp, err := client.Do(req)
	if err != nil {
		return report{err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	var s struct {
		Ready    bool   `json:"ready"`
		NotReady string `json:"notReady"`
		Claims   []struct {
			Holder string `json:"holder"`
			Epoch  uint64 `json:"epoch"`
		} `json:"claims"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		return report{err: fmt.Errorf("read status: %w", err)}
	}
	r := report{ready: s.Ready, reason: s.NotReady}
	if len(s.Claims) > 0 {
		r.holder, r.epoch = s.Claims[0].Holder, s.Claims[0].Epoch
	}
	return r
}
