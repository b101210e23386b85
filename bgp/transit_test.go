package bgp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	api "github.com/osrg/gobgp/v3/api"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/test/router"
	"github.com/pintle-lb/pintle/test/router/routertest"
)

var foreign = netip.MustParsePrefix("203.0.113.0/24")

// A station is a BGP speaker that the test itself is.
type station struct {
	t    testing.TB
	conn net.Conn
}

// meet gets a session with gobgp itself, without a guard.
func meet(t testing.TB, s *server, as uint32) *station {
	t.Helper()
	from := randomLoopback()
	n := neighbour{localAS: nodeAS, remoteAS: as, hold: 90 * time.Second, keepalive: 30 * time.Second, families: []Family{IPv4}}
	must(t, s.addNeighbour(t.Context(), from, n, ""))
	must(t, s.await(t.Context(), from, api.PeerState_ACTIVE))
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}}).DialContext(t.Context(), "tcp", s.at.String())
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	o := &station{t, conn}
	o.say(open{as: as, as2: uint16(as), id: netip.AddrFrom4([4]byte{10, 0, byte(as >> 8), byte(as)}), hold: 90, families: []Family{IPv4}, fourOctetAS: true}.message())
	o.say(keepalive)
	must(t, s.await(t.Context(), from, api.PeerState_ESTABLISHED))
	return o
}

func (o *station) say(m message) {
	o.t.Helper()
	_, err := o.conn.Write(m)
	must(o.t, err)
}

// hears collects prefixes until ok.
func (o *station) hears(ok func(all []netip.Prefix) bool) (all []netip.Prefix) {
	o.t.Helper()
	must(o.t, o.conn.SetReadDeadline(time.Now().Add(patience)))
	for !ok(all) {
		m, err := readMessage(o.conn, make([]byte, maxMessage))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			o.t.Fatalf("heard only %v", all)
		}
		must(o.t, err)
		if m.kind() == typeUpdate {
			_, reached, err := readUpdate(m)
			must(o.t, err)
			all = append(all, reached...)
		}
	}
	return all
}

// foreignUpdate is a route of AS 65010.
func foreignUpdate() message {
	attrs := []byte{0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xf2, 0x40, 3, 4, 127, 0, 0, 9}
	body := append([]byte{0, 0, 0, byte(len(attrs))}, attrs...)
	return newMessage(typeUpdate, append(body, 24, 203, 0, 113))
}

// TestPolicyAlone: two routers are neighbours of one gobgp, with no guard in between. Only the policy keeps the route of one
// from the other; without it, it would come through.
func TestPolicyAlone(t *testing.T) {
	for name, policy := range map[string]bool{"with the policy": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			if !policy {
				for _, d := range []api.PolicyDirection{api.PolicyDirection_IMPORT, api.PolicyDirection_EXPORT} {
					must(t, s.bgp.SetPolicyAssignment(t.Context(), &api.SetPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
						Name: "global", Direction: d, DefaultAction: api.RouteAction_ACCEPT,
					}}))
				}
			}
			a, b := meet(t, s, 65010), meet(t, s, 65020)
			a.say(foreignUpdate())
			received := func() (n uint64) {
				must(t, s.bgp.ListPeer(context.Background(), &api.ListPeerRequest{}, func(p *api.Peer) {
					for _, f := range p.AfiSafis {
						n += f.State.Received
					}
				}))
				return n
			}
			await(t, "the route is there", func() bool { return received() == 1 })
			must(t, s.add(export{prefix: vip, nextHop: nodeAddr, as: nodeAS}))
			all := b.hears(func(all []netip.Prefix) bool { return slices.Contains(all, vip) })
			if got := slices.Contains(all, foreign); got == policy {
				t.Errorf("the other router heard %v", all)
			}
		})
	}
}

// TestTransit: no route of one router reaches the other through the node.
func TestTransit(t *testing.T) {
	lab := routertest.Lab(t, netlab.Options{Nodes: 1, IPv6: true})
	wire(t, lab.Client())
	wireTo(t, lab.Node(1).Host, "up1", 8)
	there, other := netip.MustParseAddr("10.8.0.1"), netip.MustParseAddr("10.8.0.2")
	from := frrConfig(numbered())
	from.Originate = []netip.Prefix{foreign}
	routertest.FRR(t, lab.Client(), from)
	to := routertest.FRR(t, lab.Node(1).Host, router.Config{AS: 65010, RouterID: other, Neighbors: []router.Neighbor{{Addr: there, AS: nodeAS}}})
	w := routertest.Watch(t, lab.Node(1).Host)
	s := speak(t, numberedPeer(), Peer{Name: "b", Address: other, AS: 65010, ConnectRetry: time.Second})
	s.awaitState("b", Established)
	await(t, "the route comes, and is dropped", func() bool { return s.peer("r").Dropped >= 1 })
	s.set(Route{Prefix: vip})
	hop(t, w, vip, there)
	if p := askFRR(t, to, foreign); len(p.Paths) != 0 {
		t.Errorf("the route came through: %+v", p)
	}
}
