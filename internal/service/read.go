package service

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

// The annotations that people write. The first of a row is ours; Services that came from another system may keep theirs.
var (
	poolNotes    = []string{"pintle.dev/pool", "metallb.io/address-pool", "metallb.universe.tf/address-pool"}
	addressNotes = []string{"pintle.dev/addresses", "kube-vip.io/loadbalancerIPs", "metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs"}
	shareNotes   = []string{"pintle.dev/share", "metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip"}
	ignoreNotes  = []string{"pintle.dev/ignore", "kube-vip.io/ignore"}
	routeNotes   = []string{communityNote, largeNote, prefNote}
)

const (
	communityNote = "pintle.dev/bgp-communities"
	largeNote     = "pintle.dev/bgp-large-communities"
	prefNote      = "pintle.dev/bgp-local-pref"
	weightNote    = "pintle.dev/weight"   // of a Node
	priorityNote  = "pintle.dev/priority" // likewise

	excludeLabel = "node.kubernetes.io/exclude-from-external-load-balancers"
)

// conditionType is that of the condition that says whether a Service has its addresses.
const conditionType = "pintle.dev/Assigned"

func note(notes map[string]string, names []string) (value, name string) {
	for _, n := range names {
		if v := strings.TrimSpace(notes[n]); v != "" {
			return v, n
		}
	}
	return "", names[0]
}

func ignored(s *Service) bool {
	v, _ := note(s.Notes, ignoreNotes)
	on, err := strconv.ParseBool(v)
	return on && err == nil
}

// readService keeps what matters.
func readService(o *corev1.Service) *Service {
	s := &Service{Key: ipam.Key{Namespace: o.Namespace, Name: o.Name}, UID: string(o.UID), Version: version(o.ResourceVersion),
		Type: o.Spec.Type == corev1.ServiceTypeLoadBalancer, Deleting: o.DeletionTimestamp != nil, VIPMode: true}
	for _, i := range o.Status.LoadBalancer.Ingress {
		s.Ingress = append(s.Ingress, i.IP)
		s.VIPMode = s.VIPMode && i.IPMode != nil && *i.IPMode == corev1.LoadBalancerIPModeVIP
	}
	if c := meta.FindStatusCondition(o.Status.Conditions, conditionType); c != nil {
		s.Condition = c.DeepCopy()
	}
	if !s.Type {
		return s
	}
	if o.Spec.LoadBalancerClass != nil {
		s.Class = *o.Spec.LoadBalancerClass
	}
	s.readSpec(&o.Spec)
	s.Labels = o.Labels
	for _, names := range [][]string{poolNotes, addressNotes, shareNotes, ignoreNotes, routeNotes} {
		for _, n := range names {
			if v := o.Annotations[n]; v != "" {
				if s.Notes == nil {
					s.Notes = map[string]string{}
				}
				s.Notes[n] = v
			}
		}
	}
	return s
}

func (s *Service) readSpec(spec *corev1.ServiceSpec) {
	s.AskedIP = spec.LoadBalancerIP
	s.Local = spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	s.Selector = metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: spec.Selector})
	if len(spec.Selector) == 0 {
		s.Selector = ""
	}
	for _, f := range spec.IPFamilies {
		s.Families = append(s.Families, map[corev1.IPFamily]ipam.Family{corev1.IPv4Protocol: ipam.IPv4, corev1.IPv6Protocol: ipam.IPv6}[f])
	}
	if len(s.Families) == 0 {
		s.Families = []ipam.Family{ipam.IPv4}
	}
	if spec.IPFamilyPolicy != nil {
		s.Policy = map[corev1.IPFamilyPolicy]ipam.Policy{corev1.IPFamilyPolicySingleStack: ipam.SingleStack,
			corev1.IPFamilyPolicyPreferDualStack: ipam.PreferDualStack, corev1.IPFamilyPolicyRequireDualStack: ipam.RequireDualStack}[*spec.IPFamilyPolicy]
	}
	for _, p := range spec.Ports {
		s.Ports = append(s.Ports, ipam.Port{Protocol: string(p.Protocol), Number: uint16(p.Port)})
	}
}

// request is what a Service asks for. The error is what a person must mend on the Service.
func (f *Facts) request(s *Service) (ipam.Request, error) {
	r := ipam.Request{User: s.user(), Labels: s.Labels, NamespaceLabels: f.Namespaces[s.Namespace], Families: s.Families, Policy: s.Policy}
	for _, text := range s.Ingress {
		if a, err := netip.ParseAddr(text); err == nil {
			r.Shown = append(r.Shown, a.Unmap())
		}
	}
	r.Pool, _ = note(s.Notes, poolNotes)
	text, from := note(s.Notes, addressNotes)
	if text == "" {
		text, from = s.AskedIP, "spec.loadBalancerIP"
	}
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		a, err := netip.ParseAddr(part)
		switch {
		case err != nil || a.Zone() != "":
			return r, fmt.Errorf("%s: %q is no address: write addresses with commas between them, as 192.0.2.10,2001:db8::10", from, part)
		case a.IsUnspecified():
			return r, fmt.Errorf("%s: %s asks for an address by DHCP, which Pintle does not do: leave it out, or name an address of a pool", from, part)
		}
		r.Addresses = append(r.Addresses, a.Unmap())
	}
	return r, nil
}

