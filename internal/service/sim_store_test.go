package service

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

// An object is one that Kubernetes keeps.
type object interface {
	metav1.Object
	runtime.Object
}

func copied[T object](o T) T { return o.DeepCopyObject().(T) }

// A store keeps the objects of a cluster by the rules of the API server that matter here: one resourceVersion counts all
// changes; an update names exactly the state that it replaces; what is deleted stays until its last finalizer is removed. Its
// methods are for one goroutine at a time.
type store struct {
	version uint64
	uids    int
	objects map[string]map[string]object // by the name of the watch, and namespace/name
	log     map[string][]event           // all that ever happened
	saw     func(e event, was object)    // is told of each event
	others  map[types.UID]bool           // Services whose ingress another controller wrote
}

// An event is a change of an object.
type event struct {
	kind    string
	version uint64
	object  object // as it is now, or was last
	gone    bool
	at      time.Time
}

func newStore() *store {
	return &store{objects: map[string]map[string]object{}, log: map[string][]event{}, saw: func(event, object) {}, others: map[types.UID]bool{}}
}

func nameOf(o object) string {
	if o.GetNamespace() == "" {
		return o.GetName()
	}
	return o.GetNamespace() + "/" + o.GetName()
}

func group(kind string) schema.GroupResource { return schema.GroupResource{Resource: kind} }

// find returns the object itself, not a copy; nil for none.
func (s *store) find(kind, name string) object { return s.objects[kind][name] }

func (s *store) all(kind string) (out []object) {
	for _, n := range slices.Sorted(maps.Keys(s.objects[kind])) {
		out = append(out, s.objects[kind][n])
	}
	return out
}

// commit stores an object, or its end.
func (s *store) commit(kind string, o object, gone bool) {
	s.version++
	o.SetResourceVersion(strconv.FormatUint(s.version, 10))
	was := s.find(kind, nameOf(o))
	if s.objects[kind] == nil {
		s.objects[kind] = map[string]object{}
	}
	if gone {
		delete(s.objects[kind], nameOf(o))
	} else {
		s.objects[kind][nameOf(o)] = o
	}
	e := event{kind, s.version, o, gone, time.Now()}
	s.log[kind] = append(s.log[kind], e)
	s.saw(e, was)
}

// create stores a new object.
func create[T object](s *store, kind string, o T) (out T, err error) {
	o = copied(o)
	if s.find(kind, nameOf(o)) != nil {
		return out, apierrors.NewAlreadyExists(group(kind), nameOf(o))
	}
	if o.GetResourceVersion() != "" {
		return out, apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	s.uids++
	o.SetUID(types.UID(fmt.Sprintf("uid-%d", s.uids)))
	o.SetGeneration(1)
	o.SetCreationTimestamp(metav1.Time{Time: time.Now().Truncate(time.Second)})
	s.commit(kind, o, false)
	return copied(o), nil
}

// update puts an object in the place of exactly the state that it was made from.
func update[T object](s *store, kind string, o T) (out T, err error) {
	o = copied(o)
	had := s.find(kind, nameOf(o))
	switch {
	case had == nil:
		return out, apierrors.NewNotFound(group(kind), nameOf(o))
	case o.GetResourceVersion() == "":
		return out, apierrors.NewInvalid(schema.GroupKind{Kind: kind}, nameOf(o), nil)
	case o.GetResourceVersion() != had.GetResourceVersion(), o.GetUID() != "" && o.GetUID() != had.GetUID():
		return out, apierrors.NewConflict(group(kind), nameOf(o), fmt.Errorf("it has been modified"))
	}
	o.SetUID(had.GetUID())
	o.SetDeletionTimestamp(had.GetDeletionTimestamp())
	if had.GetDeletionTimestamp() != nil {
		for _, f := range o.GetFinalizers() {
			if !slices.Contains(had.GetFinalizers(), f) {
				return out, apierrors.NewForbidden(group(kind), nameOf(o), fmt.Errorf("no new finalizers can be added if the object is being deleted"))
			}
		}
	}
	if equality.Semantic.DeepEqual(o, had) {
		return copied(o), nil
	}
	s.commit(kind, o, o.GetDeletionTimestamp() != nil && len(o.GetFinalizers()) == 0)
	return copied(o), nil
}

// edit changes an object as a person does, whichever state it is in. It reports whether there is one.
func edit[T object](s *store, kind, name string, change func(T)) bool {
	had, ok := s.find(kind, name).(T)
	if !ok {
		return false
	}
	o := copied(had)
	change(o)
	o.SetGeneration(o.GetGeneration() + 1)
	_, err := update(s, kind, o)
	return err == nil
}

// remove deletes an object; preconditions that are empty are none.
func (s *store) remove(kind, name string, uid types.UID, version string) error {
	had := s.find(kind, name)
	switch {
	case had == nil:
		return apierrors.NewNotFound(group(kind), name)
	case uid != "" && uid != had.GetUID(), version != "" && version != had.GetResourceVersion():
		return apierrors.NewConflict(group(kind), name, fmt.Errorf("it has been modified"))
	case len(had.GetFinalizers()) > 0 && had.GetDeletionTimestamp() != nil:
		return nil
	}
	o := copied(had)
	if len(o.GetFinalizers()) > 0 {
		now := metav1.Time{Time: time.Now().Truncate(time.Second)}
		o.SetDeletionTimestamp(&now)
	}
	s.commit(kind, o, len(o.GetFinalizers()) == 0)
	return nil
}

// applyStatus is what server-side apply makes of what [client.status] sends: what Pintle says takes the place of what it said,
// and of what others did; what it says no more goes, unless another wrote it.
func (s *store) applyStatus(svc *Service, addrs []netip.Addr, cond *metav1.Condition) (*corev1.Service, error) {
	had, ok := s.find("services", svc.Key.String()).(*corev1.Service)
	switch {
	case !ok:
		return nil, apierrors.NewNotFound(group("services"), svc.Name)
	case string(had.UID) != svc.UID:
		return nil, apierrors.NewConflict(group("services"), svc.Name, fmt.Errorf("another UID"))
	}
	o := had.DeepCopy()
	if len(addrs) > 0 || !s.others[o.UID] {
		o.Status.LoadBalancer.Ingress = nil
		delete(s.others, o.UID)
	}
	vip := corev1.LoadBalancerIPModeVIP
	for _, a := range addrs {
		o.Status.LoadBalancer.Ingress = append(o.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a.String(), IPMode: &vip})
	}
	o.Status.Conditions = slices.DeleteFunc(o.Status.Conditions, func(c metav1.Condition) bool { return c.Type == conditionType })
	if cond != nil {
		c := *cond
		c.LastTransitionTime = metav1.Time{Time: c.LastTransitionTime.Truncate(time.Second)}
		meta.SetStatusCondition(&o.Status.Conditions, c)
	}
	if !equality.Semantic.DeepEqual(o, had) {
		s.commit("services", o, false)
	}
	return o.DeepCopy(), nil
}

