package vip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	vip4 = "10.9.0.9/32"
	vip6 = "fd09::9/128"
)

func TestSetBindsAndUnbinds(t *testing.T) {
	lab(t)
	b := open(t, Config{})
	set(t, b)
	for _, want := range [][]string{{vip4}, {vip4, vip6}, {vip4, vip6}, {vip6}, {"10.9.0.8/32", vip4, vip6}, {}, {vip4}, {}} {
		set(t, b, want...)
		if got := onLo(t); fmt.Sprint(got) != fmt.Sprint(prefixes(want...)) {
			t.Errorf("lo has %v, want %v", got, want)
		}
	}
}

func TestSetOfAThousand(t *testing.T) {
	lab(t)
	b := open(t, Config{})
	run(t, b)
	var want []string
	for i := range 500 {
		want = append(want, fmt.Sprintf("10.200.%d.%d/32", i/250, 1+i%250), fmt.Sprintf("fd01::%x/128", i+1))
	}
	slices.SortFunc(want, func(a, b string) int { return comparePrefix(netip.MustParsePrefix(a), netip.MustParsePrefix(b)) })
	set(t, b, want...)
	if gone := b.look(t.Context(), true); gone || len(onLo(t)) != 1000 || len(inSet(t, "a", "bound")) != 500 {
		t.Errorf("gone %t, %d on lo, %d in the wall", gone, len(onLo(t)), len(inSet(t, "a", "bound")))
	}
	set(t, b, want[:999]...)
	set(t, b, want...)
	set(t, b)
	if len(onLo(t)) != 0 {
		t.Errorf("%d are left", len(onLo(t)))
	}
}

func TestBoundAddressInKernel(t *testing.T) {
	lab(t)
	b := open(t, Config{Lifetime: 20 * time.Second})
	set(t, b, vip4, vip6)
	seen := 0
	for _, a := range dumpAddresses(t) {
		if !slices.Contains(prefixes(vip4, vip6), a.Prefix) {
			continue
		}
		seen++
		if a.link != loIndex || a.proto != Tag || a.valid == 0 || a.valid > 20 ||
			a.flags&unix.IFA_F_DEPRECATED == 0 || a.flags&unix.IFA_F_NOPREFIXROUTE == 0 || a.flags&unix.IFA_F_TENTATIVE != 0 {
			t.Errorf("bound as %+v", a)
		}
	}
	if seen != 2 {
		t.Errorf("%d of 2 bound", seen)
	}
	addrs, err := netlink.AddrList(byName(t, "lo"), unix.AF_INET)
	must(t, err)
	for _, a := range addrs {
		if a.IP.String() == "10.9.0.9" && a.Scope != unix.RT_SCOPE_LINK {
			t.Errorf("scope %d, want link", a.Scope)
		}
	}
}

func TestSetRefusesBadInput(t *testing.T) {
	lab(t)
	b := open(t, Config{})
	set(t, b, vip4)
	for _, p := range []netip.Prefix{
		{}, netip.MustParsePrefix("10.9.0.0/24"), netip.MustParsePrefix("127.0.0.5/32"), netip.MustParsePrefix("fe80::1/128"),
		netip.MustParsePrefix("224.0.0.9/32"), netip.MustParsePrefix("::ffff:10.0.0.1/128"),
	} {
		have, err := b.Set(t.Context(), []netip.Prefix{p})
		if err == nil || fmt.Sprint(have) != fmt.Sprint(prefixes(vip4)) {
			t.Errorf("%s: have %v, err %v", p, have, err)
		}
	}
}

func TestSetRefusesForeignAddress(t *testing.T) {
	for _, tc := range []struct{ link, cidr, vip string }{
		{"eth0", "10.9.0.9/24", vip4}, {"lo", vip4, vip4}, {"eth0", "fd09::9/64", vip6}, {"lo", vip6, vip6},
	} {
		t.Run(tc.link+" "+tc.cidr, func(t *testing.T) {
			lab(t)
			veth(t, "eth0", "peer0")
			giveAddress(t, tc.link, tc.cidr)
			b := open(t, Config{})
			have, err := b.Set(t.Context(), prefixes(tc.vip, "10.9.0.7/32"))
			if err == nil || !strings.Contains(err.Error(), "already on "+tc.link+", put there by someone else") {
				t.Errorf("error %v", err)
			}
			if fmt.Sprint(have) != fmt.Sprint(prefixes("10.9.0.7/32")) {
				t.Errorf("have %v", have)
			}
			must(t, b.Close())
			if !slices.ContainsFunc(dumpAddresses(t), func(a address) bool { return a.Prefix.String() == tc.cidr }) {
				t.Error("the foreign address is gone")
			}
		})
	}
}

