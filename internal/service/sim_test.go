package service

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

// The simulation runs whole clusters in fake time: Controllers as they are, each with a Lease, before a store with the rules of the
// API server. Calls are lost, late, or carried out when nobody waits for them any more; watches lag; nodes are cut off, stand still,
// die and come back; people change everything. What has to hold always is checked at each step, what has to come true when the
// faults end is waited for, and then nothing is to be written any more. All is drawn from a seed, which a failing run prints; as
// goroutines are scheduled freely, a seed mostly, not always, brings the same run.
type simWorld struct {
	t     *testing.T
	seed  uint64
	since time.Time
	lease time.Duration // T of all nodes
	rng   *rand.Rand    // of who disturbs
	hosts []*host
	late  sync.WaitGroup // requests that arrive when their callers have given up

	mu sync.Mutex // guards what follows, and what is said to be guarded by it
	honestAPI
	more   map[string]chan struct{} // of each kind of objects: closed when there is news
	calm   bool                     // nothing fails any more
	prompt bool                     // and nothing takes time
	away   *host                    // it stays away at the end; nil: none does
	starts int
	ended  []*process
	writer string // who is writing
	trap   *host  // it is cut off as soon as it hands an address over
	trace  []string
	wrong  string
	failed chan struct{} // closed when wrong is set
	truth
}

const simNamespace = "pintle-system"

