package service

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
	"github.com/pintle-lb/pintle/leader"
)

// someFacts are those of a cluster whose nodes are all well: in epoch 3, with a link that has 192.0.2.0/24.
func someFacts(nodes ...string) *Facts {
	f := &Facts{Node: nodes[0], Rules: Rules{Class: "pintle.dev/lb", Unclassed: true}, Services: map[ipam.Key]*Service{}, Slices: map[ipam.Key]map[string]*Endpoints{},
		Nodes: map[string]*NodeInfo{}, Namespaces: map[string]map[string]string{}, Pools: map[string]*Pool{}, Records: map[netip.Addr]*Record{}, Roll: map[string]Fellow{}}
	for _, n := range nodes {
		f.Nodes[n] = &NodeInfo{Name: n, Weight: 1, Labels: map[string]string{"zone": n[:1]}}
		f.Roll[n] = Fellow{leader.RollMember{Node: n, Epoch: 3, Alive: true}, Word{Links: []Link{{Name: "eth0", Subnets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}}}}
	}
	f.Pools["main"] = &Pool{Pool: ipam.Pool{Name: "main"}, Object: &pintlev1.AddressPool{}}
	return f
}

// speaks changes what a node says of itself.
func (f *Facts) speaks(node string, change func(*Fellow)) {
	m := f.Roll[node]
	change(&m)
	f.Roll[node] = m
}

var web = ipam.Key{Namespace: "shop", Name: "web"}

// someRecord is an address of pool main for shop/web.
func someRecord(addr, wanted, holder string, epoch int64) *Record {
	o := &pintlev1.Address{Spec: pintlev1.AddressSpec{Address: addr, Pool: "main", Wanted: wanted, Services: []pintlev1.ServiceRef{{Namespace: web.Namespace, Name: web.Name}}},
		Status: pintlev1.AddressStatus{Holder: holder, Epoch: epoch, Turn: 1, Reason: "as before"}}
	a := netip.MustParseAddr(addr)
	o.Name = objectName(a)
	return &Record{Addr: a, Object: o, Version: 1}
}

// endpoints says where ready endpoints of shop/web are, and where some serve until they end.
func (f *Facts) endpointsAt(ready, ending map[string]int) {
	e := &Endpoints{Service: web, Ready: ready, Serving: map[string]int{}}
	for _, m := range []map[string]int{ready, ending} {
		for n, c := range m {
			e.Serving[n] += c
		}
	}
	f.Slices[web] = map[string]*Endpoints{"web-1": e}
}

