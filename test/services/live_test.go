package services_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
	"github.com/pintle-lb/pintle/test/services"
)

// A live is a cluster in which people change what Pintle goes by.
type live struct {
	*services.Bed
	t    *testing.T
	addr netip.Addr // of the Service web
}

// TestLive: what people change takes effect, with the Pintles running on, and what they ask is answered.
func TestLive(t *testing.T) {
	l := &live{t: t, Bed: newPintle(t, services.Options{Nodes: 1, Workers: 1, Lease: 4 * time.Second})}
	ctx := t.Context()
	_, err := l.Pool(ctx, "main", "10.99.0.0/24")
	check(t, err)
	_, err = l.Backend(ctx, 2, services.Echo)
	check(t, err)
	_, err = l.Service(ctx, "web")
	check(t, err)
	l.addr = l.address("web")
	holder(t, l.Bed, l.addr)
	before := l.pids()
	for _, c := range []struct {
		name string
		do   func()
	}{
		{"ports", l.ports},
		{"the address that is asked for", l.asks},
		{"externalTrafficPolicy", l.policy},
		{"the annotation to ignore it", l.ignores},
		{"how a pool is announced", l.announce},
		{"on which links", l.links},
		{"by which nodes", l.nodes},
		{"whether it is bound", l.binds},
		{"weights, priorities and labels of nodes", l.shares},
		{"fields have owners", l.owners},
		{"what others change is put back", l.mends},
		{"pintle status and kubectl describe", l.tells},
	} {
		if !t.Run(c.name, func(t *testing.T) { l.t = t; c.do() }) {
			break
		}
	}
	if after := l.pids(); !slices.Equal(before, after) {
		t.Errorf("the Pintles were the processes %v, and are %v", before, after)
	}
	if !t.Failed() {
		l.t = t
		l.unclassed()
	}
}

// unclassed: of Pintles that leave Services without a class alone, such a one gets nothing, and gives back what it has.
func (l *live) unclassed() {
	ctx := l.t.Context()
	s := l.survey(l.addr)
	check(l.t, l.Configure("unclassed: false"))
	for i := 1; i <= l.Len(); i++ {
		check(l.t, l.Stop(ctx, i))
		check(l.t, l.Start(i))
	}
	_, err := l.Service(ctx, "unclassed")
	check(l.t, err)
	_, err = l.Service(ctx, "classed", func(s *corev1.Service) { s.Spec.LoadBalancerClass = new("pintle.dev/lb") })
	check(l.t, err)
	l.claimed(s, l.addr, "")
	l.empty("web")
	classed := l.address("classed") // which was made after the other
	l.claimed(l.survey(classed), classed, l.Node(holder(l.t, l.Bed, classed)).Name())
	l.empty("unclassed")
}

// pids are the processes of the Pintles; 0: it has ended.
func (l *live) pids() (ids []int) {
	for i := 1; i <= l.Len(); i++ {
		id := 0
		if l.Running(i) {
			id = l.Pintle(i).PID()
		}
		ids = append(ids, id)
	}
	return ids
}

// address waits until a Service has one.
func (l *live) address(name string) netip.Addr {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), wait)
	defer cancel()
	addrs, err := l.Addresses(ctx, name)
	check(l.t, err)
	return addrs[0]
}

// pool changes the pool main.
func (l *live) pool(f func(*pintlev1.AddressPoolSpec)) {
	l.t.Helper()
	eventually(l.t, "edit the pool", func(ctx context.Context) error {
		o, err := l.API(1).Pools.Get(ctx, "main", metav1.GetOptions{})
		if err != nil {
			return err
		}
		o.TypeMeta = services.NewPool("").TypeMeta
		f(&o.Spec)
		_, err = l.API(1).Pools.Update(ctx, o, metav1.UpdateOptions{})
		return err
	})
}

