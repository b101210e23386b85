package leader

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pintle-lb/pintle/leader/pki"
)

// withTLS makes every node of a world use certificates of one CA.
func withTLS(t *testing.T, w *world) string {
	t.Helper()
	dir := t.TempDir()
	must(t, pki.CreateCA(dir, "test", time.Hour))
	w.tune = func(c *RaftConfig) { c.Creds = credentials(t, dir, c.Node) }
	return dir
}

func credentials(t *testing.T, dir, node string) *pki.Source {
	t.Helper()
	must(t, pki.Issue(dir, node, []netip.Addr{netip.MustParseAddr("127.0.0.1")}, time.Hour))
	s, err := pki.Open(pki.Files{CA: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, node+".crt"), Key: filepath.Join(dir, node+".key")}, nil)
	must(t, err)
	return s
}

func TestJoinThroughAnAddressWithTLS(t *testing.T) {
	w := newWorld(t, 3, nil)
	dir := withTLS(t, w)
	w.start("n1", "n2")
	w.holder()
	all := w.peers
	w.tune = func(c *RaftConfig) {
		c.Creds = credentials(t, dir, c.Node)
		c.Peers = all[2:] // it knows nobody by name
		c.Join = []string{all[0].Address, all[1].Address}
	}
	w.start("n3")
	w.voters(3)
	w.wait("n3 to know the holder", func() bool { return w.nodes["n3"].last().Holder != "" })
}

func TestStrangersGetNothing(t *testing.T) {
	w := newWorld(t, 3, nil)
	dir := withTLS(t, w)
	w.start("n1", "n2")
	w.holder()
	addr := w.peers[0].Address
	foreign := t.TempDir()
	must(t, pki.CreateCA(foreign, "foreign", time.Hour))
	for name, c := range map[string]*tls.Config{
		"no certificate": {InsecureSkipVerify: true},
		"another CA":     insecure(credentials(t, foreign, "n3").Client("n1")),
	} {
		conn, err := net.Dial("tcp", addr)
		must(t, err)
		sec := tls.Client(conn, c)
		sec.SetDeadline(time.Now().Add(10 * time.Second))
		writeFrame(sec, greeting{Kind: "ask", Name: "n3", Min: 1, Max: 1})
		if b, err := io.ReadAll(sec); len(b) > 0 || err == nil {
			t.Errorf("%s: got %q and %v, want an error and not a byte", name, b, err)
		}
		conn.Close()
	}
	conn, err := net.Dial("tcp", addr) // no TLS at all
	must(t, err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	writeFrame(conn, greeting{Kind: "ask", Name: "n3", Min: 1, Max: 1})
	if b, _ := io.ReadAll(conn); strings.Contains(string(b), "{") {
		t.Errorf("plain text was answered with %q", b)
	}
	n1 := w.nodes["n1"].raft
	wantErr(t, dialAs(n1, credentials(t, dir, "n3"), "n2", addr, 1, 1), `certificate is for ["n3"`)
	wantErr(t, dialAs(n1, credentials(t, dir, "n3"), "n3", addr, 7, 9), "protocol versions 7-9, this node speaks 1-1: upgrade the older one")
	wantErr(t, dialAs(n1, credentials(t, dir, "n3"), "n3", addr, 1, 1), "")
	_, _, err = n1.stream.connect(t.Context(), "ask", addr, "n2") // it is n1 that answers there
	if err == nil {
		t.Error("a node took another's place")
	}
}

func insecure(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.InsecureSkipVerify = true
	c.VerifyConnection = nil
	return c
}

// dialAs greets a node under a name and with a range of protocol versions, and
// returns why it is refused.
func dialAs(r *Raft, creds Credentials, name, addr string, lo, hi int) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	sec := tls.Client(conn, creds.Client("n1"))
	var g greeting
	if err = writeFrame(sec, greeting{Kind: "ask", Name: name, Min: lo, Max: hi}); err == nil {
		err = readFrame(sec, &g)
	}
	if err == nil && g.Error != "" {
		err = errors.New(g.Error)
	}
	return err
}

func TestNothingIsLeftBehind(t *testing.T) {
	runtime.GC()
	before := runtime.NumGoroutine()
	for range 2 {
		w := newWorld(t, 3, nil)
		withTLS(t, w)
		w.start("n1", "n2", "n3")
		w.voters(3)
		h := w.holder()
		h.raft.Set(nil)
		w.wait("another holder", func() bool {
			return slices.ContainsFunc(w.others(h), func(n *node) bool { return n.holds() })
		})
		w.stopAll()
	}
	for end := time.Now().Add(20 * time.Second); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	}
}

func TestRaftThatNeverRan(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		r, err := OpenRaft(RaftConfig{Node: "n1", Peers: []Peer{{Name: "n1", Address: "127.0.0.1:0"}}, StateDir: dir, Profile: Fast})
		must(t, err)
		must(t, r.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r, err := OpenRaft(RaftConfig{Node: "n1", Peers: []Peer{{Name: "n1", Address: "127.0.0.1:0"}}, StateDir: dir, Profile: Fast})
	must(t, err)
	must(t, r.Run(ctx, func(string, Term) {}), r.Close())
	for _, c := range []RaftConfig{
		{Node: "n9", Peers: []Peer{{Name: "n1"}}, StateDir: dir, Profile: Fast},
		{Node: "n1", Peers: []Peer{{Name: "n1"}}, StateDir: dir, Profile: "warp"},
	} {
		if r, err := OpenRaft(c); err == nil {
			r.Close()
			t.Errorf("opened %+v", c)
		}
	}
}
