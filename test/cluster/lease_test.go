package cluster_test

import (
	"context"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"

	"github.com/pintle-lb/pintle/test/cluster"
	"github.com/pintle-lb/pintle/test/cluster/clustertest"
)

// oneLease is a Role for one Lease, in kube-system.
const oneLease = `
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: one-lease, namespace: kube-system}
rules: [{apiGroups: [coordination.k8s.io], resources: [leases], resourceNames: [pintle], verbs: [get, watch, update, create]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: one-lease, namespace: kube-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: one-lease}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: elector}]
`

// onlyPintle selects the Lease of oneLease.
var onlyPintle = metav1.ListOptions{FieldSelector: "metadata.name=pintle"}

// A ruled has the Leases of kube-system as a user sees them who has the rights of oneLease, and as the administrator does.
type ruled struct {
	mine, all coordinationclient.LeaseInterface
}

// TestLeaseRules: what an election by a Lease relies on, asked of the real API server.
func TestLeaseRules(t *testing.T) {
	c := clustertest.New(t, cluster.Options{})
	_, err := c.Apply(clustertest.Context(t), 1, []byte(oneLease))
	check(t, err)
	user, err := c.Issue("elector")
	check(t, err)
	api := ruled{
		mine: client(t, c.Config(1, c.Node(1).Host, user)).CoordinationV1().Leases("kube-system"),
		all:  admin(t, c, 1).CoordinationV1().Leases("kube-system"),
	}
	for _, rule := range []struct {
		name string
		f    func(*testing.T, context.Context, ruled)
	}{
		{"rights for one name", rightsForOneName},
		{"PUT without a version", putWithoutVersion},
		{"PUT with another uid", putWithAnotherUID},
		{"PUT after a deletion", putAfterDeletion},
		{"empty fields", emptyFields},
		{"watch for one name", watchForOneName},
	} {
		t.Run(rule.name, func(t *testing.T) { rule.f(t, clustertest.Context(t), api) })
	}
}

