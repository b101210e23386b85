package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// ErrNoPrograms is that of a machine where scripts/kube.sh has not run.
var ErrNoPrograms = errors.New("the programs of Kubernetes are not built: run scripts/kube.sh")

// ErrNoRuntime is that of a machine on which Install has no container runtime, or kube-proxy no nft.
var ErrNoRuntime = errors.New("a program that runs containers is missing: run scripts/setup.sh install")

// cniDir is where Debian has the network plugins.
const cniDir = "/usr/lib/cni"

// findRuntime says whether Install has what it needs.
func findRuntime() error { return find("nsenter", "nft", "containerd", "ctr", "runc", "host-local") }

func find(programs ...string) error {
	var errs []error
	for _, name := range programs {
		if !slices.ContainsFunc(strings.Split(systemPath+":"+cniDir, ":"), func(dir string) bool { return exists(filepath.Join(dir, name)) }) {
			errs = append(errs, fmt.Errorf("%w (%s)", ErrNoRuntime, name))
		}
	}
	return errors.Join(errs...)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Programs is the folder with the programs of Kubernetes: the environment's TESTKUBE_BIN, or where scripts/kube.sh puts them. It
// builds nothing.
func Programs() (string, error) {
	dir := os.Getenv("TESTKUBE_BIN")
	if dir == "" {
		var err error
		if dir, err = cached(); err != nil {
			return "", err
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "kube-apiserver")); err != nil {
		return "", fmt.Errorf("%w (%w)", ErrNoPrograms, err)
	}
	return dir, nil
}

// cached asks the script, which is found from here in the source tree.
func cached() (string, error) {
	_, here, _, _ := runtime.Caller(0)
	script := filepath.Join(filepath.Dir(here), "..", "..", "scripts", "kube.sh")
	out, err := exec.Command(script, "--print").Output()
	if err != nil {
		return "", fmt.Errorf("%w (%s: %w; or set TESTKUBE_BIN)", ErrNoPrograms, script, err)
	}
	return strings.TrimSpace(string(out)), nil
}
