package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/pintle-lb/pintle/bgp"
	"github.com/pintle-lb/pintle/bgp/bfd"
	"github.com/pintle-lb/pintle/internal/agent"
	"github.com/pintle-lb/pintle/internal/service"
	"github.com/pintle-lb/pintle/leader"
)

var update = flag.Bool("update", false, "write testdata/status.txt")

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// base is a follower in a cluster of three in which all is well. What it points
// to is its own.
func base() *Report {
	vip4 := netip.MustParseAddr("192.0.2.10")
	r := &Report{Version: "1.2.3", Instance: "default", Election: "raft", Candidate: true, Realtime: true,
		Started: noon.Add(-3 * time.Hour), LoopAge: 200 * time.Millisecond,
		Cert: Certificate{Names: []string{"n2"}, NotAfter: noon.Add(400 * 24 * time.Hour)}, Elections: Elections{New: 2, Same: 1}}
	r.Snapshot = agent.Snapshot{Node: "n2", At: noon, Healthy: true, Links: map[string]bool{"eth0": true},
		Seats: []agent.SeatStatus{{Name: "control-plane", Holder: "n1", Epoch: 7, Joined: true, Since: noon.Add(-90 * time.Minute), Why: "n1 holds it",
			Addresses: []agent.AddressStatus{{Address: vip4, Links: []string{"eth0"}}}}}}
	r.Raft = leader.RaftStatus{Cluster: "3f1c", State: "follower", Term: 7, Leader: "n1", Profile: leader.Fast, T: leader.Fast.T()}
	for i, name := range []string{"n1", "n2", "n3"} {
		r.Raft.Members = append(r.Raft.Members, leader.Member{Name: name, Address: "10.0.0." + string(rune('1'+i)) + ":7400", Voter: true,
			Leader: name == "n1", Self: name == "n2", Alive: true, Heard: noon, Hello: leader.Hello{Name: name, Healthy: true, Candidate: true}})
	}
	return r
}

// hold makes the node the holder.
func hold(r *Report) {
	s := &r.Seats[0]
	s.Holder, s.Holding, s.LeaseMs, s.Why = "n2", true, 81, "a majority acknowledges this node"
	s.Addresses[0].Bound, s.Addresses[0].Claimed = true, true
	r.Raft.Leader, r.Raft.State = "n2", "leader"
	r.Raft.Members[0].Leader, r.Raft.Members[1].Leader = false, true
	r.Takeovers = []agent.Takeover{
		{Seat: s.Name, At: noon.Add(-2 * time.Hour), Epoch: 5, Leased: 1.234, Bound: 0, Announced: 1.5},
		{Seat: s.Name, At: noon.Add(-90 * time.Minute), Epoch: 7, Leased: 2, Bound: 1.1, Announced: 2.3},
	}
	r.Mute = Mute{Wall: true, Links: []MutedLink{{Name: "eth0", Index: 2, ARPIgnore: 1, ARPAnnounce: 2, Muted: true}}}
}

func alone(r *Report) {
	for _, i := range []int{0, 2} {
		m := &r.Raft.Members[i]
		m.Alive, m.Leader, m.Heard, m.Error = false, false, noon.Add(-8*time.Second), "dial tcp "+m.Address+": i/o timeout"
	}
	r.Raft.Leader, r.Raft.State, r.Raft.Term = "", "candidate", 8
	r.Seats[0].Holder, r.Seats[0].Why = "", "nobody holds it, or this node cannot hear who"
}

// serves makes the node one that serves Services.
func serves(r *Report) {
	byLease(r)
	r.Election, r.Seats = "", nil
	r.Services = &service.Snapshot{Node: "n2", At: noon, Epoch: 12, LeaseMs: 8100, Synced: true, Coordinator: "n1", Writes: 41, Total: 3, Services: 4,
		Nodes: []service.NodeStatus{{Name: "n1", Epoch: 11, Alive: true, Suits: true, Holds: 1}, {Name: "n2", Epoch: 12, Alive: true, Suits: true, Holds: 1},
			{Name: "n3", Epoch: 14, Alive: true, Why: "is cordoned"}, {Name: "n4", Epoch: 9}},
		Pools: []service.PoolStatus{{Name: "bad", Errors: `spec.addresses[0]: "x" is no prefix`}, {Name: "lan", Used: 3, Free: "253"}},
		Here: []service.AddressStatus{{Address: netip.MustParseAddr("192.0.2.20"), Pool: "lan", Services: "default/web", Holder: "n2", Epoch: 12, Wanted: "n3",
			Since: noon.Add(-time.Hour), Reason: "it had the fewest addresses for its weight of 3 nodes that suit", Links: []string{"eth0"}, Claimed: true, Bound: true},
			{Address: netip.MustParseAddr("192.0.2.21"), Pool: "lan", Services: "default/dns", Reason: "every node that suits advertises it", Advertised: true}},
		Nowhere: []service.AddressStatus{{Address: netip.MustParseAddr("192.0.2.22"), Pool: "lan", Services: "shop/cart", Reason: "no node suits: n3 is cordoned"}},
		Waiting: []service.WaitingStatus{{Service: "shop/desk", Why: "pool lan has no free IPv4 address"}}}
	r.Checks = []Check{{Name: "proxy", Healthy: true, Known: true, Since: noon.Add(-time.Hour), Checks: 1800}}
}

