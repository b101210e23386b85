package node

import (
	"testing"

	"github.com/pintle-lb/pintle/internal/status"
	"github.com/pintle-lb/pintle/leader"
)

func TestTally(t *testing.T) {
	var n tally
	for i, step := range []struct {
		epoch  uint64
		holder string
		want   status.Elections
	}{
		{0, "", status.Elections{}},
		{7, "", status.Elections{}},                            // what was before this node came is not its business
		{7, "n1", status.Elections{New: 1}},                    //
		{7, "n1", status.Elections{New: 1}},                    // a report of something else
		{7, "", status.Elections{New: 1}},                      // it stepped down
		{8, "", status.Elections{New: 1}},                      // an election is under way
		{9, "", status.Elections{New: 1, Empty: 1}},            // and failed
		{9, "n1", status.Elections{New: 1, Same: 1, Empty: 1}}, // a false one: the same holder again
		{12, "n2", status.Elections{New: 2, Same: 1, Empty: 3}},
		{11, "n3", status.Elections{New: 2, Same: 1, Empty: 3}}, // old news
	} {
		n.see(leader.Term{Epoch: step.epoch, Holder: step.holder})
		if got := n.count(); got != step.want {
			t.Errorf("after report %d: %+v, want %+v", i, got, step.want)
		}
	}
}
