package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
)

// A Figure is one measured quantity of one system, over all rounds.
type Figure struct {
	Bench  string  `json:"bench"`
	System string  `json:"system"`
	Case   string  `json:"case"`
	Metric string  `json:"metric"`
	Unit   string  `json:"unit"`
	N      int     `json:"n"`
	Median float64 `json:"median"`
	P99    float64 `json:"p99"`
	Max    float64 `json:"max"`
}

// A kind is what a figure is of.
type kind struct{ bench, system, cas, metric, unit string }

// samples collects values by kind and remembers the order in which the kinds came.
type samples struct {
	order  []kind
	values map[kind][]float64
}

func (s *samples) add(k kind, v float64) {
	if s.values == nil {
		s.values = map[kind][]float64{}
	}
	if _, ok := s.values[k]; !ok {
		s.order = append(s.order, k)
	}
	s.values[k] = append(s.values[k], v)
}

func (s *samples) figures() []Figure {
	var fs []Figure
	for _, k := range s.order {
		vs := s.values[k]
		fs = append(fs, Figure{
			Bench: k.bench, System: k.system, Case: k.cas, Metric: k.metric, Unit: k.unit,
			N: len(vs), Median: round(median(vs)), P99: round(percentile(vs, 99)), Max: round(slices.Max(vs)),
		})
	}
	return fs
}

// median of at least one value; between two middle ones it is their mean.
func median(vs []float64) float64 {
	vs = slices.Sorted(slices.Values(vs))
	n := len(vs)
	return (vs[(n-1)/2] + vs[n/2]) / 2
}

// percentile by nearest rank: the smallest of the values that at least p percent of them do not exceed.
func percentile(vs []float64, p int) float64 {
	vs = slices.Sorted(slices.Values(vs))
	rank := (len(vs)*p + 99) / 100
	return vs[max(rank, 1)-1]
}

// round to a thousandth: microseconds, where the unit is ms.
func round(v float64) float64 { return math.Round(v*1000) / 1000 }

// find returns the figure of a metric, or false if it was not measured.
func find(fs []Figure, system, cas, metric string) (Figure, bool) {
	i := slices.IndexFunc(fs, func(f Figure) bool { return f.System == system && f.Case == cas && f.Metric == metric })
	if i < 0 {
		return Figure{}, false
	}
	return fs[i], true
}

// distinct lists what key says of the figures, in their order.
func distinct(fs []Figure, key func(Figure) string) []string {
	var all []string
	for _, f := range fs {
		if k := key(f); !slices.Contains(all, k) {
			all = append(all, k)
		}
	}
	return all
}

// appendFigures adds one JSON line a figure to dir/name.jsonl.
func appendFigures(dir, name string, fs []Figure) error {
	var lines bytes.Buffer
	enc := json.NewEncoder(&lines)
	for _, f := range fs {
		if err := enc.Encode(f); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(dir, name+".jsonl"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	if _, err := file.Write(lines.Bytes()); err != nil {
		_ = file.Close()
		return fmt.Errorf("add figures: %w", err)
	}
	return file.Close()
}
