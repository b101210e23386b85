package main

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/pintle-lb/pintle/test/plane"
)

// kubeVIPSystem is kube-vip as its documents install it on a control plane: a static pod with ARP and a Lease of 5 s, 3 s
// and 1 s.
type kubeVIPSystem struct{ exe, pintle string }

// newKubeVIP takes the path of the program, or its name.
func newKubeVIP(exe, pintle string) (*kubeVIPSystem, error) {
	found, err := exec.LookPath(exe)
	if err != nil {
		return nil, err
	}
	found, err = filepath.Abs(found)
	return &kubeVIPSystem{exe: found, pintle: pintle}, err
}

func (*kubeVIPSystem) Name() string { return "kube-vip-5s" }

// Period is that of renewals: vip_retryperiod.
func (*kubeVIPSystem) Period() time.Duration { return time.Second }

// Versions is what the build says: `kube-vip version` knows only releases.
func (s *kubeVIPSystem) Versions() []string {
	info, err := buildinfo.ReadFile(s.exe)
	if err != nil {
		return []string{"kube-vip, of unknown version"}
	}
	return []string{fmt.Sprintf("kube-vip %s (%s)", info.Main.Version, info.GoVersion)}
}

// Start makes the control plane. Its election and lease are those that the measurement waits for.
func (s *kubeVIPSystem) Start(ctx context.Context, echo []string) (controlPlane, error) {
	o := plane.Options{Pintle: s.pintle, Echo: echo, Election: "lease", Lease: 5 * time.Second}
	return noNil(plane.NewRival(ctx, o, plane.Program{Prepare: prepareKubeVIP, Command: s.command}))
}

const kubeVIPConfig = "/etc/kubernetes/kube-vip.conf"

// prepareKubeVIP writes an administrator's kubeconfig that leads to the node's own API server. The one that kubeadm writes
// leads to the address, which nobody has before kube-vip runs.
func prepareKubeVIP(p *plane.Plane, i int) error {
	text, err := p.Kubeconfig(i, p.Admin())
	if err != nil {
		return err
	}
	return p.Node(i).WriteFile(kubeVIPConfig, text, 0o600)
}

func (s *kubeVIPSystem) command(p *plane.Plane, i int) *exec.Cmd {
	n := p.Node(i)
	cmd := exec.Command(s.exe, "manager")
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root",
		"vip_arp=true",
		"port=6443",
		"vip_nodename=" + n.Name(),
		"vip_interface=eth0",
		"vip_subnet=32",
		"vip_cidr=32", // its name in older versions
		"cp_enable=true",
		"cp_namespace=kube-system",
		"vip_leaderelection=true",
		"vip_leasename=plndr-cp-lock",
		"vip_leaseduration=5",
		"vip_renewdeadline=3",
		"vip_retryperiod=1",
		"address=" + p.VIP().String(),
		"k8s_config_file=" + kubeVIPConfig,
		"kubernetes_addr=" + n.Addr().String() + ":6443", // for versions that take admin.conf, whatever the line before says
	}
	return cmd
}
