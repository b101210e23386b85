package vip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TableConfig is where a Table has its routes.
type TableConfig struct {
	Number   uint32 // of the routing table; not one that the kernel itself decides by (253 to 255)
	Protocol uint8  // of the routes, by which they are known as ours; above 3, which the kernel and administrators have
}

// A Table is a set of routes in a table of this host, from which another daemon takes what it advertises. They are blackholes:
// such a route says that an address is here, and can never lead a packet anywhere else. Addresses on lo are found before any
// table is asked. The kernel lets no IPv4 route expire, so what a SIGKILL leaves stays until the next start.
//
// All methods may be called concurrently.
type Table struct {
	cfg    TableConfig
	binder *Binder
	kernel *netlink.Handle

	mu   sync.Mutex // held across requests to the kernel; guards have
	have []netip.Prefix
}

// OpenTable makes a Table for the network namespace of the calling thread, and removes from it what dead instances left: routes
// of the protocol for addresses that no living instance has in its record.
func (b *Binder) OpenTable(cfg TableConfig) (*Table, error) {
	if cfg.Number == unix.RT_TABLE_UNSPEC || cfg.Number >= unix.RT_TABLE_DEFAULT && cfg.Number <= unix.RT_TABLE_LOCAL {
		return nil, fmt.Errorf("open table %d: choose one that the kernel does not route by", cfg.Number)
	}
	if cfg.Protocol <= unix.RTPROT_BOOT {
		return nil, fmt.Errorf("open table %d: protocol %d: choose one above %d", cfg.Number, cfg.Protocol, unix.RTPROT_BOOT)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open table %d: %w", cfg.Number, err)
	}
	t := &Table{cfg: cfg, binder: b, kernel: h}
	if _, err := t.Set(context.Background(), nil); err != nil {
		h.Close()
		return nil, fmt.Errorf("sweep table %d: %w", cfg.Number, err)
	}
	return t, nil
}

// Set makes want, the whole of it, the routes of this instance in the table, and returns those that are there when it returns,
// sorted, also when it fails. It waits for the kernel, for seconds when others hold RTNL.
func (t *Table) Set(ctx context.Context, want []netip.Prefix) (have []netip.Prefix, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if want, err = normalise(want); err != nil {
		return slices.Clone(t.have), err
	}
	if t.have, err = t.read(); err != nil {
		return slices.Clone(t.have), err
	}
	var errs []error
	for _, p := range without(t.have, want) {
		errs = append(errs, t.change(ctx, p, "remove", t.kernel.RouteDel))
	}
	for _, p := range without(want, t.have) {
		errs = append(errs, t.change(ctx, p, "add", t.kernel.RouteReplace))
	}
	now, err := t.read()
	if err == nil {
		t.have = now
	}
	return slices.Clone(t.have), errors.Join(append(errs, err)...)
}

func (t *Table) change(ctx context.Context, p netip.Prefix, verb string, request func(*netlink.Route) error) error {
	err := ctx.Err()
	if err == nil {
		err = request(t.route(p))
	}
	if err != nil {
		return fmt.Errorf("%s route %s in table %d: %w", verb, p, t.cfg.Number, err)
	}
	t.binder.log.Info("route in table", "addr", p.Addr(), "table", t.cfg.Number, "change", verb)
	return nil
}

func (t *Table) route(p netip.Prefix) *netlink.Route {
	return &netlink.Route{
		Dst:      &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
		Table:    int(t.cfg.Number),
		Protocol: netlink.RouteProtocol(t.cfg.Protocol),
		Type:     unix.RTN_BLACKHOLE,
	}
}

// read returns the routes of the protocol in the table, but for those of other living instances.
func (t *Table) read() ([]netip.Prefix, error) {
	var others map[string]record
	err := t.binder.reg.locked(func() (err error) {
		others, _, err = t.binder.reg.others()
		return err
	})
	if err != nil {
		return t.have, err
	}
	found, err := t.kernel.RouteListFiltered(netlink.FAMILY_ALL, t.route(netip.Prefix{}), netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return t.have, fmt.Errorf("list routes of table %d: %w", t.cfg.Number, err)
	}
	var have []netip.Prefix
	for _, r := range found {
		if r.Dst == nil {
			continue
		}
		addr, _ := netip.AddrFromSlice(r.Dst.IP)
		ones, _ := r.Dst.Mask.Size()
		p := netip.PrefixFrom(addr.Unmap(), ones)
		if _, taken := lists(others, p.Addr()); !taken {
			have = append(have, p)
		}
	}
	slices.SortFunc(have, comparePrefix)
	return slices.Compact(have), nil
}

// Run looks each second whether the routes are still there, and calls Config.OnChange of the Binder when one is not, until ctx
// ends; then it returns nil.
func (t *Table) Run(ctx context.Context) error {
	tick := time.NewTicker(readBack)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if t.lost() {
			t.binder.cfg.OnChange()
		}
	}
}

func (t *Table) lost() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.have) == 0 {
		return false
	}
	now, err := t.read()
	if err != nil {
		return false // the next look tells
	}
	gone := without(t.have, now)
	for _, p := range gone {
		t.binder.log.Warn("route has gone: removed by another program", "addr", p.Addr(), "table", t.cfg.Number)
	}
	t.have = now
	return len(gone) > 0
}

// Close removes the routes of this instance.
func (t *Table) Close() error {
	_, err := t.Set(context.Background(), nil)
	t.kernel.Close()
	return err
}
