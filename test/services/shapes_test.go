package services_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pintle-lb/pintle/internal/service/pintlev1"
	"github.com/pintle-lb/pintle/test/services"
)

var update = flag.Bool("update", false, "write what happens into testdata/shapes.txt")

const (
	shapesFile = "testdata/shapes.txt"

	// quiet is for how long nothing may change before what is there is written down (-update).
	quiet = 2 * time.Second
)

// TestShapes plays testdata/shapes.txt on a real API server: its head says what a line means.
func TestShapes(t *testing.T) {
	script, err := os.ReadFile(shapesFile)
	check(t, err)
	// No lease is to end here, however busy the machine is: the reasons of placement would tell.
	b := newPintle(t, services.Options{Nodes: 1, Workers: -1, IPv6: true, Lease: 6 * time.Second})
	p := &play{Bed: b, t: t, pods: map[string]*services.Backend{}, uids: map[string]string{}, shown: map[string]string{}, events: map[string]bool{}, cleared: map[string]bool{}}
	p.begin()
	got := p.run(string(script))
	if *update {
		check(t, os.WriteFile(shapesFile, []byte(got), 0o644))
	}
}

// A play is shapes.txt as it is played.
type play struct {
	*services.Bed
	t       *testing.T
	pods    map[string]*services.Backend
	uids    map[string]string // of objects that were shown
	shown   map[string]string // the last words about each object
	events  map[string]bool   // those that were shown
	cleared map[string]bool   // Services that are removed: what is told of them comes when it likes
	marks   int
}

// begin waits until a Service gets an address at once, as in a cluster that has run for a while, and removes it.
func (p *play) begin() {
	p.must(p.Pool(p.t.Context(), "first", "10.99.255.0/30"))
	p.must(p.Service(p.t.Context(), "first"))
	began := time.Now()
	eventually(p.t, "Pintle works", func(ctx context.Context) error {
		a, err := p.API(1).Addresses.Get(ctx, "10.99.255.0", metav1.GetOptions{})
		if err == nil && a.Status.Holder == "" {
			err = errors.New("nobody has the first address: " + a.Status.Reason)
		}
		return err
	})
	p.t.Logf("the first Service is answered for after %v", time.Since(began).Round(100*time.Millisecond))
	check(p.t, p.clear(p.t.Context()))
}

func (p *play) must(_ any, err error) {
	p.t.Helper()
	check(p.t, err)
}

