package services_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pintle-lb/pintle/internal/service/pintlev1"
	"github.com/pintle-lb/pintle/test/services"
)

// TestBed: what the tests of Services stand on does what it says, without Pintle: a test that writes the status of a Service, and a
// client that is told by hand where its address is.
func TestBed(t *testing.T) {
	b := newBed(t, services.Options{IPv6: true})
	ctx := t.Context()
	t.Run("pools and addresses", func(t *testing.T) { objects(t, ctx, b) })
	near, err := b.Backend(ctx, 4, services.Echo)
	check(t, err)
	far, err := b.Backend(ctx, 5, services.Echo)
	check(t, err)
	t.Run("every node leads to every backend", func(t *testing.T) { everyNode(t, ctx, b, near, far) })
	t.Run("the client sees who answers", func(t *testing.T) { bound(t, ctx, b) })
	t.Run("a Local Service and what becomes of its backends", func(t *testing.T) { local(t, ctx, b, near) })
}

// objects: the definitions are there, and the clients write and read what the types say.
func objects(t *testing.T, ctx context.Context, b *services.Bed) {
	_, err := b.Pool(ctx, "main", "10.99.0.0/24", "10.99.2.1-10.99.2.9")
	check(t, err)
	var pool *pintlev1.AddressPool
	for i := 2; i <= 3; i++ { // that have to learn first what a pool is
		eventually(t, "the pool is at another API server", func(ctx context.Context) (err error) {
			pool, err = b.API(i).Pools.Get(ctx, "main", metav1.GetOptions{})
			return err
		})
	}
	if got := fmt.Sprint(pool.Spec.Addresses, pool.Spec.Links); got != "[10.99.0.0/24 10.99.2.1-10.99.2.9] [eth0]" {
		t.Errorf("the pool is %s", got)
	}
	if _, err := b.Pool(ctx, "bad", "10.99.0.0/33"); !apierrors.IsInvalid(err) {
		t.Errorf("a pool that is none: got %v, want invalid", err)
	}
	address := &pintlev1.Address{
		TypeMeta:   metav1.TypeMeta{APIVersion: pintlev1.GroupVersion.String(), Kind: "Address"},
		ObjectMeta: metav1.ObjectMeta{Name: "10.99.0.1"}, Spec: pintlev1.AddressSpec{Address: "10.99.0.1", Pool: "main"},
	}
	_, err = b.API(1).Addresses.Create(ctx, address, metav1.CreateOptions{})
	check(t, err)
	eventually(t, "the same address again is refused", func(ctx context.Context) error {
		_, err := b.API(3).Addresses.Create(ctx, address, metav1.CreateOptions{})
		if err == nil {
			t.Fatal("two servers take the same address")
		}
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
	var list *pintlev1.AddressList
	eventually(t, "the addresses are at another API server", func(ctx context.Context) (err error) {
		list, err = b.API(2).Addresses.List(ctx, metav1.ListOptions{})
		return err
	})
	if len(list.Items) != 1 || list.Items[0].Spec.Pool != "main" {
		t.Errorf("addresses: %+v", list.Items)
	}
	check(t, b.API(1).Addresses.Delete(ctx, "10.99.0.1", metav1.DeleteOptions{}))
	check(t, b.API(1).Pools.Delete(ctx, "main", metav1.DeleteOptions{}))
}

// give writes the status of a Service as Pintle is to.
func give(t *testing.T, ctx context.Context, b *services.Bed, name string, addrs ...netip.Addr) {
	t.Helper()
	s, err := b.API(1).CoreV1().Services("default").Get(ctx, name, metav1.GetOptions{})
	check(t, err)
	mode := corev1.LoadBalancerIPModeVIP
	for _, a := range addrs {
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a.String(), IPMode: &mode})
	}
	_, err = b.API(1).CoreV1().Services("default").UpdateStatus(ctx, s, metav1.UpdateOptions{})
	check(t, err)
}

