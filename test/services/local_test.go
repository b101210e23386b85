package services_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/test/services"
)

// TestLocal: with externalTrafficPolicy Local an address goes where ready endpoints are, and before the last one there is gone.
func TestLocal(t *testing.T) {
	b := newPintle(t, services.Options{Nodes: 1, Workers: 1, Lease: 4 * time.Second, Bare: true})
	for i := 1; i <= b.Len(); i++ { // a node is called what the API calls it
		_, err := b.Node(i).Exec(t.Context(), "hostname", fmt.Sprintf("machine-%d.example", 3-i))
		check(t, err)
		check(t, b.Start(i))
	}
	_, err := b.Pool(t.Context(), "main", "10.99.0.0/24")
	check(t, err)
	l := &movers{Bed: b, t: t}
	for i := 1; i <= b.Len(); i++ {
		// But for the steady one, no Service selects them: who they serve is said by hand.
		k, err := b.Backend(t.Context(), i, map[string]string{"app": "loose"})
		check(t, err)
		l.loose = append(l.loose, k)
	}
	l.steady = l.given("steady", func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "loose"} })
	holder(t, b, l.steady)
	for _, c := range []struct {
		name string
		do   func()
	}{
		{"every slice counts", l.slices},
		{"the last endpoint of a node terminates", func() { l.leaves("terminating") }},
		{"the last endpoint of a node is deleted at once", func() { l.leaves("deleted") }},
	} {
		t.Run(c.name, func(t *testing.T) { l.t = t; c.do() })
	}
}

// movers are addresses that follow their endpoints.
type movers struct {
	*services.Bed
	t      *testing.T
	loose  []*services.Backend // one on each node
	steady netip.Addr          // of a Service that nothing happens to
}

// An end is one endpoint of a slice. Conditions that are nil are not said.
type end struct {
	node                        int // 0: the slice does not say on which node it is
	ready, serving, terminating *bool
}

func on(i int) end { return end{node: i} }

// slice makes there be such a slice of a Service of the namespace default, as a controller of a person's own would; without endpoints
// there is to be none.
func (l *movers) slice(service, name string, ends ...end) {
	l.t.Helper()
	api := l.API(1).DiscoveryV1().EndpointSlices("default")
	name = service + "-" + name
	port := int32(netlab.EchoPort)
	o := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			discoveryv1.LabelServiceName: service, discoveryv1.LabelManagedBy: "test.pintle.dev",
		}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: new("tcp"), Protocol: new(corev1.ProtocolTCP), Port: &port},
			{Name: new("udp"), Protocol: new(corev1.ProtocolUDP), Port: &port}},
	}
	for _, e := range ends {
		p := discoveryv1.Endpoint{Addresses: []string{l.loose[max(e.node, 1)-1].Addr().String()},
			Conditions: discoveryv1.EndpointConditions{Ready: e.ready, Serving: e.serving, Terminating: e.terminating}}
		if e.node != 0 {
			p.NodeName = new(l.Node(e.node).Name())
		}
		o.Endpoints = append(o.Endpoints, p)
	}
	if len(ends) == 0 {
		check(l.t, api.Delete(l.t.Context(), name, metav1.DeleteOptions{}))
		return
	}
	_, err := api.Get(l.t.Context(), name, metav1.GetOptions{})
	if err == nil {
		_, err = api.Update(l.t.Context(), o, metav1.UpdateOptions{})
	} else {
		_, err = api.Create(l.t.Context(), o, metav1.CreateOptions{})
	}
	check(l.t, err)
}

// at waits until an address is held by node i, and returns how many holders it has had.
func (l *movers) at(what string, a netip.Addr, i int) (turn int64) {
	l.t.Helper()
	eventually(l.t, what+": it is on "+l.Node(i).Name(), func(ctx context.Context) error {
		o, err := object(ctx, l.Bed, a)
		if err != nil {
			return err
		}
		turn = o.Status.Turn
		if o.Status.Holder != l.Node(i).Name() {
			return fmt.Errorf("it is on %q: %s", o.Status.Holder, o.Status.Reason)
		}
		return nil
	})
	return turn
}

