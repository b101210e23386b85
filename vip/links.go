package vip

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// A Link is a network interface as the kernel has it.
type Link struct {
	Name    string
	Index   int
	MAC     net.HardwareAddr // nil where the link has none
	Up      bool             // switched on (IFF_UP)
	Carrier bool             // the wire works (IFF_LOWER_UP)
	ARP     bool             // the kernel answers ARP requests that come in here: not lo, not NOARP, IPv4 enabled
	Addrs   []netip.Prefix
}

// Links returns the links of the calling thread's network namespace in the order of their index. It waits while others
// hold RTNL, which may be seconds.
func Links() ([]Link, error) {
	r, err := dialRoute()
	if err != nil {
		return nil, err
	}
	defer r.close()
	return r.linksWithAddresses()
}

// WatchLinks reports all links of the calling thread's network namespace now and after each change of a link or an
// address, until ctx ends; then it returns nil. Changes that come together are reported together. report is called from
// one goroutine, may block, and owns what it gets. An error means that the kernel refused: try again later.
//
// The kernel may take up to a second to tell that a carrier was lost (linkwatch).
func WatchLinks(ctx context.Context, report func([]Link)) error {
	r, err := dialRoute()
	if err != nil {
		return err
	}
	defer r.close()
	ev, err := subscribe()
	if err != nil {
		return err
	}
	changed := newPoke()
	changed.poke()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return ev.follow(ctx, changed, changed) })
	g.Go(func() error { return r.reportLinks(ctx, changed, report) })
	return g.Wait()
}

// follow runs the subscription until ctx ends, and then returns nil.
func (e *events) follow(ctx context.Context, links, addrs poke) error {
	stop := context.AfterFunc(ctx, e.close)
	defer stop()
	if err := e.run(links, addrs); ctx.Err() == nil {
		e.close()
		return err
	}
	return nil
}

// settle is how long changes are gathered before they are looked at.
const settle = 2 * time.Millisecond

func (r *route) reportLinks(ctx context.Context, changed poke, report func([]Link)) error {
	var last []Link
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		if !pause(ctx, settle) {
			return nil
		}
		links, err := r.linksWithAddresses()
		if err != nil {
			return err
		}
		if last == nil || !slices.EqualFunc(last, links, equalLink) {
			last = links
			report(cloneLinks(links))
		}
	}
}

// pause waits, and reports whether ctx still runs.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func equalLink(a, b Link) bool {
	return a.Name == b.Name && a.Index == b.Index && bytes.Equal(a.MAC, b.MAC) && a.Up == b.Up &&
		a.Carrier == b.Carrier && a.ARP == b.ARP && slices.Equal(a.Addrs, b.Addrs)
}

func cloneLinks(links []Link) []Link {
	out := slices.Clone(links)
	for i := range out {
		out[i].Addrs = slices.Clone(out[i].Addrs)
	}
	return out
}

func (r *route) linksWithAddresses() ([]Link, error) {
	ls, err := r.links()
	if err != nil {
		return nil, err
	}
	addrs, err := r.addresses()
	if err != nil {
		return nil, err
	}
	out := make([]Link, 0, len(ls))
	for _, l := range ls {
		for _, a := range addrs {
			if a.link == l.Index {
				l.Addrs = append(l.Addrs, a.Prefix)
			}
		}
		slices.SortFunc(l.Addrs, comparePrefix)
		out = append(out, l.Link)
	}
	return out, nil
}

// link is a Link with what the kernel does about ARP there.
type link struct {
	Link
	arp arpConf
}

// links returns every link without its addresses.
func (r *route) links() ([]link, error) {
	const skipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS
	mask := binary.NativeEndian.AppendUint32(nil, skipStats)
	msgs, err := r.dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, nl.NewIfInfomsg(unix.AF_UNSPEC),
		nl.NewRtAttr(unix.IFLA_EXT_MASK, mask))
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var all []link
	for _, m := range msgs {
		if l, ok := parseLink(m); ok {
			all = append(all, l)
		}
	}
	slices.SortFunc(all, func(a, b link) int { return a.Index - b.Index })
	return all, nil
}

func parseLink(m []byte) (link, bool) {
	if len(m) < unix.SizeofIfInfomsg {
		return link{}, false
	}
	msg := nl.DeserializeIfInfomsg(m)
	attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfInfomsg:])
	if err != nil {
		return link{}, false
	}
	var l link
	l.Index, l.Up, l.Carrier = int(msg.Index), msg.Flags&unix.IFF_UP != 0, msg.Flags&unix.IFF_LOWER_UP != 0
	inet := false
	for _, at := range attrs {
		switch at.Attr.Type {
		case unix.IFLA_IFNAME:
			l.Name = unix.ByteSliceToString(at.Value)
		case unix.IFLA_ADDRESS:
			l.MAC = net.HardwareAddr(at.Value)
		case unix.IFLA_AF_SPEC:
			l.arp, inet = parseARPConf(at.Value)
		}
	}
	l.ARP = inet && msg.Flags&(unix.IFF_LOOPBACK|unix.IFF_NOARP) == 0
	return l, l.Name != ""
}
