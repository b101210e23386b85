package metallb

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/pintle-lb/pintle/internal/poolfile"
)

// A peer is a BGPPeer, and what becomes of it: one router of the configuration for each set of labels.
type peer struct {
	name         string
	myAS         uint32
	as           string // a number or external
	address      netip.Addr
	link         string
	port         int64
	local        netip.Addr
	passwordFile string
	multihop     bool
	hold         time.Duration
	keepalive    time.Duration
	retry        time.Duration
	oneFamily    bool
	bfd          *profile
	labels       []map[string]string // none: every node
}

// A profile is a BFDProfile.
type profile struct {
	interval   time.Duration
	multiplier int64
}

// defaultProfile is what both have if nothing is said.
var defaultProfile = profile{interval: 300 * time.Millisecond, multiplier: 3}

const (
	usualPort = 179
	// passwords is where the files with passwords are.
	passwords = "/etc/pintle/bgp"
	// mostHops is how far FRR lets a session go with ebgp-multihop.
	mostHops = 255
)

func (d *draft) readProfile(o object) { d.takeProfile(d.spec(o), o.name) }

func (d *draft) takeProfile(f *fields, name string) {
	p := defaultProfile
	ms := func(key string) time.Duration {
		n, ok := f.number(key)
		if !ok {
			return defaultProfile.interval
		}
		return time.Duration(min(max(n, 0), 100_000)) * time.Millisecond
	}
	receive, transmit := ms("receiveInterval"), ms("transmitInterval")
	p.interval = min(max(receive, transmit, 50*time.Millisecond), 10*time.Second)
	if receive != transmit || p.interval != receive {
		f.note("receiveInterval", fmt.Sprintf("%d, and to send %d", receive.Milliseconds(), transmit.Milliseconds()),
			"bfd.interval is %s: one for both ways, 50ms to 10s", showTime(p.interval))
	}
	if n, ok := f.number("detectMultiplier"); ok {
		if p.multiplier = min(max(n, 2), 50); p.multiplier != n {
			f.note("detectMultiplier", fmt.Sprint(n), "bfd.multiplier is %d: it can be 2 to 50", p.multiplier)
		}
	}
	if f.on("echoMode") {
		f.note("echoMode", "true", "Pintle sends no echoes: it and the router send packets to each other all the time, and that finds the same")
	}
	f.get("echoInterval") // means something with echoMode only
	f.told("passiveMode", "Pintle begins by itself, whoever else does")
	f.told("minimumTtl", "Pintle takes BFD with multihop whatever the TTL, and without only from the link (255)")
	f.done()
	if _, twice := d.profiles[name]; !twice {
		d.profiles[name] = &p
	}
}

func (d *draft) readPeer(o object) { d.takePeer(d.spec(o), o.name) }

// takePeer reads the settings of a router, of today and of former releases.
func (d *draft) takePeer(f *fields, name string) {
	p := peer{name: nameOf(name)}
	good := p.takeAS(f)
	good = p.takePlace(f) && good
	p.takeTimers(f)
	p.takePassword(f)
	p.takeReach(f)
	p.takeNodes(f)
	p.takeSource(f)
	p.bfd = d.profileOf(f)
	f.told("routerID", "bgp.routerID is for a file of one node: Pintle takes the node's first IPv4 address")
	if f.on("enableGracefulRestart") {
		f.note("enableGracefulRestart", "true", "Pintle never offers it: routers would keep a dead node's routes for minutes. "+
			"A Pintle that restarts withdraws its routes first, and the other nodes have them")
	}
	f.done()
	if !good {
		f.note("peerAddress", "", "nothing is made of this router: name it in bgp.peers")
		return
	}
	d.peers = append(d.peers, p)
}

// nameOf is a name as the configuration has them, also for a file.
func nameOf(s string) string {
	s = strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' {
			return c
		}
		return '-'
	}, s)
	if s = strings.TrimLeft(s, "-."); s == "" {
		return "peer"
	}
	return s[:min(len(s), 56)]
}

