package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"
)

// A Client asks the running node through its status socket.
type Client struct {
	http *http.Client
	path string
}

// NewClient returns a client for the socket at path. It connects with each
// request.
func NewClient(path string) *Client {
	return &Client{path: path, http: &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}}}
}

// Report is what the node says is true.
func (c *Client) Report(ctx context.Context) (*Report, error) {
	body, err := c.do(ctx, http.MethodGet, "status", nil)
	if err != nil {
		return nil, err
	}
	var r Report
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, fmt.Errorf("read status: %w", err)
	}
	return &r, nil
}

// Do has the node do something with a name: transfer, remove or profile.
func (c *Client) Do(ctx context.Context, action, name string) error {
	_, err := c.do(ctx, http.MethodPost, action, url.Values{"name": {name}})
	return err
}

func (c *Client) do(ctx context.Context, method, what string, form url.Values) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://pintle/"+what, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := c.http.Do(req)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("no pintle is running here: nobody answers at %s", c.path)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("%s: permission denied: run this as root or as the user that runs pintle", c.path)
	case err != nil:
		return nil, fmt.Errorf("ask %s: %w", c.path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(strings.TrimSpace(string(body)))
	}
	return body, err
}

// Running reports whether a node answers at the socket.
func (c *Client) Running(ctx context.Context) bool {
	_, err := c.Report(ctx)
	return err == nil
}
