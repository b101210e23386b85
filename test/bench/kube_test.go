package main

import (
	"strings"
	"testing"

	"github.com/pintle-lb/pintle/test/plane"
)

func TestParseTerm(t *testing.T) {
	const good = `[{"Endpoint":"https://127.0.0.1:2379","Status":{"header":{"member_id":7,"raft_term":4},"leader":7,"raftIndex":9,"raftTerm":4}}]`
	if term, err := parseTerm([]byte(good)); err != nil || term != 4 {
		t.Errorf("got %d, %v; want 4", term, err)
	}
	for _, bad := range []string{"", "[]", "{}", `[{"Status":{}}]`} {
		if term, err := parseTerm([]byte(bad)); err == nil {
			t.Errorf("%q: got %d, want an error", bad, term)
		}
	}
}

// The table says what was not measured, and compares with what was.
func TestKubeTable(t *testing.T) {
	var s samples
	add := func(sys, metric string, v float64) { s.add(kind{kubeName, sys, "node", metric, ""}, v) }
	for _, v := range []float64{120, 100, 2100} {
		add("pintle-raft-fast", "outage", v)
		add("pintle-raft-fast", "lost", 5)
	}
	add("pintle-raft-fast", "outage-etcd", 2100)
	alone := kubeTable(s.figures())
	for _, want := range []string{"120 / 2100", "2100 / 2100", "KUBE_VIP=path"} {
		if !strings.Contains(alone, want) {
			t.Errorf("no %q in\n%s", want, alone)
		}
	}
	add("kube-vip-5s", "outage", 6000)
	add("kube-vip-5s", "lost", 200)
	both := kubeTable(s.figures())
	if want := "pintle-raft-fast / kube-vip-5s"; !strings.Contains(both, want) || !strings.Contains(both, "0.02") || strings.Contains(both, "KUBE_VIP") {
		t.Errorf("no ratio 0.02 of %s in\n%s", want, both)
	}
}

// A program that is not there is no error.
func TestPlaneSystems(t *testing.T) {
	for _, c := range []struct {
		kubeVIP string
		want    int
	}{{"", 4}, {"/nowhere/kube-vip", 4}, {"/proc/self/exe", 5}} {
		if got := namesOf(planeSystems("pintle", c.kubeVIP), planeSystem.Name); len(got) != c.want {
			t.Errorf("kube-vip %q: %v", c.kubeVIP, got)
		}
	}
}

func TestNarrow(t *testing.T) {
	for _, c := range []struct {
		systems, faults              string
		labs, planes, cases, onPlane int
		err                          string
	}{
		{"", "", 4, 4, 4, len(plane.Faults), ""},
		{"pintle-lease-2s", "node,cut", 0, 1, 1, 2, ""},
		{"pintle-fast,pintle-raft-fast", "kill", 1, 1, 1, 0, ""},
		{"kube-vip-5s", "", 0, 0, 0, 0, `unknown name "kube-vip-5s"`},
		{"", "fire", 0, 0, 0, 0, `unknown name "fire"`},
	} {
		p := plan{systems: systems("pintle", "keepalived"), planes: planeSystems("pintle", ""), cases: caseNames(), faults: plane.Faults, minute: 1}
		err := p.narrow(c.systems, c.faults)
		switch {
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%q %q: got %v, want %s", c.systems, c.faults, err, c.err)
		case c.err == "" && (err != nil || len(p.systems) != c.labs || len(p.planes) != c.planes || len(p.cases) != c.cases || len(p.faults) != c.onPlane):
			t.Errorf("%q %q: %v, %d systems and %d planes with %v and %v", c.systems, c.faults, err, len(p.systems), len(p.planes), p.cases, p.faults)
		}
	}
}
