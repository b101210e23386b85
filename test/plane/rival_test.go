package plane_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pintle-lb/pintle/test/cluster"
	"github.com/pintle-lb/pintle/test/plane"
)

// addVIP gives a node the address, as a simple program would: it stays when that is killed.
func addVIP(p *plane.Plane, i int) error {
	return p.Node(i).Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		err = netlink.AddrAdd(eth0, &netlink.Addr{IPNet: &net.IPNet{IP: p.VIP().AsSlice(), Mask: net.CIDRMask(32, 32)}})
		if errors.Is(err, unix.EEXIST) {
			return nil
		}
		return err
	})
}

// A program with one holder for ever: what it leaves behind, and that it ends by itself, is dealt with.
func TestRival(t *testing.T) {
	var starts [3]atomic.Int32
	still := plane.Program{
		Prepare: func(p *plane.Plane, i int) error {
			if i != 2 {
				return nil
			}
			return addVIP(p, i) // someone has left it there
		},
		Command: func(p *plane.Plane, i int) *exec.Cmd {
			starts[i-1].Add(1)
			if i == 1 {
				if err := addVIP(p, i); err != nil {
					t.Error(err)
				}
			}
			if i == 3 && starts[2].Load() == 1 {
				return exec.Command("true")
			}
			return exec.Command("sleep", "infinity")
		},
	}
	r, err := plane.NewRival(t.Context(), plane.Options{Pintle: program, Echo: []string{os.Args[0], "echo"}, Election: "lease", Lease: time.Second}, still)
	if cannot := errors.Is(err, unix.EPERM) || errors.Is(err, cluster.ErrNoPrograms); cannot && os.Getenv("LAB") != "require" {
		t.Skipf("this test makes a Kubernetes cluster: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { check(t, r.Close()) }()
	if r.StepIns() < 1 {
		t.Error("never stepped in, against the address on n2")
	}
	out, err := r.Measure(t.Context(), plane.Killed)
	check(t, err)
	if out.From != 1 || out.To != 1 || out.Dual != 0 {
		t.Errorf("killed: %+v, stepped in %d times", out, r.StepIns())
	}
	want := int32(r.StepIns()) + 2 // a busy machine may need more
	if n1, n3 := starts[0].Load(), starts[2].Load(); n1 != want || n3 != want {
		t.Errorf("n1 was started %d times, want %d: at first, each time after stepping in, after the kill; n3 %d times, want %d: at first, after its end, each time after stepping in",
			n1, want, n3, want)
	}
}
