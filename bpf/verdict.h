/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A new connection: is it for a Service, may this client, which backend, by which way.
 * The order of the checks is the order of service-semantics: source ranges before
 * policies, policies before the choice.
 */
#ifndef VIPBEE_VERDICT_H
#define VIPBEE_VERDICT_H

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "addr.h"
#include "backend.h"
#include "config.h"
#include "conntrack.h"
#include "count.h"
#include "fib.h"
#include "maps.h"
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

static __always_inline enum verdict drop(enum reason reason)
{
	count_reason(reason);
	return VERDICT_DROP;
}

static __always_inline __u32 first_byte(const struct address *a)
{
	return bpf_ntohl(a->word[is_v4(a) ? 3 : 0]) >> 24;
}

static __always_inline int is_loopback(const struct address *a)
{
	if (is_v4(a))
		return first_byte(a) == 127;
	return !a->word[0] && !a->word[1] && !a->word[2] && a->word[3] == bpf_htonl(1);
}

/* A source nobody can answer to, or that only this node may use (D146, D150). */
static __always_inline int is_martian_source(const struct flow_tuple *tuple)
{
	const struct address *source = &tuple->source;
	__u32 byte = first_byte(source);

	if (is_v4(source)) {
		if (byte == 0 || byte >= 224)
			return 1;
	} else if (byte == 0xff ||
		   !(source->word[0] | source->word[1] | source->word[2] | source->word[3])) {
		return 1;
	}
	return is_loopback(source) || same_address(source, &tuple->destination) ||
	       find_address_flags(source) &
		       (ADDRESS_OWN | ADDRESS_SNAT | ADDRESS_CLUSTER_IP | ADDRESS_EXTERNAL);
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
			__sync_fetch_and_add(&counters->refused, 1);
		count_reason(REASON_NO_ENDPOINT);
		return VERDICT_REFUSE;
	}
	if (counters)
		__sync_fetch_and_add(&counters->unreachable, 1);
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
					     struct choice *choice, __u32 *service_id)
{
	__u32 flags = p->address_flags;
	struct frontend frontend;
	int local;

	if (!find_frontend_of(p, &frontend)) {
		if (!(flags & ADDRESS_CLUSTER_IP))
			return VERDICT_PASS;
		if (zone == ZONE_OUTSIDE && !config.cluster_ip_from_outside)
			return drop(REASON_CLUSTER_IP_OUTSIDE);
		if (is_martian_source(&p->tuple))
			return drop(REASON_MARTIAN);
		count_reason(REASON_UNKNOWN_PORT);
		return VERDICT_REFUSE;
	}
	if (frontend.kind == FRONTEND_CLUSTER_IP && zone == ZONE_OUTSIDE &&
	    !config.cluster_ip_from_outside)
		return drop(REASON_CLUSTER_IP_OUTSIDE);
	if (p->tuple.protocol == IPPROTO_TCP && !is_clean_syn(p)) {
		if (!(flags & ADDRESS_NODE))
			return drop(REASON_NO_CONNECTION);
		count_reason(REASON_NODE_CONNECTION);
		return VERDICT_PASS;
	}
	if (is_martian_source(&p->tuple))
		return drop(REASON_MARTIAN);
	if (frontend.flags & FRONTEND_SOURCE_RANGES &&
	    !source_allowed(&p->tuple, frontend.service_id))
		return drop(REASON_SOURCE_RANGE);
	local = packet_uses_local_set(&frontend, zone);
	if (!(local ? frontend.local.count : frontend.cluster.count))
		return refuse_empty(&frontend);
	*service_id = frontend.service_id;
	return pick_for_packet(p, &frontend, local, choice) ? VERDICT_TRANSLATE : VERDICT_AGAIN;
}

/* Three times, without a loop: kernels before 6.2 refuse some of the loops clang makes. */
static __always_inline enum verdict choose_backend(const struct packet *p, enum zone zone,
						   struct choice *choice, __u32 *service_id)
{
	enum verdict verdict = try_to_choose(p, zone, choice, service_id);

	if (verdict == VERDICT_AGAIN)
		verdict = try_to_choose(p, zone, choice, service_id);
	if (verdict == VERDICT_AGAIN)
		verdict = try_to_choose(p, zone, choice, service_id);
	if (verdict != VERDICT_AGAIN)
		return verdict;
	count_reason(REASON_TABLE_RACE);
	return VERDICT_REFUSE;
}

static __always_inline int is_on_node(__u32 backend_id)
{
	const struct backend *backend = bpf_map_lookup_elem(&backends, &backend_id);

	return backend && backend->flags & BACKEND_ON_NODE;
}