// byLease turns the cluster into one in which a Lease elects.
func byLease(r *Report) {
	const own, other = "https://127.0.0.1:6443", "https://10.0.0.3:6443"
	r.Raft, r.Cert, r.Realtime, r.Election = leader.RaftStatus{}, Certificate{}, false, "lease"
	r.Lease = &leader.KubeStatus{Object: "kube-system/pintle", Duration: 5 * time.Second, Holder: "n1", Epoch: 7, Seen: noon.Add(-1200 * time.Millisecond),
		Server: own, Reads: 3, Writes: 40, Watches: 1, Servers: []leader.KubeServer{{URL: own, Seen: noon.Add(-time.Second)},
			{URL: "https://10.0.0.1:6443", Seen: noon.Add(-time.Hour)}, {URL: "https://10.0.0.2:6443"},
			{URL: other, Seen: noon.Add(-time.Minute), Error: "dial tcp 10.0.0.3:6443: i/o timeout"}}}
}

// apart makes the API unreachable.
func apart(r *Report) {
	r.Lease.Error = "get lease: https://127.0.0.1:6443: connection refused"
	r.Lease.Servers = []leader.KubeServer{{URL: r.Lease.Server, Error: "connection refused"}}
}

// byBGP has every healthy node advertise the address to two routers, of which one
// is down.
func byBGP(r *Report) {
	r.Raft, r.Cert, r.Realtime, r.Election, r.Elections = leader.RaftStatus{}, Certificate{}, false, "none", Elections{}
	p := netip.MustParsePrefix("192.0.2.10/32")
	r.Links = map[string]bool{}
	r.Seats[0] = agent.SeatStatus{Name: "control-plane", Shared: true, Holding: true, Since: noon.Add(-time.Hour), Why: "every healthy node advertises it",
		Addresses: []agent.AddressStatus{{Address: p.Addr(), Bound: true, Routed: true}}}
	r.BGP = &bgp.Status{AS: 65001, RouterID: netip.MustParseAddr("10.0.0.2"), Peers: []bgp.PeerStatus{
		{Name: "tor1", Address: netip.MustParseAddrPort("10.0.0.254:179"), Local: netip.MustParseAddr("10.0.0.2"), AS: 65000, LocalAS: 65001, State: bgp.Established,
			Since: noon.Add(-time.Hour), Hold: 9 * time.Second, Families: []bgp.Family{bgp.IPv4}, Advertised: []netip.Prefix{p}, Detection: 900 * time.Millisecond, Dropped: 3, Flaps: 1,
			LastError: "hold timer expired", LastAt: noon.Add(-time.Hour),
			BFD: &bfd.Status{Name: "tor1", State: bfd.Up, Since: noon.Add(-time.Hour), RemoteState: bfd.Up, Sends: 300 * time.Millisecond, Detected: 900 * time.Millisecond}},
		{Name: "tor2", Interface: "eth1", State: bgp.Idle, Since: noon.Add(-time.Minute), AS: 65000, Detection: 9 * time.Second,
			Why:      "peer closed: bad peer AS: router says 65010, configured 65000",
			Withheld: []bgp.Withheld{{Prefix: p, Why: "BFD is down"}}, BFD: &bfd.Status{Name: "tor2", State: bfd.Down, Since: noon.Add(-time.Minute), Diag: bfd.DiagTimeExpired, Flaps: 2}},
	}}
}

