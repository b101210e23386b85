package vip

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const childEnv = "VIP_TEST_CHILD"

// TestMain is also the process that binds addresses and is killed.
func TestMain(m *testing.M) {
	if spec := os.Getenv(childEnv); spec != "" {
		if err := child(strings.Split(spec, ",")); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// child binds the addresses (run directory, instance, addresses...), guards those that are given as screen:ADDRESS, hushes those
// given as hush:ADDRESS, and lives until its standard input ends.
func child(spec []string) error {
	b, err := Open(Config{RunDir: spec[0], Instance: spec[1], Lifetime: MinLifetime})
	if err != nil {
		return err
	}
	var want []netip.Prefix
	var guarded []Guarded
	var hushed []netip.Addr
	for _, s := range spec[2:] {
		switch kind, rest, _ := strings.Cut(s, ":"); kind {
		case "screen":
			guarded = append(guarded, Guarded{Addr: netip.MustParseAddr(rest)})
		case "hush":
			hushed = append(hushed, netip.MustParseAddr(rest))
		default:
			want = append(want, netip.MustParsePrefix(s))
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { _ = b.Run(ctx) }()
	if guarded != nil {
		s, err := b.OpenScreen()
		if err == nil {
			err = s.Set(ctx, guarded)
		}
		if err != nil {
			return err
		}
	}
	if err := b.Hush(ctx, hushed); err != nil {
		return err
	}
	if _, err := b.Set(ctx, want); err != nil {
		return err
	}
	fmt.Println("bound")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// startChild returns when the addresses are bound; the process is killed at the end of the test if not before.
func startChild(t *testing.T, spec ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+strings.Join(spec, ","))
	in, err := cmd.StdinPipe() // ends with this process
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { in.Close(); _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line := make([]byte, 512)
	n, err := out.Read(line)
	if got := string(line[:n]); got != "bound\n" {
		t.Fatalf("child says %q (%v)", got, err)
	}
	return cmd
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // it was killed
}

// lab puts the test's goroutine, for good, on a thread in a new network namespace with lo up.
func lab(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if os.Getenv("LAB") == "require" {
			t.Fatalf("make network namespace: %v", err)
		}
		t.Skipf("make network namespace: %v", err)
	}
	up(t, "lo")
}

// other is a second network namespace.
type other struct{ ns netns.NsHandle }

func newOther(t *testing.T) other {
	t.Helper()
	made := make(chan other)
	go func() {
		runtime.LockOSThread()
		defer close(made)
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return
		}
		if ns, err := netns.Get(); err == nil {
			made <- other{ns}
		}
	}()
	o, ok := <-made
	if !ok {
		t.Fatal("no second network namespace")
	}
	t.Cleanup(func() { o.ns.Close() })
	return o
}

// thisNamespace is the one of the test's thread.
func thisNamespace(t *testing.T) other {
	t.Helper()
	ns, err := netns.Get()
	must(t, err)
	t.Cleanup(func() { ns.Close() })
	return other{ns}
}

// do runs f on a thread in there.
func (o other) do(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := netns.Set(o.ns)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	must(t, <-done)
}

// wire makes eth0 here (10.9.0.1/24) and eth0 over there (10.9.0.2/24), both also in fd09::/64. Both send when it returns.
func wire(t *testing.T, o other) {
	t.Helper()
	wireAs(t, o, "eth0", "9")
}

// wireAs does as wire with another name here and another network: 10.N.0.0/24 and fd0N::/64.
func wireAs(t *testing.T, o other, name, n string) {
	t.Helper()
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0",
		PeerNamespace: netlink.NsFd(int(o.ns))}))
	giveAddress(t, name, "10."+n+".0.1/24")
	giveAddress(t, name, "fd0"+n+"::1/64")
	up(t, name)
	o.do(t, func() error {
		for _, l := range []string{"lo", "eth0"} {
			link, err := netlink.LinkByName(l)
			if err == nil {
				err = netlink.LinkSetUp(link)
			}
			if err != nil {
				return err
			}
		}
		if err := addAddress("eth0", "10."+n+".0.2/24"); err != nil {
			return err
		}
		if err := addAddress("eth0", "fd0"+n+"::2/64"); err != nil {
			return err
		}
		return waitActive("eth0")
	})
	must(t, waitActive(name))
}

