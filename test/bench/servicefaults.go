package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/test/services"
)

// serve makes Services, so many for each node, and waits until all are answered for.
func (b *servicesBed) serve(ctx context.Context, eachNode int) (*netlab.Survey, error) {
	if err := b.pool(ctx); err != nil {
		return nil, err
	}
	n := eachNode * b.Len()
	if err := b.create(ctx, n); err != nil {
		return nil, err
	}
	if _, err := b.assigned(ctx, n); err != nil {
		return nil, err
	}
	if err := b.spread(ctx); err != nil {
		return nil, err
	}
	all, err := b.Lab().StartSurvey(250*time.Millisecond, b.addrs...)
	if err != nil {
		return nil, err
	}
	return all, services.Await(ctx, func(context.Context) error {
		if have := len(all.Holders()); have < n {
			return fmt.Errorf("%d of %d addresses are answered for", have, n)
		}
		return nil
	})
}

// of are the addresses that a node answers for.
func of(s *netlab.Survey, node string) (out []netip.Addr) {
	for a, n := range s.Holders() {
		if n == node {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// renewed waits until a node has just renewed its Lease: a fault has to be noticed by the longest way then.
func (b *servicesBed) renewed(ctx context.Context, node string) error {
	version := ""
	return services.Await(ctx, func(ctx context.Context) error {
		l, err := b.API(1).CoordinationV1().Leases(services.Namespace).Get(ctx, "pintle-node-"+node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		was := version
		if version = l.ResourceVersion; was == "" || was == version {
			return errors.New("the Lease of " + node + " is not renewed")
		}
		return nil
	})
}

// cut cuts a node off that holds so many addresses, right after a renewal of its Lease.
func (b *servicesBed) cut(ctx context.Context, eachNode int) error {
	all, err := b.serve(ctx, eachNode)
	if err != nil {
		return err
	}
	last := b.Node(b.Len()) // a worker
	cut := last.Name()
	mine := of(all, cut)
	all.Close()
	asked, err := b.ask(mine)
	defer func() {
		for _, q := range asked {
			q.Close()
		}
	}()
	if err != nil {
		return err
	}
	if err := b.renewed(ctx, cut); err != nil {
		return err
	}
	from := asked[0].Mark()
	if err := last.Cut(); err != nil {
		return err
	}
	err = services.Await(ctx, func(context.Context) error {
		for _, q := range asked {
			now := q.Holders()
			for _, a := range q.addrs {
				if now[a] == "" || now[a] == cut {
					return fmt.Errorf("%s is answered for by %q", a, now[a])
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	b.note("pintle", "addresses", "", float64(len(mine)))
	// The old holder hears that it was fenced, and must say nothing. Cordoned, it is given nothing back that it may claim.
	if _, err := b.Kubectl(ctx, 1, "cordon", cut); err != nil {
		return err
	}
	if err := last.Heal(); err != nil {
		return err
	}
	time.Sleep(2 * servicesLease) // that is measured, not waited for
	b.moved(asked, from, cut)
	return nil
}

// A question is asked for addresses again and again.
type question struct {
	*netlab.Survey
	what  string
	addrs []netip.Addr
}

// ask asks for the first of the addresses each 5 ms, for 50 evenly and with the last each 50 ms, and for the others each 250 ms. After an
// error it returns what was begun.
func (b *servicesBed) ask(addrs []netip.Addr) (asked []question, err error) {
	const some = 50
	var even, others []netip.Addr
	for i, a := range addrs {
		if (i+1)*some/len(addrs) > i*some/len(addrs) {
			even = append(even, a)
		} else {
			others = append(others, a)
		}
	}
	for _, q := range []struct {
		every time.Duration
		what  string
		addrs []netip.Addr
	}{{5 * time.Millisecond, "one", addrs[:1]}, {50 * time.Millisecond, "50", even}, {250 * time.Millisecond, "all", others}} {
		s, err := b.Lab().StartSurvey(q.every, q.addrs...)
		if err != nil {
			return asked, err
		}
		asked = append(asked, question{s, q.what, q.addrs})
	}
	return asked, nil
}

// moved notes how long it took until other nodes answered for what a node had, and claimed it by whatever frame.
func (b *servicesBed) moved(asked []question, from netlab.Mark, node string) {
	var answered, claimed time.Duration
	never, rivals := 0, 0
	for _, q := range asked {
		w := q.Report(from, q.Mark())
		last, none := w.Moved(node)
		answered, never = max(answered, last), never+len(none)
		for _, a := range w.Of {
			if i := slices.IndexFunc(a.Tenures, func(t netlab.Tenure) bool { return t.Host != node }); i >= 0 {
				claimed = max(claimed, a.Tenures[i].From)
			}
		}
		for _, line := range w.Rivals() {
			fmt.Fprintln(os.Stderr, "services: two claimers:", line)
			rivals++
		}
		b.note("pintle", q.what+" answered after", "s", answered.Seconds())
	}
	b.note("pintle", "all claimed after", "s", claimed.Seconds())
	b.note("pintle", "never answered", "", float64(never))
	b.note("pintle", "two claimers", "", float64(rivals))
}

// drainProbes is how many addresses of the node that is stopped are asked for through kube-proxy, each every 5 ms.
const drainProbes = 8

// drain stops a Pintle that holds so many addresses.
func (b *servicesBed) drain(ctx context.Context, eachNode int) error {
	if _, err := b.Backend(ctx, 1, services.Echo); err != nil {
		return err
	}
	all, err := b.serve(ctx, eachNode)
	if err != nil {
		return err
	}
	last := b.Len()
	mine := of(all, b.Node(last).Name())
	var probes []*netlab.Probe
	for _, a := range mine[:drainProbes] {
		p, err := b.Lab().StartProbe(a, 5*time.Millisecond)
		if err != nil {
			return err
		}
		defer p.Close()
		probes = append(probes, p)
	}
	err = services.Await(ctx, func(context.Context) error {
		for _, p := range probes {
			if p.Serving() == "" {
				return errors.New("a probe is not answered")
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	from := all.Mark()
	start := time.Now()
	if err := b.Stop(ctx, last); err != nil {
		return err
	}
	b.note("pintle", "stopped after", "s", time.Since(start).Seconds())
	time.Sleep(2 * time.Second) // a question too many shows after a second
	lost, sent := 0, 0
	for _, p := range probes {
		w := p.Report(from, p.Mark())
		lost, sent = lost+w.Lost, sent+w.Sent
	}
	b.note("pintle", "addresses", "", float64(len(mine)))
	b.note("pintle", "questions", "", float64(sent))
	b.note("pintle", "lost", "", float64(lost))
	b.note("pintle", "two claimers", "", float64(len(all.Report(from, all.Mark()).Rivals())))
	return nil
}

// steady counts what is written while nothing happens: every write of an object shows in a watch.
func (b *servicesBed) steady(ctx context.Context, n int, long time.Duration) error {
	if err := b.pool(ctx); err != nil {
		return err
	}
	if err := b.create(ctx, n); err != nil {
		return err
	}
	if _, err := b.assigned(ctx, n); err != nil {
		return err
	}
	if err := b.spread(ctx); err != nil {
		return err
	}
	time.Sleep(2 * servicesLease) // until the status of the pool is written, and events
	limited, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	api := b.API(b.Via)
	watches := map[string]func(context.Context, metav1.ListOptions) (watch.Interface, error){
		"leases": api.CoordinationV1().Leases(services.Namespace).Watch, "addresses": api.Addresses.Watch, "pools": api.Pools.Watch,
		"services": api.CoreV1().Services("").Watch, "events": api.CoreV1().Events("").Watch,
	}
	counts := map[string]int{}
	for what, open := range watches {
		w, err := open(limited, metav1.ListOptions{ResourceVersion: ""})
		if err != nil {
			return err
		}
		defer w.Stop()
		watches[what] = func(context.Context, metav1.ListOptions) (watch.Interface, error) { return w, nil }
	}
	var g errgroup.Group
	out := make(chan string, 64)
	for what, open := range watches {
		w, _ := open(limited, metav1.ListOptions{}) // it is open
		g.Go(func() error {
			for e := range w.ResultChan() {
				if e.Type == watch.Modified || e.Type == watch.Deleted {
					out <- what
				}
			}
			return nil
		})
	}
	go func() { _ = g.Wait(); close(out) }()
	for what := range out {
		counts[what]++
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	renewals := float64(b.Len()) * long.Seconds() / (servicesLease / 3).Seconds()
	total := 0
	for what, c := range counts {
		total += c
		b.note("pintle", "writes of "+what, "/min", float64(c))
	}
	b.note("pintle", "writes a node and renewal", "", float64(total)/renewals)
	return nil
}
