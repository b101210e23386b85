package config

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
)

func (c *Config) keys() []key {
	keys := []key{
		{"apiVersion", version()},
		{"instance", word(&c.Instance, checkInstance)},
		{"node", word(&c.Node, checkNode)},
		{"addresses", items(&c.Addresses, Address{Link: []string{Auto}}, (*Address).keys)},
		{"announce", enums(&c.Announce, AnnounceARP, AnnounceBGP, AnnounceTable)},
		{"bind", enum(&c.Bind, BindHolder, BindReady)},
		{"linger", duration(&c.Linger, 0, MaxLinger)},
		{"election", enum(&c.Election, ElectionRaft, ElectionLease, ElectionNone)},
		{"raft", section(c.Raft.keys())},
		{"lease", section(c.Lease.keys())},
		{"bgp", section(c.BGP.keys())},
		{"table", section(c.Table.keys())},
		{"services", c.services()},
		{"kubernetes", section(c.Kubernetes.keys())},
		{"health", items(&c.Health, Health{Interval: time.Second, Rise: 2, Fall: 3}, (*Health).keys)},
		{"holdDown", duration(&c.HoldDown, time.Second, time.Hour)},
		{"server", section(c.Server.keys(c.statusPort()))},
		{"log", section(c.Log.keys())},
	}
	for i, k := range keys { // what applies can be said only when all has been read
		keys[i].value = omitted(k.value, func() bool { return !c.applies(k.name) })
	}
	return keys
}

func (a *Address) keys() []key {
	return []key{
		{"address", scalar(&a.Address, text, parseAddress, func(a netip.Addr) any { return a.String() })},
		{"link", wordOrWords(&a.Link, checkLink)},
	}
}

func (r *Raft) keys() []key {
	return []key{
		{"profile", enum(&r.Profile, ProfileFast, ProfileDefault, ProfileWAN)},
		{"listen", listen(&r.Listen, DefaultPort, false)},
		{"bootstrap", word(&r.Bootstrap, func(string) error { return nil })},
		{"alone", flag(&r.Alone)},
		{"stateDir", word(&r.StateDir, absolute)},
		{"realtime", enum(&r.Realtime, RealtimeAuto, RealtimeOff, RealtimeRequire)},
		{"tls", section(r.TLS.keys())},
		{"peers", items(&r.Peers, Peer{Role: RoleVoter, Candidate: true}, (*Peer).keys)},
	}
}

func (t *TLS) keys() []key {
	return []key{{"ca", word(&t.CA, absolute)}, {"cert", word(&t.Cert, absolute)}, {"key", word(&t.Key, absolute)}}
}

func (p *Peer) keys() []key {
	return []key{
		{"name", word(&p.Name, checkNode)},
		{"address", scalar(&p.Address, text, parsePeer, func(a netip.AddrPort) any { return a.String() })},
		{"role", enum(&p.Role, RoleVoter, RoleWitness)},
		{"priority", count(&p.Priority, 0, 255)},
		{"candidate", flag(&p.Candidate)},
	}
}

func (h *Health) keys() []key {
	return []key{
		{"name", word(&h.Name, checkName)},
		{"tcp", word(&h.TCP, checkTCP)},
		{"http", word(&h.HTTP, checkURL)},
		{"command", words(&h.Command, func(string) error { return nil })},
		{"ca", word(&h.CA, absolute)},
		{"cert", word(&h.Cert, absolute)},
		{"key", word(&h.Key, absolute)},
		{"serverName", word(&h.ServerName, filled)},
		{"interval", duration(&h.Interval, 100*time.Millisecond, time.Hour)},
		{"timeout", duration(&h.Timeout, 10*time.Millisecond, time.Hour)},
		{"rise", count(&h.Rise, 1, 100)},
		{"fall", count(&h.Fall, 1, 100)},
	}
}

func (s *Server) keys(port uint16) []key {
	return []key{{"listen", listen(&s.Listen, port, true)}, {"runDir", word(&s.RunDir, absolute)}}
}

func (l *Log) keys() []key {
	return []key{
		{"level", scalar(&l.Level, text, parseLevel, func(l slog.Level) any { return strings.ToLower(l.String()) })},
		{"format", enum(&l.Format, "text", "json")},
	}
}

func version() value {
	var v string
	return scalar(&v, text, func(s string) (string, error) {
		if s != APIVersion {
			return "", refuse("write "+APIVersion, "not a version that this Pintle reads")
		}
		return s, nil
	}, func(string) any { return APIVersion })
}

