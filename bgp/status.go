package bgp

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pintle-lb/pintle/bgp/bfd"
)

// enter is a step of the way to a session.
func (p *peer) enter(state State, why string) {
	p.mu.Lock()
	if last := p.status.LastError; last != "" && why != last {
		why += "; the last time: " + last
	}
	different := p.status.State != state || p.status.Why != why
	p.become(state, why)
	p.mu.Unlock()
	if different {
		p.changed()
	}
}

// become wants mu held.
func (p *peer) become(state State, why string) {
	if p.status.State != state {
		p.status.State, p.status.Since = state, time.Now()
	}
	p.status.Why = why
}

// up is told by the relay that both sides hold the session for established.
func (p *peer) up(e endpoint, a agreement) {
	p.mu.Lock()
	p.become(Established, "")
	p.status.AS, p.status.RouterID, p.status.Hold, p.status.Families = a.remoteAS, a.remoteID, a.hold, a.families
	p.status.Local = e.local.WithZone("")
	p.warned = ""
	p.mu.Unlock()
	if p.found != nil {
		p.found.quiet.Store(true)
	}
	p.log.Info("bgp session is up", "router", e.remote, "as", a.remoteAS, "local", e.local, "hold", a.hold, "families", fmt.Sprint(a.families))
	p.changed()
}

// over says that the peer has come to its end, on purpose.
func (p *peer) over(err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ending {
		return false
	}
	if p.status.State == Established {
		p.log.Info("bgp session has ended", "why", err)
	}
	p.become(Idle, "ended")
	return true
}

// failed notes why an attempt or a session ended, and says how long to wait.
func (p *peer) failed(wasUp bool, err error) time.Duration {
	if err == nil || errors.Is(err, context.Canceled) {
		return 0
	}
	p.mu.Lock()
	why := err.Error()
	p.tries++
	retry := jittered(min(p.cfg.retry(), firstRetry<<min(p.tries-1, 16)))
	p.status.LastError, p.status.LastAt = why, time.Now()
	var c *closed
	if errors.As(err, &c) && c.malformed {
		p.status.Malformed++
	}
	if p.cfg.Passive { // it is the router's pause that counts
		retry = min(retry, jittered(soonAgain))
	}
	if wasUp {
		p.tries, retry = 0, jittered(soonAgain)
		p.status.Flaps++
		p.status.Hold, p.status.Families = 0, nil
	}
	state := Waiting
	if p.status.State == Idle { // nothing was tried, which costs nobody anything
		state, retry = Idle, min(retry, jittered(soonAgain))
	}
	p.become(state, why)
	// A router that has just started, or has just lost us, may refuse a time or two.
	again := p.warned == why || p.tries <= 2
	if !again {
		p.warned = why
	}
	p.mu.Unlock()
	p.logFailure(wasUp, again, why, retry)
	p.changed()
	return retry
}

func (p *peer) logFailure(wasUp, again bool, why string, retry time.Duration) {
	if p.found != nil {
		p.found.quiet.Store(false)
	}
	switch {
	case wasUp:
		p.log.Info("bgp session is down", "why", why, "retry", retry.Round(time.Millisecond))
	case again:
		p.log.Debug("bgp session does not come up", "why", why, "retry", retry.Round(time.Millisecond))
	default:
		p.log.Warn("bgp session does not come up", "why", why, "retry", retry.Round(time.Millisecond))
	}
}

// manyRoutes is how many routes of a router are worth a warning: it wastes both sides' time.
const manyRoutes = 1000

// dropped is told by the relay of the routes that nobody wants.
func (p *peer) dropped(routes int) {
	p.mu.Lock()
	before := p.status.Dropped
	p.status.Dropped += uint64(routes)
	warn := before < manyRoutes && p.status.Dropped >= manyRoutes
	p.mu.Unlock()
	if warn {
		p.log.Warn("the router sends routes, which are dropped: have it send none, or a default route", "routes", manyRoutes)
	}
}

// report is what is true of the peer.
func (p *peer) report(b *bfd.Status) PeerStatus {
	p.mu.Lock()
	s, out := p.session, p.status
	p.mu.Unlock()
	out.BFD = b
	if s == nil || out.State != Established {
		return out
	}
	out.Advertised, out.Withheld = s.advertised()
	out.Detection = out.Hold
	if b != nil && b.State == bfd.Up && b.Detected > 0 {
		out.Detection = min(out.Detection, b.Detected)
	}
	out.Why = withheldWhy(out.Withheld)
	return out
}

func withheldWhy(w []Withheld) string {
	switch len(w) {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("%s is withheld: %s", w[0].Prefix, w[0].Why)
	}
	return fmt.Sprintf("%d routes are withheld, %s because %s", len(w), w[0].Prefix, w[0].Why)
}

// bfdPeer is the session that watches the router; false while there is none, or it is not known where the router is.
func (p *peer) bfdPeer() (bfd.Peer, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cfg.BFD == nil || !p.at.remote.IsValid() || p.ending {
		return bfd.Peer{}, false
	}
	out := p.cfg.BFD.peer(p.name, p.cfg, p.at)
	if out.MultihopTTL == 0 {
		out.Link = p.link
	}
	return out, true
}