// TestSetRefusesLookalike: somebody else binds as we do, without the tag, and no record knows it.
func TestSetRefusesLookalike(t *testing.T) {
	lab(t)
	must(t, netlink.AddrAdd(byName(t, "lo"), &netlink.Addr{IPNet: ipNet(t, vip4), ValidLft: 30, Scope: unix.RT_SCOPE_LINK,
		Flags: unix.IFA_F_NOPREFIXROUTE}))
	b := open(t, Config{})
	have, err := b.Set(t.Context(), prefixes(vip4))
	if err == nil || len(have) > 0 {
		t.Errorf("have %v, err %v", have, err)
	}
}

func TestSetKeepsAndReportsAddressThatAnotherLinkGets(t *testing.T) {
	lab(t)
	veth(t, "eth0", "peer0")
	b := open(t, Config{})
	set(t, b, vip4)
	giveAddress(t, "eth0", "10.9.0.9/24")
	have, err := b.Set(t.Context(), prefixes(vip4))
	if err == nil || fmt.Sprint(have) != fmt.Sprint(prefixes(vip4)) {
		t.Errorf("have %v, err %v", have, err)
	}
}

func TestVanishedAddressIsReportedAndBoundAgain(t *testing.T) {
	lab(t)
	var changes atomic.Int32
	b := open(t, Config{OnChange: func() { changes.Add(1) }})
	run(t, b)
	set(t, b, vip4, vip6)
	a, err := netlink.ParseAddr(vip4)
	must(t, err)
	must(t, netlink.AddrDel(byName(t, "lo"), a))
	until(t, "change reported", func() bool { return changes.Load() > 0 })
	if have := b.have(); fmt.Sprint(have) != fmt.Sprint(prefixes(vip6)) {
		t.Errorf("have %v", have)
	}
	set(t, b, vip4, vip6)
}

func TestSetEndsWithContext(t *testing.T) {
	lab(t)
	b := open(t, Config{})
	set(t, b, vip4)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must(t, b.turn.take(t.Context())) // as if another Set were stuck in the kernel
	have, err := b.Set(ctx, nil)
	b.turn.give()
	if !errors.Is(err, context.Canceled) || fmt.Sprint(have) != fmt.Sprint(prefixes(vip4)) {
		t.Errorf("have %v, err %v", have, err)
	}
	if !b.Mute().InForce() {
		t.Error("mute not told")
	}
}

func TestRenewalOutlivesLifetimeAndDeathDoesNot(t *testing.T) {
	lab(t)
	dir := t.TempDir()
	cmd := startChild(t, dir, "a", vip4, vip6)
	keeper := open(t, Config{RunDir: dir, Instance: "keeper", Lifetime: MinLifetime})
	run(t, keeper)
	set(t, keeper, "10.9.0.7/32")
	kill(t, cmd)
	if got := onLo(t); len(got) != 3 {
		t.Fatalf("lo has %v right after the kill", got)
	}
	until(t, "the dead process's addresses have run out", func() bool { return len(onLo(t)) == 1 })
	start := time.Now()
	until(t, "a lifetime and a half later", func() bool { return time.Since(start) > MinLifetime*3/2 })
	if got := onLo(t); fmt.Sprint(got) != fmt.Sprint(prefixes("10.9.0.7/32")) {
		t.Errorf("lo has %v, want what is renewed", got)
	}
}

func TestOpenSweepsAfterKill(t *testing.T) {
	for _, next := range []string{"a", "b"} {
		t.Run("then "+next, func(t *testing.T) {
			lab(t)
			veth(t, "eth0", "peer0")
			setConf(t, "eth0", arpConf{ignore: 3, announce: 1})
			dir := t.TempDir()
			alive := open(t, Config{RunDir: dir, Instance: "alive"})
			set(t, alive, "10.9.0.7/32")
			kill(t, startChild(t, dir, "a", vip4, vip6))
			b := open(t, Config{RunDir: dir, Instance: next})
			if got := onLo(t); fmt.Sprint(got) != fmt.Sprint(prefixes("10.9.0.7/32")) {
				t.Errorf("lo has %v", got)
			}
			if got := tables(t); fmt.Sprint(got) != "[pintle_alive]" {
				t.Errorf("tables %v", got)
			}
			if got := strings.Join(files(t, dir), " "); strings.Contains(got, "/a.json") {
				t.Errorf("files %s", got)
			}
			set(t, b, vip4)
			must(t, alive.Close())
			must(t, b.Close())
			empty(t, dir)
			if got := conf(t, "eth0"); got != (arpConf{ignore: 3, announce: 1}) {
				t.Errorf("eth0 has %+v", got)
			}
		})
	}
}

