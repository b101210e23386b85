package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// own are the folders that a machine has to itself; all else below private is the host's, and what is changed there is lost.
var (
	own     = []string{"/etc/kubernetes", "/etc/cni", "/etc/pintle", "/var/lib/containerd", "/var/lib/etcd", "/var/lib/kubelet", "/var/lib/pintle", "/var/log"}
	private = []string{"/etc", "/var/lib", "/run"}
)

// systemPath is where a machine looks for programs that are not those of Kubernetes.
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// A Machine is a node of the lab with files and a host name of its own, and a default route (to the client, which forwards
// nothing). /run is empty, and the host's /etc/resolv.conf is replaced by one that names no server: a look-up fails at once.
type Machine struct {
	*netlab.Node
	dir     string
	path    string // PATH
	hosts   []byte // its /etc/hosts
	gateway netip.Addr

	mu       sync.Mutex // guards all below
	mnt, uts *os.File   // namespaces, which live as long as they are open
	init     int        // process id, seen from here, of the first process of its process namespace; 0: it shares ours
	procs    []*netlab.Process
}

// File is where the host has a file that the machine has at path, one of its own folders' (/etc/kubernetes, /etc/cni, /etc/pintle,
// /var/lib/containerd, /var/lib/etcd, /var/lib/kubelet, /var/lib/pintle, /var/log).
func (m *Machine) File(path string) string { return filepath.Join(m.dir, path) }

// WriteFile writes a file of one of the machine's own folders, and makes its folder.
func (m *Machine) WriteFile(path string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(m.File(path)), 0o755); err != nil {
		return err
	}
	return os.WriteFile(m.File(path), content, mode)
}

// Run starts cmd on the machine: in its network, mount and host name namespaces, with its PATH if cmd.Env is nil. What
// netlab.Host.Start says holds.
func (m *Machine) Run(ctx context.Context, cmd *exec.Cmd) (*netlab.Process, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mnt == nil {
		return nil, fmt.Errorf("run %s on %s: the machine is closed", cmd.Path, m.Name())
	}
	if cmd.Env == nil {
		cmd.Env = []string{"PATH=" + m.path, "HOME=/root", "LANG=C.UTF-8"}
	}
	m.enter(cmd)
	p, err := m.Host.Start(ctx, cmd)
	if err != nil {
		return nil, err
	}
	m.procs = append(slices.DeleteFunc(m.procs, (*netlab.Process).Exited), p)
	return p, nil
}

// enter has nsenter start the program, which becomes it, but for a process namespace: there it is its child.
func (m *Machine) enter(cmd *exec.Cmd) {
	inner := slices.Clone(cmd.Args)
	if filepath.IsAbs(cmd.Path) {
		inner[0] = cmd.Path
	}
	cmd.Err = nil // that it is not in our PATH
	fd := func(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }
	args := []string{"nsenter", "--mount=" + fd(m.mnt), "--uts=" + fd(m.uts)}
	if m.init != 0 {
		args = append(args, fmt.Sprintf("--pid=/proc/%d/ns/pid", m.init), fmt.Sprintf("--ipc=/proc/%d/ns/ipc", m.init))
	}
	cmd.Path, cmd.Args = nsenter(), append(append(args, "--"), inner...)
}

// nsenter is util-linux's, which every Linux has.
func nsenter() string {
	if p, err := exec.LookPath("nsenter"); err == nil {
		return p
	}
	return "/usr/bin/nsenter"
}

// Exec runs a program on the machine and returns what it prints. The error has what it says on standard error.
func (m *Machine) Exec(ctx context.Context, argv ...string) ([]byte, error) {
	return m.exec(ctx, nil, argv...)
}

func (m *Machine) exec(ctx context.Context, input []byte, argv ...string) ([]byte, error) {
	var out, errs bytes.Buffer
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &out, &errs
	p, err := m.Run(ctx, cmd)
	if err != nil {
		return nil, err
	}
	if err := p.Wait(); err != nil {
		return out.Bytes(), fmt.Errorf("run %s on %s: %w: %s", strings.Join(argv, " "), m.Name(), err, lastLines(errs.String(), 10))
	}
	return out.Bytes(), nil
}

// killAll kills every process that Run started, at the same time, and returns when they are gone.
func (m *Machine) killAll() {
	m.mu.Lock()
	procs := m.procs
	m.procs = nil
	m.mu.Unlock()
	for _, p := range procs {
		_ = p.Signal(syscall.SIGKILL)
	}
	for _, p := range procs {
		<-p.Done()
	}
}

// reset forgets what a restart of a computer forgets: /run, connections, and the addresses, routes and nftables that were not there
// when it was made. The cables of pods stay, as does the one of eth0.
func (m *Machine) reset() error {
	if err := m.Host.Do(m.forgetNetwork); err != nil {
		return fmt.Errorf("restart %s: %w", m.Name(), err)
	}
	if err := m.close(); err != nil {
		return err
	}
	if err := m.assemble(); err != nil {
		return fmt.Errorf("restart %s: %w", m.Name(), err)
	}
	return nil
}

