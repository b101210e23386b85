package plane_test

import (
	"context"
	"fmt"
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

	"github.com/pintle-lb/pintle/internal/agent"
	"github.com/pintle-lb/pintle/internal/status"
	"github.com/pintle-lb/pintle/test/cluster"
	"github.com/pintle-lb/pintle/test/plane"
)

const lease = 2 * time.Second

// A condition is something bad that happens to a quiet control plane.
type condition struct {
	name string
	test func(*testing.T, *plane.Plane)
}

// run does one after another to a control plane. Whatever happens, never do two
// nodes answer, and in the end all is quiet.
func runConditions(t *testing.T, p *plane.Plane, conditions []condition) {
	for _, c := range conditions {
		ok := t.Run(c.name, func(t *testing.T) {
			from := p.Probe().Mark()
			c.test(t, p)
			settled(t, p)
			if w := p.Probe().Report(from, p.Probe().Mark()); len(w.Dual) > 0 {
				t.Errorf("%d questions were answered by two nodes, the first: %+v", len(w.Dual), w.Dual[0])
			}
		})
		if !ok {
			t.FailNow()
		}
	}
}

func TestLeaseConditions(t *testing.T) {
	p := newPlane(t, plane.Options{Election: "lease", Lease: lease})
	runConditions(t, p, []condition{
		{"nothing happens", quiet},
		{"the Lease is deleted", func(t *testing.T, p *plane.Plane) { edited(t, p, "delete", "lease", "pintle", "-n", "kube-system") }},
		{"another holder is written in", func(t *testing.T, p *plane.Plane) {
			edited(t, p, "patch", "lease", "pintle", "-n", "kube-system", "--type=merge", "-p", `{"spec":{"holderIdentity":"n9"}}`)
		}},
		{"the Lease is emptied", func(t *testing.T, p *plane.Plane) {
			edited(t, p, "patch", "lease", "pintle", "-n", "kube-system", "--type=json", "-p", `[{"op":"remove","path":"/metadata/annotations"},{"op":"replace","path":"/spec","value":{}}]`)
		}},
		{"the node may not use the Lease", forbidden},
		{"etcd without quorum", noQuorum},
		{"no API server, and all of them again", allDown},
		{"etcd is put back to an older snapshot", restored},
		{"a planned move to a node by its name", moved},
	})
}

// TestForeignOwner: another cluster, or a forgotten machine, has the address.
// Nobody of a new cluster claims it, and who may probe says why; when it is free,
// one does, and then costs little.
func TestForeignOwner(t *testing.T) {
	p := newPlane(t, plane.Options{Election: "lease", Lease: lease, Bare: true})
	client := p.Lab().Client()
	owner := func(change func(netlink.Link, *netlink.Addr) error) {
		check(t, client.Do(func() error {
			link, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return change(link, &netlink.Addr{IPNet: netlink.NewIPNet(p.VIP().AsSlice())})
		}))
	}
	owner(netlink.AddrAdd)
	for i := 1; i <= p.Len(); i++ {
		check(t, p.Start(i))
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		said := 0
		for i := 1; i <= p.Len(); i++ {
			r, err := p.Status(t.Context(), i)
			if err == nil && slices.ContainsFunc(r.Seats, func(s agent.SeatStatus) bool { return s.Holding }) { // at first it tells of no seat
				t.Fatalf("n%d holds an address that the client has", i)
			}
			if err == nil && strings.Contains(r.Explain+r.NotReady+r.Lease.Error, client.MAC().String()) {
				said++
			}
		}
		if said > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("nobody says who has the address")
		}
	}
	owner(netlink.AddrDel)
	settled(t, p)
	cost(t, p)
}

// cost: a holder and a follower by Lease use little while nothing happens. The
// bound is wide, for busy machines.
func cost(t *testing.T, p *plane.Plane) {
	p.Probe().Close() // it asks a hundred times a second
	used := func(i int) (sum time.Duration) {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.Pintle(i).PID()))
		check(t, err)
		for _, f := range threads { // time on a CPU in nanoseconds comes first; proc(5)'s ticks are too coarse for it
			text, err := os.ReadFile(f)
			if err != nil {
				continue // the thread has ended
			}
			ns, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
			check(t, err)
			sum += time.Duration(ns)
		}
		return sum
	}
	before := []time.Duration{used(1), used(2), used(3)}
	const watched = 10 * time.Second
	time.Sleep(watched)
	for i, b := range before {
		d := used(i+1) - b
		t.Logf("n%d: %v in %v, %.2f %% of a core", i+1, d, watched, 100*d.Seconds()/watched.Seconds())
		if d > watched/20 {
			t.Errorf("n%d used %v in %v", i+1, d, watched)
		}
	}
}

func TestRaftConditions(t *testing.T) {
	p := newPlane(t, plane.Options{Election: "raft", Profile: "fast"})
	runConditions(t, p, []condition{
		{"no API server, and all of them again", stays(allDown)},
		{"etcd without quorum", stays(noQuorum)},
		{"a node comes back without its state", rejoined},
		{"an upgrade from the commit before, node by node", upgraded},
	})
}

