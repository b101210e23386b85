package node

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pintle-lb/pintle/internal/config"
)

// places are where rivals are looked for.
type places struct {
	proc      string // of procfs
	manifests string // of the kubelet's static pods
}

// rivalNames are programs that bring up addresses as Pintle does.
var rivalNames = []string{"kube-vip", "keepalived"}

// keepalivedConf is the configuration of keepalived, in its own view of the files.
const keepalivedConf = "etc/keepalived/keepalived.conf"

// rivals finds programs that bring up addresses too: what runs in this network
// namespace is worth a warning, and what has one of our addresses has to go.
func rivals(at places, cfg *config.Config) (out []Finding) {
	addrs := addrsOf(cfg)
	for _, name := range rivalNames {
		pid := running(at.proc, name)
		if pid == 0 {
			continue
		}
		if ours := mentioned(settingsOf(at.proc, pid), addrs); len(ours) > 0 {
			out = append(out, Finding{Text: fmt.Sprintf("%s runs on this node (pid %d) and brings up %s too: stop it there first%s",
				name, pid, readable(ours), importHint(name))})
			continue
		}
		out = append(out, Finding{Warning: true, Text: fmt.Sprintf("%s runs on this node (pid %d): see that it does not bring up the same address", name, pid)})
	}
	path := filepath.Join(at.manifests, "kube-vip.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		return out // there is none, or this process may not know
	}
	if ours := mentioned(string(text), addrs); len(ours) > 0 {
		out = append(out, Finding{Text: fmt.Sprintf("%s brings up %s too: take it away there first%s", path, readable(ours), importHint("kube-vip"))})
	}
	return out
}

// readable is a list for a sentence.
func readable(addrs []netip.Addr) string {
	var words []string
	for _, a := range addrs {
		words = append(words, a.String())
	}
	return strings.Join(words, ", ")
}

func importHint(name string) string {
	if name == "kube-vip" {
		return " (`pintle import kube-vip FILE` reads its settings)"
	}
	return ""
}

// running is the lowest process ID of a program of that name in this network
// namespace, 0 for none.
func running(proc, name string) int {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return 0
	}
	here, _ := os.Readlink(filepath.Join(proc, "self/ns/net"))
	lowest := 0
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || lowest != 0 && pid > lowest || !called(proc, pid, name) {
			continue
		}
		there, err := os.Readlink(filepath.Join(proc, e.Name(), "ns/net"))
		if err == nil && there != here {
			continue // whatever it does, it does it elsewhere
		}
		lowest = pid
	}
	return lowest
}

// called reports whether a process runs a program of that name.
func called(proc string, pid int, name string) bool {
	dir := filepath.Join(proc, strconv.Itoa(pid))
	comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
	cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	program, _, _ := strings.Cut(string(cmdline), "\x00")
	return strings.TrimSpace(string(comm)) == name || filepath.Base(program) == name
}

// settingsOf is all that a process of a rival was told, as far as this one may
// read it.
func settingsOf(proc string, pid int) string {
	dir := filepath.Join(proc, strconv.Itoa(pid))
	var all []string
	for _, file := range []string{"cmdline", "environ", "root/" + keepalivedConf} {
		text, _ := os.ReadFile(filepath.Join(dir, file))
		all = append(all, string(text))
	}
	return strings.Join(all, "\n")
}

// mentioned are those of the addresses that stand in a text.
func mentioned(text string, addrs []netip.Addr) (found []netip.Addr) {
	for _, word := range strings.FieldsFunc(text, func(c rune) bool { return !strings.ContainsRune("0123456789abcdefABCDEF:.", c) }) {
		a, err := netip.ParseAddr(strings.Trim(word, "."))
		if err == nil && slices.Contains(addrs, a.Unmap()) && !slices.Contains(found, a.Unmap()) {
			found = append(found, a.Unmap())
		}
	}
	return found
}
