package service

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

var updateShapes = flag.Bool("update", false, "write what happens into testdata/shapes.txt")

const shapesFile = "testdata/shapes.txt"

// TestShapes plays testdata/shapes.txt, whose head says what a line means, on nodes that are well before an API server that is.
func TestShapes(t *testing.T) {
	script, err := os.ReadFile(shapesFile)
	if err != nil {
		t.Fatal(err)
	}
	var got string
	synctest.Test(t, func(t *testing.T) { got = playShapes(t, string(script)) })
	if *updateShapes {
		if err := os.WriteFile(shapesFile, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want := strings.Split(string(script), "\n")
	for i, line := range strings.Split(got, "\n") {
		if i >= len(want) || want[i] != line {
			t.Fatalf("%s:%d (go test ./internal/service -run TestShapes -update, and say why):\n- %s\n+ %s", shapesFile, i+1, want[min(i, len(want)-1)], line)
		}
	}
}

// A play is shapes.txt as it is played.
type play struct {
	*simWorld
	told map[string]string // what was said of each object
}

func playShapes(t *testing.T, script string) string {
	w := newWorld(t, 1)
	w.calm, w.prompt, w.lease = true, true, 5*time.Second
	p := &play{w, map[string]string{}}
	defer w.stop()
	w.lock(func() {
		for _, ns := range []string{"shop", "bank"} {
			_, _ = create(w.store, "namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: map[string]string{"name": ns}}})
		}
	})
	var out strings.Builder
	for i, line := range strings.Split(strings.TrimSuffix(script, "\n"), "\n") {
		if strings.HasPrefix(line, "    ") {
			continue
		}
		out.WriteString(line + "\n")
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		for _, part := range strings.Split(line, " & ") {
			if err := p.do(strings.Fields(part)); err != nil {
				t.Fatalf("%s:%d: %s: %v", shapesFile, i+1, part, err)
			}
		}
		time.Sleep(40 * time.Second) // a fence takes T, and an even spread is looked after each 10 s
		w.lock(func() {
			for _, said := range p.news() {
				out.WriteString("    " + said + "\n")
			}
		})
	}
	return out.String()
}

func (p *play) do(words []string) (err error) {
	if len(words) < 2 {
		return fmt.Errorf("what of it?")
	}
	name, rest := words[1], words[2:]
	if words[0] == "node" {
		return p.putNode(name, rest)
	}
	p.lock(func() {
		p.writer = "people"
		for uid := range p.services {
			p.touched[uid] = true // what people do may take from it what it has
		}
		switch {
		case words[0] == "service" && slices.Equal(rest, []string{"gone"}):
			err = p.store.remove("services", name, "", "")
			_ = p.store.remove("endpointslices", name, "", "")
		case words[0] == "service":
			err = p.putService(name, rest)
		case words[0] == "pool" && slices.Equal(rest, []string{"gone"}):
			err = p.store.remove("addresspools", name, "", "")
		case words[0] == "pool":
			err = p.putPool(name, rest)
		case words[0] == "endpoints":
			err = p.putEndpoints(name, rest)
		case words[0] == "address" && slices.Equal(rest, []string{"gone"}):
			err = p.store.remove("addresses", name, "", "")
		default:
			err = fmt.Errorf("%s?", words[0])
		}
	})
	return err
}

// put makes an object, or puts it in the place of the one that is there.
func put[T object](s *store, kind string, o T) error {
	had := s.find(kind, nameOf(o))
	if had == nil {
		_, err := create(s, kind, o)
		return err
	}
	o.SetResourceVersion(had.GetResourceVersion())
	o.SetFinalizers(had.GetFinalizers())
	o.SetGeneration(had.GetGeneration() + 1)
	o.SetCreationTimestamp(had.GetCreationTimestamp())
	_, err := update(s, kind, o)
	return err
}

func (p *play) putNode(name string, words []string) error {
	i := slices.IndexFunc(p.hosts, func(h *host) bool { return h.name == name })
	var h *host
	if i < 0 {
		h = &host{w: p.simWorld, name: name}
	} else {
		h = p.hosts[i]
	}
	o := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}, Annotations: map[string]string{}}}
	unfit := ""
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "dies":
			p.lock(func() { h.proc.kill() })
			return nil
		case "leaves":
			p.late.Go(h.proc.leave)
			return nil
		case "cordoned":
			o.Spec.Unschedulable = true
		case "excluded":
			o.Labels[excludeLabel] = ""
		case "unfit":
			unfit = strings.ReplaceAll(value, "-", " ")
		case "weight", "priority":
			o.Annotations["pintle.dev/"+key] = value
		case "zone":
			o.Labels[key] = value
		default:
			return fmt.Errorf("%s?", word)
		}
	}
	p.lock(func() {
		_ = put(p.store, "nodes", o)
		h.judge(unfit)
		if i < 0 {
			p.hosts = append(p.hosts, h)
		}
	})
	if h.proc == nil {
		h.start()
	}
	return nil
}

func (p *play) putPool(name string, words []string) error {
	o := &pintlev1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "manual":
			o.Spec.AutoAssign = no()
		case "bind":
			o.Spec.Bind = true
		case "announce":
			o.Spec.Announce = strings.Split(value, ",")
		case "links":
			o.Spec.Links = strings.Split(value, ",")
		case "namespaces":
			o.Spec.Namespaces = strings.Split(value, ",")
		case "zone":
			o.Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"zone": value}}
		default:
			o.Spec.Addresses = append(o.Spec.Addresses, word)
		}
	}
	if was, ok := p.find("addresspools", name).(*pintlev1.AddressPool); ok {
		o.Status = was.Status
	}
	return put(p.store, "addresspools", o)
}

