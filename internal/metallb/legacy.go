package metallb

import (
	"fmt"

	"github.com/goccy/go-yaml"
)

// readLegacy reads the ConfigMap of v0.12 and before.
func (d *draft) readLegacy(o object) {
	data, _ := lookUp(o.all, "data").(yaml.MapSlice)
	v, err := parse([]byte(show(lookUp(data, "config"))))
	m, ok := v.(yaml.MapSlice)
	if err != nil || !ok {
		d.add(Note{o.file, o.place(), "data.config", "", fmt.Sprintf("is no YAML: %v", err)})
		return
	}
	f := &fields{d: d, file: o.file, place: o.place(), namespace: o.namespace, old: true, items: m, taken: map[string]bool{}}
	if c := f.sub("bgpCommunities"); c != nil {
		for _, i := range c.items {
			d.aliases[show(i.Key)] = show(i.Value)
		}
	}
	for _, p := range f.subs("bfdProfiles") {
		d.takeProfile(p, p.text("name"))
	}
	for _, p := range f.subs("addressPools") {
		d.takePool(p, p.text("name"), nil)
	}
	for i, p := range f.subs("peers") {
		d.takePeer(p, fmt.Sprintf("peer%d", i+1))
	}
	f.done()
}

// takeProtocol reads how a pool of former releases is announced.
func (d *draft) takeProtocol(p *pool) {
	switch protocol := p.text("protocol"); protocol {
	case "":
		if p.old {
			p.note("protocol", "", "is not there: bgp or layer2, and MetalLB does not start without")
		}
	case "layer2":
		a := &advert{fields: p.within(p.at, nil), only: p}
		a.takeLinks()
		d.adverts = append(d.adverts, a)
	case "bgp":
		subs := p.subs("bgpAdvertisements")
		if len(subs) == 0 {
			subs = []*fields{p.within(p.at, nil)}
		}
		for _, s := range subs {
			a := &advert{fields: s, only: p, bgp: true}
			a.route()
			a.done()
			d.adverts = append(d.adverts, a)
		}
	default:
		p.note("protocol", protocol, "is neither bgp nor layer2")
	}
}
