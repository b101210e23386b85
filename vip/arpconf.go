package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Indexes of linux/ip.h's enum of net.ipv4.conf values, as IFLA_INET_CONF numbers them.
const (
	devconfARPAnnounce = 18
	devconfARPIgnore   = 19
)

// arpConf is what the kernel does about ARP on a link, or (net.ipv4.conf.all) at least on every link: the greater value
// of the two counts.
type arpConf struct{ ignore, announce int }

// muted is the setting nearest to c in which the kernel does not answer for an address on lo (arp_ignore 1, or the
// stricter 2 and 8) and does not use one as the sender of its own requests (arp_announce 2).
func (c arpConf) muted() arpConf {
	if !ignores(c.ignore) {
		c.ignore = 1
	}
	c.announce = 2
	return c
}

// mute reports whether the kernel is mute on a link with c where net.ipv4.conf.all is all. Values that the kernel does
// not know, and arp_ignore 3, mean to answer (arp_ignore() and arp_solicit() of net/ipv4/arp.c).
func (c arpConf) mute(all arpConf) bool {
	return ignores(max(c.ignore, all.ignore)) && max(c.announce, all.announce) == 2
}

func ignores(v int) bool { return v == 1 || v == 2 || v == 8 }

// parseARPConf reads IFLA_AF_SPEC. Links without IPv4 have no such values, and answer no ARP.
func parseARPConf(spec []byte) (arpConf, bool) {
	families, err := nl.ParseRouteAttr(spec)
	if err != nil {
		return arpConf{}, false
	}
	for _, f := range families {
		if f.Attr.Type&^unix.NLA_F_NESTED != unix.AF_INET {
			continue
		}
		attrs, err := nl.ParseRouteAttr(f.Value)
		if err != nil {
			return arpConf{}, false
		}
		for _, a := range attrs {
			if a.Attr.Type == unix.IFLA_INET_CONF && len(a.Value) >= 4*devconfARPIgnore {
				value := func(id int) int { return int(int32(binary.NativeEndian.Uint32(a.Value[4*(id-1):]))) }
				return arpConf{ignore: value(devconfARPIgnore), announce: value(devconfARPAnnounce)}, true
			}
		}
	}
	return arpConf{}, false
}

// setARP sets the link's values. It needs CAP_NET_ADMIN and no write to /proc/sys, which containers may not have.
func (r *route) setARP(index int, c arpConf) error {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	conf := spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(unix.IFLA_INET_CONF, nil)
	conf.AddRtAttr(devconfARPIgnore, binary.NativeEndian.AppendUint32(nil, uint32(c.ignore)))
	conf.AddRtAttr(devconfARPAnnounce, binary.NativeEndian.AppendUint32(nil, uint32(c.announce)))
	if err := r.do(unix.RTM_SETLINK, 0, msg, spec); err != nil {
		return fmt.Errorf("set arp_ignore and arp_announce: %w", err)
	}
	return nil
}

// gone reports whether an error says that the link, or its IPv4, has gone meanwhile.
func gone(err error) bool { return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EAFNOSUPPORT) }

// allConf reads net.ipv4.conf.all of the network namespace in which it was opened: netlink does not tell these.
type allConf struct{ ignore, announce *os.File }

// openAllConf opens the files of the calling thread's network namespace. Without /proc/sys the values count as 0.
func openAllConf() allConf {
	ignore, _ := os.Open("/proc/sys/net/ipv4/conf/all/arp_ignore")
	announce, _ := os.Open("/proc/sys/net/ipv4/conf/all/arp_announce")
	return allConf{ignore, announce}
}

func (a allConf) read() arpConf {
	return arpConf{ignore: readInt(a.ignore), announce: readInt(a.announce)}
}

func (a allConf) close() {
	a.ignore.Close()
	a.announce.Close()
}

func readInt(f *os.File) int {
	if f == nil {
		return 0
	}
	b := make([]byte, 16)
	n, _ := f.ReadAt(b, 0)
	v, _ := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	return v
}
