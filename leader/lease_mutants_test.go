package leader

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// leaseMutants are the rules of the Lease elector, each taken out of the source.
var leaseMutants = []struct {
	name  string
	edits []string // old, new, old, new, ...
}{
	{"lease longer than the margin allows", []string{"return t / 10 * 9 }", "return t / 10 * 12 }"}},
	{"no margin for clocks", []string{"return t / 10 * 9 }", "return t / 100 * 104 }"}},
	{"counts from the answer", []string{"until := w.at.Add(hold(b.t))", "until := now.Add(hold(b.t))"}},
	{"a change is no renewal", []string{"s.at, s.wait = now, max", "s.at, s.wait = now.Add(-time.Second), max"}},
	{"takes what it has just made", []string{"s.at, s.wait = now, max(v.t, s.record.t())", "s.at, s.wait = now, s.record.t()", "s.wait = max(s.wait, v.cur.record.t())", "_ = s",
		"if b.chosen(now) || ", "if b.chosen(now) || b.reserved() && !b.unprobed() || "}},
	{"waits for its own T only", []string{"s.at, s.wait = now, max(v.t, s.record.t())", "s.at, s.wait = now, v.t", "s.wait = max(s.wait, v.cur.record.t())", "_ = s"}},
	{"trusts what it saw long ago", []string{"v.cur.at = now // too", "// too"}},
	{"hands over again what came back", []string{"r.Seq >= b.done && ", "", "b.rival < b.epoch && ", ""}},
	{"believes any release", []string{"return p != nil && now < p.until && r.released() &&", "return r.released() || p != nil &&"}},
	{"takes its old tenure up again", []string{"return !b.gone && b.epoch != 0 && now < b.sent.Add(hold(b.t))", "return b.epoch != 0"}},
	{"inherits from a stranger of its name", []string{"return b.heir != \"\" && r.Heir == b.heir", "return b.heir != \"\""}},
	{"claims after it resigned", []string{"		b.lease.Revoke()\n		b.lease = nil\n	}\n}\n\n// raise", "	}\n}\n\n// raise"}},
}

// rollMutants are those that the simulation of a Roll is to notice.
var rollMutants = []struct {
	name, file string
	edits      []string
}{
	{"fences without a wait", "rollrule.go", []string{"at := w.cur.at.Add(wait)", "at := w.cur.at.Add(0 * wait)"}},
	{"fences by less than T", "rollrule.go", []string{"at := w.cur.at.Add(wait)", "at := w.cur.at.Add(wait * 7 / 10)"}},
	{"fences without raising the epoch", "rollrule.go", []string{"max(w.high+1, w.need+1, floor)", "max(w.high, w.need)"}},
	{"fences what is gone by making it", "rollrule.go", []string{"		return doReserve, 0\n	}\n	return doFence, 0", "		return doFence, 0\n	}\n	return doFence, 0"}},
	{"holds in an epoch that is used up", "leaserule.go", []string{"	if b.epoch <= b.above {\n		b.lease.Revoke()", "	if b.epoch <= b.above {"}},
}

// TestLeaseSimulationFindsMutants expects the simulation to fail for each.
func TestLeaseSimulationFindsMutants(t *testing.T) {
	for _, m := range leaseMutants {
		t.Run(m.name, func(t *testing.T) { mustDie(t, "^TestLeaseSimulation$", "leaserule.go", m.edits) })
	}
}

func TestRollSimulationFindsMutants(t *testing.T) {
	for _, m := range rollMutants {
		t.Run(m.name, func(t *testing.T) { mustDie(t, "^TestRollSimulation$", m.file, m.edits) })
	}
}

func mustDie(t *testing.T, test, name string, edits []string) {
	if testing.Short() {
		t.Skip("builds the simulation once for each mutant")
	}
	file, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(src)
	for i := 0; i < len(edits); i += 2 {
		if n := strings.Count(text, edits[i]); n != 1 {
			t.Fatalf("%s has %q %d times, want once: bring the list up to date", file, edits[i], n)
		}
		text = strings.Replace(text, edits[i], edits[i+1], 1)
	}
	dir := t.TempDir()
	changed, overlay := filepath.Join(dir, "mutant.go"), filepath.Join(dir, "overlay.json")
	list, err := json.Marshal(map[string]any{"Replace": map[string]string{file: changed}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{changed: []byte(text), overlay: list} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-vet=off", "-failfast", "-overlay", overlay, "-run", test, ".")
	cmd.Env = append(os.Environ(), "SIM_RUNS=1500", "SIM_SEED=1")
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatal("the simulation does not notice")
	}
	notices := []string{"both hold", "was seen", "is not held", "no holder that all know", "holds after Set(nil)", " spins\n"}
	if !slices.ContainsFunc(notices, func(n string) bool { return strings.Contains(string(out), n) }) {
		t.Fatalf("%v\n%s", err, out)
	}
}
