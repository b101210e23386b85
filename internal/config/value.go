package config

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// A key is one key of the file: how its value is read into the Config, and how it is written from there. The lists
// of keys (keys.go) are the only place where the file's vocabulary stands.
type key struct {
	name string
	value
}

type value struct {
	read func(r *reader, n *node)
	show func() any // nil if the key is to be left out
	keys []key      // of a section, or of an item of a list
	many bool       // it is a list
}

// section reads a mapping. A null one counts as empty.
func section(keys []key) value {
	return value{keys: keys,
		read: func(r *reader, n *node) {
			if n.kind != nothing && r.is(n, mapping) {
				r.section(n, keys)
			}
		},
		show: func() any {
			out := yaml.MapSlice{}
			for _, k := range keys {
				if v := k.show(); v != nil {
					out = append(out, yaml.MapItem{Key: k.name, Value: v})
				}
			}
			return out
		},
	}
}

func (r *reader) section(n *node, keys []key) {
	for _, f := range n.fields {
		i := slices.IndexFunc(keys, func(k key) bool { return k.name == f.key })
		if i < 0 {
			r.unknown(f, keys)
			continue
		}
		keys[i].read(r, f.value)
	}
}

func (r *reader) unknown(f field, keys []key) {
	var names []string
	for _, k := range keys {
		names = append(names, k.name)
	}
	hint := "known here: " + strings.Join(names, ", ")
	if instead, ok := secrets[f.key]; ok && slices.Contains(names, instead) {
		hint = "secrets do not belong here: write it into a file that only root reads, and name that with " + instead
	} else if near := nearest(f.key, names); near != "" {
		hint = "did you mean " + near + "?"
	}
	r.add(f.value.path, "", "unknown key", hint)
}

// secrets are keys that people try, and what there is in their place.
var secrets = map[string]string{"password": "passwordFile", "key": "keyFile", "secret": "keyFile"}

// optional is a section that means something by being there. A null one counts as empty.
func optional[T any](p **T, item T, keys func(*T) []key) value {
	return value{keys: keys(new(T)),
		read: func(r *reader, n *node) {
			out := item
			switch {
			case n.kind == nothing:
			case !r.is(n, mapping):
				return
			default:
				r.section(n, keys(&out))
			}
			*p = &out
		},
		show: func() any {
			if *p == nil {
				return nil
			}
			return section(keys(*p)).show()
		},
	}
}

// items reads a list of mappings, each into a copy of the default one.
func items[T any](p *[]T, item T, keys func(*T) []key) value {
	return value{keys: keys(new(T)), many: true,
		read: func(r *reader, n *node) {
			if n.kind == nothing || !r.is(n, list) {
				return
			}
			for _, in := range n.items {
				out := item
				if r.is(in, mapping) {
					r.section(in, keys(&out))
				}
				*p = append(*p, out) // also a bad one, so that indices stay those of the file
			}
		},
		show: func() any {
			var out []any
			for i := range *p {
				out = append(out, section(keys(&(*p)[i])).show())
			}
			if out == nil {
				return nil
			}
			return out
		},
	}
}

// scalar reads one word of the given kind. A null one counts as not given.
func scalar[T any](p *T, k kind, parse func(string) (T, error), show func(T) any) value {
	return value{
		read: func(r *reader, n *node) {
			if n.kind == nothing || !r.is(n, k) {
				return
			}
			v, err := parse(n.text)
			if err != nil {
				r.refuse(n, err)
				return
			}
			*p = v
		},
		show: func() any { return show(*p) },
	}
}

// is reports whether n is of the kind, and else why not.
func (r *reader) is(n *node, k kind) bool {
	if n.kind == k || n.kind == foreign {
		return n.kind == k
	}
	hint := ""
	switch {
	case k == text && (n.kind == number || n.kind == boolean):
		hint = "put it in quotes"
	case k == list && (n.kind == mapping || n.kind == text):
		hint = "begin the item with -"
	case k == number && n.kind == text:
		hint = "write the number without quotes"
	}
	r.add(n.path, n.text, fmt.Sprintf("is %s, want %s", n.kind, k), hint)
	return false
}

func same[T any](v T) any { return v }

