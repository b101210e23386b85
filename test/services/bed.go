// Package services is a Kubernetes cluster with workers, kube-proxy and pods, in which Pintle gives Services of type LoadBalancer
// their addresses, for tests and benchmarks: the real programs of test/cluster with the real one of ours on every node, and a client
// that asks the Services through their addresses.
//
//	b, err := services.New(ctx, services.Options{Pintle: "build/pintle"})
//	defer b.Close()
//	_, err = b.Pool(ctx, "main", "10.99.0.0/24")
//	far, err := b.Backend(ctx, 5, services.Echo)
//	_, err = b.Service(ctx, "web")
//	addrs, err := b.Addresses(ctx, "web")
//	answer, err := b.Ask(ctx, "tcp", addrs[0])
//
// Nodes are counted from 1: those of the control plane first, then workers.
package services

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/manifests"
	"github.com/pintle-lb/pintle/test/cluster"
)

const (
	Namespace = "pintle-system"   // of Pintle
	Account   = "pintle-services" // its service account
	instance  = "services"

	configFile     = "/etc/pintle/services.yaml"
	kubeconfigFile = "/etc/pintle/services.conf"
	runDir         = "/var/lib/pintle/run"
	logFile        = "/var/log/pintle.log"
)

// What the client has on its link besides the network of the lab, as a router that is told of a network of addresses. No host has an
// address of it: a pool there says on which link it is announced.
var (
	Network  = netip.MustParsePrefix("10.99.0.0/16")
	Network6 = netip.MustParsePrefix("fd99::/64")
)

// Options says what is to be made. The zero value has no Pintle.
type Options struct {
	Pintle  string        // the program; without one there is only the cluster, with its CRDs
	Nodes   int           // of the control plane; 3 by default
	Workers int           // 2 by default; -1 for none
	IPv6    bool          // dual stack
	Lease   time.Duration // of a node; the default of Pintle if zero
	Config  string        // more sections of the configuration, in YAML
	Bare    bool          // install Pintle and start none
	NoProxy bool          // no kube-proxy, and nobody asks for one
	Log     string        // the level; debug by default
}

func (o *Options) setDefaults() {
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	switch o.Workers {
	case 0:
		o.Workers = 2
	case -1:
		o.Workers = 0
	}
}

// A Bed is such a cluster. Its methods may be called from any goroutine, but those that start and end the Pintle of one node.
type Bed struct {
	*cluster.Cluster
	Via int // the node whose API server the test uses where it does not say which; 1 at first

	ctx     context.Context // of New: processes end with it
	opts    Options
	apis    []*API            // of the administrator, one for each API server
	pintles []*netlab.Process // one for each node

	mu       sync.Mutex // guards backends
	backends int        // made so far
}

// New makes it, and starts a Pintle on every node, unless there is to be none. It does not wait for what they do. Processes end with
// ctx.
func New(ctx context.Context, opts Options) (*Bed, error) {
	opts.setDefaults()
	c, err := cluster.New(ctx, cluster.Options{
		Nodes: opts.Nodes, Workers: opts.Workers, IPv6: opts.IPv6, ControllerManager: true, Proxy: !opts.NoProxy,
		// A test with a thousand Services is not one of how fast the controller-manager makes their EndpointSlices.
		ControllerManagerArgs: map[string]string{"kube-api-qps": "500", "kube-api-burst": "1000", "concurrent-service-endpoint-syncs": "20"},
	})
	if err != nil {
		return nil, err
	}
	b := &Bed{Cluster: c, Via: 1, ctx: ctx, opts: opts, pintles: make([]*netlab.Process, c.Len())}
	if err := b.build(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("set up test bed: %w", err), b.Close())
	}
	return b, nil
}

