// Package bgp has the tests of Pintle beside real routers, FRR and BIRD.
package bgp

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pintle-lb/pintle/bgp"
	"github.com/pintle-lb/pintle/bgp/bfd"
	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/internal/status"
	"github.com/pintle-lb/pintle/test/router"
	"github.com/pintle-lb/pintle/test/router/routertest"
)

const (
	nodeAS   = 65001
	routerAS = 65000
	wait     = time.Minute // for what takes a moment, on a machine that is as busy as can be
)

var (
	vip4 = netip.MustParsePrefix("10.99.0.1/32")
	vip6 = netip.MustParsePrefix("fd99::1/128")
)

// program is the Pintle that the tests run.
var program string

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "echo" {
		n, err := strconv.Atoi(os.Args[2])
		if err == nil {
			err = netlab.RunEcho(context.Background(), byte(n), netlab.EchoPort)
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if len(os.Args) == 3 && os.Args[1] == "listen" {
		fmt.Fprintln(os.Stderr, listen(os.Args[2]))
		os.Exit(1)
	}
	os.Exit(run(m))
}

// listen accepts connections, and keeps them.
func listen(at string) error {
	ln, err := net.Listen("tcp", at)
	for err == nil {
		_, err = ln.Accept()
	}
	return err
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "pintle-bgp-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "pintle")
	build := exec.Command("go", "build", "-o", program, "../../cmd/pintle")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build pintle: %v\n%s", err, out)
		return 1
	}
	// They mostly wait: routers take their time to connect, and hold times to pass.
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// A site is some machines with Pintle and a router, the lab's client.
type site struct {
	t        testing.TB
	lab      *netlab.Lab
	machines []*machine
}

// A machine runs one Pintle.
type machine struct {
	*netlab.Node
	t    testing.TB
	dir  string
	log  *logs
	proc *netlab.Process // nil: it does not run
}

// logs collects what a process says.
type logs struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// newSite makes the machines; nothing runs yet.
func newSite(t testing.TB, nodes int) *site {
	t.Helper()
	s := &site{t: t, lab: routertest.Lab(t, netlab.Options{Nodes: nodes, IPv6: true})}
	for _, n := range s.lab.Nodes() {
		m := &machine{Node: n, t: t, dir: t.TempDir(), log: &logs{}}
		s.machines = append(s.machines, m)
		t.Cleanup(func() {
			m.stop()
			if t.Failed() {
				t.Logf("%s:\n%s", m.Name(), m.log)
			}
		})
	}
	return s
}

// node is machine i, counted from 1.
func (s *site) node(i int) *machine { return s.machines[i-1] }

// addr4 and addr6 are the machines' own addresses.
func (s *site) addrs(v6 bool) (out []netip.Addr) {
	for _, m := range s.machines {
		if v6 {
			out = append(out, m.Addr6())
		} else {
			out = append(out, m.Addr())
		}
	}
	return out
}

// neighbors are the machines as the router expects them, each changed by the given
// function, which may be nil.
func (s *site) neighbors(change func(*router.Neighbor)) (out []router.Neighbor) {
	for _, m := range s.machines {
		n := router.Neighbor{Addr: m.Addr(), AS: nodeAS, Families: []router.Family{router.IPv4, router.IPv6}}
		if change != nil {
			change(&n)
		}
		out = append(out, n)
	}
	return out
}

// A setup is what a machine's configuration says besides the addresses.
type setup struct {
	peer  string // keys of the one peer, in YAML's flow style: "hold: 3s, gtsm: true"; the address and AS are the router's unless given
	bgp   string // further keys of bgp, one a line
	extra string // further keys of the whole file
	// announce and election; "": [bgp] and none
	announce, election string
	addrs              []netip.Prefix // nil: vip4 and vip6
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// config writes a machine's configuration and returns where.
func (s *site) config(m *machine, c setup) string {
	s.t.Helper()
	if c.addrs == nil {
		c.addrs = []netip.Prefix{vip4, vip6}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: pintle.dev/v1\nnode: %s\nannounce: %s\nelection: %s\naddresses:\n", m.Name(), or(c.announce, "[bgp]"), or(c.election, "none"))
	for _, a := range c.addrs {
		fmt.Fprintf(&b, "  - address: \"%s\"\n", a.Addr())
	}
	fmt.Fprintf(&b, "server: {listen: \"off\", runDir: %s/run}\nlog: {level: debug}\n", m.dir)
	if c.announce != "[table]" {
		peer := c.peer
		if !strings.Contains(peer, "address:") && !strings.Contains(peer, "interface:") {
			peer = strings.TrimSuffix(fmt.Sprintf("address: %s, %s", s.lab.Client().Addr(), peer), ", ")
		}
		if !strings.Contains(peer, "as:") {
			peer += fmt.Sprintf(", as: %d", routerAS)
		}
		fmt.Fprintf(&b, "bgp:\n  as: %d\n  peers:\n    - {name: r, %s}\n%s", nodeAS, peer, c.bgp)
	}
	b.WriteString(c.extra)
	path := filepath.Join(m.dir, "pintle.yaml")
	check(s.t, os.WriteFile(path, []byte(b.String()), 0o644))
	return path
}

// start runs Pintle on a machine.
func (s *site) start(m *machine, c setup) {
	s.t.Helper()
	config := s.config(m, c)
	cmd := exec.Command(program, "run", "--config", config)
	cmd.Stdout, cmd.Stderr = m.log, m.log
	proc, err := m.Host.Start(context.WithoutCancel(s.t.Context()), cmd)
	check(s.t, err)
	m.proc = proc
}

// startAll runs the same on all machines.
func (s *site) startAll(c setup) {
	s.t.Helper()
	for _, m := range s.machines {
		s.start(m, c)
	}
}

// stop ends Pintle as an administrator would, and waits for the end.
func (m *machine) stop() {
	if m.proc != nil {
		_ = m.proc.Signal(syscall.SIGCONT)
		m.proc.End()
	}
	m.proc = nil
}

func (m *machine) signal(sig syscall.Signal) {
	m.t.Helper()
	check(m.t, m.proc.Signal(sig))
}

// ask runs a command of Pintle on a machine, with its configuration.
func (m *machine) ask(command string, args ...string) ([]byte, error) {
	var out, errs bytes.Buffer
	cmd := exec.Command(program, append([]string{command, "--config", filepath.Join(m.dir, "pintle.yaml")}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	p, err := m.Host.Start(context.WithoutCancel(m.t.Context()), cmd)
	if err != nil {
		return nil, err
	}
	if err := p.Wait(); err != nil {
		return nil, fmt.Errorf("pintle %s on %s: %w: %s", command, m.Name(), err, errs.String())
	}
	return out.Bytes(), nil
}

// report is what `pintle status -o json` says.
func (m *machine) report() (*status.Report, error) {
	out, err := m.ask("status", "-o", "json")
	if err != nil {
		return nil, err
	}
	r := &status.Report{}
	return r, json.Unmarshal(out, r)
}

// peer is what a machine says of its only router.
func (m *machine) peer() (bgp.PeerStatus, error) {
	r, err := m.report()
	if err != nil {
		return bgp.PeerStatus{}, err
	}
	if r.BGP == nil || len(r.BGP.Peers) == 0 {
		return bgp.PeerStatus{}, fmt.Errorf("%s has no peers", m.Name())
	}
	return r.BGP.Peers[0], nil
}

// await waits until f succeeds.
func await(t testing.TB, f func() error) {
	t.Helper()
	for end := time.Now().Add(wait); ; time.Sleep(20 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// within is a context for waits.
func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	t.Cleanup(cancel)
	return ctx
}

// routed waits until the router's kernel has exactly these next hops.
func (s *site) routed(w *router.Watch, p netip.Prefix, hops ...netip.Addr) (at time.Time) {
	s.t.Helper()
	await(s.t, func() (err error) {
		ctx, cancel := context.WithTimeout(s.t.Context(), time.Second)
		defer cancel()
		if at, err = w.Await(ctx, p, hops...); err == nil {
			return nil
		}
		for _, m := range s.machines {
			if m.proc != nil && m.proc.Exited() {
				s.t.Fatalf("%v, and Pintle on %s has ended", err, m.Name())
			}
		}
		return err
	})
	return at
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// secret writes a password or key to a file.
func (s *site) secret(text string) (path string) {
	s.t.Helper()
	path = filepath.Join(s.t.TempDir(), "secret")
	check(s.t, os.WriteFile(path, []byte(text+"\n"), 0o600))
	return path
}

// bfdUp waits until BFD of a machine is up.
func (s *site) bfdUp(m *machine) {
	s.t.Helper()
	await(s.t, func() error {
		p, err := m.peer()
		if err == nil && (p.BFD == nil || p.BFD.State != bfd.Up) {
			err = fmt.Errorf("BFD of %s: %+v", m.Name(), p.BFD)
		}
		return err
	})
}

// without is a list but for one element.
func without[T comparable](all []T, but T) (out []T) {
	for _, x := range all {
		if x != but {
			out = append(out, x)
		}
	}
	return out
}
