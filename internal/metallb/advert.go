package metallb

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/poolfile"
)

// An advert is an L2Advertisement or a BGPAdvertisement, or the protocol of a pool of former releases.
type advert struct {
	*fields
	bgp           bool
	pools         []string
	poolSelectors []metav1.LabelSelector
	only          *pool                  // it belongs to this one alone
	nodes         []metav1.LabelSelector // none: every node

	links []string // none: every interface

	communities, large []string
	pref               int64
	wide               bool     // it is of prefixes, not of addresses
	peers              []string // none: every router
}

// selects reports whether it announces a pool.
func (a *advert) selects(p *pool) bool {
	if a.only != nil {
		return a.only == p
	}
	if len(a.pools)+len(a.poolSelectors) == 0 {
		return true
	}
	return slices.Contains(a.pools, p.name) || slices.ContainsFunc(a.poolSelectors, func(s metav1.LabelSelector) bool {
		sel, err := metav1.LabelSelectorAsSelector(&s)
		return err == nil && sel.Matches(labels.Set(p.labels))
	})
}

// alike reports whether both are told to the same routers by the same nodes, with the same communities.
func (a *advert) alike(o *advert) bool {
	same := func(x, y []string) bool {
		return slices.Equal(slices.Sorted(slices.Values(x)), slices.Sorted(slices.Values(y)))
	}
	return same(a.peers, o.peers) && same(a.communities, o.communities) && same(a.large, o.large) && same(apply(a.nodes, selectorText), apply(o.nodes, selectorText))
}

// checkNames tells of pools that are not there.
func (a *advert) checkNames(pools []*pool) {
	for _, name := range a.pools {
		if !slices.ContainsFunc(pools, func(p *pool) bool { return p.name == name }) {
			a.note("ipAddressPools", name, "is no pool of the input: import it too, or this advertisement says nothing of it")
		}
	}
}

// common reads what both kinds of advertisement have.
func (a *advert) common() {
	a.pools, a.poolSelectors = a.texts("ipAddressPools"), a.selectors("ipAddressPoolSelectors")
	a.nodes = a.selectors("nodeSelectors")
	a.told("serviceSelectors", "Pintle announces a whole pool: make a pool of its own for these Services, with serviceSelector")
}

func (d *draft) readL2(o object) {
	a := &advert{fields: d.spec(o)}
	a.common()
	a.takeLinks()
	a.told("preferredNodeSelectors", "no selector prefers nodes here: annotate them with pintle.dev/priority (the highest is taken) or "+
		"pintle.dev/weight (0 to 100), for all addresses alike")
	a.done()
	d.adverts = append(d.adverts, a)
}

func (a *advert) takeLinks() {
	given := a.texts("interfaces")
	for _, l := range given {
		if !poolfile.IsLink(l) {
			a.note("interfaces", l, "is no interface on which anybody asks: it is left out")
			continue
		}
		a.links = append(a.links, l)
	}
	if len(given) == 0 {
		a.note("interfaces", "", "is not there, and MetalLB then answers on every interface of the node: "+
			"Pintle answers on the one that has the subnet of the address. "+
			"If the addresses are in no subnet of the nodes, name links in the pool")
	}
}

func (d *draft) readBGP(o object) {
	a := &advert{fields: d.spec(o), bgp: true}
	a.common()
	a.route()
	if a.peers = a.texts("peers"); len(a.peers) > 0 {
		a.note("peers", show(anyOf(a.peers)), "every router of a node hears of every pool: filter at the others, by prefix or community")
	}
	a.done()
	d.adverts = append(d.adverts, a)
}

// route reads what a route carries, and how long its prefix is.
func (a *advert) route() {
	for _, l := range []struct {
		key  string
		full int64
	}{{"aggregationLength", 32}, {"aggregationLengthV6", 128}} {
		if n, ok := a.number(l.key); ok && n != l.full {
			a.wide = true
			a.note(l.key, fmt.Sprint(n), "Pintle advertises each address by itself, as /%d: let the router make the wider route", l.full)
		}
	}
	if n, ok := a.number("localPref"); ok {
		if a.pref = n; n < 0 || n > 1<<32-1 {
			a.note("localPref", fmt.Sprint(n), "is not 0 to 4294967295")
			a.pref = 0
		}
	}
	for _, c := range a.texts("communities") {
		a.community(c)
	}
}

// community takes a community, or what a name stands for.
func (a *advert) community(text string) {
	value, named := a.d.aliases[text]
	if !named {
		value = text
	}
	if large, ok := strings.CutPrefix(value, "large:"); ok {
		if l, err := config.LargeCommunity(large); err == nil {
			a.large = append(a.large, fmt.Sprintf("%d:%d:%d", l[0], l[1], l[2]))
			return
		}
	} else if c, err := config.Community(value); err == nil {
		a.communities = append(a.communities, fmt.Sprintf("%d:%d", c>>16, c&0xffff))
		return
	}
	if named {
		a.note("communities", text, "stands for %s, which is no community: it is left out", value)
		return
	}
	a.note("communities", text, "is no community, and no Community of the input has that name: import it too. It is left out")
}

func (d *draft) readCommunity(o object) {
	f := d.spec(o)
	for _, c := range f.subs("communities") {
		name, value := c.text("name"), c.text("value")
		if _, twice := d.aliases[name]; twice {
			c.note("name", name, "is there twice: the first one is taken")
			continue
		}
		d.aliases[name] = value
		c.done()
	}
	f.done()
}