// rightsForOneName: a Role with resourceNames lets its user create that one Lease, by PUT; POST has no name that it could be checked by.
func rightsForOneName(t *testing.T, ctx context.Context, api ruled) {
	clustertest.Await(t, ctx, func(ctx context.Context) error { // the API server learns of a Role a moment later
		_, err := api.mine.Get(ctx, "pintle", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
	_, err := api.mine.Create(ctx, lease("pintle", "n1"), metav1.CreateOptions{})
	forbidden(t, "POST of the Lease", err)
	_, err = api.mine.Update(ctx, lease("other", "n1"), metav1.UpdateOptions{})
	forbidden(t, "PUT of another Lease", err)
	_, err = api.mine.List(ctx, onlyPintle)
	forbidden(t, "LIST, even of the Lease", err)
	made, err := api.mine.Update(ctx, lease("pintle", "n1"), metav1.UpdateOptions{})
	check(t, err)
	if made.UID == "" || made.ResourceVersion == "" {
		t.Errorf("created by PUT: got %+v, want a uid and a version", made.ObjectMeta)
	}
}

func forbidden(t *testing.T, what string, err error) {
	t.Helper()
	if !apierrors.IsForbidden(err) {
		t.Errorf("%s: got %v, want forbidden", what, err)
	}
}

// putWithoutVersion: what is there is never overwritten unseen.
func putWithoutVersion(t *testing.T, ctx context.Context, api ruled) {
	for _, version := range []string{"", "0"} {
		l := lease("pintle", "n2")
		l.ResourceVersion = version
		if _, err := api.mine.Update(ctx, l, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
			t.Errorf("PUT with version %q: got %v, want invalid", version, err)
		}
	}
}

// putWithAnotherUID: the version alone does not do.
func putWithAnotherUID(t *testing.T, ctx context.Context, api ruled) {
	l, err := api.mine.Get(ctx, "pintle", metav1.GetOptions{})
	check(t, err)
	l.UID = types.UID("7d2d6e5a-0000-4000-8000-000000000000")
	if _, err := api.mine.Update(ctx, l, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("PUT with another uid: got %v, want a conflict", err)
	}
}

// putAfterDeletion: a version without a uid creates the Lease again. Only the uid makes sure that an update is one.
func putAfterDeletion(t *testing.T, ctx context.Context, api ruled) {
	was, err := api.mine.Get(ctx, "pintle", metav1.GetOptions{})
	check(t, err)
	check(t, api.all.Delete(ctx, "pintle", metav1.DeleteOptions{}))
	if _, err := api.mine.Update(ctx, was, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("PUT with uid and version: got %v, want a conflict", err)
	}
	if _, err := api.mine.Get(ctx, "pintle", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after a PUT with uid and version: got %v, want not found", err)
	}
	was.UID = ""
	made, err := api.mine.Update(ctx, was, metav1.UpdateOptions{})
	if err != nil || made.UID == was.UID {
		t.Errorf("PUT with a version alone: got %v, want a new Lease", err)
	}
}

// emptyFields: what may be left out, and what not.
func emptyFields(t *testing.T, ctx context.Context, api ruled) {
	for _, test := range []struct {
		name  string
		spec  coordinationv1.LeaseSpec
		valid bool
	}{
		{"nothing at all", coordinationv1.LeaseSpec{}, true},
		{"nobody", coordinationv1.LeaseSpec{HolderIdentity: ptr("")}, true},
		{"nobody, for a while", coordinationv1.LeaseSpec{HolderIdentity: ptr(""), LeaseDurationSeconds: ptr(int32(1))}, true},
		{"no duration", coordinationv1.LeaseSpec{HolderIdentity: ptr("n1")}, true},
		{"duration 0", coordinationv1.LeaseSpec{HolderIdentity: ptr("n1"), LeaseDurationSeconds: ptr(int32(0))}, false},
		{"transitions -1", coordinationv1.LeaseSpec{HolderIdentity: ptr("n1"), LeaseTransitions: ptr(int32(-1))}, false},
	} {
		l, err := api.mine.Get(ctx, "pintle", metav1.GetOptions{})
		check(t, err)
		l.Spec = test.spec
		got, err := api.mine.Update(ctx, l, metav1.UpdateOptions{})
		if test.valid && err != nil || !test.valid && !apierrors.IsInvalid(err) {
			t.Errorf("%s: got %v, want valid: %v", test.name, err, test.valid)
		}
		if test.valid && err == nil && !equality.Semantic.DeepEqual(got.Spec, test.spec) {
			t.Errorf("%s: got %+v, want it as it was sent", test.name, got.Spec)
		}
	}
}

// watchForOneName: a watch for the one name is allowed, and begins with what is there.
func watchForOneName(t *testing.T, ctx context.Context, api ruled) {
	for what, options := range map[string]metav1.ListOptions{
		"watch of another Lease": {FieldSelector: "metadata.name=other"}, "watch of all Leases": {},
	} {
		_, err := api.mine.Watch(ctx, options)
		forbidden(t, what, err)
	}
	is, err := api.mine.Get(ctx, "pintle", metav1.GetOptions{})
	check(t, err)
	w, err := api.mine.Watch(ctx, onlyPintle)
	check(t, err)
	defer w.Stop()
	expect(t, ctx, w, watch.Added, is.ResourceVersion)
	is.Spec.HolderIdentity = ptr("n3")
	is, err = api.mine.Update(ctx, is, metav1.UpdateOptions{})
	check(t, err)
	expect(t, ctx, w, watch.Modified, is.ResourceVersion)
	check(t, api.all.Delete(ctx, "pintle", metav1.DeleteOptions{}))
	expect(t, ctx, w, watch.Deleted, "")
}

// expect waits for an event about the Lease in a version, or in any.
func expect(t *testing.T, ctx context.Context, w watch.Interface, kind watch.EventType, version string) {
	t.Helper()
	select {
	case <-ctx.Done():
		t.Fatalf("no event: want %s of version %s", kind, version)
	case e, open := <-w.ResultChan():
		l, _ := e.Object.(*coordinationv1.Lease)
		if !open || e.Type != kind || l == nil || version != "" && l.ResourceVersion != version {
			t.Fatalf("event: got %v (open: %v), want %s of version %s", e, open, kind, version)
		}
	}
}

// TestWatchOfDeadServer: a watch ends with the API server, without a word.
func TestWatchOfDeadServer(t *testing.T) {
	c, ctx := clustertest.New(t, cluster.Options{}), clustertest.Context(t)
	leases := admin(t, c, 1).CoordinationV1().Leases("kube-system")
	l, err := leases.Create(ctx, lease("pintle", "n1"), metav1.CreateOptions{})
	check(t, err)
	for _, end := range []func(string) error{c.Node(1).Kill, c.Node(1).Stop} {
		w, err := leases.Watch(ctx, onlyPintle)
		check(t, err)
		expect(t, ctx, w, watch.Added, l.ResourceVersion)
		check(t, end(cluster.APIServer))
		select {
		case <-ctx.Done():
			t.Fatal("the watch goes on without an API server")
		case e, open := <-w.ResultChan():
			if open {
				t.Errorf("event of a dead API server: %v", e)
			}
		}
		check(t, c.Node(1).Start(cluster.APIServer))
		check(t, c.WaitReady(ctx, 1))
	}
}

// TestWatchAcrossRestore: an API server that goes on while etcd is put back keeps what it has in its cache. Watches, old and new, and
// reads at version 0 tell of a Lease that never was; only a read without a version tells the truth. Versions repeat with other
// content, so that an update may overwrite what its writer has never seen.
func TestWatchAcrossRestore(t *testing.T) {
	c, ctx := clustertest.New(t, cluster.Options{}), clustertest.Context(t)
	leases := admin(t, c, 1).CoordinationV1().Leases("kube-system")
	l, err := leases.Create(ctx, lease("pintle", "kept"), metav1.CreateOptions{})
	check(t, err)
	kept := l.ResourceVersion
	snapshot, err := c.Snapshot(ctx, 1)
	check(t, err)
	never := map[string]*coordinationv1.Lease{} // by version, what there will not have been
	for range 1000 {                            // more versions than the cluster makes by itself while this test runs
		l.Spec.LeaseTransitions = ptr(value(l.Spec.LeaseTransitions) + 1)
		l.Spec.HolderIdentity = ptr("lost")
		l, err = leases.Update(ctx, l, metav1.UpdateOptions{})
		check(t, err)
		never[l.ResourceVersion] = l
	}
	lost := l.ResourceVersion
	old, err := leases.Watch(ctx, onlyPintle)
	check(t, err)
	defer old.Stop()
	expect(t, ctx, old, watch.Added, lost)
	check(t, c.Restore(ctx, snapshot))

	truth, err := leases.Get(ctx, "pintle", metav1.GetOptions{})
	check(t, err)
	if truth.ResourceVersion != kept {
		t.Errorf("read without a version: got version %s, want %s", truth.ResourceVersion, kept)
	}
	if _, err := leases.Update(ctx, l, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("update of the lost version: got %v, want a conflict", err)
	}
	// Some versions of that time were of other objects, which the API server wrote then.
	var same *coordinationv1.Lease
	for range 1000 {
		truth.Spec.HolderIdentity, truth.Spec.LeaseTransitions = ptr("after"), ptr(value(truth.Spec.LeaseTransitions)+1)
		truth, err = leases.Update(ctx, truth, metav1.UpdateOptions{})
		check(t, err)
		if same = never[truth.ResourceVersion]; same != nil {
			break
		}
	}
	if same == nil {
		t.Fatalf("version %s is a new one", truth.ResourceVersion)
	}
	if _, err := leases.Update(ctx, same, metav1.UpdateOptions{}); err != nil {
		t.Errorf("update of a Lease that never was, with a version that is: %v", err)
	}
	cached, err := leases.Get(ctx, "pintle", metav1.GetOptions{ResourceVersion: "0"})
	check(t, err)
	if cached.ResourceVersion != lost {
		t.Errorf("read at version 0: got version %s, want the lost one, %s", cached.ResourceVersion, lost)
	}
	fresh, err := leases.Watch(ctx, onlyPintle)
	check(t, err)
	defer fresh.Stop()
	expect(t, ctx, fresh, watch.Added, lost)
	silent(t, old)

	check(t, c.Node(1).Kill(cluster.APIServer))
	check(t, c.Node(1).Start(cluster.APIServer))
	check(t, c.WaitReady(ctx, 1))
	truth, err = leases.Get(ctx, "pintle", metav1.GetOptions{})
	check(t, err)
	again, err := leases.Watch(ctx, onlyPintle)
	check(t, err)
	defer again.Stop()
	expect(t, ctx, again, watch.Added, truth.ResourceVersion)
	// A watch from a version that was lost is accepted, and hears nothing.
	future := onlyPintle
	future.ResourceVersion = lost
	late, err := leases.Watch(ctx, future)
	check(t, err)
	defer late.Stop()
	silent(t, late)
}

func value(v *int32) int32 {
	if v == nil {
		return 0
	}
	return *v
}

// silent fails if there is an event within a second. That the watch of a restored cluster tells nothing was measured over 10 s.
func silent(t *testing.T, w watch.Interface) {
	t.Helper()
	select {
	case e, open := <-w.ResultChan():
		t.Errorf("event: got %v (open: %v), want none", e, open)
	case <-time.After(time.Second):
	}
}
