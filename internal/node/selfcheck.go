package node

import (
	"context"
	"time"

	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/kube"
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
	if cfg.Election == config.ElectionLease {
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
	r := kube.Check(ctx, creds, cfg.Kubernetes, cfg.Lease)
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
// runs goes on trying. An API that is away is asked for this node's rights when it
// is there.
func (n *Node) selfCheck(ctx context.Context) {
	const first, last = 5 * time.Second, time.Minute
	said := map[string]bool{}
	for wait := first; ; wait = min(2*wait, last) {
		s := SelfCheck(ctx, n.cfg)
		if ctx.Err() != nil {
			return
		}
		done := s.Answered || n.kube == nil
		if done || len(said) == 0 { // what an API server that is away says changes from one time to the next
			n.warn(s.Findings, said)
		}
		if done {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
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
