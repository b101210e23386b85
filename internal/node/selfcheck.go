package node

import (
	"context"
	"slices"
	"time"

	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/kube"
	"github.com/pintle-lb/pintle/leader"
	"github.com/pintle-lb/pintle/manifests"
)

// A Finding is something about this machine, or about what it reaches, that is not
// as it should be.
type Finding struct {
	Text    string
	Warning bool // the node can work all the same
}

// A Survey is what a look around brought.
type Survey struct {
	Findings []Finding
	Answered bool   // where a Lease elects: some API server answered
	Holder   string // likewise: whom the Lease names
}

// SelfCheck looks around: for other programs that would bring up the same addresses
// and, where a Lease elects, at the credentials, the API servers, this node's
// rights and its clock. It changes nothing and takes up to some seconds.
func SelfCheck(ctx context.Context, cfg *config.Config) Survey {
	s := Survey{Findings: rivals(places{proc: "/proc", manifests: "/etc/kubernetes/manifests"}, cfg)}
	if cfg.NeedsKubernetes() {
		s.askAPI(ctx, cfg)
	}
	return s
}

func (s *Survey) askAPI(ctx context.Context, cfg *config.Config) {
	creds, err := kube.Credentials(cfg.Kubernetes)
	if err != nil {
		s.Findings = append(s.Findings, about(cfg, kube.Finding{Path: "kubernetes.kubeconfig", Text: err.Error()}))
		return
	}
	var more []manifests.Rule
	if cfg.Services != nil {
		more = manifests.ServiceRules(cfg.Services.Namespace, true)
	} else if cfg.BGP.NeedsNode() {
		more = append(more, manifests.NodeRule(cfg.Node))
	}
	r := kube.Check(ctx, creds, cfg.Kubernetes, cfg.Lease, more...)
	for _, f := range r.Findings {
		s.Findings = append(s.Findings, about(cfg, f))
	}
	s.Answered, s.Holder = r.Answered, r.Holder
}

// about puts a finding about a key in the form of the problems of the file.
func about(cfg *config.Config, f kube.Finding) Finding {
	text := f.Text
	if f.Path != "" {
		text = cfg.Problem(f.Path, "", f.Text, "").String()
	}
	return Finding{Text: text, Warning: f.Warning}
}

// selfCheck says what SelfCheck finds, as warnings: whatever is wrong, a node that
// runs goes on trying. If no API server answers it looks once more when the elector
// has found one.
func (n *Node) selfCheck(ctx context.Context) {
	said := map[string]bool{}
	s := SelfCheck(ctx, n.cfg)
	if ctx.Err() != nil {
		return
	}
	n.warn(s.Findings, said)
	if s.Answered || n.kube == nil || !n.someServer(ctx) {
		return
	}
	n.warn(SelfCheck(ctx, n.cfg).Findings, said)
}

// someServer waits for an API server that answers. It returns false when ctx ends.
func (n *Node) someServer(ctx context.Context) bool {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		if slices.ContainsFunc(n.kube.Status().Servers, func(s leader.KubeServer) bool { return !s.Seen.IsZero() }) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
		}
	}
}

// warn says what was not said before.
func (n *Node) warn(findings []Finding, said map[string]bool) {
	for _, f := range findings {
		if !said[f.Text] {
			n.log.Warn("self-check", "err", f.Text)
		}
		said[f.Text] = true
	}
}
