package kubevip

import (
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pintle-lb/pintle/manifests"
)

// A mode is how kube-vip would announce with all of the settings.
type mode struct {
	bgp, table bool // else by ARP
	elected    bool // by a Lease
}

func (m mode) arp() bool { return !m.bgp && !m.table }

// modeOf looks at what decides over the rest. kube-vip looks for BGP first. With ARP Pintle always elects, and in a table
// kube-vip never does.
func modeOf(all []setting) mode {
	m := mode{bgp: isOn(all, "bgp_enable")}
	m.table = !m.bgp && isOn(all, "vip_routingtable")
	m.elected = m.bgp && isOn(all, "vip_leaderelection") || !m.bgp && !m.table
	return m
}

// isOn reports whether a setting is there, as a variable or a flag, and true.
func isOn(all []setting, name string) bool {
	return slices.ContainsFunc(all, func(s setting) bool { return isTrue(s.value) && s.is(name) })
}

// is reports whether it is the setting with this variable, by whatever name.
func (s setting) is(name string) bool {
	k, _ := lookUp(setting{name: name})
	return slices.Contains(k.env, s.name) && !s.flag || slices.Contains(k.flags, s.name) && s.flag
}

// servesOnly reports whether it keeps no address of a control plane.
func servesOnly(all []setting) bool {
	said := slices.ContainsFunc(all, func(s setting) bool { return s.value != "" && s.is("cp_enable") })
	return !isOn(all, "cp_enable") && (said || isOn(all, "svc_enable"))
}

// routed is what kube-vip would tell routers, as far as it was read.
type routed struct {
	bgp    manifests.BGP
	one    manifests.Router // of bgp_peeraddress and the like
	local  netip.Addr
	hops   []netip.Addr
	many   []manifests.Router
	table  manifests.Table
	secret []setting // passwords of one
}

// What kube-vip has if nothing is said.
const (
	usualAS       = 65000
	usualHops     = 50 // of multihop
	usualTable    = 198
	usualProtocol = 248
)

// passwords is where the files with passwords are.
const passwords = "/etc/pintle/bgp"

// withBGP is a setting that means something with BGP only.
func withBGP(take func(d *draft, s setting)) func(d *draft, s setting) {
	return func(d *draft, s setting) {
		if !d.mode.bgp {
			d.note(s, "has no effect: bgp_enable is not true")
			return
		}
		take(d, s)
	}
}

// withTable is a setting that means something with a routing table only.
func withTable(take func(d *draft, s setting)) func(d *draft, s setting) {
	return func(d *draft, s setting) {
		if !d.mode.table {
			d.note(s, "has no effect: vip_routingtable is not true, or bgp_enable is too")
			return
		}
		take(d, s)
	}
}

func (d *draft) bgpEnable(setting) {} // modeOf has seen it

func (d *draft) tableEnable(s setting) {
	if isTrue(s.value) && d.mode.bgp {
		d.note(s, "bgp_enable is true too, and kube-vip then writes no routes: with Pintle announce: [bgp, table] does both")
	}
}

func (d *draft) routerID(s setting) {
	a, err := netip.ParseAddr(s.value)
	switch {
	case s.from != "":
		d.note(s, "Pintle takes the node's first IPv4 address: set bgp.routerID for another")
	case err != nil || !a.Is4():
		d.note(s, "is no IPv4 address: Pintle takes the node's first one")
	case !d.static:
		d.note(s, "would be the same on every node: Pintle takes the node's first IPv4 address")
	default:
		d.routed.bgp.RouterID = a
		d.note(s, "is this node's: on every other node leave bgp.routerID out, or change it")
	}
}

func (d *draft) localAS(s setting) { d.routed.bgp.AS = d.as(s) }
func (d *draft) peerAS(s setting)  { d.routed.one.AS = d.as(s) }

// as reads the number of an AS; 0 if it is none.
func (d *draft) as(s setting) uint32 {
	n, err := strconv.ParseUint(s.value, 10, 32)
	if err != nil || n == 0 {
		d.note(s, "is no AS: %d, kube-vip's own, is taken: correct it", usualAS)
		return usualAS
	}
	return uint32(n)
}

func (d *draft) peerAddress(s setting) {
	a, err := netip.ParseAddr(s.value)
	if err != nil {
		d.note(s, "is no IP address: write the router's")
		return
	}
	d.routed.one.Addr = a
}

// peerPassword never shows a value, and takes none over.
func (d *draft) peerPassword(s setting) {
	if s.from == "" {
		s.value = "(not shown)"
	}
	if !d.mode.bgp {
		d.note(s, "has no effect: bgp_enable is not true")
		return
	}
	d.routed.one.PasswordFile = passwords
	d.routed.secret = append(d.routed.secret, s) // told when it is known whose it is
}

