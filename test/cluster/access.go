package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// An Identity is whom an API server takes a client for: a certificate and its key in PEM, or a token. The zero value is nobody.
type Identity struct {
	Cert, Key []byte
	Token     string
}

// Admin is kubeadm's super-admin.conf, whom no RBAC stops.
func (s *site) Admin() Identity {
	id, err := s.identityOf("/etc/kubernetes/super-admin.conf")
	if err != nil {
		panic(fmt.Sprintf("a cluster without an administrator: %v", err)) // there is none before kubeadm has run
	}
	return id
}

func (s *site) identityOf(kubeconfig string) (Identity, error) {
	cfg, err := clientcmd.LoadFromFile(s.machines[0].File(kubeconfig))
	if err != nil {
		return Identity{}, err
	}
	user := cfg.AuthInfos[cfg.Contexts[cfg.CurrentContext].AuthInfo]
	return Identity{Cert: user.ClientCertificateData, Key: user.ClientKeyData, Token: user.Token}, nil
}

// Issue makes a user with a certificate of the cluster's CA. What it may do RBAC says: at first, what every authenticated user may.
func (s *site) Issue(user string, groups ...string) (Identity, error) {
	id, err := s.sign(&x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: user, Organization: groups},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return Identity{}, fmt.Errorf("issue certificate for user %s: %w", user, err)
	}
	return id, nil
}

func (s *site) sign(template *x509.Certificate) (Identity, error) {
	ca, err := s.readPEM("/etc/kubernetes/pki/ca.crt")
	if err != nil {
		return Identity{}, err
	}
	caKey, err := s.readPEM("/etc/kubernetes/pki/ca.key")
	if err != nil {
		return Identity{}, err
	}
	parent, err1 := x509.ParseCertificate(ca)
	signer, err2 := x509.ParseECPrivateKey(caKey)
	key, err3 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err := errors.Join(err1, err2, err3); err != nil {
		return Identity{}, err
	}
	cert, err1 := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	der, err2 := x509.MarshalECPrivateKey(key)
	return Identity{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}),
	}, errors.Join(err1, err2)
}

func (s *site) readPEM(path string) ([]byte, error) {
	b, err := os.ReadFile(s.machines[0].File(path))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("read %s: no PEM", path)
	}
	return block.Bytes, nil
}

// ServiceAccount returns a token for a service account, good for an hour, and makes the account if there is none.
func (s *site) ServiceAccount(ctx context.Context, namespace, name string) (Identity, error) {
	k, err := kubernetes.NewForConfig(s.Config(1, s.lab.Client(), s.Admin()))
	if err != nil {
		return Identity{}, err
	}
	accounts := k.CoreV1().ServiceAccounts(namespace)
	_, err = accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return Identity{}, err
	}
	token, err := accounts.CreateToken(ctx, name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return Identity{}, err
	}
	return Identity{Token: token.Status.Token}, nil
}

// Config is for a client that is on the host from, asks the API server of node i (0: whoever bears the address; for a worker, one
// of the control plane's), and identifies itself as id. Clients made of it have connections of their own, without a limit of requests.
func (s *site) Config(i int, from *netlab.Host, id Identity) *rest.Config {
	return &rest.Config{
		Host:        "https://" + s.endpoint(i).String(),
		BearerToken: id.Token,
		TLSClientConfig: rest.TLSClientConfig{
			CAFile: s.machines[0].File("/etc/kubernetes/pki/ca.crt"), CertData: id.Cert, KeyData: id.Key,
		},
		QPS:  -1,
		Dial: dialFrom(from),
	}
}

func (s *site) endpoint(i int) netip.AddrPort {
	if i == 0 {
		return netip.AddrPortFrom(s.opts.VIP, apiPort)
	}
	return netip.AddrPortFrom(s.machines[(i-1)%s.opts.Nodes].Addr(), apiPort)
}

// dialFrom dials in the host's network namespace, where the connection then stays.
func dialFrom(host *netlab.Host) func(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = host.Do(func() error {
			conn, err = d.DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
}

// Kubeconfig is the file for a client on any host that asks the API server of node i (0: whoever bears the address) as id.
func (s *site) Kubeconfig(i int, id Identity) ([]byte, error) {
	return s.kubeconfig(s.endpoint(i).String(), id)
}

// Kubeconfig is the file for a client on this node as id. It asks the API server that is there, and from a worker, which has none,
// one that answers.
func (n *Node) Kubeconfig(id Identity) ([]byte, error) { return n.cluster.kubeconfig(localAPI, id) }

func (s *site) kubeconfig(server string, id Identity) ([]byte, error) {
	ca, err := os.ReadFile(s.machines[0].File("/etc/kubernetes/pki/ca.crt"))
	if err != nil {
		return nil, err
	}
	return clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"kubernetes": {Server: "https://" + server, CertificateAuthorityData: ca}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"user": {ClientCertificateData: id.Cert, ClientKeyData: id.Key, Token: id.Token}},
		Contexts:       map[string]*clientcmdapi.Context{"user": {Cluster: "kubernetes", AuthInfo: "user"}},
		CurrentContext: "user",
	})
}
