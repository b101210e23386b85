package manifests

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
	"text/template"
)

// A Kube is what an installation in Kubernetes is made from. It must be of the same configuration that Pintle will
// read: rights, mounts and probes follow from it. Pods need Image and Config.
type Kube struct {
	Image     string
	Instance  string // as in the configuration; default if empty
	Namespace string // of the pods; kube-system if empty, pintle-system for Services
	Services  bool   // it gives Services their addresses, on every node; else it is for the control plane's address
	Routers   bool   // with Services: routers are in the configuration, so pools are announced to them
	Config    []byte // the configuration, as the nodes read it

	Rules    []Rule         // what it needs of the API: LeaseRules, NodeRule, ServiceRules, or nothing
	User     string         // who has the rights; the service account if empty
	Token    bool           // the pod uses its service account
	Files    []string       // every file on the node that the configuration names, but for Secrets
	Secrets  []string       // files that hold passwords: of the node for a static pod, of a Secret for a DaemonSet
	LowPort  bool           // it listens on a port below 1024, as for BGP
	StateDir string         // /var/lib/pintle; nothing is kept if empty
	RunDir   string         // /run/pintle if empty
	Probe    netip.AddrPort // where /livez and /readyz are; no probes if invalid
}

// Pod renders the static pod. Its configuration is on the node, at ConfigFile, and so are all files that it names:
// a static pod has no service account.
func (k Kube) Pod() ([]byte, error) {
	if err := k.fillPod(); err != nil {
		return nil, fmt.Errorf("render pod: %w", err)
	}
	k.Files = append(slices.Clone(k.Files), k.Secrets...)
	v := podView{Kube: k, ConfigPath: k.ConfigFile()}
	for _, f := range k.Files {
		if strings.HasPrefix(f, serviceToken+"/") {
			return nil, fmt.Errorf("render pod: %s: a static pod has no service account: name a file of the node", f)
		}
	}
	if k.Services {
		return nil, errors.New("render pod: Services need a node of every kind: no static pods, but a DaemonSet")
	}
	if k.Token {
		return nil, errors.New("render pod: a static pod has no service account: name a kubeconfig")
	}
	v.Volumes = append(v.Volumes, volume{Path: etc, Type: "Directory"})
	v.Volumes = append(v.Volumes, k.volumes()...)
	return render("pod.yaml.tmpl", v)
}

// DaemonSet renders everything that a cluster needs, in the order in which it is made: the service account and its
// rights, the configuration, and a DaemonSet, for the nodes of the control plane or with Services for all.
func (k Kube) DaemonSet() ([]byte, error) {
	if err := k.fillPod(); err != nil {
		return nil, fmt.Errorf("render daemonset: %w", err)
	}
	v := podView{Kube: k, ConfigPath: "/config/pintle.yaml", ConfigMap: k.Name()}
	var err error
	if v.SecretDir, err = k.secretDir(); err != nil {
		return nil, fmt.Errorf("render daemonset: %w", err)
	}
	if slices.ContainsFunc(k.Files, func(f string) bool { return strings.HasPrefix(f, etc+"/") }) {
		v.Volumes = append(v.Volumes, volume{Path: etc, Type: "Directory"})
	}
	v.Volumes = append(v.Volumes, k.volumes()...)
	v.Token = k.Token || slices.ContainsFunc(k.Files, func(f string) bool { return strings.HasPrefix(f, serviceToken+"/") })
	rights, err := k.rights()
	if err != nil {
		return nil, fmt.Errorf("render daemonset: %w", err)
	}
	set, err := render("daemonset.yaml.tmpl", v)
	if err != nil {
		return nil, err
	}
	return slices.Concat(rights, []byte("---\n"), set), nil
}

// A Pool is addresses for Services: the object AddressPool, with what most have.
type Pool struct {
	Name      string
	Addresses []string // prefixes and ranges
}

