/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The socket hooks: a connection to a VIP becomes a connection to a backend before a
 * packet exists. Included by vipbee.bpf.c.
 *
 *   connect   TCP and connected UDP: choose once, remember in the socket
 *   sendmsg   unconnected UDP: choose per VIP, stay while the backend serves
 *   recvmsg   \ show the VIP that was dialled
 *   getpeername /
 *   post_bind refuse NodePorts to programs of the node, if configured
 *   sock_release  count the connection as closed
 */
#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "addr.h"
#include "address_filter.h"
#include "backend.h"
#include "config.h"
#include "count.h"
#include "maps.h"
#include "service.h"
#include "socket_state.h"

#define ALLOW 1
#define DENY 0 /* EPERM, or what bpf_set_retval() said */

enum outcome {
	OUTCOME_PASS, /* not ours */
	OUTCOME_TRANSLATE,
	OUTCOME_REFUSE, /* ECONNREFUSED (R35, R37) */
	OUTCOME_UNREACHABLE, /* EHOSTUNREACH (R44) */
};

/* Attempts at a consistent read while the agent rewrites the very Service. */
#define TABLE_ATTEMPTS 3

/* ---- decide -------------------------------------------------------------------- */

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

static __always_inline enum outcome refuse_new(const struct frontend *frontend)
{
	struct service_counters *counters = counters_of_service(frontend->service_id);

	if (!frontend->cluster.count) {
		if (counters)
			__sync_fetch_and_add(&counters->refused, 1);
		count_reason(REASON_NO_ENDPOINT);
		return OUTCOME_REFUSE;
	}
	if (counters)
		__sync_fetch_and_add(&counters->unreachable, 1);
	count_reason(REASON_NO_LOCAL_ENDPOINT);
	return OUTCOME_UNREACHABLE;
}

/*
 * `flow` may be NULL: then always a new choice. Otherwise a flow to the same Service
 * stays where it is while its backend serves, whatever the sets say now (R110).
 *
 * Out of line and not unrolled: the hooks run cold, between thousands of instructions of
 * the network stack, so they cost what they touch, and that includes their own code.
 */
static __noinline enum outcome decide(struct bpf_sock_addr *ctx, const struct frontend_key *dialled,
				      const struct socket_flow *flow, struct choice *choice,
				      __u32 *service_id)
{
	struct frontend frontend;
	__u32 flags;
	int attempt;

#pragma clang loop unroll(disable)
	for (attempt = 0; attempt < TABLE_ATTEMPTS; attempt++) {
		if (!find_dialled(ctx, dialled, &flags, &frontend)) {
			if (!(flags & ADDRESS_CLUSTER_IP))
				return OUTCOME_PASS;
			count_reason(REASON_UNKNOWN_PORT);
			return OUTCOME_REFUSE;
		}
		*service_id = frontend.service_id;
		if (flow && take_flow_backend(flow, frontend.service_id, choice))
			return OUTCOME_TRANSLATE;
		if (!(uses_local_set(&frontend) ? frontend.local.count : frontend.cluster.count))
			return refuse_new(&frontend);
		if (pick_backend(ctx, &frontend, choice))
			return OUTCOME_TRANSLATE;
	}
	count_reason(REASON_TABLE_RACE);
	return OUTCOME_REFUSE;
}

/* ---- apply --------------------------------------------------------------------- */

static __always_inline void set_destination(struct bpf_sock_addr *ctx, int family,
					    const struct address *address, __be16 port)
{
	if (family == 4) {
		ctx->user_ip4 = address->word[3];
	} else {
		ctx->user_ip6[0] = address->word[0];
		ctx->user_ip6[1] = address->word[1];
		ctx->user_ip6[2] = address->word[2];
		ctx->user_ip6[3] = address->word[3];
	}
	ctx->user_port = port;
}

static __always_inline int reject(struct bpf_sock_addr *ctx, int family,
				  const struct frontend_key *dialled, enum outcome outcome)
{
	struct address loopback;

	if (config.has_set_retval) {
		bpf_set_retval(outcome == OUTCOME_REFUSE ? -ECONNREFUSED : -EHOSTUNREACH);
		return DENY;
	}
	/*
	 * Below 5.18 a hook can only say EPERM. For TCP the right errno comes from the
	 * stack itself: nothing can listen on port 0, so loopback answers with a RST.
	 */
	if (outcome == OUTCOME_REFUSE && dialled->protocol == IPPROTO_TCP) {
		loopback = loopback_like(&dialled->address);
		set_destination(ctx, family, &loopback, 0);
		return ALLOW;
	}
	return DENY;
}

