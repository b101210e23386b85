package service

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

// heldFinalizer keeps an Address object until nobody holds the address.
const heldFinalizer = "pintle.dev/held"

// poolLabel is the label of an Address object with the name of its pool.
const poolLabel = "pintle.dev/pool"

// A coordinator is the one node's mind that gives addresses to Services and nodes to addresses. It decides only: what it returns
// is to be written. It is told of changes, and looks at nothing else.
type coordinator struct {
	*Facts
	book     *ipam.Book
	users    map[ipam.Key]map[netip.Addr]struct{} // addresses noted for a Service of this name, whichever it is
	load     map[string]int                       // addresses wanted on each node, with what is being written
	services *queue[ipam.Key]                     // to be looked at
	records  *queue[netip.Addr]
	refused  map[ipam.Key]string   // why a Service has not all that it asks for
	hoping   map[ipam.Key]struct{} // Services that have what they need, and would take more
	again    map[any]retry         // objects whose last write failed, by key or address
	busy     map[ipam.Key]bool     // Services whose status is being written
	vain     map[ipam.Key]vanity   // what was written last, where the API server, or another controller, has the last word
	balanced time.Time
	counted  time.Time             // when load was
	began    time.Time             // zero before the first decision
	repool   map[netip.Addr]string // addresses that came to another pool
	early    bool                  // it has just begun: nodes that start together are still coming
	catching bool                  // it reads all addresses: when those whose holder was gone when it began have been seen to
	caughtUp bool                  // it knows all that was given before it began: now it may give
	meant    map[netip.Addr]string // where addresses whose holder is gone are to go, unless that has become wrong
	more     bool                  // the last decision left addresses over that nobody has looked at
}

// A retry is when something may be written again.
type retry struct {
	at    time.Time
	fails int
}

func newCoordinator(f *Facts) *coordinator {
	return &coordinator{Facts: f, book: ipam.NewBook(), users: map[ipam.Key]map[netip.Addr]struct{}{}, load: map[string]int{}, services: newQueue(compareKey), records: newQueue(netip.Addr.Compare),
		refused: map[ipam.Key]string{}, hoping: map[ipam.Key]struct{}{}, vain: map[ipam.Key]vanity{}, repool: map[netip.Addr]string{}, meant: map[netip.Addr]string{}, again: map[any]retry{}}
}

// everything has all Services and addresses looked at.
func (c *coordinator) everything() {
	c.services.addAll(maps.Keys(c.Services))
	c.everyRecord()
}

func (c *coordinator) everyRecord() {
	c.records.addAll(maps.Keys(c.Records))
}

// placesChanged has all addresses looked at, first those of nodes that are gone.
func (c *coordinator) placesChanged() {
	c.urgent()
	c.everyRecord()
}

// urgent has those addresses looked at first whose holder's epoch is over, and those after each other that one node is to get: what it
// does then for each set of addresses that come together is dear.
func (c *coordinator) urgent() {
	var lost []netip.Addr
	for a, r := range c.Records {
		if h, e := r.holder(); h != "" && c.void(h, e) && r.wire() && !r.Writing {
			lost = append(lost, a)
		}
	}
	first := c.meant // those are still first
	c.meant = make(map[netip.Addr]string, len(lost))
	if len(lost) == 0 {
		return
	}
	slices.SortFunc(lost, netip.Addr.Compare)
	c.recount()
	load := maps.Clone(c.load)
	for _, a := range lost {
		r := c.Records[a]
		to := c.choose(r, load, "").Node
		load[r.Object.Spec.Wanted]--
		load[to]++
		c.meant[a] = to
	}
	slices.SortStableFunc(lost, func(a, b netip.Addr) int { return strings.Compare(c.meant[a], c.meant[b]) })
	for _, a := range lost {
		if _, is := first[a]; !is {
			c.records.addFirst(a)
		}
	}
}

// wanting has those Services looked at that have not all they ask for: something may have become free.
func (c *coordinator) wanting() {
	c.services.addAll(maps.Keys(c.refused))
	c.services.addAll(maps.Keys(c.hoping))
}

// sharing has those of them looked at that may share an address with its users.
func (c *coordinator) sharing(users []ipam.User) {
	if len(users) == 0 || users[0].ShareKey == "" {
		return
	}
	for _, list := range []iter.Seq[ipam.Key]{maps.Keys(c.refused), maps.Keys(c.hoping)} {
		c.services.addAll(func(yield func(ipam.Key) bool) {
			for k := range list {
				if s := c.Services[k]; s != nil && s.user().ShareKey == users[0].ShareKey && !yield(k) {
					return
				}
			}
		})
	}
}

