package metallb

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// fields are the settings of one mapping. Each is taken by name, once; done tells of what nobody took.
type fields struct {
	d           *draft
	file, place string
	namespace   string // of the object
	at          string // the mapping's own path
	old         bool   // names are as in the ConfigMap: avoid-buggy-ips
	items       yaml.MapSlice
	taken       map[string]bool
}

// spec is the fields of an object's spec.
func (d *draft) spec(o object) *fields {
	f := &fields{d: d, file: o.file, place: o.place(), namespace: o.namespace, at: "spec", taken: map[string]bool{}}
	switch v := lookUp(o.all, "spec").(type) {
	case nil:
	case yaml.MapSlice:
		f.items = v
	default:
		d.add(Note{o.file, o.place(), "spec", show(v), "is no mapping"})
	}
	return f
}

// within is the fields of a mapping below.
func (f *fields) within(at string, items yaml.MapSlice) *fields {
	return &fields{d: f.d, file: f.file, place: f.place, namespace: f.namespace, at: at, old: f.old, items: items, taken: map[string]bool{}}
}

// upper is where a word begins in a name.
var upper = regexp.MustCompile(`([a-z])([A-Z])`)

// name is how a setting is spelled there.
func (f *fields) name(key string) string {
	if !f.old {
		return key
	}
	switch key {
	case "localPref", "ebgpMultiHop": // they are spelled otherwise
		return map[string]string{"localPref": "localpref", "ebgpMultiHop": "ebgp-multihop"}[key]
	}
	return strings.ToLower(upper.ReplaceAllString(key, "$1-$2"))
}

func (f *fields) path(key string) string {
	if f.at == "" {
		return f.name(key)
	}
	return f.at + "." + f.name(key)
}

// get takes a setting; nil if it is not there.
func (f *fields) get(key string) any {
	f.taken[f.name(key)] = true
	return lookUp(f.items, f.name(key))
}

// has reports whether a setting is there. It takes it.
func (f *fields) has(key string) bool { return f.get(key) != nil }

// note tells something of a setting.
func (f *fields) note(key, value, format string, args ...any) {
	f.d.add(Note{f.file, f.place, f.path(key), value, fmt.Sprintf(format, args...)})
}

// told takes a setting that has no equivalent. What is false, zero or empty is nothing to tell.
func (f *fields) told(key, text string) {
	v := f.get(key)
	switch s := show(v); s {
	case "", "false", "0", "[]", "{}":
	default:
		f.note(key, s, "%s", text)
	}
}

// done tells of the settings that nobody took.
func (f *fields) done() {
	for _, i := range f.items {
		key := show(i.Key)
		if f.taken[key] {
			continue
		}
		value := show(i.Value)
		if secret(key) {
			value = hidden
		}
		path := key
		if f.at != "" {
			path = f.at + "." + key
		}
		f.d.add(Note{f.file, f.place, path, value, "is not known here: look it up in MetalLB's documentation, and whether Pintle has the like"})
	}
}

func (f *fields) text(key string) string {
	switch v := f.get(key).(type) {
	case nil:
		return ""
	case yaml.MapSlice, []any:
		f.note(key, show(v), "is no text")
		return ""
	default:
		return show(v)
	}
}

// number is a whole number; ok only if it is there and one.
func (f *fields) number(key string) (n int64, ok bool) {
	v := f.get(key)
	if v == nil {
		return 0, false
	}
	n, err := strconv.ParseInt(show(v), 10, 64)
	if err != nil {
		f.note(key, show(v), "is no number")
		return 0, false
	}
	return n, true
}

func (f *fields) on(key string) bool {
	switch v := f.get(key).(type) {
	case nil:
		return false
	case bool:
		return v
	default:
		f.note(key, show(v), "is neither true nor false")
		return false
	}
}

// duration is a time as Kubernetes writes it; ok only if it is there and one.
func (f *fields) duration(key string) (time.Duration, bool) {
	text := f.text(key)
	if text == "" {
		return 0, false
	}
	d, err := time.ParseDuration(text)
	if n, numberErr := strconv.ParseInt(text, 10, 32); numberErr == nil { // as the first releases had it
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil {
		f.note(key, text, "is no time, as 90s")
		return 0, false
	}
	return d, true
}

func (f *fields) texts(key string) []string {
	v := f.get(key)
	list, ok := v.([]any)
	if v != nil && !ok {
		f.note(key, show(v), "is no list")
	}
	var out []string
	for _, i := range list {
		out = append(out, show(i))
	}
	return out
}

// sub is the fields of a mapping; nil if it is not there.
func (f *fields) sub(key string) *fields {
	switch v := f.get(key).(type) {
	case nil:
		return nil
	case yaml.MapSlice:
		return f.within(f.path(key), v)
	default:
		f.note(key, show(v), "is no mapping")
		return nil
	}
}

// subs are the fields of each mapping of a list.
func (f *fields) subs(key string) []*fields {
	v := f.get(key)
	list, ok := v.([]any)
	if v != nil && !ok {
		f.note(key, show(v), "is no list")
	}
	var out []*fields
	for i, item := range list {
		at := fmt.Sprintf("%s[%d]", f.path(key), i)
		m, ok := item.(yaml.MapSlice)
		if !ok && item != nil {
			f.d.add(Note{f.file, f.place, at, show(item), "is no mapping"})
			continue
		}
		out = append(out, f.within(at, m))
	}
	return out
}

// selectors are those of a list, and any of them is enough.
func (f *fields) selectors(key string) []metav1.LabelSelector {
	var out []metav1.LabelSelector
	for _, s := range f.subs(key) {
		sel := metav1.LabelSelector{}
		if m := s.sub("matchLabels"); m != nil {
			for _, i := range m.items {
				if sel.MatchLabels == nil {
					sel.MatchLabels = map[string]string{}
				}
				sel.MatchLabels[show(i.Key)] = show(i.Value)
			}
		}
		for _, e := range s.subs("matchExpressions") {
			sel.MatchExpressions = append(sel.MatchExpressions, metav1.LabelSelectorRequirement{
				Key: e.text("key"), Operator: metav1.LabelSelectorOperator(e.text("operator")), Values: e.texts("values")})
			e.done()
		}
		s.done()
		if _, err := metav1.LabelSelectorAsSelector(&sel); err != nil {
			f.d.add(Note{f.file, f.place, s.at, show(s.items), "is no selector of labels, and nothing is made of it: " + err.Error()})
			continue
		}
		out = append(out, sel)
	}
	return out
}

const hidden = "(not shown)"

// secret reports whether the value of a setting must not be shown. What names a Secret may.
func secret(key string) bool {
	key = strings.ToLower(key)
	return strings.Contains(key, "password") && !strings.Contains(key, "secret")
}

// show is a value in one line, without passwords.
func show(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case yaml.MapSlice:
		var parts []string
		for _, i := range v {
			value := show(i.Value)
			if secret(show(i.Key)) {
				value = hidden
			}
			parts = append(parts, show(i.Key)+": "+value)
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case []any:
		var parts []string
		for _, i := range v {
			parts = append(parts, show(i))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	default:
		return fmt.Sprint(v)
	}
}
