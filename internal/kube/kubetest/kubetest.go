// Package kubetest answers what Pintle asks of a Kubernetes API server, over
// HTTPS, for tests that need no real one: a Lease store with watches, reviews of
// rights, events, and nodes.
package kubetest

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pintle-lb/pintle/leader/pki"
)

// ServerName is what the certificate is for.
const ServerName = "kubernetes.default.svc"

// Token is what clients of [API.Kubeconfig] show.
const Token = "of-the-file"

// A Fault is how an API server misbehaves. It is zero for one that does not.
type Fault struct {
	Status int // of every answer
	Skew   time.Duration
	May    func(*authorizationv1.ResourceAttributes) bool // nil allows everything
}

// An API is the API of one cluster, whichever servers it has.
type API struct {
	t   testing.TB
	dir string // certificates

	mu      sync.Mutex // guards what follows
	changed *sync.Cond
	fault   Fault
	lease   *coordinationv1.Lease
	version int
	over    bool
	asked   []Request
	events  []corev1.Event
	nodes   map[string]metav1.ObjectMeta
}

// A Request is one that was made.
type Request struct {
	Method, Path, Authorization, Proto string
}

// New makes an API that nobody can reach yet.
func New(t testing.TB) *API {
	t.Helper()
	a := &API{t: t, dir: t.TempDir()}
	a.changed = sync.NewCond(&a.mu)
	a.check(pki.CreateCA(a.dir, "kubetest", time.Hour))
	a.check(pki.Issue(a.dir, ServerName, []netip.Addr{netip.MustParseAddr("127.0.0.1")}, time.Hour))
	return a
}

func (a *API) check(err error) {
	if err != nil {
		a.t.Helper()
		a.t.Fatal(err)
	}
}

// CA is the path of the certificate of the CA.
func (a *API) CA() string { return filepath.Join(a.dir, "ca.crt") }

