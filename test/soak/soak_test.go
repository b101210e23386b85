package main

import (
	"errors"
	"io"
	"math"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func goroutines(values ...float64) []sample {
	var all []sample
	for _, v := range values {
		all = append(all, sample{goroutines: v})
	}
	return all
}

func TestTrend(t *testing.T) {
	for _, c := range []struct {
		values       []sample
		mean, growth float64
	}{
		{nil, 0, 0},
		{goroutines(5), 5, 0},
		{goroutines(5, 5, 5, 5), 5, 0},
		{goroutines(1, 2, 3, 4, 5), 3, 4},
		{goroutines(9, 7, 5), 7, -4},
		{goroutines(0, 3, 0, 3, 0), 1.2, 0},
	} {
		mean, growth := trend(c.values, quantities[0].of)
		if math.Abs(mean-c.mean) > 1e-9 || math.Abs(growth-c.growth) > 1e-9 {
			t.Errorf("trend of %v: %v, %v; want %v, %v", c.values, mean, growth, c.mean, c.growth)
		}
	}
}

// A leak of one for each ten faults is found; a jagged line that goes nowhere, or one that levels off, is not one.
func TestJudge(t *testing.T) {
	series := func(of func(i int) sample) []sample {
		var all []sample
		for i := range 400 {
			all = append(all, of(i))
		}
		return all
	}
	good := series(func(i int) sample { return sample{40 + float64(i%7), 30, 20 + float64(i%31)/2} })
	for _, c := range []struct {
		name string
		bad  []sample
		want string
	}{
		{"none", good, ""},
		{"levels off", series(func(i int) sample { return sample{float64(min(i, 150)), 30, float64(min(i, 190))} }), ""},
		{"goroutines", series(func(i int) sample { return sample{40 + float64(i)/10, 30, 20} }), "n2: goroutines grew by 19.9"},
		{"files", series(func(i int) sample { return sample{40, 30 + float64(i)/10, 20} }), "n2: open files grew by 19.9"},
		{"memory", series(func(i int) sample { return sample{40, 30, 20 + float64(i)/10} }), "n2: resident memory grew by 19.9 MiB"},
		{"too few", series(func(i int) sample { return sample{float64(100 * i), 30, 20} })[:2*enough-2], ""},
	} {
		err := judge(io.Discard, map[string][]sample{"n1": good, "n2": c.bad})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestParseGoroutines(t *testing.T) {
	got, err := parseGoroutines(strings.NewReader("# TYPE go_goroutines gauge\ngo_goroutines_x 3\ngo_goroutines 47\ngo_threads 9\n"))
	if err != nil || got != 47 {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := parseGoroutines(strings.NewReader("go_threads 9\n")); err == nil {
		t.Error("no error without the metric")
	}
}

func TestReadRSS(t *testing.T) {
	if mib, err := readRSS(os.Getpid()); err != nil || mib < 1 || mib > 4096 {
		t.Errorf("got %v MiB, %v", mib, err)
	}
}

// The visit to a namespace leaves the other threads where they are.
func TestInNetworkOf(t *testing.T) {
	here, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var there string
	err = inNetworkOf(os.Getpid(), func() (err error) {
		there, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	})
	if errors.Is(err, unix.EPERM) && os.Getenv("LAB") != "require" {
		t.Skipf("this test enters a network namespace: %v", err)
	}
	if err != nil || there != here {
		t.Errorf("in %s, not %s: %v", there, here, err)
	}
}

func TestRounds(t *testing.T) {
	for all, want := range map[int][2]int{1: {1, 1}, 10: {2, 1}, 1000: {188, 42}} {
		for i, p := range phases {
			if got := p.rounds(all); got != want[i] {
				t.Errorf("%d faults, %s: %d rounds, want %d", all, p.name, got, want[i])
			}
		}
	}
}
