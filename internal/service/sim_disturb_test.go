package service

import (
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

// open ends what keeps a host from the API. The caller holds mu.
func (h *host) open() {
	if h.cut != nil {
		close(h.cut)
		h.cut = nil
	}
	h.thaw()
}

func (h *host) thaw() {
	if h.frozen != nil {
		close(h.frozen)
		h.frozen = nil
	}
}

// judge says why a host can serve nobody.
func (h *host) judge(why string) {
	h.unfit = why
	if h.proc != nil {
		h.proc.ctl.Unfit(why)
	}
}

// found makes what is there before anything runs.
func (w *simWorld) found() {
	w.writer = "people"
	for i, h := range w.hosts {
		_, _ = create(w.store, "nodes", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: h.name, Labels: map[string]string{"zone": string('a' + rune(i%2))}}})
	}
	for _, ns := range []string{"shop", "bank"} {
		_, _ = create(w.store, "namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
	}
	for name := range simPools {
		if w.rng.IntN(8) > 0 {
			w.makePool(name)
		}
	}
	for range 6 {
		w.makeService()
	}
}

func no() *bool { return new(bool) }

// simPools are the pools that people make.
var simPools = map[string]pintlev1.AddressPoolSpec{
	"main":   {Addresses: []string{"192.0.2.10-192.0.2.17"}},
	"six":    {Addresses: []string{"2001:db8::10-2001:db8::15"}},
	"first":  {Addresses: []string{"192.0.2.40/31"}, Priority: 5, Namespaces: []string{"shop"}},
	"zone":   {Addresses: []string{"192.0.2.60/30"}, AutoAssign: no(), NodeSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"zone": "a"}}, Bind: true},
	"routed": {Addresses: []string{"203.0.113.0/29"}, AutoAssign: no(), Announce: []string{pintlev1.AnnounceBGP}},
	"both":   {Addresses: []string{"203.0.113.16/30", "2001:db8:1::/126"}, AutoAssign: no(), Announce: []string{pintlev1.AnnounceARP, pintlev1.AnnounceBGP}},
}

func (w *simWorld) makePool(name string) {
	_, err := create(w.store, "addresspools", &pintlev1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: simPools[name]})
	w.note("people: pool %s, new: %v", name, err == nil)
}

// disturb has something happen to the cluster.
func (w *simWorld) disturb() {
	if w.rng.IntN(2) == 0 {
		w.lock(w.people)
		return
	}
	h := w.hosts[w.rng.IntN(len(w.hosts))]
	var c *host
	if w.lock(func() { c = w.coordinator() }); c != nil && w.rng.IntN(3) == 0 {
		h = c // it has more to lose
	}
	if !w.harm(h) {
		w.revive()
	}
}

// interrupt has a host that is to hand over meet something worse in the midst of it.
func (w *simWorld) interrupt(h *host) {
	what := w.rng.IntN(6)
	w.lock(func() {
		w.note("%s is to hand over", h.name)
		h.judge("its proxy is ill")
		if what < 3 {
			w.trap = h
		}
	})
	time.Sleep(time.Duration(w.rng.Int64N(int64(40 * time.Millisecond))))
	w.lock(func() {
		switch what {
		case 3:
			w.note("%s stands still in the midst of it", h.name)
			h.thaw()
			h.frozen = make(chan struct{})
		case 4:
			if h.proc != nil {
				h.proc.kill()
			}
		case 5:
			h.sever()
		}
	})
	w.wait(w.lease)
	w.lock(func() {
		w.trap = nil
		h.judge("")
	})
}

// sever cuts a host off. The caller holds mu.
func (h *host) sever() {
	h.w.note("%s is cut off", h.name)
	h.open()
	h.cut = make(chan struct{})
}

