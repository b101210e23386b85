package demo

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary is also the Pintle of the machines.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "run" || os.Args[1] == "demo-echo") {
		if err := fakePintle(os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// Instead of what Enter does: the tests would run twice.
	_ = os.Setenv("PINTLE_NETLAB_ENTERED", "1")
	os.Exit(m.Run())
}

// run runs a demo with the fake, or skips the test where there can be no namespaces.
func run(t *testing.T, opts Options) (string, error) {
	t.Helper()
	var out bytes.Buffer
	opts.Out, opts.Settle = &out, 300*time.Millisecond
	opts.patience = cmp.Or(opts.patience, 2*time.Minute) // the kernel can take half a minute to end a process with packet sockets
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	err := Run(t.Context(), opts)
	if errors.Is(err, unix.EPERM) && os.Getenv("LAB") != "require" {
		t.Skipf("this test makes network namespaces: %v", err)
	}
	return out.String(), err
}

// decode reads the lines of a demo with JSON.
func decode(t *testing.T, out string) (rs []Result, s Summary) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(out), "\n")
	for i, line := range lines {
		var v any = &s
		if i < len(lines)-1 {
			rs = append(rs, Result{})
			v = &rs[i]
		}
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(v); err != nil {
			t.Fatalf("line %d %s: %v", i, line, err)
		}
	}
	return rs, s
}

// Every fault is done to whoever holds the address, and survived.
func TestEveryFault(t *testing.T) {
	var pids []map[string]int
	out, err := run(t, Options{JSON: true, Faults: Faults(), Each: func(_ Result, p map[string]int) { pids = append(pids, p) }})
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	rs, s := decode(t, out)
	if len(rs) != len(faults) || len(s.PerFault) != len(faults) || !s.Summary {
		t.Fatalf("%d results, %d totals; want %d\n%s", len(rs), len(s.PerFault), len(faults), out)
	}
	for i, r := range rs {
		t.Logf("%+v", r)
		if r.Fault != Faults()[i] || r.Profile != "fast" || r.Dual != 0 {
			t.Errorf("%+v", r)
		}
		if i > 0 && r.From != rs[i-1].To && !faults[r.Fault].stays && rs[i-1].FalseElections == 0 && !faults[rs[i-1].Fault].stays {
			t.Errorf("fault %d was done to %s; the holder was %s", i, r.From, rs[i-1].To)
		}
		if faults[r.Fault].stays {
			continue
		}
		if r.To == r.From || r.TakeoverMS <= 0 || r.TakeoverMS > 10000 {
			t.Errorf("no take-over in %+v", r)
		}
		// The machine that is off the network does not answer; the one whose Pintle is gone does.
		if off := r.Fault == "cut" || r.Fault == "down" || r.Fault == "oneway"; off && (r.OutageMS < 50 || r.Lost == 0) {
			t.Errorf("no outage in %+v", r)
		}
	}
	if len(pids) != len(rs) || len(pids[0]) != 3 {
		t.Errorf("process ids %v", pids)
	}
}

func TestText(t *testing.T) {
	out, err := run(t, Options{Faults: []string{"kill"}, Runs: 2})
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Log("\n" + out)
	for _, want := range []string{" holds it.", " has its Pintle killed (SIGKILL)", "2 faults, and the address came back each time", "Never did two machines answer."} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q", want)
		}
	}
	if strings.ContainsRune(out, '\x1b') {
		t.Error("colours without a terminal")
	}
}

// Two answers are an error, and are counted.
func TestTwoAnswers(t *testing.T) {
	t.Setenv("FAKE", "greedy")
	out, err := run(t, Options{JSON: true, Faults: []string{"kill"}})
	if err == nil || !strings.Contains(err.Error(), "were answered by two") {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, s := decode(t, out); s.PerFault["kill"].Dual == 0 {
		t.Errorf("summary %+v", s)
	}
}

// A fault that nobody recovers from is an error, and the logs stay.
func TestNeverRecovered(t *testing.T) {
	t.Setenv("FAKE", "stubborn")
	dir := t.TempDir()
	out, err := run(t, Options{JSON: true, Faults: []string{"kill"}, Dir: dir, patience: 6 * time.Second})
	if err == nil || !strings.Contains(err.Error(), "fault kill: take over 10.77.0.100 from n") || !strings.Contains(err.Error(), "not within 6s") {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "n1", "log")); err != nil {
		t.Error(err)
	}
}

