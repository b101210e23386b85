package service

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
	"github.com/pintle-lb/pintle/leader"
)

// A Verb is what a write does.
type Verb uint8

// Writes of Address objects, and of the status of a Service.
const (
	Create Verb = iota + 1
	Update
	Delete
	Status
)

// A Write is one that was decided on.
type Write struct {
	Verb   Verb
	Mine   bool              // of this node as a holder; else of the coordinator
	Object *pintlev1.Address // as it is to be; of Delete as it is
	Record *Record
	Absent []pintlev1.ServiceRef // Services that are not there as far as is known: it is not written if one of them is
	Key    any                   // what is not to be tried again at once if it fails: an address or a Service
	Taker  ipam.Key              // the Service that is to get the address by it; the zero value for none

	Service   *Service // of Status
	Addrs     []netip.Addr
	Condition *metav1.Condition // nil takes back what was said
	Event     bool              // there is news
}

// begin notes in the record that it is being written: what is decided next reckons with it.
func (w Write) begin() { w.Record.Writing, w.Record.Next = true, w.Object }

// result is what came of a write.
type result struct {
	object  *pintlev1.Address // as it is now; nil if it is not known, or gone
	gone    bool
	service *corev1.Service
	err     error
}

// start has a write done; what comes of it is learned by the loop.
func (c *Controller) start(ctx context.Context, w Write) {
	count := &c.flying
	if w.Mine {
		count = &c.ownFlying
	}
	*count++
	switch w.Verb {
	case Status:
		c.busy[w.Service.Key] = true
	default:
		w.begin()
	}
	c.group.Go(func() error {
		limited, cancel := context.WithTimeout(ctx, callLimit)
		defer cancel()
		began := time.Now()
		r := c.carryOut(limited, w)
		took := time.Since(began)
		c.post(func() {
			*count--
			c.pace(took)
			c.learnWrite(ctx, w, r)
		})
		return nil
	})
}

// pace has fewer writes under way when they take long, and more again when they do not.
func (c *Controller) pace(took time.Duration) {
	if took < slowWrite {
		c.window = min(c.window+1, mostWrites)
		return
	}
	if now := c.facts.Now; now >= c.slowed.Add(slowWrite) { // those that were under way together count once
		c.slowed, c.window = now, max(c.window/2, leastWrites)
	}
}

// carryOut does a write. Where the object was another one than the write was made for, it is read anew.
func (c *Controller) carryOut(ctx context.Context, w Write) (r result) {
	for _, ref := range w.Absent {
		uid, err := c.client.service(ctx, ipam.Key{Namespace: ref.Namespace, Name: ref.Name})
		if err == nil && uid == string(ref.UID) {
			err = errBehind
		}
		if err != nil {
			r.err = err
			return r
		}
	}
	switch w.Verb {
	case Create:
		r.object, r.err = c.client.create(ctx, w.Object)
	case Update:
		r.object, r.err = c.client.update(ctx, w.Object)
	case Delete:
		r.err = c.client.remove(ctx, w.Object)
		r.gone = r.err == nil
	case Status:
		r.service, r.err = c.client.status(ctx, w.Service, w.Addrs, w.Condition)
		return r
	}
	if apierrors.IsConflict(r.err) || apierrors.IsNotFound(r.err) && w.Verb != Create || apierrors.IsAlreadyExists(r.err) {
		var err error
		if r.object, err = c.client.get(ctx, w.Object.Name); err != nil {
			r.err = err
			return r
		}
		r.gone, r.err = r.object == nil, nil
	}
	if r.err != nil {
		r.object = nil
	}
	return r
}

// errBehind says that a watch has not brought what is there.
var errBehind = errors.New("the Service is there, but the watch has not brought it yet")

// learnWrite takes what came of a write.
func (c *Controller) learnWrite(ctx context.Context, w Write, r result) {
	if ctx.Err() != nil {
		return
	}
	if w.Verb == Status {
		c.learnStatus(ctx, w, r)
		return
	}
	rec := w.Record
	rec.Writing, rec.Next = false, nil
	c.outcome(w, r.err)
	switch {
	case c.facts.Records[rec.Addr] != rec: // it went, and came again, meanwhile
	case r.object != nil:
		c.seeAddress(r.object)
	case r.gone, rec.Version == 0: // a placeholder of one that could not be made
		c.loseAddress(rec.Addr, max(rec.Version, c.lost[rec.Addr]))
	}
	if c.coord != nil {
		c.coord.records.add(rec.Addr)
		if w.Taker != (ipam.Key{}) {
			c.coord.services.addFirst(w.Taker) // its status
		}
	}
}

