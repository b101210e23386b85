package netlab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Claims is what a Survey noticed between two marks.
type Claims struct {
	From, To Mark
	Every    time.Duration // the survey's interval
	Realtime bool          // it ran under SCHED_RR; if not, a busy machine adds to each Outage
	Of       []Claimed     // in the order of the survey's addresses
}

// A Claimed is what was noticed of one address.
type Claimed struct {
	Addr netip.Addr
	Sent int // questions
	Lost int // of these, not answered within a second

	// Outage is the longest time between two answers, and Stall between two questions, both as in a Window.
	Outage, Stall time.Duration
	// Tenures tell who claimed the address, in order: each begins with the first claim of a host after one of another. A claim is an
	// answer to whatever question, or a word to all.
	Tenures []Tenure
	Dual    []Dual // questions that two hosts answered

	first map[string]time.Duration // answer to a question, by host
}

// A Tenure is a row of claims by one host, or MAC address if it is no host's, that none by another interrupts.
type Tenure struct {
	Host     string
	From, To time.Duration // of the first and the last, since Claims.From
	Claims   int
}

// FirstFrom is the time from From to the first answer that came from the host.
func (c Claimed) FirstFrom(host string) (time.Duration, bool) {
	d, ok := c.first[host]
	return d, ok
}

// FirstOther finds the host, other than old, whose answer came first after From.
func (c Claimed) FirstOther(old string) (host string, after time.Duration, ok bool) {
	return firstOther(c.first, old)
}

// Returns are the tenures of hosts that had one before. If the address was not moved back in this time, each of them means
// that two hosts claimed it at once.
func (c Claimed) Returns() (again []Tenure) {
	had := map[string]bool{}
	for _, t := range c.Tenures {
		if had[t.Host] {
			again = append(again, t)
		}
		had[t.Host] = true
	}
	return again
}

// Rivals has a line for each address that two hosts claimed at once: they answered the same question, or one claimed it again
// after the other had. It is of use for a time in which no address was moved back to where it had been.
func (c Claims) Rivals() (lines []string) {
	for _, a := range c.Of {
		var words []string
		if len(a.Dual) > 0 {
			d := a.Dual[0]
			words = append(words, fmt.Sprintf("%d questions answered by two, the first by %s and %s after %v, %v after it was asked", len(a.Dual), d.A, d.B, d.At, d.Late))
		}
		if again := a.Returns(); len(again) > 0 {
			words = append(words, fmt.Sprintf("claimed by %s again after %v, when another had it", again[0].Host, again[0].From))
		}
		if len(words) > 0 {
			lines = append(lines, fmt.Sprintf("%s: %s; %d tenures, the first: %v", a.Addr, strings.Join(words, "; "), len(a.Tenures), a.Tenures[:min(4, len(a.Tenures))]))
		}
	}
	return lines
}

// Moved is the time from From until every address had been answered for by a host other than old, and which never were.
func (c Claims) Moved(old string) (last time.Duration, never []netip.Addr) {
	for _, a := range c.Of {
		_, after, ok := a.FirstOther(old)
		if !ok {
			never = append(never, a.Addr)
		}
		last = max(last, after)
	}
	return last, never
}

// Outage is the longest of any address.
func (c Claims) Outage() (most time.Duration) {
	for _, a := range c.Of {
		most = max(most, a.Outage)
	}
	return most
}

// Stall is the longest of any address: how far the survey itself was late.
func (c Claims) Stall() (most time.Duration) {
	for _, a := range c.Of {
		most = max(most, a.Stall)
	}
	return most
}

// Lost is how many of the questions, for all addresses, nobody answered.
func (c Claims) Lost() (n int) {
	for _, a := range c.Of {
		n += a.Lost
	}
	return n
}

// A claim is a frame that says where an address is, as an answer to question seq, or to none of ours (-1).
type claim struct {
	at, seq int64
	by      macAddr
}

