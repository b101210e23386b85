package leader

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// A store is the log and stable store of one node: in memory, and on disk as
// one small file that is replaced as a whole. What must not be forgotten
// (configurations and commands) is on disk before StoreLogs returns. Votes,
// terms and the empty entries of elections are on disk at once only when strict;
// otherwise they follow with the next Flush, and the node stays silent after a
// restart (see [Word.Restarted]).
type store struct {
	*raft.InmemStore
	path string

	disk sync.Mutex // orders writes, held across them; taken before mu

	mu      sync.Mutex // guards what follows; never held across I/O
	strict  bool
	kept    contents
	dirty   bool     // kept is not on disk
	configs []config // configuration entries in the log, oldest first
	base    uint64   // index of the newest configuration that a snapshot holds
}

// contents is what state.json holds.
type contents struct {
	Uints    map[string]uint64 `json:"uints"`
	Bytes    map[string][]byte `json:"bytes"`
	Logs     []raft.Log        `json:"logs"`
	Promised time.Duration     `json:"promised"` // the longest promise this node may have given
	Volatile bool              `json:"volatile"` // newer votes than these may have been given
}

// A config is the cluster's configuration from one log index on.
type config struct {
	index   uint64
	servers []raft.Server
	voters  []string
}

func newConfig(index uint64, c raft.Configuration) config {
	k := config{index: index, servers: c.Servers}
	for _, s := range c.Servers {
		if s.Suffrage == raft.Voter {
			k.voters = append(k.voters, string(s.ID))
		}
	}
	return k
}

// openStore reads the store at path; fresh says that there was none.
func openStore(path string, strict bool) (s *store, fresh bool, err error) {
	s = &store{InmemStore: raft.NewInmemStore(), path: path, strict: strict,
		kept: contents{Uints: map[string]uint64{}, Bytes: map[string][]byte{}}}
	found, err := readSealed(path, &s.kept)
	if err != nil || !found {
		s.kept.Volatile = !strict
		return s, !found, err
	}
	if err := s.refill(); err != nil {
		return s, false, fmt.Errorf("%w: %s: %w: %s", ErrState, path, err, mendHint(filepath.Dir(path)))
	}
	if !strict && !s.kept.Volatile {
		s.kept.Volatile = true
		return s, false, s.save()
	}
	return s, false, nil
}

// refill puts what was read from disk into memory.
func (s *store) refill() error {
	for k, v := range s.kept.Uints {
		if err := s.InmemStore.SetUint64([]byte(k), v); err != nil {
			return err
		}
	}
	for k, v := range s.kept.Bytes {
		if err := s.InmemStore.Set([]byte(k), v); err != nil {
			return err
		}
	}
	for i := range s.kept.Logs {
		l := &s.kept.Logs[i]
		if i > 0 && l.Index != s.kept.Logs[i-1].Index+1 {
			return fmt.Errorf("log entry %d follows %d", l.Index, s.kept.Logs[i-1].Index)
		}
		if err := s.InmemStore.StoreLog(l); err != nil {
			return err
		}
		s.note(l)
	}
	return nil
}

// note remembers a configuration entry. The caller holds mu or is alone.
func (s *store) note(l *raft.Log) {
	if l.Type == raft.LogConfiguration {
		s.noteConfig(newConfig(l.Index, raft.DecodeConfiguration(l.Data)))
	}
}

func (s *store) noteConfig(c config) {
	i, found := slices.BinarySearchFunc(s.configs, c, func(a, b config) int { return cmp.Compare(a.index, b.index) })
	if found {
		s.configs[i] = c
		return
	}
	s.configs = slices.Insert(s.configs, i, c)
}

// noteBase remembers a configuration that a snapshot holds.
func (s *store) noteBase(c config) {
	s.noteConfig(c)
	s.base = max(s.base, c.index)
}

// Voters are the sets of voters that a majority is needed of: the last committed
// one and every later one. Configurations before the committed one are forgotten.
func (s *store) Voters(commit uint64) [][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := 0
	for i, c := range s.configs {
		if c.index <= commit {
			first = i
		}
	}
	s.configs = s.configs[first:]
	sets := make([][]string, len(s.configs))
	for i, c := range s.configs {
		sets[i] = c.voters
	}
	return sets
}

// servers are the members of the latest configuration, committed or not. The
// slice is not to be changed.
func (s *store) servers() []raft.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.configs) == 0 {
		return nil
	}
	return s.configs[len(s.configs)-1].servers
}

// latest are the voters of the latest configuration.
func (s *store) latest() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.configs) == 0 {
		return nil
	}
	return s.configs[len(s.configs)-1].voters
}

// server is the member with the given node name.
func (s *store) server(name string) (raft.ServerID, raft.ServerAddress, bool) {
	for _, m := range s.servers() {
		if nodeName(m.ID) == name {
			return m.ID, m.Address, true
		}
	}
	return "", "", false
}