var (
	simRules = Rules{Class: "pintle.dev/lb", Unclassed: true}
	simLinks = []Link{{Name: "eth0", Subnets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/64")}, Default: true}}
)

// Bounds of fake time.
const (
	healTime  = 3 * time.Minute  // all is well so long after the last fault at the latest
	calmTime  = time.Minute      // and so long after people change something, while nothing fails
	quietTime = 60 * time.Second // and then nothing is written for so long
	liesTime  = time.Minute      // a status is wrong for no longer while a coordinator can mend it
	knownTime = time.Minute      // nobody acts on what a Service was longer ago
)

func (w *simWorld) lock(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// note adds a line to the trace. The caller holds mu.
func (w *simWorld) note(format string, a ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%9v ", time.Since(w.since).Round(100*time.Microsecond))+fmt.Sprintf(format, a...))
}

// wrongf notes that an invariant does not hold. The caller holds mu.
func (w *simWorld) wrongf(format string, a ...any) {
	if w.wrong != "" {
		return
	}
	w.wrong = fmt.Sprintf(format, a...)
	w.note("WRONG: %s", w.wrong)
	close(w.failed)
}

func (w *simWorld) fail(format string, a ...any) { w.lock(func() { w.wrongf(format, a...) }) }

// later has something done when time has passed, whoever has gone meanwhile. The caller need not hold mu.
func (w *simWorld) later(d time.Duration, f func()) {
	w.late.Go(func() {
		time.Sleep(d)
		f()
	})
}

// wakeWatches tells the watches of a kind that there is news. The caller holds mu.
func (w *simWorld) wakeWatches(kind string) {
	close(w.more[kind])
	w.more[kind] = make(chan struct{})
}

func newSimWorld(t *testing.T, seed uint64) *simWorld {
	w := newWorld(t, seed)
	w.lease = []time.Duration{2, 3, 5}[w.rng.IntN(3)] * time.Second
	for i := range 3 + w.rng.IntN(3) {
		h := &host{w: w, name: fmt.Sprintf("n%d", i+1), rate: (w.rng.Float64() - 0.5) * 0.05, hasty: w.rng.IntN(2) == 0}
		w.hosts = append(w.hosts, h)
	}
	return w
}

// newWorld is one without nodes.
func newWorld(t *testing.T, seed uint64) *simWorld {
	w := &simWorld{t: t, seed: seed, since: time.Now(), rng: rand.New(rand.NewPCG(seed, 7)), failed: make(chan struct{}), more: map[string]chan struct{}{}}
	w.store = newStore()
	w.store.saw = w.check
	w.truth = newTruth()
	for kind := range kinds {
		w.more[kind] = make(chan struct{})
	}
	w.more["leases"] = make(chan struct{})
	return w
}

func TestSimulation(t *testing.T) {
	runs, first := 40, uint64(time.Now().UnixNano()%1e6)
	if s := os.Getenv("SIM_RUNS"); s != "" {
		runs, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("SIM_SEED"); s != "" {
		first, _ = strconv.ParseUint(s, 10, 64)
	}
	for i := range runs {
		seed := first + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			spins := time.AfterFunc(2*time.Minute, func() { panic(fmt.Sprintf("SIM_SEED=%d spins", seed)) })
			defer spins.Stop()
			synctest.Test(t, func(t *testing.T) { simulate(t, seed) })
		})
	}
}

func simulate(t *testing.T, seed uint64) {
	w := newSimWorld(t, seed)
	defer w.stop()
	w.lock(w.found)
	for _, h := range w.hosts {
		h.start()
		time.Sleep(time.Duration(w.rng.Int64N(int64(time.Second))))
	}
	for range 80 {
		if w.over() {
			return
		}
		w.disturb()
		w.wait(time.Duration(w.rng.Int64N(int64([]time.Duration{20 * time.Millisecond, w.lease / 4, w.lease}[w.rng.IntN(3)]))))
	}
	w.heal()
	for limit := healTime; w.settle(limit); limit = calmTime {
		if w.rng.IntN(10) == 0 {
			w.quiet()
			return
		}
		w.lock(w.people)
	}
}

func (w *simWorld) over() bool {
	select {
	case <-w.failed:
		return true
	default:
		return w.t.Failed()
	}
}

// wait lets time pass, and looks now and then whether what is wrong for a while is put right.
func (w *simWorld) wait(d time.Duration) {
	const step = 500 * time.Millisecond
	for ; d > 0 && !w.over(); d -= step {
		time.Sleep(min(d, step))
		w.lock(func() { w.countLies(step) })
	}
}

// stop ends all processes, and says what went wrong.
func (w *simWorld) stop() {
	w.lock(func() {
		w.calm = true
		for _, h := range w.hosts {
			if h.proc != nil {
				h.proc.kill()
			}
		}
	})
	for _, p := range w.ended {
		p.over.Wait()
	}
	w.late.Wait()
	if w.wrong != "" {
		w.t.Errorf("SIM_SEED=%d SIM_RUNS=1: %d nodes, leases of %v: %s", w.seed, len(w.hosts), w.lease, w.wrong)
	}
	switch {
	case os.Getenv("SIM_TRACE") != "":
		w.t.Log(strings.Join(w.trace, "\n"))
	case w.wrong != "":
		w.t.Log("the end of the trace (SIM_TRACE=1: all of it)\n" + strings.Join(w.trace[max(0, len(w.trace)-150):], "\n"))
	}
}

// heal ends all faults. One node may stay away, and one be kept from addresses.
func (w *simWorld) heal() {
	w.lock(func() {
		w.note("all faults end")
		w.calm = true
		for _, h := range w.hosts {
			h.open()
			h.bad, h.slow, h.lag = 0, 0, 0
		}
		if w.away = w.hosts[w.rng.IntN(len(w.hosts))]; w.rng.IntN(2) == 0 {
			w.away = nil
		} else if w.away.proc != nil {
			w.away.proc.kill()
		}
		h := w.hosts[w.rng.IntN(len(w.hosts))] // it can have addresses, if it is not the one that is away
		h.judge("")
		edit(w.store, "nodes", h.name, func(o *corev1.Node) { o.Labels, o.Spec.Unschedulable, o.Annotations = nil, false, nil })
	})
}

// revive starts what does not run, but for the node that stays away.
func (w *simWorld) revive() {
	var down []*host
	w.lock(func() {
		for _, h := range w.hosts {
			if h.proc == nil && h != w.away {
				h.thaw()
				down = append(down, h)
			}
		}
	})
	for _, h := range down {
		h.start()
	}
}

// settle waits until all is as it should be.
func (w *simWorld) settle(limit time.Duration) bool {
	why := "?"
	for end := time.Now().Add(limit); time.Now().Before(end) && !w.over(); time.Sleep(200 * time.Millisecond) {
		w.revive()
		if w.lock(func() { why = w.unsettled() }); why == "" {
			w.lock(func() { w.note("settled") })
			return true
		}
	}
	w.fail("not well after %v: %s", limit, why)
	return false
}

// quiet checks that nobody has anything to do any more.
func (w *simWorld) quiet() {
	time.Sleep(time.Minute) // of requests that are late, and what is done about them
	var before uint64
	w.lock(func() {
		before = w.writes
		for _, h := range w.hosts {
			if h.proc != nil {
				h.proc.turns = 0
			}
		}
	})
	w.wait(quietTime)
	w.lock(func() {
		if n := w.writes - before; n > 0 {
			w.wrongf("%d writes although all is well", n)
		}
		for _, h := range w.hosts {
			if h.proc != nil && h.proc.turns > 6*int(quietTime/time.Second) {
				w.wrongf("%s turns its loop %d times in %v although all is well", h.name, h.proc.turns, quietTime)
			}
		}
		if why := w.unsettled(); why != "" {
			w.wrongf("not so any more: %s", why)
		}
	})
}

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

// unsettled says what is not yet as it should be; "" when all is. The caller holds mu.
func (w *simWorld) unsettled() string {
	if w.coordinator() == nil {
		return "nobody coordinates"
	}
	for _, h := range w.hosts {
		if h.proc != nil && (h.lease() == nil || h.lease().Process != h.proc.name) {
			return h.name + " has no Lease"
		}
	}
	book, users := w.book()
	for _, o := range w.all("addresses") {
		if why := w.unsettledAddress(o.(*pintlev1.Address), users); why != "" {
			return why
		}
	}
	for _, o := range w.all("services") {
		if why := w.unsettledService(o.(*corev1.Service), book); why != "" {
			return why
		}
	}
	if why := w.uneven(); why != "" {
		return why
	}
	for _, o := range w.all("addresspools") {
		p := o.(*pintlev1.AddressPool)
		if u := book.Usage(p.Name); p.Status.Used != int64(u.Used) || p.Status.Free != u.Free.String() {
			return fmt.Sprintf("pool %s says that %d addresses are in use and %s free, not %d and %s", p.Name, p.Status.Used, p.Status.Free, u.Used, u.Free)
		}
	}
	return ""
}

// facts is what a node would know that knows all that there is.
func (w *simWorld) facts() *Facts {
	f := &Facts{Rules: simRules, Services: map[ipam.Key]*Service{}, Namespaces: map[string]map[string]string{}, Pools: map[string]*Pool{}}
	for _, o := range w.all("services") {
		s := readService(o.(*corev1.Service))
		f.Services[s.Key] = s
	}
	for _, o := range w.all("namespaces") {
		f.Namespaces[o.GetName()] = o.GetLabels()
	}
	for _, o := range w.all("addresspools") {
		p := readPool(o.(*pintlev1.AddressPool))
		f.Pools[p.Name] = p
	}
	return f
}

// book is what is in use, and the Services that may use something.
func (w *simWorld) book() (*ipam.Book, map[types.UID]*Service) {
	f, b, users := w.facts(), ipam.NewBook(), map[types.UID]*Service{}
	for _, s := range f.Services {
		if f.ours(s) {
			users[types.UID(s.UID)] = s
		}
	}
	var pools []ipam.Pool
	for _, p := range f.Pools {
		pools = append(pools, p.Pool)
	}
	b.SetPools(pools)
	for _, o := range w.all("addresses") {
		o := o.(*pintlev1.Address)
		h := ipam.Holding{Addr: addressOf(o), Pool: o.Spec.Pool}
		for _, r := range o.Spec.Services {
			if s := users[r.UID]; s != nil {
				h.Users = append(h.Users, s.user())
			}
		}
		b.Set(h)
	}
	return b, users
}

// unsettledService says what is not yet right with a Service.
func (w *simWorld) unsettledService(o *corev1.Service, book *ipam.Book) string {
	f, s := w.facts(), readService(o)
	if !f.ours(s) {
		if s.Condition != nil || len(s.Ingress) > 0 && !w.others[o.UID] {
			return fmt.Sprintf("%s is not ours and says %v, %s", s.Key, s.Ingress, said(o))
		}
		return ""
	}
	req, err := f.request(s)
	if err != nil {
		if s.Condition == nil || s.Condition.Reason != "BadRequest" {
			return fmt.Sprintf("%s: %v, and it says %s", s.Key, err, said(o))
		}
		return ""
	}
	d := book.Resolve(req)
	if len(d.Take)+len(d.Drop) > 0 {
		return fmt.Sprintf("%s is to take %v and to drop %v", s.Key, d.Take, d.Drop)
	}
	var has []string
	for _, g := range d.Keep {
		has = append(has, g.Addr.String())
		a := w.address(g.Addr)
		if a.Spec.Pool != g.Pool {
			return fmt.Sprintf("%s is noted for pool %s, not %s", a.Name, a.Spec.Pool, g.Pool)
		}
		nowhere := (&Record{Object: a}).wire() && a.Status.Holder == ""
		words := fmt.Sprintf("nobody answers for %s", g.Addr)
		if nowhere {
			words += ": " + a.Status.Reason
		}
		if c := s.Condition; c != nil && d.OK() && strings.Contains(c.Message, words) != nowhere {
			return fmt.Sprintf("%s is nowhere: %v, and %s says %s", g.Addr, nowhere, s.Key, said(o))
		}
	}
	switch {
	case s.Condition == nil || (s.Condition.Status == metav1.ConditionTrue) != d.OK():
		return fmt.Sprintf("%s is OK: %v, and it says %s", s.Key, d.OK(), said(o))
	case !slices.Equal(has, s.Ingress) && !(len(has) == 0 && w.others[o.UID]):
		return fmt.Sprintf("%s has %v, and its status says %v", s.Key, has, s.Ingress)
	}
	return ""
}

// unsettledAddress says what is not yet right with an address.
func (w *simWorld) unsettledAddress(o *pintlev1.Address, users map[types.UID]*Service) string {
	a := addressOf(o)
	var of []*Service
	for _, r := range o.Spec.Services {
		if users[r.UID] == nil {
			return fmt.Sprintf("%s is noted for %s/%s, which is none of ours", a, r.Namespace, r.Name)
		}
		for _, other := range of {
			if !share(other, users[r.UID]) {
				return fmt.Sprintf("%s is of %s and %s, which may not share", a, other.Key, r.Name)
			}
		}
		of = append(of, users[r.UID])
	}
	if len(of) == 0 || o.DeletionTimestamp != nil {
		return fmt.Sprintf("%s is not given back", a)
	}
	grades := map[string]grade{}
	fits := 0
	for _, h := range w.hosts {
		if grades[h.name] = h.suits(o, of); grades[h.name] == fit {
			fits++
		}
	}
	var claimers []string
	for _, h := range w.hosts {
		if h.proc.claimed()[a] {
			claimers = append(claimers, h.name)
		}
		if (&Record{Object: o}).routed() && h.proc != nil && h.proc.advertises(a) != (grades[h.name] == fit) {
			return fmt.Sprintf("%s advertises %s: %v, its grade is %d", h.name, a, h.proc.advertises(a), grades[h.name])
		}
	}
	holder := o.Status.Holder
	switch {
	case !(&Record{Object: o}).wire():
		if holder != "" || o.Spec.Wanted != "" || len(claimers) > 0 {
			return fmt.Sprintf("%s: all nodes advertise it, and %q holds it, wanted on %q, claimed by %v", a, holder, o.Spec.Wanted, claimers)
		}
	case holder != o.Spec.Wanted:
		return fmt.Sprintf("%s is wanted on %q and on %q", a, o.Spec.Wanted, holder)
	case holder == "" && (fits > 0 || len(claimers) > 0):
		return fmt.Sprintf("%s is nowhere, %d nodes suit, %v claim it", a, fits, claimers)
	case holder == "":
	case !slices.Equal(claimers, []string{holder}):
		return fmt.Sprintf("%s is on %s, and %v claim it", a, holder, claimers)
	case grades[holder] == never || fits > 0 && grades[holder] != fit:
		return fmt.Sprintf("%s is on %s, whose grade is %d, while %d nodes suit", a, holder, grades[holder], fits)
	}
	return ""
}

// suits says how well a host suits an address, from what is true of it.
func (h *host) suits(o *pintlev1.Address, of []*Service) grade {
	n, _ := h.w.find("nodes", h.name).(*corev1.Node)
	_, excluded := n.Labels[excludeLabel]
	p, _ := h.w.find("addresspools", o.Spec.Pool).(*pintlev1.AddressPool)
	selected := p == nil || p.Spec.NodeSelector == nil || n.Labels["zone"] == p.Spec.NodeSelector.MatchLabels["zone"]
	switch {
	case h.proc == nil, excluded, n.Annotations[weightNote] == "0", !selected:
		return never
	case n.Spec.Unschedulable, h.unfit != "":
		return stay
	}
	for _, s := range of {
		if s.Local && (s.Selector != "" || len(h.w.slicesOf(s.Key)) > 0) && !h.w.serves(s.Key, h.name) {
			return stay
		}
	}
	return fit
}

func (p *process) advertises(a netip.Addr) bool {
	for _, r := range p.routes.have {
		if r.Prefix.Addr() == a {
			return true
		}
	}
	return false
}

// uneven says which node has too many addresses, if another that suits one of them has too few.
func (w *simWorld) uneven() string {
	load := map[string][]*pintlev1.Address{}
	for _, o := range w.all("addresses") {
		o := o.(*pintlev1.Address)
		load[o.Status.Holder] = append(load[o.Status.Holder], o)
	}
	_, users := w.book()
	share := func(h *host, more int) float64 { return float64(len(load[h.name])+more) / float64(h.weight()) }
	for _, from := range w.hosts {
		for _, to := range w.hosts {
			if to.proc == nil || from.proc == nil || from.priority() != to.priority() || from.weight() == 0 || to.weight() == 0 || share(from, 0) <= unevenBy*share(to, 0) || share(from, -1) < share(to, 1) {
				continue
			}
			for _, o := range load[from.name] {
				var of []*Service
				for _, r := range o.Spec.Services {
					of = append(of, users[r.UID])
				}
				if to.suits(o, of) == fit {
					return fmt.Sprintf("%s has %d addresses and %s %d, which suits %s", from.name, len(load[from.name]), to.name, len(load[to.name]), o.Name)
				}
			}
		}
	}
	return ""
}

func (h *host) node() *NodeInfo { return readNode(h.w.find("nodes", h.name).(*corev1.Node)) }
func (h *host) weight() int     { return h.node().Weight }
func (h *host) priority() int   { return h.node().Priority }
