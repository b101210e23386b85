package metallb

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// parseSelectors reads selectors as kubectl -l does, with | between them.
func parseSelectors(t *testing.T, text string) (out []metav1.LabelSelector) {
	t.Helper()
	if text == "" {
		return nil
	}
	for _, s := range strings.Split(text, "|") {
		l, err := metav1.ParseToLabelSelector(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, *l)
	}
	return out
}

// nodes have each of three labels with each of two values, or do not have it.
func nodes() (out []labels.Set) {
	values := []string{"", "1", "2", "3"}
	for i := range 64 {
		n := labels.Set{}
		for j, key := range []string{"a", "b", "c"} {
			if v := values[i>>(2*j)&3]; v != "" {
				n[key] = v
			}
		}
		out = append(out, n)
	}
	return out
}

func selected(t *testing.T, all []metav1.LabelSelector, n labels.Set) bool {
	t.Helper()
	return slices.ContainsFunc(all, func(s metav1.LabelSelector) bool {
		l, err := metav1.LabelSelectorAsSelector(&s)
		if err != nil {
			t.Fatal(err)
		}
		return l.Matches(n)
	})
}

// What is made of selectors selects the same nodes, or is refused.
func TestSelectors(t *testing.T) {
	for text, want := range map[string]string{ // the one selector, and the sets of labels
		"":                          "<none> / [map[]]",
		"a=1":                       "a=1 / [map[a:1]]",
		"a=1,b=2":                   "a=1,b=2 / [map[a:1 b:2]]",
		"a=1|a=2":                   "a in (1,2) / [map[a:1] map[a:2]]",
		"a=1|a=1":                   "a=1 / [map[a:1]]",
		"a in (1,2)|a=3":            "a in (1,2,3) / [map[a:1] map[a:2] map[a:3]]",
		"a=1,b=2|b=2,a=2":           "a in (1,2),b=2 / [map[a:1 b:2] map[a:2 b:2]]",
		"a=1,c|a=2,c":               "a in (1,2),c / no",
		"a in (1,2),b in (1,2)":     "a in (1,2),b in (1,2) / [map[a:1 b:1] map[a:1 b:2] map[a:2 b:1] map[a:2 b:2]]",
		"a=1|b=1":                   "no / no",
		"a=1,b=1|a=2,b=2":           "no / [map[a:1 b:1] map[a:2 b:2]]",
		"a=1|a=2,b=1":               "no / [map[a:1] map[a:2 b:1]]",
		"a=1|a=1,b=1":               "no / no",
		"a notin (1)":               "a notin (1) / no",
		"a notin (1)|a notin (2)":   "no / no",
		"!a|!a":                     "!a / no",
		"a=1|a notin (1)":           "no / no",
		"a in (1,2)|a in (2,3)":     "a in (1,2,3) / [map[a:1] map[a:2] map[a:3]]",
		"a=1|b=2|c=3":               "no / no",
		"a=1,b=2|a=2,b=2|a=3,b=2":   "a in (1,2,3),b=2 / [map[a:1 b:2] map[a:2 b:2] map[a:3 b:2]]",
		"a in (1,2),a in (2,3)":     "a in (1,2),a in (2,3) / no",
		"a in (1,2),a in (2,3)|a=1": "no / no",
	} {
		all := parseSelectors(t, text)
		got := "no"
		one, ok := either(all)
		if ok {
			got = metav1.FormatLabelSelector(one)
		}
		sets, fine := labelSets(all)
		shown := "no"
		if fine {
			if sets == nil {
				sets = []map[string]string{{}}
			}
			shown = fmt.Sprint(sets)
		}
		if got += " / " + shown; got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
		for _, n := range nodes() {
			want := len(all) == 0 || selected(t, all, n)
			if ok && one != nil && selected(t, []metav1.LabelSelector{*one}, n) != want {
				t.Errorf("%s: one selector: wrong for %v", text, n)
			}
			has := 0
			for s := range slices.Values(sets) {
				if fine && labels.SelectorFromSet(s).Matches(n) {
					has++
				}
			}
			if fine && (has == 1) != want || has > 1 {
				t.Errorf("%s: %d sets for %v", text, has, n)
			}
		}
	}
}

func TestSelectorsThatAreMany(t *testing.T) {
	values := make([]string, 9)
	for i := range values {
		values[i] = fmt.Sprint(i)
	}
	in := func(key string) metav1.LabelSelectorRequirement {
		return metav1.LabelSelectorRequirement{Key: key, Operator: metav1.LabelSelectorOpIn, Values: values}
	}
	if sets, ok := labelSets([]metav1.LabelSelector{{MatchExpressions: []metav1.LabelSelectorRequirement{in("a"), in("b")}}}); ok {
		t.Errorf("%d routers of one", len(sets))
	}
	if s, ok := either([]metav1.LabelSelector{{MatchLabels: map[string]string{"a": "b"}}, {}}); !ok || s != nil {
		t.Errorf("one that selects all is %v", s)
	}
}

func TestMark(t *testing.T) {
	label, commands := mark("pool", strings.Repeat("a", 57)+"-b", "nodes", parseSelectors(t, "a=1|!b"))
	if label != "pintle.dev/pool-"+strings.Repeat("a", 57) {
		t.Error(label)
	}
	if want := "kubectl label nodes -l 'a=1' --overwrite " + label + "=true && kubectl label nodes -l '!b' --overwrite " + label + "=true"; commands != want {
		t.Error(commands)
	}
}
