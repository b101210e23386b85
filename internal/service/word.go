package service

import (
	"encoding/json"
	"net/netip"
	"path"
	"slices"
)

// A Word is what a node says of itself in its Lease: what decides whether addresses may be placed on it.
type Word struct {
	Unfit   string `json:"unfit,omitempty"`   // why it can serve nobody now; "" when it can
	Leaving bool   `json:"leaving,omitempty"` // it is to stop: its addresses are to move
	Links   []Link `json:"links,omitempty"`   // that it can announce on
	Version string `json:"version,omitempty"` // of its build
}

// A Link is a link of a node, with its subnets.
type Link struct {
	Name    string         `json:"name"`
	Subnets []netip.Prefix `json:"subnets,omitempty"`
	Default bool           `json:"default,omitempty"` // a default route leads over it
}

// text is the Word as a Lease carries it.
func (w Word) text() string {
	b, err := json.Marshal(w)
	if err != nil {
		panic("marshal a word: " + err.Error()) // strings only
	}
	return string(b)
}

// wordOf reads what a node said; nothing makes it unfit.
func wordOf(text string) Word {
	w := Word{}
	if json.Unmarshal([]byte(text), &w) != nil || text == "" {
		return Word{Unfit: "it says nothing of itself yet"}
	}
	return w
}

// links are those of the node that an address is announced on: those that its pool names, or else those that have its subnet,
// or else those that a default route leads over: a router there may send packets for the address to this link.
func (w Word) links(addr netip.Addr, patterns []string) []string {
	var named, near, far []string
	for _, l := range w.Links {
		switch {
		case slices.ContainsFunc(patterns, func(p string) bool { ok, err := path.Match(p, l.Name); return ok && err == nil }):
			named = append(named, l.Name)
		case slices.ContainsFunc(l.Subnets, func(p netip.Prefix) bool { return p.Contains(addr) }):
			near = append(near, l.Name)
		case l.Default:
			far = append(far, l.Name)
		}
	}
	switch {
	case len(patterns) > 0:
		return named
	case len(near) > 0:
		return near
	}
	return far
}