func settled(t *testing.T, p *plane.Plane) int {
	t.Helper()
	h, err := p.Settled(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// await waits until what a Pintle says of itself is as wanted.
func await(t *testing.T, p *plane.Plane, i int, what string, ok func(*status.Report) bool) {
	t.Helper()
	var last *status.Report
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		r, err := p.Status(t.Context(), i)
		if err == nil && ok(r) {
			return
		}
		last = r
	}
	t.Fatalf("n%d: waited in vain for %s; it says %+v", i, what, last)
}

// nobody waits until no node claims the address.
func nobody(t *testing.T, p *plane.Plane) {
	t.Helper()
	for i := 1; i <= p.Len(); i++ {
		await(t, p, i, "an end of its claim", func(r *status.Report) bool { return !r.Seats[0].Holding })
	}
}

// thrice tries something up to three times, until what it says is wrong is "": a machine that stands still for longer than the
// election allows costs the holder its seat, rightly.
func thrice(t *testing.T, try func() string) {
	t.Helper()
	for i := range 3 {
		wrong := try()
		if wrong == "" {
			return
		}
		t.Logf("time %d: %s", i+1, wrong)
	}
	t.Error("three times in a row")
}

// quiet: while nothing happens, the holder writes once in a third of the lease,
// and nobody reads.
func quiet(t *testing.T, p *plane.Plane) {
	thrice(t, func() string { return restless(t, p) })
}

// restless says which calls were too many in ten seconds.
func restless(t *testing.T, p *plane.Plane) (wrong string) {
	h := settled(t, p)
	const watched = 10 * time.Second
	calls := func() (writes, reads []uint64) {
		for i := 1; i <= p.Len(); i++ {
			r, err := p.Status(t.Context(), i)
			check(t, err)
			writes, reads = append(writes, r.Lease.Writes), append(reads, r.Lease.Reads)
		}
		return writes, reads
	}
	w0, r0 := calls()
	began := time.Now()
	time.Sleep(watched)
	w1, r1 := calls()
	most := uint64(time.Since(began)/(lease/3)) + 1
	for i := range w0 {
		writes, reads := w1[i]-w0[i], r1[i]-r0[i]
		t.Logf("n%d: %d writes, %d reads in %v", i+1, writes, reads, watched)
		switch {
		case i+1 == h && writes > most:
			wrong += fmt.Sprintf("the holder made %d writes in %v, want at most %d; ", writes, watched, most)
		case i+1 != h && writes > 0:
			wrong += fmt.Sprintf("n%d, which does not hold, made %d writes; ", i+1, writes)
		}
		if reads > 1 { // a watch that had to be made anew
			wrong += fmt.Sprintf("n%d made %d reads; ", i+1, reads)
		}
	}
	return wrong
}

// edited: what people do to the Lease of a living holder moves nothing.
func edited(t *testing.T, p *plane.Plane, kubectl ...string) {
	thrice(t, func() string { return movedBy(t, p, kubectl...) })
}

func movedBy(t *testing.T, p *plane.Plane, kubectl ...string) (wrong string) {
	h := settled(t, p)
	before, err := p.Status(t.Context(), h)
	check(t, err)
	for range 3 {
		out, err := p.Kubectl(t.Context(), 1, kubectl...)
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		name := p.Node(h).Name()
		for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			out, err := p.Kubectl(t.Context(), 1, "get", "lease", "pintle", "-n", "kube-system", "-o", "jsonpath={.spec.holderIdentity} {.metadata.annotations}")
			if err == nil && strings.HasPrefix(string(out), name+" ") && strings.Contains(string(out), `pintle.dev/lease`) {
				break
			}
			if time.Now().After(end) {
				return fmt.Sprintf("the Lease does not say again that %s holds: %v: %s", name, err, out)
			}
		}
	}
	after, err := p.Status(t.Context(), h)
	check(t, err)
	if b, a := before.Seats[0], after.Seats[0]; !a.Holding || a.Epoch != b.Epoch || after.Losses != before.Losses {
		return fmt.Sprintf("n%d held in epoch %d; then: %+v", h, b.Epoch, a)
	}
	return ""
}

// forbidden: the error names the rule, and all is well when the right is back.
func forbidden(t *testing.T, p *plane.Plane) {
	out, err := p.Kubectl(t.Context(), 1, "get", "rolebinding", "-n", "kube-system", "-o", "name")
	check(t, err)
	name := ""
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "pintle") {
			name = strings.TrimSpace(line)
		}
	}
	if name == "" {
		t.Fatalf("there is no role binding: %s", out)
	}
	_, err = p.Kubectl(t.Context(), 1, "delete", "-n", "kube-system", name)
	check(t, err)
	nobody(t, p)
	for i := 1; i <= p.Len(); i++ {
		await(t, p, i, "the rule that is missing", func(r *status.Report) bool {
			return strings.Contains(r.Lease.Error, `leases.coordination.k8s.io "pintle" in namespace kube-system`) && strings.Contains(r.Lease.Error, "pintle manifest rbac")
		})
	}
	_, err = p.Kubectl(t.Context(), 1, "apply", "-f", "/etc/pintle/rbac.yaml")
	check(t, err)
}

