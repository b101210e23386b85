package leader

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// A fakeStore behaves as etcd behind API servers does for Lease objects: the
// rules that test/cluster proves on the real ones.
type fakeStore struct {
	mu      sync.Mutex // guards what follows
	version int64
	uids    int
	objects map[string]*coordinationv1.Lease
	life    int // changes with a restore: watches of the old one end
	changed chan struct{}
	log     []watch.Event // of this life
	writes  int
	reads   int

	under sync.WaitGroup // writes under way
}

func newFakeStore() *fakeStore {
	return &fakeStore{changed: make(chan struct{}), version: 100, objects: map[string]*coordinationv1.Lease{}}
}

var leases = schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}

func (s *fakeStore) get(name string) *coordinationv1.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	return s.objects[name].DeepCopy()
}

// list is all objects with a label, and the version that they are of.
func (s *fakeStore) list(group string) *coordinationv1.LeaseList {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	l := &coordinationv1.LeaseList{}
	l.ResourceVersion = strconv.FormatInt(s.version, 10)
	for _, name := range slices.Sorted(maps.Keys(s.objects)) {
		if o := s.objects[name]; o.Labels[groupLabel] == group {
			l.Items = append(l.Items, *o.DeepCopy())
		}
	}
	return l
}

// put is an update with preconditions, which makes the object where there is
// none and none was named.
func (s *fakeStore) put(o *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	kind := watch.Modified
	o = o.DeepCopy()
	had := s.objects[o.Name]
	switch {
	case had == nil && o.UID != "":
		return nil, apierrors.NewConflict(leases, o.Name, errors.New("uid mismatch: there is none"))
	case had == nil:
		s.uids++
		o.UID = types.UID(fmt.Sprintf("uid-%d", s.uids))
		kind = watch.Added
	case o.ResourceVersion == "":
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: leases.Group, Kind: "Lease"}, o.Name, nil)
	case o.UID != "" && o.UID != had.UID:
		return nil, apierrors.NewConflict(leases, o.Name, errors.New("uid mismatch"))
	case o.ResourceVersion != had.ResourceVersion:
		return nil, apierrors.NewConflict(leases, o.Name, errors.New("the object has been modified"))
	}
	s.commit(kind, o)
	return o.DeepCopy(), nil
}

// commit stores an object and tells the watches. The caller holds mu.
func (s *fakeStore) commit(kind watch.EventType, o *coordinationv1.Lease) {
	s.version++
	o.ResourceVersion = strconv.FormatInt(s.version, 10)
	s.log = append(s.log, watch.Event{Type: kind, Object: o.DeepCopy()})
	s.objects[o.Name] = o
	if kind == watch.Deleted {
		delete(s.objects, o.Name)
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// edit changes an object as a person would; a nil result deletes it.
func (s *fakeStore) edit(name string, change func(*coordinationv1.Lease) *coordinationv1.Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	had := s.objects[name]
	if had == nil {
		return
	}
	if o := change(had.DeepCopy()); o != nil {
		s.commit(watch.Modified, o)
	} else {
		s.commit(watch.Deleted, had.DeepCopy())
	}
}

// A backup is the store at some time.
type backup struct {
	version int64
	objects map[string]*coordinationv1.Lease
	taken   time.Time
}

func (s *fakeStore) backup() backup {
	s.mu.Lock()
	defer s.mu.Unlock()
	return backup{s.version, maps.Clone(s.objects), time.Now()}
}

// restore goes back to a backup: versions come again, and watches end.
func (s *fakeStore) restore(b backup) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version, s.objects, s.log = b.version, maps.Clone(b.objects), nil // an object is not changed but replaced
	s.life++
	close(s.changed)
	s.changed = make(chan struct{})
}

// A fakeServer is an API server before the store.
type fakeServer struct {
	store *fakeStore
	name  string

	mu     sync.Mutex // guards what follows
	down   bool
	frozen chan struct{} // closed when it thaws; nil when it is not frozen
	before func() time.Duration
	after  func() time.Duration
	lose   func() error // the answer to a write that was committed
	died   chan struct{}
}

func newFakeServer(s *fakeStore, name string) *fakeServer {
	return &fakeServer{store: s, name: name, died: make(chan struct{})}
}

func (s *fakeServer) early() time.Duration {
	return s.delay(func() func() time.Duration { return s.before })
}
func (s *fakeServer) late() time.Duration {
	return s.delay(func() func() time.Duration { return s.after })
}

func (s *fakeServer) delay(which func() func() time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := which(); f != nil {
		return f()
	}
	return 0
}

func (s *fakeServer) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *fakeServer) kill() {
	s.set(func() {
		if !s.down {
			s.down = true
			close(s.died)
		}
	})
}

