package services_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/pintle-lb/pintle/test/services"
)

// TestFirst: a Service gets an address of the only pool, one node answers for it, and through it the client reaches a backend.
func TestFirst(t *testing.T) {
	b := newPintle(t, services.Options{Lease: 3 * time.Second})
	ctx := t.Context()
	_, err := b.Pool(ctx, "main", "10.99.0.0/24")
	check(t, err)
	_, err = b.Backend(ctx, 5, services.Echo)
	check(t, err)
	_, err = b.Service(ctx, "web")
	check(t, err)
	within, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	addrs, err := b.Addresses(within, "web")
	check(t, err)
	if len(addrs) != 1 || !services.Network.Contains(addrs[0]) {
		t.Fatalf("it has %v", addrs)
	}
	s, err := b.Lab().StartSurvey(5*time.Millisecond, addrs...)
	check(t, err)
	from := s.Mark()
	eventually(t, "the client reaches the backend", func(ctx context.Context) error {
		for _, network := range []string{"tcp", "udp"} {
			if _, err := b.Ask(ctx, network, addrs[0]); err != nil {
				return fmt.Errorf("%w; held by %q", err, s.Holders()[addrs[0]])
			}
		}
		return nil
	})
	p, err := b.Lab().StartProbe(addrs[0], 10*time.Millisecond)
	check(t, err)
	eventually(t, "the probe is answered", func(context.Context) error {
		if got := p.Serving(); got != "n5" {
			return fmt.Errorf("by %q", got)
		}
		return nil
	})
	for _, line := range s.Report(from, s.Mark()).Rivals() {
		t.Error(line)
	}
}
