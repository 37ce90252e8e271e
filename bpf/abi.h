/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The contract with Python: every key, value, flag and reason that crosses the
 * user/kernel boundary, defined once, here. Python reads the struct layouts from
 * the object's BTF; the names Python code uses for enum values stand in
 * src/vipbee/abi.py and a test compares the two.
 *
 * Change anything here that alters the size or meaning of a pinned map and
 * LAYOUT_VERSION in abi.py must change with it (see ARCHITECTURE.md, Upgrade).
 *
 * This file must not include anything but <linux/types.h>.
 */
#ifndef VIPBEE_ABI_H
#define VIPBEE_ABI_H

#include <linux/types.h>

/* Network order. IPv4 is v4-mapped (::ffff:a.b.c.d), so one table serves both. */
struct address {
	__be32 word[4];
};

/* ---- frontends: what a client dials -------------------------------------- */

/*
 * address is the unspecified address of its family (:: or ::ffff:0.0.0.0) for a
 * NodePort, which is served on every address that `addresses` marks as a node's.
 */
struct frontend_key {
	struct address address;
	__be16 port;
	__u8 protocol; /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 pad;
};

/* A contiguous run of `slots`: one slot per backend a new connection may get. */
struct slot_range {
	__u32 first;
	__u32 count;
};

enum frontend_kind {
	FRONTEND_CLUSTER_IP = 1,
	FRONTEND_NODE_PORT = 2,
	FRONTEND_EXTERNAL_IP = 3,
	FRONTEND_LOAD_BALANCER = 4,
};

enum frontend_flag {
	/* traffic policy Local applies to this frontend: iTP for a ClusterIP, eTP otherwise */
	FRONTEND_POLICY_LOCAL = 1,
	/* packet layer: clients must be in `source_ranges` of this service id (R80) */
	FRONTEND_SOURCE_RANGES = 2,
};

/*
 * Verdict of an empty range (R35, R44): cluster.count == 0 means nobody serves, so
 * refuse; local.count == 0 with cluster.count > 0 means others serve, so drop.
 */
struct frontend {
	__u32 service_id;
	__u32 affinity_timeout_s; /* 0: no session affinity */
	struct slot_range cluster;
	struct slot_range local;
	__u16 flags; /* enum frontend_flag */
	__u8 kind; /* enum frontend_kind */
	__u8 pad;
};

/* What we know about an address, apart from its exact frontends. */
enum address_flag {
	/* a ClusterIP: a port no Service defines is refused (R37) */
	ADDRESS_CLUSTER_IP = 1,
	/* a node's address: NodePorts are served here (R89, R90) */
	ADDRESS_NODE = 2,
	/* only for programs in the node's own network namespace (loopback, R91) */
	ADDRESS_HOST_ONLY = 4,
	/* an external or load balancer IP: other ports pass untouched (R40) */
	ADDRESS_EXTERNAL = 8,
	/* ADDRESS_NODE of this very node: a bind may claim a NodePort here (R93) */
	ADDRESS_OWN = 16,
	/* an address of an interface of this node: replies to SNAT arrive here */
	ADDRESS_SNAT = 32,
};

/*
 * address_filter: 2^ADDRESS_FILTER_BITS bits in words of 64; see address_filter.h. The
 * factor is 2^32 divided by the golden ratio, which keeps neighbours apart.
 */
#define ADDRESS_FILTER_BITS 20
#define ADDRESS_FILTER_FACTOR 0x9e3779b1U

/* ---- backends: who answers ------------------------------------------------ */

enum backend_flag {
	BACKEND_SERVING = 1, /* existing UDP flows may stay (R110) */
	BACKEND_IN_CLUSTER = 2, /* member of the Cluster set: affinity may return to it (R64) */
	BACKEND_IN_LOCAL = 4, /* member of the Local set */
	BACKEND_ON_NODE = 8, /* endpoint.nodeName is this node (R24) */
	BACKEND_TERMINATING = 16,
	BACKEND_READY = 32,
};

/*
 * A backend belongs to one Service port. So a flow, an affinity entry or a slot is
 * valid exactly if service_id and generation still match: a reader that raced with
 * a table change, or an old flow, notices without any clean-up having run.
 */
