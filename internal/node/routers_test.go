package node

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pintle-lb/pintle/bgp"
	"github.com/pintle-lb/pintle/bgp/bfd"
	"github.com/pintle-lb/pintle/internal/agent"
	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/kube/kubetest"
	"github.com/pintle-lb/pintle/leader"
)

const bgpConfig = `apiVersion: pintle.dev/v1
node: n1
addresses: [{address: 10.99.0.1}]
announce: [bgp]
election: none
kubernetes: {kubeconfig: %s, servers: ["%s"]}
bgp:
  as: 65001
  med: 10
  communities: ["65001:1"]
  drain: {wait: 1s, prepend: 2}
  peers:
    - {name: all, address: 192.0.2.1, as: 65000, med: 20, passwordFile: %[3]s}
    - {name: mine, address: 192.0.2.2, as: 65000, nodeLabels: {rack: r1}, bfd: {auth: {keyFile: %[3]s}}}
    - {name: other, address: 192.0.2.3, as: 65000, nodeLabels: {rack: r2}}
`

func bgpNode(t *testing.T, api *kubetest.API, server string) *Node {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("correct-horse\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, problems := config.Parse(fmt.Appendf(nil, bgpConfig, api.Kubeconfig(), server, secret), "pintle.yaml", config.Options{Hostname: "n1"})
	if cfg == nil {
		t.Fatal(problems)
	}
	return &Node{cfg: cfg, log: slog.New(slog.DiscardHandler), routed: make(chan struct{}, 1)}
}

func names(peers []bgp.Peer) (out []string) {
	for _, p := range peers {
		out = append(out, p.Name)
	}
	return out
}

// TestPeersByLabel: what Kubernetes says of the node decides, and a change is taken
// up; while the API is away the peers stay.
func TestPeersByLabel(t *testing.T) {
	api := kubetest.New(t)
	n := bgpNode(t, api, api.Listen())
	if _, err := n.askPeers(t.Context()); err == nil {
		t.Error("the API knows of no such node, and nobody says so")
	}
	for _, c := range []struct {
		rack string
		want []string
	}{{"r1", []string{"all", "mine"}}, {"r2", []string{"all", "other"}}, {"", []string{"all"}}} {
		api.SetNode("n1", map[string]string{"rack": c.rack}, nil)
		peers, err := n.askPeers(t.Context())
		if err != nil || !slices.Equal(names(peers), c.want) {
			t.Errorf("rack %q: %v, %v, want %v", c.rack, names(peers), err, c.want)
		}
	}
}

func TestPeersAreWhatIsConfigured(t *testing.T) {
	api := kubetest.New(t)
	n := bgpNode(t, api, api.Listen())
	peers, err := n.peers(map[string]string{"rack": "r1"}, nil)
	if err != nil || len(peers) != 2 {
		t.Fatal(peers, err)
	}
	all, mine := peers[0], peers[1]
	if all.MED == nil || *all.MED != 20 || *mine.MED != 10 || !slices.Equal(all.Communities, []uint32{65001<<16 | 1}) {
		t.Errorf("attributes %+v and %+v: the peer's own MED wins", all.Attributes, mine.Attributes)
	}
	if mine.BFD == nil || mine.BFD.Auth == nil || mine.BFD.Auth.Key != "correct-horse" || mine.BFD.Interval != 300*time.Millisecond {
		t.Errorf("BFD %+v", mine.BFD)
	}
	if err := os.Remove(all.PasswordFile); err != nil {
		t.Fatal(err)
	}
	if _, err := n.peers(map[string]string{"rack": "r1"}, nil); err == nil {
		t.Error("the key of BFD is gone, and nobody says so")
	}
}

func TestRoutesByGrade(t *testing.T) {
	r := routers{cfg: config.BGP{Drain: config.Drain{Prepend: 2}}}
	for grade, want := range map[agent.Grade]bgp.Attributes{
		agent.Normal:     {},
		agent.Leaving:    {Communities: []uint32{bgp.GracefulShutdown}, LocalPref: new(uint32), Prepend: 2},
		agent.LastResort: {Communities: []uint32{bgp.GracefulShutdown}, LocalPref: new(uint32), Prepend: lastResortPrepend},
	} {
		got := r.attributes(grade)
		if !slices.Equal(got.Communities, want.Communities) || got.Prepend != want.Prepend || (got.LocalPref == nil) != (want.LocalPref == nil) {
			t.Errorf("%v: %+v, want %+v", grade, got, want)
		}
	}
}

// TestSetTakesRoutesWithTheirLease: the speaker has what is wanted, and lets go of
// it when the lease is over, whoever else sleeps.
func TestSetTakesRoutesWithTheirLease(t *testing.T) {
	speaker, err := bgp.New(bgp.Config{AS: 65001, RouterID: netip.MustParseAddr("192.0.2.9")})
	if err != nil {
		t.Fatal(err)
	}
	r := routers{speaker: speaker}
	lease := leader.NewLease(leader.Boot, leader.Boot().Add(time.Hour))
	want := []agent.Route{{Prefix: netip.MustParsePrefix("10.99.0.1/32"), Lease: lease}, {Prefix: netip.MustParsePrefix("10.99.0.2/32"), Grade: agent.Leaving}}
	have, err := r.Set(t.Context(), want)
	if err != nil || !slices.Equal(have, want) {
		t.Errorf("%+v, %v, want %+v", have, err, want)
	}
	lease.Revoke()
	have, err = r.Set(t.Context(), want)
	if err != nil || !slices.Equal(have, want[1:]) {
		t.Errorf("%+v, %v, want what has no lease that is over", have, err)
	}
}

func TestDetection(t *testing.T) {
	n := &Node{cfg: &config.Config{BGP: config.BGP{Peers: []config.BGPPeer{{Name: "loose", BFD: &config.BGPBFD{}}, {Name: "strict", BFD: &config.BGPBFD{Strict: true}}}}}}
	up := func(d time.Duration) *bfd.Status { return &bfd.Status{State: bfd.Up, Detected: d} }
	for _, c := range []struct {
		name  string
		peers []bgp.PeerStatus
		want  time.Duration
	}{
		{"no session", []bgp.PeerStatus{{Name: "loose"}, {Name: "strict"}}, 0},
		{"BFD that routes do not wait for", []bgp.PeerStatus{{Name: "loose", Hold: 9 * time.Second, BFD: up(time.Second)}}, 9 * time.Second},
		{"BFD that they wait for", []bgp.PeerStatus{{Name: "strict", Hold: 9 * time.Second, BFD: up(time.Second)}}, time.Second},
		{"slower than the hold time", []bgp.PeerStatus{{Name: "strict", Hold: 3 * time.Second, BFD: up(5 * time.Second)}}, 3 * time.Second},
		{"not up, and so without routes", []bgp.PeerStatus{{Name: "strict", Hold: 9 * time.Second, BFD: &bfd.Status{Detected: 3 * time.Second}}}, 0},
		{"switched off by the router, which keeps the routes", []bgp.PeerStatus{{Name: "strict", Hold: 9 * time.Second, BFD: &bfd.Status{Detected: time.Second},
			Advertised: []netip.Prefix{netip.MustParsePrefix("10.99.0.1/32")}}}, 9 * time.Second},
		{"the longest counts", []bgp.PeerStatus{{Name: "loose", Hold: 3 * time.Second}, {Name: "strict", Hold: 9 * time.Second, BFD: up(time.Second)}}, 3 * time.Second},
	} {
		if got := n.detection(c.peers); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
