/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a socket hook does with the address it was given: pass, translate to one backend,
 * refuse. Decides on table values; writes nothing but counters and affinity.
 */
#ifndef VIPBEE_SOCK_DECIDE_H
#define VIPBEE_SOCK_DECIDE_H

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "atomic.h"
#include "backend.h"
#include "config.h"
#include "count.h"
#include "service.h"
#include "socket_state.h"

enum outcome {
	OUTCOME_PASS, /* not ours, or left to the packet layer */
	OUTCOME_TRANSLATE,
	OUTCOME_REFUSE, /* ECONNREFUSED (R35, R37) */
	OUTCOME_UNREACHABLE, /* EHOSTUNREACH (R44) */
	OUTCOME_RACE, /* never leaves this file: look again */
};

/* Attempts at a consistent read while the agent rewrites the very Service. */
#define TABLE_ATTEMPTS 3

static __always_inline int in_node_netns(void *ctx)
{
	__u64 node = config.node_netns_cookie;

	return bpf_get_netns_cookie(ctx) == (node ? node : bpf_get_netns_cookie(NULL));
}

/* Copies the frontend, so that what follows works on one version of it. */
static __always_inline int find_dialled(struct bpf_sock_addr *ctx,
					const struct frontend_key *dialled, __u32 *flags,
					struct frontend *out)
{
	const struct frontend *frontend = find_frontend(dialled);

	*flags = 0;
	if (!frontend) {
		*flags = find_address_flags(&dialled->address);
		if (*flags & ADDRESS_NODE && (!(*flags & ADDRESS_HOST_ONLY) || in_node_netns(ctx)))
			frontend = find_node_port(dialled);
		if (!frontend)
			return 0;
	}
	*out = *frontend;
	return 1;
}

/* Dialled from inside, only a ClusterIP obeys policy Local; others short-circuit (R50, R51). */
static __always_inline int uses_local_set(const struct frontend *frontend)
{
	return frontend->kind == FRONTEND_CLUSTER_IP && frontend->flags & FRONTEND_POLICY_LOCAL;
}

static __always_inline int pick_backend(struct bpf_sock_addr *ctx, const struct frontend *frontend,
					struct choice *out)
{
	int local = uses_local_set(frontend);
	struct slot_range range = local ? frontend->local : frontend->cluster;
	struct affinity_key key = {};
	__u64 cookie;

	if (!frontend->affinity_timeout_s)
		return pick_random(range, frontend->service_id, out);
	cookie = bpf_get_netns_cookie(ctx);
	key.client.word[0] = cookie >> 32;
	key.client.word[1] = (__u32)cookie;
	key.service_id = frontend->service_id;
	key.client_kind = AFFINITY_NETNS;
	return pick_with_affinity(&key, frontend, range,
				  local ? BACKEND_IN_LOCAL : BACKEND_IN_CLUSTER, out);
}

/* Programs of the node need none: what they send has an address of the node already. */
static __always_inline int is_masqueraded(void *ctx, const struct frontend *frontend)
{
	return config.masquerade_all && frontend->kind == FRONTEND_CLUSTER_IP &&
	       frontend->cluster.count && !in_node_netns(ctx);
}

/*
 * What only a packet can be judged by, while packet hooks run: its source (R80), and a drop
 * that a retransmitted SYN outlives as soon as there is an endpoint (R44). And what only a
 * packet can be given: another source (R56).
 */
static __always_inline int is_left_to_packets(void *ctx, const struct frontend *frontend)
{
	if (!config.packet_lb)
		return 0;
	return frontend->flags & FRONTEND_SOURCE_RANGES ||
	       (uses_local_set(frontend) && !frontend->local.count && frontend->cluster.count) ||
	       is_masqueraded(ctx, frontend);
}

static __always_inline enum outcome refuse_new(const struct frontend *frontend)
{
	struct service_counters *counters = counters_of_service(frontend->service_id);

	if (!frontend->cluster.count) {
		if (counters)
			atomic_add64(&counters->refused, 1);
		count_reason(REASON_NO_ENDPOINT);
		return OUTCOME_REFUSE;
	}
	if (counters)
		atomic_add64(&counters->unreachable, 1);
	count_reason(REASON_NO_LOCAL_ENDPOINT);
	return OUTCOME_UNREACHABLE;
}

/*
 * One attempt; RACE: what was read does not fit together.
 *
 * Out of line and not unrolled: the hooks run cold, between thousands of instructions of
 * the network stack, so they cost what they touch, and that includes their own code. And
 * an attempt leaves nothing behind but `choice`: otherwise the verifier goes through the
 * next one for each way on which this one can fail, and through the third for each of those
 * (a tenth of the instructions, measured).
 */
static __noinline enum outcome try_to_decide(struct bpf_sock_addr *ctx,
					     const struct frontend_key *dialled,
					     const struct kept_backend *kept, struct choice *choice,
					     __u32 *service_id)
{
	struct frontend frontend;
	__u32 flags;

	if (!find_dialled(ctx, dialled, &flags, &frontend)) {
		if (!(flags & ADDRESS_CLUSTER_IP))
			return OUTCOME_PASS;
		count_reason(REASON_UNKNOWN_PORT);
		return OUTCOME_REFUSE;
	}
	*service_id = frontend.service_id;
	if (kept && take_kept_backend(kept, frontend.service_id, choice))
		return OUTCOME_TRANSLATE;
	if (is_left_to_packets(ctx, &frontend))
		return OUTCOME_PASS;
	if (!(uses_local_set(&frontend) ? frontend.local.count : frontend.cluster.count))
		return refuse_new(&frontend);
	return pick_backend(ctx, &frontend, choice) ? OUTCOME_TRANSLATE : OUTCOME_RACE;
}

/*
 * `kept` may be NULL: then always a new choice. Otherwise a flow to the same Service
 * stays where it is while its backend serves, whatever the sets say now (R110).
 */
static __always_inline enum outcome decide(struct bpf_sock_addr *ctx,
					   const struct frontend_key *dialled,
					   const struct kept_backend *kept, struct choice *choice,
					   __u32 *service_id)
{
	enum outcome outcome;
	int attempt;

#pragma clang loop unroll(disable)
	for (attempt = 0; attempt < TABLE_ATTEMPTS; attempt++) {
		outcome = try_to_decide(ctx, dialled, kept, choice, service_id);
		if (outcome != OUTCOME_RACE)
			return outcome;
	}
	count_reason(REASON_TABLE_RACE);
	return OUTCOME_REFUSE;
}

#endif
