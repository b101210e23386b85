package hearsay

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/pintle-lb/pintle/leader"
)

// A tally is what one node has heard of all others: the rule, as a pure value that reads no clock and sends nothing.
type tally struct {
	node  string
	self  process
	spoke leader.Instant // the mark of the last round
	away  bool           // what this node says
	known bool           // that peers is the cluster
	peers map[string]*peer
}

// A peer is another node, and what it said.
type peer struct {
	Peer
	live  mark           // the newest datagram of the process that is believed: it has repeated a datagram of ours
	lived leader.Instant // when that came
	proof leader.Instant // the newest datagram of ours that such a process has repeated
	ear   mark           // the newest that was heard, of that process or of one that is yet to prove itself: repeated next
	heard leader.Instant // when that came

	away  bool           // what the live process said last,
	until leader.Instant // and until when it counts

	sendErr, hearErr error
}

// setPeers makes all, with or without this node, the cluster. What stays is not forgotten. An empty list is not a cluster: not
// known.
func (t *tally) setPeers(all []Peer) {
	had := t.peers
	t.known, t.peers = len(all) > 0, make(map[string]*peer, len(all))
	for _, p := range all {
		if p.Name == t.node {
			continue
		}
		if t.peers[p.Name] = had[p.Name]; had[p.Name] == nil {
			t.peers[p.Name] = &peer{}
		}
		t.peers[p.Name].Peer = p
	}
}

// nodes is the number of all nodes, this one included.
func (t *tally) nodes() int { return len(t.peers) + 1 }

// A letter is a datagram and the address that it goes to.
type letter struct {
	datagram
	addr netip.Addr
}

// say returns what this node says to each peer now.
func (t *tally) say(now leader.Instant) []letter {
	t.spoke = max(now, t.spoke+1)
	letters := make([]letter, 0, len(t.peers))
	for name, p := range t.peers {
		if !p.Addr.IsValid() || len(name) > maxName {
			continue
		}
		d := datagram{from: t.node, to: name, away: t.away, mark: mark{t.self, t.spoke}, echo: p.ear}
		if p.ear != (mark{}) {
			d.held = max(0, now.Sub(p.heard))
		}
		letters = append(letters, letter{d, p.Addr})
	}
	return letters
}

// find returns the peer that sent d, nil if d is nothing to this node.
func (t *tally) find(d datagram) *peer {
	if d.to != t.node {
		return nil
	}
	return t.peers[d.from]
}

// Why a datagram that has the seal is dropped.
var (
	errRepeated  = errors.New("not newer than what was heard before")
	errOtherLife = errors.New("of another process than the one that is heard")
)

// hear takes what came from p under the seal.
func (t *tally) hear(now leader.Instant, p *peer, d datagram) error {
	proven := d.echo.process == t.self && d.echo.at <= t.spoke && now < d.echo.at.Add(Fresh)
	switch {
	case d.mark.process == p.live.process:
		if d.mark.at <= p.live.at {
			return errRepeated
		}
	case proven && d.echo.at > p.proof:
		// A new process. What it repeats is younger than all that the former one has repeated, so this is no late datagram of
		// a process before that.
	case p.live != (mark{}) && now < p.lived.Add(Fresh):
		return errOtherLife // a recorded one must not make us deaf to the living
	default: // perhaps a new process: it is told that we heard it, and has to repeat that
		p.ear, p.heard = d.mark, now
		return nil
	}
	p.live, p.lived = d.mark, now
	p.ear, p.heard = d.mark, now
	p.away = d.away // also without proof: it was said after what counts still
	if proven {
		p.proof = max(p.proof, d.echo.at)
		p.until = max(p.until, said(now, d).Add(Fresh))
	}
	return nil
}

// said is an instant before which d cannot have been written: when we sent what it repeats, and the time that its sender held
// that, by a clock that may be up to 5 % faster than ours.
func said(now leader.Instant, d datagram) leader.Instant {
	held := min(d.held, Fresh)
	return min(now, d.echo.at.Add(held-held/20))
}

// says is what p says, as far as it counts.
func (p *peer) says(now leader.Instant) Says {
	switch {
	case now >= p.until:
		return Nothing
	case p.away:
		return Away
	}
	return Answers
}

// until is the instant before which a majority of all nodes, this one among them, counts as saying that the API is away, should
// nothing more be heard: 0 if there is no such majority.
func (t *tally) until() leader.Instant {
	if !t.away || !t.known {
		return 0
	}
	others := t.nodes() / 2 // that a majority needs beside this node
	if others == 0 {
		return math.MaxInt64
	}
	var ends []leader.Instant
	for _, p := range t.peers {
		if p.away {
			ends = append(ends, p.until)
		}
	}
	if len(ends) < others {
		return 0
	}
	slices.Sort(ends)
	return ends[len(ends)-others]
}

// fault is why p does not count, or cannot be told anything; nil if all is well.
func (p *peer) fault(now leader.Instant) error {
	switch {
	case !p.Addr.IsValid():
		return errors.New("its address is not known")
	case len(p.Name) > maxName:
		return fmt.Errorf("its name has %d bytes, more than %d", len(p.Name), maxName)
	case p.sendErr != nil:
		return p.sendErr
	case now < p.until:
		return nil
	case p.hearErr != nil:
		return p.hearErr
	case p.heard == 0:
		return errors.New("it was never heard")
	case now >= p.heard.Add(Fresh):
		return fmt.Errorf("it was not heard for %v", now.Sub(p.heard).Round(100*time.Millisecond))
	}
	return errors.New("it is heard, but does not hear this node")
}

// A stretch is a time without a break in which a majority says that the API is away: from since to, if nothing more is heard,
// until.
type stretch struct{ since, until leader.Instant }

// next is the stretch after a change that was noted now: the same with another end, a new one, or none.
func (s stretch) next(now, until leader.Instant) stretch {
	switch {
	case until <= now:
		return stretch{}
	case now < s.until:
		return stretch{s.since, until}
	}
	return stretch{now, until}
}
