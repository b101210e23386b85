package node_test

import (
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/pintle-lb/pintle/internal/kube/kubetest"
	"github.com/pintle-lb/pintle/internal/status"
)

// newLeaseSite is a site in which a Lease elects; each machine has an API server of
// its own, and n3 never holds.
func newLeaseSite(t *testing.T) (*site, *kubetest.API) {
	s := newSite(t, layout{nodes: 3, profile: "default", addresses: "  - {address: 10.77.0.100, link: eth0}"})
	api := kubetest.New(t)
	config := api.Kubeconfig()
	for _, m := range s.machines {
		s.check(m.Do(func() error {
			ln, err := net.Listen("tcp", "127.0.0.1:6443")
			if err == nil {
				api.Serve(ln)
			}
			return err
		}))
		m.election = "election: lease\nlease: {duration: 2s, nodes: [{name: n3, candidate: false}]}\nkubernetes: {kubeconfig: " + config + "}\n"
		m.write()
	}
	return s, api
}

// onlyAnswer checks that one machine answers for the address, or with nil nobody.
func (s *site) onlyAnswer(m *machine) {
	s.t.Helper()
	var want []string
	if m != nil {
		want = []string{m.MAC().String()}
	}
	if got := whoHas(s.t, s.lab.Client(), "eth0", vip4); !slices.Equal(got, want) {
		s.t.Errorf("%q answer, want %q", got, want)
	}
}

// event waits for an event with a reason that contains a text.
func (s *site) event(api *kubetest.API, reason, text string) {
	s.t.Helper()
	s.wait("event "+reason, func() (bool, string) {
		var all []string
		for _, e := range api.Events() {
			if e.Reason == reason && strings.Contains(e.Message, text) {
				return true, ""
			}
			all = append(all, e.Reason+": "+e.Message)
		}
		return false, strings.Join(all, "; ")
	})
}

// TestLease: three nodes of which two may hold, elected by a Lease.
func TestLease(t *testing.T) {
	t.Parallel()
	s, api := newLeaseSite(t)
	watcher := s.machines[2]
	before := watcher.trace()
	for _, m := range s.machines {
		m.start()
	}
	h := s.settled()
	s.onlyAnswer(h)
	if api.Holder() != h.name {
		t.Errorf("the Lease names %q, and %s holds", api.Holder(), h.name)
	}
	s.event(api, "TookOver", h.name+" holds the address now, epoch 1")
	w := watcher.until("watches", func(r *status.Report) bool { return r.State == status.Watching && r.Ready })
	if w.Election != "lease" || w.Lease == nil || w.Lease.Object != "kube-system/pintle" || w.Raft.Cluster != "" || w.Realtime {
		t.Errorf("%+v", w)
	}

	out, err := h.cli("status")
	for _, want := range []string{"state      holder: the Kubernetes API acknowledges this node\n", "lease      kube-system/pintle of 2s, changed ",
		"server     https://127.0.0.1:6443 in use, answered "} {
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%v, no %q in\n%s", err, want, out)
		}
	}
	if out, err := h.cli("raft", "members"); err == nil || !strings.Contains(out, "pintle raft members: needs election: raft; ") {
		t.Errorf("%v\n%s", err, out)
	}
	if code, body := h.get("/metrics"); code != 200 || !strings.Contains(body, `pintle_api_requests_total{verb="write"} `) {
		t.Errorf("/metrics: %d\n%s", code, body)
	}

	s.leaseMoves(h)
	s.leaseFaults(api)

	s.claim(vip4, 3)
	s.event(api, "AddressClaimed", s.lab.Client().MAC().String()+", which is none of this cluster's nodes")

	for _, m := range s.machines {
		m.stop()
		if got := m.trace(); !slices.Equal(got.files, before.files) || !slices.Equal(got.sysctls, before.sysctls) || len(got.tables)+len(got.addrs) > 0 {
			t.Errorf("%s left behind: %v", m.name, got)
		}
	}
	for _, r := range api.Requests() {
		if r.Authorization != "Bearer "+kubetest.Token || r.Proto != "HTTP/1.1" {
			t.Fatalf("asked as %+v", r)
		}
	}
}

