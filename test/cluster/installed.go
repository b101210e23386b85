package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	pauseImage = imageRepository + "/pause:1"
	etcdTag    = "test"
	socket     = "/run/containerd/containerd.sock"
	token      = "abcdef.0123456789abcdef" // that lets a node join
	kubeletDir = "/var/lib/kubelet"
)

// An InstalledNode is a machine with a process namespace, a container runtime and, once it has joined, a kubelet.
type InstalledNode struct {
	*Machine
	cluster                    *Installed
	number                     int
	containerd, kubelet, proxy *unit
	initFD                     int // tells of the end of the machine's first process; -1: there is none
}

func newInstalledNode(c *Installed, number int, m *Machine) *InstalledNode {
	n := &InstalledNode{Machine: m, cluster: c, number: number, initFD: -1}
	always := func(argv ...string) func() ([]string, error) { return func() ([]string, error) { return argv, nil } }
	n.containerd = &unit{machine: m, name: "containerd", runs: c.units, command: always("containerd", "-c", filepath.Join(m.dir, "containerd.toml"))}
	n.kubelet = &unit{machine: m, name: "kubelet", runs: c.units, command: n.kubeletCommand}
	n.proxy = &unit{machine: m, name: "kube-proxy", runs: c.units, command: c.proxyCommand(m, filepath.Join(m.dir, "proxy.conf"))}
	return n
}

// Crash is a power failure: the switch loses the node, then everything on it is killed, containers too.
func (n *InstalledNode) Crash() error {
	err := n.Cut()
	n.halt()
	return err
}

func (n *InstalledNode) halt() {
	for _, u := range []*unit{n.containerd, n.kubelet, n.proxy} {
		u.unwant()
	}
	n.killAll()
	n.waitInit()
}

// waitInit waits for the end of the process namespace: the first process ends last.
func (n *InstalledNode) waitInit() {
	if n.initFD < 0 {
		return
	}
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(n.initFD), Events: unix.POLLIN}}, -1)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = unix.Close(n.initFD)
	n.initFD = -1
}

// Boot starts a node after Crash, as Node.Boot does; its kubelet starts its static pods again.
func (n *InstalledNode) Boot(ctx context.Context) error {
	if err := errors.Join(n.sweep(), n.reset(), n.Heal()); err != nil {
		return err
	}
	if err := n.boot(ctx); err != nil {
		return err
	}
	if _, err := os.Stat(n.File(kubeletDir + "/kubeadm-flags.env")); err != nil {
		return nil // it has not joined
	}
	if n.cluster.opts.Proxy {
		if err := n.proxy.start(); err != nil {
			return err
		}
	}
	return n.kubelet.start()
}

// boot brings the machine up to where kubeadm can run on it.
func (n *InstalledNode) boot(ctx context.Context) error {
	if err := n.startInit(ctx); err != nil {
		return err
	}
	if err := errors.Join(n.writeRuntime(), n.Host.Do(n.podRoutes)); err != nil {
		return err
	}
	if err := os.MkdirAll(n.File("/etc/kubernetes/manifests"), 0o755); err != nil { // a kubelet that does not find it looks again after 20 s
		return err
	}
	if err := n.containerd.start(); err != nil {
		return err
	}
	if err := eventually(ctx, func() error { _, err := n.Exec(ctx, "ctr", "version"); return err }); err != nil {
		return fmt.Errorf("wait for containerd: %w", err)
	}
	for _, file := range n.cluster.opts.Images {
		if err := n.Import(ctx, file); err != nil {
			return err
		}
	}
	return nil
}

// Import gives the node's container runtime an image, an archive of the host.
func (n *InstalledNode) Import(ctx context.Context, file string) error {
	_, err := n.Exec(ctx, "ctr", "--namespace=k8s.io", "images", "import", file)
	return err
}

// startInit gives the machine a process namespace: when its first process dies, the kernel kills all others.
func (n *InstalledNode) startInit(ctx context.Context) error {
	cmd := exec.Command("unshare", "--pid", "--ipc", "--fork", "--kill-child", "--", filepath.Join(n.cluster.bin, "pause"))
	p, err := n.Run(n.cluster.units.ctx, cmd)
	if err != nil {
		return err
	}
	var pid int
	err = eventually(ctx, func() error {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.PID(), p.PID()))
		if err != nil {
			return err
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(children)))
		return err
	})
	if err != nil {
		return fmt.Errorf("make process namespace: %w", err)
	}
	if n.initFD, err = unix.PidfdOpen(pid, 0); err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	n.mu.Lock()
	n.init = pid
	n.mu.Unlock()
	_, err = n.Exec(ctx, "mount", "-t", "proc", "proc", "/proc")
	return err
}

