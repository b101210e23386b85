package services

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pintle-lb/pintle/internal/netlab"
)

// Echo are the labels of backends that the Services of Bed.Service choose.
var Echo = map[string]string{"app": "echo"}

// never is a grace period, in seconds, that no test sees the end of; and nobody would end it but a kubelet.
const never = 24 * 60 * 60

// A Backend is a pod: an object of the API, whose status the test writes in the place of a kubelet, and a network namespace, in
// which netlab.EchoPort answers by UDP and TCP. The controller-manager makes EndpointSlices of it.
type Backend struct {
	Name string
	Node int
	*netlab.Pod
	bed *Bed
}

// Backend makes one in the namespace default on node i, which is ready. It does not wait until the Services know.
func (b *Bed) Backend(ctx context.Context, i int, labels map[string]string) (*Backend, error) {
	b.mu.Lock()
	b.backends++
	k := &Backend{Name: fmt.Sprintf("backend-%d", b.backends), Node: i, bed: b}
	b.mu.Unlock()
	var err error
	if k.Pod, err = b.Node(i).Pod(k.Name); err != nil {
		return nil, err
	}
	if _, err = k.Greet(netlab.EchoPort); err == nil {
		err = k.register(ctx, labels)
	}
	if err == nil {
		err = k.Ready(ctx, true)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a backend on %s: %w", b.Node(i).Name(), err), k.Pod.Close())
	}
	return k, nil
}

// register makes the object. A pod needs a service account, which the controller-manager makes a while after its start.
func (k *Backend) register(ctx context.Context, labels map[string]string) error {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	_, err := k.bed.API(k.bed.Via).CoreV1().ServiceAccounts("default").Create(ctx, account, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	_, err = k.bed.API(k.bed.Via).CoreV1().Pods("default").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: k.Name, Labels: labels},
		Spec: corev1.PodSpec{
			NodeName: k.bed.Node(k.Node).Name(), AutomountServiceAccountToken: new(bool),
			Containers: []corev1.Container{{Name: "echo", Image: "localhost/echo:test"}},
		},
	}, metav1.CreateOptions{})
	return err
}

// Ready makes the pod ready or not. One that terminates goes on serving as long as it is ready.
func (k *Backend) Ready(ctx context.Context, ready bool) error {
	status := corev1.PodStatus{
		Phase: corev1.PodRunning, HostIP: k.bed.Node(k.Node).Addr().String(), PodIP: k.Addr().String(), PodIPs: []corev1.PodIP{{IP: k.Addr().String()}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}},
	}
	if ready {
		status.Conditions[0].Status = corev1.ConditionTrue
	}
	if k.Addr6().IsValid() {
		status.PodIPs = append(status.PodIPs, corev1.PodIP{IP: k.Addr6().String()})
	}
	patch, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return err
	}
	_, err = k.bed.API(k.bed.Via).CoreV1().Pods("default").Patch(ctx, k.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("make %s ready (%t): %w", k.Name, ready, err)
	}
	return nil
}

// Terminate deletes the pod as `kubectl delete` does: it terminates, and answers, until Remove.
func (k *Backend) Terminate(ctx context.Context) error { return k.delete(ctx, never) }

// Remove deletes the pod at once, and nothing answers any more when it returns.
func (k *Backend) Remove(ctx context.Context) error {
	err := k.delete(ctx, 0)
	return errors.Join(err, k.Pod.Close())
}

func (k *Backend) delete(ctx context.Context, grace int64) error {
	err := k.bed.API(k.bed.Via).CoreV1().Pods("default").Delete(ctx, k.Name, metav1.DeleteOptions{GracePeriodSeconds: &grace})
	if err != nil {
		return fmt.Errorf("delete %s: %w", k.Name, err)
	}
	return nil
}
