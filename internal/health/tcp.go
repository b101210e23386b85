package health

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
)

// tcp connects, and closes at once.
func tcp(addr string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// steady is the text of an error without what differs from check to check (our own port, the time), so that the same
// failure is told once.
func steady(err error) string {
	var op *net.OpError
	var dns *net.DNSError
	var cert x509.CertificateInvalidError
	switch {
	case errors.As(err, &cert) && cert.Reason == x509.Expired:
		return "x509: certificate has expired or is not yet valid"
	case errors.As(err, &dns): // before OpError, which wraps it
		if dns.IsNotFound {
			return "lookup " + dns.Name + ": no such host"
		}
		return "lookup " + dns.Name + ": no answer"
	case errors.As(err, &op):
		plain := *op
		plain.Source = nil
		return plain.Error()
	}
	return err.Error()
}
