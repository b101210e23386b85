package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
)

// A usage is what processes have taken of the machine.
type usage struct {
	cpu time.Duration // since their start, user and system
	rss int64         // bytes now; a page that two share counts twice
}

// tick is the unit of times in /proc/PID/stat: USER_HZ is 100 on every Linux that Go runs on.
const tick = time.Second / 100

// groupUsage adds up the processes of a process group. proc is /proc.
func groupUsage(proc fs.FS, group int) (usage, error) {
	stats, err := fs.Glob(proc, "[0-9]*/stat")
	if err != nil {
		return usage{}, err
	}
	var sum usage
	found := false
	for _, name := range stats {
		line, err := fs.ReadFile(proc, name)
		if err != nil { // it has just ended
			continue
		}
		u, of, err := parseStat(line)
		if err != nil {
			return usage{}, fmt.Errorf("read /proc/%s: %w", name, err)
		}
		if of == group {
			sum.cpu, sum.rss, found = sum.cpu+u.cpu, sum.rss+u.rss, true
		}
	}
	if !found {
		return usage{}, fmt.Errorf("measure process group %d: it is gone", group)
	}
	return sum, nil
}

// parseStat reads a line of /proc/PID/stat and returns the process group, too (proc_pid_stat(5)).
func parseStat(line []byte) (u usage, group int, err error) {
	// The command's name, in parentheses, may contain anything.
	end := bytes.LastIndexByte(line, ')')
	if end < 0 {
		return u, 0, fmt.Errorf("no command name in %q", line)
	}
	fields := strings.Fields(string(line[end+1:])) // from field 3, the state, on
	const pgrp, utime, stime, rss = 5 - 3, 14 - 3, 15 - 3, 24 - 3
	if len(fields) <= rss {
		return u, 0, fmt.Errorf("%d fields in %q", len(fields)+2, line)
	}
	var n [4]int64
	for i, f := range []int{pgrp, utime, stime, rss} {
		if n[i], err = strconv.ParseInt(fields[f], 10, 64); err != nil {
			return u, 0, err
		}
	}
	return usage{cpu: time.Duration(n[1]+n[2]) * tick, rss: n[3] * int64(os.Getpagesize())}, int(n[0]), nil
}
