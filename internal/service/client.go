package service

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

// manager is whose fields are Pintle's, by server-side apply.
const manager = "pintle"

var scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme, coordinationv1.AddToScheme, pintlev1.AddToScheme} {
		if err := add(s); err != nil {
			panic("add to scheme: " + err.Error()) // fixed types
		}
	}
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	return s
}()

// An api is what a Controller writes to, and reads when a write met another state than it was made for. The calls end with their
// context, and may be made from any goroutine.
type api interface {
	create(ctx context.Context, o *pintlev1.Address) (*pintlev1.Address, error)
	update(ctx context.Context, o *pintlev1.Address) (*pintlev1.Address, error) // over exactly the state that o was made from
	get(ctx context.Context, name string) (*pintlev1.Address, error)            // as the quorum has it; nil for none
	addresses(ctx context.Context, see func(*pintlev1.Address)) error           // all, as the quorum has them
	remove(ctx context.Context, o *pintlev1.Address) error                      // exactly this state
	service(ctx context.Context, k ipam.Key) (uid string, err error)            // as the quorum has it; "" for none
	status(ctx context.Context, s *Service, addrs []netip.Addr, cond *metav1.Condition) (*corev1.Service, error)
	poolStatus(ctx context.Context, name string, st pintlev1.AddressPoolStatus) error
	event(ctx context.Context, e *corev1.Event) error
	seat(ctx context.Context, namespace string) (*coordinationv1.Lease, error) // as the quorum has it; nil for none
	putSeat(ctx context.Context, o *coordinationv1.Lease) (*coordinationv1.Lease, error)
	written() uint64 // writes so far
}

// A client asks the API of one cluster. Its calls end with their context, and after callLimit.
type client struct {
	core, slices, leases, pintle rest.Interface
	writes                       atomic.Uint64
}

// callLimit is how long one write may take.
const callLimit = 15 * time.Second

// openClient makes a client. It asks nobody.
func openClient(c *rest.Config) (*client, error) {
	c = rest.CopyConfig(c)
	c.QPS, c.RateLimiter = -1, nil
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	out := &client{}
	for _, g := range []struct {
		to   *rest.Interface
		gv   schema.GroupVersion
		path string
		kind string
	}{
		{&out.core, corev1.SchemeGroupVersion, "/api", runtime.ContentTypeProtobuf},
		{&out.slices, discoveryv1.SchemeGroupVersion, "/apis", runtime.ContentTypeProtobuf},
		{&out.leases, coordinationv1.SchemeGroupVersion, "/apis", runtime.ContentTypeProtobuf},
		{&out.pintle, pintlev1.GroupVersion, "/apis", runtime.ContentTypeJSON},
	} {
		var err error
		if *g.to, err = groupClient(c, g.gv, g.path, g.kind); err != nil {
			return nil, fmt.Errorf("reach the Kubernetes API: %w", err)
		}
	}
	return out, nil
}

// groupClient has connections of its own: client-go keeps 25 of a client's, and closes what more of them become idle, so that each
// write beyond them would cost a handshake.
func groupClient(c *rest.Config, gv schema.GroupVersion, path, kind string) (rest.Interface, error) {
	c = rest.CopyConfig(c)
	c.GroupVersion, c.APIPath, c.ContentType = &gv, path, kind
	if kind != runtime.ContentTypeJSON {
		c.AcceptContentTypes = kind + "," + runtime.ContentTypeJSON
	}
	return rest.RESTClientFor(c)
}

func (c *client) written() uint64 { return c.writes.Load() }

// create makes an Address object.
func (c *client) create(ctx context.Context, o *pintlev1.Address) (*pintlev1.Address, error) {
	c.writes.Add(1)
	out := &pintlev1.Address{}
	return out, c.pintle.Post().Resource("addresses").MaxRetries(0).Body(typed(o)).Do(ctx).Into(out)
}

// update puts an Address object in the place of exactly the state that it was made from.
func (c *client) update(ctx context.Context, o *pintlev1.Address) (*pintlev1.Address, error) {
	c.writes.Add(1)
	o = typed(o)
	out := &pintlev1.Address{}
	return out, c.pintle.Put().Resource("addresses").Name(o.Name).MaxRetries(0).Body(o).Do(ctx).Into(out)
}

func typed(o *pintlev1.Address) *pintlev1.Address {
	out := *o
	out.TypeMeta = metav1.TypeMeta{APIVersion: pintlev1.GroupVersion.String(), Kind: "Address"}
	out.ManagedFields = nil
	return &out
}

// get reads an Address object as the quorum has it; nil for none.
func (c *client) get(ctx context.Context, name string) (*pintlev1.Address, error) {
	out := &pintlev1.Address{}
	err := c.pintle.Get().Resource("addresses").Name(name).MaxRetries(0).Do(ctx).Into(out)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return out, err
}

// pageSize is how many objects are read at a time.
const pageSize = 500

// addresses reads all Address objects as the quorum has them.
func (c *client) addresses(ctx context.Context, see func(*pintlev1.Address)) error {
	for next := ""; ; {
		page, err := c.page(ctx, next)
		if err != nil {
			return err
		}
		for i := range page.Items {
			see(&page.Items[i])
		}
		if next = page.Continue; next == "" {
			return nil
		}
	}
}

