package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/internal/status"
	"github.com/pintle-lb/pintle/leader/pki"
)

// pintle is the program, built once for all tests.
var pintle string

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "uncapped" {
		fmt.Fprintln(os.Stderr, "uncapped:", uncapped(os.Args[2:]))
		os.Exit(99)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "pintle-node-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	pintle = filepath.Join(dir, "pintle")
	args := []string{"build", "-o", pintle, "../../cmd/pintle"}
	if raceDetector {
		args = slices.Insert(args, 1, "-race")
	}
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build pintle: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// uncapped runs a program in the place of this one, without any capability, also
// as root.
func uncapped(args []string) error {
	runtime.LockOSThread()
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	return unix.Exec(args[0], args, os.Environ())
}

// A site is a cluster of machines in a lab.
type site struct {
	t        *testing.T
	lab      *netlab.Lab
	dir      string
	machines []*machine
}

// A machine runs one Pintle.
type machine struct {
	*netlab.Node
	site                       *site
	name, config               string
	runDir, stateDir, log      string
	wrap                       []string // runs pintle
	proc                       *netlab.Process
	killed                     bool // and not started again
	instance, addresses, extra string
	port, statusPort           int
	peers                      string
	election                   string // YAML, instead of that of Raft
}

// A layout says what a site is.
type layout struct {
	nodes     int
	profile   string
	addresses string                // YAML
	peer      func(i int) string    // more keys of peer i
	extra     func(*machine) string // more YAML of a machine
}

// making: google/nftables counts its sets in a variable of the whole process.
var making sync.Mutex

// newSite makes machines with configurations and certificates; nothing runs yet.
func newSite(t *testing.T, l layout) *site {
	t.Helper()
	making.Lock()
	lab, err := netlab.New(netlab.Options{Nodes: l.nodes, IPv6: true})
	making.Unlock()
	if errors.Is(err, unix.EPERM) && os.Getenv("LAB") != "require" {
		t.Skipf("this test makes network namespaces: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, lab: lab, dir: t.TempDir()}
	t.Cleanup(s.end)
	s.ca()
	peers := ""
	for i, n := range lab.Nodes() {
		more := ""
		if l.peer != nil {
			more = l.peer(i)
		}
		peers += fmt.Sprintf("    - {name: %s, address: \"%s:7400\"%s}\n", n.Name(), n.Addr(), more)
	}
	for _, n := range lab.Nodes() {
		m := s.machine(n, "default", n.Name())
		m.addresses, m.peers, m.port, m.statusPort = l.addresses, "  profile: "+l.profile+"\n  peers:\n"+peers, 7400, 7401
		if l.extra != nil {
			m.extra = l.extra(m)
		}
		m.write()
		s.machines = append(s.machines, m)
	}
	return s
}

func (s *site) ca() {
	s.check(pki.CreateCA(filepath.Join(s.dir, "pki"), "test", 24*time.Hour))
	for _, n := range s.lab.Nodes() {
		s.check(pki.Issue(filepath.Join(s.dir, "pki"), n.Name(), nil, 12*time.Hour))
	}
}

func (s *site) machine(n *netlab.Node, instance, dir string) *machine {
	dir = filepath.Join(s.dir, dir)
	s.check(os.MkdirAll(dir, 0o755))
	return &machine{Node: n, site: s, name: n.Name(), instance: instance, config: filepath.Join(dir, instance+".yaml"),
		runDir: filepath.Join(dir, "run"), stateDir: filepath.Join(dir, "state-"+instance), log: filepath.Join(dir, instance+".log")}
}

// write writes the configuration.
func (m *machine) write() {
	election := m.election
	if election == "" {
		file := func(name string) string { return filepath.Join(m.site.dir, "pki", name) }
		election = fmt.Sprintf("raft:\n  stateDir: %s\n  tls: {ca: %s, cert: %s, key: %s}\n%s", m.stateDir, file("ca.crt"), file(m.name+".crt"),
			file(m.name+".key"), m.peers)
	}
	m.site.check(os.WriteFile(m.config, fmt.Appendf(nil, `apiVersion: pintle.dev/v1
instance: %s
node: %s
addresses:
%s
%s
server: {listen: "127.0.0.1:%d", runDir: %s}
%s`, m.instance, m.name, m.addresses, election, m.statusPort, m.runDir, m.extra), 0o644))
}

func (s *site) check(err error) {
	if err != nil {
		s.t.Helper()
		s.t.Fatal(err)
	}
}

// end closes the lab; after a failure it shows the logs.
func (s *site) end() {
	for _, m := range s.machines {
		if b, _ := os.ReadFile(m.log); bytes.Contains(b, []byte("panic")) || bytes.Contains(b, []byte("DATA RACE")) {
			s.t.Errorf("%s, instance %s, panicked or raced:\n%s", m.name, m.instance, b)
		}
	}
	if s.t.Failed() {
		for _, m := range s.machines {
			b, _ := os.ReadFile(m.log)
			lines := strings.SplitAfter(string(b), "\n")
			s.t.Logf("--- log of %s, instance %s:\n%s", m.name, m.instance, strings.Join(lines[max(0, len(lines)-60):], ""))
		}
	}
	if err := s.lab.Close(); err != nil {
		s.t.Error(err)
	}
}

// start starts the machine's Pintle; what it prints is added to its log.
func (m *machine) start() {
	m.site.t.Helper()
	m.killed = false
	m.proc = m.spawn(append(slices.Clone(m.wrap), pintle, "run", "-c", m.config)...)
}

func (m *machine) spawn(args ...string) *netlab.Process {
	m.site.t.Helper()
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	m.site.check(err)
	defer log.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := m.Start(context.WithoutCancel(m.site.t.Context()), cmd)
	m.site.check(err)
	return p
}

func (m *machine) runs() bool { return m.proc != nil && !m.proc.Exited() }

// signal ends the machine's Pintle by a signal.
func (m *machine) signal(sig syscall.Signal) error {
	m.site.t.Helper()
	m.site.check(m.proc.Signal(sig))
	select {
	case <-m.proc.Done():
	case <-time.After(40 * time.Second):
		m.site.t.Fatalf("%s does not end", m.name)
	}
	return m.proc.Wait()
}

// stop stops it as planned.
func (m *machine) stop() {
	m.site.t.Helper()
	if err := m.signal(syscall.SIGTERM); err != nil {
		m.site.t.Fatalf("%s, instance %s, after SIGTERM: %v", m.name, m.instance, err)
	}
}

func (m *machine) kill() {
	m.site.t.Helper()
	_ = m.signal(syscall.SIGKILL)
	m.killed = true
}

func (m *machine) report() (*status.Report, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	return status.NewClient(status.Socket(m.runDir, m.instance)).Report(ctx)
}

// wait polls until a condition holds; why says why it does not.
func (s *site) wait(what string, holds func() (ok bool, why string)) {
	s.t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for {
		ok, why := holds()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: not within 90 s: %s", what, why)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// until polls until what a machine says of itself is as wanted.
func (m *machine) until(what string, is func(*status.Report) bool) *status.Report {
	m.site.t.Helper()
	var last *status.Report
	m.site.wait(m.name+": "+what, func() (bool, string) {
		r, err := m.report()
		if err != nil {
			return false, err.Error()
		}
		last = r
		return is(r), fmt.Sprintf("state %s (%s), healthy %v %s, seats %+v", r.State, r.Explain, r.Healthy, r.Unhealthy, r.Seats)
	})
	return last
}

// settled waits until all that run are in order and agree, and returns the holder.
func (s *site) settled() *machine {
	s.t.Helper()
	var holder *machine
	s.wait("settle", func() (bool, string) {
		name, epoch := "", uint64(0)
		holder = nil
		for _, m := range s.machines {
			if !m.runs() {
				continue
			}
			r, err := m.report()
			if err != nil {
				return false, err.Error()
			}
			if !r.Ready {
				return false, m.name + " is not ready: " + r.NotReady
			}
			if len(r.Seats) == 0 { // a witness
				continue
			}
			seat := r.Seats[0]
			if name == "" {
				name, epoch = seat.Holder, seat.Epoch
			}
			if seat.Holder == "" || seat.Holder != name || seat.Epoch != epoch {
				return false, fmt.Sprintf("%s says that %q holds in %d, others say %q in %d", m.name, seat.Holder, seat.Epoch, name, epoch)
			}
			if seat.Holding {
				holder = m
				for _, a := range seat.Addresses {
					if !a.Claimed || !a.Bound {
						return false, fmt.Sprintf("%s holds, but: %+v", m.name, a)
					}
				}
			}
		}
		return holder != nil, "nobody holds"
	})
	return holder
}

// others are the running machines but one.
func (s *site) others(m *machine) (rest []*machine) {
	for _, o := range s.machines {
		if o != m && o.runs() {
			rest = append(rest, o)
		}
	}
	return rest
}

// cli runs a command about the machine.
func (m *machine) cli(args ...string) (string, error) {
	out, err := exec.Command(pintle, append(args, "-c", m.config)...).CombinedOutput()
	return string(out), err
}

func (m *machine) logged(text string) int {
	b, err := os.ReadFile(m.log)
	m.site.check(err)
	return strings.Count(string(b), text)
}

// A trace is what Pintle changes on a host.
type trace struct {
	addrs, sysctls, tables, files []string
}

func (t trace) String() string {
	return fmt.Sprintf("addresses %q, tables %q, files %q, sysctls %q", t.addrs, t.tables, t.files, t.sysctls)
}

// trace looks at the machine as it is.
func (m *machine) trace() (t trace) {
	m.site.t.Helper()
	m.site.check(m.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(lo, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if !a.IP.IsLoopback() {
				t.addrs = append(t.addrs, a.IPNet.String())
			}
		}
		tables, err := (&nftables.Conn{}).ListTables()
		if err != nil {
			return err
		}
		for _, n := range tables {
			t.tables = append(t.tables, n.Name)
		}
		confs, err := filepath.Glob("/proc/sys/net/ipv4/conf/*/arp_*")
		for _, c := range confs {
			v, err := os.ReadFile(c)
			if err != nil {
				return err
			}
			t.sysctls = append(t.sysctls, strings.TrimPrefix(c, "/proc/sys/net/ipv4/conf/")+"="+strings.TrimSpace(string(v)))
		}
		return err
	}))
	_ = filepath.WalkDir(m.runDir, func(path string, d os.DirEntry, err error) error {
		if err == nil {
			t.files = append(t.files, strings.TrimPrefix(path, m.runDir))
		}
		return nil
	})
	slices.Sort(t.addrs)
	slices.Sort(t.tables)
	return t
}

// get asks the machine's HTTP server.
func (m *machine) get(path string) (code int, body string) {
	m.site.t.Helper()
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
			err = m.Do(func() (err error) { conn, err = new(net.Dialer).DialContext(ctx, network, addr); return err })
			return conn, err
		}}}
	resp, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d%s", m.statusPort, path))
	m.site.check(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	m.site.check(err)
	return resp.StatusCode, string(b)
}

// addLink makes a second link whose far end is on the machine too.
func (m *machine) addLink(prefix string) {
	m.site.t.Helper()
	m.site.check(m.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth1"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "far1"}); err != nil {
			return err
		}
		a, err := netlink.ParseAddr(prefix)
		if err != nil {
			return err
		}
		eth1, err := netlink.LinkByName("eth1")
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrAdd(eth1, a), netlink.LinkSetUp(eth1), setLink("far1", true))
	}))
}

func setLink(name string, up bool) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if up {
		return netlink.LinkSetUp(l)
	}
	return netlink.LinkSetDown(l)
}

// carrier gives eth1 a carrier or takes it away.
func (m *machine) carrier(on bool) {
	m.site.t.Helper()
	m.site.check(m.Do(func() error { return setLink("far1", on) }))
}
