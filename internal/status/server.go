package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Actions are what a person may ask of the running node through its socket. Those
// that its kind of election does not know are nil.
type Actions struct {
	Transfer func(ctx context.Context, to string) error
	Remove   func(ctx context.Context, name string) error
	Profile  func(ctx context.Context, name string) error
}

// A Server answers on the status socket and, if wanted, on a TCP address.
type Server struct {
	Look    func() *Report // what is true now
	Actions Actions
	Version string
}

// Socket is the path of an instance's status socket.
func Socket(runDir, instance string) string { return filepath.Join(runDir, instance+".sock") }

// ListenSocket makes the status socket, for its owner alone. A socket that a
// dead process left is replaced; one that is answered is not.
func ListenSocket(path string) (net.Listener, error) {
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("status socket: another pintle of this instance is running: it answers at %s", path)
	}
	ln, err := listenUnix(path)
	for range 10 { // the last one of other instances takes the directory away when it stops
		if !errors.Is(err, os.ErrNotExist) {
			break
		}
		ln, err = listenUnix(path)
	}
	if err != nil {
		return nil, fmt.Errorf("status socket: %w", err)
	}
	return ln, nil
}

func listenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	// Not chmod afterwards: until then others could connect. Nothing else makes files at the start.
	before := syscall.Umask(0o177)
	defer syscall.Umask(before)
	return net.Listen("unix", path)
}

// ServeSocket answers on the status socket until ctx ends.
func (s *Server) ServeSocket(ctx context.Context, ln net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.report()) })
	for path, do := range map[string]func(context.Context, string) error{
		"POST /transfer": s.Actions.Transfer, "POST /remove": s.Actions.Remove, "POST /profile": s.Actions.Profile,
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if do == nil {
				http.Error(w, "this needs election: raft", http.StatusConflict)
			} else if err := do(r.Context(), r.FormValue("name")); err != nil {
				http.Error(w, err.Error(), http.StatusConflict)
			}
		})
	}
	return serve(ctx, ln, mux)
}

// ServeHTTP answers probes and metrics until ctx ends.
func (s *Server) ServeHTTP(ctx context.Context, ln net.Listener) error {
	return serve(ctx, ln, s.httpHandler())
}

func (s *Server) httpHandler() http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collector{s})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", s.probe(func(r *Report) string {
		if !r.Live() {
			return fmt.Sprintf("the loop has not turned for %v", r.LoopAge.Round(time.Second))
		}
		return ""
	}))
	mux.HandleFunc("GET /readyz", s.probe(func(r *Report) string { return r.NotReady }))
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	return mux
}

func (s *Server) report() *Report {
	r := s.Look()
	r.judge()
	return r
}

func (s *Server) probe(fault func(*Report) string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if why := fault(s.report()); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}

func serve(ctx context.Context, ln net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}