/*
 * From outside: a backend on this node gets the packet with the client's own address, any
 * other one by SNAT and redirect, because a packet with our source cannot go through our
 * own stack. From a pod: through the stack, unless the pod was given itself (R59).
 */
static __always_inline enum verdict choose_path(struct __sk_buff *ctx, const struct packet *p,
						enum zone zone, const struct choice *choice,
						struct conntrack *ct, struct route *route)
{
	const struct address *address;
	const struct device *device;
	enum route_result result;

	ct->source = p->tuple.source;
	if (zone == ZONE_OUTSIDE ? is_on_node(choice->backend_id)
				 : !same_address(&choice->address, &p->tuple.source))
		return VERDICT_TRANSLATE;
	result = find_route(ctx, p, &p->tuple.source, &choice->address, route);
	if (result == ROUTE_LOCAL)
		return VERDICT_TRANSLATE;
	if (result == ROUTE_NONE)
		return drop(REASON_NO_ROUTE);
	device = device_of(route->ifindex);
	if (zone == ZONE_OUTSIDE && device && device->flags & DEVICE_POD)
		return VERDICT_TRANSLATE;
	if (result == ROUTE_TOO_BIG)
		return VERDICT_TOO_BIG;
	if (p->ttl <= 1)
		return VERDICT_EXPIRED;
	address = device ? device_address(device, p->family) : NULL;
	if (!address)
		return drop(REASON_SNAT_NO_ADDRESS);
	ct->source = *address;
	ct->flags = CONNTRACK_SOURCE_NAT | CONNTRACK_REDIRECT;
	return VERDICT_REDIRECT;
}

/*
 * The tuple the packet gets, and both halves of the connection. `route` is filled for
 * VERDICT_REDIRECT and VERDICT_TOO_BIG.
 */
static __noinline int open_connection(struct __sk_buff *ctx, const struct packet *p, enum zone zone,
				      struct flow_tuple *to, struct route *route)
{
	struct choice choice = {};
	struct conntrack *other;
	enum verdict verdict;
	struct draft *draft;
	struct conntrack *ct;
	__u32 service_id = 0;
	__u32 key = 0;
	int established;

	verdict = choose_backend(p, zone, &choice, &service_id);
	if (verdict != VERDICT_TRANSLATE)
		return verdict;
	draft = bpf_map_lookup_elem(&drafts, &key);
	if (!draft)
		return drop(REASON_FLOW_NOT_STORED);
	ct = &draft->conntrack;
	__builtin_memset(ct, 0, sizeof(*ct));
	verdict = choose_path(ctx, p, zone, &choice, ct, route);
	if (verdict != VERDICT_TRANSLATE && verdict != VERDICT_REDIRECT)
		return verdict;
	ct->backend = choice.address;
	ct->backend_port = choice.port;
	ct->source_port = p->tuple.source_port;
	ct->service_id = service_id;
	ct->backend_id = choice.backend_id;
	ct->generation = choice.generation;
	ct->last_seen = now_s();
	if (p->tuple.protocol == IPPROTO_TCP)
		ct->client_seen = SEEN_SYN;
	if (p->replaces)
		forget(zone, &p->tuple);
	reply_of(ct, p->tuple.protocol, &draft->reply);
	fill_nat(&draft->nat, &p->tuple, ct);
	if (claim_port(ctx, p, zone, draft)) {
		count_reason(REASON_SNAT_EXHAUSTED);
		return VERDICT_REFUSE;
	}
	ct->source_port = draft->reply.destination_port;
	if (ct->source_port != p->tuple.source_port)
		ct->flags |= CONNTRACK_SOURCE_NAT;
	if (bpf_map_update_elem(conntrack_map(zone, 0), &p->tuple, ct, BPF_NOEXIST)) {
		/* Another CPU was first (D91, D110): follow it, and give our port back. */
		bpf_map_delete_elem(nat_map(zone, 0), &draft->reply);
		other = find_conntrack(zone, &p->tuple, &established);
		if (!other)
			return drop(REASON_FLOW_NOT_STORED);
		ct = other;
	} else if (p->tuple.protocol == IPPROTO_UDP) {
		/* as in the socket layer: nobody tells when it ends */
		count_opened(service_id, choice.backend_id);
		count_closed(service_id, choice.backend_id, choice.generation);
	}
	to->source = ct->source;
	to->destination = ct->backend;
	to->source_port = ct->source_port;
	to->destination_port = ct->backend_port;
	return verdict;
}

#endif
