package bfd

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// program finds a router's program, or skips the test.
func program(t testing.TB, paths ...string) string {
	t.Helper()
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	if os.Getenv("LAB") == "require" {
		t.Fatalf("%s is not installed", paths[0])
	}
	t.Skipf("%s is not installed", paths[0])
	return ""
}

// logged collects what a program says.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func start(t testing.TB, host *netlab.Host, args ...string) {
	t.Helper()
	var out logged
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := host.Start(context.Background(), cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.End()
		if t.Failed() {
			out.mu.Lock()
			defer out.mu.Unlock()
			t.Logf("%s: %s", args[0], out.b.String())
		}
	})
}

func write(t testing.TB, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// startFRR runs zebra and bfdd on host, with sessions to all of a's addresses.
func startFRR(t testing.TB, host, a *netlab.Host, interval time.Duration) {
	t.Helper()
	zebra, bfdd := program(t, "/usr/lib/frr/zebra"), program(t, "/usr/lib/frr/bfdd")
	dir := frrDir(t)
	var conf strings.Builder
	fmt.Fprintln(&conf, "bfd")
	for _, peer := range []string{
		fmt.Sprintf("%v local-address %v interface eth0", a.Addr(), host.Addr()),
		fmt.Sprintf("%v local-address %v interface eth0", a.Addr6(), host.Addr6()),
		fmt.Sprintf("%v multihop local-address %v", a.Addr(), host.Addr()),
		fmt.Sprintf("%v multihop local-address %v", a.Addr6(), host.Addr6()),
	} {
		ms := interval.Milliseconds()
		fmt.Fprintf(&conf, " peer %s\n  receive-interval %d\n  transmit-interval %d\n  detect-multiplier 3\n", peer, ms, ms)
	}
	common := []string{"-A", "127.0.0.1", "-P", "0", "--vty_socket", dir,
		"-z", filepath.Join(dir, "zserv.api"), "--log", "stdout"}
	start(t, host, slices.Concat([]string{zebra, "-f", write(t, filepath.Join(dir, "zebra.conf"), ""), "-i", filepath.Join(dir, "zebra.pid")}, common)...)
	await(t, 10*time.Second, "zebra listens", func() bool { _, err := os.Stat(filepath.Join(dir, "zserv.api")); return err == nil })
	start(t, host, slices.Concat([]string{bfdd, "-f", write(t, filepath.Join(dir, "bfdd.conf"), conf.String()), "-i", filepath.Join(dir, "bfdd.pid"),
		"--bfdctl", filepath.Join(dir, "bfdd.sock")}, common)...)
}

// frrDir makes a folder that FRR's programs, which run as their own user, may write to.
func frrDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	frr, err := user.Lookup("frr")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(frr.Uid)
	gid, _ := strconv.Atoi(frr.Gid)
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// startBIRD runs bird on host, with sessions to all of a's addresses. auth may be empty.
func startBIRD(t testing.TB, host, a *netlab.Host, interval time.Duration, auth string) {
	t.Helper()
	bird := program(t, "/usr/sbin/bird")
	dir := t.TempDir()
	timers := fmt.Sprintf("{ interval %d ms; multiplier 3; %s }", interval.Milliseconds(), auth)
	conf := fmt.Sprintf(`router id %[1]v; protocol device {}
protocol bfd {
  interface "eth0" %[5]s;
  multihop %[5]s;
  neighbor %[2]v dev "eth0" local %[1]v;
  neighbor %[4]v dev "eth0" local %[3]v;
  neighbor %[2]v local %[1]v multihop yes;
  neighbor %[4]v local %[3]v multihop yes;
}
`, host.Addr(), a.Addr(), host.Addr6(), a.Addr6(), timers)
	start(t, host, bird, "-f", "-c", write(t, filepath.Join(dir, "bird.conf"), conf),
		"-s", filepath.Join(dir, "bird.ctl"), "-P", filepath.Join(dir, "bird.pid"))
}

// A router is a program that we have sessions with.
type router struct {
	name  string
	start func(t testing.TB, host, a *netlab.Host, interval time.Duration)
	auth  *Auth
	hops  uint8 // of multihop sessions: BIRD does not send with TTL 255
}

func routers() []router {
	bird := func(auth string) func(t testing.TB, host, a *netlab.Host, interval time.Duration) {
		return func(t testing.TB, host, a *netlab.Host, interval time.Duration) {
			startBIRD(t, host, a, interval, auth)
		}
	}
	return []router{
		{name: "FRR", start: startFRR, hops: 2},
		{name: "BIRD", start: bird(""), hops: 255},
		{name: "BIRD meticulous SHA1", start: bird(`authentication meticulous keyed sha1; password "a key" { id 7; };`), hops: 255,
			auth: &Auth{KeyID: 7, Key: "a key", Meticulous: true}},
		{name: "BIRD SHA1", start: bird(`authentication keyed sha1; password "twenty bytes of key!" { id 255; };`), hops: 255,
			auth: &Auth{KeyID: 255, Key: "twenty bytes of key!"}},
	}
}

// peersOf are our sides of all the sessions that a router has with us.
func (r router) peersOf(us, it *netlab.Host, interval time.Duration) []Peer {
	peers := []Peer{to("v4", us.Addr(), it.Addr()), to("v6", us.Addr6(), it.Addr6()),
		far(to("v4", us.Addr(), it.Addr())), far(to("v6", us.Addr6(), it.Addr6()))}
	for i := range peers {
		peers[i].Interval, peers[i].Auth = interval, r.auth
		if peers[i].MultihopTTL != 0 {
			peers[i].MultihopTTL = r.hops
		}
	}
	return peers
}

// Each router program, over one hop and several, with IPv4 and IPv6: comes up, agrees on timers, follows a live change, sees
// our silence and is told apart from it, and shows its own.
func TestInterop(t *testing.T) {
	for _, r := range routers() {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			lab := newLab(t, 2)
			us, it := lab.Node(1), lab.Node(2)
			const interval = 200 * time.Millisecond
			r.start(t, it.Host, us.Host, interval)
			peers := r.peersOf(us.Host, it.Host, interval)
			st := inhabit(t, us.Host, peers...)
			for _, p := range peers {
				await(t, 20*time.Second, p.Name+" is Up at 200 ms both ways", func() bool {
					s := st.status(p.Name)
					return s.State == Up && s.Sends == interval && s.Expects == interval && s.Detection == 3*interval
				})
			}
			changeLive(t, st, peers)
			silence(t, lab, st, peers)
			for i := range st.Status() {
				s := st.Status()[i]
				t.Logf("%s: sent %d, received %d, dropped %d %s", s.Name, s.Sent, s.Received, s.Dropped, s.LastDropped)
			}
		})
	}
}