// serviceChanged is told of a Service, also of one that is gone.
func (c *coordinator) serviceChanged(k ipam.Key) {
	c.services.add(k)
	for _, r := range c.recordsOf(k) {
		c.enter(r)            // its ports, or whom it shares with, may be others
		c.records.add(r.Addr) // whether its users may share it still
	}
}

// recordsOf are the addresses of a Service, also of an earlier one of its name.
func (c *coordinator) recordsOf(k ipam.Key) (out []*Record) {
	for a := range c.users[k] {
		if r := c.Records[a]; r != nil {
			out = append(out, r)
		}
	}
	return out
}

// recordChanged is told of an address, also of one that is gone.
func (c *coordinator) recordChanged(a netip.Addr) {
	before, had := c.book.Get(a)
	for _, u := range before.Users {
		c.services.add(u.Service)
		delete(c.users[u.Service], a)
		if len(c.users[u.Service]) == 0 {
			delete(c.users, u.Service)
		}
	}
	r := c.Records[a]
	c.records.add(a)
	if r == nil {
		delete(c.again, a)
		delete(c.repool, a)
		c.book.Remove(a)
		c.book.Unblock(a)
		c.wanting()
		return
	}
	c.enter(r)
	after, _ := c.book.Get(a)
	for _, u := range after.Users {
		c.services.add(u.Service)
		if c.users[u.Service] == nil {
			c.users[u.Service] = map[netip.Addr]struct{}{}
		}
		c.users[u.Service][a] = struct{}{}
	}
	if had && len(after.Users) < len(before.Users) {
		c.wanting()
	}
}

// enter puts a record into the book.
func (c *coordinator) enter(r *Record) {
	o := r.Object
	h := ipam.Holding{Addr: r.Addr, Pool: o.Spec.Pool}
	var others []ipam.User
	for _, ref := range o.Spec.Services {
		k := ipam.Key{Namespace: ref.Namespace, Name: ref.Name}
		u := ipam.User{Service: k, UID: string(ref.UID)}
		if s := c.Services[k]; s != nil && s.UID == u.UID && c.ours(s) {
			h.Users = append(h.Users, s.user())
		} else {
			others = append(others, u)
		}
	}
	h.Users = append(h.Users, others...) // who is not there any more, or not yet, is in nobody's way
	before, _ := c.book.Get(r.Addr)
	c.book.Set(h)
	if !slices.EqualFunc(before.Users, h.Users, func(a, b ipam.User) bool {
		return a.ShareKey == b.ShareKey && a.Backends == b.Backends && slices.Equal(a.Ports, b.Ports)
	}) {
		c.sharing(h.Users)
	}
	switch {
	case o.DeletionTimestamp != nil:
		c.book.Block(r.Addr, "is being deleted")
	case len(o.Spec.Services) == 0:
		c.book.Block(r.Addr, "is being given back")
	default:
		c.book.Unblock(r.Addr)
	}
}

// poolsChanged is told of the pools, all of them.
func (c *coordinator) poolsChanged() {
	var good []ipam.Pool
	for _, p := range c.Pools {
		if len(p.Errors) == 0 {
			good = append(good, p.Pool)
		}
	}
	slices.SortFunc(good, func(a, b ipam.Pool) int { return strings.Compare(a.Name, b.Name) })
	c.book.SetPools(good)
	c.everything()
}

// countEach is how often the addresses of each node are counted anew if there are more than countMany; between, what the coordinator
// does itself is added up.
const (
	countMany = 1000
	countEach = 100 * time.Millisecond
)

// recount counts the addresses of each node anew, if it was not done just now.
func (c *coordinator) recount() {
	if len(c.Records) > countMany && c.Wall.Sub(c.counted) < countEach {
		return
	}
	c.counted = c.Wall
	clear(c.load)
	for _, r := range c.Records {
		o := r.Object
		if r.Next != nil {
			o = r.Next
		}
		if o.Spec.Wanted != "" {
			c.load[o.Spec.Wanted]++
		}
	}
}

// settling is how long a new coordinator leaves addresses nowhere that nobody had so far: when all nodes start together, the first one
// would get them all.
const settling = 2 * time.Second

// look notes how long this node has been the coordinator.
func (c *coordinator) look() {
	if c.began.IsZero() {
		c.began, c.early = c.Wall, true
	}
	if c.early && c.Wall.Sub(c.began) >= settling {
		c.early = false
		c.everything()
	}
}

// mostLooks is how many addresses are looked at until the loop learns what is new: that a node was fenced must not wait.
const mostLooks = 200