func (p *peer) takeAS(f *fields) bool {
	mine, ok := takeAS(f, "myASN")
	p.myAS = mine
	dynamic := f.text("dynamicASN")
	if dynamic == "" {
		as, known := takeAS(f, "peerASN")
		p.as = fmt.Sprint(as)
		return ok && known
	}
	f.told("peerASN", "has no effect: dynamicASN is there too")
	switch dynamic {
	case "external":
		p.as = dynamic
	case "internal":
		p.as = fmt.Sprint(mine)
	default:
		f.note("dynamicASN", dynamic, "is neither internal nor external")
		return false
	}
	return ok
}

// takeAS reads the number of an AS that a network may have (RFC 7607, RFC 6793, RFC 7300).
func takeAS(f *fields, key string) (uint32, bool) {
	n, ok := f.number(key)
	switch {
	case !ok:
		f.note(key, "", "is not there: MetalLB makes no session without it")
		return 0, false
	case n < 1 || n > 4294967294 || n == 23456 || n == 65535:
		f.note(key, fmt.Sprint(n), "is nobody's AS")
		return 0, false
	}
	return uint32(n), true
}

// takePlace reads where the router is.
func (p *peer) takePlace(f *fields) bool {
	p.port, _ = f.number("peerPort")
	if p.port < 0 || p.port > 65535 {
		f.note("peerPort", fmt.Sprint(p.port), "is no port: %d is taken", usualPort)
		p.port = 0
	}
	address := f.text("peerAddress")
	p.link = f.text("interface")
	f.told("vrf", "Pintle connects in the host's own table: it reaches no router of a VRF, and announces nothing there")
	switch {
	case address != "" && p.link != "":
		f.note("interface", p.link, "has no effect: peerAddress is there too")
		p.link = ""
	case address == "" && p.link == "":
		f.note("peerAddress", "", "is not there, and no interface either")
		return false
	case p.link != "":
		if !poolfile.IsLink(p.link) {
			f.note("interface", p.link, "is no interface with a neighbour")
			return false
		}
		return true
	}
	a, err := netip.ParseAddr(address)
	a = a.Unmap()
	switch {
	case err != nil, a.IsUnspecified(), a.IsMulticast():
		f.note("peerAddress", address, "is no address of a router")
		return false
	case a.Zone() != "" || a.Is6() && a.IsLinkLocalUnicast():
		f.note("peerAddress", address, "is good on one link only: name the link with interface in the place of the address")
		return false
	}
	p.address = a
	return true
}

// takeTimers reads the times, in whole seconds, as routers count them (RFC 4271 4.2).
func (p *peer) takeTimers(f *fields) {
	hold, held := f.duration("holdTime")
	alive, kept := f.duration("keepaliveTime")
	switch {
	case held && hold < 3*time.Second: // 0 switches it off (RFC 4271 4.2)
		f.note("holdTime", showTime(hold), "hold is 9s, Pintle's own: without it nobody notices that a node is frozen, and it cannot be shorter than 3s")
		return
	case !held && kept && alive >= time.Second:
		hold = 3 * alive // as with MetalLB
	case !held:
		return
	}
	if p.hold = min(hold.Truncate(time.Second), 65535*time.Second); p.hold != hold {
		f.note("holdTime", showTime(hold), "hold is %s: routers count whole seconds, up to 65535", showTime(p.hold))
	}
	alive = alive.Truncate(time.Second)
	switch {
	case alive < time.Second: // not there, or as good as: a third of the hold time
	case alive > p.hold/3:
		f.note("keepaliveTime", showTime(alive), "is more than a third of the hold time: one lost packet could end the session. keepalive is a third of it")
	default:
		p.keepalive = alive
	}
}

