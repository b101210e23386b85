package kubevip

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// Each name is known once, and there is something to do or to say for it.
func TestSettingsAreUnique(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range settings {
		all := slices.Concat(k.env, k.flags)
		if len(all) == 0 || (k.take == nil) == (k.why == "") {
			t.Errorf("%+v: nothing, or two things, to do", k)
		}
		for _, name := range all {
			if seen[name] {
				t.Errorf("%s is there twice", name)
			}
			seen[name] = true
		}
	}
}

// pod is a static pod with one more variable, or one more flag.
func pod(name, value string) string {
	if strings.HasPrefix(name, "-") {
		return "kind: Pod\nspec:\n  containers:\n  - image: kube-vip\n    args: [manager, '" + name + "=" + value + "']\n    env:\n    - {name: address, value: 192.0.2.9}\n    - {name: cp_enable, value: 'true'}\n"
	}
	return "kind: Pod\nspec:\n  containers:\n  - image: kube-vip\n    env:\n    - {name: address, value: 192.0.2.9}\n    - {name: cp_enable, value: 'true'}\n    - {name: " + name + ", value: '" + value + "'}\n"
}

// taken are the values that become part of the configuration, or say what is so anyway: nothing is to be told.
var taken = map[string]string{
	"address": "192.0.2.9", "vip_interface": "eth7", "vip_subnet": "/32", "port": "6443", "cp_enable": "true", "svc_enable": "false", "vip_arp": "true",
	"vip_loglevel": "5", "kubernetes_addr": "https://192.0.2.1:6443", "KUBERNETES_SERVICE_HOST": "192.0.2.1", "KUBERNETES_SERVICE_PORT": "6443",
	"dns_mode": "first", "cp_namespace": "network", "vip_leaderelection": "true", "vip_leaseduration": "7", "--leaderElectionType": "kubernetes",
	"--inCluster": "true",
}

// Every setting that is known is taken over in silence or told; none is dropped.
func TestNothingIsDropped(t *testing.T) {
	for _, k := range settings {
		for _, name := range slices.Concat(k.env, k.flags) {
			first := slices.Concat(k.env, k.flags)[0]
			value, silent := taken[first]
			if !silent {
				value = "true"
			}
			_, notes, err := Import([]byte(pod(name, value)), "")
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			told := slices.ContainsFunc(notes, func(n Note) bool { return n.Name == name && n.Text != "" })
			if told == silent && name != "--vip" { // as --address, in other words
				t.Errorf("%s: %s: told: %v, notes %v", name, value, told, notes)
			}
		}
	}
}

// What is switched off, and what is not given, is nothing to tell.
func TestOffIsSilent(t *testing.T) {
	for _, k := range settings {
		if !k.on || k.take != nil {
			continue
		}
		for _, value := range []string{"false", ""} {
			name := slices.Concat(k.env, k.flags)[0]
			if _, notes, err := Import([]byte(pod(name, value)), ""); err != nil || slices.ContainsFunc(notes, func(n Note) bool { return n.Name == name }) {
				t.Errorf("%s: %q: %v, %v", name, value, notes, err)
			}
		}
	}
}

func TestUnknownIsTold(t *testing.T) {
	for _, name := range []string{"vip_shiny_new", "bgp_shiny", "HTTPS_PROXY", "--shiny"} {
		_, notes, err := Import([]byte(pod(name, "x")), "")
		if err != nil || !slices.ContainsFunc(notes, func(n Note) bool { return n.Name == name && n.Value == "x" }) {
			t.Errorf("%s: %v, %v", name, notes, err)
		}
	}
}

func TestHidePassword(t *testing.T) {
	for peer, want := range map[string]string{
		"192.0.2.1:65000::false":            "192.0.2.1:65000::false",
		"192.0.2.1:65000":                   "192.0.2.1:65000",
		"192.0.2.1:65000:s3cret:false":      "192.0.2.1:65000:(not shown)",
		"192.0.2.1:65000:s3:cret:false:x/1": "192.0.2.1:65000:(not shown)",
		"[2001:db8::1]:65000:s3cret:false":  "[2001:db8::1]:65000:(not shown)",
		"[2001:db8::1]:65000::false":        "[2001:db8::1]:65000::false",
	} {
		if got := hidePassword(peer); got != want {
			t.Errorf("%s: %s, want %s", peer, got, want)
		}
	}
}

func FuzzImport(f *testing.F) {
	script, err := os.ReadFile("../../cmd/pintle/testdata/import-kube-vip.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, part := range strings.Split(string(script), "\n-- ") {
		_, text, _ := strings.Cut(part, " --\n")
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, manifest []byte) {
		config, notes, err := Import(manifest, "")
		if err == nil && len(config) == 0 {
			t.Error("neither a configuration nor an error")
		}
		for _, n := range notes {
			if n.Name == "" && n.Value == "" || n.Text == "" {
				t.Errorf("an empty note: %+v", n)
			}
		}
	})
}