// user is a Service as a user of an address.
func (s *Service) user() ipam.User {
	u := ipam.User{Service: s.Key, UID: s.UID, Ports: s.Ports}
	u.ShareKey, _ = note(s.Notes, shareNotes)
	if s.Local {
		u.Backends = "Local " + s.Namespace + "/" + s.Selector
		if s.Selector == "" {
			u.Backends += "endpoints of " + s.Name
		}
	}
	return u
}

// readSlice keeps what matters.
func readSlice(o *discoveryv1.EndpointSlice) *Endpoints {
	e := &Endpoints{Service: ipam.Key{Namespace: o.Namespace, Name: o.Labels[discoveryv1.LabelServiceName]}, Ready: map[string]int{}, Serving: map[string]int{}}
	for _, p := range o.Endpoints {
		if p.NodeName == nil {
			continue
		}
		// Conditions that are absent: ready means ready; serving is as ready; terminating is not (API of EndpointSlice).
		ready := p.Conditions.Ready == nil || *p.Conditions.Ready
		serving := p.Conditions.Serving == nil && ready || p.Conditions.Serving != nil && *p.Conditions.Serving
		ending := p.Conditions.Terminating != nil && *p.Conditions.Terminating
		if ready && !ending {
			e.Ready[*p.NodeName]++
		}
		if serving {
			e.Serving[*p.NodeName]++
		}
	}
	return e
}

// maxWeight bounds the annotation.
const maxWeight = 100

// readNode keeps what matters.
func readNode(o *corev1.Node) *NodeInfo {
	n := &NodeInfo{Name: o.Name, Labels: o.Labels, Cordoned: o.Spec.Unschedulable || o.DeletionTimestamp != nil, Weight: 1}
	_, n.Excluded = o.Labels[excludeLabel]
	if w, err := strconv.Atoi(o.Annotations[weightNote]); err == nil {
		n.Weight = min(max(w, 0), maxWeight)
	}
	if p, err := strconv.Atoi(o.Annotations[priorityNote]); err == nil {
		n.Priority = p
	}
	for _, a := range o.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			n.Addresses = append(n.Addresses, ip.Unmap())
		}
	}
	return n
}

// readPool understands an AddressPool. What is wrong with it is in Errors.
func readPool(o *pintlev1.AddressPool) *Pool {
	p := &Pool{Object: o, Pool: ipam.Pool{Name: o.Name, AutoAssign: o.Spec.AutoAssign == nil || *o.Spec.AutoAssign, Priority: int(o.Spec.Priority),
		Namespaces: o.Spec.Namespaces}}
	for i, text := range o.Spec.Addresses {
		r, err := ipam.ParseRange(text, o.Spec.SkipFirstLast)
		if err != nil {
			p.Errors = append(p.Errors, fmt.Errorf("spec.addresses[%d]: %w", i, err))
			continue
		}
		p.Ranges = append(p.Ranges, r)
	}
	if o.Spec.NamespaceSelector != nil {
		s := p.selector("spec.namespaceSelector", o.Spec.NamespaceSelector)
		p.NamespaceSelector = &s
	}
	p.ServiceSelector = p.selector("spec.serviceSelector", o.Spec.ServiceSelector)
	p.Nodes = p.selector("spec.nodeSelector", o.Spec.NodeSelector)
	if _, err := routeOf(o.Spec.BGP); err != nil {
		p.Errors = append(p.Errors, fmt.Errorf("spec.bgp: %w", err))
	}
	if o.Spec.OnAPILoss == pintlev1.Keep && !announcesARP(o.Spec.Announce) {
		p.Errors = append(p.Errors, errors.New("spec.onAPILoss: keep is for addresses that one node answers for (announce: [arp]); routes stay while the API is away"))
	}
	return p
}

func announcesARP(announce []string) bool {
	return len(announce) == 0 || slices.Contains(announce, pintlev1.AnnounceARP)
}

// selector understands a label selector of Kubernetes.
func (p *Pool) selector(path string, s *metav1.LabelSelector) (out ipam.Selector) {
	if s == nil {
		return nil
	}
	for k, v := range s.MatchLabels {
		out = append(out, ipam.Requirement{Key: k, Op: ipam.In, Values: []string{v}})
	}
	ops := map[metav1.LabelSelectorOperator]ipam.Op{metav1.LabelSelectorOpIn: ipam.In, metav1.LabelSelectorOpNotIn: ipam.NotIn,
		metav1.LabelSelectorOpExists: ipam.Exists, metav1.LabelSelectorOpDoesNotExist: ipam.DoesNotExist}
	for i, e := range s.MatchExpressions {
		op, known := ops[e.Operator]
		if !known {
			p.Errors = append(p.Errors, fmt.Errorf("%s.matchExpressions[%d].operator: %q: want In, NotIn, Exists or DoesNotExist", path, i, e.Operator))
			continue
		}
		out = append(out, ipam.Requirement{Key: e.Key, Op: op, Values: e.Values})
	}
	return out
}

// version is a resourceVersion as a number, which API servers count up.
func version(text string) uint64 {
	v, _ := strconv.ParseUint(text, 10, 64) // 0 is older than any
	return v
}

// objectName is what the Address object of an address is called: IPv4 as it is written, IPv6 in full with dashes.
func objectName(a netip.Addr) string {
	if a.Is4() {
		return a.String()
	}
	return strings.ReplaceAll(a.StringExpanded(), ":", "-")
}

// addressOf is the address of an Address object; it is invalid if its name is another one's.
func addressOf(o *pintlev1.Address) netip.Addr {
	a, err := netip.ParseAddr(o.Spec.Address)
	if err != nil || objectName(a) != o.Name {
		return netip.Addr{}
	}
	return a
}
