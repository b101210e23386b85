package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
	"github.com/pintle-lb/pintle/test/services"
)

const servicesName = "services"

// A servicesCase is one thing that is measured of Services of type LoadBalancer, on a cluster of its own.
type servicesCase struct {
	name string
	run  func(context.Context, *servicesBed) error
	bed  services.Options
}

func servicesCaseName(c servicesCase) string { return c.name }

// servicesLease is that of the nodes: the default.
const servicesLease = 10 * time.Second

// The cases. Those of ten thousand have one API server, and no kube-proxy, which would be as busy as all the rest.
var servicesCases = []servicesCase{
	{"1000-services", func(ctx context.Context, b *servicesBed) error { return b.assign(ctx, 1000) }, services.Options{NoProxy: true}},
	{"10000-services", func(ctx context.Context, b *servicesBed) error { return b.beside(ctx, 10_000) }, services.Options{Nodes: 1, Workers: 2, NoProxy: true, Bare: true}},
	{"cut-100", func(ctx context.Context, b *servicesBed) error { return b.cut(ctx, 100) }, services.Options{NoProxy: true}},
	{"cut-300", func(ctx context.Context, b *servicesBed) error { return b.cut(ctx, 300) }, services.Options{NoProxy: true}},
	{"drain-100", func(ctx context.Context, b *servicesBed) error { return b.drain(ctx, 100) }, services.Options{}},
	{"steady", func(ctx context.Context, b *servicesBed) error { return b.steady(ctx, 200, time.Minute) }, services.Options{NoProxy: true}},
}

// A servicesBed is a cluster on which one case runs.
type servicesBed struct {
	*services.Bed
	cas   string
	s     *samples
	addrs []netip.Addr
}

// servicesLimit is how long a case may take.
const servicesLimit = 15 * time.Minute

// servicesRounds runs every case, each time on a new cluster.
func servicesRounds(ctx context.Context, _ *rig, p plan) ([]Figure, error) {
	var s samples
	for round := range p.runs {
		for _, c := range p.svcCases {
			fmt.Fprintf(os.Stderr, "services: round %d of %d, %s\n", round+1, p.runs, c.name)
			o := c.bed
			o.Pintle, o.Lease, o.Log = p.served, servicesLease, "info"
			bed, err := services.New(ctx, o)
			if err != nil {
				return s.figures(), err
			}
			b := &servicesBed{Bed: bed, cas: c.name, s: &s}
			limited, cancel := context.WithTimeoutCause(ctx, servicesLimit, errors.New("it did not end in time"))
			if !o.Bare {
				err = b.ready(limited)
			}
			if err == nil {
				err = c.run(limited, b)
			}
			cancel()
			if err != nil {
				err = fmt.Errorf("%s: %w\n%s", c.name, err, bed.Logs(5))
			}
			if err = errors.Join(err, bed.Close()); err != nil {
				return s.figures(), err
			}
		}
	}
	return s.figures(), nil
}

func (b *servicesBed) note(system, metric, unit string, v float64) {
	b.s.add(kind{servicesName, system, b.cas, metric, unit}, v)
}

// ready waits until every node takes addresses and one coordinates.
func (b *servicesBed) ready(ctx context.Context) error {
	return services.Await(ctx, func(ctx context.Context) error {
		text, err := b.Status(ctx, 1, "-o", "json")
		if err != nil {
			return err
		}
		var r struct {
			Services struct {
				Coordinator string
				Nodes       []struct{ Suits bool }
			}
		}
		if err := json.Unmarshal(text, &r); err != nil {
			return err
		}
		suits := 0
		for _, n := range r.Services.Nodes {
			if n.Suits {
				suits++
			}
		}
		if suits < b.Len() || r.Services.Coordinator == "" {
			return fmt.Errorf("%d nodes take addresses, %q coordinates", suits, r.Services.Coordinator)
		}
		return nil
	})
}

// writers is how many writes a client has under way, as the coordinator.
const writers = 48

