package vip

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var testTable = TableConfig{Number: 155, Protocol: 155}

func openTable(t *testing.T, b *Binder) *Table {
	t.Helper()
	table, err := b.OpenTable(testTable)
	must(t, err)
	t.Cleanup(func() { must(t, table.Close()) })
	return table
}

func setTable(t *testing.T, table *Table, ss ...string) {
	t.Helper()
	want := prefixes(ss...)
	have, err := table.Set(t.Context(), want)
	must(t, err)
	slices.SortFunc(want, comparePrefix)
	if !slices.Equal(have, want) || !slices.Equal(inTable(t), want) {
		t.Fatalf("set %v: %v, the kernel has %v", want, have, inTable(t))
	}
}

// inTable is what the kernel has in the table, of whatever protocol.
func inTable(t *testing.T) (out []netip.Prefix) {
	t.Helper()
	found, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: 155}, netlink.RT_FILTER_TABLE)
	must(t, err)
	for _, r := range found {
		if r.Type != unix.RTN_BLACKHOLE {
			t.Errorf("route %v is no blackhole", r)
		}
		out = append(out, netip.MustParsePrefix(r.Dst.String()))
	}
	slices.SortFunc(out, comparePrefix)
	return out
}

func TestTable(t *testing.T) {
	lab(t)
	dir := t.TempDir()
	b := open(t, Config{RunDir: dir, Instance: "one"})
	table := openTable(t, b)
	setTable(t, table, "192.0.2.1/32", "2001:db8::1/128")
	setTable(t, table, "192.0.2.1/32", "2001:db8::1/128")
	setTable(t, table, "192.0.2.2/32")
	setTable(t, table)

	for _, bad := range []string{"192.0.2.0/24", "2001:db8::/64"} {
		if _, err := table.Set(t.Context(), prefixes(bad)); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func TestTableLeavesOthersAlone(t *testing.T) {
	lab(t)
	dir := t.TempDir()
	a := open(t, Config{RunDir: dir, Instance: "a"})
	set(t, a, "192.0.2.1/32")
	ta := openTable(t, a)
	setTable(t, ta, "192.0.2.1/32")
	must(t, netlink.RouteAdd(&netlink.Route{Dst: ipNet(t, "192.0.2.9/32"), Table: 155, Protocol: unix.RTPROT_STATIC, Type: unix.RTN_BLACKHOLE}))

	b := open(t, Config{RunDir: dir, Instance: "b"})
	set(t, b, "192.0.2.2/32")
	tb := openTable(t, b)
	_, err := tb.Set(t.Context(), prefixes("192.0.2.2/32"))
	must(t, err)
	if got, want := inTable(t), prefixes("192.0.2.1/32", "192.0.2.2/32", "192.0.2.9/32"); !slices.Equal(got, want) {
		t.Fatalf("table %v, want %v", got, want)
	}
	have, err := tb.Set(t.Context(), nil)
	must(t, err)
	if got, want := inTable(t), prefixes("192.0.2.1/32", "192.0.2.9/32"); len(have) != 0 || !slices.Equal(got, want) {
		t.Fatalf("have %v, table %v, want %v", have, got, want)
	}
}

func TestTableSweepsWhatADeadInstanceLeft(t *testing.T) {
	lab(t)
	dir := t.TempDir()
	cmd := startChild(t, dir, "gone", "192.0.2.1/32")
	must(t, netlink.RouteAdd(&netlink.Route{Dst: ipNet(t, "192.0.2.1/32"), Table: 155, Protocol: 155, Type: unix.RTN_BLACKHOLE}))
	b := open(t, Config{RunDir: dir, Instance: "one"})
	alive := openTable(t, b)
	if got := inTable(t); len(got) != 1 {
		t.Fatalf("table %v: the other instance lives", got)
	}
	kill(t, cmd)
	must(t, alive.Close())
	if got := inTable(t); len(got) != 0 {
		t.Fatalf("table %v: the other instance is dead", got)
	}
}

func TestTableNoticesAFlush(t *testing.T) {
	lab(t)
	changed := make(chan struct{}, 8)
	b := open(t, Config{RunDir: t.TempDir(), Instance: "one", OnChange: func() { changed <- struct{}{} }})
	table := openTable(t, b)
	setTable(t, table, "192.0.2.1/32")
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- table.Run(ctx) }()
	must(t, netlink.RouteDel(table.route(prefixes("192.0.2.1/32")[0])))
	until(t, "the loss is told", func() bool { return len(changed) > 0 })
	setTable(t, table, "192.0.2.1/32")
	cancel()
	must(t, <-done)
}

func TestOpenTableRefuses(t *testing.T) {
	lab(t)
	b := open(t, Config{RunDir: t.TempDir(), Instance: "one"})
	for _, cfg := range []TableConfig{{0, 155}, {254, 155}, {255, 155}, {253, 155}, {155, 2}, {155, 0}} {
		if table, err := b.OpenTable(cfg); err == nil {
			must(t, table.Close())
			t.Errorf("%+v was accepted", cfg)
		} else if !strings.Contains(err.Error(), "choose one") {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}
