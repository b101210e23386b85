package pki

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// serve answers every connection that s admits with one line: the names of the peer.
func serve(t *testing.T, s *Source) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { greet(tls.Server(conn, s.Server())) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

func greet(conn *tls.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if conn.Handshake() != nil {
		return
	}
	_, _ = io.WriteString(conn, strings.Join(Names(conn.ConnectionState()), " ")+"\n")
}

// ask connects and returns the line that the server sent.
func ask(addr string, config *tls.Config) (string, error) {
	conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	line, err := bufio.NewReader(tls.Client(conn, config)).ReadString('\n')
	return strings.TrimSpace(line), err
}

func open(t *testing.T, f Files) *Source {
	t.Helper()
	s, err := Open(f, nil)
	must(t, err)
	return s
}

func TestPeers(t *testing.T) {
	dir, other := newCA(t), newCA(t)
	addr := serve(t, open(t, issue(t, dir, "n1", netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1"))))
	n2 := open(t, issue(t, dir, "n2"))
	foreign := open(t, issue(t, other, "n1"))
	trusting := issue(t, other, "n3")
	trusting.CA = filepath.Join(t.TempDir(), "both.crt")
	write(t, trusting.CA, slices.Concat(read(t, filepath.Join(dir, "ca.crt")), read(t, filepath.Join(other, "ca.crt"))))

	tests := []struct {
		name   string
		config *tls.Config
		want   bool
	}{
		{"peer by its name", n2.Client("n1"), true},
		{"peer by its address", n2.Client("10.0.0.1"), true},
		{"peer by its v6 address", n2.Client("fd00::1"), true},
		{"any peer", n2.Client(""), true},
		{"other node's name", n2.Client("n3"), false},
		{"other node's address", n2.Client("10.0.0.2"), false},
		{"server of another CA", foreign.Client(""), false},
		{"client of another CA", open(t, trusting).Client("n1"), false},
		{"no certificate", &tls.Config{InsecureSkipVerify: true}, false},
		{"client certificate only", certConfig(t, issueAs(t, dir, "user", clientOnly)), false},
		{"expired certificate", certConfig(t, issueAs(t, dir, "late", func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		})), false},
		{"TLS 1.2", tls12(n2.Client("n1")), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ask(addr, tt.config)
			switch {
			case tt.want && (err != nil || got != "n2"):
				t.Errorf("got %q, %v; want to be admitted as n2", got, err)
			case !tt.want && err == nil:
				t.Errorf("admitted as %q", got)
			}
		})
	}
}

// certConfig shows a certificate that Open refuses.
func certConfig(t *testing.T, f Files) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	must(t, err)
	return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}}
}

func tls12(c *tls.Config) *tls.Config {
	c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	return c
}

// A stranger without a certificate gets nothing but a closed connection: no byte that the server's application sent.
func TestStranger(t *testing.T) {
	addr := serve(t, open(t, issue(t, newCA(t), "n1")))
	t.Run("TLS", func(t *testing.T) {
		conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
		if err == nil {
			defer conn.Close()
			var got []byte
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			got, err = io.ReadAll(conn)
			if len(got) > 0 {
				t.Errorf("received %q", got)
			}
		}
		var timeout net.Error
		if err == nil || errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("error %v, want a closed connection", err)
		}
	})
	t.Run("plain text", func(t *testing.T) {
		conn, err := net.Dial("tcp", addr)
		must(t, err)
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		must(t, err)
		got, err := io.ReadAll(conn)
		if len(got) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("received %q, %v", got, err)
		}
	})
}

