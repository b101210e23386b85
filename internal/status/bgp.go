package status

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/pintle-lb/pintle/bgp"
	"github.com/pintle-lb/pintle/bgp/bfd"
	"github.com/pintle-lb/pintle/internal/agent"
)

// The states of a node without an election.
const (
	Advertising State = "advertising" // routers, or the table, have its addresses
	Starting    State = "starting"    // it has no addresses yet
	LastResort  State = "last resort" // unhealthy, and advertised so that others are preferred
)

// sharedState is state where there is no election.
func (r *Report) sharedState() (State, string) {
	routed := slices.ContainsFunc(r.Seats, func(s agent.SeatStatus) bool { return s.Holding })
	switch {
	case !r.Healthy && !routed:
		return Unhealthy, r.Unhealthy + "; its addresses are not advertised"
	case !r.Healthy:
		return LastResort, r.Unhealthy + "; routers are asked to prefer any other node"
	case !routed:
		return Starting, "its addresses are not on this host yet"
	}
	return Advertising, r.heardWords()
}

// heardWords says who has the routes.
func (r *Report) heardWords() string {
	words := "the table has its addresses"
	if r.BGP != nil {
		words = fmt.Sprintf("%d of %d routers have its routes", r.hearing(), len(r.BGP.Peers))
	}
	return words
}

// hearing is how many routers have all that they can have of this node.
func (r *Report) hearing() (n int) {
	for _, p := range r.BGP.Peers {
		if p.State == bgp.Established && len(p.Advertised) > 0 {
			n++
		}
	}
	return n
}

// unheard says why a node that is to advertise has no full part: no router has its
// routes. It is "" when one has.
func (r *Report) unheard() string {
	wants := slices.ContainsFunc(r.Seats, func(s agent.SeatStatus) bool {
		return slices.ContainsFunc(s.Addresses, func(a agent.AddressStatus) bool { return a.Routed })
	})
	if r.BGP == nil || !wants || r.hearing() > 0 {
		return ""
	}
	words := []string{"no router has its routes"}
	for _, p := range r.BGP.Peers {
		words = append(words, p.Name+": "+cmp.Or(p.Why, string(p.State)))
	}
	if len(r.BGP.Peers) == 0 {
		words = append(words, "this node has no BGP peer")
	}
	return strings.Join(words, "; ")
}

// routers describes the BGP peers.
func (p *printer) routers(b *bgp.Status) {
	p.line("bgp        AS %d, router ID %s", b.AS, b.RouterID)
	for _, s := range b.Peers {
		p.line("router     %s, %s", s.Name, p.routerWords(s))
		for _, w := range s.Withheld {
			p.line("withheld   %s from %s: %s", w.Prefix, s.Name, w.Why)
		}
		if s.BFD != nil {
			p.line("bfd        %s: %s", s.Name, p.bfdWords(s.BFD))
		}
	}
}

func (p *printer) routerWords(s bgp.PeerStatus) string {
	words := []string{where(s)}
	if s.AS != 0 {
		words = append(words, fmt.Sprintf("AS %d", s.AS))
	}
	words = append(words, fmt.Sprintf("%s for %s", s.State, p.ago(s.Since)))
	if s.State == bgp.Established {
		words = append(words, fmt.Sprintf("%s advertised, dropped %v after this node freezes", routes(len(s.Advertised)), s.Detection))
	}
	if s.Flaps > 0 {
		words = append(words, "lost "+times(s.Flaps))
	}
	if s.Dropped > 0 {
		words = append(words, routes(int(s.Dropped))+" of it dropped")
	}
	out := strings.Join(words, ", ")
	switch {
	case s.Why != "":
		out += ": " + s.Why
	case s.LastError != "":
		out += "; last error " + p.ago(s.LastAt) + " ago: " + s.LastError
	}
	return out
}

