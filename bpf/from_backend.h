/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Backend to client: the reply of a known connection shows the frontend again.
 */
#ifndef VIPBEE_FROM_BACKEND_H
#define VIPBEE_FROM_BACKEND_H

#include <linux/pkt_cls.h>

#include "abi.h"
#include "conntrack.h"
#include "conntrack_halves.h"
#include "conntrack_seen.h"
#include "packet.h"
#include "packet_apply.h"
#include "to_node.h"

/* `redirected`: which kind of connection is restored at this hook. */
static __always_inline int from_backend(struct __sk_buff *ctx, struct packet *p, __u32 l2,
					enum zone zone, int redirected)
{
	struct flow_tuple to;
	struct conntrack *ct;
	struct nat *nat;
	int established, where;
	__u32 now;

	nat = find_nat(zone, &p->tuple, &established);
	if (!nat || !(nat->flags & CONNTRACK_REDIRECT) != !redirected)
		return TC_ACT_UNSPEC;
	now = now_s();
	if (!redirected && nat->flags & CONNTRACK_DIRECT) {
		if (nat->last_seen != now)
			nat->last_seen = now;
		return TC_ACT_UNSPEC;
	}
	to.source = nat->original.destination;
	to.destination = nat->original.source;
	to.source_port = nat->original.destination_port;
	to.destination_port = nat->original.source_port;
	to.protocol = p->tuple.protocol;
	ct = find_conntrack(zone, &nat->original, &where);
	if (!ct) {
		restore_forward(zone, &p->tuple, nat, established);
	} else {
		if (!belongs_to(nat, ct) || !is_live(ct, p->tuple.protocol, now))
			return TC_ACT_UNSPEC;
		if (!redirected && is_of_direct_connection(ct, p)) {
			leave_to_direct(zone, &p->tuple, nat);
			return TC_ACT_UNSPEC;
		}
		note_backend(ct, p, where);
		if (ct->last_seen != now)
			ct->last_seen = now;
	}
	if (redirected && nat->flags & CONNTRACK_NODE_CLIENT)
		return to_program(ctx, p, l2, &to);
	return redirected ? forward(ctx, p, l2, &to) : translate(ctx, p, l2, &to, NULL);
}

#endif
