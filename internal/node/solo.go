package node

import (
	"context"
	"errors"

	"github.com/pintle-lb/pintle/leader"
)

// solo is the elector of a node without an election: there is no seat, so nobody
// has it.
type solo struct{}

var errNoElection = errors.New("there is no election (election: none): every healthy node has the addresses; to take them from a node, stop pintle there")

func (solo) Run(ctx context.Context, _ func(string, leader.Term)) error {
	<-ctx.Done()
	return nil
}

func (solo) Set([]string)                           {}
func (solo) SetHealthy(bool)                        {}
func (solo) Prefer(string) error                    { return errNoElection }
func (solo) PeerOf(string) string                   { return "" }
func (solo) Transfer(context.Context, string) error { return errNoElection }
func (solo) Close() error                           { return nil }