func (c *client) page(ctx context.Context, next string) (*pintlev1.AddressList, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	out := &pintlev1.AddressList{}
	return out, c.pintle.Get().Resource("addresses").MaxRetries(0).VersionedParams(&metav1.ListOptions{Limit: pageSize, Continue: next}, metav1.ParameterCodec).
		Do(ctx).Into(out)
}

// remove deletes exactly the state of an Address object that was seen.
func (c *client) remove(ctx context.Context, o *pintlev1.Address) error {
	c.writes.Add(1)
	uid, version := o.UID, o.ResourceVersion
	return c.pintle.Delete().Resource("addresses").Name(o.Name).MaxRetries(0).
		Body(&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}}).Do(ctx).Error()
}

// service reads which Service of a name there is, as the quorum has it; "" for none.
func (c *client) service(ctx context.Context, k ipam.Key) (string, error) {
	out := &corev1.Service{}
	err := c.core.Get().Namespace(k.Namespace).Resource("services").Name(k.Name).MaxRetries(0).Do(ctx).Into(out)
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	return string(out.UID), err
}

// The parts of a Service's status that are ours, as server-side apply wants them.
type (
	serviceApply struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        applyMeta   `json:"metadata"`
		Status          applyStatus `json:"status,omitzero"` // empty: nothing is ours
	}
	applyMeta struct {
		Name      string    `json:"name"`
		Namespace string    `json:"namespace,omitempty"`
		UID       types.UID `json:"uid,omitempty"` // another Service of this name is not meant: a conflict
	}
	applyStatus struct {
		LoadBalancer *applyBalancer     `json:"loadBalancer,omitempty"`
		Conditions   []metav1.Condition `json:"conditions,omitempty"`
	}
	applyBalancer struct {
		Ingress []applyIngress `json:"ingress,omitempty"`
	}
	applyIngress struct {
		IP     string `json:"ip"`
		IPMode string `json:"ipMode"`
	}
)

// status applies what Pintle says in the status of a Service; without a condition, nothing any more.
func (c *client) status(ctx context.Context, s *Service, addrs []netip.Addr, cond *metav1.Condition) (*corev1.Service, error) {
	c.writes.Add(1)
	a := serviceApply{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, Metadata: applyMeta{s.Name, s.Namespace, types.UID(s.UID)}}
	if cond != nil {
		a.Status.Conditions = []metav1.Condition{*cond}
	}
	if len(addrs) > 0 {
		a.Status.LoadBalancer = &applyBalancer{}
	}
	for _, addr := range addrs {
		a.Status.LoadBalancer.Ingress = append(a.Status.LoadBalancer.Ingress, applyIngress{addr.String(), string(corev1.LoadBalancerIPModeVIP)})
	}
	body, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("write status: %w", err)
	}
	out := &corev1.Service{}
	return out, c.core.Patch(types.ApplyPatchType).Namespace(s.Namespace).Resource("services").Name(s.Name).SubResource("status").MaxRetries(0).
		VersionedParams(&metav1.PatchOptions{FieldManager: manager, Force: new(true)}, metav1.ParameterCodec).Body(body).Do(ctx).Into(out)
}

// poolStatus applies the status of a pool.
func (c *client) poolStatus(ctx context.Context, name string, st pintlev1.AddressPoolStatus) error {
	c.writes.Add(1)
	body, err := json.Marshal(struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        applyMeta                  `json:"metadata"`
		Status          pintlev1.AddressPoolStatus `json:"status"`
	}{metav1.TypeMeta{APIVersion: pintlev1.GroupVersion.String(), Kind: "AddressPool"}, applyMeta{Name: name}, st})
	if err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return c.pintle.Patch(types.ApplyPatchType).Resource("addresspools").Name(name).SubResource("status").MaxRetries(0).
		VersionedParams(&metav1.PatchOptions{FieldManager: manager, Force: new(true)}, metav1.ParameterCodec).Body(body).Do(ctx).Error()
}

// event tells people what became of an object.
func (c *client) event(ctx context.Context, e *corev1.Event) error {
	c.writes.Add(1)
	return c.core.Post().Namespace(e.Namespace).Resource("events").MaxRetries(0).Body(e).Do(ctx).Error()
}

// seat reads the Lease of the coordinator's seat as the quorum has it; nil for none.
func (c *client) seat(ctx context.Context, namespace string) (*coordinationv1.Lease, error) {
	out := &coordinationv1.Lease{}
	err := c.leases.Get().Namespace(namespace).Resource("leases").Name(seatName).MaxRetries(0).Do(ctx).Into(out)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return out, err
}

// putSeat writes the Lease of the seat: over exactly the state that it was made from, or as the first one.
func (c *client) putSeat(ctx context.Context, o *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	c.writes.Add(1)
	out := &coordinationv1.Lease{}
	if o.ResourceVersion == "" {
		return out, c.leases.Post().Namespace(o.Namespace).Resource("leases").MaxRetries(0).Body(o).Do(ctx).Into(out)
	}
	return out, c.leases.Put().Namespace(o.Namespace).Resource("leases").Name(o.Name).MaxRetries(0).Body(o).Do(ctx).Into(out)
}
