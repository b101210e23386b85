package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Etcdctl runs etcdctl on the node, with its own etcd, and returns what it prints.
func (n *Node) Etcdctl(ctx context.Context, args ...string) ([]byte, error) {
	const pki = "/etc/kubernetes/pki/etcd/"
	return n.Exec(ctx, append([]string{"etcdctl", "--endpoints=https://127.0.0.1:2379",
		"--cacert=" + pki + "ca.crt", "--cert=" + pki + "healthcheck-client.crt", "--key=" + pki + "healthcheck-client.key"}, args...)...)
}

// Snapshot has the etcd of node i save all that it has to a file of the host, and returns its name.
func (c *Cluster) Snapshot(ctx context.Context, i int) (string, error) {
	f, err := os.CreateTemp(c.dir, "snapshot-")
	if err != nil {
		return "", err
	}
	if err := f.Close(); err != nil {
		return "", err
	}
	_, err = c.Node(i).Etcdctl(ctx, "snapshot", "save", f.Name())
	return f.Name(), err
}

// Restore kills every etcd and starts it with what a snapshot has: the cluster is then as it was, with the revisions of that time.
// The API servers are left alone. It waits until etcd answers on each node.
func (c *Cluster) Restore(ctx context.Context, snapshot string) error {
	for _, n := range c.nodes {
		if err := n.Kill(Etcd); err != nil {
			return err
		}
	}
	for _, n := range c.nodes {
		if err := n.restore(ctx, snapshot); err != nil {
			return err
		}
	}
	for _, n := range c.nodes {
		if err := n.Start(Etcd); err != nil {
			return err
		}
	}
	for _, n := range c.nodes {
		err := eventually(ctx, func() error { _, err := n.Etcdctl(ctx, "get", "--keys-only", "--limit=1", "/"); return err })
		if err != nil {
			return fmt.Errorf("wait for the restored etcd of %s: %w", n.Name(), err)
		}
	}
	return nil
}

func (n *Node) restore(ctx context.Context, snapshot string) error {
	const data = "/var/lib/etcd"
	old, err := filepath.Glob(filepath.Join(n.File(data), "*"))
	if err != nil {
		return err
	}
	for _, path := range old {
		err = errors.Join(err, os.RemoveAll(path))
	}
	if err != nil {
		return err
	}
	peer := func(n *Node) string { return "https://" + netip.AddrPortFrom(n.Addr(), 2380).String() }
	members := make([]string, len(n.cluster.nodes))
	for i, m := range n.cluster.nodes {
		members[i] = m.Name() + "=" + peer(m)
	}
	_, err = n.Exec(ctx, "etcdutl", "snapshot", "restore", snapshot, "--name="+n.Name(), "--data-dir="+data,
		"--initial-cluster="+strings.Join(members, ","), "--initial-advertise-peer-urls="+peer(n))
	return err
}
