package kube

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/kube/kubetest"
	"github.com/pintle-lb/pintle/manifests"
)

// conf is the configuration of a node that asks these servers.
func conf(urls ...string) config.Kubernetes {
	return config.Kubernetes{Servers: urls, ServerName: kubetest.ServerName}
}

var lease = config.Lease{Namespace: "kube-system", Name: "pintle"}

// pod makes a folder like that of a service account, with a copy of the CA.
func pod(t *testing.T, ca string) string {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "token"), "of-the-pod\n")
	text, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "ca.crt"), string(text))
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func creds(t *testing.T, a *kubetest.API, cfg config.Kubernetes) *rest.Config {
	t.Helper()
	c, err := credentials(cfg, pod(t, a.CA()))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestServiceAccount(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	s := kubetest.New(t)
	a, err := newAPI(creds(t, s, conf("https://192.0.2.1:6443")))
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	if _, err := a.do(t.Context(), http.MethodGet, s.Listen(), "/version", nil, nil); err != nil {
		t.Fatal(err)
	}
	if got := s.Requests()[0]; got.Authorization != "Bearer of-the-pod" || got.Proto != "HTTP/1.1" {
		t.Errorf("asked as %+v", got)
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
	s := kubetest.New(t)
	dir := pod(t, s.CA())
	path := filepath.Join(dir, "pintle.conf")
	url := s.Listen()
	cfg := conf(url)
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
	if got := s.Requests()[0]; got.Authorization != "Bearer of-the-pod" || c.Host != url {
		t.Errorf("asked as %+v, host %s", got, c.Host)
	}
	cfg.Kubeconfig = s.Kubeconfig()
	if c, err = Credentials(cfg); err != nil || c.BearerToken != kubetest.Token {
		t.Errorf("kubetest's own file: %+v, %v", c, err)
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
	s := kubetest.New(t)
	s.SetHolder("n3")
	var asked, want []string
	s.Break(kubetest.Fault{May: func(a *authorizationv1.ResourceAttributes) bool {
		asked = append(asked, fmt.Sprint(a.Verb, " ", a.Group, " ", a.Resource, " ", a.Namespace, " ", a.Name))
		return true
	}})
	for _, r := range manifests.LeaseRules("kube-system", "pintle") {
		for _, v := range r.Verbs {
			want = append(want, fmt.Sprint(v, " ", r.Group, " ", r.Resource, " ", r.Namespace, " ", r.Name))
		}
	}
	cfg := conf(s.Listen())
	r := Check(t.Context(), creds(t, s, cfg), cfg, lease)
	if len(r.Findings) > 0 || !r.Answered || r.Holder != "n3" {
		t.Errorf("%+v", r)
	}
	if !slices.Equal(asked, want) {
		t.Errorf("asked for %q, want %q", asked, want)
	}
}

// Without a Lease only what else is needed is asked for.
func TestCheckNodeRule(t *testing.T) {
	s := kubetest.New(t)
	var asked []string
	s.Break(kubetest.Fault{May: func(a *authorizationv1.ResourceAttributes) bool {
		asked = append(asked, fmt.Sprint(a.Verb, " ", a.Resource, " ", a.Namespace, " ", a.Name))
		return false
	}})
	cfg := conf(s.Listen())
	got := Check(t.Context(), creds(t, s, cfg), cfg, config.Lease{}, manifests.NodeRule("n1")).Findings
	want := ": may not get nodes n1, to find this node's routers by its labels: `pintle manifest rbac` prints the ClusterRole"
	if len(got) != 1 || got[0].Warning || text(got)[0] != want || !slices.Equal(asked, []string{"get nodes  n1"}) {
		t.Errorf("%q after asking %q", text(got), asked)
	}
}

func TestReadNode(t *testing.T) {
	sick, s := kubetest.New(t), kubetest.New(t)
	sick.Break(kubetest.Fault{Status: 503})
	s.SetNode("n1", map[string]string{"rack": "r1"}, map[string]string{"a.b/c": "d"})
	cfg := conf(nobody, s.Listen())
	c := creds(t, s, cfg)
	labels, annotations, err := ReadNode(t.Context(), c, cfg, "n1")
	if err != nil || labels["rack"] != "r1" || annotations["a.b/c"] != "d" || len(labels) != 1 || len(annotations) != 1 {
		t.Errorf("%v, %v, %v", labels, annotations, err)
	}
	if _, _, err = ReadNode(t.Context(), c, cfg, "n2"); err == nil || !strings.Contains(err.Error(), "status 404: it is 404 here: is this its name in Kubernetes?") {
		t.Errorf("no such node: %v", err)
	}
	s.Break(kubetest.Fault{Status: 403})
	if _, _, err = ReadNode(t.Context(), c, cfg, "n1"); err == nil || !strings.Contains(err.Error(), "`pintle manifest rbac` prints the right") {
		t.Errorf("no right: %v", err)
	}
	cfg = conf(nobody, sick.Listen())
	_, _, err = ReadNode(t.Context(), creds(t, sick, cfg), cfg, "n1")
	if err == nil || !strings.Contains(err.Error(), "connection refused") || !strings.Contains(err.Error(), "status 503") {
		t.Errorf("nobody answers: %v", err)
	}
}

func TestCheckFindings(t *testing.T) {
	may := func(f func(a *authorizationv1.ResourceAttributes) bool) kubetest.Fault { return kubetest.Fault{May: f} }
	for name, tt := range map[string]struct {
		fault kubetest.Fault
		want  string // part of the only finding
		bad   bool
	}{
		"no lease": {may(func(a *authorizationv1.ResourceAttributes) bool {
			return a.Resource != "leases" || a.Verb == "get" || a.Verb == "watch"
		}), ": may not update, create leases.coordination.k8s.io pintle in kube-system, to elect the holder: `pintle manifest rbac` prints the Role", true},
		"no events": {may(func(a *authorizationv1.ResourceAttributes) bool { return a.Resource != "events" || a.Verb != "create" }),
			"may not create events in kube-system", false},
		"clock ahead":  {kubetest.Fault{Skew: -10 * time.Minute}, "the clock of this node is 10m", false},
		"clock behind": {kubetest.Fault{Skew: 10 * time.Minute}, "behind that of https://", false},
		"not let in":   {kubetest.Fault{Status: 401}, "kubernetes.servers[0]: ask https://", true},
		"overloaded":   {kubetest.Fault{Status: 429}, "status 429: it is 429 here", true},
		"no rights":    {kubetest.Fault{Status: 403}, "cannot ask for this node's rights: ", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := kubetest.New(t)
			s.Break(tt.fault)
			cfg := conf(s.Listen())
			got := Check(t.Context(), creds(t, s, cfg), cfg, lease).Findings
			if len(got) != 1 || got[0].Warning == tt.bad || !strings.Contains(text(got)[0], tt.want) {
				t.Errorf("%q, want %q", text(got), tt.want)
			}
		})
	}
}

func TestCheckClockWithinLimit(t *testing.T) {
	s := kubetest.New(t)
	s.Break(kubetest.Fault{Skew: 50 * time.Second})
	cfg := conf(s.Listen())
	if r := Check(t.Context(), creds(t, s, cfg), cfg, lease); len(r.Findings) > 0 {
		t.Errorf("%q", text(r.Findings))
	}
}

// nobody answers there.
const nobody = "https://127.0.0.1:1"

// One server that answers is enough; why the others do not is said.
func TestCheckServers(t *testing.T) {
	s, other := kubetest.New(t), kubetest.New(t)
	here := s.Listen()
	cfg := conf(nobody, here)
	r := Check(t.Context(), creds(t, s, cfg), cfg, lease)
	if len(r.Findings) != 1 || !r.Findings[0].Warning || r.Findings[0].Path != "kubernetes.servers[0]" ||
		!strings.Contains(r.Findings[0].Text, "connection refused") || !r.Answered {
		t.Errorf("one of two: %+v", r)
	}
	cfg = conf(nobody)
	if r = Check(t.Context(), creds(t, s, cfg), cfg, lease); len(r.Findings) != 1 || r.Findings[0].Warning || r.Answered {
		t.Errorf("none: %+v", r)
	}
	cfg = conf(here)
	cfg.ServerName = "example.com"
	if r = Check(t.Context(), creds(t, s, cfg), cfg, lease); len(r.Findings) != 1 || !strings.Contains(r.Findings[0].Text, "set kubernetes.serverName to") {
		t.Errorf("another name: %+v", r)
	}
	if r = Check(t.Context(), creds(t, other, conf(here)), conf(here), lease); len(r.Findings) != 1 || !strings.Contains(r.Findings[0].Text, "another cluster's CA") {
		t.Errorf("another CA: %+v", r)
	}
}

func recorder(t *testing.T, s *kubetest.API, urls ...string) *Recorder {
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
	sick, s := kubetest.New(t), kubetest.New(t)
	sick.Break(kubetest.Fault{Status: 503})
	r := recorder(t, s, nobody, sick.Listen(), s.Listen())
	r.TookOver(7, "n2")
	r.TookOver(8, "")
	for range 3 {
		r.Stranger(vip4, "eth0", "02:00:00:00:00:09", 1)
	}
	runRecorder(t, r)
	await(t, "three events", func() bool { return len(s.Events()) >= 3 })
	var got []string
	for _, e := range s.Events() {
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
	first, second := kubetest.New(t), kubetest.New(t)
	first.Break(kubetest.Fault{Status: 403})
	r := recorder(t, first, first.Listen(), second.Listen())
	r.TookOver(1, "")
	e := <-r.queue
	if err := r.send(t.Context(), &e); err == nil || !strings.Contains(err.Error(), "status 403") || len(second.Requests()) > 0 {
		t.Errorf("%v; the second was asked %q", err, second.Requests())
	}
}

// Nothing waits for a recorder: what does not fit is dropped.
func TestEventsNeverBlock(t *testing.T) {
	s := kubetest.New(t)
	r := recorder(t, s, s.Listen())
	for i := range 10 * maxEvents {
		r.TookOver(uint64(i), "")
	}
	if len(r.queue) != maxEvents {
		t.Errorf("%d wait, want %d", len(r.queue), maxEvents)
	}
}

func TestRoutersAreToldOfOnceAMinute(t *testing.T) {
	s := kubetest.New(t)
	r := recorder(t, s, nobody)
	for range 3 {
		r.Router("tor1", false, "hold timer expired")
		r.Router("tor1", true, "")
		r.Router("tor2", true, "")
	}
	var got []string
	for len(r.queue) > 0 {
		e := <-r.queue
		got = append(got, e.Type+" "+e.Reason+" "+e.Message)
	}
	want := []string{"Warning RouterDown n1 has no BGP session with tor1: hold timer expired", "Normal RouterUp n1 has a BGP session with tor1",
		"Normal RouterUp n1 has a BGP session with tor2"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestStrangersAreCounted(t *testing.T) {
	s := kubetest.New(t)
	whole := recorder(t, s, nobody)
	synctest.Test(t, func(t *testing.T) {
		r := &Recorder{cfg: whole.cfg, log: whole.log, queue: make(chan corev1.Event, maxEvents), seen: map[string]*stranger{}}
		hear := func(mac string, n uint64) { r.Stranger(vip4, "eth0", mac, n) }
		counts := func() (out []int32) {
			for len(r.queue) > 0 {
				e := <-r.queue
				out = append(out, e.Count)
			}
			return out
		}
		hear("a", 5)
		hear("b", 1)
		if got := counts(); !slices.Equal(got, []int32{5, 1}) {
			t.Errorf("at once: %v", got)
		}
		time.Sleep(strangerGap - time.Second)
		hear("a", 2)
		if got := counts(); len(got) > 0 {
			t.Errorf("within a minute: %v", got)
		}
		time.Sleep(time.Second)
		hear("a", 1)
		if got := counts(); !slices.Equal(got, []int32{3}) {
			t.Errorf("after a minute: %v", got)
		}
		for i := range 10 * maxSeen {
			hear(fmt.Sprint(i), 1)
		}
		if len(r.seen) != maxSeen {
			t.Errorf("%d are remembered, want %d", len(r.seen), maxSeen)
		}
		counts()
		time.Sleep(strangerGap)
		hear("c", 1)
		if got := counts(); !slices.Equal(got, []int32{1}) {
			t.Errorf("a new one when there is room again: %v", got)
		}
	})
}
