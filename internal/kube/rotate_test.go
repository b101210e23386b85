package kube

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// rotated is a client of a Rotation over servers.
func rotated(t *testing.T, servers ...*httptest.Server) (*http.Client, *Rotation) {
	t.Helper()
	var urls []string
	for _, s := range servers {
		urls = append(urls, s.URL)
	}
	c, r := Rotate(&rest.Config{Host: "https://192.0.2.1:6443"}, func() []string { return urls })
	r.answer, r.idle = 20*time.Second, 20*time.Second // nobody is taken for silent who is slow
	hc, err := rest.HTTPClientFor(c)
	if err != nil {
		t.Fatal(err)
	}
	return hc, r
}

// saying is a server that says its name.
func saying(t *testing.T, name string) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) }))
	t.Cleanup(s.Close)
	return s
}

func ask(hc *http.Client) (string, error) {
	resp, err := hc.Get("https://192.0.2.1:6443/x")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// A server that is gone costs one request; then the next one is asked, and stays.
func TestRotateFromDead(t *testing.T) {
	a, b := saying(t, "a"), saying(t, "b")
	hc, r := rotated(t, a, b)
	if got, err := ask(hc); got != "a" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	a.Close()
	if got, err := ask(hc); err == nil {
		t.Fatalf("a dead server said %q", got)
	}
	for range 2 {
		if got, err := ask(hc); got != "b" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if r.Current() != b.URL {
		t.Errorf("current is %s", r.Current())
	}
}

// One that takes connections and does not answer is given up, and so is an answer that goes silent: a watch.
func TestRotateFromSilent(t *testing.T) {
	end := make(chan struct{})
	mute := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/watch" {
			fmt.Fprint(w, "begins")
			w.(http.Flusher).Flush()
		}
		<-end
	}))
	t.Cleanup(mute.Close)
	t.Cleanup(func() { close(end) })
	b := saying(t, "b")
	hc, r := rotated(t, mute, b)
	r.answer, r.idle = 200*time.Millisecond, 200*time.Millisecond
	if _, err := ask(hc); !errors.Is(err, errSilent) {
		t.Errorf("a mute server: %v", err)
	}
	if got, err := ask(hc); got != "b" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	hc, r = rotated(t, mute, b)
	r.answer, r.idle = 200*time.Millisecond, 200*time.Millisecond
	resp, err := hc.Get("https://192.0.2.1:6443/watch")
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(resp.Body); string(text) != "begins" || err == nil {
		t.Errorf("a watch that goes silent ends with %q, %v", text, err)
	}
	resp.Body.Close()

	// One that is left ends at once what is under way there.
	hc, r = rotated(t, mute, b)
	r.idle = time.Hour
	if resp, err = hc.Get("https://192.0.2.1:6443/watch"); err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r.Leave(mute.URL)
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("a watch at a server that was left goes on")
	}
	if got, err := ask(hc); got != "b" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if n := len(r.open); n > 1 {
		t.Errorf("%d requests are noted as under way", n)
	}
}
