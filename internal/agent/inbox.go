package agent

import (
	"net/netip"
	"sync"
	"time"

	"github.com/pintle-lb/pintle/leader"
)

// An inbox takes news for the loop: the newest value of each kind, never
// blocking the sender, never losing the newest.
type inbox struct {
	wake chan struct{}

	mu    sync.Mutex // guards items
	items map[any]func(*Agent)
}

func newInbox() *inbox {
	return &inbox{wake: make(chan struct{}, 1), items: map[any]func(*Agent){}}
}

// put replaces the news of one kind.
func (b *inbox) put(kind any, learn func(*Agent)) {
	b.mu.Lock()
	b.items[kind] = learn
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *inbox) take() map[any]func(*Agent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	items := b.items
	b.items = map[any]func(*Agent){}
	return items
}

// The kinds of news.
type (
	seatNews  string
	checkNews string
	heardNews netip.Addr
	partNews  string // a setter's report
)

const (
	linkNews  partNews = "links"
	sockNews  partNews = "sockets"
	drainNews partNews = "drain"
	moveNews  partNews = "move"
	addrNews  partNews = "addresses"
	targNews  partNews = "targets"
	routeNews partNews = "routes"
	tableNews partNews = "table"
	watchNews partNews = "detection"
)

// Seat takes an elector's report.
func (a *Agent) Seat(seat string, t leader.Term) {
	a.in.put(seatNews(seat), func(a *Agent) { a.learnTerm(seat, t) })
}

// Check takes the verdict of a health check.
func (a *Agent) Check(name string, healthy bool, why string) {
	a.in.put(checkNews(name), func(a *Agent) { a.learnCheck(name, healthy, why) })
}

// Links takes which announcing links are up and have a carrier.
func (a *Agent) Links(up map[string]bool) {
	a.in.put(linkNews, func(a *Agent) { a.learnLinks(up) })
}

// Heard takes that another station claimed an address.
func (a *Agent) Heard(addr netip.Addr) {
	now := a.cfg.Clock()
	a.in.put(heardNews(addr), func(a *Agent) { a.facts.Heard[addr] = now })
}

// Disturbed takes that others changed what the binder had.
func (a *Agent) Disturbed() {
	a.in.put(partNews("disturbed"), func(a *Agent) { a.bound.again(); a.table.again() })
}

// Detection takes how long routers may go on sending packets to a node that froze,
// as far as it is known from their sessions with this one. It counts where it is
// longer than what was configured, and only if anything was.
func (a *Agent) Detection(d time.Duration) {
	a.in.put(watchNews, func(a *Agent) {
		if c := a.cfg.Routing.Detection; c > 0 {
			a.facts.Routing.Detection = max(c, d)
		}
	})
}

// Drain makes the node give up everything. Drained is closed when it has.
func (a *Agent) Drain() {
	a.in.put(drainNews, func(a *Agent) { a.facts.Draining, a.facts.DrainedAt = true, a.facts.Now })
}

// Drained is closed when the node, draining, holds nothing any more.
func (a *Agent) Drained() <-chan struct{} { return a.drained }
