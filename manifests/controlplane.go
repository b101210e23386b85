package manifests

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Election is how the nodes agree on the holder, as the configuration names it.
type Election string

// Among themselves, by a Lease object, or not at all: every healthy node has the address, and routers spread what comes to it.
const (
	Raft  Election = "raft"
	Lease Election = "lease"
	None  Election = "none"
)

// A ControlPlane is what the configuration of Pintle for the address of a Kubernetes control plane is made from. It
// needs Addresses, and Peers with Raft; everything else has the default that the configuration or kubeadm has.
type ControlPlane struct {
	MadeBy    string   // the command, for the first lines of the file
	Comments  []string // more lines for there
	Addresses []netip.Addr
	Links     []string // names or globs; the link that has the subnet if empty
	Election  Election // Raft if empty

	Peers   []Peer // Raft: every control-plane node; the first one starts the cluster
	Profile string // Raft: fast, default or wan
	TLS     TLS    // Raft: this node's identity; the etcd peer pair that kubeadm makes if it is zero

	Namespace  string        // Lease: where the object is
	Name       string        // Lease: its name
	Duration   time.Duration // Lease: after which a holder that is not heard of is replaced
	Kubeconfig string        // Lease: who this node is to the API; the pod's service account if empty
	Servers    []string      // Lease: API servers, asked in this order; this node's if empty

	BGP   *BGP   // routers are told of the address; if neither this nor Table is there, it is announced by ARP and NDP
	Table *Table // the address is a route in a table of the host, for another daemon to tell of

	Health Health // of this node's API server
	Listen string // of metrics and probes
	Level  string // of the log
}

// BGP is what routers are told.
type BGP struct {
	AS        uint32
	RouterID  netip.Addr // of a configuration for one node; derived if invalid
	Hold      time.Duration
	Keepalive time.Duration
	Routers   []Router
}

// A Router is one that is to hear of the address: at Addr, or the neighbour on Interface.
type Router struct {
	Addr         netip.Addr
	Interface    string
	Port         uint16 // 179 if 0
	AS           uint32 // any other than ours if 0
	LocalAddr    netip.Addr
	PasswordFile string
	Multihop     uint8 // how many hops away; on a link of the node if 0
	NextHops     []netip.Addr
	BFD          *BFD
}

// BFD is how a router is watched, and watches us.
type BFD struct {
	Interval   time.Duration
	Multiplier uint8
}

// Table is where the route is, and the protocol number that marks it.
type Table struct {
	Number   uint32
	Protocol uint8
}

// A Peer is a control-plane node: its name in Kubernetes and its own address. A port of 0 means the default one.
type Peer struct {
	Name string
	Addr netip.AddrPort
}

// TLS names the files of a node's identity.
type TLS struct{ CA, Cert, Key string }

// KubeadmTLS is the identity that kubeadm makes for each node with an etcd of its own, and renews. Pintle takes from
// a peer what etcd takes from one: a certificate for serving under the node's own name.
var KubeadmTLS = TLS{CA: "/etc/kubernetes/pki/etcd/ca.crt", Cert: "/etc/kubernetes/pki/etcd/peer.crt", Key: "/etc/kubernetes/pki/etcd/peer.key"}

// Health is how a node asks its own API server whether it works.
type Health struct {
	Kind HealthKind
	Port uint16 // 6443 if 0
	CA   string // for Readyz: of the server's certificate; kubeadm's, or the service account's, if empty
}

// HealthKind is a kind of question.
type HealthKind string

// Readyz asks for /readyz without a name, as anybody may with kubeadm. Connect only connects: for API servers that
// answer nobody without a name. The zero value is Readyz.
const (
	Readyz  HealthKind = "readyz"
	Connect HealthKind = "tcp"
)

const (
	kubeadmCA    = "/etc/kubernetes/pki/ca.crt"
	serviceToken = "/var/run/secrets/kubernetes.io/serviceaccount"
	apiPort      = 6443
)

// Config renders the configuration: commented, and the same on every node. It does not check what Pintle checks when
// it reads the file.
func (c ControlPlane) Config() ([]byte, error) {
	if err := c.fill(); err != nil {
		return nil, fmt.Errorf("render configuration: %w", err)
	}
	return render("pintle.yaml.tmpl", c)
}

// fill sets the defaults, and refuses what has no meaning.
func (c *ControlPlane) fill() error {
	if c.Election == "" {
		c.Election = Raft
	}
	if c.TLS == (TLS{}) {
		c.TLS = KubeadmTLS
	}
	if c.Health.Kind == "" {
		c.Health.Kind = Readyz
	}
	if c.Health.Port == 0 {
		c.Health.Port = apiPort
	}
	if c.Health.CA == "" {
		c.Health.CA = kubeadmCA
		if c.Election == Lease && c.Kubeconfig == "" {
			c.Health.CA = serviceToken + "/ca.crt"
		}
	}
	if c.Health.Port != apiPort && c.Election == Lease && len(c.Servers) == 0 {
		c.Servers = []string{fmt.Sprintf("https://127.0.0.1:%d", c.Health.Port)}
	}
	return c.check()
}

func (c *ControlPlane) check() error {
	switch {
	case c.Election != Raft && c.Election != Lease && c.Election != None:
		return fmt.Errorf("election %q: want %s, %s or %s", c.Election, Raft, Lease, None)
	case len(c.Addresses) == 0:
		return errors.New("no address")
	case c.Election == Raft && len(c.Peers) == 0:
		return errors.New("no peers: Raft needs the name and the address of every control-plane node")
	case c.Election != Raft && len(c.Peers) > 0:
		return errors.New("peers: only the Raft election needs any")
	case c.Election == None && c.ARP():
		return errors.New("election none: several nodes would answer for the address by ARP: it needs BGP or a table")
	case c.TLS.CA == "" || c.TLS.Cert == "" || c.TLS.Key == "":
		return errors.New("TLS: the CA, the certificate and the key belong together")
	case c.Health.Kind != Readyz && c.Health.Kind != Connect:
		return fmt.Errorf("health %q: want %s or %s", c.Health.Kind, Readyz, Connect)
	}
	return c.BGP.check()
}

// check accepts nil: no BGP.
func (b *BGP) check() error {
	if b == nil {
		return nil
	}
	if b.AS == 0 {
		return errors.New("BGP: no AS")
	}
	if len(b.Routers) == 0 {
		return errors.New("BGP: no routers")
	}
	for _, r := range b.Routers {
		if r.Addr.IsValid() == (r.Interface != "") {
			return errors.New("BGP: a router has either an address or an interface")
		}
	}
	return nil
}

// ARP reports whether the address is announced on a link.
func (c ControlPlane) ARP() bool { return c.BGP == nil && c.Table == nil }

// Announce is how the configuration names the ways, without ARP.
func (c ControlPlane) Announce() string {
	switch {
	case c.BGP == nil:
		return "[table]"
	case c.Table == nil:
		return "[bgp]"
	}
	return "[bgp, table]"
}

// Kubeadm reports whether the identity is the one that kubeadm makes.
func (t TLS) Kubeadm() bool { return t == KubeadmTLS }

// Address is how the configuration writes where a peer is.
func (p Peer) Address() string {
	if p.Addr.Port() == 0 {
		return p.Addr.Addr().String()
	}
	return p.Addr.String()
}
