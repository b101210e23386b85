package node_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/internal/status"
)

// TestWitness: two nodes and a witness without any right, on a network on which
// another machine has the address at first.
func TestWitness(t *testing.T) {
	t.Parallel()
	s := newSite(t, layout{nodes: 3, profile: "default", addresses: "  - {address: 10.77.0.100, link: eth0}",
		peer: func(i int) string { return map[int]string{2: ", role: witness"}[i] }})
	n1, witness := s.machines[0], s.machines[2]
	exe, err := os.Executable()
	s.check(err)
	witness.wrap = []string{exe, "uncapped"}
	owner := s.lab.Client()
	setOwner := func(add bool) { s.foreign(owner, add) }
	setOwner(true)
	before := witness.trace()
	for _, m := range s.machines {
		m.start()
	}

	// First start: not claimed while another has it, and that is said.
	r := n1.until("says that another has the address", func(r *status.Report) bool {
		return r.State == status.Joining && strings.Contains(r.Explain, "10.77.0.100 is in use by "+owner.MAC().String()+" on eth0")
	})
	if r.Ready || len(n1.trace().addrs) > 0 {
		t.Errorf("ready %v, addresses %q", r.Ready, n1.trace().addrs)
	}
	setOwner(false)
	h := s.settled()
	if got := whoHas(t, owner, "eth0", vip4); !slices.Equal(got, []string{h.MAC().String()}) {
		t.Errorf("%q answer, want %s", got, h.MAC())
	}

	caps, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", witness.proc.PID()))
	s.check(err)
	if !strings.Contains(string(caps), "CapEff:\t0000000000000000\n") {
		t.Fatalf("the witness has rights:\n%s", caps)
	}
	w := witness.until("votes", func(r *status.Report) bool { return r.State == status.Witness && r.Ready })
	if len(w.Seats) > 0 || len(w.Raft.Members) != 3 {
		t.Errorf("seats %+v, members %+v", w.Seats, w.Raft.Members)
	}
	if out, err := witness.cli("status"); err != nil || !strings.Contains(out, "state      witness: it votes and never holds") {
		t.Errorf("%v\n%s", err, out)
	}
	if code, body := witness.get("/readyz"); code != 200 {
		t.Errorf("/readyz: %d %s", code, body)
	}

	// Its vote is what the other node needs.
	h.kill()
	next := s.settled()
	if next == h || next == witness {
		t.Fatalf("%s holds", next.name)
	}
	witness.kill()
	next.until("has no majority", func(r *status.Report) bool { return r.State == status.NoQuorum && !r.Seats[0].Holding })
	if got := whoHas(t, owner, "eth0", vip4); len(got) > 0 {
		t.Errorf("%q answer without a majority", got)
	}
	witness.start()
	s.settled()

	witness.stop()
	if got := witness.trace(); !slices.Equal(got.files, before.files) || !slices.Equal(got.sysctls, before.sysctls) || len(got.tables) > 0 {
		t.Errorf("left behind: %v", got)
	}
	if _, err := os.Stat(filepath.Join(witness.stateDir, "identity.json")); err != nil {
		t.Error(err)
	}
}

// foreign gives a host that is no peer the address, or takes it away.
func (s *site) foreign(owner *netlab.Host, add bool) {
	s.t.Helper()
	s.check(owner.Do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		a := &netlink.Addr{IPNet: &net.IPNet{IP: vip4.AsSlice(), Mask: net.CIDRMask(32, 32)}}
		if add {
			return netlink.AddrAdd(l, a)
		}
		return netlink.AddrDel(l, a)
	}))
}
