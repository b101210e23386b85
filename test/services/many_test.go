package services_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/sync/errgroup"

	"github.com/pintle-lb/pintle/test/services"
)

// TestThousand: a thousand Services have an address each, once there is a pool, evenly spread over the nodes; and nothing is written
// about them when that is done.
func TestThousand(t *testing.T) {
	const n = 1000
	b := newPintle(t, services.Options{Lease: 6 * time.Second, NoProxy: true, Log: "info"})
	var g errgroup.Group
	g.SetLimit(48)
	start := time.Now()
	for i := range n {
		g.Go(func() error {
			_, err := b.Service(t.Context(), fmt.Sprintf("s%d", i), func(s *corev1.Service) {
				s.Spec.AllocateLoadBalancerNodePorts, s.Spec.Ports, s.Spec.Selector = new(bool), s.Spec.Ports[:1], nil // endpoints cost the API most
			})
			return err
		})
	}
	check(t, g.Wait())
	t.Logf("the API took %v to make them", time.Since(start).Round(time.Second))
	f := &faults{Bed: b, t: t}
	start = time.Now()
	_, err := b.Pool(t.Context(), "main", "10.99.0.0/20")
	check(t, err)
	eventually(t, "every Service has an address", func(ctx context.Context) error { return f.allocated(ctx, n) })
	t.Logf("all have an address after %v", time.Since(start).Round(100*time.Millisecond))
	f.spread("over all nodes", b.Len())
	seen := map[string]string{}
	for name, addr := range f.allocation() {
		if other := seen[addr]; other != "" {
			t.Errorf("%s and %s have %s", name, other, addr)
		}
		seen[addr] = name
	}
	eventually(t, "nothing is written but a Lease for each node, once in a third of it", func(context.Context) error { return steady(t, b) })
}

// steady watches for eight seconds, and reports an error if more is written than has to be.
func steady(t *testing.T, b *services.Bed) error {
	const span, each = 8 * time.Second, 2 * time.Second // a third of the Lease
	ctx := t.Context()
	before, err := versions(ctx, b)
	if err != nil {
		return err
	}
	leases := b.API(1).CoordinationV1().Leases(services.Namespace)
	list, err := leases.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	w, err := leases.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return err
	}
	defer w.Stop()
	writes := map[string]int{}
	for end := time.After(span); end != nil; {
		select {
		case e, ok := <-w.ResultChan():
			o, is := e.Object.(*coordinationv1.Lease)
			if !ok || !is {
				return fmt.Errorf("the watch ended: %v", e.Object)
			}
			writes[o.Name]++
		case <-end:
			end = nil
		}
	}
	after, err := versions(ctx, b)
	if err != nil {
		return err
	}
	if !maps.Equal(before, after) {
		changed := 0
		for name, v := range after {
			if before[name] != v {
				changed++
			}
		}
		return fmt.Errorf("%d objects were written, of %d and then %d", changed, len(before), len(after))
	}
	if len(writes) != b.Len() {
		return fmt.Errorf("writes of Leases: %v", writes)
	}
	for name, n := range writes {
		if most := int(span/each) + 1; n > most {
			return fmt.Errorf("%s was written %d times in %v, want %d at most", name, n, span, most)
		}
	}
	return nil
}

// versions are those of everything that Pintle writes but Leases.
func versions(ctx context.Context, b *services.Bed) (map[string]string, error) {
	api, out := b.API(1), map[string]string{}
	addresses, err1 := api.Addresses.List(ctx, metav1.ListOptions{})
	pools, err2 := api.Pools.List(ctx, metav1.ListOptions{})
	all, err3 := api.CoreV1().Services("default").List(ctx, metav1.ListOptions{})
	events, err4 := api.CoreV1().Events("default").List(ctx, metav1.ListOptions{})
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	for i := range addresses.Items {
		out["address "+addresses.Items[i].Name] = addresses.Items[i].ResourceVersion
	}
	for i := range pools.Items {
		out["pool "+pools.Items[i].Name] = pools.Items[i].ResourceVersion
	}
	for i := range all.Items {
		out["service "+all.Items[i].Name] = all.Items[i].ResourceVersion
	}
	for i := range events.Items {
		out["event "+events.Items[i].Name] = events.Items[i].ResourceVersion
	}
	return out, nil
}
