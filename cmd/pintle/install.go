package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/pintle-lb/pintle/manifests"
)

// An install puts a static pod and its configuration on a node.
type install struct {
	root   string // where the node's / is
	force  bool   // replace a configuration that differs
	ownTLS bool   // the certificates were chosen by a person
	kube   manifests.Kube
	pod    []byte
}

// podFile is where the kubelet of kubeadm looks for static pods.
func podFile(k manifests.Kube) string { return "/etc/kubernetes/manifests/" + k.Name() + ".yaml" }

// run writes the configuration, and then the pod: the kubelet must not start it without. Nothing is written if
// something speaks against it.
func (i install) run(w io.Writer) error {
	if err := i.checkEtcd(); err != nil {
		return err
	}
	name := i.path(i.kube.ConfigFile())
	switch there, err := os.ReadFile(name); {
	case err == nil && !bytes.Equal(there, i.kube.Config) && !i.force:
		return &badInput{fmt.Sprintf("%s: is there and differs; nothing was written: keep it with --config %s, or replace it with --force", name, name)}
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := put(w, name, i.kube.Config, 0o644); err != nil {
		return err
	}
	if err := put(w, i.path(podFile(i.kube)), i.pod, 0o600); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "the kubelet starts it with the image %s; the same files belong on every control-plane node\n", i.kube.Image); err != nil {
		return err
	}
	return i.tellMissing(w)
}

// tellMissing names the files that the kubelet waits for before it starts the pod.
func (i install) tellMissing(w io.Writer) error {
	for _, f := range slices.Concat(i.kube.Files, i.kube.Secrets) {
		if _, err := os.Stat(i.path(f)); !errors.Is(err, fs.ErrNotExist) || strings.HasPrefix(f, "/etc/pintle/") {
			continue
		}
		who := "see pintle manifest pod --help"
		if strings.HasPrefix(f, "/etc/kubernetes/pki/") {
			who = "kubeadm makes it"
		}
		if _, err := fmt.Fprintf(w, "it waits for %s, which is not there yet: %s\n", f, who); err != nil {
			return err
		}
	}
	return nil
}

func (i install) path(name string) string { return filepath.Join(i.root, name) }

// checkEtcd notices an API server without an etcd beside it: there, kubeadm makes no etcd certificates.
func (i install) checkEtcd() error {
	if i.kube.StateDir == "" || i.ownTLS {
		return nil
	}
	_, api := os.Stat(i.path("/etc/kubernetes/manifests/kube-apiserver.yaml"))
	_, etcd := os.Stat(i.path("/etc/kubernetes/manifests/etcd.yaml"))
	if api != nil || !errors.Is(etcd, fs.ErrNotExist) {
		return nil
	}
	return &badInput{`this node's etcd is external, so kubeadm made no etcd certificates here, which Raft would use: make some with
pintle raft certs, put each node's into /etc/pintle/tls, and give --tls-ca /etc/pintle/tls/ca.crt
--tls-cert /etc/pintle/tls/{node}.crt --tls-key /etc/pintle/tls/{node}.key`}
}

// put writes a file at once, and says so. A file whose name begins with a dot, as it has until then, is nothing to
// the kubelet.
func put(w io.Writer, name string, data []byte, mode fs.FileMode) error {
	there, err := os.ReadFile(name)
	if err == nil && bytes.Equal(there, data) {
		_, err := fmt.Fprintln(w, name, "is as it should be")
		return err
	}
	done := "replaced"
	if err != nil {
		done = "wrote"
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	file, err := renameio.NewPendingFile(name, renameio.WithTempDir(filepath.Dir(name)), renameio.WithStaticPermissions(mode))
	if err != nil {
		return err
	}
	if _, err := file.Write(data); err != nil {
		return errors.Join(err, file.Cleanup())
	}
	if err := file.CloseAtomicallyReplace(); err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, done, name)
	return err
}
