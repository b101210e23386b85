package services_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
	"github.com/pintle-lb/pintle/test/cluster"
	"github.com/pintle-lb/pintle/test/services"
)

// lease is that of the nodes of these tests.
const lease = 4 * time.Second

// faults breaks nodes under addresses that are asked for all the time.
type faults struct {
	*services.Bed
	t      *testing.T
	addrs  []netip.Addr
	survey *netlab.Survey
}

// TestFaults expects of every fault that never two nodes claim an address, that all are answered for again, and that no Service gets
// another one.
func TestFaults(t *testing.T) {
	const many = 60
	b := newPintle(t, services.Options{Lease: lease, IPv6: true})
	_, err := b.Pool(t.Context(), "main", "10.99.0.0/24", "fd99::/120")
	check(t, err)
	_, err = b.Backend(t.Context(), 1, services.Echo)
	check(t, err)
	for i := range many {
		_, err := b.Service(t.Context(), fmt.Sprintf("s%d", i), func(s *corev1.Service) {
			if i%6 == 0 {
				s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol}
			}
		})
		check(t, err)
	}
	f := &faults{Bed: b, t: t}
	eventually(t, "every Service has an address", func(ctx context.Context) error { return f.allocated(ctx, many) })
	f.spread("at first", 5)
	before := f.allocation()
	f.survey, err = b.Lab().StartSurvey(50*time.Millisecond, f.addrs...)
	check(t, err)
	eventually(t, "all are answered for", f.answered)
	for _, c := range []struct {
		name string
		do   func() // breaks something, mends it, and waits until that shows
	}{
		{"a node is cut off", func() { f.vanishes(5, b.Node(5).Cut, b.Node(5).Heal) }},
		{"the Pintle that coordinates is frozen", func() {
			i := f.coordinator()
			f.vanishes(i, func() error { return b.Freeze(i) }, func() error { return b.Continue(i) })
		}},
		{"a Pintle is killed and started again", func() { f.returns(3) }},
		{"a Pintle is stopped", func() { f.drains(2) }},
		{"a node is cordoned", func() { f.cordons(1) }},
		{"a node forwards nothing", func() { f.forwardsNothing(4) }},
		{"rolling restart", func() { f.rolls("test") }},
		{"upgrade", func() { f.rolls("next") }},
		{"all are killed and come back", f.allDie},
	} {
		ok := t.Run(c.name, func(t *testing.T) {
			f.t = t
			turns, from := f.turns(t.Context()), f.survey.Mark()
			c.do()
			f.answersSince(f.survey.Mark(), f.addrs)
			f.rivals(from, turns)
			if after := f.allocation(); !maps.Equal(before, after) {
				t.Errorf("Services have other addresses:\n%v\n%v", before, after)
			}
		})
		if !ok {
			return
		}
	}
}

// rivals expects that no question was answered by two nodes, and that claims went from one to another no more often than the objects
// of the addresses did, which count that: two that claim at once take turns all the time.
func (f *faults) rivals(from netlab.Mark, before map[netip.Addr]int64) {
	r := f.survey.Report(from, f.survey.Mark())
	after := f.turns(f.t.Context())
	for _, c := range r.Of {
		if moves := after[c.Addr] - before[c.Addr]; len(c.Dual) > 0 || int64(len(c.Tenures)) > moves+1 {
			f.t.Errorf("%s moved %d times; claimed by: %+v; answered by two: %+v", c.Addr, moves, c.Tenures, c.Dual)
		}
	}
}

// moved is how often addresses went to another node. A node that takes its Lease anew keeps them: that is no move.
func moved(history map[netip.Addr][]*pintlev1.Address) (n int) {
	for _, states := range history {
		last := states[0].Status.Holder
		for _, o := range states[1:] {
			if h := o.Status.Holder; h != "" && h != last {
				n, last = n+1, h
			}
		}
	}
	return n
}

// turns are how many holders each address has had.
func (f *faults) turns(ctx context.Context) map[netip.Addr]int64 {
	out := map[netip.Addr]int64{}
	for _, a := range f.objects(ctx) {
		out[netip.MustParseAddr(a.Spec.Address)] = a.Status.Turn
	}
	return out
}

// allocated learns the addresses of all Services.
func (f *faults) allocated(ctx context.Context, many int) error {
	f.addrs = nil
	all, err := f.allocationIn(ctx)
	if err != nil {
		return err
	}
	for name, addr := range all {
		if addr == "" {
			return fmt.Errorf("Service %s has none", name)
		}
		f.addrs = append(f.addrs, netip.MustParseAddr(addr))
	}
	if len(f.addrs) < many {
		return fmt.Errorf("%d have one", len(f.addrs))
	}
	return nil
}