// word reads a text that the check accepts; an empty one is written only if it may be read.
func word(p *string, check func(string) error) value {
	v := scalar(p, text, func(s string) (string, error) { return s, check(s) }, same[string])
	v.show = func() any {
		if *p == "" {
			return nil
		}
		return *p
	}
	return v
}

func enum[T ~string](p *T, known ...T) value {
	return scalar(p, text, func(s string) (T, error) {
		if slices.Contains(known, T(s)) {
			return T(s), nil
		}
		var names []string
		for _, k := range known {
			names = append(names, string(k))
		}
		return "", refuse("one of "+strings.Join(names, ", "), "not known here")
	}, func(v T) any { return string(v) })
}

func flag(p *bool) value {
	return scalar(p, boolean, strconv.ParseBool, same[bool])
}

// count reads a whole number.
func count[T int | uint8 | uint16 | uint32](p *T, least, most T) value {
	return scalar(p, number, func(s string) (T, error) {
		i, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, refuse("write it in decimal", "not a whole number")
		}
		if i < int64(least) || i > int64(most) {
			return 0, refuse("", "out of range, want %d to %d", least, most)
		}
		return T(i), nil
	}, same[T])
}

// maybe reads a number of 32 bits that need not be there.
func maybe(p **uint32) value {
	var n uint32
	v := count(&n, 0, math.MaxUint32)
	read := v.read
	v.read = func(r *reader, in *node) {
		before := len(r.problems)
		if read(r, in); in.kind == number && len(r.problems) == before {
			*p = &n
		}
	}
	v.show = func() any {
		if *p == nil {
			return nil
		}
		return **p
	}
	return v
}

// address reads an IP address that need not be there.
func address(p *netip.Addr, parse func(string) (netip.Addr, error)) value {
	v := scalar(p, text, parse, func(a netip.Addr) any { return a.String() })
	return omitted(v, func() bool { return !p.IsValid() })
}

// omitted is a key that is not written in some cases.
func omitted(v value, when func() bool) value {
	show := v.show
	v.show = func() any {
		if when() {
			return nil
		}
		return show()
	}
	return v
}

// loose takes a number for the text that it is written as.
func loose(v value) value {
	read := v.read
	v.read = func(r *reader, n *node) {
		if n.kind == number {
			as := *n
			as.kind = text
			n = &as
		}
		read(r, n)
	}
	return v
}

// duration reads a time with its unit; 0 needs none.
func duration(p *time.Duration, least, most time.Duration) value {
	return loose(scalar(p, text, func(s string) (time.Duration, error) { return parseDuration(s, least, most) },
		func(d time.Duration) any { return showDuration(d) }))
}

func parseDuration(s string, least, most time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, refuse("write a number and a unit, as in 500ms, 10s or 1m", "not a duration")
	}
	if d < least || d > most {
		return 0, refuse("", "out of range, want %s to %s", showDuration(least), showDuration(most))
	}
	return d, nil
}

// showDuration writes 1m30s as 90s: one number and one unit, exactly.
func showDuration(d time.Duration) string {
	switch {
	case d%time.Second == 0:
		return fmt.Sprintf("%ds", d/time.Second)
	case d%time.Millisecond == 0:
		return fmt.Sprintf("%dms", d/time.Millisecond)
	}
	return fmt.Sprintf("%dns", d)
}

// words reads a list of texts.
func words(p *[]string, check func(string) error) value {
	return value{
		read: func(r *reader, n *node) {
			if n.kind == nothing || !r.is(n, list) {
				return
			}
			*p = nil
			for _, in := range n.items {
				var s string
				word(&s, check).read(r, in)
				*p = append(*p, s)
			}
		},
		show: func() any {
			if len(*p) == 0 {
				return nil
			}
			return *p
		},
	}
}

// parsed reads a list of texts, each of which means something. A bad one is zero, so that indices stay those of the file.
func parsed[T any](p *[]T, parse func(string) (T, error), show func(T) string) value {
	return value{
		read: func(r *reader, n *node) {
			if n.kind == nothing || !r.is(n, list) {
				return
			}
			*p = nil
			for _, in := range n.items {
				var v T
				scalar(&v, text, parse, same[T]).read(r, in)
				*p = append(*p, v)
			}
		},
		show: func() any {
			var out []string
			for _, v := range *p {
				out = append(out, show(v))
			}
			if out == nil {
				return nil
			}
			return out
		},
	}
}

