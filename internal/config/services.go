package config

import (
	"cmp"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"time"
)

// Services makes this node one of those that give Services of type LoadBalancer their addresses. Which addresses there are,
// and how they are announced, pools say, in the cluster.
type Services struct {
	Namespace   string        // of the Leases
	Lease       time.Duration // how long a node that is not heard of keeps its addresses
	Class       string        // the loadBalancerClass that is ours
	Unclassed   bool          // Services without a class are ours too
	ProxyHealth string        // the URL at which kube-proxy, or what replaces it, says that it is well; "" if nobody is asked
	KeepPort    uint16        // UDP, where nodes tell each other whether the API answers them
}

// ServicesStatusPort is where metrics and probes are served by default with section services: another instance for the address
// of the control plane may be on the same host.
const ServicesStatusPort = 7403

// maxNodeName leaves room for what Pintle puts before the name of a node in that of its Lease.
const maxNodeName = 253 - len("pintle-node-")

func defaultServices() *Services {
	return &Services{Namespace: "pintle-system", Lease: 10 * time.Second, Class: "pintle.dev/lb", Unclassed: true,
		ProxyHealth: "http://127.0.0.1:10256/healthz", KeepPort: 7402}
}

func (s *Services) keys() []key {
	return []key{
		{"namespace", word(&s.Namespace, checkLabel)},
		{"lease", duration(&s.Lease, 2*time.Second, time.Minute)},
		{"class", word(&s.Class, checkClass)},
		{"unclassed", flag(&s.Unclassed)},
		{"proxyHealth", urlOrOff(&s.ProxyHealth)},
		{"keepPort", count(&s.KeepPort, 1024, 65535)},
	}
}

// services is section services: it is there if the file has it, be it empty.
func (c *Config) services() value {
	s := c.Services
	if s == nil {
		s = new(Services) // for the names of its keys
	}
	return section(s.keys())
}

// A stranger is a section that means nothing to a service node.
type stranger struct{ section, why string }

var strangers = []stranger{
	{"addresses", "pools have the addresses of Services"},
	{"announce", "pools say how their addresses are announced"},
	{"bind", "pools say it"},
	{"linger", "a node goes on accepting as long as the cluster's own forwarding does"},
	{"election", "each node has a Lease of its own"},
	{"raft", "each node has a Lease of its own"},
	{"lease", "services.namespace and services.lease say what there is to say of the Leases"},
	{"table", "pools announce by ARP or by BGP"},
	{"holdDown", "the placement bounds how often an address moves"},
}

// strange reports whether a section means nothing to a service node.
func strange(section string) bool {
	return slices.ContainsFunc(strangers, func(s stranger) bool { return s.section == section })
}

// fillServices clears what does not apply to a service node and sets what has no fixed default.
func (c *Config) fillServices(r *reader, o Options) {
	c.Addresses, c.Announce, c.Bind, c.Linger, c.Election, c.HoldDown = nil, nil, "", 0, "", 0
	c.Raft, c.Lease, c.Table = Raft{Realtime: RealtimeOff}, Lease{}, Table{}
	if r.given("bgp") {
		c.Announce = []Announce{AnnounceBGP}
		c.fillBGP(r)
	} else {
		c.BGP = BGP{}
	}
	c.fillKubernetes(r, cmp.Or(o.APIServer, DefaultServer))
}

func (c *Config) checkServices(r *reader, o Options) {
	for _, s := range strangers {
		if r.given(s.section) {
			r.add(s.section, "", "has no effect beside services: "+s.why,
				"leave it out; the address of a control plane is for another instance, with a file of its own")
		}
	}
	if r.given("bgp") && r.quiet("bgp") {
		c.checkBGP(r)
	}
	c.checkKubernetes(r)
	if len(c.Node) > maxNodeName && r.quiet("node") {
		r.add("node", c.Node, fmt.Sprintf("has %d letters: no Lease could be named after it", len(c.Node)), fmt.Sprintf("at most %d", maxNodeName))
	}
	if err := checkServer(o.APIServer); err != nil && o.APIServer != "" && !r.given("kubernetes.servers") {
		r.refuse(&node{path: "kubernetes.servers", text: o.APIServer},
			refuse("name the IP address and port of the Service kubernetes with kubernetes.servers", "of this pod's environment: %v", err))
	}
	if p := c.Services.KeepPort; c.Announces(AnnounceBGP) && (p == 3784 || p == 4784) { // RFC 5881 4, RFC 5883 5
		r.add("services.keepPort", fmt.Sprint(p), "is a port of BFD", "choose another, the same on every node")
	}
}

var className = regexp.MustCompile(`^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)

func checkClass(s string) error {
	if !className.MatchString(s) {
		return refuse("as pintle.dev/lb", "not a loadBalancerClass")
	}
	return nil
}

// urlOrOff reads an http URL, or that word for "".
func urlOrOff(p *string) value {
	return scalar(p, text, func(s string) (string, error) {
		if s == "off" {
			return "", nil
		}
		if err := checkURL(s); err != nil {
			return "", refuse("write it as http://127.0.0.1:10256/healthz, or off", "%v", err)
		}
		if u, err := url.Parse(s); err != nil || u.Scheme != "http" {
			return "", refuse("write it as http://127.0.0.1:10256/healthz, or off", "is not http, which kube-proxy and its replacements talk")
		}
		return s, nil
	}, func(s string) any {
		if s == "" {
			return "off"
		}
		return s
	})
}
