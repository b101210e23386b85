package node

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pintle-lb/pintle/internal/config"
)

// put writes a file below dir.
func put(t *testing.T, dir, path, text string) {
	t.Helper()
	path = filepath.Join(dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// process makes a directory as procfs has it.
func process(t *testing.T, proc, pid, netns, comm, cmdline, environ string) {
	t.Helper()
	put(t, proc, pid+"/comm", comm+"\n")
	put(t, proc, pid+"/cmdline", strings.ReplaceAll(cmdline, " ", "\x00"))
	put(t, proc, pid+"/environ", environ)
	if err := os.MkdirAll(filepath.Join(proc, pid, "ns"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(netns, filepath.Join(proc, pid, "ns/net")); err != nil {
		t.Fatal(err)
	}
}

func TestRivals(t *testing.T) {
	cfg := &config.Config{Addresses: []config.Address{{Address: netip.MustParseAddr("192.0.2.10")}, {Address: netip.MustParseAddr("2001:db8::10")}}}
	for name, tt := range map[string]struct {
		set  func(proc, manifests string)
		want []string // parts; those of warnings begin with w:
	}{
		"none": {func(proc, _ string) {
			process(t, proc, "7", "net:[1]", "sshd", "/usr/sbin/sshd -D 192.0.2.10", "")
			put(t, proc, "meminfo", "")
		}, nil},
		"keepalived of other addresses": {func(proc, _ string) {
			for _, pid := range []string{"12", "9", "13"} {
				process(t, proc, pid, "net:[1]", "keepalived", "/usr/sbin/keepalived", "")
			}
			put(t, proc, "9/root/etc/keepalived/keepalived.conf", "virtual_ipaddress {\n 192.0.2.100/24 dev eth0\n}\n")
		}, []string{"w:keepalived runs on this node (pid 9): see that"}},
		"keepalived of ours": {func(proc, _ string) {
			process(t, proc, "9", "net:[1]", "keepalived", "/usr/sbin/keepalived", "")
			put(t, proc, "9/root/etc/keepalived/keepalived.conf", "virtual_ipaddress {\n 192.0.2.10/24 dev eth0\n 2001:DB8:0::10\n}\n")
		}, []string{"keepalived runs on this node (pid 9) and brings up 192.0.2.10, 2001:db8::10 too: stop it there first"}},
		"kube-vip by its environment": {func(proc, _ string) {
			process(t, proc, "30", "net:[1]", "kube-vip", "/kube-vip manager", "vip_arp=true\x00address=192.0.2.10\x00port=6443")
		}, []string{"kube-vip runs on this node (pid 30) and brings up 192.0.2.10 too: stop it there first (`pintle import kube-vip FILE`"}},
		"kube-vip by a flag": {func(proc, _ string) {
			process(t, proc, "30", "net:[1]", "exe", "/kube-vip manager --vip=192.0.2.10", "")
		}, []string{"brings up 192.0.2.10 too"}},
		"in another network namespace": {func(proc, _ string) {
			process(t, proc, "9", "net:[2]", "keepalived", "/usr/sbin/keepalived 192.0.2.10", "")
		}, nil},
		"manifest": {func(_, manifests string) {
			put(t, manifests, "kube-vip.yaml", "env:\n- name: address\n  value: \"192.0.2.10\"\n")
		}, []string{"/kube-vip.yaml brings up 192.0.2.10 too: take it away there first (`pintle import kube-vip FILE`"}},
		"manifest of another address": {func(_, manifests string) {
			put(t, manifests, "kube-vip.yaml", "value: 192.0.2.1\nother: 192.0.2.101 1192.0.2.10 2001:db8::1\n")
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			at := places{proc: t.TempDir(), manifests: t.TempDir()}
			process(t, at.proc, "self", "net:[1]", "pintle", "pintle run", "")
			tt.set(at.proc, at.manifests)
			got := rivals(at, cfg)
			if len(got) != len(tt.want) {
				t.Fatalf("%+v, want %q", got, tt.want)
			}
			for i, f := range got {
				part, warning := strings.CutPrefix(tt.want[i], "w:")
				if f.Warning != warning || !strings.Contains(f.Text, part) {
					t.Errorf("%+v, want %q", f, tt.want[i])
				}
			}
		})
	}
}