// talk lets c dial s over a pipe, which synctest understands, and returns the names that s saw.
func talk(s, c *Source, name string) ([]string, error) {
	near, far := net.Pipe()
	defer near.Close()
	// A pipe has no buffer: two ends that write at once, one of them an alert, would wait for ever.
	_ = near.SetDeadline(time.Now().Add(time.Second))
	_ = far.SetDeadline(time.Now().Add(time.Second))
	refused := make(chan error, 1)
	server, client := tls.Server(far, s.Server()), tls.Client(near, c.Client(name))
	go func() {
		defer far.Close()
		refused <- server.Handshake()
	}()
	if err := client.Handshake(); err != nil {
		near.Close()
		return nil, errors.Join(err, <-refused)
	}
	// A refusal comes as an alert, which a pipe delivers only to a reader.
	go func() { _, _ = io.Copy(io.Discard, client) }()
	if err := <-refused; err != nil {
		return nil, err
	}
	return Names(server.ConnectionState()), nil
}

// run starts s.Run, and returns what ends it.
func run(t *testing.T, s *Source) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// A journal is a log to read while it is written.
type journal struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

// String returns what was logged since the last call of Reset.
func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

func (j *journal) Reset() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.buf.Reset()
}

func (j *journal) count(level string) int { return strings.Count(j.String(), "level="+level) }

func logged(t *testing.T, f Files) (*Source, *journal) {
	t.Helper()
	log := new(journal)
	s, err := Open(f, slog.New(slog.NewTextHandler(log, nil)))
	must(t, err)
	return s, log
}

// settle lets Run look twice.
func settle() {
	time.Sleep(2*lookEvery + time.Second)
	synctest.Wait()
}

func TestRotation(t *testing.T) {
	dir := newCA(t)
	synctest.Test(t, func(t *testing.T) {
		// The bubble's clock starts in 2000, so what it uses is made in it.
		dir := filepath.Join(dir, "bubble")
		must(t, CreateCA(dir, "test", year))
		f := issue(t, dir, "n1")
		s, log := logged(t, f)
		run(t, s)
		before := s.NotAfter()

		must(t, Issue(dir, "n1", nil, year))
		settle()
		if s.NotAfter().Equal(before) {
			t.Fatal("the new certificate is not in use")
		}
		if !strings.Contains(log.String(), "certificates replaced") {
			t.Errorf("log does not tell of the change:\n%s", log)
		}

		// A bad pair is refused, once, and the old one stays.
		good, now := read(t, f.Key), s.NotAfter()
		write(t, f.Key, []byte("rubbish"))
		settle()
		settle()
		if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), f.Key) {
			t.Errorf("%d warnings, want 1 that names %s:\n%s", n, f.Key, log)
		}
		if !s.NotAfter().Equal(now) {
			t.Error("the bad pair replaced the good one")
		}
		if _, err := talk(s, s, "n1"); err != nil {
			t.Errorf("with the old pair: %v", err)
		}

		// A mode that is put right counts as a change.
		write(t, f.Key, good)
		must(t, os.Chmod(f.Key, 0o644))
		settle()
		log.Reset()
		must(t, os.Chmod(f.Key, 0o600))
		settle()
		if !strings.Contains(log.String(), "certificates replaced") {
			t.Errorf("not read again after chmod:\n%s", log)
		}
	})
}

