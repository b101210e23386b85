package manifests

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	flowv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

var (
	address = []netip.Addr{netip.MustParseAddr("10.0.0.100")}
	peers   = []Peer{{"n1", netip.MustParseAddrPort("10.0.0.1:0")}, {"n2", netip.MustParseAddrPort("10.0.0.2:0")}, {"n3", netip.MustParseAddrPort("10.0.0.3:7500")}}
	probe   = netip.MustParseAddrPort("127.0.0.1:7401")
)

// planes are the configurations that are in testdata: a test of the command line has Pintle read them.
var planes = map[string]ControlPlane{
	"raft": {Addresses: address, Peers: peers, MadeBy: "pintle manifest pod"},
	"raft-external-etcd": {Addresses: address, Peers: peers, Links: []string{"eth0"}, Profile: "fast",
		TLS: TLS{CA: "/etc/pintle/tls/ca.crt", Cert: "/etc/pintle/tls/{node}.crt", Key: "/etc/pintle/tls/{node}.key"}},
	"raft-dual-stack": {Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.100"), netip.MustParseAddr("fd00::100")}, Links: []string{"eth0", "enp*"},
		Peers: []Peer{{"n1", netip.AddrPortFrom(netip.MustParseAddr("fd00::1"), 0)}, {"1e3", netip.MustParseAddrPort("[fd00::2]:7400")}}},
	"lease-pod": {Addresses: address, Election: Lease, Kubeconfig: "/etc/kubernetes/pintle.conf"},
	"lease":     {Addresses: address, Election: Lease, MadeBy: "pintle manifest daemonset"},
	"lease-k3s": {Addresses: address, Election: Lease, Health: Health{Kind: Connect, Port: 6444}, Namespace: "pintle", Name: "vip",
		Duration: 3 * time.Second, Listen: "0.0.0.0:7401", Level: "debug"},
	"bgp": {Addresses: address, Election: None, BGP: &BGP{AS: 65001, Routers: []Router{{Addr: netip.MustParseAddr("10.0.0.254"), AS: 65000}}}},
	"bgp-all": {Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.100"), netip.MustParseAddr("fd00::100")}, Election: Lease, Health: Health{Kind: Connect},
		BGP: &BGP{AS: 65001, RouterID: netip.MustParseAddr("10.0.0.1"), Hold: 30 * time.Second, Keepalive: 10 * time.Second, Routers: []Router{
			{Addr: netip.MustParseAddr("fd00::fe"), AS: 65000, Port: 1790, LocalAddr: netip.MustParseAddr("fd00::1"), PasswordFile: "/etc/pintle/bgp/tor1",
				Multihop: 50, NextHops: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}, BFD: &BFD{Interval: 300 * time.Millisecond, Multiplier: 3}},
			{Interface: "eth1"}}}},
	"table": {Addresses: address, Election: None, Table: &Table{Number: 198, Protocol: 248}},
}

// kubes are the installations of these configurations.
func kubes(t *testing.T) map[string]Kube {
	raft := func(name string, files ...string) Kube {
		return Kube{Image: "pintle:dev", Config: plane(t, name), Files: append(files, kubeadmCA), StateDir: "/var/lib/pintle", Probe: probe}
	}
	lease := func(name string, files ...string) Kube {
		return Kube{Image: "registry.example:5000/pintle@sha256:0123", Config: plane(t, name), Files: files, Rules: LeaseRules("kube-system", "pintle"), Probe: probe}
	}
	out := map[string]Kube{
		"raft":               raft("raft", KubeadmTLS.CA, KubeadmTLS.Cert, KubeadmTLS.Key),
		"raft-external-etcd": raft("raft-external-etcd", "/etc/pintle/tls/ca.crt", "/etc/pintle/tls/n1.crt"),
		"lease-pod":          lease("lease-pod", "/etc/kubernetes/pintle.conf", kubeadmCA),
		"lease":              lease("lease", serviceToken+"/ca.crt"),
	}
	set := out["lease"]
	set.Token = true
	out["lease"] = set
	passwords := []string{"/etc/pintle/bgp/tor1", "/etc/pintle/bgp/bfd.key"}
	out["bgp-pod"] = Kube{Image: "pintle:dev", Config: plane(t, "bgp"), Files: []string{kubeadmCA}, Secrets: passwords, LowPort: true, Probe: probe}
	out["bgp"] = Kube{Image: "pintle:dev", Config: plane(t, "bgp"), Files: []string{kubeadmCA}, Secrets: passwords, Rules: []Rule{NodeRule("")}, Token: true, Probe: probe}
	k3s := Kube{Image: "pintle:dev", Instance: "blue", Namespace: "pintle", Config: plane(t, "lease-k3s"), Rules: LeaseRules("default", "vip"), Token: true}
	out["lease-k3s"] = k3s
	return out
}

