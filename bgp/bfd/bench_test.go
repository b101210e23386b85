package bfd

import (
	"slices"
	"testing"
	"time"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// BenchmarkDetection measures, with real routers, how long each side needs to give the other one up after a silent cut of its
// direction: router-ms until the router says so, our-ms until we do. Medians and maxima; ns/op means nothing.
func BenchmarkDetection(b *testing.B) {
	for _, r := range routers()[:2] {
		for _, interval := range []time.Duration{50 * ms, 100 * ms, 300 * ms} {
			b.Run(r.name+"/3x"+interval.String(), func(b *testing.B) { benchDetection(b, r, interval) })
		}
	}
}

func benchDetection(b *testing.B, r router, interval time.Duration) {
	lab := newLab(b, 2)
	us, it := lab.Node(1), lab.Node(2)
	r.start(b, it.Host, us.Host, interval)
	peer := r.peersOf(us.Host, it.Host, interval)[0]
	st := inhabit(b, us.Host, peer)
	var theirs, ours []float64
	for range b.N {
		theirs = append(theirs, cutOnce(b, lab, st, peer, us, it))
		ours = append(ours, cutOnce(b, lab, st, peer, it, us))
	}
	for name, all := range map[string][]float64{"router": theirs, "our": ours} {
		slices.Sort(all)
		b.ReportMetric(all[len(all)/2], name+"-ms")
		b.ReportMetric(all[len(all)-1], name+"-max-ms")
	}
	b.ReportMetric(float64(st.status(peer.Name).Flaps)-2*float64(b.N), "false-alarms")
}

// cutOnce takes one direction away until the session is down, and returns after how many milliseconds it was.
func cutOnce(b *testing.B, lab *netlab.Lab, st *station, p Peer, from, to *netlab.Node) float64 {
	await(b, 20*time.Second, "up and settled", func() bool {
		s := st.status(p.Name)
		return s.State == Up && s.Expects == p.Interval && s.Sends == p.Interval && time.Since(s.Since) > time.Second
	})
	ends := len(st.ends())
	if err := lab.OneWay(from, to, true); err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	await(b, 20*time.Second, "down", func() bool { return len(st.ends()) > ends })
	if err := lab.OneWay(from, to, false); err != nil {
		b.Fatal(err)
	}
	return float64(st.ends()[ends].Sub(began).Microseconds()) / 1000
}

// ends are the instants at which the session was no longer up.
func (s *station) ends() (all []time.Time) {
	for _, c := range s.told() {
		if c.Old == Up {
			all = append(all, c.at)
		}
	}
	return all
}
