package leader

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// reopen reads what a process that is killed now would find.
func reopen(t *testing.T, s *store, strict bool) *store {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state.json")
	b, err := os.ReadFile(s.path)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	} else if err == nil {
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return openTestStore(t, path, strict)
}

func openTestStore(t *testing.T, path string, strict bool) *store {
	t.Helper()
	s, _, err := openStore(path, strict)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newTestStore(t *testing.T, strict bool) *store {
	return openTestStore(t, filepath.Join(t.TempDir(), "state.json"), strict)
}

func last(t *testing.T, s *store) uint64 {
	t.Helper()
	n, err := s.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func confLog(index uint64, voters ...string) *raft.Log {
	var c raft.Configuration
	for _, v := range voters {
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(v), Address: raft.ServerAddress(v + ":1")})
	}
	return &raft.Log{Index: index, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(c)}
}

func entry(index uint64, typ raft.LogType) *raft.Log {
	return &raft.Log{Index: index, Term: 1, Type: typ, Data: []byte(`{"t":1}`)}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsOnDiskWhenStoreLogsReturns(t *testing.T) {
	for _, tt := range []struct {
		name   string
		strict bool
		typ    raft.LogType
		kept   bool
	}{
		{"configuration", false, raft.LogConfiguration, true},
		{"command", false, raft.LogCommand, true},
		{"election", false, raft.LogNoop, false},
		{"election, strict", true, raft.LogNoop, true},
		{"barrier, strict", true, raft.LogBarrier, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newTestStore(t, tt.strict)
			l := entry(1, tt.typ)
			if tt.typ == raft.LogConfiguration {
				l = confLog(1, "a")
			}
			must(t, s.StoreLog(l))
			if got := last(t, reopen(t, s, tt.strict)) == 1; got != tt.kept {
				t.Errorf("on disk: %v, want %v", got, tt.kept)
			}
			must(t, s.Flush())
			r := reopen(t, s, tt.strict)
			var back raft.Log
			must(t, r.GetLog(1, &back))
			if back.Type != l.Type || !bytes.Equal(back.Data, l.Data) || back.Term != l.Term {
				t.Errorf("came back as %+v, want %+v", back, l)
			}
		})
	}
}

func TestVotesOnDisk(t *testing.T) {
	for _, strict := range []bool{false, true} {
		s := newTestStore(t, strict)
		must(t, s.Promise(100*ms), s.SetUint64([]byte("LastVoteTerm"), 7), s.Set([]byte("LastVoteCand"), []byte("b")))
		r := reopen(t, s, strict)
		term, err := r.GetUint64([]byte("LastVoteTerm"))
		must(t, err)
		cand, _ := r.Get([]byte("LastVoteCand"))
		if got := term == 7 && string(cand) == "b"; got != strict {
			t.Errorf("strict %v: a vote is on disk: %v (%d, %s)", strict, got, term, cand)
		}
		if _, lost := r.Promised(); lost == strict {
			t.Errorf("strict %v: votes may be lost: %v", strict, lost)
		}
		must(t, s.Flush())
		if term, _ = reopen(t, s, strict).GetUint64([]byte("LastVoteTerm")); term != 7 {
			t.Errorf("strict %v: a vote is not on disk after Flush", strict)
		}
	}
}

func TestStrictnessMayChange(t *testing.T) {
	s := newTestStore(t, false)
	must(t, s.Promise(100*ms), s.SetUint64([]byte("CurrentTerm"), 3))
	must(t, s.SetStrict(true))
	if n, _ := reopen(t, s, true).GetUint64([]byte("CurrentTerm")); n != 3 {
		t.Errorf("term %d on disk after SetStrict, want 3", n)
	}
	must(t, s.SetUint64([]byte("CurrentTerm"), 4))
	if n, _ := reopen(t, s, true).GetUint64([]byte("CurrentTerm")); n != 4 {
		t.Errorf("term %d on disk, want 4", n)
	}
	if _, lost := reopen(t, s, true).Promised(); !lost {
		t.Error("the votes of before may matter until the promise is settled")
	}
	s.Settled(300 * ms)
	must(t, s.Flush())
	if _, lost := reopen(t, s, true).Promised(); lost {
		t.Error("votes count as lost after it was settled")
	}
	if _, lost := reopen(t, reopen(t, s, false), true).Promised(); !lost {
		t.Error("opened without strictness, votes count as kept at the next start")
	}
	must(t, s.SetStrict(false))
	if _, lost := reopen(t, s, true).Promised(); !lost {
		t.Error("votes count as kept after SetStrict(false)")
	}
}

