package services_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pintle-lb/pintle/arp"
	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
	"github.com/pintle-lb/pintle/test/cluster"
	"github.com/pintle-lb/pintle/test/services"
)

// TestLossOfAPI takes the API away from one node, whose addresses go to others whatever their pool says, and then from all. What is to be released is nobody's when the Leases have run out; what is to be kept
// goes on being answered for, until a rival is heard, and not by a node that hears no others.
func TestLossOfAPI(t *testing.T) {
	const lease = 9 * time.Second
	b := newPintle(t, services.Options{Nodes: 1, Workers: 2, Lease: lease})
	ctx := t.Context()
	for name, addrs := range map[string]string{"released": "10.99.1.0/24", "kept": "10.99.2.0/24"} {
		pool := services.NewPool(name, addrs)
		if name == "kept" {
			pool.Spec.OnAPILoss = pintlev1.Keep
		}
		_, err := b.API(1).Pools.Create(ctx, pool, metav1.CreateOptions{})
		check(t, err)
	}
	eventually(t, "everyone knows that all nodes suit", func(ctx context.Context) error { return allSuit(ctx, b) })
	var kept, released []netip.Addr
	for i := range 12 {
		name, pool, list := fmt.Sprintf("s%d", i), "kept", &kept
		if i%2 == 0 {
			pool, list = "released", &released
		}
		_, err := b.Service(ctx, name, func(s *corev1.Service) { s.Annotations = map[string]string{"pintle.dev/pool": pool} })
		check(t, err)
		within, cancel := context.WithTimeout(ctx, wait)
		addrs, err := b.Addresses(within, name)
		cancel()
		check(t, err)
		*list = append(*list, addrs...)
	}
	s, err := b.Lab().StartSurvey(20*time.Millisecond, append(append([]netip.Addr{}, kept...), released...)...)
	check(t, err)
	answered := func(what string, addrs []netip.Addr) {
		t.Helper()
		eventually(t, what, func(context.Context) error {
			now := s.Holders()
			for _, a := range addrs {
				if now[a] == "" {
					return fmt.Errorf("nobody answers for %s", a)
				}
			}
			return nil
		})
	}
	answered("all are answered for", append(append([]netip.Addr{}, kept...), released...))
	from := s.Mark()
	alone := b.Node(2)
	var its []netip.Addr
	for a, n := range s.Holders() {
		if n == alone.Name() {
			its = append(its, a)
		}
	}
	if !slices.ContainsFunc(its, func(a netip.Addr) bool { return slices.Contains(kept, a) }) {
		t.Fatalf("%s has %v, and nothing that is to be kept", alone.Name(), its)
	}
	nft := func(words ...string) {
		t.Helper()
		_, err := alone.Exec(ctx, append([]string{"nft"}, words...)...)
		check(t, err)
	}
	nft("add table inet away; add chain inet away out { type filter hook output priority 0; }; add rule inet away out tcp dport 6443 drop")
	eventually(t, "others answer for what the node has that alone does not reach the API", func(context.Context) error {
		now := s.Holders()
		for _, a := range its {
			if now[a] == "" || now[a] == alone.Name() {
				return fmt.Errorf("%s is answered for by %q", a, now[a])
			}
		}
		return nil
	})
	nft("delete table inet away")
	eventually(t, alone.Name()+" takes addresses again", func(ctx context.Context) error {
		for _, n := range s.Holders() {
			if n == alone.Name() {
				return nil
			}
		}
		return errors.New("it has none")
	})
	eventually(t, "all addresses have settled", func(ctx context.Context) error { return settled(ctx, b) })
	answered("all are answered for", append(append([]netip.Addr{}, kept...), released...))
	before := s.Holders()

	check(t, b.Node(1).Kill(cluster.APIServer))
	eventually(t, "nobody answers for what is to be released", func(context.Context) error {
		now := s.Holders()
		for _, a := range released {
			if now[a] != "" {
				return fmt.Errorf("%s is answered for by %s", a, now[a])
			}
		}
		return nil
	})
	sameHolders(t, "when the Leases have run out", s, kept, before)

	// A node that is cut off hears nobody, and keeps nothing.
	cut := b.Node(3).Name()
	check(t, b.Node(3).Cut())
	eventually(t, "the node that is cut off lets go", func(ctx context.Context) error { return silent(ctx, b, 3) })
	others := slices.DeleteFunc(slices.Clone(kept), func(a netip.Addr) bool { return before[a] == cut })
	sameHolders(t, "the others hear each other", s, others, before)
	check(t, b.Node(3).Heal())

	// A rival on the wire wins.
	theirs := others[len(others)-1]
	sameHolders(t, "before a rival comes", s, others, before)
	rival(t, b, theirs)
	eventually(t, "the node gives way to a rival", func(context.Context) error {
		if n := s.Holders()[theirs]; n == before[theirs] {
			return fmt.Errorf("%s answers", n)
		}
		return nil
	})

	check(t, b.Node(1).Start(cluster.APIServer))
	answered("all are answered for when the API is back", append(append([]netip.Addr{}, kept...), released...))
	for _, c := range s.Report(from, s.Mark()).Of {
		if len(c.Dual) > 0 && c.Addr != theirs {
			t.Errorf("%s: two nodes answered: %+v", c.Addr, c.Dual)
		}
	}
}

