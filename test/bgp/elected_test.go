package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pintle-lb/pintle/leader/pki"
	"github.com/pintle-lb/pintle/test/router"
	"github.com/pintle-lb/pintle/test/router/routertest"
)

// raft is the rest of a configuration in which the machines elect a holder.
func (s *site) raft() string {
	s.t.Helper()
	dir := filepath.Join(s.t.TempDir(), "pki")
	check(s.t, pki.CreateCA(dir, "test", 24*time.Hour))
	var b strings.Builder
	fmt.Fprintf(&b, "raft:\n  profile: fast\n  stateDir: {dir}/state\n  tls: {ca: %[1]s/ca.crt, cert: \"%[1]s/{node}.crt\", key: \"%[1]s/{node}.key\"}\n  peers:\n", dir)
	for _, m := range s.machines {
		check(s.t, pki.Issue(dir, m.Name(), nil, 12*time.Hour))
		fmt.Fprintf(&b, "    - {name: %s, address: %s}\n", m.Name(), m.Addr())
	}
	return b.String()
}

// startElected runs a cluster that elects, and returns when every machine is a
// part of it.
func (s *site) startElected(c setup) {
	s.t.Helper()
	raft := s.raft()
	for _, m := range s.machines {
		one := c
		one.election, one.extra = "raft", c.extra+strings.ReplaceAll(raft, "{dir}", m.dir)
		s.start(m, one)
	}
	await(s.t, func() error {
		for _, m := range s.machines {
			r, err := m.report()
			if err == nil && !r.Ready {
				err = fmt.Errorf("%s is not ready: %s", m.Name(), r.NotReady)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// holder is the machine that the router sends packets to; nil if it is none, or
// several.
func (s *site) holder(w *router.Watch, p netip.Prefix) *machine {
	hops := w.NextHops(p)
	for _, m := range s.machines {
		if slices.Equal(hops, []netip.Addr{m.Addr()}) {
			return m
		}
	}
	return nil
}

// held waits until the router sends packets to one machine, another than not.
func (s *site) held(w *router.Watch, p netip.Prefix, not *machine) (m *machine) {
	s.t.Helper()
	await(s.t, func() error {
		if m = s.holder(w, p); m == nil || m == not {
			return fmt.Errorf("the router has %v", w.NextHops(p))
		}
		return nil
	})
	return m
}

// never watches that the router never has two next hops, until the returned
// function is called.
func (s *site) never(w *router.Watch) (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan []netip.Addr, 1)
	go func() {
		for ctx.Err() == nil {
			if hops := w.NextHops(vip4); len(hops) > 1 {
				done <- hops
				return
			}
			time.Sleep(200 * time.Microsecond)
		}
		done <- nil
	}()
	return func() {
		s.t.Helper()
		cancel()
		if hops := <-done; hops != nil {
			s.t.Errorf("the router had %v at the same time", hops)
		}
	}
}

// TestElected: only the holder advertises. When it is killed, frozen, or asked to
// move, another does, and with exclusive: true never before the router has dropped
// the route of the one before.
func TestElected(t *testing.T) {
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			s := newSite(t, 3)
			p.start(t, s.lab.Client(), router.Config{AS: routerAS, RouterID: s.lab.Client().Addr(), Neighbors: s.neighbors(func(n *router.Neighbor) {
				n.BFD = &router.BFD{Interval: 100 * time.Millisecond, Multiplier: 3}
			})})
			w := routertest.Watch(t, s.lab.Client())
			s.startElected(setup{announce: "[bgp]", peer: "hold: 3s, bfd: {interval: 100ms, strict: true}", bgp: "  exclusive: true\n"})
			stop := s.never(w)
			first := s.held(w, vip4, nil)
			await(t, func() error {
				r, err := first.report()
				if err == nil && (!r.Seats[0].Holding || !r.Seats[0].Addresses[0].Routed) {
					err = fmt.Errorf("%s has the packets and says %+v", first.Name(), r.Seats[0])
				}
				return err
			})
			measure := func(what string, from *machine, fault func()) *machine {
				t.Helper()
				began := time.Now()
				fault()
				next := s.held(w, vip4, from)
				at := s.routed(w, vip4, next.Addr())
				t.Logf("%s: %s after %v", what, next.Name(), at.Sub(began))
				return next
			}
			second := measure("frozen", first, func() { first.signal(syscall.SIGSTOP) })
			first.signal(syscall.SIGCONT)
			s.bfdUp(first)
			third := measure("killed", second, func() { second.signal(syscall.SIGKILL) })
			measure("moved", third, func() {
				_, err := third.ask("transfer")
				check(t, err)
			})
			stop()
		})
	}
}

// TestBothWays: the holder answers for the address by ARP, and advertises it.
func TestBothWays(t *testing.T) {
	s := newSite(t, 3)
	onWire := netip.MustParsePrefix("10.77.0.100/32")
	routertest.BIRD(t, s.lab.Client(), router.Config{AS: routerAS, RouterID: s.lab.Client().Addr(), Neighbors: s.neighbors(nil)})
	w := routertest.Watch(t, s.lab.Client())
	for _, m := range s.machines {
		s.echo(m)
	}
	s.startElected(setup{announce: "[arp, bgp]", addrs: []netip.Prefix{onWire}})
	first := s.held(w, onWire, nil)
	probe, err := s.lab.StartProbe(onWire.Addr(), 10*time.Millisecond)
	check(t, err)
	on := func(m *machine) {
		t.Helper()
		await(t, func() error {
			if got := probe.LastNode(); got != m.Name() {
				return fmt.Errorf("%q answers by ARP, want %s", got, m.Name())
			}
			return nil
		})
	}
	on(first)
	from := probe.Mark()
	first.signal(syscall.SIGKILL)
	second := s.held(w, onWire, first)
	on(second)
	if r := probe.Report(from, probe.Mark()); len(r.Dual) > 0 {
		t.Errorf("%d questions had two answers", len(r.Dual))
	}
}
