/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a socket remembers of the VIP it dialled, so that the application never sees
 * a backend (R121). It cannot be evicted, cannot collide and goes with the socket:
 *
 *   TCP    its place in an array (tcp_flow.h); if that is taken, as UDP
 *   UDP    socket storage, where the stale iterator finds the socket
 *   below  in place of socket storage an LRU map by cookie, on kernels without it
 *
 * The hooks of one socket never run at the same time: the kernel holds the socket
 * lock around each (BPF_CGROUP_RUN_SA_PROG_LOCK), so plain writes are enough.
 */
#ifndef VIPBEE_SOCKET_STATE_H
#define VIPBEE_SOCKET_STATE_H

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "addr.h"
#include "backend.h"
#include "config.h"
#include "count.h"
#include "maps.h"
#include "tcp_flow.h"

static __always_inline struct socket_flow *find_stored_flow(struct bpf_sock_addr *ctx)
{
	__u64 cookie;

	if (config.has_socket_storage) {
		if (!ctx->sk)
			return NULL;
		return bpf_sk_storage_get(&socket_flows, ctx->sk, NULL, 0);
	}
	cookie = bpf_get_socket_cookie(ctx);
	return bpf_map_lookup_elem(&socket_flows_lru, &cookie);
}

static __always_inline struct socket_flow *create_stored_flow(struct bpf_sock_addr *ctx)
{
	struct socket_flow empty = {};
	__u64 cookie;

	if (config.has_socket_storage) {
		if (!ctx->sk)
			return NULL;
		return bpf_sk_storage_get(&socket_flows, ctx->sk, NULL,
					  BPF_SK_STORAGE_GET_F_CREATE);
	}
	cookie = bpf_get_socket_cookie(ctx);
	bpf_map_update_elem(&socket_flows_lru, &cookie, &empty, BPF_NOEXIST);
	return bpf_map_lookup_elem(&socket_flows_lru, &cookie);
}

static __always_inline struct socket_flow *find_tcp_flow(struct bpf_sock_addr *ctx, __u64 cookie)
{
	const __u32 *claims = tcp_claims_on_place(cookie);
	struct tcp_flow *place;

	if (!claims || !*claims)
		return NULL;
	place = tcp_place(cookie);
	if (place && place->cookie == cookie)
		return &place->flow;
	return *claims >= CAME_SECOND ? find_stored_flow(ctx) : NULL;
}

static __always_inline struct socket_flow *create_tcp_flow(struct bpf_sock_addr *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct socket_flow *flow = find_tcp_flow(ctx, cookie); /* of an earlier connection */
	__u32 *claims = tcp_claims_on_place(cookie);
	struct tcp_flow *place = tcp_place(cookie);

	if (flow || !place || !claims)
		return flow;
	return claim_place(place, claims, cookie) ? &place->flow : create_stored_flow(ctx);
}

static __always_inline struct socket_flow *find_flow(struct bpf_sock_addr *ctx)
{
	if (ctx->protocol == IPPROTO_TCP)
		return find_tcp_flow(ctx, bpf_get_socket_cookie(ctx));
	return find_stored_flow(ctx);
}

static __always_inline struct socket_flow *create_flow(struct bpf_sock_addr *ctx)
{
	return ctx->protocol == IPPROTO_TCP ? create_tcp_flow(ctx) : create_stored_flow(ctx);
}

static __always_inline void close_flow(struct socket_flow *flow)
{
	if (!flow->service_id)
		return;
	count_closed(flow->service_id, flow->backend_id, flow->generation);
	flow->service_id = 0;
}

/* The socket goes, and its storage with it. */
static __always_inline int release_stored_flow(struct bpf_sock *ctx)
{
	struct socket_flow *flow;
	__u64 cookie;

	if (config.has_socket_storage) {
		flow = bpf_sk_storage_get(&socket_flows, ctx, NULL, 0);
		if (flow)
			close_flow(flow);
		return flow != NULL;
	}
	cookie = bpf_get_socket_cookie(ctx);
	flow = bpf_map_lookup_elem(&socket_flows_lru, &cookie);
	if (!flow)
		return 0;
	close_flow(flow);
	bpf_map_delete_elem(&socket_flows_lru, &cookie);
	return 1;
}

