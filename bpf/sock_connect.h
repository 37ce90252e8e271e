/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * connect(2) to a VIP, and what the program sees of it afterwards. Also how any socket
 * hook writes a destination or says no.
 */
#ifndef VIPBEE_SOCK_CONNECT_H
#define VIPBEE_SOCK_CONNECT_H

#include <linux/errno.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "addr.h"
#include "address_filter.h"
#include "config.h"
#include "sock_decide.h"
#include "socket_state.h"

#define ALLOW 1
#define DENY 0 /* EPERM, or what bpf_set_retval() said */

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

static __always_inline int getpeername(struct bpf_sock_addr *ctx, int family,
				       const struct address *peer, __be16 port)
{
	struct socket_flow *flow = find_flow(ctx);

	if (flow && flow->flags & FLOW_CONNECTED && flow_comes_from(flow, peer, port))
		set_destination(ctx, family, &flow->frontend_address, flow->frontend_port);
	return ALLOW;
}

#endif
