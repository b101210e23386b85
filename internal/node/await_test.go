package node

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestAwait: a node ends in any case, however the kernel holds it up.
func TestAwait(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name            string
		stop, now, ends time.Duration // after the start; 0: never
		err             error
		want            error
		at              time.Duration
	}{
		{"it fails", 0, 0, time.Second, broken, broken, time.Second},
		{"it ends as told", time.Second, 0, 2 * time.Second, nil, nil, 2 * time.Second},
		{"it ends late", time.Second, 0, 13 * time.Second, nil, nil, 13 * time.Second},
		{"it never ends", time.Second, 0, 0, nil, errHeldUp, time.Second + drainLimit + closeLimit},
		{"it ends after the second signal", time.Second, 2 * time.Second, 4 * time.Second, nil, nil, 4 * time.Second},
		{"it does not end after the second signal", time.Second, 2 * time.Second, 0, nil, errHeldUp, 2*time.Second + closeLimit},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				now, ended := make(chan struct{}), make(chan error, 1)
				after := func(d time.Duration, do func()) {
					if d > 0 {
						time.AfterFunc(d, do)
					}
				}
				after(c.stop, stop)
				after(c.now, func() { close(now) })
				after(c.ends, func() { ended <- c.err })
				begin := time.Now()
				if err := await(ctx, now, ended, drainLimit+closeLimit); !errors.Is(err, c.want) || c.want == nil && err != nil {
					t.Errorf("got %v, want %v", err, c.want)
				}
				if took := time.Since(begin); took != c.at {
					t.Errorf("after %v, want %v", took, c.at)
				}
			})
		})
	}
}