func (m *Machine) forgetNetwork() error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, link := range links {
		if netlab.IsPodLink(link.Attrs().Name) {
			continue
		}
		if err := m.forgetAddresses(link); err != nil {
			return err
		}
	}
	nft, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	nft.FlushRuleset()
	if err := nft.Flush(); err != nil {
		return fmt.Errorf("flush nftables: %w", err)
	}
	if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		return fmt.Errorf("flush connections: %w", err)
	}
	return nil
}

func (m *Machine) forgetAddresses(link netlink.Link) error {
	addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
	}
	for _, a := range addrs {
		if a.IP.IsLoopback() || a.IP.IsLinkLocalUnicast() || a.IP.Equal(net.IP(m.Addr().AsSlice())) || a.IP.Equal(net.IP(m.Addr6().AsSlice())) {
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) { // it may expire just now
			return fmt.Errorf("remove %s: %w", a.IPNet, err)
		}
	}
	return nil
}

// close lets the namespaces go, when no process is in them any more.
func (m *Machine) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mnt == nil {
		return nil
	}
	err := errors.Join(m.mnt.Close(), m.uts.Close())
	m.mnt, m.uts, m.init = nil, nil, 0
	return err
}

// assemble makes the namespaces, on a thread that is not used for anything else afterwards.
func (m *Machine) assemble() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range private {
		if inside, err := filepath.Rel(p, m.dir); err != nil || !strings.HasPrefix(inside, "..") {
			return fmt.Errorf("keep files of %s in %s: want a folder outside of %v", m.Name(), m.dir, private)
		}
	}
	for _, dir := range append(slices.Clone(own), "/layers", "/cgroup") {
		mode := os.FileMode(0o755)
		if dir == "/var/lib/etcd" {
			mode = 0o700 // etcd insists
		}
		if err := os.MkdirAll(m.File(dir), mode); err != nil {
			return err
		}
	}
	return m.Host.Do(m.separate)
}

// separate runs in the network namespace of the machine.
func (m *Machine) separate() error {
	if unix.Gettid() == os.Getpid() {
		return m.Host.Do(m.separate) // the main thread cannot end; while it waits here, this runs on another one
	}
	runtime.LockOSThread() // once more than Do, so that the thread ends with its goroutine
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("make mount namespace: %w", err)
	}
	for _, step := range []func() error{m.mount, m.names, m.defaultRoute, m.open} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// A mounting is a call of mount(2).
type mounting struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

func (m *Machine) mount() error {
	layers, cgroup := m.File("/layers"), m.File("/cgroup")
	mounts := []mounting{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		// A sysfs shows the network namespace that it was mounted in. The control groups are mounted below it.
		{"/sys/fs/cgroup", cgroup, "", unix.MS_BIND | unix.MS_REC, ""},
		{"sysfs", "/sys", "sysfs", 0, ""},
		{cgroup, "/sys/fs/cgroup", "", unix.MS_BIND | unix.MS_REC, ""},
		{"tmpfs", layers, "tmpfs", 0, "mode=0755"},
		{"tmpfs", "/run", "tmpfs", 0, "mode=0755"},
	}
	for _, mt := range mounts {
		if err := mt.do(); err != nil {
			return err
		}
	}
	for _, path := range []string{"/etc", "/var/lib"} {
		if err := m.overlay(layers, path); err != nil {
			return err
		}
	}
	for _, path := range own {
		if err := m.bind(path); err != nil {
			return err
		}
	}
	// CNI plugins and the kubelet rely on mounts that reach what was started before.
	return mounting{"", "/", "", unix.MS_REC | unix.MS_SHARED, ""}.do()
}

func (mt mounting) do() error {
	if err := unix.Mount(mt.source, mt.target, mt.kind, mt.flags, mt.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", mt.source, mt.target, err)
	}
	return nil
}

// overlay lets the machine change a folder of the host for itself, in memory.
func (m *Machine) overlay(layers, path string) error {
	upper, work := filepath.Join(layers, "upper", path), filepath.Join(layers, "work", path)
	if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
		return err
	}
	return mounting{"overlay", path, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", path, upper, work)}.do()
}

func (m *Machine) bind(path string) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	return mounting{m.File(path), path, "", unix.MS_BIND, ""}.do()
}

// names sets the host name and how names are looked up. The files may be links to somewhere else.
func (m *Machine) names() error {
	for path, content := range map[string][]byte{"/etc/hosts": m.hosts, "/etc/resolv.conf": nil, "/etc/hostname": []byte(m.Name() + "\n")} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	if err := unix.Sethostname([]byte(m.Name())); err != nil {
		return fmt.Errorf("set host name %s: %w", m.Name(), err)
	}
	return nil
}

// defaultRoute is what Kubernetes wants of a machine; replacing it does nothing to one that is there.
func (m *Machine) defaultRoute() error {
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find eth0: %w", err)
	}
	route := &netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: m.gateway.AsSlice()}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("add default route: %w", err)
	}
	return nil
}

func (m *Machine) open() (err error) {
	if m.mnt, err = os.Open("/proc/thread-self/ns/mnt"); err != nil {
		return err
	}
	if m.uts, err = os.Open("/proc/thread-self/ns/uts"); err != nil {
		return errors.Join(err, m.mnt.Close())
	}
	return nil
}

// lastLines are the last n lines of a text.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