// tell makes the client believe that node i has an address.
func tell(t *testing.T, b *services.Bed, a netip.Addr, i int) {
	t.Helper()
	client := b.Lab().Client()
	check(t, client.Do(func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		return netlink.NeighSet(&netlink.Neigh{LinkIndex: eth0.Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: b.Node(i).MAC()})
	}))
}

// everyNode: whichever node the client takes for the holder, and no node has the address on a link, kube-proxy of that one leads to
// the backends on both workers.
func everyNode(t *testing.T, ctx context.Context, b *services.Bed, near, far *services.Backend) {
	_, err := b.Service(ctx, "all", func(s *corev1.Service) {
		policy := corev1.IPFamilyPolicyRequireDualStack
		s.Spec.IPFamilyPolicy = &policy
	})
	check(t, err)
	addrs := []netip.Addr{netip.MustParseAddr("10.99.0.10"), netip.MustParseAddr("fd99::10")}
	give(t, ctx, b, "all", addrs...)
	got, err := b.Addresses(ctx, "all")
	check(t, err)
	if !slices.Equal(got, addrs) {
		t.Errorf("it has %v", got)
	}
	for _, a := range addrs {
		for i := 1; i <= b.Len(); i++ {
			tell(t, b, a, i)
			seen := map[string]bool{}
			want := map[string]bool{near.Name: true, far.Name: true, "n4": true, "n5": true}
			eventually(t, fmt.Sprintf("%s by way of n%d", a, i), func(ctx context.Context) error {
				for _, network := range []string{"tcp", "udp"} { // by udp only a node's number comes
					answer, err := b.Ask(ctx, network, a)
					if err != nil {
						return err
					}
					seen[answer.By] = true
				}
				if !maps.Equal(seen, want) {
					return fmt.Errorf("answered by %v so far", seen)
				}
				return nil
			})
		}
	}
}

// bound: with the address on a node's lo the kernel answers ARP, so probe and survey see the holder, and the probe asks through
// kube-proxy.
func bound(t *testing.T, ctx context.Context, b *services.Bed) {
	a := netip.MustParseAddr("10.99.0.20")
	_, err := b.Service(ctx, "bound")
	check(t, err)
	give(t, ctx, b, "bound", a)
	s, err := b.Lab().StartSurvey(5*time.Millisecond, a)
	check(t, err)
	defer s.Close()
	_, err = b.Node(2).Exec(ctx, "ip", "address", "add", a.String()+"/32", "dev", "lo")
	check(t, err)
	p, err := b.Lab().StartProbe(a, 10*time.Millisecond)
	check(t, err)
	defer p.Close()
	eventually(t, "n2 holds, a worker serves", func(context.Context) error {
		if holder, server := s.Holders()[a], p.Serving(); holder != "n2" || p.LastNode() != "n2" || server != "n4" && server != "n5" {
			return fmt.Errorf("held by %q and %q, served by %q", holder, p.LastNode(), server)
		}
		return nil
	})
	_, err = b.Node(2).Exec(ctx, "ip", "address", "del", a.String()+"/32", "dev", "lo")
	check(t, err)
}

// local: with externalTrafficPolicy Local a node leads to its own backends alone and the backend sees the client. The conditions
// of endpoints follow what the test does to pods.
func local(t *testing.T, ctx context.Context, b *services.Bed, near *services.Backend) {
	a := netip.MustParseAddr("10.99.0.30")
	_, err := b.Service(ctx, "local", services.Local)
	check(t, err)
	give(t, ctx, b, "local", a)
	answers := func(i int, want string) {
		t.Helper()
		tell(t, b, a, i)
		eventually(t, fmt.Sprintf("answered by %q by way of n%d", want, i), func(ctx context.Context) error {
			answer, err := b.Ask(ctx, "tcp", a)
			switch {
			case want == "" && err != nil:
				return nil
			case err != nil:
				return err
			case answer.By != want || answer.Seen.Addr() != b.Lab().Client().Addr():
				return fmt.Errorf("answered by %q, which sees %s", answer.By, answer.Seen)
			}
			return nil
		})
	}
	condition := func(want string) {
		t.Helper()
		eventually(t, "the endpoint is "+want, func(ctx context.Context) error {
			if got, err := endpoint(ctx, b, "local", near.Name); err != nil || got != want {
				return fmt.Errorf("it is %q, %v", got, err)
			}
			return nil
		})
	}
	condition("ready serving")
	answers(4, near.Name)
	answers(1, "")
	check(t, near.Ready(ctx, false))
	condition("")
	answers(4, "")
	check(t, near.Ready(ctx, true))
	answers(4, near.Name)
	check(t, near.Terminate(ctx))
	condition("serving terminating")
	answers(4, near.Name) // there is no other on that node
	check(t, near.Ready(ctx, false))
	condition("terminating")
	answers(4, "")
	check(t, near.Remove(ctx))
	eventually(t, "the endpoint is gone", func(ctx context.Context) error {
		if _, err := endpoint(ctx, b, "local", near.Name); !errors.Is(err, errNone) {
			return fmt.Errorf("it is there: %v", err)
		}
		return nil
	})
}

