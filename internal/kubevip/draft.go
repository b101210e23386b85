package kubevip

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pintle-lb/pintle/internal/poolfile"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
	"github.com/pintle-lb/pintle/manifests"
)

// A draft is the configuration as far as the settings were read.
type draft struct {
	static bool // a static pod: it has no service account
	only   bool // it keeps no address of a control plane
	mode   mode
	routed routed
	plane  manifests.ControlPlane
	notes  []Note

	addr, oldAddr     setting
	servedOn          string // vip_servicesinterface
	service, servedAt string // KUBERNETES_SERVICE_HOST, _PORT
}

func (d *draft) note(s setting, format string, args ...any) {
	value := s.value
	if s.from != "" {
		value = "from " + s.from
	}
	d.notes = append(d.notes, Note{Name: s.name, Value: value, Text: fmt.Sprintf(format, args...)})
}

// effective leaves out what a later setting of the same meaning overrides, and says so where that matters.
func (d *draft) effective(all []setting) []setting {
	var out []setting
	at := map[string]int{}
	for _, s := range all {
		key := s.name
		if k, ok := lookUp(s); ok {
			key = strings.Join(slices.Concat(k.env, k.flags), " ")
		}
		i, twice := at[key]
		if !twice {
			at[key] = len(out)
			out = append(out, s)
			continue
		}
		if old := out[i]; old.value != s.value || old.from != s.from {
			d.note(old, "%s is there too, and kube-vip reads it later", s.name)
		}
		out[i] = s
	}
	return out
}

const unknown = "is not known here: look it up in kube-vip's documentation, and whether Pintle has the like in its reference"

// use takes over one setting, or says why not.
func (d *draft) use(s setting) {
	k, ok := lookUp(s)
	switch {
	case !ok:
		d.note(s, "%s", unknown)
	case s.from != "" && k.take == nil:
		d.note(s, "%s", k.why)
	case s.from != "" && !k.where:
		d.note(s, "the value is not in the manifest: write it there and import it again")
	case s.from == "" && s.value == "":
		// kube-vip takes it as not given.
	case k.on && notBool(s.value):
		d.note(s, "is neither true nor false: kube-vip does not start with it")
	case k.take != nil:
		k.take(d, s)
	case k.on && !isTrue(s.value):
		// What is switched off needs no equivalent.
	default:
		if k.secret && s.value != "" {
			s.value = "(not shown)"
		}
		d.note(s, "%s", k.why)
	}
}

// kube-vip reads true and false as strconv does.
func notBool(s string) bool {
	_, err := strconv.ParseBool(s)
	return err != nil
}

func isTrue(s string) bool {
	b, err := strconv.ParseBool(s)
	return err == nil && b
}

func (d *draft) address(s setting)     { d.addr = s }
func (d *draft) oldAddress(s setting)  { d.oldAddr = s }
func (d *draft) enable(setting)        {} // servesOnly has seen it
func (d *draft) servicePort(s setting) { d.servedAt = s.value }

func (d *draft) serviceHost(s setting) {
	if d.service = s.value; d.mode.elected && s.from != "" && s.from != "status.hostIP" {
		d.note(s, "https://127.0.0.1:6443 is asked: name others in kubernetes.servers")
	}
}

// dns is in every manifest, and means something with names only.
func (d *draft) dns(s setting) {
	if s.value != "first" {
		d.note(s, "%s", notNames)
	}
}

func (d *draft) link(s setting) {
	if !d.mode.arp() {
		if s.value != "lo" {
			d.note(s, "the address stands on lo, and is announced on no link")
		}
		return
	}
	if s.value == "lo" {
		d.note(s, "nobody asks on lo: the address is announced on the link that has its subnet; name another with link")
		return
	}
	d.plane.Links = []string{s.value}
}

func (d *draft) subnet(s setting) {
	for _, p := range strings.Split(s.value, ",") {
		switch strings.TrimPrefix(strings.TrimSpace(p), "/") {
		case "32", "128", "auto":
		default:
			d.note(s, "the address stands alone on lo, as /32 or /128: the subnet is that of the node's own address")
			return
		}
	}
}

func (d *draft) port(s setting) {
	p, err := strconv.ParseUint(s.value, 10, 16)
	if err != nil || p == 0 {
		d.note(s, "is no port: kube-vip does not start with it")
		return
	}
	d.plane.Health.Port = uint16(p)
	if p != 6443 {
		d.note(s, "is where each node asks its own API server (health) and where the API is asked; Pintle listens on no port of the address")
	}
}

func (d *draft) services(s setting) {
	if isTrue(s.value) {
		d.note(s, "Services are for another Pintle, on every node: pintle manifest services. Its pools: pintle import kube-vip with the ConfigMap kubevip of the cloud provider")
	}
}

