package plane

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/test/cluster"
)

// A Fault happens to the holder.
type Fault string

// The faults.
const (
	NodeDies    Fault = "node"             // as without power
	NodeCut     Fault = "cut"              // from everything
	APIKilled   Fault = "apiserver-kill"   // SIGKILL to its API server, which stays down
	APIFrozen   Fault = "apiserver-freeze" // SIGSTOP
	Killed      Fault = "pintle-kill"      // SIGKILL to its Pintle
	Frozen      Fault = "pintle-freeze"    // SIGSTOP
	Stopped     Fault = "pintle-term"      // SIGTERM
	EtcdWithout Fault = "etcd-kill"        // SIGKILL to its etcd
)

// Faults are all of them.
var Faults = []Fault{NodeDies, NodeCut, APIKilled, APIFrozen, Killed, Frozen, Stopped, EtcdWithout}

// askEvery is how often the client asks the API, each time by a new connection,
// and askLimit how long an answer may take.
const (
	askEvery = 20 * time.Millisecond
	askLimit = 400 * time.Millisecond
)

// An Outcome is what a fault did.
type Outcome struct {
	Fault  Fault
	From   int           // the holder before
	To     int           // the holder after
	Outage time.Duration // from the first question without an answer to the next that got one; 0 if all did
	Lost   int           // questions without an answer
	Dual   int           // ARP questions that two nodes answered
}

// Measure does the fault to the holder, waits until the API answers through the
// address again and for a little longer, undoes the fault, and waits until all
// is quiet again.
func (p *Plane) Measure(ctx context.Context, f Fault) (Outcome, error) { return p.measure(ctx, p, f) }

// A subject is what faults are done to.
type subject interface {
	Settled(ctx context.Context) (holder int, err error)
	Do(f Fault, i int) error
	Undo(ctx context.Context, f Fault, i int) error
}

func (p *Plane) measure(ctx context.Context, s subject, f Fault) (Outcome, error) {
	holder, err := s.Settled(ctx)
	if err != nil {
		return Outcome{}, err
	}
	asking := p.client().Start(ctx)
	asking.Wait(ctx, 10)
	from := p.probe.Mark()
	out := Outcome{Fault: f, From: holder}
	began := time.Now()
	if err := s.Do(f, holder); err != nil {
		asking.End()
		return out, fmt.Errorf("%s on n%d: %w", f, holder, err)
	}
	asking.Quiet(ctx, began, p.grace(f))
	out.Outage, out.Lost = asking.End(), asking.Lost(began)
	out.Dual = len(p.probe.Report(from, p.probe.Mark()).Dual)
	if err := s.Undo(ctx, f, holder); err != nil {
		return out, fmt.Errorf("undo %s on n%d: %w", f, holder, err)
	}
	out.To, err = s.Settled(ctx)
	return out, err
}

// grace is how long after a fault an outage may begin.
func (p *Plane) grace(f Fault) time.Duration {
	t := time.Second // at once
	if p.opts.Election == "lease" && (f == Killed || f == Frozen) {
		t += p.opts.Lease
	}
	if f == EtcdWithout { // the health check has to notice
		t += 4 * time.Second
	}
	return t
}

// Do does a fault to a node.
func (p *Plane) Do(f Fault, i int) error {
	n := p.Node(i)
	switch f {
	case NodeDies:
		return n.Crash()
	case NodeCut:
		return n.Cut()
	case APIKilled:
		return n.Kill(cluster.APIServer)
	case APIFrozen:
		return n.Freeze(cluster.APIServer)
	case EtcdWithout:
		return n.Kill(cluster.Etcd)
	case Killed:
		return p.Pintle(i).Signal(syscall.SIGKILL)
	case Frozen:
		return p.Pintle(i).Signal(syscall.SIGSTOP)
	case Stopped:
		return p.Pintle(i).Signal(syscall.SIGTERM)
	}
	return fmt.Errorf("there is no fault %q", f)
}