func (s *fakeServer) start() {
	s.set(func() {
		if s.down {
			s.down, s.died = false, make(chan struct{})
		}
	})
}

func (s *fakeServer) freeze() {
	s.set(func() {
		if s.frozen == nil {
			s.frozen = make(chan struct{})
		}
	})
}

func (s *fakeServer) thaw() {
	s.set(func() {
		if s.frozen != nil {
			close(s.frozen)
			s.frozen = nil
		}
	})
}

var errRefused = errors.New("connection refused")

// pass waits until the server works, or says that it is dead.
func (s *fakeServer) pass(ctx context.Context, l *fakeLink, delay func() time.Duration) error {
	if d := delay(); d > 0 { // the race detector does not get on with timers of 0 in a bubble
		sleep(ctx, d)
	}
	for {
		s.mu.Lock()
		down, frozen := s.down, s.frozen
		s.mu.Unlock()
		cut := l.isCut()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case cut != nil:
			frozen = cut
		case down:
			return errRefused
		case frozen == nil:
			return nil
		}
		select {
		case <-ctx.Done():
		case <-frozen:
		}
	}
}

// A fakeLink is the network of one node.
type fakeLink struct {
	mu   sync.Mutex    // guards what follows
	cut  chan struct{} // closed when it heals; nil when it is whole
	late time.Duration // how long answers and events take
}

func (l *fakeLink) setLate(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late = d
}

func (l *fakeLink) delay() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.late
}

func (l *fakeLink) isCut() chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cut
}

func (l *fakeLink) set(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case cut && l.cut == nil:
		l.cut = make(chan struct{})
	case !cut && l.cut != nil:
		close(l.cut)
		l.cut = nil
	}
}

// fakeAPI is a leaseAPI of a node through a server.
type fakeAPI struct {
	*fakeServer
	link *fakeLink
}

func (a fakeAPI) answers() time.Duration { return a.late() + a.link.delay() }

func (a fakeAPI) Servers(context.Context) ([]string, error) { return nil, nil }

func (a fakeAPI) DryPut(ctx context.Context, _ *coordinationv1.Lease) error {
	return a.pass(ctx, a.link, a.early)
}

func (a fakeAPI) Get(ctx context.Context, name string) (*coordinationv1.Lease, error) {
	if err := a.pass(ctx, a.link, a.early); err != nil {
		return nil, err
	}
	o := a.store.get(name)
	return o, a.pass(ctx, a.link, a.answers)
}

func (a fakeAPI) List(ctx context.Context, group string) (*coordinationv1.LeaseList, error) {
	if err := a.pass(ctx, a.link, a.early); err != nil {
		return nil, err
	}
	l := a.store.list(group)
	return l, a.pass(ctx, a.link, a.answers)
}

