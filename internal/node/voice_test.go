package node

import (
	"errors"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pintle-lb/pintle/internal/config"
)

// TestFreeSeesThisMachine: nobody answers a question of one's own.
func TestFreeSeesThisMachine(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if os.Getenv("LAB") == "require" {
			t.Fatalf("make network namespace: %v", err)
		}
		t.Skipf("make network namespace: %v", err)
	}
	addr, err := netlink.ParseAddr("192.0.2.9/32")
	eth0 := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "peer0"}
	if err := errors.Join(err, netlink.LinkAdd(eth0), netlink.AddrAdd(eth0, addr)); err != nil {
		t.Fatal(err)
	}
	cfg := &config.Config{Addresses: []config.Address{{Address: netip.MustParseAddr("192.0.2.9"), Links: []string{"eth0"}}}}
	if err := Free(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "ip address del 192.0.2.9/32 dev eth0") {
		t.Errorf("free: %v", err)
	}
}
