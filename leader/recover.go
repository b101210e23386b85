package leader

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// Recover makes a new cluster out of the one node whose state directory this
// is, after a majority was lost for good. The node must not be running. The new
// cluster has a new ID, so that the lost nodes, should they ever come back, are
// refused until their state directories are removed.
func Recover(stateDir, node, address string) (cluster string, err error) {
	dir, err := openStateDir(stateDir)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	id, err := dir.loadIdentity(node)
	if err != nil {
		return "", err
	}
	if id.Cluster == "" {
		return "", fmt.Errorf("%w %s: this node was never a member of a cluster", ErrState, stateDir)
	}
	st, _, err := openStore(dir.file("state.json"), true)
	if err != nil {
		return "", err
	}
	id.Cluster = randomID(8) // first: the old cluster must never hear of the new configuration
	if err := dir.saveIdentity(id); err != nil {
		return "", err
	}
	r := &Raft{dir: dir, id: id, store: st}
	return id.Cluster, r.forceAlone(address)
}

// forceAlone appends a configuration of this node only, in a new term.
func (r *Raft) forceAlone(address string) error {
	files, err := raft.NewFileSnapshotStoreWithLogger(r.dir.path, 1, nil)
	if err != nil {
		return err
	}
	last, err := r.store.LastIndex()
	if err != nil {
		return err
	}
	var l raft.Log
	if last > 0 {
		if err := r.store.GetLog(last, &l); err != nil {
			return err
		}
	}
	list, err := files.List()
	if err != nil {
		return err
	}
	for _, m := range list {
		last, l.Term = max(last, m.Index), max(l.Term, m.Term)
	}
	term := max(l.Term, r.store.kept.Uints["CurrentTerm"]) + 1
	conf := raft.Configuration{Servers: []raft.Server{{ID: r.id.serverID(), Address: raft.ServerAddress(address)}}}
	return r.bootstrapLog(conf, last+1, term)
}
