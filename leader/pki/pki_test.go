package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const year = 365 * 24 * time.Hour

// newCA makes a CA in a directory of its own.
func newCA(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, CreateCA(dir, "test cluster", year))
	return dir
}

// issue makes a node's files with dir's CA.
func issue(t *testing.T, dir, node string, addrs ...netip.Addr) Files {
	t.Helper()
	must(t, Issue(dir, node, addrs, year/2))
	return filesOf(dir, node)
}

func filesOf(dir, node string) Files {
	return Files{CA: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, node+".crt"), Key: filepath.Join(dir, node+".key")}
}

// issueAs makes a node's files with a certificate that change has altered.
func issueAs(t *testing.T, dir, node string, change func(*x509.Certificate)) Files {
	t.Helper()
	ca, caKey, err := readCA(dir)
	must(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	crt := nodeTemplate(node, nil, year/2, ca)
	change(crt)
	crtPEM, keyPEM, err := sign(crt, ca, key, caKey)
	must(t, err)
	f := filesOf(dir, node)
	write(t, f.Cert, crtPEM)
	write(t, f.Key, keyPEM)
	return f
}

func clientOnly(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }

func write(t *testing.T, name string, data []byte) {
	t.Helper()
	must(t, os.WriteFile(name, data, 0o600))
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	must(t, err)
	return data
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	expired := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	future := func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }
	tests := []struct {
		name string
		make func(t *testing.T, dir string) Files
		file func(Files) string // which the error must name
		want string
		hint string
	}{
		{"no CA file", func(t *testing.T, dir string) Files {
			f := issue(t, dir, "n1")
			f.CA = filepath.Join(dir, "absent.crt")
			return f
		}, Files.ca, "no such file", "pintle raft certs"},
		{"no certificate file", func(t *testing.T, dir string) Files {
			f := issue(t, dir, "n1")
			must(t, os.Remove(f.Cert))
			return f
		}, Files.cert, "no such file", "pintle raft certs"},
		{"no key file", func(t *testing.T, dir string) Files {
			f := issue(t, dir, "n1")
			must(t, os.Remove(f.Key))
			return f
		}, Files.key, "no such file", "pintle raft certs"},
		{"a directory", func(t *testing.T, dir string) Files {
			f := issue(t, dir, "n1")
			f.Cert = dir
			return f
		}, Files.cert, "not a regular file", "pintle raft certs"},
		{"no PEM", func(t *testing.T, dir string) Files {
			f := issue(t, dir, "n1")
			write(t, f.Cert, []byte("hello"))
			return f
		}, Files.cert, "no PEM certificate", "pintle raft certs"},
		{"PEM of rubbish", func(t *testing.T, dir string) Files {
			f := issue(t, dir, "n1")
			write(t, f.CA, []byte("-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n"))
			return f
		}, Files.ca, "certificate 1 cannot be parsed", "pintle raft certs"},
		{"CA file with its key", func(t *testing.T, dir string) Files {
			f := issue(t, dir, "n1")
			write(t, f.CA, append(read(t, f.CA), read(t, filepath.Join(dir, "ca.key"))...))
			return f
		}, Files.ca, "holds a PRIVATE KEY", "only certificates"},
		{"key cut short", func(t *testing.T, dir string) Files {
			f := issue(t, dir, "n1")
			write(t, f.Key, read(t, f.Key)[:40])
			return f
		}, Files.key, "PEM", "pintle raft certs"},
		{"another node's key", func(t *testing.T, dir string) Files {
			f := issue(t, dir, "n1")
			f.Key = issue(t, dir, "n2").Key
			return f
		}, Files.key, "does not match", "one run"},
		{"key for the group", func(t *testing.T, dir string) Files {
			f := issue(t, dir, "n1")
			must(t, os.Chmod(f.Key, 0o640))
			return f
		}, Files.key, "0640", "chmod 600"},
		{"key for all", func(t *testing.T, dir string) Files {
			f := issue(t, dir, "n1")
			must(t, os.Chmod(f.Key, 0o604))
			return f
		}, Files.key, "0604", "chmod 600"},
		{"expired", func(t *testing.T, dir string) Files { return issueAs(t, dir, "n1", expired) }, Files.cert, "expired on", "pintle raft certs"},
		{"not yet valid", func(t *testing.T, dir string) Files { return issueAs(t, dir, "n1", future) }, Files.cert, "not valid before", "clock"},
		{"client only", func(t *testing.T, dir string) Files { return issueAs(t, dir, "n1", clientOnly) }, Files.cert, "serverAuth", "pintle raft certs"},
		{"another CA", func(t *testing.T, dir string) Files {
			f := issue(t, dir, "n1")
			f.CA = filepath.Join(newCA(t), "ca.crt")
			return f
		}, Files.cert, "not signed by a valid CA", "the CA that signed it"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := tt.make(t, newCA(t))
			_, err := Open(f, nil)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range []string{tt.file(f), tt.want, tt.hint} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

func (f Files) ca() string   { return f.CA }
func (f Files) cert() string { return f.Cert }
func (f Files) key() string  { return f.Key }

func TestCreateCAOverwritesNothing(t *testing.T) {
	for _, keep := range []string{"ca.crt", "ca.key"} {
		dir := newCA(t)
		gone := map[string]string{"ca.crt": "ca.key", "ca.key": "ca.crt"}[keep]
		must(t, os.Remove(filepath.Join(dir, gone)))
		before := string(read(t, filepath.Join(dir, keep)))
		if err := CreateCA(dir, "other", year); err == nil || !strings.Contains(err.Error(), keep) {
			t.Errorf("with %s there: error %v, want one that names it", keep, err)
		}
		if string(read(t, filepath.Join(dir, keep))) != before {
			t.Errorf("%s was overwritten", keep)
		}
		if _, err := os.Stat(filepath.Join(dir, gone)); err == nil {
			t.Errorf("left %s behind, which fits nothing", gone)
		}
	}
}

func TestModes(t *testing.T) {
	dir := newCA(t)
	f := issue(t, dir, "n1")
	must(t, os.Chmod(f.Key, 0o644))
	issue(t, dir, "n1") // replaces the key, and must not keep its mode
	for name, want := range map[string]os.FileMode{
		filepath.Join(dir, "ca.key"): 0o600, f.Key: 0o600, f.CA: 0o644, f.Cert: 0o644,
	} {
		info, err := os.Stat(name)
		must(t, err)
		if info.Mode().Perm() != want {
			t.Errorf("%s: mode %04o, want %04o", name, info.Mode().Perm(), want)
		}
	}
}

func TestIssueNames(t *testing.T) {
	dir := newCA(t)
	for _, bad := range []string{"", "ca", "../n1", "a/b", "-n1", "n1.", "a..b", "10.0.0.1", "n 1", strings.Repeat("a", 64)} {
		if err := Issue(dir, bad, nil, year); err == nil {
			t.Errorf("issued a certificate for %q", bad)
		}
	}
	s, err := Open(issue(t, dir, "N1.example.com"), nil)
	must(t, err)
	if got := s.Names(); len(got) != 1 || got[0] != "N1.example.com" {
		t.Errorf("Names() = %q", got)
	}
}

// A chain is broken when its first certificate ends, also if that is the CA.
func TestNotAfter(t *testing.T) {
	dir := t.TempDir()
	must(t, CreateCA(dir, "short", 48*time.Hour))
	ca, _, err := readCA(dir)
	must(t, err)
	must(t, Issue(dir, "n1", nil, year))
	s, err := Open(filesOf(dir, "n1"), nil)
	must(t, err)
	if !s.NotAfter().Equal(ca.NotAfter) {
		t.Errorf("NotAfter() = %v, want the CA's end %v", s.NotAfter(), ca.NotAfter)
	}
	s, err = Open(issueAs(t, dir, "n2", func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(year) }), nil)
	must(t, err)
	if !s.NotAfter().Equal(ca.NotAfter) || s.cur.Load().expires != filepath.Join(dir, "ca.crt") {
		t.Errorf("NotAfter() = %v of %s, want the CA's end %v", s.NotAfter(), s.cur.Load().expires, ca.NotAfter)
	}
}
