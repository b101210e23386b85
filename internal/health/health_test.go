package health

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestVerdict(t *testing.T) {
	tests := []struct {
		name       string
		rise, fall int
		answers    string // + good, - bad
		want       string // after each: ? unknown, H healthy, U unhealthy
	}{
		{"healthy at the first good one", 2, 3, "+", "H"},
		{"unhealthy after fall bad ones", 2, 3, "---", "??U"},
		{"a good one ends not knowing", 2, 3, "--+", "??H"},
		{"bad ones count from the last good one", 2, 3, "+--+--+---", "HHHHHHHHHU"},
		{"rise good ones in a row", 2, 3, "---+-+-++", "??UUUUUUH"},
		{"one each", 1, 1, "-+-+", "UHUH"},
		{"bad ones before the first good one do not count on", 2, 3, "--+-+--", "??HHHHH"},
		{"long rows", 3, 2, "+++++--++-+++", "HHHHHHUUUUUUH"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := Verdict{Rise: tt.rise, Fall: tt.fall}
			var got strings.Builder
			for _, a := range tt.answers {
				v = v.Next(a == '+')
				switch {
				case !v.Known:
					got.WriteByte('?')
				case v.Healthy:
					got.WriteByte('H')
				default:
					got.WriteByte('U')
				}
			}
			if got.String() != tt.want {
				t.Errorf("%s: got %s, want %s", tt.answers, got.String(), tt.want)
			}
		})
	}
}

var sound = Check{Name: "c", TCP: "127.0.0.1:1", Interval: time.Second, Timeout: 500 * time.Millisecond, Rise: 2, Fall: 3}

func TestNewRefuses(t *testing.T) {
	if _, err := New(sound); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Check){
		"no name":           func(c *Check) { c.Name = "" },
		"no target":         func(c *Check) { c.TCP = "" },
		"two targets":       func(c *Check) { c.HTTP = "http://127.0.0.1/" },
		"no port":           func(c *Check) { c.TCP = "127.0.0.1" },
		"another scheme":    func(c *Check) { c.TCP, c.HTTP = "", "ftp://127.0.0.1/" },
		"no host":           func(c *Check) { c.TCP, c.HTTP = "", "http:///" },
		"relative command":  func(c *Check) { c.TCP, c.Command = "", []string{"true"} },
		"no interval":       func(c *Check) { c.Interval = 0 },
		"no timeout":        func(c *Check) { c.Timeout = 0 },
		"timeout too long":  func(c *Check) { c.Timeout = 2 * time.Second },
		"rise of nothing":   func(c *Check) { c.Rise = 0 },
		"fall below 0":      func(c *Check) { c.Fall = -1 },
		"tcp and a command": func(c *Check) { c.Command = []string{"/bin/true"} },
	} {
		c := sound
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// watch runs a prober with a probe of its own in a synctest bubble until the test's end, and keeps the reports.
func watch(t *testing.T, probe func(context.Context) error) (*Prober, *reports) {
	t.Helper()
	p, err := New(sound)
	if err != nil {
		t.Fatal(err)
	}
	p.probe = probe
	told := new(reports)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Run(ctx, told.add) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return p, told
}

// reports keeps what was reported, in short.
type reports struct {
	mu  sync.Mutex // guards all
	all []string
}

func (r *reports) add(s Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, fmt.Sprintf("%t %t %d/%d %q", s.Known, s.Healthy, s.Failures, s.Checks, s.LastError))
}

func (r *reports) check(t *testing.T, want ...string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.all, want) {
		t.Errorf("got\n %s\nwant\n %s", strings.Join(r.all, "\n "), strings.Join(want, "\n "))
	}
}

// Only changes are reported, each once.
func TestReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bad atomic.Bool
		start := time.Now()
		p, told := watch(t, func(context.Context) error {
			if bad.Load() {
				return errors.New("x")
			}
			return nil
		})
		wait := func(d time.Duration) { time.Sleep(d); synctest.Wait() }

		wait(4500 * time.Millisecond) // 5 good ones
		bad.Store(true)
		wait(4 * time.Second) // 4 bad ones
		bad.Store(false)
		wait(4 * time.Second)
		told.check(t,
			`false false 0/0 ""`,
			`true true 0/1 ""`,
			`true true 1/6 "x"`,
			`true false 3/8 "x"`,
			`true true 4/11 ""`)
		if s := p.Status(); s.Checks != 13 || s.Since.Sub(start) != 10*time.Second {
			t.Errorf("status %+v, want 13 checks and a change after 10 s", s)
		}
	})
}

// One bad answer between good ones is told, and so is its end after Rise good ones, not each answer.
func TestFlapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		_, told := watch(t, func(context.Context) error {
			if n++; n%2 == 0 && n < 10 {
				return errors.New("x")
			}
			return nil
		})
		time.Sleep(20*time.Second + time.Millisecond)
		synctest.Wait()
		told.check(t, `false false 0/0 ""`, `true true 0/1 ""`, `true true 1/2 "x"`, `true true 4/10 ""`)
	})
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		p, _ := watch(t, func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		})
		time.Sleep(3 * time.Second)
		synctest.Wait()
		s := p.Status()
		if !s.Known || s.Healthy || s.LastError != "no answer within 500ms" || s.Since.Sub(start) != 2500*time.Millisecond {
			t.Errorf("%+v", s)
		}
	})
}

// A check that does not even end after its timeout never has company, and each interval counts as bad.
func TestStuckChecksDoNotPileUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var started atomic.Int32
		p, _ := watch(t, func(context.Context) error {
			started.Add(1)
			<-release
			return nil
		})
		time.Sleep(time.Hour + time.Millisecond)
		synctest.Wait()
		if s := p.Status(); started.Load() != 1 || s.Healthy || s.Failures != 3601 || s.LastError != ErrStuck.Error() {
			t.Errorf("%d started, %+v", started.Load(), s)
		}
		close(release)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if s := p.Status(); !s.Healthy || s.LastError != "" {
			t.Errorf("after it ended: %+v", s)
		}
	})
}

// Run ends soon after its context, whatever the check does, and does not take the interruption for an answer.
func TestEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(sound)
		if err != nil {
			t.Fatal(err)
		}
		release := make(chan struct{})
		defer close(release)
		p.probe = func(context.Context) error { <-release; return nil }
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		start := time.Now()
		if err := p.Run(ctx, func(Status) {}); err != nil || time.Since(start) > 400*time.Millisecond {
			t.Errorf("Run: %v after %s", err, time.Since(start))
		}
		if s := p.Status(); s.Checks != 0 {
			t.Errorf("%+v", s)
		}
	})
}
