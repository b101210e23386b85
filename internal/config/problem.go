package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Problem is one thing that is wrong with the file.
type Problem struct {
	File         string
	Line, Column int    // from 1; 0 if it is about no place in the file
	Path         string // as in raft.peers[1].address
	Value        string // as it was written
	Message      string
	Hint         string // what to do
	Warning      bool   // the configuration can be used all the same
}

// String is one line: file:line: path: value: message (hint). What is empty is left out.
func (p Problem) String() string {
	parts := []string{p.File}
	if p.Line > 0 {
		parts[0] = fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	for _, s := range []string{p.Path, quote(p.Value), p.Message} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	line := strings.Join(parts, ": ")
	if p.Hint != "" {
		line += " (" + p.Hint + ")"
	}
	return strings.Map(func(r rune) rune {
		if control(r) {
			return ' ' // of a key, or of the parser's message
		}
		return r
	}, line)
}

// Problem is one about a key of this configuration that only shows on the host, with the key's place in the file, or that
// of the nearest thing around it.
func (c *Config) Problem(path, value, message, hint string) Problem {
	r := &reader{file: c.File, at: c.at}
	r.add(path, value, message, hint)
	return r.problems[0]
}

// quote leaves a plain value as it is, and makes any other fit into a line.
func quote(s string) string {
	const most = 80
	if short := []rune(s); len(short) > most {
		s = string(short[:most]) + "..."
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\ufffd' }) {
		return fmt.Sprintf("%q", s)
	}
	return s
}

// failed reports whether a problem is more than a warning.
func failed(problems []Problem) bool {
	return slices.ContainsFunc(problems, func(p Problem) bool { return !p.Warning })
}

func sortProblems(problems []Problem) {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// A refusal is why a value cannot be used, and what to do.
type refusal struct{ message, hint string }

func (e *refusal) Error() string { return e.message }

func refuse(hint, format string, args ...any) error {
	return &refusal{message: fmt.Sprintf(format, args...), hint: hint}
}

// nearest is the known word that the given one was most likely meant to be, or "".
func nearest(word string, known []string) string {
	best, least := "", 3
	for _, k := range known {
		d := distance(strings.ToLower(word), strings.ToLower(k))
		if d < least && d < max(len(k), 2) {
			best, least = k, d
		}
	}
	return best
}

// distance is how many letters to insert, delete or replace make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
