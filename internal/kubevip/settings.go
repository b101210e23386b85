package kubevip

import "slices"

// A known is a setting that this package knows: by its variables, the current name first and then earlier ones, and
// by its flags.
type known struct {
	env, flags []string
	on         bool   // it is true or false, and false is nothing to tell
	secret     bool   // its value is not shown
	where      bool   // take looks at where the value is, if it is not in the manifest
	why        string // what to tell of it, where nothing is taken over
	take       func(d *draft, s setting)
}

func names(n ...string) []string { return n }

const (
	ownID      = "Pintle takes the node's first IPv4 address as its router ID: set bgp.routerID for another"
	ownSource  = "a session is from the address that the node has towards the router: set localAddress for another"
	notZebra   = "Pintle speaks BGP itself, and takes no routes from a daemon or to it: announce: [table] leaves them in a table"
	ofServices = "belongs to Services of type LoadBalancer, which another Pintle serves (pintle manifest services): "
	bySlices   = ofServices + "it always looks at all EndpointSlices"
	notBalance = "Pintle does not balance: the node that has the address serves all that comes to it"
	notTunnel  = "Pintle has no tunnels: it announces by ARP and neighbour discovery, by BGP, or in a table"
	notMetal   = "Pintle speaks with no provider's API: it announces by ARP and neighbour discovery, by BGP, or in a table"
	notEgress  = "Pintle does nothing with traffic that leaves: leave it to the network of the cluster"
	notNames   = "Pintle takes addresses only, which stay as they are: write the address itself"
	ownHealth  = "health says how a node asks its own API server, and with Pintle it counts in every mode"
	notEtcd    = "Pintle elects by a Lease or by Raft, not in etcd"
	byDuration = "follows from lease.duration: the holder tries several times in it, and stops before it ends"
	oldRaft    = "Pintle has an election of its own kind: pintle manifest pod --peers NAME=ADDRESS,... instead"
)

// settings are all that kube-vip has had since its first releases.
var settings = slices.Concat(controlPlane, elections, services, elsewhere)

var controlPlane = []known{
	{env: names("address"), flags: names("--address"), take: (*draft).address},
	{env: names("vip_address"), flags: names("--vip"), take: (*draft).oldAddress},
	{env: names("vip_interface"), flags: names("--interface"), take: (*draft).link},
	{env: names("vip_subnet", "vip_cidr"), flags: names("--vipSubnet", "--cidr"), take: (*draft).subnet},
	{env: names("port"), flags: names("--port"), take: (*draft).port},
	{env: names("cp_enable"), flags: names("--controlplane"), on: true, take: (*draft).enable},
	{env: names("svc_enable"), flags: names("--services"), on: true, take: (*draft).services},
	{env: names("vip_arp"), flags: names("--arp"), take: (*draft).arp},
	{env: names("vip_arpRate"), why: "Pintle announces when it takes over, when another claims the address, and each 10 s; the rate cannot be set"},
	{env: names("vip_loglevel"), flags: names("--log"), take: (*draft).level},
	{env: names("prometheus_server"), flags: names("--prometheusHTTPServer"), take: (*draft).metrics},
	{env: names("health_check_port"), flags: names("--healthCheckPort"), why: "Pintle has /livez and /readyz where its metrics are: server.listen, 127.0.0.1:7401 if nothing is said"},
	{env: names("k8s_config_file"), flags: names("--k8sConfigPath"), take: (*draft).kubeconfig},
	{env: names("kubernetes_addr"), take: (*draft).server},
	{env: names("KUBERNETES_SERVICE_HOST"), where: true, take: (*draft).serviceHost},
	{env: names("KUBERNETES_SERVICE_PORT"), take: (*draft).servicePort},
	{env: names("vip_nodename"), flags: names("--nodeName"), where: true, take: (*draft).node},
	{env: names("vip_ddns"), flags: names("--ddns"), on: true, why: notNames},
	{env: names("dns_mode"), flags: names("--dnsMode"), take: (*draft).dns},
	{env: names("cp_detect"), flags: names("--autodetectcp"), on: true, why: "Pintle asks the API server of its node where health says"},
	{env: names("vip_interfaceloglobal"), flags: names("--loInterfaceGlobalScope"), on: true, why: "the address has scope link on lo, so that nothing takes it as a source"},
	{env: names("control_plane_health_check_address"), flags: names("--controlPlaneHealthCheckAddress"), why: ownHealth},
	{env: names("control_plane_health_check_period_seconds"), flags: names("--controlPlaneHealthCheckPeriodSeconds"), why: "health.interval does it, 1 s if nothing is said"},
	{env: names("control_plane_health_check_timeout_seconds"), flags: names("--controlPlaneHealthCheckTimeoutSeconds"), why: "health.timeout does it, 500 ms if nothing is said"},
	{env: names("control_plane_health_check_failure_threshold"), flags: names("--controlPlaneHealthCheckFailureThreshold"), why: "health.fall does it, 3 if nothing is said"},
	{env: names("control_plane_health_check_ca_path"), flags: names("--controlPlaneHealthCheckCAPath"), why: ownHealth},
	{env: names("vip_preserve_on_leadership_loss"), on: true, why: "a former holder accepts for up to 60 s what still comes to it (linger); bind: ready keeps the address on every node"},
}

