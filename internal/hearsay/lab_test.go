package hearsay

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pintle-lb/pintle/internal/netlab"
)

const labPort = 7402

// A settlement is a Circle on each node of a lab, over the real network of the kernel.
type settlement struct {
	*netlab.Lab
	t       *testing.T
	circles []*Circle
	stops   []func()
}

// inhabit builds a lab, or skips the test where that is not possible. peers is the list of nodes that each Circle gets.
func inhabit(t *testing.T, nodes int, peers func(*netlab.Lab) []Peer) *settlement {
	t.Helper()
	lab, err := netlab.New(netlab.Options{Nodes: nodes, IPv6: true})
	if err != nil {
		if os.Getenv("LAB") == "require" || !errors.Is(err, unix.EPERM) {
			t.Fatal(err)
		}
		t.Skipf("this test makes network namespaces: %v", err)
	}
	s := &settlement{Lab: lab, t: t}
	t.Cleanup(func() {
		for _, stop := range s.stops {
			stop()
		}
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, n := range lab.Nodes() {
		c := New(Config{Node: n.Name(), Port: labPort, Key: func() []byte { return testKey }})
		c.SetPeers(peers(lab))
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := n.Do(func() error { return c.Run(ctx) }); err != nil {
				t.Errorf("run: %v", err)
			}
		}()
		s.circles = append(s.circles, c)
		s.stops = append(s.stops, func() { cancel(); <-done })
	}
	return s
}

func byIPv4(lab *netlab.Lab) (all []Peer) {
	for _, n := range lab.Nodes() {
		all = append(all, Peer{n.Name(), n.Addr()})
	}
	return all
}

func byIPv6(lab *netlab.Lab) (all []Peer) {
	for _, n := range lab.Nodes() {
		all = append(all, Peer{n.Name(), n.Addr6()})
	}
	return all
}

// await waits until lost is what the Circles think, an L for each that thinks the API lost.
func (s *settlement) await(lost, what string) time.Duration {
	s.t.Helper()
	began := time.Now()
	for {
		var got strings.Builder
		for _, c := range s.circles {
			if c.Lost() {
				got.WriteByte('L')
			} else {
				got.WriteByte('.')
			}
		}
		if got.String() == lost {
			return time.Since(began)
		}
		if time.Since(began) > 20*time.Second {
			for _, c := range s.circles {
				s.t.Logf("%+v", c.Status())
			}
			s.t.Fatalf("%s: lost %s, want %s", what, got.String(), lost)
		}
		time.Sleep(5 * ms)
	}
}

func (s *settlement) away(away bool) {
	for _, c := range s.circles {
		c.SetAway(away)
	}
}

func TestLab(t *testing.T) {
	for name, peers := range map[string]func(*netlab.Lab) []Peer{"IPv4": byIPv4, "IPv6": byIPv6} {
		t.Run(name, func(t *testing.T) {
			s := inhabit(t, 3, peers)
			s.away(true)
			s.await("LLL", "the API is away for all")
			if err := s.Node(3).Cut(); err != nil {
				t.Fatal(err)
			}
			if d := s.await("LL.", "n3 is cut off"); d > 5*time.Second {
				t.Errorf("n3, which hears nobody, thinks for %v that a majority says away", d)
			}
			if err := s.Node(3).Heal(); err != nil {
				t.Fatal(err)
			}
			s.await("LLL", "n3 is back")
			s.circles[0].SetAway(false)
			s.circles[1].SetAway(false)
			s.await("...", "the API answers two of three")
		})
	}
}

// Nodes that are dead, a hundred of them, do not keep the living from being told: the kernel holds what is for them until it gives
// up the search for their hardware address.
func TestLabWithGhosts(t *testing.T) {
	const ghosts = 130
	living := func(lab *netlab.Lab) []Peer {
		all := append(byIPv4(lab), Peer{Name: "nowhere"})
		for i := range ghosts {
			all = append(all, Peer{Name: "ghost-with-a-long-name-" + string(rune('a'+i/26)) + string(rune('a'+i%26)), Addr: netip.AddrFrom4([4]byte{10, 77, 0, byte(60 + i)})})
		}
		return all
	}
	s := inhabit(t, 2, living)
	s.away(true)
	end := time.Now().Add(30 * time.Second)
	for name := range map[string]bool{"n1": true} { // first they have to meet
		for s.circles[1].says(name) != Away {
			if time.Now().After(end) {
				t.Fatalf("n2 does not hear n1: %+v", s.circles[1].Status())
			}
			time.Sleep(5 * ms)
		}
	}
	late, last := time.Time{}, time.Now() // when this process, in which both are, stood still
	for end = last.Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * ms) {
		now := time.Now()
		if now.Sub(last) > 200*ms {
			late = now
		}
		if last = now; s.circles[1].says("n1") != Away && now.Sub(late) > 2*time.Second {
			t.Fatalf("n2 hears n1 no more: %+v", s.circles[1].Status()[:4])
		}
	}
	if s.circles[1].Lost() {
		t.Error("two of 133 are taken for a majority")
	}
}

func (c *Circle) says(name string) Says {
	for _, s := range c.Status() {
		if s.Node == name {
			return s.Says
		}
	}
	return Nothing
}

// The port is taken, for a while.
func TestLabPortTaken(t *testing.T) {
	s := inhabit(t, 1, byIPv4)
	err := s.Node(1).Do(func() error {
		second, err := listen(labPort)
		for deadline := time.Now().Add(10 * time.Second); err == nil && time.Now().Before(deadline); second, err = listen(labPort) {
			_ = second.Close() // the Circle has not opened it yet
			time.Sleep(5 * ms)
		}
		return err
	})
	if err == nil || !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "services.keepPort") {
		t.Errorf("a second listener: %v", err)
	}
}
