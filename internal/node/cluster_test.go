package node_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/internal/status"
	"github.com/pintle-lb/pintle/leader/pki"
)

var (
	vip4 = netip.MustParseAddr("10.77.0.100")
	vip6 = netip.MustParseAddr("fd77::100")
	vip2 = netip.MustParseAddr("10.78.0.100") // on a second link
)

// three is the cluster that most tests share: making one takes as long as RFC 5227
// wants. Three machines with two links each, addresses of both families, and a
// check that fails while a file is there.
type three struct {
	*site
	before        map[*machine]trace
	probe, probe6 *netlab.Probe
}

func (s *three) sick(m *machine) string { return filepath.Join(s.dir, m.name, "sick") }

func newThree(t *testing.T) *three {
	s := &three{before: map[*machine]trace{}}
	s.site = newSite(t, layout{nodes: 3, profile: "default",
		addresses: "  - {address: 10.77.0.100, link: eth0}\n  - {address: \"fd77::100\", link: eth0}\n  - {address: 10.78.0.100, link: auto}",
		extra: func(m *machine) string {
			return fmt.Sprintf(`holdDown: 4s
health:
  - {name: file, command: [/bin/sh, -c, "test ! -e %s/sick || { echo is sick; exit 1; }"], interval: 500ms, timeout: 500ms, rise: 1, fall: 2}
`, filepath.Dir(m.config))
		}})
	for i, m := range s.machines {
		m.addLink(fmt.Sprintf("10.78.0.%d/24", i+1))
		m.spawn(pintle, "demo-echo", "--number", fmt.Sprint(m.Number()))
		s.before[m] = m.trace()
		m.start()
	}
	var err error
	s.probe, err = s.lab.StartProbe(vip4, 5*time.Millisecond)
	s.check(err)
	s.probe6, err = s.lab.StartProbe(vip6, 5*time.Millisecond)
	s.check(err)
	return s
}

// TestThreeNodes is the life of a cluster.
func TestThreeNodes(t *testing.T) {
	s := newThree(t)
	from := s.probe.Mark()
	s.settled()
	for _, step := range []struct {
		name string
		do   func(*testing.T, *three)
	}{
		{"one answers", oneAnswers},
		{"probes and metrics", probesAndMetrics},
		{"commands", commands},
		{"check beside", checkBeside},
		{"certificates", certificates}, // begins, and is looked at last
		{"stranger", stranger},
		{"health", healthMoves},
		{"all unhealthy", allUnhealthy},
		{"carrier", carrierLost},
		{"term", termLeavesNothing},
		{"kill", killIsSwept},
		{"bind ready", bindReady},
		{"restart of all", restartAll},
		{"certificates again", certificatesInUse},
		{"remove", removed},
	} {
		if !t.Run(step.name, func(t *testing.T) {
			outer := s.t
			s.site.t = t
			defer func() { s.site.t = outer }()
			s.settled()
			step.do(t, s)
		}) {
			break
		}
	}
	if w := s.probe.Report(from, s.probe.Mark()); len(w.Dual) > 0 {
		t.Errorf("two answered one question: %+v", w.Dual)
	}
	for _, m := range s.machines {
		if m.logged("link eth0 has no carrier") > 0 {
			t.Errorf("%s said that eth0 has no carrier, which was never so", m.name)
		}
	}
}

// all addresses as they are on lo.
var all = []string{"10.77.0.100/32", "10.78.0.100/32", "fd77::100/128"}

