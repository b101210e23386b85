package demo

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/vishvananda/netlink"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// A fake is a small stand-in for Pintle that is just good enough to be disturbed: beacons each 10 ms name the holder that
// their sender acknowledges; a holder claims while a majority named it in the last 90 ms, and when it was not heard for
// 100 ms the first of the others takes over. FAKE makes it a bad one.
type fake struct {
	name    string
	conf    fakeConfig
	beacons *net.UDPConn
	arp     *arp.Client
	mac     net.HardwareAddr
	bad     string // "stubborn": nobody takes over; "greedy": all answer for a while after each take-over

	mu        sync.Mutex // guards all below
	heard     map[string]time.Time
	named     map[string]string
	holder    string
	epoch     uint64
	changed   time.Time // when the holder changed
	lonely    time.Time // when no majority was heard
	announced time.Time
}

type fakeConfig struct {
	Addresses []struct{ Address, Link string }
	Raft      struct {
		Listen, Bootstrap string
		Peers             []struct{ Name, Address string }
		TLS               struct{ CA, Cert, Key string }
	}
	Server struct {
		RunDir string `yaml:"runDir"`
	}
}

type beacon struct {
	From, Holder string
	Epoch        uint64
	Sent         time.Time
}

// fakePintle is `run --config FILE --node NAME`, or `demo-echo --number N --port PORT`.
func fakePintle(command string, args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	flags := flag.NewFlagSet(command, flag.ContinueOnError)
	config, node := flags.String("config", "", ""), flags.String("node", "", "")
	number, port := flags.Int("number", 0, ""), flags.Int("port", 0, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if command == "demo-echo" {
		return netlab.RunEcho(ctx, byte(*number), *port)
	}
	f, err := newFake(*config, *node)
	if err != nil {
		return err
	}
	return f.run(ctx)
}

func newFake(config, node string) (*fake, error) {
	f := &fake{name: node, heard: map[string]time.Time{}, named: map[string]string{}, bad: os.Getenv("FAKE"), lonely: time.Now()}
	b, err := os.ReadFile(config)
	if err != nil {
		return nil, err
	}
	if err := yaml.Unmarshal(b, &f.conf); err != nil {
		return nil, err
	}
	for _, file := range []string{f.conf.Raft.TLS.CA, f.conf.Raft.TLS.Cert, f.conf.Raft.TLS.Key} {
		if _, err := os.Stat(file); err != nil {
			return nil, err
		}
	}
	eth0, err := net.InterfaceByName(f.conf.Addresses[0].Link)
	if err != nil {
		return nil, err
	}
	f.mac = eth0.HardwareAddr
	if f.arp, err = arp.Dial(eth0); err != nil {
		return nil, err
	}
	if f.beacons, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(f.conf.Raft.Listen))); err != nil {
		return nil, err
	}
	return f, f.bind()
}

// bind puts the address on lo, where the kernel is told not to answer ARP for it.
func (f *fake) bind() error {
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/arp_ignore", []byte("1"), 0o644); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	ip := &net.IPNet{IP: net.ParseIP(f.conf.Addresses[0].Address), Mask: net.CIDRMask(32, 32)}
	return netlink.AddrReplace(lo, &netlink.Addr{IPNet: ip})
}

func (f *fake) run(ctx context.Context) error {
	if err := os.MkdirAll(f.conf.Server.RunDir, 0o755); err != nil {
		return err
	}
	socket := filepath.Join(f.conf.Server.RunDir, "default.sock")
	_ = os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(l, http.HandlerFunc(f.status)) }()
	go f.hear()
	go f.answer()
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		select {
		case <-tick.C:
			f.turn()
		case <-ctx.Done():
			f.release()
			return nil
		}
	}
}

