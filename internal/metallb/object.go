package metallb

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// An object is one of Kubernetes.
type object struct {
	file, group, kind, namespace, name string
	labels                             map[string]string
	all                                yaml.MapSlice
}

func (o object) place() string {
	if o.name == "" {
		return o.kind
	}
	return o.kind + "/" + o.name
}

// A reader takes an object over. Those of a lower rank come first: others name them.
type reader struct {
	rank int
	read func(d *draft, o object)
}

const lastRank = 3

// readers are for the kinds of MetalLB's own group.
var readers = map[string]reader{
	"Community":         {0, (*draft).readCommunity},
	"BFDProfile":        {0, (*draft).readProfile},
	"IPAddressPool":     {1, (*draft).readPool},
	"AddressPool":       {1, (*draft).readPool}, // before v0.13.2, and in it
	"L2Advertisement":   {2, (*draft).readL2},
	"BGPAdvertisement":  {2, (*draft).readBGP},
	"BGPPeer":           {3, (*draft).readPeer},
	"OSPFAdvertisement": {3, tell("Pintle speaks no OSPF: announce the pool by BGP, or leave its addresses to MetalLB")},
	"OSPFInstance":      {3, tell("Pintle speaks no OSPF: announce pools by BGP, or leave their addresses to MetalLB")},
}

// tell is a reader that only says something.
func tell(text string) func(d *draft, o object) {
	return func(d *draft, o object) { d.add(Note{File: o.file, Place: o.place(), Text: text}) }
}

const rawFRR = "is configuration of FRR, which Pintle does not have: it speaks BGP itself, and takes no routes from anybody"

// reader is who takes the object over; nil if it is none of MetalLB's.
func (o object) reader() *reader {
	say := func(text string) *reader { return &reader{lastRank, tell(text)} }
	switch {
	case o.group == "metallb.io" || o.group == "" && o.kind != "ConfigMap":
		if r, ok := readers[o.kind]; ok {
			return &r
		}
		if o.group != "" && !strings.HasSuffix(o.kind, "Status") && !strings.HasSuffix(o.kind, "State") {
			return say("is not known here: look it up in MetalLB's documentation, and whether Pintle has the like")
		}
	case o.group == "frrk8s.metallb.io" && o.kind == "FRRConfiguration":
		return say(rawFRR)
	case o.kind == "ConfigMap":
		return o.configMap(say)
	}
	if o.lbClass() != "" {
		return &reader{lastRank, (*draft).readClass}
	}
	return nil
}

// configMap is for the ConfigMaps that MetalLB reads, or read.
func (o object) configMap(say func(string) *reader) *reader {
	data, _ := lookUp(o.all, "data").(yaml.MapSlice)
	switch text, _ := lookUp(data, "config").(string); {
	case strings.Contains(text, "address-pools") || strings.Contains(text, "peer-address"):
		return &reader{1, (*draft).readLegacy}
	case o.name == "bgpextras":
		return say(rawFRR)
	case lookUp(data, "excludel2.yaml") != nil:
		return say("Pintle answers on the link that has the subnet of the address, or on the links of the pool: there is nothing to exclude")
	}
	return nil
}

// lbClass is the loadBalancerClass in the arguments of MetalLB's own pods.
func (o object) lbClass() string {
	spec, _ := lookUp(o.all, "spec").(yaml.MapSlice)
	template, _ := lookUp(spec, "template").(yaml.MapSlice)
	spec, _ = lookUp(template, "spec").(yaml.MapSlice)
	containers, _ := lookUp(spec, "containers").([]any)
	for _, c := range containers {
		c, _ := c.(yaml.MapSlice)
		if image, _ := lookUp(c, "image").(string); !strings.Contains(image, "metallb") {
			continue
		}
		args, _ := lookUp(c, "args").([]any)
		for _, a := range args {
			if class, ok := strings.CutPrefix(strings.TrimLeft(show(a), "-"), "lb-class="); ok {
				return class
			}
		}
	}
	return ""
}

func (d *draft) readClass(o object) {
	class := o.lbClass()
	if d.class != "" && d.class != class {
		d.add(Note{o.file, o.place(), "--lb-class", class, "services.class is " + d.class + ", as another object says"})
		return
	}
	if d.class == "" {
		d.add(Note{o.file, o.place(), "--lb-class", class, "is services.class now, and services.unclassed is false: Pintle serves these " +
			"Services and no others, as MetalLB did"})
	}
	d.class = class
}

// lookUp finds a key of a mapping; nil if it is not there.
func lookUp(m yaml.MapSlice, key string) any {
	for _, i := range m {
		if k, ok := i.Key.(string); ok && k == key {
			return i.Value
		}
	}
	return nil
}

// divider begins a document (YAML 1.2, 9.2).
var divider = regexp.MustCompile(`(?m)^---(\s|$)`)

// decode reads all documents, and what Lists hold. The parser takes one at a time: an empty one ends it.
func decode(s Source) ([]object, error) {
	var out []object
	begin := 0
	for _, at := range append(divider.FindAllIndex(s.Data, -1), []int{len(s.Data), len(s.Data)}) {
		// Empty lines in the place of what was before: so errors name the right one.
		doc := slices.Concat(bytes.Repeat([]byte("\n"), bytes.Count(s.Data[:begin], []byte("\n"))), s.Data[begin:at[0]])
		v, err := parse(doc)
		if err != nil {
			return nil, fmt.Errorf("%s: no objects of Kubernetes: %w; %s", s.Name, err, want)
		}
		begin = at[1]
		out = append(out, unfold(s.Name, v)...)
	}
	return out, nil
}

// parse reads one document, and refuses what the parser panics on.
func parse(doc []byte) (v any, err error) {
	defer func() {
		if p := recover(); p != nil {
			v, err = nil, errors.New("a tag (!) is where a value should be")
		}
	}()
	if err := yaml.UnmarshalWithOptions(doc, &v, yaml.UseOrderedMap()); err != nil {
		return nil, errors.New(yaml.FormatError(err, false, false))
	}
	if v != nil {
		if _, ok := v.(yaml.MapSlice); !ok {
			return nil, errors.New("it is a text or a list, not an object")
		}
	}
	return v, nil
}

// unfold is an object, or those of a List.
func unfold(file string, v any) []object {
	m, _ := v.(yaml.MapSlice)
	if items, ok := lookUp(m, "items").([]any); ok {
		var out []object
		for _, i := range items {
			out = append(out, unfold(file, i)...)
		}
		return out
	}
	kind, _ := lookUp(m, "kind").(string)
	if kind == "" {
		return nil
	}
	o := object{file: file, kind: kind, all: m, labels: map[string]string{}}
	version, _ := lookUp(m, "apiVersion").(string)
	if group, _, ok := strings.Cut(version, "/"); ok {
		o.group = group
	}
	meta, _ := lookUp(m, "metadata").(yaml.MapSlice)
	o.name, o.namespace = show(lookUp(meta, "name")), show(lookUp(meta, "namespace"))
	labels, _ := lookUp(meta, "labels").(yaml.MapSlice)
	for _, l := range labels {
		o.labels[show(l.Key)] = show(l.Value)
	}
	return []object{o}
}
