// Package kubevip reads the manifests of kube-vip, another keeper of addresses, and says what Pintle makes of them.
//
// manifest.go finds the container and its settings, settings.go knows each of them, draft.go is the configuration
// that comes of it, and pools.go makes pools of the cloud provider's ConfigMap. What has no equivalent is told, setting
// by setting; nothing is dropped in silence.
package kubevip

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/pintle-lb/pintle/internal/service/pintlev1"
	"github.com/pintle-lb/pintle/manifests"
)

// A Note is a setting that has no equivalent, or another meaning with Pintle.
type Note struct {
	Name  string // as it stands in the manifest
	Value string
	Text  string // why, and what to do
}

func (n Note) String() string {
	if n.Value == "" {
		return n.Name + ": " + n.Text
	}
	return n.Name + ": " + n.Value + ": " + n.Text
}

// A Result is what Pintle makes of a kube-vip: a configuration for the address of a control plane, or else what Services
// need, each as far as there is something to say.
type Result struct {
	Plane  []byte // a configuration
	Pools  []byte // AddressPools, for kubectl
	Config []byte // the configuration of the nodes that serve Services
}

// Import reads a manifest of kube-vip, a Pod or a DaemonSet, or the ConfigMap of its cloud provider, alone, among other
// documents or in a List. It names madeBy in what it writes. The notes say what there is to say of the settings. They are
// good also if there is nothing to be had, and the error says why.
func Import(manifest []byte, madeBy string) (out Result, notes []Note, err error) {
	objects, err := decode(manifest)
	if err != nil {
		return out, nil, fmt.Errorf("%w; %s", err, want)
	}
	pools, err := poolMap(objects)
	if err != nil {
		return out, nil, err
	}
	w, err := find(objects)
	d := draft{}
	switch {
	case err != nil && (pools == nil || w.kind != ""): // nothing, or several
		return out, nil, err
	case err != nil:
		d.provider(objects)
		d.note(setting{name: "announce"}, "pools are announced by ARP and neighbour discovery: for routers, announce: [bgp], and section bgp of the configuration of `pintle manifest services`")
		out.Pools, err = d.pools(pools, ways{announce: []string{pintlev1.AnnounceARP}}, madeBy)
		return out, d.notes, err
	}
	d.plane.MadeBy = madeBy
	d.routed.table = manifests.Table{Number: usualTable, Protocol: usualProtocol}
	all := d.effective(w.settings())
	d.mode, d.only = modeOf(all), servesOnly(all)
	d.static = w.kind == "Pod" && !d.only // what serves Services has one configuration for all nodes
	for _, s := range all {
		d.use(s)
	}
	if d.only {
		out, err = d.serve(objects, pools, madeBy)
		return out, d.notes, err
	}
	d.surroundings(w)
	if pools != nil {
		d.note(setting{name: "ConfigMap"}, "its pools are no part of this configuration: import it from a file of its own, and AddressPools come of it")
	}
	out.Plane, err = d.config()
	return out, d.notes, err
}

// object is of any object of Kubernetes what is looked at here.
type object struct {
	Kind  string
	Items []object
	Data  any // of a ConfigMap
	Spec  struct {
		Containers []container
		Volumes    []hostVolume
		Template   struct {
			Spec struct {
				Containers []container
				Volumes    []hostVolume
			}
		}
	}
}

// containers are those of a pod, or of the pods that an object makes.
func (o object) containers() []container {
	return slices.Concat(o.Spec.Containers, o.Spec.Template.Spec.Containers)
}

// paths are those of the host that it mounts.
func (o object) paths() []string {
	var out []string
	for _, v := range slices.Concat(o.Spec.Volumes, o.Spec.Template.Spec.Volumes) {
		if v.HostPath.Path != "" {
			out = append(out, v.HostPath.Path)
		}
	}
	return out
}

type hostVolume struct {
	HostPath struct{ Path string } `yaml:"hostPath"`
}

type container struct {
	Name, Image   string
	Command, Args []string
	Env           []variable
	EnvFrom       []source `yaml:"envFrom"`
}

type variable struct {
	Name      string
	Value     any
	ValueFrom *struct {
		FieldRef struct {
			FieldPath string `yaml:"fieldPath"`
		} `yaml:"fieldRef"`
		ConfigMapKeyRef keyRef `yaml:"configMapKeyRef"`
		SecretKeyRef    keyRef `yaml:"secretKeyRef"`
	} `yaml:"valueFrom"`
}

type keyRef struct{ Name, Key string }

type source struct {
	ConfigMapRef struct{ Name string } `yaml:"configMapRef"`
	SecretRef    struct{ Name string } `yaml:"secretRef"`
}

// A workload is kube-vip as a manifest runs it.
type workload struct {
	kind      string
	container container
	paths     []string // of the host
}