struct backend {
	struct address address;
	__be16 port;
	__u8 flags; /* enum backend_flag; 0: this id is free */
	__u8 protocol;
	__u32 service_id;
	__u32 generation; /* grows each time the id is given up */
	__u32 pad;
};

/* ---- counters --------------------------------------------------------------
 * Touched by the datapath only (atomic adds, no locks); zeroed by the agent before
 * an id is given out. Active = opened - closed.
 */
struct service_counters {
	__u64 opened;
	__u64 closed;
	__u64 refused; /* no endpoint anywhere (R35) */
	__u64 unreachable; /* Local policy, endpoints elsewhere only (R44) */
	__u64 affinity_hits;
	__u64 pad[3]; /* one cache line */
};

struct backend_counters {
	__u64 opened;
	__u64 closed;
};

/* Why the datapath did something other than translate or pass; per CPU. */
enum reason {
	REASON_NO_ENDPOINT = 1, /* refused: Service port without usable endpoint (R35) */
	REASON_UNKNOWN_PORT = 2, /* refused: ClusterIP, port no Service defines (R37) */
	REASON_NO_LOCAL_ENDPOINT = 3, /* unreachable: Local policy (R44) */
	REASON_TABLE_RACE = 4, /* refused: tables kept changing under one lookup */
	REASON_BIND_PROTECTED = 5, /* bind to a NodePort refused (R93) */
	REASON_FLOW_NOT_STORED = 6, /* translated, but the reverse entry could not be kept */
	/* ---- packet layer; "dropped" unless it says otherwise ---- */
	REASON_MALFORMED = 7, /* cut off, or lengths that contradict each other (D1-D7) */
	REASON_EXTENSION_HEADERS = 8, /* IPv6 chain longer than is walked (D11) */
	REASON_MARTIAN = 9, /* loopback from outside, impossible source, LAND (D145, D146, D150) */
	REASON_FRAGMENT_UNKNOWN =
		10, /* later fragment, its connection or its first one unknown (D25) */
	REASON_FRAGMENT_TINY = 11, /* first fragment without all ports, or overlapping them (D27) */
	REASON_PROTOCOL = 12, /* ClusterIP, neither TCP nor UDP (D14) */
	REASON_SOURCE_RANGE = 13, /* client outside loadBalancerSourceRanges (R80) */
	REASON_NO_CONNECTION = 14, /* TCP without SYN, connection unknown (D20, D81) */
	REASON_SNAT_EXHAUSTED = 15, /* refused: no source port free towards this backend (D103) */
	REASON_SNAT_NO_ADDRESS = 16, /* outgoing device has no address of the family */
	REASON_NO_ROUTE = 17, /* routing has no way to the backend or client */
	REASON_TTL_EXPIRED = 18, /* TTL 1 would have been forwarded (D63) */
	REASON_TOO_BIG = 19, /* larger than the path, sender was told */
	REASON_REFUSAL_LIMITED = 20, /* a refusal was not sent: rate limit */
	REASON_ICMP_UNKNOWN = 21, /* ICMP error about no known connection (D58) */
	REASON_ICMP_MALFORMED = 22, /* ICMP error without readable quote, or bad checksum */
	REASON_ECHO_IGNORED = 23, /* echo request to a ClusterIP (R39) */
	REASON_ECHO_ANSWERED = 24, /* echo request to an external VIP: answered (D64) */
	REASON_ESTABLISHED_FULL = 25, /* passed: connection stays in the zone of unfinished ones */
	REASON_REWRITE_FAILED = 26, /* the kernel refused to change the packet */
	REASON_CLUSTER_IP_OUTSIDE = 27, /* ClusterIP dialled from outside, or forwarded (R42) */
	REASON_ICMP_PASSED = 28, /* passed: ICMP error about a node address, maybe its own */
	REASON_NODE_CONNECTION = 29, /* passed: the node's own, or older than its Service (R94) */
	REASON_SNAT_MOVED = 30, /* translated: the client's source port was taken (D101) */
	REASON_TWIN_REPAIRED = 31, /* translated: one half of a connection was rebuilt (D109) */
	REASON_UNALLOCATED = 32, /* address of a ServiceCIDR that no Service has (R38) */
	REASON_FRAGMENT_HELD =
		33, /* held until its first one comes; a node's address: a copy (D23) */
	REASON_MAX = 34,
};

