package leader

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"
)

// RollConfig configures a [Roll].
type RollConfig struct {
	Node      string        // this node, which never fences itself
	Namespace string        // of the Leases
	Prefix    string        // the Lease of a node is PREFIX + NODE: KubeConfig.Prefix of its elector
	Duration  time.Duration // T of this node

	Rest     *rest.Config // as in KubeConfig
	Servers  []string
	Discover bool
	Avoid    []netip.Addr

	Version string
	Clock   Clock // default Boot
	Log     *slog.Logger

	open func(url string) (leaseAPI, error) // replaces HTTPS in tests
}

// A RollMember is what a [Roll] knows of one node.
type RollMember struct {
	Node string
	// Epoch is that of the node's Lease, of its holder or of a fence: the node
	// claims nothing any more in a lower one. It is 0 for a node that has no Lease and
	// goes back only when a Lease was deleted or put back from a backup.
	Epoch  uint64
	Alive  bool // a process holds the Lease in Epoch, and its T has not run out as seen from here
	Note   string
	MACs   []string
	Fenced bool // another node raised Epoch, and nobody holds since
}

func (m RollMember) same(o RollMember) bool {
	return m.Node == o.Node && m.Epoch == o.Epoch && m.Alive == o.Alive && m.Note == o.Note && m.Fenced == o.Fenced && slices.Equal(m.MACs, o.MACs)
}

// A Roll follows the Leases of the nodes of a group, each held by one node's
// [Kube] elector, and fences the nodes whose holder is gone: it raises the epoch
// of such a Lease by the rule of the elector, so that whatever names the node in a
// lower epoch may be given to another. It is safe for concurrent use.
type Roll struct {
	cfg     RollConfig
	log     *slog.Logger
	group   string
	process string
	servers *apiServers
	kick    chan struct{} // something to look at
	rewatch chan bool     // the watch may be dead; true: it is

	mu     sync.Mutex // guards what follows
	wards  map[string]*ward
	macs   map[string]string
	lag    time.Duration
	seq    uint64
	listed bool    // all Leases were read once
	heard  Instant // when the API last answered
	back   Instant // when it last did after it had not for T/2
	report func(RollMember)
	counts struct{ reads, writes, watches, fences uint64 }

	readFault, writeFault, watchFault string // why the last call of a kind failed; "" when it did not
}

// A RollStatus is what a [Roll] knows of itself.
type RollStatus struct {
	Object   string        `json:"object"` // namespace/PREFIX*
	Duration time.Duration `json:"duration"`
	Members  int           `json:"members"`
	Alive    int           `json:"alive"`
	Server   string        `json:"server"`          // that answered last
	Error    string        `json:"error,omitempty"` // why this node cannot follow or fence the others now
	Servers  []KubeServer  `json:"servers"`
	Reads    uint64        `json:"reads"`
	Writes   uint64        `json:"writes"`
	Watches  uint64        `json:"watches"`
	Fences   uint64        `json:"fences"` // of other nodes, by this one
}

// OpenRoll checks the configuration. It starts nothing and asks nobody.
func OpenRoll(cfg RollConfig) (*Roll, error) {
	if cfg.Duration < MinLease || cfg.Duration > MaxLease {
		return nil, fmt.Errorf("lease of %v: want %v to %v", cfg.Duration, MinLease, MaxLease)
	}
	if group(cfg.Prefix) == "" {
		return nil, fmt.Errorf("prefix %q of Leases: want a name", cfg.Prefix)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = Boot
	}
	if cfg.open == nil {
		cfg.open = func(url string) (leaseAPI, error) { return openAPI(cfg.Rest, url, cfg.Namespace) }
	}
	r := &Roll{cfg: cfg, log: cfg.Log, group: group(cfg.Prefix), process: nonce(), kick: make(chan struct{}, 1), rewatch: make(chan bool, 1),
		wards: map[string]*ward{}, macs: map[string]string{}, servers: &apiServers{open: cfg.open, avoid: cfg.Avoid}}
	if err := r.servers.add(cfg.Servers); err != nil {
		return nil, err
	}
	if len(r.servers.list) == 0 {
		return nil, fmt.Errorf("no API server to ask: %s: name one by an address of its own, not by the shared address", strings.Join(cfg.Servers, ", "))
	}
	return r, nil
}

