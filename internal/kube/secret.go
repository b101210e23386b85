package kube

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// sharedKey is the key of a Secret that SharedKey reads.
const sharedKey = "key"

// keySize is how many bytes it makes.
const keySize = 32

// SharedKey returns the key that the nodes of a cluster share, from a Secret, and makes that if there is none: whoever is first
// does, and the others read it. A server that does not answer costs 5 s.
func SharedKey(ctx context.Context, creds *rest.Config, servers []string, namespace, name string) ([]byte, error) {
	a, err := newAPI(creds)
	if err != nil {
		return nil, err
	}
	defer a.close()
	path := fmt.Sprintf("/api/v1/namespaces/%s/secrets", namespace)
	var away []error
	for _, server := range servers {
		var s corev1.Secret
		_, err := a.do(ctx, http.MethodGet, server, path+"/"+name, nil, &s)
		if answered(err, http.StatusNotFound) {
			fresh := make([]byte, keySize)
			_, _ = rand.Read(fresh) // never fails
			made := corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
				Data: map[string][]byte{sharedKey: fresh}}
			if _, err = a.do(ctx, http.MethodPost, server, path, &made, nil); err == nil || answered(err, http.StatusConflict) {
				_, err = a.do(ctx, http.MethodGet, server, path+"/"+name, nil, &s)
			}
		}
		switch {
		case err == nil && len(s.Data[sharedKey]) < keySize:
			return nil, fmt.Errorf("read secret %s/%s: %q in it has %d bytes, want at least %d: delete it, and it is made anew", namespace, name, sharedKey, len(s.Data[sharedKey]), keySize)
		case err == nil:
			return s.Data[sharedKey], nil
		case answered(err, http.StatusForbidden):
			return nil, fmt.Errorf("read secret %s/%s: %w: `pintle manifest services` prints the right", namespace, name, err)
		}
		away = append(away, err)
	}
	return nil, fmt.Errorf("read secret %s/%s: %w", namespace, name, errors.Join(away...))
}
