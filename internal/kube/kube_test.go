package kube

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/manifests"
)

// A server answers as an API server does to what this package asks.
type server struct {
	*httptest.Server
	ca     string // PEM
	may    func(a *authorizationv1.ResourceAttributes) bool
	skew   time.Duration
	status int // of every answer, if not 0
	holder string

	mu     sync.Mutex // guards what follows
	asked  []string
	events []corev1.Event
	auth   string
	proto  string
}

func newServer(t *testing.T) *server {
	s := &server{may: func(*authorizationv1.ResourceAttributes) bool { return true }}
	s.Server = httptest.NewUnstartedServer(s)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	s.ca = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, r.Method+" "+r.URL.Path)
	s.auth, s.proto = r.Header.Get("Authorization"), r.Proto
	w.Header().Set("Date", time.Now().Add(s.skew).UTC().Format(http.TimeFormat))
	body, _ := io.ReadAll(r.Body)
	switch {
	case s.status != 0:
		w.WriteHeader(s.status)
		fmt.Fprintf(w, `{"kind":"Status","message":"it is %d here"}`, s.status)
	case strings.HasSuffix(r.URL.Path, "/selfsubjectaccessreviews"):
		var review authorizationv1.SelfSubjectAccessReview
		_ = json.Unmarshal(body, &review)
		review.Status.Allowed = s.may(review.Spec.ResourceAttributes)
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(&review)
	case strings.HasSuffix(r.URL.Path, "/events"):
		var e corev1.Event
		if json.Unmarshal(body, &e) == nil {
			s.events = append(s.events, e)
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(body)
	case strings.Contains(r.URL.Path, "/leases/"):
		fmt.Fprintf(w, `{"spec":{"holderIdentity":%q}}`, s.holder)
	default:
		fmt.Fprint(w, `{}`)
	}
}

func (s *server) sent() []corev1.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

// conf is the configuration of a node that asks these servers.
func conf(urls ...string) config.Kubernetes {
	return config.Kubernetes{Servers: urls, ServerName: "example.com"} // httptest's certificate is for it
}

var lease = config.Lease{Namespace: "kube-system", Name: "pintle"}