// each does something n times, as many at once as there are writers.
func each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	for i := range n {
		g.Go(func() error { return do(ctx, i) })
	}
	return g.Wait()
}

// create makes n Services.
func (b *servicesBed) create(ctx context.Context, prefix string, n int, edit func(*corev1.Service)) error {
	return each(ctx, n, func(ctx context.Context, i int) error {
		_, err := b.Service(ctx, fmt.Sprintf("%s%d", prefix, i), func(s *corev1.Service) {
			s.Spec.AllocateLoadBalancerNodePorts = new(bool)
			s.Spec.Ports = s.Spec.Ports[:1]
			if edit != nil {
				edit(s)
			}
		})
		return err
	})
}

// pool gives the cluster addresses.
func (b *servicesBed) pool(ctx context.Context) error {
	_, err := b.Pool(ctx, "main", "10.99.0.0/17")
	return err
}

// assigned waits until n Services have addresses, as a client that watches learns it.
func (b *servicesBed) assigned(ctx context.Context, n int) (at time.Time, err error) {
	have := map[string]netip.Addr{}
	seen := func(s *corev1.Service) bool {
		if a := services.Ingress(s); len(a) > 0 {
			have[s.Name] = a[0]
		}
		return len(have) >= n
	}
	api := b.API(b.Via).CoreV1().Services("default")
	list, err := api.List(ctx, metav1.ListOptions{})
	if err != nil {
		return at, err
	}
	done := false
	for i := range list.Items {
		done = seen(&list.Items[i])
	}
	w, err := api.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return at, err
	}
	defer w.Stop()
	for !done {
		select {
		case <-ctx.Done():
			return at, fmt.Errorf("%d of %d Services have an address: %w", len(have), n, context.Cause(ctx))
		case e, ok := <-w.ResultChan():
			if !ok {
				return at, errors.New("the watch ended")
			}
			if s, ok := e.Object.(*corev1.Service); ok {
				done = seen(s)
			}
		}
	}
	at = time.Now()
	for _, a := range have {
		b.addrs = append(b.addrs, a)
	}
	slices.SortFunc(b.addrs, netip.Addr.Compare)
	return at, nil
}

// spread notes how evenly nodes hold addresses, once every address has a holder.
func (b *servicesBed) spread(ctx context.Context) error {
	load := map[string]int{}
	err := services.Await(ctx, func(ctx context.Context) error {
		list, err := b.API(b.Via).Addresses.List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return err
		}
		clear(load)
		for _, a := range list.Items {
			load[a.Status.Holder]++
		}
		if load[""] > 0 {
			return fmt.Errorf("%d addresses have no holder", load[""])
		}
		return nil
	})
	if err != nil {
		return err
	}
	least, most := 1<<30, 0
	for i := 1; i <= b.Len(); i++ {
		n := load[b.Node(i).Name()]
		least, most = min(least, n), max(most, n)
	}
	b.note("pintle", "max/min", "", float64(most)/float64(max(least, 1)))
	return nil
}

// memory notes the most that any node's Pintle has taken.
func (b *servicesBed) memory() error {
	var most int64
	for i := 1; i <= b.Len(); i++ {
		_, peak, err := b.RSS(i)
		if err != nil {
			return err
		}
		most = max(most, peak)
	}
	b.note("pintle", "RSS", "MB", float64(most)/1e6)
	return nil
}

// assign makes Services while Pintle runs: how long from the first request until the last has its address.
func (b *servicesBed) assign(ctx context.Context, n int) error {
	if err := b.pool(ctx); err != nil {
		return err
	}
	start := time.Now()
	if err := b.create(ctx, "s", n, nil); err != nil {
		return err
	}
	b.note("client", "made", "s", time.Since(start).Seconds())
	at, err := b.assigned(ctx, n)
	if err != nil {
		return err
	}
	b.note("pintle", "all assigned", "s", at.Sub(start).Seconds())
	return errors.Join(b.spread(ctx), b.memory())
}