// Kubeconfig writes one for this API and returns its path. The server that it names
// does not exist.
func (a *API) Kubeconfig() string {
	a.t.Helper()
	path := filepath.Join(a.dir, "kubeconfig")
	a.check(os.WriteFile(path, fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://192.0.2.1:6443", certificate-authority: %s}}]
users: [{name: u, user: {token: %s}}]
`, a.CA(), Token), 0o600))
	return path
}

// Serve answers on ln until the test ends or ln is closed, and returns the URL.
func (a *API) Serve(ln net.Listener) string {
	srv := &http.Server{Handler: a, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.ServeTLS(ln, filepath.Join(a.dir, ServerName+".crt"), filepath.Join(a.dir, ServerName+".key"))
	}()
	a.t.Cleanup(func() {
		a.end()
		srv.Close()
		<-done
	})
	return "https://" + ln.Addr().String()
}

// Listen serves on a port of this host and returns the URL.
func (a *API) Listen() string {
	a.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	a.check(err)
	return a.Serve(ln)
}

// end ends all watches.
func (a *API) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
	a.changed.Broadcast()
}

// Break makes all servers behave as f says.
func (a *API) Break(f Fault) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fault = f
	a.changed.Broadcast() // watches end too
}

// Events are those that were posted.
func (a *API) Events() []corev1.Event {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.events)
}

// Requests are all that were made.
func (a *API) Requests() []Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.asked)
}

// SetHolder makes a Lease that names a holder.
func (a *API) SetHolder(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.store(&coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{HolderIdentity: &name}})
}

// SetNode makes a node with these labels and annotations.
func (a *API) SetNode(name string, labels, annotations map[string]string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.nodes == nil {
		a.nodes = map[string]metav1.ObjectMeta{}
	}
	a.nodes[name] = metav1.ObjectMeta{Name: name, Labels: labels, Annotations: annotations}
}

func (a *API) node(w http.ResponseWriter, name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	meta, ok := a.nodes[name]
	if !ok {
		refuse(w, http.StatusNotFound)
		return
	}
	_ = json.NewEncoder(w).Encode(&corev1.Node{ObjectMeta: meta})
}

// Holder is whom the Lease names.
func (a *API) Holder() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lease == nil || a.lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *a.lease.Spec.HolderIdentity
}

// ServeHTTP implements [http.Handler].
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	fault := a.fault
	a.asked = append(a.asked, Request{r.Method, r.URL.Path, r.Header.Get("Authorization"), r.Proto})
	a.mu.Unlock()
	w.Header().Set("Date", time.Now().Add(fault.Skew).UTC().Format(http.TimeFormat))
	w.Header().Set("Content-Type", "application/json")
	path := r.URL.Path
	switch {
	case fault.Status != 0:
		refuse(w, fault.Status)
	case strings.HasSuffix(path, "/selfsubjectaccessreviews"):
		a.review(w, r, fault.May)
	case strings.HasSuffix(path, "/events"):
		a.event(w, r)
	case strings.HasSuffix(path, "/leases") && r.URL.Query().Get("watch") != "":
		a.watch(w, r)
	case strings.Contains(path, "/leases/"):
		a.object(w, r)
	case strings.HasPrefix(path, "/api/v1/nodes/"):
		a.node(w, strings.TrimPrefix(path, "/api/v1/nodes/"))
	case path == "/version":
		fmt.Fprint(w, `{"major":"1","minor":"36"}`)
	default:
		refuse(w, http.StatusNotFound)
	}
}

func refuse(w http.ResponseWriter, status int) {
	reasons := map[int]metav1.StatusReason{401: metav1.StatusReasonUnauthorized, 403: metav1.StatusReasonForbidden,
		404: metav1.StatusReasonNotFound, 409: metav1.StatusReasonConflict, 429: metav1.StatusReasonTooManyRequests}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: int32(status), Reason: reasons[status], Message: fmt.Sprintf("it is %d here", status)})
}

func (a *API) review(w http.ResponseWriter, r *http.Request, may func(*authorizationv1.ResourceAttributes) bool) {
	var review authorizationv1.SelfSubjectAccessReview
	if json.NewDecoder(r.Body).Decode(&review) != nil || review.Spec.ResourceAttributes == nil {
		refuse(w, http.StatusBadRequest)
		return
	}
	review.Status.Allowed = may == nil || may(review.Spec.ResourceAttributes)
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(&review)
}

func (a *API) event(w http.ResponseWriter, r *http.Request) {
	var e corev1.Event
	if json.NewDecoder(r.Body).Decode(&e) != nil || e.Namespace != e.InvolvedObject.Namespace || e.GenerateName == "" {
		refuse(w, http.StatusUnprocessableEntity)
		return
	}
	a.mu.Lock()
	a.events = append(a.events, e)
	a.mu.Unlock()
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(&e)
}

// object reads the Lease, or updates it: from exactly the version that the caller
// saw, and from nothing, as Leases may be.
func (a *API) object(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.Method == http.MethodGet {
		if a.lease == nil {
			refuse(w, http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(a.lease)
		return
	}
	var in coordinationv1.Lease
	if r.Method != http.MethodPut || json.NewDecoder(r.Body).Decode(&in) != nil {
		refuse(w, http.StatusBadRequest)
		return
	}
	have := ""
	if a.lease != nil {
		have = a.lease.ResourceVersion
	}
	if in.ResourceVersion != have || a.lease != nil && in.UID != "" && in.UID != a.lease.UID {
		refuse(w, http.StatusConflict)
		return
	}
	a.store(&in)
	_ = json.NewEncoder(w).Encode(a.lease)
}

// store makes l the present Lease. The caller holds mu.
func (a *API) store(l *coordinationv1.Lease) {
	a.version++
	l.TypeMeta = metav1.TypeMeta{Kind: "Lease", APIVersion: "coordination.k8s.io/v1"}
	l.ResourceVersion, l.UID = strconv.Itoa(a.version), types.UID("one")
	a.lease = l
	a.changed.Broadcast()
}

// watch sends the Lease and its changes, as they are when they can be sent, until
// the client goes or something breaks.
func (a *API) watch(w http.ResponseWriter, r *http.Request) {
	stop := r.Context()
	go func() {
		<-stop.Done()
		a.mu.Lock()
		defer a.mu.Unlock()
		a.changed.Broadcast()
	}()
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush() // a client waits for this
	seen := ""
	for {
		a.mu.Lock()
		for stop.Err() == nil && !a.over && a.fault.Status == 0 && (a.lease == nil || a.lease.ResourceVersion == seen) {
			a.changed.Wait()
		}
		done, l := stop.Err() != nil || a.over || a.fault.Status != 0, a.lease
		a.mu.Unlock()
		if done {
			return
		}
		kind := "MODIFIED"
		if seen == "" {
			kind = "ADDED"
		}
		seen = l.ResourceVersion
		if json.NewEncoder(w).Encode(map[string]any{"type": kind, "object": l}) != nil {
			return
		}
		w.(http.Flusher).Flush()
	}
}