// waitActive waits until the link sends. The kernel gives one that got its carrier after it was set up a queue some time later,
// from a worker (linkwatch_do_dev); until then it drops what is sent, without an error.
func waitActive(name string) error {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		state := link.Attrs().OperState
		if state == netlink.OperUp {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("link %s is %s after 20 s", name, state)
		}
	}
}

func veth(t *testing.T, name, peer string) {
	t.Helper()
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer}))
}

func byName(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	return l
}

func up(t *testing.T, name string) {
	t.Helper()
	must(t, netlink.LinkSetUp(byName(t, name)))
}

func giveAddress(t *testing.T, link, cidr string) {
	t.Helper()
	must(t, addAddress(link, cidr))
}

func addAddress(link, cidr string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	return netlink.AddrAdd(l, a)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func prefixes(ss ...string) []netip.Prefix {
	out := []netip.Prefix{}
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// onLo returns what has our tag.
func onLo(t *testing.T) []netip.Prefix {
	t.Helper()
	out := []netip.Prefix{}
	for _, a := range dumpAddresses(t) {
		if a.tagged() {
			out = append(out, a.Prefix)
		}
	}
	return out
}

func dumpAddresses(t *testing.T) []address {
	t.Helper()
	r, err := dialRoute()
	must(t, err)
	defer r.close()
	all, err := r.addresses()
	must(t, err)
	return all
}

// conf returns what the link has of its own.
func conf(t *testing.T, name string) arpConf {
	t.Helper()
	r, err := dialRoute()
	must(t, err)
	defer r.close()
	links, err := r.links()
	must(t, err)
	for _, l := range links {
		if l.Name == name {
			return l.arp
		}
	}
	t.Fatalf("no link %s", name)
	return arpConf{}
}

func setConf(t *testing.T, name string, c arpConf) {
	t.Helper()
	r, err := dialRoute()
	must(t, err)
	defer r.close()
	must(t, r.setARP(byName(t, name).Attrs().Index, c))
}

// logs collects what a Binder says.
type logs struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), s)
}

func (l *logs) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// open opens a Binder that is closed at the end of the test at the latest.
func open(t *testing.T, cfg Config) *Binder {
	t.Helper()
	if cfg.Instance == "" {
		cfg.Instance = "a"
	}
	if cfg.RunDir == "" {
		cfg.RunDir = t.TempDir()
	}
	b, err := Open(cfg)
	must(t, err)
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// run runs b until the returned function, or the end of the test.
func run(t *testing.T, b *Binder) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// set sets the addresses and wants just these to be there.
func set(t *testing.T, b *Binder, ss ...string) {
	t.Helper()
	have, err := b.Set(t.Context(), prefixes(ss...))
	must(t, err)
	if fmt.Sprint(have) != fmt.Sprint(prefixes(ss...)) {
		t.Fatalf("have %v, want %v", have, ss)
	}
}

// files returns what is in the run directory.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	must(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if path != dir {
			out = append(out, path)
		}
		return err
	}))
	return out
}

// inSet returns what a set of an instance's wall has, sorted.
func inSet(t *testing.T, instance, name string) []netip.Addr {
	t.Helper()
	nft, err := nftables.New()
	must(t, err)
	found, err := nft.GetSetElements(&nftables.Set{Name: name,
		Table: &nftables.Table{Name: tableName(instance), Family: nftables.TableFamilyARP}})
	must(t, err)
	var out []netip.Addr
	for _, e := range found {
		a, _ := netip.AddrFromSlice(e.Key)
		out = append(out, a)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

func tables(t *testing.T) []string {
	t.Helper()
	nft, err := nftables.New()
	must(t, err)
	ts, err := nft.ListTables()
	must(t, err)
	var out []string
	for _, x := range ts {
		out = append(out, x.Name)
	}
	return out
}