// enums reads a list of words that are known, or one alone; each once.
func enums[T ~string](p *[]T, known ...T) value {
	several := func(r *reader, n *node) {
		for i, in := range n.items {
			var v T
			if enum(&v, known...).read(r, in); v != "" && slices.Contains(*p, v) {
				r.add(fmt.Sprintf("%s[%d]", n.path, i), string(v), "given twice", "keep one")
			}
			*p = append(*p, v)
		}
	}
	return value{
		read: func(r *reader, n *node) {
			if n.kind == text {
				var v T
				enum(&v, known...).read(r, n)
				*p = []T{v}
				return
			}
			if n.kind == nothing || !r.is(n, list) {
				return
			}
			if *p = nil; len(n.items) == 0 {
				r.add(n.path, "", "is empty", "leave the key out")
			}
			several(r, n)
		},
		show: func() any { return *p },
	}
}

// texts reads a mapping of texts.
func texts(p *map[string]string) value {
	return value{
		read: func(r *reader, n *node) {
			if n.kind == nothing || !r.is(n, mapping) {
				return
			}
			*p = nil
			for _, f := range n.fields {
				if r.is(f.value, text) {
					if *p == nil {
						*p = map[string]string{}
					}
					(*p)[f.key] = f.value.text
				}
			}
		},
		show: func() any {
			out := yaml.MapSlice{}
			for _, k := range slices.Sorted(maps.Keys(*p)) {
				out = append(out, yaml.MapItem{Key: k, Value: (*p)[k]})
			}
			if len(out) == 0 {
				return nil
			}
			return out
		},
	}
}

// wordOrWords reads one text, or a list of them.
func wordOrWords(p *[]string, check func(string) error) value {
	v := words(p, check)
	several := v.read
	v.read = func(r *reader, n *node) {
		if n.kind != text {
			several(r, n)
			return
		}
		var s string
		word(&s, check).read(r, n)
		*p = []string{s}
	}
	v.show = func() any {
		switch len(*p) {
		case 0:
			return nil
		case 1:
			return (*p)[0]
		}
		return *p
	}
	return v
}

// listen reads an address and port of this host. With off, that word is the zero value.
func listen(p *netip.AddrPort, port uint16, off bool) value {
	return scalar(p, text, func(s string) (netip.AddrPort, error) {
		if off && s == "off" {
			return netip.AddrPort{}, nil
		}
		return parseAddrPort(s, port)
	}, func(a netip.AddrPort) any {
		if !a.IsValid() {
			return "off"
		}
		return a.String()
	})
}

func parseAddrPort(s string, port uint16) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		ip, ipErr := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
		if ipErr != nil {
			return netip.AddrPort{}, noAddrPort(s, port)
		}
		a = netip.AddrPortFrom(ip, port)
	}
	if a.Port() == 0 {
		return netip.AddrPort{}, refuse("choose one, as in "+strconv.Itoa(int(port)), "port 0 is no port")
	}
	return a, plainIP(a.Addr())
}

func noAddrPort(s string, port uint16) error {
	switch {
	case strings.HasPrefix(s, ":"):
		return refuse("write 0.0.0.0"+s+" or [::]"+s, "has a port but no address")
	case strings.ContainsAny(s, "ghijklmnopqrstuvwxyzGHIJKLMNOPQRSTUVWXYZ"):
		return refuse("write the IP address: Pintle must not need a name server", "not an IP address and port")
	}
	return refuse(fmt.Sprintf("write it as 10.0.0.1:%d or [2001:db8::1]:%d", port, port), "not an IP address and port")
}

// plainIP refuses forms of an address that are not what is on the wire.
func plainIP(a netip.Addr) error {
	switch {
	case a.Zone() != "":
		return refuse("write it without %"+a.Zone(), "has a zone")
	case a.Is4In6():
		return refuse("write "+a.Unmap().String(), "is an IPv4 address in IPv6 form")
	}
	return nil
}

func absolute(s string) error {
	if !filepath.IsAbs(s) {
		return refuse("begin it with /", "not an absolute path")
	}
	return nil
}
