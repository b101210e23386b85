package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/pintle-lb/pintle/arp"
	"github.com/pintle-lb/pintle/internal/agent"
	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/leader"
	"github.com/pintle-lb/pintle/vip"
)

// voice lets the agent's targets be spoken for.
type voice struct{ speaker *arp.Speaker }

// Set implements agent.Setter.
func (v voice) Set(ctx context.Context, want []agent.Target) ([]agent.Target, error) {
	targets := make([]arp.Target, len(want))
	for i, t := range want {
		targets[i] = arp.Target{Link: t.Link, Addr: t.Addr}
		if t.Lease != nil {
			targets[i].Claim = t.Lease
		}
	}
	have, err := v.speaker.Set(ctx, targets)
	out := make([]agent.Target, len(have))
	for i, t := range have {
		out[i] = agent.Target{Link: t.Link, Addr: t.Addr}
		out[i].Lease, _ = t.Claim.(*leader.Lease)
	}
	return out, err
}

// Free reports an error while other stations answer for addresses of the
// configuration (RFC 5227 2.1.1). It asks for all of them at once, in 4 to 7 s.
// Nobody answers for what this host has itself, so it looks for that first, and
// asks only if there is nothing.
func Free(ctx context.Context, cfg *config.Config) error {
	if err := freeHere(cfg); err != nil {
		return err
	}
	var g errgroup.Group
	var mu sync.Mutex // guards errs
	var errs []error
	for _, a := range cfg.Addresses {
		for _, l := range a.Links {
			g.Go(func() error {
				mac, found, err := arp.Probe(ctx, l, a.Address)
				if err == nil && found {
					err = &InUseError{Address: a.Address, Link: l, MAC: mac}
				}
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
				return nil
			})
		}
	}
	_ = g.Wait() // none returns an error
	return errors.Join(errs...)
}

// freeHere reports an error while this host has addresses of the configuration
// that no Pintle bound: those of kube-vip or keepalived, before a migration.
func freeHere(cfg *config.Config) error {
	strays, err := vip.Strays(addrsOf(cfg))
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range strays {
		errs = append(errs, fmt.Errorf("%s is on %s of this machine, and not by pintle: stop what put it there, then: ip address del %s dev %s",
			s.Addr(), s.Link, s.Prefix, s.Link))
	}
	return errors.Join(errs...)
}

// An InUseError says that another station answers for an address.
type InUseError struct {
	Address netip.Addr
	Link    string
	MAC     string
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("%s is in use by %s on %s: take it away there, or choose another address", e.Address, e.MAC, e.Link)
}