func (a fakeAPI) Put(ctx context.Context, o *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	// What was sent is not called back when its sender gives up.
	type said struct {
		o   *coordinationv1.Lease
		err error
	}
	out := make(chan said, 1)
	a.store.under.Go(func() {
		limit, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if err := a.pass(limit, a.link, a.early); err != nil {
			out <- said{nil, err}
			return
		}
		o, err := a.store.put(o)
		if perr := a.pass(limit, a.link, a.answers); perr != nil {
			err = perr
		}
		a.mu.Lock()
		lose := a.lose
		a.mu.Unlock()
		if err == nil && lose != nil {
			err = lose()
		}
		out <- said{o, err}
	})
	select {
	case s := <-out:
		return s.o, s.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (a fakeAPI) Watch(ctx context.Context, name string) (watch.Interface, error) {
	return a.watch(ctx, "", func(o *coordinationv1.Lease) bool { return o.Name == name })
}

func (a fakeAPI) WatchGroup(ctx context.Context, group, version string) (watch.Interface, error) {
	return a.watch(ctx, version, func(o *coordinationv1.Lease) bool { return o.Labels[groupLabel] == group })
}

// watch tells what is there first, if no version is named, and the changes after it.
func (a fakeAPI) watch(ctx context.Context, version string, selected func(*coordinationv1.Lease) bool) (watch.Interface, error) {
	if err := a.pass(ctx, a.link, a.early); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &fakeWatch{events: make(chan watch.Event), cancel: cancel}
	a.mu.Lock()
	died := a.died
	a.mu.Unlock()
	s := a.store
	s.mu.Lock()
	life, from := s.life, len(s.log)
	var first []watch.Event
	after, _ := strconv.ParseInt(version, 10, 64)
	switch {
	case version == "":
		for _, o := range s.objects {
			if selected(o) {
				first = append(first, watch.Event{Type: watch.Added, Object: o})
			}
		}
	case after > s.version || len(s.log) > 0 && after < versionOf(s.log[0])-1 || len(s.log) == 0 && after != s.version:
		s.mu.Unlock()
		cancel()
		return nil, apierrors.NewResourceExpired("too old or too large resource version")
	default:
		for from > 0 && versionOf(s.log[from-1]) > after {
			from--
		}
	}
	told := map[string]bool{} // of the objects selected
	for _, o := range s.objects {
		told[o.Name] = selected(o)
	}
	for _, e := range s.log[from:] {
		told[e.Object.(*coordinationv1.Lease).Name] = true
	}
	s.mu.Unlock()
	go func() {
		defer close(w.events)
		for {
			for _, e := range first {
				if a.pass(ctx, a.link, a.answers) != nil {
					return
				}
				select {
				case w.events <- watch.Event{Type: e.Type, Object: e.Object.DeepCopyObject()}:
				case <-ctx.Done():
					return
				case <-died:
					return
				}
			}
			s.mu.Lock()
			changed, same := s.changed, s.life == life
			first = nil
			if same {
				for _, e := range s.log[from:] {
					o := e.Object.(*coordinationv1.Lease)
					switch {
					case selected(o):
						first = append(first, e)
					case told[o.Name]:
						first = append(first, watch.Event{Type: watch.Deleted, Object: o}) // it is not among those any more
					}
					told[o.Name] = selected(o)
				}
				from = len(s.log)
			}
			s.mu.Unlock()
			if !same {
				return
			}
			if len(first) > 0 {
				continue
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			case <-died:
				return
			}
		}
	}()
	return w, nil
}

func versionOf(e watch.Event) int64 {
	v, _ := strconv.ParseInt(e.Object.(*coordinationv1.Lease).ResourceVersion, 10, 64)
	return v
}

type fakeWatch struct {
	events chan watch.Event
	cancel func()
}

func (w *fakeWatch) Stop()                          { w.cancel() }
func (w *fakeWatch) ResultChan() <-chan watch.Event { return w.events }

// kubeWorld is some Kube electors before one store, each with a server of its
// own that it asks first.
type kubeWorld struct {
	t       testing.TB
	store   *fakeStore
	names   []string
	servers map[string]*fakeServer
	links   map[string]*fakeLink
	change  func(*KubeConfig)
	since   time.Time

	mu    sync.Mutex // guards nodes
	nodes map[string]*kubeNode
}

type kubeNode struct {
	kube   *Kube
	cancel func()
	done   chan struct{}
	mu     sync.Mutex // guards what follows
	leases []*Lease
	over   []*Lease
	term   Term
}

const kubeSeat = "cp"

func newKubeWorld(t testing.TB, n int, change func(*KubeConfig)) *kubeWorld {
	w := &kubeWorld{t: t, store: newFakeStore(), servers: map[string]*fakeServer{}, links: map[string]*fakeLink{}, change: change, since: time.Now(), nodes: map[string]*kubeNode{}}
	for i := range n {
		name := fmt.Sprintf("n%d", i+1)
		w.names = append(w.names, name)
		w.servers[name] = newFakeServer(w.store, name)
		w.links[name] = &fakeLink{}
	}
	t.Cleanup(func() {
		for _, s := range w.servers {
			s.start()
			s.thaw()
		}
		for _, n := range w.names {
			w.links[n].set(false)
			w.stop(n)
		}
		w.store.under.Wait()
	})
	return w
}

// config is that of a node: its own server first, the others after it.
func (w *kubeWorld) config(name string) KubeConfig {
	c := KubeConfig{Seat: kubeSeat, Node: name, Namespace: "kube-system", Name: "pintle", Duration: 2 * time.Second, Candidate: true,
		Clock:   func() Instant { return Instant(time.Hour) + Instant(time.Since(w.since)) },
		Servers: []string{name}, open: func(url string) (leaseAPI, error) { return fakeAPI{w.servers[url], w.links[name]}, nil }}
	for _, o := range w.names {
		if o != name {
			c.Servers = append(c.Servers, o)
		}
	}
	if w.change != nil {
		w.change(&c)
	}
	return c
}

func (w *kubeWorld) start(name string, report func(Term)) {
	k, err := OpenKube(w.config(name))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &kubeNode{kube: k, cancel: cancel, done: make(chan struct{})}
	w.mu.Lock()
	w.nodes[name] = n
	w.mu.Unlock()
	k.Set([]string{kubeSeat})
	go func() {
		defer close(n.done)
		err := k.Run(ctx, func(_ string, t Term) {
			n.see(t)
			if report != nil {
				report(t)
			}
		})
		if err != nil {
			w.t.Errorf("%s: %v", name, err)
		}
	}()
}

func (n *kubeNode) see(t Term) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.term = t
	if t.Lease != nil && (len(n.leases) == 0 || n.leases[len(n.leases)-1] != t.Lease) {
		n.leases = append(n.leases, t.Lease)
	}
}

func (n *kubeNode) last() Term {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.term
}

func (w *kubeWorld) node(name string) *kubeNode {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.nodes[name]
}

func (w *kubeWorld) stop(name string) {
	n := w.node(name)
	if n == nil {
		return
	}
	n.cancel()
	<-n.done
	w.mu.Lock()
	delete(w.nodes, name)
	w.mu.Unlock()
}

// sample reports whether a lease of the node is valid, and that none is revived.
func (n *kubeNode) sample(t testing.TB, name string) (valid bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.over {
		if l.Valid() {
			t.Errorf("a lease of %s was revived", name)
		}
	}
	kept := n.leases[:0]
	for _, l := range n.leases {
		if l.Valid() {
			valid = true
			kept = append(kept, l)
		} else {
			n.over = append(n.over, l)
		}
	}
	n.leases = kept
	if len(n.over) > 16 {
		n.over = n.over[len(n.over)-16:]
	}
	return valid
}

// KubeCluster is a leadertest.Cluster.
type KubeCluster struct{ *kubeWorld }

func NewKubeCluster(t *testing.T) *KubeCluster { return &KubeCluster{newKubeWorld(t, 3, nil)} }

// NewHeirCluster is one whose processes take their own tenures up again: each node
// may run one process at a time.
func NewHeirCluster(t *testing.T) *KubeCluster {
	return &KubeCluster{newKubeWorld(t, 3, func(c *KubeConfig) { c.Heir = "host of " + c.Node })}
}

func (c *KubeCluster) Seat() string                           { return kubeSeat }
func (c *KubeCluster) Nodes() []string                        { return c.names }
func (c *KubeCluster) Start(node string, report func(t Term)) { c.start(node, report) }
func (c *KubeCluster) Stop(node string)                       { c.stop(node) }
func (c *KubeCluster) Elector(node string) Elector            { return c.node(node).kube }
func (c *KubeCluster) Ready()                                 {}
func (c *KubeCluster) Partition(node string)                  { c.links[node].set(true) }
func (c *KubeCluster) Heal(node string)                       { c.links[node].set(false) }