// services are installations for Services, with pools.
func services(t *testing.T) map[string]func() ([]byte, error) {
	config := func(s ServiceNode) []byte {
		out, err := s.Config()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	probe := netip.MustParseAddrPort("127.0.0.1:7403")
	plain := Kube{Image: "pintle:dev", Instance: "services", Config: config(serviceNodes["services"]), Rules: ServiceRules("pintle-system", true), Token: true, Probe: probe}
	bgp := Kube{Image: "pintle:dev", Instance: "services", Namespace: "net", Config: config(serviceNodes["services-bgp"]), Rules: ServiceRules("net", false), Token: true, LowPort: true, Routers: true,
		Secrets: []string{"/etc/pintle-bgp/tor1"}}
	return map[string]func() ([]byte, error){
		"services": func() ([]byte, error) { return plain.All() },
		"services-bgp": func() ([]byte, error) {
			return bgp.All(Pool{Name: "1e3", Addresses: []string{"192.0.2.0/24"}})
		},
		"pools": func() ([]byte, error) {
			return plain.All(Pool{Name: "lan", Addresses: []string{"192.0.2.10-192.0.2.20", "2001:db8::/112"}}, Pool{Name: "second", Addresses: []string{"198.51.100.0/24"}})
		},
	}
}

// serviceNodes are the configurations of service nodes that are in testdata.
var serviceNodes = map[string]ServiceNode{
	"services": {MadeBy: "pintle manifest services"},
	"services-bgp": {Namespace: "net", Lease: 4 * time.Second, BGP: &BGP{AS: 65001, Hold: 30 * time.Second, Routers: []Router{
		{Addr: netip.MustParseAddr("10.0.0.254"), AS: 65000, PasswordFile: "/etc/pintle-bgp/tor1"}, {Interface: "eth1"}}}},
}

func plane(t *testing.T, name string) []byte {
	out, err := planes[name].Config()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// golden compares with a file of testdata, or writes it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("differs from %s (go test ./manifests -update, and say why):\n%s", file, got)
	}
}

func TestConfigGolden(t *testing.T) {
	for name := range planes {
		golden(t, "config/"+name+".yaml", plane(t, name))
	}
	for name, s := range serviceNodes {
		got, err := s.Config()
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "config/"+name+".yaml", got)
	}
	if out, err := (ServiceNode{BGP: &BGP{AS: 65001}}).Config(); err == nil {
		t.Errorf("without routers:\n%s", out)
	}
}

// definitions stand for the definitions in golden files: they are in a file of their own.
const definitions = "# (the definitions)\n"

func TestServicesGolden(t *testing.T) {
	for name, all := range services(t) {
		got, err := all()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Count(got, CRDs()) != 1 {
			t.Errorf("%s: without the definitions", name)
		}
		golden(t, "services/"+name+".yaml", bytes.Replace(got, CRDs(), []byte(definitions), 1))
	}
	inSystem := Kube{Image: "pintle:dev", Namespace: "kube-system"}
	if got, err := inSystem.All(); err != nil || bytes.Contains(got, []byte("kind: Namespace\n")) {
		t.Errorf("%v: the namespace of the cluster itself is changed:\n%s", err, got)
	}
	if _, err := (Kube{Services: true, Image: "pintle:dev"}).Pod(); err == nil {
		t.Error("a static pod for Services")
	}
}