// allocation is which address each Service has.
func (f *faults) allocation() map[string]string {
	f.t.Helper()
	out, err := f.allocationIn(f.t.Context())
	check(f.t, err)
	return out
}

func (f *faults) allocationIn(ctx context.Context) (map[string]string, error) {
	list, err := f.API(1).CoreV1().Services("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, s := range list.Items {
		if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
			continue
		}
		out[s.Name] = ""
		if addrs := services.Ingress(&s); len(addrs) > 0 {
			out[s.Name] = addrs[0].String()
		}
	}
	return out, nil
}

// answered reports an error unless every address is answered for, by the node that its object names.
func (f *faults) answered(ctx context.Context) error {
	holders, err := f.holders(ctx)
	if err != nil {
		return err
	}
	now := f.survey.Holders()
	for _, a := range f.addrs {
		if now[a] == "" || now[a] != holders[a] {
			return fmt.Errorf("%s is held by %q and answered for by %q", a, holders[a], now[a])
		}
	}
	return nil
}

// holders are the nodes that the objects of addresses name.
func (f *faults) holders(ctx context.Context) (map[netip.Addr]string, error) {
	list, err := f.API(1).Addresses.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	out := map[netip.Addr]string{}
	for _, a := range list.Items {
		out[netip.MustParseAddr(a.Spec.Address)] = a.Status.Holder
	}
	return out, nil
}

func (f *faults) objects(ctx context.Context) []pintlev1.Address {
	f.t.Helper()
	list, err := f.API(1).Addresses.List(ctx, metav1.ListOptions{})
	check(f.t, err)
	return list.Items
}

// spread waits until so many nodes hold addresses, in shares that differ by a fifth at most.
func (f *faults) spread(when string, nodes int) {
	f.t.Helper()
	eventually(f.t, "an even spread "+when, func(ctx context.Context) error {
		holders, err := f.holders(ctx)
		if err != nil {
			return err
		}
		load := map[string]int{}
		for _, n := range holders {
			load[n]++
		}
		shares := slices.Sorted(maps.Values(load))
		if len(load) != nodes || load[""] > 0 || float64(shares[len(shares)-1]) > 1.2*float64(shares[0]) {
			return fmt.Errorf("%v", load)
		}
		return nil
	})
}

// of are the addresses that are answered for by a node.
func (f *faults) of(node string) (out []netip.Addr) {
	for a, n := range f.survey.Holders() {
		if n == node {
			out = append(out, a)
		}
	}
	return out
}

// coordinator is the node that gives addresses to nodes.
func (f *faults) coordinator() (i int) {
	f.t.Helper()
	eventually(f.t, "somebody coordinates", func(ctx context.Context) error {
		for i = 1; i <= f.Len(); i++ {
			out, err := f.Status(ctx, i, "-o", "json")
			var r struct{ Services struct{ Coordinates bool } }
			if err = errors.Join(err, json.Unmarshal(out, &r)); err != nil {
				return err
			}
			if r.Services.Coordinates {
				return nil
			}
		}
		return errors.New("nobody does")
	})
	return i
}

// follow notes every change of an address's object, until the returned function is called, which tells what it was at first and each
// time afterwards.
func (f *faults) follow() (end func() map[netip.Addr][]*pintlev1.Address) {
	f.t.Helper()
	list, err := f.API(1).Addresses.List(f.t.Context(), metav1.ListOptions{})
	check(f.t, err)
	w, err := f.API(1).Addresses.Watch(f.t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	check(f.t, err)
	var mu sync.Mutex // guards seen and last
	seen, last := map[netip.Addr][]*pintlev1.Address{}, map[string]string{}
	for i := range list.Items {
		o := &list.Items[i]
		seen[netip.MustParseAddr(o.Spec.Address)], last[o.Name] = []*pintlev1.Address{o}, o.ResourceVersion
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		for e := range w.ResultChan() {
			if o, ok := e.Object.(*pintlev1.Address); ok {
				mu.Lock()
				a := netip.MustParseAddr(o.Spec.Address)
				seen[a], last[o.Name] = append(seen[a], o), o.ResourceVersion
				mu.Unlock()
			}
		}
	})
	return func() map[netip.Addr][]*pintlev1.Address {
		f.t.Helper()
		defer reading.Wait()
		defer w.Stop()
		now := f.objects(f.t.Context())
		eventually(f.t, "the watch has told everything", func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			for _, o := range now {
				if version(f.t, last[o.Name]) < version(f.t, o.ResourceVersion) {
					return fmt.Errorf("not yet of %s", o.Name)
				}
			}
			return nil
		})
		mu.Lock()
		defer mu.Unlock()
		return maps.Clone(seen)
	}
}

