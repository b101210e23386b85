package status

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/pintle-lb/pintle/internal/agent"
	"github.com/pintle-lb/pintle/leader"
)

// Text writes the report for people: first what is true, then why, then the
// parts. Ages are those at the time of the report.
func (r *Report) Text(w io.Writer) error {
	p := &printer{w: w, now: r.at()}
	p.line("node       %s, instance %s, pintle %s, up %s", r.Node, r.Instance, r.Version, p.ago(r.Started))
	p.line("state      %s: %s", r.State, r.Explain)
	p.line("ready      %s", strings.TrimSuffix(yes(r.Ready, r.NotReady), ": "+r.Explain)) // not twice
	if r.Services != nil {
		p.services(r)
		if r.BGP != nil {
			p.routers(r.BGP)
		}
		p.health(r)
		p.host(r)
		return p.err
	}
	p.seats(r)
	if r.Election != "none" {
		p.past(r)
	}
	switch {
	case r.Election == "none":
	case r.Lease != nil:
		p.lease(r.Lease)
	default:
		p.cluster(r)
	}
	if r.BGP != nil {
		p.routers(r.BGP)
	}
	p.health(r)
	p.host(r)
	return p.err
}

type printer struct {
	w   io.Writer
	now time.Time
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func yes(ok bool, why string) string {
	if ok {
		return "yes"
	}
	return "no: " + why
}

func times(n uint64) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

func (p *printer) ago(t time.Time) string {
	if t.IsZero() {
		return "an unknown time"
	}
	return round(p.now.Sub(t))
}

func (p *printer) seats(r *Report) {
	for _, s := range r.Seats {
		switch {
		case s.Shared:
			p.line("holder     every healthy node: there is no election")
		case s.Holding:
			p.line("holder     %s, this node, for %s, epoch %d; its lease is renewed all the time, %.0f ms were left", s.Holder, p.ago(s.Since), s.Epoch, s.LeaseMs)
		case s.Holder != "":
			p.line("holder     %s for %s, epoch %d", s.Holder, p.ago(s.Since), s.Epoch)
		default:
			p.line("holder     nobody that this node knows of")
		}
		for _, a := range s.Addresses {
			p.line("address    %s: %s", strings.TrimSuffix(a.Address.String()+" on "+strings.Join(a.Links, ", "), " on "), addressWords(a, s))
		}
	}
	if len(r.Seats) == 0 {
		p.line("holder     %s; this node never holds", cmp.Or(r.elsewhere(), "nobody that this node knows of"))
	}
}

// elsewhere is the holder as a node knows it that has no seat of its own.
func (r *Report) elsewhere() string {
	if r.Lease != nil {
		return r.leaseHolder()
	}
	return r.Raft.Leader
}

func addressWords(a agent.AddressStatus, s agent.SeatStatus) string {
	words := wireWords(a, s)
	if a.Routed {
		words += strings.TrimSuffix(", advertised to routers, "+a.Grade, ", ")
	}
	if a.Tabled {
		words += ", in the table"
	}
	return words
}

// wireWords says whether the address is on this host, and answered for.
func wireWords(a agent.AddressStatus, s agent.SeatStatus) string {
	switch {
	case a.Bound && !a.Claimed && (a.Routed || a.Tabled):
		return "here"
	case a.Claimed && a.Bound:
		return "here, answered for and announced"
	case a.Claimed:
		return "answered for, but not on this host: it was taken away and is being put back"
	case a.Lingering && s.Shared:
		return "still accepted here, until routers send elsewhere"
	case a.Lingering:
		return "still accepted here for open connections, no longer answered for"
	case a.Bound && s.Holding:
		return "here, not yet answered for"
	case a.Bound:
		return "here in case it is needed, not answered for"
	case s.Holding:
		return "not here, although this node holds it"
	}
	return "not here"
}

// past says what happened since the start.
func (p *printer) past(r *Report) {
	e := r.Elections
	p.line("elections  %d seen: %d moved the seat, %d gave it to its holder again, %d found none",
		e.New+e.Same+e.Empty, e.New, e.Same, e.Empty)
	if r.Losses > 0 {
		p.line("losses     this node stopped holding %s", times(r.Losses))
	}
	for i := len(r.Takeovers) - 1; i >= max(0, len(r.Takeovers)-3); i-- {
		t := r.Takeovers[i]
		p.line("take-over  %s ago, epoch %d: %s", p.ago(t.At), t.Epoch, strings.Join(phases(t), ", "))
	}
}

// phases are the parts of a take-over that happened.
func phases(t agent.Takeover) []string {
	var out []string
	for _, ph := range []struct {
		name string
		ms   float64
	}{{"elected", t.Leased}, {"bound", t.Bound}, {"announced", t.Announced}} {
		switch {
		case ph.ms == 0 && ph.name == "bound":
			out = append(out, "bound before")
		case ph.ms >= 0:
			out = append(out, fmt.Sprintf("%s after %.1f ms", ph.name, ph.ms))
		}
	}
	return out
}

func (p *printer) cluster(r *Report) {
	st := r.Raft
	if st.Cluster == "" {
		p.line("cluster    none yet")
		return
	}
	p.line("cluster    %s, profile %s (%v), raft: %s in term %d", st.Cluster, st.Profile, st.T, st.State, st.Term)
	for _, m := range st.Members {
		p.line("member     %-10s %-21s %s", m.Name, m.Address, p.memberWords(m))
	}
}

func (p *printer) memberWords(m leader.Member) string {
	words := []string{"votes"}
	if !m.Voter {
		words = []string{"no vote yet"}
	}
	if m.Leader {
		words = append(words, "leads")
	}
	if m.Hello.Witness {
		words = append(words, "witness")
	}
	switch {
	case m.Self:
		words = append(words, "this node")
	case m.Alive && !m.Hello.Healthy:
		words = append(words, "alive, unhealthy")
	case m.Alive:
		words = append(words, "alive")
	case m.Heard.IsZero():
		words = append(words, "away, never heard since the start of this node")
	default:
		words = append(words, "away, last heard "+p.ago(m.Heard)+" ago")
	}
	if m.Error != "" && !m.Alive {
		return strings.Join(words, ", ") + ": " + m.Error
	}
	return strings.Join(words, ", ")
}

func (p *printer) health(r *Report) {
	p.line("healthy    %s", yes(r.Healthy, r.Unhealthy))
	for _, c := range r.Checks {
		p.line("check      %s: %s; %d of %d runs failed", c.Name, p.checkWords(c), c.Failures, c.Checks)
	}
	if r.RestMs > 0 {
		p.line("rest       the next move for health at the earliest in %s", round(time.Duration(r.RestMs*1e6)))
	}
}

func (p *printer) checkWords(c Check) string {
	words := "bad"
	switch {
	case !c.Known:
		words = "no verdict yet"
	case c.Healthy:
		words = "good"
	}
	words += " for " + p.ago(c.Since)
	if c.LastError != "" {
		words += ", last error: " + c.LastError
	}
	return words
}

func (p *printer) host(r *Report) {
	for _, l := range r.Mute.Links {
		p.line("mute       %s: %s", l.Name, yes(l.Muted, fmt.Sprintf("arp_ignore %d, arp_announce %d", l.ARPIgnore, l.ARPAnnounce)))
	}
	if len(r.Mute.Links) > 0 {
		p.line("wall       %s", yes(r.Mute.Wall, "the nftables table is not complete; arp_ignore and arp_announce have to do"))
	}
	for _, x := range r.Wire {
		if st := x.Strangers; st.Claims > 0 {
			p.line("stranger   %s on %s was claimed %s by others than the peers, last by %s %s ago; this node defended it %s",
				x.Addr, x.Link, times(st.Claims), st.MAC, p.ago(st.Last), times(x.Defended))
		}
	}
	if c := r.Cert; !c.NotAfter.IsZero() {
		p.line("cert       %s, expires %s", strings.Join(c.Names, ", "), p.expiry(c.NotAfter))
	}
	if r.Lease != nil || r.Election == "none" {
		return // seconds need no real-time scheduling
	}
	p.line("scheduling %s", map[bool]string{true: "real-time", false: "normal: a busy machine may disturb elections"}[r.Realtime])
}

func (p *printer) expiry(t time.Time) string {
	left := t.Sub(p.now)
	if left <= 0 {
		return t.Format(time.DateOnly) + ": no peer accepts it any more; `pintle raft certs` makes new ones"
	}
	return fmt.Sprintf("%s, in %s", t.Format(time.DateOnly), round(left))
}
