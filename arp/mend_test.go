package arp

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	rfc826 "github.com/mdlayher/arp"
	"golang.org/x/sys/unix"
)

// TestTakeOverDoesNotWaitForAnotherLink: while others have the RTNL lock, which may be seconds, eth1 cannot be mended.
func TestTakeOverDoesNotWaitForAnotherLink(t *testing.T) {
	inBubble(t, func(b *bubble) {
		listen := []Target{{"eth1", vip6, nil}, {"eth0", vip4, nil}}
		b.set(listen...)
		release := b.h.hold("join")
		b.h.change(func() { b.h.links["eth1"] = 3 })
		b.deliver(2, etherIPv6, nil) // eth1 was replaced: its socket says so
		b.sleep(mendMost)

		take := []Target{listen[0], {"eth0", vip4, openGate()}}
		b.start = time.Now()
		have, err := b.Set(t.Context(), take)
		if err == nil || !slices.Equal(have, take[1:]) {
			t.Errorf("Set: %v, %v", have, err)
		}
		b.expectFrom(vip4, 0, 0)
		if have, err := b.Set(t.Context(), take[1:]); err != nil || len(have) != 1 {
			t.Errorf("Set without the broken link: %v, %v", have, err)
		}
		release() // what is opened now is for a link that nobody wants; inBubble looks whether it is closed
		b.sleep(time.Minute)
		b.set(take...)
	})
}

func TestSetDoesNotWaitForTheListOfLinks(t *testing.T) {
	inBubble(t, func(b *bubble) {
		release := b.h.hold("stations")
		defer release()
		b.set(Target{"eth0", vip4, nil})
		b.start = time.Now()
		b.set(Target{"eth0", vip4, openGate()})
		b.expectFrom(vip4, 0, 0)
	})
}

// TestWantedWhileMended: targets that come while their link is being mended are served soon, those that go are let go.
func TestWantedWhileMended(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.set(Target{"eth0", vip6, nil})
		release := b.h.hold("join")
		b.h.change(func() { b.h.links["eth0"] = 3 })
		b.deliver(1, etherIPv6, nil)
		b.sleep(mendMost)
		g := openGate()
		if have, err := b.Set(t.Context(), []Target{{"eth0", vip4, g}}); err == nil || len(have) != 0 {
			t.Errorf("Set: %v, %v", have, err)
		}
		release()
		synctest.Wait()
		b.set(Target{"eth0", vip4, g})
		if n := b.h.joined[vip6]; n != 0 {
			t.Errorf("the group of an address that went is joined %d times", n)
		}
	})
}

func TestOnlyALinkThatIsGoneLosesItsSockets(t *testing.T) {
	inBubble(t, func(b *bubble) {
		want := []Target{{"eth0", vip4, openGate()}, {"eth0", vip6, openGate()}}
		b.set(want...)
		b.sleep(5 * time.Second)
		b.h.change(func() { b.h.indexErr = unix.EMFILE })
		b.Refresh("eth0")
		b.sleep(5 * time.Second)
		if have, err := b.Set(t.Context(), want); !errors.Is(err, unix.EMFILE) || !slices.Equal(have, want) {
			t.Errorf("Set: %v, %v", have, err)
		}
		before := b.Stats()[0].Answered
		b.deliver(1, etherARP, arpFrame(broadcast, rfc826.OperationRequest, them, peer4, nobody, vip4))
		if n := b.Stats()[0].Answered; n != before+1 || len(b.h.wires) != 2 {
			t.Errorf("answered %d questions of 1, and opened %d sockets, want 2", n-before, len(b.h.wires))
		}
		b.h.change(func() { b.h.indexErr = nil })
		b.sleep(mendMost)
		b.set(want...)
	})
}

func TestNothingIsClaimedWhereIPv6IsOff(t *testing.T) {
	inBubble(t, func(b *bubble) {
		want := []Target{{"eth0", vip6, openGate()}, {"eth0", vip4, openGate()}}
		b.set(want...)
		b.sleep(5 * time.Second)
		b.h.change(func() { b.h.ipv6Err = errors.New("IPv6 is disabled") })
		b.sleep(lookAgain)
		b.start = time.Now()
		b.sleep(time.Minute)
		b.expectFrom(vip6)
		if n := strings.Count(b.log.String(), "IPv6 is disabled"); n != 1 || b.Stats()[0].WriteErrors < 5 || b.Stats()[1].WriteErrors != 0 {
			t.Errorf("warned %d times, stats %+v", n, b.Stats())
		}
		if have, err := b.Set(t.Context(), want); err == nil || !slices.Equal(have, want[1:]) {
			t.Errorf("Set: %v, %v", have, err)
		}
		b.h.change(func() { b.h.ipv6Err = nil })
		b.sleep(mendMost)
		if len(b.h.times(b.start, vip6)) == 0 {
			t.Error("not announced when IPv6 was back")
		}
		b.set(want...)
	})
}

// TestIPv6DisabledWhileItRuns: the kernel lets us send and listen, but drops what comes.
func TestIPv6DisabledWhileItRuns(t *testing.T) {
	for what, turn := range map[string]func(a *node, on bool){
		"sysctl": func(a *node, on bool) {
			a.sysctl("net/ipv6/conf/eth0/disable_ipv6", map[bool]string{true: "0", false: "1"}[on])
		},
		"MTU": func(a *node, on bool) {
			a.must(a.nl.LinkSetMTU(a.link("eth0"), map[bool]int{true: 1500, false: 1000}[on]))
		},
	} {
		t.Run(what, func(t *testing.T) {
			seg := newSegment(t)
			a, client := seg.station(1).speak(nil), seg.station(10)
			want := targets(openGate())
			a.set(want...)
			turn(a, false)
			eventually(t, "it is noticed", func() bool {
				have, err := a.Set(context.Background(), want)
				return err != nil && slices.Equal(have, want[:1])
			})
			turn(a, true)
			eventually(t, "it works again", func() bool {
				have, err := a.Set(context.Background(), want)
				return err == nil && slices.Equal(have, want)
			})
			client.knock(vip6)
			eventually(t, "client finds the address", func() bool { return client.believes("eth0", vip6) == a.mac("eth0") })
			if group, _ := solicitedNode(vip6); !joined(t, a, group) {
				t.Errorf("not in %s on eth0", group)
			}
		})
	}
}
