package service

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/go-logr/logr"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	watchapi "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"golang.org/x/sync/errgroup"

	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

// A feed takes what a watch brings, and hands it to the loop. It implements cache.ReflectorStore and keeps nothing.
type feed struct {
	c       *Controller
	name    string
	put     func(o runtime.Object)
	drop    func(o runtime.Object)
	replace func(all []runtime.Object, of listing)
	last    uint64 // the newest list; a later one that is older comes from a backup
}

// A listing is what a list says of itself. It may be older than what the answers to writes have shown.
type listing struct {
	version  uint64
	restored bool // from a backup: what was known is not
}

// The reflector's goroutine calls these.

func (s *feed) Add(o any) error    { return s.hand(o, s.put) }
func (s *feed) Update(o any) error { return s.hand(o, s.put) }
func (s *feed) Delete(o any) error { return s.hand(o, s.drop) }
func (s *feed) Resync() error      { return nil }

// Transformer implements cache.TransformingStore: nobody needs to know who wrote which field.
func (s *feed) Transformer() cache.TransformFunc { return trim }

func trim(o any) (any, error) {
	if m, err := meta.Accessor(o); err == nil {
		m.SetManagedFields(nil)
	}
	return o, nil
}

func (s *feed) hand(o any, to func(runtime.Object)) error {
	if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = d.Obj
	}
	obj, ok := o.(runtime.Object)
	if !ok {
		return fmt.Errorf("watch %s: an object of type %T", s.name, o)
	}
	_, _ = trim(obj)
	s.c.post(func() { to(obj) })
	return nil
}

// Replace takes the whole list.
func (s *feed) Replace(list []any, resourceVersion string) error {
	all := make([]runtime.Object, 0, len(list))
	for _, o := range list {
		if obj, ok := o.(runtime.Object); ok {
			_, _ = trim(obj)
			all = append(all, obj)
		}
	}
	v := version(resourceVersion)
	restored := v != 0 && v < s.last
	s.last = v
	s.c.post(func() {
		s.replace(all, listing{v, restored})
		s.c.synced[s.name] = true
	})
	return nil
}

// feeds are all watches.
func (c *Controller) feeds(cl *client) map[*feed]*cache.ListWatch {
	list := cache.NewListWatchFromClient
	all := fields.Everything()
	return map[*feed]*cache.ListWatch{
		{c: c, name: "services", put: c.putService, drop: c.dropService, replace: c.replaceServices}:            list(cl.core, "services", "", all),
		{c: c, name: "endpointslices", put: c.putSlice, drop: c.dropSlice, replace: c.replaceSlices}:            list(cl.slices, "endpointslices", "", all),
		{c: c, name: "nodes", put: c.putNode, drop: c.dropNode, replace: c.replaceNodes}:                        list(cl.core, "nodes", "", all),
		{c: c, name: "namespaces", put: c.putNamespace, drop: c.dropNamespace, replace: c.replaceNamespaces}:    list(cl.core, "namespaces", "", all),
		{c: c, name: "addresspools", put: c.putPool, drop: c.dropPool, replace: c.replacePools}:                 list(cl.pintle, "addresspools", "", all),
		{c: c, name: "addresses", put: c.putAddress, drop: c.dropAddress, replace: c.replaceAddresses}:          list(cl.pintle, "addresses", "", all),
		{c: c, name: "seat", put: c.putSeat, drop: func(runtime.Object) { c.sit(nil) }, replace: c.replaceSeat}: list(cl.leases, "leases", c.cfg.Namespace, fields.OneTermEqualSelector("metadata.name", seatName)),
	}
}

var kinds = map[string]runtime.Object{"services": &corev1.Service{}, "endpointslices": &discoveryv1.EndpointSlice{}, "nodes": &corev1.Node{},
	"namespaces": &corev1.Namespace{}, "addresspools": &pintlev1.AddressPool{}, "addresses": &pintlev1.Address{}, "seat": &coordinationv1.Lease{}}

// follow watches everything until ctx ends.
func (c *Controller) follow(ctx context.Context, cl *client) error {
	g, ctx := errgroup.WithContext(ctx)
	log := klog.Logger(logr.FromSlogHandler(quiet{c.log.With("part", "watch").Handler()}))
	ctx = klog.NewContext(ctx, log)
	for f, lw := range c.feeds(cl) {
		c.overhear(f.name, lw)
		r := cache.NewReflectorWithOptions(lw, kinds[f.name], f, cache.ReflectorOptions{Name: f.name, Logger: &log,
			Backoff: &wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 6, Cap: 3 * time.Second}})
		c.faults[f.name] = ""
		g.Go(func() error { r.RunWithContext(ctx); return nil })
	}
	return g.Wait()
}