// run plays the script, and returns it with what happened.
func (p *play) run(script string) string {
	var out strings.Builder
	lines := strings.Split(strings.TrimSuffix(script, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line, at := lines[i], i+1
		out.WriteString(line + "\n")
		var want []string
		for ; i+1 < len(lines) && strings.HasPrefix(lines[i+1], indent); i++ {
			want = append(want, strings.TrimPrefix(lines[i+1], indent))
		}
		if words := strings.Fields(line); len(words) == 0 || strings.HasPrefix(line, "#") {
			continue
		} else if got := p.step(at, words, want); len(got) > 0 {
			out.WriteString(indent + strings.Join(got, "\n"+indent) + "\n")
		}
	}
	return out.String()
}

const indent = "    "

// step plays one line, waits for what is wanted of it, and returns what came.
func (p *play) step(at int, words, want []string) []string {
	p.t.Helper()
	look := p.news
	if words[0] == "kubectl" {
		look = func(ctx context.Context) ([]string, func(), error) { return p.kubectl(ctx, words[1:]) }
	} else if err := p.do(words); err != nil {
		p.t.Fatalf("%s:%d: %s: %v", shapesFile, at, strings.Join(words, " "), err)
	} else if words[0] == "service" {
		p.mark()
	} else if len(want) == 0 && words[0] != "clear" {
		<-time.After(time.Second) // for what is not to happen; and what shows nowhere is to be known before the next line
	}
	var got []string
	var took func()
	ctx, cancel := context.WithTimeout(p.t.Context(), wait)
	defer cancel()
	since := time.Now()
	err := services.Await(ctx, func(ctx context.Context) error {
		now, took1, err := look(ctx)
		if err != nil {
			return err
		}
		if !slices.Equal(now, got) {
			since = time.Now()
		}
		got, took = now, took1
		if *update && time.Since(since) < quiet || !*update && !slices.Equal(got, want) {
			return errors.New("not yet")
		}
		return nil
	})
	if err != nil {
		p.t.Fatalf("%s:%d: %s: what became of it is\n  %s\nwant\n  %s\n(go test ./test/services -run TestShapes -update, and say why)", shapesFile, at,
			strings.Join(words, " "), strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
	took()
	return got
}

// mark waits until Pintle has looked at everything that was told of Services so far: at one Service more, which comes after all
// others.
func (p *play) mark() {
	p.t.Helper()
	ctx := p.t.Context()
	p.marks++
	pool := fmt.Sprintf("mark-%d", p.marks)
	api := p.API(1).CoreV1().Services(markSpace)
	if p.marks == 1 {
		p.must(p.API(1).CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: markSpace}}, metav1.CreateOptions{}))
		p.must(p.Service(ctx, "mark", func(s *corev1.Service) {
			s.Namespace, s.Annotations = markSpace, map[string]string{"pintle.dev/pool": pool}
		}))
	} else {
		patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"pintle.dev/pool":%q}}}`, pool)
		p.must(api.Patch(ctx, "mark", types.MergePatchType, patch, metav1.PatchOptions{}))
	}
	eventually(p.t, "Pintle looks at one more Service", func(ctx context.Context) error {
		s, err := api.Get(ctx, "mark", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if c := meta.FindStatusCondition(s.Status.Conditions, conditionType); c == nil || !strings.Contains(c.Message, pool+" ") {
			return fmt.Errorf("it says %+v", c)
		}
		return nil
	})
}

const (
	markSpace     = "zz"
	conditionType = "pintle.dev/Assigned"
)

// do makes what a line says.
func (p *play) do(words []string) error {
	if words[0] == "clear" {
		return p.clear(p.t.Context())
	} else if len(words) < 2 {
		return errors.New("what of it?")
	}
	ctx := p.t.Context()
	ours := p.API(1)
	verb, name, rest := words[0], words[1], words[2:]
	gone := len(rest) == 1 && rest[0] == "gone"
	switch {
	case verb == "pool" && gone:
		return ours.Pools.Delete(ctx, name, metav1.DeleteOptions{})
	case verb == "pool":
		return p.pool(ctx, name, rest)
	case verb == "namespace":
		return p.namespace(ctx, name, rest)
	case verb == "service" && gone:
		space, name := spaceOf(name)
		return ours.CoreV1().Services(space).Delete(ctx, name, metav1.DeleteOptions{})
	case verb == "service":
		return p.service(ctx, name, rest)
	case verb == "address" && gone:
		return ours.Addresses.Delete(ctx, name, metav1.DeleteOptions{})
	case verb == "pod":
		return p.pod(ctx, name, rest)
	}
	return errors.New("no such line")
}

// clear removes everything, and has it not shown.
func (p *play) clear(ctx context.Context) error {
	api := p.API(1)
	for _, pod := range p.pods {
		if err := pod.Remove(ctx); err != nil {
			return err
		}
	}
	clear(p.pods)
	pools, err := api.Pools.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, o := range pools.Items {
		if err := api.Pools.Delete(ctx, o.Name, metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	list, err := api.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, o := range list.Items {
		if isOthers(&o) {
			continue
		}
		p.cleared[string(o.UID)] = true
		if err := api.CoreV1().Services(o.Namespace).Delete(ctx, o.Name, metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return services.Await(ctx, func(ctx context.Context) error {
		seen, err := p.sights(ctx)
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(seen, func(s sight) bool { return !s.event }); i >= 0 {
			return errors.New("there is still: " + seen[i].words)
		}
		p.note(seen)
		return nil
	})
}

// isOthers says that a Service is none of the script's.
func isOthers(o *corev1.Service) bool { return o.Name == "kubernetes" || o.Namespace == markSpace }

func (p *play) pool(ctx context.Context, name string, words []string) (err error) {
	o := services.NewPool(name)
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		list := strings.Split(value, ",")
		switch key {
		case "manual":
			o.Spec.AutoAssign = new(bool)
		case "skip":
			o.Spec.SkipFirstLast = true
		case "priority":
			var n int
			n, err = strconv.Atoi(value)
			o.Spec.Priority = int32(n)
		case "namespaces":
			o.Spec.Namespaces = list
		case "namespace-selector":
			o.Spec.NamespaceSelector = &metav1.LabelSelector{MatchLabels: labels(list)}
		case "selector":
			o.Spec.ServiceSelector = &metav1.LabelSelector{MatchLabels: labels(list)}
		case "links":
			o.Spec.Links = list
		default:
			o.Spec.Addresses = append(o.Spec.Addresses, w)
		}
	}
	if err != nil {
		return err
	}
	pools := p.API(1).Pools
	was, err := pools.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = pools.Create(ctx, o, metav1.CreateOptions{})
	} else if err == nil {
		was.TypeMeta, was.Spec = o.TypeMeta, o.Spec
		_, err = pools.Update(ctx, was, metav1.UpdateOptions{})
	}
	return err
}

// labels makes a map of words like A=B.
func labels(words []string) map[string]string {
	m := map[string]string{}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		m[key] = value
	}
	return m
}

func (p *play) namespace(ctx context.Context, name string, words []string) error {
	o := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels(words)}}
	_, err := p.API(1).CoreV1().Namespaces().Create(ctx, o, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = p.API(1).CoreV1().Namespaces().Update(ctx, o, metav1.UpdateOptions{})
	}
	return err
}

func spaceOf(name string) (space, short string) {
	if space, short, ok := strings.Cut(name, "/"); ok {
		return space, short
	}
	return "default", name
}

func (p *play) service(ctx context.Context, name string, words []string) error {
	space, short := spaceOf(name)
	api := p.API(1).CoreV1().Services(space)
	was, err := api.Get(ctx, short, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		o := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: space, Name: short}}
		if err := shape(o, words); err != nil {
			return err
		}
		was, err = api.Create(ctx, o, metav1.CreateOptions{})
	case err == nil:
		if err := shape(was, words); err != nil {
			return err
		}
		was, err = api.Update(ctx, was, metav1.UpdateOptions{})
	}
	for _, w := range words {
		if addr, ok := strings.CutPrefix(w, "gets="); ok && err == nil {
			was.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: addr}}
			_, err = api.UpdateStatus(ctx, was, metav1.UpdateOptions{FieldManager: "other"})
		}
	}
	return err
}

// shape gives a Service what a line says. What the API server filled in before stays.
func shape(o *corev1.Service, words []string) error {
	o.Spec.Type, o.Spec.ExternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyCluster
	o.Spec.Selector, o.Spec.LoadBalancerIP = map[string]string{"app": o.Name}, ""
	o.Labels, o.Annotations = map[string]string{}, map[string]string{}
	var ports []corev1.ServicePort
	for _, w := range words {
		key, value, is := strings.Cut(w, "=")
		switch {
		case key == "type":
			o.Spec.Type = corev1.ServiceType(value)
			if value == "ClusterIP" {
				o.Spec.ExternalTrafficPolicy = ""
			}
		case key == "local":
			o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		case key == "unselected":
			o.Spec.Selector = nil
		case key == "gets": // afterwards
		case key == "class":
			o.Spec.LoadBalancerClass = &value
		case key == "ip":
			o.Spec.LoadBalancerIP = value
		case key == "label":
			k, v, _ := strings.Cut(value, ":")
			o.Labels[k] = v
		case strings.HasPrefix(key, "ipv"):
			o.Spec.IPFamilies = nil
			for f := range strings.SplitSeq(key, ",") {
				o.Spec.IPFamilies = append(o.Spec.IPFamilies, corev1.IPFamily("IPv"+strings.TrimPrefix(f, "ipv")))
			}
		case policies[key] != "":
			o.Spec.IPFamilyPolicy = new(policies[key])
		case is:
			o.Annotations[key] = value
		default:
			proto, number, _ := strings.Cut(key, "/")
			n, err := strconv.Atoi(number)
			if err != nil {
				return fmt.Errorf("%s: %w", w, err)
			}
			ports = append(ports, corev1.ServicePort{Name: proto + "-" + number, Protocol: corev1.Protocol(strings.ToUpper(proto)), Port: int32(n)})
		}
	}
	if ports == nil {
		ports = []corev1.ServicePort{{Name: "tcp-80", Port: 80}}
	}
	o.Spec.Ports = ports
	return nil
}

var policies = map[string]corev1.IPFamilyPolicy{"single": corev1.IPFamilyPolicySingleStack, "prefer": corev1.IPFamilyPolicyPreferDualStack,
	"require": corev1.IPFamilyPolicyRequireDualStack}

func (p *play) pod(ctx context.Context, name string, words []string) (err error) {
	switch was := p.pods[name]; {
	case was == nil:
		p.pods[name], err = p.Backend(ctx, 1, labels(words))
		return err
	case words[0] == "gone":
		delete(p.pods, name)
		if err := was.Remove(ctx); err != nil {
			return err
		}
		return p.sliced(was.Name, "gone")
	default:
		if err := was.Ready(ctx, words[0] == "ready"); err != nil {
			return err
		}
		return p.sliced(was.Name, words[0])
	}
}

// sliced waits until the EndpointSlices say of a pod that it is "ready", "unready" or "gone".
func (p *play) sliced(pod, want string) error {
	ctx, cancel := context.WithTimeout(p.t.Context(), wait)
	defer cancel()
	return services.Await(ctx, func(ctx context.Context) error {
		list, err := p.API(1).DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		is := "gone"
		for _, s := range list.Items {
			for _, e := range s.Endpoints {
				switch {
				case e.TargetRef == nil || e.TargetRef.Name != pod:
				case e.Conditions.Ready != nil && *e.Conditions.Ready:
					is = "ready"
				default:
					is = "unready"
				}
			}
		}
		if is != want {
			return fmt.Errorf("%s is %s", pod, is)
		}
		return nil
	})
}

// A sight is one object, or Event, as it is shown.
type sight struct {
	key, uid, words string
	event           bool
}

// news is what has changed since the last line, in words, and what notes that it was shown.
func (p *play) news(ctx context.Context) ([]string, func(), error) {
	words, seen, err := p.look(ctx)
	if err != nil {
		return nil, nil, err
	}
	return words, func() { p.note(seen) }, nil
}

func (p *play) note(seen []sight) {
	clear(p.shown)
	for _, s := range seen {
		if s.event {
			p.events[s.uid] = true
			continue
		}
		p.shown[s.key], p.uids[s.key] = s.words, s.uid
	}
}

func (p *play) look(ctx context.Context) (news []string, all []sight, err error) {
	if all, err = p.sights(ctx); err != nil {
		return nil, nil, err
	}
	there := map[string]bool{}
	for _, s := range all {
		there[s.key] = true
		was, known := p.shown[s.key]
		switch {
		case s.event && !p.events[s.uid]:
			news = append(news, s.words)
		case s.event:
		case known && p.uids[s.key] != s.uid:
			news = append(news, "(another object) "+s.words)
		case !known || was != s.words:
			news = append(news, s.words)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(p.shown)) {
		if !there[key] {
			news = append(news, key+" is gone")
		}
	}
	return news, all, nil
}

// sights are all objects that Pintle has a say in, in an order of their own.
func (p *play) sights(ctx context.Context) (all []sight, err error) {
	api := p.API(1)
	list, err := api.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	conditions := map[string]string{}
	for i := range list.Items {
		o := &list.Items[i]
		if isOthers(o) {
			continue
		}
		key := strings.TrimPrefix(o.Namespace+"/"+o.Name, "default/")
		cond := "not a word"
		if c := meta.FindStatusCondition(o.Status.Conditions, conditionType); c != nil {
			cond = fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
			conditions[key] = c.Reason + ": " + c.Message
		}
		all = append(all, sight{key: key, uid: string(o.UID), words: fmt.Sprintf("%s has %s, %s", key, ingressWords(o), cond)})
	}
	addrs, err := api.Addresses.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, o := range addrs.Items {
		all = append(all, sight{key: o.Spec.Address, uid: string(o.UID), words: addressWords(o)})
	}
	events, err := api.CoreV1().Events("").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=Service,source=pintle"})
	if err != nil {
		return nil, err
	}
	var told []sight
	for _, e := range events.Items {
		key := strings.TrimPrefix(e.InvolvedObject.Namespace+"/"+e.InvolvedObject.Name, "default/")
		if e.InvolvedObject.Namespace == markSpace || p.cleared[string(e.InvolvedObject.UID)] || passing.MatchString(e.Message) {
			continue
		}
		text := e.Reason + ": " + e.Message
		if e.Type == corev1.EventTypeNormal {
			text = e.Reason // that an address makes way for another may be said, or be over
		} else if text == conditions[key] {
			text = e.Reason + ", the same words"
		}
		told = append(told, sight{key: "event", uid: string(e.UID), event: true, words: fmt.Sprintf("%s Event %s %s", key, e.Type, text)})
	}
	slices.SortFunc(told, func(a, b sight) int { return cmp.Compare(a.words, b.words) })
	return append(all, told...), nil
}

// passing is what is said of an address for a moment that nobody may notice.
var passing = regexp.MustCompile("is being (given back|deleted)$")

func ingressWords(o *corev1.Service) string {
	var words []string
	for _, i := range o.Status.LoadBalancer.Ingress {
		mode := "no mode"
		if i.IPMode != nil {
			mode = string(*i.IPMode)
		}
		words = append(words, i.IP+i.Hostname+" ("+mode+")")
	}
	return cmp.Or(strings.Join(words, " "), "nothing")
}

func addressWords(o pintlev1.Address) string {
	return fmt.Sprintf("%s of pool %s for %s is on %s: %s", o.Spec.Address, o.Spec.Pool, cmp.Or(o.Status.Services, "nobody"), cmp.Or(o.Status.Holder, "no node"),
		cmp.Or(o.Status.Reason, "no reason"))
}

// ages are what differs from run to run.
var ages = regexp.MustCompile(`\b([0-9]+[dhms])+(\s|$)`)

// kubectl is what a person sees.
func (p *play) kubectl(ctx context.Context, words []string) ([]string, func(), error) {
	out, err := p.Kubectl(ctx, 1, words...)
	if err != nil {
		return nil, nil, err
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		line = strings.TrimRight(ages.ReplaceAllString(line, "AGO "), " \n")
		lines = append(lines, strings.Join(columns.Split(line, -1), "  "))
	}
	return lines, func() {}, nil
}

var columns = regexp.MustCompile(` {2,}`)
