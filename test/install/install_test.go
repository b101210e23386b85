// Package install has the tests of Pintle in clusters that kubeadm installs, with kubelets and containers.
package install

import (
	"strings"
	"testing"

	"github.com/pintle-lb/pintle/test/cluster"
	"github.com/pintle-lb/pintle/test/cluster/clustertest"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestOneNode: kubeadm init makes a node whose control plane runs in containers, and comes back after a power failure.
func TestOneNode(t *testing.T) {
	c := clustertest.Install(t, cluster.InstallOptions{StaticVIP: true})
	ctx := clustertest.Context(t)
	out, err := c.Kubectl(ctx, 1, "get", "pods", "--namespace=kube-system", "-o", "name")
	check(t, err)
	for _, want := range []string{"etcd-n1", "kube-apiserver-n1", "kube-controller-manager-n1", "kube-scheduler-n1"} {
		if !strings.Contains(string(out), "pod/"+want+"\n") {
			t.Errorf("pods: got %q, want %s in it", out, want)
		}
	}
}