// reached waits until a port of an address leads to a backend.
func (l *live) reached(a netip.Addr, port uint16) {
	l.t.Helper()
	eventually(l.t, fmt.Sprintf("%s, port %d, is reached", a, port), func(ctx context.Context) error {
		_, err := l.Lab().Client().Ask(ctx, "tcp", netip.AddrPortFrom(a, port))
		return err
	})
}

// refused waits until nobody listens on a port of an address.
func (l *live) refused(a netip.Addr, port uint16) {
	l.t.Helper()
	eventually(l.t, fmt.Sprintf("%s, port %d, is refused", a, port), func(ctx context.Context) error {
		c, err := l.Lab().Client().Dial(ctx, "tcp", netip.AddrPortFrom(a, port))
		switch {
		case errors.Is(err, unix.ECONNREFUSED):
			return nil
		case err == nil:
			_ = c.Close()
			err = errors.New("it is open")
		}
		return err
	})
}

// claimed waits until a node claims the address; "": until none does. s asks for it.
func (l *live) claimed(s *netlab.Survey, a netip.Addr, by string) {
	l.t.Helper()
	eventually(l.t, fmt.Sprintf("%s is claimed by %q", a, by), func(context.Context) error {
		if got := s.Holders()[a]; got != by {
			return fmt.Errorf("by %q", got)
		}
		return nil
	})
}

// survey asks for addresses all the time; the first one is answered for.
func (l *live) survey(addrs ...netip.Addr) *netlab.Survey {
	l.t.Helper()
	s, err := l.Lab().StartSurvey(10*time.Millisecond, addrs...)
	check(l.t, err)
	l.t.Cleanup(s.Close)
	l.claimed(s, addrs[0], l.Node(holder(l.t, l.Bed, addrs[0])).Name())
	return s
}

// empty waits until nothing of ours is in the status of a Service.
func (l *live) empty(name string) {
	l.t.Helper()
	eventually(l.t, "the status of "+name+" is empty", func(ctx context.Context) error {
		o, err := l.API(1).CoreV1().Services("default").Get(ctx, name, metav1.GetOptions{})
		if err == nil && (len(o.Status.LoadBalancer.Ingress) > 0 || meta.FindStatusCondition(o.Status.Conditions, conditionType) != nil) {
			err = fmt.Errorf("it is %+v", o.Status)
		}
		return err
	})
}

// reason waits until the object of an address says where it is, and why.
func (l *live) reason(a netip.Addr, node, words string) {
	l.t.Helper()
	eventually(l.t, fmt.Sprintf("%s is on %q since it %q", a, node, words), func(ctx context.Context) error {
		o, err := object(ctx, l.Bed, a)
		if err == nil && (o.Status.Holder != node || !strings.Contains(o.Status.Reason, words)) {
			err = fmt.Errorf("it is on %q: %s", o.Status.Holder, o.Status.Reason)
		}
		return err
	})
}

// put has a node hold the address: the other one is cordoned for a while.
func (l *live) put(a netip.Addr, i int) {
	l.t.Helper()
	other := l.Node(3 - i).Name()
	_, err := l.Kubectl(l.t.Context(), 1, "cordon", other)
	check(l.t, err)
	eventually(l.t, fmt.Sprintf("%s is on %s", a, l.Node(i).Name()), func(ctx context.Context) error {
		o, err := object(ctx, l.Bed, a)
		if err == nil && o.Status.Holder != l.Node(i).Name() {
			err = fmt.Errorf("it is on %q", o.Status.Holder)
		}
		return err
	})
	_, err = l.Kubectl(l.t.Context(), 1, "uncordon", other)
	check(l.t, err)
	eventually(l.t, "everyone knows that all nodes suit", func(ctx context.Context) error { return allSuit(ctx, l.Bed) })
}

const more = netlab.EchoPort + 1

func addPort(s *corev1.Service) {
	s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "more", Port: more, TargetPort: intstr.FromInt32(netlab.EchoPort)})
}

func takePort(s *corev1.Service) {
	s.Spec.Ports = slices.DeleteFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == "more" })
}