// While both nodes move to another CA, each step leaves them able to talk.
func TestTwoCAs(t *testing.T) {
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		older, newer := filepath.Join(root, "old"), filepath.Join(root, "new")
		must(t, CreateCA(older, "test", year))
		must(t, CreateCA(newer, "test", year))
		f1, f2 := issue(t, older, "n1"), issue(t, older, "n2")
		f1.CA, f2.CA = filepath.Join(root, "n1-ca.crt"), filepath.Join(root, "n2-ca.crt")
		oldCA, newCA := read(t, filepath.Join(older, "ca.crt")), read(t, filepath.Join(newer, "ca.crt"))
		write(t, f1.CA, oldCA)
		write(t, f2.CA, oldCA)
		n1, n2 := open(t, f1), open(t, f2)
		run(t, n1)
		run(t, n2)

		move := func(f Files, node string) {
			issue(t, newer, node)
			must(t, os.Rename(filepath.Join(newer, node+".key"), f.Key))
			must(t, os.Rename(filepath.Join(newer, node+".crt"), f.Cert))
		}
		steps := []struct {
			name string
			do   func()
		}{
			{"start", func() {}},
			{"n1 trusts both", func() { write(t, f1.CA, slices.Concat(oldCA, newCA)) }},
			{"n2 trusts both", func() { write(t, f2.CA, slices.Concat(newCA, oldCA)) }},
			{"n1 has the new certificate", func() { move(f1, "n1") }},
			{"n2 has the new certificate", func() { move(f2, "n2") }},
			{"n1 trusts the new one only", func() { write(t, f1.CA, newCA) }},
			{"n2 trusts the new one only", func() { write(t, f2.CA, newCA) }},
		}
		for _, step := range steps {
			step.do()
			settle()
			if _, err := talk(n1, n2, "n1"); err != nil {
				t.Fatalf("%s: n2 to n1: %v", step.name, err)
			}
			if _, err := talk(n2, n1, "n2"); err != nil {
				t.Fatalf("%s: n1 to n2: %v", step.name, err)
			}
		}
		if _, err := talk(n1, open(t, issue(t, older, "n3")), ""); err == nil {
			t.Error("a certificate of the old CA is still admitted")
		}
	})
}

// A certificate that ends while the process runs shuts its node out, and the log says so before and after.
func TestExpiry(t *testing.T) {
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		must(t, CreateCA(root, "test", year))
		must(t, Issue(root, "n1", nil, 2*warnEvery-time.Hour))
		s, log := logged(t, filesOf(root, "n1"))
		run(t, s)
		for day := 1; day <= 2; day++ {
			settle()
			if log.count("WARN") != day || !strings.Contains(log.String(), "n1.crt") {
				t.Errorf("day %d: %d warnings, want %d that name the file:\n%s", day, log.count("WARN"), day, log)
			}
			if _, err := talk(s, s, "n1"); err != nil {
				t.Errorf("before the end: %v", err)
			}
			time.Sleep(warnEvery)
		}
		settle()
		if log.count("ERROR") != 1 {
			t.Errorf("after the end %d errors, want 1:\n%s", log.count("ERROR"), log)
		}
		if _, err := talk(s, s, "n1"); err == nil {
			t.Error("an expired certificate was admitted")
		}
	})
}

func TestWarnFrom30Days(t *testing.T) {
	dir := newCA(t)
	s, log := logged(t, issue(t, dir, "n1"))
	const day = 24 * time.Hour
	tests := []struct {
		left, since time.Duration // until the end, and since the last warning
		want        string
	}{
		{31 * day, year, ""},
		{30*day + time.Second, year, ""},
		{30 * day, year, "WARN"},
		{29 * day, 23 * time.Hour, ""},
		{29 * day, day, "WARN"},
		{0, year, "ERROR"},
		{-day, time.Hour, ""},
	}
	for _, tt := range tests {
		log.Reset()
		now := s.NotAfter().Add(-tt.left)
		last := now.Add(-tt.since)
		got := s.warn(now, last)
		if tt.want == "" {
			if log.String() != "" || !got.Equal(last) {
				t.Errorf("%v left, last %v ago: logged %s", tt.left, tt.since, log)
			}
			continue
		}
		if log.count(tt.want) != 1 || !got.Equal(now) {
			t.Errorf("%v left, last %v ago: logged %q, want one %s", tt.left, tt.since, log, tt.want)
		}
	}
}

func TestNamesNeedAHandshake(t *testing.T) {
	dir := newCA(t)
	certs, _, err := readCerts(issue(t, dir, "n1").Cert)
	must(t, err)
	if got := Names(tls.ConnectionState{PeerCertificates: certs}); got != nil {
		t.Errorf("names %q of a peer that is not verified", got)
	}
}
