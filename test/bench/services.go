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
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

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
	idle  bool // nobody forwards
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
			b := &servicesBed{Bed: bed, cas: c.name, idle: o.NoProxy, s: &s}
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
const writers = 32

// each does something n times, as many at once as there are writers.
func each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	for i := range n {
		g.Go(func() error { return do(ctx, i) })
	}
	return g.Wait()
}

// create makes n Services. Where nobody forwards, they select nothing: endpoints would cost the API more than all that is measured.
func (b *servicesBed) create(ctx context.Context, n int) error {
	return each(ctx, n, func(ctx context.Context, i int) error {
		_, err := b.Service(ctx, fmt.Sprintf("s%d", i), func(s *corev1.Service) {
			s.Spec.AllocateLoadBalancerNodePorts = new(bool)
			s.Spec.Ports = s.Spec.Ports[:1]
			if b.idle {
				s.Spec.Selector = nil
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
	cfg := b.Config(b.Via, b.Node(b.Via).Host, b.Admin())
	cfg.ContentType = runtime.ContentTypeProtobuf // as Pintle: to watch costs the API little then
	set, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return at, err
	}
	api := set.CoreV1().Services("default")
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

// assign makes Services, and then a pool: how long until the last has its address. To make them is what the API takes longest for.
func (b *servicesBed) assign(ctx context.Context, n int) error {
	start := time.Now()
	if err := b.create(ctx, n); err != nil {
		return err
	}
	b.note("client", "made the Services", "s", time.Since(start).Seconds())
	if err := b.told(ctx, n); err != nil {
		return err
	}
	start = time.Now()
	if err := b.pool(ctx); err != nil {
		return err
	}
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
	if err := b.create(ctx, n); err != nil {
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
		text, err := b.Status(ctx, 1, "-o", "json")
		if err != nil {
			return err
		}
		var r struct {
			Services struct{ Waiting []struct{ Why string } }
		}
		if err := json.Unmarshal(text, &r); err != nil {
			return err
		}
		told := 0
		for _, w := range r.Services.Waiting {
			if w.Why != "no coordinator has looked at it yet" {
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

// plain writes what Pintle writes, without a thought. Before the time begins it tells all Services that there is no pool, as Pintle does.
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
	apply := func(ctx context.Context, name, status string) error {
		body := fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Service","metadata":{"name":%q,"namespace":"default"},"status":{%s}}`, name, status)
		_, err := api.CoreV1().Services("default").Patch(ctx, name, types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: "plain"}, "status")
		return err
	}
	condition := func(status, reason, message string) string {
		return fmt.Sprintf(`"conditions":[{"type":"pintle.dev/Assigned","status":%q,"reason":%q,"message":%q,"lastTransitionTime":%q}]`,
			status, reason, message, time.Now().UTC().Format(time.RFC3339))
	}
	err = each(ctx, n, func(ctx context.Context, i int) error {
		return apply(ctx, items[i].Name, condition("False", "NoAddress", "there is no pool"))
	})
	if err != nil {
		return 0, err
	}
	start := time.Now()
	err = each(ctx, n, func(ctx context.Context, i int) error {
		if _, err := api.Addresses.Create(ctx, plainAddress(&items[i], addrs[i]), metav1.CreateOptions{}); err != nil {
			return err
		}
		return apply(ctx, items[i].Name, fmt.Sprintf(`"loadBalancer":{"ingress":[{"ip":%q,"ipMode":"VIP"}]},`, addrs[i])+
			condition("True", "Assigned", "it has "+addrs[i].String()))
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
Clusters of 3 + 2 nodes (of 10000: 1 + 2, one API server), lease 10 s. "all assigned": from the creation of the pool, with all Services
there, until the last has its address. "plain client": one that writes the same objects, 32 at a time, as Pintle does.
Of the addresses that were cut off one is asked for each 5 ms by ARP, 50 evenly and with the last each 50 ms, and the others each 250 ms,
so that "all answered" is up to so much too late; "all claimed" has announcements too. Two claimers must be 0. Probes of a drain ask
through kube-proxy by UDP, 8 addresses each 5 ms.
`