/* ---- what a socket remembers ----------------------------------------------- */

enum socket_flow_flag {
	FLOW_CONNECTED = 1, /* made by connect(2), not by sendmsg(2) */
	FLOW_SHARED = 2, /* a further VIP of the socket leads to the same backend: see udp_flows */
};

/* Socket storage: lives and dies with the socket. The last VIP it talked to. */
struct socket_flow {
	struct address frontend_address;
	struct address backend_address;
	__be16 frontend_port;
	__be16 backend_port;
	__u32 service_id; /* 0: no flow */
	__u32 backend_id;
	__u32 generation;
	__u32 tables_epoch; /* when it was last found right, see maps.h */
	__u8 protocol;
	__u8 flags; /* enum socket_flow_flag */
	__u8 pad[2];
};

/* A TCP socket's flow, in the place its cookie names; see tcp_flow.h. */
struct tcp_flow {
	struct socket_flow flow;
	__u64 cookie; /* whose flow this is; cookies are never used twice */
};

#define CLAIMS_PER_LINE 16

/* Who has the places, a cache line for 16 of them: cookies count up, so lines stay warm. */
struct tcp_claims {
	__u32 of[CLAIMS_PER_LINE]; /* low half: 1 if taken; high half: sockets that came second */
};

enum udp_flow_direction {
	UDP_FLOW_FORWARD = 1, /* key: frontend, value: the backend it was given */
	UDP_FLOW_REVERSE = 2, /* key: backend, value: the frontend to show */
};

/* Further VIPs of an unconnected UDP socket that talks to several. */
struct udp_flow_key {
	__u64 cookie; /* socket cookie */
	struct address address;
	__be16 port;
	__u8 direction; /* enum udp_flow_direction */
	__u8 pad[5];
};

struct udp_flow {
	struct address address;
	__be16 port;
	__u8 pad[2];
	__u32 service_id;
	__u32 backend_id;
	__u32 generation;
};

/* ---- session affinity -------------------------------------------------------- */

enum affinity_client {
	AFFINITY_NETNS = 1, /* client: network namespace cookie in word[0..1], word[2..3] zero */
	AFFINITY_ADDRESS = 2, /* client: source address */
};

struct affinity_key {
	struct address client;
	__u32 service_id;
	__u8 client_kind; /* enum affinity_client */
	__u8 pad[3];
};

struct affinity {
	__u64 last_used_ns; /* CLOCK_MONOTONIC; sliding (R63) */
	__u32 backend_id;
	__u32 generation;
};

/* ---- for people: never read by the datapath ------------------------------------ */

struct service_info {
	char namespace_[64];
	char name[64];
	char port_name[64];
	char service_type[16]; /* ClusterIP, NodePort, LoadBalancer */
	__be16 port; /* the Service port's number */
	__u8 protocol;
	__u8 family; /* 4 or 6 */
	__u32 endpoints; /* usable or not, as in the EndpointSlices */
};

enum report_severity {
	REPORT_WARNING = 1, /* served, but not entirely as written */
	REPORT_ERROR = 2, /* not served */
};

/* One problem an operator must know of; rewritten whenever the set changes. */
struct report {
	char object[192]; /* "Service default/web" or a file name */
	char message[316];
	__u32 severity; /* enum report_severity */
};

/* The agent's card: one entry, index 0. */
struct agent_info {
	char node_name[256];
	char version[32];
	char source[256]; /* where Services come from */
	__u64 started_unix_ns;
	__u64 synced_unix_ns; /* last complete programming; 0: never */
	__u64 audits;
	__u64 repairs; /* entries an audit put right */
	__u32 pid;
	__u32 pad;
};

/*
 * Ports this agent added to ip_local_reserved_ports of a network namespace, so that cleanup
 * takes away those and no others; one entry, index 0.
 */
struct reserved_ports {
	__u64 netns_cookie;
	__u64 bits[1024]; /* port p: bit p % 64 of bits[p / 64] */
};

