package leader_test

import (
	"testing"

	"github.com/pintle-lb/pintle/leader"
	"github.com/pintle-lb/pintle/leader/leadertest"
)

func TestRaftConforms(t *testing.T) {
	leadertest.Run(t, true, func(t *testing.T) leadertest.Cluster { return leader.NewMemCluster(t) })
}

func TestKubeConforms(t *testing.T) {
	leadertest.Run(t, true, func(t *testing.T) leadertest.Cluster { return leader.NewKubeCluster(t) })
}

func TestKubeWithHeirsConforms(t *testing.T) {
	leadertest.Run(t, true, func(t *testing.T) leadertest.Cluster { return leader.NewHeirCluster(t) })
}
