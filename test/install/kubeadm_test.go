package install

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/internal/status"
	"github.com/pintle-lb/pintle/test/cluster"
	"github.com/pintle-lb/pintle/test/cluster/clustertest"
	"github.com/pintle-lb/pintle/test/plane"
)

// A kubeadm is a cluster whose controlPlaneEndpoint is an address that nothing
// but Pintle's own image, as a static pod, brings up.
type kubeadm struct {
	*cluster.Installed
	program string
	client  plane.Client
	probe   *netlab.Probe
}

// TestKubeadm follows the documents: the image, `pintle manifest pod` on each
// node, kubeadm init, kubeadm join. Then things go wrong.
func TestKubeadm(t *testing.T) {
	k := newKubeadm(t)
	for _, c := range []struct {
		name string
		test func(*testing.T, *kubeadm)
	}{
		{"the pod has what it needs and no more", contents},
		{"the holder's node dies", crashed},
		{"the kubelet restarts the pod", restarted},
		{"the manifest changes while it holds", changed},
		{"kubeadm renews the certificates", renewed},
		{"a DaemonSet beside the static pods has another address", beside},
		{"a DaemonSet gives Services their addresses", serves},
	} {
		if !t.Run(c.name, func(t *testing.T) {
			from := k.probe.Mark()
			c.test(t, k)
			k.settled(t)
			if w := k.probe.Report(from, k.probe.Mark()); len(w.Dual) > 0 {
				t.Errorf("%d questions were answered by two nodes, the first: %+v", len(w.Dual), w.Dual[0])
			}
		}) {
			return
		}
	}
}

func newKubeadm(t *testing.T) *kubeadm {
	t.Helper()
	dir := t.TempDir()
	k := &kubeadm{program: filepath.Join(dir, "pintle")}
	image := filepath.Join(dir, "pintle.tar")
	run(t, "go", "build", "-o", k.program, "../../cmd/pintle")
	run(t, "go", "run", "../../tools/image", "-binary", k.program, "-version", "test", "-out", image)
	k.Installed = clustertest.Install(t, cluster.InstallOptions{
		Options: cluster.Options{Nodes: 3, Proxy: true},
		Images:  []string{image},
		Prepare: func(m *cluster.Machine) error {
			out, err := exec.Command(k.program, "manifest", "pod", "--address", "10.77.0.100", "--peers", "n1=10.77.0.1,n2=10.77.0.2,n3=10.77.0.3",
				"--profile", "fast", "--image", "pintle:test", "--dir", m.File("/")).CombinedOutput()
			if err != nil {
				return fmt.Errorf("pintle manifest pod: %w: %s", err, out)
			}
			return nil
		},
	})
	k.client = plane.Client{Lab: k.Lab(), VIP: k.VIP()}
	var err error
	k.probe, err = k.Lab().StartProbe(k.VIP(), 10*time.Millisecond)
	check(t, err)
	k.settled(t)
	return k
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

func (k *kubeadm) status(ctx context.Context, i int) (*status.Report, error) {
	out, err := k.Node(i).Exec(ctx, k.program, "status", "-o", "json")
	if err != nil {
		return nil, err
	}
	r := &status.Report{}
	return r, json.Unmarshal(out, r)
}

// settled waits until every Pintle is ready, as itself, as Kubernetes and as the
// client say, and returns the holder.
func (k *kubeadm) settled(t *testing.T) (holder int) {
	t.Helper()
	api, err := kubernetes.NewForConfig(k.Config(0, k.Lab().Client(), k.Admin()))
	check(t, err)
	clustertest.Await(t, clustertest.Context(t), func(ctx context.Context) error {
		if err := k.client.Ask(ctx); err != nil {
			return err
		}
		holder = 0
		for i := range k.Nodes() {
			r, err := k.status(ctx, i+1)
			if err != nil {
				return fmt.Errorf("n%d: %w", i+1, err)
			}
			if !r.Ready {
				return fmt.Errorf("n%d is not ready: %s", i+1, r.NotReady)
			}
			if r.Seats[0].Holding {
				holder = i + 1
			}
			pod, err := api.CoreV1().Pods("kube-system").Get(ctx, fmt.Sprintf("pintle-n%d", i+1), metav1.GetOptions{})
			if err != nil {
				return err
			}
			if err := ready(pod); err != nil {
				return err
			}
		}
		if holder == 0 {
			return fmt.Errorf("nobody holds")
		}
		return nil
	})
	return holder
}

func ready(pod *corev1.Pod) error {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("pod %s is not ready: %+v", pod.Name, pod.Status.ContainerStatuses)
}

// measure says what the client notices of a fault.
func (k *kubeadm) measure(t *testing.T, wait time.Duration, fault func()) {
	t.Helper()
	asking := k.client.Start(t.Context())
	asking.Wait(t.Context(), 10)
	began := time.Now()
	fault()
	asking.Quiet(t.Context(), began, wait)
	outage := asking.End()
	t.Logf("outage %v, %d lost", outage, asking.Lost(began))
	if outage > 20*time.Second {
		t.Errorf("the API did not answer through the address for %v", outage)
	}
}

func contents(t *testing.T, k *kubeadm) {
	out, err := k.Node(1).Exec(t.Context(), "sh", "-c", "p=/proc/$(pgrep -x pintle) && cd $p/root && find etc/kubernetes etc/pintle -type f && grep -E '^(CapEff|Seccomp|NoNewPrivs):' $p/status")
	check(t, err)
	text := string(out)
	for _, want := range []string{"etc/pintle/pintle.yaml", "etc/kubernetes/pki/ca.crt", "etc/kubernetes/pki/etcd/ca.crt", "etc/kubernetes/pki/etcd/peer.crt", "etc/kubernetes/pki/etcd/peer.key",
		"CapEff:\t0000000000803000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("got %q, want %q in it", text, want)
		}
	}
	if strings.Contains(text, "ca.key") || strings.Contains(text, ".conf") {
		t.Errorf("the pod has too much: %q", text)
	}
}