func where(s bgp.PeerStatus) string {
	switch {
	case s.Address == netip.AddrPort{}:
		return "not found yet on " + s.Interface
	case s.Address.Port() == bgp.Port:
		return s.Address.Addr().String()
	}
	return s.Address.String()
}

func routes(n int) string {
	if n == 1 {
		return "1 route"
	}
	return fmt.Sprintf("%d routes", n)
}

func (p *printer) bfdWords(s *bfd.Status) string {
	words := fmt.Sprintf("%s for %s", s.State, p.ago(s.Since))
	if s.State == bfd.Up {
		words += fmt.Sprintf(", sends each %v and is given up after %v", s.Sends, s.Detected)
	} else {
		words += fmt.Sprintf(", the router says %s", s.RemoteState)
	}
	if s.Diag != bfd.DiagNone {
		words += ", " + s.Diag.String()
	}
	if s.Flaps > 0 {
		words += ", lost " + times(s.Flaps)
	}
	return because(words, ": ", s.Error)
}

var (
	peerState      = desc("bgp_peer_state", "1 for the state that the session with the router is in.", "peer", "state")
	peerSince      = desc("bgp_peer_state_timestamp_seconds", "When the session got into its state.", "peer")
	peerUp         = desc("bgp_peer_established", "1 while the session with the router is up.", "peer")
	peerAdvertised = desc("bgp_peer_advertised_routes", "Routes that were written to the router and not withdrawn.", "peer")
	peerWithheld   = desc("bgp_peer_withheld_routes", "Routes that the router does not get although the session is up.", "peer")
	peerFlaps      = desc("bgp_peer_flaps_total", "Times an established session ended.", "peer")
	peerDropped    = desc("bgp_peer_dropped_routes_total", "Routes that the router sent, which nobody wants.", "peer")
	peerMalformed  = desc("bgp_peer_malformed_messages_total", "Messages of the router that broke the protocol.", "peer")
	peerDetection  = desc("bgp_peer_detection_seconds", "How long the router may go on sending packets to this node if it froze.", "peer")
	bfdUp          = desc("bfd_session_up", "1 while BFD with the router is up.", "peer")
	bfdFlaps       = desc("bfd_session_flaps_total", "Times BFD went down.", "peer")
	bfdDetection   = desc("bfd_session_detection_seconds", "When this node gives the router up.", "peer")
	bfdPackets     = desc("bfd_packets_total", "Packets of BFD.", "peer", "what")
	advertisedAddr = desc("address_routed", "1 while this node gives routers a route to the address.", "address")
	tabledAddr     = desc("address_tabled", "1 while the address is in the table for other daemons.", "address")
)

var peerStates = []bgp.State{bgp.Idle, bgp.Waiting, bgp.Connecting, bgp.Opening, bgp.Established}

func (m sink) routers(b *bgp.Status) {
	for _, p := range b.Peers {
		for _, s := range peerStates {
			m.flag(peerState, p.State == s, p.Name, string(s))
		}
		m.gauge(peerSince, float64(p.Since.UnixNano())/float64(time.Second), p.Name)
		m.flag(peerUp, p.State == bgp.Established, p.Name)
		m.gauge(peerAdvertised, float64(len(p.Advertised)), p.Name)
		m.gauge(peerWithheld, float64(len(p.Withheld)), p.Name)
		m.count(peerFlaps, p.Flaps, p.Name)
		m.count(peerDropped, p.Dropped, p.Name)
		m.count(peerMalformed, p.Malformed, p.Name)
		m.gauge(peerDetection, p.Detection.Seconds(), p.Name)
		if s := p.BFD; s != nil {
			m.flag(bfdUp, s.State == bfd.Up, p.Name)
			m.count(bfdFlaps, s.Flaps, p.Name)
			m.gauge(bfdDetection, s.Detection.Seconds(), p.Name)
			m.count(bfdPackets, s.Sent, p.Name, "sent")
			m.count(bfdPackets, s.Received, p.Name, "received")
			m.count(bfdPackets, s.Dropped, p.Name, "dropped")
		}
	}
}
