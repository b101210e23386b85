package status

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/pintle-lb/pintle/internal/service"
)

// States of a node that serves Services.
const (
	Leaseless    State = "no lease"    // it may claim nothing
	Unfit        State = "unfit"       // no address is placed on it
	Serving      State = "serving"     // it takes addresses
	Coordinating State = "coordinator" // likewise, and it gives addresses to Services and nodes
)

// servicesState is state of a node that serves Services.
func (r *Report) servicesState() (State, string) {
	s := r.Services
	switch {
	case !s.Synced:
		return Starting, cmp.Or(strings.Join(s.Faults, "; "), "it reads what there is in the cluster")
	case s.Epoch == 0:
		return Leaseless, cmp.Or(r.Lease.Error, "it has no Lease yet, and claims nothing; it has to wait for as long as a Lease lasts")
	case s.Unfit != "":
		return Unfit, s.Unfit + "; its addresses are given to other nodes, if some suit"
	case s.Coordinates:
		return Coordinating, "it takes addresses, and gives addresses to Services and nodes"
	}
	return Serving, "it takes addresses; " + cmp.Or(s.Coordinator, "nobody") + " coordinates"
}

// maxShown is how many addresses, or Services, a text names.
const maxShown = 40

func (p *printer) services(r *Report) {
	s := r.Services
	p.line("lease      epoch %d, %.0f ms were left of %v; %s", s.Epoch, s.LeaseMs, r.Lease.Duration, cmp.Or(r.Lease.Error, "the API answers"))
	for _, f := range s.Faults {
		p.line("fault      %s", f)
	}
	for _, n := range s.Nodes {
		words := fmt.Sprintf("holds %d", n.Holds)
		switch {
		case !n.Alive:
			words += ", not alive"
		case !n.Suits:
			words += ", takes none: it " + n.Why
		}
		if n.Name == s.Coordinator {
			words += ", coordinates"
		}
		p.line("node       %-14s epoch %d, %s", n.Name, n.Epoch, words)
	}
	for _, pool := range s.Pools {
		p.line("pool       %-14s %s", pool.Name, cmp.Or(pool.Errors, fmt.Sprintf("%d used, %s free", pool.Used, cmp.Or(pool.Free, "?"))))
	}
	p.line("addresses  %d in the cluster, %d here, %d nowhere; %d Services", s.Total, len(s.Here), len(s.Nowhere), s.Services)
	p.addresses("address", s.Here)
	p.addresses("nowhere", s.Nowhere)
	p.addresses("elsewhere", s.Elsewhere)
	for i, w := range s.Waiting {
		if i == maxShown {
			p.line("waiting    ... and %d more: -o json shows all", len(s.Waiting)-i)
			break
		}
		p.line("waiting    %s: %s", w.Service, w.Why)
	}
}

func (p *printer) addresses(label string, list []service.AddressStatus) {
	for i, a := range list {
		if i == maxShown {
			p.line("%-10s ... and %d more: -o json shows all", label, len(list)-i)
			return
		}
		p.line("%-10s %s (%s, pool %s): %s", label, a.Address, a.Services, a.Pool, p.placeWords(a))
	}
}

// placeWords says where an address is, and why.
func (p *printer) placeWords(a service.AddressStatus) string {
	var words []string
	switch {
	case a.Claimed:
		words = append(words, "answered for here on "+strings.Join(a.Links, ", "))
	case a.Holder != "":
		words = append(words, "held by "+a.Holder)
	}
	if a.Advertised {
		words = append(words, "advertised to routers")
	}
	if a.Bound {
		words = append(words, "bound")
	}
	if a.Wanted != a.Holder && a.Wanted != "" {
		words = append(words, "to move to "+a.Wanted)
	}
	if !a.Since.IsZero() && a.Holder != "" {
		words = append(words, "for "+p.ago(a.Since))
	}
	if len(words) == 0 {
		words = []string{"no node holds it"}
	}
	return strings.Join(words, ", ") + ": " + cmp.Or(a.Reason, "no reason is noted")
}

var (
	servicesHeld    = desc("services_addresses_held", "Addresses of Services that this node holds or advertises.")
	servicesTotal   = desc("services_addresses", "Addresses of Services in the cluster.")
	servicesNowhere = desc("services_addresses_nowhere", "Addresses that some node should hold and none does.")
	servicesWaiting = desc("services_waiting", "Services that have not all they ask for.")
	servicesCount   = desc("services", "Services of type LoadBalancer that are Pintle's.")
	servicesLead    = desc("services_coordinator", "1 while this node gives addresses to Services and nodes.")
	servicesWrites  = desc("services_api_writes_total", "Writes of objects to the Kubernetes API, without the Lease's.")
	servicesEpoch   = desc("services_node_epoch", "The epoch of this node's Lease; 0 while it has none.")
	servicesLoad    = desc("services_node_addresses", "Addresses that each node holds, as this one knows.", "node")
	servicesFaults  = desc("services_faults", "What of the Kubernetes API does not work for this node now.")
)

func (m sink) services(s *service.Snapshot) {
	m.gauge(servicesHeld, float64(len(s.Here)))
	m.gauge(servicesTotal, float64(s.Total))
	m.gauge(servicesNowhere, float64(len(s.Nowhere)))
	m.gauge(servicesWaiting, float64(len(s.Waiting)))
	m.gauge(servicesCount, float64(s.Services))
	m.flag(servicesLead, s.Coordinates)
	m.count(servicesWrites, s.Writes)
	m.gauge(servicesEpoch, float64(s.Epoch))
	m.gauge(servicesFaults, float64(len(s.Faults)))
	for _, n := range s.Nodes {
		m.gauge(servicesLoad, float64(n.Holds), n.Name)
	}
	for _, a := range s.Here {
		m.flag(bound, a.Bound, a.Address.String())
		m.flag(claimed, a.Claimed, a.Address.String())
		m.flag(advertisedAddr, a.Advertised, a.Address.String())
	}
}
