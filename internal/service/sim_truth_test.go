package service

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

// A truth is what is known of what is and was.
type truth struct {
	services map[types.UID][]pastService  // what each Service was, and until when; the last is what it is
	has      map[allocation]bool          // what Services have, by their status and by the objects
	brief    map[types.UID]bool           // Services that are deleted as soon as they are told what they have
	touched  map[types.UID]bool           // Services that may lose what they have by what people did
	lies     map[allocation]time.Duration // what a status says wrongly, for how long a coordinator could have mended it
}

// A pastService is what a Service was for a while.
type pastService struct {
	*Service
	until time.Time // zero: it is so now
}

// An allocation is an address of a Service.
type allocation struct {
	uid  types.UID
	addr netip.Addr
}

func newTruth() truth {
	return truth{services: map[types.UID][]pastService{}, has: map[allocation]bool{}, touched: map[types.UID]bool{}, brief: map[types.UID]bool{}, lies: map[allocation]time.Duration{}}
}

// check looks at a change of the store. The caller holds mu.
func (w *simWorld) check(e event, was object) {
	w.wakeWatches(e.kind)
	switch o := e.object.(type) {
	case *nodeLease:
		if before, _ := was.(*nodeLease); before == nil || before.Epoch != o.Epoch || before.Process != o.Process || before.Note != o.Note {
			w.note("  %s: lease of %s: epoch %d process %q fenced %v note %s", w.writer, o.Name, o.Epoch, o.Process, o.Fenced, o.Note)
		}
	case *coordinationv1.Lease:
		w.note("  %s: seat %s gone %v", w.writer, o.Annotations[seatNote], e.gone)
	case *pintlev1.Address:
		w.note("  %s: %s", w.writer, describe(o, e.gone))
		before, _ := was.(*pintlev1.Address)
		if h := w.trap; h != nil && h.proc != nil && w.writer == h.proc.name && before != nil && before.Status.Holder == h.name && o.Status.Holder != h.name {
			h.sever()
		}
		w.checkAddress(o, before, e.gone)
	case *corev1.Service:
		w.checkService(o, e.gone)
	}
}

func describe(o *pintlev1.Address, gone bool) string {
	text := fmt.Sprintf("%s@%s of %s for %s: %q %d turn %d, wanted %q", o.Name, o.ResourceVersion, o.Spec.Pool, o.Status.Services, o.Status.Holder, o.Status.Epoch,
		o.Status.Turn, o.Spec.Wanted)
	switch {
	case gone:
		text += ", gone"
	case o.DeletionTimestamp != nil:
		text += ", being deleted"
	}
	return text
}

func lists(o *pintlev1.Address, uid types.UID) bool {
	return o != nil && slices.ContainsFunc(o.Spec.Services, func(r pintlev1.ServiceRef) bool { return r.UID == uid })
}

func (w *simWorld) address(a netip.Addr) *pintlev1.Address {
	o, _ := w.find("addresses", objectName(a)).(*pintlev1.Address)
	return o
}

func (w *simWorld) checkAddress(o, was *pintlev1.Address, gone bool) {
	a := addressOf(o)
	for _, h := range w.hosts {
		if h.proc.claimed()[a] {
			w.checkClaim(h, a, w.address(a))
		}
	}
	for i, r := range o.Spec.Services {
		for _, q := range o.Spec.Services[:i] {
			if !lists(was, r.UID) && !w.mayShare(r.UID, q.UID) {
				w.wrongf("%s is of %s/%s and %s/%s, which may not share", a, r.Namespace, r.Name, q.Namespace, q.Name)
			}
		}
	}
	for k := range w.has {
		if k.addr != a || !gone && lists(o, k.uid) {
			continue
		}
		delete(w.has, k)
		now := w.services[k.uid]
		if s := now[len(now)-1]; s.until.IsZero() && !w.touched[k.uid] {
			w.wrongf("%s loses %s, which it had, and nobody wanted that", s.Key, a)
		}
	}
	for _, r := range o.Spec.Services {
		w.meet(r.UID)
	}
	w.meetAll()
}

// mayShare reports whether two Services may have one address as far as whoever wrote it down can know.
func (w *simWorld) mayShare(a, b types.UID) bool {
	now := time.Now()
	recent := func(v pastService) bool { return v.until.IsZero() || now.Sub(v.until) < knownTime }
	for _, x := range w.services[a] {
		for _, y := range w.services[b] {
			if recent(x) && recent(y) && share(x.Service, y.Service) {
				return true
			}
		}
	}
	return false
}