// pod makes a folder like that of a service account.
func pod(t *testing.T, ca string) string {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "token"), "of-the-pod\n")
	write(t, filepath.Join(dir, "ca.crt"), ca)
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func creds(t *testing.T, s *server, cfg config.Kubernetes) *rest.Config {
	t.Helper()
	c, err := credentials(cfg, pod(t, s.ca))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestServiceAccount(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	s := newServer(t)
	a, err := newAPI(creds(t, s, conf("https://192.0.2.1:6443")))
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	if _, err := a.do(t.Context(), http.MethodGet, s.URL, "/version", nil, nil); err != nil {
		t.Fatal(err)
	}
	if s.auth != "Bearer of-the-pod" || s.proto != "HTTP/1.1" {
		t.Errorf("asked as %q by %s", s.auth, s.proto)
	}
	dir := t.TempDir()
	if _, err = credentials(conf(), dir); err == nil || !strings.Contains(err.Error(), "token: no such file or directory: this is no pod that has one: name a file with kubernetes.kubeconfig") {
		t.Errorf("outside of a pod: %v", err)
	}
}

// kubeconfig is a file with the given parts of its only cluster and user.
func kubeconfig(current, cluster, user string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: %s
contexts: [{name: here, context: {cluster: c, user: u}}, {name: lost, context: {cluster: x, user: u}}, {name: nobody, context: {cluster: c, user: x}}]
clusters: [{name: c, cluster: {server: "https://192.0.2.1:6443"%s}}]
users: [{name: u, user: {%s}}]
`, current, cluster, user)
}

func TestKubeconfig(t *testing.T) {
	s := newServer(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "pintle.conf")
	write(t, filepath.Join(dir, "ca.crt"), s.ca)
	write(t, filepath.Join(dir, "token"), "of-the-file")
	cfg := conf(s.URL)
	cfg.Kubeconfig = path
	if _, err := Credentials(cfg); err == nil || !strings.HasPrefix(err.Error(), "read kubeconfig: ") || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("absent: %v", err)
	}
	const ca, token = ", certificate-authority: ca.crt", "tokenFile: token"
	for _, tt := range []struct{ text, want string }{
		{"{", "read kubeconfig: "},
		{kubeconfig("", ca, token), `its current-context is "", which is none of its contexts`},
		{kubeconfig("there", ca, token), `its current-context is "there", which is none of its contexts`},
		{kubeconfig("lost", ca, token), `has no cluster "x"`},
		{kubeconfig("nobody", ca, token), `has no user "x"`},
		{kubeconfig("here", "", token), "names no CA of the API servers"},
		{kubeconfig("here", ", insecure-skip-tls-verify: true", token), "names no CA of the API servers"},
		{kubeconfig("here", ", certificate-authority: no.crt", token), "no.crt"},
		{kubeconfig("here", ca, ""), `user "u" has neither a certificate nor a token`},
	} {
		write(t, path, tt.text)
		if _, err := Credentials(cfg); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v, want %s", tt.text, err, tt.want)
		}
	}
	write(t, path, kubeconfig("here", ca, token))
	c, err := Credentials(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if r := Check(t.Context(), c, cfg, lease); len(r.Findings) > 0 || !r.Answered {
		t.Errorf("%+v", r)
	}
	if s.auth != "Bearer of-the-file" || c.Host != s.URL {
		t.Errorf("asked as %q, host %s", s.auth, c.Host)
	}
}

// text is the findings as a person sees them.
func text(findings []Finding) (out []string) {
	for _, f := range findings {
		line := f.Path + ": " + f.Text
		if f.Warning {
			line = "warning: " + line
		}
		out = append(out, line)
	}
	return out
}

func TestCheckAsksForExactlyWhatIsNeeded(t *testing.T) {
	s := newServer(t)
	s.holder = "n3"
	var asked, want []string
	s.may = func(a *authorizationv1.ResourceAttributes) bool {
		asked = append(asked, fmt.Sprint(a.Verb, " ", a.Group, " ", a.Resource, " ", a.Namespace, " ", a.Name))
		return true
	}
	for _, r := range manifests.LeaseRules("kube-system", "pintle") {
		for _, v := range r.Verbs {
			want = append(want, fmt.Sprint(v, " ", r.Group, " ", r.Resource, " ", r.Namespace, " ", r.Name))
		}
	}
	cfg := conf(s.URL)
	r := Check(t.Context(), creds(t, s, cfg), cfg, lease)
	if len(r.Findings) > 0 || !r.Answered || r.Holder != "n3" {
		t.Errorf("%+v", r)
	}
	if !slices.Equal(asked, want) {
		t.Errorf("asked for %q, want %q", asked, want)
	}
}

func TestCheckFindings(t *testing.T) {
	for name, tt := range map[string]struct {
		set  func(*server)
		want string // part of the only finding
		bad  bool
	}{
		"no lease": {func(s *server) {
			s.may = func(a *authorizationv1.ResourceAttributes) bool {
				return a.Resource != "leases" || a.Verb == "get" || a.Verb == "watch"
			}
		}, ": may not update, create leases.coordination.k8s.io pintle in kube-system, to elect the holder: `pintle manifest rbac` prints the Role", true},
		"no events": {func(s *server) {
			s.may = func(a *authorizationv1.ResourceAttributes) bool { return a.Resource != "events" || a.Verb != "create" }
		}, "may not create events in kube-system", false},
		"clock ahead":  {func(s *server) { s.skew = -10 * time.Minute }, "the clock of this node is 10m", false},
		"clock behind": {func(s *server) { s.skew = 10 * time.Minute }, "behind that of https://", false},
		"not let in":   {func(s *server) { s.status = 401 }, "kubernetes.servers[0]: ask https://", true},
		"overloaded":   {func(s *server) { s.status = 429 }, "status 429: it is 429 here", true},
		"no rights":    {func(s *server) { s.status = 403 }, "cannot ask for this node's rights: ", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			tt.set(s)
			cfg := conf(s.URL)
			got := Check(t.Context(), creds(t, s, cfg), cfg, lease).Findings
			if len(got) != 1 || got[0].Warning == tt.bad || !strings.Contains(text(got)[0], tt.want) {
				t.Errorf("%q, want %q", text(got), tt.want)
			}
		})
	}
}

func TestCheckClockWithinLimit(t *testing.T) {
	s := newServer(t)
	s.skew = 50 * time.Second
	cfg := conf(s.URL)
	if r := Check(t.Context(), creds(t, s, cfg), cfg, lease); len(r.Findings) > 0 {
		t.Errorf("%q", text(r.Findings))
	}
}

// One server that answers is enough; why the others do not is said.
func TestCheckServers(t *testing.T) {
	s, other := newServer(t), newServer(t)
	gone := newServer(t)
	gone.Close()
	cfg := conf(gone.URL, s.URL)
	r := Check(t.Context(), creds(t, s, cfg), cfg, lease)
	if len(r.Findings) != 1 || !r.Findings[0].Warning || r.Findings[0].Path != "kubernetes.servers[0]" ||
		!strings.Contains(r.Findings[0].Text, "connection refused") || !r.Answered {
		t.Errorf("one of two: %+v", r)
	}
	cfg = conf(gone.URL)
	if r = Check(t.Context(), creds(t, s, cfg), cfg, lease); len(r.Findings) != 1 || r.Findings[0].Warning || r.Answered {
		t.Errorf("none: %+v", r)
	}
	cfg = conf(s.URL)
	cfg.ServerName = "kubernetes.default.svc"
	if r = Check(t.Context(), creds(t, s, cfg), cfg, lease); len(r.Findings) != 1 || !strings.Contains(r.Findings[0].Text, "set kubernetes.serverName to") {
		t.Errorf("another name: %+v", r)
	}
	other.ca = foreignCA
	if r = Check(t.Context(), creds(t, other, conf(s.URL)), conf(s.URL), lease); len(r.Findings) != 1 || !strings.Contains(r.Findings[0].Text, "another cluster's CA") {
		t.Errorf("another CA: %+v", r)
	}
}

func recorder(t *testing.T, s *server, urls ...string) *Recorder {
	t.Helper()
	r, err := NewRecorder(RecorderConfig{Node: "n1", Namespace: "kube-system", Name: "pintle", Creds: creds(t, s, conf(urls...)),
		Servers: func() []string { return urls }})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// runRecorder runs r until the test ends.
func runRecorder(t *testing.T, r *Recorder) {
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}

var vip4 = netip.MustParseAddr("192.0.2.10")

func TestEvents(t *testing.T) {
	gone, sick, s := newServer(t), newServer(t), newServer(t)
	gone.Close()
	sick.status = 503
	r := recorder(t, s, gone.URL, sick.URL, s.URL)
	r.TookOver(7, "n2")
	r.TookOver(8, "")
	for range 3 {
		r.Stranger(vip4, "eth0", "02:00:00:00:00:09")
	}
	runRecorder(t, r)
	await(t, "three events", func() bool { return len(s.sent()) >= 3 })
	var got []string
	for _, e := range s.sent() {
		got = append(got, e.Type+" "+e.Reason+": "+e.Message)
		if e.Namespace != "kube-system" || e.GenerateName != "pintle." || e.InvolvedObject.Kind != "Lease" || e.InvolvedObject.Name != "pintle" ||
			e.InvolvedObject.Namespace != "kube-system" || e.Source.Host != "n1" || e.Count != 1 || e.FirstTimestamp.IsZero() {
			t.Errorf("%+v", e)
		}
	}
	want := []string{"Normal TookOver: n1 holds the address now, epoch 7, after n2", "Normal TookOver: n1 holds the address now, epoch 8",
		"Warning AddressClaimed: 192.0.2.10 is claimed by 02:00:00:00:00:09, which is none of this cluster's nodes, on eth0 of n1"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// A refusal is final: the other servers would say the same.
func TestEventsRefused(t *testing.T) {
	first, second := newServer(t), newServer(t)
	first.status = 403
	r := recorder(t, first, first.URL, second.URL)
	r.TookOver(1, "")
	e := <-r.queue
	if err := r.send(t.Context(), &e); err == nil || !strings.Contains(err.Error(), "status 403") || len(second.asked) > 0 {
		t.Errorf("%v; the second was asked %q", err, second.asked)
	}
}

// Nothing waits for a recorder: what does not fit is dropped.
func TestEventsNeverBlock(t *testing.T) {
	s := newServer(t)
	r := recorder(t, s, s.URL)
	for i := range 10 * maxEvents {
		r.TookOver(uint64(i), "")
	}
	if len(r.queue) != maxEvents {
		t.Errorf("%d wait, want %d", len(r.queue), maxEvents)
	}
}

func TestStrangersAreCounted(t *testing.T) {
	s := newServer(t)
	whole := recorder(t, s, s.URL)
	synctest.Test(t, func(t *testing.T) {
		r := &Recorder{cfg: whole.cfg, log: whole.log, queue: make(chan corev1.Event, maxEvents), seen: map[string]*stranger{}}
		hear := func(mac string, n int) {
			for range n {
				r.Stranger(vip4, "eth0", mac)
			}
		}
		counts := func() (out []int32) {
			for len(r.queue) > 0 {
				e := <-r.queue
				out = append(out, e.Count)
			}
			return out
		}
		hear("a", 5)
		hear("b", 1)
		if got := counts(); !slices.Equal(got, []int32{1, 1}) {
			t.Errorf("at once: %v", got)
		}
		time.Sleep(strangerGap - time.Second)
		hear("a", 2)
		if got := counts(); len(got) > 0 {
			t.Errorf("within a minute: %v", got)
		}
		time.Sleep(time.Second)
		hear("a", 1)
		if got := counts(); !slices.Equal(got, []int32{7}) {
			t.Errorf("after a minute: %v", got)
		}
		for i := range 10 * maxMACs {
			hear(fmt.Sprint(i), 1)
		}
		if len(r.seen) != maxMACs {
			t.Errorf("%d are remembered, want %d", len(r.seen), maxMACs)
		}
		counts()
		time.Sleep(strangerGap)
		hear("c", 1)
		if got := counts(); !slices.Equal(got, []int32{1}) {
			t.Errorf("a new one when there is room again: %v", got)
		}
	})
}

// foreignCA is the certificate of a CA that signed nothing here.
const foreignCA = `-----BEGIN CERTIFICATE-----
MIIBejCCASGgAwIBAgIUdCLfuVIw1prOvlSKK8UaU1KgDAAwCgYIKoZIzj0EAwIw
EjEQMA4GA1UEAwwHYW5vdGhlcjAgFw0yNjExMjEwNzE3NDRaGA8yMTI2MTAyODA3
MTc0NFowEjEQMA4GA1UEAwwHYW5vdGhlcjBZMBMGByqGSM49AgEGCCqGSM49AwEH
A0IABEm6C4LaUBzfUauxRy/ER+OnAn5R4jBZI15MIgtYL680ZFJTE3IxdamISrbd
Zd99M9qxeCRW6lpphOocaoERD3+jUzBRMB0GA1UdDgQWBBRDQuhpc9sZqstfPjlR
kdTDhEoZ7zAfBgNVHSMEGDAWgBRDQuhpc9sZqstfPjlRkdTDhEoZ7zAPBgNVHRMB
Af8EBTADAQH/MAoGCCqGSM49BAMCA0cAMEQCIGBnefseZ0TeXWjd6da7w9OyvUX/
Th2fvUv+KheQIKVcAiB7j5GZiHT1WtUogjC0CerMH2RLTHahmjQL0aroUO1xnQ==
-----END CERTIFICATE-----
`
