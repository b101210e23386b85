package manifests

import "slices"

// A Rule is a right that Pintle needs at the API server: these verbs, on one object if it has a name and on all of
// the resource in the namespace if not, or in the cluster if there is no namespace. A SelfSubjectAccessReview for each verb asks for exactly it.
type Rule struct {
	Namespace string
	Group     string // "" is the core group
	Resource  string // with a subresource after a slash
	Name      string
	Verbs     []string
	Why       string // what Pintle does with it, as the end of a sentence
	Optional  bool   // it works without
}

// LeaseRules are the rights that the Lease election needs. The Raft election needs none. `watch` is asked with a
// field selector for the name, and `create` as an update of an object that does not exist, so that RBAC can hold both
// to the name.
func LeaseRules(namespace, name string) []Rule {
	return []Rule{
		{Namespace: namespace, Group: "coordination.k8s.io", Resource: "leases", Name: name,
			Verbs: []string{"get", "watch", "update", "create"}, Why: "to elect the holder"},
		{Namespace: namespace, Resource: "events", Verbs: []string{"create"}, Why: "to tell of a new holder", Optional: true},
		{Namespace: "default", Group: "discovery.k8s.io", Resource: "endpointslices", Name: "kubernetes",
			Verbs: []string{"get"}, Why: "to find the other API servers", Optional: true},
	}
}

// HearsaySecret is the Secret by which nodes know each other when the API is away.
const HearsaySecret = "pintle-hearsay"

// ServiceRules are the rights that a node needs to give Services their addresses, with its Leases in a namespace; with keep also
// those for pools with onAPILoss: keep.
func ServiceRules(namespace string, keep bool) []Rule {
	read := func(verbs ...string) []string { return append([]string{"get", "list", "watch"}, verbs...) }
	out := []Rule{
		{Namespace: namespace, Group: "coordination.k8s.io", Resource: "leases", Verbs: read("create", "update"),
			Why: "to hold addresses by a Lease of this node, and to follow those of the others"},
		{Resource: "services", Verbs: read(), Why: "to see which Services want addresses"},
		{Resource: "services/status", Verbs: []string{"patch"}, Why: "to write the addresses of Services"},
		{Group: "discovery.k8s.io", Resource: "endpointslices", Verbs: read(), Why: "to see on which nodes Services have endpoints, and to find the API servers"},
		{Resource: "nodes", Verbs: read(), Why: "to see which nodes may have addresses"},
		{Resource: "namespaces", Verbs: read(), Why: "to see whose pools a Service may use"},
		{Group: "pintle.dev", Resource: "addresspools", Verbs: read(), Why: "to see which addresses there are"},
		{Group: "pintle.dev", Resource: "addresspools/status", Verbs: []string{"patch"}, Why: "to tell how many of a pool are in use", Optional: true},
		{Group: "pintle.dev", Resource: "addresses", Verbs: read("create", "update", "delete"), Why: "to allocate addresses, and to place and hold them"},
		{Resource: "events", Verbs: []string{"create"}, Why: "to tell of Services that have no address, and why", Optional: true},
	}
	if keep {
		out = append(out,
			Rule{Namespace: namespace, Resource: "secrets", Name: HearsaySecret, Verbs: []string{"get"}, Why: "to know the other nodes when the API is away (onAPILoss: keep)", Optional: true},
			// RBAC cannot hold the creation of a Secret to a name.
			Rule{Namespace: namespace, Resource: "secrets", Verbs: []string{"create"}, Why: "to make that Secret (onAPILoss: keep)", Optional: true})
	}
	return out
}

// NodeRule is the right to read one node, "" for each. Peers of BGP that are chosen by labels or annotations of the node need
// it.
func NodeRule(name string) Rule {
	return Rule{Resource: "nodes", Name: name, Verbs: []string{"get"}, Why: "to find this node's routers by its labels"}
}

// ForKeep reports whether only pools with onAPILoss: keep need the right.
func (r Rule) ForKeep() bool { return r.Resource == "secrets" }

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
