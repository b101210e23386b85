package netlab

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// change gives a host addresses on eth0, or takes them away, as fast as can be.
func change(t *testing.T, h *Host, addrs []netip.Addr, do func(*netlink.Handle, netlink.Link, *netlink.Addr) error) {
	t.Helper()
	must(t, h.withNetlink(func(nl *netlink.Handle) error {
		eth0, err := nl.LinkByName("eth0")
		for _, a := range addrs {
			if err == nil {
				err = do(nl, eth0, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen())), Flags: flagsFor(a)})
			}
		}
		return err
	}))
}

func flagsFor(a netip.Addr) int {
	if a.Is6() {
		return 2 // IFA_F_NODAD
	}
	return 0
}

func addTo(nl *netlink.Handle, l netlink.Link, a *netlink.Addr) error { return nl.AddrAdd(l, a) }
func delOf(nl *netlink.Handle, l netlink.Link, a *netlink.Addr) error { return nl.AddrDel(l, a) }

// Fifty addresses are moved from a host to another: the survey sees one move of each, and with two hosts each of them.
func TestSurvey(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("IPv6 %t", ipv6), func(t *testing.T) {
			l := newLab(t, Options{Nodes: 2, IPv6: true})
			var addrs []netip.Addr
			for i := range 50 {
				a := netip.AddrFrom4([4]byte{10, 77, 0, byte(110 + i)})
				if ipv6 {
					a = netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x77, 13: 1, 15: byte(i)})
				}
				addrs = append(addrs, a)
			}
			n1, n2 := l.Node(1).Host, l.Node(2).Host
			change(t, n1, addrs, addTo)
			s, err := l.StartSurvey(50*time.Millisecond, addrs...)
			must(t, err)
			fast, err := l.StartSurvey(5*time.Millisecond, addrs[7])
			must(t, err)
			all := func(host string) func() bool {
				return func() bool {
					holders := s.Holders()
					for _, a := range addrs {
						if holders[a] != host {
							return false
						}
					}
					return fast.Holders()[addrs[7]] == host
				}
			}
			eventually(t, "n1 answers for all", all("n1"))

			from := s.Mark()
			change(t, n1, addrs, delOf)
			change(t, n2, addrs, addTo)
			eventually(t, "n2 answers for all", all("n2"))
			to := s.Mark()
			for _, c := range []Claims{s.Report(from, to), fast.Report(from, to)} {
				if r := c.Rivals(); len(r) > 0 {
					t.Errorf("a move, seen as two at once: %v", r)
				}
				last, never := c.Moved("n1")
				if len(never) > 0 || last > to.Sub(from) {
					t.Errorf("after %v: not moved: %v", last, never)
				}
				t.Logf("%d addresses: all moved after %v, outage %v, stall %v, lost %d", len(c.Of), last, c.Outage(), c.Stall(), c.Lost())
				for _, a := range c.Of {
					if len(a.Tenures) == 0 || a.Tenures[len(a.Tenures)-1].Host != "n2" || a.Sent == 0 {
						t.Errorf("%s: %d questions, claimed by %v", a.Addr, a.Sent, a.Tenures)
					}
				}
			}

			from = s.Mark()
			change(t, n1, addrs, addTo)
			eventually(t, "every address claimed by two", func() bool { return len(s.Report(from, s.Mark()).Rivals()) == len(addrs) })
			change(t, n1, addrs, delOf)
			change(t, n2, addrs, delOf)
			eventually(t, "nobody answers", func() bool { return len(s.Holders()) == 0 })
			from = s.Mark()
			time.Sleep(300 * time.Millisecond) // what is measured
			to = s.Mark()
			c := s.Report(from, to)
			if least := to.Sub(from) - 50*time.Millisecond; c.Outage() < least || c.Lost() < len(addrs) {
				t.Errorf("with nobody: outage %v, %d lost; want at least %v and %d", c.Outage(), c.Lost(), least, len(addrs))
			}
			s.Close()
			fast.Close()
		})
	}
}

func TestSurveyOfNothing(t *testing.T) {
	l := newLab(t, Options{Nodes: 1})
	a := netip.MustParseAddr("10.77.0.100")
	for _, addrs := range [][]netip.Addr{nil, {a, a}} {
		if _, err := l.StartSurvey(time.Second, addrs...); err == nil {
			t.Errorf("a survey of %v", addrs)
		}
	}
	if _, err := l.StartSurvey(0, a); err == nil {
		t.Error("a survey without pause")
	}
}