// TestSweepOnKernelWithoutTags: before 5.18 the kernel forgets the tag; the record of the dead instance and the way the
// address is bound stand in for it.
func TestSweepOnKernelWithoutTags(t *testing.T) {
	lab(t)
	dir := t.TempDir()
	for _, p := range []string{vip4, "10.9.0.8/32"} {
		must(t, netlink.AddrAdd(byName(t, "lo"), &netlink.Addr{IPNet: ipNet(t, p), ValidLft: 30, Scope: unix.RT_SCOPE_LINK,
			Flags: unix.IFA_F_NOPREFIXROUTE}))
	}
	giveAddress(t, "lo", "10.9.0.7/32")
	r, err := newRegistry(dir, "dead")
	must(t, err)
	must(t, r.locked(func() error {
		return errors.Join(r.claim(), r.write([]netip.Addr{netip.MustParseAddr("10.9.0.9"), netip.MustParseAddr("10.9.0.7")}, false))
	}))
	r.drop()
	open(t, Config{RunDir: dir})
	var left []string
	for _, a := range dumpAddresses(t) {
		if a.IsSingleIP() && a.Addr().Is4() {
			left = append(left, a.Prefix.String())
		}
	}
	if fmt.Sprint(left) != "[10.9.0.7/32 10.9.0.8/32]" && fmt.Sprint(left) != "[10.9.0.8/32 10.9.0.7/32]" {
		t.Errorf("left %v, want the unrecorded and the permanent one", left)
	}
}

func ipNet(t *testing.T, cidr string) *net.IPNet {
	t.Helper()
	ip, n, err := net.ParseCIDR(cidr)
	must(t, err)
	return &net.IPNet{IP: ip, Mask: n.Mask}
}

func TestCloseLeavesNothing(t *testing.T) {
	lab(t)
	veth(t, "eth0", "peer0")
	dir := t.TempDir()
	before := dumpAddresses(t)
	b := open(t, Config{RunDir: dir})
	stop := run(t, b)
	set(t, b, vip4, vip6)
	stop()
	must(t, b.Close())
	must(t, b.Close())
	empty(t, dir)
	if after := dumpAddresses(t); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("addresses %v, before %v", after, before)
	}
	if _, err := b.Set(t.Context(), prefixes(vip4)); err == nil {
		t.Error("a closed binder binds")
	}
}

// empty wants no trace of any instance.
func empty(t *testing.T, dir string) {
	t.Helper()
	if got := onLo(t); len(got) > 0 {
		t.Errorf("lo has %v", got)
	}
	if got := tables(t); len(got) > 0 {
		t.Errorf("tables %v", got)
	}
	if got := files(t, dir); len(got) > 0 {
		t.Errorf("files %v", got)
	}
}

func TestInstancesDoNotDisturbEachOther(t *testing.T) {
	was := arpConf{ignore: 3, announce: 1}
	for _, firstCloses := range []bool{true, false} {
		for _, firstBinds := range []bool{true, false} {
			t.Run(fmt.Sprintf("first closes %t binds %t", firstCloses, firstBinds), func(t *testing.T) {
				lab(t)
				veth(t, "eth0", "peer0")
				setConf(t, "eth0", was)
				dir := t.TempDir()
				one := open(t, Config{RunDir: dir, Instance: "one"})
				two := open(t, Config{RunDir: dir, Instance: "two"})
				binders := []*Binder{one, two}
				if !firstBinds {
					slices.Reverse(binders)
				}
				set(t, binders[0], vip4, vip6)
				set(t, binders[1], "10.9.0.7/32")
				leaves, stays := one, two
				if !firstCloses {
					leaves, stays = two, one
				}
				kept := stays.have()
				must(t, leaves.Close())
				if got := onLo(t); fmt.Sprint(got) != fmt.Sprint(kept) {
					t.Errorf("lo has %v, want %v", got, kept)
				}
				if c := conf(t, "eth0"); c != was.muted() {
					t.Errorf("mute undone under a living instance: %+v", c)
				}
				if !slices.Equal(inSet(t, stays.cfg.Instance, "bound"), only4(kept)) {
					t.Error("wall of the living instance does not stand")
				}
				must(t, stays.Close())
				if c := conf(t, "eth0"); c != was {
					t.Errorf("eth0 has %+v, want %+v", c, was)
				}
				empty(t, dir)
			})
		}
	}
}

func TestIdleInstanceHoldsNoMute(t *testing.T) {
	lab(t)
	veth(t, "eth0", "peer0")
	dir := t.TempDir()
	idle := open(t, Config{RunDir: dir, Instance: "idle"})
	b := open(t, Config{RunDir: dir, Instance: "b"})
	set(t, b, vip4)
	must(t, b.Close())
	if c := conf(t, "eth0"); c != (arpConf{}) {
		t.Errorf("eth0 has %+v", c)
	}
	set(t, idle, vip4)
	must(t, idle.Close())
	if c := conf(t, "eth0"); c != (arpConf{}) {
		t.Errorf("eth0 has %+v", c)
	}
}

