package leader

import (
	"fmt"

	"github.com/hashicorp/raft"
)

// snapshots tells the store of configurations that come or go with a snapshot.
type snapshots struct {
	raft.SnapshotStore
	store *store
}

func openSnapshots(base raft.SnapshotStore, s *store) (*snapshots, error) {
	list, err := base.List()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	for _, m := range list {
		s.noteBase(newConfig(m.ConfigurationIndex, m.Configuration))
	}
	return &snapshots{base, s}, nil
}

func (s *snapshots) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, ci uint64, t raft.Transport) (raft.SnapshotSink, error) {
	s.store.mu.Lock()
	s.store.noteBase(newConfig(ci, c))
	s.store.mu.Unlock()
	return s.SnapshotStore.Create(v, index, term, c, ci, t)
}
