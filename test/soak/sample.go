package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A sample is the size of one process.
type sample struct {
	goroutines, files, rss float64 // rss in MiB
}

// metricsAddr is where each machine of the demo serves metrics, in its own network namespace.
const metricsAddr = "127.0.0.1:7401"

// measure asks the process itself and the kernel.
func measure(pid int) (s sample, err error) {
	err = inNetworkOf(pid, func() (err error) {
		s.goroutines, err = readGoroutines(metricsAddr)
		return err
	})
	if err != nil {
		return s, err
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return s, err
	}
	s.files = float64(len(files))
	s.rss, err = readRSS(pid)
	return s, err
}

// inNetworkOf runs f on a thread in the process's network namespace; the thread ends with it.
func inNetworkOf(pid int, f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		result <- enterAndDo(fmt.Sprintf("/proc/%d/ns/net", pid), f)
	}()
	return <-result
}

func enterAndDo(namespace string, f func() error) error {
	fd, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", namespace, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", namespace, err)
	}
	return f()
}

// readGoroutines asks /metrics over a connection made on this thread, which an http.Client does not promise.
func readGoroutines(addr string) (float64, error) {
	conn, err := net.DialTimeout("tcp4", addr, 5*time.Second)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return 0, err
	}
	req, err := http.NewRequest(http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	req.Close = true
	if err := req.Write(conn); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	return parseGoroutines(resp.Body)
}

// parseGoroutines finds go_goroutines in the Prometheus text format.
func parseGoroutines(metrics io.Reader) (float64, error) {
	lines := bufio.NewScanner(metrics)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), "go_goroutines "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	if err := lines.Err(); err != nil {
		return 0, fmt.Errorf("read metrics: %w", err)
	}
	return 0, fmt.Errorf("read metrics: no go_goroutines")
}

// readRSS reads the second field of /proc/PID/statm, in pages (proc_pid_statm(5)).
func readRSS(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0, fmt.Errorf("read /proc/%d/statm: %q", pid, b)
	}
	pages, err := strconv.ParseFloat(fields[1], 64)
	return pages * float64(os.Getpagesize()) / (1 << 20), err
}
