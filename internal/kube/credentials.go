package kube

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/pintle-lb/pintle/internal/config"
)

// serviceAccount is where a pod finds who it is.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

// Credentials are who this node is to the API, and whom it believes: of the
// kubeconfig, or else of the pod's service account. Files that they name are
// read again when they change. The host is only there because one is needed: ask
// the servers of the configuration. There is no HTTP/2, whose one connection a
// dead path would take down with all that is under way on it, no proxy and no limit
// of the rate.
func Credentials(cfg config.Kubernetes) (*rest.Config, error) {
	return credentials(cfg, serviceAccount)
}

func credentials(cfg config.Kubernetes, pod string) (out *rest.Config, err error) {
	if cfg.Kubeconfig == "" {
		out, err = ofPod(pod)
	} else {
		out, err = ofFile(cfg.Kubeconfig)
	}
	if err != nil {
		return nil, err
	}
	if len(cfg.Servers) > 0 {
		out.Host = cfg.Servers[0]
	}
	out.ServerName, out.NextProtos = cfg.ServerName, []string{"http/1.1"}
	out.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	out.UserAgent, out.QPS, out.WarningHandler = "pintle", -1, rest.NoWarnings{} // else it prints to stderr by itself
	if _, err := rest.TLSConfigFor(out); err != nil {
		return nil, fmt.Errorf("use credentials of the Kubernetes API: %w", err)
	}
	return out, nil
}

// ofFile reads the identity and the CA of a kubeconfig.
func ofFile(path string) (*rest.Config, error) {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: path}
	file, err := rules.Load()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	context := file.Contexts[file.CurrentContext]
	if context == nil {
		return nil, fmt.Errorf("read kubeconfig: %s: its current-context is %q, which is none of its contexts", path, file.CurrentContext)
	}
	cluster, user := file.Clusters[context.Cluster], file.AuthInfos[context.AuthInfo]
	switch {
	case cluster == nil:
		return nil, fmt.Errorf("read kubeconfig: %s: has no cluster %q", path, context.Cluster)
	case user == nil:
		return nil, fmt.Errorf("read kubeconfig: %s: has no user %q", path, context.AuthInfo)
	case cluster.CertificateAuthority == "" && len(cluster.CertificateAuthorityData) == 0:
		return nil, fmt.Errorf("read kubeconfig: %s: names no CA of the API servers (certificate-authority or certificate-authority-data)", path)
	}
	cluster.InsecureSkipTLSVerify, cluster.ProxyURL = false, ""
	out, err := clientcmd.NewDefaultClientConfig(*file, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %s: %w", path, err)
	}
	if out.BearerToken == "" && out.BearerTokenFile == "" && out.CertFile == "" && len(out.CertData) == 0 &&
		out.ExecProvider == nil && out.AuthProvider == nil && out.Username == "" {
		return nil, fmt.Errorf("read kubeconfig: %s: user %q has neither a certificate nor a token", path, context.AuthInfo)
	}
	return out, nil
}

// ofPod reads the service account that Kubernetes mounts into a pod.
func ofPod(dir string) (*rest.Config, error) {
	out := &rest.Config{BearerTokenFile: filepath.Join(dir, "token")}
	out.CAFile = filepath.Join(dir, "ca.crt")
	token, err := os.ReadFile(out.BearerTokenFile)
	if err == nil {
		_, err = os.Stat(out.CAFile)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read service account: %w: this is no pod that has one: name a file with kubernetes.kubeconfig", err)
	case err != nil:
		return nil, fmt.Errorf("read service account: %w", err)
	}
	out.BearerToken = strings.TrimSpace(string(token))
	return out, nil
}