func TestPromisedIsKept(t *testing.T) {
	s := newTestStore(t, false)
	for _, tt := range []struct {
		change func() error
		want   time.Duration
	}{
		{func() error { return s.Promise(300 * ms) }, 300 * ms},
		{func() error { return s.Promise(100 * ms) }, 300 * ms},
		{func() error { s.Settled(100 * ms); return s.Flush() }, 100 * ms},
		{func() error { return s.Promise(1500 * ms) }, 1500 * ms},
	} {
		must(t, tt.change())
		if got, _ := reopen(t, s, false).Promised(); got != tt.want {
			t.Errorf("promised %v on disk, want %v", got, tt.want)
		}
	}
}

func TestTailIsGoneFromDisk(t *testing.T) {
	s := newTestStore(t, false)
	must(t, s.StoreLogs([]*raft.Log{confLog(1, "a"), confLog(2, "a", "b", "c"), confLog(3, "a", "d")}))
	must(t, s.DeleteRange(2, 3))
	for _, x := range []*store{s, reopen(t, s, false)} {
		if last(t, x) != 1 || !reflect.DeepEqual(x.latest(), []string{"a"}) {
			t.Errorf("last entry %d, voters %v", last(t, x), x.latest())
		}
	}
	must(t, s.StoreLog(confLog(2, "a", "e")))
	if got := s.Voters(1); !reflect.DeepEqual(got, [][]string{{"a"}, {"a", "e"}}) {
		t.Errorf("voters %v", got)
	}
}

func TestVoters(t *testing.T) {
	s := newTestStore(t, false)
	if got := s.Voters(0); len(got) != 0 {
		t.Errorf("voters %v of nothing", got)
	}
	must(t, s.StoreLogs([]*raft.Log{confLog(1, "a"), entry(2, raft.LogNoop), confLog(3, "a", "b"), confLog(4, "a", "b", "c")}))
	for _, tt := range []struct {
		commit uint64
		want   [][]string
	}{
		{0, [][]string{{"a"}, {"a", "b"}, {"a", "b", "c"}}},
		{2, [][]string{{"a"}, {"a", "b"}, {"a", "b", "c"}}},
		{3, [][]string{{"a", "b"}, {"a", "b", "c"}}},
		{9, [][]string{{"a", "b", "c"}}},
	} {
		if got := s.Voters(tt.commit); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("commit %d: voters %v, want %v", tt.commit, got, tt.want)
		}
	}
}

func TestNonvotersDoNotCount(t *testing.T) {
	c := raft.Configuration{Servers: []raft.Server{{ID: "a"}, {ID: "b", Suffrage: raft.Nonvoter}}}
	if got := newConfig(1, c).voters; !reflect.DeepEqual(got, []string{"a"}) {
		t.Errorf("voters %v", got)
	}
}

func TestHeadGoesAndTheConfigurationStays(t *testing.T) {
	s := newTestStore(t, false)
	dir := filepath.Dir(s.path)
	files, err := raft.NewFileSnapshotStoreWithLogger(dir, 1, hush(testLog("store")))
	must(t, err)
	snaps, err := openSnapshots(files, s)
	must(t, err)
	conf := confLog(1, "a", "b", "c")
	must(t, s.StoreLog(conf))
	for i := uint64(2); i <= 10; i++ {
		must(t, s.StoreLog(entry(i, raft.LogNoop)))
	}
	_, trans := raft.NewInmemTransport("a")
	sink, err := snaps.Create(1, 10, 1, raft.DecodeConfiguration(conf.Data), 1, trans)
	must(t, err)
	must(t, (agreement{T: 100 * ms, At: 4}).Persist(sink))
	for _, hi := range []uint64{5, 10} { // a part, everything
		must(t, s.DeleteRange(1, hi))
		again := openTestStore(t, s.path, false)
		_, err = openSnapshots(files, again)
		must(t, err)
		for _, x := range []*store{s, again} {
			if !reflect.DeepEqual(x.latest(), []string{"a", "b", "c"}) {
				t.Errorf("up to %d: voters %v", hi, x.latest())
			}
		}
	}
}

func TestGapThatASnapshotLeaves(t *testing.T) {
	s := newTestStore(t, true)
	must(t, s.StoreLogs([]*raft.Log{confLog(1, "a"), entry(2, raft.LogNoop)}))
	must(t, s.StoreLog(entry(300, raft.LogNoop)))
	r := reopen(t, s, true)
	if first, _ := r.FirstIndex(); first != 300 || last(t, r) != 300 {
		t.Errorf("entries %d to %d, want 300 only", first, last(t, r))
	}
}

