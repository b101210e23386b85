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
// parts.
func (r *Report) Text(w io.Writer) error {
	p := &printer{w: w}
	p.line("node       %s, instance %s, pintle %s, up %s", r.Node, r.Instance, r.Version, ago(r.Started))
	p.line("ready      %s", yes(r.Ready, r.NotReady))
	p.seats(r)
	p.cluster(r)
	p.host(r)
	return p.err
}

type printer struct {
	w   io.Writer
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

func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return time.Since(t).Round(time.Second).String()
}

func (p *printer) seats(r *Report) {
	for _, s := range r.Seats {
		p.line("holder     %s since %s (epoch %d): %s", cmp.Or(s.Holder, "nobody known"), ago(s.Since), s.Epoch, s.Why)
		if s.Holding {
			p.line("lease      %.0f ms left, renewed all the time", s.LeaseMs)
		}
		for _, a := range s.Addresses {
			p.line("address    %s on %s: %s", a.Address, strings.Join(a.Links, ", "), addressWords(a, s.Holding))
		}
	}
	if len(r.Seats) == 0 {
		p.line("holder     this node never holds the address")
	}
	for i := len(r.Takeovers) - 1; i >= max(0, len(r.Takeovers)-3); i-- {
		t := r.Takeovers[i]
		p.line("take-over  %s ago, epoch %d: elected after %.1f ms, bound after %.1f ms, announced after %.1f ms",
			ago(t.At), t.Epoch, t.Leased, t.Bound, t.Announced)
	}
}

func addressWords(a agent.AddressStatus, holding bool) string {
	switch {
	case a.Claimed:
		return "bound, answered for and announced here"
	case a.Lingering:
		return "still accepted here, no longer announced"
	case a.Bound:
		return "bound here, not announced"
	case holding:
		return "being bound"
	}
	return "not here"
}

func (p *printer) cluster(r *Report) {
	st := r.Raft
	if st.Cluster == "" {
		p.line("cluster    not joined: %s", st.Phase)
		return
	}
	p.line("cluster    %s, profile %s (%v), %s in term %d", st.Cluster, st.Profile, st.T, st.State, st.Term)
	for _, m := range st.Members {
		p.line("member     %-12s %-21s %s", m.Name, m.Address, memberWords(m))
	}
}

func memberWords(m leader.Member) string {
	words := []string{"votes"}
	if !m.Voter {
		words = []string{"no vote yet"}
	}
	if m.Leader {
		words = append(words, "leads")
	}
	switch {
	case m.Self:
		words = append(words, "this node")
	case !m.Alive && m.Error != "":
		words = append(words, fmt.Sprintf("away, last heard %s ago: %s", ago(m.Heard), m.Error))
	case !m.Alive:
		words = append(words, "away")
	default:
		words = append(words, "alive")
	}
	if m.Alive && !m.Self && !m.Hello.Healthy {
		words = append(words, "unhealthy")
	}
	if m.Hello.Witness {
		words = append(words, "witness")
	}
	return strings.Join(words, ", ")
}

func (p *printer) host(r *Report) {
	p.line("health     %s", yes(r.Healthy, r.Unhealthy))
	for _, c := range r.Checks {
		p.line("check      %s: %s, %d of %d failed", c.Name, yes(c.Healthy, c.LastError), c.Failures, c.Checks)
	}
	for _, l := range r.Mute.Links {
		p.line("mute       %s: arp_ignore %d, arp_announce %d, %s", l.Name, l.ARPIgnore, l.ARPAnnounce, yes(l.Muted, "the kernel may answer"))
	}
	for _, x := range r.Wire {
		if x.Heard > 0 {
			p.line("foreign    %s on %s was claimed %d times by others, last by %s (%s) %s ago; defended %d times",
				x.Addr, x.Link, x.Heard, x.LastMAC, cmp.Or(x.Peer, "no peer of this cluster"), ago(x.LastHeard), x.Defended)
		}
	}
	if !r.Cert.NotAfter.IsZero() {
		p.line("cert       %s, expires %s, in %d days", strings.Join(r.Cert.Names, ", "), r.Cert.NotAfter.Format(time.DateOnly),
			int(time.Until(r.Cert.NotAfter).Hours()/24))
	}
	p.line("scheduling %s", map[bool]string{true: "real-time", false: "normal: a busy machine may disturb elections"}[r.Realtime])
}
