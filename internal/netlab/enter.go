package netlab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// enteredEnv tells the program that it is the one Enter started.
const enteredEnv = "PINTLE_NETLAB_ENTERED"

// Enter makes sure that this process may build a lab. With the rights to make network namespaces it returns nil at
// once. Without, it runs the current program again with the same arguments in a new user, mount and network namespace,
// where it has them, and exits with its status; call it before anything that should not happen twice. An error says why
// the kernel refused.
func Enter() error {
	err := mayUnshare()
	if err == nil {
		return nil
	}
	if os.Getenv(enteredEnv) != "" {
		return forbidden(err)
	}
	code, err := runEntered()
	if err != nil {
		return forbidden(err)
	}
	os.Exit(code)
	return nil
}

func forbidden(err error) error {
	return fmt.Errorf("make a network namespace without root: %w; run as root, or allow user namespaces "+
		"(sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)", err)
}

// mayUnshare tries it on a thread that is thrown away.
func mayUnshare() error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		result <- unix.Unshare(unix.CLONE_NEWNET)
	}()
	return <-result
}

// runEntered runs this program in the new namespaces. It stays on one thread, because the child dies with that.
func runEntered() (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...) // also reaches a program that was moved or is in a closed directory
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), enteredEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	go pass(signals, cmd.Process)
	err := cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}

// pass forwards signals to the child, except the interrupt key's: the terminal sends that to both.
func pass(signals <-chan os.Signal, child *os.Process) {
	for s := range signals {
		if s != syscall.SIGINT {
			_ = child.Signal(s)
		}
	}
}
