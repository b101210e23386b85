// Package metallb reads the objects of MetalLB, another keeper of addresses of Services, and says what Pintle makes of them:
// pools, for the cluster, and routers, for the configuration.
//
// object.go finds the objects, fields.go reads their settings one by one, pools.go and advert.go make pools, peers.go makes
// routers, and config.go writes the configuration. What has no equivalent is told, setting by setting; nothing is dropped in
// silence.
package metallb

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pintle-lb/pintle/internal/poolfile"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

// A Source is a file with objects: documents of YAML, or JSON, or a List.
type Source struct {
	Name string // for notes
	Data []byte
}

// A Note is a setting that has no equivalent, or another meaning with Pintle.
type Note struct {
	File  string // a Source's name
	Place string // of the object: BGPPeer/tor1
	Path  string // of the setting: spec.vrf
	Value string // as it stands there, but never a password
	Text  string // why, and what to do
}

// String is one line, without the file: place: path: value: text. What is empty is left out.
func (n Note) String() string {
	var parts []string
	for _, p := range []string{n.Place, n.Path, n.Value, n.Text} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, strings.Join(parts, ": "))
}

// A Result is what Pintle makes of MetalLB's objects.
type Result struct {
	Pools  []byte // AddressPools, for kubectl; empty if there are none
	Config []byte // the configuration of Pintle for Services
	Needed bool   // Config says more than what is so anyway
}

// Import reads all sources as one cluster's objects. It names madeBy in what it writes. The notes are good also if there is
// neither pool nor configuration to be had, and the error says why.
func Import(sources []Source, madeBy string) (Result, []Note, error) {
	d := &draft{aliases: map[string]string{}, profiles: map[string]*profile{}}
	var others []string
	var wanted []object
	for _, s := range sources {
		objects, err := decode(s)
		if err != nil {
			return Result{}, d.notes, err
		}
		for _, o := range objects {
			if o.reader() == nil {
				others = append(others, o.kind)
				continue
			}
			wanted = append(wanted, o)
		}
	}
	if len(wanted) == 0 {
		return Result{}, nil, nothing(others)
	}
	d.read(wanted)
	r, err := d.result(madeBy)
	return r, d.notes, err
}

const want = "want IPAddressPools and what belongs to them, as from: kubectl -n metallb-system get " +
	"ipaddresspools,l2advertisements,bgpadvertisements,bgppeers,bfdprofiles,communities -o yaml"

func nothing(others []string) error {
	if len(others) == 0 {
		return errors.New("there is no object in it: " + want)
	}
	return fmt.Errorf("nothing of MetalLB in it, but %s: %s", strings.Join(slices.Compact(slices.Sorted(slices.Values(others))), ", "), want)
}

// A draft is what was read so far.
type draft struct {
	notes    []Note
	aliases  map[string]string // of communities
	profiles map[string]*profile
	pools    []*pool
	adverts  []*advert
	peers    []peer
	seen     []string // places of objects
	class    string   // loadBalancerClass, if only that is served
}

// mostShown is how much of a value is shown.
const mostShown = 160

func (d *draft) add(n Note) {
	if short := []rune(n.Value); len(short) > mostShown {
		n.Value = string(short[:mostShown]) + "..."
	}
	d.notes = append(d.notes, n)
}

// read reads all objects: first those that others name.
func (d *draft) read(objects []object) {
	for rank := range lastRank + 1 {
		for _, o := range objects {
			if r := o.reader(); r.rank == rank && d.first(o) {
				r.read(d, o)
			}
		}
	}
}

// first reports whether there was no such object before.
func (d *draft) first(o object) bool {
	id := o.kind + "/" + o.namespace + "/" + o.name
	if slices.Contains(d.seen, id) {
		d.add(Note{File: o.file, Place: o.place(), Text: "is there twice: the first one is taken"})
		return false
	}
	d.seen = append(d.seen, id)
	return true
}

// result writes what was read.
func (d *draft) result(madeBy string) (r Result, err error) {
	madeBy = strings.Map(printable, madeBy)
	d.settle()
	var pools []pintlev1.AddressPool
	for _, p := range d.pools {
		pools = append(pools, p.out)
	}
	r.Config, r.Needed = d.config(madeBy), len(d.peers) > 0 || d.class != ""
	if len(pools) == 0 {
		if !r.Needed {
			return Result{}, errors.New("no pool and no router came of it: " + want)
		}
		return r, nil
	}
	r.Pools, err = poolfile.Write(poolfile.Comments(madeBy), pools)
	return r, err
}
