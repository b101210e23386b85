package leader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
)

// KubeConfig configures a [Kube] elector.
type KubeConfig struct {
	Seat, Node      string
	Namespace, Name string        // of the Lease object
	Duration        time.Duration // T: a dead holder is replaced after at most this; MinLease to MaxLease
	Candidate       bool          // may hold the seat
	Rank            int           // 0 stands first when the seat is free, each further one 50 ms later

	// Prefix is set if a [Roll] follows the Lease: it is PREFIX + Node then, which
	// is the default of Name. A new epoch is then at least the second of the wall
	// clock, so that a Lease that was deleted or put back from a backup does not
	// come to an epoch again. Nothing is compared with that clock.
	Prefix string
	// Heir names a lock of this host that the process holds until it ends: whoever
	// holds it knows that all earlier processes that did are dead. If the Lease says
	// that one of them holds, this process takes the seat at once instead of
	// waiting for T, and if its own tenure ran out and nobody else had the seat since,
	// it goes on in the same epoch. Two hosts must never use one name. Only for a seat
	// for which no other node stands: see docs/safety.md. "": every process waits.
	Heir string

	Rest     *rest.Config // credentials; its Host means nothing
	Servers  []string     // base URLs of API servers, asked in this order
	Discover bool         // and after them those that EndpointSlice default/kubernetes names
	Avoid    []netip.Addr // the shared addresses: no server is asked there

	Version string // of this build, for people
	Clock   Clock  // default Boot
	Log     *slog.Logger

	// Free reports an error while someone else answers for the addresses; asked
	// before there is a first holder. nil skips it.
	Free func(context.Context) error
	// MACs are the hardware addresses this node claims with, told to the others.
	MACs func() []string
	// Move is called when another node asks this one, the holder, to hand the
	// seat to a node ("": the best one). nil refuses.
	Move func(to string) error

	open func(url string) (leaseAPI, error) // replaces HTTPS in tests
}

// Kube is an [Elector] by a Lease object of the Kubernetes API. It implements
// [Ranker] and [Mover] too. What people and old backups do to the object delays
// an election and makes no second holder; docs/safety.md says what is not covered.
type Kube struct {
	cfg     KubeConfig
	log     *slog.Logger
	servers *apiServers
	kick    chan struct{}  // something to look at
	rewatch chan bool      // the watch may be dead; true: it is
	moves   sync.WaitGroup // hand-overs that another node asked for

	mu     sync.Mutex // guards what follows
	bid    bid
	report func(string, Term)
	last   Term
	near   bool // the seat is about to be taken
	macs   map[string]string
	wish   string // ID of the last wish that was granted or refused
	counts struct{ reads, writes, watches uint64 }

	readFault, writeFault, watchFault string // why the last call of a kind failed; "" when it did not
}

// A KubeStatus is what a [Kube] elector knows of itself and its Lease.
type KubeStatus struct {
	Object   string        `json:"object"`   // namespace/name
	Duration time.Duration `json:"duration"` // T of this node
	Holder   string        `json:"holder"`   // as the object says; "" for nobody
	Epoch    uint64        `json:"epoch"`
	Version  string        `json:"version,omitempty"` // of the holder's build
	Fenced   string        `json:"fenced,omitempty"`  // the node that ended the last tenure, while nobody holds since
	Seen     time.Time     `json:"seen,omitzero"`     // when the object was last seen to change
	Server   string        `json:"server"`            // that answered last
	Error    string        `json:"error,omitempty"`   // why this node cannot take part now
	Servers  []KubeServer  `json:"servers"`
	Reads    uint64        `json:"reads"`
	Writes   uint64        `json:"writes"`
	Watches  uint64        `json:"watches"`
}

