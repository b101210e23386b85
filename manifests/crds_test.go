package manifests

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

// A schema is what a definition says of a value.
type schema struct {
	Type                 string
	Format               string
	Properties           map[string]schema
	Items                *schema
	AdditionalProperties *schema
	Rules                []struct{ Rule, MessageExpression string } `json:"x-kubernetes-validations"`
}

func schemaOf(t *testing.T, crd []byte) schema {
	t.Helper()
	var c struct {
		Spec struct {
			Versions []struct {
				Schema struct{ OpenAPIV3Schema schema }
			}
		}
	}
	if err := yaml.Unmarshal(crd, &c); err != nil {
		t.Fatal(err)
	}
	return c.Spec.Versions[0].Schema.OpenAPIV3Schema
}

// The definitions have every field of the Go types, of the same kind, and no other: the API server prunes what they do not have.
func TestCRDsHaveEveryField(t *testing.T) {
	compare(t, "AddressPool", schemaOf(t, poolsCRD), reflect.TypeFor[pintlev1.AddressPool]())
	compare(t, "Address", schemaOf(t, addressesCRD), reflect.TypeFor[pintlev1.Address]())
}

func compare(t *testing.T, path string, s schema, typ reflect.Type) {
	t.Helper()
	if typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	want := ""
	switch typ.Kind() {
	case reflect.Struct:
		want = "object"
		if typ == reflect.TypeFor[metav1.Time]() || typ == reflect.TypeFor[metav1.MicroTime]() {
			want = "string date-time"
		}
	case reflect.Map:
		want = "object"
		compare(t, path+"[]", *s.AdditionalProperties, typ.Elem())
	case reflect.Slice:
		want = "array"
		compare(t, path+"[]", *s.Items, typ.Elem())
	case reflect.String:
		want = "string"
	case reflect.Bool:
		want = "boolean"
	case reflect.Int32, reflect.Int64:
		want = "integer " + typ.Kind().String()
	}
	if got := strings.TrimSpace(s.Type + " " + s.Format); got != want {
		t.Errorf("%s is %q in the definition, %q in Go (%s)", path, got, want, typ)
	}
	if want != "object" || typ.Kind() == reflect.Map || typ == reflect.TypeFor[metav1.ObjectMeta]() {
		return // what metadata is the API server knows
	}
	var names []string
	for name, field := range fields(typ) {
		names = append(names, name)
		if sub, ok := s.Properties[name]; ok {
			compare(t, path+"."+name, sub, field)
		} else {
			t.Errorf("%s.%s is not in the definition", path, name)
		}
	}
	for name := range s.Properties {
		if !slices.Contains(names, name) {
			t.Errorf("%s.%s is not in Go", path, name)
		}
	}
}

// fields are the fields of a struct by their names in JSON.
func fields(typ reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if options == "inline" {
			for name, field := range fields(f.Type) {
				out[name] = field
			}
			continue
		}
		out[name] = f.Type
	}
	return out
}

// celFunctions are what rules may use: the API server of Kubernetes 1.29 takes for a new definition what 1.28 knew, so nothing of IP
// addresses, of sets, and no join.
var celFunctions = []string{"has", "size", "all", "matches", "split", "trim", "int", "contains", "startsWith", "substring"}

var (
	celCall   = regexp.MustCompile(`([A-Za-z_.]*[A-Za-z_])\(`)
	celString = regexp.MustCompile(`'[^']*'`)
)

func TestRulesAreThoseOfOldClusters(t *testing.T) {
	n := 0
	var look func(path string, s schema)
	look = func(path string, s schema) {
		for _, r := range s.Rules {
			n++
			for _, call := range celCall.FindAllStringSubmatch(celString.ReplaceAllString(r.Rule+" "+r.MessageExpression, "''"), -1) {
				name := call[1][strings.LastIndexByte(call[1], '.')+1:]
				if !slices.Contains(celFunctions, name) {
					t.Errorf("%s: %s() is not for Kubernetes 1.29: %s", path, name, r.Rule)
				}
			}
		}
		for name, p := range s.Properties {
			look(path+"."+name, p)
		}
		for _, p := range []*schema{s.Items, s.AdditionalProperties} {
			if p != nil {
				look(path+"[]", *p)
			}
		}
	}
	for i, crd := range [][]byte{poolsCRD, addressesCRD} {
		look(fmt.Sprint(i), schemaOf(t, crd))
	}
	if n < 25 {
		t.Errorf("only %d rules found", n)
	}
}
