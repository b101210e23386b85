package metallb

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// MetalLB has lists of selectors, any of which is enough. A pool of Pintle has one, and a router has labels that a node must
// have. So lists are made one selector, or labels, if they can be, and else people are asked to put a label on what they select.

// A demand is what one selector says of each key.
type demand map[string]metav1.LabelSelectorRequirement

// demandOf reads a selector; false if it speaks twice of a key.
func demandOf(s metav1.LabelSelector) (demand, bool) {
	out := demand{}
	for k, v := range s.MatchLabels {
		out[k] = metav1.LabelSelectorRequirement{Key: k, Operator: metav1.LabelSelectorOpIn, Values: []string{v}}
	}
	for _, e := range s.MatchExpressions {
		if _, twice := out[e.Key]; twice {
			return nil, false
		}
		e.Values = slices.Compact(slices.Sorted(slices.Values(e.Values)))
		out[e.Key] = e
	}
	return out, true
}

func (d demand) selector() *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	for _, key := range slices.Sorted(maps.Keys(d)) {
		if r := d[key]; r.Operator == metav1.LabelSelectorOpIn && len(r.Values) == 1 {
			metav1.AddLabelToSelector(s, key, r.Values[0])
		} else {
			s.MatchExpressions = append(s.MatchExpressions, r)
		}
	}
	return s
}

// either is the one selector for what any of several selects: nil for everything, and false if there is none.
func either(all []metav1.LabelSelector) (*metav1.LabelSelector, bool) {
	if len(all) == 0 || slices.ContainsFunc(all, matchesAll) {
		return nil, true
	}
	if len(all) == 1 {
		return &all[0], true
	}
	sum, ok := demandOf(all[0])
	if !ok {
		return nil, false
	}
	for _, s := range all[1:] {
		d, ok := demandOf(s)
		if !ok || !sum.join(d) {
			return nil, false
		}
	}
	return sum.selector(), true
}

func matchesAll(s metav1.LabelSelector) bool {
	return len(s.MatchLabels)+len(s.MatchExpressions) == 0
}

// join widens a demand by another, if both differ in the values of one key at most.
func (d demand) join(o demand) bool {
	if len(d) != len(o) {
		return false
	}
	differs := ""
	for key, mine := range d {
		other, ok := o[key]
		switch {
		case !ok || mine.Operator != other.Operator:
			return false
		case slices.Equal(mine.Values, other.Values):
		case differs != "" || mine.Operator != metav1.LabelSelectorOpIn:
			return false
		default:
			differs = key
		}
	}
	if differs != "" {
		r := d[differs]
		r.Values = slices.Compact(slices.Sorted(slices.Values(slices.Concat(r.Values, o[differs].Values))))
		d[differs] = r
	}
	return true
}

// mostLabels bounds how many routers are made of one.
const mostLabels = 64

// labelSets are sets of labels, no two of which a node can have, and one of which each selected node has: nil for every node,
// and false if there are none such.
func labelSets(all []metav1.LabelSelector) ([]map[string]string, bool) {
	if len(all) == 0 || slices.ContainsFunc(all, matchesAll) {
		return nil, true
	}
	var out []map[string]string
	for _, s := range all {
		d, ok := demandOf(s)
		if !ok {
			return nil, false
		}
		sets := []map[string]string{{}}
		for _, key := range slices.Sorted(maps.Keys(d)) {
			r := d[key]
			if r.Operator != metav1.LabelSelectorOpIn || len(sets)*len(r.Values) > mostLabels {
				return nil, false
			}
			var more []map[string]string
			for _, set := range sets {
				for _, v := range r.Values {
					with := maps.Clone(set)
					with[key] = v
					more = append(more, with)
				}
			}
			sets = more
		}
		for _, set := range sets {
			if !slices.ContainsFunc(out, func(o map[string]string) bool { return maps.Equal(o, set) }) {
				out = append(out, set)
			}
		}
	}
	if len(out) > mostLabels {
		return nil, false
	}
	for i := range out {
		for j := range i {
			if !apart(out[i], out[j]) {
				return nil, false
			}
		}
	}
	return out, true
}

// apart reports whether nothing has both sets of labels.
func apart(a, b map[string]string) bool {
	for k, v := range a {
		if other, ok := b[k]; ok && other != v {
			return true
		}
	}
	return false
}

// mark is a label of our own for what selectors cannot say, and the commands that put it there.
func mark(of, name, what string, all []metav1.LabelSelector) (label, commands string) {
	word := of + "-" + name
	label = "pintle.dev/" + strings.TrimRight(word[:min(len(word), 63)], "-._")
	var out []string
	for _, s := range all {
		out = append(out, fmt.Sprintf("kubectl label %s -l '%s' --overwrite %s=true", what, selectorText(s), label))
	}
	return label, strings.Join(out, " && ")
}

// pick is the one selector for a pool. If there is none it asks for a label, with a note under a setting.
func (f *fields) pick(key string, all []metav1.LabelSelector, what, pool string) *metav1.LabelSelector {
	s, ok := either(all)
	if ok {
		return s
	}
	label, commands := mark("pool", pool, what, all)
	f.note(key, "", "a pool has one selector, and these cannot be made one: put the label %s on all that they select, and on what comes "+
		"later: %s", label, commands)
	return metav1.AddLabelToSelector(&metav1.LabelSelector{}, label, "true")
}
