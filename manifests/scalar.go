package manifests

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"text/template"
	"time"
	"unicode/utf8"
)

// functions are what the templates write YAML with.
var functions = template.FuncMap{"scalar": scalar, "quote": quote, "links": links, "indent": indent, "literal": literal, "seconds": seconds}

var (
	plainWord = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9/._@-]*(:[A-Za-z0-9/._@-]+)*$`)
	plainIPv4 = regexp.MustCompile(`^[0-9]+(\.[0-9]+){3}$`)
	keyword   = regexp.MustCompile(`^(?i:true|false|yes|no|on|off|y|n|null)$`)
)

// scalar writes a text so that YAML reads it as this text, with quotes only where it must have them.
func scalar(s string) string {
	if plainIPv4.MatchString(s) || plainWord.MatchString(s) && !keyword.MatchString(s) {
		return s
	}
	return quote(s)
}

// quote writes a text in double quotes: what JSON writes, YAML reads.
func quote(s string) string {
	out, err := json.Marshal(s)
	if err != nil {
		panic(err) // no text fails
	}
	return string(out)
}

// seconds writes a duration as people do: 60s, not 1m0s.
func seconds(d time.Duration) string {
	if d%time.Second == 0 {
		return fmt.Sprintf("%ds", d/time.Second)
	}
	return d.String()
}

// links writes the links of an address.
func links(names []string) string {
	switch len(names) {
	case 0:
		return "auto"
	case 1:
		return scalar(names[0])
	}
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = quote(n)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// indent puts n spaces before each line that is not empty.
func indent(n int, text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i, l := range lines {
		if l != "" {
			lines[i] = strings.Repeat(" ", n) + l
		}
	}
	return strings.Join(lines, "\n")
}

// literal writes a text as a literal block that stands n spaces deep, and in quotes where a block would change it (YAML
// 1.2, 8.1).
func literal(n int, text []byte) string {
	s := string(text)
	strange := func(r rune) bool { return r == utf8.RuneError || r < ' ' && r != '\n' || r >= 0x7f }
	if strings.HasPrefix(s, " ") || strings.HasPrefix(s, "\n") || !strings.HasSuffix(s, "\n") || strings.HasSuffix(s, "\n\n") ||
		strings.ContainsFunc(s, strange) {
		return quote(s)
	}
	for _, l := range strings.Split(s, "\n") {
		if l != "" && strings.TrimSpace(l) == "" {
			return quote(s)
		}
	}
	return "|\n" + indent(n, s)
}