/*
 * Whether a TCP socket can have a flow from an earlier connection: the kernel keeps the
 * destination over a disconnect. Spares every other connection the look for a flow.
 */
static __always_inline int was_connected(struct bpf_sock_addr *ctx)
{
	return ctx->sk && (ctx->sk->dst_ip4 || ctx->sk->dst_ip6[0] || ctx->sk->dst_ip6[3]);
}

/* Reconnect from a VIP to something else. */
static __always_inline void forget_connection(struct bpf_sock_addr *ctx)
{
	struct socket_flow *flow;

	if (ctx->protocol == IPPROTO_TCP && !was_connected(ctx))
		return;
	flow = find_flow(ctx);
	if (flow)
		close_flow(flow);
}

static __always_inline int connect(struct bpf_sock_addr *ctx, int family,
				   const struct frontend_key *dialled)
{
	enum outcome outcome = OUTCOME_PASS;
	struct socket_flow *flow;
	struct choice choice = {};
	__u32 service_id = 0;

	if (may_be_known(&dialled->address))
		outcome = decide(ctx, dialled, NULL, &choice, &service_id);
	if (outcome == OUTCOME_PASS) {
		forget_connection(ctx);
		return ALLOW;
	}
	if (outcome != OUTCOME_TRANSLATE)
		return reject(ctx, family, dialled, outcome);
	flow = create_flow(ctx);
	if (flow)
		open_flow(flow, dialled, service_id, &choice, FLOW_CONNECTED);
	else
		count_reason(REASON_FLOW_NOT_STORED);
	set_destination(ctx, family, &choice.address, choice.port);
	return ALLOW;
}

/* A second, third … VIP of one unconnected socket. */
static __always_inline enum outcome choose_further(struct bpf_sock_addr *ctx,
						   const struct frontend_key *dialled,
						   struct socket_flow *first, struct choice *choice)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct udp_flow_key key =
		udp_flow_key(cookie, &dialled->address, dialled->port, UDP_FLOW_FORWARD);
	struct udp_flow *known = bpf_map_lookup_elem(&udp_flows, &key);
	struct socket_flow flow = {};
	struct udp_flow value = {};
	enum outcome outcome;
	__u32 service_id = 0;

	if (known) {
		flow.service_id = known->service_id;
		flow.backend_id = known->backend_id;
		flow.generation = known->generation;
	}
	outcome = decide(ctx, dialled, known ? &flow : NULL, choice, &service_id);
	if (outcome == OUTCOME_PASS)
		forget_reverse(cookie, &dialled->address, dialled->port);
	if (outcome != OUTCOME_TRANSLATE)
		return outcome;
	value.service_id = service_id;
	value.backend_id = choice->backend_id;
	value.generation = choice->generation;
	if (!known || known->backend_id != choice->backend_id ||
	    known->generation != choice->generation) {
		value.address = choice->address;
		value.port = choice->port;
		keep_udp_flow(&key, &value);
		/* Counted as opened and closed at once: nobody tells us when it ends. */
		count_opened(service_id, choice->backend_id);
		count_closed(service_id, choice->backend_id, choice->generation);
	}
	key = udp_flow_key(cookie, &choice->address, choice->port, UDP_FLOW_REVERSE);
	value.address = dialled->address;
	value.port = dialled->port;
	keep_udp_flow(&key, &value);
	if (!(first->flags & FLOW_CONNECTED) &&
	    flow_comes_from(first, &choice->address, choice->port))
		first->flags |= FLOW_SHARED;
	return OUTCOME_TRANSLATE;
}

/* connect(AF_UNSPEC) calls no hook, so a flow may outlive the connection it was made for. */
static __always_inline int is_connected(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	return sk && sk->state == BPF_TCP_ESTABLISHED; /* UDP has this state as well */
}

/*
 * Where a datagram goes; `flow` may be NULL. Out of line, as its common case is dealt with
 * before. So nothing here may write to ctx: the compiler would do it through a pointer of
 * its own making ("dereference of modified ctx ptr", clang 14).
 */
static __noinline enum outcome choose_for_datagram(struct bpf_sock_addr *ctx,
						   const struct frontend_key *dialled,
						   struct socket_flow *flow, struct choice *choice)
{
	enum outcome outcome;
	__u32 service_id = 0, epoch = current_epoch(); /* read before what it stands for */