func (p *peer) takePassword(f *fields) {
	told := func(key, value, more string) {
		p.passwordFile = passwords + "/" + p.name
		f.note(key, value, "write the password into %s on every node, for only root to read, or into the Secret that "+
			"`pintle manifest services` tells of: it is not copied%s", p.passwordFile, more)
	}
	if f.text("password") != "" {
		told("password", hidden, "")
	}
	if s := f.sub("passwordSecret"); s != nil {
		name := s.text("name")
		namespace := cmp.Or(s.text("namespace"), f.namespace, "metallb-system")
		if s.done(); name != "" {
			told("passwordSecret", "Secret "+name+", key password",
				fmt.Sprintf(": kubectl -n %s get secret %s -o jsonpath='{.data.password}' | base64 -d shows it", namespace, name))
		}
	}
}

// takeReach reads how far the router is, and what goes over the session.
func (p *peer) takeReach(f *fields) {
	if retry, ok := f.duration("connectTime"); ok {
		if p.retry = min(max(retry, time.Second), time.Hour); p.retry != retry {
			f.note("connectTime", showTime(retry), "connectRetry is %s: it can be 1s to 1h", showTime(p.retry))
		}
	}
	if p.multihop = f.on("ebgpMultiHop") && p.link == ""; p.multihop {
		f.note("ebgpMultiHop", "true", "multihop is %d, which is what MetalLB has: make it how many hops away the router is", mostHops)
	}
	f.get("dualStackAddressFamily") // both families is what Pintle does anyway
	p.oneFamily = f.on("disableMP")
	if p.oneFamily && p.link != "" {
		f.note("disableMP", "true", "which family is meant the interface does not say: both are advertised. families limits them")
		p.oneFamily = false
	}
}

// hostname is the label that tells nodes apart.
const hostname = "kubernetes.io/hostname"

// takeNodes reads which nodes have a session.
func (p *peer) takeNodes(f *fields) {
	selectors := f.selectors("nodeSelectors")
	sets, ok := labelSets(selectors)
	if p.labels = sets; ok {
		return
	}
	label, commands := mark("peer", p.name, "nodes", selectors)
	p.labels = []map[string]string{{label: "true"}}
	f.note("nodeSelectors", show(f.get("nodeSelectors")), "nodeLabels are labels and their values, all of which a node must have: put the "+
		"label %s on all nodes that these select, and on those to come: %s", label, commands)
}

// takeSource reads our side of the session, which is one node's.
func (p *peer) takeSource(f *fields) {
	text := f.text("sourceAddress")
	if text == "" {
		return
	}
	a, err := netip.ParseAddr(text)
	a = a.Unmap()
	one := len(p.labels) == 1 && p.labels[0][hostname] != ""
	switch {
	case err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast():
		f.note("sourceAddress", text, "is no address of a node")
	case !p.address.IsValid() || a.Is4() != p.address.Is4():
		f.note("sourceAddress", text, "is not of the family of the session")
	case !one:
		f.note("sourceAddress", text, "would be the same on every node, and those that do not have it would have no session: "+
			"each takes the address that it has towards the router. "+
			"Set localAddress of a peer for one node (nodes) for another")
	default:
		p.local = a
	}
}

// profileOf is the BFD of a router.
func (d *draft) profileOf(f *fields) *profile {
	name := f.text("bfdProfile")
	if name == "" {
		return nil
	}
	if p, ok := d.profiles[name]; ok {
		return p
	}
	f.note("bfdProfile", name, "is no BFDProfile of the input: bfd is each %s, times %d. Import it too, or correct that",
		showTime(defaultProfile.interval), defaultProfile.multiplier)
	return &defaultProfile
}

// showTime writes a time as people do: 90s, not 1m30s.
func showTime(d time.Duration) string {
	switch {
	case d%time.Second == 0:
		return fmt.Sprintf("%ds", d/time.Second)
	case d%time.Millisecond == 0:
		return fmt.Sprintf("%dms", d/time.Millisecond)
	}
	return d.String()
}
