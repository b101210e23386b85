package e2e_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/pintle-lb/pintle/manifests"
	"github.com/pintle-lb/pintle/test/cluster"
	"github.com/pintle-lb/pintle/test/cluster/clustertest"
)

// A real API server takes every manifest, and has no more to say of the pods than the node's network makes it say.
func TestManifests(t *testing.T) {
	c, ctx := clustertest.New(t, cluster.Options{ControllerManager: true}), clustertest.Context(t)
	said := &warnings{}
	cfg := c.Config(1, c.Lab().Client(), c.Admin())
	cfg.WarningHandler = said
	k := connect(t, cfg)
	for _, ns := range []string{"kube-system", "pintle"} {
		prepare(t, ctx, k, ns)
	}
	files, err := filepath.Glob("../../manifests/testdata/kube/*.yaml")
	if err != nil || len(files) < 9 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := c.Apply(ctx, 1, text, "--dry-run=server", "--validate=strict"); err != nil {
			t.Errorf("%s: %v\n%s", f, err, out)
		}
		for doc := range strings.SplitSeq(string(text), "\n---\n") {
			podSecurity(t, ctx, k, said, f, []byte(doc))
		}
	}
	t.Run("rights", func(t *testing.T) { rights(t, ctx, c) })
}

func connect(t *testing.T, cfg *rest.Config) kubernetes.Interface {
	t.Helper()
	k, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// prepare makes a namespace that warns of all that the restricted Pod Security Standard forbids, and waits for its
// service account.
func prepare(t *testing.T, ctx context.Context, k kubernetes.Interface, name string) {
	t.Helper()
	const label = "pod-security.kubernetes.io/warn"
	ns, err := k.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		ns.Labels[label] = "restricted"
		_, err = k.CoreV1().Namespaces().Update(ctx, ns, metav1.UpdateOptions{})
	} else {
		_, err = k.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{label: "restricted"}}}, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err = k.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{}); err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("namespace %s has no service account: %v", name, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// podSecurity makes a pod, or pods, without keeping them, and looks at what the API server warns of.
func podSecurity(t *testing.T, ctx context.Context, k kubernetes.Interface, said *warnings, file string, doc []byte) {
	t.Helper()
	var head metav1.TypeMeta
	if err := yaml.Unmarshal(doc, &head); err != nil {
		t.Fatal(err)
	}
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict}
	said.take()
	var err error
	switch head.Kind {
	case "Pod":
		var p corev1.Pod
		if err = yaml.UnmarshalStrict(doc, &p); err == nil {
			_, err = k.CoreV1().Pods(p.Namespace).Create(ctx, &p, dry)
		}
	case "DaemonSet":
		var d appsv1.DaemonSet
		if err = yaml.UnmarshalStrict(doc, &d); err == nil {
			_, err = k.AppsV1().DaemonSets(d.Namespace).Create(ctx, &d, dry)
		}
	default:
		return
	}
	got := strings.Join(said.take(), "\n")
	if err != nil {
		t.Errorf("%s: %v", file, err)
	}
	if !strings.Contains(got, "hostNetwork=true") {
		t.Errorf("%s: no warning of the node's network, so nothing was looked at: %s", file, got)
	}
	for _, no := range []string{"allowPrivilegeEscalation", "seccompProfile", "privileged", "drop", "hostPID", "hostIPC", "procMount", "seLinux", "sysctls"} {
		if strings.Contains(got, no) {
			t.Errorf("%s: %s: %s", file, no, got)
		}
	}
}

// warnings are what the API server warned of.
type warnings struct {
	mu   sync.Mutex // guards text
	text []string
}

func (w *warnings) HandleWarningHeader(_ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, text)
}

func (w *warnings) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.text
	w.text = nil
	return out
}

// rights checks that what `pintle manifest rbac --user pintle` prints is what the rules say, no less and no more.
func rights(t *testing.T, ctx context.Context, c *cluster.Cluster) {
	text, err := os.ReadFile("../../manifests/testdata/kube/rbac-user.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := c.Apply(ctx, 1, text); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	id, err := c.Issue("pintle")
	if err != nil {
		t.Fatal(err)
	}
	k := connect(t, c.Config(1, c.Lab().Client(), id))
	for _, r := range manifests.LeaseRules("kube-system", "pintle") {
		for _, v := range r.Verbs {
			allowed(t, ctx, k, r, v, true)
		}
		allowed(t, ctx, k, r, "delete", false)
		other := r
		other.Name = "another"
		allowed(t, ctx, k, other, r.Verbs[0], r.Name == "") // events have no name
		other = r
		other.Namespace = "pintle"
		allowed(t, ctx, k, other, r.Verbs[0], false)
	}
}

// allowed asks the API server whether the user may, and again until it has seen the rights.
func allowed(t *testing.T, ctx context.Context, k kubernetes.Interface, r manifests.Rule, verb string, want bool) {
	t.Helper()
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
		Namespace: r.Namespace, Group: r.Group, Resource: r.Resource, Name: r.Name, Verb: verb}}}
	for {
		got, err := k.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		if err == nil && got.Status.Allowed == want {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s %+v: %+v, %v; want %v", verb, r, got.Status, err, want)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
