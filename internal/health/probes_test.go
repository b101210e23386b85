package health

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// probe is one check of c, and the text of its error.
func probe(t *testing.T, c Check, within time.Duration) string {
	t.Helper()
	one, err := c.prober()
	if err != nil {
		t.Fatal(err)
	}
	return ask(t, one, within)
}

func ask(t *testing.T, one func(context.Context) error, within time.Duration) string {
	t.Helper()
	if err := new(single).do(t.Context(), within, one); err != nil {
		return steady(err)
	}
	return ""
}

// long is more than any check on a slow machine takes.
const long = 20 * time.Second

func TestTCP(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	if got := probe(t, Check{TCP: addr}, long); got != "" {
		t.Errorf("open port: %s", got)
	}
	ln.Close()
	if got := probe(t, Check{TCP: addr}, long); got != "dial tcp "+addr+": connect: connection refused" {
		t.Errorf("closed port: %q", got)
	}
}

func TestHTTP(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.PathValue("code"))
		w.WriteHeader(code)
	})
	mux.Handle("/redirect", http.RedirectHandler("/status/500", http.StatusFound))
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<10)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/silent", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/half", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("/reset", func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_ = conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	addr := strings.TrimPrefix(server.URL, "http://")
	for _, tt := range []struct {
		path   string
		within time.Duration
		want   string
	}{
		{"/status/200", long, ""},
		{"/status/204", long, ""},
		{"/status/399", long, ""},
		{"/redirect", long, ""}, // not followed: what is behind it would be bad
		{"/status/400", long, "status 400 Bad Request"},
		{"/status/503", long, "status 503 Service Unavailable"},
		{"/endless", long, ""},
		{"/silent", 200 * time.Millisecond, "no answer within 200ms"},
		{"/half", 200 * time.Millisecond, "no answer within 200ms"},
		{"/reset", long, "read tcp " + addr + ": read: connection reset by peer"}, // without our own port
	} {
		if got := probe(t, Check{HTTP: server.URL + tt.path}, tt.within); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.path, got, tt.want)
		}
	}
}