// decide returns what is to be written now, at most so many writes. What is left over is decided the next time: at once, if more says so.
func (c *coordinator) decide(most int) (out []Write) {
	c.look()
	c.recount()
	looks := 0
	c.more = false
	c.records.each(func(a netip.Addr) (done, stop bool) {
		if c.more = looks >= mostLooks; c.more || len(out) >= most {
			return false, true
		}
		r := c.Records[a]
		if c.waits(a) || r != nil && r.Writing { // it is told of when it is written
			return false, false
		}
		looks++
		if w, ok := c.tend(a); ok {
			w.begin()
			out = append(out, w)
		}
		return true, false
	})
	if !c.caughtUp || len(out) >= most {
		return out
	}
	c.services.each(func(k ipam.Key) (done, stop bool) {
		if len(out) >= most {
			return false, true
		}
		if c.waits(k) || c.busy[k] {
			return false, false
		}
		done, writes := c.serve(k)
		out = append(out, writes...)
		return done, false
	})
	return append(out, c.even(most-len(out))...)
}

func compareKey(a, b ipam.Key) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

// waits reports whether an object is not to be written again yet.
func (c *coordinator) waits(key any) bool { return c.Wall.Before(c.again[key].at) }

// wrote is told what became of a write about an object.
func (c *coordinator) wrote(key any, err error) {
	if err == nil {
		delete(c.again, key)
		return
	}
	fails := c.again[key].fails
	c.again[key] = retry{at: c.Wall.Add(backoff(fails)), fails: fails + 1}
}

// next is when something that failed may be written again; the zero time if nothing did that waits yet.
func (c *coordinator) next() (at time.Time) {
	for key, r := range c.again {
		if !c.Wall.Before(r.at) {
			continue
		}
		switch k := key.(type) {
		case ipam.Key:
			if !c.services.has(k) {
				continue
			}
		case netip.Addr:
			if !c.records.has(k) {
				continue
			}
		}
		if at.IsZero() || r.at.Before(at) {
			at = r.at
		}
	}
	return at
}

// tend brings an address in order: its users, what its pool says, and where it is wanted.
func (c *coordinator) tend(a netip.Addr) (Write, bool) {
	r, meant := c.Records[a], c.meant[a]
	delete(c.meant, a)
	if r == nil {
		return Write{}, false
	}
	next := r.Object.DeepCopy()
	var absent []pintlev1.ServiceRef
	next.Spec.Services = slices.DeleteFunc(next.Spec.Services, func(ref pintlev1.ServiceRef) bool {
		if s := c.Services[ipam.Key{Namespace: ref.Namespace, Name: ref.Name}]; s == nil || s.UID != string(ref.UID) {
			absent = append(absent, ref)
		}
		return !c.uses(r, ref)
	})
	if next.DeletionTimestamp != nil {
		next.Spec.Services = nil
	}
	next.Status.Services = namesOf(next.Spec.Services)
	if len(next.Spec.Services) == 0 {
		w, ok := c.giveBack(r, next)
		w.Absent = absent
		return w, ok
	}
	if p := c.repool[a]; p != "" {
		next.Spec.Pool = p
		delete(c.repool, a)
	}
	c.dress(next)
	c.settle(r, next, meant)
	w, ok := c.update(r, next)
	w.Absent = absent
	return w, ok
}

// uses reports whether a Service has, and may have, an address that is noted for it.
func (c *coordinator) uses(r *Record, ref pintlev1.ServiceRef) bool {
	k := ipam.Key{Namespace: ref.Namespace, Name: ref.Name}
	s := c.Services[k]
	if s == nil || s.UID != string(ref.UID) || !c.ours(s) {
		return false
	}
	return !slices.Contains(c.dropped(s), r.Addr)
}

// dropped are the addresses that a Service is to lose.
func (c *coordinator) dropped(s *Service) []netip.Addr {
	req, err := c.request(s)
	if err != nil {
		req.Addresses, req.Pool = nil, "" // what it asks for is not known: what it has stays, but if it may not share it
	}
	return c.book.Resolve(req).Drop
}

// giveBack is what is next for an address that nobody uses: that nobody holds it either, and then its end.
func (c *coordinator) giveBack(r *Record, next *pintlev1.Address) (Write, bool) {
	next.Spec.Wanted = ""
	h, e := r.holder()
	if h != "" && !c.void(h, e) {
		return c.update(r, next) // the holder lets go, and that is told
	}
	next.Status.Holder, next.Status.Epoch, next.Status.Reason = "", 0, "it is given back"
	if !slices.Contains(next.Finalizers, heldFinalizer) {
		return Write{Verb: Delete, Object: r.Object, Record: r, Key: r.Addr}, true
	}
	next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == heldFinalizer })
	return c.update(r, next)
}

