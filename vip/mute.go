package vip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
)

// Mute is what keeps the kernel from claiming our addresses over ARP. (For an IPv6 address on lo the kernel is silent by
// itself.) Either suffices; without both nothing is bound.
type Mute struct {
	Links []MutedLink // every link that does ARP; nil as long as no IPv4 address was ever wanted, or if unknown
	Wall  bool        // the nftables table stands and has every IPv4 address that is bound or hushed
}

// MutedLink is what counts on one link: the greater of its own value and that of net.ipv4.conf.all.
type MutedLink struct {
	Name        string
	Index       int
	ARPIgnore   int
	ARPAnnounce int
	Muted       bool // the kernel neither answers for an address on lo nor asks in its name
}

// InForce reports whether at least one of the two walls is complete.
func (m Mute) InForce() bool { return m.Wall || m.linksMuted() }

func (m Mute) linksMuted() bool {
	return m.Links != nil && !slices.ContainsFunc(m.Links, func(l MutedLink) bool { return !l.Muted })
}

// muter keeps the kernel mute from the first IPv4 address on.
type muter struct {
	turn  turn // one at a time; guards all but status
	route *route
	wall  *wall
	all   allConf
	reg   *registry
	log   *slog.Logger

	on     bool            // addresses were wanted
	bound  []netip.Addr    // sorted
	hushed []netip.Addr    // sorted
	muted  map[int]arpConf // the links that were as we want them when we looked last; all of them are saved
	warned map[string]string

	status atomic.Pointer[Mute]
}

// errNotMute says that neither wall is complete.
var errNotMute = errors.New("the kernel would answer for the address")

// hold makes the kernel mute for what is bound, the whole set. With errNotMute none of them may be bound. When nothing is
// fresh and all was in order, it believes what keep found. The instance's record must list the addresses before, so that no
// other one undoes the mute meanwhile.
func (m *muter) hold(ctx context.Context, bound []netip.Addr, fresh bool) error {
	if err := m.turn.take(ctx); err != nil {
		return fmt.Errorf("mute kernel: %w", err)
	}
	defer m.turn.give()
	if !m.on && len(bound) == 0 || !fresh && slices.Equal(m.bound, bound) && m.now().InForce() {
		return nil
	}
	m.bound = slices.Clone(bound)
	return m.begin(bound)
}

// hush makes the kernel mute for those addresses too, the whole set, which need not be bound by us. The record must say so
// before.
func (m *muter) hush(ctx context.Context, addrs []netip.Addr) error {
	if err := m.turn.take(ctx); err != nil {
		return fmt.Errorf("mute kernel: %w", err)
	}
	defer m.turn.give()
	if !m.on && len(addrs) == 0 || slices.Equal(m.hushed, addrs) && m.now().InForce() {
		return nil
	}
	m.hushed = addrs
	return m.begin(addrs)
}

// begin makes the kernel mute for other addresses than before, and says whether it is for addrs.
func (m *muter) begin(addrs []netip.Addr) error {
	first := !m.on
	m.on = true
	m.wall.hold(m.bound, m.hushed)
	_, err1, err2 := m.enforce()
	st := m.now()
	if !st.InForce() && len(addrs) > 0 {
		return fmt.Errorf("mute kernel: %w: %w", errNotMute, errors.Join(err1, err2))
	}
	if first {
		m.log.Info("kernel is mute for our addresses", "links", len(st.Links), "wall", st.Wall)
	}
	return nil
}

// now is what is true; it never waits.
func (m *muter) now() Mute { return *m.status.Load() }

// keep reads everything back, sets again what others reset, and reports whether there was such a thing.
func (m *muter) keep(ctx context.Context) (reset bool) {
	if m.turn.take(ctx) != nil {
		return false
	}
	defer m.turn.give()
	if !m.on {
		return false
	}
	reset, _, _ = m.enforce() // logged there, and the status tells
	return reset
}

// stop ends the keeping, so that release can put back what was.
func (m *muter) stop() {
	_ = m.turn.take(context.Background())
	defer m.turn.give()
	m.on = false
	m.status.Store(&Mute{})
}

// enforce brings both walls up and stores the status. The errors say why the first and the second are not complete.
func (m *muter) enforce() (reset bool, links, wall error) {
	var st Mute
	lost, links := m.enforceLinks(&st)
	razed, wall := m.enforceWall(&st)
	m.status.Store(&st)
	m.warn("links", links, "links are not mute; the nftables wall has to do")
	m.warn("wall", wall, "nftables wall is not up; arp_ignore and arp_announce have to do")
	return lost || razed, links, wall
}