func (l *live) ports() {
	l.reached(l.addr, netlab.EchoPort)
	l.refused(l.addr, more)
	edit(l.t, l.Bed, "web", addPort)
	l.reached(l.addr, more)
	edit(l.t, l.Bed, "web", takePort)
	l.refused(l.addr, more)
	l.reached(l.addr, netlab.EchoPort)
}

func (l *live) asks() {
	next := netip.MustParseAddr("10.99.0.77")
	s := l.survey(l.addr, next)
	edit(l.t, l.Bed, "web", func(s *corev1.Service) { s.Annotations = map[string]string{"pintle.dev/addresses": next.String()} })
	eventually(l.t, "it has what it asks for", func(ctx context.Context) error {
		if got := l.address("web"); got != next {
			return fmt.Errorf("it has %s", got)
		}
		return nil
	})
	l.claimed(s, next, l.Node(holder(l.t, l.Bed, next)).Name())
	l.claimed(s, l.addr, "")
	l.reached(next, netlab.EchoPort)
	l.addr = next
}

func (l *live) policy() {
	l.put(l.addr, 1)
	s := l.survey(l.addr)
	edit(l.t, l.Bed, "web", services.Local)
	l.reason(l.addr, "n2", "it is the only node that suits; n1 has no ready endpoint of default/web, which has externalTrafficPolicy Local")
	l.claimed(s, l.addr, "n2")
	l.reached(l.addr, netlab.EchoPort)
	edit(l.t, l.Bed, "web", func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster })
	l.put(l.addr, 1) // which may have it again
	l.claimed(s, l.addr, "n1")
}

func (l *live) ignores() {
	s := l.survey(l.addr)
	edit(l.t, l.Bed, "web", func(s *corev1.Service) { s.Annotations["pintle.dev/ignore"] = "true" })
	l.claimed(s, l.addr, "")
	l.empty("web")
	edit(l.t, l.Bed, "web", func(s *corev1.Service) { delete(s.Annotations, "pintle.dev/ignore") })
	l.address("web")
	l.claimed(s, l.addr, l.Node(holder(l.t, l.Bed, l.addr)).Name())
	l.reached(l.addr, netlab.EchoPort)
}

func (l *live) announce() {
	s := l.survey(l.addr)
	l.pool(func(p *pintlev1.AddressPoolSpec) { p.Announce, p.Links = []string{pintlev1.AnnounceBGP}, nil })
	l.reason(l.addr, "", "every node that suits advertises it")
	l.claimed(s, l.addr, "")
	l.pool(func(p *pintlev1.AddressPoolSpec) {
		p.Announce, p.Links = []string{pintlev1.AnnounceARP, pintlev1.AnnounceBGP}, []string{"eth0"}
	})
	l.claimed(s, l.addr, l.Node(holder(l.t, l.Bed, l.addr)).Name())
	l.pool(func(p *pintlev1.AddressPoolSpec) { p.Announce = nil })
	l.reached(l.addr, netlab.EchoPort)
}

func (l *live) links() {
	s := l.survey(l.addr)
	l.pool(func(p *pintlev1.AddressPoolSpec) { p.Links = []string{"eth9"} })
	l.reason(l.addr, "", "no node suits: n1 has no link for it; n2 has no link for it")
	l.claimed(s, l.addr, "")
	l.pool(func(p *pintlev1.AddressPoolSpec) { p.Links = []string{"eth[0-3]"} })
	l.claimed(s, l.addr, l.Node(holder(l.t, l.Bed, l.addr)).Name())
	l.pool(func(p *pintlev1.AddressPoolSpec) { p.Links = []string{"eth0"} })
}

