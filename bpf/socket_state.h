/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a socket remembers of the VIP it dialled, so that the application never sees
 * a backend (R121). In socket storage: it cannot be evicted, cannot collide and goes
 * with the socket. Without that, in an LRU map by socket cookie.
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

static __always_inline struct socket_flow *find_flow(struct bpf_sock_addr *ctx)
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

static __always_inline struct socket_flow *create_flow(struct bpf_sock_addr *ctx)
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

static __always_inline void close_flow(struct socket_flow *flow)
{
	if (!flow->service_id)
		return;
	count_closed(flow->service_id, flow->backend_id, flow->generation);
	flow->service_id = 0;
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

/* The backend a flow was given, as long as it serves (R110, R111). */
static __always_inline int take_flow_backend(const struct socket_flow *flow, __u32 service_id,
					     struct choice *out)
{
	return flow->service_id == service_id &&
	       take_known_backend(flow->backend_id, flow->generation, service_id, BACKEND_SERVING,
				  out);
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