// All renders all that Services need: the namespace, the definitions of the objects, what DaemonSet renders, and pools, which are
// announced to Routers if there are any, and else by ARP and NDP.
func (k Kube) All(pools ...Pool) ([]byte, error) {
	k.Services = true
	set, err := k.DaemonSet()
	if err != nil {
		return nil, err
	}
	k.Namespace = k.namespace()
	out := CRDs()
	if !strings.HasPrefix(k.Namespace, "kube-") && k.Namespace != "default" { // those are the cluster's own
		ns, err := render("namespace.yaml.tmpl", k)
		if err != nil {
			return nil, err
		}
		out = slices.Concat(ns, []byte("---\n"), out)
	}
	out = slices.Concat(out, []byte("---\n"), set)
	for _, p := range pools {
		text, err := render("pool.yaml.tmpl", poolView{p, k.Routers})
		if err != nil {
			return nil, err
		}
		out = slices.Concat(out, []byte("---\n"), text)
	}
	return out, nil
}

// namespace is that of the pods.
func (k Kube) namespace() string {
	if k.Services {
		return cmp.Or(k.Namespace, "pintle-system")
	}
	return cmp.Or(k.Namespace, "kube-system")
}

// secretDir is the directory of all Secrets, where the Secret is mounted; "" if there are none.
func (k Kube) secretDir() (string, error) {
	dir := ""
	for _, f := range k.Secrets {
		if dir != "" && dir != path.Dir(f) {
			return "", fmt.Errorf("%s: is not in %s, where other passwords are: keep all in one directory, that of a Secret", f, dir)
		}
		dir = path.Dir(f)
	}
	for _, f := range k.Files {
		if dir != "" && (strings.HasPrefix(f, dir+"/") || strings.HasPrefix(f, etc+"/") && strings.HasPrefix(dir+"/", etc+"/")) {
			return "", fmt.Errorf("%s: is of the node, and %s of a Secret: keep the passwords out of %s, as in /etc/pintle-bgp", f, dir, etc)
		}
	}
	return dir, nil
}

// SecretName is what the Secret of the passwords is called.
func (k Kube) SecretName() string { return k.Name() + "-bgp" }

// MakeSecret is the command that makes the Secret of a DaemonSet, of files in the directory where the pods will see them; ""
// if it needs none.
func (k Kube) MakeSecret() string {
	dir, err := k.secretDir()
	if dir == "" || err != nil {
		return ""
	}
	return fmt.Sprintf("kubectl -n %s create secret generic %s --from-file=%s", k.namespace(), k.SecretName(), dir)
}

// RBAC renders the rights alone: for the service account, which it makes, or for User.
func (k Kube) RBAC() ([]byte, error) {
	if err := k.fill(); err != nil {
		return nil, fmt.Errorf("render rbac: %w", err)
	}
	if len(k.Rules) == 0 {
		return nil, errors.New("render rbac: this configuration asks nothing of the API: no rights are needed")
	}
	return k.rights()
}

func (k Kube) rights() ([]byte, error) {
	return render("rbac.yaml.tmpl", rightsView{Kube: k, Roles: roles(k.Rules)})
}

// Name is the name of all objects.
func (k Kube) Name() string { return Unit{Instance: cmp.Or(k.Instance, "default")}.name() }

// ConfigFile is where a static pod has its configuration on the node.
func (k Kube) ConfigFile() string {
	return etc + "/" + Unit{Instance: cmp.Or(k.Instance, "default")}.file() + ".yaml"
}

// Hash is short for the configuration: another one makes other pods.
func (k Kube) Hash() string { return fmt.Sprintf("%x", sha256.Sum256(k.Config))[:16] }

// etc is where what belongs to Pintle alone is on a node.
const etc = "/etc/pintle"

var (
	imageName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._/:@-]*$`)
	nameLabel = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	noLabel   = regexp.MustCompile(`[^a-z0-9]+`)
	// RBAC takes any text as a user; these are the ones that certificates and tokens have.
	apiUser = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9:._@/-]*$`)
)

// fillPod is fill for what has an image.
func (k *Kube) fillPod() error {
	if k.Image == "" {
		return errors.New("no image")
	}
	return k.fill()
}