func (l *live) nodes() {
	_, err := l.Kubectl(l.t.Context(), 1, "label", "node", "n2", "edge=yes")
	check(l.t, err)
	l.put(l.addr, 1)
	s := l.survey(l.addr)
	l.pool(func(p *pintlev1.AddressPoolSpec) {
		p.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"edge": "yes"}}
	})
	l.reason(l.addr, "n2", "n1 is not selected by pool main")
	l.claimed(s, l.addr, "n2")
	_, err = l.Kubectl(l.t.Context(), 1, "label", "node", "n2", "edge-")
	check(l.t, err)
	l.reason(l.addr, "", "no node suits: n1 is not selected by pool main; n2 is not selected by pool main")
	l.claimed(s, l.addr, "")
	l.pool(func(p *pintlev1.AddressPoolSpec) { p.NodeSelector = nil })
	l.claimed(s, l.addr, l.Node(holder(l.t, l.Bed, l.addr)).Name())
}

// shares: how many addresses a node has is what its weight, its priority and its labels say.
func (l *live) shares() {
	ctx := l.t.Context()
	made := 1 // web
	serve := func(more int) {
		for range more {
			_, err := l.Service(ctx, fmt.Sprintf("share-%d", made))
			check(l.t, err)
			made++
		}
	}
	node := func(args ...string) {
		_, err := l.Kubectl(ctx, 1, append([]string{args[0], "node"}, args[1:]...)...)
		check(l.t, err)
	}
	have := func(what string, n1, n2 int) {
		l.t.Helper()
		want := map[string]int{}
		for name, n := range map[string]int{"n1": n1, "n2": n2} {
			if n > 0 {
				want[name] = n
			}
		}
		eventually(l.t, what, func(ctx context.Context) error {
			list, err := l.API(1).Addresses.List(ctx, metav1.ListOptions{})
			if err != nil {
				return err
			}
			got := map[string]int{}
			for _, o := range list.Items {
				got[o.Status.Holder]++
			}
			if !maps.Equal(got, want) {
				return fmt.Errorf("nodes have %v, want %v", got, want)
			}
			return nil
		})
	}
	serve(7)
	have("an even spread", 4, 4)
	node("annotate", "n2", "pintle.dev/weight=3")
	have("three times as many", 2, 6)
	node("annotate", "n1", "pintle.dev/priority=10") // moves nothing by itself,
	<-time.After(time.Second)                        // and shows nowhere
	serve(3)
	have("the next go to the node of the higher priority", 5, 6)
	node("label", "n2", "node.kubernetes.io/exclude-from-external-load-balancers=")
	have("none on a node with the label", 11, 0)
	node("label", "n2", "node.kubernetes.io/exclude-from-external-load-balancers-")
	node("annotate", "n1", "pintle.dev/weight=0")
	have("none on a node without weight", 0, 11)
	node("annotate", "n1", "pintle.dev/weight-", "pintle.dev/priority-")
	node("annotate", "n2", "pintle.dev/weight-")
	for i := 1; i < made; i++ {
		check(l.t, l.API(1).CoreV1().Services("default").Delete(ctx, fmt.Sprintf("share-%d", i), metav1.DeleteOptions{}))
	}
	have("web's alone", 0, 1)
}

// pinged waits until a ping gets this.
func (l *live) pinged(want icmp.Type) {
	l.t.Helper()
	eventually(l.t, fmt.Sprintf("ping: %v", want), func(context.Context) error {
		got, err := ping(l.Lab().Client(), l.addr)
		if err == nil && got != want {
			err = fmt.Errorf("it gets %v", got)
		}
		return err
	})
}

func (l *live) binds() {
	l.pinged(ipv4.ICMPTypeDestinationUnreachable)
	l.pool(func(p *pintlev1.AddressPoolSpec) { p.Bind = true })
	l.pinged(ipv4.ICMPTypeEchoReply)
	l.reached(l.addr, netlab.EchoPort)
	l.refused(l.addr, more)
	edit(l.t, l.Bed, "web", addPort)
	l.reached(l.addr, more)
	edit(l.t, l.Bed, "web", takePort)
	l.refused(l.addr, more)
	l.pool(func(p *pintlev1.AddressPoolSpec) { p.Bind = false })
	l.pinged(ipv4.ICMPTypeDestinationUnreachable)
	l.reached(l.addr, netlab.EchoPort)
}

