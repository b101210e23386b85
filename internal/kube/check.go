package kube

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/client-go/rest"

	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/manifests"
)

// maxSkew is how far a clock may be off before it is said. Pintle counts time by a
// clock that nobody sets; certificates do not.
const maxSkew = time.Minute

// A Finding is something that is not as it should be.
type Finding struct {
	Path    string // the key of the configuration that it is about, "" for none
	Text    string
	Warning bool // the node can work all the same
}

// A Report is what a look at the API brought.
type Report struct {
	Findings []Finding
	Answered bool   // some API server let this node in
	Holder   string // whom the Lease names, "" for nobody
}

// Check asks the configured API servers whether they can be reached, whether
// this node may do there what it will have to, and what time it is. That is what
// the election by a Lease needs, unless the Lease has no name, and more rules; a
// right that is Optional and missing is a warning. It
// changes nothing. A request that is not answered ends after 5 s.
func Check(ctx context.Context, creds *rest.Config, k config.Kubernetes, l config.Lease, more ...manifests.Rule) Report {
	a, err := newAPI(creds)
	if err != nil {
		return Report{Findings: []Finding{{Path: "kubernetes", Text: err.Error()}}}
	}
	defer a.close()
	c := &check{api: a, lease: l}
	c.servers(ctx, k.Servers)
	switch {
	case c.server == "":
	case l.Name == "":
		c.rules(ctx, more)
	default:
		c.rules(ctx, append(manifests.LeaseRules(l.Namespace, l.Name), more...))
		c.holder(ctx)
	}
	return c.Report
}

type check struct {
	Report
	api    *api
	lease  config.Lease
	server string // that answered
}

func (c *check) add(warning bool, path, format string, args ...any) {
	c.Findings = append(c.Findings, Finding{Path: path, Text: fmt.Sprintf(format, args...), Warning: warning})
}

// servers looks which API servers answer, all at once. One is enough.
func (c *check) servers(ctx context.Context, urls []string) {
	var away []Finding
	for i, got := range c.versions(ctx, urls) {
		u := urls[i]
		if got.err != nil && !answered(got.err, http.StatusForbidden) { // else it knows us, and more is not asked
			away = append(away, Finding{Path: fmt.Sprintf("kubernetes.servers[%d]", i), Text: why(got.err), Warning: true})
			continue
		}
		if c.server == "" {
			c.server, c.Answered = u, true
		}
		c.clock(u, got.served, got.at)
	}
	if c.server == "" && len(away) > 0 {
		away[0].Warning = false
	}
	c.Findings = append(c.Findings, away...)
}

// sign is what showed that a server is there.
type sign struct {
	served, at time.Time // by its clock and by ours
	err        error
}

// versions asks all servers for what everybody may read.
func (c *check) versions(ctx context.Context, urls []string) []sign {
	signs := make([]sign, len(urls))
	var g errgroup.Group
	for i, u := range urls {
		g.Go(func() error {
			served, err := c.api.do(ctx, http.MethodGet, u, "/version", nil, nil)
			signs[i] = sign{served, time.Now(), err}
			return nil
		})
	}
	_ = g.Wait() // none returns an error
	return signs
}

// why is an error with what a person can do about it.
func why(err error) string {
	var host x509.HostnameError
	var ca x509.UnknownAuthorityError
	switch {
	case errors.As(err, &host):
		return fmt.Sprintf("%v (set kubernetes.serverName to a name in the certificate)", err)
	case errors.As(err, &ca):
		return fmt.Sprintf("%v (the kubeconfig, or the service account, has another cluster's CA)", err)
	case answered(err, http.StatusUnauthorized):
		return fmt.Sprintf("%v (the certificate or token has expired, or is another cluster's)", err)
	}
	return err.Error()
}

// clock compares the time of a server with this node's. The server's has whole
// seconds.
func (c *check) clock(server string, served, at time.Time) {
	if served.IsZero() {
		return
	}
	if off := at.Sub(served); off.Abs() > maxSkew {
		c.add(true, "", "the clock of this node is %s %s that of %s: certificates and tokens may be refused", off.Abs().Round(time.Second),
			map[bool]string{true: "ahead of", false: "behind"}[off > 0], server)
	}
}

// rules asks for each right one by one.
func (c *check) rules(ctx context.Context, rules []manifests.Rule) {
	for _, r := range rules {
		var missing []string
		for _, verb := range r.Verbs {
			ok, err := c.may(ctx, r, verb)
			if err != nil {
				c.add(true, "", "cannot ask for this node's rights: %s", why(err))
				return
			}
			if !ok {
				missing = append(missing, verb)
			}
		}
		if len(missing) > 0 {
			c.add(r.Optional, "", "%s", refusal(r, missing))
		}
	}
}

// may asks whether this node has a right.
func (c *check) may(ctx context.Context, r manifests.Rule, verb string) (bool, error) {
	resource, sub, _ := strings.Cut(r.Resource, "/")
	review := authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: r.Namespace, Group: r.Group, Version: "v1",
			Resource: resource, Subresource: sub, Name: r.Name, Verb: verb}}}
	review.APIVersion, review.Kind = "authorization.k8s.io/v1", "SelfSubjectAccessReview"
	var out authorizationv1.SelfSubjectAccessReview
	_, err := c.api.do(ctx, http.MethodPost, c.server, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review, &out)
	return out.Status.Allowed, err
}

// refusal says which rights are missing.
func refusal(r manifests.Rule, verbs []string) string {
	what, sub, _ := strings.Cut(r.Resource, "/")
	if r.Group != "" {
		what += "." + r.Group
	}
	if sub != "" {
		what += "/" + sub
	}
	if r.Name != "" {
		what += " " + r.Name
	}
	if r.Namespace == "" {
		return fmt.Sprintf("may not %s %s, %s: `pintle manifest rbac` prints the ClusterRole", strings.Join(verbs, ", "), what, r.Why)
	}
	return fmt.Sprintf("may not %s %s in %s, %s: `pintle manifest rbac` prints the Role", strings.Join(verbs, ", "), what, r.Namespace, r.Why)
}

// holder reads whom the Lease names. What hinders that has been said before.
func (c *check) holder(ctx context.Context) {
	var l coordinationv1.Lease
	path := fmt.Sprintf("/apis/coordination.k8s.io/v1/namespaces/%s/leases/%s", c.lease.Namespace, c.lease.Name)
	if _, err := c.api.do(ctx, http.MethodGet, c.server, path, nil, &l); err == nil && l.Spec.HolderIdentity != nil {
		c.Holder = *l.Spec.HolderIdentity
	}
}