func oneAnswers(t *testing.T, s *three) {
	h := s.settled()
	s.answersAlone(h)
	for _, m := range s.machines {
		want := []string(nil)
		if m == h {
			want = all
		}
		s.wait("addresses of "+m.name, func() (bool, string) {
			got := m.trace().addrs
			return slices.Equal(got, want), fmt.Sprint(got)
		})
	}
	r, err := h.report()
	s.check(err)
	if !r.Mute.Wall || len(r.Mute.Links) != 3 || r.State != status.Holding {
		t.Errorf("holder: %s, mute %+v", r.State, r.Mute)
	}
	for _, link := range []string{"eth0", "eth1"} {
		if want := link + "/arp_ignore=1"; !slices.Contains(h.trace().sysctls, want) {
			t.Errorf("no %s in %q", want, h.trace().sysctls)
		}
	}
	info, err := os.Stat(status.Socket(h.runDir, "default"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("status socket: %v %v", info.Mode(), err)
	}
}

// answersAlone checks that one machine answers for every address, and no other.
func (s *three) answersAlone(h *machine) {
	s.t.Helper()
	if got := whoHas(s.t, s.lab.Client(), "eth0", vip4); !slices.Equal(got, []string{h.MAC().String()}) {
		s.t.Errorf("%s is answered by %q, want %s at %s", vip4, got, h.name, h.MAC())
	}
	for _, m := range s.machines {
		want := 0
		if m == h {
			want = 1
		}
		if got := whoHas(s.t, m.Host, "far1", vip2); len(got) != want {
			s.t.Errorf("%s on eth1 of %s is answered by %q", vip2, m.name, got)
		}
	}
	s.wait("client is served by "+h.name, func() (bool, string) {
		a, b, c := s.probe.LastNode(), s.probe.Serving(), s.probe6.Serving()
		return a == h.name && b == h.name && c == h.name, fmt.Sprintf("%q by ARP, %q by UDP, %q by IPv6", a, b, c)
	})
}

func probesAndMetrics(t *testing.T, s *three) {
	h := s.settled()
	for _, path := range []string{"/livez", "/readyz"} {
		if code, body := h.get(path); code != 200 || body != "ok\n" {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	code, body := h.get("/metrics")
	for _, want := range []string{`pintle_seat_holding{seat="control-plane"} 1`, `pintle_address_claimed{address="fd77::100"} 1`,
		`pintle_check_healthy{check="file"} 1`, `pintle_link_carrier{link="eth1"} 1`, "pintle_ready 1", "go_goroutines"} {
		if code != 200 || !strings.Contains(body, want) {
			t.Errorf("no %s in %d\n%s", want, code, body)
		}
	}
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	s.check(err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	if code, body := s.others(h)[0].get("/metrics"); code != 200 || !strings.Contains(body, `pintle_seat_holding{seat="control-plane"} 0`) ||
		!strings.Contains(body, `pintle_seat_holder_info{holder="`+h.name+`",seat="control-plane"} 1`) {
		t.Errorf("of another: %d\n%s", code, body)
	}
}

func commands(t *testing.T, s *three) {
	h := s.settled()
	next := s.others(h)[0]
	run := func(m *machine, args ...string) string {
		t.Helper()
		out, err := m.cli(args...)
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return out
	}
	if out := run(next, "raft", "members"); strings.Count(out, "\n") != 4 || !strings.Contains(out, h.name+" ") || strings.Count(out, "yes") != 3 {
		t.Errorf("members:\n%s", out)
	}
	run(next, "raft", "transfer", next.name) // asked of a node that does not hold
	next.until("holds after a transfer", func(r *status.Report) bool { return r.State == status.Holding })
	s.settled()
	s.answersAlone(next)
	out := run(next, "status")
	for _, want := range []string{"state      holder: a majority acknowledges this node", "take-over  ", "announced after ", "ready      yes\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if out, err := next.cli("raft", "transfer", next.name); err == nil {
		t.Errorf("moved to itself: %s", out)
	}
	if out, err := next.cli("raft", "remove", next.name); err == nil || !strings.Contains(out, "move the seat first") {
		t.Errorf("removed the leader: %v %s", err, out)
	}
	run(h, "raft", "profile", "fast")
	for _, m := range s.machines {
		m.until("has the new profile", func(r *status.Report) bool { return r.Raft.Profile == "fast" })
	}
	s.settled()
	run(h, "raft", "profile", "default")
	for _, m := range s.machines {
		m.until("has the old profile", func(r *status.Report) bool { return r.Raft.Profile == "default" })
	}
}

// checkBeside: the address is in use by the cluster, and that is as it should be;
// also for a machine whose own Pintle does not run.
func checkBeside(t *testing.T, s *three) {
	m := s.others(s.settled())[0]
	m.stop()
	out := filepath.Join(s.dir, "checked")
	check := func() (string, error) {
		t.Helper()
		p := m.spawn("/bin/sh", "-c", fmt.Sprintf("exec %s check -c %s >%s 2>&1", pintle, m.config, out))
		<-p.Done()
		b, err := os.ReadFile(out)
		s.check(err)
		return string(b), p.Wait()
	}
	if text, err := check(); err != nil || strings.Contains(text, "in use") {
		t.Errorf("beside a running cluster: %v\n%s", err, text)
	}
	m.start()
	s.settled()
	if text, err := check(); err != nil || !strings.Contains(text, "a pintle of instance default is running here") {
		t.Errorf("beside itself: %v\n%s", err, text)
	}
}

// certificates replaces the files of all nodes, under a new end.
func certificates(t *testing.T, s *three) {
	for _, m := range s.machines {
		s.check(pki.Issue(filepath.Join(s.dir, "pki"), m.name, nil, 6*time.Hour))
	}
}

func certificatesInUse(t *testing.T, s *three) {
	for _, m := range s.machines {
		m.until("has its new certificate", func(r *status.Report) bool { return time.Until(r.Cert.NotAfter) < 7*time.Hour })
	}
	if s.machines[0].logged("raft certificates replaced") == 0 {
		t.Error("not replaced while it ran")
	}
}

func stranger(t *testing.T, s *three) {
	h := s.settled()
	s.claim(vip4, 3)
	r := h.until("has defended", func(r *status.Report) bool {
		return slices.ContainsFunc(r.Wire, func(w status.Wire) bool { return w.Addr == vip4 && w.Strangers.Claims == 3 && w.Defended > 0 })
	})
	if r.State != status.Holding {
		t.Errorf("it is %s", r.State)
	}
	_, body := h.get("/metrics")
	if !strings.Contains(body, `pintle_foreign_claims_total{address="10.77.0.100",link="eth0"} 3`) ||
		strings.Contains(body, `pintle_defences_total{address="10.77.0.100",link="eth0"} 0`) {
		t.Errorf("not counted:\n%s", body)
	}
	if n := h.logged("another station claims our address"); n != 1 {
		t.Errorf("%d warnings, want 1", n)
	}
	s.answersAlone(h)
}

func healthMoves(t *testing.T, s *three) {
	h := s.settled()
	s.check(os.WriteFile(s.sick(h), nil, 0o644))
	yielded := time.Now()
	r := h.until("is unhealthy and has handed over", func(r *status.Report) bool { return r.State == status.Unhealthy && r.Seats[0].Holder != "" })
	if !strings.Contains(r.Unhealthy, "check file") || r.Ready || len(r.Checks) != 1 || !strings.Contains(r.Checks[0].LastError, "is sick") {
		t.Errorf("unhealthy %q, checks %+v", r.Unhealthy, r.Checks)
	}
	if code, body := h.get("/readyz"); code != 503 || !strings.Contains(body, "check file") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	// It is well, has the seat again, and falls ill again: not before the hold-down has passed does it hand over.
	s.check(os.Remove(s.sick(h)))
	h.until("is well again", func(r *status.Report) bool { return r.Healthy })
	s.settled()
	if out, err := h.cli("raft", "transfer", h.name); err != nil {
		t.Fatalf("transfer: %v\n%s", err, out)
	}
	h.until("holds again", func(r *status.Report) bool { return r.State == status.Holding })
	s.check(os.WriteFile(s.sick(h), nil, 0o644))
	h.until("has handed over again", func(r *status.Report) bool { return !r.Healthy && !r.Seats[0].Holding })
	if early := time.Since(yielded); early < 4*time.Second {
		t.Errorf("handed over again after %v, with a hold-down of 4 s", early)
	}
	s.check(os.Remove(s.sick(h)))
	h.until("is well again", func(r *status.Report) bool { return r.Healthy })
}

func allUnhealthy(t *testing.T, s *three) {
	h := s.settled()
	for _, m := range append(s.others(h), h) { // the holder last: nobody could relieve it
		s.check(os.WriteFile(s.sick(m), nil, 0o644))
		m.until("is unhealthy", func(r *status.Report) bool { return !r.Healthy })
	}
	h.until("knows that nobody could take it", func(r *status.Report) bool {
		return r.State == status.Holding && strings.Contains(r.Explain, "no healthy node could take it")
	})
	s.answersAlone(h)
	for _, m := range append([]*machine{h}, s.others(h)...) { // the holder first: else another would relieve it
		s.check(os.Remove(s.sick(m)))
		m.until("is well again", func(r *status.Report) bool { return r.Healthy })
	}
	if s.settled() != h {
		t.Error("it moved all the same")
	}
}

func carrierLost(t *testing.T, s *three) {
	h := s.settled()
	// A move for health may not be due yet.
	h.until("may move for health", func(r *status.Report) bool { return r.RestMs == 0 })
	h.carrier(false)
	r := h.until("has handed over", func(r *status.Report) bool { return r.State == status.Unhealthy && r.Seats[0].Holder != "" })
	if !strings.Contains(r.Unhealthy, "link eth1 has no carrier") || r.Links["eth1"] || !r.Links["eth0"] {
		t.Errorf("unhealthy %q, links %v", r.Unhealthy, r.Links)
	}
	h.carrier(true)
	if s.settled() == h {
		t.Error("it still holds")
	}
	s.answersAlone(s.settled())
}

func termLeavesNothing(t *testing.T, s *three) {
	h := s.settled()
	h.stop()
	if got := h.trace(); !reflect.DeepEqual(got, s.before[h]) {
		t.Errorf("left behind on %s:\n%v\nbefore it ran:\n%v", h.name, got, s.before[h])
	}
	entries, err := os.ReadDir(h.stateDir)
	s.check(err)
	for _, e := range entries {
		if !slices.Contains([]string{"identity.json", "state.json", "snapshots", "lock"}, e.Name()) {
			t.Errorf("left %s in the state directory", e.Name())
		}
	}
	s.answersAlone(s.settled())
	h.start()
	s.settled()
}

func killIsSwept(t *testing.T, s *three) {
	h := s.settled()
	h.kill()
	next := s.settled()
	s.answersAlone(next)
	if got := h.trace(); !slices.Equal(got.addrs, all) || len(got.tables) == 0 {
		t.Errorf("after SIGKILL: %v", got)
	}
	h.start()
	s.settled()
	s.wait("sweep", func() (bool, string) { got := h.trace().addrs; return len(got) == 0, fmt.Sprint(got) })
	if n := h.logged("left by an earlier process"); n != len(all) {
		t.Errorf("%d lines of what was swept, want %d", n, len(all))
	}
	s.answersAlone(s.settled())
}

// bindReady changes the configuration of one machine after the other.
func bindReady(t *testing.T, s *three) {
	for _, m := range s.machines {
		m.extra += "bind: ready\n"
		m.write()
		m.stop()
		m.start()
		s.settled()
	}
	for _, m := range s.machines {
		s.wait(m.name+" has the addresses", func() (bool, string) { got := m.trace().addrs; return slices.Equal(got, all), fmt.Sprint(got) })
	}
	h := s.settled()
	s.answersAlone(h)
	h.stop()
	if got := h.trace(); !reflect.DeepEqual(got, s.before[h]) {
		t.Errorf("left behind on %s:\n%v", h.name, got)
	}
	s.answersAlone(s.settled())
	h.start()
}

func restartAll(t *testing.T, s *three) {
	r, err := s.settled().report()
	s.check(err)
	for _, m := range s.machines {
		m.kill()
	}
	for _, m := range s.machines {
		m.start()
	}
	again, err := s.settled().report()
	s.check(err)
	if again.Raft.Cluster != r.Raft.Cluster || again.Seats[0].Epoch <= r.Seats[0].Epoch || len(again.Raft.Members) != 3 {
		t.Errorf("it was cluster %s, epoch %d, and is %s, %d, of %d members", r.Raft.Cluster, r.Seats[0].Epoch,
			again.Raft.Cluster, again.Seats[0].Epoch, len(again.Raft.Members))
	}
	s.answersAlone(s.settled())
}

func removed(t *testing.T, s *three) {
	h := s.settled()
	rest := s.others(h)
	gone := rest[0]
	if out, err := h.cli("raft", "remove", gone.name); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	h.until("has two members", func(r *status.Report) bool { return len(r.Raft.Members) == 2 })
	gone.stop()
	if out, err := h.cli("raft", "remove", gone.name); err == nil || !strings.Contains(out, gone.name+" is not a member") {
		t.Errorf("removed twice: %v %s", err, out)
	}
	// With a new state directory it joins as a new member.
	s.check(os.Rename(gone.stateDir, gone.stateDir+".old"))
	gone.start()
	h.until("has three members again", func(r *status.Report) bool { return len(r.Raft.Members) == 3 })
	s.settled()
}
