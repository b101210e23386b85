package status

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pintle-lb/pintle/leader"
)

// desc names one metric. Names follow the Prometheus conventions: base units,
// _total for counters.
func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("pintle_"+name, help, labels, nil)
}

var (
	buildInfo     = desc("build_info", "Always 1; the version is a label.", "version")
	holding       = desc("seat_holding", "1 while this node holds the seat with a valid lease.", "seat")
	holderInfo    = desc("seat_holder_info", "Always 1; who holds the seat, as this node sees it, is a label.", "seat", "holder")
	epoch         = desc("seat_epoch", "Grows with every election.", "seat")
	losses        = desc("seat_losses_total", "Times this node stopped holding.")
	takeover      = desc("takeover_seconds", "How long this node's last take-over took, from standing to the first claim.", "seat")
	healthy       = desc("healthy", "1 while this node is fit to hold an address.")
	ready         = desc("ready", "1 while /readyz says so.")
	checkHealthy  = desc("check_healthy", "1 while the health check succeeds.", "check")
	checkRuns     = desc("check_runs_total", "Runs of a health check.", "check")
	checkFailures = desc("check_failures_total", "Failed runs of a health check.", "check")
	bound         = desc("address_bound", "1 while the address is on this host.", "address")
	claimed       = desc("address_claimed", "1 while this node answers for the address.", "address")
	carrier       = desc("link_carrier", "1 while the announcing link is up and has a carrier.", "link")
	answered      = desc("neighbor_answers_total", "ARP and neighbour discovery questions answered.", "address", "link")
	announced     = desc("neighbor_announcements_total", "Announcements sent.", "address", "link")
	foreign       = desc("foreign_claims_total", "Claims for the address heard from stations that are no peers.", "address", "link")
	defended      = desc("defences_total", "Bursts sent against claims of other stations.", "address", "link")
	writeErrors   = desc("neighbor_write_errors_total", "Frames that could not be sent.", "address", "link")
	peerAlive     = desc("peer_alive", "1 while the peer is heard.", "peer")
	voter         = desc("member_voter", "1 if the member has a vote; this node is one too.", "member")
	promise       = desc("promise_seconds", "T: how long a voter keeps its word to a holder.")
	elections     = desc("elections_total", "Elections that this node saw: new moved the seat, same gave it to its holder again, empty found none.", "result")
	apiRequests   = desc("api_requests_total", "Requests for the Lease to the Kubernetes API.", "verb")
	leaseSeen     = desc("lease_seen_timestamp_seconds", "When the Lease was last seen to change; while somebody holds, that is a fraction of its duration ago.")
	leaseDuration = desc("lease_duration_seconds", "How long a holder that is not heard of keeps the seat.")
	taking        = desc("lease_election_able", "1 while this node can do its part at the Kubernetes API.")
	serverUp      = desc("api_server_up", "1 if the last request to the API server was answered; absent before the first.", "server")
	certExpiry    = desc("certificate_expiry_timestamp_seconds", "When this node's certificate or its CA expires.")
	muted         = desc("link_muted", "1 while the kernel is kept from claiming on the link.", "link")
	realtime      = desc("realtime", "1 while the threads run under real-time scheduling.")
	loopAge       = desc("loop_age_seconds", "Time since the main loop last turned; it turns each second.")
)

// A collector renders one Report for each scrape.
type collector struct{ s *Server }

// Describe implements prometheus.Collector: what there is depends on the state.
func (c collector) Describe(ch chan<- *prometheus.Desc) { ch <- buildInfo }

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	r := c.s.report()
	m := sink{ch}
	m.gauge(buildInfo, 1, r.Version)
	m.flag(healthy, r.Healthy)
	m.flag(ready, r.Ready)
	m.flag(realtime, r.Realtime)
	m.count(losses, r.Losses)
	m.count(elections, r.Elections.New, "new")
	m.count(elections, r.Elections.Same, "same")
	m.count(elections, r.Elections.Empty, "empty")
	if r.Raft.Cluster != "" {
		m.gauge(promise, r.Raft.T.Seconds())
	}
	if r.Lease != nil {
		m.lease(r.Lease)
	}
	if r.BGP != nil {
		m.routers(r.BGP)
	}
	if r.Services != nil {
		m.services(r.Services)
	}
	m.gauge(loopAge, r.LoopAge.Seconds())
	if !r.Cert.NotAfter.IsZero() {
		m.gauge(certExpiry, float64(r.Cert.NotAfter.UnixNano())/float64(time.Second))
	}
	m.seats(r)
	m.wire(r)
	for _, h := range r.Checks {
		if h.Known {
			m.flag(checkHealthy, h.Healthy, h.Name)
		}
		m.count(checkRuns, h.Checks, h.Name)
		m.count(checkFailures, h.Failures, h.Name)
	}
	for _, p := range r.Raft.Members {
		if !p.Self {
			m.flag(peerAlive, p.Alive, p.Name)
		}
		m.flag(voter, p.Voter, p.Name)
	}
}

type sink struct{ ch chan<- prometheus.Metric }

func (m sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	m.ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (m sink) count(d *prometheus.Desc, v uint64, labels ...string) {
	m.ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

func (m sink) flag(d *prometheus.Desc, on bool, labels ...string) {
	v := 0.0
	if on {
		v = 1
	}
	m.gauge(d, v, labels...)
}

func (m sink) lease(l *leader.KubeStatus) {
	m.count(apiRequests, l.Reads, "read")
	m.count(apiRequests, l.Writes, "write")
	m.count(apiRequests, l.Watches, "watch")
	m.gauge(leaseDuration, l.Duration.Seconds())
	m.flag(taking, l.Error == "" && !l.Seen.IsZero())
	if !l.Seen.IsZero() {
		m.gauge(leaseSeen, float64(l.Seen.UnixNano())/float64(time.Second))
	}
	for _, s := range l.Servers {
		if s.Error != "" || !s.Seen.IsZero() {
			m.flag(serverUp, s.Error == "", s.URL)
		}
	}
}

func (m sink) seats(r *Report) {
	for _, s := range r.Seats {
		m.flag(holding, s.Holding, s.Name)
		if !s.Shared {
			m.gauge(epoch, float64(s.Epoch), s.Name)
		}
		if s.Holder != "" {
			m.gauge(holderInfo, 1, s.Name, s.Holder)
		}
		for _, a := range s.Addresses {
			m.flag(bound, a.Bound, a.Address.String())
			m.flag(claimed, a.Claimed, a.Address.String())
			m.flag(advertisedAddr, a.Routed, a.Address.String())
			m.flag(tabledAddr, a.Tabled, a.Address.String())
		}
	}
	last := map[string]float64{}
	for _, t := range r.Takeovers {
		last[t.Seat] = t.Announced / 1000 // the last of a seat counts
	}
	for seat, s := range last {
		m.gauge(takeover, s, seat)
	}
}

func (m sink) wire(r *Report) {
	for _, w := range r.Wire {
		a := w.Addr.String()
		m.count(answered, w.Answered, a, w.Link)
		m.count(announced, w.Announced, a, w.Link)
		m.count(foreign, w.Strangers.Claims, a, w.Link)
		m.count(defended, w.Defended, a, w.Link)
		m.count(writeErrors, w.WriteErrors, a, w.Link)
	}
	for name, up := range r.Links {
		m.flag(carrier, up, name)
	}
	for _, l := range r.Mute.Links {
		m.flag(muted, l.Muted, l.Name)
	}
}
