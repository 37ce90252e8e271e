/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A packet that belongs to no connection: is it for a Service, may this client, which backend.
 * The order of the checks is the order of service-semantics: source ranges before policies,
 * policies before the choice.
 */
#ifndef VIPBEE_PACKET_DECIDE_H
#define VIPBEE_PACKET_DECIDE_H

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "atomic.h"
#include "backend.h"
#include "config.h"
#include "count.h"
#include "maps.h"
#include "martian.h"
#include "packet.h"
#include "service.h"
#include "snat.h"

enum verdict {
	VERDICT_PASS,
	VERDICT_DROP,
	VERDICT_REFUSE, /* RST or port unreachable */
	VERDICT_TRANSLATE, /* and on to the stack */
	VERDICT_REDIRECT, /* translate and send */
	VERDICT_TOO_BIG, /* tell the sender; route.mtu */
	VERDICT_EXPIRED, /* tell the sender */
	VERDICT_AGAIN,
};

/* What a connection is made for: of the frontend that was dialled. */
struct dialled {
	__u32 service_id;
	__u8 kind; /* enum frontend_kind */
};

static __always_inline enum verdict drop(enum reason reason)
{
	count_reason(reason);
	return VERDICT_DROP;
}

static __always_inline int source_allowed(const struct flow_tuple *tuple, __u32 service_id)
{
	struct source_range_key key = {
		.prefix_length = 32 + 128,
		.service_id = service_id,
		.address = tuple->source,
	};

	return !!bpf_map_lookup_elem(&source_ranges, &key);
}

/* Policy Local binds ClusterIPs for everybody and the others for clients outside (R43-R51). */
static __always_inline int packet_uses_local_set(const struct frontend *frontend, enum zone zone)
{
	return frontend->flags & FRONTEND_POLICY_LOCAL &&
	       (zone == ZONE_OUTSIDE || frontend->kind == FRONTEND_CLUSTER_IP);
}

static __always_inline enum verdict refuse_empty(const struct frontend *frontend)
{
	struct service_counters *counters = counters_of_service(frontend->service_id);

	if (!frontend->cluster.count) {
		if (counters)
			atomic_add64(&counters->refused, 1);
		count_reason(REASON_NO_ENDPOINT);
		return VERDICT_REFUSE;
	}
	if (counters)
		atomic_add64(&counters->unreachable, 1);
	return drop(REASON_NO_LOCAL_ENDPOINT);
}

static __always_inline int pick_for_packet(const struct packet *p, const struct frontend *frontend,
					   int local, struct choice *choice)
{
	struct slot_range range = local ? frontend->local : frontend->cluster;
	struct affinity_key key = {};

	if (!frontend->affinity_timeout_s)
		return pick_random(range, frontend->service_id, choice);
	key.client = p->tuple.source;
	key.service_id = frontend->service_id;
	key.client_kind = AFFINITY_ADDRESS;
	return pick_with_affinity(&key, frontend, range,
				  local ? BACKEND_IN_LOCAL : BACKEND_IN_CLUSTER, choice);
}

/* Copies the frontend, so that what follows works on one version of it. */
static __always_inline int find_frontend_of(const struct packet *p, struct frontend *out)
{
	__u32 node_flags = p->address_flags & (ADDRESS_NODE | ADDRESS_HOST_ONLY);
	struct frontend_key key = {
		.address = p->tuple.destination,
		.port = p->tuple.destination_port,
		.protocol = p->tuple.protocol,
	};
	const struct frontend *frontend = find_frontend(&key);

	if (!frontend && node_flags == ADDRESS_NODE && is_node_port_number(bpf_ntohs(key.port)))
		frontend = find_node_port(&key);
	if (!frontend)
		return 0;
	*out = *frontend;
	return 1;
}

static __noinline int has_frontend(const struct packet *p)
{
	struct frontend ignored;

	return find_frontend_of(p, &ignored);
}

/* One consistent look at the tables; VERDICT_AGAIN: the agent rewrites them right now. */
static __noinline enum verdict try_to_choose(const struct packet *p, enum zone zone,
					     struct choice *choice, struct dialled *dialled)
{
	__u32 flags = p->address_flags;
	struct frontend frontend;
	int local;

	if (!find_frontend_of(p, &frontend)) {
		if (!(flags & ADDRESS_CLUSTER_IP))
			return VERDICT_PASS;
		if (zone == ZONE_OUTSIDE && !config.cluster_ip_from_outside)
			return drop(REASON_CLUSTER_IP_OUTSIDE);
		if (!p->from_node && is_martian_source(&p->tuple))
			return drop(REASON_MARTIAN);
		count_reason(REASON_UNKNOWN_PORT);
		return VERDICT_REFUSE;
	}
	if (frontend.kind == FRONTEND_CLUSTER_IP && zone == ZONE_OUTSIDE &&
	    !config.cluster_ip_from_outside)
		return drop(REASON_CLUSTER_IP_OUTSIDE);
	if (p->tuple.protocol == IPPROTO_TCP && !is_clean_syn(p)) {
		/* the node's may be older than the Service: a ClusterIP's go nowhere (R36) */
		if (!(flags & ADDRESS_NODE) && (!p->from_node || flags & ADDRESS_CLUSTER_IP))
			return drop(REASON_NO_CONNECTION);
		count_reason(REASON_NODE_CONNECTION);
		return VERDICT_PASS;
	}
	if (!p->from_node && is_martian_source(&p->tuple))
		return drop(REASON_MARTIAN);
	if (frontend.flags & FRONTEND_SOURCE_RANGES &&
	    !source_allowed(&p->tuple, frontend.service_id))
		return drop(REASON_SOURCE_RANGE);
	local = packet_uses_local_set(&frontend, zone);
	if (!(local ? frontend.local.count : frontend.cluster.count))
		return refuse_empty(&frontend);
	dialled->service_id = frontend.service_id;
	dialled->kind = frontend.kind;
	return pick_for_packet(p, &frontend, local, choice) ? VERDICT_TRANSLATE : VERDICT_AGAIN;
}

/* Three times, without a loop: kernels before 6.2 refuse some of the loops clang makes. */
static __always_inline enum verdict choose_backend(const struct packet *p, enum zone zone,
						   struct choice *choice, struct dialled *dialled)
{
	enum verdict verdict = try_to_choose(p, zone, choice, dialled);

	if (verdict == VERDICT_AGAIN)
		verdict = try_to_choose(p, zone, choice, dialled);
	if (verdict == VERDICT_AGAIN)
		verdict = try_to_choose(p, zone, choice, dialled);
	if (verdict != VERDICT_AGAIN)
		return verdict;
	count_reason(REASON_TABLE_RACE);
	return VERDICT_REFUSE;
}

#endif
