package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

func defaultBGP() BGP {
	return BGP{Unhealthy: UnhealthyWithdraw, Drain: Drain{Wait: 2 * time.Second}}
}

// fillAnnounce clears what does not apply and sets what has no fixed default.
func (c *Config) fillAnnounce(r *reader) {
	if !r.sound("announce") {
		c.BGP, c.Table = BGP{}, Table{}
		return // which ones are meant cannot be said
	}
	if !c.Announces(AnnounceARP) {
		for i := range c.Addresses {
			if path := fmt.Sprintf("addresses[%d].link", i); r.given(path) {
				r.add(path, strings.Join(c.Addresses[i].Link, ", "), "has no effect: only ARP and neighbour discovery happen on a link",
					"leave it out, or add arp to announce")
			}
			c.Addresses[i].Link = nil
		}
	}
	if !c.Announces(AnnounceTable) {
		c.Table = Table{}
	}
	if !c.Announces(AnnounceBGP) {
		c.BGP = BGP{}
		return
	}
	c.fillBGP(r)
}

func (c *Config) fillBGP(r *reader) {
	c.BGP.ofNode(c.Node)
	for i := range c.BGP.Peers {
		c.fillPeer(r, i)
	}
}

func (c *Config) fillPeer(r *reader, i int) {
	p := &c.BGP.Peers[i]
	if p.Families == nil {
		p.Families = []Family{FamilyIPv4, FamilyIPv6}
	}
	if p.Keepalive == 0 {
		p.Keepalive = max(time.Second, (p.Hold / 3).Truncate(time.Second)) // RFC 4271 4.4
	}
	if r.given(fmt.Sprintf("bgp.peers[%d].name", i)) {
		return
	}
	router := nameOf(p.router())
	p.Name = router
	for n := 2; slices.ContainsFunc(slices.Delete(slices.Clone(c.BGP.Peers), i, i+1), func(o BGPPeer) bool { return o.Name == p.Name }); n++ {
		p.Name = fmt.Sprintf("%s-%d", router, n)
	}
}

// nameOf makes a name of what stands for a router: a glob has letters that no name has.
func nameOf(router string) string {
	name := strings.TrimLeft(strings.Map(func(c rune) rune {
		if checkName("x"+string(c)) != nil {
			return '-'
		}
		return c
	}, router), "-._:/@")
	return cmp.Or(name[:min(len(name), 48)], "peer")
}

// router is the router as the file has it.
func (p BGPPeer) router() string {
	if p.Address.IsValid() {
		return p.Address.String()
	}
	return p.Interface
}

// localAS is what the router hears from us.
func (p BGPPeer) localAS(b BGP) uint32 { return cmp.Or(p.LocalAS, b.AS) }

// internal reports whether the router is of our own AS.
func (p BGPPeer) internal(b BGP) bool { return p.AS != 0 && p.AS == p.localAS(b) }

// checkAnnounce looks at how the addresses are announced, as a whole.
func (c *Config) checkAnnounce(r *reader) {
	if !r.sound("announce") {
		return // which ones are meant cannot be said
	}
	for _, a := range []Announce{AnnounceBGP, AnnounceTable} {
		if r.given(string(a)) && !c.Announces(a) {
			r.add(string(a), "", fmt.Sprintf("has no effect: announce does not have %s", a), fmt.Sprintf("leave it out, or add %s to announce", a))
		}
	}
	if c.Election == ElectionNone {
		c.checkEverywhere(r)
	}
	if c.Announces(AnnounceBGP) && r.quiet("bgp") {
		c.checkBGP(r)
	}
	if c.Announces(AnnounceTable) && slices.Contains(daemons, c.Table.Protocol) {
		r.warn("table.protocol", fmt.Sprint(c.Table.Protocol), "is the number of a well-known routing daemon, and Pintle removes every route of its own that it does not want",
			"choose one that no daemon uses here, as 155")
	}
}

// daemons are protocol numbers that others have (rtnetlink.h, and Calico's BIRD).
var daemons = []uint8{4, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 42, 80, 84, 99, 186, 187, 188, 189, 192}

// checkEverywhere looks at what needs a holder although there is none.
func (c *Config) checkEverywhere(r *reader) {
	if c.Announces(AnnounceARP) {
		hint := "set announce: [bgp], or elect a holder: election: raft"
		if r.given("announce") {
			hint = "leave arp out of announce, or elect a holder: election: raft"
		}
		r.add("election", string(c.Election), "several nodes would answer for one address by ARP", hint)
	}
	if c.Bind == BindHolder && r.given("bind") {
		r.add("bind", string(c.Bind), "there is no holder: every healthy node has the addresses on lo", "leave it out")
	}
}

