package ipam

import (
	"fmt"
	"slices"
	"strings"
)

// An Op is how a [Requirement] compares. The values are those of Kubernetes.
type Op string

// The operators of Kubernetes label selectors.
const (
	In           Op = "In"
	NotIn        Op = "NotIn" // also labels without the key
	Exists       Op = "Exists"
	DoesNotExist Op = "DoesNotExist"
)

// A Requirement is one condition on labels.
type Requirement struct {
	Key    string
	Op     Op
	Values []string // of In and NotIn, which need at least one
}

// A Selector selects labels that meet all its requirements, as in Kubernetes; what matchLabels says is In with one value.
// Nil or empty selects everything.
type Selector []Requirement

// Matches reports whether s selects the labels. A requirement that Kubernetes would refuse selects nothing.
func (s Selector) Matches(labels map[string]string) bool {
	for _, r := range s {
		if r.check() != nil || !r.matches(labels) {
			return false
		}
	}
	return true
}

func (r Requirement) matches(labels map[string]string) bool {
	value, ok := labels[r.Key]
	switch r.Op {
	case In:
		return ok && slices.Contains(r.Values, value)
	case NotIn:
		return !ok || !slices.Contains(r.Values, value)
	case Exists:
		return ok
	}
	return !ok
}

// String is like Kubernetes writes selectors: "app in (a,b),!old".
func (s Selector) String() string {
	words := make([]string, len(s))
	for i, r := range s {
		words[i] = r.String()
	}
	return strings.Join(words, ",")
}

func (r Requirement) String() string {
	switch r.Op {
	case In:
		if len(r.Values) == 1 {
			return r.Key + "=" + r.Values[0]
		}
		return r.Key + " in (" + strings.Join(r.Values, ",") + ")"
	case NotIn:
		return r.Key + " notin (" + strings.Join(r.Values, ",") + ")"
	case Exists:
		return r.Key
	}
	return "!" + r.Key
}

func (r Requirement) check() error {
	if r.Key == "" {
		return fmt.Errorf("operator %q has no key", r.Op)
	}
	switch r.Op {
	case In, NotIn:
		if len(r.Values) == 0 {
			return fmt.Errorf("key %q: operator %s needs at least one value", r.Key, r.Op)
		}
	case Exists, DoesNotExist:
		if len(r.Values) > 0 {
			return fmt.Errorf("key %q: operator %s has no values", r.Key, r.Op)
		}
	default:
		return fmt.Errorf("key %q: operator %q is none of In, NotIn, Exists, DoesNotExist", r.Key, r.Op)
	}
	return nil
}
