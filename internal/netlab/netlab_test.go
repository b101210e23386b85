package netlab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The test binary is also the programs that the tests run.
func TestMain(m *testing.M) {
	switch role, arg, _ := strings.Cut(os.Getenv("NETLAB_TEST_ROLE"), "="); role {
	case "echo":
		node, _ := strconv.Atoi(arg)
		if err := RunEcho(context.Background(), byte(node), EchoPort); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "lab":
		holdLab()
	case "enter":
		if err := Enter(); err != nil {
			fmt.Println(err)
			os.Exit(77)
		}
		os.Exit(m.Run())
	default:
		os.Exit(m.Run())
	}
}

func role(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), "NETLAB_TEST_ROLE="+name)
	return cmd
}

// newLab makes a lab for the test, or skips it where that is not allowed.
func newLab(t *testing.T, opts Options) *Lab {
	t.Helper()
	l, err := New(opts)
	if errors.Is(err, unix.EPERM) && os.Getenv("LAB") != "require" {
		t.Skipf("this test makes network namespaces: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close lab: %v", err)
		}
	})
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func startEcho(t *testing.T, n *Node) *Process {
	t.Helper()
	cmd := role(fmt.Sprintf("echo=%d", n.Number()))
	cmd.Stderr = os.Stderr
	p, err := n.Start(t.Context(), cmd)
	must(t, err)
	return p
}

// give adds an address to a link of the host.
func give(t *testing.T, h *Host, link, prefix string) {
	t.Helper()
	must(t, h.withNetlink(func(nl *netlink.Handle) error {
		l, err := nl.LinkByName(link)
		if err != nil {
			return err
		}
		return addAddr(nl, l, netip.MustParsePrefix(prefix))
	}))
}