func TestPodGolden(t *testing.T) {
	for _, name := range []string{"raft", "raft-external-etcd", "lease-pod", "bgp-pod"} {
		got, err := kubes(t)[name].Pod()
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "kube/pod-"+name+".yaml", got)
	}
}

func TestDaemonSetGolden(t *testing.T) {
	for _, name := range []string{"raft", "raft-external-etcd", "lease", "lease-k3s", "bgp"} {
		got, err := kubes(t)[name].DaemonSet()
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "kube/daemonset-"+name+".yaml", got)
	}
}

func TestRBACGolden(t *testing.T) {
	k := kubes(t)["lease"]
	for file, user := range map[string]string{"rbac.yaml": "", "rbac-user.yaml": "pintle"} {
		k.User = user
		got, err := k.RBAC()
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "kube/"+file, got)
	}
	if _, err := kubes(t)["raft"].RBAC(); err == nil {
		t.Error("Raft got rights")
	}
}

// documents are the documents of a golden file, by kind.
func documents(t *testing.T, name string) []any {
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var out []any
	for doc := range strings.SplitSeq(strings.ReplaceAll(string(text), definitions+"---\n", ""), "\n---\n") {
		var head struct{ Kind string }
		if err := yaml.Unmarshal([]byte(doc), &head); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, doc)
		}
		into := map[string]any{"Pod": &corev1.Pod{}, "ConfigMap": &corev1.ConfigMap{}, "ServiceAccount": &corev1.ServiceAccount{},
			"DaemonSet": &appsv1.DaemonSet{}, "Role": &rbacv1.Role{}, "RoleBinding": &rbacv1.RoleBinding{},
			"ClusterRole": &rbacv1.ClusterRole{}, "ClusterRoleBinding": &rbacv1.ClusterRoleBinding{}, "Namespace": &corev1.Namespace{},
			"AddressPool": &pintlev1.AddressPool{}, "FlowSchema": &flowv1.FlowSchema{}}[head.Kind]
		if into == nil {
			t.Fatalf("%s: a document of kind %q", name, head.Kind)
		}
		if err := yaml.UnmarshalStrict([]byte(doc), into); err != nil {
			t.Fatalf("%s: %s: %v", name, head.Kind, err)
		}
		out = append(out, into)
	}
	return out
}

// Everything is what Kubernetes' own types say it is, to the last field, and has the walls that it may have.
func TestManifestsAreStrict(t *testing.T) {
	files, err := filepath.Glob("testdata/kube/*.yaml")
	if err != nil || len(files) < 9 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		for _, doc := range documents(t, f) {
			switch d := doc.(type) {
			case *corev1.Pod:
				walls(t, f, d.Spec)
			case *appsv1.DaemonSet:
				walls(t, f, d.Spec.Template.Spec)
				if d.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable.IntValue() != 1 {
					t.Errorf("%s: more than one at once", f)
				}
			case *rbacv1.Role:
				modest(t, f, d.Rules)
			case *rbacv1.ClusterRole: // of each node its own, which no rule can say
				if len(d.Rules) != 1 || d.Namespace != "" || d.Rules[0].Resources[0] != "nodes" || !slices.Equal(d.Rules[0].Verbs, []string{"get"}) {
					t.Errorf("%s: %+v", f, d)
				}
			}
		}
	}
}