func (p *play) putService(name string, words []string) error {
	ns, n, _ := strings.Cut(name, "/")
	o := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: n, Annotations: map[string]string{}}}
	o.Spec.Type = corev1.ServiceTypeLoadBalancer
	o.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	o.Spec.Selector = map[string]string{"app": n}
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		proto, port, isPort := strings.Cut(word, "/")
		switch {
		case key == "ipv6":
			o.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol}
		case key == "prefer", key == "require":
			o.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
			o.Spec.IPFamilyPolicy = new(map[string]corev1.IPFamilyPolicy{"prefer": "PreferDualStack", "require": "RequireDualStack"}[key])
		case key == "local":
			o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		case key == "unselected":
			o.Spec.Selector = nil
		case key == "selects":
			o.Spec.Selector = map[string]string{"app": value}
		case key == "class":
			o.Spec.LoadBalancerClass = &value
		case key == "clusterip":
			o.Spec.Type = corev1.ServiceTypeClusterIP
		case key == "ip":
			o.Spec.LoadBalancerIP = value
		case key == "pool", key == "share", key == "ignore", key == "addresses", key == "bgp-communities":
			o.Annotations["pintle.dev/"+key] = value
		case isPort:
			number, err := strconv.ParseInt(port, 10, 32)
			if err != nil {
				return err
			}
			o.Spec.Ports = append(o.Spec.Ports, corev1.ServicePort{Name: word, Protocol: corev1.Protocol(strings.ToUpper(proto)), Port: int32(number)})
		default:
			return fmt.Errorf("%s?", word)
		}
	}
	if len(o.Spec.Ports) == 0 {
		o.Spec.Ports = []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80}}
	}
	if was, ok := p.find("services", name).(*corev1.Service); ok && o.Spec.Type == corev1.ServiceTypeLoadBalancer {
		o.Status = was.Status
	} else if ok {
		o.Status.Conditions = was.Status.Conditions
	}
	return put(p.store, "services", o)
}

// putEndpoints says where those of a Service are: "n1 n2~" is ready on n1, and one that ends and still serves on n2.
func (p *play) putEndpoints(name string, words []string) error {
	ns, n, _ := strings.Cut(name, "/")
	o := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: n, Labels: map[string]string{discoveryv1.LabelServiceName: n}}}
	for _, word := range words {
		if word == "nowhere" {
			continue
		}
		node, ends := strings.CutSuffix(word, "~")
		e := discoveryv1.Endpoint{NodeName: &node}
		if ends {
			e.Conditions = discoveryv1.EndpointConditions{Ready: no(), Serving: new(true), Terminating: new(true)}
		}
		o.Endpoints = append(o.Endpoints, e)
	}
	return put(p.store, "endpointslices", o)
}

// news is what was not so before.
func (p *play) news() (out []string) {
	now := map[string]string{}
	var keys []string
	note := func(key, text string) { now[key] = text; keys = append(keys, key) }
	for _, o := range p.all("services") {
		s := readService(o.(*corev1.Service))
		has := strings.Join(s.Ingress, " ")
		if has == "" {
			has = "nothing"
		}
		note(s.Key.String(), fmt.Sprintf("has %s, %s", has, said(o.(*corev1.Service))))
	}
	for _, o := range p.all("addresses") {
		o := o.(*pintlev1.Address)
		text := fmt.Sprintf("of pool %s for %s ", o.Spec.Pool, o.Status.Services)
		if o.Status.Holder == "" {
			text += "is on no node: " + o.Status.Reason
		} else {
			text += fmt.Sprintf("is on %s: %s", o.Status.Holder, o.Status.Reason)
		}
		note(o.Spec.Address, text+p.checkShown(o))
	}
	for _, k := range keys {
		if p.told[k] != now[k] {
			out = append(out, k+" "+now[k])
		}
	}
	for k := range p.told {
		if _, there := now[k]; !there {
			out = append(out, k+" is gone")
		}
	}
	slices.SortStableFunc(out, func(a, b string) int { return strings.Compare(strings.Fields(a)[0], strings.Fields(b)[0]) })
	for _, e := range p.events {
		out = append(out, fmt.Sprintf("Event for %s/%s: %s %s: %s", e.Namespace, e.InvolvedObject.Name, e.Type, e.Reason, e.Message))
	}
	p.told, p.events = now, nil
	return out
}

// checkShown says who claims and advertises an address, if that is not as its object says.
func (p *play) checkShown(o *pintlev1.Address) (text string) {
	a := addressOf(o)
	var claim, tell []string
	for _, h := range p.hosts {
		if h.proc.claimed()[a] {
			claim = append(claim, h.name)
		}
		if h.proc != nil && h.proc.advertises(a) {
			tell = append(tell, h.name)
		}
	}
	if len(tell) > 0 {
		text += fmt.Sprintf("; routers hear of it from %s", strings.Join(tell, ", "))
	}
	if holder := o.Status.Holder; holder == "" && len(claim) > 0 || holder != "" && !slices.Equal(claim, []string{holder}) {
		text += "; claimed by " + cmp.Or(strings.Join(claim, ", "), "nobody")
	}
	return text
}
