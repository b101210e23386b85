// Package install has the tests of Pintle in clusters that kubeadm installs, with kubelets and containers.
package install

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/pintle-lb/pintle/test/cluster"
	"github.com/pintle-lb/pintle/test/cluster/clustertest"
)

// guest is a static pod that is on the node before kubeadm is.
const guest = `
apiVersion: v1
kind: Pod
metadata: {name: guest, namespace: kube-system}
spec:
  hostNetwork: true
  containers:
  - {name: guest, image: "localhost/guest:test", imagePullPolicy: Never}
`

// TestOneNode: kubeadm init makes a node whose control plane and whatever else is there runs in containers, and which comes back after
// a power failure.
func TestOneNode(t *testing.T) {
	image := cluster.Image{
		Names:      []string{"localhost/guest:test"},
		Files:      map[string]string{"/bin/guest": filepath.Join(clustertest.Programs(t), "pause")},
		Entrypoint: []string{"/bin/guest"},
	}
	archive := filepath.Join(t.TempDir(), "guest.tar")
	check(t, image.WriteFile(archive))
	c := clustertest.Install(t, cluster.InstallOptions{
		Options:   cluster.Options{Proxy: true},
		StaticVIP: true,
		Images:    []string{archive},
		Prepare: func(m *cluster.Machine) error {
			return m.WriteFile("/etc/kubernetes/manifests/guest.yaml", []byte(guest), 0o600)
		},
	})
	ctx := clustertest.Context(t)
	waitPods(t, ctx, c, 1)
	check(t, c.Node(1).Crash())
	check(t, c.Node(1).Boot(ctx))
	check(t, c.BearVIP(1))
	check(t, c.WaitReady(ctx, 1))
	clustertest.Await(t, ctx, func(ctx context.Context) error { // the API only tells what it knew before
		_, err := c.Node(1).Exec(ctx, "pgrep", "-x", "guest")
		return err
	})
}

// TestThreeNodes: kubeadm join makes a node one of the control plane; one crashes and comes back, another leaves and joins again.
func TestThreeNodes(t *testing.T) {
	c := clustertest.Install(t, cluster.InstallOptions{StaticVIP: true, Joined: 2, Options: cluster.Options{Nodes: 3}})
	step := func(name string, do func(context.Context) error) {
		t.Helper()
		began := time.Now()
		if err := do(clustertest.Context(t)); err != nil { // each has its own time: a busy machine needs minutes for some
			t.Fatalf("%s, after %v: %v", name, time.Since(began), err)
		}
		t.Logf("%s: %v", name, time.Since(began))
	}
	ready := func(i int) func(context.Context) error {
		return func(ctx context.Context) error { return c.WaitReady(ctx, i) }
	}
	join := func(ctx context.Context) error { return c.Join(ctx, 3) }
	step("n3 joins", join)
	for i := range c.Nodes() {
		step(fmt.Sprintf("n%d is ready", i+1), ready(i+1))
	}
	check(t, c.Node(2).Crash())
	step("n3 is ready without n2", ready(3))
	step("n2 boots", c.Node(2).Boot)
	step("n2 is ready again", ready(2))

	step("n3 leaves", func(ctx context.Context) error { return c.Leave(ctx, 3) })
	out, err := c.Kubectl(clustertest.Context(t), 1, "get", "nodes", "-o", "name")
	check(t, err)
	if got, want := string(out), "node/n1\nnode/n2\n"; got != want {
		t.Errorf("nodes when one has left: got %q, want %q", got, want)
	}
	step("n3 joins again", join)
	step("n3 is ready again", ready(3))
}

// waitPods waits until the control plane and the guest run on node i.
func waitPods(t *testing.T, ctx context.Context, c *cluster.Installed, i int) {
	t.Helper()
	k, err := kubernetes.NewForConfig(c.Config(0, c.Lab().Client(), c.Admin()))
	check(t, err)
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "guest"} {
		clustertest.Await(t, ctx, func(ctx context.Context) error {
			pod, err := k.CoreV1().Pods("kube-system").Get(ctx, fmt.Sprintf("%s-n%d", name, i), metav1.GetOptions{})
			if err != nil {
				return err
			}
			return runs(pod)
		})
	}
}

func runs(pod *corev1.Pod) error {
	for _, c := range pod.Status.ContainerStatuses {
		if c.State.Running != nil {
			return nil
		}
	}
	return fmt.Errorf("pod %s is %s: %+v", pod.Name, pod.Status.Phase, pod.Status.ContainerStatuses)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
