/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What was decided, done to the packet: translate, send on by routing, answer the sender, drop.
 */
#ifndef VIPBEE_PACKET_APPLY_H
#define VIPBEE_PACKET_APPLY_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "conntrack.h"
#include "count.h"
#include "early_fragment.h"
#include "fib.h"
#include "fragment.h"
#include "maps.h"
#include "packet.h"
#include "refuse.h"
#include "rewrite.h"

static __always_inline int dropped(enum reason reason)
{
	count_reason(reason);
	return TC_ACT_SHOT;
}

/*
 * Not ours, at an address that is: the other fragments are to pass as well (R40). Those that
 * came earlier have passed already at an address of the node.
 */
static __always_inline int passed(struct __sk_buff *ctx, const struct packet *p)
{
	if (p->fragment == FIRST_FRAGMENT)
		remember_fragment(p);
	if (p->fragment && p->address_flags & ADDRESS_EXTERNAL && release_early(ctx, p))
		return dropped(REASON_REWRITE_FAILED);
	return TC_ACT_UNSPEC;
}

/* `route` is NULL if the packet goes on to the stack. */
static __always_inline int translate(struct __sk_buff *ctx, const struct packet *p, __u32 l2,
				     const struct flow_tuple *to, struct route *route)
{
	int result;

	if (p->fragment == FIRST_FRAGMENT)
		remember_fragment(p);
	if (p->fragment && release_early(ctx, p))
		return dropped(REASON_REWRITE_FAILED);
	if (rewrite(ctx, p, l2, to, route && !p->from_node)) /* the node's own: its first hop */
		return dropped(REASON_REWRITE_FAILED);
	if (!route)
		return TC_ACT_UNSPEC;
	result = send_by(ctx, l2, route);
	return result < 0 ? dropped(REASON_REWRITE_FAILED) : result;
}

/*
 * A copy in memory the verifier does not track: what is rare is verified once, not once
 * for each combination of family, protocol and headers that can lead there.
 */
static __always_inline struct packet *set_aside(const struct packet *p)
{
	__u32 key = 0;
	struct draft *draft = bpf_map_lookup_elem(&drafts, &key);

	_Static_assert(sizeof(*p) <= sizeof(draft->packet), "struct draft has room");
	if (draft)
		__builtin_memcpy(draft->packet, p, sizeof(*p));
	return draft ? (struct packet *)draft->packet : NULL;
}

static __always_inline int expired(struct __sk_buff *ctx, const struct packet *p)
{
	p = set_aside(p);
	count_reason(REASON_TTL_EXPIRED);
	if (!p)
		return TC_ACT_SHOT;
	return send_error(ctx, p, ANSWER_TIME_EXCEEDED, 0);
}

static __always_inline int too_big(struct __sk_buff *ctx, const struct packet *p,
				   const struct route *route)
{
	__u32 mtu = route->mtu;
	const struct device *device;

	if (!mtu) { /* this kernel does not say: has_fib_mtu */
		device = device_of(route->ifindex);
		mtu = device ? device->mtu : 0;
	}
	count_reason(REASON_TOO_BIG);
	p = set_aside(p);
	return mtu && p ? send_error(ctx, p, ANSWER_TOO_BIG, mtu) : TC_ACT_SHOT;
}

/* A packet of a known connection that bypasses the stack. */
static __always_inline int forward(struct __sk_buff *ctx, const struct packet *p, __u32 l2,
				   const struct flow_tuple *to)
{
	struct route route;

	if (p->ttl <= 1)
		return expired(ctx, p);
	switch (find_route(ctx, p, &to->source, &to->destination, &route)) {
	case ROUTE_FOUND:
		return translate(ctx, p, l2, to, &route);
	case ROUTE_TOO_BIG:
		return too_big(ctx, p, &route);
	default:
		return dropped(REASON_NO_ROUTE);
	}
}

#endif