// version is a revision of the cluster's etcd, which counts all writes.
func version(t *testing.T, text string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(text, 10, 64)
	check(t, err)
	return n
}

// fence is when the Lease of a node was written last, and the epoch that it has since.
func (f *faults) fence(node string) (at, epoch uint64) {
	f.t.Helper()
	l, err := f.API(1).CoordinationV1().Leases(services.Namespace).Get(f.t.Context(), "pintle-node-"+node, metav1.GetOptions{})
	check(f.t, err)
	for _, text := range l.Annotations {
		var r struct{ Epoch uint64 }
		if json.Unmarshal([]byte(text), &r) == nil && r.Epoch > 0 {
			return version(f.t, l.ResourceVersion), r.Epoch
		}
	}
	f.t.Fatalf("the Lease of %s has no epoch: %v", node, l.Annotations)
	return 0, 0
}

// vanishes has a node go without a word, and waits until others answer for its addresses, each of which was given to one of them only
// when the node's Lease had another epoch; then it comes back, and takes no more than a few at a time.
func (f *faults) vanishes(i int, away, back func() error) {
	name := f.Node(i).Name()
	mine := f.of(name)
	if len(mine) == 0 {
		f.t.Fatalf("%s has no address", name)
	}
	_, epoch := f.fence(name)
	changes := f.follow()
	from := f.survey.Mark()
	list, err := f.API(1).Addresses.List(f.t.Context(), metav1.ListOptions{})
	check(f.t, err)
	fault := version(f.t, list.ResourceVersion)
	check(f.t, away())
	eventually(f.t, "others answer for its addresses", func(context.Context) error {
		now := f.survey.Holders()
		for _, a := range mine {
			if now[a] == "" || now[a] == name {
				return fmt.Errorf("%s is answered for by %q", a, now[a])
			}
		}
		return nil
	})
	r := f.survey.Report(from, f.survey.Mark())
	f.t.Logf("%d addresses: outage of %v at most, with a lease of %v; the survey itself was late by %v", len(mine), r.Outage(), lease, r.Stall())
	fenced, now := f.fence(name)
	if now <= epoch {
		f.t.Errorf("others have the addresses of %s, and its epoch is still %d", name, now)
	}
	history := changes()
	if mine = stayed(history, mine, name); len(mine) == 0 {
		f.t.Fatalf("%s was to keep none of its addresses", name)
	}
	for _, a := range mine {
		k := slices.IndexFunc(history[a], func(o *pintlev1.Address) bool { return o.Status.Holder != name })
		if k < 1 {
			f.t.Fatalf("%s did not go from %s to another: %+v", a, name, history[a])
		}
		if last := history[a][k-1]; last.Spec.Wanted != name && version(f.t, last.ResourceVersion) <= fault {
			continue // it was on its way before the fault
		}
		if at := version(f.t, history[a][k].ResourceVersion); at < fenced {
			f.t.Errorf("%s was given to %s by write %d, and the Lease of %s ended by write %d", a, history[a][k].Status.Holder, at, name, fenced)
		}
	}
	f.returnsSlowly(func() {
		check(f.t, back())
		f.back(i)
	})
}

// stayed are those of the addresses that a node had when changes began to be noted, and was to keep: others were on their way.
func stayed(history map[netip.Addr][]*pintlev1.Address, addrs []netip.Addr, node string) (out []netip.Addr) {
	for _, a := range addrs {
		if h := history[a]; len(h) > 0 && h[0].Status.Holder == node && h[0].Spec.Wanted == node {
			out = append(out, a)
		}
	}
	return out
}

// returnsSlowly expects that no more addresses move than rebalancing may while do runs.
func (f *faults) returnsSlowly(do func()) {
	f.t.Helper()
	changes, from := f.follow(), time.Now()
	do()
	moves := moved(changes())
	const few, each = 5, 10 * time.Second
	if most := few * (2 + int(time.Since(from)/each)); moves > most { // another coordinator counts anew
		f.t.Errorf("%d addresses moved in %v; at most %d may", moves, time.Since(from), most)
	}
}