// Each check has a connection of its own, and leaves none behind.
func TestHTTPConnections(t *testing.T) {
	var opened, closed atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			opened.Add(1)
		case http.StateClosed:
			closed.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	one, err := Check{HTTP: server.URL}.prober()
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if got := ask(t, one, long); got != "" {
			t.Fatal(got)
		}
	}
	eventually(t, "5 connections opened and closed", func() bool { return opened.Load() == 5 && closed.Load() == 5 })
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(long); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// selfSigned makes a certificate for 127.0.0.1 and the name, and writes it and its key.
func selfSigned(t *testing.T, name, certFile, keyFile string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	crt := &x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, crt, crt, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	crtPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	for file, data := range map[string][]byte{certFile: crtPEM, keyFile: keyPEM} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.X509KeyPair(crtPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// The CA and the client certificate are read again: a service may change its certificates at any time.
func TestHTTPS(t *testing.T) {
	dir := t.TempDir()
	ca, cert, key := filepath.Join(dir, "ca"), filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	var serving, client atomic.Pointer[tls.Certificate]
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 || !r.TLS.PeerCertificates[0].Equal(client.Load().Leaf) {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return serving.Load(), nil }}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()

	c := Check{HTTP: server.URL, CA: ca, Cert: cert, Key: key, ServerName: "kubernetes"}
	one, err := c.prober()
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(t, one, long); !strings.Contains(got, ca) {
		t.Errorf("without files: %q does not name %s", got, ca)
	}
	renew := func() {
		s := selfSigned(t, "kubernetes", ca, filepath.Join(dir, "unused"))
		cl := selfSigned(t, "pintle", cert, key)
		serving.Store(&s)
		client.Store(&cl)
	}
	renew()
	if got := ask(t, one, long); got != "" {
		t.Errorf("first: %s", got)
	}
	renew()
	if got := ask(t, one, long); got != "" {
		t.Errorf("after a renewal: %s", got)
	}
	if err := os.WriteFile(ca, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, one, long); !strings.Contains(got, "holds no certificate") {
		t.Errorf("bad CA: %q", got)
	}
	renew()
	c.ServerName = "another"
	if got := probe(t, c, long); !strings.Contains(got, "another") {
		t.Errorf("another name: %q", got)
	}
	c.ServerName, c.Cert, c.Key = "kubernetes", "", ""
	if got := probe(t, c, long); got != "status 403 Forbidden" {
		t.Errorf("without client certificate: %q", got)
	}
}

func TestCommand(t *testing.T) {
	t.Setenv("SECRET", "x")
	sh := func(script string) Check { return Check{Name: "c", Command: []string{"/bin/sh", "-c", script}} }
	for _, tt := range []struct {
		name  string
		check Check
		want  string
	}{
		{"good", sh("exit 0"), ""},
		{"bad", sh("exit 3"), "exit status 3"},
		{"bad, and says why", sh("echo; echo down >&2; exit 1"), "exit status 1: down"},
		{"no shell", Check{Command: []string{"/bin/echo", "a; exit 1"}}, ""},
		{"absent", Check{Command: []string{"/absent/check"}}, "fork/exec /absent/check: no such file or directory"},
		{"environment", sh(`test "$(env | sed 's/=.*//' | grep -vx -e PWD -e _ -e SHLVL -e OLDPWD | sort | tr '\n' ' ')" = 'LANG PATH PINTLE_CHECK ' || { env | tr '\n' ' '; exit 1; }`), ""},
		{"directory and input", sh(`test "$PWD" = / && ! read line`), ""},
		{"endless output", sh(`head -c 10000000 /dev/zero | tr '\0' x; exit 1`), "exit status 1: " + strings.Repeat("x", 200) + "..."},
		{"killed", sh("kill -9 $$"), "signal: killed"},
	} {
		if got := probe(t, tt.check, long); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// Nothing of a check outlives it: neither at its timeout nor when the program itself ended.
func TestCommandLeavesNothing(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		within       time.Duration
		want         string
	}{
		{"timeout", "sleep 1000 & echo $! > $0; wait", 3 * time.Second, "no answer within 3s"},
		{"child keeps the output", "sleep 1000 & echo $! > $0", long, ""},
		{"child without output", "sleep 1000 >/dev/null 2>&1 & echo $! > $0; exit 1", long, "exit status 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "pid")
			if got := probe(t, Check{Command: []string{"/bin/sh", "-c", tt.script, file}}, tt.within); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "the child is gone", func() bool { return ended(pid) })
		})
	}
}

// ended also counts a process that nobody has waited for yet.
func ended(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return true
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// A command does not run under Pintle's real-time scheduling.
func TestCommandScheduling(t *testing.T) {
	if err := scheduleAll(unix.SCHED_RR, 1); err != nil {
		if os.Getenv("LAB") == "require" {
			t.Fatal(err)
		}
		t.Skipf("needs CAP_SYS_NICE: %v", err)
	}
	defer func() {
		if err := scheduleAll(unix.SCHED_NORMAL, 0); err != nil {
			t.Error(err)
		}
	}()
	policy := Check{Command: []string{"/bin/sh", "-c", "set -- $(cat /proc/self/stat); exit ${41}"}} // proc(5)
	for range 5 {
		if got := probe(t, policy, long); got != "" {
			t.Errorf("the command's policy: %s, want 0", got)
		}
	}
}

// scheduleAll changes the policy of all threads of this process.
func scheduleAll(policy, priority uint32) error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			return err
		}
		err = unix.SchedSetAttr(tid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy, Priority: priority}, 0)
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

func TestSteady(t *testing.T) {
	expired := x509.CertificateInvalidError{Cert: &x509.Certificate{}, Reason: x509.Expired, Detail: time.Now().String()}
	if got := steady(&tls.CertificateVerificationError{Err: expired}); got != "x509: certificate has expired or is not yet valid" {
		t.Errorf("expired: %q", got)
	}
	dns := &net.OpError{Op: "dial", Err: &net.DNSError{Name: "a", Server: "127.0.0.1:53", Err: "read udp 127.0.0.1:4242->127.0.0.1:53"}}
	if got := steady(dns); got != "lookup a: no answer" {
		t.Errorf("lookup: %q", got)
	}
}
