package service

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
	"github.com/pintle-lb/pintle/leader"
)

// A Service is what matters of one: an object of ten thousand is kept a few hundred bytes long.
type Service struct {
	ipam.Key
	UID       string
	Version   uint64 // resourceVersion
	Type      bool   // LoadBalancer
	Class     string // loadBalancerClass; "" for none
	Families  []ipam.Family
	Policy    ipam.Policy
	Ports     []ipam.Port
	Local     bool   // externalTrafficPolicy
	Selector  string // in one spelling; "" for none
	Labels    map[string]string
	Notes     map[string]string // annotations that Pintle reads
	AskedIP   string            // spec.loadBalancerIP
	Deleting  bool
	Ingress   []string // addresses in its status
	VIPMode   bool     // all of them with ipMode VIP
	Condition *metav1.Condition
}

// Endpoints are those of one EndpointSlice, by node.
type Endpoints struct {
	Service ipam.Key
	Ready   map[string]int // nodes with endpoints that are ready, and do not end
	Serving map[string]int // nodes with endpoints that answer, if only until they end
}

// A NodeInfo is what Kubernetes, and people, say of a node.
type NodeInfo struct {
	Name      string
	Labels    map[string]string
	Excluded  bool // node.kubernetes.io/exclude-from-external-load-balancers
	Cordoned  bool // spec.unschedulable
	Weight    int  // 0 to 100
	Priority  int
	Addresses []netip.Addr // its own
}

// A Pool is an AddressPool as it is understood.
type Pool struct {
	ipam.Pool
	Object *pintlev1.AddressPool
	Nodes  ipam.Selector
	Errors []error // of its spec; such a pool gives no addresses
}

// A Record is an Address object as it was seen last, or as this process wrote it.
type Record struct {
	Addr    netip.Addr
	Object  *pintlev1.Address
	Version uint64
	Writing bool              // an update of it is under way: what comes of it is to be seen first
	Next    *pintlev1.Address // what is being written
}

// holder reports whether a node has it, and in which epoch.
func (r *Record) holder() (node string, epoch uint64) {
	return r.Object.Status.Holder, uint64(max(r.Object.Status.Epoch, 0))
}

func (r *Record) wire() bool {
	return len(r.Object.Spec.Announce) == 0 || slices.Contains(r.Object.Spec.Announce, pintlev1.AnnounceARP)
}

func (r *Record) routed() bool { return slices.Contains(r.Object.Spec.Announce, pintlev1.AnnounceBGP) }

// Facts is all that this node knows of the cluster and of itself. The loop owns it.
type Facts struct {
	Node  string
	Now   leader.Instant
	Wall  time.Time
	Rules Rules

	Services   map[ipam.Key]*Service
	Slices     map[ipam.Key]map[string]*Endpoints // by the name of the slice
	Nodes      map[string]*NodeInfo
	Namespaces map[string]map[string]string // labels
	Pools      map[string]*Pool
	Records    map[netip.Addr]*Record
	Roll       map[string]Fellow
	Seat       SeatRecord

	Epoch   uint64        // of this node's tenure
	Lease   *leader.Lease // nil while it has none
	Leaving bool          // this node is to stop
	Synced  bool          // everything was listed once
}

// Rules are those of the configuration.
type Rules struct {
	Class     string // Services of this class are ours,
	Unclassed bool   // and those of none
	Routers   bool   // nodes have routers to tell of addresses
}

// A Fellow is a node that runs Pintle, as its Lease and its own word say.
type Fellow struct {
	leader.RollMember
	Word Word
}

// void reports whether what a record says of a holder is over for good.
func (f *Facts) void(node string, epoch uint64) bool {
	m, known := f.Roll[node]
	if node == f.Node && f.Epoch > epoch {
		return true
	}
	return known && m.Epoch > epoch
}

// gone reports whether nothing but its Lease is left of a node.
func (f *Facts) gone(node string) bool { return f.Nodes[node] == nil && !f.Roll[node].Alive }

// ours reports whether a Service is one that Pintle gives addresses to.
func (f *Facts) ours(s *Service) bool {
	switch {
	case !s.Type, s.Deleting, ignored(s):
		return false
	case s.Class == "":
		return f.Rules.Unclassed
	}
	return s.Class == f.Rules.Class
}

// named are the nodes that records name, with the highest epoch each.
func (f *Facts) named() map[string]uint64 {
	out := map[string]uint64{}
	add := func(node string, epoch uint64) {
		if node != "" && !f.void(node, epoch) {
			out[node] = max(out[node], epoch)
		}
	}
	for _, r := range f.Records {
		add(r.holder())
	}
	add(f.Seat.Node, f.Seat.Epoch)
	return out
}

// alive are the nodes with a valid Lease, sorted.
func (f *Facts) alive() []string {
	return slices.Sorted(maps.Keys(maps.Collect(func(yield func(string, bool) bool) {
		for n, m := range f.Roll {
			if m.Alive && !yield(n, true) {
				return
			}
		}
	})))
}
