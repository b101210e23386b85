// Package cluster makes real Kubernetes clusters on one machine, in the network namespaces of internal/netlab, for tests and benchmarks.
//
// New makes a control plane in a few seconds: etcd, kube-apiserver and, if wanted, kube-controller-manager on each node, with the
// certificates, kubeconfigs and static pod manifests that kubeadm's own phases write, run as plain processes. They can be killed, frozen
// and started again; nodes can be cut off (netlab), crash and boot; etcd can be put back to an older snapshot. What runs on a
// node by Machine.Run finds /etc/kubernetes and the host name as a pod on a node does.
//
//	c, err := cluster.New(ctx, cluster.Options{Nodes: 3})
//	defer c.Close()
//	k, err := kubernetes.NewForConfig(c.Config(2, c.Lab().Client(), c.Admin()))
//	err = c.Node(1).Kill(cluster.APIServer)
//
// With Options.Workers there are more nodes, with Options.Proxy each runs kube-proxy, and Node.Pod makes a pod, of which the API
// server hears nothing.
//
// Install makes a cluster with `kubeadm init` and `kubeadm join`, with kubelets and containers: slower, and as real as it gets on
// one machine.
//
// Both need root, the programs that scripts/kube.sh builds, and nsenter of util-linux; Install also what `scripts/setup.sh install` installs.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// The components of a node, by the names of their static pods.
const (
	Etcd              = "etcd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	KubeProxy         = "kube-proxy" // has no static pod, and is on workers too
)

// startWait is how long a cluster may take to start, unless the context says less: a busy machine was seen to need a minute.
const startWait = 5 * time.Minute

// A Cluster is a control plane that runs as processes, and perhaps workers. Its methods may be called from any goroutine.
type Cluster struct {
	*site
	nodes []*Node // of the control plane, the first ones of all
	all   []*Node
	units *units
}

// New makes a cluster and waits until every API server is ready. On an error nothing is left but opts.Dir. Processes end with ctx.
func New(ctx context.Context, opts Options) (*Cluster, error) {
	if opts.Proxy {
		if err := find("nft"); err != nil {
			return nil, fmt.Errorf("make cluster: %w", err)
		}
	}
	s, err := newSite(opts)
	if err != nil {
		return nil, err
	}
	c := &Cluster{site: s, units: newUnits(ctx, s.opts.Log)}
	for i, m := range s.machines {
		c.all = append(c.all, newNode(c, i+1, m))
	}
	c.nodes = c.all[:s.opts.Nodes]
	starting, cancel := context.WithTimeoutCause(ctx, startWait, errors.New("the cluster did not start in time"))
	defer cancel()
	if err := c.start(starting); err != nil {
		err = fmt.Errorf("start cluster: %w\n%s", err, c.Logs(5))
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	if err := errors.Join(c.leadToPods(), c.startRelays()); err != nil {
		return err
	}
	if err := c.kubeadm(ctx); err != nil {
		return err
	}
	for _, component := range c.components() {
		for _, n := range c.nodes {
			if err := n.Start(component); err != nil {
				return err
			}
		}
	}
	for i := range c.nodes {
		if err := c.WaitReady(ctx, i+1); err != nil {
			return err
		}
	}
	if err := c.populate(ctx); err != nil || !c.opts.Proxy {
		return err
	}
	return c.startProxies(ctx)
}

// components are the parts of the control plane, in the order in which they start.
func (c *Cluster) components() []string {
	if c.opts.ControllerManager {
		return []string{Etcd, APIServer, ControllerManager}
	}
	return []string{Etcd, APIServer}
}

// startRelays gives each worker its way to the API, each beginning with another server.
func (c *Cluster) startRelays() error {
	for i, n := range c.all[len(c.nodes):] {
		var servers []netip.AddrPort
		for j := range c.nodes {
			servers = append(servers, c.endpoint((i+j)%len(c.nodes)+1))
		}
		if err := n.startRelay(servers); err != nil {
			return err
		}
	}
	return nil
}

// populate makes what kubeadm and the kubelets make once the API is there: the rights of admin.conf, and the Node objects.
func (c *Cluster) populate(ctx context.Context) error {
	k, err := kubernetes.NewForConfig(c.Config(1, c.lab.Client(), c.Admin()))
	if err != nil {
		return err
	}
	_, err = k.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "kubeadm:cluster-admins"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "Group", Name: "kubeadm:cluster-admins"}},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	var adding errgroup.Group
	for _, n := range c.all {
		adding.Go(func() error { return n.register(ctx, k) })
	}
	return adding.Wait()
}

// register makes the Node object, which is Ready and stays so: there is no kubelet, and nobody who would miss it.
func (n *Node) register(ctx context.Context, k kubernetes.Interface) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: n.Name(), Labels: map[string]string{"kubernetes.io/hostname": n.Name(), "kubernetes.io/os": "linux"},
	}}
	if !n.Worker() {
		node.Labels["node-role.kubernetes.io/control-plane"] = ""
	}
	for _, subnet := range n.cluster.podSubnets(n.number) {
		node.Spec.PodCIDRs = append(node.Spec.PodCIDRs, subnet.String())
	}
	node.Spec.PodCIDR = node.Spec.PodCIDRs[0]
	node, err := k.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	now := metav1.Now()
	node.Status.Conditions = []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Test", LastHeartbeatTime: now, LastTransitionTime: now,
	}}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: n.Addr().String()}, {Type: corev1.NodeHostName, Address: n.Name()}}
	if n.cluster.opts.IPv6 {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: n.Addr6().String()})
	}
	if _, err = k.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		return err
	}
	// Each new Node has the taint of one that is not ready. A patch, as the controller-manager may write to it meanwhile.
	_, err = k.CoreV1().Nodes().Patch(ctx, n.Name(), types.MergePatchType, []byte(`{"spec":{"taints":null}}`), metav1.PatchOptions{})
	return err
}

// Node returns node i, counted from 1. Workers come after the control plane.
func (c *Cluster) Node(i int) *Node { return c.all[i-1] }

// Nodes returns all nodes in order.
func (c *Cluster) Nodes() []*Node { return c.all }

// Close kills everything that runs on the nodes and removes the files, unless Options.Dir named the place. It may be called again.
func (c *Cluster) Close() error {
	c.units.close()
	return c.closeSite()
}
