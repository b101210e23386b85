package ipam

import "testing"

func TestSelector(t *testing.T) {
	labels := map[string]string{"app": "web", "empty": ""}
	for _, c := range []struct {
		selector Selector
		want     bool
		text     string
	}{
		{nil, true, ""},
		{Selector{}, true, ""},
		{Selector{{"app", In, []string{"web"}}}, true, "app=web"},
		{Selector{{"app", In, []string{"db", "web"}}}, true, "app in (db,web)"},
		{Selector{{"app", In, []string{"db"}}}, false, "app=db"},
		{Selector{{"empty", In, []string{""}}}, true, "empty="},
		{Selector{{"none", In, []string{""}}}, false, "none="},
		{Selector{{"app", NotIn, []string{"db"}}}, true, "app notin (db)"},
		{Selector{{"app", NotIn, []string{"db", "web"}}}, false, "app notin (db,web)"},
		{Selector{{"none", NotIn, []string{"x"}}}, true, "none notin (x)"},
		{Selector{{"empty", Exists, nil}}, true, "empty"},
		{Selector{{"none", Exists, nil}}, false, "none"},
		{Selector{{"none", DoesNotExist, nil}}, true, "!none"},
		{Selector{{"empty", DoesNotExist, nil}}, false, "!empty"},
		{Selector{{"app", Exists, nil}, {"none", DoesNotExist, nil}}, true, "app,!none"},
		{Selector{{"app", Exists, nil}, {"none", Exists, nil}}, false, "app,none"},
	} {
		if got := c.selector.Matches(labels); got != c.want {
			t.Errorf("%s: %v", c.selector, got)
		}
		if got := c.selector.String(); got != c.text {
			t.Errorf("%q, want %q", got, c.text)
		}
		if got := c.selector.Matches(nil); got && len(c.selector) > 0 && (c.selector[0].Op == In || c.selector[0].Op == Exists) {
			t.Errorf("%s selects no labels at all", c.selector)
		}
	}
}

// What Kubernetes refuses selects nothing, though a looser reading would select.
func TestSelectorRefuses(t *testing.T) {
	for _, c := range []struct {
		r    Requirement
		want string
	}{
		{Requirement{"", Exists, nil}, `operator "Exists" has no key`},
		{Requirement{"app", NotIn, nil}, `key "app": operator NotIn needs at least one value`},
		{Requirement{"app", In, nil}, `key "app": operator In needs at least one value`},
		{Requirement{"app", Exists, []string{"web"}}, `key "app": operator Exists has no values`},
		{Requirement{"none", DoesNotExist, []string{"web"}}, `key "none": operator DoesNotExist has no values`},
		{Requirement{"app", "in", []string{"web"}}, `key "app": operator "in" is none of In, NotIn, Exists, DoesNotExist`},
		{Requirement{}, `operator "" has no key`},
	} {
		if (Selector{c.r}).Matches(map[string]string{"app": "web"}) {
			t.Errorf("%+v selects", c.r)
		}
		problems := CheckPools([]Pool{{Name: "p", Ranges: ranges("192.0.2.0/24"), ServiceSelector: Selector{c.r}}})["p"]
		if want := "has a wrong serviceSelector: " + c.want; len(problems) != 1 || problems[0].Error() != want {
			t.Errorf("%v, want %s", problems, want)
		}
	}
}