// OpenKube checks the configuration. It starts nothing and asks nobody.
func OpenKube(cfg KubeConfig) (*Kube, error) {
	if cfg.Duration < MinLease || cfg.Duration > MaxLease {
		return nil, fmt.Errorf("lease of %v: want %v to %v", cfg.Duration, MinLease, MaxLease)
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
	if cfg.Prefix != "" {
		if cfg.Name == "" {
			cfg.Name = cfg.Prefix + cfg.Node
		}
		if cfg.Name != cfg.Prefix+cfg.Node {
			return nil, fmt.Errorf("lease %q: with the prefix %q the Lease of node %s is %q", cfg.Name, cfg.Prefix, cfg.Node, cfg.Prefix+cfg.Node)
		}
	}
	k := &Kube{cfg: cfg, log: cfg.Log, kick: make(chan struct{}, 1), rewatch: make(chan bool, 1), macs: map[string]string{},
		servers: &apiServers{open: cfg.open, avoid: cfg.Avoid}}
	k.bid = bid{view: view{t: cfg.Duration}, node: cfg.Node, process: nonce(), heir: cfg.Heir, clock: cfg.Clock, rank: cfg.Rank, candidate: cfg.Candidate,
		needProbe: cfg.Free != nil, healthy: true, writes: map[uint64]written{}}
	if err := k.servers.add(cfg.Servers); err != nil {
		return nil, err
	}
	if len(k.servers.list) == 0 {
		return nil, fmt.Errorf("no API server to ask: %s: name one by an address of its own, not by the shared address", strings.Join(cfg.Servers, ", "))
	}
	return k, nil
}

// epochFloor is the least number for a new epoch of a Lease that a Roll follows.
func epochFloor(now time.Time) uint64 { return uint64(min(max(now.Unix(), 0), maxEpoch/2)) }

// Close is for symmetry with [Raft]: OpenKube opens nothing, and what Run opened
// ended with it.
func (k *Kube) Close() error { return nil }

// Set implements [Elector]. A Kube elector has one seat.
func (k *Kube) Set(want []string) {
	k.mu.Lock()
	k.bid.want(slices.Contains(want, k.cfg.Seat))
	k.mu.Unlock()
	k.publish()
	k.wake()
}

// SetHealthy implements [Ranker].
func (k *Kube) SetHealthy(healthy bool) {
	k.mu.Lock()
	if healthy != k.bid.healthy {
		k.bid.ask(k.bid.asked)
	}
	k.bid.healthy = healthy
	k.mu.Unlock()
	k.wake()
}

// maxNote is the longest note, in bytes: all of it is written with every renewal.
const maxNote = 4 << 10

// Note sets what this node tells the others while it holds, up to 4 KiB of UTF-8:
// every write as the holder carries it, and what is new is written soon, at most
// each T/20. On an error the former note stays.
func (k *Kube) Note(text string) error {
	switch {
	case len(text) > maxNote:
		return fmt.Errorf("note of %d bytes: want %d at most", len(text), maxNote)
	case !utf8.ValidString(text):
		return errors.New("note is not UTF-8")
	}
	k.mu.Lock()
	k.bid.note = text
	k.mu.Unlock()
	k.wake()
	return nil
}

// Above says that epochs up to the given one are used up: something names this
// node in it that the node does not stand by. If it holds in one of them its lease
// is over when Above returns, and it takes the seat again in a higher one.
func (k *Kube) Above(epoch uint64) {
	k.mu.Lock()
	k.bid.raise(min(epoch, maxEpoch/2))
	k.mu.Unlock()
	k.publish()
	k.wake()
}

// preferLimit is how long a candidate has to answer.
const preferLimit = 2 * time.Second

// Prefer implements [Mover]. It asks the candidates, which takes a few writes to
// the API and at most 2 s.
func (k *Kube) Prefer(successor string) error {
	if successor == k.cfg.Node {
		return fmt.Errorf("%s is this node", successor)
	}
	k.mu.Lock()
	k.bid.prefer = successor
	holds := k.bid.lease.Valid()
	if successor != "" && holds {
		k.bid.ask(true)
	}
	k.mu.Unlock()
	if successor == "" {
		return nil
	}
	if !holds {
		return errors.New("this node does not hold the seat")
	}
	k.wake()
	defer func() {
		k.mu.Lock()
		k.bid.asked = false
		k.mu.Unlock()
	}()
	var others []string
	for end := time.Now().Add(preferLimit); time.Now().Before(end) && holds; time.Sleep(5 * time.Millisecond) {
		k.mu.Lock()
		holds = k.bid.lease.Valid()
		found := k.bid.cur != nil && k.bid.mine() && k.bid.answeredAt != 0 && k.bid.answeredBy(successor)
		others = others[:0]
		for _, a := range k.bid.answers() {
			others = append(others, a.Node)
		}
		k.mu.Unlock()
		if found {
			return nil
		}
	}
	k.mu.Lock()
	k.bid.prefer = ""
	k.mu.Unlock()
	if !holds {
		return errors.New("this node lost the seat meanwhile")
	}
	if len(others) == 0 {
		return fmt.Errorf("%s does not answer: no healthy candidate does", successor)
	}
	return fmt.Errorf("%s does not answer; healthy candidates are: %s", successor, strings.Join(others, ", "))
}

// Transfer asks the holder, wherever it is, to hand the seat to a node ("": the
// best one). It returns when another node holds, or with an error when ctx ends.
func (k *Kube) Transfer(ctx context.Context, to string) error {
	k.mu.Lock()
	was, here := k.last.Holder, k.bid.lease.Valid()
	k.mu.Unlock()
	switch {
	case here && k.cfg.Move == nil:
		return errors.New("this node does not move")
	case here:
		if err := k.cfg.Move(to); err != nil {
			return err
		}
	case was == "":
		return errors.New("nobody holds the seat")
	case was == to:
		return fmt.Errorf("%s holds the seat already", to)
	default:
		k.mu.Lock()
		k.bid.wishing = &wish{To: to, ID: nonce()}
		k.mu.Unlock()
	}
	k.wake()
	for {
		k.mu.Lock()
		now := k.last.Holder
		k.mu.Unlock()
		if now != "" && now != was && (to == "" || now == to) {
			return nil
		}
		sleep(ctx, 5*time.Millisecond)
		if ctx.Err() != nil {
			k.mu.Lock()
			k.bid.wishing = nil
			k.mu.Unlock()
			return fmt.Errorf("%s did not hand over in time: its log says why", was)
		}
	}
}

// PeerOf names the node that said it claims with a hardware address, "" for
// a stranger's.
func (k *Kube) PeerOf(mac string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.macs[strings.ToLower(mac)]
}

// Status is what is known now. It does not block on the network.
func (k *Kube) Status() KubeStatus {
	server, servers := k.servers.status()
	k.mu.Lock()
	defer k.mu.Unlock()
	st := KubeStatus{Object: k.cfg.Namespace + "/" + k.cfg.Name, Duration: k.cfg.Duration, Server: server, Servers: servers, Error: k.fault(),
		Reads: k.counts.reads, Writes: k.counts.writes, Watches: k.counts.watches}
	if c := k.bid.cur; c != nil {
		st.Epoch, st.Version, st.Fenced = c.record.Epoch, c.record.Version, c.record.Fenced
		st.Seen = time.Now().Add(-k.cfg.Clock().Sub(c.at))
		if !c.record.released() {
			st.Holder = c.record.Holder
		}
	}
	return st
}

func (k *Kube) wake() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// publish reports what is true now, if it is news. Reports are in order.
func (k *Kube) publish() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.report == nil {
		return
	}
	if t := k.bid.term(k.cfg.Clock(), k.near); t != k.last {
		k.last = t
		k.report(k.cfg.Seat, t)
	}
}