// allSuit reports an error unless every Pintle knows that all nodes suit for addresses.
func allSuit(ctx context.Context, b *services.Bed) error {
	for i := 1; i <= b.Len(); i++ {
		out, err := b.Status(ctx, i, "-o", "json")
		var r struct {
			Services struct {
				Nodes []struct {
					Suits bool
					Why   string
				}
			}
		}
		if err = errors.Join(err, json.Unmarshal(out, &r)); err != nil {
			return err
		}
		suit := 0
		for _, n := range r.Services.Nodes {
			if n.Suits {
				suit++
			}
		}
		if suit != b.Len() {
			return fmt.Errorf("to %s they are %+v", b.Node(i).Name(), r.Services.Nodes)
		}
	}
	return nil
}

// silent reports an error while a node means to answer for addresses: its own word counts, for nobody hears what it says.
func silent(ctx context.Context, b *services.Bed, i int) error {
	has, err := answersFor(ctx, b, i)
	if err == nil && len(has) > 0 {
		err = fmt.Errorf("it answers for %v", has)
	}
	return err
}

// answersFor is what a node says that it answers for.
func answersFor(ctx context.Context, b *services.Bed, i int) (addrs []netip.Addr, err error) {
	out, err := b.Status(ctx, i, "-o", "json")
	if err != nil {
		return nil, err
	}
	var r struct {
		Wire []struct {
			Address netip.Addr
			Claims  bool
		}
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return nil, err
	}
	for _, w := range r.Wire {
		if w.Claims {
			addrs = append(addrs, w.Address)
		}
	}
	return addrs, nil
}

// sameHolders expects that addresses are answered for by whom they were before: nobody can take them without an API.
func sameHolders(t *testing.T, when string, s *netlab.Survey, addrs []netip.Addr, before map[netip.Addr]string) {
	t.Helper()
	from := s.Mark()
	eventually(t, when, func(context.Context) error {
		for _, c := range s.Report(from, s.Mark()).Of {
			if _, ok := c.FirstFrom(before[c.Addr]); slices.Contains(addrs, c.Addr) && !ok {
				return fmt.Errorf("%s is not answered for by %s: %+v", c.Addr, before[c.Addr], c.Tenures)
			}
		}
		return nil
	})
}

// settled reports an error while an address is to move.
func settled(ctx context.Context, b *services.Bed) error {
	list, err := b.API(1).Addresses.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, o := range list.Items {
		if o.Spec.Wanted == "" || o.Spec.Wanted != o.Status.Holder {
			return fmt.Errorf("%s is on %q, and wanted on %q", o.Name, o.Status.Holder, o.Spec.Wanted)
		}
	}
	return nil
}

// open is a gate that never shuts.
type open struct{ until time.Time }

func (o *open) Valid() bool { return time.Now().Before(o.until) }

// rival claims an address from the client for three seconds.
func rival(t *testing.T, b *services.Bed, a netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	speaker := arp.New(arp.Config{})
	done := make(chan error, 1)
	check(t, b.Lab().Client().Do(func() error {
		_, err := speaker.Set(ctx, []arp.Target{{Link: "eth0", Addr: a, Claim: &open{time.Now().Add(3 * time.Second)}}})
		return err
	}))
	go func() { done <- speaker.Run(ctx) }()
	<-time.After(3 * time.Second)
	cancel()
	check(t, <-done)
}
