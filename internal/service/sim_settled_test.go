package service

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

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
