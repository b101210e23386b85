package cluster_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pintle-lb/pintle/test/cluster"
	"github.com/pintle-lb/pintle/test/cluster/clustertest"
)

// TestWorkers: workers are nodes as the others to the API, and to kube-proxy, which leads to pods on any of them.
func TestWorkers(t *testing.T) {
	c := clustertest.New(t, cluster.Options{Nodes: 2, Workers: 2, IPv6: true, ControllerManager: true, Proxy: true})
	ctx := clustertest.Context(t)
	t.Run("nodes", func(t *testing.T) { workerNodes(t, ctx, c) })
	ip := clusterIP(t, ctx, c)
	asks := func(t *testing.T, i int) {
		t.Helper()
		clustertest.Await(t, ctx, func(ctx context.Context) error {
			a, err := c.Node(i).Ask(ctx, "tcp", ip)
			if err == nil && a.By != "far" {
				err = fmt.Errorf("answered by %q", a.By)
			}
			return err
		})
	}
	t.Run("a Service from every node", func(t *testing.T) {
		for i := range c.Nodes() {
			asks(t, i+1)
		}
	})
	t.Run("kube-proxy that is killed", func(t *testing.T) {
		n := c.Node(3)
		check(t, n.ProxyHealth(ctx))
		check(t, n.Kill(cluster.KubeProxy))
		if n.ProxyHealth(ctx) == nil || n.Running(cluster.KubeProxy) {
			t.Error("it is there")
		}
		asks(t, 3) // what it laid down stays
		check(t, n.Start(cluster.KubeProxy))
		check(t, n.WaitProxy(ctx))
	})
	t.Run("a worker that crashes", func(t *testing.T) {
		check(t, c.Node(3).Crash())
		check(t, c.Node(4).Crash())
		if _, err := c.Node(2).Ask(ctx, "tcp", ip); err == nil {
			t.Error("a pod of a crashed node answers")
		}
		check(t, c.Node(3).Boot())
		check(t, c.Node(4).Boot())
		check(t, c.Node(3).WaitProxy(ctx))
		asks(t, 3)
	})
	t.Run("a worker whose API server is cut off", func(t *testing.T) {
		check(t, c.Node(1).Cut()) // etcd has two members: it needs both
		try, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if _, err := c.Node(3).Exec(try, "kubectl", "--kubeconfig=/etc/kubernetes/kube-proxy.conf", "get", "--raw=/version"); err != nil {
			t.Errorf("with the other one: %v", err)
		}
		check(t, c.Node(1).Heal())
		check(t, c.WaitReady(ctx, 1))
	})
}

func workerNodes(t *testing.T, ctx context.Context, c *cluster.Cluster) {
	for i, n := range c.Nodes() {
		if n.Worker() != (i >= 2) || n.Running(cluster.APIServer) == n.Worker() || !n.Running(cluster.KubeProxy) {
			t.Errorf("%s: worker %t, API server %t, kube-proxy %t", n.Name(), n.Worker(), n.Running(cluster.APIServer), n.Running(cluster.KubeProxy))
		}
		clustertest.Await(t, ctx, func(ctx context.Context) error {
			node, err := admin(t, c, 1).CoreV1().Nodes().Get(ctx, n.Name(), metav1.GetOptions{})
			if err != nil {
				return err
			}
			want := fmt.Sprintf("[10.244.%d.0/24 fd00:244:0:%d::/64]", i+1, i+1)
			if got := fmt.Sprint(node.Spec.PodCIDRs); got != want {
				return fmt.Errorf("%s has pods in %s: want %s", n.Name(), got, want)
			}
			if len(node.Spec.Taints) > 0 || len(node.Status.Conditions) != 1 || node.Status.Conditions[0].Status != corev1.ConditionTrue {
				return fmt.Errorf("%s has taints %v and is %v", n.Name(), node.Spec.Taints, node.Status.Conditions)
			}
			return nil
		})
	}
	if err := c.Node(3).Start(cluster.APIServer); err == nil {
		t.Error("a worker starts an API server")
	}
}

// clusterIP is a Service whose only backend is a pod on n4.
func clusterIP(t *testing.T, ctx context.Context, c *cluster.Cluster) netip.AddrPort {
	pod, err := c.Node(4).Pod("far")
	check(t, err)
	_, err = pod.Greet(8080)
	check(t, err)
	svc, err := admin(t, c, 1).CoreV1().Services("default").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "far"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "tcp", Port: 80}}},
	}, metav1.CreateOptions{})
	check(t, err)
	_, err = admin(t, c, 1).DiscoveryV1().EndpointSlices("default").Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "far", Labels: map[string]string{discoveryv1.LabelServiceName: "far"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr("tcp"), Port: ptr(int32(8080)), Protocol: ptr(corev1.ProtocolTCP)}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{pod.Addr().String()}, NodeName: ptr("n4"), Conditions: discoveryv1.EndpointConditions{Ready: ptr(true)}}},
	}, metav1.CreateOptions{})
	check(t, err)
	ip, err := netip.ParseAddr(svc.Spec.ClusterIP)
	check(t, err)
	return netip.AddrPortFrom(ip, 80)
}