func (s *store) applyPoolStatus(name string, st pintlev1.AddressPoolStatus) error {
	had, ok := s.find("addresspools", name).(*pintlev1.AddressPool)
	if !ok {
		return apierrors.NewNotFound(group("addresspools"), name)
	}
	o := copied(had)
	o.Status = st
	if !equality.Semantic.DeepEqual(o, had) {
		s.commit("addresspools", o, false)
	}
	return nil
}

// list is what a list of a kind shows that is served as of some event of it: the objects, and the version.
func (s *store) list(kind string, events int) (out []any, version string) {
	there := map[string]object{}
	for _, e := range s.log[kind][:events] {
		if e.gone {
			delete(there, nameOf(e.object))
		} else {
			there[nameOf(e.object)] = e.object
		}
		version = e.object.GetResourceVersion()
	}
	for _, n := range slices.Sorted(maps.Keys(there)) {
		out = append(out, copied(there[n]))
	}
	return out, version
}

// An honestAPI is the store as a Controller sees it when all is well.
type honestAPI struct {
	*store
	writes uint64
	events []*corev1.Event
}

func (a *honestAPI) create(_ context.Context, o *pintlev1.Address) (*pintlev1.Address, error) {
	a.writes++
	return create(a.store, "addresses", o)
}

func (a *honestAPI) update(_ context.Context, o *pintlev1.Address) (*pintlev1.Address, error) {
	a.writes++
	return update(a.store, "addresses", o)
}

func (a *honestAPI) get(_ context.Context, name string) (*pintlev1.Address, error) {
	if o, ok := a.find("addresses", name).(*pintlev1.Address); ok {
		return o.DeepCopy(), nil
	}
	return nil, nil
}

func (a *honestAPI) addresses(_ context.Context, see func(*pintlev1.Address)) error {
	for _, o := range a.all("addresses") {
		see(o.(*pintlev1.Address).DeepCopy())
	}
	return nil
}

func (a *honestAPI) remove(_ context.Context, o *pintlev1.Address) error {
	a.writes++
	return a.store.remove("addresses", o.Name, o.UID, o.ResourceVersion)
}

func (a *honestAPI) service(_ context.Context, k ipam.Key) (string, error) {
	if o := a.find("services", k.String()); o != nil {
		return string(o.GetUID()), nil
	}
	return "", nil
}

func (a *honestAPI) status(_ context.Context, s *Service, addrs []netip.Addr, cond *metav1.Condition) (*corev1.Service, error) {
	a.writes++
	return a.applyStatus(s, addrs, cond)
}

func (a *honestAPI) poolStatus(_ context.Context, name string, st pintlev1.AddressPoolStatus) error {
	a.writes++
	return a.applyPoolStatus(name, st)
}

func (a *honestAPI) event(_ context.Context, e *corev1.Event) error {
	a.writes++
	a.events = append(a.events, e)
	return nil
}

func (a *honestAPI) seat(_ context.Context, namespace string) (*coordinationv1.Lease, error) {
	if o, ok := a.find("seat", namespace+"/"+seatName).(*coordinationv1.Lease); ok {
		return o.DeepCopy(), nil
	}
	return nil, nil
}

func (a *honestAPI) putSeat(_ context.Context, o *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	a.writes++
	if o.ResourceVersion == "" {
		return create(a.store, "seat", o)
	}
	return update(a.store, "seat", o)
}

func (a *honestAPI) written() uint64 { return a.writes }