	if (flow && flow->flags & FLOW_CONNECTED && !is_connected(ctx))
		flow->flags &= ~FLOW_CONNECTED;
	if (flow && flow->service_id && !flow_is_for(flow, dialled)) {
		if (!flow_comes_from(flow, &dialled->address, dialled->port) ||
		    flow->flags & FLOW_CONNECTED)
			return choose_further(ctx, dialled, flow, choice);
		close_flow(flow); /* now dials that backend by its own address */
	}
	outcome = decide(ctx, dialled, flow, choice, &service_id);
	if (outcome == OUTCOME_PASS && flow)
		forget_reverse(bpf_get_socket_cookie(ctx), &dialled->address, dialled->port);
	if (outcome != OUTCOME_TRANSLATE)
		return outcome;
	/* of VIPs that share a backend, answers show the one asked last (R124) */
	if (flow && flow->flags & FLOW_SHARED)
		forget_reverse(bpf_get_socket_cookie(ctx), &choice->address, choice->port);
	if (!flow)
		flow = create_flow(ctx);
	if (!flow)
		count_reason(REASON_FLOW_NOT_STORED);
	else if (!flow_is_for(flow, dialled) || flow->backend_id != choice->backend_id ||
		 flow->generation != choice->generation)
		open_flow(flow, dialled, service_id, choice, 0);
	if (flow)
		flow->tables_epoch = epoch;
	return OUTCOME_TRANSLATE;
}

/* One more datagram to the same VIP: stays while its backend serves (R110). */
static __always_inline int continues(const struct socket_flow *flow,
				     const struct frontend_key *dialled, struct choice *choice)
{
	return flow_is_for(flow, dialled) && !(flow->flags & (FLOW_SHARED | FLOW_CONNECTED)) &&
	       flow->tables_epoch == current_epoch() &&
	       take_flow_backend(flow, flow->service_id, choice);
}

static __always_inline int sendmsg(struct bpf_sock_addr *ctx, int family,
				   const struct frontend_key *dialled)
{
	struct socket_flow *flow = find_flow(ctx);
	struct choice choice = {};
	enum outcome outcome;

	if (!flow && !may_be_known(&dialled->address))
		return ALLOW;
	if (flow && continues(flow, dialled, &choice))
		outcome = OUTCOME_TRANSLATE;
	else
		outcome = choose_for_datagram(ctx, dialled, flow, &choice);
	if (outcome == OUTCOME_PASS)
		return ALLOW;
	if (outcome != OUTCOME_TRANSLATE)
		return reject(ctx, family, dialled, outcome);
	set_destination(ctx, family, &choice.address, choice.port);
	return ALLOW;
}

static __always_inline int recvmsg(struct bpf_sock_addr *ctx, int family,
				   const struct address *source, __be16 port)
{
	struct socket_flow *flow = find_flow(ctx);
	struct udp_flow_key key;
	struct udp_flow *further;
	int is_first;

	if (!flow)
		return ALLOW; /* this socket never talked to a VIP */
	is_first = flow_comes_from(flow, source, port);
	if (!is_first || flow->flags & FLOW_SHARED) {
		key = udp_flow_key(bpf_get_socket_cookie(ctx), source, port, UDP_FLOW_REVERSE);
		further = bpf_map_lookup_elem(&udp_flows, &key);
		if (further) {
			set_destination(ctx, family, &further->address, further->port);
			return ALLOW;
		}
	}
	if (is_first)
		set_destination(ctx, family, &flow->frontend_address, flow->frontend_port);
	return ALLOW;
}

static __always_inline int getpeername(struct bpf_sock_addr *ctx, int family,
				       const struct address *peer, __be16 port)
{
	struct socket_flow *flow = find_flow(ctx);

	if (flow && flow->flags & FLOW_CONNECTED && flow_comes_from(flow, peer, port))
		set_destination(ctx, family, &flow->frontend_address, flow->frontend_port);
	return ALLOW;
}

/* ---- hooks --------------------------------------------------------------------- */

static __always_inline struct address user_address6(struct bpf_sock_addr *ctx)
{
	return (struct address){ .word = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2],
					   ctx->user_ip6[3] } };
}

