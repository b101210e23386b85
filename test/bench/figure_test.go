package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestMedianAndPercentile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i)
	}
	for _, c := range []struct {
		values      []float64
		median, p99 float64
	}{
		{[]float64{7}, 7, 7},
		{[]float64{9, 1}, 5, 9},
		{[]float64{3, 1, 2}, 2, 3},
		{[]float64{4, 1, 3, 2}, 2.5, 4},
		{hundred, 50.5, 99},
		{append([]float64{1000}, hundred...), 51, 100},
		{append(append([]float64{}, hundred...), hundred...), 50.5, 99},
	} {
		before := append([]float64{}, c.values...)
		if got := median(c.values); got != c.median {
			t.Errorf("median of %v is %v, want %v", c.values, got, c.median)
		}
		if got := percentile(c.values, 99); got != c.p99 {
			t.Errorf("p99 of %v is %v, want %v", c.values, got, c.p99)
		}
		if !reflect.DeepEqual(c.values, before) {
			t.Errorf("%v was changed to %v", before, c.values)
		}
	}
}

func TestFigures(t *testing.T) {
	var s samples
	cut, size := kind{"failover", "pintle-fast", "cut", "outage", "ms"}, kind{"idle", "pintle-fast", "binary", "size", "MiB"}
	s.add(cut, 3)
	s.add(size, 1.23456)
	s.add(cut, 1)
	got := s.figures()
	want := []Figure{
		{"failover", "pintle-fast", "cut", "outage", "ms", 2, 2, 3, 3},
		{"idle", "pintle-fast", "binary", "size", "MiB", 1, 1.235, 1.235, 1.235},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if _, ok := find(got, "pintle-fast", "cut", "lost"); ok {
		t.Error("found what was not measured")
	}
}

// Each run adds its lines to those of earlier ones.
func TestAppendFigures(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bench")
	f := Figure{"failover", "pintle-fast", "cut", "outage", "ms", 20, 100.5, 120, 130.25}
	for range 2 {
		if err := appendFigures(dir, "failover", []Figure{f}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(filepath.Join(dir, "failover.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	line := `{"bench":"failover","system":"pintle-fast","case":"cut","metric":"outage","unit":"ms","n":20,"median":100.5,"p99":120,"max":130.25}` + "\n"
	if string(got) != line+line {
		t.Errorf("got  %s\nwant twice %s", got, line)
	}
	var back Figure
	if err := json.Unmarshal([]byte(line), &back); err != nil || back != f {
		t.Errorf("read back as %v, %v", back, err)
	}
}

func TestTables(t *testing.T) {
	fs := []Figure{
		{"failover", "pintle-fast", "cut", "outage", "ms", 9, 100, 110, 120},
		{"failover", "pintle-fast", "cut", "takeover", "ms", 9, 0, 0, 0},
		{"failover", "keepalived-1s", "cut", "outage", "ms", 9, 400, 500, 600},
		{"failover", "keepalived-1s", "cut", "lost", "probes", 9, 200, 250, 300},
		{"failover", "keepalived-1s", "kill", "outage", "ms", 9, 0.4, 1, 1},
		{"failover", "pintle-fast", "kill", "outage", "ms", 9, 0.2, 1, 1},
		{"failover", "pintle-fast", "kill", "dual", "answers", 9, 0, 0, 3},
	}
	for _, c := range []struct{ cas, metric, want string }{
		{"cut", "outage", "0.25"},
		{"cut", "takeover", "-"},  // not measured of the other
		{"kill", "outage", "-"},   // nobody was without an answer
		{"freeze", "outage", "-"}, // not measured at all
	} {
		if got := ratio(fs, "pintle-fast", "keepalived-1s", c.cas, c.metric); got != c.want {
			t.Errorf("ratio of %s %s is %s, want %s", c.cas, c.metric, got, c.want)
		}
	}
	table := failoverTable(fs)
	for _, want := range []string{"100 / 110 / 120", "0.4 / 1 / 1", "0 / 3", "pintle-fast / keepalived-1s"} {
		if !strings.Contains(table, want) {
			t.Errorf("no %q in\n%s", want, table)
		}
	}
}

func TestChoose(t *testing.T) {
	name := func(s string) string { return s }
	for _, c := range []struct{ names, want, err string }{
		{"", "a b c", ""},
		{"c,a", "a c", ""},
		{"a,d", "", `unknown name "d": want some of a,b,c`},
	} {
		got, err := choose([]string{"a", "b", "c"}, name, c.names)
		if c.err != "" {
			if err == nil || err.Error() != c.err {
				t.Errorf("choose %q: %v, want %s", c.names, err, c.err)
			}
		} else if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("choose %q: %v, %v; want %s", c.names, got, err, c.want)
		}
	}
}
