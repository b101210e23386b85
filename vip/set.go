package vip

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// Set makes want, the whole of it, the addresses on lo, and returns those that are there when it returns, sorted, also
// when it fails. Call it again with the same set as often as you like. The empty set removes all.
//
// want must be single addresses (/32, /128). An address that somebody else has put on a link is refused and left alone,
// and so is one that another instance has bound; the others are bound all the same. No IPv4 address is bound, and those
// that are bound are removed, when the kernel cannot be made mute. Set waits for the kernel, for seconds when others hold
// RTNL; one call waits for the other. When ctx ends it stops between two requests.
func (b *Binder) Set(ctx context.Context, want []netip.Prefix) (have []netip.Prefix, err error) {
	want, err = normalise(want)
	if err != nil {
		return b.have(), err
	}
	if err := b.turn.take(ctx); err != nil {
		return b.have(), fmt.Errorf("set addresses: %w", err)
	}
	defer b.turn.give()
	if b.closed {
		return nil, errors.New("set addresses: binder is closed")
	}
	err = b.set(ctx, want)
	return b.have(), err
}

func (b *Binder) set(ctx context.Context, want []netip.Prefix) error {
	found, err := b.route.addresses()
	if err != nil {
		return err
	}
	mine, err := b.mine(found)
	if err != nil {
		return err
	}
	b.setBound(mine)
	var errs []error
	for _, p := range without(mine, want) {
		errs = append(errs, b.letGo(p))
	}
	free, err := b.free(want, found)
	errs = append(errs, err)
	if err := b.remember(free); err != nil {
		errs = append(errs, err)
		free = slices.DeleteFunc(free, func(p netip.Prefix) bool { return !b.ever[p.Addr()] })
	}
	if err := b.quiet(ctx, free); err != nil {
		errs = append(errs, err)
		free = slices.DeleteFunc(free, func(p netip.Prefix) bool { return p.Addr().Is4() })
	}
	for _, p := range without(free, b.have()) {
		if ctx.Err() != nil {
			errs = append(errs, fmt.Errorf("set addresses: %w", ctx.Err()))
			break
		}
		errs = append(errs, b.add(p))
	}
	if have := b.have(); !slices.Equal(only4(free), only4(have)) { // the wall is for what is bound only
		errs = append(errs, b.quiet(context.WithoutCancel(ctx), have))
	}
	return errors.Join(errs...)
}

// mine returns what is ours among the addresses that the kernel has: what is tagged and in our record, unless another
// living instance lists it too and we do not know that we bound it.
func (b *Binder) mine(found []address) ([]netip.Prefix, error) {
	bound := setOf(b.have())
	var mine []netip.Prefix
	for _, a := range found {
		if !b.ours(a) {
			continue
		}
		if !bound[a.Prefix] {
			holder, err := b.holder(a.Addr())
			if err != nil {
				return nil, err
			}
			if holder != "" {
				continue
			}
		}
		mine = append(mine, a.Prefix)
	}
	return mine, nil
}

// ours reports whether a looks like one that we bound.
func (b *Binder) ours(a address) bool { return b.ever[a.Addr()] && (a.tagged() || a.likeOurs()) }

// holder names the other living instance whose record lists the address.
func (b *Binder) holder(a netip.Addr) (name string, err error) {
	err = b.reg.locked(func() error {
		living, _, err := b.reg.others()
		name, _ = lists(living, a)
		return err
	})
	return name, err
}

// free returns those wanted addresses that nobody else has, and why the others are refused. One that we have stays even
// if another link got it too, but that is an error.
func (b *Binder) free(want []netip.Prefix, found []address) ([]netip.Prefix, error) {
	bound, where := setOf(b.have()), map[netip.Addr][]address{}
	for _, a := range found {
		where[a.Addr()] = append(where[a.Addr()], a)
	}
	var free []netip.Prefix
	var errs []error
	for _, p := range want {
		err := b.foreign(p, bound[p], where[p.Addr()])
		if err != nil {
			errs = append(errs, fmt.Errorf("bind %s on lo: %w", p, err))
		}
		if err == nil || bound[p] {
			free = append(free, p)
		}
	}
	return free, errors.Join(errs...)
}

// foreign says who else has the address, which was found there.
func (b *Binder) foreign(p netip.Prefix, bound bool, there []address) error {
	for _, a := range there {
		if a.Prefix == p && bound && a.link == loIndex {
			continue
		}
		if !a.tagged() {
			return fmt.Errorf("%s is already on %s, put there by someone else", p.Addr(), b.linkName(a.link))
		}
		holder, err := b.holder(p.Addr())
		if err != nil {
			return err
		}
		if holder != "" {
			return fmt.Errorf("%s is bound by instance %s", p.Addr(), holder)
		}
		if err := b.route.unbind(p); err != nil { // a leftover that came after our sweep
			return err
		}
	}
	return nil
}