// harm does something to a host, or reports that it is time to start what does not run.
func (w *simWorld) harm(h *host) bool {
	some := func(d time.Duration) time.Duration { return time.Duration(w.rng.Int64N(int64(d))) }
	var do func()
	switch w.rng.IntN(27) {
	case 0, 1:
		do = h.sever
	case 2, 3, 4:
		do = func() {
			w.note("all reach the API")
			for _, h := range w.hosts {
				h.open()
			}
		}
	case 5, 6:
		do = func() { w.note("%s stands still", h.name); h.thaw(); h.frozen = make(chan struct{}) }
	case 7, 8:
		var p *process
		w.lock(func() {
			if p = h.proc; p != nil {
				p.kill()
			}
			h.thaw()
		})
		if p != nil && w.rng.IntN(2) == 0 {
			h.start()
		}
		return true
	case 9, 10, 11:
		return false
	case 12, 13:
		var p *process
		w.lock(func() {
			if p = h.proc; w.rng.IntN(2) == 0 {
				return
			}
			if c := w.coordinator(); c != nil {
				p = c.proc
			}
			w.note("a Service is new when a coordinator leaves")
			kind := []string{"services", "addresses"}[w.rng.IntN(2)]
			for _, h := range w.hosts {
				if h.proc != p {
					h.lag, h.lags = 4*time.Second, kind
				}
			}
			w.writer = "people"
			w.makeService()
			w.makeService()
		})
		w.wait(some(100 * time.Millisecond))
		if p != nil {
			w.late.Go(p.leave)
		}
		return true
	case 14:
		d := []time.Duration{20 * time.Millisecond, w.lease / 4, w.lease}[w.rng.IntN(3)]
		do = func() { w.note("calls of %s take up to %v", h.name, d); h.slow = d }
	case 15, 16:
		n := 5 + w.rng.IntN(50)
		do = func() { w.note("%d%% of the calls of %s fail", n, h.name); h.bad = n }
	case 17:
		d, of := some(4*time.Second), []string{"", "", "addresses", "services", "nodes", "leases", "seat"}[w.rng.IntN(7)]
		do = func() { w.note("watches of %s lag up to %v: %s", h.name, d, of); h.lag, h.lags = d, of }
	case 18, 21:
		do = func() {
			w.note("watches of %s begin anew", h.name)
			h.relist++
			for kind := range w.more {
				w.wakeWatches(kind)
			}
		}
	case 19:
		do = func() { w.note("%s is well", h.name); h.bad, h.slow, h.lag = 0, 0, 0 }
	case 20:
		why := []string{"", "its proxy is ill"}[w.rng.IntN(2)]
		do = func() { w.note("%s is unfit: %q", h.name, why); h.judge(why) }
	case 22, 23, 24:
		w.interrupt(h)
		return true
	default:
		do = func() { w.editNode(h) }
	}
	w.lock(do)
	return true
}

// editNode is what people do to a node.
func (w *simWorld) editNode(h *host) {
	what := w.rng.IntN(6)
	edit(w.store, "nodes", h.name, func(o *corev1.Node) {
		switch what {
		case 0, 1:
			o.Spec.Unschedulable = !o.Spec.Unschedulable
		case 2:
			if _, ok := o.Labels[excludeLabel]; ok {
				delete(o.Labels, excludeLabel)
			} else {
				o.Labels = map[string]string{"zone": o.Labels["zone"], excludeLabel: ""}
			}
		case 3:
			o.Annotations = map[string]string{weightNote: strconv.Itoa(w.rng.IntN(3)), priorityNote: strconv.Itoa(w.rng.IntN(2))}
		default:
			o.Labels, o.Annotations, o.Spec.Unschedulable = map[string]string{"zone": o.Labels["zone"]}, nil, false
		}
		w.note("people: node %s: labels %v, notes %v, cordoned %v", h.name, o.Labels, o.Annotations, o.Spec.Unschedulable)
	})
}

