/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A new connection: its backend, the way there, what the backend sees as its source, and both
 * halves of what is remembered.
 */
#ifndef VIPBEE_OPEN_CONNECTION_H
#define VIPBEE_OPEN_CONNECTION_H

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "addr.h"
#include "conntrack.h"
#include "conntrack_halves.h"
#include "count.h"
#include "fib.h"
#include "maps.h"
#include "packet.h"
#include "packet_decide.h"
#include "snat.h"

static __always_inline int is_on_node(__u32 backend_id)
{
	const struct backend *backend = bpf_map_lookup_elem(&backends, &backend_id);

	return backend && backend->flags & BACKEND_ON_NODE;
}

/* Which zone's hook gets the replies to what is sent by this device. */
static __always_inline enum zone zone_of_replies(const struct choice *choice,
						 const struct device *device)
{
	return is_on_node(choice->backend_id) || (device && device->flags & DEVICE_POD)
		       ? ZONE_POD
		       : ZONE_OUTSIDE;
}

/*
 * From outside: a backend on this node gets the packet with the client's own address, any
 * other one by SNAT and redirect, because a packet with our source cannot go through our
 * own stack. From a pod: through the stack, unless the pod was given itself (R59).
 *
 * Where ClusterIPs are masqueraded, all their backends get it the second way (R56), but for
 * programs of this node: kube-proxy masquerades what leaves, and so do we. Such a connection
 * is kept in the zone that its replies come in by, where no other may have their tuple.
 */
static __always_inline enum verdict choose_path(struct __sk_buff *ctx, const struct packet *p,
						__u8 kind, const struct choice *choice,
						struct conntrack *ct, struct route *route,
						enum zone *zone)
{
	int masquerade = config.masquerade_all && kind == FRONTEND_CLUSTER_IP;
	int from_outside = *zone == ZONE_OUTSIDE;
	int hairpin = !from_outside && same_address(&choice->address, &p->tuple.source);
	const struct address *address;
	const struct device *device;
	enum route_result result;

	ct->source = p->tuple.source;
	if (!masquerade && (from_outside ? is_on_node(choice->backend_id) : !hairpin))
		return VERDICT_TRANSLATE;
	result = find_route(ctx, p, &p->tuple.source, &choice->address, route);
	if (result == ROUTE_LOCAL)
		return VERDICT_TRANSLATE;
	if (result == ROUTE_NONE)
		return drop(REASON_NO_ROUTE);
	device = device_of(route->ifindex);
	if (!masquerade && from_outside && device && device->flags & DEVICE_POD)
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
	if (masquerade && !hairpin && *zone != zone_of_replies(choice, device)) {
		*zone = other_zone(*zone);
		ct->flags |= CONNTRACK_CROSSING;
	}
	return VERDICT_REDIRECT;
}

/*
 * Of a program of this node: always by routing, since the stack has sent the packet elsewhere.
 * `zone` becomes the one of the hook that the reply comes in by.
 */
static __always_inline enum verdict
choose_path_from_node(struct __sk_buff *ctx, const struct packet *p, const struct choice *choice,
		      struct conntrack *ct, struct route *route, enum zone *zone)
{
	const struct address *address;
	enum verdict verdict = VERDICT_TRANSLATE;
	const struct device *device;
	enum route_result result;
	__u32 flags;

	ct->source = p->tuple.source;
	ct->flags = CONNTRACK_NODE_CLIENT;
	*zone = ZONE_OUTSIDE;
	result = find_route(ctx, p, &p->tuple.source, &choice->address, route);
	if (result == ROUTE_NONE)
		return drop(REASON_NO_ROUTE);
	if (result == ROUTE_TOO_BIG)
		return VERDICT_TOO_BIG;
	if (result == ROUTE_FOUND) {
		verdict = VERDICT_REDIRECT;
		ct->flags |= CONNTRACK_REDIRECT;
	} else {
		route->ifindex = LOOPBACK_IFINDEX;
	}
	device = device_of(route->ifindex);
	if (result == ROUTE_FOUND)
		*zone = zone_of_replies(choice, device);
	/* another node answers to an address of the device it got the packet from */
	flags = find_address_flags(&p->tuple.source);
	if (!(flags & (ADDRESS_CLUSTER_IP | ADDRESS_EXTERNAL)) &&
	    (*zone == ZONE_POD || result == ROUTE_LOCAL || route->ifindex == ctx->ifindex))
		return verdict;
	address = device ? device_address(device, p->family) : NULL;
	if (!address)
		return drop(REASON_SNAT_NO_ADDRESS);
	ct->source = *address;
	ct->flags |= CONNTRACK_SOURCE_NAT;
	return verdict;
}

/* Has the node sent a datagram from this port to the one that sends now? See node_socket.h. */
static __noinline int is_answer_to_node(enum zone zone, const struct packet *p)
{
	const struct nat *nat = bpf_map_lookup_elem(nat_map(zone, 0), &p->tuple);

	return nat && nat->flags & CONNTRACK_DIRECT &&
	       (__s32)(now_s() - nat->last_seen) <= (__s32)config.lifetime_udp_s;
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
	struct dialled dialled = {};
	__u32 key = 0;
	int established;

	/* not where the frontend is known: 5.10 would go through it in every attempt */
	if (p->tuple.protocol == IPPROTO_UDP &&
	    is_node_port_number(bpf_ntohs(p->tuple.destination_port)) &&
	    is_answer_to_node(p->from_node ? ZONE_OUTSIDE : zone, p)) {
		count_reason(REASON_NODE_CONNECTION);
		return VERDICT_PASS;
	}
	verdict = choose_backend(p, zone, &choice, &dialled);
	if (verdict != VERDICT_TRANSLATE)
		return verdict;
	draft = bpf_map_lookup_elem(&drafts, &key);
	if (!draft)
		return drop(REASON_FLOW_NOT_STORED);
	ct = &draft->conntrack;
	__builtin_memset(ct, 0, sizeof(*ct));
	verdict = p->from_node ? choose_path_from_node(ctx, p, &choice, ct, route, &zone)
			       : choose_path(ctx, p, dialled.kind, &choice, ct, route, &zone);
	if (verdict != VERDICT_TRANSLATE && verdict != VERDICT_REDIRECT)
		return verdict;
	ct->backend = choice.address;
	ct->backend_port = choice.port;
	ct->source_port = p->tuple.source_port;
	ct->service_id = dialled.service_id;
	ct->backend_id = choice.backend_id;
	ct->generation = choice.generation;
	ct->last_seen = now_s();
	if (p->tuple.protocol == IPPROTO_TCP)
		ct->client_seen = SEEN_SYN;
	if (p->replaces & 1 << ZONE_OUTSIDE)
		forget(ZONE_OUTSIDE, &p->tuple);
	if (p->replaces & 1 << ZONE_POD)
		forget(ZONE_POD, &p->tuple);
	if (p->foreign && ct->flags & CONNTRACK_CROSSING)
		forget(zone, &p->tuple); /* somebody there had claimed to be this client */
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
		count_opened(dialled.service_id, choice.backend_id);
		count_closed(dialled.service_id, choice.backend_id, choice.generation);
	}
	to->source = ct->source;
	to->destination = ct->backend;
	to->source_port = ct->source_port;
	to->destination_port = ct->backend_port;
	return verdict;
}

#endif
