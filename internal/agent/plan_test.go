package agent

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pintle-lb/pintle/leader"
)

var testAddr = netip.MustParsePrefix("192.0.2.9/32")

// situation builds the facts of node n1 with one claim, at instant 1000 s.
func situation(change ...func(*Facts)) *Facts {
	f := &Facts{Now: leader.Instant(1000 * time.Second), Node: "n1", Linger: time.Minute, HoldDown: 10 * time.Second,
		Claims: []Claim{{Name: "cp", Seat: "cp", Addrs: []Placed{{testAddr, []string{"eth0", "eth1"}}}}},
		Seats:  map[string]Seat{"cp": {Term: leader.Term{Holder: "n2", Epoch: 4, Joined: true}}},
		Checks: map[string]bool{"api": true}, Links: map[string]bool{"eth0": true}, Heard: map[netip.Addr]leader.Instant{}}
	for _, c := range change {
		c(f)
	}
	return f
}

var testLease = leader.NewLease(func() leader.Instant { return leader.Instant(1000 * time.Second) }, leader.Instant(1001*time.Second))

func holder(f *Facts) {
	f.Seats["cp"] = Seat{Term: leader.Term{Holder: "n1", Epoch: 5, Joined: true, Lease: testLease}, Valid: true}
}

func bound(f *Facts) { f.Have.Addresses = []netip.Prefix{testAddr} }

func claiming(f *Facts) {
	f.Have.Targets = []Target{{"eth0", testAddr.Addr(), testLease}, {"eth1", testAddr.Addr(), testLease}}
}

func lost(ago, next time.Duration) func(*Facts) {
	return func(f *Facts) {
		s := f.Seats["cp"]
		s.Lost = f.Now.Add(-ago)
		if next > 0 {
			s.Next = f.Now.Add(-next)
		}
		f.Seats["cp"] = s
	}
}

func sick(f *Facts)     { f.Checks["api"] = false }
func draining(f *Facts) { f.Draining = true }
func ready(f *Facts)    { f.Ready = true }

func healthierPeer(f *Facts) {
	s := f.Seats["cp"]
	s.Term.Successor = "n2"
	f.Seats["cp"] = s
}

