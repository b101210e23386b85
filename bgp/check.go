package bgp

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/pintle-lb/pintle/bgp/bfd"
)

// What a Peer's zero values mean.
const (
	defaultHold  = 9 * time.Second
	defaultRetry = 5 * time.Second
	leastHold    = 3 * time.Second // RFC 4271 4.2
	longestHold  = 65535 * time.Second

	defaultBFDInterval   = 300 * time.Millisecond
	defaultBFDMultiplier = 3
	minBFDInterval       = 50 * time.Millisecond
	maxBFDInterval       = 10 * time.Second
)

func (p Peer) families() []Family {
	if p.Families == nil {
		return []Family{IPv4, IPv6}
	}
	return p.Families
}

func (p Peer) hold() time.Duration {
	if p.Hold == 0 {
		return defaultHold
	}
	return p.Hold
}

func (p Peer) retry() time.Duration {
	if p.ConnectRetry == 0 {
		return defaultRetry
	}
	return p.ConnectRetry
}

func (p Peer) port() uint16 {
	if p.Port == 0 {
		return Port
	}
	return p.Port
}

func (b BFD) interval() time.Duration {
	if b.Interval == 0 {
		return defaultBFDInterval
	}
	return b.Interval
}

func (b BFD) multiplier() uint8 {
	if b.Multiplier == 0 {
		return defaultBFDMultiplier
	}
	return b.Multiplier
}

func checkConfig(c Config) error {
	var errs []error
	if err := checkAS(c.AS); err != nil {
		errs = append(errs, fmt.Errorf("AS of this node: %w", err))
	}
	if !c.RouterID.Is4() || c.RouterID.IsUnspecified() {
		errs = append(errs, fmt.Errorf("router ID %s: has the form of an IPv4 address other than 0.0.0.0 (RFC 6286)", c.RouterID))
	}
	if c.Listen.Addr().IsValid() && c.Listen.Port() == 0 {
		errs = append(errs, fmt.Errorf("listen at %s: needs a port, usually %d", c.Listen, Port))
	}
	return errors.Join(errs...)
}

func checkAS(as uint32) error {
	switch as {
	case 0:
		return errors.New("0: 1 to 4294967294 (RFC 7607)")
	case 23456:
		return errors.New("23456: stands for numbers over 65535 (RFC 6793)")
	case 65535, 4294967295:
		return fmt.Errorf("%d: nobody's (RFC 7300)", as)
	}
	return nil
}

// checkPeers says all that is wrong.
func checkPeers(c Config, peers []Peer) error {
	var errs []error
	names, places := make(map[string]bool), make(map[string]string)
	for i, p := range peers {
		name := p.Name
		if name == "" {
			name = fmt.Sprintf("number %d", i+1)
			errs = append(errs, fmt.Errorf("peer %s: has no name", name))
		} else if names[name] {
			errs = append(errs, fmt.Errorf("peer %s: there are two with this name", name))
		}
		names[name] = true
		for _, err := range p.check(c) {
			errs = append(errs, fmt.Errorf("peer %s: %w", name, err))
		}
		place := fmt.Sprintf("%s %s %d %s", p.Address, p.Interface, p.port(), p.LocalAddress)
		if other, taken := places[place]; taken {
			errs = append(errs, fmt.Errorf("peer %s: the same router as %s: one of them is enough", name, other))
		}
		places[place] = name
	}
	return errors.Join(errs...)
}