var states = []struct {
	name  string
	ready bool
	state State
	set   func(*Report)
}{
	{"follower", true, Following, func(*Report) {}},
	{"holder", true, Holding, hold},
	{"holder whose address cannot be bound", false, Holding, func(r *Report) {
		hold(r)
		r.Healthy, r.Unhealthy = false, "mute kernel: operation not permitted"
		s := &r.Seats[0]
		s.Why = "this node holds the seat but cannot bind: mute kernel: operation not permitted"
		s.Addresses[0].Bound, s.Addresses[0].Claimed = false, false
		r.Takeovers, r.Mute = nil, Mute{}
	}},
	{"unhealthy holder that nobody can relieve", false, Holding, func(r *Report) {
		hold(r)
		r.Healthy, r.Unhealthy, r.RestMs = false, "check api", 4200
		r.Seats[0].Why = "this node holds it although it is unhealthy: no healthy node could take it"
		r.Checks = []Check{
			{Name: "api", Known: true, Since: noon.Add(-time.Minute), LastError: "answered 503", Checks: 900, Failures: 61},
			{Name: "disk", Known: true, Healthy: true, Since: noon.Add(-time.Hour), Checks: 60},
			{Name: "new", Since: noon.Add(-time.Second)},
		}
	}},
	{"unhealthy follower", false, Unhealthy, func(r *Report) {
		r.Healthy, r.Unhealthy, r.Links["eth0"] = false, "link eth0 has no carrier", false
	}},
	{"one of many that advertise", true, Advertising, byBGP},
	{"advertised to nobody", false, Advertising, func(r *Report) {
		byBGP(r)
		r.BGP.Peers = r.BGP.Peers[1:]
	}},
	{"unhealthy, and so not advertised", false, Unhealthy, func(r *Report) {
		byBGP(r)
		r.Healthy, r.Unhealthy = false, "check api"
		s := &r.Seats[0]
		s.Holding, s.Addresses[0] = false, agent.AddressStatus{Address: s.Addresses[0].Address, Bound: true, Lingering: true}
	}},
	{"unhealthy, the last resort", false, LastResort, func(r *Report) {
		byBGP(r)
		r.Healthy, r.Unhealthy, r.Seats[0].Addresses[0].Grade = false, "check api", "last resort"
	}},
	{"not bound yet", false, Starting, func(r *Report) {
		byBGP(r)
		s := &r.Seats[0]
		s.Holding, s.Addresses[0] = false, agent.AddressStatus{Address: s.Addresses[0].Address}
	}},
	{"in the table", true, Advertising, func(r *Report) {
		byBGP(r)
		r.BGP, r.Seats[0].Addresses[0].Routed, r.Seats[0].Addresses[0].Tabled = nil, false, true
	}},
	{"holder by BGP", true, Holding, func(r *Report) {
		byBGP(r)
		peers := r.BGP
		*r = *base()
		hold(r)
		r.BGP, r.Seats[0].Addresses[0].Claimed, r.Seats[0].Addresses[0].Routed = peers, false, true
	}},
	{"joining", false, Joining, func(r *Report) {
		r.Raft = leader.RaftStatus{State: "joining", Phase: "1 of 3 peers are up, 2 are needed to start the cluster"}
		r.Seats[0].Holder, r.Seats[0].Joined, r.Seats[0].Epoch = "", false, 0
		r.Elections = Elections{}
	}},
	{"joining, just started", false, Joining, func(r *Report) {
		r.Raft = leader.RaftStatus{State: "joining"}
		r.Seats[0].Holder, r.Seats[0].Joined, r.Seats[0].Epoch = "", false, 0
		r.Started, r.Elections = noon.Add(-300*time.Millisecond), Elections{}
	}},
	{"let in, without the members yet", false, Joining, func(r *Report) {
		r.Raft.Members, r.Raft.Leader = nil, ""
		r.Seats[0].Holder = ""
	}},
	{"member without a vote", false, NoVote, func(r *Report) { r.Raft.Members[1].Voter = false }},
	{"no quorum", false, NoQuorum, alone},
	{"election under way", false, NoQuorum, func(r *Report) {
		alone(r)
		r.Raft.Members[2].Alive = true
	}},
	{"one of two", true, NoVote, func(r *Report) {
		r.Raft.Members = r.Raft.Members[:2]
		r.Raft.Members[1].Voter = false
	}},
	{"standing", false, Standing, func(r *Report) {
		alone(r)
		r.Seats[0].Standing = true
	}},
	{"former holder", true, Following, func(r *Report) {
		r.Losses = 1
		a := &r.Seats[0].Addresses[0]
		a.Bound, a.Lingering = true, true
	}},
	{"stopping", false, Stopping, func(r *Report) { r.Draining = true }},
	{"removed", false, Removed, func(r *Report) {
		r.Raft.Removed, r.Raft.Leader, r.Seats[0].Holder = true, "", ""
		r.Raft.Members = r.Raft.Members[:1]
	}},
	{"witness", true, Witness, func(r *Report) {
		r.Witness, r.Candidate, r.Seats, r.Raft.Members[1].Hello.Witness = true, false, nil, true
	}},
	{"by lease: follower", true, Following, byLease},
	{"by lease: holder", true, Holding, func(r *Report) {
		hold(r)
		byLease(r)
		r.Seats[0].Why = "the API server acknowledges this node"
	}},
	{"by lease: holder that cannot renew", true, Holding, func(r *Report) {
		hold(r)
		byLease(r)
		apart(r)
		r.Seats[0].Why = "the API server acknowledges this node"
	}},
	{"by lease: just started", false, Joining, func(r *Report) {
		byLease(r)
		r.Lease.Seen, r.Seats[0].Holder, r.Lease.Servers, r.Lease.Server = time.Time{}, "", nil, ""
	}},
	{"by lease: no API server", false, Joining, func(r *Report) {
		byLease(r)
		apart(r)
		r.Lease.Seen, r.Seats[0].Holder = time.Time{}, ""
	}},
	{"by lease: API servers lost", false, CutOff, func(r *Report) {
		byLease(r)
		apart(r)
	}},
	{"by lease: nobody", false, NoHolder, func(r *Report) {
		byLease(r)
		r.Seats[0].Holder = ""
	}},
	{"by lease: standing", false, Standing, func(r *Report) {
		byLease(r)
		r.Seats[0].Holder, r.Seats[0].Standing = "", true
	}},
	{"by lease: unhealthy", false, Unhealthy, func(r *Report) {
		byLease(r)
		r.Healthy, r.Unhealthy = false, "check api"
	}},
	{"by lease: never holds", true, Watching, func(r *Report) {
		byLease(r)
		r.Candidate, r.Seats = false, nil
	}},
	{"by lease: never holds and sees nobody", false, NoHolder, func(r *Report) {
		byLease(r)
		r.Candidate, r.Seats, r.Lease.Seen = false, nil, noon.Add(-6100*time.Millisecond)
	}},
	{"by lease: stopping", false, Stopping, func(r *Report) {
		byLease(r)
		r.Draining = true
	}},
	{"stuck", false, Stuck, func(r *Report) { r.LoopAge = 42 * time.Second }},
	{"strangers, an old certificate, no real time", true, Holding, func(r *Report) {
		hold(r)
		r.Realtime, r.Cert.NotAfter = false, noon.Add(-time.Hour)
		r.Mute.Wall, r.Mute.Links[0].Muted, r.Mute.Links[0].ARPIgnore = false, false, 0
		r.Wire = []Wire{{Stat: Stat{Link: "eth0", Addr: netip.MustParseAddr("192.0.2.10"), Heard: 40, Defended: 2,
			LastMAC: "02:77:00:00:00:01", LastHeard: noon}, Peer: "n1",
			Strangers: Strangers{Claims: 3, MAC: "02:00:00:00:00:09", Last: noon.Add(-time.Minute)}}}
	}},
	{"serves Services", true, Serving, serves},
	{"gives Services their addresses", true, Coordinating, func(r *Report) { serves(r); r.Services.Coordinator, r.Services.Coordinates = "n2", true }},
	{"takes no addresses", false, Unfit, func(r *Report) {
		serves(r)
		r.Services.Unfit, r.Healthy, r.Unhealthy = "check proxy status 503", false, "check proxy status 503"
	}},
	{"has no Lease of its own", false, Leaseless, func(r *Report) {
		serves(r)
		r.Services.Epoch, r.Services.LeaseMs, r.Lease.Error = 0, 0, "get lease: i/o timeout"
		r.Services.Faults = []string{"services: the server does not answer"}
	}},
	{"reads what there is", false, Starting, func(r *Report) { serves(r); r.Services.Synced = false }},
}