// Undo makes a node well again.
func (p *Plane) Undo(ctx context.Context, f Fault, i int) error {
	n := p.Node(i)
	switch f {
	case NodeDies:
		if err := n.Boot(); err != nil {
			return err
		}
		return errors.Join(p.echo(i), p.Start(i))
	case NodeCut:
		return n.Heal()
	case APIKilled:
		return n.Start(cluster.APIServer)
	case APIFrozen:
		return n.Continue(cluster.APIServer)
	case EtcdWithout:
		return n.Start(cluster.Etcd)
	case Killed, Stopped:
		if err := p.Pintle(i).Wait(); ctx.Err() != nil {
			return err
		}
		return p.Start(i)
	case Frozen:
		return p.Pintle(i).Signal(syscall.SIGCONT)
	}
	return nil
}

// A Client asks the API through the address, from the client's place in the lab.
type Client struct {
	Lab *netlab.Lab
	VIP netip.Addr
}

func (p *Plane) client() Client { return Client{p.Lab(), p.VIP()} }

// Ask asks once: a new connection, a handshake and GET /version.
func (c Client) Ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	dial := func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		err = c.Lab.Client().Do(func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
			return err
		})
		return conn, err
	}
	t := &http.Transport{DialContext: dial, DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // who answers is not the question
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+netip.AddrPortFrom(c.VIP, 6443).String()+"/version", nil)
	if err != nil {
		return err
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// An Asking is a series of questions, one each 20 ms.
type Asking struct {
	cancel func()
	done   sync.WaitGroup

	mu      sync.Mutex // guards what follows
	answers []answer   // in the order of the questions; those under way are not ok yet
}

type answer struct {
	at   time.Time
	ok   bool
	over bool
}

// Start starts to ask, until End or ctx ends.
func (c Client) Start(ctx context.Context) *Asking {
	ctx, cancel := context.WithCancel(ctx)
	a := &Asking{cancel: cancel}
	a.done.Go(func() {
		tick := time.NewTicker(askEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			a.mu.Lock()
			i := len(a.answers)
			a.answers = append(a.answers, answer{at: time.Now()})
			a.mu.Unlock()
			a.done.Go(func() {
				err := c.Ask(context.WithoutCancel(ctx))
				a.mu.Lock()
				defer a.mu.Unlock()
				a.answers[i].ok, a.answers[i].over = err == nil, true
			})
		}
	})
	return a
}

// Wait waits for n good answers.
func (a *Asking) Wait(ctx context.Context, n int) {
	for ctx.Err() == nil {
		a.mu.Lock()
		good := 0
		for _, x := range a.answers {
			if x.ok {
				good++
			}
		}
		a.mu.Unlock()
		if good >= n {
			return
		}
		time.Sleep(askEvery)
	}
}

// Quiet waits until grace has passed since began and all questions of the last
// second were answered well, for two minutes at most.
func (a *Asking) Quiet(ctx context.Context, began time.Time, grace time.Duration) {
	for end := began.Add(2 * time.Minute); ctx.Err() == nil && time.Now().Before(end); time.Sleep(askEvery) {
		if time.Since(began) < grace {
			continue
		}
		a.mu.Lock()
		well := true
		for _, x := range a.answers {
			age := time.Since(x.at)
			well = well && (x.ok || age > time.Second+askLimit || !x.over && age < askLimit)
		}
		a.mu.Unlock()
		if well {
			return
		}
	}
}

// End ends the series and returns the longest outage.
func (a *Asking) End() (longest time.Duration) {
	a.cancel()
	a.done.Wait()
	var first time.Time
	for _, x := range a.answers {
		switch {
		case !x.ok && first.IsZero():
			first = x.at
		case x.ok && !first.IsZero():
			longest = max(longest, x.at.Sub(first))
			first = time.Time{}
		}
	}
	if !first.IsZero() {
		longest = max(longest, time.Since(first))
	}
	return longest
}

// Lost counts the questions since a time that got no answer. The series has ended.
func (a *Asking) Lost(since time.Time) (n int) {
	for _, x := range a.answers {
		if !x.ok && x.at.After(since.Add(-askLimit)) {
			n++
		}
	}
	return n
}

// Probe asks for the address by UDP and ARP all the time.
func (p *Plane) Probe() *netlab.Probe { return p.probe }