var elections = []known{
	{env: names("cp_namespace"), flags: names("--namespace", "-n"), take: (*draft).namespace},
	{env: names("vip_leaderelection"), flags: names("--leaderElection"), take: (*draft).election},
	{flags: names("--leaderElectionType"), take: (*draft).electionType},
	{env: names("vip_leasename"), flags: names("--leaseName"), take: (*draft).leaseName},
	{env: names("vip_leaseduration"), flags: names("--leaseDuration"), take: (*draft).duration},
	{env: names("vip_renewdeadline"), flags: names("--leaseRenewDuration"), why: byDuration},
	{env: names("vip_retryperiod"), flags: names("--leaseRetry"), why: byDuration},
	{env: names("vip_leaseannotations"), why: "Pintle's Lease carries its own annotations only"},
	{flags: names("--etcdEndpoints"), why: notEtcd},
	{flags: names("--etcdCACert"), why: notEtcd},
	{flags: names("--etcdCert"), why: notEtcd},
	{flags: names("--etcdKey"), why: notEtcd},
	{env: names("vip_singlenode"), flags: names("--singleNode"), on: true, why: "a node alone is elected at once"},
	{env: names("vip_startleader"), flags: names("--startAsLeader"), on: true, why: "no node is elected before the election"},
	{env: names("vip_localpeer"), flags: names("--localPeer"), why: oldRaft},
	{env: names("vip_peers", "vip_remotepeers"), flags: names("--remotePeers"), why: oldRaft},
	{env: names("vip_addpeerstolb"), flags: names("--addPeersToLB"), on: true, why: notBalance},
}

var services = []known{
	{env: names("svc_election"), flags: names("--servicesElection"), on: true, why: ofServices + "it spreads addresses over the nodes, without an election for each"},
	{env: names("svc_namespace"), why: ofServices + "it serves all namespaces; the annotation pintle.dev/ignore, or a loadBalancerClass, leaves Services out"},
	{env: names("svc_leasename"), flags: names("--servicesLeaseName"), why: ofServices + "each node has one Lease of its own, pintle-node-NAME, in the namespace of services.namespace"},
	{env: names("vip_servicesinterface"), flags: names("--serviceInterface", "--servicesInterface"), take: (*draft).serviceLink},
	{env: names("vip_configmap"), flags: names("--configMap"), why: ofServices + "it reads AddressPools, which pintle import kube-vip makes of a ConfigMap of the cloud provider"},
	{env: names("lb_class_only"), flags: names("--lbClassOnly"), on: true, why: ofServices + "services.unclassed: false in its configuration does it"},
	{env: names("lb_class_name"), flags: names("--lbClassName"), why: ofServices + "services.class in its configuration does it"},
	{env: names("lb_class_legacy_handling"), flags: names("--lbClassNameLegacyHandling"), on: true, why: ofServices + "a Service of another class is never touched"},
	{env: names("enable_service_security"), flags: names("--onlyAllowTrafficServicePorts"), on: true, why: ofServices + "addresses are not bound to a link, so only Services can be reached by them; with bind: true in a pool only their ports and ICMP are let in"},
	{env: names("disable_service_updates"), flags: names("--disableServiceUpdates"), on: true, why: ofServices + "it always writes status.loadBalancer, and nothing else of a Service"},
	{env: names("enable_endpoints"), flags: names("--enableEndpoints"), on: true, why: bySlices},
	{env: names("enable_endpointslices"), on: true, why: bySlices},
	{env: names("enable_node_labeling"), flags: names("--enableNodeLabeling"), on: true, why: "Pintle puts no label on nodes: pintle status, and the Lease, say who holds the address"},
	{env: names("mirror_dest_interface"), flags: names("--mirrorDestInterface"), why: ofServices + "it copies no traffic: leave that to tc"},
	{env: names("enable_upnp"), on: true, why: ofServices + "it opens no ports in home routers: do it there"},
	{env: names("iptables_backend"), why: notEgress},
	{env: names("egress_podcidr"), why: notEgress},
	{env: names("egress_servicecidr"), why: notEgress},
	{env: names("egress_withnftables"), on: true, why: notEgress},
	{env: names("egress_clean", "EGRESS_CLEAN"), on: true, why: notEgress},
	{env: names("lb_enable"), flags: names("--enableLoadBalancer", "--lbEnable"), on: true, why: notBalance},
	{env: names("lb_port"), flags: names("--lbPort"), why: notBalance},
	{env: names("lb_fwdmethod"), flags: names("--lbForwardingMethod"), why: notBalance},
	{env: names("lb_bindtovip"), flags: names("--lbBindToVip"), on: true, why: notBalance},
	{env: names("lb_name"), flags: names("--lbName"), why: notBalance},
	{env: names("lb_type"), flags: names("--lbType"), why: notBalance},
	{env: names("lb_backendport"), flags: names("--lbBackEndPort"), why: notBalance},
	{env: names("lb_backends"), why: notBalance},
	{env: names("backend_health_check_interval"), why: notBalance},
}