func (f *fake) turn() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.majority(func(string) bool { return true }) {
		f.lonely = time.Now()
	}
	if f.mayTake() {
		f.follow(f.name, f.epoch+1)
	}
	if f.holder == f.name && f.acknowledged() && (f.announced.Before(f.changed) || time.Since(f.announced) > 300*time.Millisecond) {
		f.announced = time.Now()
		if p, err := arp.NewPacket(arp.OperationRequest, f.mac, f.addr(), make(net.HardwareAddr, 6), f.addr()); err == nil {
			_ = f.arp.WriteTo(p, ethernet.Broadcast)
		}
	}
	f.tell()
}

func (f *fake) follow(holder string, epoch uint64) {
	f.holder, f.epoch, f.changed = holder, epoch, time.Now()
}

func (f *fake) tell() {
	b, _ := json.Marshal(beacon{f.name, f.holder, f.epoch, time.Now()})
	for _, p := range f.conf.Raft.Peers {
		if p.Name != f.name {
			_, _ = f.beacons.WriteToUDPAddrPort(b, netip.MustParseAddrPort(p.Address))
		}
	}
}

// release lets another take over before this one ends.
func (f *fake) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.holder == f.name {
		f.holder = ""
		f.tell()
	}
}

// mayTake: there is no holder, a majority has been heard for a while, and this is the first of it.
func (f *fake) mayTake() bool {
	if f.live() || time.Since(f.lonely) < 300*time.Millisecond || f.bad == "stubborn" && f.epoch > 0 {
		return false
	}
	for _, p := range f.conf.Raft.Peers {
		if p.Name == f.name {
			return true
		}
		if f.since(p.Name) < 100*time.Millisecond {
			return false
		}
	}
	return false
}

// overLate is how long a holder is waited for that is not heard: longer than the 90 ms after which it is no longer acknowledged, by
// what a process may be late on a busy machine.
const overLate = 250 * time.Millisecond

// live says whether this node may not follow another holder.
func (f *fake) live() bool {
	if f.holder == f.name {
		return f.acknowledged() || time.Since(f.changed) < overLate
	}
	return f.since(f.holder) < overLate
}

func (f *fake) since(peer string) time.Duration { return time.Since(f.heard[peer]) }

func (f *fake) acknowledged() bool {
	return f.majority(func(peer string) bool { return f.named[peer] == f.name })
}

// majority counts this node and the peers that were heard and pass.
func (f *fake) majority(pass func(peer string) bool) bool {
	n := 1
	for peer := range f.heard {
		if f.since(peer) < 90*time.Millisecond && pass(peer) {
			n++
		}
	}
	return n > len(f.conf.Raft.Peers)/2
}

func (f *fake) hear() {
	buf := make([]byte, 512)
	for {
		n, _, err := f.beacons.ReadFromUDPAddrPort(buf)
		var b beacon
		if err != nil || json.Unmarshal(buf[:n], &b) != nil {
			continue
		}
		f.mu.Lock()
		f.heard[b.From], f.named[b.From] = b.Sent, b.Holder
		if b.From == f.holder && b.Holder == "" {
			f.holder = ""
		}
		if !f.live() && b.Holder != "" && (b.Epoch > f.epoch || b.From == b.Holder) && b.Holder != f.name {
			f.follow(b.Holder, b.Epoch)
		}
		f.mu.Unlock()
	}
}

func (f *fake) answer() {
	for {
		p, _, err := f.arp.Read()
		if err != nil || p.Operation != arp.OperationRequest || p.TargetIP != f.addr() || p.SenderIP == f.addr() {
			continue
		}
		f.mu.Lock()
		greedy := f.bad == "greedy" && f.epoch > 1 && time.Since(f.changed) < 200*time.Millisecond
		if f.holder == f.name && f.acknowledged() || greedy {
			_ = f.arp.Reply(p, f.mac, f.addr())
		}
		f.mu.Unlock()
	}
}

func (f *fake) addr() netip.Addr { return netip.MustParseAddr(f.conf.Addresses[0].Address) }

func (f *fake) status(w http.ResponseWriter, _ *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ready := f.majority(func(string) bool { return true })
	_, _ = fmt.Fprintf(w, `{"ready": %t, "claims": [{"holder": %q, "epoch": %d}]}`, ready, f.holder, f.epoch)
}
