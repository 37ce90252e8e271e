/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Unconnected UDP: sendmsg(2) chooses for each VIP and stays while the backend serves
 * (R110), recvmsg(2) shows the VIP that was asked (R121).
 */
#ifndef VIPBEE_SOCK_DATAGRAM_H
#define VIPBEE_SOCK_DATAGRAM_H

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "addr.h"
#include "address_filter.h"
#include "count.h"
#include "sock_connect.h"
#include "sock_decide.h"
#include "socket_state.h"

/* What was chosen for a second, third … VIP of one unconnected socket, if it was. */
static __always_inline struct kept_backend kept_further(__u64 cookie,
							const struct frontend_key *dialled)
{
	struct udp_flow_key key =
		udp_flow_key(cookie, &dialled->address, dialled->port, UDP_FLOW_FORWARD);
	const struct udp_flow *known = bpf_map_lookup_elem(&udp_flows, &key);
	struct kept_backend kept = {};

	if (known) {
		kept.service_id = known->service_id;
		kept.backend_id = known->backend_id;
		kept.generation = known->generation;
	}
	return kept;
}

/* The choice for such a VIP, and what was chosen before. */
static __always_inline void keep_further(__u64 cookie, const struct frontend_key *dialled,
					 struct socket_flow *first, __u32 service_id,
					 const struct kept_backend *before,
					 const struct choice *choice)
{
	struct udp_flow value = {
		.service_id = service_id,
		.backend_id = choice->backend_id,
		.generation = choice->generation,
		.address = choice->address,
		.port = choice->port,
	};
	struct udp_flow_key key;

	if (!is_kept(before, choice)) {
		key = udp_flow_key(cookie, &dialled->address, dialled->port, UDP_FLOW_FORWARD);
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
}

/* connect(AF_UNSPEC) calls no hook, so a flow may outlive the connection it was made for. */
static __always_inline int is_connected(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	return sk && sk->state == BPF_TCP_ESTABLISHED; /* UDP has this state as well */
}

/* Whether the socket's own flow is not the one for this VIP, or cannot be (R111). */
static __always_inline int goes_further(struct bpf_sock_addr *ctx, struct socket_flow *flow,
					const struct frontend_key *dialled, struct choice *choice)
{
	if (flow->flags & FLOW_CONNECTED && !is_connected(ctx))
		flow->flags &= ~FLOW_CONNECTED;
	if (!flow->service_id)
		return 0;
	if (!flow_is_for(flow, dialled)) {
		if (!flow_comes_from(flow, &dialled->address, dialled->port) ||
		    flow->flags & FLOW_CONNECTED)
			return 1;
		close_flow(flow); /* now dials that backend by its own address */
		return 0;
	}
	/* the connection itself stays where it is, so its flow must go on saying so */
	return flow->flags & FLOW_CONNECTED && !take_flow_backend(flow, choice);
}

/*
 * Where a datagram goes; `flow` may be NULL. Out of line, as its common case is dealt with
 * before. So nothing here may write to ctx: the compiler would do it through a pointer of
 * its own making ("dereference of modified ctx ptr", clang 14). And decide() is called in
 * one place: the verifier goes through it anew for every call, and for all that led there.
 */
static __noinline enum outcome choose_for_datagram(struct bpf_sock_addr *ctx,
						   const struct frontend_key *dialled,
						   struct socket_flow *flow, struct choice *choice)
{
	__u32 service_id = 0, epoch = current_epoch(); /* read before what it stands for */
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct kept_backend kept = {};
	enum outcome outcome;
	int further = 0;

	if (flow) {
		further = goes_further(ctx, flow, dialled, choice);
		kept = further ? kept_further(cookie, dialled) : kept_by(flow);
	}
	outcome = decide(ctx, dialled, &kept, choice, &service_id);
	if (outcome == OUTCOME_PASS && flow)
		forget_reverse(cookie, &dialled->address, dialled->port);
	if (outcome != OUTCOME_TRANSLATE)
		return outcome;
	/* a connection whose Service was replaced while its backend still serves */
	if (flow && flow->flags & FLOW_CONNECTED && flow->service_id && !is_kept(&kept, choice))
		further = 1;
	if (flow && further) {
		keep_further(cookie, dialled, flow, service_id, &kept, choice);
		return OUTCOME_TRANSLATE;
	}
	/* of VIPs that share a backend, answers show the one asked last (R124) */
	if (flow && flow->flags & FLOW_SHARED)
		forget_reverse(cookie, &choice->address, choice->port);
	if (!flow)
		flow = create_flow(ctx);
	if (!flow) {
		count_reason(REASON_FLOW_NOT_STORED);
		return OUTCOME_TRANSLATE;
	}
	if (!flow_is_for(flow, dialled) || !is_kept(&kept, choice))
		open_flow(flow, dialled, service_id, choice, 0);
	flow->tables_epoch = epoch;
	return OUTCOME_TRANSLATE;
}

/* One more datagram to the same VIP: stays while its backend serves (R110). */
static __always_inline int continues(const struct socket_flow *flow,
				     const struct frontend_key *dialled, struct choice *choice)
{
	return flow_is_for(flow, dialled) && !(flow->flags & (FLOW_SHARED | FLOW_CONNECTED)) &&
	       flow->tables_epoch == current_epoch() && take_flow_backend(flow, choice);
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

#endif