func TestSuits(t *testing.T) {
	local := func(f *Facts) { f.Services[web] = &Service{Key: web, Type: true, Local: true, Selector: "app=web"} }
	for _, c := range []struct {
		name   string
		change func(f *Facts, r *Record)
		want   grade
		why    string
	}{
		{"well", func(*Facts, *Record) {}, fit, ""},
		{"no such node", func(f *Facts, _ *Record) { delete(f.Nodes, "n1") }, never, "is no node of the cluster"},
		{"no Pintle", func(f *Facts, _ *Record) { delete(f.Roll, "n1") }, never, "does not renew its Lease"},
		{"dead", func(f *Facts, _ *Record) { f.speaks("n1", func(m *Fellow) { m.Alive = false }) }, never, "does not renew its Lease"},
		{"excluded", func(f *Facts, _ *Record) { f.Nodes["n1"].Excluded = true }, never, "has the label " + excludeLabel},
		{"weight 0", func(f *Facts, _ *Record) { f.Nodes["n1"].Weight = 0 }, never, "has weight 0"},
		{"selected", func(f *Facts, _ *Record) {
			f.Pools["main"].Nodes = ipam.Selector{{Key: "zone", Op: ipam.In, Values: []string{"n"}}}
		}, fit, ""},
		{"not selected", func(f *Facts, _ *Record) {
			f.Pools["main"].Nodes = ipam.Selector{{Key: "zone", Op: ipam.NotIn, Values: []string{"n"}}}
		}, never, "is not selected by pool main"},
		{"pool gone", func(f *Facts, _ *Record) { delete(f.Pools, "main") }, fit, ""},
		{"no link has its subnet", func(f *Facts, r *Record) { r.Addr = netip.MustParseAddr("198.51.100.1") }, never, "has no link for it"},
		{"a default route", func(f *Facts, r *Record) {
			r.Addr = netip.MustParseAddr("198.51.100.1")
			f.speaks("n1", func(m *Fellow) { m.Word.Links = []Link{{Name: "eth0", Default: true}} })
		}, fit, ""},
		{"a link that its pool names", func(_ *Facts, r *Record) {
			r.Addr, r.Object.Spec.Links = netip.MustParseAddr("198.51.100.1"), []string{"eth*"}
		}, fit, ""},
		{"another link that its pool names", func(_ *Facts, r *Record) { r.Object.Spec.Links = []string{"lan"} }, never, "has no link for it"},
		{"links: auto", func(_ *Facts, r *Record) { r.Object.Spec.Links = []string{"auto"} }, fit, ""},
		{"leaving", func(f *Facts, _ *Record) { f.speaks("n1", func(m *Fellow) { m.Word.Leaving = true }) }, stay, "is stopping"},
		{"cordoned", func(f *Facts, _ *Record) { f.Nodes["n1"].Cordoned = true }, stay, "is cordoned"},
		{"unfit", func(f *Facts, _ *Record) { f.speaks("n1", func(m *Fellow) { m.Word.Unfit = "ill" }) }, stay, "is unfit: ill"},
		{"cordoned and dead", func(f *Facts, _ *Record) {
			f.Nodes["n1"].Cordoned = true
			f.speaks("n1", func(m *Fellow) { m.Alive = false })
		}, never, "does not renew its Lease"},
		{"Local, ready here", func(f *Facts, _ *Record) { local(f); f.endpointsAt(map[string]int{"n1": 1, "n2": 1}, nil) }, fit, ""},
		{"Local, ready elsewhere", func(f *Facts, _ *Record) { local(f); f.endpointsAt(map[string]int{"n2": 1}, nil) }, stay, "has no ready endpoint of shop/web"},
		{"Local, ending here and ready elsewhere", func(f *Facts, _ *Record) { local(f); f.endpointsAt(map[string]int{"n2": 1}, map[string]int{"n1": 1}) }, stay, "has no ready endpoint"},
		{"Local, ending here and ready nowhere", func(f *Facts, _ *Record) { local(f); f.endpointsAt(nil, map[string]int{"n1": 1}) }, fit, ""},
		{"Local, no endpoints", func(f *Facts, _ *Record) { local(f) }, stay, "has no ready endpoint"},
		{"Local, in another of its slices", func(f *Facts, _ *Record) {
			local(f)
			f.endpointsAt(map[string]int{"n2": 1}, nil)
			f.Slices[web]["web-2"] = &Endpoints{Ready: map[string]int{"n1": 1}}
		}, fit, ""},
		{"Local, without a selector and endpoints", func(f *Facts, _ *Record) { local(f); f.Services[web].Selector = "" }, fit, ""},
		{"Local, without a selector, endpoints elsewhere", func(f *Facts, _ *Record) {
			local(f)
			f.Services[web].Selector = ""
			f.endpointsAt(map[string]int{"n2": 1}, nil)
		}, stay, "has no ready endpoint"},
		{"Cluster, no endpoints", func(f *Facts, _ *Record) { local(f); f.Services[web].Local = false }, fit, ""},
		{"shared with one that is Local", func(f *Facts, r *Record) {
			r.Object.Spec.Services = append(r.Object.Spec.Services, pintlev1.ServiceRef{Namespace: "shop", Name: "other"})
			f.Services[web] = &Service{Key: web, Type: true}
			f.Services[ipam.Key{Namespace: "shop", Name: "other"}] = &Service{Type: true, Local: true, Selector: "app=other"}
		}, stay, "has no ready endpoint of shop/other"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, r := someFacts("n1", "n2"), someRecord("192.0.2.1", "", "", 0)
			c.change(f, r)
			got, why := f.suits(r, "n1")
			if got != c.want || !strings.HasPrefix(why, c.why) || (why == "") != (c.why == "") {
				t.Errorf("grade %d, %q; want %d, %q", got, why, c.want, c.why)
			}
		})
	}
}

