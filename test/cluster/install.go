package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// installWait is how long an installation may take, unless the context says less: three nodes took two minutes on a busy machine.
const installWait = 10 * time.Minute

// InstallOptions describes an installed cluster.
type InstallOptions struct {
	Options
	// Joined is how many nodes Install has join; all if zero. The others have a container runtime and wait for Join.
	Joined int
	// Images are archives, as Image.WriteFile writes them, that each node has before anything else.
	Images []string
	// Prepare, if set, is called for each node before kubeadm runs on it, to write what is to be there, such as static pod manifests
	// (Machine.WriteFile). The node's own /etc/kubernetes/manifests exists.
	Prepare func(*Machine) error
	// StaticVIP lays the address on eth0 of the first node. Otherwise it must be borne by what Prepare brings, or nothing works.
	StaticVIP bool
}

// An Installed is a cluster that kubeadm init and kubeadm join made, with kubelets and containers.
type Installed struct {
	*site
	opts  InstallOptions
	nodes []*InstalledNode
	units *units
}

// Install makes a cluster and returns when all nodes that joined are Ready. On an error nothing is left but opts.Dir. Processes end with ctx.
func Install(ctx context.Context, opts InstallOptions) (*Installed, error) {
	if err := findRuntime(); err != nil {
		return nil, fmt.Errorf("install cluster: %w", err)
	}
	if opts.Workers > 0 || opts.ControllerManagerArgs != nil {
		return nil, errors.New("install cluster: Workers and ControllerManagerArgs are for New alone")
	}
	s, err := newSite(opts.Options)
	if err != nil {
		return nil, err
	}
	opts.Options = s.opts
	c := &Installed{site: s, opts: opts, units: newUnits(ctx, s.opts.Log)}
	for i, m := range s.machines {
		c.nodes = append(c.nodes, newInstalledNode(c, i+1, m))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, installWait, errors.New("the installation did not end in time"))
	defer cancel()
	if err := c.install(ctx); err != nil {
		err = fmt.Errorf("install cluster: %w\n%s", err, c.Logs(5))
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Installed) install(ctx context.Context) error {
	if err := c.prepare(); err != nil {
		return err
	}
	var booting errgroup.Group
	for _, n := range c.nodes {
		booting.Go(func() error { return n.boot(ctx) })
	}
	if err := booting.Wait(); err != nil {
		return err
	}
	joined := c.opts.Joined
	if joined == 0 {
		joined = len(c.nodes)
	}
	for i := 1; i <= joined; i++ {
		if err := c.Join(ctx, i); err != nil {
			return err
		}
	}
	return c.waitNodes(ctx, joined)
}

// prepare writes what all nodes share: images, and patches by which the pods of the control plane, whose images are empty, find
// their programs on the host.
func (c *Installed) prepare() error {
	version, err := c.version(c.units.ctx)
	if err != nil {
		return err
	}
	pause := map[string]string{"/pause": filepath.Join(c.bin, "pause")}
	images := []Image{
		{Names: []string{pauseImage}, Files: pause, Entrypoint: []string{"/pause"}},
		{Names: []string{imageRepository + "/etcd:" + etcdTag}, Files: pause},
	}
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		images[1].Names = append(images[1].Names, imageRepository+"/"+name+":"+version)
	}
	for i, image := range images {
		file := filepath.Join(c.dir, fmt.Sprintf("image-%d.tar", i))
		if err := image.WriteFile(file); err != nil {
			return err
		}
		c.opts.Images = append([]string{file}, c.opts.Images...)
	}
	return c.writePatches()
}

func (c *Installed) patches() string { return filepath.Join(c.dir, "patches") }

