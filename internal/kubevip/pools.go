package kubevip

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/pintle-lb/pintle/internal/poolfile"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

// poolData are the settings of the cloud provider's ConfigMap, if the object is one; nil else. It has no name of its own
// that is always the same.
func (o object) poolData() map[string]string {
	if o.Kind != "ConfigMap" {
		return nil
	}
	data, _ := o.Data.(map[string]any)
	out := map[string]string{}
	mine := false
	for k, v := range data {
		out[k] = strings.TrimSpace(fmt.Sprint(v))
		mine = mine || strings.HasPrefix(k, "cidr-") || strings.HasPrefix(k, "range-")
	}
	if !mine {
		return nil
	}
	return out
}

// poolMap is the one ConfigMap with pools; nil if there is none.
func poolMap(objects []object) (map[string]string, error) {
	var found []map[string]string
	for _, o := range objects {
		if data := o.poolData(); data != nil {
			found = append(found, data)
		}
	}
	switch len(found) {
	case 0:
		return nil, nil
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("there are %d ConfigMaps with pools: import them one at a time, each from a file of its own", len(found))
}

// provider tells what the cloud provider's own settings are here.
func (d *draft) provider(objects []object) {
	for _, o := range objects {
		for _, c := range o.containers() {
			if !isProvider(c) {
				continue
			}
			for _, s := range (workload{container: c}).settings() {
				d.providerSetting(s)
			}
		}
	}
}

func isProvider(c container) bool {
	return strings.HasPrefix(path.Base(c.Image), "kube-vip-cloud-provider")
}

// usualClass is what the cloud provider serves if it looks at classes and is told no name.
const usualClass = "kube-vip.io/kube-vip-class"

func (d *draft) providerSetting(s setting) {
	switch s.name {
	case "KUBEVIP_ENABLE_LOADBALANCERCLASS":
		if isTrue(s.value) {
			d.note(s, "services.unclassed: false does it in the configuration, and services.class is the class: %s, if nothing else is said", usualClass)
		}
	case "KUBEVIP_CUSTOM_LOADBALANCERCLASS_NAME":
		if s.value != "" {
			d.note(s, "is services.class in the configuration: Services keep their class")
		}
	}
}

// global is what the cloud provider calls the pool of every namespace that has none of its own.
const global = "global"

// ways is how the pools of Services are announced.
type ways struct {
	announce []string
	links    []string // for pools that say nothing
}

// pools makes pools of the cloud provider's ConfigMap.
func (d *draft) pools(data map[string]string, w ways, madeBy string) ([]byte, error) {
	var out []pintlev1.AddressPool
	taken := map[string][]poolfile.Span{} // by the key of a pool
	shared := false
	for _, key := range slices.Sorted(maps.Keys(data)) {
		s := setting{name: key, value: data[key]}
		kind, namespace, _ := strings.Cut(key, "-")
		switch {
		case kind == "cidr" || kind == "range":
			spans := d.lot(s, kind, namespace, data)
			if spans == nil {
				continue
			}
			p := d.pool(s, namespace, spans, data, w)
			if len(p.Spec.Addresses) == 0 {
				continue
			}
			shared = shared || namespace == global
			d.overlap(s, spans, taken)
			taken[key] = spans
			out = append(out, p)
		case kind == "interface":
			d.poolLink(s, namespace, data, w)
		default:
			d.poolSetting(s)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no pool came of it: write addresses as 192.0.2.10-192.0.2.20 or 192.0.2.0/24, and import it again")
	}
	if shared && len(out) > 1 {
		d.note(setting{name: global}, "when the pool of a namespace is full, its Services get addresses of this one, which kube-vip does not do: "+
			"if that must not be, give the pool %s a namespaceSelector", global)
	}
	return poolfile.Write(poolfile.Comments(madeBy), out)
}

// lot is the addresses of one key; nil if kube-vip, or Pintle, gives none of them. kube-vip looks for the prefixes of a
// namespace, then for those of all, and only then for ranges.
func (d *draft) lot(s setting, kind, namespace string, data map[string]string) []poolfile.Span {
	for _, wins := range []string{"cidr-" + namespace, "cidr-" + global} {
		if _, there := data[wins]; kind == "range" && there {
			d.note(s, "has no effect: %s is there too, and kube-vip looks at that first", wins)
			return nil
		}
	}
	if namespace == "" {
		d.note(s, "names no namespace: cidr-%s is for all of them", global)
		return nil
	}
	var out []poolfile.Span
	for text := range strings.SplitSeq(s.value, ",") {
		span, err := poolfile.ParseSpan(text)
		switch {
		case err != nil:
			d.note(s, "%v", err)
		case span.First.IsUnspecified() && span.First == span.Last:
			d.note(s, "stands for an address by DHCP, which Pintle does not do: give it addresses that the DHCP server leaves alone")
		default:
			out = append(out, span)
		}
	}
	return out
}

// ownFirst is the priority of a pool for one namespace: its Services get no addresses of the pool for all while it has some.
const ownFirst = 10

func (d *draft) pool(s setting, namespace string, spans []poolfile.Span, data map[string]string, w ways) pintlev1.AddressPool {
	p := poolfile.New(poolfile.Name(namespace))
	if p.Name != namespace {
		d.note(s, "%s is no name of a namespace: nothing is made of it", namespace)
		return p
	}
	if namespace != global {
		p.Spec.Namespaces, p.Spec.Priority = []string{namespace}, ownFirst
	}
	if isTrue(data["skip-end-ips-in-cidr"]) {
		spans, p.Spec.SkipFirstLast = withoutEnds(spans)
	}
	var problems []error
	p.Spec.Addresses, problems = poolfile.Spell(spans, p.Spec.SkipFirstLast)
	for _, err := range problems {
		d.note(s, "%v", err)
	}
	p.Spec.Announce, p.Spec.Links = w.announce, w.links
	for _, key := range []string{"interface-" + global, "interface-" + namespace} {
		if link := data[key]; poolfile.IsLink(link) && slices.Contains(w.announce, pintlev1.AnnounceARP) {
			p.Spec.Links = []string{link}
		}
	}
	return p
}

// withoutEnds leaves the first and the last address out of prefixes of IPv4, as kube-vip does: those of IPv6 become ranges,
// which keep theirs.
func withoutEnds(spans []poolfile.Span) ([]poolfile.Span, bool) {
	if !slices.ContainsFunc(spans, func(s poolfile.Span) bool { return s.Is4() && s.Prefix.IsValid() && s.Prefix.Bits() <= 30 }) {
		return spans, false
	}
	out := slices.Clone(spans)
	for i, s := range out {
		if !s.Is4() {
			out[i] = poolfile.Span{First: s.First, Last: s.Last}
		}
	}
	return out, true
}

// overlap tells of addresses that another pool has too.
func (d *draft) overlap(s setting, spans []poolfile.Span, taken map[string][]poolfile.Span) {
	for _, key := range slices.Sorted(maps.Keys(taken)) {
		if slices.ContainsFunc(spans, func(a poolfile.Span) bool { return slices.ContainsFunc(taken[key], a.Overlaps) }) {
			d.note(s, "has addresses in common with %s: an address belongs to one pool, so take them out of one", key)
		}
	}
}

// poolLink tells of interfaces that no pool has. Pools take the others.
func (d *draft) poolLink(s setting, namespace string, data map[string]string, w ways) {
	switch {
	case s.value == "":
		return
	case !poolfile.IsLink(s.value):
		d.note(s, "is no interface on which anybody asks: it is left out")
	case !slices.Contains(w.announce, pintlev1.AnnounceARP):
		d.note(s, "has no effect: pools are announced by BGP, on no interface")
	}
	_, prefixes := data["cidr-"+namespace]
	_, ranges := data["range-"+namespace]
	if !prefixes && !ranges && namespace != global {
		d.note(s, "namespace %s has no addresses of its own: make a pool for it, with namespaces and links", namespace)
	}
}

// poolSetting tells of all else.
func (d *draft) poolSetting(s setting) {
	switch kind, namespace, _ := strings.Cut(s.name, "-"); {
	case strings.HasPrefix(s.name, "allow-share-"):
		if on, err := strconv.ParseBool(s.value); on && err == nil {
			d.note(s, "no Service shares an address by itself: give those that do the annotation pintle.dev/share, with the same key, "+
				"before Pintle serves them, or only one of them has it")
		}
	case s.name == "skip-end-ips-in-cidr":
		if notBool(s.value) {
			d.note(s, "is neither true nor false: it is false with kube-vip and here")
		}
	case s.name == "search-order":
		if s.value == "desc" {
			d.note(s, "Pintle gives the lowest free address: ask for others by the annotation pintle.dev/addresses")
		}
	case kind == "kubevip" && namespace == "services": // what earlier releases noted there for themselves
	default:
		d.note(s, "%s", unknown)
	}
}
