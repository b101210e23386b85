package services

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

// poll is how often a condition is looked at that nothing tells of.
const poll = 50 * time.Millisecond

// An API is a client of one API server, also for the objects of Pintle.
type API struct {
	kubernetes.Interface
	Pools     *gentype.ClientWithList[*pintlev1.AddressPool, *pintlev1.AddressPoolList]
	Addresses *gentype.ClientWithList[*pintlev1.Address, *pintlev1.AddressList]
}

// NewAPI makes a client of what Config says.
func NewAPI(cfg *rest.Config) (*API, error) {
	k, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	if err := pintlev1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	cfg = rest.CopyConfig(cfg)
	cfg.GroupVersion, cfg.APIPath = &pintlev1.GroupVersion, "/apis"
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c, err := rest.RESTClientFor(cfg)
	if err != nil {
		return nil, err
	}
	params := runtime.NewParameterCodec(scheme)
	return &API{
		Interface: k,
		Pools: gentype.NewClientWithList("addresspools", c, params, "",
			func() *pintlev1.AddressPool { return &pintlev1.AddressPool{} }, func() *pintlev1.AddressPoolList { return &pintlev1.AddressPoolList{} }),
		Addresses: gentype.NewClientWithList("addresses", c, params, "",
			func() *pintlev1.Address { return &pintlev1.Address{} }, func() *pintlev1.AddressList { return &pintlev1.AddressList{} }),
	}, nil
}

// API is the administrator at the API server of node i of the control plane.
func (b *Bed) API(i int) *API { return b.apis[i-1] }

// NewPool is a pool of prefixes and ranges that are announced on eth0, be they of the nodes' network or not.
func NewPool(name string, addresses ...string) *pintlev1.AddressPool {
	return &pintlev1.AddressPool{
		TypeMeta:   metav1.TypeMeta{APIVersion: pintlev1.GroupVersion.String(), Kind: "AddressPool"},
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: pintlev1.AddressPoolSpec{Addresses: addresses, Links: []string{"eth0"}},
	}
}

// Pool gives the cluster what NewPool says.
func (b *Bed) Pool(ctx context.Context, name string, addresses ...string) (*pintlev1.AddressPool, error) {
	return b.API(b.Via).Pools.Create(ctx, NewPool(name, addresses...), metav1.CreateOptions{})
}

// Service makes a Service of type LoadBalancer in the namespace default, with the backends that have the labels Echo, and for UDP
// and TCP the port that netlab's probe asks; edit may change it before.
func (b *Bed) Service(ctx context.Context, name string, edit ...func(*corev1.Service)) (*corev1.Service, error) {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, Selector: Echo,
			Ports: []corev1.ServicePort{
				{Name: "udp", Protocol: corev1.ProtocolUDP, Port: netlab.EchoPort, TargetPort: intstr.FromInt32(netlab.EchoPort)},
				{Name: "tcp", Protocol: corev1.ProtocolTCP, Port: netlab.EchoPort, TargetPort: intstr.FromInt32(netlab.EchoPort)},
			},
		},
	}
	for _, f := range edit {
		f(s)
	}
	return b.API(b.Via).CoreV1().Services(s.Namespace).Create(ctx, s, metav1.CreateOptions{})
}

// Local has a Service lead to backends of the node that has its address alone.
func Local(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

// Ingress are the addresses that a Service has.
func Ingress(s *corev1.Service) (addrs []netip.Addr) {
	for _, i := range s.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(i.IP); err == nil {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// Addresses waits until a Service of the namespace default has addresses, and returns them.
func (b *Bed) Addresses(ctx context.Context, name string) (addrs []netip.Addr, err error) {
	err = Await(ctx, func(ctx context.Context) error {
		s, err := b.API(b.Via).CoreV1().Services("default").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if addrs = Ingress(s); len(addrs) == 0 {
			return fmt.Errorf("Service %s has no address; its conditions are %+v", name, s.Status.Conditions)
		}
		return nil
	})
	return addrs, err
}

// Events are what `kubectl describe` tells of a Service of the namespace default.
func (b *Bed) Events(ctx context.Context, name string) ([]corev1.Event, error) {
	of := fields.Set{"involvedObject.kind": "Service", "involvedObject.name": name}
	list, err := b.API(b.Via).CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: of.String()})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// Ask asks the backends of a Service from the client, by "tcp" or "udp", through an address of the Service.
func (b *Bed) Ask(ctx context.Context, network string, addr netip.Addr) (netlab.Answer, error) {
	return b.Lab().Client().Ask(ctx, network, netip.AddrPortFrom(addr, netlab.EchoPort))
}

// Await calls f, which is given five seconds, until it succeeds. When ctx ends, the error has the last one of f before that.
func Await(ctx context.Context, f func(context.Context) error) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	var last error
	for {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := f(try)
		cancel()
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), last)
		case <-tick.C:
		}
	}
}