// passes says whether datagrams go one way, from one host to an address of the other. It sends until one has arrived,
// for five seconds where that is expected and for 0.2 where not.
func passes(t *testing.T, from, to *Host, addr netip.Addr, expected bool) bool {
	t.Helper()
	var in, out *net.UDPConn
	must(t, to.Do(func() (err error) {
		in, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
		return err
	}))
	defer in.Close()
	must(t, from.Do(func() (err error) {
		out, err = net.DialUDP("udp", nil, in.LocalAddr().(*net.UDPAddr))
		return err
	}))
	defer out.Close()
	tries := map[bool]int{true: 250, false: 10}[expected]
	for range tries {
		_, _ = out.Write([]byte("x"))
		must(t, in.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
		if n, _ := in.Read(make([]byte, 8)); n == 1 {
			return true
		}
	}
	return false
}

func running(t *testing.T, h *Host) bool {
	t.Helper()
	var up bool
	must(t, h.Do(func() error {
		ifc, err := net.InterfaceByName("eth0")
		if err == nil {
			up = ifc.Flags&net.FlagRunning != 0
		}
		return err
	}))
	return up
}

// reach is who reaches whom, among n1, n2 and the client.
type reach struct{ toPeer, fromPeer, toClient, fromClient bool }

func (r reach) String() string {
	return fmt.Sprintf("n1>n2 %t, n2>n1 %t, n1>client %t, client>n1 %t", r.toPeer, r.fromPeer, r.toClient, r.fromClient)
}

func reachOf(t *testing.T, l *Lab, want reach) reach {
	t.Helper()
	a, b, c := l.Node(1).Host, l.Node(2).Host, l.Client()
	return reach{
		passes(t, a, b, b.Addr(), want.toPeer), passes(t, b, a, a.Addr(), want.fromPeer),
		passes(t, a, c, c.Addr(), want.toClient), passes(t, c, a, a.Addr(), want.fromClient),
	}
}

var all = reach{true, true, true, true}

// introduce makes all hosts know each other's MAC addresses for good, so that a fault is not also one of ARP.
func introduce(t *testing.T, l *Lab) {
	t.Helper()
	for _, h := range l.hosts() {
		must(t, h.withNetlink(func(nl *netlink.Handle) error {
			eth0, err := nl.LinkByName("eth0")
			for _, other := range l.hosts() {
				if err == nil && other != h {
					err = nl.NeighAdd(&netlink.Neigh{
						LinkIndex: eth0.Attrs().Index, State: netlink.NUD_PERMANENT,
						IP: other.Addr().AsSlice(), HardwareAddr: other.MAC(),
					})
				}
			}
			return err
		}))
	}
}

func TestHostsReachEachOther(t *testing.T) {
	l := newLab(t, Options{Nodes: 2, IPv6: true})
	if got := reachOf(t, l, all); got != all {
		t.Errorf("IPv4: %v", got)
	}
	a, b, c := l.Node(1).Host, l.Node(2).Host, l.Client()
	for _, d := range [][2]*Host{{a, b}, {b, a}, {a, c}, {c, b}} {
		if !passes(t, d[0], d[1], d[1].Addr6(), true) {
			t.Errorf("IPv6: %s does not reach %s", d[0].Name(), d[1].Name())
		}
	}
}

func TestFaults(t *testing.T) {
	l := newLab(t, Options{Nodes: 3})
	n1, n2 := l.Node(1), l.Node(2)
	introduce(t, l)
	if got := reachOf(t, l, all); got != all {
		t.Fatalf("without a fault: %v", got)
	}
	tests := []struct {
		name    string
		do      func() error
		undo    func() error
		want    reach
		carrier bool
	}{
		{"cut", n1.Cut, n1.Heal, reach{}, true},
		{"link down", n1.LinkDown, n1.LinkUp, reach{}, false},
		{
			"one way to the peer",
			func() error { return l.OneWay(n1, n2, true) }, func() error { return l.OneWay(n1, n2, false) },
			reach{toPeer: false, fromPeer: true, toClient: true, fromClient: true}, true,
		},
		{
			"one way from the client",
			func() error { return l.OneWay(l.Client(), n1, true) }, func() error { return l.OneWay(l.Client(), n1, false) },
			reach{toPeer: true, fromPeer: true, toClient: true, fromClient: false}, true,
		},
		{
			"cut from peers",
			func() error { return n1.CutFromPeers(true) }, func() error { return n1.CutFromPeers(false) },
			reach{toClient: true, fromClient: true}, true,
		},
		{"all lost", func() error { return l.Loss(n1, 100) }, func() error { return l.Loss(n1, 0) }, reach{}, true},
		{"cleared", func() error { return errors.Join(n1.Cut(), n1.LinkDown(), n1.CutFromPeers(true), l.Loss(n1, 100)) }, l.ClearFaults, reach{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			must(t, tt.do())
			if got := reachOf(t, l, tt.want); got != tt.want {
				t.Errorf("with the fault: %v; want %v", got, tt.want)
			}
			// The kernel changes what it says of the carrier in the background.
			eventually(t, fmt.Sprintf("carrier %t with the fault", tt.carrier), func() bool { return running(t, n1.Host) == tt.carrier })
			must(t, tt.undo())
			if got := reachOf(t, l, all); got != all {
				t.Errorf("healed: %v", got)
			}
			eventually(t, "carrier after healing", func() bool { return running(t, n1.Host) })
		})
	}
}

// A link that comes up again does not end the cut.
func TestCutOutlivesLinkUp(t *testing.T) {
	l := newLab(t, Options{Nodes: 2})
	n1 := l.Node(1)
	introduce(t, l)
	must(t, errors.Join(n1.LinkDown(), n1.Cut(), n1.LinkUp()))
	if got := reachOf(t, l, reach{}); got != (reach{}) {
		t.Errorf("after link up: %v", got)
	}
}

func TestLossIsAboutRight(t *testing.T) {
	l := newLab(t, Options{Nodes: 1})
	introduce(t, l)
	must(t, l.Loss(l.Node(1), 30))
	for _, d := range [][2]*Host{{l.Client(), l.Node(1).Host}, {l.Node(1).Host, l.Client()}} {
		const sent = 2000
		got := deliver(t, d[0], d[1], sent)
		if got < sent*60/100 || got > sent*80/100 {
			t.Errorf("%s to %s: %d of %d arrived with 30 %% loss", d[0].Name(), d[1].Name(), got, sent)
		}
	}
}

// deliver sends n datagrams and counts those that arrive.
func deliver(t *testing.T, from, to *Host, n int) (got int) {
	t.Helper()
	var in, out *net.UDPConn
	must(t, to.Do(func() (err error) {
		in, err = net.ListenUDP("udp4", &net.UDPAddr{})
		return err
	}))
	defer in.Close()
	port := in.LocalAddr().(*net.UDPAddr).Port
	must(t, from.Do(func() (err error) {
		out, err = net.DialUDP("udp4", nil, &net.UDPAddr{IP: to.Addr().AsSlice(), Port: port})
		return err
	}))
	defer out.Close()
	counted := make(chan int)
	go func() {
		k, b := 0, make([]byte, 8)
		for {
			if _, err := in.Read(b); err != nil {
				counted <- k
				return
			}
			k++
		}
	}()
	for i := range n {
		_, _ = out.Write([]byte("x"))
		if i%50 == 0 { // the receiver's buffer is not what loses them
			time.Sleep(time.Millisecond)
		}
	}
	must(t, in.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
	return <-counted
}

func TestProbeMeasuresAnOutage(t *testing.T) {
	l := newLab(t, Options{Nodes: 2})
	give(t, l.Node(1).Host, "eth0", "10.77.0.100/32")
	startEcho(t, l.Node(1))
	p, err := l.StartProbe(netip.MustParseAddr("10.77.0.100"), 2*time.Millisecond)
	must(t, err)
	eventually(t, "n1 answers both questions", func() bool { return p.LastNode() == "n1" && p.Serving() == "n1" })

	from := p.Mark()
	must(t, l.Node(1).Cut())
	cut := p.Mark()
	time.Sleep(200 * time.Millisecond) // the length of the outage that is measured
	healed := p.Mark()
	must(t, l.Node(1).Heal())
	eventually(t, "n1 answers again", func() bool {
		_, ok := p.Report(healed, p.Mark()).FirstFrom("n1")
		return ok
	})
	w := p.Report(from, p.Mark())
	t.Logf("outage %v, stall %v, lost %d of %d, realtime %t", w.Outage, w.Stall, w.Lost, w.Sent, w.Realtime)
	if w.Outage < 195*time.Millisecond || w.Outage > 1500*time.Millisecond {
		t.Errorf("outage %v; want about 200 ms", w.Outage)
	}
	if w.Lost < 10 || w.Lost > w.Sent {
		t.Errorf("%d of %d questions lost; want about 100", w.Lost, w.Sent)
	}
	if len(w.Dual) > 0 {
		t.Errorf("two answered: %v", w.Dual)
	}
	// What was on its way at the cut may still arrive within 50 ms, even on a busy machine.
	if d, ok := p.Report(cut+Mark(50*time.Millisecond), p.Mark()).FirstFrom("n1"); !ok || d < 145*time.Millisecond {
		t.Errorf("first answer of n1 %v after the cut, %t; want after the outage", d+50*time.Millisecond, ok)
	}
	if h, d, ok := w.FirstOther("n1"); ok {
		t.Errorf("%s answered after %v", h, d)
	}
}

// Both nodes answer every ARP question. The client stays with one of them all the same, as an ordinary client would.
func TestProbeSeesTwoAnswers(t *testing.T) {
	l := newLab(t, Options{Nodes: 2})
	for _, n := range l.Nodes() {
		give(t, n.Host, "eth0", "10.77.0.100/32")
		startEcho(t, n)
	}
	p, err := l.StartProbe(netip.MustParseAddr("10.77.0.100"), 2*time.Millisecond)
	must(t, err)
	eventually(t, "an answer", func() bool { return p.Serving() != "" })
	from := p.Mark()
	eventually(t, "1000 questions", func() bool { return p.Report(from, p.Mark()).Sent >= 1000 })
	w := p.Report(from, p.Mark())
	if len(w.Dual) < w.Sent/2 {
		t.Errorf("%d of %d questions answered by two", len(w.Dual), w.Sent)
	}
	for _, d := range w.Dual {
		if names := []string{d.A, d.B}; !slices.Contains(names, "n1") || !slices.Contains(names, "n2") {
			t.Fatalf("answered by %v; want n1 and n2", names)
		}
	}
	if len(w.Answers) != 1 {
		t.Errorf("UDP answers by %v: the probe's ARP questions changed the client's cache", w.Answers)
	}
}

func TestProbeIPv6(t *testing.T) {
	l := newLab(t, Options{Nodes: 1, IPv6: true})
	give(t, l.Node(1).Host, "eth0", "fd77::64/128")
	startEcho(t, l.Node(1))
	p, err := l.StartProbe(netip.MustParseAddr("fd77::64"), 2*time.Millisecond)
	must(t, err)
	eventually(t, "n1 answers", func() bool { return p.LastNode() == "n1" })
}

// The address that was asked answers, although it is on lo and is no address that the kernel would choose.
func TestEchoAnswersFromTheAddressAsked(t *testing.T) {
	l := newLab(t, Options{Nodes: 1})
	give(t, l.Node(1).Host, "lo", "10.77.0.100/32")
	startEcho(t, l.Node(1))
	for _, addr := range []string{"10.77.0.1", "10.77.0.100"} {
		p, err := l.StartProbe(netip.MustParseAddr(addr), 5*time.Millisecond) // its socket takes no other's answers
		must(t, err)
		eventually(t, addr+" answers", func() bool { return p.Serving() == "n1" })
		p.Close()
	}
}

func TestProcess(t *testing.T) {
	l := newLab(t, Options{Nodes: 1})
	out := filepath.Join(t.TempDir(), "out")
	f, err := os.Create(out)
	must(t, err)
	defer f.Close()
	cmd := exec.Command("sh", "-c", "echo started; read x; echo ended; exit 3")
	cmd.Stdout = f
	p, err := l.Node(1).Start(t.Context(), cmd)
	must(t, err)
	eventually(t, "output", func() bool { b, _ := os.ReadFile(out); return string(b) == "started\n" })
	if p.Exited() {
		t.Error("exited although its input is open")
	}
	must(t, p.stdin.Close())
	if exit := (*exec.ExitError)(nil); !errors.As(p.Wait(), &exit) || exit.ExitCode() != 3 {
		t.Errorf("ended with %v; want status 3", p.Wait())
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("signal after the end: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	frozen, err := l.Node(1).Start(ctx, exec.Command("sleep", "1000"))
	must(t, err)
	must(t, frozen.Signal(syscall.SIGSTOP))
	cancel()
	if frozen.Wait() == nil {
		t.Error("a process whose context ended ended well")
	}
}

func TestCloseEndsEverything(t *testing.T) {
	before := linkNames(t)
	for round := range 2 {
		l := newLab(t, Options{Nodes: 2, IPv6: true})
		var procs []*Process
		for _, n := range l.Nodes() {
			procs = append(procs, startEcho(t, n))
		}
		must(t, procs[0].Signal(syscall.SIGSTOP))
		if round == 0 {
			deaf, err := l.Client().Start(t.Context(), exec.Command("sh", "-c", "trap '' TERM; sleep 1000 & wait; wait"))
			must(t, err)
			procs = append(procs, deaf)
		}
		_, err := l.StartProbe(netip.MustParseAddr("10.77.0.1"), 2*time.Millisecond)
		must(t, err)
		spaces := map[uint64]bool{}
		for _, s := range []*space{l.sw.space, l.Node(1).space, l.Node(2).space, l.Client().space} {
			spaces[inodeOf(t, s.fd)] = true
		}
		if !inUse(spaces) {
			t.Fatal("nothing is in the lab's namespaces while it is up")
		}
		must(t, l.Close())
		for _, p := range procs {
			if !p.Exited() {
				t.Errorf("process %d lives on", p.PID())
			}
		}
		eventually(t, "no process or descriptor holds a namespace of the lab", func() bool { return !inUse(spaces) })
		if _, err := l.Client().Start(t.Context(), exec.Command("true")); !errors.Is(err, errClosed) {
			t.Errorf("start in a closed lab: %v", err)
		}
		must(t, l.Close())
	}
	if after := linkNames(t); !slices.Equal(before, after) {
		t.Errorf("links %v; before %v", after, before)
	}
}

func linkNames(t *testing.T) []string {
	t.Helper()
	links, err := net.Interfaces()
	must(t, err)
	var names []string
	for _, l := range links {
		names = append(names, l.Name)
	}
	return names
}

func inodeOf(t *testing.T, fd int) uint64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Fstat(fd, &st))
	return st.Ino
}

// inUse says whether any thread is in one of the namespaces, or any process has it open.
func inUse(spaces map[uint64]bool) bool {
	for _, pattern := range []string{"/proc/[0-9]*/task/*/ns/net", "/proc/[0-9]*/fd/*"} {
		paths, _ := filepath.Glob(pattern)
		for _, p := range paths {
			to, _ := os.Readlink(p)
			ino, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(to, "net:["), "]"), 10, 64)
			if spaces[ino] {
				return true
			}
		}
	}
	return false
}