func (b *Binder) linkName(index int) string {
	links, err := b.route.links()
	if err == nil {
		for _, l := range links {
			if l.Index == index {
				return l.Name
			}
		}
	}
	return fmt.Sprintf("link %d", index)
}

// remember writes into our record what we are going to bind.
func (b *Binder) remember(ps []netip.Prefix) error {
	ever := maps.Clone(b.ever)
	for _, p := range ps {
		ever[p.Addr()] = true
	}
	if len(ever) == len(b.ever) {
		return nil
	}
	if err := b.record(ever, b.hushes); err != nil {
		return err
	}
	b.ever = ever
	return nil
}

// record writes our record.
func (b *Binder) record(ever map[netip.Addr]bool, hush bool) error {
	addrs := slices.SortedFunc(maps.Keys(ever), netip.Addr.Compare)
	return b.reg.locked(func() error { return b.reg.write(addrs, hush) })
}

// quiet makes the kernel mute for the IPv4 addresses among ps, the whole set. If it cannot be mute, those that are bound
// are removed. It looks anew only if something is to be bound or was not in order: Run looks each second.
func (b *Binder) quiet(ctx context.Context, ps []netip.Prefix) error {
	fresh := len(without(ps, b.have())) > 0
	err := b.mute.hold(ctx, only4(ps), fresh)
	if !errors.Is(err, errNotMute) {
		return err
	}
	errs := []error{err}
	for _, p := range b.have() {
		if p.Addr().Is4() {
			errs = append(errs, b.letGo(p))
		}
	}
	return errors.Join(errs...)
}

func (b *Binder) add(p netip.Prefix) error {
	if err := b.route.bind(p, b.cfg.Lifetime); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i, _ := slices.BinarySearchFunc(b.bound, p, comparePrefix)
	b.bound = slices.Insert(b.bound, i, p)
	b.log.Info("address bound", "addr", p.Addr())
	return nil
}

func (b *Binder) letGo(p netip.Prefix) error {
	if err := b.route.unbind(p); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if i, ok := slices.BinarySearchFunc(b.bound, p, comparePrefix); ok {
		b.bound = slices.Delete(b.bound, i, i+1)
	}
	b.log.Info("address let go", "addr", p.Addr())
	return nil
}

// look compares what we have with what the kernel has, renews what is there if told so, and reports whether something has
// gone.
func (b *Binder) look(ctx context.Context, renew bool) (gone bool) {
	if b.turn.take(ctx) != nil {
		return false
	}
	defer b.turn.give()
	bound := b.have()
	if b.closed || len(bound) == 0 {
		return false
	}
	found, err := b.route.addresses()
	if err != nil {
		b.report(err)
		return false
	}
	there := map[netip.Prefix]bool{}
	for _, a := range found {
		there[a.Prefix] = there[a.Prefix] || b.ours(a)
	}
	still := slices.DeleteFunc(slices.Clone(bound), func(p netip.Prefix) bool { return !there[p] })
	for _, p := range without(bound, still) {
		b.log.Warn("address has gone: removed by another program, or its lifetime ran out", "addr", p.Addr())
	}
	b.setBound(still)
	if renew {
		var errs []error
		for _, p := range still {
			errs = append(errs, b.route.renew(p, b.cfg.Lifetime))
		}
		b.report(errors.Join(errs...))
	}
	return len(still) < len(bound)
}

// report logs once that renewals are late, and when they go on.
func (b *Binder) report(err error) {
	switch {
	case err != nil && !b.late:
		b.log.Warn("addresses not renewed, trying again", "err", err)
	case err == nil && b.late:
		b.log.Info("addresses renewed again")
	}
	b.late = err != nil
}

// have returns what is bound, as far as we know.
func (b *Binder) have() []netip.Prefix {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.bound)
}

func (b *Binder) setBound(ps []netip.Prefix) {
	slices.SortFunc(ps, comparePrefix)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bound = ps
}

// without returns those of a that are not in b.
func without(a, b []netip.Prefix) []netip.Prefix {
	in := setOf(b)
	return slices.DeleteFunc(slices.Clone(a), func(p netip.Prefix) bool { return in[p] })
}

func setOf[T comparable](ts []T) map[T]bool {
	set := make(map[T]bool, len(ts))
	for _, t := range ts {
		set[t] = true
	}
	return set
}
