package service

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

func TestRouteWanted(t *testing.T) {
	pool := &pintlev1.RouteBGP{Communities: []string{"65001:1"}, LargeCommunities: []string{"65001:1:2"}, LocalPref: new(int64(100))}
	for _, c := range []struct {
		name  string
		pool  *pintlev1.RouteBGP
		notes map[string]string
		want  string
		err   string
	}{
		{"nothing", nil, nil, `null`, ""},
		{"a pool that says nothing", &pintlev1.RouteBGP{}, nil, `null`, ""},
		{"what the pool says", pool, nil, `{"communities":["65001:1"],"largeCommunities":["65001:1:2"],"localPref":100}`, ""},
		{"what the Service says in its place", pool, map[string]string{communityNote: "65001:7, no-export", prefNote: "0"},
			`{"communities":["65001:7","no-export"],"largeCommunities":["65001:1:2"],"localPref":0}`, ""},
		{"what the Service says alone", nil, map[string]string{largeNote: "65001:7:8 65001:7:9"}, `{"largeCommunities":["65001:7:8","65001:7:9"]}`, ""},
		{"a community that is none", pool, map[string]string{communityNote: "65001:7 x"}, `{"communities":["65001:1"],"largeCommunities":["65001:1:2"],"localPref":100}`, `annotations: communities: "x"`},
		{"a large community that is none", nil, map[string]string{largeNote: "1:2"}, `null`, `annotations: largeCommunities: "1:2"`},
		{"a preference that is none", pool, map[string]string{prefNote: "much"}, `{"communities":["65001:1"],"largeCommunities":["65001:1:2"],"localPref":100}`,
			`annotation pintle.dev/bgp-local-pref: "much": want a number up to 4294967295`},
		{"a preference below 0", nil, map[string]string{prefNote: "-1"}, `null`, `"-1": want a number`},
		{"a preference too large", nil, map[string]string{prefNote: "4294967296"}, `null`, `want a number up to 4294967295`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := routeWanted(c.pool, &Service{Notes: c.notes})
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("error %v, want %q", err, c.err)
			}
			if text, _ := json.Marshal(got); string(text) != c.want {
				t.Errorf("%s, want %s", text, c.want)
			}
		})
	}
	if pool.Communities[0] != "65001:1" || *pool.LocalPref != 100 {
		t.Errorf("the pool was changed: %+v", pool)
	}
}

// TestRouteOf: what is understood is used, whatever else is wrong.
func TestRouteOf(t *testing.T) {
	attrs, err := routeOf(&pintlev1.RouteBGP{Communities: []string{"x", "65001:1"}, LargeCommunities: []string{"65001:1:2"}, LocalPref: new(int64(7))})
	if err == nil || len(attrs.Communities) != 1 || len(attrs.Large) != 1 || attrs.LocalPref == nil || *attrs.LocalPref != 7 {
		t.Errorf("%+v, %v", attrs, err)
	}
	if attrs, err := routeOf(nil); err != nil || attrs.LocalPref != nil {
		t.Errorf("%+v, %v", attrs, err)
	}
}
