package service

import (
	"context"
	"net/netip"
	"reflect"
	"slices"

	"github.com/pintle-lb/pintle/arp"
	"github.com/pintle-lb/pintle/bgp"
	"github.com/pintle-lb/pintle/internal/agent"
	"github.com/pintle-lb/pintle/vip"
)

// A part is one part of the host as the loop sees it.
type part[T any] struct {
	*agent.Worker[T]
	equal       func(a, b T) bool
	given       bool // something was asked for
	want        []T  // what was asked for last
	doing, have []T
	busy        bool
	err         error
}

func newPart[T any](c *Controller, s agent.Setter[T], equal func(a, b T) bool) *part[T] {
	p := &part[T]{equal: equal}
	if s != nil {
		p.Worker = agent.NewWorker(s, func(doing, have []T, err error) {
			c.post(func() {
				p.busy, p.doing, p.have = doing != nil, doing, have
				if !p.busy { // until another try has ended what was wrong stays wrong
					p.err = err
				}
			})
		})
		p.Pace = agent.Pace{Times: lookTimes, Least: restLeast, More: restMore, Most: lookMost, Each: workEach}
	}
	return p
}

func (p *part[T]) run(ctx context.Context) error {
	if p.Worker == nil {
		return nil
	}
	return p.Run(ctx)
}

// set asks for a state, if it is another than before.
func (p *part[T]) set(want []T) {
	if p.Worker == nil || p.given && slices.EqualFunc(p.want, want, p.equal) {
		return
	}
	p.given, p.want = true, want
	p.Set(want)
}

// again has the setter look once more.
func (p *part[T]) again() {
	if p.Worker != nil && p.given {
		p.Set(p.want)
	}
}

func sameValue[T comparable](a, b T) bool { return a == b }

func sameGuard(a, b vip.Guarded) bool {
	return a.Addr == b.Addr && a.Bound == b.Bound && slices.Equal(a.Ports, b.Ports)
}

func sameRoute(a, b bgp.Route) bool { return reflect.DeepEqual(a, b) }

// surely are the addresses of what the host has and is not about to lose.
func surely[T any](p *part[T], addr func(T) netip.Addr) map[netip.Addr]bool {
	out := make(map[netip.Addr]bool, len(p.have))
	for _, x := range p.have {
		out[addr(x)] = true
	}
	keep := func(list []T) {
		still := make(map[netip.Addr]bool, len(list))
		for _, x := range list {
			still[addr(x)] = true
		}
		for a := range out {
			if !still[a] {
				delete(out, a)
			}
		}
	}
	keep(p.want)
	if p.busy {
		keep(p.doing)
	}
	return out
}

// perhaps reports whether claims for an address may still be sent.
func perhaps(p *part[arp.Target]) func(netip.Addr) bool {
	return possibly(p, func(t arp.Target) netip.Addr {
		if t.Claim == nil {
			return netip.Addr{}
		}
		return t.Addr
	})
}

// possibly reports whether something may still be there for an address; the zero Addr is none.
func possibly[T any](p *part[T], addr func(T) netip.Addr) func(netip.Addr) bool {
	var out map[netip.Addr]bool // it is seldom asked
	return func(a netip.Addr) bool {
		if out == nil {
			out = map[netip.Addr]bool{}
			for _, list := range [][]T{p.want, p.doing, p.have} {
				for _, x := range list {
					out[addr(x)] = true
				}
			}
		}
		return out[a]
	}
}
