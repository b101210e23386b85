package service

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pintle-lb/pintle/internal/ipam"
)

// assignedReason is the reason of a condition that is True.
const assignedReason = "Assigned"

// A vanity is a status that was written, and the version of the Service that came of it. To write the same again would be in vain: what
// is missing there the API server did not keep (ipMode, by default in Kubernetes 1.29), and what is too much is another controller's.
type vanity struct {
	version uint64
	addrs   string
	silent  bool // without a condition: what was said was taken back
}

// report tells a Service what it has, and what it cannot have.
func (c *coordinator) report(s *Service, d ipam.Decision) []Write {
	have := c.addressesOf(s)
	have = slices.DeleteFunc(have, func(a netip.Addr) bool { return slices.Contains(d.Drop, a) })
	_, badRoute := routeWanted(nil, s)
	switch {
	case !d.OK() && len(have) > 0:
		return c.tell(s, have, "Partly", c.refused[s.Key])
	case !d.OK():
		return c.tell(s, have, "NoAddress", c.refused[s.Key])
	case len(have) < len(d.Keep):
		return nil // the rest is being written
	}
	words := "it has " + strings.Join(append([]string{strings.Join(texts(have), ", ")}, d.Notes...), "; ")
	for _, a := range have {
		if r := c.Records[a]; r.wire() && r.Object.Spec.Wanted == "" && r.Object.Status.Holder == "" && !c.early {
			words += fmt.Sprintf("; nobody answers for %s: %s", a, r.Object.Status.Reason)
		}
	}
	if badRoute != nil {
		words += "; its routes go without what cannot be understood: " + badRoute.Error()
	}
	return c.tell(s, have, assignedReason, words)
}

// tell writes the status of a Service, if it is to be another one, and an Event if there is news.
func (c *coordinator) tell(s *Service, have []netip.Addr, reason, words string) []Write {
	cond := &metav1.Condition{Type: conditionType, Status: metav1.ConditionTrue, Reason: reason, Message: words, LastTransitionTime: metav1.NewTime(c.Wall)}
	if reason != assignedReason {
		cond.Status = metav1.ConditionFalse
	}
	news := true
	if was := s.Condition; was != nil {
		news = was.Message != cond.Message || was.Reason != cond.Reason
		if was.Status == cond.Status {
			cond.LastTransitionTime = was.LastTransitionTime
		}
	}
	if !news && (slices.Equal(s.Ingress, texts(have)) && s.VIPMode || c.vain[s.Key] == vanity{version: s.Version, addrs: strings.Join(texts(have), " ")}) {
		return nil
	}
	return []Write{{Verb: Status, Service: s, Addrs: have, Condition: cond, Event: news, Key: s.Key}}
}

// forsake takes back what Pintle said in the status of a Service that is not its own any more.
func (c *coordinator) forsake(s *Service) []Write {
	if s.Condition == nil || c.vain[s.Key] == (vanity{version: s.Version, silent: true}) {
		return nil
	}
	return []Write{{Verb: Status, Service: s, Key: s.Key}}
}
