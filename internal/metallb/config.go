package metallb

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/poolfile"
)

// fileName is how problems of the configuration are told.
const fileName = "pintle.yaml"

// config writes the configuration.
func (d *draft) config(madeBy string) []byte {
	w := &writer{}
	w.line(0, "# Services of type LoadBalancer: the same file on every node.")
	w.line(0, "# Made by %s.", madeBy)
	w.line(0, "# Every key: https://github.com/pintle-lb/pintle/blob/main/internal/config/reference.yaml")
	w.line(0, "apiVersion: pintle.dev/v1")
	w.line(0, "instance: services")
	w.line(0, "")
	w.line(0, "# Which addresses there are, and how they are announced, AddressPools say.")
	w.line(0, "services:")
	w.line(1, "namespace: %s", poolfile.Namespace)
	if d.class != "" {
		w.line(1, "class: %s", quote(d.class))
		w.line(1, "unclassed: false")
	}
	if len(d.peers) > 0 {
		d.routers(w)
	}
	d.check(w.out.Bytes())
	return w.out.Bytes()
}

// check tells what Pintle would say of the configuration, so that nobody finds out when nodes start.
func (d *draft) check(data []byte) {
	_, problems := config.Parse(data, fileName, config.Options{Node: "node"})
	for _, p := range problems {
		d.add(Note{Place: p.String()})
	}
}

// routers writes section bgp.
func (d *draft) routers(w *writer) {
	as := d.mostAS()
	w.line(0, "")
	w.line(0, "# The routers of all nodes. Passwords are in files, which only root should read.")
	w.line(0, "bgp:")
	w.line(1, "as: %d", as)
	w.line(1, "peers:")
	var names []string
	for _, p := range d.peers {
		for _, set := range p.sets() {
			name := p.name
			for n := 2; slices.Contains(names, name); n++ {
				name = fmt.Sprintf("%s-%d", p.name, n)
			}
			names = append(names, name)
			p.write(w, name, as, set)
		}
	}
}

// mostAS is the AS that most routers know us by, and the first of these.
func (d *draft) mostAS() uint32 {
	count := map[uint32]int{}
	for _, p := range d.peers {
		count[p.myAS]++
	}
	return slices.MaxFunc(d.peers, func(a, b peer) int { return cmp.Compare(count[a.myAS], count[b.myAS]) }).myAS
}

// sets are the labels of each router of the configuration: one without any if it is for every node.
func (p peer) sets() []map[string]string {
	if len(p.labels) == 0 {
		return []map[string]string{nil}
	}
	return p.labels
}

func (p peer) write(w *writer, name string, as uint32, labels map[string]string) {
	w.line(2, "- name: %s", quote(name))
	line := func(format string, args ...any) { w.line(3, format, args...) }
	if p.address.IsValid() {
		line("address: %s", quote(p.address.String()))
	} else {
		line("interface: %s", quote(p.link))
	}
	if p.port != 0 && p.port != usualPort {
		line("port: %d", p.port)
	}
	line("as: %s", p.as)
	if p.myAS != as {
		line("localAS: %d", p.myAS)
	}
	if p.local.IsValid() {
		line("localAddress: %s", quote(p.local.String()))
	}
	if p.passwordFile != "" {
		line("passwordFile: %s", quote(p.passwordFile))
	}
	if p.multihop {
		line("multihop: %d", mostHops)
	}
	if p.hold > 0 {
		line("hold: %s", showTime(p.hold))
	}
	if p.keepalive > 0 {
		line("keepalive: %s", showTime(p.keepalive))
	}
	if p.retry > 0 {
		line("connectRetry: %s", showTime(p.retry))
	}
	if p.oneFamily {
		line("families: [%s]", map[bool]string{true: "ipv4", false: "ipv6"}[p.address.Is4()])
	}
	if p.bfd != nil {
		line("bfd: {interval: %s, multiplier: %d}", showTime(p.bfd.interval), p.bfd.multiplier)
	}
	if len(labels) > 0 {
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(labels)) {
			parts = append(parts, quote(k)+": "+quote(labels[k]))
		}
		line("nodeLabels: {%s}", strings.Join(parts, ", "))
	}
}

// A writer writes lines of YAML.
type writer struct{ out bytes.Buffer }

func (w *writer) line(depth int, format string, args ...any) {
	line := strings.Repeat("  ", depth) + fmt.Sprintf(format, args...)
	w.out.WriteString(strings.TrimRight(line, " ") + "\n")
}

func printable(c rune) rune {
	if c < ' ' || c >= 0x7f {
		return '?'
	}
	return c
}

// quote writes a text so that YAML reads it as this text: in quotes, and in plain ASCII, unless it is a simple word.
func quote(s string) string {
	if plain(s) {
		return s
	}
	var out strings.Builder
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // no text fails
	}
	for _, c := range string(text) {
		if c < 0x7f {
			out.WriteRune(c)
		} else {
			fmt.Fprintf(&out, "\\U%08x", c)
		}
	}
	return out.String()
}

// plain reports whether YAML reads a text as it is: a name that begins with a letter or a slash and is no word for a truth, or an
// address of IPv4.
func plain(s string) bool {
	if s == "" || !utf8.ValidString(s) {
		return false
	}
	first := s[0] | 0x20
	digits := s[0] >= '1' && s[0] <= '9' && strings.Count(s, ".") == 3 && strings.Trim(s, "0123456789.") == ""
	if !digits && (first < 'a' || first > 'z') && s[0] != '/' {
		return false
	}
	switch strings.ToLower(s) {
	case "true", "false", "yes", "no", "on", "off", "y", "n", "null":
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/.-_") == ""
}
