package manifests

import "slices"

// A Rule is a right that Pintle needs at the API server: these verbs, on one object if it has a name and on all of
// the resource in the namespace if not, or in the cluster if there is no namespace. A SelfSubjectAccessReview for each verb asks for exactly it.
type Rule struct {
	Namespace string
	Group     string // "" is the core group
	Resource  string
	Name      string
	Verbs     []string
	Why       string // what Pintle does with it, as the end of a sentence
}

// LeaseRules are the rights that the Lease election needs. The Raft election needs none. `watch` is asked with a
// field selector for the name, and `create` as an update of an object that does not exist, so that RBAC can hold both
// to the name.
func LeaseRules(namespace, name string) []Rule {
	return []Rule{
		{Namespace: namespace, Group: "coordination.k8s.io", Resource: "leases", Name: name,
			Verbs: []string{"get", "watch", "update", "create"}, Why: "to elect the holder"},
		{Namespace: namespace, Resource: "events", Verbs: []string{"create"}, Why: "to tell of a new holder"},
		{Namespace: "default", Group: "discovery.k8s.io", Resource: "endpointslices", Name: "kubernetes",
			Verbs: []string{"get"}, Why: "to find the other API servers"},
	}
}

// NodeRule is the right to read one node, "" for each. Peers of BGP that are chosen by labels or annotations of the node need
// it.
func NodeRule(name string) Rule {
	return Rule{Resource: "nodes", Name: name, Verbs: []string{"get"}, Why: "to find this node's routers by its labels"}
}

// A role is what stands in one namespace, or in none: a ClusterRole.
type role struct {
	Namespace string
	Rules     []Rule
}

// Kind is the prefix of the kinds of Kubernetes: of Role and RoleBinding.
func (r role) Kind() string {
	if r.Namespace == "" {
		return "Cluster"
	}
	return ""
}

// roles groups rules by namespace, that of the first one first.
func roles(rules []Rule) []role {
	var out []role
	for _, r := range rules {
		i := slices.IndexFunc(out, func(o role) bool { return o.Namespace == r.Namespace })
		if i < 0 {
			i = len(out)
			out = append(out, role{Namespace: r.Namespace})
		}
		out[i].Rules = append(out[i].Rules, r)
	}
	return out
}
