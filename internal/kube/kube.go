// Package kube is what a node needs of the Kubernetes API beside the election
// itself: who it is there, a look at whether it may do what it will have to, and
// events. Nothing here ever asks the shared address.
package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// patience is how long one request may take.
const patience = 5 * time.Second

// An api asks API servers, with connections of its own.
type api struct{ http *http.Client }

func newAPI(creds *rest.Config) (*api, error) {
	hc, err := rest.HTTPClientFor(creds)
	if err != nil {
		return nil, fmt.Errorf("use credentials of the Kubernetes API: %w", err)
	}
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &api{hc}, nil
}

func (a *api) close() { a.http.CloseIdleConnections() }

// do sends in to a path of a server and reads the answer into out, both as JSON,
// nil for none. Any answer has its time, also one that is an error.
func (a *api) do(ctx context.Context, method, server, path string, in, out any) (served time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return time.Time{}, fmt.Errorf("write request: %w", err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, server+path, &body)
	if err != nil {
		return time.Time{}, fmt.Errorf("ask %s: %w", server, err)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.http.Do(req)
	if err != nil {
		return time.Time{}, err // it names method and URL
	}
	defer resp.Body.Close()
	if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		served = at
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode >= 300 {
		err = &answerError{resp.StatusCode, reason(text)}
	}
	if err == nil && out != nil {
		err = json.Unmarshal(text, out)
	}
	if err != nil {
		return served, fmt.Errorf("ask %s: %w", server, err)
	}
	return served, nil
}

// An answerError is what an API server said instead of doing what it was asked.
type answerError struct {
	code   int
	reason string
}

func (e *answerError) Error() string {
	if e.reason == "" {
		return fmt.Sprintf("status %d", e.code)
	}
	return fmt.Sprintf("status %d: %s", e.code, e.reason)
}

// reason is the message in the answer of an API server.
func reason(body []byte) string {
	var st metav1.Status
	if json.Unmarshal(body, &st) != nil {
		return ""
	}
	return st.Message
}

// answered reports whether an error is an API server's own word, with one of
// these codes if any are given.
func answered(err error, codes ...int) bool {
	var e *answerError
	if !errors.As(err, &e) {
		return false
	}
	for _, c := range codes {
		if e.code == c {
			return true
		}
	}
	return len(codes) == 0
}