func (d *draft) serviceLink(s setting) {
	if !poolfile.IsLink(s.value) {
		d.note(s, "is no interface on which anybody asks: it is left out")
		return
	}
	d.servedOn = s.value
	d.note(s, "is links of an AddressPool; without, an address is announced on the link that has its subnet")
}

// serve makes what Services need of a kube-vip that serves nothing else.
func (d *draft) serve(objects []object, data map[string]string, madeBy string) (out Result, err error) {
	w := ways{announce: []string{pintlev1.AnnounceARP}}
	switch link := cmp.Or(d.servedOn, strings.Join(d.plane.Links, "")); {
	case d.mode.bgp:
		w.announce = []string{pintlev1.AnnounceBGP}
		if err := d.announceBGP(); err != nil {
			return out, err
		}
		out.Config, err = manifests.ServiceNode{MadeBy: madeBy, BGP: d.plane.BGP}.Config()
	case d.mode.table:
		d.note(setting{name: "vip_routingtable", value: "true"}, "pools are announced by ARP or by BGP, not in a table: this is ARP; for routers announce: [bgp]")
	case poolfile.IsLink(link):
		w.links = []string{link}
	}
	if err == nil && data != nil {
		d.provider(objects)
		out.Pools, err = d.pools(data, w, madeBy)
	}
	if err == nil && out.Pools == nil && out.Config == nil {
		err = errors.New("it keeps no address of a control plane (cp_enable is not true). For Services: " +
			"pintle manifest services, and for their pools pintle import kube-vip with the ConfigMap kubevip of the cloud provider")
	}
	return out, err
}

func (d *draft) arp(s setting) {
	switch on := isTrue(s.value); {
	case d.mode.arp() && !on:
		d.note(s, "Pintle announces by ARP and neighbour discovery if not by BGP or in a table: the address must be in the subnet of a link")
	case !d.mode.arp() && on:
		d.note(s, "kube-vip does one thing only, and here that is not ARP: with Pintle announce: [arp, bgp] does both, with an election")
	}
}

func (d *draft) level(s setting) {
	switch s.value {
	case "5", "-4":
		d.plane.Level = "debug"
	case "0", "3", "4":
	default:
		d.note(s, "the log's level is info: log.level is one of debug, info, warn and error")
	}
}

func (d *draft) metrics(s setting) {
	host, port, err := net.SplitHostPort(s.value)
	if err == nil && (host != "" || port != "2112") {
		if ap, err := netip.ParseAddrPort(net.JoinHostPort(defaultHost(host), port)); err == nil && ap.Port() != 0 {
			d.plane.Listen = ap.String()
			d.note(s, "is server.listen now; the metrics have names of their own, and /livez and /readyz are there too")
			return
		}
	}
	d.note(s, "Pintle's metrics, of other names, are on 127.0.0.1:7401; for all to see set server.listen: \"0.0.0.0:7401\"")
}

func defaultHost(host string) string {
	if host == "" {
		return "0.0.0.0"
	}
	return host
}

// ownUser is where a static pod finds who it is; the administrator's it does not need.
const ownUser = "/etc/kubernetes/pintle.conf"

const makeUser = "make Pintle a user of its own: kubeadm kubeconfig user --client-name pintle > " + ownUser +
	", and its rights: pintle manifest rbac --user pintle | kubectl apply -f -"

func (d *draft) kubeconfig(s setting) {
	if !d.mode.elected {
		d.note(s, "nothing is elected here, so Pintle asks nothing of the API and needs no kubeconfig")
		return
	}
	if strings.Contains(path.Base(s.value), "admin") {
		d.plane.Kubeconfig = ownUser
		d.note(s, "is the administrator's: %s", makeUser)
		return
	}
	d.plane.Kubeconfig = s.value
	d.note(s, "the server that it names is not asked, as that may be the address itself: this node's is, then those that the cluster names")
}

func (d *draft) server(s setting) {
	if !d.mode.elected {
		return // nothing is asked
	}
	u, err := url.Parse(s.value)
	if err != nil || u.Scheme != "https" || u.Path != "" && u.Path != "/" {
		d.note(s, "kubernetes.servers takes URLs with an IP address, as in https://127.0.0.1:6443, which is asked if nothing is said")
		return
	}
	d.addServer(s, u.Host)
}

// addServer takes over an API server that has an address: Pintle must not need a name server.
func (d *draft) addServer(s setting, host string) {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	if name == "localhost" {
		host, name = strings.Replace(host, name, "127.0.0.1", 1), "127.0.0.1"
	}
	if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err != nil {
		d.note(s, "kubernetes.servers takes IP addresses only: https://127.0.0.1:6443 is asked, and then those that the cluster names")
		return
	}
	d.plane.Servers = []string{"https://" + host}
}

func (d *draft) node(s setting) {
	if s.from != "spec.nodeName" {
		d.note(s, "a node is called as Kubernetes calls it: the pod says it with --node")
	}
}

