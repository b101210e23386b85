package health

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
)

const (
	maxBody = 64 << 10 // bytes of an answer that are read
	maxPEM  = 1 << 20  // bytes of a PEM file that are read
)

// A web makes HTTP checks.
type web struct {
	check     Check
	transport *http.Transport
	files     [3][]byte // CA, certificate and key that the transport uses
}

func newWeb(c Check) *web {
	return &web{check: c, transport: newTransport(&tls.Config{ServerName: c.ServerName})}
}

func newTransport(config *tls.Config) *http.Transport {
	return &http.Transport{
		// A new connection for each check: an old one says nothing of whether new ones are accepted, and it may be to
		// a process that has been replaced. Also, only so does net/http end a dial together with its request.
		DisableKeepAlives:      true,
		Proxy:                  nil, // a check is of this node: never by a proxy of the environment
		TLSClientConfig:        config,
		MaxResponseHeaderBytes: maxBody,
	}
}

// probe asks once. It is not called again before it has returned.
func (w *web) probe(ctx context.Context) error {
	if err := w.refresh(); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.check.HTTP, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "pintle-health")
	client := http.Client{
		Transport:     w.transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		var outer *url.Error // names the URL, which the check's reader knows
		if errors.As(err, &outer) {
			return outer.Err
		}
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody)); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return errors.New("status " + resp.Status)
	}
	return nil
}

// refresh reads the files, and takes them into use if they are others than before. They are small and on this host,
// so reading them each time is cheaper than to think about when they changed.
func (w *web) refresh() error {
	var files [3][]byte
	changed := false
	for i, name := range []string{w.check.CA, w.check.Cert, w.check.Key} {
		if name == "" {
			continue
		}
		data, err := readPEM(name)
		if err != nil {
			return err
		}
		files[i] = data
		changed = changed || !bytes.Equal(data, w.files[i])
	}
	if !changed {
		return nil
	}
	config := &tls.Config{ServerName: w.check.ServerName}
	if w.check.CA != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(files[0]) {
			return fmt.Errorf("read %s: holds no certificate", w.check.CA)
		}
	}
	if w.check.Cert != "" || w.check.Key != "" {
		pair, err := tls.X509KeyPair(files[1], files[2])
		if err != nil {
			return fmt.Errorf("read %s and %s: %w", w.check.Cert, w.check.Key, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	w.transport, w.files = newTransport(config), files
	return nil
}

func readPEM(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxPEM))
}
