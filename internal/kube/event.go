package kube

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

const (
	maxEvents   = 16          // that wait to be sent; further ones are dropped
	maxSeen     = 64          // strangers and routers that are told apart
	strangerGap = time.Minute // between two events about one of them
)

// RecorderConfig configures a [Recorder].
type RecorderConfig struct {
	Node            string
	Namespace, Name string // of the Lease object that the events are about
	Creds           *rest.Config
	Servers         func() []string // base URLs of API servers, the best one first
	Log             *slog.Logger
}

// A Recorder tells of a node's doings by events about the Lease object, as well as
// it can: nothing waits for it, and what cannot be sent is dropped.
type Recorder struct {
	cfg   RecorderConfig
	log   *slog.Logger
	api   *api
	queue chan corev1.Event

	mu   sync.Mutex           // guards seen
	seen map[string]*stranger // by hardware address; and routers
}

// A stranger is a station that claims an address and is no peer.
type stranger struct {
	told   time.Time
	claims uint64 // since then
}

// NewRecorder returns a Recorder whose Run is to be called.
func NewRecorder(cfg RecorderConfig) (*Recorder, error) {
	a, err := newAPI(cfg.Creds)
	if err != nil {
		return nil, err
	}
	r := &Recorder{cfg: cfg, log: cfg.Log, api: a, queue: make(chan corev1.Event, maxEvents), seen: map[string]*stranger{}}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	return r, nil
}

// TookOver tells that this node holds now. It does not block.
func (r *Recorder) TookOver(epoch uint64, from string) {
	text := fmt.Sprintf("%s holds the address now, epoch %d", r.cfg.Node, epoch)
	if from != "" && from != r.cfg.Node {
		text += ", after " + from
	}
	r.put(corev1.EventTypeNormal, "TookOver", text, 1)
}

// Router tells that the BGP session with a router is up, or why it no longer is: at
// once, and then at most once a minute for each. It does not block.
func (r *Recorder) Router(name string, up bool, why string) {
	n := r.count(fmt.Sprint("router ", name, up), 1, time.Now())
	switch {
	case n == 0:
	case up:
		r.put(corev1.EventTypeNormal, "RouterUp", fmt.Sprintf("%s has a BGP session with %s", r.cfg.Node, name), n)
	default:
		r.put(corev1.EventTypeWarning, "RouterDown", fmt.Sprintf("%s has no BGP session with %s: %s", r.cfg.Node, name, why), n)
	}
}

// Stranger tells that a station which is no peer claims an address: at once, and
// then at most once a minute for each. It does not block.
func (r *Recorder) Stranger(addr netip.Addr, link, mac string, claims uint64) {
	n := r.count(mac, claims, time.Now())
	if n == 0 {
		return
	}
	r.put(corev1.EventTypeWarning, "AddressClaimed",
		fmt.Sprintf("%s is claimed by %s, which is none of this cluster's nodes, on %s of %s", addr, mac, link, r.cfg.Node), n)
}

// count takes claims, or what else happens in a row, and returns how many there are
// to tell of now.
func (r *Recorder) count(mac string, claims uint64, now time.Time) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.seen[mac]
	if s == nil {
		r.forget(now)
		if len(r.seen) >= maxSeen {
			return 0
		}
		s = &stranger{}
		r.seen[mac] = s
	}
	s.claims += claims
	if now.Sub(s.told) < strangerGap {
		return 0
	}
	n := s.claims
	s.told, s.claims = now, 0
	return n
}

// forget makes room. The caller holds mu.
func (r *Recorder) forget(now time.Time) {
	for mac, s := range r.seen {
		if now.Sub(s.told) >= strangerGap {
			delete(r.seen, mac)
		}
	}
}

// put queues an event.
func (r *Recorder) put(kind, reason, message string, count uint64) {
	now := metav1.Now()
	e := corev1.Event{
		TypeMeta:       metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta:     metav1.ObjectMeta{GenerateName: r.cfg.Name + ".", Namespace: r.cfg.Namespace},
		InvolvedObject: corev1.ObjectReference{APIVersion: "coordination.k8s.io/v1", Kind: "Lease", Namespace: r.cfg.Namespace, Name: r.cfg.Name},
		Type:           kind, Reason: reason, Message: message, Count: int32(min(count, 1<<30)),
		FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: "pintle", Host: r.cfg.Node}, ReportingController: "pintle.dev/pintle", ReportingInstance: r.cfg.Node,
	}
	select {
	case r.queue <- e:
	default:
		r.log.Debug("dropped an event: too many wait to be sent", "reason", reason)
	}
}

// Run sends events until ctx ends.
func (r *Recorder) Run(ctx context.Context) error {
	defer r.api.close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-r.queue:
			if err := r.send(ctx, &e); err != nil && ctx.Err() == nil {
				r.log.Debug("cannot send an event", "reason", e.Reason, "err", err)
			}
		}
	}
}

// send tries one server after the other. One that answers has the last word.
func (r *Recorder) send(ctx context.Context, e *corev1.Event) (err error) {
	path := "/api/v1/namespaces/" + r.cfg.Namespace + "/events"
	for _, server := range r.cfg.Servers() {
		_, err = r.api.do(ctx, http.MethodPost, server, path, e, nil)
		if err == nil || answered(err) && !answered(err, http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusTooManyRequests) {
			break
		}
	}
	return err
}
