// Package pintlev1 has the objects that Pintle keeps in a Kubernetes cluster: pools of addresses, which people write, and an
// object for each address that is in use, which Pintle writes. manifests/crds says the same to the API server.
package pintlev1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// GroupVersion is that of all objects here.
var GroupVersion = schema.GroupVersion{Group: "pintle.dev", Version: "v1"}

// AddToScheme makes the objects known.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &AddressPool{}, &AddressPoolList{}, &Address{}, &AddressList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// The ways of [AddressPoolSpec.Announce].
const (
	AnnounceARP = "arp" // ARP and neighbour discovery, from one node
	AnnounceBGP = "bgp" // a route from every suitable node
)

// What becomes of claims while the API is away: [AddressPoolSpec.OnAPILoss].
const (
	Release = "release"
	Keep    = "keep"
)

// An AddressPool is addresses that Services may have, and how they are announced. It has no namespace.
type AddressPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec   AddressPoolSpec   `json:"spec"`
	Status AddressPoolStatus `json:"status,omitzero"`
}

// An AddressPoolSpec is what people say of a pool.
type AddressPoolSpec struct {
	Addresses         []string              `json:"addresses"`                   // prefixes ("192.0.2.0/24") and ranges ("192.0.2.10-192.0.2.20")
	AutoAssign        *bool                 `json:"autoAssign,omitempty"`        // false: only for Services that name it or its addresses
	Priority          int32                 `json:"priority,omitempty"`          // of several pools the highest is tried first
	SkipFirstLast     bool                  `json:"skipFirstLast,omitempty"`     // leave out the first and the last address of each prefix
	Namespaces        []string              `json:"namespaces,omitempty"`        // of Services that may have its addresses; any if neither this nor the selector is set
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"` // likewise, by the labels of the namespace; either is enough
	ServiceSelector   *metav1.LabelSelector `json:"serviceSelector,omitempty"`   // of Services that may have its addresses
	NodeSelector      *metav1.LabelSelector `json:"nodeSelector,omitempty"`      // of nodes that may have its addresses

	Announce  []string  `json:"announce,omitempty"`  // AnnounceARP (the default), AnnounceBGP
	Links     []string  `json:"links,omitempty"`     // where addresses are announced: names or globs; by default the link that has the subnet
	Bind      bool      `json:"bind,omitempty"`      // the holder has the address on lo
	OnAPILoss string    `json:"onAPILoss,omitempty"` // Release (the default) or Keep
	BGP       *RouteBGP `json:"bgp,omitempty"`
}

// A RouteBGP is what routes carry besides what the configuration says.
type RouteBGP struct {
	Communities      []string `json:"communities,omitempty"`      // "65001:100", or a name
	LargeCommunities []string `json:"largeCommunities,omitempty"` // "65001:1:2"
	LocalPref        *int64   `json:"localPref,omitempty"`
}

// An AddressPoolStatus is what has become of a pool.
type AddressPoolStatus struct {
	Total      string             `json:"total,omitempty"` // how many addresses it has; a number of any size
	Used       int64              `json:"used"`
	Free       string             `json:"free,omitempty"`
	Conflicts  int64              `json:"conflicts"` // its addresses in use that another pool has too, or that came from another
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// An AddressPoolList is a list of them.
type AddressPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []AddressPool `json:"items"`
}

// An Address is one that Services have. Its name follows from it, so there is one object for each address, and its creation
// is the allocation. Pintle writes it; a person may read it, and delete it, which gives its Services other addresses.
type Address struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec   AddressSpec   `json:"spec"`
	Status AddressStatus `json:"status,omitzero"` // no subresource: a holder and what it holds change together
}

// An AddressSpec says whose an address is, how it is announced, and where it is wanted.
type AddressSpec struct {
	Address  string       `json:"address"`
	Pool     string       `json:"pool"`
	Services []ServiceRef `json:"services,omitempty"` // none: it is to be given back

	Announce  []string  `json:"announce,omitempty"` // this and what follows as its pool says
	Links     []string  `json:"links,omitempty"`
	Bind      bool      `json:"bind,omitempty"`
	OnAPILoss string    `json:"onAPILoss,omitempty"`
	BGP       *RouteBGP `json:"bgp,omitempty"`

	Wanted string `json:"wanted,omitempty"` // the node that is to hold it; "" for none
}

// A ServiceRef names a Service, and which one of that name.
type ServiceRef struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       types.UID `json:"uid"`
}

// An AddressStatus says who holds an address. Only that node, in that epoch of its Lease, may claim it.
type AddressStatus struct {
	Holder   string            `json:"holder,omitempty"` // node; "" for nobody
	Epoch    int64             `json:"epoch,omitempty"`
	Turn     int64             `json:"turn,omitempty"` // counts holders
	Since    *metav1.MicroTime `json:"since,omitempty"`
	Reason   string            `json:"reason,omitempty"`   // why it is there, or nowhere
	Services string            `json:"services,omitempty"` // the names of spec.services, for people
}

// An AddressList is a list of them.
type AddressList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []Address `json:"items"`
}