// forwardsNothing ends the kube-proxy of a node, whose addresses go to others until it is back.
func (f *faults) forwardsNothing(i int) {
	name := f.Node(i).Name()
	mine := f.of(name)
	if len(mine) == 0 {
		f.t.Fatalf("%s has no address", name)
	}
	check(f.t, f.Node(i).Kill(cluster.KubeProxy))
	eventually(f.t, "its addresses go", func(ctx context.Context) error {
		if n := len(f.of(name)); n > 0 {
			return fmt.Errorf("it has %d", n)
		}
		return f.answered(ctx)
	})
	out, err := f.Status(f.t.Context(), i)
	check(f.t, err)
	if !strings.Contains(string(out), "check proxy") {
		f.t.Errorf("%s does not say why it has none:\n%s", name, out)
	}
	check(f.t, f.Node(i).Start(cluster.KubeProxy))
	f.back(i)
}

// back waits until a node takes addresses again.
func (f *faults) back(i int) {
	eventually(f.t, f.Node(i).Name()+" takes addresses again", func(ctx context.Context) error {
		if len(f.of(f.Node(i).Name())) == 0 {
			return errors.New("it has none")
		}
		return nil
	})
}

// returns kills a Pintle and starts it again at once: it takes its Lease back, and goes on with what it had.
func (f *faults) returns(i int) {
	name := f.Node(i).Name()
	from, mine := f.survey.Mark(), f.of(name)
	check(f.t, f.Kill(i))
	dead := f.survey.Mark()
	check(f.t, f.Start(i))
	eventually(f.t, "it is there again", func(ctx context.Context) error { _, err := f.Status(ctx, i); return err })
	slow := f.survey.Mark().Sub(dead)
	f.answersSince(dead, mine)
	if slow > lease/2 {
		f.t.Logf("a new Pintle on %s took %v to start: the Lease of %v may have ended", name, slow, lease)
		return
	}
	for _, a := range f.objects(f.t.Context()) {
		if st := a.Status; slices.Contains(mine, netip.MustParseAddr(a.Spec.Address)) && st.Holder != name && !strings.Contains(st.Reason, "for an even spread") {
			f.t.Errorf("%s went to %s: %s", a.Spec.Address, st.Holder, st.Reason)
		}
	}
	f.t.Logf("%d addresses: outage of %v at most", len(mine), f.outage(from, mine))
}

// answersSince waits until each address was answered for after an instant, by the node that its object names: who answered last is
// remembered for a while, also when it is dead.
func (f *faults) answersSince(from netlab.Mark, addrs []netip.Addr) {
	f.t.Helper()
	eventually(f.t, "all are answered for again", func(ctx context.Context) error {
		holders, err := f.holders(ctx)
		if err != nil {
			return err
		}
		for _, c := range f.survey.Report(from, f.survey.Mark()).Of {
			if _, ok := c.FirstFrom(holders[c.Addr]); slices.Contains(addrs, c.Addr) && !ok {
				return fmt.Errorf("%s is held by %q, which has not answered", c.Addr, holders[c.Addr])
			}
		}
		return nil
	})
}

// outage is the longest of these addresses since then.
func (f *faults) outage(from netlab.Mark, addrs []netip.Addr) (most time.Duration) {
	for _, c := range f.survey.Report(from, f.survey.Mark()).Of {
		if slices.Contains(addrs, c.Addr) {
			most = max(most, c.Outage)
		}
	}
	return most
}

// watched probes an address of a node, through kube-proxy, while f runs, and expects that no question is lost.
func (f *faults) watched(node string, do func()) {
	mine := f.of(node)
	v4 := slices.IndexFunc(mine, netip.Addr.Is4)
	if v4 < 0 {
		f.t.Fatalf("%s has none of IPv4: %v", node, mine)
	}
	const every = 10 * time.Millisecond
	p, err := f.Lab().StartProbe(mine[v4], every)
	check(f.t, err)
	defer p.Close()
	eventually(f.t, "the probe is answered", func(context.Context) error {
		if p.Serving() == "" {
			return errors.New("by nobody")
		}
		return nil
	})
	from, paused := p.Mark(), pauses(f.t.Context())
	do()
	w, stood := p.Report(from, p.Mark()), paused()
	words := fmt.Sprintf("%d of %d questions to an address of %s were lost; who answers them stood still for %v", w.Lost, w.Sent, node, stood)
	switch {
	case w.Lost == 0:
	case w.Lost <= int(stood/every):
		f.t.Log(words)
	default:
		f.t.Error(words)
	}
}