func (d *draft) multihop(s setting) {
	if isTrue(s.value) {
		withBGP(func(d *draft, s setting) {
			d.routed.one.Multihop = usualHops
			d.note(s, "bgp.peers[].multihop is %d, which is what kube-vip has: make it how many hops away the router is", usualHops)
		})(d, s)
	}
}

func (d *draft) sourceIP(s setting) {
	a, err := netip.ParseAddr(s.value)
	switch {
	case s.from != "" || err != nil:
		d.note(s, "the session is from the address that the node has towards the router: set localAddress for another")
	case !d.static:
		d.note(s, "would be the same on every node: the session is from the address that the node has towards the router")
	default:
		d.routed.local = a
		d.note(s, "is this node's: on every other node leave localAddress out, or change it")
	}
}

// holdTime and the keepalive have their bounds from RFC 4271.
func (d *draft) holdTime(s setting)  { d.routed.bgp.Hold = d.seconds(s, 3) }
func (d *draft) keepalive(s setting) { d.routed.bgp.Keepalive = d.seconds(s, 1) }

func (d *draft) seconds(s setting, least int) time.Duration {
	n, err := strconv.Atoi(s.value)
	if err != nil || n < least || n > 65535 {
		d.note(s, "is not %d to 65535: Pintle's own is taken, hold 9s, and a third of it for keepalive", least)
		return 0
	}
	return time.Duration(n) * time.Second
}

func (d *draft) nextHop(s setting) {
	a, err := netip.ParseAddr(s.value)
	if err != nil || !d.static {
		d.note(s, "Pintle names this node's own addresses: set nextHop for others")
		return
	}
	d.routed.hops = append(d.routed.hops, a)
	d.note(s, "is this node's: on every other node leave nextHop out, or change it")
}

func (d *draft) tableID(s setting) {
	n, err := strconv.ParseUint(s.value, 10, 32)
	if err != nil || n == 0 || n >= 253 && n <= 255 {
		d.note(s, "Pintle keeps out of the host's own tables: table.number is %d, and the other daemon must read that one", usualTable)
		return
	}
	d.routed.table.Number = uint32(n)
}

func (d *draft) tableProtocol(s setting) {
	n, err := strconv.ParseUint(s.value, 10, 8)
	if err != nil || n < 4 {
		d.note(s, "is not 4 to 255: table.protocol is %d", usualProtocol)
		return
	}
	d.routed.table.Protocol = uint8(n)
}

// bgpPeers reads a list of routers, and shows no password of it.
func (d *draft) bgpPeers(s setting) {
	peers := strings.Split(s.value, ",")
	shown := slices.Clone(peers)
	for i, p := range peers {
		shown[i] = hidePassword(p)
	}
	if s.value = strings.Join(shown, ","); !d.mode.bgp {
		d.note(s, "has no effect: bgp_enable is not true")
		return
	}
	for i, p := range peers {
		if p = strings.TrimSpace(p); p != "" {
			d.bgpPeer(setting{name: s.name, value: shown[i]}, p)
		}
	}
}

func (d *draft) bgpPeer(s setting, text string) {
	p := splitPeer(text)
	as, err := strconv.ParseUint(p.field(0), 10, 32)
	if err != nil || !p.addr.IsValid() && p.link == "" {
		d.note(s, "is no address and AS: name this router in bgp.peers")
		return
	}
	r := manifests.Router{Addr: p.addr, Interface: p.link, AS: uint32(as)}
	if n, err := strconv.ParseUint(p.field(3), 10, 16); err == nil && n != bgpPort {
		r.Port = uint16(n)
		d.note(s, "port %d is asked here, where kube-vip has always asked port %d", n, bgpPort)
	}
	if isTrue(p.field(2)) {
		r.Multihop = usualHops
		d.note(s, "multihop is %d, which is what kube-vip has: make it how many hops away the router is", usualHops)
	}
	if p.field(4) != "" {
		d.note(s, "Pintle names this node's own addresses as next hops: set nextHop for others")
	}
	r.BFD = d.bfd(s, p.field(5))
	if p.field(1) != "" {
		r.PasswordFile = passwordFile(r)
		d.notePassword(s, r.PasswordFile)
	}
	d.routed.many = append(d.routed.many, r)
}

const bgpPort = 179

func (d *draft) notePassword(s setting, file string) {
	d.note(s, "write the password into %s on every node, for only root to read, or with a DaemonSet into the Secret that `pintle manifest %s` tells of: it is not copied",
		file, map[bool]string{false: "daemonset", true: "services"}[d.only])
}

