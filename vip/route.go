package vip

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// route is one rtnetlink socket. It stays in the network namespace in which it was dialled, whatever thread uses it
// later. A request holds the socket until its answer comes, which may take seconds when others hold RTNL: goroutines
// that must not wait for each other dial their own.
type route struct{ sockets map[int]*nl.SocketHandle }

// answerTimeout bounds one request. An answer that comes later is skipped by its sequence number.
const answerTimeout = time.Minute

// dialRoute opens a socket in the network namespace of the calling thread.
func dialRoute() (*route, error) {
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	timeout := unix.NsecToTimeval(int64(answerTimeout))
	for _, err := range []error{s.SetSendTimeout(&timeout), s.SetReceiveTimeout(&timeout), s.SetExtAck(true)} {
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("set up rtnetlink socket: %w", err)
		}
	}
	return &route{map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}}, nil
}

func (r *route) close() {
	for _, s := range r.sockets {
		s.Close()
	}
}

// do sends a request that is answered by an acknowledgement.
func (r *route) do(kind, flags int, parts ...nl.NetlinkRequestData) error {
	_, err := r.request(kind, flags|unix.NLM_F_ACK, parts).Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// dump returns the answers of one kind, and asks again when the kernel says that something changed meanwhile.
func (r *route) dump(kind int, answer uint16, parts ...nl.NetlinkRequestData) ([][]byte, error) {
	const tries = 5
	var err error
	for range tries {
		var msgs [][]byte
		msgs, err = r.request(kind, unix.NLM_F_DUMP, parts).Execute(unix.NETLINK_ROUTE, answer)
		if !errors.Is(err, nl.ErrDumpInterrupted) {
			return msgs, err
		}
	}
	return nil, err
}

func (r *route) request(kind, flags int, parts []nl.NetlinkRequestData) *nl.NetlinkRequest {
	req := &nl.NetlinkRequest{Sockets: r.sockets}
	req.NlMsghdr = unix.NlMsghdr{Len: unix.SizeofNlMsghdr, Type: uint16(kind), Flags: uint16(flags) | unix.NLM_F_REQUEST}
	for _, p := range parts {
		req.AddData(p)
	}
	return req
}

// events is a subscription to changes of links and addresses.
type events struct{ sock *nl.NetlinkSocket }

// subscribe opens a subscription in the network namespace of the calling thread. Events wait in it until run.
func subscribe() (*events, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return nil, fmt.Errorf("subscribe to links and addresses: %w", err)
	}
	return &events{s}, nil
}

// run pokes for each change until the subscription is closed. When the kernel lost events (ENOBUFS), both are poked:
// receivers look at the whole state, so a lost event costs nothing.
func (e *events) run(links, addrs poke) error {
	for {
		msgs, _, err := e.sock.Receive()
		if errors.Is(err, unix.ENOBUFS) {
			links.poke()
			addrs.poke()
			continue
		}
		if err != nil {
			return fmt.Errorf("receive link and address events: %w", err)
		}
		for _, m := range msgs {
			switch m.Header.Type {
			case unix.RTM_NEWLINK, unix.RTM_DELLINK:
				links.poke()
			case unix.RTM_NEWADDR, unix.RTM_DELADDR:
				addrs.poke()
			}
		}
	}
}

func (e *events) close() { e.sock.Close() }

// poke tells a receiver that something changed since it looked last.
type poke chan struct{}

func newPoke() poke { return make(poke, 1) }

func (p poke) poke() {
	select {
	case p <- struct{}{}:
	default: // it will look anyway
	}
}