// byHand makes a Local Service without a selector.
func (l *movers) byHand(name string) netip.Addr {
	l.t.Helper()
	return l.given(name, services.Local, func(s *corev1.Service) { s.Spec.Selector = nil })
}

func (l *movers) slices() {
	a := l.byHand("sliced")
	yes, no := new(true), new(false)
	holder(l.t, l.Bed, a) // without endpoints any node has it
	l.slice("sliced", "a", on(1))
	l.at("there is an endpoint", a, 1)
	l.slice("sliced", "a", on(2))
	l.at("it is another one", a, 2)
	l.answers(a, 2)
	l.slice("sliced", "b", on(1))
	l.slice("sliced", "a")
	l.at("another slice has one", a, 1)
	l.answers(a, 1)
	l.slice("sliced", "c", end{node: 2, ready: no, serving: no}, on(2))
	l.slice("sliced", "b", end{node: 1, ready: no, serving: yes, terminating: yes})
	l.at("one is ready, and another one terminates", a, 2)
	l.slice("sliced", "b", end{node: 1, ready: yes, serving: yes, terminating: no})
	l.slice("sliced", "c", end{node: 2, ready: no})
	l.at("one is not ready", a, 1)
	l.slice("sliced", "d", on(2))
	l.slice("sliced", "b", end{ready: yes})
	l.at("one is nowhere", a, 2)

	// One of two slices with an endpoint of its node goes, and comes: that is no reason to move.
	m := l.byHand("marker")
	l.slice("marker", "a", on(1))
	l.at("the other Service", m, 1)
	l.slice("sliced", "c", on(2))
	l.slice("sliced", "b", on(1))
	before := l.at("two slices have one there", a, 2)
	l.slice("sliced", "c")
	l.slice("sliced", "c", on(2))
	l.slice("sliced", "d")
	l.slice("marker", "a", on(2))
	l.at("the other Service", m, 2) // slices come in the order of their changes
	if after := l.at("one of two went", a, 2); after != before {
		l.t.Errorf("it had %d holders before, and %d after, though %s had an endpoint all the time", before, after, l.Node(2).Name())
	}
}

// answers waits until the backend of node i answers, and sees the client itself.
func (l *movers) answers(a netip.Addr, i int) {
	l.t.Helper()
	eventually(l.t, fmt.Sprintf("%s answers at %s", l.loose[i-1].Name, a), func(ctx context.Context) error {
		answer, err := l.Ask(ctx, "tcp", a)
		if err == nil && (answer.By != l.loose[i-1].Name || answer.Seen.Addr() != l.Lab().Client().Addr()) {
			err = fmt.Errorf("answered by %s, which sees %s", answer.By, answer.Seen)
		}
		return err
	})
}

