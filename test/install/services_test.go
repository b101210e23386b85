package install

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/pintle-lb/pintle/test/cluster/clustertest"
)

// serves follows docs/services.md: the definitions, then all else, as pods of real kubelets. A Service gets an address of the pool, a
// node answers for it, and another does, without a moment of two, when that node's pod is deleted.
func serves(t *testing.T, k *kubeadm) {
	ctx := clustertest.Context(t)
	apply := func(args ...string) {
		t.Helper()
		text, err := exec.Command(k.program, append([]string{"manifest"}, args...)...).Output()
		check(t, err)
		if out, err := k.Apply(ctx, 1, text); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	kubectl := func(args ...string) string {
		t.Helper()
		out, err := k.Kubectl(ctx, 1, args...)
		if err != nil {
			t.Fatalf("kubectl %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	apply("crds")
	kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd/addresspools.pintle.dev", "crd/addresses.pintle.dev")
	apply("services", "--image", "pintle:test", "--lease", "3s", "--pool", "lan=10.77.0.120-10.77.0.129")
	kubectl("rollout", "status", "-n", "pintle-system", "daemonset/pintle-services", "--timeout=180s")

	api, err := kubernetes.NewForConfig(k.Config(1, k.Lab().Client(), k.Admin()))
	check(t, err)
	_, err = api.CoreV1().Services("default").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
	check(t, err)
	var addr netip.Addr
	clustertest.Await(t, ctx, func(ctx context.Context) error {
		s, err := api.CoreV1().Services("default").Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(s.Status.LoadBalancer.Ingress) == 0 {
			return fmt.Errorf("it has no address: %+v", s.Status.Conditions)
		}
		addr, err = netip.ParseAddr(s.Status.LoadBalancer.Ingress[0].IP)
		return err
	})
	// kubeadm keeps control planes out of it, and the Service says so.
	clustertest.Await(t, ctx, func(ctx context.Context) error {
		s, err := api.CoreV1().Services("default").Get(ctx, "web", metav1.GetOptions{})
		if err == nil && !strings.Contains(fmt.Sprint(s.Status.Conditions), "n1 has the label node.kubernetes.io/exclude-from-external-load-balancers") {
			err = fmt.Errorf("it says %+v", s.Status.Conditions)
		}
		return err
	})
	kubectl("label", "nodes", "--all", "node.kubernetes.io/exclude-from-external-load-balancers-")
	survey, err := k.Lab().StartSurvey(10*time.Millisecond, addr)
	check(t, err)
	defer survey.Close()
	holder := func(other string) (now string) {
		t.Helper()
		clustertest.Await(t, ctx, func(context.Context) error {
			if now = survey.Holders()[addr]; now == "" || now == other {
				return fmt.Errorf("%q answers for %s", now, addr)
			}
			return nil
		})
		return now
	}
	was := holder("")
	from := survey.Mark()
	kubectl("delete", "pod", "-n", "pintle-system", "--field-selector", "spec.nodeName="+was, "-l", "app.kubernetes.io/name=pintle", "--wait=false")
	holder(was)
	kubectl("rollout", "status", "-n", "pintle-system", "daemonset/pintle-services", "--timeout=180s")
	for _, line := range survey.Report(from, survey.Mark()).Rivals() {
		t.Error(line)
	}
	check(t, api.CoreV1().Services("default").Delete(ctx, "web", metav1.DeleteOptions{}))
	clustertest.Await(t, ctx, func(context.Context) error {
		if n := survey.Holders()[addr]; n != "" {
			return errors.New(n + " still answers")
		}
		return nil
	})
	clustertest.Await(t, ctx, func(ctx context.Context) error {
		out, err := k.Kubectl(ctx, 1, "get", "addresses.pintle.dev", "-o", "name")
		if err == nil && len(out) > 0 {
			err = fmt.Errorf("left: %s", out)
		}
		return err
	})
}
