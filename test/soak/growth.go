package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
)

// A quantity of a process must not grow by more than slack and tenths of its mean over the second half of a phase: the
// first half is for caches and connections to fill, the rest for what the garbage collector does as it likes.
type quantity struct {
	name   string
	unit   string
	of     func(sample) float64
	slack  float64
	tenths float64
}

var quantities = []quantity{
	{"goroutines", "", func(s sample) float64 { return s.goroutines }, 10, 1},
	{"open files", "", func(s sample) float64 { return s.files }, 10, 1},
	{"resident memory", " MiB", func(s sample) float64 { return s.rss }, 8, 2},
}

// enough samples in the second half for a trend to be more than chance.
const enough = 50

// judge prints how each node's process changed and says which grew.
func judge(out io.Writer, history map[string][]sample) error {
	fmt.Fprintln(out)
	var errs []error
	for _, node := range slices.Sorted(maps.Keys(history)) {
		half := history[node][len(history[node])/2:]
		for _, q := range quantities {
			mean, growth := trend(half, q.of)
			fmt.Fprintf(out, "%s: %s %.1f%s, and %+.1f over the last %d faults\n", node, q.name, mean, q.unit, growth, len(half))
			if len(half) >= enough && growth > q.slack+mean*q.tenths/10 {
				errs = append(errs, fmt.Errorf("%s: %s grew by %.1f%s in %d faults", node, q.name, growth, q.unit, len(half)))
			}
		}
		if len(half) < enough {
			fmt.Fprintf(out, "%s: too few faults to tell growth from chance: want %d\n", node, 2*enough)
		}
	}
	return errors.Join(errs...)
}

// trend is the mean, and by how much the values grew from the first to the last on the line of least squares.
func trend(samples []sample, of func(sample) float64) (mean, growth float64) {
	n := float64(len(samples))
	if n == 0 {
		return 0, 0
	}
	for _, s := range samples {
		mean += of(s) / n
	}
	var above, below float64
	for i, s := range samples {
		dx := float64(i) - (n-1)/2
		above += dx * (of(s) - mean)
		below += dx * dx
	}
	if below == 0 {
		return mean, 0
	}
	return mean, above / below * (n - 1)
}
