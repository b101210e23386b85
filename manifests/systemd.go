// Package manifests renders what installs Pintle on a machine or in a cluster.
package manifests

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"regexp"
	"text/template"
)

// A Unit is what may differ between systemd units. The zero value is the usual one.
type Unit struct {
	Binary   string // absolute path; /usr/local/bin/pintle if empty
	Config   string // absolute path; /etc/pintle/pintle.yaml, or /etc/pintle/INSTANCE.yaml for another instance, if empty
	Instance string // as in the configuration; default if empty

	// User runs Pintle; root if empty. Root here is no more than the owner of its files: the unit leaves it three
	// capabilities, none of which opens files of others. It can read the keys that `pintle raft certs` and kubeadm
	// make, which only their owner may read. Another user must exist, and must own the keys that the configuration
	// names, of the cluster and of health checks alike.
	User string

	// LowPort also leaves it the right to listen on a port below 1024: for bgp.listen on 179.
	LowPort bool
}

// capabilities are those that the unit leaves it.
func (o Unit) capabilities() string {
	all := "CAP_NET_ADMIN CAP_NET_RAW CAP_SYS_NICE"
	if o.LowPort {
		all += " CAP_NET_BIND_SERVICE"
	}
	return all
}

// SystemdUnit renders a systemd unit that runs Pintle with as few rights as its work needs. It refuses what would
// mean something else in a unit file: paths that are not plain and absolute, and names that are none.
func SystemdUnit(o Unit) ([]byte, error) {
	if o.Instance == "" {
		o.Instance = "default"
	}
	if o.Binary == "" {
		o.Binary = "/usr/local/bin/pintle"
	}
	if o.User == "" {
		o.User = "root"
	}
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("render systemd unit: %w", err)
	}
	if o.Config == "" {
		o.Config = "/etc/pintle/" + o.file() + ".yaml"
	}
	if err := plainPath("config", o.Config); err != nil {
		return nil, fmt.Errorf("render systemd unit: %w", err)
	}
	var out bytes.Buffer
	if err := unit.Execute(&out, view{Unit: o, Name: o.name(), Dedicated: o.User != "root", Capabilities: o.capabilities()}); err != nil {
		return nil, fmt.Errorf("render systemd unit: %w", err)
	}
	return out.Bytes(), nil
}

// file is the configuration's name without its ending.
func (o Unit) file() string {
	if o.Instance == "default" {
		return "pintle"
	}
	return o.Instance
}

// name is the unit's name without its ending.
func (o Unit) name() string {
	if o.Instance == "default" {
		return "pintle"
	}
	return "pintle-" + o.Instance
}

// view is what the template reads.
type view struct {
	Unit
	Name         string
	Dedicated    bool
	Capabilities string
}

var (
	instanceName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,30}$`)
	userName     = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,30}$`)
	// In ExecStart= white space, quotes, $, % and \ have a meaning (systemd.service(5), systemd.unit(5)).
	plain = regexp.MustCompile(`^/[A-Za-z0-9/._+@:=,-]+$`)
)

func (o Unit) check() error {
	switch {
	case !instanceName.MatchString(o.Instance):
		return fmt.Errorf("instance %q: not a name (up to 31 of a-z, 0-9 and -)", o.Instance)
	case !userName.MatchString(o.User):
		return fmt.Errorf("user %q: not the name of a user", o.User)
	}
	return plainPath("binary", o.Binary)
}

func plainPath(what, name string) error {
	if !plain.MatchString(name) || path.Clean(name) != name {
		return errors.New(what + " " + fmt.Sprintf("%q", name) + ": not a plain absolute path (letters, digits and /._+@:=,-)")
	}
	return nil
}

var unit = template.Must(template.New("unit").Parse(`# {{.Name}}.service: made by pintle manifest systemd
#
#   install -m 644 {{.Name}}.service /etc/systemd/system/
#   systemctl daemon-reload && systemctl enable --now {{.Name}}
{{- if .Dedicated}}
#
# The user {{.User}} must exist (useradd --system {{.User}}) and own every key that the configuration names: keys that
# others than their owner may read are refused.
{{- end}}

[Unit]
Description=Pintle keeps a shared address on one healthy machine{{if ne .Instance "default"}} ({{.Instance}}){{end}}
Documentation=https://github.com/pintle-lb/pintle
Wants=network-online.target
After=network-online.target
# Whatever ended it, start it again, for ever.
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={{.Binary}} run --config {{.Config}}
Restart=always
RestartSec=1s
# SIGTERM hands the address over, goes on accepting until the next holder is known, and lets go: within 13 s in any
# case. Only the main process is asked; what is left of health checks at the end is killed.
KillMode=mixed
TimeoutStopSec=20s

User={{.User}}
# NET_ADMIN: the address and the mute. NET_RAW: ARP and NDP. SYS_NICE: real-time scheduling of the election.
{{- if .LowPort}}
# NET_BIND_SERVICE: the port on which routers connect.
{{- end}}
CapabilityBoundingSet={{.Capabilities}}
{{- if .Dedicated}}
AmbientCapabilities={{.Capabilities}}
{{- end}}
NoNewPrivileges=yes
UMask=0077

# Every instance uses the same directory, so none may remove it when it stops.
RuntimeDirectory=pintle
RuntimeDirectoryMode=0750
RuntimeDirectoryPreserve=yes
StateDirectory=pintle
StateDirectoryMode=0700

RestrictRealtime=no
LimitRTPRIO=99
# Killed for want of memory it would only come back to a machine that still has none.
OOMScoreAdjust=-900

# The host, to be read only; health checks run behind the same walls.
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
# No need of /proc/sys: the mute is set by netlink.
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET
RestrictNamespaces=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
`))