// passwordFile is named as a Secret can hold it.
func passwordFile(r manifests.Router) string {
	name := r.Interface
	if r.Addr.IsValid() {
		name = strings.ReplaceAll(r.Addr.String(), ":", "-")
	}
	return passwords + "/" + name
}

// bfd reads enable;receive;transmit;multiplier, in milliseconds.
func (d *draft) bfd(s setting, text string) *manifests.BFD {
	parts := append(strings.Split(text, ";"), "", "", "")
	if !isTrue(parts[0]) {
		return nil
	}
	number := func(i, usual int) int {
		n, err := strconv.Atoi(parts[i])
		if err != nil {
			return usual
		}
		return n
	}
	ms := min(max(number(1, 300), number(2, 300), 50), 10000)
	out := &manifests.BFD{Interval: time.Duration(ms) * time.Millisecond, Multiplier: uint8(min(max(number(3, 3), 2), 50))}
	d.note(s, "BFD is each %s, times %d: one interval for both ways", out.Interval, out.Multiplier)
	return out
}

// A peerText is a router as kube-vip's list has it: what follows its address are the AS, the password, multihop, the port,
// options of next hops, and BFD.
type peerText struct {
	addr netip.Addr
	link string
	rest []string
}

func splitPeer(text string) peerText {
	var p peerText
	var host, rest string
	switch {
	case strings.HasPrefix(text, "["):
		host, rest, _ = strings.Cut(text[1:], "]")
		rest = strings.TrimPrefix(rest, ":")
	case strings.HasPrefix(text, "unnumbered:"):
		p.link, rest, _ = strings.Cut(strings.TrimPrefix(text, "unnumbered:"), ":")
		if rest == "" {
			rest = "0" // any other than ours
		}
	default:
		host, rest, _ = strings.Cut(text, ":")
	}
	p.addr, _ = netip.ParseAddr(host)
	p.rest = strings.Split(rest, ":")
	if len(p.rest) > 2 { // before it had ports, options came after a slash
		hops, options, old := strings.Cut(p.rest[2], "/")
		if p.rest[2] = hops; old {
			p.rest = append(p.rest[:3], "", options)
		}
	}
	return p
}

func (p peerText) field(i int) string {
	if i >= len(p.rest) {
		return ""
	}
	return p.rest[i]
}

// announce completes the plane with how the address is announced.
func (d *draft) announce() error {
	if d.plane.Election = manifests.Lease; !d.mode.elected {
		d.plane.Election = manifests.None
	}
	switch {
	case d.mode.table:
		t := d.routed.table
		d.plane.Table = &t
		d.plane.Links = nil
	case d.mode.bgp:
		return d.announceBGP()
	}
	return nil
}

func (d *draft) announceBGP() error {
	b := d.routed.bgp
	if b.AS == 0 {
		b.AS = usualAS
		d.note(setting{name: "bgp_as"}, "is not there: bgp.as is %d, as it is with kube-vip", usualAS)
	}
	b.Routers = d.routed.many
	if one, ok := d.oneRouter(); ok {
		b.Routers = append([]manifests.Router{one}, b.Routers...)
	}
	if len(b.Routers) == 0 {
		return errors.New("it announces by BGP and names no router: write bgp_peers, as 10.0.0.254:65000, and import it again")
	}
	for i := range b.Routers {
		r := &b.Routers[i]
		r.NextHops = d.routed.hops
		if r.Addr.IsValid() && d.routed.local.IsValid() && r.Addr.Is4() == d.routed.local.Is4() {
			r.LocalAddr = d.routed.local
		}
	}
	d.plane.BGP, d.plane.Links = &b, nil
	return nil
}

// oneRouter is the router of the settings for one, unless the list has it too.
func (d *draft) oneRouter() (manifests.Router, bool) {
	r := d.routed.one
	if !r.Addr.IsValid() || slices.ContainsFunc(d.routed.many, func(o manifests.Router) bool { return o.Addr == r.Addr }) {
		for _, s := range d.routed.secret {
			d.note(s, "belongs to bgp_peeraddress, which is not there or is in bgp_peers too")
		}
		return r, false
	}
	if r.AS == 0 {
		r.AS = usualAS
		d.note(setting{name: "bgp_peeras"}, "is not there: the router's AS is %d, as it is with kube-vip", usualAS)
	}
	if r.PasswordFile != "" {
		r.PasswordFile = passwordFile(r)
		for _, s := range d.routed.secret {
			d.notePassword(s, r.PasswordFile)
		}
	}
	return r, true
}