func parseLevel(s string) (l slog.Level, err error) {
	switch s {
	case "debug", "info", "warn", "error":
		return l, l.UnmarshalText([]byte(s))
	}
	return l, refuse("one of debug, info, warn, error", "not known here")
}

// parseAddress reads an address that may be shared: one that any host of its network could have.
func parseAddress(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		if a, err = parseHostPrefix(s); err != nil {
			return netip.Addr{}, err
		}
	}
	if err := plainIP(a); err != nil {
		return netip.Addr{}, err
	}
	for _, no := range []struct {
		is   bool
		what string
	}{
		{a.IsUnspecified(), "the unspecified address"},
		{a.IsLoopback(), "a loopback address"},
		{a.IsMulticast(), "a multicast address"},
		{a.IsLinkLocalUnicast(), "a link-local address"},
		{a == netip.AddrFrom4([4]byte{255, 255, 255, 255}), "the broadcast address"},
		{a.Is4() && a.As4()[0] == 0, "an address of no host"},
	} {
		if no.is {
			return netip.Addr{}, refuse("choose a free address of the machines' network", "is %s", no.what)
		}
	}
	return a, nil
}

func parseHostPrefix(s string) (netip.Addr, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Addr{}, refuse("write it as 192.0.2.10 or 2001:db8::10", "not an IP address")
	}
	if !p.IsSingleIP() {
		return netip.Addr{}, refuse("write "+p.Addr().String()+": the subnet stays with the machines' own addresses",
			"has the prefix length %d, want %d", p.Bits(), p.Addr().BitLen())
	}
	return p.Addr(), nil
}

func parsePeer(s string) (netip.AddrPort, error) {
	a, err := parseAddrPort(s, DefaultPort)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if ip := a.Addr(); ip.IsUnspecified() || ip.IsMulticast() || ip.IsLinkLocalUnicast() {
		return netip.AddrPort{}, refuse("write the address by which the other nodes reach it", "is no address of one node")
	}
	return a, nil
}

var (
	instanceName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,30}$`)
	checkedName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,62}$`)
	nodeName     = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?)*$`)
)

func checkInstance(s string) error {
	if !instanceName.MatchString(s) {
		return refuse("up to 31 of a-z, 0-9 and -, the first no -", "not a name")
	}
	return nil
}

// checkNode accepts what can stand in a certificate as a host's name.
func checkNode(s string) error {
	if s == "" {
		return nil // not given
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return refuse("give the node a name", "is an address")
	}
	if len(s) > 253 || !nodeName.MatchString(s) {
		return refuse("write it as a host name: letters, digits, - and .", "not a name")
	}
	return nil
}

func checkName(s string) error {
	if !checkedName.MatchString(s) {
		return refuse("up to 63 letters, digits and . _ : / @ -", "not a name")
	}
	return nil
}

func filled(s string) error {
	if s == "" {
		return refuse("leave the key out", "is empty")
	}
	return nil
}

// checkLink accepts the name of an interface (the kernel's dev_valid_name) or a glob for it.
func checkLink(s string) error {
	if _, err := path.Match(s, ""); err != nil {
		return refuse("as in enp* or eth[01]", "not a glob")
	}
	glob := strings.ContainsAny(s, `*?[\`)
	switch {
	case s == "" || strings.ContainsAny(s, "/: \t\n") || s == "." || s == "..":
		return refuse("", "not the name of a link")
	case len(s) > 15 && !glob:
		return refuse("the kernel's names have at most 15 letters", "not the name of a link")
	case s == "lo":
		return refuse("name the link on which clients ask for the address", "nobody asks on lo")
	}
	return nil
}

func checkTCP(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" {
		return refuse("write it as 127.0.0.1:6443", "not an address and port")
	}
	return checkPort(port)
}

func checkPort(s string) error {
	if p, err := strconv.ParseUint(s, 10, 16); err != nil || p == 0 {
		return refuse("1 to 65535", "not a port")
	}
	return nil
}

func checkURL(s string) error {
	u, err := url.Parse(s)
	var why *url.Error
	if errors.As(err, &why) {
		return refuse("write it as https://127.0.0.1:6443/readyz", "not a URL: %v", why.Err)
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return refuse("write it as https://127.0.0.1:6443/readyz", "not an http or https URL")
	case u.Hostname() == "":
		return refuse("write it as https://127.0.0.1:6443/readyz", "has no host")
	case u.User != nil:
		return refuse("use a client certificate: cert and key", "has a user in it")
	case u.Port() != "":
		return checkPort(u.Port())
	}
	return nil
}
