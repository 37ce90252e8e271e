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
	/* the connection itself stays where it is, so its flow must go on saying so (R111) */
	if (flow && flow->flags & FLOW_CONNECTED && flow->service_id &&
	    (flow->backend_id != choice->backend_id || flow->generation != choice->generation))
		return choose_further(ctx, dialled, flow, choice);
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

#endif