// outcome notes whether a write succeeded, and says so once if not.
func (c *Controller) outcome(w Write, err error) {
	what := "addresses"
	if w.Mine {
		what = "addresses of this node"
		if err == nil {
			delete(c.hold.again, w.Record.Addr)
		} else {
			fails := c.hold.again[w.Record.Addr].fails
			c.hold.again[w.Record.Addr] = retry{c.facts.Wall.Add(backoff(fails)), fails + 1}
		}
	} else if c.coord != nil {
		c.coord.wrote(w.Key, err)
		if w.Taker != (ipam.Key{}) {
			c.coord.wrote(w.Taker, err)
		}
	}
	c.wrote(what, fmt.Sprintf("%s address %s", w.Verb, w.Record.Addr), err)
}

// String is the verb in words.
func (v Verb) String() string {
	return [...]string{"", "make", "update", "delete", "write the status of"}[v]
}

// backoff is how long after so many failures in a row something is tried again.
func backoff(fails int) time.Duration {
	return min(50*time.Millisecond<<min(fails, 10), 30*time.Second)
}

// A fault is why the last write failed.
type fault struct {
	text string
	at   leader.Instant
}

// faultLife is how long a fault counts. What is still to be written fails again within this time.
const faultLife = time.Minute

func (f fault) counts(now leader.Instant) bool { return f.text != "" && now < f.at.Add(faultLife) }

// wrote notes whether the last write of some kind succeeded, and why not; that is logged once for each change.
func (c *Controller) wrote(kind, what string, err error) {
	failing := c.writeErrs[kind].counts(c.facts.Now)
	if err == nil {
		delete(c.writeErrs, kind)
		if failing {
			c.log.Info("the API takes writes again", "objects", kind)
		}
		return
	}
	if !failing {
		c.log.Log(context.Background(), level(err), "cannot "+what+", trying again", "err", err)
	}
	c.writeErrs[kind] = fault{fmt.Sprintf("%s: %v", what, err), c.facts.Now}
}

// learnStatus takes what came of a write of a Service's status.
func (c *Controller) learnStatus(ctx context.Context, w Write, r result) {
	delete(c.busy, w.Service.Key)
	err := r.err
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		err = nil // another Service has this name now, or none: the watch tells
	}
	if c.coord != nil {
		c.coord.wrote(w.Service.Key, r.err) // and until the watch does it is not tried at full speed
	}
	c.wrote("services", "write the status of service "+w.Service.Namespace+"/"+w.Service.Name, err)
	if r.err == nil {
		if s := c.facts.Services[w.Service.Key]; s != nil && s.UID == w.Service.UID { // else it is gone by now
			c.seeService(readService(r.service))
		}
		if c.coord != nil {
			c.coord.vain[w.Service.Key] = vanity{version(r.service.ResourceVersion), strings.Join(texts(w.Addrs), " "), w.Condition == nil}
		}
		if w.Event {
			c.tellEvent(w)
		}
	}
	if c.coord != nil {
		c.coord.services.add(w.Service.Key)
	}
}

// tellEvent makes an Event of what a Service cannot have, and of the end of that.
func (c *Controller) tellEvent(w Write) {
	kind, was := corev1.EventTypeWarning, w.Service.Condition
	if w.Condition == nil || w.Condition.Status == metav1.ConditionTrue && (was == nil || was.Status == metav1.ConditionTrue) {
		return // ten thousand Services that are well are no news
	}
	if w.Condition.Status == metav1.ConditionTrue {
		kind = corev1.EventTypeNormal
	}
	s, now := w.Service, metav1.NewTime(c.facts.Wall)
	c.herald.tell(s.Key, &corev1.Event{
		TypeMeta:       metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta:     metav1.ObjectMeta{GenerateName: s.Name + ".", Namespace: s.Namespace},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: s.Namespace, Name: s.Name, UID: types.UID(s.UID)},
		Type:           kind, Reason: w.Condition.Reason, Message: w.Condition.Message, Count: 1, FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: "pintle", Host: c.cfg.Node}, ReportingController: "pintle.dev/pintle", ReportingInstance: c.cfg.Node})
}

// sendEvent tries it once.
func (c *Controller) sendEvent(ctx context.Context, e *corev1.Event) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if err := c.client.event(ctx, e); err != nil && ctx.Err() == nil {
		c.log.Debug("cannot send an event", "service", e.Namespace+"/"+e.InvolvedObject.Name, "err", err)
	}
}