// holdLab is a lab whose process is going to be killed.
func holdLab() {
	l, err := New(Options{Nodes: 1})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, frozen := range []bool{false, true} {
		p, err := l.Node(1).Start(context.Background(), exec.Command("sleep", "1000"))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(p.PID())
		if frozen {
			_ = p.Signal(syscall.SIGSTOP)
		}
	}
	fmt.Println("ready")
	select {}
}

func TestProcessesDieWithAKilledLab(t *testing.T) {
	newLab(t, Options{Nodes: 1}) // skips where there can be none
	cmd := role("lab")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	var pids []string
	for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != "ready"; {
		pids = append(pids, lines.Text())
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	if len(pids) != 2 {
		t.Fatalf("the lab started %d processes", len(pids))
	}
	for _, pid := range pids {
		eventually(t, "process "+pid+" is dead", func() bool {
			stat, err := os.ReadFile("/proc/" + pid + "/stat")
			return err != nil || !strings.Contains(string(stat), "(sleep)") || strings.Contains(string(stat), ") Z ")
		})
	}
}

// All of it also works for a user without any right, where the kernel has user namespaces for such.
func TestUserNamespace(t *testing.T) {
	if os.Getuid() != 0 || os.Getenv(enteredEnv) != "" {
		t.Skip("this test becomes another user: needs root")
	}
	cmd := role("enter", "-test.v", "-test.run", "^Test(HostsReachEachOther|Faults|LossIsAboutRight|Probe.*|CloseEndsEverything|Process.*)$")
	cmd.Env = append(cmd.Env, "LAB=require", "TMPDIR=/tmp")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() == 77 && os.Getenv("LAB") != "require" {
		t.Skipf("user namespaces are not allowed here: %s", out)
	}
	if err != nil || !strings.Contains(string(out), "PASS: TestFaults/cut_from_peers") {
		t.Fatalf("as nobody: %v\n%s", err, out)
	}
}