// fill sets the defaults and refuses what no manifest may hold.
func (k *Kube) fill() error {
	k.Instance, k.Namespace = cmp.Or(k.Instance, "default"), k.namespace()
	k.RunDir = cmp.Or(k.RunDir, "/run/pintle")
	switch {
	case k.Image != "" && !imageName.MatchString(k.Image):
		return fmt.Errorf("image %q: not the name of an image", k.Image)
	case !instanceName.MatchString(k.Instance):
		return fmt.Errorf("instance %q: not a name (up to 31 of a-z, 0-9 and -)", k.Instance)
	case !nameLabel.MatchString(k.Namespace):
		return fmt.Errorf("namespace %q: not a name (up to 63 of a-z, 0-9 and -)", k.Namespace)
	case k.User != "" && !apiUser.MatchString(k.User):
		return fmt.Errorf("user %q: not the name of a user", k.User)
	}
	return k.checkPaths()
}

func (k *Kube) checkPaths() error {
	for _, f := range slices.Concat(k.Files, k.Secrets) {
		if err := plainPath("file", f); err != nil {
			return err
		}
		if name := path.Base(f); name == "ca.key" || strings.HasSuffix(name, "-ca.key") || name == "sa.key" {
			return fmt.Errorf("file %q: is the key of a CA: Pintle needs the certificate of the CA and a pair of its own", f)
		}
	}
	for _, d := range []string{k.RunDir, k.StateDir} {
		if d == "" {
			continue
		}
		if err := plainPath("directory", d); err != nil {
			return err
		}
	}
	return nil
}

// A volume is a part of the node that the pod sees, at the same path.
type volume struct {
	Path, Type string
	Writable   bool
}

// Name is what the volume is called: its path, in the letters that Kubernetes takes.
func (v volume) Name() string {
	name := strings.Trim(noLabel.ReplaceAllString(strings.ToLower(v.Path), "-"), "-")
	if len(name) > 63 {
		return fmt.Sprintf("%s-%.8x", name[:46], sha256.Sum256([]byte(v.Path)))
	}
	return name
}

// volumes are the files and directories that are not below etc, each file alone. A file that is replaced by another
// of its name is seen after a restart only; kubeadm writes into the one that is there.
func (k Kube) volumes() []volume {
	var out []volume
	for _, f := range slices.Compact(slices.Sorted(slices.Values(k.Files))) {
		if !strings.HasPrefix(f, etc+"/") && !strings.HasPrefix(f, serviceToken+"/") {
			out = append(out, volume{Path: f, Type: "File"})
		}
	}
	if k.StateDir != "" {
		out = append(out, volume{Path: k.StateDir, Type: "DirectoryOrCreate", Writable: true})
	}
	return append(out, volume{Path: k.RunDir, Type: "DirectoryOrCreate", Writable: true})
}

// podView is what the templates of pods read.
type podView struct {
	Kube
	ConfigPath string
	ConfigMap  string // empty if the configuration is on the node
	SecretDir  string // where the Secret is mounted; empty if there is none
	Volumes    []volume
}

// poolView is what the template of a pool reads.
type poolView struct {
	Pool
	Routers bool
}

// rightsView is what the template of the rights reads.
type rightsView struct {
	Kube
	Roles []role
}

// NodeLeases is the namespace in which each node has a Lease; "" if it asks for no more than one Lease by its name.
func (v rightsView) NodeLeases() string {
	for _, r := range v.Rules {
		if r.Resource == "leases" && r.Name == "" {
			return r.Namespace
		}
	}
	return ""
}

//go:embed templates/*.yaml.tmpl
var templateFiles embed.FS

var templates = template.Must(template.New("").Funcs(functions).ParseFS(templateFiles, "templates/*.yaml.tmpl"))

// Spec is what static pods and those of a DaemonSet have in common.
func (v podView) Spec() (string, error) {
	out, err := render("spec.yaml.tmpl", v)
	return string(out), err
}

func render(name string, data any) ([]byte, error) {
	var out bytes.Buffer
	if err := templates.ExecuteTemplate(&out, name, data); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