// leaves ends the last endpoint on the node that has the address, while another node has one: no question is lost if it goes on
// serving for as long as a pod should.
func (l *movers) leaves(how string) {
	ctx := l.t.Context()
	labels := map[string]string{"app": how}
	var pods []*services.Backend
	for i := 1; i <= l.Len(); i++ {
		k, err := l.Backend(ctx, i, labels)
		check(l.t, err)
		pods = append(pods, k)
	}
	a := l.given(how, services.Local, func(s *corev1.Service) { s.Spec.Selector = labels })
	for i := 1; i <= l.Len(); i++ {
		l.leads(a, i) // kube-proxy of the next holder, too, is to know of the Service
	}
	from := holder(l.t, l.Bed, a)
	to := 3 - from
	p, steady := l.probe(a), l.probe(l.steady)
	l.serving(p, "questions are answered", from)
	tcp := l.asks(p, a)
	mark := p.Mark()
	if how == "deleted" {
		check(l.t, pods[from-1].Remove(ctx))
		l.serving(p, "another node answers", to)
		w := p.Report(mark, p.Mark())
		tcp()
		l.t.Logf("without a time to terminate %d of %d questions by UDP were lost; outage of %v", w.Lost, w.Sent, w.Outage)
		return
	}
	check(l.t, pods[from-1].Terminate(ctx))
	l.serving(p, "another node answers", to)
	l.at("it moves", a, to)
	<-time.After(time.Second) // what was asked there is answered
	check(l.t, pods[from-1].Remove(ctx))
	<-time.After(time.Second) // what is asked now goes nowhere else
	asked := tcp()
	w, noise := p.Report(mark, p.Mark()), steady.Report(mark, p.Mark())
	at, _ := w.FirstFrom(l.Node(to).Name())
	failed := slices.DeleteFunc(slices.Clone(asked), func(q question) bool {
		// The kernel of one node knows the connection, the packets come to the other one: so it is with every address that moves. The
		// client is told of that some time before the first answer from there.
		underWay := errors.Is(q.err, unix.ECONNRESET) && q.began.Sub(mark) < at && q.ended.Sub(mark) >= at-tooBusy
		return q.err == nil || underWay
	})
	l.t.Logf("answered from the other node after %v; by UDP %d questions and %d lost, outage of %v; by TCP %d and %d lost; elsewhere %d lost, outage of %v",
		at, w.Sent, w.Lost, w.Outage, len(asked), len(failed), noise.Lost, noise.Outage)
	switch {
	case w.Lost == 0 && len(failed) == 0:
	case noise.Outage > tooBusy:
		l.t.Logf("an address that did not move was not answered for %v: the machine is too busy to tell", noise.Outage)
	default:
		l.t.Errorf("questions were lost; of those by TCP: %v", failed[:min(len(failed), 5)])
	}
}

// tooBusy is how long an address may be silent that nothing happens to, if a question to another one is to be lost for a reason.
const tooBusy = 200 * time.Millisecond

// given makes a Service, and waits until it has an address.
func (l *movers) given(name string, edit ...func(*corev1.Service)) netip.Addr {
	l.t.Helper()
	_, err := l.Service(l.t.Context(), name, edit...)
	check(l.t, err)
	ctx, cancel := context.WithTimeout(l.t.Context(), wait)
	defer cancel()
	addrs, err := l.Addresses(ctx, name)
	check(l.t, err)
	return addrs[0]
}

// leads waits until node i leads to a backend, be it the holder or not.
func (l *movers) leads(a netip.Addr, i int) {
	l.t.Helper()
	tell(l.t, l.Bed, a, i)
	defer untell(l.t, l.Bed, a)
	eventually(l.t, fmt.Sprintf("%s leads to a backend of %s", l.Node(i).Name(), a), func(ctx context.Context) error {
		_, err := l.Ask(ctx, "tcp", a)
		return err
	})
}

func (l *movers) probe(a netip.Addr) *netlab.Probe {
	l.t.Helper()
	p, err := l.Lab().StartProbe(a, 10*time.Millisecond)
	check(l.t, err)
	l.t.Cleanup(p.Close)
	return p
}

// serving waits until the backend of node i answers.
func (l *movers) serving(p *netlab.Probe, what string, i int) {
	l.t.Helper()
	eventually(l.t, what, func(context.Context) error {
		if got := p.Serving(); got != l.Node(i).Name() {
			return fmt.Errorf("%q answers", got)
		}
		return nil
	})
}

// A question is one by TCP.
type question struct {
	began, ended netlab.Mark
	err          error // it was lost
}

// asks opens a connection each ten milliseconds, and asks, until the function that it returns is called.
func (l *movers) asks(p *netlab.Probe, a netip.Addr) (stop func() []question) {
	ctx, cancel := context.WithCancel(l.t.Context())
	var mu sync.Mutex // guards asked
	var asked []question
	var all sync.WaitGroup
	places := make(chan struct{}, 64)
	all.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			select {
			case places <- struct{}{}:
			default:
				continue // the machine cannot keep up
			}
			all.Go(func() {
				defer func() { <-places }()
				q := question{began: p.Mark()}
				_, q.err = l.Ask(context.WithoutCancel(ctx), "tcp", a)
				q.ended = p.Mark()
				mu.Lock()
				defer mu.Unlock()
				asked = append(asked, q)
			})
		}
	})
	return func() []question {
		cancel()
		all.Wait()
		return asked
	}
}