func crashed(t *testing.T, k *kubeadm) {
	h := k.settled(t)
	k.measure(t, 3*time.Second, func() { check(t, k.Node(h).Crash()) })
	check(t, k.Node(h).Boot(clustertest.Context(t)))
}

// restarted kills the holder's process: its node goes on serving, and the
// kubelet starts another.
func restarted(t *testing.T, k *kubeadm) {
	h := k.settled(t)
	k.measure(t, 3*time.Second, func() {
		_, err := k.Node(h).Exec(t.Context(), "pkill", "-KILL", "-x", "pintle")
		check(t, err)
	})
}

// changed alters the holder's static pod: the kubelet stops the old one first.
func changed(t *testing.T, k *kubeadm) {
	h := k.settled(t)
	before, err := k.status(t.Context(), h)
	check(t, err)
	file := k.Node(h).File("/etc/kubernetes/manifests/pintle.yaml")
	text, err := os.ReadFile(file)
	check(t, err)
	head, tail, ok := strings.Cut(string(text), "pintle.dev/config-hash: \"")
	if !ok {
		t.Fatalf("the manifest has no hash: %s", text)
	}
	k.measure(t, 3*time.Second, func() {
		check(t, os.WriteFile(file, []byte(head+"pintle.dev/config-hash: \"0"+tail), 0o600))
		clustertest.Await(t, clustertest.Context(t), func(ctx context.Context) error {
			r, err := k.status(ctx, h)
			if err != nil {
				return err
			}
			if !r.Started.After(before.Started) {
				return fmt.Errorf("n%d was not restarted", h)
			}
			return nil
		})
	})
}

// renewed: a year later, kubeadm writes new certificates in the place of the old.
func renewed(t *testing.T, k *kubeadm) {
	h := k.settled(t)
	before, err := k.status(t.Context(), h)
	check(t, err)
	_, err = k.Node(h).Exec(t.Context(), "kubeadm", "certs", "renew", "etcd-peer")
	check(t, err)
	clustertest.Await(t, clustertest.Context(t), func(ctx context.Context) error {
		r, err := k.status(ctx, h)
		if err != nil {
			return err
		}
		if !r.Cert.NotAfter.After(before.Cert.NotAfter) {
			return fmt.Errorf("n%d goes on with the certificate until %v", h, r.Cert.NotAfter)
		}
		if !r.Started.Equal(before.Started) {
			return fmt.Errorf("n%d was restarted", h)
		}
		return nil
	})
	// The others accept it: it leads on, over new connections.
	k.measure(t, time.Second, func() {})
}

// second is an instance of Pintle beside the one of the static pods.
const second = `apiVersion: pintle.dev/v1
instance: second
addresses:
  - address: 10.77.0.101
election: lease
lease:
  duration: 2s
health:
  - {name: apiserver, tcp: "127.0.0.1:6443"}
server:
  listen: 127.0.0.1:7411
`

// beside: two instances share the nodes' network. The second one's pods have a
// service account, and hold another address, also after its holder's pod is gone.
func beside(t *testing.T, k *kubeadm) {
	config := filepath.Join(t.TempDir(), "second.yaml")
	check(t, os.WriteFile(config, []byte(second), 0o644))
	text, err := exec.Command(k.program, "manifest", "daemonset", "--config", config, "--image", "pintle:test").Output()
	check(t, err)
	if out, err := k.Apply(t.Context(), 1, text); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	client := plane.Client{Lab: k.Lab(), VIP: netip.MustParseAddr("10.77.0.101")}
	answers := func() { clustertest.Await(t, clustertest.Context(t), client.Ask) }
	answers()
	holder := func() string {
		out, err := k.Kubectl(t.Context(), 1, "get", "lease", "-n", "kube-system", "pintle-second", "-o", "jsonpath={.spec.holderIdentity}")
		check(t, err)
		return string(out)
	}
	was := holder()
	if was == "" {
		t.Fatal("the Lease names no holder")
	}
	out, err := k.Kubectl(t.Context(), 1, "delete", "pod", "-n", "kube-system", "--field-selector", "spec.nodeName="+was, "-l", "app.kubernetes.io/instance=second", "--wait=false")
	if err != nil || !strings.Contains(string(out), "deleted") {
		t.Fatalf("%v: %s", err, out)
	}
	clustertest.Await(t, clustertest.Context(t), func(context.Context) error {
		if now := holder(); now == was || now == "" {
			return fmt.Errorf("%q holds", now)
		}
		return nil
	})
	answers()
}