// changeLive changes our timers and finds that the router follows.
func changeLive(t *testing.T, st *station, peers []Peer) {
	changed := slices.Clone(peers)
	for i := range changed {
		changed[i].Interval, changed[i].Multiplier = 400*time.Millisecond, 4
	}
	for _, want := range [][]Peer{changed, peers} {
		st.want(want...)
		for _, p := range want {
			await(t, 5*time.Second, fmt.Sprintf("%s changes to %v", p.Name, p.Interval), func() bool {
				s := st.status(p.Name)
				return s.Sends == p.Interval && s.Expects == p.Interval && s.Detected == time.Duration(p.Multiplier)*p.Interval
			})
			if s := st.status(p.Name); s.State != Up || s.Flaps != 0 {
				t.Errorf("%+v", s)
			}
		}
	}
}

// silence takes one direction away, and then the other: each side notices its own.
func silence(t *testing.T, lab *netlab.Lab, st *station, peers []Peer) {
	us, it := lab.Node(1), lab.Node(2)
	for _, c := range []struct {
		from, to *netlab.Node
		want     Diag
	}{{us, it, DiagNeighborDown}, {it, us, DiagTimeExpired}} {
		if err := lab.OneWay(c.from, c.to, true); err != nil {
			t.Fatal(err)
		}
		for _, p := range peers {
			await(t, 5*time.Second, p.Name+" goes down", func() bool { s := st.status(p.Name); return s.State != Up && s.Diag == c.want })
			if s := st.status(p.Name); c.want == DiagNeighborDown && s.RemoteDiag != DiagTimeExpired {
				t.Errorf("the router says %v", s.RemoteDiag)
			}
		}
		if err := lab.OneWay(c.from, c.to, false); err != nil {
			t.Fatal(err)
		}
		for _, p := range peers {
			st.awaitUp(p.Name)
		}
	}
}
