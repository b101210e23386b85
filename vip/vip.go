// Package vip keeps virtual addresses on lo, with a kernel that does not claim them.
//
// A Binder holds a set of addresses as /32 and /128 on lo. The machine then accepts packets to them, but nobody sends any:
// the kernel is kept from answering ARP for them (Mute), and it answers no neighbor solicitation for an address on lo by
// itself. Who answers, and when, is the business of package arp. The addresses are never chosen as a source for other
// traffic, with one exception: IPv6 on a node that has no other address of the same scope at all.
//
// The kernel ends each address by itself when its lifetime has run out, so a killed process leaves nothing for long. Each
// address carries a Tag, and the next start sweeps what it finds. Several instances may share a network namespace if they
// share the directory RunDir too; the last one puts back what the links were before the first one muted them.
//
// The address of a Service need not be bound: kube-proxy or a CNI translates what comes for it before the kernel asks whose it is.
// Hush keeps the kernel mute for such an address when others have put it on this host. A Screen rejects what nobody translated, and
// lets nothing but Services in at an address that is bound for them. FlushConntrack makes the kernel forget what it remembers of
// connections to an address.
//
// Links, WatchLinks and Established tell facts of the host on which others decide.
package vip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sync/errgroup"
)

// Config is what a Binder needs to know.
type Config struct {
	Instance string        // names this instance among those in the same network namespace
	RunDir   string        // for locks and records, in a directory for each network namespace: /run/pintle
	Lifetime time.Duration // of an address in the kernel; at least MinLifetime; 0 means DefaultLifetime
	Log      *slog.Logger  // nil: no log

	// OnChange is called when others changed something that the Binder has: an address was removed or ran out, the mute
	// was reset. It is called from Run, may call Set and Mute, and holds up the goroutine that found the change. nil: not
	// called.
	OnChange func()
}

// Lifetimes. The kernel counts whole seconds, and renewals may wait for RTNL for several.
const (
	DefaultLifetime = 30 * time.Second
	MinLifetime     = 5 * time.Second
)

// ourFamilies are those in which an instance may have an nftables table: the wall's and the screen's.
var ourFamilies = []nftables.TableFamily{nftables.TableFamilyARP, nftables.TableFamilyINet}

// readBack is how often the mute is looked at: a sysctl write sends no event.
const readBack = time.Second

// Binder holds addresses on lo. All methods may be called concurrently.
type Binder struct {
	cfg    Config
	log    *slog.Logger
	reg    *registry
	events *events
	mute   *muter
	ledger *ledger

	readBack time.Duration // readBack, longer in a test of the events

	turn   turn                // one at a time on lo; guards the next five, and is held across I/O
	route  *route              // also used by sweep, before and after everything else
	ever   map[netip.Addr]bool // what our record lists
	hushes bool                // our record says that we hush
	late   bool                // the last renewal failed, and that is logged
	closed bool

	mu    sync.Mutex // guards bound
	bound []netip.Prefix
}

// Open makes a Binder for the network namespace of the calling thread; its goroutines stay in there whatever thread they
// run on. It takes the instance's lock and removes what dead instances left: their addresses, this one's too, and tables.
// It fails when another process has the instance, and when a record is damaged: the error says what to do.
func Open(cfg Config) (*Binder, error) {
	if cfg.Lifetime == 0 {
		cfg.Lifetime = DefaultLifetime
	}
	if cfg.Lifetime < MinLifetime {
		return nil, fmt.Errorf("check lifetime %s: want at least %s", cfg.Lifetime, MinLifetime)
	}
	if err := checkInstance(cfg.Instance); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.OnChange == nil {
		cfg.OnChange = func() {}
	}
	b := &Binder{cfg: cfg, log: cfg.Log, turn: newTurn(), ever: map[netip.Addr]bool{}, readBack: readBack}
	if err := b.dial(); err != nil {
		b.hangUp()
		return nil, err
	}
	if err := b.reg.locked(b.enter); err != nil {
		b.reg.drop()
		b.hangUp()
		return nil, err
	}
	return b, nil
}

// dial opens all sockets in the network namespace of the calling thread.
func (b *Binder) dial() (err error) {
	b.mute = &muter{turn: newTurn(), log: b.log, warned: map[string]string{}}
	b.mute.status.Store(&Mute{})
	if b.reg, err = newRegistry(b.cfg.RunDir, b.cfg.Instance); err != nil {
		return err
	}
	b.mute.reg = b.reg
	if b.route, err = dialRoute(); err != nil {
		return err
	}
	if b.mute.route, err = dialRoute(); err != nil {
		return err
	}
	if b.mute.wall, err = dialWall(b.cfg.Instance); err != nil {
		return err
	}
	b.ledger = b.mute.wall.ledger
	b.mute.all = openAllConf()
	b.events, err = subscribe()
	return err
}