// beside has a plain client write, for n Services, an Address object and the status of the Service each; then, when all that is
// undone, Pintle. Pintle runs before there is a pool, and has told every Service so.
func (b *servicesBed) beside(ctx context.Context, n int) error {
	if err := b.create(ctx, "s", n, nil); err != nil {
		return err
	}
	plain, err := b.plain(ctx, n)
	if err != nil {
		return err
	}
	b.note("plain client", "all written", "s", plain.Seconds())
	if err := b.undo(ctx, n); err != nil {
		return err
	}
	for i := 1; i <= b.Len(); i++ {
		if err := b.Start(i); err != nil {
			return err
		}
	}
	if err := b.told(ctx, n); err != nil {
		return err
	}
	start := time.Now()
	if err := b.pool(ctx); err != nil {
		return err
	}
	at, err := b.assigned(ctx, n)
	if err != nil {
		return err
	}
	pintle := at.Sub(start)
	b.note("pintle", "all assigned", "s", pintle.Seconds())
	b.note("pintle", "ratio to the plain client", "", pintle.Seconds()/plain.Seconds())
	return errors.Join(b.spread(ctx), b.memory())
}

// told waits until every Service was told that there is no pool, and all that can be read was read: then Pintle is at rest.
func (b *servicesBed) told(ctx context.Context, n int) error {
	if err := b.ready(ctx); err != nil {
		return err
	}
	err := services.Await(ctx, func(ctx context.Context) error {
		list, err := b.API(b.Via).CoreV1().Services("default").List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return err
		}
		told := 0
		for _, s := range list.Items {
			if len(s.Status.Conditions) > 0 {
				told++
			}
		}
		if told < n {
			return fmt.Errorf("%d of %d Services were told that there is no pool", told, n)
		}
		return nil
	})
	if err == nil {
		time.Sleep(5 * time.Second) // and the last Events are written
	}
	return err
}

// plain writes what Pintle writes, without a thought.
func (b *servicesBed) plain(ctx context.Context, n int) (time.Duration, error) {
	api := b.API(b.Via)
	list, err := api.CoreV1().Services("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	items := slices.DeleteFunc(list.Items, func(s corev1.Service) bool { return s.Spec.Type != corev1.ServiceTypeLoadBalancer })
	if len(items) != n {
		return 0, fmt.Errorf("%d Services, want %d", len(items), n)
	}
	addr := netip.MustParseAddr("10.98.0.0")
	addrs := make([]netip.Addr, n)
	for i := range addrs {
		addr = addr.Next()
		addrs[i] = addr
	}
	start := time.Now()
	err = each(ctx, n, func(ctx context.Context, i int) error {
		if _, err := api.Addresses.Create(ctx, plainAddress(&items[i], addrs[i]), metav1.CreateOptions{}); err != nil {
			return err
		}
		status := fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Service","metadata":{"name":%q,"namespace":"default"},"status":{"loadBalancer":{"ingress":[{"ip":%q,"ipMode":"VIP"}]},`+
			`"conditions":[{"type":"pintle.dev/Assigned","status":"True","reason":"Assigned","message":"it has %s","lastTransitionTime":%q}]}}`,
			items[i].Name, addrs[i], addrs[i], time.Now().UTC().Format(time.RFC3339))
		_, err := api.CoreV1().Services("default").Patch(ctx, items[i].Name, types.ApplyPatchType, status, metav1.PatchOptions{FieldManager: "plain"}, "status")
		return err
	})
	return time.Since(start), err
}

func plainAddress(s *corev1.Service, a netip.Addr) *pintlev1.Address {
	since := metav1.NowMicro()
	return &pintlev1.Address{
		TypeMeta:   metav1.TypeMeta{APIVersion: pintlev1.GroupVersion.String(), Kind: "Address"},
		ObjectMeta: metav1.ObjectMeta{Name: a.String(), Labels: map[string]string{"example.com/plain": "", "pintle.dev/pool": "plain"}},
		Spec: pintlev1.AddressSpec{Address: a.String(), Pool: "plain", Wanted: "n1",
			Services: []pintlev1.ServiceRef{{Namespace: s.Namespace, Name: s.Name, UID: s.UID}}},
		Status: pintlev1.AddressStatus{Since: &since, Reason: "it had the fewest addresses for its weight of 3 nodes that suit", Services: "default/" + s.Name},
	}
}

