package kube

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"k8s.io/client-go/rest"
)

// idleLimit is how long the answer to a watch may bring nothing: API servers send a bookmark about each minute.
const idleLimit = 150 * time.Second

// answerLimit is how long an API server may take to begin its answer.
const answerLimit = 15 * time.Second

// A Rotation sends requests to one of several API servers: to the one that answered last, and to the next one when it does
// not. So a client of one rest.Config goes on when an API server dies, and its watches end instead of being silent for ever.
// Its methods may be called from any goroutine.
type Rotation struct {
	servers      func() []string // base URLs, the best one first; never empty
	answer, idle time.Duration   // answerLimit and idleLimit, but for tests

	mu      sync.Mutex // guards what follows
	current string
	open    map[*passage]struct{}
}

// A passage is a request that is under way, up to the end of its answer.
type passage struct {
	rotation *Rotation
	server   string
	cancel   context.CancelCauseFunc
	idle     *time.Timer
	body     io.ReadCloser
}

// Rotate returns a copy of creds whose requests go to one of servers, which is asked again whenever one is to be chosen.
func Rotate(creds *rest.Config, servers func() []string) (*rest.Config, *Rotation) {
	r := &Rotation{servers: servers, answer: answerLimit, idle: idleLimit, open: map[*passage]struct{}{}}
	c := rest.CopyConfig(creds)
	c.Wrap(func(next http.RoundTripper) http.RoundTripper { return &rotating{r, next} })
	return c, r
}

// Current is the server that requests go to.
func (r *Rotation) Current() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.choose()
}

// Leave has requests go to another server, if there is one, and ends those that are under way to this one.
func (r *Rotation) Leave(server string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn(server)
	for p := range r.open {
		if p.server == server {
			p.cancel(errLeft)
		}
	}
}

// Why a request ends that its caller did not end.
var (
	errSilent = errors.New("the server does not answer")
	errIdle   = errors.New("the server has gone silent")
	errLeft   = errors.New("the server was left for another one")
	errEnded  = errors.New("the answer was closed")
)

// choose is the current server. The caller holds mu.
func (r *Rotation) choose() string {
	if r.current == "" {
		r.current = r.servers()[0]
	}
	return r.current
}

// turn moves on from a server. The caller holds mu.
func (r *Rotation) turn(from string) {
	if r.current != from {
		return
	}
	list := r.servers()
	r.current = list[0]
	for i, s := range list {
		if s == from {
			r.current = list[(i+1)%len(list)]
		}
	}
}

// rotating is the transport of a Rotation.
type rotating struct {
	*Rotation
	next http.RoundTripper
}

// RoundTrip implements [http.RoundTripper].
func (t *rotating) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	p := &passage{rotation: t.Rotation, cancel: cancel}
	t.mu.Lock()
	p.server = t.choose()
	t.open[p] = struct{}{}
	t.mu.Unlock()
	to, err := url.Parse(p.server)
	if err != nil {
		p.end()
		return nil, err
	}
	out := req.Clone(ctx)
	out.URL.Scheme, out.URL.Host, out.Host = to.Scheme, to.Host, ""
	p.idle = time.AfterFunc(t.answer, func() { cancel(errSilent) })
	resp, err := t.next.RoundTrip(out)
	if err != nil {
		p.end()
		if req.Context().Err() == nil { // not the caller's wish
			t.mu.Lock()
			t.turn(p.server)
			t.mu.Unlock()
		}
		if why := context.Cause(ctx); errors.Is(err, context.Canceled) && req.Context().Err() == nil && why != nil && !errors.Is(why, errEnded) {
			err = why
		}
		return nil, err
	}
	p.idle.Stop()
	p.idle = time.AfterFunc(t.Rotation.idle, func() { cancel(errIdle) })
	p.body, resp.Body = resp.Body, p
	return resp, nil
}

func (p *passage) end() {
	if p.idle != nil {
		p.idle.Stop()
	}
	p.cancel(errEnded)
	p.rotation.mu.Lock()
	delete(p.rotation.open, p)
	p.rotation.mu.Unlock()
}

// Read implements [io.Reader] for the answer.
func (p *passage) Read(b []byte) (int, error) {
	n, err := p.body.Read(b)
	if n > 0 {
		p.idle.Reset(p.rotation.idle)
	}
	return n, err
}

// Close implements [io.Closer].
func (p *passage) Close() error {
	p.end()
	return p.body.Close()
}
