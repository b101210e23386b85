package service

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

// TestWrites counts what is written for many Services: as much as changes, and nothing when nothing does.
func TestWrites(t *testing.T) {
	synctest.Test(t, countWrites)
}

func countWrites(t *testing.T) {
	const many, few = 300, 20 // the few are pools, the seat, and what each address may need once more
	w := newWorld(t, 1)
	w.calm, w.lease = true, 5*time.Second
	defer w.stop()
	for _, name := range nodeNames(3) {
		w.hosts = append(w.hosts, &host{w: w, name: name})
	}
	w.lock(func() {
		_, _ = create(w.store, "namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
		_, _ = create(w.store, "addresspools", &pintlev1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: "main"}, Spec: pintlev1.AddressPoolSpec{Addresses: []string{"192.0.0.0/22"}}})
		for _, h := range w.hosts {
			_, _ = create(w.store, "nodes", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: h.name}})
		}
	})
	for _, h := range w.hosts {
		h.start()
	}
	step := func(what string, least, most uint64, do func()) {
		t.Helper()
		var before, after uint64
		var why string
		w.lock(func() { before = w.writes })
		do()
		time.Sleep(5 * time.Minute) // a few are moved at a time for an even spread
		w.lock(func() { after, why = w.writes, w.unsettled() })
		if n := after - before; n < least || n > most {
			t.Errorf("%s: %d writes, want %d to %d", what, n, least, most)
		}
		t.Logf("%s: %d writes", what, after-before)
		if why != "" {
			t.Errorf("%s: after five minutes: %s", what, why)
		}
	}
	other := func() *host { // a node that does not coordinate
		var h *host
		w.lock(func() {
			h = w.hosts[slices.IndexFunc(w.hosts, func(h *host) bool { return h.proc != nil && h != w.coordinator() })]
		})
		return h
	}
	step("nothing is there", 1, few, func() {})
	step("all are made", 2*many, 2*many+few, func() {
		w.lock(func() {
			for i := range many {
				o := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("s%03d", i)}}
				o.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}}
				_, _ = create(w.store, "services", o)
			}
		})
	})
	step("nothing changes", 0, 0, func() {})
	h := other()
	step("a node dies", many/3-few, many/3+few, func() { w.lock(func() { h.proc.kill() }) })
	step("it comes back", 2*many/3-3*few, 2*many/3+3*few, h.start) // an even spread may differ by a tenth
	step("nothing changes again", 0, 0, func() {})
	h = other()
	step("a node is drained", 2*many/3-2*few, 2*many/3+2*few, func() {
		w.lock(func() {
			edit(w.store, "nodes", h.name, func(o *corev1.Node) { o.Spec.Unschedulable = true })
		})
	})
	step("all end", 4*many, 4*many+few, func() {
		w.lock(func() {
			for _, o := range w.all("services") {
				_ = w.store.remove("services", nameOf(o), "", "")
			}
		})
	})
	if left := len(w.objects["addresses"]); left > 0 {
		t.Errorf("%d addresses are left", left)
	}
}