// podRoutes leads to the pods of the other nodes, as a network plugin or a cloud would.
func (n *InstalledNode) podRoutes() error {
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	for _, other := range n.cluster.nodes {
		if other == n {
			continue
		}
		dst, err := netlink.ParseIPNet(other.podSubnet())
		if err != nil {
			return err
		}
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: dst, Gw: other.Addr().AsSlice()}); err != nil {
			return fmt.Errorf("add route to the pods of %s: %w", other.Name(), err)
		}
	}
	return nil
}

// podSubnet is that of the bridge, which has IPv4 only.
func (n *InstalledNode) podSubnet() string { return n.cluster.podSubnets(n.number)[0].String() }

// writeRuntime configures containerd and the bridge of the pods. There are no limits by control groups and no
// protection from the kernel's memory killer: a test machine may not be allowed to set either.
func (n *InstalledNode) writeRuntime() error {
	runtime := fmt.Sprintf(`version = 2
root = "/var/lib/containerd"
state = "/run/containerd/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "%s"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "%s"
  disable_cgroup = true
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "%s"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
`, socket, pauseImage, cniDir)
	bridge := fmt.Sprintf(`{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true,
  "ipam": {"type": "host-local", "dataDir": "/run/cni", "ranges": [[{"subnet": "%s"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
`, n.podSubnet())
	return errors.Join(
		os.WriteFile(filepath.Join(n.dir, "containerd.toml"), []byte(runtime), 0o644),
		n.WriteFile("/etc/cni/net.d/10-pods.conflist", []byte(bridge), 0o644))
}

// kubeadm runs init or join. Without systemd it cannot start the kubelet, which is started when its files are there.
func (n *InstalledNode) kubeadm(ctx context.Context) error {
	version, err := n.cluster.version(ctx)
	if err != nil {
		return err
	}
	argv := []string{"kubeadm", "init", "--config", configFile, "--upload-certs", "--skip-phases=preflight,addon,show-join-command"}
	if n.number == 1 {
		err = n.writeConfig(n.initConfiguration(), n.cluster.configuration(version), kubeletConfiguration())
	} else {
		argv = []string{"kubeadm", "join", "--config", configFile, "--ignore-preflight-errors=all"}
		err = n.writeConfig(n.joinConfiguration())
	}
	if err != nil {
		return err
	}
	running, ctx := errgroup.WithContext(ctx)
	running.Go(func() error {
		out, err := n.Exec(ctx, argv...)
		return errors.Join(err, n.WriteFile("/var/log/kubeadm.log", out, 0o644))
	})
	running.Go(func() error {
		if err := eventually(ctx, n.hasKubeletFiles); err != nil {
			return err
		}
		return n.kubelet.start()
	})
	return running.Wait()
}

// kubeadmReset takes the node out of etcd and removes the files of kubeadm.
func (n *InstalledNode) kubeadmReset(ctx context.Context) error {
	// The first phase would ask systemd. What it warns of is on standard error.
	out, err := n.Exec(ctx, "sh", "-c", "exec kubeadm reset --force --cri-socket=unix://"+socket+" --skip-phases=preflight 2>&1")
	return errors.Join(err, n.WriteFile("/var/log/kubeadm-reset.log", out, 0o644))
}

// hasKubeletFiles is what systemd waits for on a machine with kubeadm's unit files.
func (n *InstalledNode) hasKubeletFiles() error {
	for _, names := range [][]string{{kubeletDir + "/config.yaml"}, {kubeletDir + "/kubeadm-flags.env"}, {"/etc/kubernetes/kubelet.conf", "/etc/kubernetes/bootstrap-kubelet.conf"}} {
		there := false
		for _, name := range names {
			info, err := os.Stat(n.File(name))
			there = there || err == nil && info.Size() > 0
		}
		if !there {
			return fmt.Errorf("no %s", names[0])
		}
	}
	return nil
}