// share reports whether two Services may share an address.
func share(x, y *Service) bool {
	a, b := x.user(), y.user()
	if a.ShareKey == "" || a.ShareKey != b.ShareKey || x.Key == y.Key {
		return false
	}
	for _, p := range a.Ports {
		if slices.Contains(b.Ports, p) {
			return false
		}
	}
	return !x.Local && !y.Local || x.Local && y.Local && x.Namespace == y.Namespace && x.Selector == y.Selector
}

func (w *simWorld) checkService(o *corev1.Service, gone bool) {
	uid := o.UID
	w.note("  %s: service %s@%s %s: ingress %v, %s, gone %v", w.writer, nameOf(o), o.ResourceVersion, o.Spec.Type, readService(o).Ingress, said(o), gone)
	states := w.services[uid]
	if n := len(states); n > 0 && states[n-1].until.IsZero() {
		states[n-1].until = time.Now()
	}
	v := pastService{Service: readService(o)}
	if gone {
		v.until = time.Now()
	}
	w.services[uid] = append(states, v)
	if w.brief[uid] && v.Condition != nil {
		delete(w.brief, uid)
		w.later(time.Duration(w.version%3)*time.Millisecond, func() { w.lock(func() { _ = w.store.remove("services", nameOf(o), uid, "") }) })
	}
	if gone {
		for k := range w.has {
			if k.uid == uid {
				delete(w.has, k)
			}
		}
	}
	w.meet(uid)
	w.meetAll()
}

func said(o *corev1.Service) string {
	c := readService(o).Condition
	if c == nil {
		return "no condition"
	}
	return fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
}

// meet notes what a Service has.
func (w *simWorld) meet(uid types.UID) {
	states := w.services[uid]
	if len(states) == 0 {
		return
	}
	s := states[len(states)-1]
	if !s.until.IsZero() {
		return
	}
	for _, text := range s.Ingress {
		a := netip.MustParseAddr(text)
		if o := w.address(a); lists(o, uid) && o.DeletionTimestamp == nil {
			w.has[allocation{uid, a}] = true
		}
	}
}

// meetAll notes which Services say that they have what is not theirs.
func (w *simWorld) meetAll() {
	still := map[allocation]time.Duration{}
	for _, o := range w.objects["services"] {
		svc := o.(*corev1.Service)
		if w.others[svc.UID] {
			continue
		}
		for _, i := range svc.Status.LoadBalancer.Ingress {
			if k := (allocation{svc.UID, netip.MustParseAddr(i.IP)}); !lists(w.address(k.addr), k.uid) {
				still[k] = w.lies[k]
			}
		}
	}
	w.lies = still
}

// countLies lets the time run in which a coordinator that is well can mend what is wrong.
func (w *simWorld) countLies(d time.Duration) {
	h := w.coordinator()
	for k := range w.lies {
		if w.lies[k] += d; h == nil || h.cut != nil || h.frozen != nil {
			w.lies[k] = 0
		}
		if w.lies[k] > liesTime {
			w.wrongf("the status of %v says %s, whose object does not", w.services[k.uid][0].Key, k.addr)
		}
	}
}

// coordinator is the host whose process has the seat.
func (w *simWorld) coordinator() *host {
	o, _ := w.find("seat", simNamespace+"/"+seatName).(*coordinationv1.Lease)
	seat := readSeat(o)
	for _, h := range w.hosts {
		if l := h.lease(); h.name == seat.Node && l != nil && h.proc != nil && l.Process == h.proc.name && l.Epoch == seat.Epoch {
			return h
		}
	}
	return nil
}

// lease is that of a host.
func (h *host) lease() *nodeLease {
	l, _ := h.w.find("leases", h.name).(*nodeLease)
	return l
}

// checkClaim looks at one claim: the object names the claimer, in the epoch that its Lease has.
func (w *simWorld) checkClaim(h *host, a netip.Addr, o *pintlev1.Address) {
	if l := h.lease(); o == nil || o.Status.Holder != h.name || l == nil || uint64(o.Status.Epoch) != l.Epoch {
		w.wrongf("%s claims %s, which is not its own in this epoch", h.name, a)
	}
}

// checkClaims is called when a host's claims, or what it serves, change: no claim begins otherwise. The caller holds mu.
func (w *simWorld) checkClaims(of *process) {
	claimers := map[netip.Addr]string{}
	for _, h := range w.hosts {
		for a := range h.proc.claimed() {
			if other := claimers[a]; other != "" {
				w.wrongf("%s and %s both claim %s", other, h.name, a)
			}
			claimers[a] = h.name
		}
	}
	if of.dead {
		return
	}
	guarded := map[netip.Addr]bool{}
	for _, g := range of.guards.have {
		guarded[g.Addr] = true
	}
	for a := range of.claimed() {
		w.checkClaim(of.host, a, w.address(a))
		if !guarded[a] {
			w.wrongf("%s claims %s, which its packet filter does not know", of.name, a)
		}
	}
}
