package node

import (
	"net/netip"
	"sync"
	"time"

	"github.com/pintle-lb/pintle/arp"
	"github.com/pintle-lb/pintle/internal/status"
)

// maxStations bounds what is remembered of those who claim an address.
const maxStations = 64

// stations counts claims of others by who made them. Whether that was a peer is
// asked when somebody wants to know: a peer's hardware addresses are known a
// moment after its first claim.
type stations struct {
	mu   sync.Mutex // guards seen
	seen map[place]map[string]sighting
}

// A place is an address on a link.
type place struct {
	addr netip.Addr
	link string
}

type sighting struct {
	count uint64
	last  time.Time
}

// A station is somebody who claims an address on a link.
type station struct {
	place
	mac string
}

// counts are the claims of everybody so far.
func (s *stations) counts() map[station]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[station]uint64{}
	for at, macs := range s.seen {
		for mac, x := range macs {
			out[station{at, mac}] = x.count
		}
	}
	return out
}

// hear takes one claim.
func (s *stations) hear(h arp.Heard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := place{h.Addr, h.Link}
	if s.seen == nil {
		s.seen = map[place]map[string]sighting{}
	}
	if s.seen[at] == nil {
		s.seen[at] = map[string]sighting{}
	}
	was, known := s.seen[at][h.MAC]
	if !known && len(s.seen[at]) >= maxStations {
		return
	}
	s.seen[at][h.MAC] = sighting{was.count + 1, h.At}
}

// strangers sums up the claims of those who are no peers.
func (s *stations) strangers(addr netip.Addr, link string, peer func(mac string) string) (out status.Strangers) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for mac, x := range s.seen[place{addr, link}] {
		if peer(mac) != "" {
			continue
		}
		out.Claims += x.count
		if x.last.After(out.Last) {
			out.MAC, out.Last = mac, x.last
		}
	}
	return out
}
