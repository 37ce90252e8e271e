/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The packet hooks: clients that no socket hook sees. Included by vipbee.bpf.c.
 *
 *   uplink_in    from outside: translate, or restore the reply of a remote backend
 *   uplink_out   to outside: restore the reply of a local backend; translate what programs of
 *                the node send to VIPs; also at the egress of loopback
 *   pod_in       from a pod: translate, or restore the reply of a pod to itself
 *   pod_out      to a pod: restore the reply of its backend
 *
 * parse -> decide -> apply -> count. What is not ours leaves with TC_ACT_UNSPEC, which is
 * TCX_NEXT: the programs of others run as if we were not there.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "address_filter.h"
#include "config.h"
#include "conntrack.h"
#include "count.h"
#include "ctx_tc.h"
#include "fragment.h"
#include "from_backend.h"
#include "from_client.h"
#include "from_node.h"
#include "icmp_apply.h"
#include "martian.h"
#include "node_socket.h"
#include "packet.h"
#include "packet_apply.h"
#include "service.h"
#include "snat.h"
#include "unallocated.h"

/* On an address of the node it may be the node's own: that passes, and a copy is held. */
static __always_inline int too_early(struct __sk_buff *ctx, const struct packet *p)
{
	int held = hold_early(ctx, p);

	if (held)
		count_reason(REASON_FRAGMENT_HELD);
	if (!(p->address_flags & (ADDRESS_CLUSTER_IP | ADDRESS_EXTERNAL)))
		return TC_ACT_UNSPEC;
	return held ? TC_ACT_SHOT : dropped(REASON_FRAGMENT_UNKNOWN);
}

static __always_inline int enter(struct __sk_buff *ctx, enum zone zone, __u32 l2)
{
	struct packet p = {};
	int verdict = TC_ACT_UNSPEC;
	enum parsed parsed;
	__u32 flags;

	/* the constant stands for an old kernel; 5.12 and 5.13 are not maintained */
	if (!l2 && !config.has_fib_mtu && !begins_with_network_header(ctx))
		return TC_ACT_UNSPEC;
	parsed = parse_l3(ctx, &p, l2);
	if (parsed == PARSED_OTHER)
		return TC_ACT_UNSPEC;
	if (parsed == PARSED_MALFORMED)
		return dropped(REASON_MALFORMED);
	if (is_loopback(&p.tuple.destination))
		return dropped(REASON_MARTIAN);
	flags = p.address_flags = find_address_flags(&p.tuple.destination);
	if (!flags)
		return TC_ACT_UNSPEC;
	if (parsed == PARSED_TOO_MANY_HEADERS)
		return dropped(REASON_EXTENSION_HEADERS);
	if (p.fragment == OVERLAPPING_FRAGMENT)
		return dropped(REASON_FRAGMENT_TINY);
	if (p.fragment == LATER_FRAGMENT) {
		if (p.tuple.protocol != IPPROTO_TCP && p.tuple.protocol != IPPROTO_UDP)
			return flags & ADDRESS_CLUSTER_IP ? dropped(REASON_PROTOCOL)
							  : TC_ACT_UNSPEC;
		if (!recall_fragment(&p))
			return too_early(ctx, &p);
	} else {
		parsed = parse_l4(ctx, &p);
		if (parsed == PARSED_OTHER)
			return flags & ADDRESS_CLUSTER_IP ? dropped(REASON_PROTOCOL)
							  : TC_ACT_UNSPEC;
		if (parsed == PARSED_MALFORMED)
			return dropped(p.fragment ? REASON_FRAGMENT_TINY : REASON_MALFORMED);
		if (parsed == PARSED_ICMP)
			return enter_icmp(ctx, &p, zone);
	}
	if (flags & (ADDRESS_CLUSTER_IP | ADDRESS_EXTERNAL) ||
	    is_node_port_number(bpf_ntohs(p.tuple.destination_port)))
		return from_client(ctx, &p, l2, zone);
	if (is_snat_port(bpf_ntohs(p.tuple.destination_port)))
		verdict = from_backend(ctx, &p, l2, zone, 1);
	return verdict == TC_ACT_UNSPEC ? passed(ctx, &p) : verdict;
}

