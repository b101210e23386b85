package leader

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// agreement is what the nodes of a cluster have agreed on through Raft.
type agreement struct {
	T  time.Duration `json:"t"`            // the promise
	At uint64        `json:"at,omitempty"` // index of the log entry
}

// settings is the state machine of Raft: the last agreement.
type settings struct {
	changed func(agreement)

	mu  sync.Mutex // guards now
	now agreement
}

func (s *settings) get() agreement {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *settings) set(a agreement) {
	s.mu.Lock()
	s.now = a
	s.mu.Unlock()
	s.changed(a)
}

// Apply implements raft.FSM. An entry that does not parse was written by a newer
// version and changes nothing here.
func (s *settings) Apply(l *raft.Log) any {
	var a agreement
	if err := json.Unmarshal(l.Data, &a); err != nil || a.T <= 0 {
		return err
	}
	a.At = l.Index
	s.set(a)
	return nil
}

// Snapshot implements raft.FSM.
func (s *settings) Snapshot() (raft.FSMSnapshot, error) { return s.get(), nil }

// Restore implements raft.FSM.
func (s *settings) Restore(r io.ReadCloser) error {
	defer r.Close()
	var a agreement
	if err := json.NewDecoder(r).Decode(&a); err != nil {
		return err
	}
	if a.T > 0 {
		s.set(a)
	}
	return nil
}

// Persist implements raft.FSMSnapshot.
func (a agreement) Persist(sink raft.SnapshotSink) error {
	if err := json.NewEncoder(sink).Encode(a); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (a agreement) Release() {}

// hush passes Raft's warnings on as DEBUG lines: what a person needs to know is
// said once, by the elector, not ten times a second.
func hush(log *slog.Logger) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: lineWriter{log}, DisableTime: true, Color: hclog.ColorOff})
}

type lineWriter struct{ log *slog.Logger }

func (w lineWriter) Write(b []byte) (int, error) {
	w.log.Debug("raft: " + strings.TrimSpace(string(b)))
	return len(b), nil
}
