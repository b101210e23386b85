package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/google/renameio/v2"
)

// backdate is how far before now a certificate starts to be valid: for machines whose clock is behind.
const backdate = time.Hour

// CreateCA makes a CA that is valid from now for the given time: dir/ca.crt and dir/ca.key, the key for its
// owner only. It makes dir where it is missing and refuses to overwrite either file.
func CreateCA(dir string, name string, validity time.Duration) error {
	if name == "" || validity <= 0 {
		return fmt.Errorf("create CA in %s: needs a name and a validity above 0, got %q and %s", dir, name, validity)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("create CA key: %w", err)
	}
	ca := template(name, validity)
	ca.IsCA, ca.BasicConstraintsValid, ca.MaxPathLenZero = true, true, true
	ca.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	crtPEM, keyPEM, err := sign(ca, ca, key, key)
	if err != nil {
		return fmt.Errorf("create CA in %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("create CA: %w", err)
	}
	return createBoth(filepath.Join(dir, "ca.crt"), crtPEM, filepath.Join(dir, "ca.key"), keyPEM)
}

// Issue makes dir/NODE.crt and dir/NODE.key, signed by the CA that CreateCA put into dir, and replaces what was
// there. The certificate is good for both ends of a connection under the node's name and the addresses, and ends
// with its CA if that is sooner. The key is new each time, and for its owner only.
func Issue(dir string, node string, addrs []netip.Addr, validity time.Duration) error {
	if err := checkNode(node); err != nil {
		return fmt.Errorf("issue certificate: %w", err)
	}
	if validity <= 0 {
		return fmt.Errorf("issue certificate for %s: validity must be above 0, got %s", node, validity)
	}
	ca, caKey, err := readCA(dir)
	if err != nil {
		return fmt.Errorf("issue certificate for %s: %w", node, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("create key for %s: %w", node, err)
	}
	crtPEM, keyPEM, err := sign(nodeTemplate(node, addrs, validity, ca), ca, key, caKey)
	if err != nil {
		return fmt.Errorf("issue certificate for %s: %w", node, err)
	}
	base := filepath.Join(dir, node)
	if err := replace(base+".key", keyPEM, 0o600); err != nil {
		return fmt.Errorf("issue certificate for %s: %w", node, err)
	}
	if err := replace(base+".crt", crtPEM, 0o644); err != nil {
		return fmt.Errorf("issue certificate for %s: %w", node, err)
	}
	return nil
}

// replace puts data in the place of a file at once. Not by renameio.WriteFile: that keeps the mode of the old file.
func replace(name string, data []byte, mode fs.FileMode) error {
	file, err := renameio.NewPendingFile(name, renameio.WithTempDir(filepath.Dir(name)), renameio.WithStaticPermissions(mode))
	if err != nil {
		return err
	}
	if _, err := file.Write(data); err != nil {
		return errors.Join(err, file.Cleanup())
	}
	return file.CloseAtomicallyReplace()
}

var nodeName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?)*$`)

// checkNode refuses what cannot be both a file name and a DNS name.
func checkNode(node string) error {
	if node == "ca" {
		return errors.New("node name ca: its files would replace the CA's own (name the node otherwise)")
	}
	if _, err := netip.ParseAddr(node); err == nil {
		return fmt.Errorf("node name %s: is an address (give it a name; addresses go beside it)", node)
	}
	if len(node) > 253 || !nodeName.MatchString(node) {
		return fmt.Errorf("node name %q: is no host name (letters, digits, - and . between them)", node)
	}
	return nil
}

func template(name string, validity time.Duration) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		Subject:   pkix.Name{CommonName: name},
		NotBefore: now.Add(-backdate),
		NotAfter:  now.Add(validity),
	}
}

func nodeTemplate(node string, addrs []netip.Addr, validity time.Duration, ca *x509.Certificate) *x509.Certificate {
	t := template(node, validity)
	if t.NotAfter.After(ca.NotAfter) {
		t.NotAfter = ca.NotAfter
	}
	t.DNSNames = []string{node}
	for _, a := range addrs {
		t.IPAddresses = append(t.IPAddresses, net.IP(a.Unmap().WithZone("").AsSlice()))
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	return t
}

// sign makes the certificate of key, and both in PEM.
func sign(t, parent *x509.Certificate, key *ecdsa.PrivateKey, by crypto.Signer) (crtPEM, keyPEM []byte, err error) {
	crt, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), by)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	crtPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: crt})
	return crtPEM, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// readCA reads dir's CA. While two CAs overlap, ca.crt holds both: the one that ca.key fits is ours.
func readCA(dir string) (*x509.Certificate, crypto.Signer, error) {
	crt, key := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	certs, _, err := readCerts(crt)
	if err != nil {
		return nil, nil, err
	}
	data, _, err := readFile(key)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range certs {
		block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
		pair, err := tls.X509KeyPair(block, data)
		if err != nil {
			continue
		}
		if !c.IsCA {
			return nil, nil, fmt.Errorf("%s: is no CA certificate", crt)
		}
		if time.Now().After(c.NotAfter) {
			return nil, nil, fmt.Errorf("%s: expired on %s (make a new CA in another directory, and let every node trust both for a while)", crt, stamp(c.NotAfter))
		}
		return c, pair.PrivateKey.(crypto.Signer), nil
	}
	return nil, nil, fmt.Errorf("%s: does not fit any certificate of %s (take both from one CA)", key, crt)
}

// createBoth makes two files that must not exist yet, or none.
func createBoth(crt string, crtPEM []byte, key string, keyPEM []byte) error {
	if err := create(key, keyPEM, 0o600); err != nil {
		return err
	}
	if err := create(crt, crtPEM, 0o644); err != nil {
		return errors.Join(err, os.Remove(key))
	}
	return nil
}

func create(name string, data []byte, mode fs.FileMode) error {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("create CA: %w (a CA is never overwritten: nodes may depend on it; use another directory)", err)
	}
	if err != nil {
		return fmt.Errorf("create CA: %w", err)
	}
	_, err = file.Write(data)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(fmt.Errorf("create CA: %w", err), os.Remove(name))
	}
	return nil
}
