package ipam

import (
	"cmp"
	"fmt"
	"slices"
)

// A Pool is addresses that Services may have.
type Pool struct {
	Name              string
	Ranges            []Range
	AutoAssign        bool      // false: only for Services that ask for it, for its addresses, or by their share key
	Priority          int       // of several pools the highest is tried first, of equals the first by name
	Namespaces        []string  // whose Services may have its addresses; any if the selector is nil too
	NamespaceSelector *Selector // likewise, by the labels of the namespace; either is enough
	ServiceSelector   Selector  // which Services, by their labels
}

// admits reports whether a Service may have addresses of the pool.
func (p *Pool) admits(r *Request) bool {
	return p.forNamespace(r) && p.ServiceSelector.Matches(r.Labels)
}

// refusal says why the pool does not admit a Service, in words that follow the pool's name.
func (p *Pool) refusal(r *Request) string {
	if !p.forNamespace(r) {
		return "is not for namespace " + r.Service.Namespace
	}
	return fmt.Sprintf("is only for Services with labels %q", p.ServiceSelector.String())
}

func (p *Pool) forNamespace(r *Request) bool {
	if len(p.Namespaces) == 0 && p.NamespaceSelector == nil {
		return true
	}
	return slices.Contains(p.Namespaces, r.Service.Namespace) ||
		p.NamespaceSelector != nil && p.NamespaceSelector.Matches(r.NamespaceLabels)
}

func comparePools(a, b *Pool) int {
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Name, b.Name))
}

// CheckPools says what is wrong with the pools, by name; pools without problems are not in the result. An overlap is a problem
// of both pools. The words of a problem follow the name of the pool. A [Book] works with such pools all the same: of two that
// have an address the first in order gives it, and never twice.
func CheckPools(pools []Pool) map[string][]error {
	problems := map[string][]error{}
	names := map[string]int{}
	for _, p := range pools {
		add := func(err error) { problems[p.Name] = append(problems[p.Name], err) }
		if names[p.Name]++; names[p.Name] == 2 {
			add(fmt.Errorf("is there twice: each pool needs a name of its own"))
		}
		if len(p.Ranges) == 0 {
			add(fmt.Errorf("has no addresses: list prefixes like 192.0.2.0/24 or ranges like 192.0.2.10-192.0.2.20"))
		}
		if p.NamespaceSelector != nil {
			p.NamespaceSelector.problems("namespaceSelector", add)
		}
		p.ServiceSelector.problems("serviceSelector", add)
	}
	for _, o := range overlaps(pools) {
		a, b := o[0], o[1]
		problems[a.pool] = append(problems[a.pool], fmt.Errorf("overlaps pool %s: %s and its %s have addresses in common", b.pool, a.Range, b.Range))
		problems[b.pool] = append(problems[b.pool], fmt.Errorf("overlaps pool %s: %s and its %s have addresses in common", a.pool, b.Range, a.Range))
	}
	return problems
}

func (s Selector) problems(field string, add func(error)) {
	for _, r := range s {
		if err := r.check(); err != nil {
			add(fmt.Errorf("has a wrong %s: %w", field, err))
		}
	}
}

type poolRange struct {
	Range
	pool string
}

// overlaps finds a pair of ranges for any two pools that have addresses in common, in the order of addresses.
func overlaps(pools []Pool) (found [][2]poolRange) {
	var all []poolRange
	for _, p := range pools {
		for _, r := range p.Ranges {
			all = append(all, poolRange{r, p.Name})
		}
	}
	slices.SortStableFunc(all, func(a, b poolRange) int { return cmp.Or(a.first.Compare(b.first), cmp.Compare(a.pool, b.pool)) })
	seen := map[[2]string]bool{}
	var open []poolRange // that begin before and do not end before
	for _, r := range all {
		open = slices.DeleteFunc(open, func(o poolRange) bool { return !o.overlaps(r.Range) })
		for _, o := range open {
			pair := [2]string{min(o.pool, r.pool), max(o.pool, r.pool)}
			if o.pool != r.pool && !seen[pair] {
				seen[pair] = true
				found = append(found, [2]poolRange{o, r})
			}
		}
		open = append(open, r)
	}
	return found
}
