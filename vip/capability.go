package vip

import (
	"golang.org/x/sys/unix"
)

// CheckCapabilities returns the names of those capabilities that Pintle needs on a node that claims addresses and that
// the calling thread does not have in its effective set: CAP_NET_ADMIN for addresses, mute and nftables, CAP_NET_RAW for
// ARP and NDP frames. It returns nil when nothing is missing.
func CheckCapabilities() []string {
	var sets [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &sets[0]); err != nil {
		sets = [2]unix.CapUserData{} // unknown counts as missing
	}
	return missing(sets[0].Effective)
}

func missing(effective uint32) []string {
	var names []string
	for _, c := range []struct {
		bit  int
		name string
	}{{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_NET_RAW, "CAP_NET_RAW"}} {
		if effective&(1<<c.bit) == 0 {
			names = append(names, c.name)
		}
	}
	return names
}
