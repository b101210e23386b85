package service

import (
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

// serve brings a Service in order. It is not done as long as it waits for a write that is under way.
func (c *coordinator) serve(k ipam.Key) (done bool, out []Write) {
	s := c.Services[k]
	delete(c.refused, k)
	delete(c.hoping, k)
	if s == nil {
		delete(c.again, k)
		delete(c.vain, k)
		return true, nil
	}
	if !c.ours(s) {
		return true, c.forsake(s)
	}
	req, err := c.request(s)
	if err != nil {
		c.refused[k] = err.Error()
		return true, c.tell(s, c.addressesOf(s), "BadRequest", err.Error())
	}
	d := c.resolve(s, req)
	for _, a := range d.Drop {
		c.records.add(a)
	}
	for _, g := range d.Keep {
		if r := c.Records[g.Addr]; r != nil && r.Object.Spec.Pool != g.Pool {
			c.repool[g.Addr] = g.Pool
			c.records.add(g.Addr)
		}
	}
	if !d.OK() {
		c.refused[k] = ipam.Explain(d.Refused)
	} else if len(d.Missing) > 0 {
		c.hoping[k] = struct{}{}
	}
	done = true
	for _, g := range d.Take {
		w, ok := c.take(s, g)
		done = done && ok
		if ok {
			out = append(out, w)
		}
	}
	if len(d.Take) > 0 {
		return done, out // its status when they are there
	}
	return done, append(out, c.report(s, d)...)
}

// resolve says what a Service is to have. One that has nothing of ours, and asks for nothing, is given what its status says if it can
// have it: that is from a system that served it before, or from objects that were lost.
func (c *coordinator) resolve(s *Service, req ipam.Request) ipam.Decision {
	if len(req.Addresses) == 0 && len(req.Shown) > 0 && len(c.book.Of(s.Key, s.UID)) == 0 {
		again := req
		again.Addresses = req.Shown
		if d := c.book.Resolve(again); d.OK() {
			return d
		}
	}
	return c.book.Resolve(req)
}

// take makes an address a Service's: by creating its object, or as one more user of one that is there. It fails while that
// object is being written.
func (c *coordinator) take(s *Service, g ipam.Grant) (Write, bool) {
	ref := pintlev1.ServiceRef{Namespace: s.Namespace, Name: s.Name, UID: types.UID(s.UID)}
	if r := c.Records[g.Addr]; r != nil {
		if r.Writing || !g.Share {
			return Write{}, false
		}
		next := r.Object.DeepCopy()
		next.Spec.Services = append(next.Spec.Services, ref)
		next.Status.Services = namesOf(next.Spec.Services)
		c.dress(next)
		w := Write{Verb: Update, Object: next, Record: r, Key: r.Addr, Taker: s.Key}
		w.begin()
		return w, true
	}
	o := &pintlev1.Address{Spec: pintlev1.AddressSpec{Address: g.Addr.String(), Pool: g.Pool, Services: []pintlev1.ServiceRef{ref}}}
	o.Name = objectName(g.Addr)
	o.Status.Services = namesOf(o.Spec.Services)
	c.dress(o)
	r := &Record{Addr: g.Addr, Object: o}
	c.settle(r, o, "")
	c.book.Set(ipam.Holding{Addr: g.Addr, Pool: g.Pool, Users: []ipam.User{s.user()}})
	c.sharing([]ipam.User{s.user()})
	c.Records[g.Addr] = r
	w := Write{Verb: Create, Object: o, Record: r, Key: g.Addr, Taker: s.Key}
	w.begin()
	return w, true
}

// addressesOf are those that a Service has: noted for it in objects that are there.
func (c *coordinator) addressesOf(s *Service) (out []netip.Addr) {
	for _, h := range c.book.Of(s.Key, s.UID) {
		if r := c.Records[h.Addr]; r != nil && r.Version > 0 && r.Object.DeletionTimestamp == nil {
			out = append(out, h.Addr)
		}
	}
	slices.SortFunc(out, func(a, b netip.Addr) int { return order(s, a) - order(s, b) })
	return out
}

// order puts the family first that the Service has first.
func order(s *Service, a netip.Addr) int {
	family := ipam.IPv6
	if a.Is4() {
		family = ipam.IPv4
	}
	return slices.Index(s.Families, family)
}

func texts(addrs []netip.Addr) (out []string) {
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}

func namesOf(refs []pintlev1.ServiceRef) string {
	var out []string
	for _, r := range refs {
		out = append(out, r.Namespace+"/"+r.Name)
	}
	return strings.Join(out, ", ")
}