// words says what a plan is about: "seat bind claim", or a dash for what it is
// not.
func words(s State) string {
	out := []string{"-", "-", "-"}
	if len(s.Seats) == 1 {
		out[0] = "seat"
	}
	if len(s.Addresses) == 1 {
		out[1] = "bind"
	}
	if len(s.Targets) == 2 && s.Targets[0].Lease != nil && s.Targets[1].Lease != nil {
		out[2] = "claim"
	}
	return strings.Join(out, " ")
}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		name  string
		facts *Facts
		want  string
	}{
		{"a follower listens", situation(), "seat - -"},
		{"the elected binds before it claims", situation(holder), "seat bind -"},
		{"the elected claims what is bound", situation(holder, bound), "seat bind claim"},
		{"not while the setter may be taking it away", situation(holder, bound, func(f *Facts) { f.Doing.Addresses = []netip.Prefix{} }), "seat bind -"},
		{"a vote under way binds early", situation(func(f *Facts) { f.Seats["cp"] = Seat{Term: leader.Term{Epoch: 5, Standing: true}} }), "seat bind -"},
		{"an unhealthy candidate does not", situation(sick, func(f *Facts) { f.Seats["cp"] = Seat{Term: leader.Term{Epoch: 5, Standing: true}} }), "seat - -"},
		{"ready nodes have it all the time", situation(ready), "seat bind -"},
		{"unless unhealthy", situation(ready, sick), "seat - -"},
		{"or not members yet", situation(ready, func(f *Facts) { f.Seats["cp"] = Seat{} }), "seat - -"},
		{"draining stops claiming first", situation(holder, bound, claiming, draining), "seat bind -"},
		{"and resigns when the last claim was sent", situation(holder, bound, draining), "- bind -"},
		{"not while a setter may still claim", situation(holder, bound, draining, func(f *Facts) { f.Doing.Targets = []Target{{"eth0", testAddr.Addr(), testLease}} }), "seat bind -"},
		{"and accepts until the next is heard", situation(bound, draining, lost(time.Second/10, 0)), "- bind -"},
		{"and a moment longer", situation(bound, draining, lost(time.Second, grace/2)), "- bind -"},
		{"and then lets go", situation(bound, draining, lost(time.Second, grace)), "- - -"},
		{"nobody took it: lets go after a while", situation(bound, draining, lost(3*time.Second, 0)), "- - -"},
		{"the former holder accepts until the next is known", situation(bound, lost(5*time.Second, 0)), "seat bind -"},
		{"or is heard on the wire", situation(bound, lost(5*time.Second, 0), func(f *Facts) { f.Heard[testAddr.Addr()] = f.Now.Add(-time.Second) }), "seat - -"},
		{"but not what was heard before", situation(bound, lost(5*time.Second, 0), func(f *Facts) { f.Heard[testAddr.Addr()] = f.Now.Add(-6 * time.Second) }), "seat bind -"},
		{"and while connections are open", situation(bound, lost(5*time.Second, time.Second), func(f *Facts) { f.Socks = 3 }), "seat bind -"},
		{"and while nobody has counted them", situation(bound, lost(5*time.Second, time.Second), func(f *Facts) { f.Socks = -1 }), "seat bind -"},
		{"but not for ever", situation(bound, lost(61*time.Second, time.Second), func(f *Facts) { f.Socks = 3 }), "seat - -"},
		{"nor when its service is sick", situation(bound, sick, lost(5*time.Second, time.Second), func(f *Facts) { f.Socks = 3 }), "seat - -"},
		{"and lets go when nobody is connected", situation(bound, lost(5*time.Second, time.Second)), "seat - -"},
		{"a sick holder without a successor keeps it", situation(holder, bound, claiming, sick), "seat bind claim"},
		{"a sick holder stops claiming for a healthy one", situation(holder, bound, claiming, sick, healthierPeer), "seat bind -"},
		{"and then resigns", situation(holder, bound, sick, healthierPeer), "- bind -"},
		{"but not twice in a hold-down", situation(holder, bound, claiming, sick, healthierPeer, func(f *Facts) { f.Rest.Until = f.Now + 1 }), "seat bind claim"},
		{"a healthy holder stays", situation(holder, bound, claiming, healthierPeer), "seat bind claim"},
		{"a link without carrier is sick", situation(holder, bound, claiming, healthierPeer, func(f *Facts) { f.Links["eth0"] = false }), "seat bind -"},
		{"so is a host that cannot bind", situation(holder, healthierPeer, func(f *Facts) { f.Unable = "no" }), "- bind -"},
		{"a move asked for", situation(holder, bound, claiming, func(f *Facts) { f.Move = &Move{Seat: "cp", Epoch: 5, Until: f.Now + 1} }), "seat bind -"},
	} {
		if got := words(Plan(c.facts)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// free makes the claim one without an election, advertised by BGP and a table.
func free(f *Facts) {
	f.Claims = []Claim{{Name: "cp", Addrs: []Placed{{testAddr, nil}}, Announce: Announce{BGP: true, Table: true}}}
	f.Seats, f.Routed = map[string]Seat{}, map[string]leader.Instant{}
}

func routed(f *Facts)     { f.Have.Routes = []Route{{Prefix: testAddr}} }
func tabled(f *Facts)     { f.Have.Table = []netip.Prefix{testAddr} }
func lastResort(f *Facts) { f.Routing.LastResort = true }

func drained(ago, wait time.Duration) func(*Facts) {
	return func(f *Facts) { f.Draining, f.DrainedAt, f.Routing.DrainWait = true, f.Now.Add(-ago), wait }
}

func unrouted(ago time.Duration) func(*Facts) {
	return func(f *Facts) { f.Routed["cp"] = f.Now.Add(-ago) }
}

// byBGP has the claim of the seat advertised too.
func byBGP(f *Facts) { f.Claims[0].Announce = Announce{Wire: true, BGP: true} }

func detection(since time.Duration) func(*Facts) {
	return func(f *Facts) {
		s := f.Seats["cp"]
		s.Since = f.Now.Add(-since)
		f.Seats["cp"], f.Routing.Detection = s, time.Second
	}
}

// routeWords says what a plan tells routers: "bind grade table", or a dash for
// what it is not.
func routeWords(s State) string {
	out := []string{"-", "-", "-"}
	if len(s.Addresses) == 1 {
		out[0] = "bind"
	}
	if len(s.Routes) == 1 {
		out[1] = s.Routes[0].Grade.String()
	}
	if len(s.Table) == 1 {
		out[2] = "table"
	}
	return strings.Join(out, " ")
}

func TestPlanRoutes(t *testing.T) {
	for _, c := range []struct {
		name  string
		facts *Facts
		want  string
	}{
		{"a healthy node binds first", situation(free), "bind - -"},
		{"and then advertises", situation(free, bound), "bind normal table"},
		{"not while the setter may be taking it away", situation(free, bound, func(f *Facts) { f.Doing.Addresses = []netip.Prefix{} }), "bind - -"},
		{"an unhealthy one has nothing", situation(free, sick), "- - -"},
		{"it withdraws, and goes on accepting", situation(free, sick, bound, routed), "bind - -"},
		{"also when only the table had it", situation(free, sick, bound, tabled), "bind - -"},
		{"while the withdrawal may not be out", situation(free, sick, bound, func(f *Facts) { f.Doing.Routes = []Route{{Prefix: testAddr}} }), "bind - -"},
		{"and until routers have turned away", situation(free, sick, bound, unrouted(settle-1)), "bind - -"},
		{"and then lets go", situation(free, sick, bound, unrouted(settle)), "- - -"},
		{"unless it is to be the last resort", situation(free, sick, bound, lastResort), "bind last resort table"},
		{"which has to be bound as well", situation(free, sick, lastResort), "bind - -"},
		{"a node that stops asks routers to prefer others", situation(free, bound, routed, drained(time.Second, 2*time.Second)), "bind leaving -"},
		{"and then withdraws", situation(free, bound, routed, drained(2*time.Second, 2*time.Second)), "bind - -"},
		{"and accepts a moment longer", situation(free, bound, unrouted(settle-1), drained(3*time.Second, 2*time.Second)), "bind - -"},
		{"and lets go", situation(free, bound, unrouted(settle), drained(3*time.Second, 2*time.Second)), "- - -"},
		{"an unhealthy one need not ask", situation(free, sick, bound, routed, drained(time.Second, 2*time.Second)), "bind - -"},
		{"a holder advertises what it has", situation(holder, bound, byBGP), "bind normal -"},
		{"a follower nothing", situation(byBGP, ready, bound), "bind - -"},
		{"nor one whose claim is on the wire only", situation(holder, bound), "bind - -"},
		{"a new holder waits for the routers", situation(holder, bound, byBGP, detection(1600*time.Millisecond-1)), "bind - -"},
		{"and then advertises as well", situation(holder, bound, byBGP, detection(1600*time.Millisecond)), "bind normal -"},
		{"one that stops withdraws first", situation(holder, bound, byBGP, routed, draining), "bind - -"},
	} {
		got := Plan(c.facts)
		if words := routeWords(got); words != c.want {
			t.Errorf("%s: %q, want %q", c.name, words, c.want)
		}
		for _, r := range got.Routes {
			if seat := c.facts.Claims[0].Seat; (r.Lease == nil) != (seat == "") {
				t.Errorf("%s: seat %q and lease %v", c.name, seat, r.Lease)
			}
		}
	}
	if got := Plan(situation(holder, bound, byBGP, routed, draining)); len(got.Seats) != 1 {
		t.Error("the seat is resigned before the route is withdrawn")
	}
}

func TestNoteKeepsWhenARouteWasLast(t *testing.T) {
	f := situation(free, bound, routed)
	f.out = map[string]bool{}
	f.Note()
	f.Now = f.Now.Add(time.Minute)
	f.Have.Routes = nil
	f.Note()
	gone := f.Now
	f.Now = f.Now.Add(time.Minute)
	f.Note()
	if f.Routed["cp"] != gone {
		t.Errorf("the route was last noted at %v, want %v: when it was seen to be gone", f.Routed["cp"], gone)
	}
}

func TestFactsInTime(t *testing.T) {
	now := leader.Instant(time.Second)
	clock := func() leader.Instant { return now }
	f := situation(func(f *Facts) { f.Now = now })
	lease := leader.NewLease(clock, now.Add(100*time.Millisecond))
	f.Learn("cp", leader.Term{Holder: "n1", Epoch: 5, Lease: lease})
	see := func(what string, want string) {
		t.Helper()
		s := f.Seats["cp"]
		if got := fmt.Sprintf("%v %v %v", s.Valid, s.Lost != 0, s.Next != 0); got != want {
			t.Errorf("%s: valid, lost, next are %s, want %s", what, got, want)
		}
	}
	see("elected", "true false false")
	now = now.Add(90 * time.Millisecond)
	lease.Extend(now.Add(100 * time.Millisecond))
	now = now.Add(90 * time.Millisecond)
	f.Tick(now)
	see("renewed without a report", "true false false")
	now = now.Add(20 * time.Millisecond)
	f.Tick(now)
	see("run out", "false true false")
	f.Learn("cp", leader.Term{Holder: "n3", Epoch: 6})
	see("next known", "false true true")
	f.Learn("cp", leader.Term{Holder: "n1", Epoch: 7, Lease: leader.NewLease(clock, now.Add(time.Second))})
	see("regained", "true false false")
}

func TestHandOversForHealthRest(t *testing.T) {
	f := situation(holder, sick, healthierPeer)
	start := f.Now
	var at []time.Duration
	for f.Now < start.Add(time.Hour) {
		if f.Sick("cp") {
			at = append(at, f.Now.Sub(start))
			f.Yielded("cp")
		}
		f.Move = nil
		f.Tick(f.Now.Add(time.Second))
		s := f.Seats["cp"]
		s.Valid = true // it comes back each time
		f.Seats["cp"] = s
	}
	if len(at) < 8 || len(at) > 20 {
		t.Errorf("%d hand-overs in an hour: %v", len(at), at)
	}
	for i := 2; i < len(at); i++ {
		if at[i]-at[i-1] < at[i-1]-at[i-2] {
			t.Errorf("the rest shrinks: %v", at)
		}
	}
}
