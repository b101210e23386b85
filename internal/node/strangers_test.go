package node

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/pintle-lb/pintle/arp"
	"github.com/pintle-lb/pintle/internal/status"
)

func TestStrangers(t *testing.T) {
	addr, now := netip.MustParseAddr("192.0.2.10"), time.Unix(1000, 0)
	var s stations
	hear := func(link, mac string, after time.Duration) {
		s.hear(arp.Heard{Addr: addr, Link: link, MAC: mac, At: now.Add(after)})
	}
	hear("eth0", "peer", 1)
	hear("eth0", "b", 2)
	hear("eth0", "a", 4)
	hear("eth0", "b", 3)
	hear("eth1", "c", 9)
	known := map[string]string{}
	peer := func(mac string) string { return known[mac] }
	if got, want := s.strangers(addr, "eth0", peer), (status.Strangers{Claims: 4, MAC: "a", Last: now.Add(4)}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	known["peer"], known["a"] = "n1", "n2" // now they have said who they are
	if got, want := s.strangers(addr, "eth0", peer), (status.Strangers{Claims: 2, MAC: "b", Last: now.Add(3)}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	for i := range 10 * maxStations {
		hear("eth0", fmt.Sprint(i), 5)
	}
	if n := len(s.seen[place{addr, "eth0"}]); n != maxStations {
		t.Errorf("%d are remembered, want %d", n, maxStations)
	}
}