// walls checks what the restricted Pod Security Standard asks of a pod, as far as the host's network allows.
func walls(t *testing.T, file string, spec corev1.PodSpec) {
	t.Helper()
	c, rights := spec.Containers[0], 3
	if strings.Contains(file, "bgp-pod") || strings.Contains(file, "services-bgp") {
		rights = 4 // it listens on BGP's port
	}
	sc := c.SecurityContext
	if *sc.AllowPrivilegeEscalation || !*sc.ReadOnlyRootFilesystem || sc.Privileged != nil || len(sc.Capabilities.Drop) != 1 ||
		sc.Capabilities.Drop[0] != "ALL" || len(sc.Capabilities.Add) != rights || spec.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("%s: security context %+v", file, sc)
	}
	if !spec.HostNetwork || spec.HostPID || spec.HostIPC || spec.DNSPolicy != corev1.DNSDefault || spec.PriorityClassName != "system-node-critical" {
		t.Errorf("%s: host %+v", file, spec)
	}
	if len(c.Resources.Requests) != 2 || c.Resources.Limits != nil {
		t.Errorf("%s: resources %+v", file, c.Resources)
	}
	mounts := map[string]corev1.VolumeMount{}
	for _, m := range c.VolumeMounts {
		mounts[m.Name] = m
	}
	for _, v := range spec.Volumes {
		m := mounts[v.Name]
		if v.Secret != nil && (!m.ReadOnly || *v.Secret.DefaultMode != 0o400) {
			t.Errorf("%s: the Secret is mounted as %+v", file, m)
		}
		if v.HostPath == nil {
			continue
		}
		if m.MountPath != v.HostPath.Path || m.ReadOnly == (*v.HostPath.Type == corev1.HostPathDirectoryOrCreate) {
			t.Errorf("%s: volume %+v is mounted as %+v", file, v, m)
		}
		if p := v.HostPath.Path; strings.HasPrefix(p, "/etc/kubernetes") && *v.HostPath.Type != corev1.HostPathFile || strings.HasSuffix(p, "ca.key") {
			t.Errorf("%s: %s is mounted", file, p)
		}
	}
	if len(mounts) != len(spec.Volumes) {
		t.Errorf("%s: %d mounts of %d volumes", file, len(mounts), len(spec.Volumes))
	}
}

// modest checks that no right reaches beyond one object, but for telling of events.
func modest(t *testing.T, file string, rules []rbacv1.PolicyRule) {
	t.Helper()
	for _, r := range rules {
		if len(r.ResourceNames) != 1 && (r.Resources[0] != "events" || len(r.APIGroups[0]) > 0) {
			t.Errorf("%s: %+v", file, r)
		}
		for _, v := range r.Verbs {
			if v == "*" || v == "delete" || v == "list" {
				t.Errorf("%s: %s %v", file, v, r.Resources)
			}
		}
	}
}

// The configuration comes out of the ConfigMap as it went in, whatever is in it.
func TestConfigMapHoldsTheConfiguration(t *testing.T) {
	for _, text := range []string{"a: 1\n", " indented: 1\nx: 2\n", "\nempty first\n", "no end", "two ends\n\n", "tab\there: 1\n", "cr\r\n", "é: ü\n", "a: 1\n   \nb: 2\n", "bad \xff\n"} {
		k := Kube{Image: "pintle:dev", Config: []byte(text)}
		out, err := k.DaemonSet()
		if err != nil {
			t.Fatal(err)
		}
		var m corev1.ConfigMap
		docs := strings.Split(string(out), "\n---\n")
		if err := yaml.UnmarshalStrict([]byte(docs[1]+"\n"), &m); err != nil {
			t.Fatalf("%q: %v\n%s", text, err, docs[1])
		}
		if want := strings.ToValidUTF8(text, "\ufffd"); m.Data["pintle.yaml"] != want {
			t.Errorf("%q came out as %q", text, m.Data["pintle.yaml"])
		}
	}
}

