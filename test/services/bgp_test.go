package services_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pintle-lb/pintle/internal/service/pintlev1"
	"github.com/pintle-lb/pintle/test/router"
	"github.com/pintle-lb/pintle/test/router/routertest"
	"github.com/pintle-lb/pintle/test/services"
)

const routers = `
bgp:
  as: 65001
  drain: {wait: 1s}
  peers:
    - {name: tor, address: 10.77.0.200, as: 65001, hold: 3s, connectRetry: 1s} # only within an AS a preference is told
`

// TestRoutes: a pool that is announced by BGP has routes from every node that suits, whatever happens to nodes and endpoints, and
// what they carry is what pool and Service say.
func TestRoutes(t *testing.T) {
	b := newPintle(t, services.Options{Nodes: 1, Workers: 2, Lease: 3 * time.Second, Config: routers})
	ctx := t.Context()
	hub := b.Lab().Client()
	c := router.Config{AS: 65001, RouterID: hub.Addr()}
	for _, n := range b.Nodes() {
		c.Neighbors = append(c.Neighbors, router.Neighbor{Addr: n.Addr(), AS: 65001, Hold: 3 * time.Second})
	}
	bird := routertest.BIRD(t, hub, c)
	w, err := router.NewWatch(hub)
	check(t, err)
	t.Cleanup(w.Close)

	pref := int64(150)
	pool := services.NewPool("routed", "10.98.0.0/24")
	pool.Spec.Announce, pool.Spec.Links = []string{pintlev1.AnnounceBGP}, nil
	pool.Spec.BGP = &pintlev1.RouteBGP{Communities: []string{"65001:100"}, LargeCommunities: []string{"65001:1:2"}, LocalPref: &pref}
	_, err = b.API(1).Pools.Create(ctx, pool, metav1.CreateOptions{})
	check(t, err)
	near, err := b.Backend(ctx, 2, services.Echo)
	check(t, err)
	_, err = b.Service(ctx, "web")
	check(t, err)
	within, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	addrs, err := b.Addresses(within, "web")
	check(t, err)
	web := netip.PrefixFrom(addrs[0], 32)
	via := func(what string, p netip.Prefix, nodes ...int) {
		t.Helper()
		hops := make([]netip.Addr, len(nodes))
		for i, n := range nodes {
			hops[i] = b.Node(n).Addr()
		}
		within, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		if _, err := w.Await(within, p, hops...); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	via("every node", web, 1, 2, 3)
	check(t, services.Await(within, func(ctx context.Context) error { _, err := b.Ask(ctx, "tcp", addrs[0]); return err }))
	carries(t, bird, web, "(65001,100)", "(65001, 1, 2)", "BGP.local_pref: 150")

	if o, err := b.API(1).Addresses.Get(ctx, addrs[0].String(), metav1.GetOptions{}); err != nil || o.Spec.Wanted != "" || o.Status.Holder != "" {
		t.Errorf("its object names a holder: %+v, %v", o, err)
	}

	// Annotations count in the place of the pool's.
	edit(t, b, "web", func(s *corev1.Service) {
		s.Annotations = map[string]string{"pintle.dev/bgp-communities": "65001:7, no-export", "pintle.dev/bgp-local-pref": "250"}
	})
	eventually(t, "the Service's own communities", func(ctx context.Context) error {
		text, err := bird.Ask(ctx, "show route all for "+web.String())
		if err == nil && (!strings.Contains(text, "(65001,7)") || !strings.Contains(text, "(65535,65281)") || !strings.Contains(text, "BGP.local_pref: 250") ||
			strings.Contains(text, "(65001,100)")) {
			err = errors.New(text)
		}
		return err
	})

	// Local: from nodes with a ready endpoint only, and from none when there is none.
	_, err = b.Service(ctx, "local", services.Local)
	check(t, err)
	addrs, err = b.Addresses(within, "local")
	check(t, err)
	local := netip.PrefixFrom(addrs[0], 32)
	via("the node with the endpoint", local, 2)
	far, err := b.Backend(ctx, 3, services.Echo)
	check(t, err)
	via("both nodes with endpoints", local, 2, 3)
	check(t, near.Terminate(ctx))
	via("the node whose endpoint does not end", local, 3)
	check(t, far.Ready(ctx, false))
	via("the node whose endpoint serves until it ends", local, 2)
	check(t, near.Ready(ctx, false))
	via("no node", local)
	check(t, far.Ready(ctx, true))
	via("that node again", local, 3)

	// Nodes that take no addresses.
	_, err = b.Kubectl(ctx, 1, "cordon", b.Node(2).Name())
	check(t, err)
	via("all but a cordoned node", web, 1, 3)
	_, err = b.Kubectl(ctx, 1, "uncordon", b.Node(2).Name())
	check(t, err)
	via("every node again", web, 1, 2, 3)
	_, err = b.Kubectl(ctx, 1, "label", "node", b.Node(2).Name(), "node.kubernetes.io/exclude-from-external-load-balancers=")
	check(t, err)
	via("all but an excluded node", web, 1, 3)
	check(t, b.Stop(ctx, 3))
	via("all but a node whose Pintle was stopped", web, 1)
	check(t, b.Start(3))
	via("that node again", web, 1, 3)
	check(t, b.Kill(3))
	via("all but a node whose Pintle was killed", web, 1)

	check(t, b.API(1).CoreV1().Services("default").Delete(ctx, "web", metav1.DeleteOptions{}))
	via("no node: the Service is gone", web)
}

// carries waits until the route of a prefix has all of these in it.
func carries(t *testing.T, r *router.Router, p netip.Prefix, words ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s carries %v", p, words), func(ctx context.Context) error {
		text, err := r.Ask(ctx, "show route all for "+p.String())
		for _, word := range words {
			if err == nil && !strings.Contains(text, word) {
				err = fmt.Errorf("no %s in %s", word, text)
			}
		}
		return err
	})
}

// edit changes a Service of the namespace default.
func edit(t *testing.T, b *services.Bed, name string, f func(*corev1.Service)) {
	t.Helper()
	eventually(t, "edit "+name, func(ctx context.Context) error {
		api := b.API(b.Via).CoreV1().Services("default")
		s, err := api.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		f(s)
		_, err = api.Update(ctx, s, metav1.UpdateOptions{})
		return err
	})
}
