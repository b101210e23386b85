package main

import (
	"fmt"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/kube/kubetest"
	"github.com/pintle-lb/pintle/internal/node"
	"github.com/pintle-lb/pintle/manifests"
)

// A service node asks for each of its rights, once, and says what it may not; what another look has said it leaves out.
func TestServiceRights(t *testing.T) {
	api := kubetest.New(t)
	server := api.Listen()
	file := fmt.Sprintf("apiVersion: pintle.dev/v1\nservices: {namespace: lb}\nkubernetes: {kubeconfig: %s, servers: [%q]}\n", api.Kubeconfig(), server)
	cfg, problems := config.Parse([]byte(file), "f", config.Options{Node: "n1"})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	asked := map[string]int{}
	api.Break(kubetest.Fault{May: func(a *authorizationv1.ResourceAttributes) bool {
		asked[strings.Join([]string{a.Verb, a.Namespace, a.Group, a.Resource, a.Subresource, a.Name}, " ")]++
		return a.Resource != "services" && a.Resource != "events"
	}})
	if got := serviceRights(t.Context(), cfg, node.Survey{}); got != nil || len(asked) > 0 {
		t.Errorf("no server answers, and it asks: %v", got)
	}
	status := node.Finding{Text: "may not patch services/status, to write the addresses of Services: `pintle manifest rbac` prints the ClusterRole"}
	got := fmt.Sprint(serviceRights(t.Context(), cfg, node.Survey{Answered: true}))
	want := fmt.Sprint([]node.Finding{
		{Text: "may not get, list, watch services, to see which Services want addresses: `pintle manifest rbac` prints the ClusterRole"}, status,
		{Text: "may not create, patch events, to tell of Services that have no address, and why: `pintle manifest rbac` prints the ClusterRole", Warning: true}})
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := fmt.Sprint(serviceRights(t.Context(), cfg, node.Survey{Answered: true, Findings: []node.Finding{status}})); strings.Contains(got, status.Text) {
		t.Errorf("said twice: %s", got)
	}
	for _, r := range manifests.ServiceRules("lb", true) {
		resource, sub, _ := strings.Cut(r.Resource, "/")
		for _, v := range r.Verbs {
			if key := strings.Join([]string{v, r.Namespace, r.Group, resource, sub, r.Name}, " "); asked[key] != 2 {
				t.Errorf("%q was asked %d times by two looks", key, asked[key])
			}
		}
	}
}