func (c *Config) checkBGP(r *reader) {
	b := c.BGP
	if b.AS == 0 {
		r.missing("bgp.as", "64512 to 65534 are free for private use; ask who runs the routers")
	}
	if b.RouterID.IsValid() && c.shared(b.RouterID) {
		r.add("bgp.routerID", b.RouterID.String(), "is a shared address: every node would have the same ID", "leave it out")
	}
	c.checkWho(r)
	if b.Drain.Wait == 0 && b.Drain.Prepend > 0 {
		r.warn("bgp.drain.prepend", fmt.Sprint(b.Drain.Prepend), "has no effect: drain.wait is 0s", "leave it out")
	}
	if len(b.Peers) == 0 {
		r.missing("bgp.peers", "name a router")
	}
	checkAttributes(r, "bgp", b.BGPAttributes)
	c.checkReach(r)
	for i := range b.Peers {
		if path := fmt.Sprintf("bgp.peers[%d]", i); r.quiet(path) {
			c.checkPeer(r, i, path)
		}
	}
}

// checkWho looks at what depends on how many nodes advertise.
func (c *Config) checkWho(r *reader) {
	b := c.BGP
	switch {
	case c.Services != nil:
		if b.Exclusive {
			r.add("bgp.exclusive", "true", "every suitable node advertises the addresses of Services", "leave it out")
		}
		if b.Unhealthy == UnhealthyLastResort {
			r.add("bgp.unhealthy", string(b.Unhealthy), "a node that is not well advertises no Service: others do", "leave it out")
		}
	case c.Election == ElectionNone:
		if b.Exclusive {
			r.add("bgp.exclusive", "true", "every healthy node advertises with election: none", "leave it out, or set election: raft")
		}
	case b.Unhealthy == UnhealthyLastResort:
		r.add("bgp.unhealthy", string(b.Unhealthy), fmt.Sprintf("only the holder advertises with election: %s, and the election cares for its health", c.Election),
			"leave it out, or set election: none")
	}
}

// checkReach looks at attributes that no peer hears.
func (c *Config) checkReach(r *reader) {
	b := c.BGP
	if len(b.Peers) == 0 {
		return
	}
	inside := func(p BGPPeer) bool { return p.internal(b) }
	outside := func(p BGPPeer) bool { return !p.internal(b) }
	if b.LocalPref != nil && !slices.ContainsFunc(b.Peers, inside) {
		r.warn("bgp.localPref", fmt.Sprint(*b.LocalPref), "has no effect: no peer is of our own AS", "use med, prepend or communities")
	}
	for path, n := range map[string]uint8{"bgp.prepend": b.Prepend, "bgp.drain.prepend": b.Drain.Prepend} {
		if n > 0 && !slices.ContainsFunc(b.Peers, outside) {
			r.warn(path, fmt.Sprint(n), "has no effect: all peers are of our own AS", "use localPref")
		}
	}
}

func checkAttributes(r *reader, path string, a BGPAttributes) {
	if slices.Contains(a.Communities, 0xffff029a) {
		r.warn(path+".communities", "blackhole", "routers that know it drop everything that comes to the address", "leave it out")
	}
}

func (c *Config) checkPeer(r *reader, i int, path string) {
	p := c.BGP.Peers[i]
	for j, o := range c.BGP.Peers[:i] {
		if p.Name != "" && o.Name == p.Name {
			r.add(path+".name", p.Name, fmt.Sprintf("the same as bgp.peers[%d].name", j), "give every peer a name of its own")
		}
		if p.sameRouter(o) && p.meets(o, c.Node) {
			r.add(path, p.router(), fmt.Sprintf("the same router as bgp.peers[%d], on the same nodes", j), "keep one, or tell them apart by nodes or nodeLabels")
		}
	}
	if !r.given(path + ".as") {
		r.missing(path+".as", "the router's AS, or external for any other than ours")
	}
	c.checkPlace(r, p, path)
	c.checkSession(r, p, path)
	c.checkPeerAttributes(r, p, path)
	checkBFD(r, p, path)
}

func (p BGPPeer) sameRouter(o BGPPeer) bool {
	return p.router() != "" && p.router() == o.router() && p.Port == o.Port && p.LocalAddress == o.LocalAddress
}

// meets reports whether a node may have both peers, as far as the file says so: of two globs only whether this node does.
func (p BGPPeer) meets(o BGPPeer, node string) bool {
	if apart(p.NodeLabels, o.NodeLabels) || apart(p.NodeAnnotations, o.NodeAnnotations) {
		return false
	}
	if len(p.Nodes) == 0 || len(o.Nodes) == 0 || p.named(node) && o.named(node) {
		return true
	}
	return slices.ContainsFunc(p.Nodes, func(a string) bool {
		return slices.ContainsFunc(o.Nodes, func(b string) bool { return matches(a, b) || matches(b, a) })
	})
}

// apart reports whether no node has both.
func apart(a, b map[string]string) bool {
	for k, v := range a {
		if other, ok := b[k]; ok && other != v {
			return true
		}
	}
	return false
}

