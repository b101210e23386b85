package leader

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"
)

// identity is who a node is in its cluster. It outlives every restart.
type identity struct {
	Cluster  string        `json:"cluster"` // "" until the node has joined
	Node     string        `json:"node"`
	Instance string        `json:"instance"` // made anew with an empty state directory
	T        time.Duration `json:"t"`        // the cluster's promise, as last agreed
	Agreed   uint64        `json:"agreed"`   // the log index at which T was agreed on
}

// serverID is the node's ID in the Raft configuration. A node that lost its
// state comes back with another one, so that its forgotten votes never count.
func (id identity) serverID() raft.ServerID { return raft.ServerID(id.Node + "." + id.Instance) }

// A stateDir is the folder that keeps a node's identity and Raft state:
//
//	lock           held while a process uses the folder
//	identity.json  see identity
//	state.json     log, vote and term, see store
//	snapshots/     written by hashicorp/raft
//
// A file that cannot be read back is refused, never replaced.
type stateDir struct {
	path string
	lock *os.File
}

// ErrState marks an error that only a person can mend: the state directory is
// damaged or in use.
var ErrState = errors.New("state directory")

func openStateDir(path string) (*stateDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	f, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w %s: in use by another process", ErrState, path)
	}
	return &stateDir{path: path, lock: f}, nil
}

// CheckState returns what is wrong with the state directory of a node that is
// not running, and changes nothing. One that is not there yet is as it should be.
func CheckState(path, node string) error {
	d := &stateDir{path: path}
	var id identity
	found, err := readSealed(d.file("identity.json"), &id)
	if err != nil || !found && !d.has("state.json") {
		return err
	}
	if err := d.judge(id, found, node); err != nil {
		return err
	}
	var c contents
	if _, err := readSealed(d.file("state.json"), &c); err != nil {
		return err
	}
	return nil
}

func (d *stateDir) Close() error { return d.lock.Close() }

func (d *stateDir) file(name string) string { return filepath.Join(d.path, name) }

func (d *stateDir) loadIdentity(node string) (identity, error) {
	var id identity
	found, err := readSealed(d.file("identity.json"), &id)
	if err == nil {
		err = d.judge(id, found, node)
	}
	if err != nil || found {
		return id, err
	}
	id = identity{Node: node, Instance: randomID(4)}
	return id, d.saveIdentity(id)
}

// judge returns why the files in the directory do not belong together, or to node.
func (d *stateDir) judge(id identity, found bool, node string) error {
	switch {
	case !found && d.has("state.json"):
		return fmt.Errorf("%w %s: state.json is there but identity.json is not: %s", ErrState, d.path, mendHint(d.path))
	case found && id.Node != node:
		return fmt.Errorf("%w %s: belongs to node %q, this is %q: give each node a directory of its own", ErrState, d.path, id.Node, node)
	case id.Cluster != "" && !d.has("state.json"): // its votes and its log are lost: it must not vote under this ID again
		return fmt.Errorf("%w %s: identity.json is there but state.json is not: %s", ErrState, d.path, mendHint(d.path))
	}
	return nil
}

func (d *stateDir) has(name string) bool {
	_, err := os.Stat(d.file(name))
	return err == nil
}

func (d *stateDir) saveIdentity(id identity) error { return writeSealed(d.file("identity.json"), id) }

func mendHint(dir string) string {
	return "move " + dir + " away and start again: the node then joins as a new member (never put back an older copy: it has forgotten its votes)"
}

// sealed is a JSON file with a checksum over its content.
type sealed struct {
	Format  int             `json:"format"`
	Sum     uint32          `json:"crc32c"`
	Content json.RawMessage `json:"content"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// writeSealed replaces a file atomically; it is on disk when it returns.
func writeSealed(path string, v any) error {
	content, err := json.Marshal(v)
	if err != nil {
		return err
	}
	out, err := json.Marshal(sealed{Format: 1, Sum: crc32.Checksum(content, castagnoli), Content: content})
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(path, append(out, '\n'), 0o600); err != nil {
		return fmt.Errorf("%w: write %s: %w", ErrState, path, err)
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename in dir durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func readSealed(path string, v any) (found bool, err error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrState, err)
	}
	var s sealed
	if err := json.Unmarshal(raw, &s); err != nil {
		return true, fmt.Errorf("%w: %s is damaged (%v): %s", ErrState, path, err, mendHint(filepath.Dir(path)))
	}
	if s.Format != 1 {
		return true, fmt.Errorf("%w: %s has format %d, this version reads 1: upgrade pintle", ErrState, path, s.Format)
	}
	if sum := crc32.Checksum(s.Content, castagnoli); sum != s.Sum {
		return true, fmt.Errorf("%w: %s is damaged (checksum %08x, want %08x): %s", ErrState, path, sum, s.Sum, mendHint(filepath.Dir(path)))
	}
	if err := json.Unmarshal(s.Content, v); err != nil {
		return true, fmt.Errorf("%w: %s: %w", ErrState, path, err)
	}
	return true, nil
}
