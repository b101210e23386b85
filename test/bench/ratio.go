package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// ratioTable shows medians of Pintle divided by those of its peers; below 1 Pintle is the faster one.
func ratioTable(fs []Figure, metrics ...string) string {
	ours, theirs := sides(fs)
	if len(ours) == 0 || len(theirs) == 0 {
		return ""
	}
	cases := distinct(fs, func(f Figure) string { return f.Case })
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "ratio of medians")
	for _, cas := range cases {
		fmt.Fprintf(t, "\t%s %s", cas, strings.Join(metrics, "\t"))
	}
	fmt.Fprintln(t)
	for _, our := range ours {
		for _, their := range theirs {
			fmt.Fprintf(t, "%s / %s", our, their)
			for _, cas := range cases {
				for _, metric := range metrics {
					fmt.Fprintf(t, "\t%s", ratio(fs, our, their, cas, metric))
				}
			}
			fmt.Fprintln(t)
		}
	}
	_ = t.Flush() // a strings.Builder takes all
	return b.String()
}

// sides parts the systems into Pintle's profiles and the others.
func sides(fs []Figure) (ours, theirs []string) {
	for _, sys := range distinct(fs, func(f Figure) string { return f.System }) {
		if strings.HasPrefix(sys, "pintle-") {
			ours = append(ours, sys)
		} else {
			theirs = append(theirs, sys)
		}
	}
	return ours, theirs
}

// ratio of two medians; "-" where one of them was not measured, or where neither's client lost an answer: gaps are then
// those of the machine's scheduling.
func ratio(fs []Figure, our, their, cas, metric string) string {
	a, ok1 := find(fs, our, cas, metric)
	b, ok2 := find(fs, their, cas, metric)
	if !ok1 || !ok2 || b.Median == 0 || metric == "outage" && !lost(fs, our, cas) && !lost(fs, their, cas) {
		return "-"
	}
	return fmt.Sprintf("%.2f", a.Median/b.Median)
}

func lost(fs []Figure, sys, cas string) bool {
	f, _ := find(fs, sys, cas, "lost")
	return f.Median > 0
}
