package arp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"time"
)

// The timing of RFC 5227 1.1; for IPv6 the same, which is slower than RFC 4862 asks for.
var rfc5227 = probing{wait: time.Second, least: time.Second, most: 2 * time.Second, settle: 2 * time.Second}

const probes = 3 // PROBE_NUM

type probing struct {
	wait        time.Duration // at most, before the first probe (PROBE_WAIT)
	least, most time.Duration // between two probes (PROBE_MIN, PROBE_MAX)
	settle      time.Duration // after the last one (ANNOUNCE_WAIT)
}

// next is how long to listen before (sent < probes) or after probe number sent; chance is in [0, 1).
func (p probing) next(sent int, chance float64) time.Duration {
	switch sent {
	case 0:
		return time.Duration(chance * float64(p.wait))
	case probes:
		return p.settle
	}
	return p.least + time.Duration(chance*float64(p.most-p.least))
}

// Probe asks whether a station on link has addr, or is about to take it, without claiming it (RFC 5227 2.1.1; for IPv6
// duplicate address detection, RFC 4862 5.4). It sends three probes and takes 4 to 7 s if there is none, and ends at the first
// sign of one. This node's own links are no such station. It blocks until then or until ctx ends.
func Probe(ctx context.Context, link string, addr netip.Addr) (mac string, found bool, err error) {
	if !speakable(addr) {
		return "", false, fmt.Errorf("probe %s on %s: not a unicast address without zone", addr, link)
	}
	owner, found, err := rfc5227.probe(ctx, kernel{}, link, addr)
	if err != nil {
		return "", false, fmt.Errorf("probe %s on %s: %w", addr, link, err)
	}
	if !found {
		return "", false, nil
	}
	return owner.String(), true, nil
}

func (p probing) probe(ctx context.Context, h host, link string, addr netip.Addr) (owner mac, found bool, err error) {
	index, err := h.index(link)
	if err != nil {
		return owner, false, err
	}
	w, err := h.open(index, (&target{addr: addr}).kind())
	if err != nil {
		return owner, false, err
	}
	defer w.Close()
	if addr.Is6() {
		group, err := h.join(index, addr) // others who probe for it speak to the group
		if err != nil {
			return owner, false, err
		}
		defer group.Close()
	}
	ours, err := h.stations()
	if err != nil {
		return owner, false, fmt.Errorf("list links: %w", err)
	}
	defer context.AfterFunc(ctx, func() { w.Close() })()
	owner, found, err = p.ask(w, addr, ours)
	if ctx.Err() != nil {
		return owner, false, ctx.Err()
	}
	return owner, found, err
}

// ask sends the probes and listens.
func (p probing) ask(w wire, addr netip.Addr, ours []mac) (owner mac, found bool, err error) {
	for sent := 0; ; sent++ {
		owner, found, err := await(w, addr, ours, p.next(sent, rand.Float64()))
		if found || err != nil || sent == probes {
			return owner, found, err
		}
		_, own, err := w.station()
		if err != nil {
			return owner, false, err
		}
		if err := w.send(probe(addr, own)); err != nil {
			return owner, false, err
		}
	}
}

// await listens for a sign of an owner of addr for so long.
func await(w wire, addr netip.Addr, ours []mac, long time.Duration) (owner mac, found bool, err error) {
	buf := make([]byte, maxFrame)
	end := time.Now().Add(long)
	for {
		left := time.Until(end)
		if left <= 0 {
			return owner, false, nil
		}
		n, _, err := w.read(buf, left)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return owner, false, err
		}
		m, err := parse(buf[:n])
		if err != nil {
			continue
		}
		if at, ok := m.wants(addr); ok && !slices.Contains(ours, at) {
			return at, true, nil
		}
	}
}

// wants says whether, and where, a station has addr (it claims it) or is about to take it (it probes for it).
func (m message) wants(addr netip.Addr) (at mac, ok bool) {
	switch {
	case m.claims == addr:
		return m.at, true
	case m.asks == addr && m.asker.IsUnspecified():
		return m.back, true
	}
	return at, false
}