/* Of a backend to its client, or of a socket of the node that must not be taken for one. */
static __always_inline int leave_known(struct __sk_buff *ctx, struct packet *p, __u32 l2,
				       enum zone zone)
{
	int verdict;

	if (may_share_port(ctx, p) && set_aside(p)) {
		verdict = from_node_socket(ctx, zone);
		if (verdict != NOT_CONCERNED)
			return verdict;
	}
	return from_backend(ctx, p, l2, zone, 0);
}

static __always_inline int leave(struct __sk_buff *ctx, enum zone zone, __u32 l2)
{
	struct packet *aside;
	struct packet p = {};
	enum parsed parsed;

	parsed = parse_l3(ctx, &p, l2);
	if (parsed == PARSED_OTHER || parsed == PARSED_MALFORMED)
		return TC_ACT_UNSPEC;
	if (zone == ZONE_OUTSIDE && may_be_known(&p.tuple.destination)) {
		p.address_flags = find_address_flags(&p.tuple.destination);
		if (p.address_flags & (ADDRESS_CLUSTER_IP | ADDRESS_EXTERNAL)) {
			aside = set_aside(&p);
			return aside ? leave_for_vip(ctx, aside, l2, parsed) : TC_ACT_UNSPEC;
		}
	}
	if (parsed != PARSED || p.fragment == OVERLAPPING_FRAGMENT)
		return TC_ACT_UNSPEC;
	if (zone == ZONE_OUTSIDE && is_unallocated(&p.tuple.destination))
		return dropped(REASON_UNALLOCATED);
	if (p.fragment == LATER_FRAGMENT)
		return recall_fragment(&p) ? leave_known(ctx, &p, l2, zone) : TC_ACT_UNSPEC;
	parsed = parse_l4(ctx, &p);
	if (parsed == PARSED_ICMP && is_icmp_error(&p)) {
		aside = set_aside(&p);
		return aside ? icmp_error(ctx, aside, zone, 0) : TC_ACT_UNSPEC;
	}
	if (parsed != PARSED)
		return TC_ACT_UNSPEC;
	/* at loopback: a program of the node asks for a NodePort of it */
	if (p.address_flags & ADDRESS_OWN && !(p.address_flags & ADDRESS_HOST_ONLY) &&
	    is_node_port_number(bpf_ntohs(p.tuple.destination_port))) {
		aside = set_aside(&p);
		return aside && is_own(aside) ? from_node(ctx, aside, l2) : TC_ACT_UNSPEC;
	}
	return leave_known(ctx, &p, l2, zone);
}

SEC("tc")
int vipbee_uplink_in(struct __sk_buff *ctx)
{
	return enter(ctx, ZONE_OUTSIDE, ETHERNET_HEADER);
}

SEC("tc")
int vipbee_uplink_out(struct __sk_buff *ctx)
{
	return leave(ctx, ZONE_OUTSIDE, ETHERNET_HEADER);
}

SEC("tc")
int vipbee_pod_in(struct __sk_buff *ctx)
{
	return enter(ctx, ZONE_POD, ETHERNET_HEADER);
}

SEC("tc")
int vipbee_pod_out(struct __sk_buff *ctx)
{
	return leave(ctx, ZONE_POD, ETHERNET_HEADER);
}

SEC("tc")
int vipbee_uplink_in_l3(struct __sk_buff *ctx)
{
	return enter(ctx, ZONE_OUTSIDE, 0);
}

SEC("tc")
int vipbee_uplink_out_l3(struct __sk_buff *ctx)
{
	return leave(ctx, ZONE_OUTSIDE, 0);
}

SEC("tc")
int vipbee_pod_in_l3(struct __sk_buff *ctx)
{
	return enter(ctx, ZONE_POD, 0);
}

SEC("tc")
int vipbee_pod_out_l3(struct __sk_buff *ctx)
{
	return leave(ctx, ZONE_POD, 0);
}