func (d *draft) namespace(s setting) {
	if s.value != "kube-system" {
		d.plane.Namespace = s.value
	}
}

func (d *draft) election(s setting) {
	if d.mode.table && isTrue(s.value) {
		d.note(s, "kube-vip elects nobody for a control plane in a routing table: every healthy node has the route. election: lease would")
	}
	if d.mode.arp() && !isTrue(s.value) {
		d.note(s, "Pintle always elects: one node at a time has the address")
	}
}

func (d *draft) electionType(s setting) {
	if s.value != "kubernetes" {
		d.note(s, "Pintle elects by a Lease, as here, or by Raft: pintle manifest pod --peers NAME=ADDRESS,...")
	}
}

func (d *draft) leaseName(s setting) {
	if !d.mode.elected {
		return // there is none
	}
	d.note(s, "Pintle has a Lease of its own, called pintle: they must not share one. Delete the old one at the end")
}

// The durations that Pintle takes (internal/config).
const least, most, usual = 2 * time.Second, time.Minute, 5 * time.Second

func (d *draft) duration(s setting) {
	if !d.mode.elected {
		return // there is no Lease
	}
	n, err := strconv.Atoi(s.value)
	if err != nil || n <= 0 {
		d.note(s, "is no number of seconds: lease.duration is %s", usual)
		return
	}
	want := time.Duration(min(n, 3600)) * time.Second
	d.plane.Duration = min(max(want, least), most)
	if d.plane.Duration != want {
		d.note(s, "lease.duration is %.0fs: it can be 2s to 60s", d.plane.Duration.Seconds())
	}
}

// hidePassword keeps what stands before the password. An IPv6 address is in brackets or has more colons than a peer
// has parts.
func hidePassword(peer string) string {
	host, rest := "", peer
	if i := strings.LastIndex(peer, "]"); i >= 0 {
		host, rest = peer[:i+1], peer[i+1:]
	}
	parts := strings.Split(rest, ":")
	if len(parts) > 2 && parts[2] != "" {
		return host + strings.Join(parts[:2], ":") + ":(not shown)"
	}
	return peer
}

// surroundings looks at what stands beside the settings.
func (d *draft) surroundings(w workload) {
	for _, e := range w.container.EnvFrom {
		name := "ConfigMap " + e.ConfigMapRef.Name
		if e.SecretRef.Name != "" {
			name = "Secret " + e.SecretRef.Name
		}
		d.note(setting{name: "envFrom", value: name}, "its settings were not seen here: write them into the manifest and import it again")
	}
	if d.static && d.mode.elected && d.plane.Kubeconfig == "" {
		d.plane.Kubeconfig = ownUser
		for _, p := range w.paths {
			if strings.HasSuffix(p, "admin.conf") {
				d.note(setting{name: "volume", value: p}, "is the administrator's: %s", makeUser)
				return
			}
		}
		d.note(setting{name: "kubeconfig"}, "%s", makeUser)
	}
}

// config is the configuration that came of it.
func (d *draft) config() ([]byte, error) {
	if err := d.parseAddresses(); err != nil {
		return nil, err
	}
	if err := d.announce(); err != nil {
		return nil, err
	}
	if !d.static {
		d.plane.Health.Kind = manifests.Connect
		d.note(setting{name: "health"}, "Pintle also asks whether the node's API server works. k3s and RKE2 answer nobody without a name, so it only connects; "+
			"with kubeadm give http: https://127.0.0.1:6443/readyz instead, as pintle manifest daemonset does")
	}
	if d.mode.elected && d.service != "" && len(d.plane.Servers) == 0 {
		port := d.servedAt
		if port == "" {
			port = "443"
		}
		d.addServer(setting{name: "KUBERNETES_SERVICE_HOST", value: d.service}, net.JoinHostPort(d.service, port))
	}
	if d.mode.arp() {
		d.plane.Comments = []string{
			"kube-vip elects by a Lease, and so does this. Raft is faster and needs no API server, only a list of the nodes:",
			"pintle manifest pod --address " + d.plane.Addresses[0].String() + " --peers NAME=ADDRESS,NAME=ADDRESS,NAME=ADDRESS",
		}
	}
	return d.plane.Config()
}

func (d *draft) parseAddresses() error {
	s := d.addr
	switch {
	case s.value == "":
		s = d.oldAddr
	case d.oldAddr.value != "" && d.oldAddr.value != s.value:
		d.note(d.oldAddr, "%s is there too, and wins with kube-vip and here", s.name)
	}
	if s.value == "" {
		return errors.New("it names no address: set the variable address to the address of the control plane and import it again")
	}
	for _, text := range strings.Split(s.value, ",") {
		text, _, _ = strings.Cut(strings.TrimSpace(text), "/")
		a, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("%s: %s: is no IP address: write in its place the one that the name stands for, and import it again", s.name, s.value)
		}
		d.plane.Addresses = append(d.plane.Addresses, a)
	}
	return nil
}
