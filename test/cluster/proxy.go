package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	proxyConfig = "/etc/kubernetes/kube-proxy.conf"
	proxyHealth = "http://127.0.0.1:10256/healthz"
)

// proxyCommand is kube-proxy as kubeadm configures it, but with nftables, and without limits of the connection table that only the
// machine as a whole can have.
func (s *site) proxyCommand(m *Machine, kubeconfig string) func() ([]string, error) {
	pods, _ := s.subnets()
	argv := []string{
		"kube-proxy", "--kubeconfig=" + kubeconfig, "--proxy-mode=nftables", "--hostname-override=" + m.Name(), "--cluster-cidr=" + pods,
		"--healthz-bind-address=127.0.0.1:10256", "--metrics-bind-address=127.0.0.1:10249", "--conntrack-max-per-core=0", "--conntrack-min=0",
	}
	return func() ([]string, error) { return argv, nil }
}

// startProxies starts kube-proxy on every node and waits until each has laid its rules.
func (c *Cluster) startProxies(ctx context.Context) error {
	id, err := c.Issue("system:kube-proxy") // whom the API server itself gives the rights
	if err != nil {
		return err
	}
	var starting errgroup.Group
	for _, n := range c.all {
		starting.Go(func() error {
			config, err := n.Kubeconfig(id)
			if err != nil {
				return err
			}
			if err := n.WriteFile(proxyConfig, config, 0o600); err != nil {
				return err
			}
			if err := errors.Join(n.Forward(), n.Start(KubeProxy)); err != nil {
				return err
			}
			return n.WaitProxy(ctx)
		})
	}
	return starting.Wait()
}

// WaitProxy waits until the node's kube-proxy says that it is healthy. The error has its last answer.
func (n *Node) WaitProxy(ctx context.Context) error {
	if err := eventually(ctx, func() error { return n.ProxyHealth(ctx) }); err != nil {
		return fmt.Errorf("wait for kube-proxy of %s: %w", n.Name(), err)
	}
	return nil
}

// ProxyHealth asks the node's kube-proxy whether it is healthy, on the node; without an answer it says so after two seconds.
func (n *Node) ProxyHealth(ctx context.Context) error {
	c := http.Client{Transport: &http.Transport{DialContext: dialFrom(n.Host), DisableKeepAlives: true}, Timeout: 2 * time.Second}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, proxyHealth, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return fmt.Errorf("%s: %s: %s", proxyHealth, resp.Status, b)
	}
	return nil
}

// leadToPods gives each node routes to the pods of the others, as a network plugin or a cloud would.
func (c *Cluster) leadToPods() error {
	for _, n := range c.all {
		for _, other := range c.all {
			if other == n {
				continue
			}
			for i, subnet := range c.podSubnets(other.number) {
				if err := n.Route(subnet, []netip.Addr{other.Addr(), other.Addr6()}[i]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// A relay is what a worker has where the other nodes have their API server: it passes each connection on to the first that accepts
// it, and ends it a few seconds after that one has fallen silent.
type relay struct {
	listener net.Listener
	dial     func(ctx context.Context, server netip.AddrPort) (net.Conn, error)
	servers  []netip.AddrPort
	ctx      context.Context
	end      context.CancelFunc
	busy     errgroup.Group
}

// startRelay listens on the node. The servers are tried in order.
func (n *Node) startRelay(servers []netip.AddrPort) error {
	r := &relay{servers: servers, dial: n.dialServer}
	err := n.Host.Do(func() (err error) {
		r.listener, err = net.Listen("tcp", localAPI)
		return err
	})
	if err != nil {
		return fmt.Errorf("make the way from %s to the API: %w", n.Name(), err)
	}
	r.ctx, r.end = context.WithCancel(context.Background())
	r.busy.Go(r.accept)
	n.cluster.closers = append(n.cluster.closers, r.close)
	return nil
}

func (n *Node) dialServer(ctx context.Context, server netip.AddrPort) (c net.Conn, err error) {
	alive := net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 3}
	d := net.Dialer{Timeout: time.Second, KeepAliveConfig: alive, Control: giveUpSoon}
	err = n.Host.Do(func() error {
		c, err = d.DialContext(ctx, "tcp", server.String())
		return err
	})
	return c, err
}

func (r *relay) accept() error {
	for {
		c, err := r.listener.Accept()
		if err != nil {
			return nil
		}
		r.busy.Go(func() error { r.pass(c); return nil })
	}
}

// pass carries one connection until either side ends it.
func (r *relay) pass(c net.Conn) {
	defer c.Close()
	for _, server := range r.servers {
		s, err := r.dial(r.ctx, server)
		if err != nil {
			continue
		}
		ended, cancel := context.WithCancel(r.ctx)
		context.AfterFunc(ended, func() { _, _ = c.Close(), s.Close() })
		go func() {
			defer cancel()
			_, _ = io.Copy(s, c)
		}()
		_, _ = io.Copy(c, s)
		cancel()
		return
	}
}

func (r *relay) close() error {
	r.end()
	_ = r.listener.Close()
	return r.busy.Wait()
}

// giveUpSoon makes the kernel end a connection when what was sent on it is not acknowledged for four seconds.
func giveUpSoon(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int((4 * time.Second).Milliseconds()))
	})
	return errors.Join(err, set)
}