/* A UDP socket whose backend is gone, as `iter/bpf_sk_storage_map` prints it. */
struct stale_socket {
	struct address local_address;
	struct address remote_address;
	__be16 local_port;
	__be16 remote_port;
	__u32 netns_inode;
	__u32 ifindex;
	__u8 family; /* AF_INET or AF_INET6 */
	__u8 protocol;
	__u8 pad[2];
};

/* ---- packet layer: devices ------------------------------------------------------- */

enum device_flag {
	DEVICE_UPLINK = 1, /* runs vipbee_uplink_in and _out */
	DEVICE_POD = 2, /* host side of a pod's device: runs vipbee_pod_in and _out */
	DEVICE_L3 = 4, /* no Ethernet header: runs the _l3 twins of the programs */
	DEVICE_LOOPBACK =
		8, /* runs vipbee_uplink_out: a NodePort of the node dialled from itself */
};

/* Every device packets may leave by, also without a program; key: ifindex. */
struct device {
	struct address v4; /* source for SNAT when a packet leaves here; zero: none */
	struct address v6;
	__u32 mtu;
	__u32 flags; /* enum device_flag */
};

/* ---- packet layer: addresses of Services ------------------------------------------ */

#define MAX_SERVICE_CIDRS 4

struct service_cidr {
	struct address network; /* host bits zero */
	struct address mask;
};

/* Where ClusterIPs come from; one entry, index 0. While it changes, `count` is 0. */
struct service_cidrs {
	__u32 count;
	__u32 pad[3];
	struct service_cidr cidr[MAX_SERVICE_CIDRS];
};

/* ---- packet layer: connections ------------------------------------------------------ */

/* A packet's addresses and ports, as on the wire. */
struct flow_tuple {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 pad[3];
};

/* Decided when the connection is made, constant afterwards. */
enum conntrack_flag {
	CONNTRACK_SOURCE_NAT = 1, /* the backend sees another source address or port */
	CONNTRACK_REDIRECT = 2, /* both directions bypass the stack (remote backend, hairpin) */
	CONNTRACK_NODE_CLIENT = 4, /* the client is a program of this node; no Service: D106 */
	/* nat only: a connection that bypasses us has this tuple, `original` is its own (D85) */
	CONNTRACK_DIRECT = 8,
	/* kept in the zone its replies come in by; the client's packets come in by the other */
	CONNTRACK_CROSSING = 16,
};

/* What one side of a connection has sent; each side's packets write its own byte only. */
enum conntrack_seen {
	SEEN_PACKET = 1, /* any packet (backend), or one after the backend's (client) */
	SEEN_SYN = 2,
	SEEN_FIN = 4,
	SEEN_RST = 8, /* a believable one; taken back if the same side goes on */
};

/*
 * The forward half; key: the packet as the client sends it (source: client,
 * destination: frontend). The reply arrives as {backend -> source}: key of `nat`.
 *
 * Lifetime after last_seen, by protocol and state:
 *   UDP            lifetime_udp_s
 *   RST seen       lifetime_reset_s
 *   both FINs, or client without SEEN_PACKET   lifetime_transitory_s
 *   else           lifetime_established_s
 * An entry past it is as if absent. A UDP entry, and a TCP entry without SEEN_PACKET of the
 * client, is valid only while backend_id has the same generation, service_id and, for
 * UDP, BACKEND_SERVING.
 */
struct conntrack {
	struct address backend;
	struct address source; /* what the backend sees; the client's own without SNAT */
	__be16 backend_port;
	__be16 source_port;
	__u32 service_id;
	__u32 backend_id;
	__u32 generation;
	__u32 last_seen; /* whole seconds of CLOCK_MONOTONIC, coarse; both directions write it */
	__u32 client_ack; /* last TCP acknowledgement the client sent; host order */
	__u32 backend_ack;
	__u8 flags; /* enum conntrack_flag */
	__u8 client_seen; /* enum conntrack_seen */
	__u8 backend_seen;
	__u8 pad;
};

