package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/pintle-lb/pintle/internal/config"
)

// ReadNode asks the configured API servers, one after the other, for the labels and
// annotations of a node, and takes the first answer. It needs the right of
// [manifests.NodeRule]. A server that does not answer costs 5 s; there are no
// retries. A refusal, and a node that does not exist, are final: all servers would
// say the same.
func ReadNode(ctx context.Context, creds *rest.Config, k config.Kubernetes, name string) (labels, annotations map[string]string, err error) {
	a, err := newAPI(creds)
	if err != nil {
		return nil, nil, err
	}
	defer a.close()
	var away []error
	for _, server := range k.Servers {
		var node metav1.PartialObjectMetadata
		_, err := a.do(ctx, http.MethodGet, server, "/api/v1/nodes/"+url.PathEscape(name), nil, &node)
		switch {
		case err == nil:
			return node.Labels, node.Annotations, nil
		case answered(err, http.StatusForbidden):
			return nil, nil, fmt.Errorf("read node %s: %w: `pintle manifest rbac` prints the right", name, err)
		case answered(err, http.StatusNotFound):
			return nil, nil, fmt.Errorf("read node %s: %w: is this its name in Kubernetes?", name, err)
		}
		away = append(away, err)
	}
	return nil, nil, fmt.Errorf("read node %s: %w", name, errors.Join(away...))
}