static __always_inline struct frontend_key dialled_key(struct bpf_sock_addr *ctx,
						       struct address address)
{
	return (struct frontend_key){
		.address = address,
		.port = (__be16)ctx->user_port,
		.protocol = (__u8)ctx->protocol,
	};
}

static __always_inline int is_balanced_protocol(struct bpf_sock_addr *ctx)
{
	return ctx->protocol == IPPROTO_TCP || ctx->protocol == IPPROTO_UDP;
}

SEC("cgroup/connect4")
int vipbee_connect4(struct bpf_sock_addr *ctx)
{
	struct frontend_key dialled = dialled_key(ctx, address_from_v4(ctx->user_ip4));

	return is_balanced_protocol(ctx) ? connect(ctx, 4, &dialled) : ALLOW;
}

SEC("cgroup/connect6")
int vipbee_connect6(struct bpf_sock_addr *ctx)
{
	struct frontend_key dialled = dialled_key(ctx, user_address6(ctx));

	return is_balanced_protocol(ctx) ? connect(ctx, 6, &dialled) : ALLOW;
}

SEC("cgroup/sendmsg4")
int vipbee_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct frontend_key dialled = dialled_key(ctx, address_from_v4(ctx->user_ip4));

	return ctx->protocol == IPPROTO_UDP ? sendmsg(ctx, 4, &dialled) : ALLOW;
}

SEC("cgroup/sendmsg6")
int vipbee_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct frontend_key dialled = dialled_key(ctx, user_address6(ctx));

	return ctx->protocol == IPPROTO_UDP ? sendmsg(ctx, 6, &dialled) : ALLOW;
}

SEC("cgroup/recvmsg4")
int vipbee_recvmsg4(struct bpf_sock_addr *ctx)
{
	struct address source = address_from_v4(ctx->user_ip4);

	return recvmsg(ctx, 4, &source, (__be16)ctx->user_port);
}

SEC("cgroup/recvmsg6")
int vipbee_recvmsg6(struct bpf_sock_addr *ctx)
{
	struct address source = user_address6(ctx);

	return recvmsg(ctx, 6, &source, (__be16)ctx->user_port);
}

SEC("cgroup/getpeername4")
int vipbee_getpeername4(struct bpf_sock_addr *ctx)
{
	struct address peer = address_from_v4(ctx->user_ip4);

	return getpeername(ctx, 4, &peer, (__be16)ctx->user_port);
}

SEC("cgroup/getpeername6")
int vipbee_getpeername6(struct bpf_sock_addr *ctx)
{
	struct address peer = user_address6(ctx);

	return getpeername(ctx, 6, &peer, (__be16)ctx->user_port);
}

/* Refuse a NodePort on a selected address of this node, or on all of them (R93). */
static __always_inline int post_bind(struct bpf_sock *ctx, const struct address *address)
{
	struct frontend_key bound = { .address = *address };
	struct address any = unspecified_like(address);

	if (!config.bind_protection || !in_node_netns(ctx))
		return ALLOW;
	bound.port = bpf_htons((__u16)ctx->src_port);
	bound.protocol = (__u8)ctx->protocol;
	if (!find_node_port(&bound))
		return ALLOW;
	if (!same_address(address, &any) && !(find_address_flags(address) & ADDRESS_OWN))
		return ALLOW;
	count_reason(REASON_BIND_PROTECTED);
	return DENY;
}

SEC("cgroup/post_bind4")
int vipbee_post_bind4(struct bpf_sock *ctx)
{
	struct address address = address_from_v4(ctx->src_ip4);

	return post_bind(ctx, &address);
}

SEC("cgroup/post_bind6")
int vipbee_post_bind6(struct bpf_sock *ctx)
{
	struct address address = { .word = { ctx->src_ip6[0], ctx->src_ip6[1], ctx->src_ip6[2],
					     ctx->src_ip6[3] } };
	struct address v4_any = address_from_v4(0);

	if (!post_bind(ctx, &address))
		return DENY;
	/* a dual-stack wildcard takes the IPv4 port as well */
	if (!address.word[0] && !address.word[1] && !address.word[2] && !address.word[3])
		return post_bind(ctx, &v4_any);
	return ALLOW;
}

SEC("cgroup/sock_release")
int vipbee_sock_release(struct bpf_sock *ctx)
{
	if (ctx->protocol == IPPROTO_TCP)
		release_tcp_flow(ctx);
	else if (ctx->protocol == IPPROTO_UDP)
		release_stored_flow(ctx);
	return ALLOW;
}
