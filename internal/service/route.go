package service

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/pintle-lb/pintle/bgp"
	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

// routeOf is what routes carry for a pool or an address. What cannot be understood is left out, and is the error.
func routeOf(b *pintlev1.RouteBGP) (out bgp.Attributes, err error) {
	if b == nil {
		return out, nil
	}
	for _, text := range b.Communities {
		c, cerr := config.Community(text)
		if cerr != nil {
			err = fmt.Errorf("communities: %w", cerr)
			continue
		}
		out.Communities = append(out.Communities, c)
	}
	for _, text := range b.LargeCommunities {
		c, cerr := config.LargeCommunity(text)
		if cerr != nil {
			err = fmt.Errorf("largeCommunities: %w", cerr)
			continue
		}
		out.Large = append(out.Large, c)
	}
	if p := b.LocalPref; p != nil {
		if *p < 0 || *p > math.MaxUint32 {
			return out, fmt.Errorf("localPref: %d: want 0 to %d", *p, uint32(math.MaxUint32))
		}
		v := uint32(*p)
		out.LocalPref = &v
	}
	return out, err
}

// routeWanted is what the routes of a Service's address carry: what the pool says, and in its place what the Service says.
func routeWanted(pool *pintlev1.RouteBGP, s *Service) (*pintlev1.RouteBGP, error) {
	out := &pintlev1.RouteBGP{}
	if pool != nil {
		*out = *pool
	}
	if v := s.Notes[communityNote]; v != "" {
		out.Communities = words(v)
	}
	if v := s.Notes[largeNote]; v != "" {
		out.LargeCommunities = words(v)
	}
	if v := s.Notes[prefNote]; v != "" {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			return pool, fmt.Errorf("annotation %s: %q: want a number up to %d", prefNote, v, uint32(math.MaxUint32))
		}
		pref := int64(n)
		out.LocalPref = &pref
	}
	if _, err := routeOf(out); err != nil {
		return pool, fmt.Errorf("annotations: %w", err)
	}
	if len(out.Communities) == 0 && len(out.LargeCommunities) == 0 && out.LocalPref == nil {
		return nil, nil
	}
	return out, nil
}

func words(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}
