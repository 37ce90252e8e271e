/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Packets of this node's own sockets to somebody who is no VIP, where they leave.
 *
 * SNAT asks for the node's sockets before it takes a port (D105). A socket that comes later, on
 * a port that SNAT has towards the same backend, cannot be asked: its connection gets another
 * source port here, and its replies come back like those of any client of the node (D106).
 *
 * UDP answers to a port with the number of a NodePort look like a new flow to that: so what
 * the node sends from there is remembered (R94).
 */
#ifndef VIPBEE_NODE_SOCKET_H
#define VIPBEE_NODE_SOCKET_H

#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>

#include "abi.h"
#include "conntrack.h"
#include "conntrack_halves.h"
#include "count.h"
#include "from_node.h"
#include "icmp.h"
#include "maps.h"
#include "packet.h"
#include "packet_apply.h"
#include "packet_decide.h"
#include "port_marks.h"
#include "refuse.h"
#include "snat.h"

/* Does from_node_socket() have to look? Not at what a device brought in, or we have sent on. */
static __always_inline int may_share_port(struct __sk_buff *ctx, const struct packet *p)
{
	int udp = p->tuple.protocol == IPPROTO_UDP;
	const __u8 *mark;

	if (ctx->ingress_ifindex || ctx->tc_index == SENT_FROM_NODE)
		return 0;
	if (udp && is_node_port_number(bpf_ntohs(p->tuple.source_port)))
		return 1;
	mark = mark_of(p->tuple.protocol, p->tuple.source_port);
	return mark && (*mark == PORT_SHARED || (*mark && (udp || is_clean_syn(p))));
}

/* For is_answer_to_node(); only if this NodePort is served, as others capture nothing. */
static __noinline int expect_answers(const struct packet *p, enum zone zone, struct draft *draft)
{
	struct frontend_key own = {
		.address = p->tuple.source,
		.port = p->tuple.source_port,
		.protocol = p->tuple.protocol,
	};
	struct nat *known;
	int established;

	if (p->fragment == LATER_FRAGMENT || !is_own(p) || !find_node_port(&own))
		return 0;
	if (find_nat(zone, &p->tuple, &established)) /* a backend's, to a client of a Service */
		return 0;
	reverse(&p->tuple, &draft->reply);
	known = bpf_map_lookup_elem(nat_map(zone, 0), &draft->reply);
	if (known) {
		if (known->flags & CONNTRACK_DIRECT && known->last_seen != now_s())
			known->last_seen = now_s();
		return 0;
	}
	__builtin_memset(&draft->nat, 0, sizeof(draft->nat));
	draft->nat.original = p->tuple;
	draft->nat.last_seen = now_s();
	draft->nat.flags = CONNTRACK_DIRECT;
	bpf_map_update_elem(nat_map(zone, 0), &draft->reply, &draft->nat, BPF_NOEXIST);
	return 0;
}

/* Would the replies to this packet be taken for those of a connection that bypasses the stack? */
static __always_inline int is_taken(enum zone zone, const struct flow_tuple *reply)
{
	struct nat *owner;
	int established;

	owner = find_nat(zone, reply, &established);
	return owner && owner->flags & CONNTRACK_REDIRECT &&
	       !reclaim(zone, reply, owner, established, now_s());
}

/* A connection to no Service: its ids are 0, which is nobody's. */
static __always_inline int move_port(struct __sk_buff *ctx, const struct packet *p, enum zone zone,
				     struct draft *draft)
{
	struct conntrack *ct = &draft->conntrack;

	__builtin_memset(ct, 0, sizeof(*ct));
	ct->backend = p->tuple.destination;
	ct->source = p->tuple.source;
	ct->backend_port = p->tuple.destination_port;
	ct->source_port = p->tuple.source_port;
	ct->last_seen = now_s();
	ct->flags = CONNTRACK_NODE_CLIENT | CONNTRACK_SOURCE_NAT | CONNTRACK_REDIRECT;
	if (p->tuple.protocol == IPPROTO_TCP)
		ct->client_seen = SEEN_SYN;
	fill_nat(&draft->nat, &p->tuple, ct);
	if (claim_port(ctx, p, zone, draft)) {
		count_reason(REASON_SNAT_EXHAUSTED);
		return -1;
	}
	ct->source_port = draft->reply.destination_port;
	/* another CPU was first: the next packet follows that one's port */
	if (bpf_map_update_elem(conntrack_map(zone, 0), &p->tuple, ct, BPF_NOEXIST))
		bpf_map_delete_elem(nat_map(zone, 0), &draft->reply);
	mark_port(p->tuple.protocol, p->tuple.source_port, PORT_SHARED);
	return 0;
}

#define NOT_CONCERNED (-2) /* look on; no verdict is that */

/*
 * Of the packet that was set aside. Not static, so that it is verified once and not for all that
 * can lead here; 5.10 takes no pointer to the packet then.
 */
__noinline int from_node_socket(struct __sk_buff *ctx, enum zone zone)
{
	struct flow_tuple *to;
	struct draft *draft;
	struct packet *p;
	__u32 key = 0;

	draft = bpf_map_lookup_elem(&drafts, &key);
	if (!draft)
		return NOT_CONCERNED;
	p = (struct packet *)draft->packet;
	if (is_node_port_number(bpf_ntohs(p->tuple.source_port))) {
		expect_answers(p, zone, draft);
		return NOT_CONCERNED;
	}
	to = (struct flow_tuple *)draft->icmp;
	if (follow_from_node(p, zone, to) && same_address(&to->destination, &p->tuple.destination))
		return translate(ctx, p, p->l2, to, NULL);
	if (p->fragment == LATER_FRAGMENT || (p->tuple.protocol == IPPROTO_TCP && !is_clean_syn(p)))
		return NOT_CONCERNED;
	if (p->replaces)
		forget(zone, &p->tuple);
	reverse(&p->tuple, &draft->reply);
	if (!is_taken(zone, &draft->reply))
		return NOT_CONCERNED;
	p->from_node = 1;
	if (move_port(ctx, p, zone, draft))
		return refuse(ctx, p);
	*to = p->tuple;
	to->source_port = draft->reply.destination_port;
	return translate(ctx, p, p->l2, to, NULL);
}

#endif