func TestChoose(t *testing.T) {
	cordon := func(nodes ...string) func(f *Facts) {
		return func(f *Facts) {
			for _, n := range nodes {
				f.Nodes[n].Cordoned = true
			}
		}
	}
	exclude := func(nodes ...string) func(f *Facts) {
		return func(f *Facts) {
			for _, n := range nodes {
				f.Nodes[n].Excluded = true
			}
		}
	}
	both := func(fs ...func(*Facts)) func(*Facts) {
		return func(f *Facts) {
			for _, g := range fs {
				g(f)
			}
		}
	}
	for _, c := range []struct {
		name           string
		wanted, holder string
		epoch          int64
		load           map[string]int
		change         func(f *Facts)
		node, reason   string
	}{
		{"nobody had it: the fewest", "", "", 0, map[string]int{"n1": 2, "n2": 1, "n3": 2}, nil, "n2", "it had the fewest addresses for its weight of 3 nodes that suit"},
		{"for its weight", "", "", 0, map[string]int{"n1": 2, "n2": 1, "n3": 2}, func(f *Facts) { f.Nodes["n3"].Weight = 5 }, "n3", "it had the fewest addresses for its weight of 3"},
		{"the highest priority", "", "", 0, map[string]int{"n1": 9}, func(f *Facts) { f.Nodes["n1"].Priority = 1 }, "n1", "it is the only node that suits"},
		{"the highest priority with a node that suits", "", "", 0, nil, both(cordon("n1", "n2"), func(f *Facts) { f.Nodes["n1"].Priority = 1 }), "n3", "it is the only node that suits"},
		{"a negative priority", "", "", 0, map[string]int{"n1": 1, "n2": 2, "n3": 9}, func(f *Facts) { f.Nodes["n1"].Priority = -1; f.Nodes["n2"].Priority = -1 }, "n3", "it is the only node"},
		{"it stays", "n1", "n1", 3, map[string]int{"n1": 9}, nil, "n1", "as before"},
		{"it stays though another is preferred", "n1", "n1", 3, nil, func(f *Facts) { f.Nodes["n2"].Priority = 5 }, "n1", "as before"},
		{"it stays where it is held and not wanted", "", "n2", 3, map[string]int{"n2": 9}, nil, "n2", "as before"},
		{"on its way", "n2", "n1", 3, nil, nil, "n2", "as before"},
		{"on its way to one that cannot have it any more", "n2", "n1", 3, nil, exclude("n2"), "n1", "it stays: n2 cannot have it"},
		{"on its way to one that cannot, from one that cannot", "n2", "n1", 3, nil, exclude("n1", "n2"), "n3", "it is the only node that suits; n2 has the label " + excludeLabel},
		{"cordoned", "n1", "n1", 3, map[string]int{"n2": 1}, cordon("n1"), "n3", "it had the fewest addresses for its weight of 2 nodes that suit; n1 is cordoned"},
		{"all cordoned", "n1", "n1", 3, nil, cordon("n1", "n2", "n3"), "n1", "as before"},
		{"all cordoned, and it was nowhere", "", "", 0, nil, cordon("n1", "n2", "n3"), "", "no node suits: n1 is cordoned; n2 is cordoned; n3 is cordoned"},
		{"excluded, and the others cordoned", "n1", "n1", 3, nil, both(exclude("n1"), cordon("n2", "n3")), "", "no node suits: n1 has the label"},
		{"fenced", "n1", "n1", 2, map[string]int{"n2": 1}, func(f *Facts) { f.speaks("n1", func(m *Fellow) { m.Alive, m.Fenced = false, true }) }, "n3",
			"it had the fewest addresses for its weight of 2 nodes that suit; n1's epoch 2 is over"},
		{"back in a new epoch", "n1", "n1", 2, map[string]int{"n1": 9}, nil, "n1", "as before"},
		{"its former holder was fenced on the way", "n2", "n1", 2, nil, exclude("n2"), "n1", "it had the fewest addresses for its weight of 2 nodes that suit; it was on n1, whose epoch 2 is over"},
		{"nobody runs", "", "", 0, nil, func(f *Facts) { f.Roll = nil }, "", "no node runs Pintle"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, r := someFacts("n1", "n2", "n3"), someRecord("192.0.2.1", c.wanted, c.holder, c.epoch)
			if c.change != nil {
				c.change(f)
			}
			load := map[string]int{}
			for n, l := range c.load {
				load[n] = l
			}
			got := f.choose(r, load, "")
			if got.Node != c.node || !strings.HasPrefix(got.Reason, c.reason) {
				t.Errorf("%q since %q; want %q since %q", got.Node, got.Reason, c.node, c.reason)
			}
		})
	}
}

// TestReasonIsShort: an object that says why no node of a large cluster has it stays small.
func TestReasonIsShort(t *testing.T) {
	var nodes []string
	for i := range 500 {
		nodes = append(nodes, fmt.Sprintf("node-%d.example", i))
	}
	f := someFacts(nodes...)
	for _, n := range nodes {
		f.Nodes[n].Cordoned = true
	}
	if why := f.nowhere(someRecord("192.0.2.1", "", "", 0)); len(why) > maxReason || !strings.HasSuffix(why, " ...") {
		t.Errorf("%d letters: %s", len(why), why)
	}
}

// TestBestSpreads: what one node leaves goes to all others, also in the first moment, when all have the same.
func TestBestSpreads(t *testing.T) {
	f := someFacts("n1", "n2", "n3", "n4")
	f.Nodes["n1"].Cordoned = true
	got := map[string]int{}
	for i := range 90 {
		n, _ := f.best(someRecord(fmt.Sprintf("192.0.2.%d", i+1), "", "", 0), map[string]int{"n2": 7, "n3": 7, "n4": 7}, "")
		got[n]++
	}
	for _, n := range []string{"n2", "n3", "n4"} {
		if got[n] < 15 {
			t.Errorf("%d of 90 come to %s: %v", got[n], n, got)
		}
	}
	if got["n1"] > 0 {
		t.Errorf("%d come to a node that is cordoned", got["n1"])
	}
}