func (m *muter) enforceLinks(st *Mute) (reset bool, err error) {
	links, err := m.route.links()
	if err != nil {
		return false, err
	}
	links = slices.DeleteFunc(links, func(l link) bool { return !l.ARP })
	if slices.ContainsFunc(links, func(l link) bool { _, known := m.muted[l.Index]; return !known }) {
		if links, err = m.save(); err != nil {
			return false, err
		}
	}
	reset, changed, failed := m.muteLinks(links)
	if changed { // believe the kernel, not its acknowledgement
		if links, err = m.route.links(); err != nil {
			return reset, err
		}
	}
	return reset, errors.Join(failed, m.judge(links, st))
}

// muteLinks sets what is not set, and reports whether others had reset it.
func (m *muter) muteLinks(links []link) (reset, changed bool, err error) {
	var errs []error
	for _, l := range links {
		want := l.arp.muted()
		if l.arp == want {
			continue
		}
		if _, was := m.muted[l.Index]; was {
			reset = true
			m.log.Warn("mute was reset by another program, set again", "link", l.Name,
				"arp_ignore", l.arp.ignore, "arp_announce", l.arp.announce)
		}
		if err := m.route.setARP(l.Index, want); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("%s: %w", l.Name, err))
		}
		changed = true
	}
	return reset, changed, errors.Join(errs...)
}

// judge stores what is true of the links, and returns why some are not mute.
func (m *muter) judge(links []link, st *Mute) error {
	all, errs := m.all.read(), []error{}
	m.muted = map[int]arpConf{}
	st.Links = []MutedLink{}
	for _, l := range links {
		if !l.ARP {
			continue
		}
		muted := l.arp.mute(all)
		st.Links = append(st.Links, MutedLink{Name: l.Name, Index: l.Index, Muted: muted,
			ARPIgnore: max(l.arp.ignore, all.ignore), ARPAnnounce: max(l.arp.announce, all.announce)})
		if l.arp == l.arp.muted() {
			m.muted[l.Index] = l.arp
		}
		if !muted {
			errs = append(errs, fmt.Errorf("%s: arp_ignore=%d arp_announce=%d, net.ipv4.conf.all has %d and %d",
				l.Name, l.arp.ignore, l.arp.announce, all.ignore, all.announce))
		}
	}
	return errors.Join(errs...)
}

func (m *muter) enforceWall(st *Mute) (razed bool, err error) {
	razed, err = m.wall.keep()
	if razed {
		m.log.Warn("nftables wall was changed by another program, set again", "table", m.wall.table.Name)
	}
	st.Wall = err == nil
	return razed, err
}

// save writes down what the links are that no instance has muted so far, and returns the links that do ARP. It looks at
// them while it has the directory: another instance may just have put back the originals.
func (m *muter) save() (links []link, err error) {
	err = m.reg.locked(func() error {
		old, err := m.reg.originals()
		if err != nil {
			return err
		}
		all, err := m.route.links()
		if err != nil {
			return err
		}
		var keep []savedLink // links that have gone are left out
		for _, l := range all {
			i := slices.IndexFunc(old, func(s savedLink) bool { return s.is(l) })
			switch {
			case i >= 0:
				keep = append(keep, old[i])
			case l.ARP:
				keep = append(keep, savedLink{Index: l.Index, Name: l.Name, MAC: l.MAC.String(),
					Ignore: l.arp.ignore, Announce: l.arp.announce})
			}
		}
		links = slices.DeleteFunc(all, func(l link) bool { return !l.ARP })
		return m.reg.saveOriginals(keep)
	})
	return links, err
}

// restore puts the links back as they were saved. A value that somebody else has set since is left alone. Call it with
// the registry locked and keep stopped.
func (m *muter) restore() error {
	old, err := m.reg.originals()
	if err != nil || len(old) == 0 {
		return err
	}
	links, err := m.route.links()
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range links {
		i := slices.IndexFunc(old, func(s savedLink) bool { return s.is(l) })
		if i < 0 {
			continue
		}
		back := old[i].undo(l.arp)
		if back == l.arp {
			continue
		}
		if err := m.route.setARP(l.Index, back); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("restore %s: %w", l.Name, err))
		}
	}
	return errors.Join(errs...)
}

// undo returns the original of each value that still is what we set it to, and the value itself where it is not.
func (s savedLink) undo(now arpConf) arpConf {
	was := arpConf{ignore: s.Ignore, announce: s.Announce}
	ours := was.muted()
	if now.ignore == ours.ignore {
		now.ignore = was.ignore
	}
	if now.announce == ours.announce {
		now.announce = was.announce
	}
	return now
}

// warn logs what is wrong once for each change.
func (m *muter) warn(what string, err error, msg string) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && m.warned[what] != text {
		m.log.Warn(msg, "err", err)
	}
	m.warned[what] = text
}
