package netlab

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// portForwarding is BR_STATE_FORWARDING of linux/if_bridge.h.
const portForwarding = 3

// addrGenNone keeps IPv6 from giving a link an address by itself.
const addrGenNone = nl.IN6_ADDR_GEN_MODE_NONE

// carrierWait is how long a link may take to come up. It needs the kernel's RTNL lock, which was seen to be held for 18 s
// on a busy machine where others made and dropped namespaces.
const carrierWait = time.Minute

// A fabric is the lab's switch: a bridge in a namespace of its own, with a port for each host. Its netlink and nftables
// sockets are open from the start, so that a fault is one message away.
type fabric struct {
	*space
	link   *netlink.Handle
	route  map[int]*nl.SocketHandle // the raw form of link's socket, for messages that netlink has no call for
	filter *filter
	bridge *netlink.Bridge
	faults faults
}

func newFabric() (*fabric, error) {
	s, err := newSpace()
	if err != nil {
		return nil, err
	}
	f := &fabric{space: s}
	if err := f.open(); err != nil {
		_ = f.close()
		return nil, err
	}
	return f, nil
}

func (f *fabric) open() error {
	var err error
	if f.link, err = netlink.NewHandleAt(netns.NsHandle(f.fd), unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	sock, err := nl.GetNetlinkSocketAt(netns.NsHandle(f.fd), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	f.route = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: sock}}
	conn, err := nftables.New(nftables.WithNetNSFd(f.fd), nftables.AsLasting())
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	naming.Lock()
	f.filter, err = newFilter(conn)
	naming.Unlock()
	if err != nil {
		return err
	}
	return f.addBridge()
}

// naming orders those who make nftables sets: the library numbers them from a global that nothing guards.
var naming sync.Mutex

// addBridge makes the bridge. It keeps quiet itself: no IPv6 of its own, no spanning tree, no snooping.
func (f *fabric) addBridge() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = "br0", net.HardwareAddr{2, 0x77, 0, 0, 2, 0}
	snooping := false
	f.bridge = &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := f.link.LinkAdd(f.bridge); err != nil {
		return fmt.Errorf("add bridge: %w", err)
	}
	return f.up(f.bridge)
}

func (f *fabric) up(link netlink.Link) error {
	// A kernel without IPv6 knows no such mode and needs none.
	_ = f.link.LinkSetIP6AddrGenMode(link, addrGenNone)
	if err := f.link.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", link.Attrs().Name, err)
	}
	return nil
}

// connect lays a cable from the host's eth0 to a new port, p1, p2, ...
func (f *fabric) connect(h *Host) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = fmt.Sprintf("p%d", h.number), portMAC(h.number)
	attrs.MasterIndex = f.bridge.Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(h.fd), PeerHardwareAddr: h.mac}
	if err := f.link.LinkAdd(veth); err != nil {
		return fmt.Errorf("add cable: %w", err)
	}
	port, err := f.link.LinkByName(attrs.Name)
	if err != nil {
		return fmt.Errorf("find port %s: %w", attrs.Name, err)
	}
	h.port = port.Attrs().Index
	return f.up(port)
}

// waitForwarding returns when the port passes frames. The kernel tells the bridge of a new carrier in the background, and
// until then refuses to let the port forward.
func (f *fabric) waitForwarding(index int) error {
	deadline := time.Now().Add(carrierWait)
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := f.forward(index)
		if !errors.Is(err, unix.ENETDOWN) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(wait)
	}
}

// forward sets the port's state.
func (f *fabric) forward(index int) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	req.Sockets = f.route
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	info.AddRtAttr(nl.IFLA_BRPORT_STATE, []byte{portForwarding})
	req.AddData(info)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("make bridge port %d forward: %w", index, err)
	}
	return nil
}

// setCarrier takes the switch's end of the cable down or up, which the host sees as its carrier.
func (f *fabric) setCarrier(index int, up bool) error {
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}
	set := f.link.LinkSetDown
	if up {
		set = f.link.LinkSetUp
	}
	if err := set(link); err != nil {
		return fmt.Errorf("set carrier of bridge port %d: %w", index, err)
	}
	return nil
}

func (f *fabric) close() error {
	if f.link != nil {
		f.link.Close()
	}
	for _, s := range f.route {
		s.Close()
	}
	if f.filter != nil {
		f.filter.close()
	}
	return f.space.close()
}