const (
	theirs    = "example.com/Seen"
	ourFields = `{"f:status":{"f:conditions":{"k:{\"type\":\"pintle.dev/Assigned\"}":{".":{},"f:lastTransitionTime":{},"f:message":{},"f:reason":{},` +
		`"f:status":{},"f:type":{}}},"f:loadBalancer":{"f:ingress":{}}}}`
)

// owners: of a Service Pintle owns its addresses and its condition, by server-side apply, and leaves what is another's.
func (l *live) owners() {
	ctx := l.t.Context()
	o, err := l.API(1).CoreV1().Services("default").Get(ctx, "web", metav1.GetOptions{})
	check(l.t, err)
	meta.SetStatusCondition(&o.Status.Conditions, metav1.Condition{Type: theirs, Status: metav1.ConditionTrue, Reason: "Seen", Message: "by another"})
	_, err = l.API(1).CoreV1().Services("default").UpdateStatus(ctx, o, metav1.UpdateOptions{FieldManager: "another"})
	check(l.t, err)
	next := netip.MustParseAddr("10.99.0.78")
	for _, c := range []struct {
		what   string
		change func(*corev1.Service)
		owns   []string // the managers that begin with pintle, and how
		has    string   // conditions
	}{
		{"another address", func(s *corev1.Service) { s.Annotations["pintle.dev/addresses"] = next.String() }, []string{"pintle Apply status " + ourFields},
			"example.com/Seen pintle.dev/Assigned"},
		{"ignored", func(s *corev1.Service) { s.Annotations["pintle.dev/ignore"] = "true" }, nil, "example.com/Seen"},
		{"ours again", func(s *corev1.Service) { delete(s.Annotations, "pintle.dev/ignore") }, []string{"pintle Apply status " + ourFields},
			"example.com/Seen pintle.dev/Assigned"},
	} {
		edit(l.t, l.Bed, "web", c.change)
		eventually(l.t, c.what, func(ctx context.Context) error {
			o, err := l.API(1).CoreV1().Services("default").Get(ctx, "web", metav1.GetOptions{})
			if err != nil {
				return err
			}
			owns, has := fieldsOf(o), conditionsOf(o)
			if !slices.Equal(owns, c.owns) || has != c.has || len(c.owns) > 0 && !slices.Equal(services.Ingress(o), []netip.Addr{next}) {
				return fmt.Errorf("owned: %v\nwant: %v\nconditions: %s, addresses: %v", owns, c.owns, has, services.Ingress(o))
			}
			return nil
		})
	}
	l.addr = next
	o, err = l.API(1).CoreV1().Services("default").Get(ctx, "web", metav1.GetOptions{})
	check(l.t, err)
	if len(o.Finalizers) > 0 {
		l.t.Errorf("the Service has the finalizers %v", o.Finalizers)
	}
}

// fieldsOf are the fields of managers of a Service that seem to be Pintle.
func fieldsOf(o *corev1.Service) (out []string) {
	for _, m := range o.ManagedFields {
		if !strings.HasPrefix(m.Manager, "pintle") {
			continue
		}
		var fields any
		if err := json.Unmarshal(m.FieldsV1.GetRawBytes(), &fields); err != nil {
			return []string{err.Error()}
		}
		text, _ := json.Marshal(fields) // with sorted keys
		out = append(out, fmt.Sprintf("%s %s %s %s", m.Manager, m.Operation, m.Subresource, text))
	}
	return out
}

func conditionsOf(o *corev1.Service) string {
	var types []string
	for _, c := range o.Status.Conditions {
		types = append(types, c.Type)
	}
	slices.Sort(types)
	return strings.Join(types, " ")
}