// dress gives an object what follows from its pool and its Services, and its finalizer.
func (c *coordinator) dress(o *pintlev1.Address) {
	if !slices.Contains(o.Finalizers, heldFinalizer) {
		o.Finalizers = append(o.Finalizers, heldFinalizer)
	}
	if o.Labels == nil {
		o.Labels = map[string]string{}
	}
	o.Labels[poolLabel], o.Labels["app.kubernetes.io/managed-by"] = o.Spec.Pool, "pintle"
	p := c.Pools[o.Spec.Pool]
	if p == nil || len(p.Errors) > 0 {
		return // as it was when it was given
	}
	s := p.Object.Spec
	o.Spec.Announce, o.Spec.Links, o.Spec.Bind, o.Spec.OnAPILoss = s.Announce, s.Links, s.Bind, s.OnAPILoss
	o.Spec.BGP = s.BGP
	for _, ref := range o.Spec.Services {
		svc := c.Services[ipam.Key{Namespace: ref.Namespace, Name: ref.Name}]
		if svc == nil {
			continue
		}
		if b, err := routeWanted(s.BGP, svc); err == nil {
			o.Spec.BGP = b
			break // the first of those that share it
		}
	}
}

// settle says where an address is wanted and, when its holder's epoch is over, who holds it now. A holder that lives is left to
// hand over by itself.
func (c *coordinator) settle(r *Record, next *pintlev1.Address, meant string) {
	if !(&Record{Object: next}).wire() {
		next.Spec.Wanted = ""
		if h, e := r.holder(); h == "" || c.void(h, e) {
			next.Status.Holder, next.Status.Epoch, next.Status.Reason = "", 0, "every node that suits advertises it"
		}
		return
	}
	h, e := r.holder()
	void := h != "" && c.void(h, e)
	switch {
	case h != "" && !void && !c.Roll[h].Alive:
		return // it is fenced first: one write then, not two
	case c.early && h == "" && next.Status.Turn == 0:
		next.Status.Reason = "its nodes are being looked for"
		return
	}
	probe := &Record{Addr: r.Addr, Object: next}
	to := c.choose(probe, c.load, meant)
	if was := r.Object.Spec.Wanted; to.Node != was {
		c.load[was]--
		c.load[to.Node]++
	}
	next.Spec.Wanted = to.Node
	if h == "" || void {
		c.appoint(next, to)
	} else if to.Node != h {
		next.Status.Reason = to.Reason
	}
}

// appoint makes a node the holder of an address that nobody holds.
func (c *coordinator) appoint(next *pintlev1.Address, to Choice) {
	st := &next.Status
	st.Reason = to.Reason
	if to.Node == "" {
		st.Holder, st.Epoch, st.Since = "", 0, nil
		return
	}
	hold(st, to.Node, c.Roll[to.Node].Epoch, c.Wall)
}

// hold names the next holder.
func hold(st *pintlev1.AddressStatus, node string, epoch uint64, now time.Time) {
	since := metav1.NewMicroTime(now)
	st.Holder, st.Epoch, st.Since = node, int64(epoch), &since
	st.Turn++
}

// update writes an object, if it is to be another one.
func (c *coordinator) update(r *Record, next *pintlev1.Address) (Write, bool) {
	if sameAddress(r.Object, next) {
		return Write{}, false
	}
	return Write{Verb: Update, Object: next, Record: r, Key: r.Addr}, true
}

// balanceEach is how often an even spread is looked after.
const balanceEach = 10 * time.Second

// even moves a few addresses for an even spread, when nothing else is to be done.
func (c *coordinator) even(most int) (out []Write) {
	if most <= 0 || c.records.len()+c.services.len() > 0 || c.Wall.Sub(c.balanced) < balanceEach {
		return nil
	}
	c.balanced = c.Wall
	for _, m := range c.balance(c.load) {
		next := m.record.Object.DeepCopy()
		next.Spec.Wanted, next.Status.Reason = m.to, m.reason
		out = append(out, Write{Verb: Update, Object: next, Record: m.record, Key: m.record.Addr})
	}
	return out
}

// sameAddress reports whether two objects say the same.
func sameAddress(a, b *pintlev1.Address) bool {
	return slices.Equal(a.Finalizers, b.Finalizers) && maps.Equal(a.Labels, b.Labels) &&
		equality.Semantic.DeepEqual(a.Spec, b.Spec) && equality.Semantic.DeepEqual(a.Status, b.Status)
}