// noQuorum kills the etcd of two nodes for a while.
func noQuorum(t *testing.T, p *plane.Plane) {
	for _, i := range []int{1, 2} {
		check(t, p.Node(i).Kill(cluster.Etcd))
	}
	time.Sleep(3 * lease) // it is to last; what is waited for comes after
	for _, i := range []int{1, 2} {
		check(t, p.Node(i).Start(cluster.Etcd))
	}
}

func allDown(t *testing.T, p *plane.Plane) {
	for _, n := range p.Nodes() {
		check(t, n.Kill(cluster.APIServer))
	}
	time.Sleep(3 * lease)
	for _, n := range p.Nodes() {
		check(t, n.Start(cluster.APIServer))
	}
}

// stays: with Raft none of this costs the address anything, but perhaps a planned
// move to the node whose API server is up again first.
func stays(bad func(*testing.T, *plane.Plane)) func(*testing.T, *plane.Plane) {
	return func(t *testing.T, p *plane.Plane) {
		settled(t, p)
		from := p.Probe().Mark()
		bad(t, p)
		settled(t, p)
		if w := p.Probe().Report(from, p.Probe().Mark()); w.Outage-w.Stall > time.Second {
			t.Errorf("the address was away for %v", w.Outage)
		}
	}
}

// restored puts etcd back to what it was some epochs ago.
func restored(t *testing.T, p *plane.Plane) {
	file, err := p.Snapshot(t.Context(), 1)
	check(t, err)
	for range 2 {
		out, err := p.Measure(t.Context(), plane.Stopped)
		check(t, err)
		if out.Dual > 0 {
			t.Errorf("two nodes answered %d times", out.Dual)
		}
	}
	check(t, p.Restore(t.Context(), file))
}

func moved(t *testing.T, p *plane.Plane) {
	thrice(t, func() string { return notMoved(t, p) })
}

func notMoved(t *testing.T, p *plane.Plane) (wrong string) {
	h := settled(t, p)
	to := h%p.Len() + 1
	for _, from := range []int{h, 6 - h - to} { // the holder is told, then a node that does not hold
		if now := settled(t, p); now == to {
			to = now%p.Len() + 1
		}
		out, err := p.Node(from).Exec(t.Context(), program, "transfer", p.Node(to).Name(), "--config", "/etc/pintle/pintle.yaml", "--node", p.Node(from).Name())
		if err != nil {
			t.Fatalf("transfer from n%d: %v: %s", from, err, out)
		}
		if now := settled(t, p); now != to {
			return fmt.Sprintf("moved to n%d, want n%d", now, to)
		}
	}
	return ""
}

// rejoined: a node that was deleted and is set up anew under its old name.
func rejoined(t *testing.T, p *plane.Plane) {
	thrice(t, func() string { return movedByJoin(t, p) })
}

func movedByJoin(t *testing.T, p *plane.Plane) (wrong string) {
	h := settled(t, p)
	other := h%p.Len() + 1
	check(t, p.Pintle(other).Signal(syscall.SIGKILL))
	<-p.Pintle(other).Done()
	dir := p.Node(other).File("/var/lib/pintle") // it stays: it is mounted
	files, err := os.ReadDir(dir)
	check(t, err)
	for _, f := range files {
		check(t, os.RemoveAll(filepath.Join(dir, f.Name())))
	}
	check(t, p.Start(other))
	if now := settled(t, p); now != h {
		return fmt.Sprintf("the address moved from n%d to n%d", h, now)
	}
	return ""
}

// upgraded: nodes of the version before and of this one work together.
func upgraded(t *testing.T, p *plane.Plane) {
	old := previous(t)
	for _, program := range []string{old, program} {
		for i := 1; i <= p.Len(); i++ {
			check(t, p.Pintle(i).Signal(syscall.SIGTERM))
			<-p.Pintle(i).Done()
			check(t, p.StartWith(i, program))
			settled(t, p)
			out, err := p.Measure(t.Context(), plane.Frozen)
			check(t, err)
			if out.Dual > 0 {
				t.Errorf("n%d anew: two nodes answered %d times", i, out.Dual)
			}
		}
	}
}

// previous builds the program of the commit before.
func previous(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	run := func(name string, args ...string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
		}
		return nil
	}
	if err := run("git", "-C", "../..", "rev-parse", "--verify", "HEAD~1"); err != nil {
		t.Skipf("there is no commit before this one: %v", err)
	}
	check(t, run("sh", "-c", "git -C ../.. archive HEAD~1 | tar -x -C "+dir))
	out := filepath.Join(dir, "pintle-before")
	check(t, run("go", "build", "-C", dir, "-buildvcs=false", "-ldflags", "-X main.version=before", "-o", out, "./cmd/pintle"))
	return out
}
