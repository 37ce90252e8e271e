/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Programs of this node that no socket hook has served: sockets older than their Service,
 * clients inside the kernel, nodes without the socket layer, and what the socket layer leaves
 * to packets. Their packets are met where they leave, by an uplink or by loopback (NodePorts
 * and VIPs that are addresses of the node), translated and sent where routing says; the
 * replies come in by a device and are restored there, or at loopback if the backend is a
 * program of this node too.
 *
 * Whatever else would leave for a ClusterIP is dropped (R37).
 */
#ifndef VIPBEE_FROM_NODE_H
#define VIPBEE_FROM_NODE_H

#include <linux/pkt_cls.h>

#include "abi.h"
#include "conntrack.h"
#include "echo.h"
#include "fib.h"
#include "fragment.h"
#include "from_client.h"
#include "icmp.h"
#include "open_connection.h"
#include "packet.h"
#include "packet_apply.h"
#include "packet_decide.h"
#include "refuse.h"
#include "to_node.h"

/* In tc_index: meets uplink_out again where it is sent, and is right as it is. */
#define SENT_FROM_NODE 0x7662

/* Too large for the stack; lives in struct draft. */
struct node_work {
	struct flow_tuple to;
	struct route route;
};

/*
 * The stack has given the packet its route to the VIP. A packet that waits for a neighbour is
 * sent by its route when that is found, whatever next hop bpf_redirect_neigh() was given. No
 * helper takes a route off but this one, which puts an empty tunnel's in its place; only
 * devices that take their tunnel from the packet look at that.
 */
static __noinline int forget_route(struct __sk_buff *ctx)
{
	struct bpf_tunnel_key none = {};

	return bpf_skb_set_tunnel_key(ctx, &none, sizeof(none), 0);
}

static __always_inline int send_from_node(struct __sk_buff *ctx, const struct packet *p, __u32 l2,
					  struct node_work *work)
{
	const struct flow_tuple *to = &work->to;
	int verdict;

	switch (find_route(ctx, p, &to->source, &to->destination, &work->route)) {
	case ROUTE_FOUND:
		if (forget_route(ctx))
			return dropped(REASON_REWRITE_FAILED);
		ctx->tc_index = SENT_FROM_NODE;
		return translate(ctx, p, l2, to, &work->route);
	case ROUTE_TOO_BIG:
		return too_big(ctx, p, &work->route);
	case ROUTE_LOCAL:
		verdict = translate(ctx, p, l2, to, NULL);
		if (verdict != TC_ACT_UNSPEC || ctx->ifindex == LOOPBACK_IFINDEX)
			return verdict;
		return into_loopback(ctx, p, l2);
	default:
		return dropped(REASON_NO_ROUTE);
	}
}

static __noinline int follow_from_node(struct packet *p, enum zone zone, struct flow_tuple *to)
{
	return !!follow_connection(p, zone, CONNTRACK_NODE_CLIENT, to);
}

static __noinline int from_node(struct __sk_buff *ctx, struct packet *p, __u32 l2)
{
	struct node_work *work;
	struct draft *draft;
	__u32 key = 0;

	draft = bpf_map_lookup_elem(&drafts, &key);
	if (!draft)
		return TC_ACT_SHOT;
	_Static_assert(sizeof(*work) <= sizeof(draft->icmp), "struct draft has room");
	work = (struct node_work *)draft->icmp;
	__builtin_memset(work, 0, sizeof(*work));
	p->from_node = 1;
	if (follow_from_node(p, ZONE_OUTSIDE, &work->to) ||
	    follow_from_node(p, ZONE_POD, &work->to))
		return send_from_node(ctx, p, l2, work);
	if (p->fragment == LATER_FRAGMENT)
		return p->address_flags & (ADDRESS_CLUSTER_IP | ADDRESS_EXTERNAL) && has_frontend(p)
			       ? dropped(REASON_FRAGMENT_UNKNOWN)
			       : TC_ACT_UNSPEC;
	/* policies bind it like a pod (R51) */
	switch (open_connection(ctx, p, ZONE_POD, &work->to, &work->route)) {
	case VERDICT_TRANSLATE:
	case VERDICT_REDIRECT:
		return send_from_node(ctx, p, l2, work);
	case VERDICT_DROP:
		return swallow(ctx, p, l2);
	case VERDICT_REFUSE:
		return refuse(ctx, p);
	case VERDICT_TOO_BIG:
		return too_big(ctx, p, &work->route);
	default:
		if (p->fragment && p->address_flags & ADDRESS_EXTERNAL)
			remember_fragment(p);
		return TC_ACT_UNSPEC;
	}
}

/* Of a VIP's packet that leaves: of a program of this node, not forwarded for somebody. */
static __always_inline int is_own(const struct packet *p)
{
	return !!(find_address_flags(&p->tuple.source) & ADDRESS_SNAT);
}

/* Leaving for a ClusterIP, or of this node's own for another VIP; `parsed`: parse_l3() said. */
static __always_inline int leave_for_vip(struct __sk_buff *ctx, struct packet *p, __u32 l2,
					 enum parsed parsed)
{
	int is_cluster_ip = p->address_flags & ADDRESS_CLUSTER_IP;

	if (!is_own(p)) /* from a device without programs of ours */
		return is_cluster_ip ? dropped(REASON_CLUSTER_IP_OUTSIDE) : TC_ACT_UNSPEC;
	if (parsed == PARSED_TOO_MANY_HEADERS)
		return dropped(REASON_EXTENSION_HEADERS);
	if (p->fragment == OVERLAPPING_FRAGMENT)
		return dropped(REASON_FRAGMENT_TINY);
	if (p->fragment == LATER_FRAGMENT) {
		if (p->tuple.protocol != IPPROTO_TCP && p->tuple.protocol != IPPROTO_UDP)
			return is_cluster_ip ? dropped(REASON_PROTOCOL) : TC_ACT_UNSPEC;
		if (!recall_fragment(p))
			return dropped(REASON_FRAGMENT_UNKNOWN);
		return from_node(ctx, p, l2);
	}
	switch (parse_l4(ctx, p)) {
	case PARSED:
		return from_node(ctx, p, l2);
	case PARSED_MALFORMED:
		return dropped(p->fragment ? REASON_FRAGMENT_TINY : REASON_MALFORMED);
	case PARSED_ICMP:
		if (!is_cluster_ip)
			return TC_ACT_UNSPEC;
		return dropped(is_echo_request(p) ? REASON_ECHO_IGNORED : REASON_ICMP_UNKNOWN);
	default:
		return is_cluster_ip ? dropped(REASON_PROTOCOL) : TC_ACT_UNSPEC;
	}
}

#endif
