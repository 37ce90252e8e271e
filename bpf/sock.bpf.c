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
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "addr.h"
#include "config.h"
#include "count.h"
#include "service.h"
#include "sock_connect.h"
#include "sock_datagram.h"
#include "sock_decide.h"
#include "socket_state.h"

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
