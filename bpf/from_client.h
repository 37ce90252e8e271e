/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Client to backend: a packet of a known connection follows it, any other may open one.
 */
#ifndef VIPBEE_FROM_CLIENT_H
#define VIPBEE_FROM_CLIENT_H

#include <linux/pkt_cls.h>

#include "abi.h"
#include "conntrack.h"
#include "conntrack_halves.h"
#include "conntrack_seen.h"
#include "fragment.h"
#include "open_connection.h"
#include "packet.h"
#include "packet_apply.h"
#include "packet_decide.h"
#include "refuse.h"

/* Returns 0 if there is no connection, or one that this packet ends: then `to` is not set. */
static __always_inline struct conntrack *follow_connection(struct packet *p, enum zone zone,
							   __u8 whose, struct flow_tuple *to)
{
	struct conntrack *ct;
	__u32 now = now_s();
	int established;

	ct = find_conntrack(zone, &p->tuple, &established);
	if (!ct)
		return NULL;
	to->source = ct->source;
	to->destination = ct->backend;
	to->source_port = ct->source_port;
	to->destination_port = ct->backend_port;
	to->protocol = p->tuple.protocol;
	if (!is_live(ct, p->tuple.protocol, now))
		goto over;
	if (!is_client_s(ct, whose)) {
		p->foreign = 1;
		return NULL;
	}
	if (p->tuple.protocol == IPPROTO_TCP && is_clean_syn(p) &&
	    (is_reset(ct) || is_finished(ct)))
		goto over; /* the port is used again (D75) */
	if (!keeps_backend(ct, p)) {
		if (p->tuple.protocol == IPPROTO_TCP && !is_clean_syn(p))
			return NULL; /* too early for the client; the backend may still answer */
		goto over;
	}
	if (ct->last_seen != now) {
		ct->last_seen = now;
		if (!keep_reverse(zone, &p->tuple, ct, established))
			goto over;
	}
	if (note_client(ct, p, established) && !established)
		promote(zone, &p->tuple);
	return ct;
over:
	p->replaces |= 1 << zone; /* by what open_connection() makes of this packet, if anything */
	return NULL;
}

static __noinline int follow_crossing(struct packet *p, enum zone zone, struct flow_tuple *to)
{
	return !!follow_connection(p, zone, CONNTRACK_CROSSING, to);
}

static __always_inline int from_client(struct __sk_buff *ctx, struct packet *parsed, __u32 l2,
				       enum zone zone)
{
	struct route route = {};
	struct flow_tuple to;
	struct packet *p = parsed;
	struct conntrack *ct;

	ct = follow_connection(p, zone, 0, &to);
	if (ct)
		return ct->flags & CONNTRACK_REDIRECT ? forward(ctx, p, l2, &to)
						      : translate(ctx, p, l2, &to, NULL);
	p = set_aside(p);
	if (!p)
		return dropped(REASON_FLOW_NOT_STORED);
	if (p->foreign)
		return dropped(REASON_MARTIAN);
	if (p->address_flags & ADDRESS_CLUSTER_IP && follow_crossing(p, other_zone(zone), &to))
		return forward(ctx, p, l2, &to);
	if (p->fragment == LATER_FRAGMENT)
		return p->address_flags & (ADDRESS_CLUSTER_IP | ADDRESS_EXTERNAL) && has_frontend(p)
			       ? dropped(REASON_FRAGMENT_UNKNOWN)
			       : passed(ctx, p);
	switch (open_connection(ctx, p, zone, &to, &route)) {
	case VERDICT_TRANSLATE:
		return translate(ctx, p, l2, &to, NULL);
	case VERDICT_REDIRECT:
		return translate(ctx, p, l2, &to, &route);
	case VERDICT_DROP:
		return TC_ACT_SHOT;
	case VERDICT_REFUSE:
		return refuse(ctx, p);
	case VERDICT_TOO_BIG:
		return too_big(ctx, p, &route);
	case VERDICT_EXPIRED:
		return expired(ctx, p);
	default:
		return passed(ctx, p);
	}
}

#endif
