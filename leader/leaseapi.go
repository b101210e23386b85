package leader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

// A leaseAPI is the Lease objects of a namespace through one API server. Its
// calls end with their context. Get returns nil, nil when there is no such object.
type leaseAPI interface {
	Get(ctx context.Context, name string) (*coordinationv1.Lease, error)
	Put(ctx context.Context, o *coordinationv1.Lease) (*coordinationv1.Lease, error)
	DryPut(ctx context.Context, o *coordinationv1.Lease) error // stores nothing
	Watch(ctx context.Context, name string) (watch.Interface, error)
	List(ctx context.Context, group string) (*coordinationv1.LeaseList, error)      // those with the label
	WatchGroup(ctx context.Context, group, version string) (watch.Interface, error) // from what a List showed on
	Servers(ctx context.Context) ([]string, error)                                  // base URLs of all API servers
}

// restAPI is a leaseAPI by HTTPS.
type restAPI struct {
	lease     rest.Interface // coordination.k8s.io/v1
	slice     rest.Interface // discovery.k8s.io/v1
	namespace string
}

var leaseScheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{coordinationv1.AddToScheme, discoveryv1.AddToScheme} {
		if err := add(s); err != nil {
			panic("add to scheme: " + err.Error()) // fixed types
		}
	}
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	return s
}()

// openAPI makes a client of one API server, with connections of its own.
func openAPI(c *rest.Config, server, namespace string) (leaseAPI, error) {
	c = rest.CopyConfig(c)
	c.Host, c.APIPath = server, "/apis"
	c.QPS, c.RateLimiter = -1, nil
	c.NegotiatedSerializer = serializer.NewCodecFactory(leaseScheme).WithoutConversion()
	c.ContentType = "application/json"
	hc, err := rest.HTTPClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("reach API server %s: %w", server, err)
	}
	a := &restAPI{namespace: namespace}
	if a.lease, err = clientOf(c, coordinationv1.SchemeGroupVersion, hc); err != nil {
		return nil, fmt.Errorf("reach API server %s: %w", server, err)
	}
	if a.slice, err = clientOf(c, discoveryv1.SchemeGroupVersion, hc); err != nil {
		return nil, fmt.Errorf("reach API server %s: %w", server, err)
	}
	return a, nil
}

func clientOf(c *rest.Config, gv schema.GroupVersion, hc *http.Client) (rest.Interface, error) {
	c = rest.CopyConfig(c)
	c.GroupVersion = &gv
	return rest.RESTClientForConfigAndClient(c, hc)
}

// Get reads as the quorum has it: without a resourceVersion.
func (a *restAPI) Get(ctx context.Context, name string) (*coordinationv1.Lease, error) {
	o := &coordinationv1.Lease{}
	err := a.lease.Get().Namespace(a.namespace).Resource("leases").Name(name).MaxRetries(0).Do(ctx).Into(o)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return o, err
}

func (a *restAPI) Put(ctx context.Context, o *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	out := &coordinationv1.Lease{}
	err := a.lease.Put().Namespace(a.namespace).Resource("leases").Name(o.Name).MaxRetries(0).Body(o).Do(ctx).Into(out)
	return out, err
}

// DryPut asks whether Put would be allowed.
func (a *restAPI) DryPut(ctx context.Context, o *coordinationv1.Lease) error {
	return a.lease.Put().Namespace(a.namespace).Resource("leases").Name(o.Name).MaxRetries(0).
		VersionedParams(&metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}}, metav1.ParameterCodec).Body(o).Do(ctx).Error()
}

func (a *restAPI) Watch(ctx context.Context, name string) (watch.Interface, error) {
	return a.watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
}

// List reads as the quorum has it: without a resourceVersion.
func (a *restAPI) List(ctx context.Context, group string) (*coordinationv1.LeaseList, error) {
	o := &coordinationv1.LeaseList{}
	err := a.lease.Get().Namespace(a.namespace).Resource("leases").MaxRetries(0).
		VersionedParams(&metav1.ListOptions{LabelSelector: groupLabel + "=" + group}, metav1.ParameterCodec).Do(ctx).Into(o)
	return o, err
}

func (a *restAPI) WatchGroup(ctx context.Context, group, version string) (watch.Interface, error) {
	return a.watch(ctx, metav1.ListOptions{LabelSelector: groupLabel + "=" + group, ResourceVersion: version})
}

func (a *restAPI) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	return a.lease.Get().Namespace(a.namespace).Resource("leases").MaxRetries(0).VersionedParams(&o, metav1.ParameterCodec).Watch(ctx)
}

// Servers reads what the API servers say of themselves.
func (a *restAPI) Servers(ctx context.Context) ([]string, error) {
	o := &discoveryv1.EndpointSlice{}
	err := a.slice.Get().Namespace("default").Resource("endpointslices").Name("kubernetes").MaxRetries(0).Do(ctx).Into(o)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, p := range o.Ports {
		if p.Port == nil {
			continue
		}
		for _, e := range o.Endpoints {
			for _, text := range e.Addresses {
				if addr, err := netip.ParseAddr(text); err == nil && *p.Port > 0 && *p.Port < 1<<16 {
					out = append(out, "https://"+netip.AddrPortFrom(addr, uint16(*p.Port)).String())
				}
			}
		}
	}
	return out, nil
}