func (b *Binder) hangUp() {
	if b.route != nil {
		b.route.close()
	}
	if b.mute.route != nil {
		b.mute.route.close()
	}
	if b.mute.wall != nil {
		b.mute.wall.close()
	}
	if b.events != nil {
		b.events.close()
	}
	b.mute.all.close()
}

// enter takes the instance and sweeps.
func (b *Binder) enter() error {
	if err := b.reg.claim(); err != nil {
		return err
	}
	if _, err := b.reg.originals(); err != nil { // damaged? better now than when it is needed
		return err
	}
	living, dead, err := b.reg.others()
	if err != nil {
		return err
	}
	if err := b.sweep(living, dead); err != nil {
		return err
	}
	if err := b.mute.wall.sweep(living, ourFamilies...); err != nil {
		b.log.Warn("nftables leftovers stay", "err", err) // where there is no nftables there are none
	}
	return b.reg.forget(dead)
}

// sweep takes every address of ours or of a dead instance off lo. A record is written before its addresses are bound, and
// nobody writes one meanwhile, so an address that no living instance lists is none of theirs.
func (b *Binder) sweep(living, dead map[string]record) error {
	found, err := b.route.addresses()
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range found {
		_, listed := lists(dead, a.Addr())
		_, taken := lists(living, a.Addr())
		if taken || !a.tagged() && !(listed && a.likeOurs()) {
			continue
		}
		if err := b.route.unbind(a.Prefix); err != nil {
			errs = append(errs, err)
			continue
		}
		b.log.Info("address removed, left by an earlier process", "addr", a.Addr())
	}
	return errors.Join(errs...)
}

// Run renews the addresses, keeps the kernel mute, and follows what others do to both, until ctx ends; then it returns nil
// and leaves everything as it is, for Close. Call it once. It fails only when the kernel sends no more events.
func (b *Binder) Run(ctx context.Context) error {
	links, addrs := newPoke(), newPoke()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return b.events.follow(ctx, links, addrs) })
	g.Go(func() error { return b.keepMute(ctx, links) })
	g.Go(func() error { return b.watchAddresses(ctx, addrs) })
	g.Go(func() error { return b.renew(ctx) })
	return g.Wait()
}

func (b *Binder) keepMute(ctx context.Context, links poke) error {
	t := time.NewTicker(b.readBack)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case <-links:
			if !pause(ctx, settle) {
				return nil
			}
		}
		if b.mute.keep(ctx) {
			b.cfg.OnChange()
		}
	}
}

func (b *Binder) watchAddresses(ctx context.Context, addrs poke) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-addrs:
		}
		if !pause(ctx, settle) {
			return nil
		}
		if b.look(ctx, false) {
			b.cfg.OnChange()
		}
	}
}

// renew is a goroutine of its own: a renewal may wait for RTNL for seconds.
func (b *Binder) renew(ctx context.Context) error {
	for pause(ctx, b.cfg.Lifetime/3) {
		if b.look(ctx, true) {
			b.cfg.OnChange()
		}
	}
	return nil
}

// Mute tells what is true of the mute since it was looked at last, at most a second ago while Run runs and the kernel
// answers. It never blocks.
func (b *Binder) Mute() Mute { return b.mute.now() }

// Close takes all addresses off lo and removes the nftables table and the records. If no other living instance may hold an
// address, it puts back what the links were before the first one muted them. When an address cannot be removed, mute,
// table and records stay for the next Open, and the error says so; the kernel's lifetime ends the address. End Run before
// Close. Called again it does nothing.
func (b *Binder) Close() error {
	_ = b.turn.take(context.Background())
	defer b.turn.give()
	if b.closed {
		return nil
	}
	b.closed = true
	b.mute.stop()
	err := b.reg.locked(b.exit)
	b.reg.drop()
	b.hangUp()
	return err
}

// exit treats this instance as a dead one, and the dead ones with it.
func (b *Binder) exit() error {
	var errs []error
	for _, p := range b.have() {
		errs = append(errs, b.letGo(p))
	}
	living, dead, err := b.reg.others()
	if err := errors.Join(append(errs, err)...); err != nil {
		return err
	}
	if err := b.sweep(living, dead); err != nil {
		return fmt.Errorf("%w (mute and records stay for the next start)", err)
	}
	if !mutes(living) {
		if err := b.mute.restore(); err != nil {
			return err
		}
	}
	err = b.mute.wall.sweep(living, ourFamilies...)
	if err := b.reg.forget(dead); err != nil {
		return err
	}
	return errors.Join(err, b.reg.leave(len(living) == 0))
}

// turn lets one goroutine at a time through, and the others stop waiting when their context ends.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t turn) give() { <-t }