// What Services need is on every node, behind the same walls, in a namespace that lets its pods have the network of their node, and
// has no right that a rule does not say.
func TestServicesAreStrict(t *testing.T) {
	for name := range services(t) {
		file, kinds := "testdata/services/"+name+".yaml", map[string]int{}
		for _, doc := range documents(t, file) {
			kinds[strings.TrimPrefix(reflect.TypeOf(doc).String(), "*")]++
			switch d := doc.(type) {
			case *corev1.Namespace:
				for _, mode := range []string{"enforce", "audit", "warn"} {
					if d.Labels["pod-security.kubernetes.io/"+mode] != "privileged" {
						t.Errorf("%s: %v", file, d.Labels)
					}
				}
			case *appsv1.DaemonSet:
				spec := d.Spec.Template.Spec
				walls(t, file, spec)
				if d.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable.IntValue() != 1 || *spec.TerminationGracePeriodSeconds != 60 {
					t.Errorf("%s: %+v", file, d.Spec)
				}
				if len(spec.NodeSelector) != 1 || spec.NodeSelector["kubernetes.io/os"] != "linux" || spec.Affinity != nil ||
					len(spec.Tolerations) != 1 || spec.Tolerations[0] != (corev1.Toleration{Operator: corev1.TolerationOpExists}) {
					t.Errorf("%s: not on every node: %+v", file, spec)
				}
			case *rbacv1.Role:
				frugal(t, file, d.Rules, ServiceRules(d.Namespace, name != "services-bgp"), d.Namespace)
			case *rbacv1.ClusterRole:
				frugal(t, file, d.Rules, ServiceRules("", false)[1:], "")
			}
		}
		for _, kind := range []string{"v1.Namespace", "v1.ServiceAccount", "v1.ClusterRole", "v1.ClusterRoleBinding", "v1.Role", "v1.RoleBinding", "v1.ConfigMap", "v1.DaemonSet", "v1.FlowSchema"} {
			if kinds[kind] != 1 {
				t.Errorf("%s: %d of %s", file, kinds[kind], kind)
			}
		}
	}
}

// frugal checks that rights are those of the rules in a namespace, and no others.
func frugal(t *testing.T, file string, got []rbacv1.PolicyRule, rules []Rule, namespace string) {
	t.Helper()
	var want []rbacv1.PolicyRule
	for _, r := range rules {
		if r.Namespace != namespace {
			continue
		}
		p := rbacv1.PolicyRule{APIGroups: []string{r.Group}, Resources: []string{r.Resource}, Verbs: r.Verbs}
		if r.Name != "" {
			p.ResourceNames = []string{r.Name}
		}
		want = append(want, p)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\ngot  %+v\nwant %+v", file, got, want)
	}
}

// Another configuration makes another pod; the same one does not.
func TestHash(t *testing.T) {
	a, b := Kube{Config: []byte("a")}, Kube{Config: []byte("b")}
	if a.Hash() == b.Hash() || a.Hash() != (Kube{Config: []byte("a"), Image: "x"}).Hash() {
		t.Error(a.Hash(), b.Hash())
	}
}