// people change Services, pools and addresses.
func (w *simWorld) people() {
	w.writer = "people"
	services := w.all("services")
	if len(services) == 0 {
		w.makeService()
		return
	}
	svc := services[w.rng.IntN(len(services))].(*corev1.Service)
	switch w.rng.IntN(17) {
	case 0, 1, 2, 3:
		for range 1 + w.rng.IntN(3) {
			w.makeService()
		}
	case 4:
		for i := range 3 { // at once, and may share
			o := w.newService()
			o.Annotations = map[string]string{shareNotes[0]: "k0"}
			o.Spec = corev1.ServiceSpec{Type: o.Spec.Type, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Ports: []corev1.ServicePort{{Name: "x", Protocol: "TCP", Port: int32(9000 + i)}}}
			_, _ = create(w.store, "services", o)
		}
	case 14:
		if o, err := create(w.store, "services", w.newService()); err == nil {
			w.brief[o.UID] = true
			if h := w.coordinator(); h != nil && !w.calm {
				h.lag, h.lags = 4*time.Second, "addresses"
			}
		}
	case 5, 6:
		_ = w.store.remove("services", nameOf(svc), "", "")
		for _, s := range w.slicesOf(keyOf(svc)) {
			_ = w.store.remove("endpointslices", nameOf(s), "", "")
		}
	case 7, 8:
		if all := w.shared(); len(all) > 0 && w.rng.IntN(2) == 0 {
			svc = all[w.rng.IntN(len(all))]
		}
		w.change(svc, func(o *corev1.Service) { o.Spec.Ports = w.ports() })
	case 9:
		w.change(svc, func(o *corev1.Service) { o.Annotations = w.notes() })
	case 10:
		w.change(svc, func(o *corev1.Service) {
			if o.Spec.Type == corev1.ServiceTypeLoadBalancer {
				o.Spec.Type, o.Status.LoadBalancer = corev1.ServiceTypeClusterIP, corev1.LoadBalancerStatus{}
				delete(w.others, o.UID)
			} else {
				o.Spec.Type = corev1.ServiceTypeLoadBalancer
			}
		})
	case 11, 12:
		w.moveEndpoints()
	case 13:
		if all := w.all("addresses"); len(all) > 0 {
			o := all[w.rng.IntN(len(all))].(*pintlev1.Address)
			for _, r := range o.Spec.Services {
				w.touched[r.UID] = true
			}
			w.note("people: delete address %s", o.Name)
			_ = w.store.remove("addresses", o.Name, "", "")
		}
	case 15:
		if w.rng.IntN(4) == 0 {
			w.note("people: delete the seat")
			_ = w.store.remove("seat", simNamespace+"/"+seatName, "", "")
			return
		}
		w.editPool()
	case 16:
		w.clash()
	}
}

// clash has the first Service of a shared address want a port that the last has.
func (w *simWorld) clash() {
	for _, o := range w.all("addresses") {
		of := o.(*pintlev1.Address).Spec.Services
		if len(of) < 2 {
			continue
		}
		first, _ := w.find("services", of[0].Namespace+"/"+of[0].Name).(*corev1.Service)
		last, _ := w.find("services", of[len(of)-1].Namespace+"/"+of[len(of)-1].Name).(*corev1.Service)
		if first == nil || last == nil {
			continue
		}
		w.note("people: %s/%s wants the ports of %s/%s too", first.Namespace, first.Name, last.Namespace, last.Name)
		w.change(first, func(o *corev1.Service) { o.Spec.Ports = append(o.Spec.Ports[:1:1], last.Spec.Ports...) })
		return
	}
}

// shared are the Services that have an address together with others.
func (w *simWorld) shared() (out []*corev1.Service) {
	for _, o := range w.all("addresses") {
		for _, r := range o.(*pintlev1.Address).Spec.Services {
			if svc, ok := w.find("services", r.Namespace+"/"+r.Name).(*corev1.Service); ok && len(o.(*pintlev1.Address).Spec.Services) > 1 {
				out = append(out, svc)
			}
		}
	}
	return out
}