var errNone = errors.New("no such endpoint")

// endpoint says in words what the API knows of a backend of a Service.
func endpoint(ctx context.Context, b *services.Bed, service, pod string) (string, error) {
	list, err := b.API(1).DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
	if err != nil {
		return "", err
	}
	for _, s := range list.Items {
		for _, e := range s.Endpoints {
			if e.TargetRef == nil || e.TargetRef.Name != pod {
				continue
			}
			var words []string
			for name, is := range map[string]*bool{"ready": e.Conditions.Ready, "serving": e.Conditions.Serving, "terminating": e.Conditions.Terminating} {
				if is != nil && *is {
					words = append(words, name)
				}
			}
			slices.Sort(words)
			return strings.Join(words, " "), nil
		}
	}
	return "", errNone
}

// TestProcesses: the program of each node is started with what install wrote, and can be frozen, killed and stopped.
func TestProcesses(t *testing.T) {
	stand := filepath.Join(scratch, "stand-in")
	check(t, os.WriteFile(stand, []byte("#!/bin/sh\ncase $1 in\nmanifest) echo \"'services' is no command of it\" >&2; exit 2;;\n"+
		"run) echo \"$@ $(hostname) $KUBERNETES_SERVICE_HOST\"; exec sleep 1000;;\nesac\n"), 0o755))
	b := newBed(t, services.Options{Pintle: stand, Nodes: 1, Workers: 1, Lease: 3 * time.Second})
	for i, name := range []string{1: "n1", 2: "n2"} {
		if i == 0 {
			continue
		}
		want := "run --config /etc/pintle/services.yaml --node " + name + " " + name + " 10.96.0.1\n"
		eventually(t, "it runs on "+name, func(context.Context) error {
			if b.Log(i) != want || !b.Running(i) {
				return fmt.Errorf("log %q, runs %t; want %q", b.Log(i), b.Running(i), want)
			}
			return nil
		})
		_, err := b.Node(i).Exec(t.Context(), "grep", "-q", "lease: 3s", "/etc/pintle/services.yaml")
		check(t, err)
		out, err := b.Node(i).Exec(t.Context(), "kubectl", "--kubeconfig=/etc/pintle/services.conf", "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
		check(t, err)
		if string(out) != "system:serviceaccount:pintle-system:pintle-services" {
			t.Errorf("on %s it is %s", name, out)
		}
	}
	first := b.Pintle(2)
	check(t, b.Start(2))
	if b.Pintle(2) != first {
		t.Error("started beside one that runs")
	}
	if now, peak, err := b.RSS(2); err != nil || now == 0 || peak < now {
		t.Errorf("memory %d, at most %d, %v", now, peak, err)
	}
	check(t, b.Freeze(2))
	if !b.Running(2) {
		t.Error("frozen, and gone")
	}
	check(t, b.Kill(2))
	if b.Running(2) || !b.Running(1) {
		t.Error("after the kill of the one of n2: it is there, or the other one is not")
	}
	check(t, b.Start(2))
	check(t, b.Stop(t.Context(), 2))
	if b.Running(2) || b.Pintle(2) == first {
		t.Error("it did not start, or not stop")
	}
}