var elsewhere = []known{
	{env: names("bgp_enable"), flags: names("--bgp"), on: true, take: (*draft).bgpEnable},
	{env: names("bgp_routerid"), flags: names("--bgpRouterID"), where: true, take: withBGP((*draft).routerID)},
	{env: names("bgp_routerinterface"), why: ownID},
	{env: names("bgp_as"), flags: names("--localAS"), take: withBGP((*draft).localAS)},
	{env: names("bgp_peeraddress"), flags: names("--peerAddress"), take: withBGP((*draft).peerAddress)},
	{env: names("bgp_peers"), flags: names("--bgppeers"), take: (*draft).bgpPeers},
	{env: names("bgp_peeras"), flags: names("--peerAS"), take: withBGP((*draft).peerAS)},
	{env: names("bgp_peerpass"), flags: names("--peerPass"), secret: true, where: true, take: (*draft).peerPassword},
	{env: names("bgp_multihop"), flags: names("--multihop", "--multiHop"), on: true, take: (*draft).multihop},
	{env: names("bgp_sourceif"), flags: names("--sourceIF", "--sourceif"), why: ownSource},
	{env: names("bgp_sourceip"), flags: names("--sourceIP", "--sourceip"), where: true, take: withBGP((*draft).sourceIP)},
	{env: names("bgp_hold_time"), flags: names("--bgpHoldTimer"), take: withBGP((*draft).holdTime)},
	{env: names("bgp_keepalive_interval"), flags: names("--bgpKeepAliveInterval"), take: withBGP((*draft).keepalive)},
	{env: names("mpbgp_nexthop"), why: "Pintle names this node's own addresses as next hops, of both families: set nextHop for others"},
	{env: names("mpbgp_ipv4"), where: true, take: withBGP((*draft).nextHop)},
	{env: names("mpbgp_ipv6"), where: true, take: withBGP((*draft).nextHop)},
	{env: names("zebra_enable"), flags: names("--zebra"), on: true, why: notZebra},
	{env: names("zebra_url"), flags: names("--zebraUrl"), why: notZebra},
	{env: names("zebra_version"), flags: names("--zebraVersion"), why: notZebra},
	{env: names("zebra_software_name"), flags: names("--zebraSoftwareName"), why: notZebra},
	{env: names("annotation", "annotations"), flags: names("--annotations"), why: "Pintle reads no routers from annotations: name them in bgp.peers, and choose among them with nodes, nodeLabels or nodeAnnotations"},
	{env: names("vip_wireguard"), flags: names("--wireguard"), on: true, why: notTunnel},
	{env: names("vip_routingtable"), flags: names("--table"), on: true, take: (*draft).tableEnable},
	{env: names("vip_routingtableid"), flags: names("--tableID"), take: withTable((*draft).tableID)},
	{env: names("vip_routingtabletype"), flags: names("--tableType"), why: "Pintle's route is of type blackhole, which says that it is no way to anywhere: the other daemon takes it by table and protocol number"},
	{env: names("vip_routingprotocol"), flags: names("--routingProtocol"), take: withTable((*draft).tableProtocol)},
	{env: names("vip_cleanroutingtable"), flags: names("--cleanRoutingTable"), on: true, why: "Pintle always removes what it left: every route with its protocol number"},
	{env: names("vip_packet"), flags: names("--metal", "--packet"), on: true, why: notMetal},
	{env: names("vip_packetproject"), flags: names("--metalProject", "--packetProject"), why: notMetal},
	{env: names("vip_packetprojectid"), flags: names("--metalProjectID"), why: notMetal},
	{env: names("PACKET_AUTH_TOKEN"), flags: names("--metalKey", "--packetKey"), secret: true, why: notMetal},
	{env: names("provider_config"), flags: names("--provider-config"), why: notMetal},
	{env: names("config_file"), flags: names("--config-file", "--config", "-c"), why: "kube-vip read more settings from that file, and they were not seen here: put them into the manifest as variables and import it again"},
	{flags: names("--inCluster", "--taint"), on: true, take: func(*draft, setting) {}}, // of its generator only
}

// lookUp finds what a setting is.
func lookUp(s setting) (known, bool) {
	i := slices.IndexFunc(settings, func(k known) bool {
		if s.flag {
			return slices.Contains(k.flags, s.name)
		}
		return slices.Contains(k.env, s.name)
	})
	if i < 0 {
		return known{}, false
	}
	return settings[i], true
}

// isSwitch reports whether a flag stands without a value.
func isSwitch(name string) bool {
	k, ok := lookUp(setting{name: name, flag: true})
	return ok && (k.on || name == "--arp" || name == "--leaderElection")
}
