package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/kube/kubetest"
	"github.com/pintle-lb/pintle/internal/node"
	"github.com/pintle-lb/pintle/manifests"
)

// A service node asks for each of its rights, once, and says what it may not.
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
	var got []string
	for _, f := range node.SelfCheck(t.Context(), cfg).Findings {
		if strings.HasPrefix(f.Text, "may not ") {
			got = append(got, fmt.Sprintf("%s (%v)", f.Text, f.Warning))
		}
	}
	want := []string{
		"may not get, list, watch services, to see which Services want addresses: `pintle manifest rbac` prints the ClusterRole (false)",
		"may not patch services/status, to write the addresses of Services: `pintle manifest rbac` prints the ClusterRole (false)",
		"may not create events, to tell of Services that have no address, and why: `pintle manifest rbac` prints the ClusterRole (true)"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for _, r := range manifests.ServiceRules("lb", true) {
		resource, sub, _ := strings.Cut(r.Resource, "/")
		for _, v := range r.Verbs {
			if key := strings.Join([]string{v, r.Namespace, r.Group, resource, sub, r.Name}, " "); asked[key] != 1 {
				t.Errorf("%q was asked %d times", key, asked[key])
			}
		}
	}
}
