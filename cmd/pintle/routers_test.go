package main

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/kube/kubetest"
)

// local is a configuration of peers on this host, one of them chosen by a label.
func local(t *testing.T, api *kubetest.API, server string) *config.Config {
	t.Helper()
	file := fmt.Sprintf(`apiVersion: pintle.dev/v1
addresses: [{address: 192.0.2.10}]
announce: [bgp]
election: none
bgp:
  as: 65001
  peers:
    - {name: daemon, address: 127.0.0.1, as: 65000, localAddress: 127.0.0.9, bfd: {}}
    - {name: rack, address: 127.0.0.2, as: 65000, nodeLabels: {rack: r1}}
    - {name: cell, address: 127.0.0.3, as: 65000, nodeAnnotations: {cell: c1}}
kubernetes: {kubeconfig: %q, servers: [%q], serverName: %s}
`, api.Kubeconfig(), server, kubetest.ServerName)
	cfg, problems := config.Parse([]byte(file), "f", config.Options{Node: "n1"})
	if cfg == nil {
		t.Fatal(problems)
	}
	return cfg
}

func names(peers []config.BGPPeer) (out []string) {
	for _, p := range peers {
		out = append(out, p.Name)
	}
	return out
}

// Which peers a node has, Kubernetes says.
func TestPeersByLabels(t *testing.T) {
	api := kubetest.New(t)
	cfg := local(t, api, api.Listen())
	api.SetNode("n1", map[string]string{"rack": "r1"}, nil)
	var warnings bytes.Buffer
	r := lookAtRouters(t.Context(), &warnings, cfg)
	if got := names(r.peers); !slices.Equal(got, []string{"daemon", "rack"}) || len(r.errs) > 0 || warnings.Len() > 0 {
		t.Errorf("%q, %v, %s", got, r.errs, &warnings)
	}
	api.SetNode("n1", nil, map[string]string{"cell": "c1"})
	if r = lookAtRouters(t.Context(), &warnings, cfg); !slices.Equal(names(r.peers), []string{"daemon", "cell"}) {
		t.Errorf("%q, %v", names(r.peers), r.errs)
	}
}

// A node that may not be read, or is not there, still has the peers that all nodes have.
func TestPeersWithoutLabels(t *testing.T) {
	api := kubetest.New(t)
	cfg := local(t, api, api.Listen())
	want := "f:11: kubernetes: read node n1: ask https://"
	for range 2 {
		var warnings bytes.Buffer
		r := lookAtRouters(t.Context(), &warnings, cfg)
		if got := fmt.Sprint(r.errs); !slices.Equal(names(r.peers), []string{"daemon"}) || len(r.errs) != 1 || !strings.Contains(got, want) {
			t.Errorf("%q, %s, want %s", names(r.peers), got, want)
		}
		want = "f:11: kubernetes: may not get nodes n1, to find this node's routers by its labels: `pintle manifest rbac` prints the ClusterRole"
		api.Break(kubetest.Fault{May: func(*authorizationv1.ResourceAttributes) bool { return false }})
	}
}

// The port of BFD is tried where BFD would have it.
func TestBFDPort(t *testing.T) {
	api := kubetest.New(t)
	cfg := local(t, api, api.Listen())
	cfg.BGP.Peers = cfg.BGP.Peers[:1]
	r := lookAtRouters(t.Context(), &bytes.Buffer{}, cfg)
	if err := r.checkBFD(); err != nil {
		t.Error(err)
	}
	conn, err := net.ListenPacket("udp", "127.0.0.9:3784")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := r.checkBFD(); err == nil || !strings.Contains(err.Error(), "f:8: bgp.peers[0].bfd: listen udp 127.0.0.9:3784: bind: address already in use (stop what uses it") {
		t.Error(err)
	}
}