// leaseMoves moves the seat as planned, from either side.
func (s *site) leaseMoves(h *machine) {
	s.t.Helper()
	other := s.machines[0]
	if other == h {
		other = s.machines[1]
	}
	if out, err := h.cli("transfer", other.name); err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
	if got := s.settled(); got != other {
		s.t.Errorf("%s holds, and was not asked to", got.name)
	}
	if out, err := h.cli("transfer", h.name); err != nil { // the other one hears of it by the Lease
		s.t.Fatalf("%v\n%s", err, out)
	}
	if got := s.settled(); got != h {
		s.t.Errorf("%s holds, and was not asked to", got.name)
	}
	if out, err := h.cli("transfer", "n3"); err == nil || !strings.Contains(out, "n3") {
		s.t.Errorf("to one that never holds: %v\n%s", err, out)
	}
	s.onlyAnswer(s.settled())
}

// leaseFaults kills the holder and then takes the API away.
func (s *site) leaseFaults(api *kubetest.API) {
	s.t.Helper()
	h := s.settled()
	h.kill()
	next := s.settled()
	s.onlyAnswer(next)
	h.start()
	s.settled()

	api.Break(kubetest.Fault{Status: 403})
	for _, m := range s.machines {
		m.until("is cut off", func(r *status.Report) bool {
			return r.State == status.CutOff && !r.Ready && strings.Contains(r.Explain, "`pintle manifest rbac` prints the Role")
		})
	}
	s.onlyAnswer(nil)
	api.Break(kubetest.Fault{})
	s.onlyAnswer(s.settled())
}

// TestLeaseForeign: the first start on a network on which another machine has the
// address.
func TestLeaseForeign(t *testing.T) {
	t.Parallel()
	s, api := newLeaseSite(t)
	n1, owner := s.machines[0], s.lab.Client()
	s.foreign(owner, true)
	n1.start()
	n1.until("says that another has the address", func(r *status.Report) bool {
		return r.State == status.CutOff && !r.Ready && strings.Contains(r.Explain, "10.77.0.100 is in use by "+owner.MAC().String()+" on eth0")
	})
	if got := n1.trace(); len(got.addrs) > 0 || api.Holder() != "" {
		t.Errorf("it has %v, and the Lease names %q", got, api.Holder())
	}
	s.foreign(owner, false)
	n1.until("holds", func(r *status.Report) bool { return r.State == status.Holding && r.Ready && r.Lease.Error == "" })
	s.onlyAnswer(n1)
	n1.stop()
}

// TestLeaseStart: a node runs while there is no API server, and says what is wrong
// when there is one. What it lacks for events alone does not hinder it.
func TestLeaseStart(t *testing.T) {
	t.Parallel()
	s, api := newLeaseSite(t)
	n1 := s.machines[0]
	api.Break(kubetest.Fault{Status: 503})
	n1.start()
	n1.until("says that it cannot read the Lease", func(r *status.Report) bool {
		return r.State == status.Joining && !r.Ready && strings.Contains(r.Explain, "it has not read the Lease kube-system/pintle yet: ")
	})
	s.wait("a warning in the log", func() (bool, string) {
		return n1.logged("level=WARN msg=self-check") == 1 && n1.logged("kubernetes.servers[0]: ask https://127.0.0.1:6443: status 503") > 0, ""
	})

	api.Break(kubetest.Fault{May: func(a *authorizationv1.ResourceAttributes) bool { return a.Resource == "leases" }})
	n1.until("holds", func(r *status.Report) bool { return r.State == status.Holding && r.Ready })
	s.wait("the missing rights in the log", func() (bool, string) {
		return n1.logged("may not create events in kube-system") == 1 && n1.logged("may not get endpointslices.discovery.k8s.io kubernetes in default") == 1, ""
	})

	// `check` beside it says the same and is content; without the right to renew it is not.
	check := func() error { return n1.spawn(pintle, "check", "-c", n1.config).Wait() }
	if b, _ := os.ReadFile(n1.log); strings.Contains(string(b), "raft") {
		t.Errorf("speaks of raft:\n%s", b)
	}
	if err := check(); err != nil || n1.logged("\nwarning: may not create") != 1 || n1.logged("warning: a pintle of instance default is running here") != 1 {
		t.Errorf("check: %v", err)
	}
	api.Break(kubetest.Fault{May: func(a *authorizationv1.ResourceAttributes) bool { return a.Verb != "update" }, Skew: -time.Hour})
	if err := check(); err == nil || n1.logged("\nmay not update leases.coordination.k8s.io pintle in kube-system, to elect the holder") != 1 ||
		n1.logged("warning: the clock of this node is 1h0m") != 1 {
		t.Errorf("check: %v", err)
	}
	n1.stop()
}