// final reports whether another API server would say the same. One that starts
// forbids everything until it has read the roles.
func final(err error) bool {
	return err == nil || apierrors.IsConflict(err) || apierrors.IsInvalid(err) || apierrors.IsAlreadyExists(err) || apierrors.IsBadRequest(err)
}

// refused reports whether an API server answered and does not let this node in.
func refused(err error) bool { return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) }

// A KubeServer is what is known of one API server.
type KubeServer struct {
	URL   string    `json:"url"`
	Seen  time.Time `json:"seen,omitzero"` // when it last answered
	Error string    `json:"error,omitempty"`
}

// apiServer is one API server and how it fares.
type apiServer struct {
	url string
	api leaseAPI

	seen    time.Time
	err     error
	shunned time.Time // until then the others are asked first
	fails   int
}

// Times of calls to API servers.
const (
	shun     = 5 * time.Second
	maxShun  = 30 * time.Second
	maxTries = 4 // of one call
)

// apiServers are all API servers, those that are asked first in front. Safe for
// concurrent use.
type apiServers struct {
	open  func(url string) (leaseAPI, error)
	avoid []netip.Addr

	mu      sync.Mutex // guards what follows
	list    []*apiServer
	current string // that answered last
}

// add puts further servers at the end.
func (s *apiServers) add(urls []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range urls {
		if slices.ContainsFunc(s.list, func(x *apiServer) bool { return x.url == u }) || s.shared(u) {
			continue
		}
		api, err := s.open(u)
		if err != nil {
			return err
		}
		s.list = append(s.list, &apiServer{url: u, api: api})
	}
	return nil
}

// shared reports whether a URL leads to an address that this cluster moves
// about: whoever needs it to find the API server cannot bring it up.
func (s *apiServers) shared(text string) bool {
	u, err := url.Parse(text)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(u.Hostname())
	return err == nil && slices.Contains(s.avoid, addr.Unmap())
}

// next is the server to ask, other than those asked already unless there is no
// other.
func (s *apiServers) next(asked []*apiServer) *apiServer {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	count := func(x *apiServer) (n int) {
		for _, a := range asked {
			if a == x {
				n++
			}
		}
		return n
	}
	var best *apiServer
	for _, x := range s.list {
		switch {
		case best == nil:
			best = x
		case count(x) != count(best):
			if count(x) < count(best) {
				best = x
			}
		case best.shunned.After(now) && x.shunned.Before(best.shunned):
			best = x
		}
	}
	return best
}

// note takes the outcome of a call. slow is a call that has none yet.
func (s *apiServers) note(x *apiServer, err error, slow bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slow && final(err) {
		x.seen, x.err, x.fails, x.shunned = time.Now(), nil, 0, time.Time{}
		s.current = x.url
		return
	}
	if !slow {
		x.err = err
	} else if x.err == nil {
		x.err = errors.New("no answer yet")
	}
	x.shunned = time.Now().Add(min(shun<<min(x.fails, 3), maxShun))
	x.fails++
}

func (s *apiServers) status() (current string, out []KubeServer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.list {
		k := KubeServer{URL: x.url, Seen: x.seen}
		if x.err != nil {
			k.Error = x.err.Error()
		}
		out = append(out, k)
	}
	return s.current, out
}

// said is what one try came to.
type said[R any] struct {
	server *apiServer
	answer R
	err    error
}

// call asks one server after another until one gives a final answer: the next at
// once after an error, and after patience beside one that is silent. The others
// are let go when it returns. It fails with the last error, or with that of a server
// that answered and refused.
func call[R any](ctx context.Context, s *apiServers, patience time.Duration, do func(context.Context, leaseAPI) (R, error)) (said[R], error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan said[R], maxTries)
	var asked []*apiServer
	try := func() bool {
		x := s.next(asked)
		if x == nil || len(asked) == maxTries {
			return false
		}
		asked = append(asked, x)
		go func() {
			o, err := do(ctx, x.api)
			results <- said[R]{x, o, err}
		}()
		return true
	}
	if !try() {
		return said[R]{}, errors.New("no API server is known")
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var worst *said[R] // that says most about why
	for pending := 1; ; {
		select {
		case o := <-results:
			pending--
			if worst == nil || refused(o.err) || !refused(worst.err) {
				worst = &o
			}
			if ctx.Err() == nil || o.err == nil {
				s.note(o.server, o.err, false)
			}
			if final(o.err) {
				return o, o.err
			}
			if s.fresh(asked) && try() {
				pending++
			}
			if pending == 0 {
				return *worst, fmt.Errorf("%s: %w", worst.server.url, worst.err)
			}
		case <-timer.C:
			s.note(asked[len(asked)-1], nil, true)
			if try() {
				pending++
			}
			patience *= 2
			timer.Reset(patience)
		}
	}
}

// discover reads the list of API servers now and then, until ctx ends.
func (s *apiServers) discover(ctx context.Context, log *slog.Logger) {
	for ctx.Err() == nil {
		wait := discoverTime
		x := s.next(nil)
		limit, cancel := context.WithTimeout(ctx, 5*time.Second)
		urls, err := x.api.Servers(limit)
		cancel()
		if err == nil {
			err = s.add(urls)
		}
		if err != nil {
			wait = probeTime
			log.Debug("cannot read the list of API servers", "server", x.url, "err", err)
		}
		sleep(ctx, wait)
	}
}

// fresh reports whether there is a server that was not asked yet.
func (s *apiServers) fresh(asked []*apiServer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.list, func(x *apiServer) bool { return !slices.Contains(asked, x) })
}