func (b *Bed) build(ctx context.Context) error {
	for i := 1; i <= b.opts.Nodes; i++ {
		api, err := NewAPI(b.Config(i, b.Lab().Client(), b.Admin()))
		if err != nil {
			return err
		}
		b.apis = append(b.apis, api)
	}
	if err := b.Lab().Client().Route(Network, netip.Addr{}); err != nil {
		return err
	}
	if b.opts.IPv6 {
		if err := b.Lab().Client().Route(Network6, netip.Addr{}); err != nil {
			return err
		}
	}
	if err := b.define(ctx); err != nil || b.opts.Pintle == "" {
		return err
	}
	if err := b.install(ctx); err != nil || b.opts.Bare {
		return err
	}
	for i := 1; i <= b.Len(); i++ {
		if err := b.Start(i); err != nil {
			return err
		}
	}
	return nil
}

// define makes the API server know pools and addresses, and waits until it does.
func (b *Bed) define(ctx context.Context) error {
	if _, err := b.Apply(ctx, 1, manifests.CRDs()); err != nil {
		return err
	}
	_, err := b.Kubectl(ctx, 1, "wait", "--for=condition=Established", "--timeout=60s", "crd/addresspools.pintle.dev", "crd/addresses.pintle.dev")
	return err
}

// install gives Pintle the rights that it asks for, and each node its configuration.
func (b *Bed) install(ctx context.Context) error {
	rights, err := b.rights(ctx)
	if err != nil {
		return err
	}
	if _, err := b.Apply(ctx, 1, rights); err != nil {
		return err
	}
	id, err := b.ServiceAccount(ctx, Namespace, Account)
	if err != nil {
		return err
	}
	for i := 1; i <= b.Len(); i++ {
		kubeconfig, err := b.Node(i).Kubeconfig(id)
		if err != nil {
			return err
		}
		err = errors.Join(b.Node(i).WriteFile(kubeconfigFile, kubeconfig, 0o600), b.Node(i).WriteFile(configFile, b.config(), 0o600))
		if err != nil {
			return err
		}
	}
	return nil
}

// Configure adds a line to the section services of the configuration of all nodes. A Pintle reads it when it starts.
func (b *Bed) Configure(line string) error {
	var errs []error
	for i := 1; i <= b.Len(); i++ {
		errs = append(errs, b.Node(i).WriteFile(configFile, b.config(line), 0o600))
	}
	return errors.Join(errs...)
}

func (b *Bed) config(lines ...string) []byte {
	text := "apiVersion: pintle.dev/v1\ninstance: " + instance + "\nservices:\n  namespace: " + Namespace + "\n"
	for _, line := range lines {
		text += "  " + line + "\n"
	}
	if b.opts.Lease != 0 {
		text += fmt.Sprintf("  lease: %s\n", b.opts.Lease)
	}
	if b.opts.NoProxy {
		text += "  proxyHealth: \"off\"\n"
	}
	text += "kubernetes:\n  kubeconfig: " + kubeconfigFile + "\nserver:\n  runDir: " + runDir + "\nlog:\n  level: " + cmp.Or(b.opts.Log, "debug") + "\n"
	return []byte(text + b.opts.Config)
}

// rights are what `pintle manifest services` prints, but for the DaemonSet and its configuration: each node's is a file, and its
// program one that can be killed.
func (b *Bed) rights(ctx context.Context) ([]byte, error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, b.opts.Pintle, "manifest", "services")
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if strings.Contains(errs.String(), "is no command of") {
			return []byte(allRights), nil
		}
		return nil, fmt.Errorf("pintle manifest services: %w: %s", err, errs.String())
	}
	var kept []string
	for _, document := range strings.Split(out.String(), "\n---\n") {
		var o struct{ Kind string }
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			return nil, fmt.Errorf("pintle manifest services: %w", err)
		}
		if o.Kind != "" && o.Kind != "DaemonSet" && o.Kind != "ConfigMap" {
			kept = append(kept, document)
		}
	}
	return []byte(strings.Join(kept, "\n---\n")), nil
}

// allRights are for a program that does not tell yet which ones it needs.
const allRights = `
apiVersion: v1
kind: Namespace
metadata: {name: pintle-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: pintle-services}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: pintle-services, namespace: pintle-system}]
`

// Close ends everything.
func (b *Bed) Close() error { return b.Cluster.Close() }