// saw takes a state of the object.
func (k *Kube) saw(s sighting, read Instant) {
	k.mu.Lock()
	k.bid.see(k.cfg.Clock(), s, read)
	for _, m := range s.record.MACs {
		k.macs[strings.ToLower(m)] = s.record.Holder
	}
	for _, a := range s.record.Answers {
		for _, m := range a.MACs {
			k.macs[strings.ToLower(m)] = a.Node
		}
	}
	w := s.record.Wish
	granted := w != nil && w.ID != k.wish && k.bid.lease.Valid() && k.cfg.Move != nil
	if granted {
		k.wish = w.ID
	}
	k.mu.Unlock()
	if granted {
		k.log.Info("asked to hand over", "seat", k.cfg.Seat, "peer", w.To)
		k.moves.Go(func() { // it asks the candidates, and ends with the lease
			if err := k.cfg.Move(w.To); err != nil {
				k.log.Warn("cannot hand over as asked", "seat", k.cfg.Seat, "peer", w.To, "err", err)
			}
		})
	}
	k.publish()
	k.failed(&k.readFault, "get", nil)
	k.wake()
}

// fault says why a call failed; "" when it did not.
func fault(verb, object string, err error) string {
	switch {
	case err == nil:
		return ""
	case apierrors.IsForbidden(err):
		namespace, name, _ := strings.Cut(object, "/")
		return fmt.Sprintf("may not %s leases.coordination.k8s.io %q in namespace %s: `pintle manifest rbac` prints the Role: %v", verb, name, namespace, err)
	case apierrors.IsUnauthorized(err):
		return fmt.Sprintf("%s lease: the API server does not know this node's credentials: %v", verb, err)
	}
	return fmt.Sprintf("%s lease: %v", verb, err)
}

// failed notes why the last call of a kind failed, nil when it did not, and says
// once that this node can or cannot take part.
func (k *Kube) failed(field *string, verb string, err error) {
	text := fault(verb, k.cfg.Namespace+"/"+k.cfg.Name, err)
	k.mu.Lock()
	was := k.fault()
	*field = text
	if err == nil && field == &k.writeFault {
		k.readFault = "" // what may be written may be read
	}
	now := k.fault()
	k.mu.Unlock()
	switch {
	case now == "" && was != "":
		k.log.Info("takes part in elections again", "seat", k.cfg.Seat)
	case now != "" && was == "" && refused(err):
		k.log.Error("cannot take part in elections", "seat", k.cfg.Seat, "err", now)
	case now != "" && was == "":
		k.log.Warn("cannot take part in elections now", "seat", k.cfg.Seat, "err", now)
	}
}

// fault is why this node cannot take part; "" when it can. The caller holds mu.
func (k *Kube) fault() string {
	return cmp.Or(k.writeFault, k.readFault, k.watchFault)
}