static __always_inline void release_tcp_flow(struct bpf_sock *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	__u32 *claims = tcp_claims_on_place(cookie);
	const struct tcp_flow *place;

	if (!claims || !*claims)
		return; /* almost every socket that never dialled a VIP */
	place = tcp_place(cookie);
	if (!place)
		return;
	if (place->cookie == cookie) {
		/* Only read: a write might reach memory after the next owner's. */
		if (place->flow.service_id)
			count_closed(place->flow.service_id, place->flow.backend_id,
				     place->flow.generation);
		give_up_place(claims);
	} else if (*claims >= CAME_SECOND && release_stored_flow(ctx)) {
		give_up_second(claims);
	}
}

static __always_inline void open_flow(struct socket_flow *flow, const struct frontend_key *dialled,
				      __u32 service_id, const struct choice *choice, __u8 flags)
{
	close_flow(flow);
	flow->frontend_address = dialled->address;
	flow->frontend_port = dialled->port;
	flow->backend_address = choice->address;
	flow->backend_port = choice->port;
	flow->backend_id = choice->backend_id;
	flow->generation = choice->generation;
	flow->protocol = dialled->protocol;
	flow->flags = flags;
	flow->service_id = service_id;
	count_opened(service_id, choice->backend_id);
}

static __always_inline int flow_is_for(const struct socket_flow *flow,
				       const struct frontend_key *dialled)
{
	return flow->service_id && flow->frontend_port == dialled->port &&
	       same_address(&flow->frontend_address, &dialled->address);
}

static __always_inline int flow_comes_from(const struct socket_flow *flow,
					   const struct address *address, __be16 port)
{
	return flow->service_id && flow->backend_port == port &&
	       same_address(&flow->backend_address, address);
}

/* A backend that an earlier decision led to; service_id 0: none. */
struct kept_backend {
	__u32 service_id;
	__u32 backend_id;
	__u32 generation;
};

static __always_inline struct kept_backend kept_by(const struct socket_flow *flow)
{
	return (struct kept_backend){ flow->service_id, flow->backend_id, flow->generation };
}

static __always_inline int is_kept(const struct kept_backend *kept, const struct choice *choice)
{
	return kept->backend_id == choice->backend_id && kept->generation == choice->generation;
}

/* The backend of an earlier decision, as long as it serves (R110, R111). */
static __always_inline int take_kept_backend(const struct kept_backend *kept, __u32 service_id,
					     struct choice *out)
{
	return kept->service_id == service_id &&
	       take_known_backend(kept->backend_id, kept->generation, service_id, BACKEND_SERVING,
				  out);
}

static __always_inline int take_flow_backend(const struct socket_flow *flow, struct choice *out)
{
	return take_known_backend(flow->backend_id, flow->generation, flow->service_id,
				  BACKEND_SERVING, out);
}

/*
 * Further VIPs of one unconnected UDP socket: the forward entry keeps the flow on its
 * backend, the reverse entry names the VIP to show. Evicting one costs a new choice,
 * or a reply that shows its backend; sockets that talk to one VIP never come here.
 */
static __always_inline struct udp_flow_key udp_flow_key(__u64 cookie, const struct address *address,
							__be16 port,
							enum udp_flow_direction direction)
{
	return (struct udp_flow_key){
		.cookie = cookie, .address = *address, .port = port, .direction = direction
	};
}

static __always_inline void keep_udp_flow(const struct udp_flow_key *key,
					  const struct udp_flow *value)
{
	struct udp_flow *entry = bpf_map_lookup_elem(&udp_flows, key);

	if (entry)
		*entry = *value; /* see pick_with_affinity() */
	else if (bpf_map_update_elem(&udp_flows, key, value, BPF_ANY))
		count_reason(REASON_FLOW_NOT_STORED);
}

/* The application dials this address itself: what comes from it must show as it is. */
static __always_inline void forget_reverse(__u64 cookie, const struct address *address, __be16 port)
{
	struct udp_flow_key key = udp_flow_key(cookie, address, port, UDP_FLOW_REVERSE);

	if (bpf_map_lookup_elem(&udp_flows, &key)) /* cheaper than a delete that finds nothing */
		bpf_map_delete_elem(&udp_flows, &key);
}

#endif