func (c *Installed) writePatches() error {
	if err := os.MkdirAll(c.patches(), 0o755); err != nil {
		return err
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		patch := fmt.Sprintf(`spec:
  containers:
  - {name: %s, volumeMounts: [{name: programs, mountPath: /usr/local/bin, readOnly: true}]}
  volumes: [{name: programs, hostPath: {path: %q, type: Directory}}]
`, name, c.bin)
		if err := os.WriteFile(filepath.Join(c.patches(), name+"+strategic.yaml"), []byte(patch), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Join has kubeadm make node i a part of the cluster: init on the first, join as another of the control plane on the others. It
// returns when kubeadm has ended; the node may not be Ready yet.
func (c *Installed) Join(ctx context.Context, i int) error {
	n := c.nodes[i-1]
	if c.opts.Prepare != nil {
		if err := c.opts.Prepare(n.Machine); err != nil {
			return fmt.Errorf("prepare %s: %w", n.Name(), err)
		}
	}
	if i == 1 && c.opts.StaticVIP {
		if err := c.BearVIP(i); err != nil {
			return err
		}
	}
	if err := n.kubeadm(ctx); err != nil {
		return err
	}
	if !c.opts.Proxy {
		return nil
	}
	return n.startProxy()
}

// Leave undoes Join: the node goes from etcd and from the API, and keeps no file of kubeadm. It is started anew, as kubeadm gives a
// busy container two seconds to stop and then leaves it there, in the way of the next. It can join again.
func (c *Installed) Leave(ctx context.Context, i int) error {
	n := c.nodes[i-1]
	via := 1
	if i == 1 {
		via = 2
	}
	// By its pods kubeadm finds the etcd to remove; without them it goes on after a minute, and the node cannot join again.
	for _, name := range []string{"etcd", "kube-apiserver"} {
		err := eventually(ctx, func() error {
			_, err := c.Kubectl(ctx, via, "get", "pod", "-n", "kube-system", name+"-"+n.Name())
			return err
		})
		if err != nil {
			return fmt.Errorf("wait for the pods of %s: %w", n.Name(), err)
		}
	}
	for _, u := range []*unit{n.kubelet, n.proxy} {
		u.stop(kill)
	}
	if err := n.kubeadmReset(ctx); err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, via, "delete", "node", n.Name()); err != nil {
		return err
	}
	n.halt()
	return n.Boot(ctx)
}

// BearVIP lays the address on eth0 of node i, as StaticVIP does on the first. A crash takes it away.
func (c *Installed) BearVIP(i int) error {
	n, vip := c.nodes[i-1], c.VIP()
	err := n.Host.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		ones := net.CIDRMask(vip.BitLen(), vip.BitLen())
		return netlink.AddrReplace(eth0, &netlink.Addr{IPNet: &net.IPNet{IP: vip.AsSlice(), Mask: ones}})
	})
	if err != nil {
		return fmt.Errorf("add %s to eth0 of %s: %w", vip, n.Name(), err)
	}
	return nil
}

// waitNodes waits until so many nodes are Ready.
func (c *Installed) waitNodes(ctx context.Context, want int) error {
	cfg := c.Config(1, c.lab.Client(), c.Admin())
	cfg.Timeout = 5 * time.Second
	k, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	return eventually(ctx, func() error {
		nodes, err := k.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		ready := 0
		for _, n := range nodes.Items {
			if isReady(&n) {
				ready++
			}
		}
		if ready < want {
			return fmt.Errorf("%d of %d nodes are Ready", ready, want)
		}
		return nil
	})
}

func isReady(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// Node returns node i, counted from 1.
func (c *Installed) Node(i int) *InstalledNode { return c.nodes[i-1] }

// Nodes returns all nodes in order.
func (c *Installed) Nodes() []*InstalledNode { return c.nodes }

// Close kills the nodes and removes the files, unless Options.Dir named the place. It may be called again.
func (c *Installed) Close() error {
	for _, n := range c.nodes {
		n.halt()
	}
	c.units.close()
	var errs []error
	for _, n := range c.nodes {
		errs = append(errs, n.sweep())
	}
	return errors.Join(append(errs, c.closeSite())...)
}
