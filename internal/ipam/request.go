package ipam

import (
	"fmt"
	"net/netip"
	"slices"
)

// A Family is that of an address. The zero value is none.
type Family uint8

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf returns the family of an address, 0 for the zero address. An IPv4 address written as IPv6 is IPv6.
func FamilyOf(a netip.Addr) Family {
	switch {
	case a.Is4():
		return IPv4
	case a.Is6():
		return IPv6
	}
	return 0
}

// String returns the family as Kubernetes spells it.
func (f Family) String() string { return fmt.Sprintf("IPv%d", uint8(f)) }

// A Policy is how many families a Service is to have: spec.ipFamilyPolicy.
type Policy uint8

// The policies.
const (
	SingleStack      Policy = iota // the first of its families
	PreferDualStack                // as many of its families as can be had, at least one
	RequireDualStack               // all its families or nothing
)

// A Key names a Service.
type Key struct{ Namespace, Name string }

// String returns "namespace/name".
func (k Key) String() string { return k.Namespace + "/" + k.Name }

// A Port is one that a Service listens on.
type Port struct {
	Protocol string // TCP, UDP or SCTP
	Number   uint16
}

// String returns "TCP 80".
func (p Port) String() string { return fmt.Sprintf("%s %d", p.Protocol, p.Number) }

// A User is a Service as one that has an address, perhaps together with others. Two may share one if they have the same share
// key, no port in common, and the same Backends.
type User struct {
	Service  Key
	UID      string // which one of that name
	ShareKey string // "" shares with nobody
	Ports    []Port
	Backends string // what the Service selects, if only nodes with such Pods may have its address (externalTrafficPolicy Local); else ""
}

func (u *User) is(svc Key, uid string) bool { return u.Service == svc && u.UID == uid }

func (u *User) equal(other *User) bool {
	return u.is(other.Service, other.UID) && u.ShareKey == other.ShareKey && u.Backends == other.Backends && slices.Equal(u.Ports, other.Ports)
}

// clash says why u cannot have an address beside other, in words that follow the address; "" if it can.
func (u *User) clash(other *User) string {
	switch {
	case u.Service == other.Service:
		return fmt.Sprintf("is still with the former Service %s", other.Service)
	case other.ShareKey == "":
		return fmt.Sprintf("is in use by %s, which has no share key", other.Service)
	case u.ShareKey == "":
		return fmt.Sprintf("is in use by %s, and this Service has no share key", other.Service)
	case u.ShareKey != other.ShareKey:
		return fmt.Sprintf("is in use by %s with another share key, %q", other.Service, other.ShareKey)
	}
	for _, p := range u.Ports {
		if slices.Contains(other.Ports, p) {
			return fmt.Sprintf("is in use by %s, which has %s too", other.Service, p)
		}
	}
	if u.Backends != other.Backends {
		return fmt.Sprintf("is in use by %s, and with externalTrafficPolicy Local both need the same selector", other.Service)
	}
	return ""
}

// A Holding is an address in use. Of users that may not share it the first stays.
type Holding struct {
	Addr  netip.Addr
	Pool  string // where it came from
	Users []User // none: it is being given back, and nobody can have it yet
}

// MostUsers is how many Services may share an address: the object of the address has no room for more (the CRD of addresses).
const MostUsers = 1024

// With returns h with the user: in the place it has, or at the end. h is unchanged.
func (h Holding) With(u User) Holding {
	h.Users = slices.Clone(h.Users)
	if i := h.index(u.Service, u.UID); i >= 0 {
		h.Users[i] = u
	} else {
		h.Users = append(h.Users, u)
	}
	return h
}

// Without returns h without the user. h is unchanged.
func (h Holding) Without(svc Key, uid string) Holding {
	h.Users = slices.DeleteFunc(slices.Clone(h.Users), func(u User) bool { return u.is(svc, uid) })
	return h
}

func (h Holding) index(svc Key, uid string) int {
	return slices.IndexFunc(h.Users, func(u User) bool { return u.is(svc, uid) })
}

// A Request is a Service as one that is to have addresses: at most one of each family.
type Request struct {
	User
	Labels          map[string]string
	NamespaceLabels map[string]string
	Families        []Family // in order, as the Service has them (spec.ipFamilies)
	Policy          Policy
	Pool            string       // asked for by name; "" for any
	Addresses       []netip.Addr // asked for; a family that has none here gets any
	Shown           []netip.Addr // what people were told: of two that it has, by a mishap, this stays
}

// wanted returns the families that addresses are looked for.
func (r *Request) wanted() (families []Family) {
	for _, f := range r.Families {
		if (f == IPv4 || f == IPv6) && !slices.Contains(families, f) {
			families = append(families, f)
		}
	}
	if r.Policy == SingleStack && len(families) > 1 {
		families = families[:1]
	}
	return families
}
