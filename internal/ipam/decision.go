package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// A Grant is an address that a Service is to have.
type Grant struct {
	Addr  netip.Addr
	Pool  string // where it comes from; of one that is kept this may be another pool than before
	Share bool   // others have it too: their Holding is to be extended
}

// A Refusal says why a pool, or an address, cannot serve.
type Refusal struct {
	Family Family     // what was looked for in the pool; 0 where it does not matter
	Pool   string     // "" if it is not about one
	Addr   netip.Addr // the zero value if it is not about one
	Why    string     // in words that follow the address or else the pool: "does not exist"
}

// String is a sentence without its full stop: "pool main does not exist".
func (r Refusal) String() string {
	switch {
	case r.Addr.IsValid() && r.Pool != "":
		return fmt.Sprintf("%s of pool %s %s", r.Addr, r.Pool, r.Why)
	case r.Addr.IsValid():
		return fmt.Sprintf("%s %s", r.Addr, r.Why)
	case r.Pool != "":
		return fmt.Sprintf("pool %s %s", r.Pool, r.Why)
	}
	return r.Why
}

// A Decision is what a Service is to have. Lists of addresses are in the order of the Service's families.
type Decision struct {
	Keep    []Grant      // it has them already
	Take    []Grant      // it gets them
	Drop    []netip.Addr // it has them and gives them up
	Missing []Family     // it has none and gets none, but would if one became free: required, or preferred (PreferDualStack)
	Refused []Refusal    // why it cannot have what it needs; empty if it has that
	Notes   []string     // what a person should know besides: why an address is given up, or stays though its pool is gone
}

// OK reports whether the Service has what it needs. One with PreferDualStack that asked for nothing needs one address.
func (d Decision) OK() bool { return len(d.Refused) == 0 }

// maxExplained is how many pools an explanation names for one family.
const maxExplained = 4

// Explain makes one sentence of refusals, without its full stop; "" of none.
func Explain(refusals []Refusal) string {
	var parts []string
	for len(refusals) > 0 {
		f := refusals[0].Family
		n := slices.IndexFunc(refusals, func(r Refusal) bool { return r.Family != f })
		if n < 0 {
			n = len(refusals)
		}
		parts = append(parts, explain(f, refusals[:n]))
		refusals = refusals[n:]
	}
	return strings.Join(parts, "; ")
}

// explain is Explain for refusals of one family.
func explain(f Family, refusals []Refusal) string {
	var words []string
	for i, r := range refusals {
		if rest := len(refusals) - i; i == maxExplained && rest > 1 && f != 0 {
			words = append(words, fmt.Sprintf("and %d more pools refuse it", rest))
			break
		}
		words = append(words, r.String())
	}
	if f == 0 {
		return strings.Join(words, "; ")
	}
	return fmt.Sprintf("no %s address: %s", f, strings.Join(words, ", "))
}