// Promise makes sure that a restarted node will know that it promised up to t.
func (s *store) Promise(t time.Duration) error {
	s.mu.Lock()
	before := s.kept.Promised
	s.kept.Promised = max(t, before)
	s.mu.Unlock()
	if t <= before {
		return nil
	}
	err := s.save()
	if err != nil {
		s.mu.Lock()
		s.kept.Promised = before // it is not on disk, and may not be given
		s.mu.Unlock()
	}
	return err
}

// Settled says that no promise longer than t stands any more, and that no vote
// from before the last restart can matter. It is written with the next Flush, or
// with a longer promise before: until then a restart only waits for longer.
func (s *store) Settled(t time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept.Promised != t || s.kept.Volatile == s.strict {
		s.kept.Promised, s.kept.Volatile, s.dirty = t, !s.strict, true
	}
}

// Promised is the longest promise that the node may have given, and whether
// votes may have been given that are not on disk.
func (s *store) Promised() (t time.Duration, votesLost bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept.Promised, s.kept.Volatile
}

// SetStrict changes whether votes are on disk at once.
func (s *store) SetStrict(strict bool) error {
	s.mu.Lock()
	same := s.strict == strict
	s.kept.Volatile = s.kept.Volatile || !strict
	if strict {
		s.strict = true
	}
	s.mu.Unlock()
	if same {
		return nil
	}
	if err := s.save(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.strict = strict
	return nil
}

// IsMonotonic implements [raft.MonotonicLogStore]: after the install of a
// snapshot Raft drops the whole log instead of leaving a gap in it.
func (s *store) IsMonotonic() bool { return true }

// StoreLog implements [raft.LogStore].
func (s *store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements [raft.LogStore].
func (s *store) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	must, err := s.append(logs)
	if err != nil || !must {
		return err
	}
	return s.save()
}

func (s *store) append(logs []*raft.Log) (must bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.makeRoom(logs[0].Index); err != nil {
		return false, err
	}
	if err := s.InmemStore.StoreLogs(logs); err != nil {
		return false, err
	}
	must = s.strict
	for _, l := range logs {
		s.kept.Logs = append(s.kept.Logs, *l)
		s.note(l)
		must = must || l.Type == raft.LogConfiguration || l.Type == raft.LogCommand
	}
	s.dirty = true
	return must, nil
}

// makeRoom drops what is in the way of an entry at next: entries that could not
// be written before, or old ones that a snapshot has left behind.
func (s *store) makeRoom(next uint64) error {
	n := len(s.kept.Logs)
	if n == 0 || s.kept.Logs[n-1].Index == next-1 {
		return nil
	}
	first, last := s.kept.Logs[0].Index, s.kept.Logs[n-1].Index
	if next <= last {
		first = next
	}
	return s.drop(first, last)
}

// DeleteRange drops entries: a conflicting tail, which must be gone from disk
// before anything else is said, or a head that a snapshot covers.
func (s *store) DeleteRange(lo, hi uint64) error {
	s.mu.Lock()
	err := s.drop(lo, hi)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.save()
}

// drop drops entries. The caller holds mu.
func (s *store) drop(lo, hi uint64) error {
	if err := s.InmemStore.DeleteRange(lo, hi); err != nil {
		return err
	}
	if n := len(s.kept.Logs); n > 0 && s.kept.Logs[n-1].Index <= hi { // a tail goes, and what it configured
		s.configs = slices.DeleteFunc(s.configs, func(c config) bool { return c.index >= lo && c.index > s.base })
	}
	s.kept.Logs = slices.DeleteFunc(s.kept.Logs, func(l raft.Log) bool { return lo <= l.Index && l.Index <= hi })
	s.dirty = true
	return nil
}

// Clear drops the whole log.
func (s *store) Clear() error {
	last, err := s.LastIndex()
	if err != nil || last == 0 {
		return err
	}
	return s.DeleteRange(1, last)
}

// Set implements [raft.StableStore].
func (s *store) Set(key, val []byte) error {
	return s.set(func() error {
		s.kept.Bytes[string(key)] = slices.Clone(val)
		return s.InmemStore.Set(key, val)
	})
}

// SetUint64 implements [raft.StableStore].
func (s *store) SetUint64(key []byte, val uint64) error {
	return s.set(func() error {
		s.kept.Uints[string(key)] = val
		return s.InmemStore.SetUint64(key, val)
	})
}

func (s *store) set(change func() error) error {
	s.mu.Lock()
	err, strict := change(), s.strict
	s.dirty = true
	s.mu.Unlock()
	if err != nil || !strict {
		return err
	}
	return s.save()
}

// Flush writes what is not on disk yet.
func (s *store) Flush() error {
	s.mu.Lock()
	dirty := s.dirty
	s.mu.Unlock()
	if !dirty {
		return nil
	}
	return s.save()
}

// save writes everything. It is on disk when save returns.
func (s *store) save() error {
	s.disk.Lock()
	defer s.disk.Unlock()
	s.mu.Lock()
	content, err := json.Marshal(s.kept)
	s.dirty = false
	s.mu.Unlock()
	if err == nil {
		err = writeSealed(s.path, json.RawMessage(content))
	}
	if err != nil {
		s.mu.Lock()
		s.dirty = true
		s.mu.Unlock()
	}
	return err
}
