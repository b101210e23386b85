package vip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Hush makes addrs, the whole of them, addresses for which the kernel is kept mute as for those that are bound. Others may have
// put them on this host: kube-proxy in IPVS mode puts every Service address on a link of every node, and the kernel would answer
// for each. IPv6 addresses among them change nothing: the kernel answers for those only on the link that has them.
//
// An address may be hushed on hosts that do not claim it: the kernel still hears who does. The mute is undone when the last
// instance of the network namespace that needed it has closed, not when nothing is hushed any more. With an error the kernel may
// answer for some of them; Mute tells, and Run goes on trying. Hush waits for the kernel, as Set does.
func (b *Binder) Hush(ctx context.Context, addrs []netip.Addr) error {
	var want []netip.Addr
	for _, a := range addrs {
		if a.Is4() {
			want = append(want, a)
		}
	}
	slices.SortFunc(want, netip.Addr.Compare)
	want = slices.Compact(want)
	if err := b.turn.take(ctx); err != nil {
		return fmt.Errorf("hush addresses: %w", err)
	}
	defer b.turn.give()
	if b.closed {
		return errors.New("hush addresses: binder is closed")
	}
	if len(want) > 0 && !b.hushes {
		if err := b.record(b.ever, true); err != nil {
			return fmt.Errorf("hush addresses: %w", err)
		}
		b.hushes = true
	}
	if err := b.mute.hush(ctx, want); err != nil {
		return fmt.Errorf("hush addresses: %w", err)
	}
	return nil
}
