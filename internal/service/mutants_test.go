package service

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

// mutants are rules of the Controller, each taken out of the source.
var mutants = []struct {
	name, file string
	edits      []string // old, new, old, new, ...
}{
	// Who claims.
	{"claims in any epoch", "hold.go", []string{"node != h.Node || epoch != h.Epoch || h.Epoch == 0 ||", "node != h.Node || epoch > h.Epoch || h.Epoch == 0 ||"}},
	{"claims what it gave away", "hold.go", []string{"|| r.Object.Status.Turn <= h.gone[r.Addr] ||", "||"}},
	{"claims what is only being made", "hold.go", []string{"h.Epoch == 0 || r.Version == 0 ||", "h.Epoch == 0 ||"}},
	{"claims what is wanted elsewhere", "hold.go", []string{`	return to == h.Node || to != "" && !h.Roll[to].Alive //`, "	return to == to //"}},
	{"claims when its Lease has run out", "../../leader/leader.go", []string{"return l != nil && int64(l.clock()) < l.until.Load()", "return l != nil && l.until.Load() != 0"}},
	{"gives away before the last claim", "hold.go", []string{"		if claimed {\n", "		if claimed && r == nil {\n"}},
	{"claims before the filter is there", "service.go", []string{"return !guarded[t.Addr] ||", "return"}},
	{"brings back what is gone", "cache.go", []string{"r.Version >= v || c.lost[a] >= v {", "r.Version >= v {"}},

	// Who holds.
	{"takes from one that lives", "coordinate.go", []string{"	if h == \"\" || void {\n		c.appoint", "	if h == \"\" || to.Node != h {\n		c.appoint"}},
	{"takes from one that is not fenced", "facts.go", []string{"return known && m.Epoch > epoch", "return known && (m.Epoch > epoch || !m.Alive)"}},
	{"gives back what is held", "coordinate.go", []string{`	if h != "" && !c.void(h, e) {
		return c.update(r, next) //`, `	if h != "" && !c.void(h, e) && r == nil {
		return c.update(r, next) //`}},
	{"does not keep an object that is held", "coordinate.go", []string{"		o.Finalizers = append(o.Finalizers, heldFinalizer)\n", ""}},
	{"fences nobody", "host.go", []string{"		c.cfg.Need(maps.Clone(need))\n", ""}},

	// Who has what.
	{"forgets who shares", "coordinate.go", []string{"		c.records.add(r.Addr) // whether its users may share it still\n", ""}},
	{"takes from a Service that it does not know yet", "coordinate.go", []string{"			absent = append(absent, ref)\n", ""}},
	{"does not ask again who waits", "coordinate.go", []string{"		c.book.Unblock(a)\n		c.wanting()\n", "		c.book.Unblock(a)\n"}},
	{"believes an answer about a Service that is gone", "write.go", []string{"s != nil && s.UID == w.Service.UID {", "s == nil || s != nil {"}},
	{"writes an object twice in a turn", "allocate.go", []string{"Taker: s.Key}\n		w.begin()\n		return w, true", "Taker: ipam.Key{}}\n		return w, true"}},

	// Where it is.
	{"looks for no endpoints", "place.go", []string{"		if !f.endpointsOn(k, node) {\n", "		if k == (ipam.Key{}) {\n"}},
	{"does not look again when nodes change", "coordinate.go", []string{"	c.urgent()\n	c.everyRecord()\n", "	c.urgent()\n"}},
	{"does not tell that nobody answers", "coordinate.go", []string{"		c.early = false\n		c.everything()\n", "		c.early = false\n		c.everyRecord()\n"}},
	{"spreads nothing", "coordinate.go", []string{"	for _, m := range c.balance(c.load) {\n", "	for _, m := range c.balance(nil) {\n"}},
	{"forgets connections of what it claims", "flush.go", []string{"		case since != 0 || !f.serving[a]:\n", "		case came || since == 0:\n"}},
	{"forgets connections of what routers send here", "service.go", []string{" || routed(a) })", " })", "claimed, routed :=", "claimed, _ :="}},
	{"advertises while connections are forgotten", "service.go", []string{"here[a] && !bound[a] || c.flush.waits(a, c.facts.Now)\n", "here[a] && !bound[a]\n"}},

	// How much is written.
	{"writes a status over and over", "tell.go", []string{" || c.vain[s.Key] == vanity{version: s.Version, addrs: strings.Join(texts(have), \" \")}) {", ") {"}},
	{"waits for what was due", "host.go", []string{"if f.Wall.Before(t) {", "if !t.IsZero() {"}},
}

// always is how many of them are tried in CI too: those of who claims.
const always = 8

// TestSimulationFindsMutants expects the simulation to fail for each.
func TestSimulationFindsMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the simulation once for each mutant")
	}
	for i, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			if i >= always && os.Getenv("CI") != "" && os.Getenv("MUTANTS") != "all" {
				t.Skip("CI has time for those of who claims: MUTANTS=all runs this one too")
			}
			mustDie(t, m.file, m.edits)
		})
	}
}

func mustDie(t *testing.T, name string, edits []string) {
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
			t.Fatalf("%s has %q %d times, want once: bring the list up to date", name, edits[i], n)
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
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-vet=off", "-failfast", "-overlay", overlay, "-run", "^TestSimulation$", ".")
	cmd.Env = append(os.Environ(), "SIM_RUNS=100", "SIM_SEED=1")
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatal("the simulation does not notice")
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "SIM_SEED=") {
			t.Log(strings.TrimSpace(line))
			return
		}
	}
	t.Fatalf("%v\n%s", err, out)
}