func TestInstancesDoNotShareAnAddress(t *testing.T) {
	lab(t)
	dir := t.TempDir()
	one := open(t, Config{RunDir: dir, Instance: "one"})
	two := open(t, Config{RunDir: dir, Instance: "two"})
	set(t, one, vip4)
	for range 2 {
		have, err := two.Set(t.Context(), prefixes(vip4))
		if len(have) > 0 || err == nil || !strings.Contains(err.Error(), "bound by instance one") {
			t.Errorf("have %v, err %v", have, err)
		}
	}
	set(t, one)
	set(t, two, vip4)
	if _, err := one.Set(t.Context(), prefixes(vip4)); err == nil {
		t.Error("bound twice")
	}
	must(t, one.Close())
	if got := onLo(t); len(got) != 1 {
		t.Errorf("lo has %v", got)
	}
}

func TestSecondOpenOfAnInstanceIsRefused(t *testing.T) {
	lab(t)
	dir := t.TempDir()
	cmd := startChild(t, dir, "a", vip4)
	_, err := Open(Config{RunDir: dir, Instance: "a"})
	want := fmt.Sprintf("another pintle of instance a is running (pid %d)", cmd.Process.Pid)
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %s", err, want)
	}
	if got := onLo(t); len(got) != 1 {
		t.Errorf("lo has %v", got)
	}
}

func TestOpenRefuses(t *testing.T) {
	lab(t)
	for _, cfg := range []Config{
		{Instance: ""}, {Instance: "mute"}, {Instance: "../a"}, {Instance: ".a"}, {Instance: strings.Repeat("a", 65)},
		{Instance: "a", Lifetime: time.Second},
	} {
		cfg.RunDir = t.TempDir()
		if b, err := Open(cfg); err == nil {
			t.Errorf("%+v: opened", cfg)
			_ = b.Close()
		}
	}
}

func TestOpenRefusesDamagedRecords(t *testing.T) {
	lab(t)
	for _, name := range []string{"mute", "dead", "a"} {
		dir := t.TempDir()
		r, err := newRegistry(dir, name)
		must(t, err)
		must(t, r.locked(func() error { return nil }))
		for _, f := range []string{name + ".json", name + ".lock"} {
			must(t, os.WriteFile(filepath.Join(r.dir, f), []byte(`{"addrs":[`), 0o600))
		}
		_, err = Open(Config{RunDir: dir, Instance: "a"})
		if err == nil || !strings.Contains(err.Error(), name+".json") || !strings.Contains(err.Error(), "remove the file") {
			t.Errorf("%s: error %v", name, err)
		}
		must(t, os.Remove(filepath.Join(r.dir, name+".json")))
		must(t, os.Remove(filepath.Join(r.dir, name+".lock")))
		b, err := Open(Config{RunDir: dir, Instance: "a"})
		must(t, err)
		must(t, b.Close())
	}
}

func TestOriginalsOfAnotherNamespaceAreNotUsed(t *testing.T) {
	lab(t)
	veth(t, "eth0", "peer0")
	dir := t.TempDir()
	r, err := newRegistry(dir, "a")
	must(t, err)
	l := byName(t, "eth0").Attrs()
	foreign := []savedLink{{Index: l.Index, Name: l.Name, MAC: l.HardwareAddr.String(), Ignore: 5, Announce: 1}}
	life := r.life
	r.life = "another boot/1"
	must(t, r.locked(func() error { return r.saveOriginals(foreign) }))
	r.life = life
	b := open(t, Config{RunDir: dir})
	set(t, b, vip4)
	must(t, b.Close())
	if c := conf(t, "eth0"); c != (arpConf{}) {
		t.Errorf("eth0 has %+v", c)
	}
}

func TestStraysAreWhatOthersBound(t *testing.T) {
	lab(t)
	veth(t, "eth0", "peer0")
	set(t, open(t, Config{}), vip4, vip6)
	giveAddress(t, "lo", "10.9.0.7/32")
	giveAddress(t, "eth0", "10.9.0.8/24")
	giveAddress(t, "eth0", "10.9.0.50/24")
	var addrs []netip.Addr
	for _, p := range prefixes("10.9.0.7/32", "10.9.0.8/32", vip4, vip6) {
		addrs = append(addrs, p.Addr())
	}
	got, err := Strays(addrs)
	must(t, err)
	want := []Stray{{netip.MustParsePrefix("10.9.0.7/32"), "lo"}, {netip.MustParsePrefix("10.9.0.8/24"), "eth0"}}
	if !slices.Equal(got, want) {
		t.Errorf("strays %v", got)
	}
}