func TestOptionsRefused(t *testing.T) {
	for want, opts := range map[string]Options{
		`unknown profile "slow": want fast, default or wan`:                                     {Profile: "slow"},
		`unknown fault "fire": want some of cut, down, freeze, kill, loss, oneway, peers, term`: {Faults: []string{"fire"}},
		`2 machines: want 3 to 99`: {Nodes: 2},
		"unknown profile \"x\": want fast, default or wan\nruns and times must not be negative": {Profile: "x", Runs: -1},
	} {
		if err := Run(t.Context(), opts); err == nil || err.Error() != want {
			t.Errorf("got %v; want %s", err, want)
		}
	}
}

func TestSummarize(t *testing.T) {
	rs := []Result{
		{Fault: "cut", OutageMS: 100, TakeoverMS: 101, Lost: 50},
		{Fault: "cut", OutageMS: 130, TakeoverMS: 140, Lost: 70, Dual: 1},
		{Fault: "cut", OutageMS: 90.5, TakeoverMS: 91, Lost: 45, Dual: 2},
		{Fault: "kill", OutageMS: 2, TakeoverMS: 100, Lost: 0},
		{Fault: "kill", OutageMS: 3, TakeoverMS: 103, Lost: 1},
	}
	want := map[string]Total{
		"cut":  {MedianMS: 100, MaxMS: 130, TakeoverMedianMS: 101, LostMedian: 50, LostMax: 70, Dual: 3},
		"kill": {MedianMS: 2.5, MaxMS: 3, TakeoverMedianMS: 101.5, LostMedian: 0.5, LostMax: 1},
	}
	if got := Summarize(rs); !got.Summary || !maps.Equal(got.PerFault, want) {
		t.Errorf("got %+v; want %+v", got, want)
	}
}

// The keys are what others read.
func TestJSONKeys(t *testing.T) {
	keys := func(v any) []string {
		b, _ := json.Marshal(v)
		var m map[string]any
		_ = json.Unmarshal(b, &m)
		return slices.Sorted(maps.Keys(m))
	}
	for want, v := range map[string]any{
		"dual_answers false_elections fault from lost outage_ms profile takeover_ms to": Result{},
		"per_fault summary": Summary{},
		"dual_answers lost_max lost_median max_ms median_ms takeover_median_ms": Total{},
	} {
		if got := keys(v); !reflect.DeepEqual(got, strings.Fields(want)) {
			t.Errorf("%T has %v; want %s", v, got, want)
		}
	}
}

func TestWatchNeedsAllToAgree(t *testing.T) {
	w := &watch{machines: make([]*machine, 0), said: []report{{ready: true, holder: "n1", epoch: 3}, {ready: true, holder: "n1", epoch: 3}, {ready: true, holder: "n1", epoch: 3}}}
	opts := Options{}
	if err := opts.complete(); err != nil {
		t.Fatal(err)
	}
	c, err := newCluster(t.Context(), opts)
	if errors.Is(err, unix.EPERM) && os.Getenv("LAB") != "require" {
		t.Skipf("this test makes network namespaces: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.close(true) }()
	w.machines = c.machines
	if h, why := w.holder(); h != "n1" {
		t.Fatalf("%q: %s", h, why)
	}
	for want, r := range map[string]report{
		"n3 is not ready":                    {ready: false, holder: "n1", epoch: 3},
		"n3 is not ready: it has not joined": {ready: false, reason: "it has not joined", holder: "n1", epoch: 3},
		"n3 knows no holder":                 {ready: true, holder: "", epoch: 3},
		"n1 says that n1 holds, n3 says n2":  {ready: true, holder: "n2", epoch: 3},
		"n3: asleep":                         {ready: true, holder: "n1", epoch: 3, err: errors.New("asleep")},
	} {
		w.note(2, r)
		if h, why := w.holder(); h != "" || why != want {
			t.Errorf("%+v: %q: %s", r, h, why)
		}
	}
	before := w.epochs()
	for _, e := range []uint64{3, 4, 4, 3, 6} {
		w.note(0, report{ready: true, holder: "n2", epoch: e})
	}
	w.note(0, report{ready: true, holder: "", epoch: 9}) // an epoch without a holder
	if got := w.epochs() - before; got != 2 {
		t.Errorf("%d new epochs; want 2", got)
	}
}