// Need says which nodes are named by records, and in which epoch at most. Such a
// node is fenced as soon as it is due, if its Lease has that epoch or a lower one,
// or is gone. It replaces what was needed before, and does not block.
func (r *Roll) Need(epochs map[string]uint64) {
	r.mu.Lock()
	for _, w := range r.wards {
		w.needed, w.need = false, 0
	}
	for node, epoch := range epochs {
		w := r.ward(node)
		w.needed, w.need = true, min(epoch, maxEpoch/2)
	}
	r.mu.Unlock()
	r.wake()
}

// Lag says how much later than due this node fences: 0, the default, for whoever
// coordinates, more for those who stand by.
func (r *Roll) Lag(d time.Duration) {
	r.mu.Lock()
	was := r.lag
	r.lag = max(d, 0)
	r.mu.Unlock()
	if d != was {
		r.wake()
	}
}

// PeerOf names the node that said it claims with a hardware address, "" for
// a stranger's.
func (r *Roll) PeerOf(mac string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.macs[strings.ToLower(mac)]
}

// Members are the nodes that have a Lease, as they are now, by name.
func (r *Roll) Members() []RollMember {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []RollMember
	now := r.cfg.Clock()
	for _, node := range slices.Sorted(maps.Keys(r.wards)) {
		if w := r.wards[node]; w.cur != nil {
			out = append(out, w.member(now))
		}
	}
	return out
}

// Status is what is known now. It does not block on the network.
func (r *Roll) Status() RollStatus {
	server, servers := r.servers.status()
	members := r.Members()
	r.mu.Lock()
	defer r.mu.Unlock()
	st := RollStatus{Object: r.object(), Duration: r.cfg.Duration, Members: len(members), Server: server, Servers: servers, Error: r.fault(),
		Reads: r.counts.reads, Writes: r.counts.writes, Watches: r.counts.watches, Fences: r.counts.fences}
	for _, m := range members {
		if m.Alive {
			st.Alive++
		}
	}
	if st.Error == "" && !r.listed {
		st.Error = "the Leases have not been read yet"
	}
	return st
}

func (r *Roll) object() string { return r.cfg.Namespace + "/" + r.cfg.Prefix + "*" }

// ward is that of a node. The caller holds mu.
func (r *Roll) ward(node string) *ward {
	w := r.wards[node]
	if w == nil {
		w = &ward{view: view{t: r.cfg.Duration}, node: node, self: node == r.cfg.Node, told: RollMember{Node: node}}
		r.wards[node] = w
	}
	return w
}

func (r *Roll) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// publish reports what is news. Reports are in order.
func (r *Roll) publish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.report == nil {
		return
	}
	now := r.cfg.Clock()
	for node, w := range r.wards {
		m := w.member(now)
		if (w.missing || w.cur == nil) && !m.Alive && !w.needed {
			delete(r.wards, node)
			m = RollMember{Node: node}
		}
		if !m.same(w.told) {
			w.told = m
			r.report(m)
		}
	}
}

// contact notes that the API answered. The caller holds mu.
func (r *Roll) contact(now Instant) {
	if r.heard == 0 || now.Sub(r.heard) > r.cfg.Duration/2 {
		r.back = now
	}
	r.heard = now
}

// saw takes a state of the Lease of a node.
func (r *Roll) saw(node string, s sighting, read Instant) {
	r.mu.Lock()
	now := r.cfg.Clock()
	r.contact(now)
	r.ward(node).see(now, s, read)
	for _, m := range s.record.MACs {
		r.macs[strings.ToLower(m)] = node
	}
	r.mu.Unlock()
	r.publish()
	r.wake()
}

// lost takes that the Lease of a node is not among the others any more.
func (r *Roll) lost(node string) {
	r.mu.Lock()
	r.contact(r.cfg.Clock())
	if w := r.wards[node]; w != nil {
		w.missing, w.doubt = true, true
	}
	r.mu.Unlock()
	r.publish()
	r.wake()
}

// failed notes why the last call of a kind failed, nil when it did not, and says
// once that this node can or cannot follow the others.
func (r *Roll) failed(field *string, verb string, err error) {
	text := fault(verb, r.object(), err)
	r.mu.Lock()
	was := r.fault()
	*field = text
	now := r.fault()
	r.mu.Unlock()
	switch {
	case now == "" && was != "":
		r.log.Info("follows the Leases of the nodes again")
	case now != "" && was == "" && refused(err):
		r.log.Error("cannot follow or fence other nodes", "err", now)
	case now != "" && was == "":
		r.log.Warn("cannot follow or fence other nodes now", "err", now)
	}
}

// fault is why this node cannot follow or fence; "" when it can. The caller holds mu.
func (r *Roll) fault() string { return cmp.Or(r.writeFault, r.readFault, r.watchFault) }
