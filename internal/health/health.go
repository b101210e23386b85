// Package health asks the service on this node whether it is well.
//
// A Prober repeats one Check and forms a verdict of many answers: Verdict is that rule, and pure. The first good
// answer makes a check healthy, so that a node is ready at once after its start; from then on it takes Fall bad ones
// in a row to make it unhealthy, and Rise good ones to make it healthy again. Before the first good answer, Fall bad
// ones make it unhealthy; until then nothing is known.
//
// What a verdict means for the shared address is not decided here.
package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"time"
)

// A Check is what to ask, and how often. Exactly one of TCP, HTTP and Command is set.
type Check struct {
	Name                      string
	TCP                       string        // host:port: good if it accepts a connection
	HTTP                      string        // an http or https URL: good if a GET of it is answered with 200 to 399
	Command                   []string      // an absolute path and arguments: good if it ends with status 0
	CA, Cert, Key, ServerName string        // for https: PEM files, read again when they change; the system's CAs if CA is empty
	Interval, Timeout         time.Duration // above 0; the timeout is at most the interval
	Rise, Fall                int           // at least 1
}

// Status is what is known of one check.
type Status struct {
	Name      string
	Healthy   bool
	Known     bool      // there is a verdict
	Since     time.Time // when Healthy or Known last changed; the start of Run before that
	LastError string    // of the last bad check; empty again after Rise good ones in a row
	Checks    uint64    // made so far
	Failures  uint64    // how many of these were bad
}

// A Prober repeats one check.
type Prober struct {
	check Check
	probe func(context.Context) error // one check, which ends soon after its context

	mu     sync.Mutex // guards status
	status Status
}

// grace is how long after its timeout a check may take to end, before it is left to itself.
const grace = 100 * time.Millisecond

// ErrStuck is the error of a check that was not made because an earlier one has not ended.
var ErrStuck = errors.New("an earlier check has not ended")

// New makes a Prober. It asks and reads nothing yet: the files of a check may appear later than Pintle starts.
func New(c Check) (*Prober, error) {
	p := &Prober{check: c, status: Status{Name: c.Name}}
	switch {
	case c.Name == "":
		return nil, errors.New("make health check: needs a name")
	case c.Interval <= 0 || c.Timeout <= 0 || c.Timeout > c.Interval:
		return nil, fmt.Errorf("make health check %s: want 0 < timeout <= interval, got %s and %s", c.Name, c.Timeout, c.Interval)
	case c.Rise < 1 || c.Fall < 1:
		return nil, fmt.Errorf("make health check %s: want rise and fall of at least 1, got %d and %d", c.Name, c.Rise, c.Fall)
	}
	probe, err := c.prober()
	if err != nil {
		return nil, fmt.Errorf("make health check %s: %w", c.Name, err)
	}
	p.probe = probe
	return p, nil
}

// prober is the way to make the check once.
func (c Check) prober() (func(context.Context) error, error) {
	switch {
	case c.TCP != "" && c.HTTP == "" && c.Command == nil:
		_, _, err := net.SplitHostPort(c.TCP)
		return tcp(c.TCP), err
	case c.TCP == "" && c.HTTP != "" && c.Command == nil:
		u, err := url.Parse(c.HTTP)
		if err == nil && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
			err = fmt.Errorf("%s: not an http or https URL", c.HTTP)
		}
		return newWeb(c).probe, err
	case c.TCP == "" && c.HTTP == "" && len(c.Command) > 0:
		if !filepath.IsAbs(c.Command[0]) {
			return nil, fmt.Errorf("command %s: not an absolute path", c.Command[0])
		}
		return command(c.Name, c.Command), nil
	}
	return nil, errors.New("want exactly one of tcp, http and command")
}

// Status is what is known now.
func (p *Prober) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// Run checks at once and then each interval until ctx ends, and returns nil then. It calls report, which must not
// block for long, once at the start and whenever Healthy, Known or LastError changed: not for each check. It is
// called once for each Prober. Checks never pile up: while one does not end, even long after its timeout, no other is
// started, and each interval counts as a bad check.
func (p *Prober) Run(ctx context.Context, report func(Status)) error {
	p.mu.Lock()
	p.status.Since = time.Now()
	start := p.status
	p.mu.Unlock()
	report(start)

	tick := time.NewTicker(p.check.Interval)
	defer tick.Stop()
	var one single
	verdict := Verdict{Rise: p.check.Rise, Fall: p.check.Fall}
	for {
		err := one.do(ctx, p.check.Timeout, p.probe)
		if ctx.Err() != nil {
			return nil // the answer says nothing: it was interrupted
		}
		verdict = verdict.Next(err == nil)
		if s, changed := p.record(verdict, err); changed {
			report(s)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// record takes one answer into the status, and reports whether that is worth telling.
func (p *Prober) record(v Verdict, err error) (Status, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.status
	s := &p.status
	s.Checks++
	s.Healthy, s.Known = v.Healthy, v.Known
	if s.Healthy != before.Healthy || s.Known != before.Known {
		s.Since = time.Now()
	}
	if err != nil {
		s.Failures++
		s.LastError = steady(err)
	} else if v.Settled() {
		s.LastError = ""
	}
	return *s, s.Healthy != before.Healthy || s.Known != before.Known || s.LastError != before.LastError
}

// A single makes checks one at a time. A check that does not end is left behind, and holds up all later ones.
type single struct {
	ended chan error // of the check that was left behind; nil if there is none
}

// do makes one check, and returns at the latest some grace after its timeout or the end of the context.
func (s *single) do(parent context.Context, timeout time.Duration, probe func(context.Context) error) error {
	if s.ended != nil {
		select {
		case err := <-s.ended:
			_, s.ended = err, nil // its answer is about long ago
		default:
			return ErrStuck
		}
	}
	ctx, cancel := context.WithTimeout(parent, timeout)
	ended := make(chan error, 1)
	// Not in an errgroup: nothing can wait for a process that the kernel does not let die.
	go func() {
		defer cancel()
		ended <- probe(ctx)
	}()
	err, ok := first(ended, ctx.Done())
	if !ok {
		late, stop := context.WithTimeout(context.Background(), grace)
		defer stop()
		err, ok = first(ended, late.Done())
	}
	switch {
	case !ok:
		s.ended = ended
		return fmt.Errorf("no answer within %s, and it does not end", timeout)
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("no answer within %s", timeout)
	}
	return err
}

// first waits for the answer, but not beyond the end.
func first(answer <-chan error, end <-chan struct{}) (err error, ok bool) {
	select {
	case err = <-answer:
		return err, true
	case <-end:
		return nil, false
	}
}