func TestKubeRefuses(t *testing.T) {
	good := Kube{Image: "pintle:dev"}
	for name, change := range map[string]func(*Kube){
		"no image":             func(k *Kube) { k.Image = "" },
		"line in the image":    func(k *Kube) { k.Image = "a\nb" },
		"instance with slash":  func(k *Kube) { k.Instance = "../a" },
		"namespace with line":  func(k *Kube) { k.Namespace = "a\nb" },
		"user with line":       func(k *Kube) { k.User = "a\n- kind: Group" },
		"relative file":        func(k *Kube) { k.Files = []string{"ca.crt"} },
		"a path up":            func(k *Kube) { k.Files = []string{"/etc/../root"} },
		"node in a path":       func(k *Kube) { k.Files = []string{"/etc/x/{node}.crt"} },
		"the cluster's CA key": func(k *Kube) { k.Files = []string{"/etc/kubernetes/pki/ca.key"} },
		"etcd's CA key":        func(k *Kube) { k.Files = []string{"/etc/kubernetes/pki/etcd/ca.key"} },
		"another CA's key":     func(k *Kube) { k.Files = []string{"/etc/kubernetes/pki/front-proxy-ca.key"} },
		"the key of tokens":    func(k *Kube) { k.Files = []string{"/etc/kubernetes/pki/sa.key"} },
		"run directory":        func(k *Kube) { k.RunDir = "run" },
		"state directory":      func(k *Kube) { k.StateDir = "/var/lib/a b" },
	} {
		k := good
		change(&k)
		if out, err := k.DaemonSet(); err == nil {
			t.Errorf("%s: rendered\n%s", name, out)
		}
		if out, err := k.Pod(); err == nil {
			t.Errorf("%s: rendered\n%s", name, out)
		}
	}
	for name, k := range map[string]Kube{"token": {Image: "pintle:dev", Token: true}, "its CA": {Image: "pintle:dev", Files: []string{serviceToken + "/ca.crt"}}} {
		if out, err := k.Pod(); err == nil || !strings.Contains(err.Error(), "service account") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

func TestControlPlaneRefuses(t *testing.T) {
	for name, c := range map[string]ControlPlane{
		"nothing":          {},
		"no peers":         {Addresses: address},
		"no address":       {Peers: peers},
		"lease with peers": {Addresses: address, Peers: peers, Election: Lease},
		"election":         {Addresses: address, Peers: peers, Election: "etcd"},
		"half a pair":      {Addresses: address, Peers: peers, TLS: TLS{CA: "/a", Cert: "/b"}},
		"health":           {Addresses: address, Peers: peers, Health: Health{Kind: "ping"}},
		"none by ARP":      {Addresses: address, Election: None},
		"no AS":            {Addresses: address, Election: None, BGP: &BGP{Routers: []Router{{Addr: address[0]}}}},
		"no routers":       {Addresses: address, Election: None, BGP: &BGP{AS: 65001}},
		"a router nowhere": {Addresses: address, Election: None, BGP: &BGP{AS: 65001, Routers: []Router{{AS: 65000}}}},
		"none with peers":  {Addresses: address, Peers: peers, Election: None, Table: &Table{Number: 198, Protocol: 248}},
	} {
		if out, err := c.Config(); err == nil {
			t.Errorf("%s: rendered\n%s", name, out)
		}
	}
}

// A long path makes a short name, and two of them two names.
func TestVolumeName(t *testing.T) {
	long := "/" + strings.Repeat("very/", 30)
	a, b := volume{Path: long + "a"}.Name(), volume{Path: long + "b"}.Name()
	if len(a) > 63 || a == b || !nameLabel.MatchString(a) {
		t.Error(a, b)
	}
	if got := (volume{Path: KubeadmTLS.CA}).Name(); got != "etc-kubernetes-pki-etcd-ca-crt" {
		t.Error(got)
	}
}

// The passwords of a DaemonSet are those of one Secret, which nothing of the node lies below or around.
func TestSecrets(t *testing.T) {
	for name, tt := range map[string]struct {
		k    Kube
		want string
	}{
		"two directories":    {Kube{Secrets: []string{"/etc/pintle/bgp/a", "/etc/pintle/b"}}, "keep all in one directory"},
		"beside other files": {Kube{Secrets: []string{"/etc/pintle/bgp/a"}, Files: []string{"/etc/pintle/tls/ca.crt"}}, "keep the passwords out of /etc/pintle"},
		"around other files": {Kube{Secrets: []string{"/etc/x/a"}, Files: []string{"/etc/x/y/ca.crt"}}, "keep the passwords out of"},
		"no path":            {Kube{Secrets: []string{"/etc/x/{node}"}}, "not a plain absolute path"},
	} {
		tt.k.Image = "pintle:dev"
		if out, err := tt.k.DaemonSet(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s\n%s", name, err, tt.want, out)
		}
	}
	k := Kube{Namespace: "net", Instance: "blue", Secrets: []string{"/etc/pintle-bgp/a"}, Files: []string{"/etc/pintle/tls/ca.crt"}}
	if got, want := k.MakeSecret(), "kubectl -n net create secret generic pintle-blue-bgp --from-file=/etc/pintle-bgp"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := (Kube{}).MakeSecret(); got != "" {
		t.Error(got)
	}
}

// Two rules of one namespace are one role: names are unique in a namespace.
func TestRoles(t *testing.T) {
	if got := roles(LeaseRules("default", "x")); len(got) != 1 || len(got[0].Rules) != 3 {
		t.Errorf("%+v", got)
	}
	if got := roles(LeaseRules("kube-system", "x")); len(got) != 2 || got[0].Namespace != "kube-system" || got[1].Namespace != "default" {
		t.Errorf("%+v", got)
	}
}
