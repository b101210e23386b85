package agent

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A mutant is one rule of safety taken out of the real source.
type mutant struct {
	name  string
	file  string
	edits []string // old, new, old, new, ...
}

const (
	wordFile  = "../../leader/word.go"
	leaseFile = "../../leader/leader.go"
)

// Some rules guard the same thing twice (a voter's promise forbids both the vote
// and the acknowledgement, a restarted voter is silent and skips a term): such
// pairs go together.
var mutants = []mutant{
	{"lease longer than the margin allows", wordFile, []string{"return t / 10 * 9 }", "return t / 10 * 12 }"}},
	{"no margin for clocks", wordFile, []string{"return t / 10 * 9 }", "return t / 100 * 106 }"}},
	{"keeps no promise", wordFile, []string{"now >= w.until || w.freed(a) {", "now >= 0 {"}},
	{"a promise cut short", wordFile, []string{"w.until = max(w.until, now.Add(w.least))", "w.until = max(w.until, now.Add(w.least/2))"}},
	{"promises the T it began with", wordFile, []string{"w.least = max(w.least, a.T)", "_ = a.T", "	w.least = t\n	if now", "	if now"}},
	{"forgets its promises in a restart", wordFile, []string{"w.silent = now.Add(t)", "w.silent = now", "w.vague = votesLost", "w.vague = false"}},
	{"a release does not end the term", wordFile, []string{"	w.End(term)\n	return &Release", "	return &Release"}},
	{"counts one voter as a majority", wordFile, []string{"return ends[len(ends)/2]", "return ends[0]"}},
	{"a lease that never runs out", leaseFile, []string{"return l != nil && int64(l.clock()) < l.until.Load()", "return l != nil && l.until.Load() != 0"}},
	{"announces before it holds", "plan.go", []string{"if seat.Valid && !leave && f.holds(a.Prefix) {", "if seat.Valid && !leave {"}},
	{"does not wait for the routers", "plan.go", []string{"if lease != nil && (waited ||", "if lease != nil && (waited || true ||"}},
	{"routes that outlive the lease", "plan.go", []string{"want.advertise(c, route)", "want.advertise(c, Route{Prefix: a.Prefix})"}},
	{"resigns before the last route is withdrawn", "facts.go", []string{"slices.ContainsFunc(f.Doing.Targets, claimed) || f.routed(c)", "slices.ContainsFunc(f.Doing.Targets, claimed)"}},
	{"resigns before the last claim", "plan.go", []string{"if !leave || f.claims(c) {", "if !leave {"}},
	{"lets go before the last claim", "plan.go", []string{"case s.Valid: //", "case s.Valid && !f.Draining && !f.Leaves(c.Seat): //"}},
	{"never lets go", "plan.go", []string{"return f.fit() && f.accepts", "return true || f.accepts"}},
	{"keeps the seat from a healthier node", "plan.go", []string{"return f.moving(seat) || f.Sick(seat)", "return false"}},
}

// TestSimFindsMutants takes the rules out of the source one by one and expects
// the simulation to fail each time.
func TestSimFindsMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the simulation once for each mutant")
	}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) { m.mustDie(t) })
	}
}

func (m mutant) mustDie(t *testing.T) {
	dir := t.TempDir()
	file, err := filepath.Abs(m.file)
	if err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(m.edits); i += 2 {
		if n := strings.Count(string(src), m.edits[i]); n != 1 {
			t.Fatalf("%s has %q %d times, want once: bring the list up to date", m.file, m.edits[i], n)
		}
		src = []byte(strings.Replace(string(src), m.edits[i], m.edits[i+1], 1))
	}
	changed := filepath.Join(dir, "mutant.go")
	write(t, changed, src)
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{file: changed}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "overlay.json"), overlay)

	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-vet=off", "-overlay", filepath.Join(dir, "overlay.json"), "-run", "^TestSim$", ".")
	cmd.Env = append(os.Environ(), "SIM_RUNS=3000", "SIM_SEED=1")
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatalf("the simulation does not notice")
	}
	if !strings.Contains(string(out), "--- FAIL: TestSim") {
		t.Fatalf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, ": SIM_SEED=") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
