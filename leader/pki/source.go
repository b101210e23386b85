package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	lookEvery  = 5 * time.Second     // how often Run looks at the files
	warnBefore = 30 * 24 * time.Hour // how long before the end Run starts to warn
	warnEvery  = 24 * time.Hour
)

// A Source is one node's identity, as the files hold it now. Safe for concurrent use.
type Source struct {
	files Files
	log   *slog.Logger
	cur   atomic.Pointer[identity]
	first marks // what the files were when Open read them
}

// Open reads and checks the files. The error names the file, what is wrong with it, and what to do. A nil log discards.
func Open(f Files, log *slog.Logger) (*Source, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Source{files: f, log: log, first: look(f)}
	id, err := load(f, time.Now())
	if err != nil {
		return nil, err
	}
	s.cur.Store(id)
	return s, nil
}

// Server is the accepting end: TLS 1.3, and the peer must show a certificate for serving that the CA signed.
// The handshake ends with an error otherwise, before a byte of the application is sent or read: let it end (with
// a deadline) before anything else. Nothing of the config is fixed: a connection uses the files of its own time.
func (s *Source) Server() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &s.cur.Load().cert, nil },
		// crypto/tls would check a client certificate for clientAuth: VerifyConnection checks it for serverAuth instead.
		ClientAuth:             tls.RequireAnyClientCert,
		VerifyConnection:       func(cs tls.ConnectionState) error { return s.admit(cs, "") },
		SessionTicketsDisabled: true, // a ticket would outlive the certificate and the CA it was given for
	}
}

// Client is the dialling end. The peer must be valid for serving under name: a DNS name, or an address if name is
// one. An empty name accepts any holder of a serving certificate of the CA: for joining through the shared address.
//
// In TLS 1.3 the client's handshake ends before the server has judged the client: a refusal is the error of the
// first read.
func (s *Source) Client(name string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: name,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &s.cur.Load().cert, nil
		},
		// Not insecure: VerifyConnection makes the check, with the CA of this moment and with an empty name allowed.
		InsecureSkipVerify:     true,
		VerifyConnection:       func(cs tls.ConnectionState) error { return s.admit(cs, name) },
		SessionTicketsDisabled: true,
	}
}

// admit refuses a peer that the present CA does not vouch for.
func (s *Source) admit(cs tls.ConnectionState, name string) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("verify peer: it has no certificate")
	}
	leaf := cs.PeerCertificates[0]
	if _, err := verify(leaf, cs.PeerCertificates[1:], s.cur.Load().roots, name, time.Now()); err != nil {
		return fmt.Errorf("verify peer %q: %w", leaf.Subject.CommonName, err)
	}
	return nil
}

// Names are the DNS names and the common name of the peer of a connection that was made with Server or Client.
// There are none before the handshake has ended.
func Names(cs tls.ConnectionState) []string {
	if !cs.HandshakeComplete || len(cs.PeerCertificates) == 0 {
		return nil
	}
	return names(cs.PeerCertificates[0])
}

// Names are the DNS names and the common name of this node's own certificate.
func (s *Source) Names() []string { return names(s.cur.Load().leaf) }

// NotAfter is when this identity ends: its certificate or the CA above it, whichever is sooner.
func (s *Source) NotAfter() time.Time { return s.cur.Load().notAfter }

func names(c *x509.Certificate) []string {
	all := slices.Clone(c.DNSNames)
	if cn := c.Subject.CommonName; cn != "" && !slices.Contains(all, cn) {
		all = append(all, cn)
	}
	return all
}

// Run follows the files until ctx ends, and then returns nil. New files are used from the next connection on; bad
// ones are refused with a WARN, and the old identity stays. From 30 days before its end it warns once a day.
func (s *Source) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	tried, before := s.first, s.first
	var warned time.Time
	for {
		// Several files are replaced one after the other, so wait until none has changed between two looks.
		now := look(s.files)
		if now != tried && now == before {
			tried = now
			if s.reload() {
				warned = time.Time{}
			}
		}
		before = now
		warned = s.warn(time.Now(), warned)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// reload reads the files again and reports whether they are in use now.
func (s *Source) reload() bool {
	id, err := load(s.files, time.Now())
	if err != nil {
		s.log.Warn("new raft certificates refused, the old ones stay in use", "err", err, "until", s.NotAfter())
		return false
	}
	s.cur.Store(id)
	s.log.Info("raft certificates replaced", "names", names(id.leaf), "until", id.notAfter)
	return true
}

// warn says, once a day, that the end is near, and returns when it last said so.
func (s *Source) warn(now, last time.Time) time.Time {
	id := s.cur.Load()
	left := id.notAfter.Sub(now)
	if left > warnBefore || now.Sub(last) < warnEvery {
		return last
	}
	if left <= 0 {
		s.log.Error("raft certificate expired, no peer accepts it", "file", id.expires, "until", id.notAfter, "hint", advice)
		return now
	}
	s.log.Warn("raft certificate expires soon", "file", id.expires, "until", id.notAfter, "hint", advice)
	return now
}

// A mark tells one version of a file from another, also one that was renamed into place or only changed its mode.
type mark struct {
	dev, ino uint64
	size     int64
	mtime    time.Time
	mode     fs.FileMode
	uid      uint32
}

type marks [3]mark

// look never fails: a file that cannot be seen has the zero mark.
func look(f Files) (m marks) {
	for i, name := range []string{f.CA, f.Cert, f.Key} {
		info, err := os.Stat(name)
		if err != nil {
			continue
		}
		m[i] = mark{size: info.Size(), mtime: info.ModTime(), mode: info.Mode()}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			m[i].dev, m[i].ino, m[i].uid = st.Dev, st.Ino, st.Uid
		}
	}
	return m
}