/* The reverse half; key: the reply as the backend sends it. */
struct nat {
	struct flow_tuple original; /* key of the forward half, in the map of the same zone */
	__u32 service_id;
	__u32 backend_id;
	__u32 generation;
	__u32 last_seen; /* refreshed at most once a second, by the client's packets */
	__u8 flags; /* enum conntrack_flag */
	__u8 pad[7];
};

#define PORT_MARKS 16384 /* words: all ports of TCP, then all of UDP */
#define MARKS_PER_WORD 8

/* Source ports, by what a socket of this node on them may meet. */
struct port_marks {
	__u8 of[MARKS_PER_WORD]; /* enum port_mark of port_marks.h, or 0 */
};

/* What a sweep did with an element, as the iterators of sweep.bpf.c print it: a byte each. */
enum sweep_outcome {
	SWEEP_CONNECTION = 1, /* it was a connection, and is removed */
	SWEEP_REVERSE_HALF = 2, /* a reverse half is removed: this one, or the connection's */
};

/* ---- packet layer: fragments, ranges, refusals ------------------------------------------ */

struct fragment_key {
	struct address source;
	struct address destination;
	__u32 id; /* IPv4: 16 bits; network order, as read */
	__u8 protocol;
	__u8 pad[3];
};

/* Ports of the first fragment, which the later ones lack. */
struct fragment {
	__be16 source_port;
	__be16 destination_port;
	__u32 last_seen;
};

#define EARLY_FRAGMENT_BITS 10 /* of the number of places: 2 MiB in all */
#define EARLY_FRAGMENT_BYTES 2048 /* a power of two */

/* A later fragment that came before its first one, in the place its datagram has. */
struct early_fragment {
	struct fragment_key datagram;
	__u32 last_seen;
	__u16 further; /* of the same datagram, in the places behind this one */
	__u16 length; /* 0: nothing */
	__u8 bytes[EARLY_FRAGMENT_BYTES]; /* from the network header on */
};

/* LPM trie: 32 bits of service id always match in full, then the address. */
struct source_range_key {
	__u32 prefix_length; /* 32 + 96 + IPv4 prefix, or 32 + IPv6 prefix */
	__u32 service_id;
	struct address address;
};

/* A connection being made, too large for the stack; meaningless between packets. */
struct draft {
	struct conntrack conntrack;
	struct nat nat;
	struct flow_tuple reply;
	__u8 packet[96]; /* struct packet */
	__u8 icmp[144]; /* struct icmp_work */
};

/* Refusals this CPU has sent in this second. */
struct refusal_budget {
	__u32 second;
	__u32 sent;
};

/* ---- configuration, constant once loaded ------------------------------------------ */

struct config {
	__u64 node_netns_cookie; /* 0: unknown, the initial namespace is taken */
	__u8 has_set_retval; /* bpf_set_retval(), 5.18 */
	__u8 has_socket_storage; /* sk_storage in sock_addr hooks */
	__u8 bind_protection; /* refuse bind(2) to NodePorts (R93) */
	/* packet layer; see config.h for the defaults */
	__u8 packet_lb; /* packet hooks run: socket hooks leave policy Local to them */
	__u8 has_coarse_clock; /* bpf_ktime_get_coarse_ns(), 5.11 */
	__u8 has_fib_skip_neigh; /* BPF_FIB_LOOKUP_SKIP_NEIGH, 6.3 */
	__u8 cluster_ip_from_outside; /* serve ClusterIPs to packets from uplinks (R42) */
	__u8 has_fib_mtu; /* bpf_fib_lookup() compares tot_len with the MTU, 5.12 */
	__u16 node_port_first; /* packets to other ports are never looked up as NodePorts */
	__u16 node_port_last;
	__u16 snat_port_first; /* where a moved source port is taken from, without NodePorts */
	__u16 snat_port_last;
	__u32 lifetime_established_s; /* RFC 5382: at least 2 h 4 min */
	__u32 lifetime_transitory_s; /* RFC 5382: at least 4 min */
	__u32 lifetime_reset_s;
	__u32 lifetime_udp_s; /* RFC 4787: at least 2 min */
	__u32 lifetime_fragment_s;
	__u32 refusals_per_second; /* on each CPU */
	__u8 masquerade_all; /* backends of ClusterIPs see an address of the node (R56) */
	__u8 pad[7];
};

#endif