// mends: who takes the address or the condition out of a Service's status finds them there again.
func (l *live) mends() {
	for what, spoil := range map[string]func(*corev1.Service){
		"an address":      func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = nil },
		"another address": func(s *corev1.Service) { s.Status.LoadBalancer.Ingress[0].IP = "192.0.2.1" },
		"the condition":   func(s *corev1.Service) { meta.RemoveStatusCondition(&s.Status.Conditions, conditionType) },
	} {
		var version string
		eventually(l.t, "change "+what, func(ctx context.Context) error {
			o, err := l.API(1).CoreV1().Services("default").Get(ctx, "web", metav1.GetOptions{})
			if err != nil {
				return err
			}
			spoil(o)
			if o, err = l.API(1).CoreV1().Services("default").UpdateStatus(ctx, o, metav1.UpdateOptions{FieldManager: "another"}); err == nil {
				version = o.ResourceVersion
			}
			return err
		})
		eventually(l.t, what+" is put back", func(ctx context.Context) error {
			o, err := l.API(1).CoreV1().Services("default").Get(ctx, "web", metav1.GetOptions{})
			if err != nil {
				return err
			}
			c := meta.FindStatusCondition(o.Status.Conditions, conditionType)
			if o.ResourceVersion == version || !slices.Equal(services.Ingress(o), []netip.Addr{l.addr}) || c == nil || c.Status != metav1.ConditionTrue {
				return fmt.Errorf("it is %+v", o.Status)
			}
			return nil
		})
	}
}

// tells: whoever asks, on whichever node, learns where an address is and why, and why a Service has none.
func (l *live) tells() {
	ctx := l.t.Context()
	_, err := l.Service(ctx, "greedy", func(s *corev1.Service) { s.Spec.LoadBalancerIP = l.addr.String() })
	check(l.t, err)
	l.put(l.addr, 2)
	l.put(l.addr, 1)
	refusal := fmt.Sprintf("%s of pool main is in use by default/web, which has no share key", l.addr)
	place := "it is the only node that suits; n2 is cordoned"
	for what, args := range map[string][]string{
		"n1": nil, "n2": nil,
		"kubectl describe address": {"describe", "addresses.pintle.dev", l.addr.String()},
		"kubectl describe service": {"describe", "service", "greedy"},
		"kubectl get addresses":    {"get", "addresses.pintle.dev", "-o", "wide"},
	} {
		var want []string
		switch what {
		case "n1":
			want = []string{`(?m)^address +10\.99\.0\.78 \(default/web, pool main\): answered for here on eth0, for [0-9.a-z]+: ` + place + `$`,
				`(?m)^waiting +default/greedy: ` + refusal + `$`, `(?m)^node +n2 +epoch [0-9]+, holds 0`}
		case "n2":
			want = []string{`(?m)^elsewhere +10\.99\.0\.78 \(default/web, pool main\): held by n1, for [0-9.a-z]+: ` + place + `$`,
				`(?m)^waiting +default/greedy: ` + refusal + `$`, `(?m)^node +n1 +epoch [0-9]+, holds 1`}
		case "kubectl describe address":
			want = []string{`Holder: +n1`, `Reason: +` + place, `Services: +default/web`, `Pool: +main`}
		case "kubectl describe service":
			want = []string{`Warning +NoAddress +.*pintle.* +` + refusal}
		default:
			want = []string{`10\.99\.0\.78 +main +default/web +n1 +[0-9a-z]+ +n1 +` + place}
		}
		eventually(l.t, what+" tells", func(ctx context.Context) error {
			out, err := l.Status(ctx, 2)
			if what == "n1" {
				out, err = l.Status(ctx, 1)
			} else if args != nil {
				out, err = l.Kubectl(ctx, 1, args...)
			}
			if err != nil {
				return err
			}
			for _, w := range want {
				if !regexp.MustCompile(w).Match(out) {
					return fmt.Errorf("no %s in\n%s", w, out)
				}
			}
			return nil
		})
	}
}
