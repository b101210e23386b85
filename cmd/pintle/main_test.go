package main

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The test binary is also the programs that the scripts run.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"pintle": main, "lab": lab, "uncapped": uncapped})
}

// TestScripts runs the command line: testdata/*.txt.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Condition: func(cond string) (bool, error) {
			if cond != "lab" {
				return false, fmt.Errorf("unknown condition %s", cond)
			}
			err := mayUnshare()
			if err != nil && os.Getenv("LAB") == "require" {
				return false, err
			}
			return err == nil, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "expand": expand, "expired": expired},
	})
}

// exits STATUS PROGRAM ARG... runs a program that must end with this very status.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS PROGRAM ARG...")
	}
	status := 0
	err := ts.Exec(args[1], args[2:]...)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		status = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(status) != args[0] {
		ts.Fatalf("exit status %d, want %s", status, args[0])
	}
}

// expand FILE... puts the values of environment variables into files.
func expand(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		text := os.Expand(ts.ReadFile(name), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o644))
	}
}

// expired DIR NODE replaces the node's certificate by one that ended an hour ago.
func expired(ts *testscript.TestScript, _ bool, args []string) {
	file := func(name string) string { return filepath.Join(ts.MkAbs(args[0]), name) }
	pair, err := tls.LoadX509KeyPair(file("ca.crt"), file("ca.key"))
	ts.Check(err)
	own, err := tls.LoadX509KeyPair(file(args[1]+".crt"), file(args[1]+".key"))
	ts.Check(err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: args[1]},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour), DNSNames: args[1:2],
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, pair.Leaf, own.PrivateKey.(*ecdsa.PrivateKey).Public(), pair.PrivateKey)
	ts.Check(err)
	ts.Check(os.WriteFile(file(args[1]+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
}

func mayUnshare() error {
	tried := make(chan error)
	go func() {
		runtime.LockOSThread() // and the thread ends with the goroutine
		tried <- unix.Unshare(unix.CLONE_NEWNET)
	}()
	return <-tried
}

// lab PROGRAM ARG... runs a program in a network namespace of its own that has
// eth0 with the address LAB_ADDR, 10.9.0.1/24 if that is empty. If LAB_BUSY is an
// address and port, somebody listens there.
func lab() {
	runtime.LockOSThread()
	addr := os.Getenv("LAB_ADDR")
	if addr == "" {
		addr = "10.9.0.1/24"
	}
	for _, step := range []func() error{
		func() error { return unix.Unshare(unix.CLONE_NEWNET) },
		func() error { return wire(addr) },
		func() error { return occupy(os.Getenv("LAB_BUSY")) },
		func() error { return become(os.Args[1:]) },
	} {
		if err := step(); err != nil {
			fmt.Fprintln(os.Stderr, "lab:", err)
			os.Exit(99)
		}
	}
}

// wire makes lo and eth0 work.
func wire(addr string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "far0"}); err != nil {
		return err
	}
	for _, name := range []string{"lo", "far0", "eth0"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
		if name != "eth0" {
			continue
		}
		a, err := netlink.ParseAddr(addr)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return err
		}
	}
	return nil
}

// occupy listens and leaves the socket to whoever this process becomes.
func occupy(place string) error {
	if place == "" {
		return nil
	}
	ap, err := netip.ParseAddrPort(place)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}); err != nil {
		return err
	}
	return unix.Listen(fd, 1)
}

// uncapped PROGRAM ARG... runs a program without any capability, also as root.
func uncapped() {
	runtime.LockOSThread()
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM) {
			fmt.Fprintln(os.Stderr, "uncapped:", err)
			os.Exit(99)
		}
	}
	err := become(os.Args[1:])
	fmt.Fprintln(os.Stderr, "uncapped:", err)
	os.Exit(99)
}

// become runs a program in the place of this one, on this very thread.
func become(args []string) error {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	return unix.Exec(path, args, os.Environ())
}

func TestSecondSignalNeedsTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signals := make(chan os.Signal, 2)
		done := second(signals)
		for i := range 2 {
			select {
			case <-done:
				t.Fatalf("at once after %d signals", i)
			default:
			}
			signals <- os.Interrupt
			synctest.Wait()
		}
		<-done
	})
}

// Every command that a person can find says what it does, in one line.
func TestHelpTexts(t *testing.T) {
	for _, c := range newRoot().Commands() {
		for _, c := range append(c.Commands(), c) {
			if c.Short == "" || strings.HasSuffix(c.Short, ".") || strings.Contains(c.Short, "\n") || len(c.Short) > 100 {
				t.Errorf("%s: %q", c.CommandPath(), c.Short)
			}
		}
	}
}