// undo takes back what the plain client wrote.
func (b *servicesBed) undo(ctx context.Context, n int) error {
	api := b.API(b.Via)
	addrs, err := api.Addresses.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	err = each(ctx, len(addrs.Items), func(ctx context.Context, i int) error {
		return api.Addresses.Delete(ctx, addrs.Items[i].Name, metav1.DeleteOptions{})
	})
	if err != nil {
		return err
	}
	return each(ctx, n, func(ctx context.Context, i int) error {
		name := fmt.Sprintf("s%d", i)
		status := fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Service","metadata":{"name":%q,"namespace":"default"},"status":{}}`, name)
		_, err := api.CoreV1().Services("default").Patch(ctx, name, types.ApplyPatchType, status, metav1.PatchOptions{FieldManager: "plain"}, "status")
		return err
	})
}

// serve makes Services, so many for each node, and waits until all are answered for.
func (b *servicesBed) serve(ctx context.Context, eachNode int) (*netlab.Survey, error) {
	if err := b.pool(ctx); err != nil {
		return nil, err
	}
	n := eachNode * b.Len()
	if err := b.create(ctx, "s", n, nil); err != nil {
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

// cut cuts a node off that holds so many addresses: one of them is asked for each 5 ms, and all each 50 ms.
func (b *servicesBed) cut(ctx context.Context, eachNode int) error {
	all, err := b.serve(ctx, eachNode)
	if err != nil {
		return err
	}
	last := b.Node(b.Len()) // a worker
	mine := of(all, last.Name())
	all.Close()
	fine, err := b.Lab().StartSurvey(5*time.Millisecond, mine[0])
	if err != nil {
		return err
	}
	defer fine.Close()
	wide, err := b.Lab().StartSurvey(50*time.Millisecond, mine...)
	if err != nil {
		return err
	}
	defer wide.Close()
	from := wide.Mark()
	if err := last.Cut(); err != nil {
		return err
	}
	err = services.Await(ctx, func(context.Context) error {
		now := wide.Holders()
		for _, a := range mine {
			if now[a] == "" || now[a] == last.Name() {
				return fmt.Errorf("%s is answered for by %q", a, now[a])
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	b.note("pintle", "addresses", "", float64(len(mine)))
	if err := last.Heal(); err != nil { // the old holder hears that it was fenced
		return err
	}
	time.Sleep(2 * servicesLease) // and must say nothing meanwhile: that is measured, not waited for
	w := wide.Report(from, wide.Mark())
	moved, never := w.Moved(last.Name())
	b.note("pintle", "all answered after", "s", moved.Seconds())
	b.note("pintle", "never answered", "", float64(len(never)))
	b.note("pintle", "one address, outage", "s", fine.Report(from, fine.Mark()).Outage().Seconds())
	b.note("pintle", "two claimers", "", float64(len(w.Rivals())+len(fine.Report(from, fine.Mark()).Rivals())))
	return nil
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
	if err := b.create(ctx, "s", n, nil); err != nil {
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

// servicesTable shows every figure.
func servicesTable(fs []Figure) string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "case\twho\twhat\tmedian\tmax\t")
	for _, f := range fs {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", f.Case, f.System, f.Metric, number(f.Median), number(f.Max), f.Unit)
	}
	_ = t.Flush() // a strings.Builder takes all
	return b.String() + servicesLegend
}

const servicesLegend = `
Clusters of 3 + 2 nodes (of 10000: 1 + 2, one API server), lease 10 s. "all assigned": from the first request, of 10000 from the pool's
creation, until the last Service has its address. "plain client": one that writes the same objects, 48 at a time, as Pintle does.
"one address" of those that were cut off is asked for each 5 ms, all of them each 50 ms, by ARP; two claimers must be 0. Probes of a
drain ask through kube-proxy by UDP, 8 addresses each 5 ms.
`
