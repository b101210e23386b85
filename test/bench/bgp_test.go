package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/test/router"
)

// Pintle takes the configuration that the benchmark writes, and means by it what is to be measured.
func TestPintleBGPConfiguration(t *testing.T) {
	lab := newLab(t)
	for _, timers := range []bgpTimers{plainTimers, bfd50} {
		dir := t.TempDir()
		file := filepath.Join(dir, "pintle.yaml")
		text := pintleBGP(station{node: lab.Node(1), router: lab.Client(), dir: dir, timers: timers}, "http://127.0.0.1:1/")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		c, problems := config.Load(file, "n1")
		if slices.ContainsFunc(problems, func(p config.Problem) bool { return !p.Warning }) {
			t.Fatalf("%v in\n%s", problems, text)
		}
		p := c.BGP.Peers[0]
		if c.Addresses[0].Address != route.Addr() || p.Address != lab.Client().Addr() || p.AS != routerAS || p.Hold != timers.hold {
			t.Errorf("it is %+v of\n%s", p, text)
		}
		if (p.BFD != nil) != (timers.bfd != nil) || p.BFD != nil && p.BFD.Interval != timers.bfd.Interval {
			t.Errorf("its BFD is %+v of\n%s", p.BFD, text)
		}
	}
}

func TestBFDUp(t *testing.T) {
	const frr = `Session count: 2
SessionId  LocalAddress                             PeerAddress                             Status
=========  ============                             ===========                             ======
1          10.77.0.200                              10.77.0.1                               up
2          10.77.0.200                              10.77.0.2                               down
`
	const bird = `bfd1:
IP address                Interface  State      Since         Interval  Timeout
10.77.0.1                 eth0       Up         10:33:41.041    0.100    0.300
10.77.0.2                 eth0       Up         10:33:41.041    0.100    0.300
`
	for list, want := range map[string]int{frr: 1, bird: 2, "": 0} {
		if got := bfdUp(list); got != want {
			t.Errorf("%d are up, want %d, in\n%s", got, want, list)
		}
	}
}

// The benchmark's own way with a system, of which BIRD is the one that is always there: a node's route ends and comes back.
func TestSite(t *testing.T) {
	for _, kind := range routerKinds {
		for _, cas := range []string{"withdraw", "kill", "freeze-bfd-3x50"} {
			t.Run(kind.name+" "+cas, func(t *testing.T) {
				t.Parallel()
				var s samples
				cases, _ := choose(bgpCases, bgpCaseName, cas)
				err := bgpOf(t.Context(), t.TempDir(), birdSpeaker{}, kind, cases, &s)
				if (errors.Is(err, unix.EPERM) || errors.Is(err, router.ErrMissing)) && os.Getenv("LAB") != "require" {
					t.Skipf("this test runs routers in network namespaces: %v", err)
				}
				if err != nil {
					t.Fatal(err)
				}
				fs := s.figures()
				if f, ok := find(fs, "bird", kind.name+" "+cas, "gone"); !ok || f.Median <= 0 || f.Median > 9000 {
					t.Errorf("it took %+v", fs)
				}
				if table := bgpTable(fs); !strings.Contains(table, cas) || strings.Contains(table, "prefixes") {
					t.Errorf("the table is\n%s", table)
				}
			})
		}
	}
}

// A health check is failed from the answer on that says so.
func TestHealth(t *testing.T) {
	lab := newLab(t)
	h, err := newHealth(lab.Node(1))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.close() }()
	ask := func() string {
		var got []byte
		err := lab.Node(1).Do(func() error {
			conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(h.url, "http://"), "/"))
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			if _, err := conn.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
				return err
			}
			got, err = io.ReadAll(conn)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		status, _, _ := bytes.Cut(got, []byte("\r\n"))
		return string(status)
	}
	if got := ask(); !strings.Contains(got, "200") {
		t.Errorf("a well node says %q", got)
	}
	at := make(chan time.Time, 1)
	go func() {
		since, _ := h.fail(t.Context())
		at <- since
	}()
	for !h.failing.Load() {
		time.Sleep(time.Millisecond)
	}
	before := time.Now()
	if got := ask(); !strings.Contains(got, "503") {
		t.Errorf("a failing node says %q", got)
	}
	if since := <-at; since.Before(before) || since.After(time.Now()) {
		t.Errorf("it failed at %v, asked at %v", since, before)
	}
}
