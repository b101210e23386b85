package bfd

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// What a Peer may ask for.
const (
	minInterval   = 50 * time.Millisecond
	maxInterval   = 10 * time.Second
	minMultiplier = 2
	maxMultiplier = 50
	maxKey        = 20
	singleHopTTL  = 255 // RFC 5881 5
)

// A path is where a session's packets go and come from. It belongs to one session.
type path struct {
	local, remote netip.Addr
	link          string
	multihop      bool
}

// port is where packets arrive, on both sides.
func (p path) port() uint16 {
	if p.multihop {
		return MultihopPort
	}
	return SingleHopPort
}

func (p path) String() string {
	s := fmt.Sprintf("%v with %v", p.local, p.remote)
	if p.multihop {
		return s + " over several hops"
	}
	return s + " on " + p.link
}

func (p Peer) path() path {
	return path{local: p.Local, remote: p.Remote, link: p.Link, multihop: p.MultihopTTL != 0}
}

func (p Peer) settings() settings {
	return settings{interval: p.Interval, mult: p.Multiplier, auth: p.Auth}
}

// minTTL is what is left of 255 after the allowed hops: none is lost over one hop, the first.
func (p Peer) minTTL() uint8 {
	if p.MultihopTTL == 0 {
		return singleHopTTL
	}
	return singleHopTTL - p.MultihopTTL + 1
}

// same says whether both are the same session.
func (p Peer) same(o Peer) bool {
	return p.Name == o.Name && p.path() == o.path() && p.MultihopTTL == o.MultihopTTL
}

// normal returns the peer in the form that is compared: addresses without zone, a key that nobody else changes.
func (p Peer) normal() Peer {
	p.Local, p.Remote = p.Local.WithZone("").Unmap(), p.Remote.WithZone("").Unmap()
	if p.Auth != nil {
		auth := *p.Auth
		p.Auth = &auth
	}
	return p
}

// check says all that is wrong with a peer.
func (p Peer) check() error {
	errs := []error{p.checkPath(), p.checkZones(), p.checkTimers(), p.checkAuth()}
	if p.Name == "" {
		errs = append(errs, errors.New("it needs a name"))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("BFD peer %q: %w", p.Name, err)
	}
	return nil
}

func (p Peer) checkPath() error {
	switch {
	case !usable(p.Local):
		return fmt.Errorf("local address %v: an address of this node is needed", p.Local)
	case !usable(p.Remote):
		return fmt.Errorf("remote address %v: the address of the neighbour is needed", p.Remote)
	case p.Local.Unmap().Is4() != p.Remote.Unmap().Is4():
		return fmt.Errorf("local address %v and remote address %v: both must be IPv4 or both IPv6", p.Local, p.Remote)
	case p.Local.WithZone("") == p.Remote.WithZone(""):
		return fmt.Errorf("remote address %v: it is the local one", p.Remote)
	case p.MultihopTTL == 0 && p.Link == "":
		return errors.New("a single-hop session needs a link")
	case p.MultihopTTL != 0 && p.Link != "":
		return fmt.Errorf("link %q: a multihop session has none", p.Link)
	case p.MultihopTTL != 0 && (p.Remote.IsLinkLocalUnicast() || p.Local.IsLinkLocalUnicast()) && p.Remote.Is6():
		return fmt.Errorf("remote address %v: link-local addresses reach one hop only", p.Remote)
	case len(p.Link) > 15:
		return fmt.Errorf("link %q: a name has at most 15 bytes", p.Link)
	}
	return nil
}

func usable(a netip.Addr) bool { return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() }

func (p Peer) checkZones() error {
	for _, a := range []netip.Addr{p.Local, p.Remote} {
		if a.Zone() != "" && a.Zone() != p.Link {
			return fmt.Errorf("address %v: its zone must be the link %q, or left out", a, p.Link)
		}
	}
	return nil
}

func (p Peer) checkTimers() error {
	var errs []error
	if p.Interval < minInterval || p.Interval > maxInterval || p.Interval%time.Microsecond != 0 {
		errs = append(errs, fmt.Errorf("interval %v: it must be from %v to %v, in whole microseconds", p.Interval, minInterval, maxInterval))
	}
	if p.Multiplier < minMultiplier || p.Multiplier > maxMultiplier {
		errs = append(errs, fmt.Errorf("multiplier %d: it must be from %d to %d", p.Multiplier, minMultiplier, maxMultiplier))
	}
	return errors.Join(errs...)
}

func (p Peer) checkAuth() error {
	if p.Auth != nil && (p.Auth.Key == "" || len(p.Auth.Key) > maxKey) {
		return fmt.Errorf("key of %d bytes: it must have 1 to %d", len(p.Auth.Key), maxKey)
	}
	return nil
}

// sift splits what is wanted into what can be had, without a name or a path twice, and an error for the rest.
func sift(peers []Peer) (good []Peer, bad map[string]bool, err error) {
	names, paths := map[string]bool{}, map[path]string{}
	bad = map[string]bool{}
	var errs []error
	for _, p := range peers {
		cause := p.check()
		p = p.normal()
		if other, has := paths[p.path()]; cause == nil && names[p.Name] {
			cause = fmt.Errorf("BFD peer %q: the name is given twice, it must be unique", p.Name)
		} else if cause == nil && has {
			cause = taken(p, other)
		}
		if cause != nil {
			errs = append(errs, cause)
			bad[p.Name] = true
			continue
		}
		names[p.Name], paths[p.path()] = true, p.Name
		good = append(good, p)
	}
	return good, bad, errors.Join(errs...)
}

func taken(p Peer, other string) error {
	return fmt.Errorf("BFD peer %q: %v is peer %q already, one session is enough for both", p.Name, p.path(), other)
}