func (n *InstalledNode) kubeletCommand() ([]string, error) {
	b, err := os.ReadFile(n.File(kubeletDir + "/kubeadm-flags.env"))
	if err != nil {
		return nil, err
	}
	_, flags, _ := strings.Cut(strings.TrimSpace(string(b)), "=") // KUBELET_KUBEADM_ARGS="--flag ..."
	argv := []string{"kubelet", "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf", "--kubeconfig=/etc/kubernetes/kubelet.conf",
		"--config=" + kubeletDir + "/config.yaml"}
	return append(argv, strings.Fields(strings.Trim(flags, `"`))...), nil
}

func (n *InstalledNode) startProxy() error {
	config, err := n.cluster.Kubeconfig(n.number, n.cluster.Admin())
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(n.dir, "proxy.conf"), config, 0o600); err != nil {
		return err
	}
	return n.proxy.start()
}

func (n *InstalledNode) initConfiguration() object {
	c := kubeadmObject("InitConfiguration")
	c["localAPIEndpoint"] = object{"advertiseAddress": n.Addr().String(), "bindPort": apiPort}
	c["bootstrapTokens"] = []object{{
		"token": token, "ttl": "2h0m0s", "usages": []string{"signing", "authentication"}, "groups": []string{"system:bootstrappers:kubeadm:default-node-token"},
	}}
	c["certificateKey"] = certificateKey
	n.addRegistration(c)
	return c
}

// certificateKey encrypts the certificates that kubeadm join fetches.
var certificateKey = fmt.Sprintf("%064d", 7)

func (n *InstalledNode) joinConfiguration() object {
	c := kubeadmObject("JoinConfiguration")
	c["discovery"] = object{"bootstrapToken": object{
		"apiServerEndpoint": n.cluster.endpoint(0).String(), "token": token, "unsafeSkipCAVerification": true,
	}}
	c["controlPlane"] = object{
		"localAPIEndpoint": object{"advertiseAddress": n.Addr().String(), "bindPort": apiPort}, "certificateKey": certificateKey,
	}
	n.addRegistration(c)
	return c
}

func (n *InstalledNode) addRegistration(c object) {
	addrs := n.Addr().String()
	if n.cluster.opts.IPv6 {
		addrs += "," + n.Addr6().String()
	}
	c["nodeRegistration"] = object{
		"name": n.Name(), "criSocket": "unix://" + socket, "taints": []string{}, "imagePullPolicy": "Never",
		"kubeletExtraArgs": arguments(map[string]string{"node-ip": addrs}),
	}
	c["patches"] = object{"directory": n.cluster.patches()}
}

func (c *Installed) configuration(version string) object {
	o := c.clusterConfiguration(version)
	o["apiServer"] = object{"certSANs": c.sans(), "extraArgs": arguments(c.opts.APIServerArgs)}
	o["controllerManager"] = object{"extraArgs": arguments(map[string]string{"allocate-node-cidrs": "false"})} // the bridges know theirs
	o["etcd"] = object{"local": object{"dataDir": "/var/lib/etcd", "imageTag": etcdTag}}
	return o
}

// kubeletConfiguration does without what a test machine may not have: control groups to change, swap turned off.
func kubeletConfiguration() object {
	return object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"failCgroupV1": false, "cgroupDriver": "cgroupfs", "cgroupsPerQOS": false, "enforceNodeAllocatable": []string{"none"},
		"failSwapOn": false, "localStorageCapacityIsolation": false, "oomScoreAdj": 0,
	}
}

// sweep removes the control groups of containers that were killed with the node, which nobody else does, and what containerd makes for
// them all, if they are the last.
func (n *InstalledNode) sweep() error {
	var containers []string
	for _, kind := range []string{"containers", "sandboxes"} {
		dirs, err := filepath.Glob(n.File("/var/lib/containerd/io.containerd.grpc.v1.cri/" + kind + "/*"))
		if err != nil {
			return err
		}
		containers = append(containers, dirs...)
	}
	ours, parents := map[string]bool{}, []string{}
	for _, dir := range containers {
		ours[filepath.Base(dir)] = true
	}
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || !d.IsDir():
		case d.Name() == "k8s.io":
			parents = append(parents, path)
		case ours[d.Name()]:
			_ = os.Remove(path) // the processes in it are dead
			return fs.SkipDir
		}
		return nil
	})
	for _, dir := range parents {
		_ = os.Remove(dir) // fails while there is anything in it
	}
	return err
}
