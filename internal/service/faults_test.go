package service

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
	"github.com/pintle-lb/pintle/leader"
)

// bare is a Controller without a cluster, whose news the test takes in.
func bare() *Controller {
	return &Controller{log: slog.New(slog.DiscardHandler), wake: make(chan struct{}, 1), faults: map[string]string{}, writeErrs: map[string]fault{},
		facts: Facts{Roll: map[string]Fellow{}, Nodes: map[string]*NodeInfo{}}}
}

// A slowSetter ends as it is told.
type slowSetter chan error

func (s slowSetter) Set(_ context.Context, want []int) ([]int, error) { return want, <-s }

// TestPartErrorStays: while what failed is tried again it has not succeeded.
func TestPartErrorStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c, s := bare(), make(slowSetter)
		p := newPart(c, s, sameValue[int])
		ended := make(chan error, 1)
		go func() { ended <- p.run(ctx) }()
		p.set([]int{1})
		for i, r := range []struct {
			comes error
			want  string // while the next try is under way
		}{{errors.New("broken"), "broken"}, {errors.New("still broken"), "still broken"}, {nil, ""}} {
			s <- r.comes
			p.again()
			time.Sleep(time.Minute)
			synctest.Wait()
			c.learn()
			if got := errorText(p.err); !p.busy || got != r.want {
				t.Errorf("try %d: busy %v, error %q; want %q", i+2, p.busy, got, r.want)
			}
		}
		cancel()
		s <- nil
		<-ended
	})
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestWriteFaults: what one kind of write does not achieve is said until that kind succeeds, or nothing of it has failed for a while.
func TestWriteFaults(t *testing.T) {
	c := bare()
	said := func() string {
		var all []string
		for _, kind := range []string{"seat", "pools"} {
			if f := c.writeErrs[kind]; f.counts(c.facts.Now) {
				all = append(all, f.text)
			}
		}
		return strings.Join(all, "; ")
	}
	second := leader.Instant(time.Second)
	for _, step := range []struct {
		at   leader.Instant
		kind string
		err  error
		want string
	}{
		{1, "pools", errors.New("refused"), "pools: refused"},
		{2, "seat", nil, "pools: refused"},
		{3, "seat", errors.New("late"), "seat: late; pools: refused"},
		{30, "pools", nil, "seat: late"},
		{62, "pools", nil, "seat: late"},
		{63, "pools", nil, ""},
		{64, "seat", errors.New("late"), "seat: late"},
		{65, "seat", nil, ""},
	} {
		c.facts.Now = step.at * second
		c.wrote(step.kind, step.kind, step.err)
		if got := said(); got != step.want {
			t.Errorf("at %d: %q, want %q", step.at, got, step.want)
		}
	}
}

// TestWatchFaults: a watch that begins is well, whether it brings anything or not, and one that is asked for in a way that older API
// servers do not know says nothing.
func TestWatchFaults(t *testing.T) {
	c := bare()
	var err error
	lw := &cache.ListWatch{
		ListWithContextFunc:  func(context.Context, metav1.ListOptions) (runtime.Object, error) { return nil, err },
		WatchFuncWithContext: func(context.Context, metav1.ListOptions) (watch.Interface, error) { return nil, err },
	}
	c.overhear("pools", lw)
	invalid := apierrors.NewInvalid(schema.GroupKind{Kind: "ListOptions"}, "", nil)
	for _, step := range []struct {
		do   string
		err  error
		want string
	}{
		{"list", errors.New("refused"), "refused"},
		{"list", nil, "refused"}, // the watch may be what is refused
		{"watch", nil, ""},
		{"watch", errors.New("refused"), "refused"},
		{"watch", errors.New("late"), "late"},
		{"watch", nil, ""},
		{"watch with the list", invalid, ""},
		{"watch", invalid, invalid.Error()},
	} {
		err = step.err
		o := metav1.ListOptions{}
		switch step.do {
		case "list":
			_, _ = lw.ListWithContextFunc(t.Context(), o)
		case "watch with the list":
			o.SendInitialEvents = new(true)
			fallthrough
		default:
			_, _ = lw.WatchFuncWithContext(t.Context(), o)
		}
		c.learn()
		if got := c.faults["pools"]; got != step.want {
			t.Errorf("%s, %v: %q, want %q", step.do, step.err, got, step.want)
		}
	}
}

// A withoutCRD is an API that does not know Address objects.
type withoutCRD struct{ api }

var errNoCRD = apierrors.NewNotFound(schema.GroupResource{Group: "pintle.dev", Resource: "addresses"}, "")

func (withoutCRD) create(context.Context, *pintlev1.Address) (*pintlev1.Address, error) {
	return nil, errNoCRD
}

func (withoutCRD) get(context.Context, string) (*pintlev1.Address, error) { return nil, nil }

func TestCreateWithoutCRD(t *testing.T) {
	c := bare()
	c.client = withoutCRD{}
	r := c.carryOut(t.Context(), Write{Verb: Create, Object: &pintlev1.Address{}})
	if !apierrors.IsNotFound(r.err) || r.gone || r.object != nil {
		t.Errorf("%+v: want an error, or it is tried again at once", r)
	}
}

// TestNodesAreForgotten: of a node whose Lease is gone nothing stays, and one that is no node any more is no reason.
func TestNodesAreForgotten(t *testing.T) {
	c := bare()
	f := &c.facts
	f.Nodes["n1"] = &NodeInfo{Weight: 1}
	r := &Record{Addr: netip.MustParseAddr("192.0.2.1"), Object: &pintlev1.Address{}}
	for _, step := range []struct {
		member leader.RollMember
		roll   int
		want   string
	}{
		{leader.RollMember{}, 0, "no node runs Pintle"},
		{leader.RollMember{Node: "n1", Epoch: 3}, 1, "no node suits: n1 does not renew its Lease"},
		{leader.RollMember{Node: "former", Epoch: 2}, 2, "no node suits: n1 does not renew its Lease"},
		{leader.RollMember{Node: "former"}, 1, "no node suits: n1 does not renew its Lease"},
		{leader.RollMember{Node: "n1"}, 0, "no node runs Pintle"},
	} {
		if step.member.Node != "" {
			c.learnMember(step.member)
		}
		if got := f.nowhere(r); len(f.Roll) != step.roll || got != step.want {
			t.Errorf("%+v: %d known, %q; want %d, %q", step.member, len(f.Roll), got, step.roll, step.want)
		}
	}
}

// TestForsake: what another controller keeps in a status is not taken back over and over.
func TestForsake(t *testing.T) {
	k := ipam.Key{Namespace: "shop", Name: "web"}
	c := &coordinator{vain: map[ipam.Key]vanity{}}
	s := &Service{Key: k, Version: 7}
	if w := c.forsake(s); len(w) > 0 {
		t.Errorf("nothing was said, and is taken back: %+v", w)
	}
	s.Condition = &metav1.Condition{}
	if w := c.forsake(s); len(w) != 1 {
		t.Errorf("what was said is not taken back: %+v", w)
	}
	c.vain[k] = vanity{version: 7} // it was said that it gets nothing, when it was no longer ours
	if w := c.forsake(s); len(w) != 1 {
		t.Errorf("what was said too late is not taken back: %+v", w)
	}
	c.vain[k] = vanity{version: 7, silent: true}
	if w := c.forsake(s); len(w) > 0 {
		t.Errorf("it is taken back again: %+v", w)
	}
	s.Version = 8
	if w := c.forsake(s); len(w) != 1 {
		t.Errorf("the Service has changed, and it is not tried again: %+v", w)
	}
}
