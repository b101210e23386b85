package cluster_test

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/pintle-lb/pintle/test/cluster"
	"github.com/pintle-lb/pintle/test/cluster/clustertest"
)

func client(t *testing.T, cfg *rest.Config) kubernetes.Interface {
	t.Helper()
	k, err := kubernetes.NewForConfig(cfg)
	check(t, err)
	return k
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// admin asks the API server of node i, from the client.
func admin(t *testing.T, c *cluster.Cluster, i int) kubernetes.Interface {
	t.Helper()
	return client(t, c.Config(i, c.Lab().Client(), c.Admin()))
}

func TestOneNode(t *testing.T) {
	c, ctx := clustertest.New(t, cluster.Options{ControllerManager: true, IPv6: true}), clustertest.Context(t)
	out, err := c.Kubectl(ctx, 1, "get", "nodes", "-o", "name")
	check(t, err)
	if got := strings.TrimSpace(string(out)); got != "node/n1" {
		t.Errorf("nodes: got %q, want node/n1", got)
	}
	out, err = c.Node(1).Exec(ctx, "sh", "-c", "hostname; ls /etc/kubernetes/manifests; ls /sys/class/net; ls -A /run")
	check(t, err)
	for _, want := range []string{"n1\n", "kube-apiserver.yaml", "eth0"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("on the machine: got %q, want %q in it", out, want)
		}
	}
	// The controller-manager is at work when a new namespace has its service account.
	_, err = c.Kubectl(ctx, 1, "create", "namespace", "ours")
	check(t, err)
	clustertest.Await(t, ctx, func(ctx context.Context) error {
		_, err := admin(t, c, 1).CoreV1().ServiceAccounts("ours").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// TestThreeNodes breaks one cluster in several ways, and each time waits until it is whole again.
func TestThreeNodes(t *testing.T) {
	c := clustertest.New(t, cluster.Options{Nodes: 3, ControllerManager: true})
	for _, test := range []struct {
		name string
		f    func(*testing.T, context.Context, *cluster.Cluster)
	}{
		{"leases", leases},
		{"rights", rights},
		{"killed API server", killedAPIServer},
		{"frozen API server", frozenAPIServer},
		{"component that ends", endedComponent},
		{"cut node", cutNode},
		{"crashed node", crashedNode},
		{"no quorum", noQuorum},
	} {
		ok := t.Run(test.name, func(t *testing.T) {
			test.f(t, clustertest.Context(t), c)
			for i := range c.Nodes() {
				check(t, c.WaitReady(clustertest.Context(t), i+1))
			}
		})
		if !ok {
			return // what comes next would not start from a whole cluster
		}
	}
}

// leases: an update is seen through every API server, and one that comes from an older version is refused by all.
func leases(t *testing.T, ctx context.Context, c *cluster.Cluster) {
	first, err := admin(t, c, 1).CoordinationV1().Leases("default").Create(ctx, lease("shared", "n1"), metav1.CreateOptions{})
	check(t, err)
	current := first
	for i := range c.Nodes() {
		api := admin(t, c, i+1).CoordinationV1().Leases("default")
		got, err := api.Get(ctx, "shared", metav1.GetOptions{})
		check(t, err)
		if got.ResourceVersion != current.ResourceVersion {
			t.Errorf("n%d has version %s, want %s", i+1, got.ResourceVersion, current.ResourceVersion)
		}
		got.Spec.HolderIdentity = ptr("taken on " + c.Node(i+1).Name())
		current, err = api.Update(ctx, got, metav1.UpdateOptions{})
		check(t, err)
		old := first.DeepCopy()
		old.Spec.HolderIdentity = ptr("another")
		if _, err := api.Update(ctx, old, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
			t.Errorf("update of an old version on n%d: got %v, want a conflict", i+1, err)
		}
	}
}

// rights: a user and a service account may do nothing but what a Role says.
func rights(t *testing.T, ctx context.Context, c *cluster.Cluster) {
	user, err := c.Issue("reader", "readers")
	check(t, err)
	account, err := c.ServiceAccount(ctx, "default", "reader")
	check(t, err)
	for name, id := range map[string]cluster.Identity{"user": user, "service account": account} {
		_, err = client(t, c.Config(2, c.Node(1).Host, id)).CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s without rights: got %v, want forbidden", name, err)
		}
	}
	_, err = c.Apply(ctx, 1, []byte(`
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [nodes], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: Group, name: readers}
- {kind: ServiceAccount, namespace: default, name: reader}
`))
	check(t, err)
	for _, id := range []cluster.Identity{user, account} {
		clustertest.Await(t, ctx, func(ctx context.Context) error {
			_, err := client(t, c.Config(2, c.Node(1).Host, id)).CoreV1().Nodes().List(ctx, metav1.ListOptions{})
			return err
		})
	}
	_, err = client(t, c.Config(1, c.Lab().Client(), cluster.Identity{Token: "garbage"})).CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if !apierrors.IsUnauthorized(err) {
		t.Errorf("a token that is none: got %v, want unauthorized", err)
	}
	config, err := c.Kubeconfig(3, user)
	check(t, err)
	check(t, c.Node(2).WriteFile("/etc/pintle/reader.conf", config, 0o600))
	out, err := c.Node(2).Exec(ctx, "kubectl", "--kubeconfig=/etc/pintle/reader.conf", "get", "nodes", "-o", "name")
	check(t, err)
	if got := strings.Fields(string(out)); len(got) != 3 {
		t.Errorf("with its kubeconfig: got %q, want three nodes", got)
	}
}

func killedAPIServer(t *testing.T, ctx context.Context, c *cluster.Cluster) {
	check(t, c.Node(1).Kill(cluster.APIServer))
	if c.Node(1).Running(cluster.APIServer) {
		t.Error("the killed API server runs")
	}
	if answers(t, ctx, c, 1) {
		t.Error("the killed API server answers")
	}
	if !answers(t, ctx, c, 2) {
		t.Error("the API server of another node does not answer")
	}
	check(t, c.Node(1).Start(cluster.APIServer))
}

func frozenAPIServer(t *testing.T, ctx context.Context, c *cluster.Cluster) {
	check(t, c.Node(1).Freeze(cluster.APIServer))
	if !c.Node(1).Running(cluster.APIServer) {
		t.Error("the frozen API server is gone")
	}
	if answers(t, ctx, c, 1) {
		t.Error("the frozen API server answers")
	}
	check(t, c.Node(1).Continue(cluster.APIServer))
	clustertest.Await(t, ctx, func(ctx context.Context) error {
		_, err := admin(t, c, 1).CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		return err
	})
}

// endedComponent: what ends by itself is started again.
func endedComponent(t *testing.T, ctx context.Context, c *cluster.Cluster) {
	pid := func() string {
		// In this network namespace: other clusters may run beside this one.
		out, err := c.Node(2).Exec(ctx, "sh", "-c", "pgrep --ns $$ --nslist net -f '^kube-apiserver '")
		check(t, err)
		return strings.TrimSpace(string(out))
	}
	old := pid()
	_, err := c.Node(2).Exec(ctx, "kill", "-9", old)
	check(t, err)
	clustertest.Await(t, ctx, func(context.Context) error {
		if !c.Node(2).Running(cluster.APIServer) {
			return errors.New("not started again")
		}
		return nil
	})
	check(t, c.WaitReady(ctx, 2))
	if now := pid(); now == old {
		t.Errorf("the API server has still process id %s", now)
	}
}

// cutNode: a node that is alone cannot write; the others can.
func cutNode(t *testing.T, ctx context.Context, c *cluster.Cluster) {
	check(t, c.Node(3).Cut())
	alone := client(t, c.Config(3, c.Node(3).Host, c.Admin()))
	try, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if _, err := alone.CoordinationV1().Leases("default").Create(try, lease("alone", "n3"), metav1.CreateOptions{}); err == nil {
		t.Error("a node that is cut off could write")
	}
	clustertest.Await(t, ctx, func(ctx context.Context) error {
		_, err := admin(t, c, 1).CoordinationV1().Leases("default").Create(ctx, lease("majority", "n1"), metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil // by a try whose answer was lost
		}
		return err
	})
	check(t, c.Node(3).Heal())
	clustertest.Await(t, ctx, func(ctx context.Context) error {
		_, err := alone.CoordinationV1().Leases("default").Get(ctx, "majority", metav1.GetOptions{})
		return err
	})
}

// crashedNode: a node is gone with all that was set on it, and comes back without.
func crashedNode(t *testing.T, ctx context.Context, c *cluster.Cluster) {
	n := c.Node(2)
	_, err := n.Exec(ctx, "sh", "-c", "ip address add 10.77.0.100/32 dev lo && nft add table inet leftover && touch /run/leftover")
	check(t, err)
	p, err := n.Run(ctx, exec.Command("sleep", "1000"))
	check(t, err)
	check(t, n.Crash())
	if n.Running(cluster.Etcd) || n.Running(cluster.APIServer) || !p.Exited() {
		t.Error("something runs on the crashed node")
	}
	if answers(t, ctx, c, 2) {
		t.Error("the crashed node answers")
	}
	check(t, n.Boot())
	check(t, c.WaitReady(ctx, 2))
	out, err := n.Exec(ctx, "sh", "-c", "ip address show; nft list tables; ls /run; ip route")
	check(t, err)
	for _, gone := range []string{"10.77.0.100", "leftover"} {
		if strings.Contains(string(out), gone) {
			t.Errorf("after the crash there is still %s:\n%s", gone, out)
		}
	}
	for _, kept := range []string{"10.77.0.2/24", "127.0.0.1/8", "default via"} {
		if !strings.Contains(string(out), kept) {
			t.Errorf("after the crash there is no %s:\n%s", kept, out)
		}
	}
}

func noQuorum(t *testing.T, ctx context.Context, c *cluster.Cluster) {
	check(t, c.Node(2).Kill(cluster.Etcd))
	check(t, c.Node(3).Kill(cluster.Etcd))
	try, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, err := admin(t, c, 1).CoordinationV1().Leases("default").Create(try, lease("minority", "n1"), metav1.CreateOptions{})
	if err == nil {
		t.Error("without a quorum of etcd a write is accepted")
	}
	check(t, c.Node(2).Start(cluster.Etcd))
	check(t, c.Node(3).Start(cluster.Etcd))
}

// TestRestore: after a restore there is what there was, at the revisions of then.
func TestRestore(t *testing.T) {
	c, ctx := clustertest.New(t, cluster.Options{Nodes: 3}), clustertest.Context(t)
	api := admin(t, c, 1).CoordinationV1().Leases("default")
	before, err := api.Create(ctx, lease("kept", "n1"), metav1.CreateOptions{})
	check(t, err)
	snapshot, err := c.Snapshot(ctx, 2)
	check(t, err)
	_, err = api.Create(ctx, lease("lost", "n1"), metav1.CreateOptions{})
	check(t, err)
	check(t, c.Restore(ctx, snapshot))
	for _, n := range c.Nodes() {
		check(t, n.Kill(cluster.APIServer)) // its caches are of a time that never was
		check(t, n.Start(cluster.APIServer))
	}
	for i, n := range c.Nodes() {
		check(t, c.WaitReady(ctx, i+1))
		api := admin(t, c, i+1).CoordinationV1().Leases("default")
		after, err := api.Get(ctx, "kept", metav1.GetOptions{})
		check(t, err)
		if after.UID != before.UID || after.ResourceVersion != before.ResourceVersion {
			t.Errorf("%s has %s at %s, want %s at %s", n.Name(), after.UID, after.ResourceVersion, before.UID, before.ResourceVersion)
		}
		if _, err := api.Get(ctx, "lost", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("%s: what came after the snapshot: got %v, want not found", n.Name(), err)
		}
	}
}

func TestWithoutPrograms(t *testing.T) {
	t.Setenv("TESTKUBE_BIN", t.TempDir())
	if _, err := cluster.New(t.Context(), cluster.Options{}); !errors.Is(err, cluster.ErrNoPrograms) {
		t.Errorf("without programs: got %v, want ErrNoPrograms", err)
	}
}

// answers says whether the API server of node i answers within a second.
func answers(t *testing.T, ctx context.Context, c *cluster.Cluster, i int) bool {
	t.Helper()
	cfg := c.Config(i, c.Lab().Client(), c.Admin())
	cfg.Timeout = time.Second
	_, err := client(t, cfg).Discovery().RESTClient().Get().AbsPath("/version").DoRaw(ctx)
	return err == nil
}

func lease(name, holder string) *coordinationv1.Lease {
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: ptr(int32(15))},
	}
}

func ptr[T any](v T) *T { return &v }