// overhear learns of the errors of a list and a watch, which the reflector only logs.
func (c *Controller) overhear(name string, lw *cache.ListWatch) {
	list, watch := lw.ListWithContextFunc, lw.WatchFuncWithContext
	lw.ListWithContextFunc = func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		out, err := list(ctx, o)
		c.watched(ctx, name, err)
		return out, err
	}
	lw.WatchFuncWithContext = func(ctx context.Context, o metav1.ListOptions) (watchapi.Interface, error) {
		out, err := watch(ctx, o)
		switch {
		case err == nil:
			c.post(func() { c.heardOf(name) })
		case o.SendInitialEvents == nil || !apierrors.IsInvalid(err): // an older API server lists, and is asked again without it
			c.watched(ctx, name, err)
		}
		return out, err
	}
}

func (c *Controller) watched(ctx context.Context, name string, err error) {
	if err != nil && ctx.Err() == nil && !apierrors.IsResourceExpired(err) {
		c.watchFailed(name, err)
	}
}

// watchFailed notes why a watch could not go on; it is tried again.
func (c *Controller) watchFailed(name string, err error) {
	c.post(func() {
		if c.faults[name] == "" {
			c.log.Log(context.Background(), level(err), "cannot follow, trying again", "objects", name, "err", err)
		}
		c.faults[name] = err.Error()
	})
}

// heardOf notes that a watch has begun.
func (c *Controller) heardOf(name string) {
	if c.faults[name] != "" {
		c.faults[name] = ""
		c.log.Info("follows again", "objects", name)
	}
}

// refused reports whether an API server answered and does not let this node do something.
func refused(err error) bool { return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) }

func level(err error) slog.Level {
	if refused(err) {
		return slog.LevelError
	}
	return slog.LevelWarn
}

// What follows runs in the loop.

func (c *Controller) putService(o runtime.Object) {
	c.seeService(readService(o.(*corev1.Service)))
}

func (c *Controller) seeService(s *Service) {
	if was := c.facts.Services[s.Key]; was != nil && was.UID == s.UID && was.Version >= s.Version {
		return
	}
	c.facts.Services[s.Key] = s
	c.serviceChanged(s.Key)
}

func (c *Controller) dropService(o runtime.Object) {
	s := readService(o.(*corev1.Service))
	if was := c.facts.Services[s.Key]; was != nil && was.UID == s.UID {
		delete(c.facts.Services, s.Key)
		c.serviceChanged(s.Key)
	}
}

func (c *Controller) replaceServices(all []runtime.Object, of listing) {
	there := map[ipam.Key]string{}
	for _, o := range all {
		s := readService(o.(*corev1.Service))
		there[s.Key] = s.UID
		if of.restored {
			delete(c.facts.Services, s.Key)
		}
		c.seeService(s)
	}
	for k, s := range c.facts.Services {
		if there[k] != s.UID {
			delete(c.facts.Services, k)
			c.serviceChanged(k)
		}
	}
}

func (c *Controller) putSlice(o runtime.Object) {
	s := o.(*discoveryv1.EndpointSlice)
	e := readSlice(s)
	m := c.facts.Slices[e.Service]
	if m == nil {
		m = map[string]*Endpoints{}
		c.facts.Slices[e.Service] = m
	}
	m[s.Name] = e
	c.endpointsChanged(e.Service)
}

func (c *Controller) dropSlice(o runtime.Object) {
	s := o.(*discoveryv1.EndpointSlice)
	k := readSlice(s).Service
	delete(c.facts.Slices[k], s.Name)
	if len(c.facts.Slices[k]) == 0 {
		delete(c.facts.Slices, k)
	}
	c.endpointsChanged(k)
}

func (c *Controller) replaceSlices(all []runtime.Object, _ listing) {
	before := c.facts.Slices
	c.facts.Slices = map[ipam.Key]map[string]*Endpoints{}
	for _, o := range all {
		c.putSlice(o)
	}
	for k := range before {
		c.endpointsChanged(k)
	}
}

// endpointsChanged has the addresses of a Service looked at, if it matters where its endpoints are.
func (c *Controller) endpointsChanged(k ipam.Key) {
	if s := c.facts.Services[k]; s != nil && s.Local && c.coord != nil {
		c.coord.serviceChanged(k)
	}
}

func (c *Controller) putNode(o runtime.Object) {
	n := readNode(o.(*corev1.Node))
	was := c.facts.Nodes[n.Name]
	c.facts.Nodes[n.Name] = n
	if was == nil || !sameNode(was, n) {
		c.placesChanged()
	}
}

func (c *Controller) dropNode(o runtime.Object) {
	delete(c.facts.Nodes, o.(*corev1.Node).Name)
	c.placesChanged()
}

func (c *Controller) replaceNodes(all []runtime.Object, _ listing) {
	c.facts.Nodes = map[string]*NodeInfo{}
	for _, o := range all {
		c.putNode(o)
	}
	c.placesChanged()
}

func (c *Controller) putNamespace(o runtime.Object) {
	n := o.(*corev1.Namespace)
	c.facts.Namespaces[n.Name] = n.Labels
	if c.coord == nil {
		return
	}
	for k := range c.facts.Services {
		if k.Namespace == n.Name {
			c.coord.serviceChanged(k)
		}
	}
}

func (c *Controller) dropNamespace(o runtime.Object) {
	delete(c.facts.Namespaces, o.(*corev1.Namespace).Name)
}

