package arp

import (
	"net/netip"
	"testing"

	rfc826 "github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
)

// next reads frames from w until one claims addr at m.
func next(b *testing.B, w wire, addr netip.Addr, m mac) {
	buf := make([]byte, maxFrame)
	for {
		n, _, err := w.read(buf, 0)
		if err != nil {
			b.Fatal(err)
		}
		if msg, err := parse(buf[:n]); err == nil && msg.claims == addr && msg.at == m {
			return
		}
	}
}

// BenchmarkTakeOver is the time from Set with a new gate to the first frame on another station's socket.
func BenchmarkTakeOver(b *testing.B) {
	for _, addr := range both {
		b.Run(addr.String(), func(b *testing.B) {
			seg := newSegment(b)
			a, peer := seg.station(1).speak(nil), seg.station(2)
			w, own := peer.wire("eth0", (&target{addr: addr}).kind()), a.mac("eth0")
			drain := make([]byte, maxFrame)
			for b.Loop() {
				b.StopTimer()
				a.set(Target{"eth0", addr, nil})
				for err := error(nil); err == nil; {
					_, _, err = w.read(drain, 1)
				}
				g := openGate()
				b.StartTimer()
				a.set(Target{"eth0", addr, g})
				next(b, w, addr, own)
			}
		})
	}
}

// BenchmarkAnswer is the time from a question to its answer, both on the asker's socket.
func BenchmarkAnswer(b *testing.B) {
	for _, addr := range both {
		b.Run(addr.String(), func(b *testing.B) {
			seg := newSegment(b)
			a, peer := seg.station(1).speak(nil), seg.station(2)
			w, own, m := peer.wire("eth0", (&target{addr: addr}).kind()), a.mac("eth0"), peer.mac("eth0")
			ask := arpFrame(broadcast, rfc826.OperationRequest, m, peer4, nobody, vip4)
			if addr.Is6() {
				group, to := solicitedNode(vip6)
				ask = icmpFrame(to, m, peer6, group, &ndp.NeighborSolicitation{TargetAddress: vip6})
			}
			a.set(Target{"eth0", addr, openGate()})
			next(b, w, addr, own)
			for b.Loop() {
				if err := w.send(ask); err != nil {
					b.Fatal(err)
				}
				next(b, w, addr, own)
			}
		})
	}
}