func TestEntryThatCouldNotBeWritten(t *testing.T) {
	s := newTestStore(t, true)
	must(t, s.StoreLog(confLog(1, "a")))
	dir, path := filepath.Dir(s.path), s.path
	s.path = filepath.Join(dir, "missing", "state.json")
	if err := s.StoreLog(confLog(2, "a", "b")); !errors.Is(err, ErrState) {
		t.Fatalf("got %v, want an error of the state directory", err)
	}
	s.path = path
	must(t, s.StoreLog(confLog(2, "a", "c"))) // Raft tries again with what it has by then
	if r := reopen(t, s, true); last(t, r) != 2 || !reflect.DeepEqual(r.latest(), []string{"a", "c"}) {
		t.Errorf("last %d, voters %v", last(t, r), r.latest())
	}
}

func TestStateThatIsRefused(t *testing.T) {
	good := func(t *testing.T) string {
		dir := t.TempDir()
		d, err := openStateDir(dir)
		must(t, err)
		must(t, d.saveIdentity(identity{Cluster: "c1", Node: "n1", Instance: "ab", T: 100 * ms}))
		s := openTestStore(t, d.file("state.json"), true)
		must(t, s.StoreLog(confLog(1, "n1.ab")), d.Close())
		return dir
	}
	write := func(name, content string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
		}
	}
	change := func(name, old, new string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, name)
			b, err := os.ReadFile(path)
			must(t, err)
			if !bytes.Contains(b, []byte(old)) {
				t.Fatalf("%s has no %s: %s", name, old, b)
			}
			must(t, os.WriteFile(path, bytes.Replace(b, []byte(old), []byte(new), 1), 0o600))
		}
	}
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
		want  []string
	}{
		{"cut off", write("state.json", `{"format":1,"crc`), []string{"state.json is damaged", "start again: the node then joins as a new member"}},
		{"empty", write("state.json", ``), []string{"state.json is damaged", "put back"}},
		{"a foreign file", write("identity.json", "#!/bin/sh\n"), []string{"identity.json is damaged", "put back"}},
		{"a flipped bit", change("state.json", `"Index":1`, `"Index":3`), []string{"state.json is damaged (checksum", "put back"}},
		{"a newer format", change("state.json", `"format":1`, `"format":2`), []string{"format 2", "upgrade pintle"}},
		{"no identity", func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "identity.json"))) }, []string{"identity.json is not", "put back"}},
		{"no state", func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "state.json"))) }, []string{"state.json is not", "put back"}},
		{"of another node", func(t *testing.T, dir string) {
			must(t, writeSealed(filepath.Join(dir, "identity.json"), identity{Node: "n2", Instance: "cd"}))
		}, []string{`belongs to node "n2", this is "n1"`, "a directory of its own"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := good(t)
			tt.spoil(t, dir)
			before := contentsOf(t, dir)
			r, err := OpenRaft(RaftConfig{Node: "n1", Peers: []Peer{{Name: "n1", Address: "127.0.0.1:0"}}, StateDir: dir, Profile: Fast})
			if err == nil {
				r.Close()
				t.Fatal("it was accepted")
			}
			if !errors.Is(err, ErrState) {
				t.Errorf("%v is no error of the state directory", err)
			}
			for _, want := range tt.want {
				wantErr(t, err, want)
			}
			if !reflect.DeepEqual(contentsOf(t, dir), before) {
				t.Error("files were changed")
			}
			if d, err := openStateDir(dir); err != nil {
				t.Errorf("the lock was kept: %v", err)
			} else {
				d.Close()
			}
		})
	}
}

func contentsOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, name := range []string{"identity.json", "state.json"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			out[name] = string(b)
		}
	}
	return out
}

func TestLogWithAGapIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	must(t, writeSealed(path, contents{Logs: []raft.Log{*entry(1, raft.LogNoop), *entry(3, raft.LogNoop)}}))
	_, _, err := openStore(path, true)
	wantErr(t, err, "log entry 3 follows 1")
}

func TestStateDirInUse(t *testing.T) {
	dir := t.TempDir()
	d, err := openStateDir(dir)
	must(t, err)
	_, err = openStateDir(dir)
	if !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("got %v", err)
	}
	must(t, d.Close())
	d, err = openStateDir(dir)
	must(t, err)
	must(t, d.Close())
}