func (c *Controller) replaceNamespaces(all []runtime.Object, _ listing) {
	c.facts.Namespaces = map[string]map[string]string{}
	for _, o := range all {
		c.putNamespace(o)
	}
}

func (c *Controller) putPool(o runtime.Object) {
	p := o.(*pintlev1.AddressPool)
	was := c.facts.Pools[p.Name]
	c.facts.Pools[p.Name] = readPool(p)
	if was == nil || was.Object.Generation != p.Generation || was.Object.UID != p.UID {
		c.poolsChanged()
	}
}

func (c *Controller) dropPool(o runtime.Object) {
	delete(c.facts.Pools, o.(*pintlev1.AddressPool).Name)
	c.poolsChanged()
}

func (c *Controller) replacePools(all []runtime.Object, _ listing) {
	c.facts.Pools = map[string]*Pool{}
	for _, o := range all {
		c.putPool(o)
	}
	c.poolsChanged()
}

func (c *Controller) putAddress(o runtime.Object) {
	c.seeAddress(o.(*pintlev1.Address))
}

func (c *Controller) dropAddress(o runtime.Object) {
	a := o.(*pintlev1.Address)
	v := version(a.ResourceVersion)
	if r := c.facts.Records[addressOf(a)]; r != nil && r.Object.UID == a.UID && r.Version <= v { // it may be being made anew
		c.loseAddress(r.Addr, v)
	}
}

func (c *Controller) replaceAddresses(all []runtime.Object, of listing) {
	if of.restored {
		clear(c.lost)
	}
	there := map[netip.Addr]bool{}
	for _, o := range all {
		a := o.(*pintlev1.Address)
		there[addressOf(a)] = true
		if r := c.facts.Records[addressOf(a)]; r != nil && of.restored {
			r.Version = 0
		}
		c.seeAddress(a)
	}
	for a, r := range c.facts.Records {
		if !there[a] && !r.Writing && (r.Version <= of.version || of.restored) {
			c.loseAddress(a, of.version)
		}
	}
}

// seeAddress takes a state of an Address object, if it is newer than the one that is known.
func (c *Controller) seeAddress(o *pintlev1.Address) {
	a := addressOf(o)
	if !a.IsValid() {
		c.log.Error("an Address object that is not named for its address is ignored: delete it", "name", o.Name, "addr", o.Spec.Address)
		return
	}
	o.ManagedFields = nil
	r, v := c.facts.Records[a], version(o.ResourceVersion)
	if r != nil && r.Version >= v || c.lost[a] >= v {
		return
	}
	delete(c.lost, a)
	if r == nil {
		r = &Record{Addr: a}
		c.facts.Records[a] = r
	}
	if r.Object != nil && r.Object.UID != o.UID {
		delete(c.hold.gone, a) // turns are counted anew
	}
	if was := r.Object; was != nil && was.Status.Holder != "" && was.Status.Holder != c.cfg.Node && o.Status.Holder == c.cfg.Node {
		c.flush.arrives(a, c.facts.Now)
	}
	r.Object, r.Version = o, v
	c.recordChanged(a)
}

// loseAddress takes that an object is gone, in all states up to a version: a watch that is late may bring some of them yet.
func (c *Controller) loseAddress(a netip.Addr, version uint64) {
	c.lost[a] = version
	delete(c.facts.Records, a)
	delete(c.hold.gone, a)
	delete(c.hold.again, a)
	c.recordChanged(a)
}

func (c *Controller) putSeat(o runtime.Object) {
	c.sit(o.(*coordinationv1.Lease))
}

func (c *Controller) replaceSeat(all []runtime.Object, _ listing) {
	c.facts.Seat.version = 0 // the list is the truth
	if len(all) == 0 {
		c.sit(nil)
		return
	}
	c.putSeat(all[0])
}

// sit takes a state of the seat.
func (c *Controller) sit(o *coordinationv1.Lease) {
	next, was := readSeat(o), c.facts.Seat
	if o != nil && was.version >= next.version && was.version != 0 {
		return
	}
	if next.Node == was.Node {
		next.vacant = was.vacant
	}
	if next.Node != was.Node || next.Epoch != was.Epoch {
		c.log.Info("coordinator", "peer", next.Node, "epoch", next.Epoch)
	}
	c.facts.Seat = next
}

func sameNode(a, b *NodeInfo) bool {
	return a.Excluded == b.Excluded && a.Cordoned == b.Cordoned && a.Weight == b.Weight && a.Priority == b.Priority &&
		metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: a.Labels}) == metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: b.Labels})
}

// quiet lets through as details what a library logs: it says again and again what is told here once.
type quiet struct{ slog.Handler }

// Enabled implements [slog.Handler].
func (q quiet) Enabled(ctx context.Context, _ slog.Level) bool {
	return q.Handler.Enabled(ctx, slog.LevelDebug)
}

// Handle implements [slog.Handler].
func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return q.Handler.Handle(ctx, r)
}

// WithAttrs implements [slog.Handler].
func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

// WithGroup implements [slog.Handler].
func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }
