/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Places for the flows of TCP sockets: the fast half of socket_state.h. Measured on 6.18:
 * creating socket storage takes 780 ns, more than all the rest of a connection; taking a
 * place takes 60 ns, most of it one cache miss.
 *
 * A socket's place is its cookie modulo TCP_PLACES. tcp_claims says who has it:
 *
 *   0x0000_0   nobody
 *   0x0000_1   the socket that tcp_flows names by its cookie, until it is released
 *   0x0002_1   ... and two more sockets that belong here live in socket storage
 *
 * So nothing is evicted and nothing collides; who comes second is only slower. Claims are
 * apart from flows because every socket of the node is looked up here when it goes, and
 * for most of them the answer is 0, in a line that its neighbours have just used.
 *
 * A place whose release was missed (hooks detached meanwhile) stays taken, which costs
 * speed only: cookies are never used twice.
 */
#ifndef VIPBEE_TCP_FLOW_H
#define VIPBEE_TCP_FLOW_H

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "atomic.h"
#include "maps.h"

#define CLAIM 1
#define CAME_SECOND (1 << 16)

/* Neither is ever NULL, but the verifier does not know. */
static __always_inline struct tcp_flow *tcp_place(__u64 cookie)
{
	__u32 index = (__u32)cookie & (TCP_PLACES - 1);

	return bpf_map_lookup_elem(&tcp_flows, &index);
}

static __always_inline __u32 *tcp_claims_on_place(__u64 cookie)
{
	__u32 index = ((__u32)cookie & (TCP_PLACES - 1)) / CLAIMS_PER_LINE;
	struct tcp_claims *line = bpf_map_lookup_elem(&tcp_claims, &index);

	return line ? &line->of[cookie & (CLAIMS_PER_LINE - 1)] : NULL;
}

/*
 * Take the place for `cookie`; 0 if another socket has it. 5.10 knows no compare and
 * exchange, and none is needed: of two that add their claim at the same time, the later
 * one reads both, so at most one reads its own alone (both may come second).
 */
static __always_inline int claim_place(struct tcp_flow *place, __u32 *claims, __u64 cookie)
{
	atomic_add32(claims, CLAIM);
	if ((*(volatile __u32 *)claims & (CAME_SECOND - 1)) != CLAIM) {
		atomic_add32(claims, CAME_SECOND - CLAIM);
		return 0;
	}
	place->flow.service_id = 0;
	place->cookie = cookie;
	return 1;
}

/* The last thing its owner does; another CPU may write to the place from here on. */
static __always_inline void give_up_place(__u32 *claims)
{
	atomic_add32(claims, -CLAIM);
}

/* A socket that came second is released. */
static __always_inline void give_up_second(__u32 *claims)
{
	atomic_add32(claims, -CAME_SECOND);
}

#endif
