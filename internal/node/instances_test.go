package node_test

import (
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pintle-lb/pintle/internal/status"
)

// two are two Pintles on one machine, of different instances that share runDir,
// each a cluster of its own.
type two struct {
	*site
	a, b   *machine
	before trace
}

func newTwo(t *testing.T) *two {
	s := newSite(t, layout{nodes: 1, profile: "fast"})
	n := s.lab.Node(1)
	s.machines = nil
	for i, name := range []string{"red", "blue"} {
		m := s.machine(n, name, "both")
		m.port, m.statusPort = 7500+2*i, 7501+2*i
		m.addresses = fmt.Sprintf("  - {address: 10.77.0.%d, link: eth0}\n  - {address: \"fd77::%d\", link: eth0}", 101+i, 101+i)
		m.peers = fmt.Sprintf("  profile: fast\n  peers:\n    - {name: n1, address: \"%s:%d\"}\n", n.Addr(), m.port)
		m.write()
		s.machines = append(s.machines, m)
	}
	return &two{site: s, a: s.machines[0], b: s.machines[1], before: s.machines[0].trace()}
}

func (s *two) addr(m *machine) netip.Addr {
	if m == s.a {
		return netip.MustParseAddr("10.77.0.101")
	}
	return netip.MustParseAddr("10.77.0.102")
}

// right checks that whoever runs is served, muted and undisturbed, and that nobody
// else has left anything.
func (s *two) right() {
	s.t.Helper()
	for _, m := range []*machine{s.a, s.b} {
		if m.runs() {
			m.until("holds and is mute", func(r *status.Report) bool {
				return r.State == status.Holding && r.Ready && r.Seats[0].Addresses[0].Claimed && r.Mute.Wall &&
					!slices.ContainsFunc(r.Mute.Links, func(l status.MutedLink) bool { return !l.Muted })
			})
		}
	}
	got := s.a.trace()
	var addrs []string
	tables := 0
	for _, m := range []*machine{s.a, s.b} {
		answers := whoHas(s.t, s.lab.Client(), "eth0", s.addr(m))
		if m.runs() != (len(answers) == 1) {
			s.t.Errorf("%s runs: %v, and %q answer for its address", m.instance, m.runs(), answers)
		}
		if m.runs() {
			addrs = append(addrs, s.addr(m).String()+"/32", strings.Replace(s.addr(m).String(), "10.77.0.", "fd77::", 1)+"/128")
			tables++
		}
	}
	slices.Sort(addrs)
	if !slices.Equal(got.addrs, addrs) || len(got.tables) != tables {
		s.t.Errorf("the host has %v; want addresses %q and %d tables", got, addrs, tables)
	}
	if s.a.killed || s.b.killed { // its socket goes when it starts again
		got.files = nil
	}
	if tables == 0 && !reflect.DeepEqual(got, s.before) {
		s.t.Errorf("left behind:\n%v\nbefore:\n%v", got, s.before)
	}
}

// TestTwoInstances: whatever order they start and stop in, neither disturbs the
// other, and the last one puts back what was before the first.
func TestTwoInstances(t *testing.T) {
	t.Parallel()
	s := newTwo(t)
	for _, step := range strings.Fields("+a +b -b +b -a +a -a -b  +b +a -b -a  +a +b !a -b +a -a  +a +b !a !b +b -b +a -a") {
		m := s.a
		if step[1] == 'b' {
			m = s.b
		}
		switch step[0] {
		case '+':
			m.start()
			m.until("holds after "+step, func(r *status.Report) bool { return r.Ready && r.State == status.Holding })
		case '-':
			m.stop()
		case '!':
			m.kill()
			continue // what it had stays until somebody sweeps
		}
		t.Log(step)
		s.right()
		if t.Failed() {
			return
		}
	}
	for _, m := range s.machines {
		if n := m.logged("mute was reset") + m.logged("wall was changed"); n > 0 {
			t.Errorf("%s was disturbed %d times", m.instance, n)
		}
	}
}

// TestSameInstanceTwice: the second is refused, and the first does not notice.
func TestSameInstanceTwice(t *testing.T) {
	t.Parallel()
	s := newTwo(t)
	s.a.start()
	s.a.until("holds", func(r *status.Report) bool { return r.Ready && r.State == status.Holding })
	p := s.a.spawn(pintle, "run", "-c", s.a.config)
	<-p.Done()
	if err := p.Wait(); err == nil || s.a.logged("another pintle of instance red is running (pid") != 1 {
		t.Errorf("the second ended with %v", err)
	}
	s.right()
	s.a.stop()
	s.right()
}

// TestStopWhileJoining: a node that waits for others stops at once and leaves
// nothing but its name.
func TestStopWhileJoining(t *testing.T) {
	t.Parallel()
	s := newSite(t, layout{nodes: 2, profile: "default", addresses: "  - {address: 10.77.0.100, link: eth0}"})
	m := s.machines[1] // not the one that starts the cluster
	before := m.trace()
	m.start()
	r := m.until("is joining", func(r *status.Report) bool {
		return r.State == status.Joining && strings.Contains(r.Explain, "waiting for n1")
	})
	if r.Ready {
		t.Error("it is ready")
	}
	m.stop()
	if got := m.trace(); !reflect.DeepEqual(got, before) {
		t.Errorf("left behind:\n%v\nbefore:\n%v", got, before)
	}
}

// TestSecondSignal: the first waits for what the host holds up, the second does
// not, and the next start sweeps.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	s := newTwo(t)
	m := s.a
	m.start()
	m.until("holds", func(r *status.Report) bool { return r.Ready && r.State == status.Holding })
	// Another instance that looks around, and was frozen there, holds up every change of the host.
	files := m.trace().files
	i := slices.IndexFunc(files, func(f string) bool { return strings.HasSuffix(f, "/.lock") })
	if i < 0 {
		t.Fatalf("no lock among %q", files)
	}
	lock, err := os.OpenFile(m.runDir+files[i], os.O_RDWR, 0)
	s.check(err)
	defer lock.Close()
	s.check(unix.Flock(int(lock.Fd()), unix.LOCK_EX))
	s.check(m.proc.Signal(syscall.SIGTERM))
	s.wait("it stops", func() (bool, string) { return m.logged("stopping: hands over and lets go") == 1, "" })
	from := time.Now()
	if err := m.signal(syscall.SIGTERM); err == nil {
		t.Error("it says that all is well")
	}
	t.Logf("ended %v after the second signal", time.Since(from))
	if m.logged("does not end") != 1 {
		t.Error("it does not say why")
	}
	if got := m.trace(); len(got.addrs) == 0 {
		t.Errorf("nothing was held up: %v", got)
	}
	s.check(lock.Close())
	m.start()
	m.until("holds again", func(r *status.Report) bool { return r.Ready && r.State == status.Holding })
	m.stop()
	s.right()
}
