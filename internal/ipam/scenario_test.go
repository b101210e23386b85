package ipam

import (
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what happens into testdata/*.txt")

// TestScenarios plays testdata/*.txt. A line of a file is something that happens to the cluster; indented lines below it are what
// becomes of its Services, by a coordinator that resolves each of them, in the order of names, until there is nothing to do.
//
//	pool NAME RANGE... [skip] [manual] [priority=N] [namespaces=A,B] [namespace-selector=L] [selector=L]
//	    there is this pool from now on, instead of one of that name; skip: skipFirstLast, manual: autoAssign is false
//	namespace NAME LABEL=VALUE,...
//	service NS/NAME [ipv4|ipv6|ipv4,ipv6] [prefer|require] [tcp/80...] [share=KEY] [local=SELECTOR] [pool=NAME] [addresses=A,B] [labels=L]
//	    there is this Service from now on; by default ipv4, single stack, tcp/80
//	pool|service NAME gone      it is deleted
//	service NAME again          it is deleted, and one like it created
//	block|unblock ADDR [WHY]
//	free ADDR                   it is in use without users, until it is not: "free ADDR done"
//	usage NAME                  prints the usage of a pool
//	restart                     all that is known is read anew
func TestScenarios(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.txt")
	if len(files) == 0 {
		t.Fatal("no scenarios in testdata")
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(want) {
				t.Errorf("%s differs (go test ./internal/ipam -update, and say why):\n%s", file, firstDifference(string(want), got))
			}
		})
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return fmt.Sprintf("line %d:\n- %s\n+ %s", i+1, w[i], strings.Join(g[i:min(i+5, len(g))], "\n  "))
		}
	}
	return fmt.Sprintf("%d lines, not %d", len(g), len(w))
}

func play(t *testing.T, script string) string {
	var out strings.Builder
	c := newCluster()
	for i, line := range strings.Split(strings.TrimSuffix(script, "\n"), "\n") {
		if strings.HasPrefix(line, "    ") {
			continue
		}
		out.WriteString(line + "\n")
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		said, err := c.do(words)
		if err != nil {
			t.Fatalf("line %d: %s: %v", i+1, line, err)
		}
		for _, s := range append(said, c.settle(t)...) {
			out.WriteString("    " + s + "\n")
		}
	}
	return out.String()
}

// A cluster is what a coordinator knows, without an API.
type cluster struct {
	book       *Book
	pools      map[string]Pool
	namespaces map[string]map[string]string
	services   map[Key]Request
	uids       int
	last       map[Key][]string // what was said of each
}

func newCluster() *cluster {
	return &cluster{book: NewBook(), pools: map[string]Pool{}, namespaces: map[string]map[string]string{},
		services: map[Key]Request{}, last: map[Key][]string{}}
}

func (c *cluster) do(words []string) (said []string, err error) {
	if len(words) < 2 && words[0] != "restart" {
		return nil, fmt.Errorf("what of it?")
	}
	switch words[0] {
	case "pool":
		return c.pool(words[1], words[2:])
	case "service":
		return nil, c.service(words[1], words[2:])
	case "namespace":
		c.namespaces[words[1]] = parseLabels(words[2])
	case "block":
		c.book.Block(netip.MustParseAddr(words[1]), strings.Join(words[2:], " "))
	case "unblock":
		c.book.Unblock(netip.MustParseAddr(words[1]))
	case "free":
		if addr := netip.MustParseAddr(words[1]); len(words) > 2 {
			c.book.Remove(addr)
		} else {
			c.book.Set(Holding{Addr: addr})
		}
	case "usage":
		u := c.book.Usage(words[1])
		said = append(said, fmt.Sprintf("%s addresses, %d used, %s free, %d in conflict", u.Total, u.Used, u.Free, u.Conflicts))
	case "restart":
		fresh := NewBook()
		for _, h := range c.book.held {
			fresh.Set(h)
		}
		maps.Copy(fresh.blocked, c.book.blocked)
		c.book = fresh
		c.setPools()
	default:
		return nil, fmt.Errorf("%s?", words[0])
	}
	return said, nil
}

func (c *cluster) setPools() []Pool {
	pools := slices.Collect(maps.Values(c.pools)) // in any order: it is to make no difference
	c.book.SetPools(pools)
	return pools
}

func (c *cluster) pool(name string, words []string) (said []string, err error) {
	delete(c.pools, name)
	if words[0] != "gone" {
		if c.pools[name], err = parsePool(name, words); err != nil {
			return nil, err
		}
	}
	problems := CheckPools(c.setPools())
	for _, n := range slices.Sorted(maps.Keys(problems)) {
		for _, p := range problems[n] {
			said = append(said, "pool "+n+" "+p.Error())
		}
	}
	return said, nil
}

func parsePool(name string, words []string) (Pool, error) {
	p := Pool{Name: name, AutoAssign: true}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "skip":
		case "manual":
			p.AutoAssign = false
		case "priority":
			p.Priority, _ = strconv.Atoi(value)
		case "namespaces":
			p.Namespaces = strings.Split(value, ",")
		case "namespace-selector":
			s := parseSelector(value)
			p.NamespaceSelector = &s
		case "selector":
			p.ServiceSelector = parseSelector(value)
		default:
			r, err := ParseRange(w, slices.Contains(words, "skip"))
			if err != nil {
				return p, err
			}
			p.Ranges = append(p.Ranges, r)
		}
	}
	return p, nil
}

// parseSelector reads "a=x|y,b!=x,c,!d".
func parseSelector(text string) (s Selector) {
	for _, part := range strings.Split(text, ",") {
		key, values, in := strings.Cut(part, "=")
		list := strings.Split(values, "|")
		switch {
		case in && strings.HasSuffix(key, "!"):
			s = append(s, Requirement{strings.TrimSuffix(key, "!"), NotIn, list})
		case in:
			s = append(s, Requirement{key, In, list})
		case strings.HasPrefix(key, "!"):
			s = append(s, Requirement{key[1:], DoesNotExist, nil})
		default:
			s = append(s, Requirement{key, Exists, nil})
		}
	}
	return s
}

func parseLabels(text string) map[string]string {
	labels := map[string]string{}
	for _, part := range strings.Split(text, ",") {
		k, v, _ := strings.Cut(part, "=")
		labels[k] = v
	}
	return labels
}

func (c *cluster) service(name string, words []string) error {
	ns, n, _ := strings.Cut(name, "/")
	key := Key{ns, n}
	old, exists := c.services[key]
	if slices.Contains([]string{"gone", "again"}, strings.Join(words, " ")) {
		if !exists {
			return fmt.Errorf("no such Service")
		}
		for _, h := range c.book.Of(key, old.UID) {
			c.release(h, old)
		}
		delete(c.services, key)
		delete(c.last, key)
		if words[0] == "gone" {
			return nil
		}
		old.UID = c.uid()
		c.services[key] = old
		return nil
	}
	r, err := parseRequest(words)
	if err != nil {
		return err
	}
	if r.Service, r.UID = key, old.UID; !exists {
		r.UID = c.uid()
	}
	c.change(r)
	return nil
}

// change tells the book of a Service as it is now.
func (c *cluster) change(r Request) {
	c.services[r.Service] = r
	for _, h := range c.book.Of(r.Service, r.UID) {
		c.book.Set(h.With(r.User))
	}
}

func (c *cluster) uid() string {
	c.uids++
	return "uid-" + strconv.Itoa(c.uids)
}

func parseRequest(words []string) (Request, error) {
	r := Request{Families: []Family{IPv4}}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		proto, port, isPort := strings.Cut(w, "/")
		switch {
		case key == "ipv4":
		case key == "ipv6":
			r.Families = []Family{IPv6}
		case key == "ipv4,ipv6":
			r.Families = []Family{IPv4, IPv6}
		case key == "ipv6,ipv4":
			r.Families = []Family{IPv6, IPv4}
		case key == "prefer":
			r.Policy = PreferDualStack
		case key == "require":
			r.Policy = RequireDualStack
		case key == "share":
			r.ShareKey = value
		case key == "local":
			r.Backends = value
		case key == "pool":
			r.Pool = value
		case key == "labels":
			r.Labels = parseLabels(value)
		case key == "addresses":
			for _, a := range strings.Split(value, ",") {
				r.Addresses = append(r.Addresses, netip.MustParseAddr(a))
			}
		case isPort:
			n, err := strconv.ParseUint(port, 10, 16)
			if err != nil {
				return r, err
			}
			r.Ports = append(r.Ports, Port{strings.ToUpper(proto), uint16(n)})
		default:
			return r, fmt.Errorf("%s?", w)
		}
	}
	if len(r.Ports) == 0 {
		r.Ports = []Port{{"TCP", 80}}
	}
	return r, nil
}

// settle resolves all Services until nothing changes, and tells what did.
func (c *cluster) settle(t *testing.T) (said []string) {
	for round, quiet := 0, false; !quiet; round++ {
		if round > 10 {
			t.Fatal("there is no end to it")
		}
		quiet = true
		for _, key := range slices.SortedFunc(maps.Keys(c.services), compareKeys) {
			words, changed := c.resolve(key)
			quiet = quiet && !changed
			for _, w := range words {
				said = append(said, key.String()+" "+w)
			}
		}
	}
	return said
}

func compareKeys(a, b Key) int { return strings.Compare(a.String(), b.String()) }

// resolve brings one Service about.
func (c *cluster) resolve(key Key) (said []string, changed bool) {
	r := c.services[key]
	r.NamespaceLabels = c.namespaces[key.Namespace]
	d := c.book.Resolve(r)
	for _, a := range d.Drop {
		h, _ := c.book.Get(a)
		c.release(h, r)
		said = append(said, "gives up "+a.String())
	}
	for _, g := range d.Keep {
		h, _ := c.book.Get(g.Addr)
		if h.Pool != g.Pool {
			said = append(said, fmt.Sprintf("has %s, which is of pool %s now", g.Addr, g.Pool))
		}
		h.Pool = g.Pool
		c.book.Set(h.With(r.User))
	}
	for _, g := range d.Take {
		h, _ := c.book.Get(g.Addr)
		verb := "takes"
		if g.Share {
			verb = "shares"
		}
		said = append(said, fmt.Sprintf("%s %s of pool %s", verb, g.Addr, g.Pool))
		h.Addr, h.Pool = g.Addr, g.Pool
		c.book.Set(h.With(r.User))
	}
	changed = len(said) > 0
	var words []string
	if !d.OK() {
		words = append(words, "refused: "+Explain(d.Refused))
	}
	for _, n := range d.Notes {
		words = append(words, "note: "+n)
	}
	for _, w := range words {
		if !slices.Contains(c.last[key], w) {
			said = append(said, w)
		}
	}
	if len(words) == 0 && !changed && slices.ContainsFunc(c.last[key], func(w string) bool { return !strings.Contains(w, "given up") }) {
		said = append(said, "is well again")
	}
	c.last[key] = words
	return said, changed
}

func (c *cluster) release(h Holding, r Request) {
	if h = h.Without(r.Service, r.UID); len(h.Users) == 0 {
		c.book.Remove(h.Addr)
		return
	}
	c.book.Set(h)
}