// change edits a Service; those that share with it may lose what they have.
func (w *simWorld) change(svc *corev1.Service, f func(*corev1.Service)) {
	touch := func() {
		o := w.find("services", nameOf(svc)).(*corev1.Service)
		w.touched[o.UID] = true
		key := readService(o).user().ShareKey
		for _, other := range w.all("services") {
			if o := other.(*corev1.Service); key != "" && readService(o).user().ShareKey == key {
				w.touched[o.UID] = true
			}
		}
	}
	touch()
	edit(w.store, "services", nameOf(svc), f)
	touch()
}

// editPool makes, changes or deletes a pool. That takes nothing from a Service, but from one that may have now what it asks for.
func (w *simWorld) editPool() {
	for _, o := range w.all("services") {
		o := o.(*corev1.Service)
		if s := readService(o); len(s.Notes) > 0 || s.AskedIP != "" {
			w.touched[o.UID] = true
		}
	}
	names := []string{"both", "first", "main", "main", "routed", "six", "zone"}
	name := names[w.rng.IntN(len(names))]
	if w.find("addresspools", name) == nil {
		w.makePool(name)
		return
	}
	what := w.rng.IntN(4)
	w.note("people: pool %s: %s", name, []string{"deleted", "smaller", "as it was", "of other priority"}[what])
	switch what {
	case 0:
		_ = w.store.remove("addresspools", name, "", "")
		return
	case 1, 2, 3:
		edit(w.store, "addresspools", name, func(o *pintlev1.AddressPool) {
			o.Spec = simPools[name]
			if what == 1 {
				o.Spec.Addresses = []string{map[string]string{"main": "192.0.2.13-192.0.2.15", "six": "2001:db8::12/127"}[name]}
				if o.Spec.Addresses[0] == "" {
					o.Spec.Addresses = []string{"198.51.100.8/31"}
				}
			}
			if what == 3 {
				o.Spec.Priority = int32(w.rng.IntN(10))
			}
		})
	}
}

func keyOf(o *corev1.Service) ipam.Key { return ipam.Key{Namespace: o.Namespace, Name: o.Name} }

func (w *simWorld) ports() (out []corev1.ServicePort) {
	for _, p := range []corev1.ServicePort{{Name: "a", Protocol: "TCP", Port: 80}, {Name: "b", Protocol: "TCP", Port: 443}, {Name: "c", Protocol: "UDP", Port: 53}} {
		if w.rng.IntN(3) == 0 {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		out = []corev1.ServicePort{{Name: "d", Protocol: "TCP", Port: int32(8000 + w.rng.IntN(3))}}
	}
	return out
}

// notes are annotations that people write.
func (w *simWorld) notes() map[string]string {
	out := map[string]string{}
	if w.rng.IntN(3) == 0 {
		out[shareNotes[w.rng.IntN(2)]] = "k" + strconv.Itoa(w.rng.IntN(2))
	}
	pools := []string{"main", "first", "six", "zone", "routed", "both", "none"}
	addresses := []string{"192.0.2.11", "192.0.2.15", "192.0.2.60", "203.0.113.1", "2001:db8::13", "192.0.2.16,2001:db8::14", "198.51.100.77", "192.0.2.x"}
	switch w.rng.IntN(8) {
	case 0, 1:
		out[poolNotes[0]] = pools[w.rng.IntN(len(pools))]
	case 2:
		out[addressNotes[w.rng.IntN(2)]] = addresses[w.rng.IntN(len(addresses))]
	case 3:
		out[ignoreNotes[0]] = "true"
	case 4:
		out[communityNote] = []string{"65001:1", "65001:x"}[w.rng.IntN(2)]
	}
	return out
}

// newService is one that people may make.
func (w *simWorld) newService() *corev1.Service {
	o := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: []string{"shop", "bank"}[w.rng.IntN(2)], Name: "s" + strconv.Itoa(w.rng.IntN(9))}}
	o.Spec.Type = corev1.ServiceTypeLoadBalancer
	o.Spec.Ports = w.ports()
	o.Annotations = w.notes()
	o.Spec.Selector = map[string]string{"app": []string{"x", "y"}[w.rng.IntN(2)]}
	switch w.rng.IntN(12) {
	case 0:
		o.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol}
	case 1, 2:
		o.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}
		o.Spec.IPFamilyPolicy = new(corev1.IPFamilyPolicyRequireDualStack)
	case 3, 4:
		o.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
		o.Spec.IPFamilyPolicy = new(corev1.IPFamilyPolicyPreferDualStack)
	default:
		o.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	}
	switch w.rng.IntN(12) {
	case 0:
		o.Spec.LoadBalancerClass = new("pintle.dev/lb")
	case 1:
		o.Spec.LoadBalancerClass = new("other.example/lb")
	case 2:
		o.Spec.LoadBalancerIP = "192.0.2.1" + strconv.Itoa(w.rng.IntN(10))
	}
	if w.rng.IntN(4) == 0 {
		o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		if w.rng.IntN(4) == 0 {
			o.Spec.Selector = nil // served by something else, as that of a Gateway
		}
	}
	return o
}