// checkPlace looks at where the router is.
func (c *Config) checkPlace(r *reader, p BGPPeer, path string) {
	given := r.given(path + ".address")
	switch linked := r.given(path + ".interface"); {
	case given && linked:
		r.add(path, "", "has both address and interface", "keep one: interface is for a router whose address is not known")
	case !given && !linked:
		r.add(path, "", "has neither address nor interface", "name the router by its address")
	case linked:
		for _, k := range []string{"multihop", "localAddress"} {
			if r.given(path + "." + k) {
				r.add(path+"."+k, "", "has no effect with interface: the router is the neighbour on the link", "leave it out")
			}
		}
		if p.Passive {
			r.add(path+".passive", "true", "is for a router whose address is known: an unnumbered one is connected to", "leave it out, or give its address")
		}
	}
	for key, a := range map[string]netip.Addr{"address": p.Address, "localAddress": p.LocalAddress} {
		if a.IsValid() && c.shared(a) {
			r.add(path+"."+key, a.String(), "is a shared address", map[string]string{
				"address": "name the router's own address", "localAddress": "use this node's own address"}[key])
		}
	}
	for _, a := range []netip.Addr{p.NextHop4, p.NextHop6} {
		if a.IsValid() && c.shared(a) {
			r.add(path+".nextHop", a.String(), "is a shared address", "use this node's own address")
		}
	}
	if a, l := p.Address, p.LocalAddress; a.IsValid() && l.IsValid() && a.Is4() != l.Is4() {
		r.add(path+".localAddress", l.String(), "is not of the family of the router's address, "+a.String(), "use this node's address of that family")
	}
}

// checkSession looks at how the session is made and kept.
func (c *Config) checkSession(r *reader, p BGPPeer, path string) {
	if p.GTSM && p.Multihop > 0 {
		r.add(path+".gtsm", "true", "takes packets of a neighbour on the link only, and multihop is for one that is farther away", "keep one of them")
	}
	if p.Passive && !c.BGP.Listen.IsValid() && r.quiet("bgp.listen") {
		r.add(path+".passive", "true", "waits for the router to connect, and bgp.listen is off", fmt.Sprintf("set bgp.listen, as \"0.0.0.0:%d\"", bgpPort))
	}
	if p.PasswordFile != "" && p.Address.IsLoopback() {
		r.warn(path+".passwordFile", p.PasswordFile, "protects nothing: the session stays on this host", "leave it out")
	}
	at := path + ".keepalive"
	switch third := p.Hold / 3; {
	case !r.quiet(at) || !r.quiet(path+".hold"):
	case p.Keepalive >= p.Hold:
		r.add(at, showDuration(p.Keepalive), "not shorter than the hold time, "+showDuration(p.Hold), "a third of it is usual: leave it out")
	case p.Keepalive > third:
		r.add(at, showDuration(p.Keepalive), "more than a third of the hold time, "+showDuration(p.Hold)+": one lost packet could end the session", "leave it out")
	}
	for _, f := range []struct {
		hop netip.Addr
		of  Family
	}{{p.NextHop4, FamilyIPv4}, {p.NextHop6, FamilyIPv6}} {
		if f.hop.IsValid() && !slices.Contains(p.Families, f.of) && r.quiet(path+".families") {
			r.warn(path+".nextHop", f.hop.String(), fmt.Sprintf("has no effect: families does not have %s", f.of), "leave it out")
		}
	}
}

// maxCommunities of all kinds fit into one message, with what else a route has.
const maxCommunities = 90

// checkPeerAttributes looks at what the router does not hear.
func (c *Config) checkPeerAttributes(r *reader, p BGPPeer, path string) {
	checkAttributes(r, path, p.BGPAttributes)
	if all := c.BGP.Attributes(p); len(all.Communities)+len(all.Large) > maxCommunities {
		r.add(path+".communities", "", fmt.Sprintf("makes %d, with those of bgp and the large ones", len(all.Communities)+len(all.Large)),
			fmt.Sprintf("at most %d fit into a message", maxCommunities))
	}
	internal := p.internal(c.BGP)
	if p.Prepend > 0 && internal {
		r.warn(path+".prepend", fmt.Sprint(p.Prepend), "has no effect: the router is of our own AS", "use localPref")
	}
	if p.LocalPref != nil && !internal && p.AS != 0 {
		r.warn(path+".localPref", fmt.Sprint(*p.LocalPref), "has no effect: the router is of another AS", "use med, prepend or communities")
	}
	if p.LocalAS != 0 && p.LocalAS == c.BGP.AS {
		r.warn(path+".localAS", fmt.Sprint(p.LocalAS), "is bgp.as anyway", "leave it out")
	}
}

func checkBFD(r *reader, p BGPPeer, path string) {
	b := p.BFD
	path += ".bfd"
	if b == nil || !r.quiet(path) {
		return
	}
	d := b.Detection()
	switch {
	case d < 300*time.Millisecond && r.quiet(path+".interval"):
		r.warn(path+".interval", showDuration(b.Interval), fmt.Sprintf("times %d is %s: a busy machine may flap", b.Multiplier, showDuration(d)),
			"at least 300ms in all is usual")
	case d >= p.Hold && r.quiet(path[:len(path)-4]+".hold"):
		r.warn(path, "", fmt.Sprintf("finds out in %s, and the hold time in %s", showDuration(d), showDuration(p.Hold)), "make the interval shorter, or leave it out")
	}
	if a := b.Auth; a != nil && a.KeyFile == "" {
		r.missing(path+".auth.keyFile", "as /etc/pintle/bgp/bfd.key")
	}
}
