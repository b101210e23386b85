package service

import (
	"encoding/json"
	"fmt"
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

// A Lease carries at most 4 KiB of what a node says of itself (leader.Kube.Note), in JSON: so much of it may be links, and why the node
// is unfit.
const (
	mostLinks = 3 << 10
	mostUnfit = 768
)

// fitting are the links of which a node can tell the others: those with a default route, and as many of the others as there is room for.
func fitting(links []Link) []Link {
	room := mostLinks
	fits := map[string]bool{}
	for _, first := range []bool{true, false} {
		for _, l := range links {
			if l.Default == first {
				room -= len(jsonOf(l)) + 1
				fits[l.Name] = room >= 0
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(links), func(l Link) bool { return !fits[l.Name] })
}

// shortened is a text, or its beginning, that takes at most so many bytes of JSON.
func shortened(text string, most int) string {
	if len(jsonOf(text)) <= most {
		return text
	}
	const more = " ..."
	for len(jsonOf(text)) > most-len(more) {
		text = text[:len(text)*3/4]
	}
	return text + more
}

// text is the Word as a Lease carries it.
func (w Word) text() string { return jsonOf(w) }

// jsonOf is what is made of numbers and strings, in JSON.
func jsonOf(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("marshal %T: %v", v, err))
	}
	return string(text)
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
