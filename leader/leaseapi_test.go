package leader

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

// A group is asked for by its label, and watched from the version that the list had.
func TestGroupByHTTP(t *testing.T) {
	const object = `{"kind":"Lease","apiVersion":"coordination.k8s.io/v1","metadata":{"name":"pintle-node-n1","resourceVersion":"7"}}`
	var asked []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path+" "+r.URL.Query().Encode())
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Get("watch") != "" {
			fmt.Fprintf(w, `{"type":"DELETED","object":%s}`+"\n", object)
			return
		}
		fmt.Fprintf(w, `{"kind":"LeaseList","apiVersion":"coordination.k8s.io/v1","metadata":{"resourceVersion":"9"},"items":[%s]}`, object)
	}))
	defer s.Close()
	api, err := openAPI(&rest.Config{}, s.URL, "pintle-system")
	must(t, err)
	l, err := api.List(t.Context(), group("pintle-node-"))
	must(t, err)
	if len(l.Items) != 1 || l.Items[0].Name != "pintle-node-n1" || l.ResourceVersion != "9" {
		t.Errorf("list: %+v", l)
	}
	w, err := api.WatchGroup(t.Context(), group("pintle-node-"), l.ResourceVersion)
	must(t, err)
	defer w.Stop()
	if e := <-w.ResultChan(); e.Type != watch.Deleted || e.Object.(*coordinationv1.Lease).ResourceVersion != "7" {
		t.Errorf("watch: %+v", e)
	}
	const leases = "/apis/coordination.k8s.io/v1/namespaces/pintle-system/leases "
	want := []string{leases + "labelSelector=pintle.dev%2Fgroup%3Dpintle-node", leases + "labelSelector=pintle.dev%2Fgroup%3Dpintle-node&resourceVersion=9&watch=true"}
	if len(asked) != 2 || asked[0] != want[0] || asked[1] != want[1] {
		t.Errorf("asked %q, want %q", asked, want)
	}
}