// A record is what is known of one address: when its questions were sent, and the claims in the order in which they came.
type record struct {
	first  int64   // number of sent[0]
	sent   []int64 // times are of now's clock
	claims []claim

	lastAt int64 // of the newest answer
	lastBy macAddr
}

func (r *record) newest() int64 { return r.first + int64(len(r.sent)) - 1 }

// ask records the next question. When there are more than limit, the older half of them is forgotten.
func (r *record) ask(t int64, limit int) {
	if len(r.sent) >= limit {
		drop := len(r.sent) / 2
		r.sent, r.first = slices.Delete(r.sent, 0, drop), r.first+int64(drop)
		r.claims = slices.DeleteFunc(r.claims, func(c claim) bool { return c.at < r.sent[0] })
	}
	r.sent = append(r.sent, t)
}

func (r *record) claim(c claim) {
	r.claims = append(r.claims, c)
	if c.seq >= 0 {
		r.lastAt, r.lastBy = c.at, c.by
	}
}

// since copies what there is from an instant on.
func (r *record) since(t int64) record {
	from, _ := slices.BinarySearch(r.sent, t)
	c := record{first: r.first + int64(from), sent: slices.Clone(r.sent[from:])}
	for _, k := range r.claims {
		if k.at >= t {
			c.claims = append(c.claims, k)
		}
	}
	return c
}

// pending says whether an answer may still come to any question sent up to an instant.
func (r *record) pending(to, now int64) bool {
	answered := map[int64]bool{}
	for _, c := range r.claims {
		answered[c.seq] = true
	}
	for i, t := range r.sent {
		if t <= to && now-t < int64(answerWait) && !answered[r.first+int64(i)] {
			return true
		}
	}
	return false
}

// measure computes what was noticed of an address, from a record of the time and of the second before it.
func (r *record) measure(addr netip.Addr, c Claims, name func(macAddr) string) Claimed {
	m := Claimed{Addr: addr, first: map[string]time.Duration{}}
	answers := make([]claim, len(r.sent)) // the first to each question
	dual := map[int64]bool{}
	for _, k := range r.claims {
		m.see(k, c, name)
		i := k.seq - r.first
		switch {
		case k.seq < 0 || i < 0 || i >= int64(len(answers)):
		case answers[i].by == 0:
			answers[i] = k
		case answers[i].by != k.by && !dual[i] && r.sent[i] >= int64(c.From) && r.sent[i] <= int64(c.To):
			dual[i] = true
			m.Dual = append(m.Dual, Dual{At: Mark(k.at).Sub(c.From), Late: Mark(k.at).Sub(Mark(r.sent[i])), A: name(answers[i].by), B: name(k.by)})
		}
	}
	var at []int64
	for i, sent := range r.sent {
		answered := answers[i].by != 0 && answers[i].at-sent <= int64(answerWait)
		if answered {
			at = append(at, answers[i].at)
		}
		if sent >= int64(c.From) && sent <= int64(c.To) {
			m.Sent++
			if !answered {
				m.Lost++
			}
		}
	}
	m.Outage, m.Stall = longest(at, c.From, c.To, c.Every), longest(r.sent, c.From, c.To, c.Every)
	return m
}

// see notes who claimed between the marks, whenever the question was asked.
func (m *Claimed) see(k claim, c Claims, name func(macAddr) string) {
	if k.at < int64(c.From) || k.at > int64(c.To) {
		return
	}
	host, after := name(k.by), Mark(k.at).Sub(c.From)
	if n := len(m.Tenures); n == 0 || m.Tenures[n-1].Host != host {
		m.Tenures = append(m.Tenures, Tenure{Host: host, From: after})
	}
	t := &m.Tenures[len(m.Tenures)-1]
	t.To = after
	t.Claims++
	if _, ok := m.first[host]; !ok && k.seq >= 0 {
		m.first[host] = after
	}
}
