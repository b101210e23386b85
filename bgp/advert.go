package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv6"
	"golang.org/x/sync/errgroup"
)

// discovery finds the one router on a link, and lets itself be found: it says router advertisements, from which FRR learns
// the address of an unnumbered neighbour, and hears those of others. Ours have lifetime 0: we are nobody's default router.
type discovery struct {
	link  string
	log   *slog.Logger
	quiet atomic.Bool // a session is up: nobody needs to be told

	mu    sync.Mutex // guards heard
	heard map[netip.Addr]time.Time
}

const (
	advertEvery = 2 * time.Second
	heardFor    = 30 * time.Minute // RFC 4861 6.2.1: routers may be silent for this long
	together    = 45 * time.Second // two that were heard within it are two, and not one in place of the other
)

func newDiscovery(link string, log *slog.Logger) *discovery {
	return &discovery{link: link, log: log, heard: make(map[netip.Addr]time.Time)}
}

// run goes on until ctx ends, whatever happens to the link.
func (d *discovery) run(ctx context.Context) error {
	said := ""
	for ctx.Err() == nil {
		if err := d.session(ctx); err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			d.log.Debug("router advertisements", "link", d.link, "err", err)
		}
		pause(ctx, advertEvery)
	}
	return nil
}

func (d *discovery) session(ctx context.Context) error {
	link, err := net.InterfaceByName(d.link)
	if err != nil {
		return fmt.Errorf("find link %s: %w", d.link, err)
	}
	conn, _, err := ndp.Listen(link, ndp.LinkLocal)
	if err != nil {
		return fmt.Errorf("open a socket for router advertisements on %s: %w", d.link, err)
	}
	defer conn.Close()
	if err := conn.JoinGroup(allRouters); err != nil {
		return fmt.Errorf("join %s on %s: %w", allRouters, d.link, err)
	}
	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	filter.Accept(ipv6.ICMPTypeRouterAdvertisement)
	filter.Accept(ipv6.ICMPTypeRouterSolicitation)
	if err := conn.SetICMPFilter(&filter); err != nil {
		return fmt.Errorf("filter messages on %s: %w", d.link, err)
	}
	g, ctx := errgroup.WithContext(ctx)
	asked := make(chan struct{}, 1)
	g.Go(func() error { return d.say(ctx, conn, link.HardwareAddr, asked) })
	g.Go(func() error { return d.hear(ctx, conn, asked) })
	g.Go(func() error {
		<-ctx.Done()
		return conn.SetReadDeadline(time.Now())
	})
	return g.Wait()
}

var (
	allNodes   = netip.MustParseAddr("ff02::1")
	allRouters = netip.MustParseAddr("ff02::2")
)

func (d *discovery) say(ctx context.Context, conn *ndp.Conn, mac net.HardwareAddr, asked <-chan struct{}) error {
	advert := &ndp.RouterAdvertisement{CurrentHopLimit: 64}
	if len(mac) == 6 {
		advert.Options = []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac}}
	}
	every := time.NewTicker(advertEvery)
	defer every.Stop()
	for {
		if !d.quiet.Load() {
			if err := conn.WriteTo(advert, nil, allNodes); err != nil {
				return fmt.Errorf("send a router advertisement on %s: %w", d.link, err)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-every.C:
		case <-asked:
		}
	}
}

func (d *discovery) hear(ctx context.Context, conn *ndp.Conn, asked chan<- struct{}) error {
	for {
		msg, control, from, err := conn.ReadFrom()
		if err != nil {
			return fmt.Errorf("read router advertisements on %s: %w", d.link, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch msg.(type) {
		case *ndp.RouterSolicitation:
			select {
			case asked <- struct{}{}:
			default:
			}
		case *ndp.RouterAdvertisement:
			// RFC 4861 6.1.2: what was forwarded to this link is not from a neighbour.
			if from.IsLinkLocalUnicast() && (control == nil || control.HopLimit == ndp.HopLimit) {
				d.mu.Lock()
				note(d.heard, from.WithZone(""), time.Now())
				d.mu.Unlock()
			}
		}
	}
}

// find returns the router's address and ours, with the link as their zone.
func (d *discovery) find() (router, local netip.Addr, err error) {
	link, err := net.InterfaceByName(d.link)
	if err != nil {
		return router, local, fmt.Errorf("find link %s: %w", d.link, err)
	}
	if local = linkLocal(link); !local.IsValid() {
		return router, local, fmt.Errorf("link %s has no link-local address: is IPv6 on there?", d.link)
	}
	routers := d.routers()
	if len(routers) == 0 {
		routers = neighbours(link.Index)
	}
	return oneRouter(d.link, routers, local)
}

// oneRouter refuses to choose.
func oneRouter(link string, routers []netip.Addr, ours netip.Addr) (router, local netip.Addr, err error) {
	switch len(routers) {
	case 0:
		return router, ours, fmt.Errorf("no router on link %s yet: it is found by its router advertisements or IPv6 packets "+
			"(on FRR: neighbor %s interface)", link, link)
	case 1:
		return routers[0].WithZone(link), ours, nil
	}
	slices.SortFunc(routers, netip.Addr.Compare)
	return router, ours, fmt.Errorf("%d routers on link %s, %s and %s: an unnumbered peer is the only one on its link; give its address",
		len(routers), link, routers[0], routers[1])
}

func (d *discovery) routers() []netip.Addr {
	d.mu.Lock()
	defer d.mu.Unlock()
	return present(d.heard, time.Now())
}

// maxHeard is how many are remembered; anybody on the link can make up more.
const maxHeard = 16

// note remembers a router, and forgets those of long ago, and the oldest when there are too many.
func note(heard map[netip.Addr]time.Time, router netip.Addr, now time.Time) {
	maps.DeleteFunc(heard, func(_ netip.Addr, at time.Time) bool { return now.Sub(at) >= heardFor })
	heard[router] = now
	if len(heard) > maxHeard {
		delete(heard, slices.MinFunc(slices.Collect(maps.Keys(heard)), func(a, b netip.Addr) int { return heard[a].Compare(heard[b]) }))
	}
}

// present are the routers that are on the link now, as far as one can say.
func present(heard map[netip.Addr]time.Time, now time.Time) (routers []netip.Addr) {
	var newest time.Time
	for _, at := range heard {
		if at.After(newest) {
			newest = at
		}
	}
	for a, at := range heard {
		if now.Sub(at) < heardFor && newest.Sub(at) < together {
			routers = append(routers, a)
		}
	}
	return routers
}

// forget lets a router be another one from now on, when it did not answer.
func (d *discovery) forget(router netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.heard, router.WithZone(""))
}

// neighbours are the link-local addresses that the kernel knows on the link: the routers among them, or else all.
func neighbours(link int) []netip.Addr {
	list, err := netlink.NeighList(link, netlink.FAMILY_V6)
	if err != nil {
		return nil
	}
	var all, routers []netip.Addr
	for _, n := range list {
		a, ok := netip.AddrFromSlice(n.IP)
		if !ok || !a.IsLinkLocalUnicast() || n.State&(netlink.NUD_FAILED|netlink.NUD_INCOMPLETE|netlink.NUD_NOARP) != 0 {
			continue
		}
		all = append(all, a)
		if n.Flags&netlink.NTF_ROUTER != 0 {
			routers = append(routers, a)
		}
	}
	if len(routers) > 0 {
		return routers
	}
	return all
}

// pause waits, or returns early when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
