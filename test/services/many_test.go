package services_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/sync/errgroup"

	"github.com/pintle-lb/pintle/test/services"
)

// TestThousand: a thousand Services have an address each, once there is a pool, evenly spread over the nodes; and nothing is written
// about them when that is done.
func TestThousand(t *testing.T) {
	const n = 1000
	b := newPintle(t, services.Options{Lease: 3 * time.Second, NoProxy: true, Log: "info"})
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
	versions := func() map[string]string {
		out := map[string]string{}
		for _, a := range f.objects(t.Context()) {
			out[a.Name] = a.ResourceVersion
		}
		list, err := b.API(1).CoreV1().Services("default").List(t.Context(), metav1.ListOptions{})
		check(t, err)
		for _, s := range list.Items {
			out[s.Name] = s.ResourceVersion
		}
		return out
	}
	eventually(t, "nothing is written any more", func(ctx context.Context) error {
		before := versions()
		select {
		case <-ctx.Done():
		case <-time.After(3 * time.Second): // a renewal or two
		}
		changed := 0
		for name, v := range versions() {
			if before[name] != v {
				changed++
			}
		}
		if changed > 0 {
			return fmt.Errorf("%d objects were written", changed)
		}
		return nil
	})
}
