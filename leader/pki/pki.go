// Package pki gives the nodes of a Raft cluster their mutual TLS identities.
//
// Every connection between two nodes is TLS 1.3 in which both sides show a certificate for *serving* that a
// common CA signed. A certificate for clients only opens nothing: where an existing CA is used (etcd's, say),
// it has often signed client certificates for people and programs that are no nodes.
//
// CreateCA and Issue make the files. Open reads and checks them, Source.Run follows them while they change,
// and Source.Server and Source.Client are the two ends of a connection. There is no revocation: to shut out a
// node, replace the CA (for a while the CA file may hold the old and the new one).
package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// Files names the PEM files of one node's identity.
type Files struct {
	CA   string // one or more CA certificates; a peer that any of them signed is accepted
	Cert string // the node's certificate, then intermediate ones if there are any
	Key  string // its private key, which only its owner may read
}

// maxFile bounds what is read of one file, in bytes.
const maxFile = 1 << 20

// advice ends an error that new certificates would end.
const advice = "`pintle raft certs` makes new ones"

// An identity is what Files held at one moment, checked. It is never changed.
type identity struct {
	cert     tls.Certificate
	leaf     *x509.Certificate
	roots    *x509.CertPool
	notAfter time.Time // the first end in the chain that lasts longest
	expires  string    // the file that holds the certificate that ends at notAfter
}

// load reads and checks f as of now.
func load(f Files, now time.Time) (*identity, error) {
	roots, _, err := readCerts(f.CA)
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	certs, certPEM, err := readCerts(f.Cert)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	pair, err := readPair(f, certPEM)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	id := &identity{cert: pair, leaf: certs[0], roots: x509.NewCertPool()}
	for _, c := range roots {
		id.roots.AddCert(c)
	}
	id.cert.Leaf = id.leaf
	if err := id.check(f, certs[1:], now); err != nil {
		return nil, fmt.Errorf("check certificate: %w", err)
	}
	return id, nil
}

// check verifies the node's own certificate as its peers will, and says in the operator's words what they would refuse.
func (id *identity) check(f Files, intermediates []*x509.Certificate, now time.Time) error {
	switch leaf := id.leaf; {
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("%s: not valid before %s, now it is %s (check this machine's clock; %s)",
			f.Cert, stamp(leaf.NotBefore), stamp(now), advice)
	case now.After(leaf.NotAfter):
		return fmt.Errorf("%s: expired on %s (%s)", f.Cert, stamp(leaf.NotAfter), advice)
	}
	chains, err := verify(id.leaf, intermediates, id.roots, "", now)
	var usage x509.CertificateInvalidError
	if errors.As(err, &usage) && usage.Reason == x509.IncompatibleUsage {
		return fmt.Errorf("%s: not valid for serverAuth, which every node needs (%s)", f.Cert, advice)
	}
	if err != nil {
		return fmt.Errorf("%s: not signed by a valid CA of %s: %w (use the CA that signed it; %s)", f.Cert, f.CA, err, advice)
	}
	id.notAfter, id.expires = end(f, chains)
	return nil
}

// end is when the chain that lasts longest is broken, and the file in which it breaks.
func end(f Files, chains [][]*x509.Certificate) (at time.Time, file string) {
	for _, chain := range chains {
		first, in := chain[0].NotAfter, f.Cert
		for i, c := range chain[1:] {
			if !c.NotAfter.Before(first) {
				continue
			}
			first, in = c.NotAfter, f.Cert
			if i == len(chain)-2 { // the last of a chain is the CA
				in = f.CA
			}
		}
		if first.After(at) {
			at, file = first, in
		}
	}
	return at, file
}

// verify checks that a CA of roots vouches for leaf as a server, under name unless that is empty.
func verify(leaf *x509.Certificate, more []*x509.Certificate, roots *x509.CertPool, name string, now time.Time) ([][]*x509.Certificate, error) {
	opts := x509.VerifyOptions{
		DNSName:       name,
		Roots:         roots,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, c := range more {
		opts.Intermediates.AddCert(c)
	}
	return leaf.Verify(opts)
}

// readCerts reads the certificates of a PEM file: at least one, and nothing else.
func readCerts(name string) (certs []*x509.Certificate, data []byte, err error) {
	data, _, err = readFile(name)
	if err != nil {
		return nil, nil, err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, nil, fmt.Errorf("%s: holds a %s (keep only certificates in it)", name, block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: certificate %d cannot be parsed: %w (%s)", name, len(certs)+1, err, advice)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, nil, fmt.Errorf("%s: holds no PEM certificate (%s)", name, advice)
	}
	return certs, data, nil
}

// readPair reads the key and puts it together with the certificates, which are known to be good.
func readPair(f Files, certPEM []byte) (tls.Certificate, error) {
	key, mode, err := readFile(f.Key)
	if err != nil {
		return tls.Certificate{}, err
	}
	if mode&0o077 != 0 {
		return tls.Certificate{}, fmt.Errorf("%s: mode %04o lets others than its owner use it (chmod 600 %s; if others could read it, %s)",
			f.Key, mode, f.Key, advice)
	}
	pair, err := tls.X509KeyPair(certPEM, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s: no key for the certificate %s: %w (take both from one run; %s)", f.Key, f.Cert, err, advice)
	}
	return pair, nil
}

// readFile returns the content of a file and the permissions of that very file.
func readFile(name string) ([]byte, fs.FileMode, error) {
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("%w (%s)", err, advice)
	}
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s: not a regular file (name the PEM file itself; %s)", name, advice)
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFile))
	return data, info.Mode().Perm(), err
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
