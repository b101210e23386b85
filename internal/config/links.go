package config

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
)

// A Link is a network interface of this host, as Resolve needs to know it.
type Link struct {
	Name  string
	Addrs []netip.Prefix // with the prefix length of the subnet
	Up    bool
}

// Resolve finds the links of every address that is announced by ARP among those of this host, and sets Address.Links, and
// the links of BGP's unnumbered peers that this node may have, and sets their Link. It refuses an address that a link has
// already, lo apart: there Pintle itself puts it. A witness, or another node that is no candidate, needs no link, so it has
// no problems here.
// When one of the problems is more than a warning, Links is not complete.
func (c *Config) Resolve(links []Link) []Problem {
	if !c.Self().Candidate {
		return nil
	}
	r := &reader{file: c.File, at: c.at}
	links = slices.DeleteFunc(slices.Clone(links), func(l Link) bool { return l.Name == "lo" })
	for i := range c.Addresses {
		c.Addresses[i].Links = r.resolve(c.Addresses[i], fmt.Sprintf("addresses[%d]", i), links)
	}
	c.resolvePeers(r, links)
	c.checkOwn(r, links)
	sortProblems(r.problems)
	return r.problems
}

func (r *reader) resolve(a Address, path string, links []Link) []string {
	for _, l := range links {
		if slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Addr() == a.Address }) {
			r.add(path+".address", a.Address.String(), "is "+l.Name+"'s own address",
				"remove it there: Pintle brings it up; or choose another")
		}
	}
	var found []string
	if len(a.Link) == 0 {
		return nil // it is announced on none
	}
	if slices.Equal(a.Link, []string{Auto}) {
		found = r.auto(a.Address, path, links)
	} else {
		found = r.match(a.Link, path, links)
	}
	slices.Sort(found)
	found = slices.Compact(found)
	for _, l := range links {
		if slices.Contains(found, l.Name) && !l.Up {
			r.warn(path+".link", l.Name, "is down", "ip link set "+l.Name+" up")
		}
	}
	return found
}

// resolvePeers finds the one link of each unnumbered peer of this node. Labels are not known here, so a peer that depends on
// them may go without.
func (c *Config) resolvePeers(r *reader, links []Link) {
	for i := range c.BGP.Peers {
		p := &c.BGP.Peers[i]
		if p.Interface == "" || !p.named(c.Node) {
			continue
		}
		path := fmt.Sprintf("bgp.peers[%d].interface", i)
		p.Link = ""
		names := matching(p.Interface, links)
		switch {
		case len(names) == 1:
			p.Link = names[0]
		case len(names) > 1:
			r.add(path, p.Interface, "several links match", "a peer has one: name it, of "+strings.Join(names, ", "))
		case p.needsNode():
			r.warn(path, p.Interface, "no such link", "this host has "+describe(links))
		default:
			r.add(path, p.Interface, "no such link", "this host has "+describe(links))
		}
		for _, l := range links {
			if l.Name == p.Link && !l.Up {
				r.warn(path, l.Name, "is down", "ip link set "+l.Name+" up")
			}
		}
	}
}

// match finds the links that the patterns name. Each pattern must match.
func (r *reader) match(patterns []string, path string, links []Link) (found []string) {
	for i, pattern := range patterns {
		at := path + ".link"
		if r.given(fmt.Sprintf("%s[%d]", at, i)) {
			at = fmt.Sprintf("%s[%d]", at, i)
		}
		names := matching(pattern, links)
		if len(names) == 0 {
			r.add(at, pattern, "no such link", "this host has "+describe(links))
		}
		found = append(found, names...)
	}
	return found
}

func matching(pattern string, links []Link) (names []string) {
	for _, l := range links {
		if ok, err := path.Match(pattern, l.Name); ok && err == nil || pattern == l.Name {
			names = append(names, l.Name)
		}
	}
	return names
}

// auto finds the link with the smallest subnet that has the address, as a route would.
func (r *reader) auto(a netip.Addr, path string, links []Link) []string {
	longest := 0
	var found []string
	for _, l := range links {
		for _, p := range l.Addrs {
			if !p.Contains(a) || p.IsSingleIP() || p.Bits() < longest {
				continue
			}
			if p.Bits() > longest {
				longest, found = p.Bits(), nil
			}
			if !slices.Contains(found, l.Name) {
				found = append(found, l.Name)
			}
		}
	}
	switch {
	case len(found) == 0:
		r.add(path+".link", Auto, "no link has the subnet of "+a.String(), "name the link; this host has "+describe(links))
	case len(found) > 1:
		r.add(path+".link", Auto, "several links have the subnet of "+a.String(), "name one, or a list, of "+strings.Join(found, ", "))
		return nil
	}
	return found
}

// checkOwn warns if this host does not look like the node that it is to be.
func (c *Config) checkOwn(r *reader, links []Link) {
	self := c.Self().Address.Addr()
	if !self.IsValid() || self.IsLoopback() {
		return // there is nothing to compare
	}
	for _, l := range links {
		if slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Addr() == self }) {
			return
		}
	}
	i := slices.Index(c.Raft.Peers, c.Self())
	r.warn(fmt.Sprintf("raft.peers[%d].address", i), self.String(), "no link of this host has it",
		"is this host "+c.Node+"? it has "+describe(links))
}

// describe lists links with their addresses.
func describe(links []Link) string {
	if len(links) == 0 {
		return "none but lo"
	}
	var all []string
	for _, l := range links {
		s := l.Name
		for _, p := range l.Addrs {
			if !p.Addr().IsLinkLocalUnicast() {
				s += " " + p.String()
			}
		}
		all = append(all, s)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
