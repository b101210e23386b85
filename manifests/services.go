package manifests

import (
	"cmp"
	"fmt"
	"time"
)

// A ServiceNode is what the configuration of the nodes that give Services their addresses is made from: the same on every node.
// Everything has the default that the configuration has.
type ServiceNode struct {
	MadeBy    string        // the command, for the first lines of the file
	Namespace string        // of the Leases
	Lease     time.Duration // after which a node that is not heard of is replaced
	BGP       *BGP          // routers; nil if pools are announced by ARP and NDP alone
}

// Config renders the configuration, commented. It does not check what Pintle checks when it reads the file.
func (s ServiceNode) Config() ([]byte, error) {
	s.Namespace, s.Lease = cmp.Or(s.Namespace, "pintle-system"), cmp.Or(s.Lease, 10*time.Second)
	if err := s.BGP.check(); err != nil {
		return nil, fmt.Errorf("render configuration: %w", err)
	}
	return render("services.yaml.tmpl", s)
}