// TestText pins what a person reads in every state.
func TestText(t *testing.T) {
	var all bytes.Buffer
	for _, s := range states {
		r := base()
		s.set(r)
		r.judge()
		if r.State != s.state || r.Ready != s.ready || r.Ready == (r.NotReady != "") || r.Explain == "" {
			t.Errorf("%s: state %q ready %v because %q, explained %q; want %q and %v", s.name, r.State, r.Ready, r.NotReady, r.Explain, s.state, s.ready)
		}
		all.WriteString("--- " + s.name + "\n")
		if err := r.Text(&all); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join("testdata", "status.txt")
	if *update {
		if err := os.WriteFile(path, all.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, wanted := strings.Split(all.String(), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(got), len(wanted)) {
		a, b := "", ""
		if i < len(got) {
			a = got[i]
		}
		if i < len(wanted) {
			b = wanted[i]
		}
		if a != b {
			t.Fatalf("line %d of %s:\n got %s\nwant %s", i+1, path, a, b)
		}
	}
}

func TestTextReportsWriteErrors(t *testing.T) {
	if err := base().Text(failing{}); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("got %v", err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestRound(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 340 * time.Millisecond: "300ms", 61 * time.Second: "1m1s", 49 * time.Hour: "2 days",
		100 * time.Minute: "1h40m",
	} {
		if got := round(d); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
}

// scrape returns the metrics of a report.
func scrape(t *testing.T, r *Report) string {
	t.Helper()
	s := httptest.NewServer((&Server{Look: func() *Report { return r }}).httpHandler())
	defer s.Close()
	resp, err := http.Get(s.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d: %v\n%s", resp.StatusCode, err, body)
	}
	return string(body)
}

// TestMetrics checks each state against the conventions, and that a metric is
// there exactly when it is true.
func TestMetrics(t *testing.T) {
	for _, s := range states {
		r := base()
		s.set(r)
		body := scrape(t, r)
		problems, err := promlint.New(strings.NewReader(body)).Lint()
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s: %s", s.name, p.Metric, p.Text)
		}
	}
}

func TestMetricsTellTheTruth(t *testing.T) {
	joining, holder, sick, lease, cut := base(), base(), base(), base(), base()
	byLease(lease)
	byLease(cut)
	apart(cut)
	for _, s := range states {
		switch s.name {
		case "joining":
			s.set(joining)
		case "strangers, an old certificate, no real time":
			s.set(holder)
		case "unhealthy holder that nobody can relieve":
			s.set(sick)
		}
	}
	for _, c := range []struct {
		what     string
		r        *Report
		has, not []string
	}{
		{"joining", joining, []string{"pintle_ready 0", "pintle_healthy 1", `pintle_seat_holding{seat="control-plane"} 0`},
			[]string{"pintle_promise_seconds", "pintle_seat_holder_info", "pintle_takeover_seconds", "pintle_peer_alive"}},
		{"follower", base(), []string{"pintle_ready 1", "pintle_promise_seconds 0.1", `pintle_seat_holder_info{holder="n1",seat="control-plane"} 1`,
			`pintle_peer_alive{peer="n3"} 1`, `pintle_member_voter{member="n2"} 1`, `pintle_elections_total{result="new"} 2`,
			`pintle_address_claimed{address="192.0.2.10"} 0`, `pintle_link_carrier{link="eth0"} 1`},
			[]string{`peer="n2"`, "pintle_takeover_seconds", "pintle_foreign_claims_total"}},
		{"holder", holder, []string{`pintle_seat_holding{seat="control-plane"} 1`, `pintle_takeover_seconds{seat="control-plane"} 0.0023`,
			`pintle_foreign_claims_total{address="192.0.2.10",link="eth0"} 3`, `pintle_defences_total{address="192.0.2.10",link="eth0"} 2`,
			`pintle_link_muted{link="eth0"} 0`, "pintle_realtime 0", "pintle_certificate_expiry_timestamp_seconds 1.77789"}, nil},
		{"sick", sick, []string{"pintle_healthy 0", "pintle_ready 0", `pintle_check_healthy{check="api"} 0`, `pintle_check_healthy{check="disk"} 1`,
			`pintle_check_failures_total{check="api"} 61`}, []string{`pintle_check_healthy{check="new"}`, "pintle_api_", "pintle_lease_"}},
		{"by lease", lease, []string{`pintle_api_requests_total{verb="write"} 40`, "pintle_lease_seen_timestamp_seconds 1.7778959988e+09",
			"pintle_lease_duration_seconds 5", "pintle_lease_election_able 1", `pintle_api_server_up{server="https://127.0.0.1:6443"} 1`,
			`pintle_api_server_up{server="https://10.0.0.3:6443"} 0`},
			[]string{"10.0.0.2:6443", "pintle_promise_seconds", "pintle_certificate", "pintle_peer_alive"}},
		{"by lease, cut off", cut, []string{"pintle_lease_election_able 0", "pintle_ready 0", `pintle_api_server_up{server="https://127.0.0.1:6443"} 0`}, nil},
	} {
		body := scrape(t, c.r)
		for _, line := range c.has {
			if !strings.Contains(body, "\n"+line) {
				t.Errorf("%s: no %s", c.what, line)
			}
		}
		for _, part := range c.not {
			if strings.Contains(body, part) {
				t.Errorf("%s: has %s, which is not so", c.what, part)
			}
		}
	}
}

func TestProbes(t *testing.T) {
	for _, s := range states {
		r := base()
		s.set(r)
		srv := httptest.NewServer((&Server{Look: func() *Report { return r }}).httpHandler())
		for path, well := range map[string]bool{"/livez": s.state != Stuck, "/readyz": s.ready} {
			resp, err := http.Get(srv.URL + path)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			want := http.StatusOK
			if !well {
				want = http.StatusServiceUnavailable
			}
			if resp.StatusCode != want || len(body) == 0 {
				t.Errorf("%s: %s says %d %s", s.name, path, resp.StatusCode, body)
			}
		}
		srv.Close()
	}
}

// serveSocket serves a report on a socket until the test ends.
func serveSocket(t *testing.T, path string, r *Report, a Actions) {
	t.Helper()
	ln, err := ListenSocket(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- (&Server{Look: func() *Report { return r }, Actions: a}).ServeSocket(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket stays: %v", err)
		}
	})
}

func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "default.sock")
	r := base()
	var asked []string
	ask := func(what string) func(context.Context, string) error {
		return func(_ context.Context, name string) error {
			asked = append(asked, what+" "+name)
			if name == "nobody" {
				return errors.New("nobody is not a member")
			}
			return nil
		}
	}
	serveSocket(t, path, r, Actions{Transfer: ask("transfer"), Remove: ask("remove"), Profile: ask("profile")})
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v: %v", info.Mode(), err)
	}
	c := NewClient(path)
	got, err := c.Report(t.Context())
	if err != nil || got.Node != "n2" || !got.Ready || got.State != Following || got.Seats[0].Epoch != 7 || !c.Running(t.Context()) {
		t.Errorf("got %+v: %v", got, err)
	}
	a, _ := json.Marshal(r)
	if b, _ := json.Marshal(got); !bytes.Equal(a, b) {
		t.Errorf("over the socket\n%s\nbecame\n%s", a, b)
	}
	for _, action := range []string{"transfer", "remove", "profile"} {
		if err := c.Do(t.Context(), action, "a&b =ü"); err != nil {
			t.Errorf("%s: %v", action, err)
		}
		if err := c.Do(t.Context(), action, "nobody"); err == nil || err.Error() != "nobody is not a member" {
			t.Errorf("%s: %v", action, err)
		}
	}
	if strings.Join(asked, ", ") != "transfer a&b =ü, transfer nobody, remove a&b =ü, remove nobody, profile a&b =ü, profile nobody" {
		t.Errorf("asked %q", asked)
	}
	other := filepath.Join(t.TempDir(), "lease.sock")
	serveSocket(t, other, base(), Actions{Transfer: ask("transfer")})
	if err := NewClient(other).Do(t.Context(), "remove", "n3"); err == nil || err.Error() != "this needs election: raft" {
		t.Errorf("an action of another election: %v", err)
	}
	if err := c.Do(t.Context(), "dance", ""); err == nil {
		t.Error("an unknown action was taken")
	}
	if _, err := ListenSocket(path); err == nil || !strings.Contains(err.Error(), "another pintle of this instance is running") {
		t.Errorf("a socket in use was replaced: %v", err)
	}
}

func TestSocketOfTheDead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "default.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
	if _, err := NewClient(path).Report(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "no pintle is running here") {
		t.Errorf("got %v", err)
	}
	serveSocket(t, path, base(), Actions{})
	if !NewClient(path).Running(t.Context()) {
		t.Error("the new one is not reached")
	}
}

func TestNobodyRuns(t *testing.T) {
	_, err := NewClient(filepath.Join(t.TempDir(), "x.sock")).Report(t.Context())
	if err == nil || !strings.HasPrefix(err.Error(), "no pintle is running here") {
		t.Errorf("got %v", err)
	}
}
