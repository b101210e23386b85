package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/test/router"
)

// A bgpSpeaker is a program that advertises a node's routes.
type bgpSpeaker interface {
	Name() string
	Version() string
	// Speak starts it with one route. It may be called again after its end, with the same station.
	Speak(context.Context, station) (speaking, error)
	// SpeakMany starts it with a session and no route.
	SpeakMany(context.Context, station) (speakingMany, error)
}

// A station is where a speaker runs, and for whom.
type station struct {
	node   *netlab.Node
	router *netlab.Host
	dir    string
	timers bgpTimers
}

// speaking is a speaker that runs.
type speaking interface {
	// Withdraw makes it withdraw the route, and says when the reason for it was there.
	Withdraw(context.Context) (time.Time, error)
	// Return makes it advertise the route again.
	Return(context.Context) error
	Signal(syscall.Signal) error
	Done() <-chan struct{}
	Log() string
}

func bgpSpeakers(pintle string) []bgpSpeaker {
	return []bgpSpeaker{pintleSpeaker{exe: pintle}, birdSpeaker{}}
}

// pintleSpeaker is Pintle without an election.
type pintleSpeaker struct{ exe string }

func (pintleSpeaker) Name() string      { return "pintle-bgp" }
func (p pintleSpeaker) Version() string { return firstLine(p.exe, "version") }

// Speak starts it, with a health check that the benchmark answers.
func (p pintleSpeaker) Speak(ctx context.Context, at station) (speaking, error) {
	if err := os.MkdirAll(at.dir, 0o755); err != nil {
		return nil, err
	}
	h, err := newHealth(at.node)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(at.dir, "pintle.yaml")
	if err := os.WriteFile(config, []byte(pintleBGP(at, h.url)), 0o644); err != nil {
		return nil, errors.Join(err, h.close())
	}
	log, err := os.OpenFile(filepath.Join(at.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, errors.Join(err, h.close())
	}
	defer func() { _ = log.Close() }() // the process has its own descriptor
	cmd := exec.Command(p.exe, "run", "--config", config, "--node", at.node.Name())
	cmd.Stdout, cmd.Stderr = log, log
	proc, err := at.node.Start(ctx, cmd)
	if err != nil {
		return nil, errors.Join(err, h.close())
	}
	go func() {
		<-proc.Done()
		_ = h.close()
	}()
	return &pintleSpeaking{Process: proc, health: h, log: log.Name()}, nil
}

func pintleBGP(at station, health string) string {
	bfd := ""
	if b := at.timers.bfd; b != nil {
		bfd = fmt.Sprintf(", bfd: {interval: %v, multiplier: %d}", b.Interval, b.Multiplier)
	}
	return fmt.Sprintf(`apiVersion: pintle.dev/v1
addresses:
  - {address: %s}
announce: [bgp]
election: none
bgp:
  as: %d
  drain: {wait: 0s}
  peers:
    - {name: router, address: %s, as: %d, hold: %v, connectRetry: 1s, families: [ipv4]%s}
health:
  - {name: bench, http: %q, interval: 100ms, timeout: 100ms, rise: 1, fall: 1}
server: {listen: "off", runDir: %s/run}
`, route.Addr(), nodeAS, at.router.Addr(), routerAS, at.timers.hold, bfd, health, at.dir)
}

type pintleSpeaking struct {
	*netlab.Process
	health *health
	log    string
}

// Withdraw lets the health check fail, and waits until it was told so.
func (p *pintleSpeaking) Withdraw(ctx context.Context) (time.Time, error) { return p.health.fail(ctx) }

// Return lets it pass again.
func (p *pintleSpeaking) Return(context.Context) error {
	p.health.failing.Store(false)
	return nil
}

// Log is what Pintle said.
func (p *pintleSpeaking) Log() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// health is the service on a node, as its health check sees it.
type health struct {
	url     string
	server  *http.Server
	failing atomic.Bool
	failed  chan time.Time // when the first bad answer was given
	close   func() error
}

func newHealth(node *netlab.Node) (*health, error) {
	h := &health{failed: make(chan time.Time, 1)}
	var l net.Listener
	err := node.Do(func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		return nil, err
	}
	h.url = "http://" + l.Addr().String() + "/"
	h.server = &http.Server{Handler: http.HandlerFunc(h.answer), ReadHeaderTimeout: time.Second}
	h.close = sync.OnceValue(h.server.Close)
	go func() { _ = h.server.Serve(l) }() // until close
	return h, nil
}

func (h *health) answer(w http.ResponseWriter, _ *http.Request) {
	if !h.failing.Load() {
		return
	}
	select {
	case h.failed <- time.Now():
	default: // not the first one
	}
	w.WriteHeader(http.StatusServiceUnavailable)
}

// fail returns when the first bad answer is given.
func (h *health) fail(ctx context.Context) (time.Time, error) {
	select {
	case <-h.failed: // of an earlier time
	default:
	}
	h.failing.Store(true)
	select {
	case at := <-h.failed:
		return at, nil
	case <-time.After(patience):
		return time.Time{}, errors.New("nobody asks for the health")
	case <-ctx.Done():
		return time.Time{}, ctx.Err()
	}
}

// birdSpeaker is BIRD on the nodes.
type birdSpeaker struct{}

func (birdSpeaker) Name() string    { return "bird" }
func (birdSpeaker) Version() string { return firstLine("/usr/sbin/bird", "--version") }

func (birdSpeaker) config(at station) router.Config {
	return router.Config{
		AS: nodeAS, RouterID: at.node.Addr(),
		Neighbors: []router.Neighbor{{Addr: at.router.Addr(), AS: routerAS, Hold: at.timers.hold, BFD: at.timers.bfd}},
	}
}

// Speak starts it with a static route.
func (s birdSpeaker) Speak(ctx context.Context, at station) (speaking, error) {
	c := s.config(at)
	c.Originate = append(c.Originate, route)
	r, err := router.StartBIRD(ctx, at.node.Host, at.dir, c.BIRD())
	if err != nil {
		return nil, err
	}
	return birdSpeaking{r}, nil
}

type birdSpeaking struct{ *router.Router }

// Withdraw and Return switch the protocol that has the IPv4 routes.
func (s birdSpeaking) Withdraw(ctx context.Context) (time.Time, error) {
	start := time.Now()
	_, err := s.Ask(ctx, "disable", "static1")
	return start, err
}

func (s birdSpeaking) Return(ctx context.Context) error {
	_, err := s.Ask(ctx, "enable", "static1")
	return err
}

func (s birdSpeaking) Done() <-chan struct{} { return s.Processes()[0].Done() }