// find returns the one workload that runs kube-vip; if there are several, one of them with an error.
func find(objects []object) (workload, error) {
	var found []workload
	var others []string
	for _, o := range objects {
		others = append(others, o.describe())
		for _, c := range o.containers() {
			if c.isKubeVIP() {
				found = append(found, workload{kind: o.Kind, container: c, paths: o.paths()})
			}
		}
	}
	return only(found, others)
}

const want = "want a static pod of kube-vip (often /etc/kubernetes/manifests/kube-vip.yaml) or its DaemonSet, or the ConfigMap kubevip of its cloud provider"

// only is the one that was found; of the others it is said what they are.
func only(found []workload, others []string) (workload, error) {
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return found[0], fmt.Errorf("there are %d containers of kube-vip: import them one at a time, each from a file of its own", len(found))
	case len(others) == 0:
		return workload{}, errors.New("there is no object in it: " + want)
	}
	return workload{}, fmt.Errorf("no kube-vip in it, but %s: %s", strings.Join(slices.Compact(slices.Sorted(slices.Values(others))), ", "), want)
}

// divider begins a document (YAML 1.2, 9.2).
var divider = regexp.MustCompile(`(?m)^---(\s|$)`)

// decode reads all documents, and what Lists hold. The parser takes one at a time: an empty one ends it.
func decode(manifest []byte) ([]object, error) {
	var out []object
	begin := 0
	for _, at := range append(divider.FindAllIndex(manifest, -1), []int{len(manifest), len(manifest)}) {
		// Empty lines in the place of what was before: so errors name the right one.
		var o object
		doc := slices.Concat(bytes.Repeat([]byte("\n"), bytes.Count(manifest[:begin], []byte("\n"))), manifest[begin:at[0]])
		if err := unmarshal(doc, &o); err != nil {
			return nil, fmt.Errorf("no manifest of Kubernetes: %s", yaml.FormatError(err, false, false))
		}
		if begin = at[1]; len(o.Items) > 0 {
			out = append(out, o.Items...)
		} else if o.Kind != "" {
			out = append(out, o)
		}
	}
	return out, nil
}

// unmarshal refuses what the decoder panics on: a tag in the place of a list.
func unmarshal(doc []byte, o *object) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("a tag (!) is where a value should be")
		}
	}()
	return yaml.Unmarshal(doc, o)
}

// describe is what an object is that is not kube-vip.
func (o object) describe() string {
	kind := o.Kind
	for _, c := range o.containers() {
		if isProvider(c) {
			return "kube-vip's cloud provider, which keeps no address itself"
		}
		kind += " of " + c.Image
	}
	return kind
}

// isKubeVIP tells by the image or by the program.
func (c container) isKubeVIP() bool {
	image, _, _ := strings.Cut(path.Base(c.Image), "@")
	image, _, _ = strings.Cut(image, ":")
	return image == "kube-vip" || image == "kube-vip-iptables" || len(c.Command) > 0 && path.Base(c.Command[0]) == "kube-vip"
}

// A setting is a variable or a flag as it stands in the manifest. From says where its value is, if not there.
type setting struct {
	name, value, from string
	flag              bool
}

// settings are all settings, flags first: kube-vip reads the variables after them.
func (w workload) settings() []setting {
	out := flagSettings(slices.Concat(w.container.Command, w.container.Args))
	for _, v := range w.container.Env {
		if v.Name == "" {
			continue // no API server takes it
		}
		s := setting{name: v.Name, from: v.from()}
		if v.Value != nil {
			s.value = strings.TrimSpace(fmt.Sprint(v.Value))
		}
		out = append(out, s)
	}
	return out
}

// from says where the cluster has a value.
func (v variable) from() string {
	switch f := v.ValueFrom; {
	case f == nil:
		return ""
	case f.FieldRef.FieldPath != "":
		return f.FieldRef.FieldPath
	case f.ConfigMapKeyRef.Name != "":
		return "ConfigMap " + f.ConfigMapKeyRef.Name + ", key " + f.ConfigMapKeyRef.Key
	case f.SecretKeyRef.Name != "":
		return "Secret " + f.SecretKeyRef.Name + ", key " + f.SecretKeyRef.Key
	}
	return "another place"
}

// flagSettings reads flags as kube-vip does: --name=value, --name value, and -n for the namespace. What is no flag is
// the program and its command.
func flagSettings(args []string) []setting {
	var out []setting
	for i := 0; i < len(args); i++ {
		if !strings.HasPrefix(args[i], "-") || len(args[i]) < 2 {
			continue
		}
		name, value, has := strings.Cut(args[i], "=")
		if !has {
			switch next := i + 1; {
			case isSwitch(name):
				value = "true"
			case next < len(args) && !strings.HasPrefix(args[next], "-"):
				value, i = args[next], next
			}
		}
		out = append(out, setting{name: name, value: value, flag: true})
	}
	return out
}
