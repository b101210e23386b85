package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"
)

// line is one of /proc/PID/stat with some of its 52 fields given.
func line(comm, pgrp, utime, stime, rss string) *fstest.MapFile {
	f := strings.Fields("7 - S 1 - 0 0 -1 0 0 0 0 0 - - 0 0 20 0 9 0 100 4096 - 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0")
	f[1], f[4], f[13], f[14], f[23] = "("+comm+")", pgrp, utime, stime, rss
	return &fstest.MapFile{Data: []byte(strings.Join(f, " ") + "\n")}
}

func TestGroupUsage(t *testing.T) {
	proc := fstest.MapFS{
		"70/stat":   line("keepalived", "70", "150", "50", "3"),
		"71/stat":   line("keepalived) 1 (", "70", "0", "1", "4"),
		"72/stat":   line("other", "7", "999", "999", "999"),
		"self/stat": line("self", "70", "999", "999", "999"),
	}
	u, err := groupUsage(proc, 70)
	if want := 2010 * time.Millisecond; err != nil || u.cpu != want || u.rss != int64(7*os.Getpagesize()) {
		t.Errorf("got %+v, %v; want %v and 7 pages", u, err, want)
	}
	if _, err := groupUsage(proc, 75); err == nil {
		t.Error("no error for a group that is gone")
	}
	for _, bad := range []*fstest.MapFile{{Data: []byte("70 keepalived S 1 70")}, {Data: []byte("70 (k) S 1 70")}, line("k", "70", "x", "0", "0")} {
		if _, err := groupUsage(fstest.MapFS{"70/stat": bad}, 70); err == nil {
			t.Errorf("no error for %q", bad.Data)
		}
	}
}

// The kernel's own words are understood.
func TestGroupUsageHere(t *testing.T) {
	for begin := time.Now(); time.Since(begin) < 50*time.Millisecond; { // take some time
	}
	u, err := groupUsage(os.DirFS("/proc"), syscall.Getpgrp())
	if err != nil || u.cpu < tick || u.rss < 1<<20 || u.rss > 1<<36 {
		t.Errorf("this process group: %+v, %v", u, err)
	}
}
