package status

import (
	"fmt"
	"strings"
	"time"

	"github.com/pintle-lb/pintle/leader"
)

// A State is what a node is at the moment, in one word.
type State string

// The states, the first that is true counts.
const (
	Stuck     State = "stuck"     // the loop does not turn
	Stopping  State = "stopping"  // it was told to stop
	Removed   State = "removed"   // it is no member any more
	Joining   State = "joining"   // it is no member yet
	Holding   State = "holder"    // it holds the seat
	Standing  State = "standing"  // it is being elected
	NoQuorum  State = "no quorum" // it knows no leader
	NoVote    State = "no vote"   // it is a member and has no vote yet
	Witness   State = "witness"   // it votes and never holds
	Unhealthy State = "unhealthy" // it takes the seat only if no healthy node does
	Following State = "follower"  // it can take the seat at any moment
)

// judge fills in what follows from the rest: the state, why, and whether the node
// is ready.
func (r *Report) judge() {
	r.State, r.Explain = r.state()
	switch {
	case r.State == NoVote && r.pair(): // it will never have one
	case r.State.beside():
		r.NotReady = r.Explain
	case !r.Healthy:
		r.NotReady = "unhealthy: " + r.Unhealthy
	default:
		r.NotReady = r.unheard()
	}
	r.Ready = r.NotReady == ""
}

// beside reports whether a node in this state has no full part in the cluster.
func (s State) beside() bool {
	switch s {
	case Holding, Witness, Watching, Unhealthy, Following, Advertising, LastResort, Serving, Coordinating:
		return false
	}
	return true
}

// pair reports whether there are but two members, of which one votes.
func (r *Report) pair() bool { return len(r.Raft.Members) == 2 }

func (r *Report) state() (State, string) {
	switch {
	case !r.Live():
		return Stuck, fmt.Sprintf("the loop has not turned for %s: what follows is as old as that; restart pintle, and report this", round(r.LoopAge))
	case r.Draining:
		return Stopping, "it hands over and lets go of everything"
	case r.Services != nil:
		return r.servicesState()
	case r.Election == "none":
		return r.sharedState()
	case r.Lease != nil:
		return r.leaseState()
	}
	return r.raftState()
}

// raftState is state where the nodes elect among themselves.
func (r *Report) raftState() (State, string) {
	self := r.self()
	switch {
	case r.Raft.Removed:
		return Removed, "it was taken out of the cluster; to join again, stop it, move its state directory away and start it"
	case r.Raft.Cluster == "":
		return Joining, joining(r.Raft.Phase)
	case self == nil:
		return Joining, "it was let in and waits for the list of the members"
	case r.holding():
		return Holding, r.holderWords()
	case r.standing():
		return Standing, "a majority would vote for it"
	case r.Raft.Leader == "":
		return NoQuorum, r.quorumWords()
	case !self.Voter && r.pair():
		return NoVote, "of two members only one votes, as two could do without neither; a third one, if only a witness, changes that"
	case !self.Voter:
		return NoVote, "it is a member and gets its vote when it has caught up; votes are given so that their number stays odd"
	case r.Witness, !r.Candidate:
		return Witness, "it votes and never holds the address; the leader is " + r.Raft.Leader
	case !r.Healthy:
		return Unhealthy, r.Unhealthy + "; it takes the address only if no healthy node does"
	}
	return Following, "it takes over when " + r.Raft.Leader + " is gone"
}

func joining(phase string) string {
	if phase == "" {
		return "it asks the other nodes to let it in"
	}
	return phase
}

func (r *Report) self() *leader.Member {
	for i := range r.Raft.Members {
		if r.Raft.Members[i].Self {
			return &r.Raft.Members[i]
		}
	}
	return nil
}

func (r *Report) holding() bool {
	for _, s := range r.Seats {
		if s.Holding {
			return true
		}
	}
	return false
}

func (r *Report) standing() bool {
	for _, s := range r.Seats {
		if s.Standing {
			return true
		}
	}
	return false
}

// holderWords says whether the holder does what a holder does.
func (r *Report) holderWords() string {
	var missing []string
	why := ""
	for _, s := range r.Seats {
		why = s.Why
		for _, a := range s.Addresses {
			if !a.Bound || !a.Claimed && !a.Routed && !a.Tabled {
				missing = append(missing, a.Address.String())
			}
		}
	}
	if len(missing) > 0 {
		why += "; it does not answer for " + strings.Join(missing, ", ") + " yet"
	}
	return why
}

// quorumWords says why there is no leader.
func (r *Report) quorumWords() string {
	voters, up := 0, 0
	var away []string
	for _, m := range r.Raft.Members {
		if !m.Voter {
			continue
		}
		voters++
		if m.Alive {
			up++
		} else {
			away = append(away, m.Name)
		}
	}
	need := voters/2 + 1
	if up >= need {
		return fmt.Sprintf("%d of %d voters are up, and an election is under way", up, voters)
	}
	return fmt.Sprintf("only %d of %d voters are up, and an election needs %d; away: %s", up, voters, need, strings.Join(away, ", "))
}

// round is a duration as a person would say it.
func round(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