// pauses begins to watch how late this process runs, in which backends are; paused ends that, and tells how long it stood still in all,
// each time for too long to tell.
func pauses(ctx context.Context) (paused func() time.Duration) {
	const each = 10 * time.Millisecond
	ctx, cancel := context.WithCancel(ctx)
	sum := make(chan time.Duration, 1)
	go func() {
		stood := time.Duration(0)
		for last := time.Now(); ctx.Err() == nil; {
			<-time.After(each)
			now := time.Now()
			if late := now.Sub(last) - each; late > tooBusy {
				stood += late
			}
			last = now
		}
		sum <- stood
	}()
	return func() time.Duration {
		cancel()
		return <-sum
	}
}

// drains stops a Pintle as the kubelet does: its addresses move first, each to the node that was named before, and no question to one
// of them is lost.
func (f *faults) drains(i int) {
	name := f.Node(i).Name()
	mine, changes := f.of(name), f.follow()
	f.watched(name, func() { check(f.t, f.Stop(f.t.Context(), i)) })
	history := changes()
	if mine = stayed(history, mine, name); len(mine) == 0 {
		f.t.Fatalf("%s was to keep none of its addresses", name)
	}
	for _, a := range mine {
		k := slices.IndexFunc(history[a], func(o *pintlev1.Address) bool { return o.Status.Holder != name })
		if k < 1 || history[a][k-1].Spec.Wanted != history[a][k].Status.Holder {
			f.t.Errorf("%s went to a node that was not named first: %+v", a, history[a])
		}
	}
	for _, o := range f.objects(f.t.Context()) {
		if o.Status.Holder == name {
			f.t.Errorf("%s, which was stopped, still holds %s", name, o.Name)
		}
	}
	check(f.t, f.Start(i))
	f.back(i)
}

// cordons has a node's addresses move by kubectl cordon, without a lost question.
func (f *faults) cordons(i int) {
	name := f.Node(i).Name()
	kubectl := func(verb string) {
		_, err := f.Kubectl(f.t.Context(), 1, verb, name)
		check(f.t, err)
	}
	f.watched(name, func() {
		kubectl("cordon")
		eventually(f.t, "its addresses move", func(context.Context) error {
			if n := len(f.of(name)); n > 0 {
				return fmt.Errorf("it has %d", n)
			}
			return nil
		})
	})
	kubectl("uncordon")
	f.back(i)
}

// rolls replaces one Pintle after the other by one of a version, each when the one before is ready, as a DaemonSet does.
func (f *faults) rolls(version string) {
	file, err := program()
	if version == "next" {
		file, err = next()
	}
	check(f.t, err)
	f.watched(f.Node(1).Name(), func() {
		for i := 1; i <= f.Len(); i++ {
			check(f.t, f.Stop(f.t.Context(), i))
			check(f.t, f.StartWith(i, file))
			eventually(f.t, f.Node(i).Name()+" is ready", func(ctx context.Context) error { return f.ready(ctx, i) })
		}
	})
	eventually(f.t, "the nodes tell each other of their versions", func(ctx context.Context) error {
		out, err := f.Status(ctx, 1, "-o", "json")
		var r struct {
			Services struct {
				Nodes []struct{ Name, Version string }
			}
		}
		if err = errors.Join(err, json.Unmarshal(out, &r)); err != nil {
			return err
		}
		for _, n := range r.Services.Nodes {
			if n.Version != version {
				return fmt.Errorf("%s is of version %q", n.Name, n.Version)
			}
		}
		if len(r.Services.Nodes) != f.Len() {
			return fmt.Errorf("%d nodes", len(r.Services.Nodes))
		}
		return nil
	})
}

// ready asks a Pintle as a kubelet does.
func (f *faults) ready(ctx context.Context, i int) error {
	_, err := f.Node(i).Exec(ctx, "bash", "-c", `exec 3<>/dev/tcp/127.0.0.1/7403; printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3; read -r line <&3; case $line in *200*) ;; *) echo "$line"; exit 1;; esac`)
	return err
}

// allDie kills all Pintles and starts them again.
func (f *faults) allDie() {
	for i := 1; i <= f.Len(); i++ {
		check(f.t, f.Kill(i))
	}
	for i := 1; i <= f.Len(); i++ {
		check(f.t, f.Start(i))
	}
}