func (p Peer) check(c Config) (errs []error) {
	add := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	a, l := p.Address, p.LocalAddress
	add(a.IsValid() == (p.Interface != ""), "address %q, interface %q: give one of them", text(a), p.Interface)
	add(a.IsValid() && (a.IsUnspecified() || a.IsMulticast() || a.Is4In6()), "address %s: not of a router", a)
	add(a.IsLinkLocalUnicast() && a.Is6() && a.Zone() == "", "address %s: needs the link, %s%%eth0", a, a)
	add(l.IsValid() && a.IsValid() && l.Is4() != a.Is4(), "local address %s: not of the same family as the router's, %s", l, a)
	add(l.IsValid() && (l.IsUnspecified() || l.IsMulticast()), "local address %s: not an address of this node", l)
	add(l.IsValid() && p.Interface != "", "local address %s: an unnumbered peer uses the link-local one", l)
	add(p.LocalAS != 0 && checkAS(p.LocalAS) != nil, "local AS %d: 1 to 4294967294, but not 23456 or 65535", p.LocalAS)
	add(p.AS != 0 && checkAS(p.AS) != nil, "AS %d: 1 to 4294967294, but not 23456 or 65535; 0 for any other than ours", p.AS)
	add(p.GTSM && p.Multihop > 1, "gtsm with multihop %d: gtsm is for routers on a link of this node", p.Multihop)
	add(p.Interface != "" && p.Multihop > 1, "multihop %d: an unnumbered peer is on its link", p.Multihop)
	add(p.Passive && !c.Listen.IsValid(), "passive: this node listens nowhere; set where")
	add(p.Passive && p.Interface != "", "passive: an unnumbered peer connects by itself")
	errs = append(errs, p.checkTimes()...)
	errs = append(errs, p.checkRoutes()...)
	if p.BFD != nil {
		errs = append(errs, p.BFD.check()...)
	}
	return errs
}

func (p Peer) checkTimes() (errs []error) {
	if h := p.hold(); h < leastHold || h > longestHold {
		errs = append(errs, fmt.Errorf("hold time %s: %s to %s", h, leastHold, longestHold))
	}
	if k := p.Keepalive; k != 0 && (k < time.Second || k > p.hold()/3) {
		errs = append(errs, fmt.Errorf("keepalive %s: 1s to a third of the hold time, %s", k, p.hold()/3))
	}
	if r := p.retry(); r < time.Second || r > time.Hour {
		errs = append(errs, fmt.Errorf("connect retry %s: 1s to 1h", r))
	}
	return errs
}

func (p Peer) checkRoutes() (errs []error) {
	seen := make(map[Family]bool)
	for _, f := range p.families() {
		if f != IPv4 && f != IPv6 || seen[f] {
			errs = append(errs, fmt.Errorf("families %v: IPv4, IPv6 or both", p.Families))
			break
		}
		seen[f] = true
	}
	if len(p.families()) == 0 {
		errs = append(errs, errors.New("families: none; leave it out for both"))
	}
	if h := p.NextHop4; h.IsValid() && (!h.Is4() || h.IsUnspecified()) {
		errs = append(errs, fmt.Errorf("IPv4 next hop %s: an IPv4 address", h))
	}
	if h := p.NextHop6; h.IsValid() && (!h.Is6() || h.Is4In6() || h.IsUnspecified()) {
		errs = append(errs, fmt.Errorf("IPv6 next hop %s: an IPv6 address", h))
	}
	if err := checkAttributes("attributes", p.Attributes); err != nil {
		errs = append(errs, err)
	}
	return errs
}

func (b BFD) check() (errs []error) {
	if i := b.interval(); i < minBFDInterval || i > maxBFDInterval {
		errs = append(errs, fmt.Errorf("bfd interval %s: %s to %s", i, minBFDInterval, maxBFDInterval))
	}
	if m := b.multiplier(); m < 2 || m > 50 {
		errs = append(errs, fmt.Errorf("bfd multiplier %d: 2 to 50", m))
	}
	if b.Auth != nil && (b.Auth.Key == "" || len(b.Auth.Key) > 20) {
		errs = append(errs, errors.New("bfd key: 1 to 20 bytes"))
	}
	return errs
}

// peer is what the bfd package is to be told.
func (b BFD) peer(name string, p Peer, e endpoint) bfd.Peer {
	out := bfd.Peer{
		Name: name, Local: e.local.WithZone(""), Remote: e.remote.Addr().WithZone(""),
		Interval: b.interval(), Multiplier: b.multiplier(), Auth: b.Auth,
	}
	if p.Multihop > 1 {
		out.MultihopTTL = 255 // RFC 5883 asks for no check, and BIRD sends with TTL 64
	}
	return out
}

// text is "" for no address.
func text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
