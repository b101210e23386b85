package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pintle-lb/pintle/bgp"
	"github.com/pintle-lb/pintle/internal/netlab"
	"github.com/pintle-lb/pintle/test/router"
)

const (
	manyCase = "many"
	// many is how many prefixes are advertised at once.
	many = 10_000
	// manyArg makes the program a Speaker: `bench speak LOCAL ROUTER`.
	manyArg = "speak"
)

// manyNet is where all of them are.
var manyNet = netip.MustParsePrefix("10.128.0.0/9")

// speakingMany is a speaker that runs with a session, to advertise many routes.
type speakingMany interface {
	Announce(context.Context) error
	Withdraw(context.Context) error
	PID() int
}

// manyOf lets one node advertise many prefixes to FRR and withdraw them.
func manyOf(ctx context.Context, dir string, sys bgpSpeaker, s *samples) (err error) {
	x := &site{sys: sys, timers: plainTimers}
	if x.lab, err = netlab.New(netlab.Options{Nodes: 1}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.close(err == nil)) }()
	if x.dir, err = os.MkdirTemp(dir, ""); err != nil {
		return err
	}
	node, hub := x.lab.Node(1), x.lab.Client()
	if x.watch, err = router.NewWatch(hub); err != nil {
		return err
	}
	c := router.Config{AS: routerAS, RouterID: hub.Addr(), Neighbors: []router.Neighbor{{Addr: node.Addr(), AS: nodeAS}}}
	if x.router, err = router.StartFRR(ctx, hub, filepath.Join(x.dir, "router"), c.FRR()); err != nil {
		return err
	}
	run, err := sys.SpeakMany(ctx, station{node: node, router: hub, dir: filepath.Join(x.dir, "node"), timers: bgpTimers{hold: 9 * time.Second}})
	if err != nil {
		return err
	}
	if err := x.established(ctx); err != nil {
		return err
	}
	return x.measureMany(ctx, run, s)
}

// established waits for FRR's session with its one neighbour.
func (x *site) established(ctx context.Context) error {
	return wait(ctx, patience, 50*time.Millisecond, func() (string, bool) {
		out, err := x.router.Ask(ctx, "show bgp summary json")
		return fmt.Sprintf("no session: %v%s", err, out), strings.Contains(out, `"state":"Established"`)
	})
}

func (x *site) measureMany(ctx context.Context, run speakingMany, s *samples) error {
	add := func(metric, unit string, v float64) { s.add(kind{bgpName, x.sys.Name(), manyCase, metric, unit}, v) }
	before, err := groupUsage(os.DirFS("/proc"), run.PID())
	if err != nil {
		return err
	}
	took, err := x.until(ctx, many, run.Announce)
	if err != nil {
		return err
	}
	add("announce", "ms", milliseconds(took))
	after, err := groupUsage(os.DirFS("/proc"), run.PID())
	if err != nil {
		return err
	}
	add("cpu", "ms", milliseconds(after.cpu-before.cpu))
	add("rss-before", "MiB", mebibytes(before.rss))
	add("rss", "MiB", mebibytes(after.rss))
	took, err = x.until(ctx, 0, run.Withdraw)
	add("withdraw", "ms", milliseconds(took))
	return err
}

// until tells the speaker and says how long it took until the router's kernel had so many of the routes.
func (x *site) until(ctx context.Context, n int, tell func(context.Context) error) (time.Duration, error) {
	limit, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	start := time.Now()
	if err := tell(ctx); err != nil {
		return 0, err
	}
	at, err := x.watch.AwaitCount(limit, manyNet, n)
	return at.Sub(start), err
}

// SpeakMany starts BIRD, which has all the routes, in a protocol that is switched off before the session is up.
func (s birdSpeaker) SpeakMany(ctx context.Context, at station) (speakingMany, error) {
	c := s.config(at)
	c.OriginateMany = many
	off := strings.Replace(c.BIRD(), "protocol static { ipv4;", "protocol static { disabled; ipv4;", 1)
	r, err := router.StartBIRD(ctx, at.node.Host, at.dir, off)
	if err != nil {
		return nil, err
	}
	return birdMany{birdSpeaking{r}}, nil
}

type birdMany struct{ birdSpeaking }

func (b birdMany) Announce(ctx context.Context) error { return b.Return(ctx) }
func (b birdMany) PID() int                           { return b.Processes()[0].PID() }

func (b birdMany) Withdraw(ctx context.Context) error {
	_, err := b.birdSpeaking.Withdraw(ctx)
	return err
}

// SpeakMany starts this program as a bgp.Speaker, which obeys the lines that it reads.
func (pintleSpeaker) SpeakMany(ctx context.Context, at station) (speakingMany, error) {
	if err := os.MkdirAll(at.dir, 0o755); err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }() // the process has its own descriptor
	cmd := exec.Command("/proc/self/exe", manyArg, at.node.Addr().String(), at.router.Addr().String())
	cmd.Stdin, cmd.Stderr = r, os.Stderr
	p, err := at.node.Start(ctx, cmd)
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return speakerMany{Process: p, lines: w}, nil
}

type speakerMany struct {
	*netlab.Process
	lines io.Writer
}

func (s speakerMany) Announce(context.Context) error { return s.say("announce") }
func (s speakerMany) Withdraw(context.Context) error { return s.say("withdraw") }

func (s speakerMany) say(line string) error {
	_, err := fmt.Fprintln(s.lines, line)
	return err
}

// speak is `bench speak`.
func speak(ctx context.Context, args []string) error {
	local, err := netip.ParseAddr(args[1])
	if err != nil {
		return err
	}
	hub, err := netip.ParseAddr(args[2])
	if err != nil {
		return err
	}
	s, err := bgp.New(bgp.Config{AS: nodeAS, RouterID: local, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.Run(ctx) })
	peer := bgp.Peer{Name: "router", Address: hub, AS: routerAS, ConnectRetry: time.Second, Families: []bgp.Family{bgp.IPv4}}
	if err := s.SetPeers(ctx, []bgp.Peer{peer}); err != nil {
		return err
	}
	g.Go(func() error { return obey(ctx, s) })
	return g.Wait()
}

// obey advertises all routes, or none, as the lines say.
func obey(ctx context.Context, s *bgp.Speaker) error {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var routes []bgp.Route
		if lines.Text() == "announce" {
			for i := range many {
				routes = append(routes, bgp.Route{Prefix: router.Many(i)})
			}
		}
		if _, err := s.Set(ctx, routes); err != nil {
			return err
		}
	}
	return lines.Err()
}

const manyLegend = `Until the router's kernel had all, or none. CPU: the speaker's until all were there, in ticks of 10 ms. pintle-bgp is package bgp
here, in a process that is the benchmark's own program.
`

// manyTable has a row for each system.
func manyTable(fs []Figure) string {
	fs = slices.DeleteFunc(slices.Clone(fs), func(f Figure) bool { return f.Case != manyCase })
	if len(fs) == 0 {
		return ""
	}
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\n%d prefixes to FRR\tall there ms\tall gone ms\tCPU ms\tRSS before MiB\tRSS after MiB\n", many)
	for _, sys := range distinct(fs, func(f Figure) string { return f.System }) {
		fmt.Fprint(t, sys)
		for _, metric := range []string{"announce", "withdraw", "cpu", "rss-before", "rss"} {
			f, ok := find(fs, sys, manyCase, metric)
			fmt.Fprintf(t, "\t%s", medianMax(f, ok))
		}
		fmt.Fprintln(t)
	}
	_ = t.Flush() // a strings.Builder takes all
	return b.String() + "\n" + manyLegend
}