func (w *simWorld) makeService() {
	o := w.newService()
	other := w.rng.IntN(12) == 0
	if other {
		o.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "10.9.8.7"}}
	}
	made, err := create(w.store, "services", o)
	if err != nil {
		return
	}
	if other {
		w.others[made.UID] = true
	}
	if o.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal && (o.Spec.Selector != nil || w.rng.IntN(2) == 0) {
		_, _ = create(w.store, "endpointslices", w.slice(o))
	}
}

// slice is where the endpoints of a Service are now.
func (w *simWorld) slice(svc *corev1.Service) *discoveryv1.EndpointSlice {
	o := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: svc.Namespace, Name: svc.Name + "-x", Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name}}}
	for _, h := range w.hosts {
		if w.rng.IntN(2) == 0 {
			continue
		}
		e := discoveryv1.Endpoint{NodeName: &h.name}
		switch w.rng.IntN(6) {
		case 0:
			e.Conditions = discoveryv1.EndpointConditions{Ready: new(false)}
		case 1:
			e.Conditions = discoveryv1.EndpointConditions{Ready: new(false), Serving: new(true), Terminating: new(true)}
		case 2:
			e.Conditions = discoveryv1.EndpointConditions{Ready: new(true)}
		}
		o.Endpoints = append(o.Endpoints, e)
	}
	return o
}

func (w *simWorld) moveEndpoints() {
	all := w.all("endpointslices")
	if len(all) == 0 {
		return
	}
	s := all[w.rng.IntN(len(all))].(*discoveryv1.EndpointSlice)
	fresh := w.slice(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}})
	edit(w.store, "endpointslices", nameOf(s), func(o *discoveryv1.EndpointSlice) { o.Endpoints = fresh.Endpoints })
	k := ipam.Key{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
	var on []string
	for _, h := range w.hosts {
		if w.serves(k, h.name) {
			on = append(on, h.name)
		}
	}
	w.note("people: endpoints of %s are on %s", k, strings.Join(on, ", "))
}

func (w *simWorld) slicesOf(k ipam.Key) (out []*discoveryv1.EndpointSlice) {
	for _, o := range w.all("endpointslices") {
		if s := o.(*discoveryv1.EndpointSlice); s.Namespace == k.Namespace && s.Labels[discoveryv1.LabelServiceName] == k.Name {
			out = append(out, s)
		}
	}
	return out
}

// serves reports whether a node has an endpoint of a Service that is ready; or, where none is, one that serves until it ends.
func (w *simWorld) serves(k ipam.Key, node string) bool {
	var ready, serving []string
	for _, s := range w.slicesOf(k) {
		for _, e := range s.Endpoints {
			if c := e.Conditions; c.Ready == nil || *c.Ready {
				ready = append(ready, *e.NodeName)
			} else if c.Serving != nil && *c.Serving {
				serving = append(serving, *e.NodeName)
			}
		}
	}
	if len(ready) > 0 {
		return slices.Contains(ready, node)
	}
	return slices.Contains(serving, node)
}
